"""Alignment that goes by another matcher's matches, and where a clip's come from."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from pair_scenes import PairScene, ball_truth, camera_errors, exact_predictions

from dyn4d.core.cameras import invert_rigid, project
from dyn4d.core.types import Clip, Correspondences, Timeline
from dyn4d.geometry.alignment import AlignmentConfig, align
from dyn4d.geometry.flow_ties import FIRMLY, ties_all, with_matches
from dyn4d.geometry.pair_results import PairResultList
from dyn4d.geometry.region_flow import Regions, Seeds, by_pairs, finds_seeds_again, from_seeds
from dyn4d.geometry.reprojection import make_directions
from dyn4d.geometry.sparse_problem import condense
from dyn4d.io.clips import load_clip
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow import match_clip
from dyn4d.synthetic import build_scene, write_scene

SHORT = AlignmentConfig(fusions=1)


@cache
def write_and_load(frames: int, size: int) -> Clip:
    """The creature, all in memory."""
    with TemporaryDirectory() as folder:
        clip = load_clip(write_scene(build_scene("creature", frames=frames, size=size), Path(folder), truth=False).clip)
        read = {name: [np.asarray(one) for one in getattr(clip, name)] for name in ("images", "masks")}
        return replace(clip, **read)


def exact(scene: PairScene, pairs: list[tuple[int, int]], step: int = 5) -> Correspondences:
    """True matches of pixel centres of a, to any fraction of a pixel in b."""
    truth = scene.truth
    height, width = truth.size
    found = []
    for a, b in pairs:
        start = torch.arange(height * width).view(height, width)[2::step, 2::step].reshape(-1)
        at, depth = project(truth.K[b], invert_rigid(truth.world_from_cam[b]), truth.world_points(a)[start])
        cell = at.floor().long()
        inside = (cell >= 0).all(-1) & (cell[:, 0] < width) & (cell[:, 1] < height) & (depth > 0)
        inside &= torch.from_numpy(scene.frames[a].matched).reshape(-1)[start]
        start, at, cell, depth = start[inside], at[inside], cell[inside], depth[inside]
        seen = (truth.depth[b][cell[:, 1], cell[:, 0]] / depth - 1).abs() < 0.02
        start, at = start[seen], at[seen]
        xy = torch.stack([start % width, start // width], -1) + 0.5
        rows = torch.ones(len(start), dtype=torch.int64)
        found.append(Correspondences(a * rows, b * rows, xy.float(), at.float(), torch.ones(len(start))))
    names = ("frame_a", "frame_b", "xy_a", "xy_b", "weight")
    return Correspondences(*(torch.cat([getattr(one, name) for one in found]) for name in names))


def ball(noise: float, count: int = 4) -> PairScene:
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    return exact_predictions(ball_truth(count), pairs=pairs, scale_seed=3, noise=noise, match_step=4)


def scrambled(scene: PairScene) -> PairScene:
    """With the network's matches at random."""
    rng = torch.Generator().manual_seed(0)
    results = [
        replace(r, xy_b=r.xy_b[torch.randperm(len(r.xy_b), generator=rng)]) for r in scene.results
    ]  # fmt: skip
    return replace(scene, results=PairResultList(tuple(results)))


def test_it_goes_by_the_matches_that_are_given() -> None:
    scene = scrambled(ball(0.03))
    neighbours = [(0, 1), (1, 2), (2, 3), (1, 3)]
    out = align(scene.frames, scene.results, SHORT, matches=exact(scene, neighbours))
    error = camera_errors(scene, out.world_from_cam)
    assert bool(out.registered.all()) and error.rotation_deg < 0.3 and error.centre < 0.03
    assert out.pixel_error < 0.5
    without = align(scene.frames, scene.results, SHORT)
    worse = camera_errors(scene, without.world_from_cam)
    assert worse.rotation_deg > 2 * error.rotation_deg or without.pixel_error > 4 * out.pixel_error


def test_the_networks_matches_stay_where_the_others_tie_nothing() -> None:
    scene = ball(0.0)
    problem = condense(scene.frames, scene.results)
    given = exact(scene, [(0, 1), (2, 1)])
    mixed = with_matches(problem, scene.frames, given, 12)
    counts = {(p.frame_a, p.frame_b): len(p) for p in problem.pairs}
    for pair in mixed.pairs:
        name = pair.frame_a, pair.frame_b
        if 3 in name:
            assert len(pair) == counts[name] > 0
        elif name == (0, 2):  # tied through 1
            assert len(pair) == 0
        else:
            other = torch.cat([pair.a.xy, pair.b.xy])
            assert len(pair) > 0 and not torch.equal(other, other.floor() + 0.5)  # fractions of a pixel are kept
    assert {(p.frame_a, p.frame_b) for p in mixed.pairs} == set(counts)


def test_whether_the_networks_matches_are_needed_at_all() -> None:
    scene = ball(0.0)
    chain = exact(scene, [(0, 1), (2, 1), (3, 2)], 2)
    assert ties_all(chain, scene.frames)
    assert not ties_all(exact(scene, [(0, 1), (3, 2)], 2), scene.frames)
    few = torch.nonzero((chain.frame_a != 3) | (torch.arange(len(chain)) >= len(chain) - FIRMLY + 1)).squeeze(-1)
    assert not ties_all(chain.select(few), scene.frames)
    blind = replace(scene.frames[3], kept=np.zeros_like(scene.frames[3].kept))  # shows nothing: nothing has to tie it
    assert ties_all(exact(scene, [(0, 1), (1, 2)], 2), [*scene.frames[:3], blind])


def test_matches_off_the_views_do_not_count() -> None:
    scene = ball(0.0)
    given = exact(scene, [(0, 1)])
    size = torch.tensor([scene.frames[0].width, scene.frames[0].height])
    off = replace(given, xy_b=given.xy_b + size)
    problem = with_matches(condense(scene.frames, scene.results), scene.frames, off, 12)
    assert all(len(p) == len(q) for p, q in zip(problem.pairs, condense(scene.frames, scene.results).pairs))


def test_pairs_of_both_directions_are_one() -> None:
    xy = torch.arange(12.0).view(6, 2)
    found = Correspondences(
        torch.tensor([0, 0, 1, 2, 2, 3]), torch.tensor([1, 3, 0, 0, 1, 1]), xy, 100 + xy, torch.arange(6.0) + 1
    )  # fmt: skip
    pairs = {(one.frame_a, one.frame_b): one for one in by_pairs(found)}
    assert set(pairs) == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)}
    assert pairs[0, 1].xy_a.tolist() == [xy[0].tolist(), (100 + xy[2]).tolist()]
    assert pairs[1, 3].xy_b.tolist() == [xy[5].tolist()] and pairs[1, 3].weight.tolist() == [6]
    assert by_pairs(Correspondences.empty()) == []


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_by_pairs_keeps_all(share: float) -> None:
    rng = np.random.default_rng(0)
    a = torch.from_numpy(rng.integers(0, 5, 200))
    b = (a + 1 + torch.from_numpy(rng.integers(0, 4, 200))) % 5
    xy = torch.from_numpy(rng.uniform(0, 9, (200, 2)).astype(np.float32))
    found = Correspondences(a, b, xy, xy * share, torch.ones(200))
    assert sum(len(one.weight) for one in by_pairs(found)) == 200


def test_seeds_are_spread_over_what_has_texture() -> None:
    rng = np.random.default_rng(0)
    image = np.full((96, 128, 3), 120, np.uint8)
    image[:, 48:] = rng.integers(0, 255, (96, 80, 1), dtype=np.uint8)
    mask = np.zeros((96, 128), dtype=bool)
    mask[16:80, 16:112] = True
    times = np.arange(2.0)
    clip = Clip(
        name="one", source=Path("one"), images=[image, image], masks=[mask, mask], frames=np.arange(2),
        timeline=Timeline(times, times, ("a", "b")), width=128, height=96,
    )  # fmt: skip
    seeds = Seeds.of(Regions(clip, "object"), 96)
    found = seeds[0]
    y, x = np.nonzero(found)
    assert mask[y, x].all() and (x > 40).all() and 40 < len(x) <= 96
    nearest = np.sort(np.hypot(y[:, None] - y, x[:, None] - x), 1)[:, 1]
    assert np.median(nearest) > 0.5 * seeds.spacing
    background = Seeds.of(Regions(clip, "background"), 96)[1]
    assert background.any() and not background[14:82, 14:114].any()
    assert not Seeds.of(Regions(replace(clip, masks=[~mask & mask] * 2), "object"))[0].any()


def test_seeds_are_as_far_apart_where_the_object_shows_only_for_a_while() -> None:
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    mask = np.zeros((96, 128), dtype=bool)
    mask[16:80, 16:112] = True
    count, times = 30, np.arange(30.0)
    shown = [mask if 13 <= row < 16 else mask & False for row in range(count)]
    clip = Clip(
        name="one", source=Path("one"), images=[image] * count, masks=shown, frames=np.arange(count),
        timeline=Timeline(times, times, tuple(f"{row}" for row in range(count))), width=128, height=96,
    )  # fmt: skip
    always = replace(clip, masks=[mask] * count)
    assert Seeds.of(Regions(clip, "object"), 96).spacing == Seeds.of(Regions(always, "object"), 96).spacing
    nowhere = Seeds.of(Regions(replace(clip, masks=[mask | True] * count), "background"))
    assert not nowhere[0].any()


def test_matches_that_the_views_do_not_see_tie_nothing() -> None:
    scene = ball(0.0)
    given = exact(scene, [(0, 1), (1, 2), (2, 3)], step=2)
    assert ties_all(given, scene.frames)
    blind = [replace(f, matched=f.matched & (row != 2)) for row, f in enumerate(scene.frames)]
    assert not ties_all(given, blind)
    off = torch.where(given.frame_a == 2, 1e4, 0.0)[:, None]
    assert not ties_all(replace(given, xy_a=given.xy_a + off), scene.frames)


def test_matches_of_seeds_have_one_depth_for_all_frames() -> None:
    scene = ball(0.0)
    given = exact(scene, [(0, 1), (0, 2), (1, 0)])
    problem = with_matches(condense(scene.frames, scene.results), scene.frames, given, 12)
    directions = make_directions(problem, problem.pairs[:2], 10_000)
    ways = {(d.i, d.j): d for d in directions if len(d.weight)}
    assert set(ways) == {(0, 1), (1, 0), (0, 2)}  # only from where a match begins
    both = next(one for one in by_pairs(given) if (one.frame_a, one.frame_b) == (0, 1))
    assert len(ways[0, 1].weight) + len(ways[1, 0].weight) == len(both.weight)
    assert torch.equal(ways[0, 1].uv_i, ways[0, 1].uv_i.floor() + 0.5)


def test_matches_of_chosen_pixels_stay_when_others_go() -> None:
    clip = write_and_load(frames=4, size=64)
    seeds = Seeds.of(Regions(replace(clip, depth=None), "object"), 60)
    config = MatchingConfig(window=1, strides=(2,), max_per_pair=40)
    few = match_clip(clip, config, first=seeds)
    whole = match_clip(clip, replace(config, max_per_pair=10**6))

    def starts(found: Correspondences, a: int, b: int) -> set[tuple[float, float]]:
        rows = (found.frame_a == a) & (found.frame_b == b)
        return {tuple(xy) for xy in found.xy_a[rows].tolist()}

    for a, b in ((0, 1), (2, 0)):
        y, x = np.nonzero(seeds[a])
        wanted = {(i + 0.5, j + 0.5) for i, j in zip(x, y)} & starts(whole, a, b)
        assert wanted and wanted <= starts(few, a, b) and len(starts(few, a, b)) == max(40, len(wanted))
    kept = from_seeds(seeds, few)
    assert starts(kept, 0, 1) <= {(i + 0.5, j + 0.5) for j, i in zip(*np.nonzero(seeds[0]))}
    assert not starts(kept, 2, 0)  # two frames apart is none of the gaps


def test_seeds_are_found_again_only_where_their_frames_are_matched() -> None:
    assert finds_seeds_again(MatchingConfig())
    assert not finds_seeds_again(MatchingConfig(window=3, strides=(8, 16)))
    assert not finds_seeds_again(MatchingConfig(window=6, strides=(8,)))
    assert finds_seeds_again(MatchingConfig(window=1, strides=(4, 8, 16)))
