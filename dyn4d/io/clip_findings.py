"""What the figures of a clip's frames mean: what is wrong or risky in it, with the frames, the consequence and a remedy.

Limits were set so that clean clips raise nothing and copies of them damaged in one way raise that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from dyn4d.core.types import Camera, Clip
from dyn4d.io.check import Finding
from dyn4d.io.clip_watch import ClipWatch, FrameFigures

AROUND = 6  # frames before and after, with which a frame is compared
BLURRED = 0.55  # of the log of sharpness below that of the frames around
EXPOSED = 0.08  # of the log of brightness, from one frame to the next
DRIFTED = 0.35  # of the log of brightness, over the clip
CLIPPED = 0.3  # of the object
FLICKERS = 0.06  # of overlap with both neighbours, beyond what these two differ by
HOLES = 0.03  # of the mask, beyond 2.5 times what the frames around have
TORN = 0.12  # of the mask, beyond what is usual, in smaller pieces
JUMPED = 0.15  # of the object's size, off the middle between both neighbours
CUT = 3.5  # times the usual change between frames
LASTING = 1.5  # times the usual change over two frames, that is there at once and stays
SWAPPED = 0.75  # of the change between neighbours, that frames two apart differ by
STILL = 0.02  # of the usual change
FEW_TEXTURED = 0.03  # of the object's pixels
SMALL = 48  # px, the longest side of the object
SPEED = (8.0, 130.0)  # frames a second
STATIC_PX = 0.3  # px that the background moves in `REACH` frames
PARALLAX_DEG = 3.0
PLANE = 0.97  # of the background's corners that one homography explains
HOLLOW = 0.15  # of the object without depth, beyond what is usual in the clip
HOLLOW_ALL = 0.3  # in the median frame
FLAT = 2e-3  # relative width of the depth on the object
SHIFTED_PX, SHIFTED = 2.0, 1.12  # shift of depth, and how much better depth lies with it
DEPTH_JUMP = 0.12  # relative, of the median depth off that of both neighbours
LARGE = 1920  # px, longest side of the picture
LOW = np.log(2.0)  # of the factor by which depth seems to be off

MATCHES = "matches to and from it are few or wrong"


def _column(figures: Sequence[FrameFigures], name: str) -> np.ndarray:
    return np.array([getattr(one, name) for one in figures], dtype=float)


def _median(values: np.ndarray) -> float:
    """Of what is known; NaN where nothing is."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan


def _usual(values: np.ndarray) -> np.ndarray:
    """(T,) the median of each frame's neighbours, without the frame itself; NaN where there are few."""
    out = np.full(len(values), np.nan)
    for i in range(len(values)):
        near = np.r_[values[max(i - AROUND, 0) : i], values[i + 1 : i + 1 + AROUND]]
        near = near[np.isfinite(near)]
        if len(near) >= min(3, len(values) - 1) and len(near):
            out[i] = np.median(near)
    return out


def _spread(values: np.ndarray) -> float:
    """Robust standard deviation of the steps from frame to frame, without their sudden ones."""
    steps = np.diff(values)
    steps = steps[np.isfinite(steps)]
    return 1.4826 * float(np.median(np.abs(steps))) if len(steps) else 0.0


def find_risks(clip: Clip, watch: ClipWatch) -> list[Finding]:
    """All findings about a clip that was looked at as a whole, in the order of the checks."""
    figures = watch.figures
    found: list[Finding] = []
    checks: tuple[Callable[[], list[Finding]], ...] = (
        lambda: _sizes(clip, figures), lambda: _times(clip), lambda: _order(figures), lambda: _blur(figures),
        lambda: _exposure(figures), lambda: _masks(clip, figures), lambda: _texture(figures),
        lambda: _camera(clip, watch), lambda: _depth(clip, watch),
    )  # fmt: skip
    for check in checks:
        found += check()
    return found


def _about(
    kind: str, figures: Sequence[FrameFigures], rows: Sequence[int] | np.ndarray, text: str, so: str, mend: str,
    severity: str = "warning",
) -> list[Finding]:  # fmt: skip
    """One finding about some frames; none where there are none."""
    frames = tuple(figures[int(row)].frame for row in rows)
    if not frames:
        return []
    level = "info" if severity == "info" else "warning"
    return [Finding(level, text, frames[0], "", kind=kind, consequence=so, remedy=mend, frames=frames)]


def _whole(kind: str, text: str, so: str, mend: str, severity: str = "warning") -> Finding:
    return Finding("info" if severity == "info" else "warning", text, kind=kind, consequence=so, remedy=mend)


# --------------------------------------------------------------------------------------- the pictures


def _sizes(clip: Clip, figures: Sequence[FrameFigures]) -> list[Finding]:
    found = []
    longest, shortest = max(clip.width, clip.height), min(clip.width, clip.height)
    if longest > LARGE:
        found.append(_whole("size", f"pictures of {clip.width} x {clip.height} pixels",
                            "time and memory grow with the pixels", f"--max-size {LARGE // 2}", "info"))  # fmt: skip
    if shortest < 32 or longest > 8 * shortest:
        found.append(_whole("size", f"pictures of {clip.width} x {clip.height} pixels",
                            "there is hardly anything to match", "look whether the pictures are whole"))  # fmt: skip
    sizes = _column(figures, "size")
    small = _median(sizes)
    if small < SMALL:
        found.append(_whole("size", f"the object is only {small:.0f} pixels long in the median frame",
                            "its shape and motion can be told coarsely at best",
                            "larger pictures, or cut them around the object"))  # fmt: skip
    return found


def _times(clip: Clip) -> list[Finding]:
    if len(clip) == 1:
        return [_whole("one frame", "the clip has one frame", "nothing can move, and only one side is seen",
                       "more frames")]  # fmt: skip
    found = []
    steps = np.diff(clip.timeline.seconds[clip.frames])
    usual = float(np.median(steps))
    wide = np.flatnonzero(steps > 1.8 * usual)
    if len(wide):
        frames = tuple(int(clip.frames[row]) for row in wide + 1)
        text = f"{steps[wide].max():.3g} s since the frame before, {usual:.3g} s is usual"
        found.append(Finding("warning", text, frames[0], kind="time gap", frames=frames,
                             consequence="motion in the gap is only guessed",
                             remedy="put the missing frames in, or cut the clip there"))  # fmt: skip
    others = np.delete(steps, wide)
    if len(others) > 2 and float(np.std(others)) > 0.2 * usual:
        found.append(_whole("frame rate", f"times between frames vary, {others.min():.3g} to {others.max():.3g} s",
                            "none: times are kept as they are; videos that are written have a fixed rate",
                            "", "info"))  # fmt: skip
    rate = 1 / usual if usual > 0 else math.inf
    if not SPEED[0] <= rate <= SPEED[1]:
        so = "fast motion may be too far to follow" if rate < SPEED[0] else "neighbouring frames show little change"
        mend = "more frames a second" if rate < SPEED[0] else "--frames ::4 takes every fourth"
        found.append(_whole("frame rate", f"{rate:.3g} frames a second", so, mend, "info"))
    return found


def _order(figures: Sequence[FrameFigures]) -> list[Finding]:
    """Frames that repeat, are out of order, or follow a cut."""
    same = np.array([one.same for one in figures])
    found = _about("repeated", figures, np.flatnonzero(same), "the same picture as the frame before",
                   "the object seems to stop there, and to jump after", "take repeated frames out")  # fmt: skip
    change, skip = _column(figures, "change"), _column(figures, "skip")
    moving = change[np.isfinite(change) & ~same]
    if len(moving) < 4:
        return found
    usual = np.where(np.isfinite(_usual(change)), _usual(change), np.median(moving))
    usual = np.maximum(usual, 1e-3)
    still = np.flatnonzero(~same & (change < STILL * usual) & (usual > 0.2))
    found += _about("repeated", figures, still, "nearly the same picture as the frame before",
                    "the object seems to stop there, and to jump after", "take repeated frames out")  # fmt: skip
    swapped = [
        i for i in range(2, len(figures) - 1)
        if skip[i] < SWAPPED * change[i - 1] and skip[i + 1] < SWAPPED * change[i + 1]
        and change[i - 1] > 1.25 * usual[i - 1] and change[i + 1] > 1.25 * usual[i + 1]
    ]  # fmt: skip
    # pictures i - 1 and i change places: both neighbours are nearer to the one beyond
    found += _about("order", figures, swapped, "out of order with the frame before",
                    "the motion goes back and forth there", "look at the frames' names and order")  # fmt: skip
    near = {row + d for row in swapped for d in (-1, 0, 1)}
    flash = [i for i in range(1, len(figures) - 1) if _outlier(change, skip, usual, i)]
    near |= {row + d for row in flash for d in (0, 1)}
    far = np.where(np.isfinite(_usual(skip)), _usual(skip), np.inf)
    lasting = [
        i for i in range(2, len(figures) - 1)
        if min(change[i], skip[i], skip[i + 1]) > LASTING * max(far[i], far[i + 1]) + 0.5 and change[i] > 1.8 * usual[i]
    ]  # fmt: skip
    cuts = [i for i in sorted({*np.flatnonzero(change > CUT * usual + 0.5).tolist(), *lasting}) if i not in near]
    found += _about("cut", figures, cuts, "the picture changes far more than between other frames",
                    "frames on both sides can hardly be matched", "cut the clip there: --frames")  # fmt: skip
    return found


def _outlier(change: np.ndarray, skip: np.ndarray, usual: np.ndarray, i: int) -> bool:
    """Does frame i differ from both neighbours, which are alike?"""
    return bool(min(change[i], change[i + 1]) > CUT * usual[i] and skip[i + 1] < 0.5 * min(change[i], change[i + 1]))


def _blur(figures: Sequence[FrameFigures]) -> list[Finding]:
    sharp = _column(figures, "sharp")
    below = _usual(sharp) - sharp
    limit = max(BLURRED, 4 * _spread(sharp))
    rows = np.flatnonzero(below > limit)
    worst = math.exp(-float(below[rows].max())) if len(rows) else 1.0
    return _about("blur", figures, rows, f"less sharp on the object than the frames around (down to {worst:.0%})",
                  MATCHES + ", and the blur is learned as colour", "leave it out, or expose for a shorter time")  # fmt: skip


def _exposure(figures: Sequence[FrameFigures]) -> list[Finding]:
    gain = _column(figures, "gain")
    usual = 1.4826 * _median(np.abs(gain))
    rows = np.flatnonzero(np.abs(gain) > max(EXPOSED, 6 * usual if math.isfinite(usual) else 0.0))
    steps = ", ".join(f"{math.exp(gain[row]) - 1:+.0%}" for row in rows[:3])
    found = _about("exposure", figures, rows, f"brightness jumps from the frame before ({steps})",
                   "colours of different frames disagree; the mean of them is learned", "--gaussians.exposure")  # fmt: skip
    quiet = np.where([one.lit_around for one in figures], gain, 0.0)
    quiet[rows] = 0
    path = np.cumsum(np.nan_to_num(quiet))
    if len(path) > 2 and float(np.ptp(path)) > DRIFTED:
        found.append(_whole("exposure", f"brightness drifts by {math.exp(np.ptp(path)) - 1:.0%} over the clip",
                            "colours of early and late frames disagree", "--gaussians.exposure"))  # fmt: skip
    clipped = _column(figures, "clipped")
    high = np.flatnonzero(clipped > CLIPPED)
    found += _about("exposure", figures, high, f"up to {np.nanmax(clipped) if len(high) else 0:.0%} of the object is "
                    "black or white throughout", "nothing can be matched there", "expose darker or lighter")  # fmt: skip
    return found


def _texture(figures: Sequence[FrameFigures]) -> list[Finding]:
    texture = _column(figures, "texture")
    share = _median(texture)
    if not share < FEW_TEXTURED:  # NaN: nothing was measured
        return []
    return [_whole("texture", f"only {share:.1%} of the object has a pattern that can be found again",
                   "its motion along the surface is told by the outline alone",
                   "more light, or paint marks on the object")]  # fmt: skip


# ------------------------------------------------------------------------------------------ the masks


def _masks(clip: Clip, figures: Sequence[FrameFigures]) -> list[Finding]:
    area = _column(figures, "area")
    if not np.isfinite(area).any():
        return []
    found = []
    turned, skip = _column(figures, "turned"), _column(figures, "turned_skip")
    flicker = [
        i for i in range(1, len(figures) - 1)
        if min(turned[i], turned[i + 1]) > skip[i + 1] + FLICKERS
    ]  # fmt: skip
    ends = [i for i, (there, other) in ((0, (1, 2)), (len(figures) - 1, (-1, -2)))
            if len(figures) > 3 and turned[there] > 3 * turned[other] + 2 * FLICKERS]  # fmt: skip
    found += _about("mask flicker", figures, sorted({*flicker, *ends}), "the mask has another shape than in the frames "
                    "before and after, which agree", "parts of the object are cut off or background is added there",
                    "draw it again")  # fmt: skip
    holes, pieces = _column(figures, "holes"), _column(figures, "pieces")
    hollow = [i for i in range(len(holes)) if _pierced(holes, i)]
    found += _about("mask hole", figures, hollow, "the mask has a hole that the frames "
                    "around do not have", "the object has a hole there", "fill it")  # fmt: skip
    torn = np.flatnonzero(pieces < _median(pieces) - TORN)
    found += _about("mask pieces", figures, [i for i in torn if i not in flicker], "the mask is in several pieces",
                    "pieces that are no part of the object become part of it", "draw it again", "info")  # fmt: skip
    found += _jumps(figures)
    border = _column(figures, "border")
    size = _column(figures, "size")
    cut = np.flatnonzero(border > np.maximum(4, 0.03 * size))
    found += _about("mask border", figures, cut, "the object reaches the edge of the picture",
                    "what is beyond is not seen, and the edge is taken for its outline",
                    "film with room around it, or leave these frames out")  # fmt: skip
    return found


def _pierced(holes: np.ndarray, i: int) -> bool:
    """Is there more of a hole than at least one neighbour leads to expect? Gaps between limbs open and close slowly."""
    around = [holes[k] for k in (i - 1, i + 1) if 0 <= k < len(holes) and math.isfinite(holes[k])]
    if not around or not math.isfinite(holes[i]):
        return False
    return bool(holes[i] > HOLES + 2.5 * max(around) or holes[i] > 2 * HOLES + 2.5 * min(around))


def _jumps(figures: Sequence[FrameFigures]) -> list[Finding]:
    """Masks that are elsewhere than between those before and after, or go elsewhere for good."""
    centre = np.array([one.centre for one in figures], dtype=float)
    size = _median(_column(figures, "size"))
    if len(figures) < 3 or not math.isfinite(size):
        return []
    step = np.linalg.norm(np.diff(centre, axis=0), axis=1)
    usual = _median(step) if np.isfinite(step).any() else 0.0
    off = np.full(len(figures), np.nan)
    off[1:-1] = np.linalg.norm(centre[1:-1] - (centre[:-2] + centre[2:]) / 2, axis=1)
    rows = {i for i in np.flatnonzero(off > JUMPED * size + 2 * usual).tolist()
            if not (off[max(i - 1, 0) : i + 2] > off[i]).any()}  # fmt: skip
    rows |= {int(i) + 1 for i in np.flatnonzero(step > 0.6 * size + 4 * usual) if {int(i), int(i) + 1}.isdisjoint(rows)}
    return _about("mask jump", figures, sorted(rows), "the mask is elsewhere than the frames around lead to expect",
                  MATCHES + "; another thing may be marked", "look at this mask")  # fmt: skip


# ------------------------------------------------------------------------------------------ the camera


def view_angle(cameras: Camera, clip: Clip, figures: Sequence[FrameFigures]) -> float:
    """Degrees between the two farthest directions from which the cameras see the object; NaN where its place is not
    known."""
    poses, K = cameras.world_from_cam.numpy(), cameras.K.numpy()
    places, eyes = [], []
    for one in figures:
        row = one.row
        if math.isfinite(one.depth) and math.isfinite(one.centre[0]) and np.isfinite(poses[row]).all():
            ray = np.linalg.inv(K[row]) @ np.array([one.centre[0] + 0.5, one.centre[1] + 0.5, 1.0])
            places.append(poses[row][:3, :3] @ (ray * one.depth) + poses[row][:3, 3])
            eyes.append(poses[row][:3, 3])
    if len(places) < 2:
        return math.nan
    towards = np.array(eyes) - np.array(places)
    towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-12)
    middle = towards.mean(0)
    far = towards[int(np.argmin(towards @ middle))]
    return float(np.degrees(np.arccos(np.clip(towards @ far, -1, 1).min())))


def _camera(clip: Clip, watch: ClipWatch) -> list[Finding]:
    if len(clip) < 3:
        return []
    cameras = clip.cameras
    if cameras is not None and bool(cameras.registered.any()):
        eyes = cameras.world_from_cam[cameras.registered][:, :3, 3].numpy()
        still = bool(np.ptp(eyes, axis=0).max() < 1e-9)
        angle = view_angle(cameras, clip, watch.figures)
        if still or angle < PARALLAX_DEG:
            text = "the camera stands still" if still else f"the camera sees the object from within {angle:.1f} degrees"
            return [_static(text)]
        return []
    shifts = [one.shift for one in watch.scene if math.isfinite(one.shift)]
    if len(shifts) < 3:
        return []
    if float(np.quantile(shifts, 0.8)) < STATIC_PX:
        return [_static(f"the camera stands still: the background moves by {np.median(shifts):.2f} pixels")]
    planes = [one.plane for one in watch.scene if math.isfinite(one.plane) and one.shift > 1.0]
    if len(planes) >= 3 and float(np.median(planes)) > PLANE:
        text = "the background moves as one plane: the camera turns more than it goes, or sees only what is far"
        return [_whole("parallax", text, "how far away things are, and the camera's path, are poorly told",
                       "walk around the object while filming", "info")]  # fmt: skip
    return []


def _static(text: str) -> Finding:
    return _whole("static camera", text, "only sides that the object turns to it are seen; the others are guesses",
                  "walk around the object; or --geometry.anchor object where it turns", "info")  # fmt: skip


# ------------------------------------------------------------------------------------------- the depth


def _depth(clip: Clip, watch: ClipWatch) -> list[Finding]:
    figures = watch.figures
    deep = _column(figures, "deep")
    if clip.depth is None or not np.isfinite(deep).any() or float(np.nanmax(deep)) == 0:
        return []
    found = []
    usual = _median(deep)
    if usual < 1 - HOLLOW_ALL:
        found.append(_whole("depth holes", f"only {usual:.0%} of the object has depth in the median frame",
                            "what has none gives no points: holes, or guesses by other frames",
                            "another sensor or distance; or fill it with an estimator's maps"))  # fmt: skip
    rows = np.flatnonzero((deep < usual - HOLLOW) & (deep > 0))
    lowest = float(deep[rows].min()) if len(rows) else 0.0
    found += _about("depth holes", figures, rows, f"less depth on the object than usual (down to {lowest:.0%}, usual "
                    f"{usual:.0%})", "these frames give fewer points", "leave them out, or fill the maps")  # fmt: skip
    spread, levels = _column(figures, "spread"), _column(figures, "levels")
    area = _column(figures, "area")
    flat = np.flatnonzero((spread < FLAT) | ((levels < 6) & (np.nan_to_num(area, nan=1e6) > 1000)))
    found += _about("flat depth", figures, flat, "depth is (nearly) the same on all of the object",
                    "the object has no shape there", "look whether these are depth maps, and at depth_div")  # fmt: skip
    found += _depth_jumps(figures)
    right, down, better = watch.fit.best()
    if math.hypot(right, down) >= SHIFTED_PX and better > SHIFTED:
        text = f"depth lies {math.hypot(right, down):.0f} pixels beside the masks (move it {_way(right, down)})"
        found.append(_whole("depth shift", text, "points of the background get the object's colours, and the reverse",
                            "register depth to the colour camera; look at K and at crops"))  # fmt: skip
    return found + _depth_scale(clip, figures)


def _way(right: int, down: int) -> str:
    across = f"{abs(right)} px {'right' if right > 0 else 'left'}" if right else ""
    along = f"{abs(down)} px {'down' if down > 0 else 'up'}" if down else ""
    return " and ".join(part for part in (across, along) if part)


def _depth_jumps(figures: Sequence[FrameFigures]) -> list[Finding]:
    depth = _column(figures, "depth")
    if len(depth) < 3:
        return []
    log = np.log(depth)
    off = np.full(len(depth), np.nan)
    off[1:-1] = np.minimum(np.abs(log[1:-1] - log[:-2]), np.abs(log[1:-1] - log[2:]))
    apart = np.full(len(depth), np.nan)
    apart[1:-1] = np.abs(log[2:] - log[:-2])
    rows = np.flatnonzero(off > DEPTH_JUMP + 2 * apart)
    step = np.abs(np.diff(log))
    usual = _median(step) if np.isfinite(step).any() else 0.0
    more = [
        int(i) + 1 for i in np.flatnonzero(step > 3 * DEPTH_JUMP + 6 * usual) if not {int(i), int(i) + 1} & set(rows)
    ]
    return _about("depth jump", figures, sorted({*rows.tolist(), *more}), "depth of the object jumps",
                  "the object seems to leap towards the camera or away", "look at these maps and their unit")  # fmt: skip


def _depth_scale(clip: Clip, figures: Sequence[FrameFigures]) -> list[Finding]:
    """Does depth go with the cameras' motion? The object's place, camera + scale x depth x ray, moves least for one
    scale (least squares of its steps over a quarter of the clip, which is closed)."""
    depth = _column(figures, "depth")
    middle = _median(depth)
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
    return [_whole("depth scale", f"depth would fit the cameras' motion if it were {_times_word(scale)}",
                   "the object seems to move with the camera, and its points of different frames do not meet",
                   "look at depth_div, and at the unit of w2c")]  # fmt: skip


def _times_word(scale: float) -> str:
    return f"{scale:.3g} times as large" if scale >= 1 else f"{1 / scale:.3g} times smaller"
