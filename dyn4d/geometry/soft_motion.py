"""The motion from one view to another out of what their descriptors say is the same, differentiably.

Cells of the second view are laid over the cells of the first that look like them, each as sharply as the descriptors
allow, and one similarity transform is fitted (Umeyama, "Least-squares estimation of transformation parameters between
two point patterns", 1991). What moves otherwise counts as noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dyn4d.core.rotations import weighted_similarity_fit

CELL = 8  # pixels a side
STILL = 0.01  # weight of no motion, beside cells that are matched beyond doubt; it decides where nothing is matched
SCALE = (0.3, 3.0)


@dataclass(frozen=True)
class ViewCells:
    """Means over the cells of B views.

    Attributes:
        points: (B, N, 3). desc: (B, N, D), of unit length. share: (B, N) of the cell that is object.
    """

    points: Tensor
    desc: Tensor
    share: Tensor

    @staticmethod
    def of(points: Tensor, desc: Tensor, mask: Tensor) -> ViewCells:
        """From points (B, H, W, 3), descriptors (B, H, W, D) and masks (B, H, W) in [0, 1]."""
        share = F.avg_pool2d(mask[:, None], CELL)
        both = torch.cat([points, desc], -1) * mask[..., None]
        means = F.avg_pool2d(both.permute(0, 3, 1, 2), CELL) / (share + 1e-6)
        means = means.flatten(2).transpose(1, 2)
        return ViewCells(means[..., :3], F.normalize(means[..., 3:], dim=-1, eps=1e-4), share.flatten(1))


@dataclass(frozen=True)
class Motion:
    """x → scale · turn x + shift, of B pairs: turn (B, 3, 3), shift (B, 3), scale (B,)."""

    turn: Tensor
    shift: Tensor
    scale: Tensor

    def apply(self, points: Tensor) -> Tensor:
        """Points (B, H, W, 3)."""
        turned = torch.einsum("bij,bhwj->bhwi", self.turn, points)
        return self.scale[:, None, None, None] * turned + self.shift[:, None, None]


def motion_between(source: ViewCells, target: ViewCells, temperature: Tensor) -> Motion:
    """What lays the cells of `source` on those of `target`. Where nothing matches it is a shift of the middle, without
    a turn. temperature: () of the descriptors' products."""
    likeness = source.desc @ target.desc.transpose(1, 2) / temperature + (target.share + 1e-6).log()[:, None]
    chosen = likeness.softmax(-1)
    goal = chosen @ target.points
    total = target.share.sum(1, keepdim=True) + 1e-6
    any_cell = (target.share / total).square().sum(1, keepdim=True)  # what a choice without a reason comes to
    sure = ((chosen.detach().square().sum(-1) - any_cell) / (1 - any_cell).clamp(min=1e-3)).clamp(min=0)
    weight = source.share * sure
    middle, reach = _middle(source)
    there, _ = _middle(target)
    axes = torch.cat([torch.eye(3), -torch.eye(3)]).to(reach)[None] * reach[:, None, None]
    still = (STILL / 6 * source.share.sum(1, keepdim=True) + 1e-6).expand(-1, 6)
    turn, shift, scale = weighted_similarity_fit(
        torch.cat([source.points, middle[:, None] + axes], 1), torch.cat([goal, there[:, None] + axes], 1),
        torch.cat([weight, still], 1),
    )  # fmt: skip
    held = scale.clamp(*SCALE)
    # where the scale is held, the shift keeps the middle where it was
    moved = torch.einsum("bij,bj->bi", turn, middle)
    return Motion(turn, shift + (scale - held)[:, None] * moved, held)


def _middle(cells: ViewCells) -> tuple[Tensor, Tensor]:
    """(B, 3) mean and (B,) spread of a view's cells, without gradient of the spread."""
    share = cells.share + 1e-6
    share = share / share.sum(1, keepdim=True)
    middle = (cells.points * share[..., None]).sum(1)
    spread = ((cells.points - middle[:, None]).square().sum(-1) * share).sum(1)
    return middle, (spread + 1e-8).sqrt().detach()
