"""Which cameras a clip with depth goes on with: the given ones, these refined or completed, or solved ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dyn4d.core.errors import Dyn4DError
from dyn4d.core.protocols import Progress
from dyn4d.core.types import Camera, Clip, FrameReader
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.depth_alignment import solve_depth_poses
from dyn4d.io.readers import LazyFrames
from dyn4d.matching.config import MatchingConfig

AROUND = 8  # frames before and after one without a pose, to which it is tied


def depth_cameras(
    clip: Clip,
    config: GeometryConfig,
    *,
    given: bool,
    matching: MatchingConfig | None,
    seed: int,
    device: torch.device | str,
    progress: Progress,
    cache: Path | None,
) -> tuple[Camera, tuple[str, ...], bool]:
    """The cameras, lines for the user, and whether they were solved, as `config.poses` and `config.anchor` have it.

    Args:
        clip: with depth, and cameras whose poses are NaN where unknown. given: do those count that are known?
        device: where a network for the flow runs. cache: a folder for what takes long.

    Raises:
        InputError: poses are to be solved, and nothing ties two frames together.
    """
    assert clip.cameras is not None
    known = clip.cameras.world_from_cam if given and bool(clip.cameras.registered.any()) else None
    if known is not None and config.poses == "given" and config.anchor != "object":
        return _completed(clip, config, matching, seed, device, progress, cache)
    found = solve_depth_poses(
        clip, matching, anchor=config.anchor, world_from_cam=known if config.poses == "refine" else None, seed=seed,
        device=device, progress=progress, cache=cache,
    )  # fmt: skip
    return found.cameras, found.notes, True


def _completed(
    clip: Clip, config: GeometryConfig, matching: MatchingConfig | None, seed: int, device: torch.device | str,
    progress: Progress, cache: Path | None,
) -> tuple[Camera, tuple[str, ...], bool]:  # fmt: skip
    """The given cameras, and those of frames that have none solved from the frames around them."""
    assert clip.cameras is not None
    missing = [row for row in torch.nonzero(~clip.cameras.registered).squeeze(-1).tolist() if _shows(clip, row)]
    if not missing:
        return clip.cameras, (), False
    near = sorted({n for row in missing for n in range(row - AROUND, row + AROUND + 1) if 0 <= n < len(clip)})
    part = select_rows(clip, near)
    assert part.cameras is not None
    try:
        found = solve_depth_poses(
            part, matching, anchor=config.anchor, world_from_cam=part.cameras.world_from_cam, fix_poses=True, seed=seed,
            device=device, progress=progress, cache=cache,
        )  # fmt: skip
    except Dyn4DError as error:
        return clip.cameras, (f"poses: {len(missing)} frames have none, and none is solved: {error}",), False
    poses = clip.cameras.world_from_cam.clone()
    poses[near] = found.cameras.world_from_cam.to(poses)
    return replace(clip.cameras, world_from_cam=poses), found.notes, False


def _shows(clip: Clip, row: int) -> bool:
    """Would the frame have points if its pose were known?"""
    assert clip.depth is not None
    depth = np.asarray(clip.depth[row])
    return bool((np.asarray(clip.masks[row], dtype=bool) & np.isfinite(depth) & (depth > 0)).any())


def select_rows(clip: Clip, rows: list[int]) -> Clip:
    """The clip of some of its selected frames, still read when asked for."""

    def some(frames: FrameReader) -> FrameReader:
        return LazyFrames([clip.names[row] for row in rows], lambda n: np.asarray(frames[rows[n]]), cache_bytes=0)

    return replace(
        clip, images=some(clip.images), masks=some(clip.masks), frames=clip.frames[rows],
        depth=None if clip.depth is None else some(clip.depth),
        cameras=None if clip.cameras is None else clip.cameras[rows],
    )  # fmt: skip
