"""Long tracks from matches: exact motions, gaps, wrong matches, and nothing at all."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch

from dyn4d.core.types import Correspondences, FramePoints
from dyn4d.geometry.point_tracks import PointTracks, strain, track_points, track_queries
from dyn4d.matching.linking import LinkedTracks, Linker, combine
from dyn4d.matching.local_motion import LocalMotion, MotionTable

HEIGHT, WIDTH, FRAMES = 64, 80, 30
GAPS = (1, 2, 4, 8)
CENTRE = np.array([38.0, 30.0])


def move(frame: float, xy: np.ndarray) -> np.ndarray:
    """Where the surface point that is at `xy` in frame 0 is in `frame`: it turns, grows, shears and drifts."""
    angle, grow = math.radians(1.2 * frame), 1 + 0.004 * frame
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = grow * turn @ np.array([[1, 0.002 * frame], [0, 1]])
    return (xy - CENTRE) @ matrix.T + CENTRE + np.array([0.25, 0.1]) * frame


def unmove(frame: float, xy: np.ndarray) -> np.ndarray:
    origin = move(frame, np.zeros((1, 2)))
    matrix = np.stack([move(frame, np.eye(2)[i : i + 1])[0] - origin[0] for i in range(2)], axis=-1)
    return (xy - origin) @ np.linalg.inv(matrix).T


def pixels() -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([columns.ravel(), rows.ravel()], -1) + 0.5


def on_object(frame: int, xy: np.ndarray) -> np.ndarray:
    return np.linalg.norm(unmove(frame, xy) - CENTRE, axis=-1) < 20


@cache
def frame_points(hidden: range = range(0), frames: int = FRAMES) -> FramePoints:
    """A point a pixel of the object, at z = 5 and 0.1 units a pixel; none where a bar hides it."""
    xy, frame = [], []
    for f in range(frames):
        mine = pixels()
        mine = mine[on_object(f, mine) & ~bar(f, mine, hidden)]
        xy.append(mine)
        frame.append(np.full(len(mine), f))
    places = torch.from_numpy(np.concatenate(xy)).float()
    count = len(places)
    return FramePoints(
        torch.cat([0.1 * places, torch.full((count, 1), 5.0)], -1), torch.rand(count, 3), torch.zeros(count, 3),
        torch.from_numpy(np.concatenate(frame)), places, torch.ones(count),
    )  # fmt: skip


def bar(frame: int, xy: np.ndarray, hidden: range) -> np.ndarray:
    """A bar in front of the object's middle, in some frames."""
    return (np.abs(xy[:, 0] - CENTRE[0]) < 8) & (frame in hidden)


@cache
def matches(
    *, hidden: range = range(0), wrong: float = 0.0, noise: float = 0.0, per_pair: int = 400, seed: int = 0
) -> Correspondences:
    """What flow would give: starts at pixel centres, both ways, exact but for `noise` px; a share that is `wrong`."""
    random = np.random.default_rng(seed)
    parts = []
    for a in range(FRAMES):
        xy = pixels()
        xy = xy[on_object(a, xy) & ~bar(a, xy, hidden)]
        for b in sorted({a + s * g for g in GAPS for s in (-1, 1)} & set(range(FRAMES))):
            there = move(b, unmove(a, xy))
            keep = np.flatnonzero(~bar(b, there, hidden))
            keep = np.sort(random.choice(keep, min(per_pair, len(keep)), replace=False))
            end = there[keep] + noise * random.standard_normal((len(keep), 2))
            bad = random.random(len(keep)) < wrong
            end[bad] += random.uniform(-25, 25, (int(bad.sum()), 2))
            parts.append((np.full(len(keep), a), np.full(len(keep), b), xy[keep], end, np.ones(len(keep))))
    columns = [torch.from_numpy(np.concatenate(c)) for c in zip(*parts, strict=True)]
    return Correspondences(columns[0], columns[1], *(c.float() for c in columns[2:]))


def errors(tracks: PointTracks) -> np.ndarray:
    """(F, N) px against the true motion of the point each track was started at; NaN where not seen."""
    xy, first = tracks.xy.numpy().astype(float), tracks.frame_first.numpy()
    out = np.full(xy.shape[:2], np.nan)
    for i, start in enumerate(first):
        origin = unmove(start, xy[start, i][None])
        for f in range(len(xy)):
            out[f, i] = np.linalg.norm(xy[f, i] - move(f, origin)[0])
    return out


def test_exact_matches_give_tracks_through_the_whole_clip() -> None:
    found = track_points(matches(), frame_points(), HEIGHT, WIDTH, FRAMES, count=240)
    error, visible = errors(found), found.visible.numpy()
    assert np.nanmax(error) < 0.2
    assert visible.sum(0).mean() > 0.85 * FRAMES and 60 < found.xyz.shape[1] <= 400
    assert (visible == np.isfinite(found.xy[..., 0].numpy())).all()
    lifted = torch.isfinite(found.xyz[..., 0])  # all but some at the outline, where no four pixels are around
    assert not (lifted & ~found.visible).any() and lifted.sum() > 0.95 * visible.sum()
    np.testing.assert_allclose(found.xyz[..., :2][lifted], 0.1 * found.xy[lifted], atol=0.06)  # the nearest pixel there
    conf = found.conf.numpy()
    assert (conf[~visible] == 0).all() and conf.min() >= 0 and conf.max() <= 1 and conf[visible].mean() > 0.8


def test_tracks_cover_the_object_evenly() -> None:
    found = track_points(matches(), frame_points(), HEIGHT, WIDTH, FRAMES, count=240)
    for frame in (0, 15, 29):
        xy = pixels()
        xy = xy[on_object(frame, xy)]
        live = found.xy[frame][found.visible[frame]].numpy()
        nearest = np.linalg.norm(xy[:, None] - live[None], axis=-1).min(1)
        assert np.percentile(nearest, 95) < 8 and len(live) < 120


def test_the_same_seed_gives_the_same_tracks() -> None:
    pairs, points = matches(per_pair=200), frame_points()
    few = pairs.select((pairs.frame_a < 6) & (pairs.frame_b < 6)), points.select(points.frame < 6)
    one, two, other = (track_points(*few, HEIGHT, WIDTH, 6, count=100, seed=s) for s in (3, 3, 4))
    assert torch.equal(one.xyz.nan_to_num(), two.xyz.nan_to_num()) and torch.equal(one.conf, two.conf)
    assert one.xy.shape != other.xy.shape or not torch.equal(one.xy.nan_to_num(), other.xy.nan_to_num())


def test_a_hidden_point_is_found_again() -> None:
    hidden = range(12, 16)
    points = frame_points(hidden)
    found = track_queries(
        matches(hidden=hidden), points, HEIGHT, WIDTH, FRAMES, start=np.array([0, 25]),
        xy=np.array([CENTRE, move(25, CENTRE[None])[0]]),
    )  # fmt: skip
    visible = found.visible.numpy()
    assert not visible[12:16].any() and np.isnan(found.xy[12:16].numpy()).all()
    assert visible[:12].all() and visible[16:].all()  # both ways over the gap
    assert np.nanmax(errors(found)) < 0.2


def test_one_wrong_match_in_five_is_survived() -> None:
    found = track_points(matches(wrong=0.2, noise=0.1), frame_points(), HEIGHT, WIDTH, FRAMES, count=240)
    error = errors(found)
    known = error[np.isfinite(error)]
    assert np.median(known) < 0.15 and (known < 1.0).mean() > 0.995
    assert found.visible.float().sum(0).mean() > 0.9 * FRAMES


def test_long_strides_hold_what_short_ones_let_drift() -> None:
    pairs = matches(noise=0.0)
    short = (pairs.frame_b - pairs.frame_a).abs() <= 4
    biased = pairs.xy_b.clone()
    biased[short, 0] += 0.1 * (pairs.frame_b - pairs.frame_a)[short].sign()  # a drift of 0.1 px a step
    pairs = Correspondences(pairs.frame_a, pairs.frame_b, pairs.xy_a, biased, pairs.weight)
    query = {"start": np.array([0]), "xy": CENTRE[None]}
    points = frame_points()
    both = errors(track_queries(pairs, points, HEIGHT, WIDTH, FRAMES, **query))[-1, 0]
    chain = pairs.select((pairs.frame_b - pairs.frame_a).abs() <= 1)
    alone = errors(track_queries(chain, points, HEIGHT, WIDTH, FRAMES, **query))[-1, 0]
    assert alone > 2.5 and both < 0.6 * alone


def test_a_place_the_links_contradict_is_taken_out() -> None:
    tracks = LinkedTracks.empty(4, 2)
    tracks.begin(np.array([0, 1]), 0, np.array([[5.0, 5.0], [9.0, 9.0]]))
    tracks.xy[1:] = tracks.xy[:1]
    tracks.links[:] = 4
    tracks.agree[:] = [[3.5, 3.5], [3.5, 3.5], [3.5, 0.5], [0.0, 3.5]]
    Linker(MotionTable(Correspondences.empty()), tracks).settle()
    assert tracks.seen.tolist() == [[True, True], [True, True], [True, False], [False, True]]
    assert tracks.confidence()[2, 1] == 0


def test_a_sliding_track_strains() -> None:
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2)
    xyz = np.zeros((3, 25, 3), np.float32)
    xyz[..., :2] = grid
    xyz[1] = 2 * xyz[0, :, [1, 0, 2]].T[:, [0, 1, 2]]  # mirrored and doubled: strain log 2
    xyz[2, 12] = np.nan
    found = strain(xyz, np.zeros(25, np.int64))
    np.testing.assert_allclose(found[0], 0, atol=1e-6)
    np.testing.assert_allclose(found[1], math.log(2), atol=1e-5)
    np.testing.assert_allclose(found[2], 0, atol=1e-6)


def test_sources_that_agree_outvote_one() -> None:
    places = np.array([[[1.0, 1.0]], [[1.1, 1.0]], [[30.0, 1.0]], [[np.nan, np.nan]]])
    sigma = np.array([[0.2], [0.2], [0.2], [np.inf]])
    found = combine(places, sigma, np.array([[0.5], [0.7], [1.0], [0.0]]))
    np.testing.assert_allclose(found.xy, [[1.05, 1.0]])
    assert found.quality[0] == pytest.approx(0.6)
    nobody = combine(places[3:], sigma[3:], np.zeros((1, 1)))
    assert np.isnan(nobody.xy).all()


def test_local_motion_is_exact_for_an_affine_map_and_silent_elsewhere() -> None:
    xy = np.random.default_rng(0).uniform(0, 40, (600, 2))
    motion = LocalMotion(xy, xy @ np.array([[1.1, 0.2], [-0.1, 0.9]]) + 3, np.full(600, 0.5))
    asked = np.array([[20.3, 20.7], [11.0, 30.0], [100.0, 100.0]])
    found = motion.at(asked)
    np.testing.assert_allclose(found.xy[:2], asked[:2] @ np.array([[1.1, 0.2], [-0.1, 0.9]]) + 3, atol=0.02)
    assert np.isnan(found.xy[2]).all() and found.quality[2] == 0 and found.quality[0] == pytest.approx(0.5)
    assert np.isnan(LocalMotion(xy[:1], xy[:1], np.ones(1)).at(asked).xy).all()


def test_nothing_gives_nothing() -> None:
    nothing = Correspondences.empty()
    points = frame_points()
    assert track_points(nothing, points, HEIGHT, WIDTH, FRAMES, count=50).xyz.shape[1] == 0  # none lasts three frames
    nobody = points.select(points.frame > 99)
    assert track_points(nothing, nobody, HEIGHT, WIDTH, FRAMES, count=50).xyz.shape == (FRAMES, 0, 3)
    one = frame_points(frames=1)
    alone = track_points(nothing, one, HEIGHT, WIDTH, 1, count=200)
    assert alone.visible.all() and 20 < alone.xyz.shape[1] <= 200 and torch.isfinite(alone.xyz).all()
    asked = track_queries(nothing, points, HEIGHT, WIDTH, FRAMES, start=np.array([2]), xy=CENTRE[None])
    assert asked.visible.sum() == 1 and asked.visible[2, 0]


def test_frames_without_the_object_are_skipped_over() -> None:
    pairs, points = matches(), frame_points()
    empty = 7
    pairs = pairs.select((pairs.frame_a != empty) & (pairs.frame_b != empty))
    found = track_points(pairs, points.select(points.frame != empty), HEIGHT, WIDTH, FRAMES, count=200)
    assert not found.visible[empty].any() and found.visible[8:].float().mean() > 0.9
    assert np.nanmax(errors(found)) < 0.2


def test_spread_over_frames_that_were_left_out() -> None:
    found = track_points(Correspondences.empty(), frame_points(frames=1), HEIGHT, WIDTH, 1, count=50)
    wide = found.spread(np.array([2]), 4)
    assert wide.visible.any(1).tolist() == [False, False, True, False] and torch.equal(wide.xyz[2], found.xyz[0])
    assert torch.isnan(wide.xyz[0]).all() and (wide.conf[[0, 1, 3]] == 0).all()
