"""The R2D2 network with small random weights, which the other tests of R2D2 use too, in the form of published files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dyn4d.matching.r2d2_extract import R2D2
from dyn4d.matching.r2d2_network import LAYERS, WIDTHS, R2D2Network, convolutions, normalise

SMALL = (4, 4, 6, 6, 8, 8, 8, 8, 8)
NET = "Quad_L2Net_ConfCFS()"


def random_tensors(widths: tuple[int, ...] = SMALL, seed: int = 0) -> dict[str, Tensor]:
    """Weights whose outputs vary from pixel to pixel, with the keys of the network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in R2D2Network(widths).state_dict().items()}

    def value(name: str, shape: torch.Size) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(7)
        if name.endswith("running_var"):
            return 0.5 + torch.rand(shape, generator=generator)
        gain = (2 / shape[1:].numel()) ** 0.5 if len(shape) > 1 else 0.1
        saturates = name.startswith(("clf", "sal"))
        return torch.randn(shape, generator=generator) * gain * (0.1 if saturates else 1)

    return {name: value(name, shape) for name, shape in shapes.items()}


def save_published(path: Path, tensors: dict[str, Any], net: str = NET, *, old: bool = False) -> Path:
    """A file in the form of the published weights, of torch before 1.6 where `old`, as `r2d2_WASF_N16.pt` is."""
    content = {"net": net, "state_dict": {f"module.{name}": value for name, value in tensors.items()}}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


@cache
def small_r2d2(seed: int = 0) -> R2D2:
    """Tests share it: they read it only."""
    network = R2D2Network(SMALL)
    network.load_state_dict(random_tensors(seed=seed))
    return R2D2(network.requires_grad_(False))


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------ the network


def test_published_sizes_and_keys() -> None:
    network = R2D2Network()
    assert sum(p.numel() for p in network.parameters()) == 484_387 and network.dim == 128 and network.reach == 25
    assert convolutions() == (0, 3, 6, 9, 12, 15, 18, 20, 22)
    assert {name.split(".")[1] for name in network.state_dict() if "running_mean" in name} == {
        "1", "4", "7", "10", "13", "16", "19", "21"
    }  # fmt: skip
    assert not any(isinstance(op, torch.nn.ReLU) for op in network.ops[18:])
    assert network.ops[-1] is network.ops[22] and network.widths == WIDTHS


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 2), (24, 31)])
def test_outputs_are_as_large_as_the_picture(size: tuple[int, int]) -> None:
    maps = small_r2d2().network(torch.cat([picture(*size), picture(*size, seed=1)]))
    assert maps.features.shape == (2, 8, *size)
    for value in (maps.reliability, maps.repeatability):
        assert value.shape == (2, 1, *size) and bool((value >= 0).all()) and bool((value <= 1).all())
    torch.testing.assert_close(maps.descriptors().norm(dim=1), torch.ones(2, *size))


def test_pictures_of_a_batch_do_not_mix() -> None:
    a, b = picture(20, 30), picture(20, 30, seed=1)
    network = small_r2d2().network
    for both, alone in zip(network(torch.cat([a, b])), network(b)):
        torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-5)


def double_network() -> R2D2Network:
    network = R2D2Network(SMALL)
    network.load_state_dict(random_tensors())
    return network.double().eval().requires_grad_(False)


def test_dilation_stands_for_stride() -> None:
    """The plain twin, strided and without padding, gives every 32nd pixel of what lies inside the padding."""
    network, image = double_network(), picture(90, 84).double()
    dense, x, at = network(image).features, image, 0
    for layer, stride in zip(LAYERS, (1, 1, 2, 1, 2, 1, 2, 2, 2)):
        conv = network.ops[at]
        assert isinstance(conv, torch.nn.Conv2d)
        x = F.conv2d(x, conv.weight, conv.bias, stride=stride)
        for op in network.ops[at + 1 : at + 1 + layer.norm + layer.relu]:
            x = op(x)
        at += 1 + layer.norm + layer.relu
    assert x.shape == (1, 8, 2, 2)
    inside = dense[..., network.reach : -network.reach, network.reach : -network.reach]
    torch.testing.assert_close(inside[..., ::32, ::32], x)


def test_reach_is_exact() -> None:
    network, image = double_network(), picture(80, 81).double()
    other = image.clone()
    other[..., 40, 40] += 1
    changed = (network(image).features != network(other).features).any(1)[0].nonzero()
    low, high = changed.amin(0).tolist(), changed.amax(0).tolist()
    assert low == [40 - network.reach] * 2 and high == [40 + network.reach] * 2


def test_a_shifted_picture_has_shifted_maps() -> None:
    network, image = double_network(), picture(90, 95).double()
    cut = network(image[..., 3:, 5:])
    edge = network.reach
    for whole, part in zip(network(image), cut):
        inside = (..., slice(edge, -edge), slice(edge, -edge))
        torch.testing.assert_close(part[inside], whole[..., 3:, 5:][inside])


def test_gradients_reach_all_weights() -> None:
    network = R2D2Network(SMALL)
    network.load_state_dict(random_tensors())
    network.train()
    maps = network(normalise(picture(40, 40)))
    (maps.descriptors()[:, 0].sum() + maps.reliability.sum() + maps.repeatability.sum()).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in network.parameters())


def test_normalisation() -> None:
    image = torch.tensor([0.485, 0.456 + 0.224, 0.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(normalise(image).flatten(), torch.tensor([0.0, 1.0, -0.406 / 0.225]))


def test_widths_of_another_network() -> None:
    with pytest.raises(ValueError, match="wanted 9 numbers"):
        R2D2Network((32, 32))
