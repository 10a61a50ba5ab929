"""The formats of `export.formats`: each is written whole or not at all, and left alone where it is there already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Progress
from dyn4d.core.types import Clip, FramePoints
from dyn4d.export.camera_exports import (
    CameraPoints,
    held_out_frames,
    stored_pictures,
    write_camera_files,
    write_images,
)
from dyn4d.export.config import ExportConfig
from dyn4d.export.evaluate import Reconstruction, object_size
from dyn4d.export.moving_mesh import MovingMesh, make_moving_mesh
from dyn4d.export.requirements import require_formats
from dyn4d.export.track_tables import TrackTable, gaussian_table, point_table, write_csv
from dyn4d.io import artifacts
from dyn4d.io.atomic import atomic_folder, read_json

GLTF_TRACKS = 300  # each is a node; viewers are slow with thousands
GLTF_RADIUS = 0.004  # of a track's octahedron, in sizes of the object
FILES = (  # of the export folder, and what they hold: for the report
    ("export/cameras/transforms.json ...", "cameras: transforms.json, TUM trajectory, COLMAP models"),
    ("export/tracks/gaussians.csv ...", "tracks as tables"),
    ("export/tracks.usdc", "tracks as points and curves of USD"),
    ("export/gaussians.usdc", "the moving Gaussians, as USD with a time sample for each frame"),
    ("export/spz/frame_0000.spz ...", "every frame as SPZ, small"),
    ("export/gaussians.4dgs", "the moving Gaussians in one file"),
    ("export/mesh.glb", "a mesh that moves, as animated glTF"),
    ("export/tracks.glb", "some tracks as an animated glTF, each a node that moves"),
    ("export/mesh.usdc", "a mesh that moves, as USD"),
    ("export/mesh/frame_0000.ply ...", "the mesh at every frame"),
)


@dataclass(frozen=True)
class FormatJob:
    """What the writers of the formats are given.

    Attributes:
        run: the run folder. out: the export folder as it is being filled. result: the run's reconstruction.
        clip: opens all frames of the clip; asked only where pictures are needed.
    """

    run: Path
    out: Path
    config: ExportConfig
    result: Reconstruction
    clip: Callable[[], Clip] | None
    progress: Progress

    @cached_property
    def mesh(self) -> MovingMesh:
        result = self.result
        return make_moving_mesh(
            result.cloud, result.field, result.timeline, faces=self.config.mesh_faces, progress=self.progress
        )

    @cached_property
    def tables(self) -> list[TrackTable]:
        """Tracks of Gaussians and of observed points, as far as there are any."""
        found = []
        if (self.out / "tracks.npz").is_file():
            found.append(gaussian_table(self.out / "tracks.npz", self.result.cloud, self.result.timeline))
        points = self.run / "deformation/tracks.npz"
        if points.is_file():
            found.append(point_table(points, self.result.timeline))
        return [table for table in found if table.xyz.shape[1]]

    @cached_property
    def selected(self) -> list[int]:
        """The frames that the run was fitted on."""
        facts = self.run / "prepare/clip.json"
        everything = list(range(len(self.result.timeline)))
        return list(read_json(facts).get("selected", everything)) if facts.is_file() else everything


def write_formats(job: FormatJob) -> None:
    """Write the formats that `job.config` asks for and `job.out` lacks. Raises `InputError` where a package is missing
    that one of them needs."""
    require_formats(job.config.formats)
    for name in job.config.formats:
        _WRITERS[name](job)


def _missing(job: FormatJob, name: str) -> Path | None:
    path = job.out / name
    return None if path.exists() else path


def _cameras(job: FormatJob) -> None:
    folder = _missing(job, "cameras")
    if folder is None:
        return
    clip, result = None, job.result
    if job.clip is not None:
        try:
            clip = job.clip()
        except InputError as error:
            job.progress.note(f"cameras: the clip cannot be read, so pictures are named by their frames alone: {error}")
    table, points = job.run / "geometry/frame_points.npz", None
    if table.is_file():
        points = CameraPoints(artifacts.load(table, FramePoints), np.asarray(job.selected, np.int64))
    notes = write_camera_files(
        folder, result.cameras, result.timeline, home=job.run / "export/cameras", run=job.run, clip=clip, points=points,
        held_out=held_out_frames(job.selected, len(result.timeline)),
        images="images" in job.config.formats or (job.out / "images").is_dir(),
    )  # fmt: skip
    for line in notes:
        job.progress.note(line)


def _images(job: FormatJob) -> None:
    folder = _missing(job, "images")
    if folder is None or job.clip is None:
        return
    clip = job.clip()
    if stored_pictures(clip) is not None:
        job.progress.note("images: the clip's own picture files fit and are named; none are written")
    else:
        write_images(folder, job.result.cameras, clip, progress=job.progress)


def _csv(job: FormatJob) -> None:
    folder = _missing(job, "tracks")
    if folder is None:
        return
    if not job.tables:
        job.progress.note("csv: the run has no tracks")
    else:
        with atomic_folder(folder) as out:
            for table in job.tables:
                write_csv(out / f"{table.name}.csv", table)


def _spz(job: FormatJob) -> None:
    from dyn4d.export.spz import write_spz_sequence

    folder = _missing(job, "spz")
    if folder is not None:
        with atomic_folder(folder) as out:
            write_spz_sequence(job.result.cloud, job.result.field, job.result.timeline, out=out, progress=job.progress)


def _4dgs(job: FormatJob) -> None:
    from dyn4d.export.fourdgs_file import write_4dgs

    path = _missing(job, "gaussians.4dgs")
    if path is not None:
        if job.result.cloud.sh_degree:
            job.progress.note("4dgs: the file holds no colours that change with the view; they are left out")
        write_4dgs(path, job.result.cloud, job.result.field, job.result.timeline, progress=job.progress)


def _usd(job: FormatJob) -> None:
    from dyn4d.export.usd import write_gaussians_usd, write_tracks_usd

    result = job.result
    path = _missing(job, "gaussians.usdc")
    if path is not None:
        write_gaussians_usd(
            path, result.cloud, result.field, result.timeline, result.cameras, progress=job.progress
        )  # fmt: skip
    path = _missing(job, "tracks.usdc")
    if path is not None and job.tables:
        write_tracks_usd(path, job.tables, result.timeline, result.cameras)


def _mesh(job: FormatJob) -> None:
    from dyn4d.export.morphs import TOLERANCE, find_morphs
    from dyn4d.io.glb import write_morphing_glb

    path = _missing(job, "mesh.glb")
    if path is not None:
        mesh, timeline = job.mesh, job.result.timeline
        morphs = find_morphs(mesh.vertices, mesh.frame, tolerance=TOLERANCE * mesh.size)
        write_morphing_glb(
            path, morphs.base, mesh.faces, mesh.rgb, targets=morphs.targets, weights=morphs.weights,
            seconds=timeline.seconds, cameras=job.result.cameras,
        )  # fmt: skip
        job.progress.note(
            f"mesh.glb: {len(morphs.targets)} morph targets for {len(timeline)} frames, vertices off by at most "
            f"{morphs.error / max(mesh.size, 1e-30):.2%} of the object's size"
        )


def _tracks_gltf(job: FormatJob) -> None:
    from dyn4d.io.glb import write_tracks_glb

    path = _missing(job, "tracks.glb")
    if path is None:
        return
    tables = [table for table in job.tables if table.name == "points"] or job.tables
    if not tables:
        job.progress.note("tracks-gltf: the run has no tracks")
        return
    table = tables[0]
    known = np.flatnonzero(np.isfinite(table.xyz).all((0, 2)))
    rows = known[np.unique(np.linspace(0, len(known) - 1, min(GLTF_TRACKS, len(known))).round().astype(int))]
    xyz, timeline = table.xyz[:, rows], job.result.timeline
    write_tracks_glb(
        path, xyz, table.rgb[rows], [f"{table.name}_{name}" for name in table.identity[rows].tolist()],
        radius=GLTF_RADIUS * object_size(xyz), seconds=timeline.seconds, cameras=job.result.cameras,
    )  # fmt: skip


def _mesh_usd(job: FormatJob) -> None:
    from dyn4d.export.usd import write_mesh_usd

    path = _missing(job, "mesh.usdc")
    if path is not None:
        mesh = job.mesh
        write_mesh_usd(path, mesh.vertices, mesh.faces, mesh.rgb, job.result.timeline, job.result.cameras)


def _mesh_frames(job: FormatJob) -> None:
    from dyn4d.io.meshes import write_mesh_ply

    folder = _missing(job, "mesh")
    if folder is not None:
        with atomic_folder(folder) as out:
            for frame in range(len(job.result.timeline)):
                write_mesh_ply(out / f"frame_{frame:04d}.ply", job.mesh.at(frame))


_WRITERS: dict[str, Callable[[FormatJob], None]] = {
    "cameras": _cameras,
    "images": _images,
    "csv": _csv,
    "spz": _spz,
    "4dgs": _4dgs,
    "usd": _usd,
    "mesh": _mesh,
    "mesh-usd": _mesh_usd,
    "mesh-frames": _mesh_frames,
    "tracks-gltf": _tracks_gltf,
}
