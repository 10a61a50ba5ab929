"""The clip's cameras for other programs, with names of the pictures that they belong to."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Camera, Clip, FramePoints, Timeline
from dyn4d.io.atomic import atomic_folder
from dyn4d.io.camera_files import write_transforms, write_tum
from dyn4d.io.colmap import Observations, write_model
from dyn4d.io.colmap_text import write_model_text
from dyn4d.io.images import write_png

COLMAP_POINTS = 20_000  # enough to begin training with; geometry/sparse has more
ORIENTATION = 0x0112  # EXIF


@dataclass(frozen=True)
class CameraPoints:
    """Points for the COLMAP models: of T selected frames, `frames` (T,) their rows in the clip."""

    points: FramePoints
    frames: np.ndarray


def stored_pictures(clip: Clip) -> list[Path] | None:
    """The clip's own picture files, one a frame, if other programs will see in them what K belongs to: None where the
    frames come from a video, were made smaller, or are turned by EXIF."""
    paths = [Path(label) for label in getattr(clip.images, "labels", ())]
    if len(paths) != len(clip) or len({path.name for path in paths}) != len(paths):
        return None
    for path in paths:
        if not path.is_file():
            return None
        with Image.open(path) as picture:
            if picture.size != (clip.width, clip.height) or picture.getexif().get(ORIENTATION, 1) != 1:
                return None
    return paths


def write_camera_files(
    folder: Path, cameras: Camera, timeline: Timeline, *, home: Path, run: Path, clip: Clip | None = None,
    points: CameraPoints | None = None, held_out: Collection[int] = (), images: bool = False,
) -> list[str]:  # fmt: skip
    """Write `folder` whole: `transforms.json`, `trajectory.txt` (TUM), `colmap/` (binary) and `colmap_text/`. Where the
    clip has no picture files that fit (`stored_pictures`), they name those that `write_images` writes.

    Args:
        cameras: F; those without a pose are left out everywhere. home: where `folder` will lie in the end, which paths
            are relative to. run: the run folder; pictures inside it are named by relative paths, others by whole ones,
            so that a run can be moved.
        clip: all F frames; without it pictures are named by the frames alone. points: for the COLMAP models.
        held_out: frames that the fit did not see. images: those of `write_images` are there or will be.

    Returns:
        what a person should know: pictures are named that nobody has written; the COLMAP text model was left out,
        because a picture's name has a space in it, at which COLMAP's reader would end it.
    """
    notes = []
    with atomic_folder(folder) as out:
        files = stored_pictures(clip) if clip is not None else None
        if files is not None:
            pictures = [_named(path, home, run) for path in files]
            names = [path.name for path in files]
        else:
            names = [_image_name(name) for name in timeline.names]
            pictures = [f"../images/{name}" for name in names]
            if not images:
                notes.append(
                    "cameras: export/cameras names pictures that are not there, in export/images/, as the clip's own "
                    "are of another size or in a video; --export.formats images writes them"
                )
        write_transforms(out / "transforms.json", cameras, timeline, pictures, held_out=held_out)
        write_tum(out / "trajectory.txt", cameras, timeline)
        xyz, rgb, seen = _colmap_points(points)
        write_model(out / "colmap", cameras, names, xyz=xyz, rgb=rgb, observations=seen)
        if any(name.split() != [name] for name in names):
            notes.append("cameras: no COLMAP model as text, because names of pictures have spaces; colmap/ is there")
        else:
            write_model_text(out / "colmap_text", cameras, names, xyz=xyz, rgb=rgb, observations=seen)
    return notes


def write_images(folder: Path, cameras: Camera, clip: Clip, *, progress: Progress | None = None) -> None:
    """Write the frames that have a pose as `folder/<name>.png`, as K has them, all or none.

    Args:
        cameras: F. clip: all F frames.
    """
    progress = progress or SilentProgress()
    rows = torch.nonzero(cameras.registered).flatten().tolist()
    progress.start("images", len(rows))
    with atomic_folder(folder) as out:
        for row in rows:
            write_png(out / _image_name(clip.timeline.names[row]), np.asarray(clip.images[row]))
            progress.update()
    progress.finish()


def _image_name(name: str) -> str:
    return f"{name}.png"


def _named(path: Path, home: Path, run: Path) -> str:
    path, run = path.absolute(), run.absolute()
    if path.is_relative_to(run):
        return Path(os.path.relpath(path, home.absolute())).as_posix()
    return path.as_posix()


def _colmap_points(points: CameraPoints | None) -> tuple[np.ndarray, np.ndarray, Observations | None]:
    if points is None:
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8), None
    every = max(1, -(-len(points.points) // COLMAP_POINTS))
    some = points.points.select(torch.arange(0, len(points.points), every))
    seen = Observations(np.arange(len(some)), points.frames[some.frame.numpy()], some.xy.double().numpy())
    return some.xyz.numpy(), some.rgb.numpy(), seen


def held_out_frames(selected: Sequence[int], count: int) -> set[int]:
    """The frames of a clip of `count` that a run was not fitted on."""
    return set(range(count)) - set(selected)
