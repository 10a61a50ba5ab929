"""Windows of one size that follow the object, cut out of each frame and prepared for the flow.

Following the object takes the shift of the whole object out of the flow; enlarging small objects gives the patches of
the search something to hold; the background is replaced, so that it does not pull on the object's outline.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from dyn4d.core.types import Clip
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow_fields import sample

MAX_ENLARGEMENT = 4.0
MARGIN = 12  # pixels of the clip around the object: room for patches that straddle the outline


@dataclass(frozen=True)
class WindowPlan:
    """Where each frame's window lies.

    Attributes:
        left, top: (T,) int64 pixel column and row where the window of a frame starts; may lie outside the picture.
        width, height: of every window, in pixels of the clip.
        flow_width, flow_height: of every window when enlarged (or reduced) for the flow.
        present: (T,) bool, has the frame any object pixel?
    """

    left: np.ndarray
    top: np.ndarray
    width: int
    height: int
    flow_width: int
    flow_height: int
    present: np.ndarray

    @property
    def scale(self) -> np.ndarray:
        """(2,) pixels of the flow per pixel of the clip, along x and y."""
        return np.array([self.flow_width / self.width, self.flow_height / self.height])

    def origin(self, frame: int) -> np.ndarray:
        """(2,) where the window of `frame` starts, in pixels of the clip."""
        return np.array([self.left[frame], self.top[frame]], dtype=np.float64)

    def to_window(self, frame: int, xy: np.ndarray) -> np.ndarray:
        """Array positions (N, 2) in the window of `frame` (0 = centre of the first pixel) of pixels `xy` (N, 2)."""
        return (xy - self.origin(frame)) * self.scale - 0.5

    def from_window(self, frame: int, position: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of `frame` of array positions (N, 2) in its window."""
        return (position + 0.5) / self.scale + self.origin(frame)


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom (the last two exclusive) of the True pixels, or None where there are none."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if len(columns) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def plan_windows(clip: Clip, config: MatchingConfig) -> WindowPlan:
    """One window size for the whole clip, centred on the object in each frame. Reads every mask once."""
    boxes = [mask_box(np.asarray(clip.masks[i])) for i in range(len(clip))]
    present = np.array([box is not None for box in boxes], dtype=bool)
    whole = (0, 0, clip.width, clip.height)
    array = np.array([whole if box is None else box for box in boxes], dtype=np.int64).reshape(-1, 4)
    used = array[present] if present.any() else array
    sides = used[:, 2:] - used[:, :2]
    width, height = (int(v) + 2 * MARGIN for v in sides.max(0))
    longest = float(np.median(sides.max(1)))
    scale = min(max(config.min_size / longest, 1.0), MAX_ENLARGEMENT)
    scale = min(scale, max(config.max_size / max(width, height), config.min_size / longest))
    centre = (array[:, :2] + array[:, 2:]) // 2
    return WindowPlan(
        left=centre[:, 0] - width // 2,
        top=centre[:, 1] - height // 2,
        width=width,
        height=height,
        flow_width=max(round(width * scale), 16),
        flow_height=max(round(height * scale), 16),
        present=present,
    )


def cut(image: np.ndarray, plan: WindowPlan, frame: int) -> np.ndarray:
    """The window of `frame` out of (H, W, ...); zeros outside the picture."""
    height, width = image.shape[:2]
    left, top = int(plan.left[frame]), int(plan.top[frame])
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + plan.width, width), min(top + plan.height, height)
    out = np.zeros((plan.height, plan.width, *image.shape[2:]), dtype=image.dtype)
    out[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    return out


def fill_background(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture (H, W[, 3]) float32 with everything outside the mask replaced by the object's mean: flat, the same in
    all frames, and without the edges that a background has of its own."""
    if not mask.any():
        return np.zeros_like(picture)
    if picture.ndim == 3:
        return np.where(mask[..., None], picture, picture[mask].mean(0))
    return np.where(mask, picture, np.float32(picture[mask].mean()))


def given_window(
    plan: WindowPlan, a: int, b: int, flow: np.ndarray, valid: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """The flow between two whole pictures as the flow between their windows: the same motion, exactly.

    Args:
        plan: of the clip. a, b: frames. flow: (h, w, 2) float32 pixels of its own grid. valid: (h, w) bool.
        size: width and height of the clip's pictures, which may be another than that of the flow.

    Returns:
        (flow_height, flow_width, 2) float32 pixels of the windows, NaN where not known: each window's pixel centre is
        looked up in the flow, and all of the four values around it have to be valid.
    """
    rows, columns = flow.shape[:2]
    per = np.array([size[0] / columns, size[1] / rows])  # pixels of the clip in one of the flow's
    x, y = (
        ((np.arange(count) + 0.5) / plan.scale[axis] + plan.origin(a)[axis]) / per[axis] - 0.5
        for axis, count in enumerate((plan.flow_width, plan.flow_height))
    )
    grid = np.meshgrid(x, y)
    moved = sample(np.where(valid[..., None], flow, np.float32(0)), *grid) * per
    known = sample(valid.astype(np.float32), *grid) > 0.999
    out = (moved + plan.origin(a) - plan.origin(b)) * plan.scale
    return np.where(known[..., None], out, np.nan).astype(np.float32)


class Prepared(NamedTuple):
    """One frame made ready: grey (flow_height, flow_width) and colour (…, 3) uint8 and its mask, and the whole
    picture's mask (H, W)."""

    grey: np.ndarray
    colour: np.ndarray
    inside: np.ndarray
    mask: np.ndarray


class ObjectWindows:
    """Prepared windows of a clip, read when asked for; the latest `keep` stay in memory. Safe to share by threads."""

    def __init__(self, clip: Clip, plan: WindowPlan, keep: int) -> None:
        self.clip, self.plan, self.keep = clip, plan, keep
        self._ready: OrderedDict[int, Prepared] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, frame: int) -> Prepared:
        with self._lock:
            if frame in self._ready:
                return self._ready[frame]
            value = self._prepare(frame)
            self._ready[frame] = value
            while len(self._ready) > self.keep:
                self._ready.popitem(last=False)
            return value

    def _prepare(self, frame: int) -> Prepared:
        plan = self.plan
        mask = np.asarray(self.clip.masks[frame]).astype(bool)
        image = cut(np.ascontiguousarray(self.clip.images[frame]), plan, frame)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        part = cut(mask, plan, frame)
        size = (plan.flow_width, plan.flow_height)
        how = cv2.INTER_CUBIC if plan.flow_width >= plan.width else cv2.INTER_AREA

        def ready(picture: np.ndarray) -> np.ndarray:
            resized = cv2.resize(fill_background(picture, part), size, interpolation=how)
            return np.clip(np.rint(resized), 0, 255).astype(np.uint8)

        inside = cv2.resize(part.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        return Prepared(ready(grey), ready(image.astype(np.float32)), inside, mask)
