"""The moving Gaussians frame by frame, ready for files that interpolate between frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations, product

import torch
from torch import Tensor

from dyn4d.core.protocols import Field
from dyn4d.core.rotations import matrix_to_wxyz, wxyz_to_matrix
from dyn4d.core.types import GaussianCloud, Timeline
from dyn4d.gaussians.warp import move_cloud


def moved_frames(cloud: GaussianCloud, field: Field, timeline: Timeline) -> Iterator[GaussianCloud]:
    """The cloud at each frame's time, on the CPU; row i is the same Gaussian in all.

    An ellipsoid has 24 right-handed sets of axes. Of those the one nearest to the frame before is taken, and of q and
    -q the nearer too, so that rotations and scales go from frame to frame without jumps.
    """
    before: GaussianCloud | None = None
    for t in timeline.times:
        moved = move_cloud(cloud, field, float(t)).to("cpu")
        if before is not None:
            moved = follow_axes(before, moved)
        yield moved
        before = moved


def follow_axes(before: GaussianCloud, moved: GaussianCloud) -> GaussianCloud:
    """`moved` (G) with its axes reordered and flipped to lie nearest to those of `before`; the same Gaussians."""
    first, last = wxyz_to_matrix(before.quats_wxyz.double()), wxyz_to_matrix(moved.quats_wxyz.double())
    turns, orders = _axis_turns()
    agreement = torch.einsum("gij,gik,tkj->gt", first, last, turns.to(first))  # trace(firstᵀ last turn)
    best = agreement.argmax(dim=1)
    quats = matrix_to_wxyz(last @ turns.to(last)[best]).to(moved.quats_wxyz)
    quats = torch.where((quats * before.quats_wxyz).sum(-1, keepdim=True) < 0, -quats, quats)
    return replace(moved, quats_wxyz=quats, scales=moved.scales.gather(1, orders[best]))


def _axis_turns() -> tuple[Tensor, Tensor]:
    """The 24 rotations (24, 3, 3) that take axes to axes, and which axis each new one was (24, 3)."""
    turns, orders = [], []
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            turn = torch.eye(3, dtype=torch.float64)[:, list(order)] * torch.tensor(signs, dtype=torch.float64)
            if torch.linalg.det(turn) > 0:
                turns.append(turn)
                orders.append(torch.tensor(order))
    return torch.stack(turns), torch.stack(orders)
