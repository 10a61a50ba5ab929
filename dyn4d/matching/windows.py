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


def fill_background(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Grey (H, W) float32 with everything outside the mask replaced by the object's mean: flat, the same in all
    frames, and without the edges that a background has of its own."""
    if not mask.any():
        return np.zeros_like(grey)
    return np.where(mask, grey, np.float32(grey[mask].mean()))


class Prepared(NamedTuple):
    """One frame made ready: grey uint8 and its mask (flow_height, flow_width), and the whole picture's mask (H, W)."""

    grey: np.ndarray
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
        grey = fill_background(grey, part)
        size = (plan.flow_width, plan.flow_height)
        larger = plan.flow_width >= plan.width
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC if larger else cv2.INTER_AREA)
        inside = cv2.resize(part.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        return Prepared(np.clip(np.rint(grey), 0, 255).astype(np.uint8), inside, mask)
