"""SAM 2 behind its public interface, played by a stand-in."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dyn4d.core.errors import BackendUnavailable, InputError
from dyn4d.segmentation.first import Prompt
from dyn4d.segmentation.sam2 import config_of, find_weights, sam2_masks, stability


class Predictor:
    """Remembers what it was told; its object is a box that moves right by a pixel a frame."""

    def __init__(self, config: str, checkpoint: str, device: str) -> None:
        self.built = config, checkpoint, device
        self.told: list[tuple[str, dict[str, Any]]] = []

    def init_state(self, video_path: str, **_: Any) -> dict[str, Any]:
        return {"files": sorted(p.name for p in Path(video_path).iterdir())}

    def add_new_points_or_box(self, **told: Any) -> None:
        self.told.append(("points", told))

    def add_new_mask(self, **told: Any) -> None:
        self.told.append(("mask", told))

    def propagate_in_video(self, state: dict[str, Any], start_frame_idx: int, reverse: bool) -> Iterator[Any]:
        count = len(state["files"])
        for frame in range(start_frame_idx, -1, -1) if reverse else range(start_frame_idx, count):
            logits = torch.full((1, 1, 6, 10), -5.0)
            logits[0, 0, 2:4, frame : frame + 3] = 5.0
            yield frame, [1], logits


@pytest.fixture
def sam2(monkeypatch: pytest.MonkeyPatch) -> list[Predictor]:
    made: list[Predictor] = []

    def build(config: str, checkpoint: str, device: str) -> Predictor:
        made.append(Predictor(config, checkpoint, device))
        return made[-1]

    package, module = types.ModuleType("sam2"), types.ModuleType("sam2.build_sam")
    module.build_sam2_video_predictor = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sam2", package)
    monkeypatch.setitem(sys.modules, "sam2.build_sam", module)
    return made


def test_prompts_go_in_and_masks_of_all_frames_come_out(sam2: list[Predictor], tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(5):
        (frames / f"{i:05d}.jpg").write_bytes(b"")
    mask = np.ones((6, 10), bool)
    prompts = [Prompt(2, box=(1, 2, 5, 4), points=((3.0, 3.0),), not_points=((9.0, 5.0),)), Prompt(4, mask=mask)]
    found = list(sam2_masks(frames, 5, prompts, Path("sam2.1_hiera_small.pt")))
    assert [one.frame for one in found] == [0, 1, 2, 3, 4] and [one.key for one in found] == [
        False,
        False,
        True,
        False,
        True,
    ]
    for one in found:
        assert one.mask.sum() == 6 and one.mask[2, one.frame] and one.score == 1
    assert sam2[0].built == ("configs/sam2.1/sam2.1_hiera_s.yaml", "sam2.1_hiera_small.pt", "cpu")
    (kind, told), (second, _) = sam2[0].told
    assert (kind, second) == ("points", "mask")
    np.testing.assert_array_equal(told["box"], [1, 2, 5, 4])
    np.testing.assert_array_equal(told["labels"], [1, 0])


def test_without_the_package_it_says_so(tmp_path: Path) -> None:
    if "sam2" in sys.modules:
        pytest.skip("sam2 is installed")
    with pytest.raises(BackendUnavailable, match="package sam2, which is not installed"):
        list(sam2_masks(tmp_path, 1, [Prompt(0, box=(0, 0, 2, 2))], Path("sam2_hiera_large.pt")))


def test_checkpoints_and_configurations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert config_of(Path("sam2_hiera_base_plus.pt"), None) == "configs/sam2/sam2_hiera_b+.yaml"
    assert config_of(Path("mine.pt"), "my.yaml") == "my.yaml"
    with pytest.raises(InputError, match="--sam2-config"):
        config_of(Path("mine.pt"), None)
    monkeypatch.setenv("DYN4D_SAM2_WEIGHTS", str(tmp_path / "none.pt"))
    with pytest.raises(InputError, match="DYN4D_SAM2_WEIGHTS"):
        find_weights(None)
    monkeypatch.delenv("DYN4D_SAM2_WEIGHTS")
    assert find_weights(None) is None


def test_stability_is_one_for_sharp_and_low_for_vague_masks() -> None:
    assert stability(np.array([[-9.0, 9.0]])) == 1
    assert stability(np.array([[-0.5, 0.5, 2.0]])) == pytest.approx(1 / 3)
    assert stability(np.full((2, 2), -9.0)) == 0
