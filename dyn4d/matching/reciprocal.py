"""Reciprocal nearest neighbours by going to and fro between two pictures from a sparse grid of seeds, inside masks.

Seeds and search database are the foreground only: no match has an end outside, and the search costs the product of
the seeds and the foreground's pixels. Answers are remembered, so that seeds that have met go on as one.

Source: Leroy et al., "Grounding Image Matching in 3D with MASt3R", ECCV 2024, section 3.3 (fast reciprocal matching).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.checks import check_shape
from dyn4d.core.types import Correspondences, PairPrediction
from dyn4d.matching.nearest import (
    DescriptorPool,
    Distance,
    PixelMatches,
    as_tensor,
    check_pools,
    descriptor_pool,
    nearest_neighbours,
    sorted_matches,
)

Masks = tuple[Tensor | np.ndarray | None, Tensor | np.ndarray | None]


class _Side:
    """One picture's foreground, and which pixel of the other picture each of its pixels was found to be nearest to."""

    def __init__(self, pool: DescriptorPool) -> None:
        self.pool = pool
        self.known = torch.full((len(pool),), -1, dtype=torch.int64, device=pool.pixels.device)

    def nearest(self, rows: Tensor, other: _Side, dist: Distance, block_size: int | None) -> Tensor:
        """(M,) rows of the other pool nearest to this pool's `rows` (M,)."""
        new = torch.unique(rows[self.known[rows] < 0])
        if len(new):
            self.known[new] = nearest_neighbours(
                self.pool.descriptors[new], other.pool.descriptors, dist=dist, block_size=block_size
            )
        return self.known[rows]


@dataclass
class ReciprocalSearch:
    """Two foregrounds and what is known of their nearest neighbours; shared by all searches between them."""

    a: _Side
    b: _Side
    dist: Distance = "dot"
    block_size: int | None = None

    @staticmethod
    def between(
        pool_a: DescriptorPool, pool_b: DescriptorPool, dist: Distance = "dot", block_size: int | None = None
    ) -> ReciprocalSearch:
        check_pools(pool_a, pool_b)
        return ReciprocalSearch(_Side(pool_a), _Side(pool_b), dist, block_size)

    def reversed(self) -> ReciprocalSearch:
        """The search from b to a; what one of them learns the other knows."""
        return ReciprocalSearch(self.b, self.a, self.dist, self.block_size)

    def there(self, rows: Tensor) -> Tensor:
        return self.a.nearest(rows, self.b, self.dist, self.block_size)

    def back(self, rows: Tensor) -> Tensor:
        return self.b.nearest(rows, self.a, self.dist, self.block_size)

    def converge(self, seeds: Tensor, max_rounds: int) -> tuple[Tensor, Tensor]:
        """Rows of a and b where the seeds (M,) come to rest; those still moving after `max_rounds` are left out."""
        p, q = seeds.clone(), torch.full_like(seeds, -1)
        moving = torch.arange(len(seeds), device=seeds.device)
        at_rest = torch.zeros(len(seeds), dtype=torch.bool, device=seeds.device)
        for _ in range(max_rounds):
            if len(moving) == 0:
                break
            arrived = self.there(p[moving])
            same = arrived == q[moving]
            q[moving] = arrived
            at_rest[moving[same]] = True
            moving = moving[~same]
            returned = self.back(q[moving])
            same = returned == p[moving]
            p[moving] = returned
            at_rest[moving[same]] = True
            moving = moving[~same]
        return p[at_rest], q[at_rest]

    def round_trip(self, seeds: Tensor, pixel_tol: float) -> tuple[Tensor, Tensor]:
        """The seeds (M,) that come back after one round to themselves, or to within less than `pixel_tol` pixels."""
        q = self.there(seeds)
        returned = self.back(q)
        if pixel_tol > 0:
            keep = (self.a.pool.xy(returned) - self.a.pool.xy(seeds)).double().norm(dim=-1) < pixel_tol
        else:
            keep = returned == seeds
        return seeds[keep], q[keep]

    def matches(
        self, seeds: Tensor, *, max_rounds: int = 10, one_round: bool = False, pixel_tol: float = 0.0
    ) -> PixelMatches:
        """Sorted matches from rows of a (M,); legal with no seeds and with empty foregrounds."""
        if len(seeds) == 0 or len(self.b.pool) == 0:
            none = seeds[:0]
            return sorted_matches(self.a.pool, self.b.pool, none, none)
        rows = self.round_trip(seeds, pixel_tol) if one_round else self.converge(seeds, max_rounds)
        return sorted_matches(self.a.pool, self.b.pool, *rows)


def grid_seeds(pool: DescriptorPool, subsample: int) -> Tensor:
    """Rows (M,) of the pool to start from: one for each cell of `subsample` x `subsample` pixels with any foreground.

    Cells are centred on columns and rows subsample // 2, + subsample, ... The seed is the cell's centre or, where that
    is background, the foreground pixel nearest to it in the cell (the upper, then the left one of equals). What is left
    of the picture beyond the last centre's cell counts to that cell, so that no part of an object is without a seed.
    """
    if subsample < 1:
        raise ValueError(f"subsample: {subsample}; wanted at least 1")
    start = subsample // 2
    across = len(range(start, pool.width, subsample))
    down = len(range(start, pool.height, subsample))
    if across == 0 or down == 0 or len(pool) == 0:  # a picture smaller than half a cell has no centre
        return pool.pixels.new_zeros(0)
    xy = pool.xy(torch.arange(len(pool), device=pool.pixels.device))
    column = torch.div(xy[:, 0], subsample, rounding_mode="floor").clamp(max=across - 1)
    row = torch.div(xy[:, 1], subsample, rounding_mode="floor").clamp(max=down - 1)
    centre = torch.stack([column, row], dim=-1) * subsample + start
    distance = (xy - centre).square().sum(-1)
    order = torch.arange(len(pool), device=distance.device)
    key = distance * len(pool) + order  # nearest first, then first in the picture
    best = torch.full((across * down,), torch.iinfo(torch.int64).max, dtype=torch.int64, device=key.device)
    best.scatter_reduce_(0, row * across + column, key, "amin")
    best = best[best < torch.iinfo(torch.int64).max]
    return best % len(pool)


def _explicit_seeds(pool: DescriptorPool, seeds: Tensor | np.ndarray) -> Tensor:
    seeds = as_tensor(seeds).to(pool.pixels.device)
    check_shape("seeds", seeds, ("M", 2))
    if seeds.is_floating_point() or seeds.dtype == torch.bool:
        raise ValueError(f"seeds: wanted whole pixels (column, row), found {seeds.dtype}; use seeds.long()")
    x, y = seeds.long().unbind(-1)
    inside = (x >= 0) & (x < pool.width) & (y >= 0) & (y < pool.height)
    if not bool(inside.all()):
        wrong = seeds[~inside][0].tolist()
        raise ValueError(f"seeds: {wrong} is not in the picture of {pool.width} x {pool.height} pixels")
    rows = pool.rows(y * pool.width + x)
    return rows[rows >= 0]


def drop_border(matches: PixelMatches, size_a: tuple[int, int], size_b: tuple[int, int], border: int) -> Tensor:
    """(M,) bool, True where both ends are at least `border` pixels from the edges; sizes are (width, height)."""
    keep = torch.ones(len(matches.xy_a), dtype=torch.bool, device=matches.xy_a.device)
    if border > 0:
        for xy, size in ((matches.xy_a, size_a), (matches.xy_b, size_b)):
            for axis in (0, 1):
                keep &= (xy[:, axis] >= border) & (xy[:, axis] < size[axis] - border)
    return keep


def fast_reciprocal_matches(
    desc_a: Tensor | np.ndarray,
    desc_b: Tensor | np.ndarray,
    *,
    mask_a: Tensor | np.ndarray | None = None,
    mask_b: Tensor | np.ndarray | None = None,
    subsample: int = 8,
    dist: Distance = "dot",
    max_rounds: int = 10,
    border: int = 0,
    block_size: int | None = None,
    seeds: Tensor | np.ndarray | None = None,
    pixel_tol: float = 0.0,
) -> PixelMatches:
    """Matches between two pictures inside their masks, found from a sparse grid of seeds in picture a.

    Each seed goes to its nearest neighbour in b and back to that one's nearest in a until it rests; the pair at rest
    are each other's nearest neighbours among the foreground. A match may have moved away from its seed. No match is a
    legal answer: empty masks, no seeds, nothing at rest give (0, 2) tensors.

    Args:
        desc_a: (Ha, Wa, D), desc_b: (Hb, Wb, D) descriptors of any float dtype, on one device. Pixels with a NaN, an
            infinity or zeros only never match.
        mask_a, mask_b: (H, W) bool, True = object; None = the whole picture. Outside is neither seed nor database.
        subsample: pixels between the seeds; see `grid_seeds`.
        dist: "dot" (largest product) or "l2" (smallest distance).
        max_rounds: how often a seed may go there and back.
        border: matches with an end closer than this to a picture's edge are dropped.
        block_size: see `nearest_neighbours`; the result does not depend on it.
        seeds: (M, 2) whole pixels (column, row) of a to start from instead of the grid. They go one round only, and
            those outside the mask have no match.
        pixel_tol: where above 0, each seed goes one round only, and is kept itself, with its nearest neighbour in b,
            if it comes back to less than this many pixels away.

    Returns:
        `PixelMatches` (xy_a, xy_b), (M, 2) int64 (column, row), each pair once, sorted by pixel of a, then of b. It
        unpacks like a tuple. For coordinates of `docs/conventions.md` add 0.5.
    """
    if max_rounds < 1:
        raise ValueError(f"max_rounds: {max_rounds}; wanted at least 1")
    if border < 0:
        raise ValueError(f"border: {border}; wanted a number of pixels from 0")
    if not pixel_tol >= 0:
        raise ValueError(f"pixel_tol: {pixel_tol}; wanted a number of pixels from 0")
    pool_a = descriptor_pool(desc_a, mask_a, name="desc_a")
    pool_b = descriptor_pool(desc_b, mask_b, name="desc_b")
    search = ReciprocalSearch.between(pool_a, pool_b, dist, block_size)
    start = grid_seeds(pool_a, subsample) if seeds is None else _explicit_seeds(pool_a, seeds)
    one_round = seeds is not None or pixel_tol > 0
    found = search.matches(start, max_rounds=max_rounds, one_round=one_round, pixel_tol=pixel_tol)
    keep = drop_border(found, (pool_a.width, pool_a.height), (pool_b.width, pool_b.height), border)
    return PixelMatches(found.xy_a[keep], found.xy_b[keep])


@dataclass(frozen=True)
class WeightedMatches:
    """Matched pixels of one pair of pictures, each pair of pixels once.

    Attributes:
        xy_a, xy_b: (M, 2) int64 (column, row). weight: (M,) float32 > 0.
    """

    xy_a: Tensor
    xy_b: Tensor
    weight: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for label, shape in (("xy_a", ("M", 2)), ("xy_b", ("M", 2)), ("weight", ("M",))):
            check_shape(f"WeightedMatches.{label}", getattr(self, label), shape, sizes)

    def __len__(self) -> int:
        return self.weight.shape[0]

    def to_correspondences(self, frame_a: int = 0, frame_b: int = 1) -> Correspondences:
        """The same on the CPU with pixel centres at half-integers, in the frames that the pictures are."""
        count = len(self)
        return Correspondences(
            torch.full((count,), frame_a, dtype=torch.int64),
            torch.full((count,), frame_b, dtype=torch.int64),
            self.xy_a.cpu().float() + 0.5,
            self.xy_b.cpu().float() + 0.5,
            self.weight.cpu().float(),
        )


def _pass(prediction: PairPrediction, index: int, swapped: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Descriptors of a and b and their confidence in one decoder pass."""
    parts = (prediction.desc_a, prediction.desc_b, prediction.desc_conf_a, prediction.desc_conf_b)
    if any(part is None for part in parts):
        raise ValueError(
            "prediction: it has no descriptors (a DUSt3R network gives none); use a MASt3R network, or match its "
            "points with fast_reciprocal_matches(points_a, points_b_in_a, dist='l2')"
        )
    desc_a, desc_b, conf_a, conf_b = (part[index] for part in parts if part is not None)
    return (desc_b, desc_a, conf_b, conf_a) if swapped else (desc_a, desc_b, conf_a, conf_b)


def extract_correspondences(
    prediction_ab: PairPrediction,
    prediction_ba: PairPrediction | None = None,
    masks: Masks | None = None,
    *,
    subsample: int = 8,
    dist: Distance = "dot",
    max_rounds: int = 10,
    border: int = 0,
    block_size: int | None = None,
    pixel_tol: float = 0.0,
    weights: Literal["sqrt", "min"] | None = None,
    index: int = 0,
) -> WeightedMatches:
    """Matches of one pair of pictures from all that a network said of it, both ways and in both decoder passes.

    Args:
        prediction_ab: of the pair (a, b). prediction_ba: of the pair (b, a), or None where only one pass was made.
        masks: (mask_a, mask_b), bool (H, W), True = object; None = everything.
        subsample, dist, max_rounds, border, block_size, pixel_tol: see `fast_reciprocal_matches`.
        weights: of the two descriptors' confidences the geometric mean ("sqrt") or the lesser ("min"). None: "sqrt"
            for two passes, "min" for one.
        index: which pair of the batch.

    Returns:
        Each pair of pixels once, sorted by pixel of a, then of b, with the weight of the first pass and direction that
        found it. Pairs whose weight is 0 or not a number are dropped.
    """
    mask_a, mask_b = masks if masks is not None else (None, None)
    weights = weights or ("min" if prediction_ba is None else "sqrt")
    passes = [_pass(prediction_ab, index, False)]
    if prediction_ba is not None:
        passes.append(_pass(prediction_ba, index, True))
        if passes[0][0].shape != passes[1][0].shape or passes[0][1].shape != passes[1][1].shape:
            raise ValueError("prediction_ba: its pictures have other sizes than those of prediction_ab, swapped")
    pairs: list[Tensor] = []
    values: list[Tensor] = []
    for desc_a, desc_b, conf_a, conf_b in passes:
        pool_a = descriptor_pool(desc_a, mask_a, name="desc_a")
        pool_b = descriptor_pool(desc_b, mask_b, name="desc_b")
        there = ReciprocalSearch.between(pool_a, pool_b, dist, block_size)
        how = {"max_rounds": max_rounds, "one_round": pixel_tol > 0, "pixel_tol": pixel_tol}
        forward = there.matches(grid_seeds(pool_a, subsample), **how)
        backward = there.reversed().matches(grid_seeds(pool_b, subsample), **how)
        xy = torch.cat([torch.cat(forward, 1), torch.cat(backward[::-1], 1)])
        weight_a, weight_b = conf_a[xy[:, 1], xy[:, 0]].float(), conf_b[xy[:, 3], xy[:, 2]].float()
        pairs.append(xy)
        values.append((weight_a * weight_b).sqrt() if weights == "sqrt" else torch.minimum(weight_a, weight_b))
    xy, weight = torch.cat(pairs), torch.cat(values)
    (height_a, width_a), (height_b, width_b) = passes[0][0].shape[:2], passes[0][1].shape[:2]
    ends = PixelMatches(xy[:, :2], xy[:, 2:])
    keep = drop_border(ends, (width_a, height_a), (width_b, height_b), border)
    keep &= torch.isfinite(weight) & (weight > 0)
    xy, weight = xy[keep], weight[keep]
    first = first_of_each((xy[:, 1] * width_a + xy[:, 0]) * (width_b * height_b) + xy[:, 3] * width_b + xy[:, 2])
    return WeightedMatches(xy[first, :2], xy[first, 2:], weight[first])


def first_of_each(keys: Tensor) -> Tensor:
    """(M,) where each value of `keys` (N,) int64 comes first, in the order of the values."""
    values, which = torch.unique(keys, return_inverse=True)
    first = torch.full((len(values),), len(keys), dtype=torch.int64, device=keys.device)
    first.scatter_reduce_(0, which, torch.arange(len(keys), device=keys.device), "amin")
    return first
