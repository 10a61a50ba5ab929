"""Drawing batches of correspondences: B frame pairs with N matches each."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dyn4d.core.types import LiftedPairs


@dataclass(frozen=True)
class PairBatch:
    """Attributes: frame_a, frame_b (B,) int64; xyz_a, xyz_b (B, N, 3) world; weight (B, N)."""

    frame_a: Tensor
    frame_b: Tensor
    xyz_a: Tensor
    xyz_b: Tensor
    weight: Tensor

    def and_also(self, other: PairBatch) -> PairBatch:
        """Both, one after the other; they have the same N."""
        return PairBatch(*(torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


class PairSampler:
    """Draws frame pairs, then matches of each. Pairs with more frames between them are drawn as often as neighbours,
    so that far correspondences hold the clip together."""

    def __init__(self, pairs: LiftedPairs, count: int) -> None:
        self.pairs = pairs
        key = pairs.frame_a * count + pairs.frame_b
        unique, sizes = torch.unique_consecutive(key, return_counts=True)
        self.frame_a, self.frame_b = unique // count, unique % count
        self.sizes = sizes
        self.starts = torch.cumsum(sizes, 0) - sizes
        # a pair counts by how much it saw, up to a limit: tiny pairs are mostly chance matches
        self.chance = sizes.clamp_max(400).double()

    def __len__(self) -> int:
        return len(self.sizes)

    def draw(self, batch: int, size: int, generator: torch.Generator, *, gap: int | None = None) -> PairBatch:
        """`batch` frame pairs with `size` matches each; none more than `gap` frames apart, if there are such."""
        chance = self.chance
        if gap is not None:
            near = (self.frame_a - self.frame_b).abs() <= gap
            chance = chance * near if near.any() else chance
        chosen = torch.multinomial(chance, batch, replacement=True, generator=generator)
        fraction = torch.rand(batch, size, generator=generator, dtype=torch.float64)
        rows = self.starts[chosen, None] + (fraction * self.sizes[chosen, None]).long()
        p = self.pairs
        return PairBatch(self.frame_a[chosen], self.frame_b[chosen], p.xyz_a[rows], p.xyz_b[rows], p.weight[rows])
