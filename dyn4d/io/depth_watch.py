"""Measures depth maps as they go by: holes, flatness, and whether they lie where the colours lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from dyn4d.io.clip_watch import FrameFigures

SHIFT = 12  # px: the farthest shift between depth and mask that is looked for
JUMP = 0.04  # relative difference of neighbouring depths that makes an edge
NEAR = 24  # px around the outline in which edges of depth are looked for
SOFT = 1.5  # px: how exactly an edge of depth is asked to lie on the outline
LEAST = 40  # pixels of edges, below which a frame says nothing


def depth_figures(figures: FrameFigures, depth: np.ndarray, mask: np.ndarray) -> None:
    """Fill in `deep`, `depth`, `spread` and `levels` of a frame."""
    pixels = int(np.count_nonzero(mask))
    if pixels == 0:
        return
    inside = depth[mask]
    inside = inside[np.isfinite(inside) & (inside > 0)]
    figures.deep = len(inside) / pixels
    if len(inside) < 16:
        return
    low, middle, high = np.quantile(inside, (0.05, 0.5, 0.95))
    figures.depth, figures.spread = float(middle), float((high - low) / middle)
    figures.levels = float(len(np.unique(inside)))


def depth_edges(depth: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels at which depth begins, ends, or jumps."""
    there = depth > 0
    edge = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        a = np.take(depth, range(depth.shape[axis] - 1), axis)
        b = np.take(depth, range(1, depth.shape[axis]), axis)
        known_a, known_b = a > 0, b > 0
        jump = (known_a != known_b) | (known_a & known_b & (np.abs(a - b) > JUMP * np.minimum(a, b)))
        first = [slice(None)] * 2
        first[axis] = slice(0, -1)
        edge[tuple(first)] |= jump
    return edge & cv2.dilate(there.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


@dataclass
class DepthFit:
    """How well edges of depth lie on the masks' outlines, for all shifts of up to `SHIFT` pixels.

    Attributes:
        total: (2 SHIFT + 1, 2 SHIFT + 1) sums over frames, by rows (down) and columns (right). frames: how many told.
    """

    total: np.ndarray = field(default_factory=lambda: np.zeros((2 * SHIFT + 1, 2 * SHIFT + 1)))
    frames: int = 0

    def add(self, grey: np.ndarray, mask: np.ndarray, depth: np.ndarray) -> None:
        """Of one frame; all (H, W)."""
        inside = mask.astype(np.uint8)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows) == 0:
            return
        pad = NEAR + SHIFT + 2
        box = np.s_[max(rows[0] - pad, 0) : rows[-1] + pad, max(columns[0] - pad, 0) : columns[-1] + pad]
        inside, depth = np.ascontiguousarray(inside[box]), np.ascontiguousarray(depth[box])
        outline = inside - cv2.erode(inside, np.ones((3, 3), np.uint8), borderValue=1)
        if np.count_nonzero(outline) < LEAST:
            return
        away = cv2.distanceTransform(1 - outline, cv2.DIST_L2, 5)
        edge = depth_edges(np.where(np.isfinite(depth), depth, 0)) & (away < NEAR)
        edge[:, [0, -1]] = edge[[0, -1]] = False
        y, x = np.nonzero(edge)
        if len(y) < LEAST:
            return
        if len(y) > 4000:
            chosen = np.random.default_rng(0).choice(len(y), 4000, replace=False)
            y, x = y[chosen], x[chosen]
        near = np.pad(np.exp(-0.5 * (away / SOFT) ** 2), SHIFT)
        for down in range(2 * SHIFT + 1):
            for right in range(2 * SHIFT + 1):
                self.total[down, right] += near[y + down, x + right].mean()
        self.frames += 1

    def best(self) -> tuple[int, int, float]:
        """Pixels right and down by which depth has to be moved to lie best on the masks, and how much better that is
        than as it lies (1: no better)."""
        if self.frames == 0:
            return 0, 0, 1.0
        down, right = np.unravel_index(int(self.total.argmax()), self.total.shape)
        here = float(self.total[SHIFT, SHIFT])
        return int(right) - SHIFT, int(down) - SHIFT, float(self.total.max()) / max(here, 1e-9)
