"""Marching cubes over a grid that is given in slabs: the only module that calls scikit-image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

STEEP = 1.2  # values (of -1 to 1) may differ by this much in one cell; more is no surface but the edge of what was seen
_TINY = 1e-4  # values are kept this far from 0, so that no vertex falls on a corner of the grid


def _usable_cells(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(X, Y, Z) bool at the last corner of each cell, as scikit-image wants its mask."""
    low, high, whole = values, values, known
    for axis in range(3):
        first, last = [slice(None)] * 3, [slice(None)] * 3
        first[axis], last[axis] = slice(None, -1), slice(1, None)
        a, b = tuple(first), tuple(last)
        low, high = np.minimum(low[a], low[b]), np.maximum(high[a], high[b])
        whole = whole[a] & whole[b]
    out = np.zeros(values.shape, bool)
    out[1:, 1:, 1:] = whole & (low < 0) & (high > 0) & (high - low <= STEEP)
    return out


def surface(slabs: Iterator[tuple[int, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 in units of the grid, and faces (F, 3) int32, counter-clockwise from outside.

    Args:
        slabs: (first, values, known): the place along the first axis, float32 values (X, Y, Z), negative inside, and
            bool where they are known. The last layer of a slab is the first of the next; cells with a corner that is
            not known have no surface.
    """
    from skimage.measure import marching_cubes

    vertices: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    count = 0
    for first, values, known in slabs:
        cells = _usable_cells(values, known)
        if not cells.any():
            continue
        safe = np.where(np.abs(values) < _TINY, np.where(values < 0, -_TINY, _TINY), values).astype(np.float32)
        # "descent" is what scikit-image calls faces that are counter-clockwise from where values are higher
        points, corners, _, _ = marching_cubes(safe, 0.0, mask=cells, gradient_direction="descent")
        vertices.append(points + np.array([first, 0.0, 0.0]))
        faces.append(corners.astype(np.int64) + count)
        count += len(points)
    if not vertices:
        return np.zeros((0, 3)), np.zeros((0, 3), np.int32)
    return _weld(np.concatenate(vertices), np.concatenate(faces))


def _weld(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join vertices at exactly one place (slabs make the same ones where they meet), and drop faces without an area."""
    own, index = np.unique(vertices, axis=0, return_inverse=True)
    faces = index.reshape(-1)[faces]
    a, b, c = faces.T
    return own, faces[(a != b) & (b != c) & (c != a)].astype(np.int32)
