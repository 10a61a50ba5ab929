"""RAFT by torchvision, and what is said where it or its weights are missing.

Where torchvision cannot be loaded a stand-in with the same call takes its place: it finds the one shift that fits best.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dyn4d.core.errors import InputError
from dyn4d.io.tensor_files import write_safetensors
from dyn4d.matching import FlowMatcher
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.estimators import DisFlow, make_estimator
from dyn4d.matching.raft import LICENCE, load_raft

MODULE = "torchvision.models.optical_flow"


class Shift(nn.Module):
    """Called as torchvision's RAFT is: finds whole shifts by phase correlation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.feature_encoder = nn.Module()
        self.feature_encoder.convnormrelu = nn.Sequential(nn.Conv2d(3, channels, 7))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, image1: Tensor, image2: Tensor, num_flow_updates: int = 12) -> list[Tensor]:
        assert image1.shape == image2.shape and image1.shape[:2] == (1, 3) and image1.dtype == torch.float32
        assert image1.shape[2] % 8 == 0 and image1.shape[3] % 8 == 0 and min(image1.shape[2:]) >= 128
        assert not self.training and not torch.is_grad_enabled()
        self.seen.append((image1, image2))
        a, b = (torch.fft.rfft2(image.mean(1)[0]) for image in (image1, image2))
        cross = b * a.conj()
        peak = torch.fft.irfft2(cross / cross.abs().clamp_min(1e-6), s=image1.shape[2:]).argmax()
        height, width = image1.shape[2:]
        dy, dx = int(peak) // width, int(peak) % width
        shift = [dx - width * (dx > width // 2), dy - height * (dy > height // 2)]
        flow = torch.tensor(shift, dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, height, width)
        return [torch.zeros_like(flow), flow]


class Chosen:
    url = "https://example.org/raft.pth"

    @staticmethod
    def get_state_dict(**_: Any) -> dict[str, Tensor]:
        raise OSError("no network here")


def stand_in() -> ModuleType:
    module = ModuleType(MODULE)
    for name, channels in (("large", 64), ("small", 32)):

        def make(*, weights: Any = None, progress: bool = True, channels: int = channels) -> Shift:
            assert weights is None
            return Shift(channels)

        setattr(module, f"raft_{name}", make)
        setattr(module, f"Raft_{name.capitalize()}_Weights", type("Weights", (), {"DEFAULT": Chosen}))
    return module


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = stand_in()
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, MODULE, module)
    return module


def weights_file(folder: Path, channels: int = 64, suffix: str = ".pth", **changes: Any) -> Path:
    tensors: dict[str, Any] = {f"module.{name}": value for name, value in Shift(channels).state_dict().items()}
    tensors = {name: value for name, value in {**tensors, **changes}.items() if value is not None}
    path = folder / f"raft{suffix}"
    if suffix == ".safetensors":
        write_safetensors(path, tensors, {})
    else:
        torch.save(tensors, path)
    return path


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("shape", [(130, 201), (64, 40), (128, 136)])
def test_pictures_of_any_size(torchvision: ModuleType, tmp_path: Path, shape: tuple[int, int], suffix: str) -> None:
    raft = load_raft(weights_file(tmp_path, suffix=suffix))
    picture = texture(*shape)
    flow = raft(picture, np.roll(picture, (3, -2), (0, 1)))
    assert flow.shape == (*shape, 2) and flow.dtype == np.float32 and flow.flags.c_contiguous
    network: Any = raft.network
    first, _ = network.seen[0]
    assert float(first.min()) >= -1 and float(first.max()) <= 1
    top, left = (first.shape[2] - shape[0]) // 2, (first.shape[3] - shape[1]) // 2
    inner = first[0, :, top : top + shape[0], left : left + shape[1]].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(inner, picture / 127.5 - 1, atol=1e-6)
    if shape == (128, 136):  # no padding: the shift is exact
        assert (flow == np.array([-2, 3], np.float32)).all()


def test_a_matcher_with_it(torchvision: ModuleType, tmp_path: Path) -> None:
    config = MatchingConfig(flow="raft", flow_weights=str(weights_file(tmp_path, 32)), min_size=128, max_per_pair=300)
    picture = texture(160, 170)
    mask = np.zeros((160, 170), bool)
    mask[40:120, 40:130] = True
    moved = (np.roll(picture, (4, 6), (0, 1)), np.roll(mask, (4, 6), (0, 1)))
    found = FlowMatcher(config)(picture, moved[0], mask, moved[1])
    assert len(found) == 300
    assert (found.xy_b - found.xy_a - torch.tensor([6.0, 4.0])).norm(dim=-1).max() < 0.02
    again = FlowMatcher(config, estimator=make_estimator(config))(picture, moved[0], mask, moved[1])
    assert torch.equal(found.xy_b, again.xy_b)
    assert make_estimator(config).licence == LICENCE and "BSD" in LICENCE
    assert isinstance(make_estimator(MatchingConfig()), DisFlow) and DisFlow(config).licence == ""


def test_which_network_it_is_for(torchvision: ModuleType, tmp_path: Path) -> None:
    for channels in (64, 32):
        network: Any = load_raft(weights_file(tmp_path, channels)).network
        assert len(network.feature_encoder.convnormrelu[0].weight) == channels
        assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"module.count": None}, "1 tensor .count. missing"),
        ({"more": torch.zeros(1)}, "1 tensor .more. too many"),
        ({"module.feature_encoder.convnormrelu.0.bias": torch.zeros(3)}, r"is \(3,\), wanted \(64,\)"),
        ({"module.feature_encoder.convnormrelu.0.bias": torch.full((64,), torch.nan)}, "not finite"),
        ({"module.feature_encoder.convnormrelu.0.weight": torch.zeros(48, 3, 7, 7)}, "is not for torchvision's RAFT"),
        ({"module.feature_encoder.convnormrelu.0.weight": None}, "is not for torchvision's RAFT"),
    ],
)
def test_weights_of_something_else(
    torchvision: ModuleType, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = weights_file(tmp_path, 64, ".pth", **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_raft(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_are_not_there_or_damaged(torchvision: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        load_raft(tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        load_raft(tmp_path / "x.pth")
    path = weights_file(tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="damaged"):
        load_raft(path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="no dictionary of tensors"):
        load_raft(path)
    with pytest.raises(InputError, match=r"needs weights.*--matching.flow-weights.*flow dis"):
        load_raft("")
    with pytest.raises(InputError, match=r"cannot be fetched from https://example.org/raft.pth .no network here."):
        load_raft("small")


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")

    monkeypatch.setattr("dyn4d.matching.raft.import_module", refuse)
    with pytest.raises(InputError, match=r"torchvision, which is not installed; .*dyn4d\[raft\]"):
        load_raft(weights_file(tmp_path))

    def unfit(name: str) -> Any:
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr("dyn4d.matching.raft.import_module", unfit)
    with pytest.raises(InputError, match=r"does not fit torch .*nms does not exist.; install") as caught:
        load_raft(weights_file(tmp_path))
    assert "\n" not in str(caught.value)


def test_options_that_belong_to_another_flow() -> None:
    wrongs: list[dict[str, Any]] = [{"flow_weights": "x.pth"}, {"flow_files": "x"}, {"flow": "raft", "flow_files": "x"}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="has no meaning"):
            MatchingConfig(**wrong)
    with pytest.raises(ValueError, match="wanted dis, raft or files"):
        replace(MatchingConfig(), flow="flownet")  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["small", "large"])
def test_torchvisions_own_network(model: str, tmp_path: Path) -> None:
    try:
        from torchvision.models import optical_flow
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"torchvision cannot be loaded: {error}")
    torch.manual_seed(0)
    network = getattr(optical_flow, f"raft_{model}")(weights=None, progress=False)
    torch.save(network.state_dict(), tmp_path / "raft.pth")
    raft = load_raft(tmp_path / "raft.pth")
    a, b = texture(130, 141), texture(130, 141, 1)
    flow = raft(a, b)
    assert flow.shape == (130, 141, 2) and np.isfinite(flow).all()
    assert (raft(a, b) == flow).all() and not (raft(b, a) == flow).all()
