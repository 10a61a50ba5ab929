"""Frames that are read when asked for, with a small cache, and resizing that keeps pixel centres in place."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

CACHE_BYTES = 64 * 2**20


class LazyFrames:
    """Frames made by `read(index)` when asked for; the last used ones are kept, up to `cache_bytes`.

    Each access hands out a copy, so that a caller may write into it. Safe to use from several threads.

    Attributes:
        labels: where each frame comes from, for messages.
    """

    def __init__(
        self, labels: Sequence[str], read: Callable[[int], np.ndarray], *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.labels = tuple(labels)
        self._read = read
        self._cache_bytes = cache_bytes
        self._held = 0
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> np.ndarray:
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        index = int(index) % len(self)
        with self._lock:
            frame = self._cache.get(index)
            if frame is not None:
                self._cache.move_to_end(index)
                return frame.copy()
            frame = self._read(index)
            if frame.nbytes <= self._cache_bytes:
                self._cache[index] = frame
                self._held += frame.nbytes
                while self._held > self._cache_bytes:
                    self._held -= self._cache.popitem(last=False)[1].nbytes
            return frame.copy()


class DepthFrames(LazyFrames):
    """Depth maps that remember how many pixels of each file were NaN, infinite or negative (and became 0)."""

    def __init__(
        self,
        labels: Sequence[str],
        read: Callable[[int], tuple[np.ndarray, int]],
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        super().__init__(labels, self._read_and_count, cache_bytes=cache_bytes)
        self._read_counted = read
        self._bad: dict[int, int] = {}

    def _read_and_count(self, index: int) -> np.ndarray:
        depth, self._bad[index] = self._read_counted(index)
        return depth

    def bad_pixels(self, index: int) -> int:
        """Pixels of frame `index` (0 …) that held no usable number."""
        if index not in self._bad:
            self[index]
        return self._bad[index]


def resize_rgb(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W, 3) uint8 to another size; each new pixel is the mean over its own area."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def resize_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W) bool to another size: object where more than half of the new pixel's area is."""
    # In floats: 8-bit steps would round exactly half up to more than half.
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX))
    return share > 0.5 + 1e-5


def resize_depth(depth: np.ndarray, width: int, height: int, *, jump: float = 0.02) -> np.ndarray:
    """(H, W) float32 depth to another size, read at the new pixel centres.

    Bilinear where all four neighbours are there and agree within the fraction `jump`; otherwise the nearest pixel,
    because a mean across an edge would invent a surface between two others.
    """
    rows, row_fraction, row_near = _sample_positions(depth.shape[0], height)
    cols, col_fraction, col_near = _sample_positions(depth.shape[1], width)
    corners = np.stack(
        [depth[np.ix_(r, c)] for r in (rows, np.minimum(rows + 1, depth.shape[0] - 1))
         for c in (cols, np.minimum(cols + 1, depth.shape[1] - 1))]
    )  # fmt: skip
    a, b = row_fraction[:, None], col_fraction[None, :]
    mean = (1 - a) * ((1 - b) * corners[0] + b * corners[1]) + a * ((1 - b) * corners[2] + b * corners[3])
    low, high = corners.min(0), corners.max(0)
    smooth = (low > 0) & (high - low <= jump * high)
    return np.where(smooth, mean, depth[np.ix_(row_near, col_near)]).astype(np.float32)


def _sample_positions(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where new pixel centres fall among old ones: the lower neighbour, the fraction to the next, the nearest."""
    position = (np.arange(new) + 0.5) * old / new - 0.5
    lower = np.clip(np.floor(position), 0, max(old - 2, 0)).astype(np.int64)
    fraction = np.clip(position - lower, 0, 1).astype(np.float32)
    nearest = np.clip(np.floor((np.arange(new) + 0.5) * old / new), 0, old - 1).astype(np.int64)
    return lower, fraction, nearest
