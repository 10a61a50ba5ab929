"""Depth of a clip's pictures in the views that a network was given of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from dyn4d.geometry.pair_results import PairFrame


class ObjectDepth(Protocol):
    """Depth of the object in T pictures, however it was found."""

    def picture(self, row: int) -> tuple[np.ndarray, np.ndarray]: ...

    def times(self, factor: float) -> ObjectDepth: ...

    def filled(self, other: ViewDepth) -> ObjectDepth: ...


@dataclass(frozen=True)
class ViewDepth:
    """Depth of T views.

    Attributes:
        frames: the views. depth, conf: (H, W) of each, planar z in any unit, 0 = none.
    """

    frames: list[PairFrame]
    depth: list[np.ndarray]
    conf: list[np.ndarray]

    @staticmethod
    def of_kept(frames: list[PairFrame], depth: list[Tensor], conf: list[Tensor]) -> ViewDepth:
        """From values of the kept pixels, NaN = none."""
        maps = [np.zeros((2, frame.height, frame.width)) for frame in frames]
        for out, frame, z, sure in zip(maps, frames, depth, conf):
            out[0].flat[frame.pixels.numpy()] = np.nan_to_num(z.numpy(), nan=0.0)
            out[1].flat[frame.pixels.numpy()] = sure.numpy()
        return ViewDepth(frames, [one[0] for one in maps], [one[1] for one in maps])

    def picture(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Depth and confidence of a picture, see `to_picture`."""
        return to_picture(self.frames[row], self.depth[row], self.conf[row])

    def times(self, factor: float) -> ViewDepth:
        """The same in another unit."""
        return ViewDepth(self.frames, [factor * depth for depth in self.depth], self.conf)


def to_picture(frame: PairFrame, depth: np.ndarray, conf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth and confidence (H, W) of a view, 0 = none, as maps of the picture that it was cut from.

    Between the view's pixels 1 / depth is interpolated, which is exact on a plane. A pixel of the picture has a depth
    if more than half of what is around it in the view has one.
    """
    size = frame.view.source
    across, down = (_Taps.along(axis, frame, size[axis], depth.shape[1 - axis]) for axis in (0, 1))
    known = depth > 0
    tables = np.stack([np.where(known, 1 / np.where(known, depth, 1), 0), np.where(known, conf, 0), known])
    inverse, sure, share = across.of(down.of(tables.transpose(0, 2, 1)).transpose(0, 2, 1))
    usable = share > 0.5
    safe = np.where(usable, share, 1.0)
    out = np.zeros((2, size[1], size[0]))
    out[0, down.where, across.where] = np.where(usable, safe / np.where(usable, inverse, 1.0), 0.0)
    out[1, down.where, across.where] = np.where(usable, sure / safe, 0.0)
    return out[0], out[1]


@dataclass(frozen=True)
class _Taps:
    """Linear interpolation along one axis of a view, at the pixels of its picture that it shows.

    Attributes:
        where: those pixels. low, high: (n,) the view's pixels around each. share: (n,) weight of the second.
    """

    where: slice
    low: np.ndarray
    high: np.ndarray
    share: np.ndarray

    @staticmethod
    def along(axis: int, frame: PairFrame, pixels: int, count: int) -> _Taps:
        """Of a picture with so many pixels along x (0) or y (1) and a view with `count`."""
        at = frame.view.scale[axis] * (np.arange(pixels) + 0.5) + frame.view.offset[axis]
        inside = np.flatnonzero((at >= 0) & (at < count))
        place = (at[inside] - 0.5).clip(0, count - 1)
        low = place.astype(np.int64)
        where = slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)
        return _Taps(where, low, np.minimum(low + 1, count - 1), place - low)

    def of(self, values: np.ndarray) -> np.ndarray:
        """(..., n) at these pixels, of values (..., count)."""
        return values[..., self.low] * (1 - self.share) + values[..., self.high] * self.share
