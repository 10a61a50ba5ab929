"""Pinhole cameras: project, unproject, crop, resize, look-at and orbits.

OpenCV axes (x right, y down, z forward). The centre of the top-left pixel is (0.5, 0.5), so pixel column `c` has
its centre at u = c + 0.5. Depth is planar z.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from dyn4d.core.types import Camera


def invert_rigid(matrix: Tensor) -> Tensor:
    """Inverse of rigid 4x4 matrices (..., 4, 4), exact for a rotation and a translation."""
    rotation = matrix[..., :3, :3].transpose(-1, -2)
    out = torch.zeros_like(matrix)
    out[..., :3, :3] = rotation
    out[..., :3, 3] = -(rotation @ matrix[..., :3, 3:]).squeeze(-1)
    out[..., 3, 3] = 1
    return out


def transform(matrix: Tensor, points: Tensor) -> Tensor:
    """Apply a 4x4 rigid matrix (..., 4, 4) to points (..., N, 3)."""
    return points @ matrix[..., :3, :3].transpose(-1, -2) + matrix[..., None, :3, 3]


def pixel_grid(height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixel centres (H, W, 2) as (u, v): the first is (0.5, 0.5)."""
    v, u = torch.meshgrid(
        torch.arange(height, dtype=dtype) + 0.5, torch.arange(width, dtype=dtype) + 0.5, indexing="ij"
    )
    return torch.stack([u, v], dim=-1)


def unproject(K: Tensor, world_from_cam: Tensor, xy: Tensor, depth: Tensor) -> Tensor:
    """World points (N, 3) of pixels `xy` (N, 2) at planar depth (N,) seen by one camera."""
    x = (xy[..., 0] - K[0, 2] - K[0, 1] * (xy[..., 1] - K[1, 2]) / K[1, 1]) / K[0, 0]
    y = (xy[..., 1] - K[1, 2]) / K[1, 1]
    in_camera = torch.stack([x, y, torch.ones_like(x)], dim=-1) * depth.unsqueeze(-1)
    return transform(world_from_cam, in_camera)


def project(K: Tensor, cam_from_world: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (..., N, 2) and planar depth (..., N) of world points (..., N, 3); K (..., 3, 3). Where depth <= 0 the
    pixel means nothing."""
    in_camera = transform(cam_from_world, points)
    depth = in_camera[..., 2]
    safe = torch.where(depth.abs() < 1e-8, torch.full_like(depth, 1e-8), depth)
    homogeneous = in_camera @ K.transpose(-1, -2)
    return homogeneous[..., :2] / safe.unsqueeze(-1), depth


def scale_camera(camera: Camera, width: int, height: int) -> Camera:
    """The same view drawn at another size; with half-integer pixel centres K scales by the plain ratios."""
    ratio = torch.tensor(
        [[width / camera.width], [height / camera.height], [1.0]], dtype=camera.K.dtype, device=camera.K.device
    )
    return replace(camera, K=camera.K * ratio, width=width, height=height)


def crop_camera(camera: Camera, left: int, top: int, width: int, height: int) -> Camera:
    """The window of the picture that starts at pixel column `left` and row `top`."""
    K = camera.K.clone()
    K[..., 0, 2] -= left
    K[..., 1, 2] -= top
    return replace(camera, K=K, width=width, height=height)


def look_at(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """`world_from_cam` (4, 4) of a camera at `eye` (3,) that looks at `target` with `up` upwards in the picture."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    right = torch.linalg.cross(forward, up)
    if right.norm() < 1e-6:  # looking along `up`: any other axis does
        right = torch.linalg.cross(forward, torch.roll(up, 1, dims=-1))
    right = torch.nn.functional.normalize(right, dim=-1)
    out = torch.eye(4, dtype=eye.dtype, device=eye.device)
    out[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1)
    out[:3, 3] = eye
    return out


def orbit(camera: Camera, centre: Tensor, up: Tensor, angles_deg: list[float]) -> Camera:
    """`camera` (one pose) turned about the axis `up` (3,) through `centre` (3,) by each angle -> a batch of cameras.
    Angle 0 is the camera itself."""
    poses = []
    axis = torch.nn.functional.normalize(up, dim=-1)
    cross = torch.zeros(3, 3, dtype=axis.dtype, device=axis.device)
    cross[0, 1], cross[0, 2], cross[1, 2] = -axis[2], axis[1], -axis[0]
    cross = cross - cross.T
    for degrees in angles_deg:
        angle = math.radians(degrees)
        rotation = torch.eye(3).to(axis) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
        pose = camera.world_from_cam.clone()
        pose[:3, :3] = rotation @ pose[:3, :3]
        pose[:3, 3] = rotation @ (pose[:3, 3] - centre) + centre
        poses.append(pose)
    count = len(poses)
    return replace(camera, K=camera.K.expand(count, 3, 3), world_from_cam=torch.stack(poses))
