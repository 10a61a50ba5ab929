"""Measures each frame of a clip as it goes by: sharpness, brightness, mask, texture, depth.

Only a few reduced frames are held, and some numbers for each frame, so that a clip may have any length. What the
numbers mean is said in `dyn4d.io.clip_findings`.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np

from dyn4d.core.types import Clip
from dyn4d.io.depth_watch import DepthFit, depth_figures
from dyn4d.io.pose_watch import PoseWatch

LONGEST = 1280  # px: larger pictures are reduced before anything is measured
THUMB = 64  # px: of pictures that are compared as wholes
OUTLINE = 192  # px: of masks that are compared
FOLLOWED = 256  # px: of pictures between which the flow is looked for
RETURN_PX = 1.0  # of those: flow there and back that ends nearer to where it began has found the pixel again
CORE = 3  # px: this far inside the outline the object's own surface is looked at
SITES, REACH = 16, 8  # places in the clip at which the background's motion is measured, frames between
CORNERS = 200
EDGED = 1.4  # times the slope on the object beside it: slope along the outline of a gap that is none of its holes
TEXTURED = 3e-4  # smaller eigenvalue of the structure (of pictures in [0, 1]) from which a pixel can be found again

NAN = math.nan


@dataclass
class FrameFigures:
    """Numbers of one frame; NaN where there is nothing to measure.

    Attributes:
        frame: of the whole clip. row: among the selected ones. sharp: log of the second derivative on the object.
        gain: log of the brightness over that of the frame before. lit_around: that was told by what is around the
            object. clipped: share of the object that is black or white throughout.
        change, skip: mean difference to the frame before and to that before it. even,
            even_skip: the same, had both one brightness. same: it is that frame, bit for bit.
        area: object pixels. centre: px. size: px, longest side of its box. turned, turned_skip: 1 - overlap with the
            mask before and before that, laid centre on centre. border: px of it on the edge of the picture.
        again: share of the object's pixels in the frame before that the flow finds in this one.
        holes: area enclosed without an edge over its own. pieces: share of its largest piece. texture: share that is
            textured.
        deep: share of it with depth. depth, spread: median and relative width of that. levels: different values.
    """

    frame: int
    row: int
    sharp: float = NAN
    gain: float = NAN
    lit_around: bool = False
    clipped: float = NAN
    change: float = NAN
    skip: float = NAN
    even: float = NAN
    even_skip: float = NAN
    same: bool = False
    area: float = NAN
    centre: tuple[float, float] = (NAN, NAN)
    size: float = NAN
    turned: float = NAN
    turned_skip: float = NAN
    again: float = NAN
    border: float = NAN
    holes: float = NAN
    pieces: float = NAN
    texture: float = NAN
    deep: float = NAN
    depth: float = NAN
    spread: float = NAN
    levels: float = NAN


@dataclass(frozen=True)
class SceneMotion:
    """What the background did between two frames: the median shift in px, how many corners told so, and the share of
    them that one homography explains."""

    frame: int
    shift: float
    corners: int
    plane: float


@dataclass(frozen=True)
class _Seen:
    """What is kept of a frame."""

    digest: int
    thumb: np.ndarray
    outline: np.ndarray
    centre: tuple[float, float]
    around: np.ndarray
    picture: np.ndarray
    inside: np.ndarray


@dataclass
class ClipWatch:
    """Look at the frames in order, with `add`; then read `figures`, `scene`, `fit` and `poses`."""

    clip: Clip
    figures: list[FrameFigures] = field(default_factory=list)
    scene: list[SceneMotion] = field(default_factory=list)
    fit: DepthFit = field(default_factory=DepthFit)
    _seen: deque[_Seen] = field(default_factory=lambda: deque(maxlen=2))
    _anchor: tuple[int, np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        count = len(self.clip)
        self.poses = PoseWatch(self.clip)
        self.reach = max(1, min(REACH, count // 4))
        starts = np.linspace(0, max(count - 1 - self.reach, 0), SITES).astype(int)
        self._starts = set(starts.tolist()) if count > 1 else set()
        self._fitted = set(np.linspace(0, count - 1, min(24, count)).round().astype(int).tolist())

    def add(self, row: int, image: np.ndarray, mask: np.ndarray, depth: np.ndarray | None) -> None:
        """image (H, W, 3) uint8, mask (H, W) bool, depth (H, W) float or None, of selected frame `row`."""
        figures = FrameFigures(int(self.clip.frames[row]), row)
        step = -(-max(image.shape[:2]) // LONGEST)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        small, inside = grey, mask.astype(np.uint8)
        if step > 1:
            size = (grey.shape[1] // step, grey.shape[0] // step)
            small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
            inside = cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST)
        whole = bool(mask.all())
        _surface(figures, small, inside)
        if not whole:
            _shape(figures, small, inside, step)
        self._compare(figures, image, grey, inside, whole)
        if not whole:
            self._background(row, small, inside, step)
        if depth is not None:
            depth_figures(figures, depth, mask)
            self.poses.add(row, mask, depth)
            if row in self._fitted and not whole:
                self.fit.add(grey, mask, depth)
        self.figures.append(figures)

    def _compare(
        self, figures: FrameFigures, image: np.ndarray, grey: np.ndarray, inside: np.ndarray, whole: bool
    ) -> None:
        scale = THUMB / max(grey.shape)
        size = (max(round(grey.shape[1] * scale), 4), max(round(grey.shape[0] * scale), 4))
        thumb = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        scale = min(OUTLINE / max(inside.shape), 1.0)
        size = (max(round(inside.shape[1] * scale), 1), max(round(inside.shape[0] * scale), 1))
        outline = cv2.resize(inside * 255, size, interpolation=cv2.INTER_AREA) > 127
        shrunk = (cv2.resize(inside * 255, thumb.shape[::-1], interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
        around = cv2.dilate(shrunk, np.ones((9, 9), np.uint8)) == 0
        scale = min(FOLLOWED / max(grey.shape), 1.0)
        size = (max(round(grey.shape[1] * scale), 1), max(round(grey.shape[0] * scale), 1))
        picture = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        object_ = cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST) > 0
        mine = _Seen(hash(image.tobytes()), thumb, outline, _middle(outline), around, picture, object_)
        if self._seen:
            before = self._seen[-1]
            figures.change = float(np.abs(thumb - before.thumb).mean())
            figures.even = _even_change(thumb, before.thumb)
            figures.same = before.digest == mine.digest
            here, there = (cv2.blur(picture, (5, 5)) for picture in (thumb, before.thumb))
            lit = (here > 12) & (there > 12) & (here < 245) & (there < 245)
            around = lit & mine.around & before.around
            figures.lit_around = bool(np.count_nonzero(around) >= 64)
            lit = around if figures.lit_around else lit
            if np.count_nonzero(lit) >= 16:
                figures.gain = float(np.median(np.log(here[lit] / there[lit])))
            figures.turned = NAN if whole else _unlike(mine, before)
            figures.again = _found_again(before, mine)
        if len(self._seen) == 2:
            figures.skip = float(np.abs(thumb - self._seen[0].thumb).mean())
            figures.even_skip = _even_change(thumb, self._seen[0].thumb)
            figures.turned_skip = NAN if whole else _unlike(mine, self._seen[0])
        self._seen.append(mine)

    def _background(self, row: int, small: np.ndarray, inside: np.ndarray, step: int) -> None:
        """At some places: where corners of the background are some frames later."""
        if self._anchor is not None and row == self._anchor[0] + self.reach:
            first, picture, outside = self._anchor
            self._anchor = None
            corners = cv2.goodFeaturesToTrack(picture, CORNERS, 0.01, 7, mask=outside)
            if corners is not None:
                frame = int(self.clip.frames[first])
                self.scene.append(_scene_motion(frame, picture, small, corners, inside, step))
        if self._anchor is None and any(start <= row for start in self._starts):
            self._starts = {start for start in self._starts if start > row}
            around = cv2.dilate(inside, np.ones((15, 15), np.uint8))
            self._anchor = (row, small, (around == 0).astype(np.uint8))


def _found_again(before: _Seen, now: _Seen) -> float:
    """The share of the object's pixels in `before` that come back from `now` to where they were; NaN where there are
    few, or the pictures too small for the flow."""
    y, x = np.nonzero(before.inside)
    if len(x) < 64 or min(now.picture.shape) < 16 or before.picture.shape != now.picture.shape:
        return NAN
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there = flow.calc(before.picture, now.picture, None)  # type: ignore[call-overload]
    back = flow.calc(now.picture, before.picture, None)  # type: ignore[call-overload]
    rows, columns = np.indices(before.picture.shape, dtype=np.float32)
    # Gone out of the picture is not found. The whole picture, for OpenCV refuses rows of more than 32,766 pixels.
    at = columns + there[..., 0], rows + there[..., 1]
    returned = cv2.remap(back, *at, cv2.INTER_LINEAR, borderValue=(1e6, 1e6))
    return float((np.linalg.norm((there + returned)[y, x], axis=-1) < RETURN_PX).mean())


def _even_change(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference of two small pictures, the darker one made as light as the other if that brings them nearer."""
    plain = float(np.abs(a - b).mean())
    here, there = (cv2.blur(picture, (5, 5)) for picture in (a, b))
    lit = (np.minimum(here, there) > 12) & (np.maximum(here, there) < 245)
    if np.count_nonzero(lit) < 16:
        return plain
    gain = float(np.median(here[lit] / there[lit]))
    dark, light = (b * gain, a) if gain > 1 else (a / gain, b)
    return min(plain, float(np.abs(np.minimum(dark, 255) - light).mean()))


def _middle(mask: np.ndarray) -> tuple[float, float]:
    y, x = np.nonzero(mask)
    return (float(x.mean()), float(y.mean())) if len(x) else (NAN, NAN)


def _surface(figures: FrameFigures, grey: np.ndarray, inside: np.ndarray) -> None:
    """Sharpness, texture and clipping of what lies well inside the mask (or of all of it, where that is little)."""
    core = cv2.erode(inside, np.ones((2 * CORE + 1, 2 * CORE + 1), np.uint8), borderValue=1)
    core = (core if np.count_nonzero(core) >= 64 else inside) > 0
    if np.count_nonzero(core) < 16:
        return
    rows, columns = np.flatnonzero(core.any(1)), np.flatnonzero(core.any(0))
    box = np.s_[max(rows[0] - 4, 0) : rows[-1] + 5, max(columns[0] - 4, 0) : columns[-1] + 5]
    part, core = np.ascontiguousarray(grey[box]), core[box]
    second = cv2.Laplacian(part, cv2.CV_32F)
    figures.sharp = float(np.log(second[core].std() + 0.2))
    if min(part.shape) >= 3:
        weakest = cv2.cornerMinEigenVal(part.astype(np.float32) / 255, 5)
        figures.texture = float((weakest[core] > TEXTURED).mean())
    values = part[core]
    figures.clipped = float(((values <= 1) | (values >= 254)).mean())


def _shape(figures: FrameFigures, grey: np.ndarray, inside: np.ndarray, step: int) -> None:
    """Area, place, edges, holes and pieces of a mask."""
    pixels = int(np.count_nonzero(inside))
    figures.area = float(pixels * step * step)
    if pixels == 0:
        return
    x, y = _middle(inside)
    figures.centre = (x * step, y * step)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    figures.size = float(max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1) * step
    edge = np.concatenate([inside[0], inside[-1], inside[1:-1, 0], inside[1:-1, -1]])
    figures.border = float(np.count_nonzero(edge) * step)
    count, _, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    figures.pieces = float(stats[1:, cv2.CC_STAT_AREA].max() / pixels) if count > 1 else 1.0
    figures.holes = _holes(grey, inside) / pixels


def _holes(grey: np.ndarray, inside: np.ndarray) -> int:
    """Pixels that a mask encloses though nothing in the picture says that the object ends there: along the outline of a
    gap between limbs there is an edge, stronger than those on the object beside it."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(np.pad(1 - inside, 1, constant_values=1), connectivity=4)
    labels = labels[1:-1, 1:-1]
    total = 0
    for k in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[k])
        if left == 0 or area < 9:  # all around the object
            continue
        box = np.s_[max(top - 9, 0) : top + height + 8, max(left - 9, 0) : left + width + 8]
        hole = (labels[box] == k).astype(np.uint8)
        part = np.ascontiguousarray(grey[box]).astype(np.float32)
        slope = np.hypot(cv2.Sobel(part, cv2.CV_32F, 1, 0), cv2.Sobel(part, cv2.CV_32F, 0, 1))
        three, five = np.ones((3, 3), np.uint8), np.ones((13, 13), np.uint8)
        wide = cv2.dilate(hole, np.ones((5, 5), np.uint8))
        rim = (cv2.dilate(hole, three) > 0) & (cv2.erode(hole, three, borderValue=0) == 0)
        beside = (cv2.dilate(hole, five) > 0) & (wide == 0) & (inside[box] > 0)
        if not beside.any() or slope[rim].mean() < EDGED * slope[beside].mean() + 4:
            total += area
    return total


def _unlike(a: _Seen, b: _Seen) -> float:
    """1 - intersection over union of two masks, laid centre on centre."""
    if not (a.outline.any() and b.outline.any()) or a.outline.shape != b.outline.shape:
        return NAN
    dx, dy = (round(q - p) for p, q in zip(a.centre, b.centre))
    matrix = np.array([[1, 0, dx], [0, 1, dy]], dtype=np.float32)
    height, width = a.outline.shape
    moved = cv2.warpAffine(a.outline.astype(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST) > 0
    either = np.count_nonzero(moved | b.outline)
    return 1.0 - np.count_nonzero(moved & b.outline) / max(either, 1)


def _scene_motion(
    frame: int, before: np.ndarray, after: np.ndarray, corners: np.ndarray, inside: np.ndarray, step: int
) -> SceneMotion:
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, np.empty_like(corners), winSize=(21, 21))
    back, again, _ = cv2.calcOpticalFlowPyrLK(after, before, there, np.empty_like(corners), winSize=(21, 21))
    good = (found[:, 0] > 0) & (again[:, 0] > 0) & (np.linalg.norm(back - corners, axis=-1)[:, 0] < 0.7)
    a, b = corners[good, 0], there[good, 0]
    if len(a):
        column = np.clip(b[:, 0].astype(int), 0, inside.shape[1] - 1)
        line = np.clip(b[:, 1].astype(int), 0, inside.shape[0] - 1)
        free = inside[line, column] == 0
        a, b = a[free], b[free]
    if len(a) < 12:
        return SceneMotion(frame, NAN, len(a), NAN)
    shift = float(np.median(np.linalg.norm(b - a, axis=-1)))
    _, fits = cv2.findHomography(a, b, cv2.RANSAC, 1.0)
    plane = NAN if fits is None else float(fits.mean())
    return SceneMotion(frame, shift * step, len(a), plane)
