"""Affine coupling layers that each move one coordinate (RealNVP; Dinh et al., ICLR 2017), conditioned on time codes.

A layer scales and shifts coordinate k by amounts that depend only on the two other coordinates and on time, so the same
two numbers undo it exactly. Both are cubic splines over the plane of those coordinates, the sum of a pyramid of levels
from a coarse to a fine one; each control point is a linear function of the time code. A limb can so move without its
neighbours, and a point costs 16 look-ups a layer where a network of equal detail costs thousands of multiplications.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dyn4d.deformation.splines import refinement

COARSEST = 4
"""Cells a side of the first level; each level has twice as many as the one before."""


def levels_of(cells: int) -> list[int]:
    """Cells a side of each level, up to `cells`. Raises `ValueError` unless that is 4, 8, 16 ..."""
    levels = [COARSEST]
    while levels[-1] < cells:
        levels.append(2 * levels[-1])
    if levels[-1] != cells:
        raise ValueError(f"cells: {cells}; wanted 4, 8, 16 ...")
    return levels


def coarse_to_fine(levels: int, progress: float) -> Tensor:
    """Window (levels,) at `progress` in [0, 1]: levels open one after another, smoothly (as in BARF and Nerfies)."""
    alpha = progress * levels - torch.arange(levels, dtype=torch.float32)
    return 0.5 * (1 - torch.cos(math.pi * alpha.clamp(0, 1)))


class CouplingStack(nn.Module):
    """The control points of coupling layers one after another, over normalised coordinates (about [-1, 1]³), which
    `splines.couple` moves points with; the identity when made.

    Coordinates are moved in the fixed order x y z x y z …, so that every one is covered alike.

    Args:
        layers: how many. cells: of the finest level, a side. time_features: length of the time code.

    Attributes:
        window: (levels,) weights in [0, 1], for fitting coarse to fine; levels closed at the fine end cost nothing.
    """

    window: Tensor

    def __init__(self, layers: int, *, cells: int, time_features: int) -> None:
        super().__init__()
        self.layers = layers
        self.levels = levels_of(cells)
        self.tables = nn.ParameterList(
            nn.Parameter(torch.zeros(time_features, layers * (cells + 3) ** 2 * 2)) for cells in self.levels
        )
        self.register_buffer("window", torch.ones(len(self.levels)))
        for i, cells in enumerate(self.levels[:-1]):
            finer = refinement(cells).float()
            self.register_buffer(f"down{i}", finer, persistent=False)
            # along a row of control points, whose two numbers lie side by side
            self.register_buffer(f"along{i}", torch.kron(finer, torch.eye(2)).T.contiguous(), persistent=False)

    def planes(self, code: Tensor) -> Tensor:
        """Time codes (B, C) -> control points (B, layers, S, S, 2) of log scale and shift."""
        weights = self.window.tolist()
        total: Tensor | None = None
        side = COARSEST + 3
        for i, cells in enumerate(self.levels):
            if not any(weights[i:]) and total is not None:
                break
            side = cells + 3
            own = ((code * weights[i]) @ self.tables[i]).reshape(-1, side, 2 * side) if weights[i] else None
            if total is not None:
                total = getattr(self, f"down{i - 1}") @ (total @ getattr(self, f"along{i - 1}"))
                own = total if own is None else own + total
            total = own
        if total is None:
            total = code.new_zeros(len(code) * self.layers, side, 2 * side)
        return total.reshape(len(code), self.layers, side, side, 2)
