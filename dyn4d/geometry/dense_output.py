"""What the geometry stage leaves for other programs: a mesh of a rigid object, and the scene with its cameras."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import numpy as np

from dyn4d.core.protocols import Progress
from dyn4d.core.types import Clip, FramePoints, GeometryResult
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.consistency import Rigidity, clip_views

log = logging.getLogger(__name__)

SCENE_POINTS = 200_000  # more make viewers slow


def write_dense(
    folder: Path, clip: Clip, found: GeometryResult, rigidity: Rigidity, config: GeometryConfig, progress: Progress
) -> None:
    """Write `scene.glb`, and `mesh.ply` and `mesh.glb` where `config.mesh` asks for them or the object is rigid.

    Nothing reads these files again, so a failure is a warning, unless the disk is full.
    """
    for name, write in (("mesh", _mesh), ("scene.glb", _scene)):
        try:
            write(folder, clip, found, rigidity, config, progress)
        except Exception as error:
            progress.finish()
            if _disk_full(error):
                raise
            text = " ".join(str(error).split()) or type(error).__name__
            log.warning("no %s: %s; everything else of the geometry is there", name, text)


def _disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def _mesh(
    folder: Path, clip: Clip, found: GeometryResult, rigidity: Rigidity, config: GeometryConfig, progress: Progress
) -> None:
    if config.mesh == "off" or (config.mesh == "auto" and not rigidity.rigid):
        return
    from dyn4d.geometry.tsdf import fuse_mesh
    from dyn4d.io.glb import write_mesh_glb
    from dyn4d.io.meshes import write_mesh_ply

    mesh = fuse_mesh(clip_views(clip, found), config.voxels, progress=progress)
    if mesh is None:
        progress.note("mesh: the points make no surface")
        return
    write_mesh_ply(folder / "mesh.ply", mesh)
    write_mesh_glb(folder / "mesh.glb", mesh, found.cameras)
    progress.note(f"mesh: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces")


def _scene(
    folder: Path, clip: Clip, found: GeometryResult, rigidity: Rigidity, config: GeometryConfig, progress: Progress
) -> None:
    from dyn4d.io.glb import write_scene_glb

    points = scene_points(found.points, rigid=rigidity.rigid)
    write_scene_glb(
        folder / "scene.glb", points.xyz.numpy(), points.rgb.numpy(), found.cameras, names=list(clip.names)
    )  # fmt: skip


def scene_points(points: FramePoints, *, rigid: bool) -> FramePoints:
    """At most 200,000 points: of all frames where the object is rigid, else of the middle one of those that have any,
    because all frames of a moving object together show it many times over."""
    if not rigid and len(points):
        frames = points.frame.unique()
        points = points.select(points.frame == frames[len(frames) // 2])
    if len(points) <= SCENE_POINTS:
        return points
    rows = np.random.default_rng(0).choice(len(points), SCENE_POINTS, replace=False)
    return points.select(points.frame.new_tensor(np.sort(rows)))
