"""A moving mesh as few morph targets: shapes of which every frame is a weighted sum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOLERANCE = 0.001  # of the object's size: no vertex of any frame may be further off


@dataclass(frozen=True)
class Morphs:
    """Vertices at frame f are `base + sum_k weights[f, k] targets[k]`; linear in between, as the vertices would be.

    Attributes:
        base: (V, 3) float32, the shape at one frame. targets: (K, V, 3) float32.
        weights: (F, K) float32 in [0, 1]: some programs (Blender) cut off what is outside.
        error: the largest distance of a vertex from where it should be, world units.
    """

    base: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    error: float


def find_morphs(vertices: np.ndarray, frame: int, *, tolerance: float) -> Morphs:
    """The fewest morph targets, by singular values, that give all frames' vertices (F, V, 3) back to `tolerance` (world
    units), with the shape at `frame` as the base. K is at most F."""
    count, size = vertices.shape[:2]
    base = vertices[frame].astype(np.float64)
    offset = (vertices.astype(np.float64) - base).reshape(count, -1)
    # by the small (F, F) matrix of products: the one of the vertices would be far larger
    values, left = np.linalg.eigh(offset @ offset.T)
    order = np.argsort(values)[::-1][: count - 1]
    order = order[values[order] > 1e-20 * max(float(values.max(initial=0)), 1e-300)]
    left = left[:, order]
    directions = left.T @ offset  # (K, 3V), rows of falling length
    rest, used = offset.copy(), 0
    error = _largest(rest)
    while used < len(directions) and error > tolerance:
        rest -= left[:, used : used + 1] * directions[used]
        used += 1
        error = _largest(rest)
    weights, shapes = _within_one(left[:, :used], directions[:used])
    return Morphs(
        base.astype(np.float32), shapes.reshape(-1, size, 3).astype(np.float32), weights.astype(np.float32), error
    )


def _within_one(weights: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same sums with weights from 0 to 1: of each target its least part goes into one more, which is always on."""
    if weights.shape[1] == 0:
        return weights, targets
    low, span = weights.min(axis=0), np.maximum(np.ptp(weights, axis=0), 1e-30)
    weights = np.concatenate([np.ones((len(weights), 1)), (weights - low) / span], axis=1)
    return weights, np.concatenate([(low @ targets)[None], targets * span[:, None]])


def _largest(offset: np.ndarray) -> float:
    return float(np.linalg.norm(offset.reshape(len(offset), -1, 3), axis=-1).max(initial=0.0))
