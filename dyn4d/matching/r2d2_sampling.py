"""Which descriptors meet which while R2D2 is trained: queries of picture 1 against a database of picture 2.

Picture 2's descriptors come already warped onto picture 1 (`r2d2_warp.warp`): the true partner of a pixel is the same
pixel. Source: Revaud et al., "R2D2", NeurIPS 2019, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dyn4d.core.checks import check_shape


@dataclass(frozen=True)
class Samples:
    """Queries and what they are compared with.

    Attributes:
        scores: (Q, N) dot products of Q queries with N entries of the database.
        partner: (Q,) int64, the column that is right. known: (Q,) bool, there is one; other rows count for nothing.
        usable: (Q, N) or (1, N) bool, the entry may be compared with.
        reliability: (Q,), the mean of both pictures' at the query.
    """

    scores: Tensor
    partner: Tensor
    known: Tensor
    usable: Tensor
    reliability: Tensor


@dataclass(frozen=True)
class MapPair:
    """Maps of B pairs of pictures, those of the second warped onto the first.

    Attributes:
        desc_a, desc_b: (B, D, H, W). reliability_a, reliability_b: (B, 1, H, W).
        valid: (B, H, W) bool, the pixel of picture 1 is seen in picture 2.
    """

    desc_a: Tensor
    desc_b: Tensor
    reliability_a: Tensor
    reliability_b: Tensor
    valid: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for label, shape in (("desc_a", ("B", "D", "H", "W")), ("desc_b", ("B", "D", "H", "W")),
                             ("reliability_a", ("B", 1, "H", "W")), ("reliability_b", ("B", 1, "H", "W")),
                             ("valid", ("B", "H", "W"))):  # fmt: skip
            check_shape(f"MapPair.{label}", getattr(self, label), shape, sizes)


@dataclass(frozen=True)
class SubSampler:
    """Queries on a grid of every `sub_q`-th pixel, `border` pixels away from the edges; a database of every `sub_d`-th
    pixel that has all queries' partners in it.

    Attributes:
        whole_batch: the database of a query is that of all B pairs, not of its own alone.
    """

    sub_q: int = 8
    sub_d: int = 4
    border: int = 16
    whole_batch: bool = False

    def __post_init__(self) -> None:
        if self.sub_q < 1 or self.sub_d < 1 or self.sub_q % self.sub_d:
            raise ValueError(f"sub_q, sub_d: {self.sub_q}, {self.sub_d}; wanted sub_q to be a multiple of sub_d")
        if self.border < 0:
            raise ValueError(f"border: {self.border}; wanted pixels from 0")

    def __call__(self, maps: MapPair) -> Samples:
        """Raises `ValueError` where the border leaves no pixel."""
        batch, dim, height, width = maps.desc_a.shape
        if min(height, width) <= 2 * self.border:
            raise ValueError(f"border: {self.border}; it leaves nothing of maps of {width} x {height}")
        device = maps.desc_a.device
        start = self.border % self.sub_d
        rows_d, columns_d = (torch.arange(start, side, self.sub_d, device=device) for side in (height, width))
        rows_q, columns_q = (
            torch.arange(self.border, side - self.border, self.sub_q, device=device) for side in (height, width)
        )
        pick_q, pick_d = (..., rows_q[:, None], columns_q), (..., rows_d[:, None], columns_d)
        queries = maps.desc_a[pick_q].flatten(2).transpose(1, 2)  # (B, q, D)
        entries = maps.desc_b[pick_d].flatten(2).transpose(1, 2)  # (B, n, D)
        usable = maps.valid[pick_d].flatten(1)
        reliability = (maps.reliability_a[:, 0][pick_q] + maps.reliability_b[:, 0][pick_q]).flatten() / 2
        partner = ((rows_q - start) // self.sub_d)[:, None] * len(columns_d) + (columns_q - start) // self.sub_d
        partner = partner.flatten().expand(batch, -1)
        known = maps.valid[pick_q].flatten()
        if self.whole_batch:
            offset = torch.arange(batch, device=device)[:, None] * usable.shape[1]
            scores = queries.reshape(-1, dim) @ entries.reshape(-1, dim).T
            return Samples(scores, (partner + offset).flatten(), known, usable.reshape(1, -1), reliability)
        scores = (queries @ entries.transpose(1, 2)).flatten(0, 1)
        allowed = usable[:, None].expand(-1, queries.shape[1], -1).flatten(0, 1)
        return Samples(scores, partner.flatten(), known, allowed, reliability)


def full_sampler(maps: MapPair) -> Samples:
    """Every pixel against every pixel of its own pair: for small maps, as memory grows with the square of H W."""
    return SubSampler(1, 1, 0)(maps)
