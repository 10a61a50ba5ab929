"""Matches of another matcher, such as the optical flow, in place of those of a pair network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.types import Correspondences
from dyn4d.geometry.canonical import CanonicalView, anchors_of
from dyn4d.geometry.kinematic import connected_components
from dyn4d.geometry.pair_results import PairFrame
from dyn4d.geometry.region_flow import by_pairs
from dyn4d.geometry.sparse_problem import MatchedEnds, PairMatches, SparseProblem

FIRMLY = 50  # matches by which two frames are tied, whichever of them turn out not to count


def ties_all(found: Correspondences, frames: Sequence[PairFrame]) -> bool:
    """Do these matches tie all frames that show anything together, so that none of the network's is needed? Only those
    between pixels of the views that count can."""
    good = torch.ones(len(found), dtype=torch.bool)
    for rows, xy in ((found.frame_a, found.xy_a), (found.frame_b, found.xy_b)):
        for row, frame in enumerate(frames):
            here = torch.nonzero(rows == row).squeeze(-1)
            cell, inside = _cells(frame, frame.view.to_view(xy[here].double()))
            counts = torch.from_numpy(np.asarray(frame.kept & frame.matched, dtype=bool))
            good[here] &= inside & counts[cell[:, 1], cell[:, 0]]
    found = found.select(torch.nonzero(good).squeeze(-1))
    tied = np.zeros((len(frames), len(frames)), dtype=np.int64)
    np.add.at(tied, (found.frame_a.numpy(), found.frame_b.numpy()), 1)
    tied = tied + tied.T
    groups = connected_components(np.where(tied >= FIRMLY, tied, 0))
    return len(groups[0]) == sum(bool(frame.kept.any()) for frame in frames)


def with_matches(
    problem: SparseProblem, frames: Sequence[PairFrame], found: Correspondences, least: int
) -> SparseProblem:
    """The problem with matches of another matcher in place of the network's.

    The network's stay between frames that the others do not tie together. A match says what depth its first pixel has:
    matches of one pixel with many frames then have one depth in common.

    Args:
        found: in pixels of the pictures that the views are cut from. least: matches of a pair that tie it.
    """
    mine: dict[tuple[int, int], PairMatches] = {}
    for one in by_pairs(found):
        ends, known = zip(*(_seen_ends(problem.views[f], frames[f], xy) for f, xy in
                            ((one.frame_a, one.xy_a), (one.frame_b, one.xy_b))))  # fmt: skip
        both = PairMatches(one.frame_a, one.frame_b, ends[0], ends[1], one.weight.double(), one.from_a)
        mine[one.frame_a, one.frame_b] = both.select(known[0] & known[1])
    tied = np.zeros((len(frames), len(frames)), dtype=np.int64)
    for (a, b), pair in mine.items():
        tied[a, b] = len(pair) if len(pair) >= least else 0
    group = {row: name for name, rows in enumerate(connected_components(tied)) for row in rows}
    pairs = []
    for pair in problem.pairs:
        own = mine.pop((pair.frame_a, pair.frame_b), None)
        if group[pair.frame_a] == group[pair.frame_b]:
            nothing = torch.zeros(0, dtype=torch.int64, device=pair.weight.device)
            pairs.append(pair.select(nothing) if own is None else own)
        else:
            pairs.append(pair)
    return replace(problem, pairs=(*pairs, *mine.values()))


def _seen_ends(view: CanonicalView, frame: PairFrame, xy: Tensor) -> tuple[MatchedEnds, Tensor]:
    """One side of matches in pixels of a picture, and which of them (M,) lie on a pixel of the view that counts."""
    seen = frame.view.to_view(xy.double())
    cell, inside = _cells(frame, seen)
    anchor, ratio = anchors_of(view, cell)
    return MatchedEnds(seen, anchor.clamp_min(0), ratio), inside & (anchor >= 0)


def _cells(frame: PairFrame, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Whole pixels (M, 2) of a view at coordinates in it, the nearest of those outside, and which (M,) are inside."""
    limit = torch.tensor([frame.width, frame.height])
    inside = ((seen >= 0) & (seen < limit)).all(-1)
    return torch.minimum(seen.floor().long().clamp_min(0), limit - 1), inside
