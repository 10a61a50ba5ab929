"""What colours say of object and background, here and anywhere in the frame.

Colours are sorted into a palette found once; for each colour of it, how much of the object and of the background has
it is counted around each place (local) and in the whole frame. This is a bilateral grid whose colour axes are a
palette: Märki et al., "Bilateral Space Video Segmentation", CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

LIGHT = 0.6  # lightness counts less than hue: shadows
NEAR = 3  # colours of the palette that a pixel is shared out among
BITS = 6  # of each channel: finer differences make no other colour


@dataclass(frozen=True)
class Shares:
    """For each pixel the nearest colours of a palette (h, w, NEAR) and their shares, which add up to 1."""

    index: np.ndarray
    share: np.ndarray


class Palette:
    """K colours that stand for all others.

    Args:
        samples: (N, 3) uint8 RGB. size: K at most. seed: of the search.
    """

    def __init__(self, samples: np.ndarray, size: int, seed: int = 0) -> None:
        points = _scaled_lab(samples)
        size = max(1, min(size, len(np.unique(np.round(points), axis=0))))
        cv2.setRNGSeed(seed)
        stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 12, 0.5)
        self.centres = np.asarray(cv2.kmeans(points, size, None, stop, 1, cv2.KMEANS_PP_CENTERS)[2])  # type: ignore
        tree = cKDTree(self.centres)
        apart = tree.query(self.centres, k=2)[0][:, 1] if size > 1 else np.array([4.0])
        spread = max(0.5 * float(np.median(apart)), 2.0)
        levels = (np.arange(1 << BITS) * 255 / ((1 << BITS) - 1)).round().astype(np.uint8)
        every = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
        near = min(NEAR, size)
        distance, index = tree.query(_scaled_lab(every), k=near)
        share = np.exp(-0.5 * np.square(distance.reshape(-1, near) / spread)) + 1e-6
        self._index = index.reshape(-1, near).astype(np.int32)
        self._share = (share / share.sum(-1, keepdims=True)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.centres)

    def shares(self, rgb: np.ndarray) -> Shares:
        """Of the pixels of a picture (h, w, 3) uint8."""
        cell = (rgb >> (8 - BITS)).astype(np.int32)
        row = (cell[..., 0] << 2 * BITS) | (cell[..., 1] << BITS) | cell[..., 2]
        return Shares(self._index[row], self._share[row])


def _scaled_lab(rgb: np.ndarray) -> np.ndarray:
    lab = cv2.cvtColor(rgb.reshape(-1, 1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[:, 0]
    return np.ascontiguousarray(lab * np.array([LIGHT, 1, 1], np.float32))


@dataclass(frozen=True)
class Sample:
    """Pixels of one reference, and where they are in the frame asked about.

    Attributes:
        shares: of their colours. x, y: (h, w) columns and rows. chance: (h, w) of being object. weight: (h, w).
    """

    shares: Shares
    x: np.ndarray
    y: np.ndarray
    chance: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """(h, w) float32 each: the chance of being object, and how much is known of it (0 to 1)."""

    chance: np.ndarray
    known: np.ndarray


def colour_evidence(
    count: int, shares: Shares, samples: Sequence[Sample], radius: float, *, cell: int = 4, enough: float = 8.0,
    afar: float = 0.3,
) -> Evidence:  # fmt: skip
    """What the colours of a frame say, learnt from `samples`.

    Args:
        count: colours in the palette. shares: of the frame's pixels. samples: with places in its pixels.
        radius: pixels around a place over which colours are learnt. cell: side of a cell of the grid, pixels.
        enough: pixels of a colour around a place by which it is half known there.
        afar: how much is known of a colour that is only seen elsewhere in the frame.
    """
    height, width = shares.index.shape[:2]
    rows, columns = -(-height // cell), -(-width // cell)
    grid = np.zeros((2, count, rows, columns), np.float32)
    for sample in samples:
        grid += _counted(sample, count, (rows, columns), cell)
    total = grid.sum((2, 3))
    sigma = radius / cell
    for side in range(2):
        for colour in np.flatnonzero(total[side] > 0):
            grid[side, colour] = cv2.GaussianBlur(
                grid[side, colour], (0, 0), sigma, borderType=cv2.BORDER_CONSTANT
            )  # fmt: skip
    grid *= 2 * np.pi * sigma**2
    wide = total / np.maximum(total.sum(1, keepdims=True), 1e-6)
    row, column = np.arange(height)[:, None] // cell, np.arange(width)[None] // cell
    here, anywhere = np.zeros((2, height, width), np.float32), np.zeros((2, height, width), np.float32)
    for near in range(shares.index.shape[-1]):
        index, share = shares.index[..., near], shares.share[..., near]
        here += share * grid[:, index, row, column]
        anywhere += share * wide[:, index]
    seen = here.sum(0)
    known = seen / (seen + enough)
    chance = known * here[0] / np.maximum(seen, 1e-6) + (1 - known) * (anywhere[0] + 1e-4) / (anywhere.sum(0) + 2e-4)
    return Evidence(chance, known + (1 - known) * afar)


def _counted(sample: Sample, count: int, cells: tuple[int, int], cell: int) -> np.ndarray:
    """(2, count, rows, columns): the weight of object and background pixels of each colour in each cell."""
    rows, columns = cells
    column, row = np.floor((sample.x + 0.5) / cell), np.floor((sample.y + 0.5) / cell)
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows) & (sample.weight > 0)
    place = (row[inside] * columns + column[inside]).astype(np.int64)
    index, share = sample.shares.index[inside], sample.shares.share[inside] * sample.weight[inside][:, None]
    flat = (index * (rows * columns) + place[:, None]).ravel()
    of = sample.chance[inside][:, None]
    sums = [np.bincount(flat, (share * part).ravel(), count * rows * columns) for part in (of, 1 - of)]
    return np.stack(sums).reshape(2, count, rows, columns).astype(np.float32)
