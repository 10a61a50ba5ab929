"""Rigid registration of two small coloured point sets that overlap in part.

Soft assignment with a shrinking width, as in coherent point drift (Myronenko & Song 2010), where colours count as much
as places, from several first guesses at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dyn4d.core.knn import nearest
from dyn4d.core.rotations import rigid_fit, weighted_rigid_fit

COLOUR = 0.12
"""Width of the colours' part of the assignment."""
MEET = 0.015
"""Points meet within this distance, relative to the object's size ..."""
MEET_COLOUR = 0.2
"""... and with colours no further apart than this."""
WIDTHS = (0.06, 0.008)
"""First and last width of the places' part, relative to the object's size."""
OUTLIERS = 0.3
"""Share of the target that is expected to have no counterpart."""
STEPS = 30
TURNS = 0.5
"""Angle in radians of the guesses that are turned, about each axis both ways."""


@dataclass(frozen=True)
class Coloured:
    """Points in the world with their colours. Attributes: xyz (N, 3); rgb (N, 3) in [0, 1]."""

    xyz: Tensor
    rgb: Tensor

    def __len__(self) -> int:
        return self.xyz.shape[0]


@dataclass(frozen=True)
class Fit:
    """Attributes:
    moved: (N, 3) the source, placed on the target. rows: (M,) of the source, those that a point of the target meets.
    share_source, share_target: shares of the two sets whose points meet one of the other.
    """

    moved: Tensor
    rows: Tensor
    share_source: float
    share_target: float


def register(source: Coloured, start: Tensor, target: Coloured, *, size: float) -> Fit:
    """Place the source on the target; the best of several runs.

    Args:
        start: (N, 3) where the source's points are guessed to be. size: of the object they are parts of, world units.
    """
    rotations, translations = _guesses(source.xyz, start, target.xyz)
    placed = _drift(source, target, rotations, translations, size)
    fits = [_score(source, moved, target, size) for moved in placed]
    return max(fits, key=lambda fit: fit.share_source + fit.share_target)


def _guesses(source: Tensor, start: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Rigid motions (S, 3, 3), (S, 3): to `start`, from there to the target's centre, and half way, turned."""
    rotation, translation = rigid_fit(source, start)
    centre, away = start.mean(0), target.mean(0) - start.mean(0)
    rotations, translations = [rotation, rotation], [translation, translation + away]
    for axis in range(3):
        for sign in (-1.0, 1.0):
            skew = torch.zeros(3, 3)
            skew[(axis + 2) % 3, (axis + 1) % 3], skew[(axis + 1) % 3, (axis + 2) % 3] = TURNS * sign, -TURNS * sign
            turn = torch.linalg.matrix_exp(skew)
            rotations.append(turn @ rotation)
            translations.append(turn @ (translation - centre) + centre + 0.5 * away)
    return torch.stack(rotations), torch.stack(translations)


def _drift(source: Coloured, target: Coloured, rotations: Tensor, translations: Tensor, size: float) -> Tensor:
    """The source (S, N, 3) after each guess has been improved."""
    # in units of the object and from its middle, so that float32 is enough wherever the world's origin is
    middle = target.xyz.mean(0)
    x, y = (target.xyz - middle) / size, (source.xyz - middle) / size
    translations = (translations + middle @ rotations.transpose(-1, -2) - middle) / size
    tint = torch.cdist(source.rgb, target.rgb).square() / (2 * COLOUR**2)
    floor = OUTLIERS / (1 - OUTLIERS) * len(source) * 0.02
    first, last = WIDTHS
    moved = y @ rotations.transpose(-1, -2) + translations.unsqueeze(-2)
    for step in range(STEPS):
        width = max(first * (last / first) ** (step / (0.75 * STEPS)), last)
        apart = (moved.square().sum(-1).unsqueeze(-1) + x.square().sum(-1) - 2 * moved @ x.T) / (2 * width**2)
        share = torch.exp(-(apart + tint))
        share = share / (share.sum(-2, keepdim=True) + floor)
        weight = share.sum(-1) + 1e-9
        wanted = (share @ x) / weight.unsqueeze(-1)
        rotations, translations = weighted_rigid_fit(y.expand_as(wanted), wanted, weight)
        moved = y @ rotations.transpose(-1, -2) + translations.unsqueeze(-2)
    return moved * size + middle


def _score(source: Coloured, moved: Tensor, target: Coloured, size: float) -> Fit:
    def meets(xyz: Tensor, rgb: Tensor, other: Tensor, other_rgb: Tensor) -> tuple[Tensor, Tensor]:
        distance, index = nearest(xyz, other, 1)
        return (distance[:, 0] < MEET * size) & ((other_rgb[index[:, 0]] - rgb).norm(dim=-1) < MEET_COLOUR), index[:, 0]

    of_source, _ = meets(moved, source.rgb, target.xyz, target.rgb)
    of_target, index = meets(target.xyz, target.rgb, moved, source.rgb)
    rows = torch.unique(index[of_target])
    return Fit(moved, rows, float(of_source.float().mean()), float(of_target.float().mean()))
