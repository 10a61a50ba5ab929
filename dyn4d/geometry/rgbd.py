"""The `rgbd` source: points from the clip's own depth maps, with its own cameras or ones solved from the depth."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from dyn4d.core.cameras import unproject
from dyn4d.core.errors import InputError
from dyn4d.core.listing import listed
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Camera, Clip, FramePoints, GeometryResult
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.depthmap import confidence, fit_surface, flying_pixels, jump_edges


def require_rgbd(clip: Clip) -> Camera:
    """The clip's cameras, if it has all that this source needs.

    Raises:
        InputError: depth maps, or intrinsics are missing; the text says which, and what to add.
    """
    where = clip.source
    if clip.depth is None:
        raise InputError(
            f"{where}: source rgbd needs depth maps: put one file a frame in {where.name}/depth (uint16 PNG in "
            "millimetres or .npy, 0 = none)"
        )
    if clip.cameras is None:
        raise InputError(
            f"{where}: there is depth but no K: add cameras.json with K (3x3 pixels), width, height and depth_div"
        )
    return clip.cameras


def points_of_frame(
    depth: np.ndarray, mask: np.ndarray, image: np.ndarray, K: Tensor, world_from_cam: Tensor, *, config: GeometryConfig
) -> tuple[FramePoints, int]:
    """The object's points seen by one camera (frame number 0), and how many flying pixels were dropped.

    Args:
        depth: (H, W) planar z, 0 or not finite = none. mask: (H, W) bool. image: (H, W, 3) uint8.
        K, world_from_cam: (3, 3) and (4, 4) float64.
    """
    # Pixels outside the mask with depth of their own count as surfaces too: they tell where the outline flies.
    usable = np.isfinite(depth) & (depth > 0)
    clean = np.where(usable, depth, 0).astype(np.float64)
    inside = usable & mask
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if len(rows) == 0:
        return _no_points(), 0
    top, left = max(int(rows[0]) - 3, 0), max(int(columns[0]) - 3, 0)
    box = np.s_[top : int(rows[-1]) + 4, left : int(columns[-1]) + 4]
    clean, inside, usable = clean[box], inside[box], usable[box]
    matrix = K.double().numpy().copy()
    focal = float(np.sqrt(matrix[0, 0] * matrix[1, 1]))
    matrix[:2, 2] -= (left, top)
    flying = flying_pixels(clean, usable, focal, config.max_slope_deg) & inside
    keep = inside & ~flying
    edge = jump_edges(clean, usable, focal, config.max_slope_deg)
    if config.erode:
        side = 2 * config.erode - 1
        keep &= ~(cv2.dilate(edge.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)
    fit = fit_surface(clean, keep, matrix, config.max_slope_deg)
    conf = confidence(fit, edge, 1.0 / focal)
    keep &= conf >= config.min_conf
    y, x = np.nonzero(keep)
    xy = torch.from_numpy(np.stack([x + left, y + top], axis=-1) + 0.5)
    xyz = unproject(K.double(), world_from_cam.double(), xy, torch.from_numpy(clean[y, x]))
    normal = torch.from_numpy(fit.normal[y, x]) @ world_from_cam[:3, :3].double().T
    rgb = torch.from_numpy(np.ascontiguousarray(image[box][y, x])).float() / 255
    points = FramePoints(
        xyz.float(), rgb, normal.float(), torch.zeros(len(y), dtype=torch.int64), xy.float(),
        torch.from_numpy(conf[y, x]).float(),
    )  # fmt: skip
    return points, int(flying.sum())


def _no_points() -> FramePoints:
    none = torch.zeros(0, 3)
    return FramePoints(none, none, none, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2), torch.zeros(0))


def join_frames(parts: Sequence[FramePoints]) -> FramePoints:
    """The points of all frames, those of the first one first, with the right numbers in `frame`."""
    frame = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part) for part in parts]))
    names = ("xyz", "rgb", "normal", "xy", "conf")
    return FramePoints(frame=frame, **{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def frames_from_depth(clip: Clip, config: GeometryConfig, progress: Progress | None = None) -> GeometryResult:
    """Masked points of every frame from its depth map, in the clip's own world.

    Normals point towards the camera that saw them. Confidence falls at grazing angles, beside jumps in depth and where
    depth is noisy. Frames whose pose is unknown have no points.

    Raises:
        InputError: the clip lacks depth or K (see `require_rgbd`), or no frame has any depth on the object.
    """
    progress = progress or SilentProgress()
    cameras = require_rgbd(clip)
    assert clip.depth is not None
    registered = cameras.registered
    parts: list[FramePoints] = []
    dropped = 0
    progress.start("points", len(clip))
    for i in range(len(clip)):
        part = _no_points()
        if bool(registered[i]):
            part, flying = points_of_frame(
                np.asarray(clip.depth[i]), np.asarray(clip.masks[i]).astype(bool), np.asarray(clip.images[i]),
                cameras.K[i], cameras.world_from_cam[i], config=config,
            )  # fmt: skip
            dropped += flying
        parts.append(part)
        progress.update(points=float(len(part)))
    progress.finish()
    points = join_frames(parts)
    if len(points) == 0:
        raise InputError(
            f"{clip.source}: no frame has depth on the object: the depth maps are 0 wherever the masks are set; check "
            "that depth and masks belong together"
        )
    notes = [f"rgbd: {len(points)} points of {len(clip)} frames, {dropped} flying pixels dropped"]
    bare = sorted(set(range(len(clip))) - set(points.frame.unique().tolist()))
    if bare:
        notes.append(
            f"rgbd: {len(bare)} frames have no points (no pose, no mask or no depth there): "
            f"{listed(clip.names[i] for i in bare)}"
        )
    return GeometryResult(points, cameras, "rgbd", tuple(notes))
