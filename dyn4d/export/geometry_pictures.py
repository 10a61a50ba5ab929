"""What the geometry stage found, as pictures for the report: cameras and object, and what moves against them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.core.types import Camera, Clip, FramePoints
from dyn4d.export.camera_picture import draw_cameras
from dyn4d.export.pictures import motion_picture
from dyn4d.geometry.motion import MOVES, PointMotion
from dyn4d.io import artifacts

STILL = 0.1  # the share of moving points up to which all frames' points make one object


@dataclass(frozen=True)
class GeometryPictures:
    """Pictures of a geometry stage.

    Attributes:
        cameras: (H, W, 3) uint8, where they were, and the object. caption: what is to be seen there.
        motion: frame of the clip -> (H, W, 3) uint8, how far each point moves; empty where that is not known.
        top: px of the lightest colour. text: one line on the motion.
    """

    cameras: np.ndarray | None = None
    caption: str = ""
    motion: Mapping[int, np.ndarray] = field(default_factory=dict)
    top: float = MOVES
    text: str = ""


def geometry_pictures(folder: Path, clip: Clip, cameras: Camera, *, count: int) -> GeometryPictures:
    """The pictures of a finished geometry stage; what it did not leave is left out.

    Args:
        folder: of the stage. clip: the frames that it was made from. cameras: of all F frames of the clip.
        count: so many frames show the motion.

    Raises:
        InputError: the tables are damaged or do not belong together.
    """
    if not (folder / "frame_points.npz").is_file():
        drawn = draw_cameras(cameras)
        return GeometryPictures(drawn.picture, _caption(drawn.text))
    points = artifacts.load(folder / "frame_points.npz", FramePoints)
    motion = _load_motion(folder / "motion.npz", len(points))
    seen = np.unique(points.frame.numpy())
    own: int | None = None  # the selected frame whose points are not paled; all fit together if nothing moves
    if len(seen) and (motion is None or not motion.moving() < STILL):
        own = int(seen[np.abs(seen - len(clip) // 2).argmin()])
    drawn = draw_cameras(cameras, points, frame=own)
    out = GeometryPictures(drawn.picture, _caption(drawn.text, None if own is None else int(clip.frames[own])))
    if motion is None:
        return out
    values = motion.residual.numpy()
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return replace(out, text=motion.note())
    top = max(float(f"{np.percentile(known, 98):.2g}"), MOVES)
    pictures = {}
    for row in seen[np.unique(np.linspace(0, len(seen) - 1, min(count, len(seen))).round().astype(int))].tolist():
        mine = (points.frame == row).numpy()
        picture = motion_picture(np.asarray(clip.images[row]), points.xy[mine].numpy(), values[mine], top)
        pictures[int(clip.frames[row])] = picture
    return replace(out, motion=pictures, top=top, text=motion.note())


def _load_motion(path: Path, count: int) -> PointMotion | None:
    """The table of `count` points, if there is one."""
    if not path.is_file():
        return None
    motion = artifacts.load(path, PointMotion)
    if len(motion) != count:
        raise InputError(
            f"{path} has {len(motion)} rows, frame_points.npz {count}; run the geometry stage again with --overwrite"
        )
    return motion


def _caption(text: str, frame: int | None = None) -> str:
    """Of the picture of the cameras; `frame` is the one whose points are in full colours."""
    colours = (
        f" In full colours the object as frame {frame} saw it, pale as all others did." if frame is not None else ""
    )
    return f"{text.capitalize()}.{colours} Without perspective; the bar is in world units."
