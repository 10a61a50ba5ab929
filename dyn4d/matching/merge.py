"""The matches of several matchers as one set: without doubles, and with conflicts settled by what is expected of each.

All rows are compared at once: those of the same ordered pair of frames whose starts (or ends) lie in neighbouring cells
of a grid are found by sorting, so that time and memory grow with the number of matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.checks import check_shape
from dyn4d.core.types import Correspondences

_OFFSETS = ((0, 0), (1, 0), (-1, 1), (0, 1), (1, 1))  # half of a cell's neighbours: the others have it as theirs


@dataclass(frozen=True)
class RatedMatches:
    """Matches with what is expected of each.

    Attributes:
        matches: M matches. error: (M,) float32, the expected error in pixels, above 0; comparable between matchers.
    """

    matches: Correspondences
    error: Tensor

    def __post_init__(self) -> None:
        check_shape("RatedMatches.error", self.error, ("M",), {"M": len(self.matches)})

    def __len__(self) -> int:
        return len(self.matches)

    def select(self, rows: Tensor) -> RatedMatches:
        return RatedMatches(self.matches.select(rows), self.error[rows])


@dataclass(frozen=True)
class MergeRules:
    """What counts as the same match, and what as a contradiction.

    Attributes:
        same_px: two matches are one if they are closer than this at both ends.
        near_px: a contradiction is between matches of two matchers that are closer than this at one end …
        conflict_px: … and whose motions differ by more than this and by more than `conflict_errors` times the sum of
            what is expected of both.
        clear: the worse of the two goes if its expected error is at least this many times the other's; else both stay
            and are expected to be off by half of what they differ.
    """

    same_px: float = 1.0
    near_px: float = 2.0
    conflict_px: float = 4.0
    conflict_errors: float = 3.0
    clear: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"merge.{field.name}: {getattr(self, field.name)}; wanted more than 0")


def weight_of(error: Tensor) -> Tensor:
    """(M,) in (0, 1]: 1/(1 + (error/1 px)²). The weight at which a match pulls as one of no error that is blurred by a
    pixel (Cauchy's weight with a scale of one pixel), whatever found it."""
    return 1 / (1 + error.square())


def merge_matches(
    parts: Sequence[RatedMatches], rules: MergeRules | None = None, *, most: Sequence[float] | None = None
) -> RatedMatches:
    """One set of matches out of those of several matchers, of one or many pairs of frames.

    Args:
        parts: one for each matcher, in any order of rows.
        most: for each part, the largest expected error in pixels that stays. An undecided contradiction may raise what
            is expected of a match beyond it; such a match goes before doubles are looked for.

    Returns:
        The matches that are left, sorted by (frame_a, frame_b), else in the order given. Of doubles that with the
        smallest expected error is left, as it was; of equals the first. `matches.weight` is `weight_of(error)`.
    """
    rules = rules or MergeRules()
    if not parts:
        return RatedMatches(Correspondences.empty(), torch.zeros(0))
    matches = Correspondences.concatenate([part.matches for part in parts])
    error = torch.cat([part.error for part in parts]).numpy().astype(np.float64)
    source = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    xy = matches.xy_a.double().numpy(), matches.xy_b.double().numpy()
    frames = matches.frame_a.numpy(), matches.frame_b.numpy()
    pair = frames[0] * (int(frames[1].max(initial=0)) + 1) + frames[1]

    keep = ~_contradicted(pair, xy, source, error, rules)
    if most is not None:
        keep &= error <= np.asarray(most, dtype=np.float32)[source]
    rows = np.flatnonzero(keep)
    doubles = _doubles(pair[rows], (xy[0][rows], xy[1][rows]), rules.same_px)
    rows = rows[_best_of_doubles(error[rows], *doubles)]
    rows = rows[np.argsort(pair[rows], kind="stable")]
    rated = torch.from_numpy(error[rows]).float()
    chosen = matches.select(torch.from_numpy(rows))
    return RatedMatches(
        Correspondences(chosen.frame_a, chosen.frame_b, chosen.xy_a, chosen.xy_b, weight_of(rated)), rated
    )


def close_rows(pair: np.ndarray, xy: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows p < q of the same pair (M,) whose places (M, 2) are closer than `reach`, each two once."""
    if len(pair) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    cell = np.floor(xy / reach).astype(np.int64)
    cell -= cell.min(0) - 1  # a border of one empty cell on every side
    across, down = (int(v) + 2 for v in cell.max(0))
    _, group = np.unique(pair, return_inverse=True)
    base = group.astype(np.int64) * (across * down)
    key = base + cell[:, 1] * across + cell[:, 0]
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    found_p, found_q = [], []
    for dx, dy in _OFFSETS:
        wanted = ordered + dy * across + dx
        low, high = np.searchsorted(ordered, wanted, "left"), np.searchsorted(ordered, wanted, "right")
        if dx == dy == 0:
            low = np.arange(1, len(ordered) + 1)  # each two of a cell once
        count = high - low
        p = np.repeat(np.arange(len(ordered)), count)
        within = np.arange(len(p)) - np.repeat(np.cumsum(count) - count, count)
        p, q = order[p], order[np.repeat(low, count) + within]
        near = np.square(xy[p] - xy[q]).sum(-1) < reach * reach
        found_p.append(np.minimum(p, q)[near])
        found_q.append(np.maximum(p, q)[near])
    return np.concatenate(found_p), np.concatenate(found_q)


def _doubles(pair: np.ndarray, xy: tuple[np.ndarray, np.ndarray], same_px: float) -> tuple[np.ndarray, np.ndarray]:
    p, q = close_rows(pair, xy[0], same_px)
    same = np.square(xy[1][p] - xy[1][q]).sum(-1) < same_px * same_px
    return p[same], q[same]


def _best_of_doubles(error: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """(M,) bool: the rows left when, best first, each takes its doubles out. Rounds instead of a loop over rows: in
    each the best among their own doubles stay."""
    rank = np.empty(len(error), np.int64)
    rank[np.argsort(error, kind="stable")] = np.arange(len(error))
    better, worse = np.where(rank[p] < rank[q], p, q), np.where(rank[p] < rank[q], q, p)
    dropped = np.zeros(len(error), bool)
    settled = np.ones(len(error), bool)
    settled[worse] = False  # nothing is better than these
    while len(better):
        taken = settled[better]
        dropped[worse[taken]] = True
        open_edges = ~taken & ~dropped[better] & ~dropped[worse]
        better, worse = better[open_edges], worse[open_edges]
        settled = ~dropped
        settled[worse] = False
    return ~dropped


def _contradicted(
    pair: np.ndarray, xy: tuple[np.ndarray, np.ndarray], source: np.ndarray, error: np.ndarray, rules: MergeRules
) -> np.ndarray:
    """(M,) bool: rows that a much better one of another matcher contradicts. Raises `error` (in place) of the rows of
    undecided contradictions."""
    drop = np.zeros(len(error), bool)
    if len(np.unique(source)) < 2:
        return drop
    motion = xy[1] - xy[0]
    raised = error.copy()
    for end in xy:
        p, q = close_rows(pair, end, rules.near_px)
        other = source[p] != source[q]
        p, q = p[other], q[other]
        apart = np.linalg.norm(motion[p] - motion[q], axis=-1)
        bad = apart > np.maximum(rules.conflict_px, rules.conflict_errors * (error[p] + error[q]))
        p, q, apart = p[bad], q[bad], apart[bad]
        first, second = error[p] * rules.clear <= error[q], error[q] * rules.clear <= error[p]
        drop[q[first]] = True
        drop[p[second & ~first]] = True
        open_ = ~first & ~second
        for rows in (p[open_], q[open_]):
            np.maximum.at(raised, rows, apart[open_] / 2)
    error[:] = raised
    return drop
