"""USD files with time samples: moving Gaussians, tracks and meshes. The only module that calls OpenUSD (`pxr`).

Below the prim `/world` are the clip's own world and units. Stages have metres a unit = 1 (right if the clip is metric)
and the up axis of the world where that is +y or +z; else they are y-up, and `/world` has the one rotation that makes
them so. A time code is a frame: seconds times `timeCodesPerSecond`, the clip's mean rate.
"""

# pxr fills its modules when they are imported, so their names are unknown before.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dyn4d.core.protocols import Field, Progress, SilentProgress
from dyn4d.core.types import Camera, GaussianCloud, Timeline
from dyn4d.export.frames import moved_frames
from dyn4d.export.track_tables import TrackTable
from dyn4d.io.atomic import atomic_path
from dyn4d.io.glb import upright

MOST_DEGREE = 3  # that the schema's readers know
POINT_SIZE = 0.006  # of the object's size: width of a track's point
PATH_SIZE = 0.0015  # and of its path


def time_codes(timeline: Timeline) -> np.ndarray:
    """(F,) seconds times frames a second; whole numbers where frames are evenly spaced from 0 on."""
    codes = timeline.seconds * timeline.fps
    near = np.round(codes)
    return np.where(np.abs(codes - near) < 1e-6, near, codes)


@contextmanager
def _stage(path: str | Path, timeline: Timeline, cameras: Camera) -> Iterator[Any]:
    """A new stage with its `/world`; written to `path` when the block ends well."""
    from pxr import Gf, Usd, UsdGeom

    stage = Usd.Stage.CreateInMemory(".usdc")
    turn = upright(cameras)
    up = turn[:3, :3].T @ np.array([0.0, 1.0, 0.0])
    world = UsdGeom.Xform.Define(stage, "/world")
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z if up[2] > 0.5 else UsdGeom.Tokens.y)
    if max(up[1], up[2]) < 0.5:
        world.AddTransformOp().Set(Gf.Matrix4d(turn.T.tolist()))  # USD multiplies rows from the left
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    codes = time_codes(timeline)
    stage.SetDefaultPrim(world.GetPrim())
    stage.SetTimeCodesPerSecond(float(timeline.fps))
    stage.SetFramesPerSecond(float(timeline.fps))
    stage.SetStartTimeCode(float(codes[0]))
    stage.SetEndTimeCode(float(codes[-1]))
    yield stage
    with atomic_path(path) as temporary:
        stage.GetRootLayer().Export(str(temporary))


def _vectors(values: np.ndarray) -> Any:
    from pxr import Vt

    return Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(values.reshape(-1, 3), dtype=np.float32))


def _extent(xyz: np.ndarray, reach: float = 0.0) -> Any:
    if len(xyz) == 0:
        return _vectors(np.zeros((2, 3)))
    return _vectors(np.stack([xyz.min(0) - reach, xyz.max(0) + reach]))


def write_gaussians_usd(
    path: str | Path, cloud: GaussianCloud, field: Field, timeline: Timeline, cameras: Camera, *,
    progress: Progress | None = None,
) -> None:  # fmt: skip
    """Write `/world/gaussians`, a `ParticleField3DGaussianSplat` with a time sample for each frame, atomically.

    Nothing is rounded (float32). Opacities and, without view dependence, colours are the same at all times and stored
    once. Colours are coefficients as in PLYs. Spherical harmonics above degree 3 and confidences are left out.

    Args:
        cameras: only tell which way is up.
    """
    from pxr import Usd, UsdVol, Vt

    progress = progress or SilentProgress()
    degree = min(cloud.sh_degree, MOST_DEGREE)
    progress.start("USD", len(timeline))
    with _stage(path, timeline, cameras) as stage:
        prim = UsdVol.ParticleField3DGaussianSplat.Define(stage, "/world/gaussians")
        opacity = np.ascontiguousarray(cloud.opacities.cpu().numpy(), dtype=np.float32)
        prim.CreateOpacitiesAttr(Vt.FloatArray.FromNumpy(opacity))
        prim.CreateRadianceSphericalHarmonicsDegreeAttr(degree)
        colours = prim.CreateRadianceSphericalHarmonicsCoefficientsAttr()
        if degree == 0:
            colours.Set(_vectors(cloud.sh[:, 0].cpu().numpy()))
        positions, scales = prim.CreatePositionsAttr(), prim.CreateScalesAttr()
        orientations, extent = prim.CreateOrientationsAttr(), prim.CreateExtentAttr()
        for code, moved in zip(time_codes(timeline), moved_frames(cloud, field, timeline)):
            when, xyz = Usd.TimeCode(float(code)), moved.means.numpy()
            quats = np.ascontiguousarray(np.roll(moved.quats_wxyz.numpy(), -1, axis=1), dtype=np.float32)
            positions.Set(_vectors(xyz), when)
            scales.Set(_vectors(moved.scales.numpy()), when)
            orientations.Set(Vt.QuatfArray.FromNumpy(quats), when)
            extent.Set(_extent(xyz, 3 * float(moved.scales.max()) if len(moved) else 0.0), when)
            if degree:
                colours.Set(_vectors(moved.sh[:, : (degree + 1) ** 2].numpy()), when)
            progress.update()
    progress.finish()


def write_tracks_usd(path: str | Path, tables: Iterable[TrackTable], timeline: Timeline, cameras: Camera) -> None:
    """Write for each table `/world/<name>`, points with a time sample for each frame, and `/world/<name>_paths`, the
    whole way of each as a curve, atomically.

    Points have `ids` (`TrackTable.identity`), `displayColor`, and where known the primvars `visible` (0 or 1) and
    `confidence`, with time samples too.
    """
    from pxr import Sdf, Usd, UsdGeom, Vt

    codes = time_codes(timeline)
    with _stage(path, timeline, cameras) as stage:
        for table in tables:
            size = float(np.ptp(table.xyz.reshape(-1, 3), axis=0).max()) if table.xyz.size else 1.0
            points = UsdGeom.Points.Define(stage, f"/world/{table.name}")
            points.CreateIdsAttr(Vt.Int64Array.FromNumpy(np.ascontiguousarray(table.identity, np.int64)))
            points.CreateWidthsAttr(Vt.FloatArray([POINT_SIZE * size]))
            points.SetWidthsInterpolation(UsdGeom.Tokens.constant)
            points.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex).Set(_vectors(_linear(table.rgb)))
            api, kinds = UsdGeom.PrimvarsAPI(points), Sdf.ValueTypeNames
            visible = confidence = None
            if table.visible is not None:
                visible = api.CreatePrimvar("visible", kinds.IntArray, UsdGeom.Tokens.vertex)
            if table.confidence is not None:
                confidence = api.CreatePrimvar("confidence", kinds.FloatArray, UsdGeom.Tokens.vertex)
            place, extent = points.CreatePointsAttr(), points.CreateExtentAttr()
            for frame, code in enumerate(codes):
                when = Usd.TimeCode(float(code))
                place.Set(_vectors(table.xyz[frame]), when)
                extent.Set(_extent(table.xyz[frame], POINT_SIZE * size), when)
                if visible is not None and table.visible is not None:
                    visible.Set(Vt.IntArray.FromNumpy(table.visible[frame].astype(np.int32)), when)
                if confidence is not None and table.confidence is not None:
                    known = np.ascontiguousarray(table.confidence[frame], dtype=np.float32)
                    confidence.Set(Vt.FloatArray.FromNumpy(known), when)
            if len(codes) > 1 and len(table.rgb):
                _add_paths(stage, table, PATH_SIZE * size)


def _add_paths(stage: Any, table: TrackTable, width: float) -> None:
    from pxr import UsdGeom, Vt

    frames, count = table.xyz.shape[:2]
    curves = UsdGeom.BasisCurves.Define(stage, f"/world/{table.name}_paths")
    curves.CreateTypeAttr(UsdGeom.Tokens.linear)
    curves.CreateCurveVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(count, frames, np.int32)))
    curves.CreatePointsAttr(_vectors(table.xyz.transpose(1, 0, 2)))
    curves.CreateExtentAttr(_extent(table.xyz.reshape(-1, 3), width))
    curves.CreateWidthsAttr(Vt.FloatArray([width]))
    curves.SetWidthsInterpolation(UsdGeom.Tokens.constant)
    curves.CreateDisplayColorPrimvar(UsdGeom.Tokens.uniform).Set(_vectors(_linear(table.rgb)))


def _linear(rgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] as linear: what `displayColor` holds."""
    value = np.clip(rgb.astype(np.float64), 0, 1)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def write_mesh_usd(
    path: str | Path, vertices: np.ndarray, faces: np.ndarray, rgb: np.ndarray, timeline: Timeline, cameras: Camera
) -> None:
    """Write `/world/mesh`, one mesh whose points have a time sample for each frame, atomically.

    Args:
        vertices: (F, V, 3) world. faces: (T, 3), counter-clockwise from outside. rgb: (V, 3) sRGB in [0, 1].
    """
    from pxr import Usd, UsdGeom, Vt

    with _stage(path, timeline, cameras) as stage:
        mesh = UsdGeom.Mesh.Define(stage, "/world/mesh")
        mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
        mesh.CreateDoubleSidedAttr(True)
        mesh.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
        corners = np.ascontiguousarray(faces.reshape(-1), dtype=np.int32)
        mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(corners))
        mesh.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex).Set(_vectors(_linear(rgb)))
        place, extent = mesh.CreatePointsAttr(), mesh.CreateExtentAttr()
        for code, xyz in zip(time_codes(timeline), vertices):
            place.Set(_vectors(xyz), Usd.TimeCode(float(code)))
            extent.Set(_extent(xyz), Usd.TimeCode(float(code)))
