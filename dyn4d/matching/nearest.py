"""Nearest neighbours in descriptor space, foreground only, tile by tile, in both directions at once.

The products are float32 and only the maximum of each tile is kept. All tiles that could then hold the winner of a query
are looked at again in float64, and the lowest index wins a tie. The answer therefore does not depend on the size of the
tiles, on the number of threads, on the device or on what else is asked for at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Distance = Literal["dot", "l2"]
DISTANCES: tuple[Distance, ...] = ("dot", "l2")

GROUPS = 64  # at most this many maxima are kept for each query: 256 bytes, some 2.7 times a descriptor of 24 numbers

# Scores this close, relative to the norms, are a tie. Products of float32 descriptors mean nothing beyond float32:
# which of two wins there would be the luck of the order of summation. Distances are between points as well, whose
# differences may be small beside their coordinates: only what float64 adds by itself is a tie.
TIES: dict[Distance, float] = {"dot": 2 * torch.finfo(torch.float32).eps, "l2": 1e-14}


class PixelMatches(NamedTuple):
    """Matched pixels of two pictures, each pair once, sorted by row and column in a, then in b.

    Attributes:
        xy_a, xy_b: (M, 2) int64 (column, row) of a pixel, counted from 0. Its centre lies half a pixel further.
    """

    xy_a: Tensor
    xy_b: Tensor


@dataclass(frozen=True)
class DescriptorPool:
    """The pixels of one picture that may be matched.

    Attributes:
        descriptors: (N, D) float32, finite and not zero.
        pixels: (N,) int64 flat index (row * width + column), ascending.
        width, height: of the picture.
    """

    descriptors: Tensor
    pixels: Tensor
    width: int
    height: int

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def xy(self, rows: Tensor) -> Tensor:
        """(M, 2) int64 (column, row) of the pool's rows (M,)."""
        flat = self.pixels[rows]
        return torch.stack([flat % self.width, torch.div(flat, self.width, rounding_mode="floor")], dim=-1)

    def rows(self, pixels: Tensor) -> Tensor:
        """(M,) rows of flat pixel indices (M,); -1 where a pixel is not in the pool."""
        if len(self) == 0:
            return torch.full_like(pixels, -1)
        at = torch.searchsorted(self.pixels, pixels).clamp(max=len(self) - 1)
        return torch.where(self.pixels[at] == pixels, at, -1)


def as_tensor(value: Tensor | np.ndarray) -> Tensor:
    """A tensor that shares the memory of an array where it can."""
    return value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))


def descriptor_pool(
    desc: Tensor | np.ndarray, mask: Tensor | np.ndarray | None = None, *, name: str = "desc"
) -> DescriptorPool:
    """The pixels inside `mask` whose descriptor says something.

    Args:
        desc: (H, W, D) of any float dtype, on any device. Pixels with a NaN, an infinity or zeros only are left out.
        mask: (H, W) bool, True = object; None = the whole picture.
        name: what the caller calls `desc`, for the messages.
    """
    desc = as_tensor(desc).detach()
    if desc.ndim != 3 or not desc.is_floating_point():
        raise ValueError(f"{name}: wanted floats (H, W, D), found {desc.dtype} {tuple(desc.shape)}")
    height, width = desc.shape[:2]
    flat = desc.reshape(height * width, -1)
    pixels = torch.arange(height * width, device=flat.device)
    if mask is not None:
        mask = as_tensor(mask)
        if mask.shape != (height, width) or mask.dtype != torch.bool:
            found = f"{mask.dtype} {tuple(mask.shape)}"
            raise ValueError(f"mask of {name}: wanted bool ({height}, {width}) as {name} has, found {found}")
        pixels = pixels[mask.to(flat.device).reshape(-1)]
        flat = flat[pixels]
    usable = torch.isfinite(flat).all(-1) & (flat != 0).any(-1)
    return DescriptorPool(flat[usable].to(torch.float32).contiguous(), pixels[usable], width, height)


def _prepared(a: Tensor, b: Tensor, dist: Distance) -> tuple[Tensor, Tensor]:
    """Float64 vectors of the database b and of the queries a whose largest dot product marks the nearest neighbour."""
    a, b = a.detach().double(), b.detach().double()
    if dist == "dot":
        return a, b
    # |a - b|² = |a|² - 2 (a·b - |b|²/2); the means are taken out so that float32 loses less of it.
    centre = b.mean(0)
    a, b = a - centre, b - centre
    return torch.cat([a, torch.ones_like(a[:, :1])], 1), torch.cat([b, b.square().sum(1, keepdim=True) / -2], 1)


def _maxima(
    query: Tensor, database: Tensor, tile: int, groups: tuple[int, int], both: bool
) -> tuple[Tensor, Tensor | None]:
    """Largest float32 products of each query with each group of the database (Nq, Gd) and, where `both`, of each
    database row with each group of queries (Nd, Gq). `groups` are sizes, whole numbers of tiles."""
    rows, columns = query.shape[0], database.shape[0]
    lowest = -torch.inf
    of_query = query.new_full((rows, -(-columns // groups[1])), lowest)
    of_database = query.new_full((columns, -(-rows // groups[0])), lowest) if both else None
    buffer = query.new_empty(min(tile, rows) * min(tile, columns))
    for top in range(0, rows, tile):
        part = query[top : top + tile]
        for left in range(0, columns, tile):
            other = database[left : left + tile]
            product = buffer[: len(part) * len(other)].view(len(part), len(other))
            torch.mm(part, other.T, out=product)
            best = of_query[top : top + tile, left // groups[1]]
            torch.maximum(best, product.amax(1), out=best)
            if of_database is not None:
                best = of_database[left : left + tile, top // groups[0]]
                torch.maximum(best, product.amax(0), out=best)
    return of_query, of_database


def _rounding(length: int) -> float:
    """How wrong a product of vectors of this length may be, relative to their norms, as torch is set to multiply: users
    may have allowed TF32 or bfloat16 for float32 products, which then costs more second looks, never a match."""
    factors = {"highest": 0.0, "high": 2.0**-9, "medium": 2.0**-7}[torch.get_float32_matmul_precision()]
    return factors + (length + 2) * torch.finfo(torch.float32).eps


def _winners(query: Tensor, database: Tensor, maxima: Tensor, group: int, tile: int, tie: float) -> Tensor:
    """(Nq,) the lowest database row whose product is the largest but for `tie`, settled in float64 among the groups
    that may hold it.

    Args:
        query, database: (Nq, D), (Nd, D) float64. maxima: (Nq, G) float32 from `_maxima`, groups of `group` rows.
    """
    norm = query.norm(dim=1) * database.norm(dim=1).max()
    # Twice the bound on the rounding of one product: once for the winner, once for the group it hides behind. The tiny
    # addition stands for products that float32 loses altogether.
    slack = (2 * _rounding(query.shape[1]) + tie) * norm + 1e-37
    candidate = maxima.double() >= (maxima.amax(1).double() - slack)[:, None]
    visits = [
        (number, rows)
        for number in candidate.any(0).nonzero().squeeze(-1).tolist()
        for rows in candidate[:, number].nonzero().squeeze(-1).split(tile)
    ]

    def products(number: int, rows: Tensor) -> Tensor:
        return query[rows] @ database[number * group : (number + 1) * group].T

    best = torch.full((len(query),), -torch.inf, dtype=torch.float64, device=query.device)
    for number, rows in visits:
        best[rows] = torch.maximum(best[rows], products(number, rows).amax(1))
    enough = best - tie * norm
    winner = torch.full((len(query),), -1, dtype=torch.int64, device=query.device)
    for number, rows in visits:  # groups ascend
        wins = products(number, rows) >= enough[rows, None]
        new = wins.any(1) & (winner[rows] < 0)
        winner[rows] = torch.where(new, wins.to(torch.uint8).argmax(1) + number * group, winner[rows])
    return winner


def default_block_size(device: torch.device) -> int:
    """Rows and columns of a tile: 1 MB of products stays in a CPU's cache; a GPU wants fewer, larger ones."""
    return 8192 if device.type == "cuda" else 512


def _group(count: int, tile: int) -> int:
    """Rows of a group: whole tiles, at most `GROUPS` groups."""
    return tile * max(1, -(-count // (tile * GROUPS)))


def _search(a: Tensor, b: Tensor, dist: Distance, block_size: int | None, both: bool) -> tuple[Tensor, Tensor | None]:
    if dist not in DISTANCES:
        raise ValueError(f"dist: {dist!r}; wanted one of {', '.join(DISTANCES)}")
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"descriptors: wanted (N, D) and (M, D), found {tuple(a.shape)} and {tuple(b.shape)}")
    tile = default_block_size(a.device) if block_size is None else block_size
    if tile < 1:
        raise ValueError(f"block_size: {block_size}; wanted at least 1")
    if len(b) == 0 or (both and len(a) == 0):
        raise ValueError("nearest neighbours among no descriptors; check for an empty mask first")
    query, database = _prepared(a, b, dist)
    groups = _group(len(a), tile), _group(len(b), tile)
    tie = TIES[dist]
    if both and dist == "l2":  # |b|² matters where b is the query's choice, |a|² where a is
        query_back, database_back = _prepared(b, a, dist)
        of_a, _ = _maxima(query.float(), database.float(), tile, groups, both=False)
        of_b, _ = _maxima(query_back.float(), database_back.float(), tile, (groups[1], groups[0]), both=False)
        return (
            _winners(query, database, of_a, groups[1], tile, tie),
            _winners(query_back, database_back, of_b, groups[0], tile, tie),
        )
    of_a, of_b = _maxima(query.float(), database.float(), tile, groups, both)
    back = None if of_b is None else _winners(database, query, of_b, groups[0], tile, tie)
    return _winners(query, database, of_a, groups[1], tile, tie), back


def nearest_neighbours(
    query: Tensor, database: Tensor, *, dist: Distance = "dot", block_size: int | None = None
) -> Tensor:
    """The nearest of `database` (M, D) to each of `query` (N, D) → (N,) int64; the lowest index wins a tie.

    Args:
        query, database: finite float32 descriptors on one device.
        dist: "dot", the largest product, or "l2", the smallest distance; the same for descriptors of one length.
        block_size: rows and columns of a tile; memory grows with its square. None: what suits the device.
    """
    return _search(query, database, dist, block_size, both=False)[0]


def nearest_both_ways(
    a: Tensor, b: Tensor, *, dist: Distance = "dot", block_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Nearest of b (M, D) to each of a (N, D) → (N,) and nearest of a to each of b → (M,) int64. See
    `nearest_neighbours`; with "dot" every product serves both directions."""
    of_a, of_b = _search(a, b, dist, block_size, both=True)
    assert of_b is not None
    return of_a, of_b


def sorted_matches(pool_a: DescriptorPool, pool_b: DescriptorPool, rows_a: Tensor, rows_b: Tensor) -> PixelMatches:
    """The pairs of pool rows (M,), (M,) as pixels: each once, in order."""
    pairs = torch.unique(rows_a * max(len(pool_b), 1) + rows_b)  # rows ascend with the pixels, so this is their order
    rows_a = torch.div(pairs, max(len(pool_b), 1), rounding_mode="floor")
    return PixelMatches(pool_a.xy(rows_a), pool_b.xy(pairs - rows_a * max(len(pool_b), 1)))


def check_pools(pool_a: DescriptorPool, pool_b: DescriptorPool) -> None:
    """Raise `ValueError` unless the descriptors of both pictures can be compared."""
    a, b = pool_a.descriptors, pool_b.descriptors
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"desc_b: {b.shape[1]} numbers a pixel, desc_a has {a.shape[1]}; use one network for both")
    if a.device != b.device:
        raise ValueError(f"desc_b is on {b.device}, desc_a on {a.device}; move one with .to()")


def exact_reciprocal_matches(
    desc_a: Tensor | np.ndarray,
    desc_b: Tensor | np.ndarray,
    *,
    mask_a: Tensor | np.ndarray | None = None,
    mask_b: Tensor | np.ndarray | None = None,
    dist: Distance = "dot",
    block_size: int | None = None,
) -> PixelMatches:
    """All pairs of foreground pixels that are each other's nearest neighbours among the foreground.

    The exhaustive twin of `fast_reciprocal_matches`: its cost is the product of both foregrounds' pixels.

    Args:
        desc_a: (Ha, Wa, D), desc_b: (Hb, Wb, D). mask_a, mask_b: bool (H, W), True = object; None = everything.
        dist, block_size: see `nearest_neighbours`.
    """
    pool_a = descriptor_pool(desc_a, mask_a, name="desc_a")
    pool_b = descriptor_pool(desc_b, mask_b, name="desc_b")
    check_pools(pool_a, pool_b)
    rows: Any = pool_a.pixels.new_zeros(0)
    if len(pool_a) == 0 or len(pool_b) == 0:
        return sorted_matches(pool_a, pool_b, rows, rows)
    of_a, of_b = nearest_both_ways(pool_a.descriptors, pool_b.descriptors, dist=dist, block_size=block_size)
    rows = torch.arange(len(pool_a), device=of_a.device)
    rows = rows[of_b[of_a] == rows]
    return sorted_matches(pool_a, pool_b, rows, of_a[rows])
