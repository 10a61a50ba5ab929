"""Spheres and boxes seen by cameras around them, with exact depth: clips for the tests of dense output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from dyn4d.core.cameras import look_at
from dyn4d.core.types import Camera, Clip, FramePoints, GeometryResult, Timeline
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.rgbd import frames_from_depth

Ball = tuple[Sequence[float], float]  # centre, radius


def orbit_cameras(count: int, *, sweep: float = 360.0, size: int = 96, distance: float = 3.0) -> Camera:
    """Round the origin, now above and now below it, z up."""
    angles = np.radians(np.linspace(0, sweep, count, endpoint=False))
    up, centre = torch.tensor([0.0, 0.0, 1.0]).double(), torch.zeros(3).double()
    poses = []
    for n, angle in enumerate(angles):
        height = 0.6 * np.sin(0.8 * n)
        eye = torch.tensor([distance * np.cos(angle), distance * np.sin(angle), height], dtype=torch.float64)
        poses.append(look_at(eye, centre, up))
    K = torch.tensor([[1.6 * size, 0, size / 2], [0, 1.6 * size, size / 2], [0, 0, 1]], dtype=torch.float64)
    return Camera(K.expand(count, 3, 3).clone(), torch.stack(poses), size, size)


def rays(camera: Camera, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Eye (3,) and directions (H, W, 3) in the world, of length 1 along z."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    K, pose = camera.K[frame].numpy(), camera.world_from_cam[frame].numpy()
    inside = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
    return pose[:3, 3], inside @ pose[:3, :3].T


def balls_depth(camera: Camera, frame: int, balls: Sequence[Ball]) -> np.ndarray:
    """(H, W) planar depth, 0 = nothing."""
    eye, way = rays(camera, frame)
    depth = np.full(way.shape[:2], np.inf)
    for centre, radius in balls:
        off = eye - np.asarray(centre)
        a, b, c = (way * way).sum(-1), 2 * way @ off, off @ off - radius**2
        root = b * b - 4 * a * c
        with np.errstate(invalid="ignore"):
            near = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / (2 * a), np.inf)
        depth = np.minimum(depth, np.where(near > 0, near, np.inf))
    return np.where(np.isfinite(depth), depth, 0).astype(np.float32)


def box_depth(camera: Camera, frame: int, half: Sequence[float]) -> np.ndarray:
    """(H, W) planar depth of a box round the origin, 0 = nothing."""
    eye, way = rays(camera, frame)
    one, other = (-np.asarray(half) - eye) / way, (np.asarray(half) - eye) / way
    near, far = np.minimum(one, other).max(-1), np.maximum(one, other).min(-1)
    return np.where((near < far) & (near > 0), near, 0).astype(np.float32)


def paint(xyz: np.ndarray) -> np.ndarray:
    """(..., 3) uint8: a colour for each place, that changes slowly."""
    return np.clip(127.5 + 90 * xyz, 0, 255).astype(np.uint8)


def make_clip(camera: Camera, draw: Callable[[int], np.ndarray]) -> Clip:
    """What `draw` makes of each frame, coloured by place."""
    count = len(camera)
    depths = [draw(frame) for frame in range(count)]
    images = []
    for frame, depth in enumerate(depths):
        eye, way = rays(camera, frame)
        images.append(np.where(depth[..., None] > 0, paint(eye + way * depth[..., None]), 128).astype(np.uint8))
    times = np.linspace(0, 1, count) if count > 1 else np.zeros(1)
    timeline = Timeline(times, times, tuple(f"{i:05d}" for i in range(count)))
    return Clip(
        "test", Path("/clips/test"), images, [depth > 0 for depth in depths], np.arange(count), timeline, camera.width,
        camera.height, depth=depths, cameras=camera, all_cameras=camera, poses_given=True,
    )  # fmt: skip


def points_of(clip: Clip) -> GeometryResult:
    return frames_from_depth(clip, GeometryConfig(clean="off", mesh="off"))


def shifted_along_rays(found: GeometryResult, rows: np.ndarray, by: np.ndarray) -> FramePoints:
    """The points with those of `rows` (N,) bool moved away from their cameras by `by` (N,)."""
    points = found.points
    way = points.xyz - found.cameras.world_from_cam[points.frame, :3, 3].float()
    step = torch.from_numpy(np.where(rows, by, 0)).float()[:, None]
    moved = points.xyz + way / way.norm(dim=-1, keepdim=True) * step
    return FramePoints(moved, points.rgb, points.normal, points.frame, points.xy, points.conf)


def which_left(before: FramePoints, after: FramePoints) -> np.ndarray:
    """(N,) bool: is the row still there? By frame and pixel."""
    old, new = (p.frame.numpy() * 10**8 + p.xy[:, 1].long().numpy() * 10**4 + p.xy[:, 0].long().numpy()
                for p in (before, after))  # fmt: skip
    return np.isin(old, new)
