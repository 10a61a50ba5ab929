"""What motion says of object and background: pixels that follow the camera's motion are background."""

from __future__ import annotations

import cv2
import numpy as np

from dyn4d.matching.flow_fields import Flow, targets
from dyn4d.segmentation.colours import Evidence

FEWEST = 60  # points from which the camera's motion is found
BINS = 24
LARGEST = 32.0  # px
NOISE = 2.0  # times the background's own differences: what these explain less well has moved
PULL = 0.25  # px: departures below this are noise of the flow


def departure(
    flow: Flow, lab: np.ndarray, other: np.ndarray, background: np.ndarray, seed: int = 0
) -> np.ndarray | None:
    """(h, w) px: how far each pixel goes from where the background's motion would take it. None where too little
    background is there to tell.

    A flow runs over edges; a pixel whose look the background's motion explains as well as the flow does has not gone.

    Args:
        flow: to another frame. lab, other: (h, w, 3) colours of both. background: (h, w) bool, certainly no object.
    """
    rows, columns = np.nonzero(background)
    if len(rows) < FEWEST:
        return None
    pick = np.random.default_rng(seed).permutation(len(rows))[:3000]
    x, y = targets(flow)
    start = np.stack([columns, rows], -1)[pick].astype(np.float32)
    end = np.stack([x[rows, columns], y[rows, columns]], -1)[pick]
    cv2.setRNGSeed(seed)
    found, inliers = cv2.findHomography(start, end, cv2.RANSAC, 1.0, maxIters=300)
    if found is None or inliers.sum() < 0.3 * len(pick):
        return None
    height, width = background.shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32).reshape(1, -1, 2)
    expected = cv2.perspectiveTransform(grid, found).reshape(height, width, 2)
    away = np.hypot(x - expected[..., 0], y - expected[..., 1])
    still = _unlike(lab, other, expected[..., 0], expected[..., 1])
    moved = _unlike(lab, other, x, y)
    noise = max(float(np.median(still[background])), 0.5)
    return (away * np.clip((still - moved) / (NOISE * noise), 0, 1)).astype(np.float32)


def _unlike(lab: np.ndarray, other: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(h, w): how much the colours around each pixel differ from those at (x, y) of the other frame."""
    drawn = cv2.remap(other, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.GaussianBlur(np.abs(drawn - lab).sum(-1), (0, 0), 1.5)


def texture(grey: np.ndarray) -> np.ndarray:
    """(h, w) in [0, 1]: how surely a flow can be found here."""
    slope = cv2.magnitude(
        cv2.Sobel(grey, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(grey, cv2.CV_32F, 0, 1, scale=1 / 8)
    )
    strength = cv2.GaussianBlur(slope, (0, 0), 3.0)
    return strength / (strength + 2.0)


def motion_evidence(away: np.ndarray, grey: np.ndarray, chance: np.ndarray, near: np.ndarray) -> Evidence:
    """What departures from the background's motion say, learnt from a first guess.

    Args:
        away: (h, w) px, of `departure`. grey: (h, w) uint8. chance: (h, w) the guess.
        near: (h, w) bool, where to learn.
    """
    level = np.log1p(np.minimum(away, LARGEST) / PULL) / np.log1p(LARGEST / PULL) * (BINS - 1)
    low = np.clip(np.floor(level).astype(np.int64), 0, BINS - 2)
    share = level - low
    sure = texture(grey)
    counts = []
    for of in (chance, 1 - chance):
        weight = (of * sure * near).ravel()
        count = np.bincount(low.ravel(), weight * (1 - share).ravel(), BINS)
        count += np.bincount(low.ravel() + 1, weight * share.ravel(), BINS)
        count = np.convolve(np.pad(count, 2, mode="edge"), [0.1, 0.2, 0.4, 0.2, 0.1], "valid")
        counts.append((count + 1e-3) / (count.sum() + 1e-3 * BINS) + 2e-3)
    table = counts[0] / (counts[0] + counts[1])
    value = (1 - share) * table[low] + share * table[low + 1]
    return Evidence(value.astype(np.float32), sure.astype(np.float32))
