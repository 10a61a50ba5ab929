"""Known solids come out of their depth views: place, closedness, colours; and what is missing does no harm."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import dense_scenes as scenes
import numpy as np
import pytest
import torch

from dyn4d.core.protocols import SilentProgress
from dyn4d.core.types import Clip, GeometryResult
from dyn4d.geometry import dense_output, tsdf
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.consistency import Rigidity, clip_views
from dyn4d.geometry.dense_output import SCENE_POINTS, scene_points, write_dense
from dyn4d.geometry.marching import surface
from dyn4d.io.meshes import Mesh

RADIUS, HALF = 0.6, (0.5, 0.35, 0.25)
RIGID = Rigidity(1.0, 10, 0.0)


@cache
def ball(count: int = 16, sweep: float = 360.0) -> tuple[Clip, GeometryResult]:
    camera = scenes.orbit_cameras(count, sweep=sweep)
    clip = scenes.make_clip(camera, lambda n: scenes.balls_depth(camera, n, [((0, 0, 0), RADIUS)]))
    return clip, scenes.points_of(clip)


@cache
def brick() -> tuple[Clip, GeometryResult]:
    camera = scenes.orbit_cameras(16)
    clip = scenes.make_clip(camera, lambda n: scenes.box_depth(camera, n, HALF))
    return clip, scenes.points_of(clip)


def to_ball(xyz: np.ndarray) -> np.ndarray:
    return np.linalg.norm(xyz, axis=-1) - RADIUS


def to_brick(xyz: np.ndarray) -> np.ndarray:
    out = np.abs(xyz) - HALF
    return np.linalg.norm(np.maximum(out, 0), axis=-1) + np.minimum(out.max(-1), 0)


def fused(scene: tuple[Clip, GeometryResult], voxels: int = 64) -> Mesh:
    mesh = tsdf.fuse_mesh(clip_views(*scene), voxels)
    assert mesh is not None
    return mesh


def open_edges(mesh: Mesh) -> float:
    """The share of edges with one face only; none has more than two."""
    edges = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, count = np.unique(edges, axis=0, return_counts=True)
    assert count.max() <= 2
    return float((count == 1).mean())


@pytest.mark.parametrize(("scene", "distance", "size"), [(ball, to_ball, 2 * RADIUS), (brick, to_brick, 2 * max(HALF))])
def test_the_surface_lies_where_it_should(
    scene: Callable[[], tuple[Clip, GeometryResult]], distance: Callable[[np.ndarray], np.ndarray], size: float
) -> None:
    mesh, voxel = fused(scene()), size / 64
    error = np.abs(distance(mesh.vertices))
    assert np.median(error) < 0.25 * voxel
    assert np.quantile(error, 0.99) < 1.5 * voxel


def test_a_ball_that_is_seen_from_around_is_nearly_closed_and_faces_outwards() -> None:
    mesh = fused(ball())
    assert open_edges(mesh) < 0.03  # the poles are seen obliquely only
    outward = mesh.vertices / np.linalg.norm(mesh.vertices, axis=-1, keepdims=True)
    assert np.quantile((mesh.normals * outward).sum(-1), 0.02) > 0.9
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=-1), 1, atol=1e-5)


def test_colours_are_those_of_the_place() -> None:
    mesh = fused(ball())
    error = np.abs(mesh.rgb - scenes.paint(mesh.vertices.astype(np.float64)) / 255)
    assert np.median(error) < 0.01 and np.quantile(error, 0.99) < 0.06


def test_noise_averages_out() -> None:
    clip, found = ball()
    noise = np.random.default_rng(0).normal(0, 0.006, len(found.points))
    points = scenes.shifted_along_rays(found, np.ones(len(noise), bool), noise)
    error = np.abs(to_ball(fused((clip, replace(found, points=points))).vertices))
    assert np.median(error) < 0.5 * 2 * RADIUS / 64 and np.median(error) < 0.7 * np.median(np.abs(noise))


def test_rays_beside_the_object_carve() -> None:
    clip, found = ball()
    # depth that bulges at the rim, as blurred maps do: the mask of other frames says that nothing is there
    rim = found.points.conf < found.points.conf.quantile(0.1)
    by = np.full(len(found.points), 0.04)
    bulged = replace(found, points=scenes.shifted_along_rays(found, rim.numpy(), -by))
    views = clip_views(clip, bulged)
    carved = tsdf.fuse_mesh(views, 64)
    filled = [np.ones_like(np.asarray(mask)) for mask in clip.masks]  # type: ignore[attr-defined]
    whole = tsdf.fuse_mesh(clip_views(replace(clip, masks=filled), bulged), 64)
    assert carved is not None and whole is not None
    outside = [float((to_ball(mesh.vertices) > 0.015).mean()) for mesh in (carved, whole)]
    assert outside[0] < 0.8 * outside[1]


def test_slabs_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    one = fused(ball())
    monkeypatch.setattr(tsdf, "SLAB", 1)
    many = fused(ball())
    assert len(one.vertices) == len(many.vertices) and len(one.faces) == len(many.faces)
    assert open_edges(one) == open_edges(many)


def test_memory_is_bounded_by_larger_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = fused(ball(), 96)
    monkeypatch.setattr(tsdf, "MOST_VOXELS", 60_000)
    coarse = fused(ball(), 96)
    assert len(coarse.vertices) < 0.5 * len(fine.vertices)
    volume = tsdf._allocate(clip_views(*ball()), 96)
    assert volume is not None and volume.value.size <= 60_000


def test_voxels_are_no_finer_than_half_a_pixel() -> None:
    volume = tsdf._allocate(clip_views(*ball()), 2048)
    assert volume is not None
    assert volume.voxel > 0.4 * 2.5 / (1.6 * 96)


def test_one_frame_makes_a_relief_and_what_is_hidden_stays_open() -> None:
    clip, found = ball()
    one = replace(found, points=found.points.select(found.points.frame == 0))
    mesh = fused((clip, one))
    eye = found.cameras.world_from_cam[0, :3, 3].numpy()
    facing = ((mesh.vertices - 0) * eye).sum(-1)
    assert np.median(np.abs(to_ball(mesh.vertices))) < 0.5 * 2 * RADIUS / 64
    assert (facing > -0.05 * np.linalg.norm(eye)).mean() > 0.98
    assert open_edges(mesh) > 0


def test_empty_frames_unknown_poses_and_nan_do_no_harm() -> None:
    clip, found = ball()
    poses = found.cameras.world_from_cam.clone()
    poses[3] = torch.nan
    points = found.points.select(found.points.frame != 5)
    xyz, conf, normal = points.xyz.clone(), points.conf.clone(), points.normal.clone()
    xyz[::40], conf[1::40], normal[2::40], normal[3::40] = torch.nan, torch.nan, torch.nan, 0
    points = replace(points, xyz=xyz, conf=conf, normal=normal)
    odd = replace(found, points=points, cameras=replace(found.cameras, world_from_cam=poses))
    mesh = fused((clip, odd))
    assert all(np.isfinite(part).all() for part in (mesh.vertices, mesh.normals, mesh.rgb))
    assert np.median(np.abs(to_ball(mesh.vertices))) < 0.25 * 2 * RADIUS / 64


def test_no_points_no_mesh() -> None:
    clip, found = ball()
    none = replace(found, points=found.points.select(found.points.frame > 99))
    assert tsdf.fuse_mesh(clip_views(clip, none), 64) is None
    one = replace(found, points=found.points.select(torch.tensor([7])))
    assert tsdf.fuse_mesh(clip_views(clip, one), 64) is None


def test_no_surface_where_nothing_is_known() -> None:
    values = np.ones((4, 4, 4), np.float32)
    values[:2] = -0.1
    known = np.ones((4, 4, 4), bool)
    values[2:] = 0.1
    vertices, faces = surface(iter([(0, values, known)]))
    assert len(faces) == 18 and np.allclose(vertices[:, 0], 1.5)
    known[:, :, 3] = False
    assert len(surface(iter([(0, values, known)]))[1]) == 12
    values[2:] = 1.5  # a jump, not a surface
    assert len(surface(iter([(0, values, known)]))[1]) == 0


# ------------------------------------------------------------------------------- the stage's own files


def written(
    folder: Path, scene: tuple[Clip, GeometryResult], rigidity: Rigidity = RIGID, **options: object
) -> set[str]:
    config = GeometryConfig(**{"voxels": 32, **options})  # type: ignore[arg-type]
    write_dense(folder, *scene, rigidity, config, SilentProgress())
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("mesh", "rigidity", "expected"),
    [("auto", RIGID, True), ("auto", Rigidity(0.6, 9, 0.0), False), ("auto", Rigidity(float("nan"), 0, 0.0), False),
     ("on", Rigidity(0.6, 9, 0.0), True), ("off", RIGID, False)],
)  # fmt: skip
def test_when_there_is_a_mesh(tmp_path: Path, mesh: str, rigidity: Rigidity, expected: bool) -> None:
    files = written(tmp_path, ball(), rigidity, mesh=mesh)
    assert files == ({"scene.glb", "mesh.ply", "mesh.glb"} if expected else {"scene.glb"})


def test_a_failure_is_a_warning_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(tsdf, "integrate", fail)
    with caplog.at_level(logging.WARNING, "dyn4d"):
        assert written(tmp_path, ball()) == {"scene.glb"}
    assert "no mesh: MemoryError" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_full_disk_and_ctrl_c_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(dense_output, "clip_views", fail)
    with pytest.raises(type(error)):
        written(tmp_path, ball())


def test_the_scene_shows_all_frames_of_a_rigid_object_and_one_of_another() -> None:
    points = ball()[1].points
    assert scene_points(points, rigid=True) is points
    assert scene_points(points, rigid=False).frame.unique().tolist() == [8]
    many = points.select(torch.arange(len(points)).repeat(-(-SCENE_POINTS // len(points)) + 1))
    assert len(scene_points(many, rigid=True)) == SCENE_POINTS
    assert len(scene_points(points.select(points.frame > 99), rigid=False)) == 0
