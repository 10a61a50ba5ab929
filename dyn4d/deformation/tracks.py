"""Long 3D tracks: points of the object carried to every frame of the clip by the field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.cameras import project
from dyn4d.core.types import Camera, FramePoints
from dyn4d.deformation.field import TrajectoryField

SEEN, HIDDEN, DOUBTFUL = 1.0, 0.5, 0.1


@dataclass(frozen=True)
class Tracks:
    """N points over all F frames of a clip.

    Attributes:
        xyz: (F, N, 3) world. rgb: (N, 3). frame_first: (N,) int64, the selected frame that the point was taken from.
        conf: (F, N): 1 where the frame's depth agrees, 0.5 where the point is hidden or the frame has no depth there,
            0.1 where the camera looks through the place at something behind it.
    """

    xyz: Tensor
    rgb: Tensor
    frame_first: Tensor
    conf: Tensor


@torch.no_grad()
def make_tracks(
    field: TrajectoryField,
    points: FramePoints,
    cameras: Camera,
    *,
    frames: np.ndarray,
    frame_times: np.ndarray,
    all_times: np.ndarray,
    count: int,
    seed: int,
) -> Tracks:
    """Tracks of `count` points spread over all frames' points.

    Args:
        cameras: T selected cameras. frames: (T,) their indices in the whole clip. frame_times: (T,) their times.
        all_times: (F,) times of the whole clip.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(points), generator=generator)[:count].sort().values
    chosen = points.select(rows)
    when = torch.as_tensor(np.asarray(frame_times), dtype=torch.float32)
    canonical = chosen.xyz.clone()
    for frame in torch.unique(chosen.frame).tolist():
        mine = chosen.frame == frame
        canonical[mine] = field.to_canonical(chosen.xyz[mine], float(when[frame]))
    xyz = torch.stack([field.from_canonical(canonical, float(t)) for t in all_times])
    conf = torch.full(xyz.shape[:2], HIDDEN)
    tolerance = 0.02 * max(points.extent(), 1e-9)
    for row, frame in enumerate(np.asarray(frames).tolist()):
        if not bool(cameras.registered[row]):
            continue
        depth = torch.zeros(cameras.height, cameras.width)
        mine = points.frame == row
        view = cameras.cam_from_world[row].float()
        pixel = points.xy[mine].long()
        depth[pixel[:, 1], pixel[:, 0]] = points.xyz[mine] @ view[2, :3] + view[2, 3]
        xy, z = project(cameras.K[row].float(), view, xyz[frame])
        column, line = xy[:, 0].floor().long(), xy[:, 1].floor().long()
        inside = (column >= 0) & (column < cameras.width) & (line >= 0) & (line < cameras.height) & (z > 0)
        surface = depth[line.clamp(0, cameras.height - 1), column.clamp(0, cameras.width - 1)]
        known = inside & (surface > 0)
        conf[frame][known & ((z - surface).abs() <= tolerance)] = SEEN
        conf[frame][known & (z < surface - tolerance)] = DOUBTFUL
    return Tracks(xyz, chosen.rgb, chosen.frame, conf)
