"""Labels at the working size brought to the full picture, with edges that follow it.

Source: He and Sun, "Fast Guided Filter", 2015: the labels are written as a linear function of the colours around each
place at the small size, and that function is applied to the full picture.
"""

from __future__ import annotations

import cv2
import numpy as np

RADIUS = 2  # pixels of the small size around a place
EDGE = 1e-3  # squared differences of colours, in [0, 1], below which nothing is an edge
ROWS = 256  # of the full picture at a time: a 4K frame is never held as floats
BAND = 2.0  # pixels of the small size: farther from the outline nothing is changed


def full_mask(labels: np.ndarray, small: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(H, W) bool from labels (h, w) float32 of the picture `small` (h, w, 3) uint8, for `image` (H, W, 3) uint8."""
    height, width = image.shape[:2]
    if labels.shape == (height, width):
        return labels > 0.5
    slope, offset = _linear(labels, small.astype(np.float32) / 255)
    outline = cv2.morphologyEx((labels > 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    far = (
        cv2.distanceTransform(1 - outline, cv2.DIST_L2, 5) if outline.any() else np.full(labels.shape, 1e3, np.float32)
    )
    maps = np.dstack([slope, offset, labels, far]).astype(np.float32)
    mask = np.empty((height, width), bool)
    x = ((np.arange(width) + 0.5) * labels.shape[1] / width - 0.5).astype(np.float32)
    y = ((np.arange(height) + 0.5) * labels.shape[0] / height - 0.5).astype(np.float32)
    for top in range(0, height, ROWS):
        rows = slice(top, min(top + ROWS, height))
        at_x, at_y = np.meshgrid(x, y[rows])
        here = [cv2.remap(np.ascontiguousarray(part), at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                for part in (maps[..., :4], maps[..., 4:])]  # fmt: skip
        fitted = (here[0][..., :3] * (image[rows].astype(np.float32) / 255)).sum(-1) + here[0][..., 3]
        mask[rows] = np.where(here[1][..., 1] <= BAND, fitted, here[1][..., 0]) > 0.5
    return _clean(mask, labels, width / labels.shape[1])


def _mean(values: np.ndarray) -> np.ndarray:
    side = 2 * RADIUS + 1
    return cv2.blur(values, (side, side), borderType=cv2.BORDER_REPLICATE)


def _linear(labels: np.ndarray, guide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (h, w, 3) and offsets (h, w): around each place labels = slope . colour + offset, smoothed."""
    mean, level = _mean(guide), _mean(labels)
    spread = np.empty((*labels.shape, 3, 3), np.float32)
    for i in range(3):
        for j in range(3):
            spread[..., i, j] = _mean(guide[..., i] * guide[..., j]) - mean[..., i] * mean[..., j]
    spread += EDGE * np.eye(3, dtype=np.float32)
    joint = _mean(guide * labels[..., None]) - mean * level[..., None]
    slope = np.linalg.solve(spread, joint[..., None])[..., 0]
    return _mean(slope), _mean(level - (slope * mean).sum(-1))


def _clean(mask: np.ndarray, labels: np.ndarray, scale: float) -> np.ndarray:
    """Without specks and pin-holes smaller than a pixel of the small size, which noise of the full picture makes."""
    side = min(2 * round(scale / 2) + 1, 15)
    if side < 3:
        return mask
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, kernel).astype(bool)
    # thin limbs are kept where the labels themselves are sure of them
    sure = cv2.resize(labels, mask.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.8
    return opened | (mask & sure)
