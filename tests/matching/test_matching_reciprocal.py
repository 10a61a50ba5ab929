"""Reciprocal matching inside masks: reference values, an oracle, and what must hold for any masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import dyn4d.matching
from dyn4d.core.types import PairPrediction
from dyn4d.matching.nearest import (
    Distance,
    PixelMatches,
    descriptor_pool,
    exact_reciprocal_matches,
    nearest_both_ways,
    nearest_neighbours,
)
from dyn4d.matching.reciprocal import extract_correspondences, fast_reciprocal_matches, grid_seeds

Golden = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def golden(reference: Path) -> Golden:
    with np.load(reference / "golden" / "matching.npz", allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def random_desc(height: int, width: int, seed: int, channels: int = 4) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(height, width, channels, generator=random), dim=-1)


def pairs(matches: PixelMatches) -> set[tuple[int, int, int, int]]:
    return {tuple(row) for row in torch.cat([matches.xy_a, matches.xy_b], 1).tolist()}


def oracle(desc_a: Tensor, desc_b: Tensor, mask_a: Tensor, mask_b: Tensor) -> set[tuple[int, int, int, int]]:
    """All mutual nearest neighbours, one whole float64 matrix at a time; lowest index on a tie."""
    at_a, at_b = mask_a.nonzero(), mask_b.nonzero()
    if len(at_a) == 0 or len(at_b) == 0:
        return set()
    score = desc_a[mask_a].double() @ desc_b[mask_b].double().T
    of_a, of_b = score.argmax(1), score.argmax(0)
    rows = [i for i in range(len(at_a)) if of_b[of_a[i]] == i]
    return {(*at_a[i].flip(0).tolist(), *at_b[of_a[i]].flip(0).tolist()) for i in rows}


@st.composite
def masks(draw: st.DrawFn, height: int, width: int) -> Tensor:
    """Empty, one pixel, a box that may touch the border, a scatter of pixels, or everything."""
    kind = draw(st.sampled_from(["empty", "pixel", "box", "scatter", "full"]))
    mask = torch.zeros(height, width, dtype=torch.bool)
    if kind == "pixel":
        mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    elif kind == "box":
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[top : draw(st.integers(top, height)), left : draw(st.integers(left, width))] = True
    elif kind == "scatter":
        random = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
        mask = torch.rand(height, width, generator=random) < draw(st.sampled_from([0.02, 0.3, 0.9]))
    elif kind == "full":
        mask[:] = True
    return mask


class TestAgainstThePublishedCode:
    @pytest.mark.parametrize("dist", ["dot", "l2"])
    @pytest.mark.parametrize("block_size", [None, 64])
    def test_nearest_neighbours(self, golden: Golden, dist: Distance, block_size: int | None) -> None:
        of_a, of_b = nearest_both_ways(
            torch.from_numpy(golden["bf/A"]), torch.from_numpy(golden["bf/B"]), dist=dist, block_size=block_size
        )
        np.testing.assert_array_equal(of_a, golden[f"bf/{dist}_{block_size}_nnA"])
        np.testing.assert_array_equal(of_b, golden[f"bf/{dist}_{block_size}_nnB"])

    @pytest.mark.parametrize(
        ("name", "how"),
        [
            ("dot_S4", {"subsample": 4}),
            ("dot_S8", {}),
            ("dot_S16", {"subsample": 16}),
            ("kdtree_S8", {"dist": "l2"}),
            ("basin", {"block_size": 1000}),
        ],
    )
    @pytest.mark.parametrize("masked", [False, True])
    def test_grid_seeds(self, golden: Golden, name: str, how: dict, masked: bool) -> None:
        full = torch.ones(96, 128, dtype=torch.bool) if masked else None
        found = fast_reciprocal_matches(golden["feat/11"], golden["feat/21"], mask_a=full, mask_b=full, **how)
        np.testing.assert_array_equal(found.xy_a, golden[f"fast/{name}_xy1"])
        np.testing.assert_array_equal(found.xy_b, golden[f"fast/{name}_xy2"])

    @pytest.mark.parametrize("tolerance", [0, 3, 5])
    def test_explicit_seeds_go_one_round(self, golden: Golden, tolerance: int) -> None:
        y, x = np.mgrid[4:96:8, 4:128:8]
        seeds = np.stack([x.ravel(), y.ravel()], -1)
        found = fast_reciprocal_matches(golden["feat/11"], golden["feat/21"], seeds=seeds, pixel_tol=tolerance)
        np.testing.assert_array_equal(found.xy_a, golden[f"fast/init_tol{tolerance}_xy1"])
        np.testing.assert_array_equal(found.xy_b, golden[f"fast/init_tol{tolerance}_xy2"])
        if tolerance:  # the same from the grid, where the published code stops with a TypeError
            grid = fast_reciprocal_matches(golden["feat/11"], golden["feat/21"], subsample=8, pixel_tol=tolerance)
            assert pairs(grid) == pairs(found)

    @pytest.mark.parametrize(
        ("name", "symmetric", "how"),
        [
            ("corres/S8_", True, {}),
            ("corres/S4_", True, {"subsample": 4}),
            ("corres_nonsym/", False, {}),
            ("corres_nonsym_tol3/", False, {"pixel_tol": 3}),
        ],
    )
    def test_extraction(self, golden: Golden, name: str, symmetric: bool, how: dict) -> None:
        def prediction(first: str, second: str) -> PairPrediction:
            desc = [torch.from_numpy(golden[f"feat/{n}"])[None] for n in (first, second)]
            conf = [torch.from_numpy(golden[f"qonf/{n}"])[None] for n in (first, second)]
            return PairPrediction(desc[0][..., :3], desc[1][..., :3], *conf, *desc, *conf)

        found = extract_correspondences(prediction("11", "21"), prediction("22", "12") if symmetric else None, **how)
        np.testing.assert_array_equal(found.xy_a, golden[f"{name}xy1"])
        np.testing.assert_array_equal(found.xy_b, golden[f"{name}xy2"])
        np.testing.assert_allclose(found.weight, golden[f"{name}conf"], rtol=1e-6)


@given(st.data(), st.integers(0, 10_000), st.sampled_from([1, 2, 3, 4, 8]), st.integers(1, 4))
def test_masked_matches_are_mutual_and_inside(data: st.DataObject, seed: int, subsample: int, rounds: int) -> None:
    sizes = [(data.draw(st.integers(1, 13)), data.draw(st.integers(1, 13))) for _ in range(2)]
    desc_a, desc_b = (random_desc(*size, seed + k) for k, size in enumerate(sizes))
    mask_a, mask_b = data.draw(masks(*sizes[0])), data.draw(masks(*sizes[1]))
    exact = exact_reciprocal_matches(desc_a, desc_b, mask_a=mask_a, mask_b=mask_b, block_size=5)
    assert pairs(exact) == oracle(desc_a, desc_b, mask_a, mask_b)
    found = fast_reciprocal_matches(
        desc_a, desc_b, mask_a=mask_a, mask_b=mask_b, subsample=subsample, max_rounds=rounds, block_size=7
    )
    assert found.xy_a.dtype == found.xy_b.dtype == torch.int64
    assert found.xy_a.shape == found.xy_b.shape == (len(pairs(found)), 2)  # no duplicates
    assert pairs(found) <= pairs(exact)
    assert bool(mask_a[found.xy_a[:, 1], found.xy_a[:, 0]].all())
    assert bool(mask_b[found.xy_b[:, 1], found.xy_b[:, 0]].all())
    keys = ((found.xy_a[:, 1] * 13 + found.xy_a[:, 0]) * 13 + found.xy_b[:, 1]) * 13 + found.xy_b[:, 0]
    assert bool((keys.diff() > 0).all())
    if subsample == 1:  # every foreground pixel is a seed; a mutual pair is at rest at once
        everything = fast_reciprocal_matches(desc_a, desc_b, mask_a=mask_a, mask_b=mask_b, subsample=1, max_rounds=200)
        assert pairs(everything) == pairs(exact)


@given(st.data(), st.integers(0, 10_000))
def test_what_lies_outside_does_not_matter(data: st.DataObject, seed: int) -> None:
    desc_a, desc_b = random_desc(9, 11, seed), random_desc(10, 8, seed + 1)
    mask_a, mask_b = data.draw(masks(9, 11)), data.draw(masks(10, 8))
    how: dict[str, Any] = {"mask_a": mask_a, "mask_b": mask_b, "subsample": 3}
    before = fast_reciprocal_matches(desc_a, desc_b, **how)
    desc_a[~mask_a] = data.draw(st.sampled_from([0.0, float("nan"), float("inf"), 7.0]))
    desc_b[~mask_b] = 1.0
    after = fast_reciprocal_matches(desc_a, desc_b, **how)
    assert pairs(before) == pairs(after)


@given(st.data(), st.sampled_from([1, 2, 3, 4, 8]))
def test_there_is_a_seed_for_every_cell_with_foreground(data: st.DataObject, subsample: int) -> None:
    height, width = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    mask = data.draw(masks(height, width))
    pool = descriptor_pool(torch.ones(height, width, 2), mask)
    seeds = [tuple(xy) for xy in pool.xy(grid_seeds(pool, subsample)).tolist()]
    start = subsample // 2
    centres = [(x, y) for y in range(start, height, subsample) for x in range(start, width, subsample)]
    if not centres:
        assert not seeds
        return
    nearest: dict[tuple[int, int], tuple[int, int, int, tuple[int, int]]] = {}
    last_x, last_y = centres[-1]
    for y, x in mask.nonzero().tolist():
        cell = min(x // subsample * subsample + start, last_x), min(y // subsample * subsample + start, last_y)
        key = ((x - cell[0]) ** 2 + (y - cell[1]) ** 2, y, x, (x, y))
        nearest[cell] = min(nearest.get(cell, key), key)
    assert seeds == [nearest[centre][3] for centre in centres if centre in nearest]
    assert all(centre in seeds for centre in centres if mask[centre[1], centre[0]])
    if bool(mask.all()):
        assert seeds == centres  # the published grid


@pytest.mark.parametrize("dist", ["dot", "l2"])
def test_tiles_do_not_change_the_answer(dist: Distance) -> None:
    a, b = random_desc(30, 10, 0).flatten(0, 1), random_desc(20, 11, 1).flatten(0, 1)
    b[50:80] = b[10:40]  # the same descriptor more than once: the lowest index wins, in whichever tile
    a[3], a[4] = b[60], b[61]
    wanted = [t.tolist() for t in nearest_both_ways(a, b, dist=dist, block_size=10_000)]
    assert wanted[0][3] == 20 and wanted[0][4] == 21
    for block_size in (17, 64, 219, 220):
        assert [t.tolist() for t in nearest_both_ways(a, b, dist=dist, block_size=block_size)] == wanted
        assert nearest_neighbours(a, b, dist=dist, block_size=block_size).tolist() == wanted[0]
        assert nearest_neighbours(a[5:6], b, dist=dist, block_size=block_size).tolist() == wanted[0][5:6]


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_coarser_products_change_nothing(precision: str) -> None:
    wanted = [pairs(exact_reciprocal_matches(random_desc(20, 30, 0), random_desc(25, 20, 1)))]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert [pairs(exact_reciprocal_matches(random_desc(20, 30, 0), random_desc(25, 20, 1)))] == wanted
    finally:
        torch.set_float32_matmul_precision(before)


def test_equal_descriptors_give_the_first_pixel() -> None:
    flat = torch.full((6, 6, 3), 3**-0.5)
    assert pairs(fast_reciprocal_matches(flat, flat, subsample=2)) == {(0, 0, 0, 0)}


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    original: Callable[..., Tensor] = torch.mm

    def watched(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, out.numel())
        return original(a, b, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    exact_reciprocal_matches(random_desc(40, 50, 0), random_desc(40, 50, 1), block_size=128)
    assert 0 < largest <= 128 * 128


def test_distances_far_from_the_origin() -> None:
    near = torch.rand(200, 3, dtype=torch.float64) * 10 + 1000
    other = near[torch.randperm(200)] + 0.01
    wanted = torch.cdist(near, other, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    assert nearest_neighbours(near, other, dist="l2", block_size=32).tolist() == wanted.tolist()


def test_matches_follow_a_shift_and_any_rotation_of_the_descriptors() -> None:
    scene = random_desc(24, 40, 5)
    desc_a, desc_b = scene[:, :32], scene[:, 8:]
    found = fast_reciprocal_matches(desc_a, desc_b, subsample=4)
    moved = (found.xy_a - found.xy_b == torch.tensor([8, 0])).all(-1)
    assert len(moved) > 40 and moved.float().mean() > 0.9
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    turned = [(desc.double() @ rotation).float() for desc in (desc_a, desc_b)]
    assert pairs(fast_reciprocal_matches(*turned, subsample=4)) == pairs(found)
    assert pairs(fast_reciprocal_matches(desc_a * 3, desc_b * 0.2, subsample=4)) == pairs(found)
    exact = pairs(exact_reciprocal_matches(desc_a, desc_b))
    assert {(*row[2:], *row[:2]) for row in exact} == pairs(exact_reciprocal_matches(desc_b, desc_a))


def test_pixels_without_a_descriptor_never_match() -> None:
    desc_a, desc_b = random_desc(12, 12, 0), random_desc(12, 12, 1)
    desc_a[:6], desc_b[:, :6] = float("nan"), 0.0
    found = fast_reciprocal_matches(desc_a, desc_b, subsample=2)
    assert len(found.xy_a) and int(found.xy_a[:, 1].min()) >= 6 and int(found.xy_b[:, 0].min()) >= 6
    desc_a[:] = float("nan")
    assert fast_reciprocal_matches(desc_a, desc_b).xy_a.shape == (0, 2)


def test_explicit_seeds_outside_the_mask_have_no_match() -> None:
    desc = random_desc(10, 10, 0)
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[2:8, 2:8] = True
    seeds = torch.tensor([[0, 0], [5, 5], [5, 5], [2, 7]])
    found = fast_reciprocal_matches(desc, desc, mask_a=mask, mask_b=mask, seeds=seeds)
    assert found.xy_a.tolist() == found.xy_b.tolist() == [[5, 5], [2, 7]]


def test_border_is_a_margin_at_both_ends() -> None:
    desc = random_desc(10, 12, 0)
    found = fast_reciprocal_matches(desc, desc, subsample=1, border=3)
    assert found.xy_a.tolist() == found.xy_b.tolist() == [[x, y] for y in range(3, 7) for x in range(3, 9)]
    assert fast_reciprocal_matches(desc, desc, subsample=1, border=6).xy_a.shape == (0, 2)


def test_half_precision_and_arrays_are_taken() -> None:
    desc_a, desc_b = random_desc(16, 16, 0).half(), random_desc(16, 16, 1).half()
    wanted = pairs(fast_reciprocal_matches(desc_a.float(), desc_b.float()))
    assert pairs(fast_reciprocal_matches(desc_a, desc_b.bfloat16().half() * 0 + desc_b)) == wanted
    assert pairs(fast_reciprocal_matches(desc_a.numpy(), desc_b.numpy())) == wanted


def prediction(seed: int, height: int = 16, width: int = 24) -> PairPrediction:
    points = torch.zeros(1, height, width, 3)
    conf = torch.ones(1, height, width)
    desc = [random_desc(height, width, seed + k)[None] for k in range(2)]
    trust = [torch.rand(1, height, width) + 0.1 for _ in range(2)]
    return PairPrediction(points, points, conf, conf, *desc, *trust)


def test_extraction_stays_inside_masks_and_drops_what_is_not_trusted() -> None:
    ab, ba = prediction(0), prediction(2)
    mask_a, mask_b = torch.zeros(16, 24, dtype=torch.bool), torch.zeros(16, 24, dtype=torch.bool)
    mask_a[3:12, 5:20], mask_b[0:9, 2:11] = True, True
    assert ab.desc_conf_a is not None and ba.desc_conf_b is not None
    ab.desc_conf_a[0, 5], ba.desc_conf_b[0, 5] = 0.0, float("nan")
    found = extract_correspondences(ab, ba, (mask_a, mask_b), subsample=4, border=1)
    assert len(found) > 5
    assert bool(mask_a[found.xy_a[:, 1], found.xy_a[:, 0]].all())
    assert bool(mask_b[found.xy_b[:, 1], found.xy_b[:, 0]].all()) and int(found.xy_b[:, 1].min()) >= 1
    assert not bool((found.xy_a[:, 1] == 5).any())
    columns = found.to_correspondences(3, 8)
    assert columns.frame_a.unique().tolist() == [3] and columns.frame_b.unique().tolist() == [8]
    torch.testing.assert_close(columns.xy_a, found.xy_a + 0.5)
    nothing = torch.zeros(16, 24, dtype=torch.bool)
    assert len(extract_correspondences(ab, ba, (mask_a, nothing)).to_correspondences()) == 0


def test_errors_name_what_is_wrong() -> None:
    desc = random_desc(8, 8, 0)
    how: dict[str, Any]
    with pytest.raises(ValueError, match=r"mask of desc_b: wanted bool \(8, 8\)"):
        fast_reciprocal_matches(desc, desc, mask_b=torch.ones(8, 8))
    with pytest.raises(ValueError, match="desc_b: 3 numbers a pixel, desc_a has 4"):
        fast_reciprocal_matches(desc, desc[..., :3])
    with pytest.raises(ValueError, match="desc_a: wanted floats"):
        fast_reciprocal_matches(desc[None], desc)
    with pytest.raises(ValueError, match="is not in the picture of 8 x 8"):
        fast_reciprocal_matches(desc, desc, seeds=torch.tensor([[8, 0]]))
    with pytest.raises(ValueError, match="dist: 'cosine'"):
        fast_reciprocal_matches(desc, desc, dist="cosine")  # type: ignore[arg-type]
    for how, name in (({"subsample": 0}, "subsample"), ({"max_rounds": 0}, "max_rounds"), ({"border": -1}, "border"),
                      ({"pixel_tol": -1}, "pixel_tol"), ({"block_size": 0}, "block_size")):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            fast_reciprocal_matches(desc, desc, **how)
    points = torch.zeros(1, 8, 8, 3)
    with pytest.raises(ValueError, match="DUSt3R"):
        extract_correspondences(PairPrediction(points, points, points[..., 0], points[..., 0]))


def test_the_public_name() -> None:
    assert dyn4d.matching.fast_reciprocal_matches is fast_reciprocal_matches


@pytest.mark.gpu
def test_a_gpu_finds_the_same() -> None:
    desc_a, desc_b = random_desc(96, 128, 0, 24), random_desc(96, 128, 1, 24)
    mask = torch.rand(96, 128) < 0.6
    for dist in ("dot", "l2"):
        here = fast_reciprocal_matches(desc_a, desc_b, mask_a=mask, dist=dist)
        there = fast_reciprocal_matches(desc_a.cuda(), desc_b.cuda(), mask_a=mask, dist=dist)
        assert there.xy_a.is_cuda and pairs(there) == pairs(here)
        exact = [
            exact_reciprocal_matches(a, b, dist=dist) for a, b in ((desc_a, desc_b), (desc_a.cuda(), desc_b.cuda()))
        ]
        assert pairs(exact[0]) == pairs(exact[1])
