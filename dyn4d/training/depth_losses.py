"""How wrong a depth map is in its shape, whatever its distance: what teaches relief."""

from __future__ import annotations

import torch
from torch import Tensor

from dyn4d.geometry.pair_losses import masked_mean

RELIEF_STEPS = (1, 2, 4, 8, 16)  # px over which depth is compared


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
