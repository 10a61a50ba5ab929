"""Are the poses what they should be? Another reading of the same numbers that carries depth of one frame onto that of
another far better says what they are instead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dyn4d.io.check import Finding
from dyn4d.io.pose_watch import FLIPPED, GIVEN, INVERSE, INVERSE_FLIPPED, STILL, PosePair

FEWEST = 6  # pairs of frames
BAD = 0.008  # relative: depth that is off by less than this is right
# Of the background, which stands still: how well another reading has to fit, and how much better than the given one.
FITS, BETTER = 0.02, 4.0
FITS_STILL, BETTER_STILL = 0.005, 8.0  # depth in a wrong unit also favours no motion, by less
# Of the object, which moves by itself: over short times only.
SHORT = 4  # frames
FITS_OBJECT, BETTER_OBJECT, OTHERS = 0.03, 2.75, 1.2

WORDS = {
    INVERSE: ("w2c looks like camera-to-world", "write its inverse as w2c"),
    FLIPPED: ("w2c looks as if it had OpenGL's camera axes", "write diag(1, -1, -1, 1) @ w2c: negate the y and z rows"),
    INVERSE_FLIPPED: ("w2c looks like camera-to-world with OpenGL's camera axes",
                      "invert it, then negate the y and z rows: diag(1, -1, -1, 1) @ inverse"),
    STILL: ("depth says that the camera stands still, w2c that it moves",
            'leave w2c out and write "camera": "static", or look whether the poses belong to this clip'),
}  # fmt: skip


def pose_findings(pairs: Sequence[PosePair]) -> list[Finding]:
    """At most one finding: that poses are wrong, and what they look like. An error where the background tells it, a
    warning where only the object does."""
    around = [pair for pair in pairs if pair.background]
    if len(around) >= FEWEST:
        return _told(np.array([pair.off for pair in around]), background=True)
    near = [pair for pair in pairs if not pair.background and pair.lag <= SHORT]
    return _told(np.array([pair.off for pair in near]), background=False) if len(near) >= FEWEST else []


def _told(off: np.ndarray, *, background: bool) -> list[Finding]:
    """off: (P, 5) of pairs and readings."""
    usual = np.median(off, axis=0)
    if usual[GIVEN] < BAD:
        return []
    best = min((INVERSE, FLIPPED, INVERSE_FLIPPED, *((STILL,) if background else ())), key=lambda k: usual[k])
    fits, better = (FITS, BETTER) if background else (FITS_OBJECT, BETTER_OBJECT)
    if best == STILL:
        fits, better = FITS_STILL, BETTER_STILL
    ratio = off[:, GIVEN] / np.maximum(off[:, best], 1e-6)
    if usual[best] > fits or np.median(ratio) < better or np.quantile(ratio, 0.3) < 0.6 * better:
        return []
    if not background and OTHERS * usual[best] > np.delete(usual, best).min():
        return []
    text, mend = WORDS[best]
    unlike = f"depth of other frames is off by {usual[GIVEN]:.1%} as it is, by {usual[best]:.1%} "
    unlike += "without motion" if best == STILL else "so"
    return [Finding(
        "error" if background else "warning", f"{text} ({unlike})", kind="poses",
        consequence="points of different frames do not meet: no shape and no motion can come out", remedy=mend,
    )]  # fmt: skip
