"""What a fitted field must satisfy, as unreduced residuals in normalised lengths (half the object's size = 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from dyn4d.core.robust import geman_mcclure
from dyn4d.deformation.observations import Observations


def less_along(off: Tensor, sight: Tensor, share: float) -> Tensor:
    """Vectors (B, N, 3) with `share` of what they have along lines of sight (B, N, 3), of unit length."""
    return off - (1 - share) * (off * sight).sum(-1, keepdim=True) * sight


def transport_residual(moved: Tensor, target: Tensor, half_size: float, robust: float, reach: float | Tensor) -> Tensor:
    """Robust distance (B, N) between transported points (B, N, 3) and where they were matched to.

    Linear from `robust` out to `reach` (both normalised; one for all or (B, 1)), then flattening, so that a false match
    lets go in the end.
    """
    squared = ((moved - target) / half_size).square().sum(-1)
    # Charbonnier of the root, without taking it: its slope at 0, where a match is met exactly, is infinite
    return (geman_mcclure(squared, reach) + robust * robust).sqrt() - robust


def strain(a: Tensor, b: Tensor, moved_a: Tensor, moved_b: Tensor) -> Tensor:
    """Relative change (B, N) of the distance between neighbours, robust: 0 where they move rigidly.

    Flattens beyond about 50 % so that two limbs that touched in one frame may part.
    """
    before = (a - b).norm(dim=-1).clamp_min(1e-6)
    after = (moved_a - moved_b).square().sum(-1).add(1e-12).sqrt()
    return geman_mcclure(((after - before) / before).square(), 0.5)


def visual_residual(
    xyz: Tensor, frames: Tensor, seen: Observations, half_size: float, margin: float
) -> tuple[Tensor, Tensor]:
    """How far points are outside a frame's mask, and how far in front of its surface.

    Points may hide behind the observed surface but not float before it: the camera saw through that space.

    Args:
        xyz: (B, N, 3) world points at the times of `frames` (B,). margin: normalised slack of the depth.

    Returns:
        (B, N) and (B, N), normalised lengths >= 0; 0 beyond the picture's border and behind the camera.
    """
    view, K = seen.cam_from_world[frames], seen.K[frames]
    in_camera = xyz @ view[:, :3, :3].transpose(-1, -2) + view[:, None, :3, 3]
    z = in_camera[..., 2]
    safe = z.clamp_min(1e-6)
    u = (in_camera[..., 0] * K[:, None, 0, 0] + in_camera[..., 1] * K[:, None, 0, 1]) / safe + K[:, None, 0, 2]
    v = in_camera[..., 1] * K[:, None, 1, 1] / safe + K[:, None, 1, 2]
    h, w = seen.outside.shape[1:]
    inside = (u > 0) & (u < w) & (v > 0) & (v < h) & (z > 1e-6)

    grid = torch.stack([2 * u / w - 1, 2 * v / h - 1], dim=-1).unsqueeze(1)
    away = torch.nn.functional.grid_sample(
        seen.outside[frames].unsqueeze(1), grid, mode="bilinear", padding_mode="border", align_corners=False
    )[:, 0, 0]
    world_per_pixel = (z / K[:, None, 0, 0]).detach()
    off_mask = torch.where(inside, away * world_per_pixel / half_size, torch.zeros_like(away))

    column, row = u.detach().long().clamp(0, w - 1), v.detach().long().clamp(0, h - 1)
    surface = seen.depth[frames.unsqueeze(-1), row, column]
    gap = (surface - z) / half_size - margin
    in_front = torch.where(inside & (surface > 0), gap.clamp_min(0), torch.zeros_like(gap))
    return off_mask, in_front


def neighbours(
    xyz: Tensor, frames: Tensor, seen: Observations, points: Tensor, *, reach: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random neighbour on the surface for each point seen in its frame.

    Args:
        xyz: (B, N, 3) world points seen in `frames` (B,). points: (P, 3) all frame points.
        reach: largest offset in reduced pixels.

    Returns:
        (B, N, 3) neighbours and (B, N) bool, whether there is one on the same piece of surface.
    """
    view, K = seen.cam_from_world[frames], seen.K[frames]
    in_camera = xyz @ view[:, :3, :3].transpose(-1, -2) + view[:, None, :3, 3]
    z = in_camera[..., 2].clamp_min(1e-6)
    u = in_camera[..., 0] / z * K[:, None, 0, 0] + K[:, None, 0, 2]
    v = in_camera[..., 1] / z * K[:, None, 1, 1] + K[:, None, 1, 2]
    shape = xyz.shape[:-1]
    angle = 2 * torch.pi * torch.rand(shape, generator=generator)
    radius = 1.0 + reach * torch.rand(shape, generator=generator)
    h, w = seen.rows.shape[1:]
    column = (u + radius * torch.cos(angle)).long().clamp(0, w - 1)
    row = (v + radius * torch.sin(angle)).long().clamp(0, h - 1)
    index = seen.rows[frames.unsqueeze(-1), row, column].long()
    found = points[index.clamp_min(0)]
    # lateral distance that the offset stands for; a much longer 3D distance means another piece of surface
    expected = (radius + 1.0) * z / K[:, None, 0, 0]
    distance = (found - xyz).norm(dim=-1)
    valid = (index >= 0) & (distance < 3.0 * expected) & (distance > 1e-6)
    return torch.where(valid.unsqueeze(-1), found, xyz), valid
