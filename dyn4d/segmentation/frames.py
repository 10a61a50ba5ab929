"""Frames at the size the work is done at, and flows between them, kept while they are needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from dyn4d.core.types import FrameReader
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.estimators import FlowEstimator, make_estimator
from dyn4d.matching.flow_fields import Flow, compose, filled, targets


@dataclass(frozen=True)
class WorkFrame:
    """One frame at the working size.

    Attributes:
        rgb: (h, w, 3) uint8. grey: (h, w) uint8. soft: (h, w, 3) uint8, slightly smoothed.
        lab: (h, w, 3) float32 CIE Lab of that.
    """

    rgb: np.ndarray
    soft: np.ndarray
    grey: np.ndarray
    lab: np.ndarray


def work_size(width: int, height: int, limit: int) -> tuple[int, int]:
    """(width, height) that a picture is brought to, so that its longest side is at most `limit`."""
    scale = min(1.0, limit / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def work_frame(image: np.ndarray, size: tuple[int, int]) -> WorkFrame:
    """Prepare a picture (H, W, 3) uint8 at `size` = (width, height)."""
    if (image.shape[1], image.shape[0]) != size:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(image, (0, 0), 0.7)
    lab = cv2.cvtColor(soft.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return WorkFrame(image, soft, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), lab)


class WorkClip:
    """The frames of a clip at the working size, and flows between them.

    Args:
        images: T frames (H, W, 3) uint8. limit: longest side at which the work is done. keep: frames held in memory.
    """

    def __init__(self, images: FrameReader, limit: int, keep: int = 24, estimator: FlowEstimator | None = None) -> None:
        self.images = images
        height, width = images[0].shape[:2]
        self.full, self.size = (width, height), work_size(width, height, limit)
        self._estimate = estimator or make_estimator(MatchingConfig())
        self._frames: OrderedDict[int, WorkFrame] = OrderedDict()
        self._flows: OrderedDict[tuple[int, int], Flow] = OrderedDict()
        self._keep = keep

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> WorkFrame:
        if index not in self._frames and index + 1 in self._frames:  # going back: videos are read forwards, in blocks
            for before in range(max(0, index - self._keep // 3), index):
                self._read(before)
        return self._read(index)

    def _read(self, index: int) -> WorkFrame:
        return _remembered(self._frames, index, lambda: work_frame(self.images[index], self.size), self._keep)

    def step(self, a: int, b: int) -> Flow:
        """Flow from frame a to frame b, kept for a while."""
        return _remembered(self._flows, (a, b), lambda: self.flow(a, b), 4 * self._keep)

    def flow(self, a: int, b: int, start: Flow | None = None) -> Flow:
        """Flow from frame a to frame b; with `start`, only what that leaves over is searched for."""
        picture_a, picture_b = self._picture(a), self._picture(b)
        if start is None:
            return self._estimate(picture_a, picture_b)
        start = cv2.GaussianBlur(filled(start), (0, 0), 1.0)
        drawn = cv2.remap(picture_b, *targets(start), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return compose(self._estimate(picture_a, drawn), start)

    def _picture(self, index: int) -> np.ndarray:
        return self[index].rgb if self._estimate.colour else self[index].grey


def _remembered(store: OrderedDict, key: object, make: Callable, keep: int):
    if key in store:
        store.move_to_end(key)
        return store[key]
    value = store[key] = make()
    while len(store) > keep:
        store.popitem(last=False)
    return value
