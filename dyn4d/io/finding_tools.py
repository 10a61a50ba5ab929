"""What the rules about a clip's frames share: columns of figures, what is usual in them, and how findings are made."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dyn4d.io.check import Finding
from dyn4d.io.clip_watch import FrameFigures

AROUND = 6  # frames before and after, with which a frame is compared
MATCHES = "matches to and from it are few or wrong"


def column(figures: Sequence[FrameFigures], name: str) -> np.ndarray:
    return np.array([getattr(one, name) for one in figures], dtype=float)


def median(values: np.ndarray) -> float:
    """Of what is known; NaN where nothing is."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan


def usual_of(values: np.ndarray, *, around: int = AROUND, quantile: float = 0.5) -> np.ndarray:
    """(T,) the median (or another quantile) of each frame's neighbours, without the frame itself; NaN where there are
    few."""
    out = np.full(len(values), np.nan)
    for i in range(len(values)):
        near = np.r_[values[max(i - around, 0) : i], values[i + 1 : i + 1 + around]]
        near = near[np.isfinite(near)]
        if len(near) >= min(3, len(values) - 1) and len(near):
            out[i] = np.quantile(near, quantile)
    return out


def about(
    kind: str, figures: Sequence[FrameFigures], rows: Sequence[int] | np.ndarray, text: str, so: str, mend: str,
    severity: str = "warning",
) -> list[Finding]:  # fmt: skip
    """One finding about some frames; none where there are none. `so`: what follows; `mend`: the remedy."""
    frames = tuple(figures[int(row)].frame for row in rows)
    if not frames:
        return []
    level = "info" if severity == "info" else "warning"
    return [Finding(level, text, frames[0], "", kind=kind, consequence=so, remedy=mend, frames=frames)]


def overall(kind: str, text: str, so: str, mend: str, severity: str = "warning") -> Finding:
    return Finding("info" if severity == "info" else "warning", text, kind=kind, consequence=so, remedy=mend)
