"""Rotations and rigid motions. The only file that calls roma, whose quaternions are xyzw; outside they are wxyz."""

from __future__ import annotations

from typing import Any

import roma
import torch
from torch import Tensor


def wxyz_to_matrix(quats: Tensor) -> Tensor:
    """Quaternions (..., 4) wxyz of any length > 0 -> rotation matrices (..., 3, 3)."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(*quats.shape[:-1], 3, 3)


def matrix_to_wxyz(matrices: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) -> unit quaternions (..., 4) wxyz."""
    return roma.quat_xyzw_to_wxyz(roma.rotmat_to_unitquat(matrices))


def slerp(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    """Shortest-arc interpolation of unit quaternions wxyz (N, 4) at `fraction` (N,) in [0, 1] -> (N, 4).

    Gradients take the angle between the two for a constant: exact at both ends, and finite where they are the same."""
    b = torch.where((a * b).sum(-1, keepdim=True) < 0, -b, b)
    cosine = (a * b).detach().sum(-1, keepdim=True).clamp(-1, 1)
    angle = torch.arccos(cosine)
    sine = torch.sin(angle)
    fraction = fraction.unsqueeze(-1)
    near = sine < 1e-4  # nearly the same rotation: a straight line is exact to rounding
    safe = torch.where(near, torch.ones_like(sine), sine)
    wa = torch.where(near, 1 - fraction, torch.sin((1 - fraction) * angle) / safe)
    wb = torch.where(near, fraction, torch.sin(fraction * angle) / safe)
    return torch.nn.functional.normalize(wa * a + wb * b, dim=-1)


def rigid_fit(source: Tensor, target: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Least-squares rotation R (3, 3) and translation t (3,) with target ≈ R source + t.

    Args:
        source, target: (N, 3) matching points.
        weights: (N,) non-negative.

    Source: Kabsch/Umeyama, solved by roma.
    """
    found: Any = roma.rigid_points_registration(source, target, weights=weights)
    return found[0], found[1]


def similarity_fit(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least-squares R (3, 3), t (3,), scale () with target ≈ scale R source + t. Points are (N, 3)."""
    found: Any = roma.rigid_points_registration(source, target, compute_scaling=True)
    return found[0], found[1], found[2]


def rotation_angle(a: Tensor, b: Tensor) -> Tensor:
    """Geodesic distance in radians between rotation matrices (..., 3, 3)."""
    return roma.rotmat_geodesic_distance(a, b)


def weighted_similarity_fit(source: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least-squares R (..., 3, 3), t (..., 3), scale (...,) with target ≈ scale R source + t.

    Args:
        source, target: (..., N, 3) matching points. weights: (..., N) non-negative, of a positive sum; points of weight
            0 count for nothing, but must be finite.
    """
    found: Any = roma.rigid_points_registration(source, target, weights=weights, compute_scaling=True)
    return found[0], found[1], found[2]


def weighted_rigid_fit(source: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares R (..., 3, 3), t (..., 3) with target ≈ R source + t; arguments as in `weighted_similarity_fit`."""
    found: Any = roma.rigid_points_registration(source, target, weights=weights)
    return found[0], found[1]


def rotation_vector(matrices: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) -> axis times angle in radians (..., 3), at most π long."""
    return roma.rotmat_to_rotvec(matrices)
