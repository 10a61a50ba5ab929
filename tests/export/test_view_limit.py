"""How far beside the input's cameras a result is looked at where its depth was estimated."""

from __future__ import annotations

import math

import pytest
import torch
from export_scenes import Carousel, arc, ball, timeline
from test_export_views import moving_extent

from dyn4d.core.types import Camera
from dyn4d.export.config import RenderConfig
from dyn4d.export.renders import find_extent, render_views
from dyn4d.export.view_limit import LEAST, MOST, SHIFT, allowed_turn, view_limit
from dyn4d.export.views import Swing, find_stand, sweep


def nearest(path: Camera, cameras: Camera, centres: torch.Tensor, filmed_centres: torch.Tensor) -> list[float]:
    """Degrees between each camera of a path and the nearest direction that was filmed."""
    filmed = torch.nn.functional.normalize(cameras.world_from_cam[:, :3, 3] - filmed_centres, dim=-1)
    seen = torch.nn.functional.normalize(path.world_from_cam[:, :3, 3] - centres, dim=-1)
    return (seen @ filmed.T).max(1).values.clamp(-1, 1).arccos().rad2deg().tolist()


def test_an_error_of_depth_moves_nothing_farther_than_allowed() -> None:
    extent, _ = moving_extent(12)
    cameras = arc(12)
    away = (cameras.world_from_cam[:, :3, 3] - extent.centres).norm(dim=-1).median()
    assert view_limit(cameras, extent, None) is None  # measured
    assert view_limit(cameras, extent, 1e-4) == MOST  # nothing was measured of what was not filmed
    for error in (0.03, 0.05, 0.08):
        limit = view_limit(cameras, extent, error)
        assert limit is not None and LEAST <= limit < MOST
        shift = error * float(away) * math.sin(math.radians(limit))
        assert shift == pytest.approx(SHIFT * 2 * extent.radius, rel=1e-6) or limit == LEAST
    assert view_limit(cameras, extent, 0.9) == LEAST


def test_a_sweep_turns_or_swings() -> None:
    assert sweep(4, 1.0, None) == [0, 90, 180, 270] and sweep(2, -0.5, None) == [0, -90]
    assert sweep(4, 1.0, Swing(-10, 30, 12)) == pytest.approx([10, 30, 10, -10])


@pytest.mark.parametrize("limit", [15.0, 40.0, 75.0])
def test_paths_stay_as_near_as_they_have_to(limit: float) -> None:
    field, cameras = Carousel(), arc(24)
    config = RenderConfig(which=("orbit", "bullet", "spiral", "confidence"), view_limit=limit)
    views = render_views(ball(), field, timeline(24), cameras=cameras, config=config)
    extent = find_extent(ball(), field, timeline(24).times)
    for name, path in views.items():
        centres = extent.centres[12:13].expand(len(path), 3) if name == "bullet" else extent.centres
        off = nearest(path, cameras, centres, extent.centres)
        assert max(off) <= limit + 0.5, name
        if name in ("orbit", "bullet"):
            assert max(off) > limit - 4  # and uses what it may


def test_cameras_that_went_round_leave_the_whole_turn() -> None:
    extent, _ = moving_extent(24)
    still = torch.zeros_like(extent.centres)
    stand = find_stand(arc(24), extent)
    around = torch.stack([stand.towards(still[0], 15.0 * i) for i in range(24)])
    turntable = Camera(arc(24).K, around, arc(24).width, arc(24).height)
    extent = type(extent)(still, extent.radius, extent.points, extent.offsets)
    assert allowed_turn(turntable, extent, 12.0) is None
    half = Camera(turntable.K[:12], around[:12], turntable.width, turntable.height)
    some = type(extent)(still[:12], extent.radius, extent.points, extent.offsets)
    found = allowed_turn(half, some, 12.0)
    assert found is not None and found.high - found.low == pytest.approx(11 * 15 + 24, abs=2)


def test_the_whole_turn_can_be_asked_for() -> None:
    config = RenderConfig(which=("orbit",), view_limit=180.0)
    free = render_views(ball(), Carousel(), timeline(12), cameras=arc(12), config=config, depth_error=0.5)["orbit"]
    usual = RenderConfig(which=("orbit",))
    whole = render_views(ball(), Carousel(), timeline(12), cameras=arc(12), config=usual)["orbit"]
    held = render_views(ball(), Carousel(), timeline(12), cameras=arc(12), config=usual, depth_error=0.5)["orbit"]
    assert torch.equal(free.world_from_cam, whole.world_from_cam)
    assert not torch.allclose(held.world_from_cam, whole.world_from_cam)
    with pytest.raises(ValueError, match=r"render\.view_limit"):
        RenderConfig(view_limit=0.0)
