"""The first Gaussians: all frames' points in canonical space, averaged in voxels, laid flat on the surface."""

from __future__ import annotations

import torch
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.knn import nearest
from dyn4d.core.protocols import Field
from dyn4d.core.rotations import matrix_to_wxyz
from dyn4d.core.types import FramePoints, GaussianCloud
from dyn4d.gaussians.config import MOST_POINTS

SH_DC = 0.28209479177387814
"""The first spherical harmonic: rgb = 0.5 + SH_DC · sh[0]."""


@torch.no_grad()
def canonical_points(
    points: FramePoints, field: Field, times: Tensor, *, most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Canonical xyz (P, 3), rgb (P, 3) and confidence (P,) of at most `most` points drawn from all frames.

    A field that cannot go back to canonical space gives the points of the middle frame that has any.
    """
    if not field.invertible:
        frames = torch.unique(points.frame)
        chosen = points.select(points.frame == frames[len(frames) // 2])
        return chosen.xyz, chosen.rgb, chosen.conf
    if len(points) > most:
        points = points.select(torch.randperm(len(points), generator=generator)[:most].sort().values)
    xyz = torch.empty_like(points.xyz)
    for frame in torch.unique(points.frame).tolist():
        rows = points.frame == frame
        xyz[rows] = field.to_canonical(points.xyz[rows], float(times[frame]))
    return xyz, points.rgb, points.conf


def voxel_average(xyz: Tensor, rgb: Tensor, weight: Tensor, size: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted means of points (P, 3) and colours in voxels of side `size`, and how many points each voxel had."""
    cell = torch.floor((xyz - xyz.amin(0)) / size).long()
    extent = cell.amax(0) + 1
    key = (cell[:, 0] * extent[1] + cell[:, 1]) * extent[2] + cell[:, 2]
    _, index, counts = torch.unique(key, return_inverse=True, return_counts=True)
    total = torch.zeros(len(counts)).index_add_(0, index, weight).clamp_min(1e-12)

    def mean(values: Tensor) -> Tensor:
        summed = torch.zeros(len(counts), 3).index_add_(0, index, values * weight.unsqueeze(-1))
        return summed / total.unsqueeze(-1)

    return mean(xyz), mean(rgb), counts


def _voxel_size(xyz: Tensor, count: int) -> float:
    """Voxel side that leaves about `count` voxels, by bisection."""
    extent = float((xyz.amax(0) - xyz.amin(0)).max())
    low, high = extent / 2000, extent
    for _ in range(14):
        middle = (low * high) ** 0.5
        cell = torch.floor((xyz - xyz.amin(0)) / middle).long()
        key = (cell[:, 0] * 4096 + cell[:, 1]) * 4096 + cell[:, 2]
        low, high = (middle, high) if len(torch.unique(key)) > count else (low, middle)
    return high


def surface_frames(xyz: Tensor, neighbours: Tensor) -> Tensor:
    """Axes (G, 3, 3) as columns, the third across the surface: principal axes of each point's neighbours (G, k)."""
    around = xyz[neighbours]
    centred = (around - around.mean(1, keepdim=True)).double()
    _, vectors = torch.linalg.eigh(centred.transpose(-1, -2) @ centred)  # smallest first
    axes = vectors.flip(-1)
    axes[..., 2] = axes[..., 2] * torch.linalg.det(axes).unsqueeze(-1)  # right-handed
    return axes.to(xyz)


@torch.no_grad()
def initial_cloud(
    points: FramePoints, field: Field, times: Tensor, count: int, *, generator: torch.Generator, most: int = MOST_POINTS
) -> GaussianCloud:
    """About `count` Gaussians (SH degree 0) on the canonical surface.

    Raises:
        InputError: there is not a single point.
    """
    if len(points) == 0:
        raise InputError("no frame has a point of the object: look at the masks and the depth (`dyn4d check CLIP`)")
    xyz, rgb, conf = canonical_points(points, field, times, most=most, generator=generator)
    if len(xyz) > count:
        size = _voxel_size(xyz, count)
        mean_xyz, mean_rgb, votes = voxel_average(xyz, rgb, conf, size)
        # a voxel that next to nothing fell into is a stray point, if the others are well filled
        steady = votes >= 2 if float(votes.float().median()) >= 6 else votes >= 1
        xyz, rgb = mean_xyz[steady], mean_rgb[steady]
    distance, index = nearest(xyz, xyz, min(13, len(xyz)))
    spread = distance[:, 1:5].square().mean(-1).sqrt() if len(xyz) > 1 else torch.full((1,), 0.01)
    spread = spread.clamp(float(spread.median()) * 0.3 + 1e-9, float(spread.median()) * 3 + 1e-9)
    if len(xyz) >= 4:
        quats = matrix_to_wxyz(surface_frames(xyz, index))
    else:
        quats = torch.tensor([1.0, 0, 0, 0]).repeat(len(xyz), 1)
    scales = torch.stack([0.75 * spread, 0.75 * spread, 0.25 * spread], dim=-1)
    return GaussianCloud(
        means=xyz.contiguous(),
        quats_wxyz=quats,
        scales=scales,
        opacities=torch.full((len(xyz),), 0.7),
        sh=((rgb - 0.5) / SH_DC).unsqueeze(1),
    )
