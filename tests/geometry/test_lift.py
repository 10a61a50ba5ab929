from __future__ import annotations

import numpy as np
import torch

from dyn4d.core.types import Correspondences, FramePoints
from dyn4d.geometry.lift import lift, median_test

HEIGHT, WIDTH = 20, 30


def grid_points(z: np.ndarray, frame: int, keep: np.ndarray | None = None) -> FramePoints:
    """One point a pixel at (0.1 x, 0.1 y, z)."""
    keep = np.ones((HEIGHT, WIDTH), bool) if keep is None else keep
    rows, columns = np.nonzero(keep)
    xy = torch.from_numpy(np.stack([columns, rows], -1) + 0.5).float()
    xyz = torch.cat([0.1 * xy, torch.from_numpy(z[rows, columns]).float()[:, None]], dim=-1)
    count = len(xy)
    return FramePoints(
        xyz, torch.zeros(count, 3), torch.zeros(count, 3), torch.full((count,), frame), xy, torch.ones(count)
    )


def join(*parts: FramePoints) -> FramePoints:
    names = ("xyz", "rgb", "normal", "frame", "xy", "conf")
    return FramePoints(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def match(xy_a: list, xy_b: list) -> Correspondences:
    count = len(xy_a)
    return Correspondences(
        torch.zeros(count, dtype=torch.int64), torch.ones(count, dtype=torch.int64), torch.tensor(xy_a).float(),
        torch.tensor(xy_b).float(), torch.linspace(0.5, 1, count),
    )  # fmt: skip


SLOPE = np.mgrid[:HEIGHT, :WIDTH][1] * 0.05


def test_between_pixels_a_point_is_interpolated() -> None:
    points = join(grid_points(SLOPE, 0), grid_points(SLOPE + 1, 1))
    lifted = lift(match([[4.5, 3.5], [10.5, 7.5]], [[5.25, 3.75], [11.5, 8.5]]), points, HEIGHT, WIDTH, 2)
    assert torch.allclose(lifted.xyz_a, torch.tensor([[0.45, 0.35, 0.2], [1.05, 0.75, 0.5]]))
    expected = torch.tensor([[0.525, 0.375, 1 + 0.05 * 4.75], [1.15, 0.85, 1.55]])
    assert torch.allclose(lifted.xyz_b, expected, atol=1e-6)
    assert torch.allclose(lifted.weight, torch.tensor([0.5, 1.0]))


def test_a_jump_in_depth_is_never_interpolated() -> None:
    step = np.where(np.mgrid[:HEIGHT, :WIDTH][1] < 15, 0.0, 3.0)
    points = join(grid_points(SLOPE, 0), grid_points(step, 1))
    targets = [[14.6, 5.5], [15.0, 5.9], [15.4, 5.5], [15.0, 5.5]]
    lifted = lift(match([[6.5, 5.5]] * 4, targets), points, HEIGHT, WIDTH, 2)
    assert set(lifted.xyz_b[:, 2].tolist()) <= {0.0, 3.0}
    assert len(lifted) == 3  # (15.0, 5.9) is on the step and more than half a pixel from every pixel centre


def test_holes_and_other_frames_drop_matches() -> None:
    keep = np.ones((HEIGHT, WIDTH), bool)
    keep[8:12, 8:12] = False
    points = join(grid_points(SLOPE, 0, keep), grid_points(SLOPE, 1, keep))
    pairs = match([[9.5, 9.5], [3.5, 3.5], [3.5, 3.5], [20.5, 3.5]], [[3.5, 3.5], [9.5, 9.5], [3.5, 3.5], [40.0, 3.5]])
    lifted = lift(pairs, points, HEIGHT, WIDTH, 2)
    assert torch.equal(lifted.weight, pairs.weight[2:3])
    assert len(lift(pairs, points.select(points.frame == 0), HEIGHT, WIDTH, 2)) == 0


def test_the_picture_border_does_not_wrap() -> None:
    points = join(grid_points(SLOPE, 0), grid_points(SLOPE, 1))
    ends = [[0.5, 0.5], [WIDTH - 0.5, HEIGHT - 0.5], [0.2, 0.5], [WIDTH - 0.1, 3.5]]
    lifted = lift(match([[4.5, 4.5]] * 4, ends), points, HEIGHT, WIDTH, 2)
    expected = [[0.05, 0.05, 0], [0.1 * (WIDTH - 0.5), 0.1 * (HEIGHT - 0.5), 0.05 * (WIDTH - 1)], [0.05, 0.05, 0]]
    assert torch.allclose(lifted.xyz_b[:3], torch.tensor(expected), atol=1e-6)
    assert len(lifted) == 4


def test_a_match_that_moves_unlike_its_neighbours_is_dropped() -> None:
    random = np.random.default_rng(0)
    xy = random.integers(2, 18, size=(200, 2)) + 0.5
    moved = xy + np.array([1.0, 0.5])
    moved[7] = [27.5, 17.5]
    points = join(grid_points(SLOPE, 0), grid_points(SLOPE, 1))
    pairs = match(xy.tolist(), moved.tolist())
    lifted = lift(pairs, points, HEIGHT, WIDTH, 2)
    assert len(lifted) == 199
    assert len(lift(pairs, points, HEIGHT, WIDTH, 2, outlier_factor=0)) == 200


def test_median_test_lets_smooth_motion_pass() -> None:
    start = np.random.default_rng(1).random((500, 3))
    turned = start @ np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    assert median_test(start, turned, neighbours=12, factor=4.0, floor=0.01).mean() > 0.97
    assert median_test(start[:5], turned[:5], neighbours=12, factor=4.0, floor=0.01).all()


def test_nothing_in_nothing_out() -> None:
    points = grid_points(SLOPE, 0)
    assert len(lift(Correspondences.empty(), points, HEIGHT, WIDTH, 2)) == 0
    assert len(lift(match([[3.5, 3.5]], [[3.5, 3.5]]), points.select(points.frame > 5), HEIGHT, WIDTH, 2)) == 0
