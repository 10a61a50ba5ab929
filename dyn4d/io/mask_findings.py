"""What the masks' figures mean: masks that flicker, tear, jump or reach the edge of the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dyn4d.io.check import Finding
from dyn4d.io.clip_watch import FrameFigures
from dyn4d.io.finding_tools import MATCHES, about, column, median

FLICKERS = 0.06  # of overlap with both neighbours, beyond what these two differ by
HOLES = 0.015  # of the mask, beyond 2.5 times what the frames around have
TORN = 0.12  # of the mask, beyond what is usual, in smaller pieces
JUMPED = 0.15  # of the object's size, off the middle between both neighbours


def mask_findings(figures: Sequence[FrameFigures]) -> list[Finding]:
    """All about the masks; none where the whole frame is the object."""
    area = column(figures, "area")
    if not np.isfinite(area).any():
        return []
    found = []
    turned, skip = column(figures, "turned"), column(figures, "turned_skip")
    flicker = [
        i for i in range(1, len(figures) - 1)
        if min(turned[i], turned[i + 1]) > skip[i + 1] + FLICKERS
    ]  # fmt: skip
    ends = [i for i, (there, other) in ((0, (1, 2)), (len(figures) - 1, (-1, -2)))
            if len(figures) > 3 and turned[there] > 3 * turned[other] + 2 * FLICKERS]  # fmt: skip
    found += about("mask flicker", figures, sorted({*flicker, *ends}), "the mask has another shape than in the frames "
                    "before and after, which agree", "parts of the object are cut off or background is added there",
                    "draw it again")  # fmt: skip
    holes, pieces = column(figures, "holes"), column(figures, "pieces")
    hollow = [i for i in range(len(holes)) if _pierced(holes, i)]
    found += about("mask hole", figures, hollow, "the mask has a hole that the frames "
                    "around do not have", "the object has a hole there", "fill it")  # fmt: skip
    torn = np.flatnonzero(pieces < median(pieces) - TORN)
    found += about("mask pieces", figures, [int(i) for i in torn if i not in flicker], "the mask is in several pieces",
                    "pieces that are no part of the object become part of it", "draw it again", "info")  # fmt: skip
    found += _jumps(figures)
    border = column(figures, "border")
    size = column(figures, "size")
    cut = np.flatnonzero(border > np.maximum(4, 0.03 * size))
    found += about("mask border", figures, cut, "the object reaches the edge of the picture",
                    "what is beyond is not seen, and the edge is taken for its outline",
                    "film with room around it, or leave these frames out")  # fmt: skip
    return found


def _pierced(holes: np.ndarray, i: int) -> bool:
    """Is there more of a hole than at least one neighbour leads to expect? Gaps between limbs open and close slowly."""
    around = [holes[k] for k in (i - 1, i + 1) if 0 <= k < len(holes) and math.isfinite(holes[k])]
    if not around or not math.isfinite(holes[i]):
        return False
    return bool(holes[i] > HOLES + 2.5 * max(around) or holes[i] > 4 * HOLES + 2.5 * min(around))


def _jumps(figures: Sequence[FrameFigures]) -> list[Finding]:
    """Masks that are elsewhere than between those before and after, or go elsewhere for good."""
    centre = np.array([one.centre for one in figures], dtype=float)
    size = median(column(figures, "size"))
    if len(figures) < 3 or not math.isfinite(size):
        return []
    step = np.linalg.norm(np.diff(centre, axis=0), axis=1)
    usual = median(step) if np.isfinite(step).any() else 0.0
    off = np.full(len(figures), np.nan)
    off[1:-1] = np.linalg.norm(centre[1:-1] - (centre[:-2] + centre[2:]) / 2, axis=1)
    rows = {i for i in np.flatnonzero(off > JUMPED * size + 2 * usual).tolist()
            if not (off[max(i - 1, 0) : i + 2] > off[i]).any()}  # fmt: skip
    rows |= {int(i) + 1 for i in np.flatnonzero(step > 0.6 * size + 4 * usual) if {int(i), int(i) + 1}.isdisjoint(rows)}
    return about("mask jump", figures, sorted(rows), "the mask is elsewhere than the frames around lead to expect",
                  MATCHES + "; another thing may be marked", "look at this mask")  # fmt: skip
