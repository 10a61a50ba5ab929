"""Normal equations: blocks at their places, and the anchors' depths taken out of them (Schur complement)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


def add_blocks(H: Tensor, g: Tensor, columns: Tensor, blocks: Tensor, gradients: Tensor) -> None:
    """Blocks (N, C, C) and gradients (N, C, 1) at their columns (N, C)."""
    H.index_put_((columns[:, :, None], columns[:, None]), blocks, accumulate=True)
    g.index_put_((columns,), gradients[..., 0], accumulate=True)


@dataclass
class EliminatedAnchors:
    """The anchors of one frame, which hang on its own unknowns and on those of its partners.

    Attributes:
        columns: (C,) of the frame's unknowns, then of each partner's. cross: (A, C), diagonal: (A,), gradient: (A,).
    """

    frame: int
    columns: Tensor
    cross: Tensor
    diagonal: Tensor
    gradient: Tensor

    def eliminate(self, S: Tensor, rhs: Tensor, damping: float) -> None:
        inverse = 1 / (self.diagonal * (1 + damping))
        block = self.cross.T @ (self.cross * inverse[:, None])
        S.index_put_((self.columns[:, None], self.columns[None]), -block, accumulate=True)
        rhs.index_add_(0, self.columns, self.cross.T @ (inverse * self.gradient))

    def back(self, change: Tensor, damping: float) -> Tensor:
        delta = -(self.gradient + self.cross @ change[self.columns]) / (self.diagonal * (1 + damping))
        return delta.clamp(-0.5, 0.5)
