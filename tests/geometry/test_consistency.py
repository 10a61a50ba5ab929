"""Points that other frames contradict go; what is true stays, also where it moves."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import dense_scenes as scenes
import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from dyn4d.core.types import Clip, GeometryResult
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.consistency import check_views, clean_points, clip_views, measure_rigidity
from dyn4d.geometry.dense_output import scene_points
from dyn4d.geometry.tsdf import fuse_mesh
from dyn4d.geometry.view_maps import FrameViews

BODY: list[scenes.Ball] = [((0, 0, 0), 0.5), ((0.1, 0.3, 0.5), 0.25), ((-0.5, -0.2, 0.1), 0.2)]
KINDS = ("before", "behind", "patches")


def limb(angle: float) -> list[scenes.Ball]:
    """A row of balls from the body outwards, turned about the vertical."""
    c, s = np.cos(angle), np.sin(angle)
    return [((r * c, r * s, -0.25), 0.12) for r in np.linspace(0.4, 0.95, 8)]


@cache
def still(count: int = 24, sweep: float = 120.0, size: int = 96) -> tuple[Clip, GeometryResult]:
    camera = scenes.orbit_cameras(count, sweep=sweep, size=size)
    clip = scenes.make_clip(camera, lambda n: scenes.balls_depth(camera, n, BODY))
    return clip, scenes.points_of(clip)


@cache
def waving(count: int = 24, step: float = 0.12) -> tuple[Clip, GeometryResult, np.ndarray]:
    """A still body whose limb swings to and fro; also which points are the limb's."""
    camera = scenes.orbit_cameras(count, sweep=60)
    swing = [0.9 * np.sin(step * n / 0.9) for n in range(count)]
    clip = scenes.make_clip(camera, lambda n: scenes.balls_depth(camera, n, [*BODY, *limb(swing[n])]))
    found = scenes.points_of(clip)
    body = [scenes.balls_depth(camera, n, BODY) for n in range(count)]
    column, row = found.points.xy.long().numpy().T
    frame = found.points.frame.numpy()
    drawn = np.stack([np.asarray(clip.depth[n]) for n in range(count)])  # type: ignore[index]
    return clip, found, (drawn != np.stack(body))[frame, row, column]


def spoil(found: GeometryResult, kind: str, share: float = 0.02) -> tuple[GeometryResult, np.ndarray]:
    """Points moved along their rays by 0.1 to 0.6 of the unit, and which."""
    rng, points = np.random.default_rng(3), found.points
    count = len(points)
    by = rng.uniform(0.1, 0.6, count)
    rows = rng.uniform(size=count) < share
    if kind == "patches":
        xy, frame, rows = points.xy.numpy(), points.frame.numpy(), np.zeros(count, bool)
        for seed in rng.choice(count, int(share * count / 25), replace=False):
            near = (frame == frame[seed]) & (np.abs(xy - xy[seed]).max(-1) <= 2)
            rows[near], by[near] = True, by[seed]
    return replace(found, points=scenes.shifted_along_rays(found, rows, by if kind == "behind" else -by)), rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_what_floats_goes_and_the_surface_of_a_still_object_stays(kind: str, mode: str) -> None:
    clip, found = still()
    spoilt, rows = spoil(found, kind)
    cleaned, rigidity = check_views(clip, spoilt, GeometryConfig(clean=mode))  # type: ignore[arg-type]
    left = scenes.which_left(spoilt.points, cleaned.points)
    assert rows.sum() > 500 and rigidity.rigid
    assert (~left[rows]).mean() >= 0.95
    assert left[~rows].mean() >= 0.99
    assert any(f"{(~left).sum()} points dropped" in note for note in cleaned.notes)


def test_noisy_depth_of_a_still_object_stays_and_counts_as_rigid() -> None:
    clip, found = still()
    noise = np.random.default_rng(0).normal(0, 0.008, len(found.points))
    noisy = replace(found, points=scenes.shifted_along_rays(found, np.ones(len(noise), bool), noise))
    cleaned, rigidity = check_views(clip, noisy, GeometryConfig())
    assert rigidity.rigid
    assert len(cleaned.points) >= 0.99 * len(noisy.points)


def test_a_moving_limb_stays() -> None:
    clip, found, of_limb = waving()
    cleaned, rigidity = check_views(clip, found, GeometryConfig())
    left = scenes.which_left(found.points, cleaned.points)
    assert not rigidity.rigid and of_limb.sum() > 2000
    assert left[of_limb].mean() >= 0.98 and left.mean() >= 0.98
    forced, _ = check_views(clip, found, GeometryConfig(clean="on"))
    kept = scenes.which_left(found.points, forced.points)
    assert kept[of_limb].mean() < 0.9  # else the test would say nothing


@pytest.mark.parametrize("kind", KINDS)
def test_what_floats_beside_a_moving_limb_goes_in_part_and_the_limb_stays(kind: str) -> None:
    clip, found, of_limb = waving()
    spoilt, rows = spoil(found, kind)
    cleaned, _ = check_views(clip, spoilt, GeometryConfig())
    left = scenes.which_left(spoilt.points, cleaned.points)
    assert left[of_limb & ~rows].mean() >= 0.98
    assert (~left[rows]).mean() >= 0.4


@pytest.mark.slow
def test_a_walking_creature_stays() -> None:
    from dyn4d.synthetic import build_scene

    scene = build_scene("creature", frames=24, size=128)
    clip = scenes.make_clip(scene.cameras, lambda n: scene.draw(n).depth.astype(np.float32))
    found = scenes.points_of(clip)
    cleaned, rigidity = check_views(clip, found, GeometryConfig())
    assert not rigidity.rigid
    assert len(cleaned.points) >= 0.98 * len(found.points)


def test_an_object_that_is_carried_along_is_not_rigid_in_the_world() -> None:
    camera = scenes.orbit_cameras(16, sweep=40)
    balls = [[((c[0], c[1] + 0.05 * n, c[2]), r) for c, r in BODY] for n in range(16)]
    clip = scenes.make_clip(camera, lambda n: scenes.balls_depth(camera, n, balls[n]))
    found = scenes.points_of(clip)
    cleaned, rigidity = check_views(clip, found, GeometryConfig())
    assert rigidity.share < 0.8
    assert len(cleaned.points) >= 0.98 * len(found.points)


def test_something_that_passes_before_the_object_takes_nothing_away() -> None:
    camera = scenes.orbit_cameras(16, sweep=40)
    still_depth = [scenes.balls_depth(camera, n, BODY) for n in range(16)]
    bar = [scenes.balls_depth(camera, n, [((1.5, -1.2 + 0.15 * n, z), 0.2) for z in (-0.4, -0.2, 0, 0.2, 0.4)])
           for n in range(16)]  # fmt: skip
    hidden = [(b > 0) & (d > 0) & (b < d) for b, d in zip(bar, still_depth)]
    clip = scenes.make_clip(camera, lambda n: still_depth[n])
    both = [np.where((b > 0) & ((b < d) | (d == 0)), b, d) for b, d in zip(bar, still_depth)]
    masks = [(d > 0) & ~h for d, h in zip(still_depth, hidden)]
    clip = replace(clip, depth=both, masks=masks)
    found = scenes.points_of(clip)
    cleaned, rigidity = check_views(clip, found, GeometryConfig())
    assert sum(int(h.sum()) for h in hidden) > 2000 and rigidity.rigid
    assert len(cleaned.points) >= 0.995 * len(found.points)
    # an estimator knows what its maps show; without any the bar's pixels say nothing, and are not seen through
    for known in (both, None):
        others = replace(found, source="pointmaps", depth=known)
        views = clip_views(replace(clip, depth=None), others)
        assert measure_rigidity(views).rigid and views[8].free[~views_mask(views, clip, 8)].max() < np.inf
        kept, _ = check_views(replace(clip, depth=None), others, GeometryConfig())
        assert len(kept.points) >= 0.995 * len(found.points)


def views_mask(views: FrameViews, clip: Clip, frame: int) -> np.ndarray:
    """The frame's mask in its box."""
    view = views[frame]
    height, width = view.free.shape
    return np.asarray(clip.masks[frame])[view.top : view.top + height, view.left : view.left + width]


@pytest.mark.parametrize("source", ["rgbd", "pointmaps", "mast3r"])
def test_what_is_hidden_from_most_frames_stays(source: str) -> None:
    """From frame 4 on something large stands before the lower part of the object."""
    camera = scenes.orbit_cameras(24, sweep=120)
    hidden = [np.arange(96)[:, None] >= (58 if n >= 4 else 96) for n in range(24)]
    clip = scenes.make_clip(camera, lambda n: scenes.balls_depth(camera, n, BODY))
    masks = [np.asarray(mask) & ~h for mask, h in zip(clip.masks, hidden)]  # type: ignore[call-overload]
    depth = [np.where(h, 1.0, np.asarray(d)).astype(np.float32) for d, h in zip(clip.depth or (), hidden)]
    clip = replace(clip, masks=masks, depth=depth)
    found = scenes.points_of(clip)
    low = (found.points.frame.numpy() < 4) & (found.points.xy[:, 1].numpy() >= 58)
    if source != "rgbd":
        maps = depth if source == "pointmaps" else None  # the object alone was matched: nothing is known around it
        clip, found = replace(clip, depth=None), replace(found, source=source, depth=maps)
    cleaned, rigidity = check_views(clip, found, GeometryConfig())
    left = scenes.which_left(found.points, cleaned.points)
    assert rigidity.rigid and low.sum() > 1000 and left[low].mean() > 0.98 and left.mean() > 0.98
    mesh = fuse_mesh(clip_views(clip, cleaned), 48)
    assert mesh is not None
    away = KDTree(mesh.vertices).query(found.points.xyz.numpy()[low])[0]
    assert (away > 0.05).mean() < 0.05


def test_confidence_falls_where_frames_disagree_and_never_rises() -> None:
    clip, found = still(12, 60)
    spoilt, rows = spoil(found, "behind", 0.3)
    views = clip_views(clip, spoilt)
    kept, _ = clean_points(views, measure_rigidity(views), trust=True)
    left = torch.from_numpy(scenes.which_left(spoilt.points, kept))
    ratio = kept.conf / spoilt.points.conf[left]
    assert bool((ratio <= 1).all()) and bool((kept.conf > 0).all())
    assert float(ratio[torch.from_numpy(rows)[left]].mean()) < float(ratio.mean())


@pytest.mark.parametrize("mesh", ["auto", "on", "off"])
def test_off_leaves_everything_and_measures(mesh: str) -> None:
    clip, found = still(6)
    spoilt, _ = spoil(found, "before")
    measured, rigidity = check_views(clip, spoilt, GeometryConfig(clean="off", mesh=mesh))  # type: ignore[arg-type]
    assert measured.points is spoilt.points and rigidity.pairs > 0
    plain, rigidity = check_views(clip, found, GeometryConfig(clean="off", mesh=mesh))  # type: ignore[arg-type]
    assert len(scene_points(plain.points, rigid=rigidity.rigid).frame.unique()) == 6


def test_one_frame_empty_frames_unknown_poses_and_nan() -> None:
    clip, found = still(6)
    one = replace(found, points=found.points.select(found.points.frame == 3))
    cleaned, rigidity = check_views(clip, one, GeometryConfig())
    assert len(cleaned.points) == len(one.points) and not rigidity.rigid and rigidity.pairs == 0
    none = replace(found, points=found.points.select(found.points.frame == 9))
    assert len(check_views(clip, none, GeometryConfig())[0].points) == 0
    poses = found.cameras.world_from_cam.clone()
    poses[2] = torch.nan
    points = found.points.select(found.points.frame != 4)
    xyz = points.xyz.clone()
    xyz[::50] = torch.nan
    odd = replace(found, points=replace(points, xyz=xyz), cameras=replace(found.cameras, world_from_cam=poses))
    cleaned, rigidity = check_views(clip, odd, GeometryConfig())
    assert rigidity.rigid and len(cleaned.points) >= 0.99 * len(points)


def test_settings_out_of_range_name_the_field() -> None:
    for name, value in (("clean", "maybe"), ("mesh", "yes"), ("voxels", 3)):
        with pytest.raises(ValueError, match=rf"geometry\.{name}"):
            GeometryConfig(**{name: value})  # type: ignore[arg-type]
