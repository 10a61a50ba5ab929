"""What a clip's times and file names say: gaps, uneven steps, few or many frames a second."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.core.types import Clip
from dyn4d.io.check import Finding
from dyn4d.io.finding_tools import overall
from dyn4d.io.truth import held_out_times

WIDE = 1.8  # times the usual step in time
SPEED = (8.0, 130.0)  # frames a second
COUNTED = 0.8  # of the steps between frame numbers are alike where frames are numbered one by one


def time_findings(clip: Clip) -> list[Finding]:
    """All about times; frames that a truth folder in the clip keeps for evaluation are no gaps."""
    if len(clip) == 1:
        return [overall("one frame", "the clip has one frame", "nothing can move, and only one side is seen",
                       "more frames")]  # fmt: skip
    found = []
    seconds = clip.timeline.seconds[clip.frames]
    steps = np.diff(seconds)
    usual = float(np.median(steps))
    kept_back = _held_out(clip)
    alone = [_longest(a, b, kept_back) for a, b in pairwise(seconds)]
    wide, named = np.flatnonzero(np.array(alone) > WIDE * usual), steps > WIDE * usual
    if len(wide):
        frames = tuple(int(clip.frames[row]) for row in wide + 1)
        text = f"{steps[wide].max():.3g} s since the frame before, {usual:.3g} s is usual"
        found.append(Finding("warning", text, frames[0], kind="time gap", frames=frames,
                             consequence="motion in the gap is only guessed",
                             remedy="put the missing frames in, or cut the clip there"))  # fmt: skip
    found += _numbers(clip, named)
    others = steps[~named]
    if len(others) > 2 and float(np.std(others)) > 0.2 * usual:
        found.append(overall("frame rate", f"times between frames vary, {others.min():.3g} to {others.max():.3g} s",
                            "none: times are kept as they are; videos that are written have a fixed rate",
                            "", "info"))  # fmt: skip
    rate = 1 / usual if usual > 0 else math.inf
    if not SPEED[0] <= rate <= SPEED[1]:
        so = "fast motion may be too far to follow" if rate < SPEED[0] else "neighbouring frames show little change"
        mend = "more frames a second" if rate < SPEED[0] else "--frames ::4 takes every fourth"
        found.append(overall("frame rate", f"{rate:.3g} frames a second", so, mend, "info"))
    return found


def _held_out(clip: Clip) -> np.ndarray:
    """Seconds of the held-out views of `truth/` in the clip's folder; none where there are none to be read."""
    try:
        return np.array(held_out_times(clip.source / "truth"))
    except (InputError, OSError):
        return np.zeros(0)


def _longest(start: float, end: float, between: np.ndarray) -> float:
    """The longest step from `start` to `end` by way of the times between them."""
    inside = between[(between > start) & (between < end)]
    return float(np.diff([start, *np.sort(inside), end]).max())


def _numbers(clip: Clip, named: np.ndarray) -> list[Finding]:
    """Numbers that are missing among the frames' names, while their times go on evenly."""
    numbers = frame_numbers(clip.timeline.names)
    if numbers is None or len(numbers) < 5:
        return []
    steps = np.diff(numbers)
    usual = int(np.median(steps))
    if usual < 1 or np.mean(steps == usual) < COUNTED:
        return []
    selected = {int(b): bool(told) for b, told in zip(clip.frames[1:], named)}
    rows = [int(row) + 1 for row in np.flatnonzero(steps > usual) if not selected.get(int(row) + 1, True)]
    if not rows:
        return []
    gaps = ", ".join(f"{clip.timeline.names[row - 1]} to {clip.timeline.names[row]}" for row in rows[:3])
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return [Finding(
        "warning", f"frame numbers are missing in the names: {gaps}{more}", rows[0], kind="frame numbers",
        frames=tuple(rows), consequence="times go on evenly there, so motion seems to leap",
        remedy="put the missing frames in, or give the times in cameras.json",
    )]  # fmt: skip


def frame_numbers(names: Sequence[str]) -> np.ndarray | None:
    """(T,) the last numbers in the names, where all else in them is the same; None where it is not."""
    parts = [re.fullmatch(r"(.*?)(\d+)(\D*)", name, re.DOTALL) for name in names]
    if not all(parts) or len({(part[1], part[3]) for part in parts if part}) > 1:
        return None
    return np.array([int(part[2]) for part in parts if part], dtype=np.float64)
