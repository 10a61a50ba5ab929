"""What the depth maps' figures mean: holes, flat or leaping depth, depth beside the masks or in another unit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.core.types import Clip
from dyn4d.io.cameras_json import read_cameras
from dyn4d.io.check import Finding
from dyn4d.io.clip_watch import ClipWatch, FrameFigures
from dyn4d.io.finding_tools import about, column, median, overall

HOLLOW = 0.15  # of the object without depth, beyond what is usual in the clip
HOLLOW_ALL = 0.3  # in the median frame
FLAT = 2e-3  # relative width of the depth on the object
SHIFTED_PX, SHIFTED = 2.0, 1.12  # shift of depth, and how much better depth lies with it
DEPTH_JUMP = 0.12  # relative, of the median depth off that of both neighbours
DIVISORS = (1.0, 256.0, 1000.0, 5000.0)  # that depth maps are usually stored with
LOW = np.log(2.0)  # of the factor by which depth seems to be off


def depth_findings(clip: Clip, watch: ClipWatch) -> list[Finding]:
    """All about depth; none where there is none on the object."""
    figures = watch.figures
    deep = column(figures, "deep")
    if clip.depth is None or not np.isfinite(deep).any() or float(np.nanmax(deep)) == 0:
        return []
    found = []
    usual = median(deep)
    if usual < 1 - HOLLOW_ALL:
        found.append(overall("depth holes", f"only {usual:.0%} of the object has depth in the median frame",
                            "what has none gives no points: holes, or guesses by other frames",
                            "another sensor or distance; or fill it with an estimator's maps"))  # fmt: skip
    rows = np.flatnonzero((deep < usual - HOLLOW) & (deep > 0))
    lowest = float(deep[rows].min()) if len(rows) else 0.0
    found += about("depth holes", figures, rows, f"less depth on the object than usual (down to {lowest:.0%}, usual "
                    f"{usual:.0%})", "these frames give fewer points", "leave them out, or fill the maps")  # fmt: skip
    spread, levels = column(figures, "spread"), column(figures, "levels")
    area = column(figures, "area")
    flat = np.flatnonzero((spread < FLAT) | ((levels < 6) & (np.nan_to_num(area, nan=1e6) > 1000)))
    found += about("flat depth", figures, flat, "depth is (nearly) the same on all of the object",
                    "the object has no shape there", "look whether these are depth maps, and at depth_div")  # fmt: skip
    found += _depth_jumps(figures)
    right, down, better = watch.fit.best()
    if math.hypot(right, down) >= SHIFTED_PX and better > SHIFTED:
        text = f"depth lies {math.hypot(right, down):.0f} pixels beside the masks (move it {_way(right, down)})"
        found.append(overall("depth shift", text, "points of the background get the object's colours, and the reverse",
                            "register depth to the colour camera; look at K and at crops"))  # fmt: skip
    return found + _depth_scale(clip, figures)


def _way(right: int, down: int) -> str:
    across = f"{abs(right)} px {'right' if right > 0 else 'left'}" if right else ""
    along = f"{abs(down)} px {'down' if down > 0 else 'up'}" if down else ""
    return " and ".join(part for part in (across, along) if part)


def _depth_jumps(figures: Sequence[FrameFigures]) -> list[Finding]:
    depth = column(figures, "depth")
    if len(depth) < 3:
        return []
    log = np.log(depth)
    off = np.full(len(depth), np.nan)
    off[1:-1] = np.minimum(np.abs(log[1:-1] - log[:-2]), np.abs(log[1:-1] - log[2:]))
    apart = np.full(len(depth), np.nan)
    apart[1:-1] = np.abs(log[2:] - log[:-2])
    rows = np.flatnonzero(off > DEPTH_JUMP + 2 * apart)
    step = np.abs(np.diff(log))
    usual = median(step) if np.isfinite(step).any() else 0.0
    more = [
        int(i) + 1 for i in np.flatnonzero(step > 3 * DEPTH_JUMP + 6 * usual) if not {int(i), int(i) + 1} & set(rows)
    ]
    return about("depth jump", figures, sorted({*rows.tolist(), *more}), "depth of the object jumps",
                  "the object seems to leap towards the camera or away",
                  "look at these maps and their unit")  # fmt: skip


def _depth_scale(clip: Clip, figures: Sequence[FrameFigures]) -> list[Finding]:
    """Does depth go with the cameras' motion? The object's place, camera + scale x depth x ray, moves least for one
    scale (least squares of its steps over a quarter of the clip, which is closed)."""
    depth = column(figures, "depth")
    middle = median(depth)
    if clip.cameras is None or not clip.poses_given or not math.isfinite(middle):
        return []
    rows = [one.row for one in figures]
    poses, K = clip.cameras.world_from_cam.numpy()[rows], clip.cameras.K.numpy()[rows]
    rays = np.full((len(figures), 3), np.nan)
    for row, one in enumerate(figures):
        if math.isfinite(one.depth) and math.isfinite(one.centre[0]):
            ray = np.linalg.inv(K[row]) @ np.array([one.centre[0] + 0.5, one.centre[1] + 0.5, 1.0])
            rays[row] = poses[row][:3, :3] @ (ray * one.depth)
    lag = max(1, len(figures) // 4)
    steps_eye = poses[lag:, :3, 3] - poses[:-lag, :3, 3]
    steps_ray = rays[lag:] - rays[:-lag]
    good = np.isfinite(steps_eye).all(1) & np.isfinite(steps_ray).all(1)
    a, b = steps_eye[good], steps_ray[good]
    if len(a) < 4 or float(np.square(a).sum()) < 1e-12 or float(np.square(b).sum()) < 1e-12:
        return []
    scale = -float((a * b).sum() / np.square(b).sum())
    at_best, as_is = float(np.square(a + scale * b).sum()), float(np.square(a + b).sum())
    if scale <= 0 or abs(math.log(scale)) < LOW or as_is < 9 * at_best:
        return []
    return [overall("depth scale", f"depth would fit the cameras' motion if it were {_times_word(scale)}",
                   "the object seems to move with the camera, and its points of different frames do not meet",
                   f"look at depth_div{_divisor(clip, scale)}, and at the unit of w2c")]  # fmt: skip


def _times_word(scale: float) -> str:
    """Depth that is too large hides how much too large it is behind the object's own motion."""
    return f"about {scale:.0f} times as large" if scale >= 1 else f"at least about {1 / scale:.0f} times smaller"


def _divisor(clip: Clip, scale: float) -> str:
    """The usual depth_div that would mend it, in words; nothing where none would."""
    file = clip.source / "cameras.json"
    if not file.is_file():
        return ""
    try:
        now = read_cameras(file).depth_div
    except InputError:
        return ""
    off = {divisor: math.log(now / divisor / scale) for divisor in DIVISORS}
    fitting = [divisor for divisor in DIVISORS if -0.8 < off[divisor] < 0.3]
    best = min(fitting, key=lambda divisor: abs(off[divisor]), default=None)
    return "" if best is None else f" (it is {now:g}; {best:g} would fit)"
