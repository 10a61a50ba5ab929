"""Which source gives the geometry, and calling it."""

from __future__ import annotations

from pathlib import Path

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Clip, GeometryResult
from dyn4d.geometry.config import GeometryConfig


def choose_source(clip: Clip, config: GeometryConfig) -> str:
    """The name of the source that `config` and the clip lead to.

    Raises:
        InputError: there is nothing to get geometry from, or the source asked for is not in this version.
    """
    if config.source in ("mast3r", "pointmaps"):
        raise InputError(
            f"geometry.source {config.source}: not in this version; use rgbd, with depth maps in {clip.source}/depth"
        )
    if config.source == "rgbd" or clip.depth is not None:
        return "rgbd"
    raise InputError(
        f"{clip.source}: nothing to get geometry from: add depth maps in depth/ (one file a frame, uint16 PNG or .npy) "
        "and cameras.json with K; sources that need no depth (mast3r, pointmaps) are not in this version"
    )


def solve_geometry(
    clip: Clip,
    config: GeometryConfig,
    seed: int = 0,
    *,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> GeometryResult:
    """Cameras and the object's points of all frames, by the source that `choose_source` names.

    Args:
        seed, cache: for sources that draw random numbers or take long; `rgbd` needs neither.
    """
    progress = progress or SilentProgress()
    choose_source(clip, config)  # only rgbd comes back
    from dyn4d.geometry.rgbd import frames_from_depth

    result = frames_from_depth(clip, config, progress)
    for line in result.notes:
        progress.note(line)
    return result
