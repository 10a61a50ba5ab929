"""Pictures that a run does not see: which frame they belong to, and whether they are near the clip's own cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dyn4d.io.importers.sequence import SourceFrame

NEAR_DEG = 15.0  # the synthetic clips' near views are 12 degrees off, the next ones 30


def nearest_frames(seconds: Sequence[float], frames: Sequence[float]) -> list[int]:
    """Of each time the row of the frame nearest to it."""
    times = np.asarray(frames)
    return [int(np.abs(times - value).argmin()) for value in seconds]


def name_views(views: Sequence[SourceFrame], frames: Sequence[SourceFrame]) -> list[SourceFrame]:
    """The views with `near_` before their groups' names where they look from within 15 degrees of a camera of the clip,
    as seen from the point that the clip's cameras look at."""
    clip = np.stack([frame.world_from_cam for frame in frames if frame.world_from_cam is not None])
    target = looked_at(clip)
    own = _directions(clip, target)
    out = []
    for view in views:
        assert view.world_from_cam is not None
        cosine = float((own @ _directions(view.world_from_cam[None], target)[0]).max())
        near = cosine >= np.cos(np.radians(NEAR_DEG))
        out.append(replace(view, view=f"near_{view.view}" if near else view.view))
    return out


def looked_at(poses: np.ndarray) -> np.ndarray | None:
    """The point nearest to the optical axes of poses (N, 4, 4); None where they do not meet in front of the cameras."""
    axes, centres = poses[:, :3, 2], poses[:, :3, 3]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    normal = across.sum(0)
    if np.linalg.cond(normal) > 1e4:
        return None
    point = np.linalg.solve(normal, (across @ centres[:, :, None]).sum(0)[:, 0])
    return point if bool((((point - centres) * axes).sum(1) > 0).mean() > 0.5) else None


def _directions(poses: np.ndarray, target: np.ndarray | None) -> np.ndarray:
    """(N, 3) unit vectors from the target to the cameras; against their optical axes where there is no target."""
    if target is None:
        return -poses[:, :3, 2]
    away = poses[:, :3, 3] - target
    return away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
