"""Warping by flow, queries and databases, and the network on a grid: to train R2D2 with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dyn4d.matching.r2d2_losses import reliability_loss
from dyn4d.matching.r2d2_network import GRID_START, GRID_STEP, R2D2Network
from dyn4d.matching.r2d2_sampling import MapPair, SubSampler, full_sampler
from dyn4d.matching.r2d2_warp import warp


def identity(height: int, width: int, batch: int = 1) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    return torch.stack([x, y])[None].repeat(batch, 1, 1, 1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------- warp


@pytest.mark.parametrize("size", [(7, 9), (1, 1), (1, 6)])
def test_the_identity_changes_nothing(size: tuple[int, int]) -> None:
    maps = noise(2, 3, *size)
    moved, valid = warp(maps, identity(*size, batch=2))
    assert torch.allclose(moved, maps, atol=1e-12) and valid.all()


def test_whole_pixels_and_halves() -> None:
    maps = noise(1, 2, 8, 10)
    shift = torch.tensor([3.0, 2.0]).view(1, 2, 1, 1)
    moved, valid = warp(maps, identity(8, 10) + shift)
    assert torch.allclose(moved[..., :6, :7], maps[..., 2:, 3:], atol=1e-12)
    assert valid[0, :6, :7].all() and not valid[0, 6:].any() and not valid[0, :, 7:].any()
    assert (moved[..., 6:, :] == 0).all()
    half, _ = warp(maps, identity(8, 10) + 0.5)
    wanted = (maps[..., :-1, :-1] + maps[..., 1:, :-1] + maps[..., :-1, 1:] + maps[..., 1:, 1:]) / 4
    assert torch.allclose(half[..., :-1, :-1], wanted, atol=1e-12)


def test_places_without_flow_are_not_valid_and_have_no_gradient() -> None:
    maps, aflow = noise(1, 2, 6, 6).requires_grad_(), identity(6, 6)
    aflow[:, 0, 2, 3] = torch.nan
    aflow[:, :, 4, 4] = torch.inf
    moved, valid = warp(maps, aflow)
    assert torch.isfinite(moved).all()
    assert not valid[0, 2, 3] and not valid[0, 4, 4] and int(valid.sum()) == 34
    (slope,) = torch.autograd.grad(moved.sum(), maps)
    assert (slope[0, :, 2, 3] == 0).all() and torch.allclose(slope[0, :, 0, 0], torch.ones(2).double())


def test_maps_on_a_grid_are_found_where_they_lie() -> None:
    x = identity(24, 32)
    coarse = (2 * x[:, :1] + 3 * x[:, 1:])[..., 2::4, 2::4]  # a plane: interpolation has no error
    aflow = identity(24, 32)[..., 5:15, 6:20] + 0.3
    moved, valid = warp(coarse, aflow, step=4, start=2)
    assert valid.all() and torch.allclose(moved, 2 * aflow[:, :1] + 3 * aflow[:, 1:])


def test_the_nearest_pixel_decides_what_is_valid() -> None:
    aflow = identity(1, 4)
    aflow[0, 0, 0] = torch.tensor([-0.4, -0.6, 3.4, 3.6])
    assert warp(noise(1, 1, 1, 4), aflow)[1][0, 0].tolist() == [True, False, True, False]


# --------------------------------------------------------------------------------------------------- samplers


def pair(batch: int = 2, dim: int = 8, height: int = 24, width: int = 32) -> MapPair:
    a = torch.nn.functional.normalize(noise(batch, dim, height, width), dim=1)
    b = torch.nn.functional.normalize(a + 0.05 * noise(batch, dim, height, width, seed=1), dim=1)
    trust = [noise(batch, 1, height, width, seed=s).sigmoid() for s in (2, 3)]
    valid = torch.ones(batch, height, width, dtype=torch.bool)
    valid[:, :, -9:] = False
    return MapPair(a, b, trust[0], trust[1], valid)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("sub_q", "sub_d", "border"), [(8, 4, 4), (4, 4, 6), (6, 2, 3), (1, 1, 10)])
def test_partners_are_the_same_pixel(sub_q: int, sub_d: int, border: int, whole: bool) -> None:
    maps = pair()
    given = SubSampler(sub_q, sub_d, border, whole_batch=whole)(maps)
    rows, columns = range(border, 24 - border, sub_q), range(border, 32 - border, sub_q)
    places = [(n, y, x) for n in range(2) for y in rows for x in columns]
    assert len(given.scores) == len(places) == len(given.partner) == len(given.known) == len(given.reliability)
    right = given.scores.gather(1, given.partner[:, None])[:, 0]
    for row, (n, y, x) in enumerate(places):
        assert torch.allclose(right[row], (maps.desc_a[n, :, y, x] * maps.desc_b[n, :, y, x]).sum())
        assert given.known[row] == maps.valid[n, y, x]
        trust = (maps.reliability_a[n, 0, y, x] + maps.reliability_b[n, 0, y, x]) / 2
        assert torch.allclose(given.reliability[row], trust)
    usable = given.usable.expand_as(given.scores)
    assert torch.equal(usable.gather(1, given.partner[:, None])[:, 0], given.known)
    start, count = border % sub_d, 2 if whole else 1
    entries = len(range(start, 24, sub_d)) * len(range(start, 32, sub_d)) * count
    assert given.scores.shape[1] == entries


def test_the_full_sampler_compares_all_pixels() -> None:
    maps = pair(height=6, width=12)
    given = full_sampler(maps)
    assert given.scores.shape == (2 * 72, 72) and torch.equal(given.partner[:72], torch.arange(72))
    wanted = torch.einsum("bdq,bdn->bqn", maps.desc_a.flatten(2), maps.desc_b.flatten(2)).flatten(0, 1)
    assert torch.allclose(given.scores, wanted)


def test_hidden_pixels_change_no_loss() -> None:
    maps = pair()
    hidden = ~maps.valid[:, None]
    spoilt = MapPair(maps.desc_a, torch.where(hidden, -maps.desc_b, maps.desc_b), maps.reliability_a,
                     torch.where(hidden, 1.0, maps.reliability_b), maps.valid)  # fmt: skip
    for whole in (False, True):
        sampler = SubSampler(4, 2, 4, whole_batch=whole)
        assert torch.equal(reliability_loss(sampler(maps)), reliability_loss(sampler(spoilt)))


def test_samplers_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="multiple of sub_d"):
        SubSampler(6, 4)
    with pytest.raises(ValueError, match="border: -1"):
        SubSampler(border=-1)
    with pytest.raises(ValueError, match="leaves nothing of maps of 32 x 24"):
        SubSampler(border=12)(pair())
    with pytest.raises(ValueError, match=r"MapPair\.valid"):
        MapPair(noise(1, 2, 4, 4), noise(1, 2, 4, 4), noise(1, 1, 4, 4), noise(1, 1, 4, 4), torch.ones(1, 4, 5).bool())


# ---------------------------------------------------------------------------------------- the network on a grid


@pytest.mark.parametrize("size", [(64, 48), (4, 4), (36, 20)])
def test_the_network_on_a_grid_says_what_it_says_everywhere(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = R2D2Network((4, 4, 6, 6, 8, 8, 8, 8, 10)).double().eval()
    image = noise(2, 3, *size)
    whole, grid = network(image), network.forward_grid(image)
    for everywhere, there in zip(whole, grid):
        assert torch.allclose(everywhere[..., GRID_START::GRID_STEP, GRID_START::GRID_STEP], there, atol=1e-12)


def test_grids_need_sides_that_are_multiples_of_4() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        R2D2Network((2,) * 9).forward_grid(torch.zeros(1, 3, 8, 10))
