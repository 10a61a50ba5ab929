from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dyn4d.core.cameras import pixel_grid, unproject
from dyn4d.geometry.focal import (
    FocalMode,
    SeenPoints,
    diagonal_limits,
    estimate_focal,
    intrinsics,
    published_limits,
)

MODES: tuple[FocalMode, ...] = ("weiszfeld", "median")
WIDTH, HEIGHT, FOCAL = 64, 48, 71.3


def scene(
    kind: str = "sphere", focal: float = FOCAL, centre: tuple[float, float] = (32.0, 24.0), noise: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0), seed: int = 0,
) -> SeenPoints:  # fmt: skip
    """A tilted plane, or a sphere on the left of the picture, seen through a known camera."""
    xy = pixel_grid(HEIGHT, WIDTH, torch.float64).reshape(-1, 2)
    rows = [[focal * scale[0], 0, centre[0]], [0, focal * scale[1], centre[1]], [0, 0, 1]]
    K = torch.tensor(rows, dtype=torch.float64)
    ray = unproject(K, torch.eye(4).double(), xy, torch.ones(len(xy)).double())
    if kind == "plane":
        depth = 4 / (ray @ torch.tensor([0.3, -0.2, 1.0]).double())
        seen = depth > 0
    else:
        at = 3 * ray[26 * WIDTH + 20]
        along, square = ray @ at, (ray * ray).sum(-1)
        root = along**2 - square * (at @ at - 0.8**2)
        seen = root > 0
        depth = (along - root.clamp_min(0).sqrt()) / square
    points = unproject(K, torch.eye(4).double(), xy[seen], depth[seen])
    points = points + noise * torch.randn(points.shape, generator=torch.Generator().manual_seed(seed)).double()
    return SeenPoints(xy[seen], points, centre, scale)


def cost(frame: SeenPoints, focal: float) -> float:
    """The sum that the estimate should make least, pixel by pixel."""
    total = 0.0
    for (u, v), (x, y, z) in zip(frame.xy.tolist(), frame.points.tolist()):
        total += math.hypot(
            (u - frame.principal_point[0]) / frame.scale[0] - focal * x / z,
            (v - frame.principal_point[1]) / frame.scale[1] - focal * y / z,
        )
    return total


def estimate(frame: SeenPoints | list[SeenPoints], mode: FocalMode = "weiszfeld", **how: tuple[float, float]) -> float:
    found = estimate_focal(frame, mode=mode, **how)
    assert found is not None
    return found


class TestPublished:
    @pytest.mark.parametrize("mode", MODES)
    def test_focal(self, reference: Path, mode: FocalMode) -> None:
        """The published code counts pixels from 0 and its principal point is (W/2, H/2): ours is half a pixel on."""
        with np.load(reference / "golden" / "matching.npz", allow_pickle=False) as data:
            points = torch.from_numpy(data["canon/avg-angle/canon"])
            wanted = float(data[f"focal/{mode}"][0])
        height, width = points.shape[:2]
        frame = SeenPoints(
            pixel_grid(height, width).view(-1, 2), points.view(-1, 3), (width / 2 + 0.5, height / 2 + 0.5)
        )
        assert estimate(frame, mode, limits=published_limits(width, height)) == pytest.approx(wanted, rel=1e-6)


class TestExact:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("kind", ["plane", "sphere"])
    @pytest.mark.parametrize("centre", [(32.0, 24.0), (32.5, 24.5), (10.0, 40.0), (-80.0, 100.0)])
    def test_focal(self, kind: str, mode: FocalMode, centre: tuple[float, float]) -> None:
        assert estimate(scene(kind, centre=centre), mode) == pytest.approx(FOCAL, rel=1e-12)

    @pytest.mark.parametrize("mode", MODES)
    def test_scale_of_the_points(self, mode: FocalMode) -> None:
        frame = scene(noise=0.01)
        larger = SeenPoints(frame.xy, frame.points * 1e3, frame.principal_point)
        assert estimate(larger, mode) == pytest.approx(estimate(frame, mode), rel=1e-12)

    def test_least_sum_of_distances(self) -> None:
        frame = scene(noise=0.05)
        found = estimate(frame)
        around = [cost(frame, found + step) for step in (-0.02, -0.01, 0, 0.01, 0.02)]
        assert min(around) >= around[2] * (1 - 1e-9)
        assert cost(frame, found - 0.5) > around[2] < cost(frame, found + 0.5)

    def test_wild_points_do_not_matter(self) -> None:
        frame = scene("plane")
        points = frame.points.clone()
        points[::4] = points.flip(0)[::4]
        assert estimate(SeenPoints(frame.xy, points, frame.principal_point)) == pytest.approx(FOCAL, rel=1e-3)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(
        "wrong", [[math.nan, 1, 1], [math.inf, 0, 1], [1, 1, 0], [0, 0, 0], [3, 2, -1], [1, 1, math.nan], [1, 1, 1e-40]]
    )
    def test_points_that_say_nothing_change_no_bit(self, mode: FocalMode, wrong: list[float]) -> None:
        frame = scene(noise=0.01)
        more = torch.cat([frame.points, torch.tensor([wrong]).double()])
        xy = torch.cat([frame.xy, torch.tensor([[50.5, 3.5]])])
        assert estimate(SeenPoints(xy, more, frame.principal_point), mode) == estimate(frame, mode)

    def test_a_ray_beyond_all_limits_is_left_out(self) -> None:
        frame = scene(noise=0.01)
        xy = torch.cat([frame.xy, torch.tensor([[50.5, 3.5]])])
        flying = torch.cat([frame.points, torch.tensor([[1.0, 1.0, 1e-6]]).double()])
        limits = published_limits(WIDTH, HEIGHT)
        assert estimate(SeenPoints(xy, flying, frame.principal_point), limits=limits) == estimate(frame)


class TestNothing:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("limits", [None, (10.0, 100.0)])
    @pytest.mark.parametrize(
        "points",
        [torch.zeros(0, 3), torch.tensor([[0.0, 0, 1]] * 3), torch.full((3, 3), torch.nan), -torch.ones(3, 3)],
    )
    def test_no_answer(self, points: Tensor, mode: FocalMode, limits: tuple[float, float] | None) -> None:
        xy = torch.arange(2.0 * len(points)).view(-1, 2) + 0.5
        assert estimate_focal(SeenPoints(xy, points, (20.0, 10.0)), mode=mode, limits=limits) is None
        assert estimate_focal([], mode=mode, limits=limits) is None

    @pytest.mark.parametrize("mode", MODES)
    def test_mirrored_points(self, mode: FocalMode) -> None:
        frame = scene()
        mirrored = SeenPoints(frame.xy, frame.points * torch.tensor([-1, -1, 1]), frame.principal_point)
        assert estimate_focal(mirrored, mode=mode, limits=(10.0, 100.0)) is None

    @pytest.mark.parametrize("mode", MODES)
    def test_one_point_is_enough(self, mode: FocalMode) -> None:
        frame = SeenPoints(torch.tensor([[30.0, 40.0]]), torch.tensor([[1.0, 1.0, 4.0]]), (10.0, 20.0))
        assert estimate(frame, mode) == pytest.approx(80)


class TestLimits:
    def test_values(self) -> None:
        low, high = published_limits(512, 384)
        assert (2 * math.degrees(math.atan(256 / low)), high / low) == pytest.approx((98.2132, 7), rel=1e-5)
        assert diagonal_limits(300, 400) == (125, 5000)
        assert published_limits(384, 512) == (low, high)

    @pytest.mark.parametrize("mode", MODES)
    def test_clipped(self, mode: FocalMode) -> None:
        assert estimate(scene(), mode, limits=(100.0, 200.0)) == 100
        assert estimate(scene(), mode, limits=(20.0, 60.0)) == 60

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="0 < lowest <= highest"):
            estimate_focal(scene(), limits=(0.0, 3.0))
        with pytest.raises(ValueError, match="wanted weiszfeld or median"):
            estimate_focal(scene(), mode="mean")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="the scale above 0"):
            SeenPoints(torch.zeros(1, 2), torch.zeros(1, 3), (0.0, 0.0), (1.0, 0.0))
        with pytest.raises(ValueError, match="wanted 1 entries, found 2"):
            intrinsics([scene()], [None, None])


class TestClip:
    @pytest.mark.parametrize("mode", MODES)
    def test_views_of_one_camera(self, mode: FocalMode) -> None:
        """Cut out and enlarged each in its own way, they agree in pixels of the picture."""
        frames = [scene("plane"), scene(centre=(-20.0, 31.0), scale=(2.0, 2.1)), scene(scale=(0.7, 0.69))]
        assert estimate(frames, mode) == pytest.approx(FOCAL, rel=1e-12)
        assert len({len(frame.xy) for frame in frames}) == 3
        for frame, K in zip(frames, intrinsics(frames, mode=mode)):
            assert K is not None
            wanted = [[FOCAL * frame.scale[0], 0, frame.principal_point[0]],
                      [0, FOCAL * frame.scale[1], frame.principal_point[1]], [0, 0, 1]]  # fmt: skip
            np.testing.assert_allclose(K, wanted, rtol=1e-12)

    @pytest.mark.parametrize("mode", MODES)
    def test_one_joint_estimate(self, mode: FocalMode) -> None:
        frames = [scene(noise=0.05, seed=seed) for seed in range(4)]
        whole = SeenPoints(
            torch.cat([frame.xy for frame in frames]), torch.cat([frame.points for frame in frames]), (32.0, 24.0)
        )
        assert estimate(frames, mode) == estimate(whole, mode)
        alone = [estimate(frame, mode) for frame in frames]
        assert min(alone) < estimate(frames, mode) < max(alone)

    def test_known_ones_pass_through(self) -> None:
        K = torch.tensor([[50.0, 0.3, 31.0], [0, 51.0, 22.0], [0, 0, 1]])
        frames = [scene(focal=60.0), scene(focal=80.0), scene(focal=99.0)]
        found = intrinsics(frames, [None, None, K], shared=False)
        assert found[2] is K
        focals = [float(each[0, 0]) for each in found[:2] if each is not None]
        assert focals == pytest.approx([60, 80], rel=1e-9)
        joint = intrinsics(frames, [None, None, K])
        assert joint[2] is K and joint[0] is not None
        assert float(joint[0][0, 0]) == estimate(frames[:2])

    def test_a_frame_whose_points_say_nothing(self) -> None:
        bare = SeenPoints(torch.zeros(0, 2), torch.zeros(0, 3), (5.0, 6.0))
        shared = intrinsics([scene(), bare])
        assert shared[1] is not None and shared[1][0].tolist() == pytest.approx([FOCAL, 0, 5])
        assert intrinsics([scene(), bare], shared=False)[1] is None
        assert intrinsics([bare, bare]) == [None, None]
        assert intrinsics([]) == []
