"""The motion between two views out of descriptors: exact where they are, none where they say nothing."""

from __future__ import annotations

import roma
import torch
from torch.nn import functional as F

from dyn4d.geometry.soft_motion import ViewCells, motion_between

BATCH, SIDE = 3, 96
COLD = torch.tensor(0.05)


def smooth_map(channels: int, seed: int) -> torch.Tensor:
    """(BATCH, SIDE, SIDE, channels) of random numbers, one for each cell, with lines between."""
    coarse = torch.randn(BATCH, channels, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear").permute(0, 2, 3, 1)


def views() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mask = torch.zeros(BATCH, SIDE, SIDE)
    mask[:, 16:80, 24:72] = 1
    return smooth_map(3, 0) * 0.3 + torch.tensor([0.0, 0, 1]), F.normalize(smooth_map(24, 1), dim=-1), mask


def test_a_similarity_is_found() -> None:
    points, desc, mask = views()
    turn = roma.rotvec_to_rotmat(torch.tensor([[0.4, -0.2, 0.1], [0.0, 0.6, 0.0], [-0.1, 0.1, 0.5]]))
    scale, shift = torch.tensor([0.8, 1.0, 1.25]), torch.tensor([[0.1, 0, 0.2], [0, 0, 0], [0.0, -0.3, 0.1]])
    goal = scale[:, None, None, None] * torch.einsum("bij,bhwj->bhwi", turn, points) + shift[:, None, None]
    found = motion_between(ViewCells.of(points, desc, mask), ViewCells.of(goal, desc, mask), COLD)
    assert torch.allclose(found.turn, turn, atol=0.03) and torch.allclose(found.scale, scale, atol=0.03)
    assert float((found.apply(points) - goal).norm(dim=-1).max()) < 0.05


def test_where_descriptors_say_nothing_there_is_no_turn() -> None:
    points, _, mask = views()
    same = F.normalize(torch.ones(BATCH, SIDE, SIDE, 8), dim=-1)
    found = motion_between(ViewCells.of(points, same, mask), ViewCells.of(points + 0.5, same, mask), COLD)
    assert torch.allclose(found.turn, torch.eye(3).expand(BATCH, 3, 3), atol=1e-3)
    assert torch.allclose(found.scale, torch.ones(BATCH), atol=0.05)
    inside = mask.bool()
    assert torch.allclose(found.apply(points)[inside].mean(0), (points + 0.5)[inside].mean(0), atol=0.02)


def test_what_is_outside_the_masks_counts_for_nothing() -> None:
    points, desc, mask = views()
    outside = ~mask.bool()[..., None]
    found = motion_between(ViewCells.of(points, desc, mask), ViewCells.of(points, desc, mask), COLD)
    spoilt = torch.where(outside, torch.full_like(points, 50.0), points)
    again = motion_between(ViewCells.of(spoilt, desc, mask), ViewCells.of(spoilt, desc, mask), COLD)
    assert torch.allclose(found.turn, again.turn, atol=1e-5) and torch.allclose(found.shift, again.shift, atol=1e-5)


def test_gradients_stay_finite_on_planes_and_without_an_object() -> None:
    points, desc, mask = views()
    points[0, ..., 2], mask[1] = 1.0, 0.0
    points, desc = points.requires_grad_(), desc.requires_grad_()
    found = motion_between(ViewCells.of(points, desc, mask), ViewCells.of(points * 1.1, desc, mask), COLD)
    found.apply(points).square().mean().backward()
    assert points.grad is not None and desc.grad is not None
    assert bool(torch.isfinite(points.grad).all()) and bool(torch.isfinite(desc.grad).all())
