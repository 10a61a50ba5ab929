"""Maps of one picture brought onto the pixels of another by an absolute optical flow, to train R2D2 with.

Flows hold, for each pixel of picture 1, where in picture 2 its spot is: (x, y) counted from the centre of the top-left
pixel, so that the identity is (column, row); NaN where the spot is not seen. Source: Revaud et al., "R2D2: Repeatable
and Reliable Detector and Descriptor", NeurIPS 2019, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dyn4d.core.checks import check_shape

FAR = -1e4  # a pixel outside of every picture; NaN would reach the gradients


def warp(maps: Tensor, aflow: Tensor, *, step: float = 1.0, start: float = 0.0) -> tuple[Tensor, Tensor]:
    """Maps of picture 2 at the pixels of picture 1.

    Args:
        maps: (B, C, h, w) of picture 2, at its pixels start + step * (column, row).
        aflow: (B, 2, H, W) x and y in picture 2, at the pixels of picture 1 that are asked for.

    Returns:
        (B, C, H, W), bilinear, zeros beyond the edge; and (B, H, W) bool: the nearest place is one of the map's. Where
        it is False the values mean nothing.
    """
    sizes: dict[str, int] = {}
    check_shape("maps", maps, ("B", None, None, None), sizes)
    check_shape("aflow", aflow, ("B", 2, None, None), sizes)
    height, width = maps.shape[-2:]
    there = torch.isfinite(aflow).all(1)
    place = torch.where(there[:, None], (aflow - start) / step, torch.full_like(aflow, FAR)).to(maps.dtype)
    # As grid_sample counts them here: -1 and 1 are the outer edges of the outer pixels.
    size = place.new_tensor([width, height]).view(1, 2, 1, 1)
    grid = ((2 * place + 1) / size - 1).permute(0, 2, 3, 1)
    moved = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    nearest = place.round()
    inside = (nearest >= 0) & (nearest < size)
    return moved, inside.all(1)
