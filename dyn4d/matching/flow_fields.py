"""Flows as arrays: looking values up along them and putting them together. Unknown flow is NaN."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

Flow = np.ndarray  # (H, W, 2) float32, pixels: where pixel (column, row) goes, less (column, row)

_ROW = 1024


def sample(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear values of `image` (H, W[, C]) at array positions (0 = centre of the first pixel), clamped.

    `x`, `y`: (h, w) or (N,) of any length; the result has their shape[, C].
    """
    if x.ndim == 1:  # OpenCV takes no side of 32767 or more
        count, rows = len(x), max(-(-len(x) // _ROW), 1)
        x, y = (np.pad(values, (0, rows * _ROW - count)).reshape(rows, _ROW) for values in (x, y))
        return sample(image, x, y).reshape(rows * _ROW, *image.shape[2:])[:count]
    return cv2.remap(
        image, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def targets(flow: Flow) -> tuple[np.ndarray, np.ndarray]:
    """Array columns and rows (H, W) where each pixel goes."""
    height, width = flow.shape[:2]
    x = np.arange(width, dtype=np.float32)[None] + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    return x, y


def compose(first: Flow, second: Flow) -> Flow:
    """The flow a→c of a→b (`first`) followed by b→c (`second`), all of one size. Unknown where either is."""
    return first + sample(second, *targets(first))


def filled(flow: Flow) -> Flow:
    """The flow with unknown places given the value of the nearest known one; zero where nothing is known."""
    if cv2.checkRange(flow)[0]:  # all finite, the usual case, seen at once
        return flow
    unknown = ~np.isfinite(flow).all(-1)
    if unknown.all():
        return np.zeros_like(flow)
    rows, columns = distance_transform_edt(unknown, return_distances=False, return_indices=True)  # type: ignore[misc]
    return flow[rows, columns]
