"""Moving Gaussians with a field: means by the map itself, rotation and stretch by its Jacobian."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dyn4d.core.protocols import Field
from dyn4d.core.rotations import matrix_to_wxyz, wxyz_to_matrix
from dyn4d.core.types import GaussianCloud
from dyn4d.raster.sh import rotate_sh


@dataclass(frozen=True)
class MovedGaussians:
    """Means (G, 3), covariances (G, 3, 3) and colours (G, K, 3) in the world at one time, differentiable."""

    means: Tensor
    covars: Tensor
    sh: Tensor


def covariance(frames: Tensor, scales: Tensor) -> Tensor:
    """Covariances (G, 3, 3) of Gaussians with axes `frames` (G, 3, 3) as columns and standard deviations (G, 3)."""
    factor = frames * scales.unsqueeze(-2)
    return factor @ factor.transpose(-1, -2)


def nearest_rotation(jacobian: Tensor, rounds: int = 6) -> Tensor:
    """The rotations (G, 3, 3) nearest to Jacobians (G, 3, 3) of positive determinant: their polar factor, by Newton's
    iteration X <- (X + X⁻ᵀ) / 2 (Higham, 1986)."""
    x = jacobian
    for _ in range(rounds):
        a, b, c = x.unbind(-2)
        cofactors = torch.stack([b.cross(c, dim=-1), c.cross(a, dim=-1), a.cross(b, dim=-1)], dim=-2)
        x = 0.5 * (x + cofactors / (a * cofactors[..., 0, :]).sum(-1, keepdim=True).unsqueeze(-1))
    return x


def move(cloud: GaussianCloud, field: Field, t: float) -> MovedGaussians:
    """Move Gaussians from canonical space to time t; used at every training step.

    The Jacobian J is a constant, unless the field learns it apart from the motion: gradients reach the field through
    the means, and rotations and scales through the covariance J Σ Jᵀ. Colours that change with the view turn along.
    """
    means, jacobian = field.motion(cloud.means, t)
    covars = covariance(jacobian @ wxyz_to_matrix(cloud.quats_wxyz), cloud.scales)
    sh = cloud.sh
    if cloud.sh_degree:
        sh = rotate_sh(sh, nearest_rotation(jacobian.detach()))
    return MovedGaussians(means, covars, sh)


@torch.no_grad()
def move_cloud(cloud: GaussianCloud, field: Field, t: float, *, chunk: int = 16384) -> GaussianCloud:
    """The cloud at time t as Gaussians again: J R S = U S' Vᵀ gives the new rotation U and scales S'."""
    means, quats, scales, sh = [], [], [], []
    for start in range(0, max(len(cloud), 1), chunk):
        part = slice(start, start + chunk)
        moved, jacobian = field.motion(cloud.means[part], t)
        means.append(moved)
        factor = jacobian @ wxyz_to_matrix(cloud.quats_wxyz[part]) * cloud.scales[part].unsqueeze(-2)
        u, s, _ = torch.linalg.svd(factor.double())
        u = torch.cat([u[..., :2], u[..., 2:] * torch.linalg.det(u)[..., None, None]], dim=-1)  # a proper rotation
        quats.append(matrix_to_wxyz(u).to(cloud.means))
        scales.append(s.to(cloud.means).clamp_min(1e-9))
        sh.append(rotate_sh(cloud.sh[part], nearest_rotation(jacobian)) if cloud.sh_degree else cloud.sh[part])
    return replace(
        cloud, means=torch.cat(means), quats_wxyz=torch.cat(quats), scales=torch.cat(scales), sh=torch.cat(sh)
    )
