"""Depths that keep the distances on an object over time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from dyn4d.core.cameras import look_at
from dyn4d.core.types import Correspondences
from dyn4d.geometry import isometry
from dyn4d.geometry.isometry import EvenDepth, Stretch, even_out
from dyn4d.geometry.measured_relief import Bend, MeasuredDepth
from dyn4d.geometry.pair_config import PairConfig
from dyn4d.geometry.pair_frames import make_pair_frame
from dyn4d.geometry.view_depth import ViewDepth

HEIGHT, WIDTH, FOCAL, FRAMES = 96, 112, 130.0, 12
K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]], dtype=torch.float64).repeat(FRAMES, 1, 1)


@dataclass(frozen=True)
class Hinge:
    """Two curved plates that turn about the line between them while the whole turns and comes nearer.

    Attributes:
        depth: T of (H, W), 0 = none. matches: exact, between frames 1, 4 and 8 apart, both ways.
    """

    depth: list[np.ndarray]
    matches: Correspondences

    @property
    def masks(self) -> list[np.ndarray]:
        return [depth > 0 for depth in self.depth]


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    """About the y axis."""
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T


def at_time(points: np.ndarray, frame: int) -> np.ndarray:
    """(N, 3) of the rest pose -> in the camera."""
    share = frame / (FRAMES - 1)
    bent = np.where(points[:, :1] > 0, turned(points, 0.7 * np.sin(4 * share)), points)
    return turned(bent, 0.9 * (share - 0.5)) + np.array([0.0, 0.0, 3.0 - 0.5 * share])


def project(points: np.ndarray) -> np.ndarray:
    return FOCAL * points[:, :2] / points[:, 2:] + [WIDTH / 2, HEIGHT / 2]


@pytest.fixture(scope="module")
def hinge() -> Hinge:
    u, v = np.meshgrid(np.linspace(-0.8, 0.8, 500), np.linspace(-0.7, 0.7, 400))
    rest = np.stack([u, v, 0.25 * u**2 + 0.15 * np.cos(3 * v)], -1).reshape(-1, 3)
    depths = []
    for frame in range(FRAMES):
        seen = at_time(rest, frame)
        column, line = project(seen).astype(int).T
        depth = np.full((HEIGHT, WIDTH), np.inf)
        np.minimum.at(depth, (line, column), seen[:, 2])
        depths.append(np.where(np.isfinite(depth), depth, 0))
    chosen = rest[np.random.default_rng(1).permutation(len(rest))[:250]]
    parts = []
    for a in range(FRAMES):
        for b in range(FRAMES):
            if abs(a - b) in (1, 4, 8):
                xy = [torch.from_numpy(project(at_time(chosen, frame))) for frame in (a, b)]
                rows = [torch.full((len(chosen),), frame) for frame in (a, b)]
                parts.append(Correspondences(rows[0], rows[1], xy[0], xy[1], torch.ones(len(chosen))))
    return Hinge(depths, Correspondences.concatenate(parts))


def measured(
    depths: list[np.ndarray], masks: list[np.ndarray], bends: list[Bend | None] | None = None
) -> MeasuredDepth:
    config = PairConfig(view="whole", size=WIDTH)
    frames = [make_pair_frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), mask, config) for mask in masks]
    maps = [frame.view.depth(depth) for frame, depth in zip(frames, depths)]
    said = ViewDepth(frames, maps, [(each > 0).astype(np.float64) for each in maps])
    flat = np.zeros((2, 2))
    return MeasuredDepth(said, bends or [Bend(0.0, flat, flat == 0)] * len(frames), said)


def wrong(hinge: Hinge, tilt: float, drift: float) -> list[np.ndarray]:
    """The truth, tilted by what lasts for some frames, and too far by a factor that changes from frame to frame."""
    x = (np.arange(WIDTH) + 0.5) / WIDTH - 0.5
    lean = np.sqrt(2) * np.cos(0.15 * np.arange(FRAMES) + 1)
    far = np.random.default_rng(0).normal(0, 1, FRAMES)
    return [depth * np.exp(tilt * lean[i] * x + drift * far[i]) for i, depth in enumerate(hinge.depth)]


def errors(found: EvenDepth | MeasuredDepth, hinge: Hinge) -> tuple[float, float]:
    """Mean within the frames, and the standard deviation from frame to frame, of the logarithm."""
    within, whole = [], []
    for row, true in enumerate(hinge.depth):
        depth = found.picture(row)[0]
        both = (true > 0) & (depth > 0)
        logs = np.log(depth[both] / true[both])
        whole.append(np.median(logs))
        within.append(np.abs(logs - whole[-1]).mean())
    return float(np.mean(within)), float(np.std(whole))


def test_relief_and_distance_of_each_frame_come_out_of_what_does_not_stretch(hinge: Hinge) -> None:
    start = measured(wrong(hinge, 0.2, 0.05), hinge.masks)
    before = errors(start, hinge)
    found = even_out([start], hinge.masks, hinge.matches, K)
    assert found is not None
    within, drift = errors(found, hinge)
    assert within < 0.5 * before[0] and drift < 0.35 * before[1]
    assert found.uneven[1] < 0.5 * found.uneven[0]
    ratios = [found.picture(row)[0][mask] / start.picture(row)[0][mask] for row, mask in enumerate(hinge.masks)]
    assert np.median([np.median(ratio) for ratio in ratios]) == pytest.approx(1, abs=0.02)  # the unit stays
    assert all((found.picture(row)[0][~mask] == 0).all() for row, mask in enumerate(hinge.masks))


def test_what_is_right_stays_so(hinge: Hinge) -> None:
    found = even_out([measured(hinge.depth, hinge.masks)], hinge.masks, hinge.matches, K)
    assert found is not None
    within, drift = errors(found, hinge)
    assert within < 0.01 and drift < 0.01


def test_matches_that_are_wrong_do_little(hinge: Hinge) -> None:
    rng = np.random.default_rng(2)
    off = torch.from_numpy(
        np.where(rng.random((len(hinge.matches), 1)) < 0.15, rng.normal(0, 12, (len(hinge.matches), 2)), 0)
    )
    found = even_out([measured(wrong(hinge, 0.2, 0.05), hinge.masks)], hinge.masks,
                     replace(hinge.matches, xy_b=hinge.matches.xy_b + off), K)  # fmt: skip
    assert found is not None
    within, drift = errors(found, hinge)
    assert within < 0.022 and drift < 0.02


def test_noise_of_the_matches_does_not_shake_the_relief(hinge: Hinge, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.from_numpy(np.random.default_rng(4).normal(0, 0.5, (len(hinge.matches), 2)))
    noisy = replace(hinge.matches, xy_b=hinge.matches.xy_b + noise)
    off = []
    for calm in (isometry.CALM, 0.0):
        monkeypatch.setattr(isometry, "CALM", calm)
        found = even_out([measured(hinge.depth, hinge.masks)], hinge.masks, noisy, K)
        assert found is not None
        off.append(errors(found, hinge)[0])
    assert off[0] < 0.8 * off[1]


def test_it_begins_with_what_keeps_distances_better(hinge: Hinge) -> None:
    tilt = np.array([[-0.25, 0.25]] * 2)
    known = np.ones((2, 2), bool)
    bad: list[Bend | None] = [Bend(0.1, (-1) ** i * tilt, known) for i in range(FRAMES)]
    start = measured(hinge.depth, hinge.masks, bad)
    found = even_out([start], hinge.masks, hinge.matches, K)
    assert found is not None and found.source is not start
    assert errors(found, hinge)[0] < 0.01
    assert np.median(found.picture(0)[0][hinge.masks[0]] / hinge.depth[0][hinge.masks[0]]) == pytest.approx(
        np.exp(0.1), rel=0.02
    )
    good = measured(hinge.depth, hinge.masks)
    kept = even_out([good], hinge.masks, hinge.matches, K)
    assert kept is not None and kept.source is good


def test_of_several_depths_it_begins_with_the_one_that_keeps_distances_best(hinge: Hinge) -> None:
    """The cameras go with the first all the same."""
    starts = [measured([2 ** (tilt > 0.2) * depth for depth in wrong(hinge, tilt, 0.0)], hinge.masks)
              for tilt in (0.3, 0.05, 0.15)]  # fmt: skip
    found = even_out(starts, hinge.masks, hinge.matches, K)
    assert found is not None and found.source is starts[1]
    np.testing.assert_allclose(found.back[:, 2], [np.mean(depth[depth > 0]) for depth in hinge.depth], rtol=0.1)


def test_frames_that_nothing_ties_go_with_those_around_them(hinge: Hinge) -> None:
    factors = np.where(np.arange(FRAMES) < 6, 1.0, 1.2)
    start = measured([f * d for f, d in zip(factors, hinge.depth)], hinge.masks)
    alone = torch.ones(len(hinge.matches), dtype=torch.bool)
    for frame in (hinge.matches.frame_a, hinge.matches.frame_b):
        alone &= frame != 9
    found = even_out([start], hinge.masks, hinge.matches.select(torch.nonzero(alone).squeeze(-1)), K)
    assert found is not None
    assert errors(found, hinge)[1] < 0.02


def test_a_frame_with_matches_too_few_to_compare_goes_with_those_around_it_too(hinge: Hinge) -> None:
    factors = np.where(np.arange(FRAMES) < 6, 1.0, 1.2)
    start = measured([f * d for f, d in zip(factors, hinge.depth)], hinge.masks)
    of_it = (hinge.matches.frame_a == 9) | (hinge.matches.frame_b == 9)
    code = hinge.matches.frame_a * FRAMES + hinge.matches.frame_b
    first = torch.zeros_like(of_it)
    for pair in code.unique():  # five of each two frames are less than are compared
        first[torch.nonzero(code == pair).squeeze(-1)[:5]] = True
    found = even_out([start], hinge.masks, hinge.matches.select(torch.nonzero(~of_it | first).squeeze(-1)), K)
    assert found is not None
    assert errors(found, hinge)[1] < 0.02


def test_an_empty_frame_and_too_few_matches(hinge: Hinge) -> None:
    masks = [mask & (row != 5) for row, mask in enumerate(hinge.masks)]
    depths = [depth * mask for depth, mask in zip(wrong(hinge, 0.2, 0.05), masks)]
    found = even_out([measured(depths, masks)], masks, hinge.matches, K)
    assert found is not None and found.stretches[5] is None
    assert not found.picture(5)[0].any() and np.isfinite(found.back).all() and not found.back[5].any()
    lens = K.clone()
    lens[7] = torch.nan  # of a frame that nothing is known of
    blind = even_out([measured(depths, masks)], masks, hinge.matches, lens)
    assert blind is not None and all(np.isfinite(blind.picture(row)[0]).all() for row in range(FRAMES))
    assert np.isfinite(blind.back).all()
    few = hinge.matches.select(torch.arange(5))
    assert even_out([measured(depths, masks)], masks, few, K) is None
    assert even_out([measured(depths, masks)], masks, Correspondences.empty(), K) is None
    nothing = [np.zeros((HEIGHT, WIDTH), bool)] * FRAMES
    assert even_out([measured([0 * d for d in depths], nothing)], nothing, hinge.matches, K) is None


def test_cameras_follow_so_that_the_object_stays(hinge: Hinge) -> None:
    start = measured(wrong(hinge, 0.0, 0.08), hinge.masks)
    found = even_out([start], hinge.masks, hinge.matches, K)
    assert found is not None
    eye, middle = torch.tensor([[1.0, -0.5, -3.0], [0, 0, 0]], dtype=torch.float64)
    up = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    poses = look_at(eye, middle, up).repeat(FRAMES, 1, 1)
    moved = found.moved(poses)
    torch.testing.assert_close(moved[:, :3, :3], poses[:, :3, :3])
    for row in (0, 7):
        middles = []
        for pose, source in ((poses[row], start), (moved[row], found)):
            depth = source.picture(row)[0]
            y, x = np.nonzero(depth > 0)
            ray = np.stack([(x + 0.5 - WIDTH / 2) / FOCAL, (y + 0.5 - HEIGHT / 2) / FOCAL, np.ones(len(x))], 1)
            middles.append((ray * depth[y, x][:, None]) @ pose[:3, :3].numpy().T + pose[:3, 3].numpy())
        gap = np.linalg.norm(middles[0].mean(0) - middles[1].mean(0))
        travelled = float((moved[row, :3, 3] - poses[row, :3, 3]).norm())
        assert gap < 0.01 + 0.2 * travelled


def test_cameras_follow_from_the_measured_depth_where_the_other_is_taken(hinge: Hinge) -> None:
    """The network says one distance for all frames, what is measured has the right ones and bends the parts."""
    tilt, known = np.array([[-0.25, 0.25]] * 2), np.ones((2, 2), bool)
    whole = [float(np.median(depth[depth > 0])) for depth in hinge.depth]
    bends: list[Bend | None] = [Bend(np.log(each), (-1) ** i * tilt, known) for i, each in enumerate(whole)]
    start = measured([depth / each for depth, each in zip(hinge.depth, whole)], hinge.masks, bends)
    found = even_out([start], hinge.masks, hinge.matches, K)
    assert found is not None and found.source is not start
    for row in range(FRAMES):
        measured_at, found_at = (np.mean(each.picture(row)[0][hinge.masks[row]]) for each in (start, found))
        assert found.back[row, 2] == pytest.approx(measured_at - found_at, abs=0.06)


def test_one_seed_gives_the_same_and_a_unit_goes_through(hinge: Hinge) -> None:
    start = measured(wrong(hinge, 0.2, 0.05), hinge.masks)
    first, again = (even_out([start], hinge.masks, hinge.matches, K, seed=3) for _ in range(2))
    scaled = even_out([start.times(7.0)], hinge.masks, hinge.matches, K, seed=3)
    assert first is not None and again is not None and scaled is not None
    np.testing.assert_array_equal(first.picture(2)[0], again.picture(2)[0])
    np.testing.assert_allclose(scaled.picture(2)[0], 7 * first.picture(2)[0], rtol=2e-3)
    np.testing.assert_allclose(first.times(7.0).picture(2)[0], 7 * first.picture(2)[0], rtol=1e-9)


def test_a_stretch_is_the_same_at_any_size_of_the_picture() -> None:
    knots = np.random.default_rng(0).normal(0, 0.1, (5, 5))
    small = Stretch(np.array([20.0, 12.0]), 10.0, knots).apply(np.full((24, 40), 2.0))
    large = Stretch(np.array([60.0, 36.0]), 30.0, knots).apply(np.full((72, 120), 2.0))
    np.testing.assert_allclose(large[1::3, 1::3], small, rtol=1e-5)
    assert small[0, 0] == pytest.approx(2 * np.exp(knots[0, 0]), rel=1e-5)  # beyond the square: its edge


def test_where_distances_would_come_out_less_even_the_depth_stays(
    hinge: Hinge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def astray(found: isometry.Distances, count: int, _: object) -> tuple[np.ndarray, torch.Tensor]:
        rng = np.random.default_rng(0)
        return rng.normal(0, 0.3, (count, 32, 32)), torch.from_numpy(rng.normal(0, 0.3, found.depth.shape)).float()

    start = measured(hinge.depth, hinge.masks)
    monkeypatch.setattr(isometry, "_bend", astray)
    found = even_out([start], hinge.masks, hinge.matches, K)
    assert found is not None and found.uneven[0] == found.uneven[1] < 0.03
    for row in range(FRAMES):
        np.testing.assert_array_equal(found.picture(row)[0], start.picture(row)[0])
    assert np.abs(found.back).max() < 1e-9
