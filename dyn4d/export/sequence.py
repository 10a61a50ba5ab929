"""The moving object as a sequence of standard 3DGS PLYs that viewers open as they are."""

from __future__ import annotations

from pathlib import Path

from dyn4d.core.protocols import Field, Progress, SilentProgress
from dyn4d.core.types import GaussianCloud, Timeline
from dyn4d.gaussians.warp import move_cloud
from dyn4d.io.ply import write_ply


def write_sequence(
    cloud: GaussianCloud, field: Field, timeline: Timeline, *, out: Path, progress: Progress | None = None
) -> list[Path]:
    """Write `out/frame_0000.ply ...`, one for every frame of the clip, selected for training or not.

    Row i is the same Gaussian in every file; positions, rotations and scales are those of that frame in the clip's
    own world and units. Files that are already there are kept, so an interrupted run goes on.
    """
    progress = progress or SilentProgress()
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"frame_{index:04d}.ply" for index in range(len(timeline))]
    todo = [i for i, path in enumerate(paths) if not (path.is_file() and path.stat().st_size > 0)]
    progress.start("per-frame PLY", len(paths), len(paths) - len(todo))
    for index in todo:
        write_ply(paths[index], move_cloud(cloud, field, float(timeline.times[index])))
        progress.update()
    progress.finish()
    return paths
