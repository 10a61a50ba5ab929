"""What the figures of a clip's frames mean: what is wrong or risky, in which frames, what follows, and a remedy.

Limits were set so that clean clips raise nothing and copies of them damaged in one way raise that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from dyn4d.core.types import Camera, Clip
from dyn4d.io.check import Finding
from dyn4d.io.clip_watch import ClipWatch, FrameFigures
from dyn4d.io.depth_findings import depth_findings
from dyn4d.io.finding_tools import MATCHES, about, column, median, overall, usual_of
from dyn4d.io.mask_findings import mask_findings
from dyn4d.io.pose_findings import pose_findings
from dyn4d.io.time_findings import time_findings

BLURRED = 0.56  # of the log of sharpness below that of the sharp ones among the frames around
EXPOSED = 0.08  # of the log of brightness, from one frame to the next
DRIFTED = 0.35  # of the log of brightness, over the clip
CLIPPED = 0.3  # of the object
CUT = 3.5  # times the usual change between frames
LASTING = 1.5  # times the usual change over two frames, that is there at once and stays
AGAIN = 0.5  # of the object's pixels, that have to be found again in the next frame
SWAPPED = 0.75  # of the change between neighbours, that frames two apart differ by
STILL = 0.02  # of the usual change
FEW_TEXTURED = 0.03  # of the object's pixels
SMALL = 48  # px, the longest side of the object
STATIC_PX = 0.3  # px that the background moves in `REACH` frames
PARALLAX_DEG = 3.0
PLANE = 0.97  # of the background's corners that one homography explains
LARGE = 1920  # px, longest side of the picture


class Risks:
    """`find_risks` for a run, which no fault in looking for them may stop: it becomes a finding itself."""

    def __init__(self, clip: Clip) -> None:
        self.clip, self._watch = clip, ClipWatch(clip)
        self._fault: Exception | None = None

    def add(self, row: int, image: np.ndarray, mask: np.ndarray, depth: np.ndarray | None) -> None:
        """See `ClipWatch.add`."""
        if self._fault is None:
            try:
                self._watch.add(row, image, mask, depth)
            except Exception as fault:
                self._fault = fault

    def found(self) -> list[Finding]:
        """Of the frames that were added; none where there were none."""
        try:
            if self._fault is None:
                return find_risks(self.clip, self._watch) if self._watch.figures else []
        except Exception as fault:
            self._fault = fault
        text = f"what is risky in the clip could not be told ({type(self._fault).__name__}: {self._fault})"
        return [Finding("warning", " ".join(text.split()), kind="risks")]


def find_risks(clip: Clip, watch: ClipWatch) -> list[Finding]:
    """All findings about a clip that was looked at as a whole, in the order of the checks."""
    figures = watch.figures
    found: list[Finding] = []
    checks: tuple[Callable[[], list[Finding]], ...] = (
        lambda: _sizes(clip, figures), lambda: time_findings(clip), lambda: _order(figures), lambda: _apart(figures),
        lambda: _blur(figures),
        lambda: _exposure(figures), lambda: mask_findings(figures), lambda: _texture(figures),
        lambda: _camera(clip, watch), lambda: depth_findings(clip, watch),
        lambda: pose_findings(watch.poses.pairs),
    )  # fmt: skip
    for check in checks:
        found += check()
    return found


# --------------------------------------------------------------------------------------- the pictures


def _sizes(clip: Clip, figures: Sequence[FrameFigures]) -> list[Finding]:
    found = []
    longest, shortest = max(clip.width, clip.height), min(clip.width, clip.height)
    if longest > LARGE:
        found.append(overall("size", f"pictures of {clip.width} x {clip.height} pixels",
                            "time and memory grow with the pixels", f"--max-size {LARGE // 2}", "info"))  # fmt: skip
    if shortest < 32 or longest > 8 * shortest:
        found.append(overall("size", f"pictures of {clip.width} x {clip.height} pixels",
                            "there is hardly anything to match", "look whether the pictures are whole"))  # fmt: skip
    sizes = column(figures, "size")
    small = median(sizes)
    if small < SMALL:
        found.append(overall("size", f"the object is only {small:.0f} pixels long in the median frame",
                            "its shape and motion can be told coarsely at best",
                            "larger pictures, or cut them around the object"))  # fmt: skip
    return found


def _order(figures: Sequence[FrameFigures]) -> list[Finding]:
    """Frames that repeat, are out of order, or follow a cut."""
    same = np.array([one.same for one in figures])
    found = about("repeated", figures, np.flatnonzero(same), "the same picture as the frame before",
                   "the object seems to stop there, and to jump after", "take repeated frames out")  # fmt: skip
    change, skip = column(figures, "change"), column(figures, "skip")
    even, even_skip = column(figures, "even"), column(figures, "even_skip")
    moving = change[np.isfinite(change) & ~same]
    if len(moving) < 4:
        return found
    usual = np.where(np.isfinite(usual_of(change)), usual_of(change), np.median(moving))
    usual = np.maximum(usual, 1e-3)
    still = np.flatnonzero(~same & (change < STILL * usual) & (usual > 0.2))
    found += about("repeated", figures, still, "nearly the same picture as the frame before",
                    "the object seems to stop there, and to jump after", "take repeated frames out")  # fmt: skip
    swapped = [
        i for i in range(2, len(figures) - 1)
        if skip[i] < SWAPPED * change[i - 1] and skip[i + 1] < SWAPPED * change[i + 1]
        and change[i - 1] > 1.25 * usual[i - 1] and change[i + 1] > 1.25 * usual[i + 1]
    ]  # fmt: skip
    # pictures i - 1 and i change places: both neighbours are nearer to the one beyond
    found += about("order", figures, swapped, "out of order with the frame before",
                    "the motion goes back and forth there", "look at the frames' names and order")  # fmt: skip
    near = {row + d for row in swapped for d in (-1, 0, 1)}
    flash = [i for i in range(1, len(figures) - 1) if _outlier(change, skip, usual, i)]
    near |= {row + d for row in flash for d in (0, 1)}
    far = np.where(np.isfinite(usual_of(skip)), usual_of(skip), np.inf)
    lasting = [
        i for i in range(2, len(figures) - 1)
        if min(even[i], even_skip[i], even_skip[i + 1]) > LASTING * max(far[i], far[i + 1]) + 0.5
        and even[i] > 1.8 * usual[i]
    ]  # fmt: skip
    cuts = [i for i in sorted({*np.flatnonzero(even > CUT * usual + 0.5).tolist(), *lasting}) if i not in near]
    found += about("cut", figures, cuts, "the picture changes far more than between other frames",
                    "frames on both sides can hardly be matched", "cut the clip there: --frames")  # fmt: skip
    return found


def _apart(figures: Sequence[FrameFigures]) -> list[Finding]:
    """Pictures between which the object can hardly be followed."""
    again = column(figures, "again")
    rows = np.flatnonzero(again < AGAIN)
    least = float(again[rows].min()) if len(rows) else 1.0
    return about(
        "far apart", figures, rows,
        f"little of the object in the frame before is found again (down to {least:.0%} of its pixels)",
        "what it does in between cannot be followed, and cameras that it is to hold are lost",
        "give more of the frames between, or film slower; for photos from around it also cameras.json with poses",
    )  # fmt: skip


def _outlier(change: np.ndarray, skip: np.ndarray, usual: np.ndarray, i: int) -> bool:
    """Does frame i differ from both neighbours, which are alike?"""
    return bool(min(change[i], change[i + 1]) > CUT * usual[i] and skip[i + 1] < 0.5 * min(change[i], change[i + 1]))


def _blur(figures: Sequence[FrameFigures]) -> list[Finding]:
    sharp = column(figures, "sharp")
    # With the sharp ones among its neighbours: in fast clips many of these are blurred too.
    below = usual_of(sharp, around=8, quantile=0.75) - sharp
    rows = np.flatnonzero(below > BLURRED)
    worst = math.exp(-float(below[rows].max())) if len(rows) else 1.0
    return about("blur", figures, rows, f"less sharp on the object than sharp frames around (down to {worst:.0%})",
                  MATCHES + ", and the blur is learned as colour",
                  "leave it out, or expose for a shorter time")  # fmt: skip


def _exposure(figures: Sequence[FrameFigures]) -> list[Finding]:
    gain = column(figures, "gain")
    usual = 1.4826 * median(np.abs(gain))
    rows = np.flatnonzero(np.abs(gain) > max(EXPOSED, 6 * usual if math.isfinite(usual) else 0.0))
    steps = ", ".join(f"{math.exp(gain[row]) - 1:+.0%}" for row in rows[:3])
    found = about("exposure", figures, rows, f"brightness jumps from the frame before ({steps})",
                   "colours of different frames disagree; the mean of them is learned",
                   "--gaussians.exposure")  # fmt: skip
    quiet = np.where([one.lit_around for one in figures], gain, 0.0)
    quiet[rows] = 0
    path = np.cumsum(np.nan_to_num(quiet))
    if len(path) > 2 and float(np.ptp(path)) > DRIFTED:
        found.append(overall("exposure", f"brightness drifts by {math.exp(np.ptp(path)) - 1:.0%} over the clip",
                            "colours of early and late frames disagree", "--gaussians.exposure"))  # fmt: skip
    clipped = column(figures, "clipped")
    high = np.flatnonzero(clipped > CLIPPED)
    found += about("exposure", figures, high, f"up to {np.nanmax(clipped) if len(high) else 0:.0%} of the object is "
                    "black or white throughout", "nothing can be matched there",
                    "expose darker or lighter")  # fmt: skip
    return found


def _texture(figures: Sequence[FrameFigures]) -> list[Finding]:
    texture = column(figures, "texture")
    share = median(texture)
    if not share < FEW_TEXTURED:  # NaN: nothing was measured
        return []
    return [overall("texture", f"only {share:.1%} of the object has a pattern that can be found again",
                   "its motion along the surface is told by the outline alone",
                   "more light, or paint marks on the object")]  # fmt: skip


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
        return [overall("parallax", text, "how far away things are, and the camera's path, are poorly told",
                       "walk around the object while filming", "info")]  # fmt: skip
    return []


def _static(text: str) -> Finding:
    return overall("static camera", text, "only sides that the object turns to it are seen; the others are guesses",
                  "walk around the object; or --geometry.anchor object where it turns", "info")  # fmt: skip
