"""Gaussians in the order of their depth, against a plain sort; and tiles in ranges of nearly equal cost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from dyn4d.raster import binning_kernels as bk
from dyn4d.raster.cpu import _Order
from dyn4d.raster.threads import even_bounds, launch_all, launch_whole, shared


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def given(drawn: Tensor, depths: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """radii, depths and residues, which break some of the ties of depths."""
    generator = torch.Generator().manual_seed(seed)
    residues = torch.randint(-2, 3, (len(depths), 1), generator=generator) * 1e-8
    radii = torch.zeros(len(depths), 2, dtype=torch.int32)
    radii[drawn, torch.randint(0, 2, (len(depths),), generator=generator)[drawn]] = 3  # one of the two is enough
    return radii, depths, residues


def truth(radii: Tensor, depths: Tensor, residues: Tensor) -> list[int]:
    rows = [row for row in range(len(depths)) if radii[row].any()]
    return sorted(rows, key=lambda row: (float(depths[row]), float(residues[row])))


def depths_of(kind: str, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    values = torch.rand(count, generator=generator)
    return {
        "all different": 0.01 * 1e5**values,
        "one object": 3 + values,
        "on both sides of the camera": values - 0.5,
        "few different": 2 + (4 * values).floor(),
        "one": torch.full((count,), 2.5),
        "far apart": torch.tensor([1e-30, 1.0, 1e30])[(3 * values).long()],
        "behind": -(1 + values),
    }[kind]


KINDS = ["all different", "one object", "on both sides of the camera", "few different", "one", "far apart", "behind"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 17, 512, 1025, 5000])
def test_order_is_that_of_a_plain_sort(threads: None, kind: str, count: int) -> None:
    depths = depths_of(kind, count)
    all_drawn = torch.ones(count, dtype=torch.bool)
    some = torch.rand(count, generator=torch.Generator().manual_seed(1)) < 0.6
    last = torch.arange(count) == count - 1
    sorts = []
    for drawn in (all_drawn, some, last, ~all_drawn):
        arguments = given(drawn, depths)
        sorts.append((_Order(*arguments), truth(*arguments)))
    launch_all([order.job for order, _ in sorts])
    for order, rows in sorts:
        assert order.rows().tolist() == rows


def test_nothing_to_order() -> None:
    order = _Order(*given(torch.zeros(0, dtype=torch.bool), torch.zeros(0)))
    launch_all([order.job])
    assert order.rows().tolist() == []


COSTS = [[0] * 9, [1] * 40, [1000, *[0] * 40], [*[0] * 40, 1000], [5], [0, 100_000, 0], list(range(300))]


@pytest.mark.parametrize("costs", COSTS)
def test_ranges_of_tiles_cost_about_the_same(threads: None, costs: list[int]) -> None:
    counts = torch.tensor([costs, costs], dtype=torch.int32)
    tiles = len(costs)
    starts, slots = torch.empty(tiles + 1, dtype=torch.int64), torch.tensor([0, 2, 0, 5])
    bounds = even_bounds(tiles)
    launch_whole(bk.tile_offsets, 1, counts, starts, slots, shared(bounds))
    assert starts.tolist() == [0, *np.cumsum(costs) * 2] and slots.tolist() == [0, 2, 2, 7]
    assert counts[0].tolist() == starts[:-1].tolist()
    assert counts[1].tolist() == (starts[:-1] + torch.tensor(costs)).tolist()
    assert bounds[0] == 0 and bounds[-1] == tiles and (np.diff(bounds) >= 0).all()
    cost = starts.numpy() + bk.EMPTY * np.arange(tiles + 1)
    largest_tile = np.diff(cost).max()
    assert np.diff(cost[np.array(bounds)]).max() <= cost[-1] / (len(bounds) - 1) + largest_tile
