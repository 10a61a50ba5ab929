"""How wrong a depth map is in its shape, whatever its distance: what teaches relief."""

from __future__ import annotations

import torch
from torch import Tensor

from dyn4d.geometry.pair_losses import masked_mean

RELIEF_STEPS = (1, 2, 4, 8, 16)  # px over which depth is compared
RELIEF = (1.0, 8.0)  # how much more a picture counts whose object is small beside its distance


def depth_loss(depth: Tensor, truth: Tensor, valid: Tensor, weight: Tensor) -> Tensor:
    """() mean distance of the logarithms of a depth map (B, H, W) from the truth after one factor a picture, so that an
    object's ends count as much as what lies between. weight: (B, 1, 1). Depth that is not valid may be anything but
    NaN."""
    off = torch.where(valid, depth / torch.where(valid, truth, torch.ones_like(truth)), torch.ones_like(depth)).log()
    mean = off.flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)
    return masked_mean((off - mean[:, None, None]).abs() * weight, valid)


def relief_loss(depth: Tensor, truth: Tensor, valid: Tensor, weight: Tensor) -> Tensor:
    """() how wrong the steps of a depth map (B, H, W) are from pixel to pixel and over 2, 4, 8 and 16 of them, as
    logarithms, so that no factor of the whole matters (after Ranftl et al., "Towards Robust Monocular Depth
    Estimation", TPAMI 2022). weight: (B, 1, 1) of the pictures. Depth that is not valid may be anything but NaN."""
    off = torch.where(valid, depth / torch.where(valid, truth, torch.ones_like(truth)), torch.ones_like(depth)).log()
    total = torch.zeros((), device=depth.device)
    for step in RELIEF_STEPS:
        every = max(step // 2, 1)  # neighbouring far steps say the same
        some, there, by = off[:, ::every, ::every], valid[:, ::every, ::every], step // every
        for axis in (1, 2):
            count = some.shape[axis] - by
            first, last = some.narrow(axis, 0, count), some.narrow(axis, by, count)
            both = there.narrow(axis, 0, count) & there.narrow(axis, by, count)
            total = total + masked_mean((last - first).abs() * weight, both)
    return total


def relief_weight(points: Tensor, valid: Tensor) -> Tensor:
    """(B,) of pictures by their points (B, H, W, 3), valid (B, H, W): mean distance over the points' spread, within
    `RELIEF`. An object far beside its size has little relief in its depth, of which no less is wanted."""
    share = valid / valid.flatten(1).sum(1).clamp(min=1)[:, None, None]
    distance = (points.norm(dim=-1) * share).sum((1, 2))
    middle = (points * share[..., None]).sum((1, 2))
    spread = ((points - middle[:, None, None]).square().sum(-1) * share).sum((1, 2)).sqrt()
    return (distance / spread.clamp(min=1e-6)).clamp(*RELIEF)
