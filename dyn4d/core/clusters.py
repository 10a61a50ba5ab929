"""Which points belong together: spacing, clusters, outliers, and bounds that a few stray points do not move.

NumPy and scipy. All points given must be finite; rows are those of the argument, lengths in its units.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

SAMPLE = 20_000  # points that bounds and spacing are told from
_BLOCK = 65_536
_HALF = np.array([(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1) if (i, j, k) > (0, 0, 0)])


def sample(count: int, most: int = SAMPLE, seed: int = 0) -> np.ndarray:
    """Sorted rows, all of them or a random `most`."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def neighbour_distance(xyz: np.ndarray, k: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Mean distance of points (N, 3), or of some rows of them, to their k nearest others."""
    if len(xyz) < 2:
        return np.zeros(len(xyz) if rows is None else len(rows))
    tree = KDTree(xyz)
    asked = np.arange(len(xyz)) if rows is None else rows
    use = min(k + 1, len(xyz))
    out = np.empty(len(asked))
    for at in range(0, len(asked), _BLOCK):
        distance: Any = tree.query(xyz[asked[at : at + _BLOCK]], k=use)[0]
        out[at : at + _BLOCK] = distance[:, 1:].mean(-1)
    return out


def spacing(xyz: np.ndarray, k: int = 4) -> float:
    """Median distance of points (N, 3) to their k nearest others; 0 with fewer than two places."""
    if len(xyz) < 2:
        return 0.0
    found = neighbour_distance(xyz, k, sample(len(xyz), 5000))
    return float(np.median(found[found > 0])) if (found > 0).any() else 0.0


def cluster_labels(xyz: np.ndarray, cell: float) -> np.ndarray:
    """(N,) cluster of each point, 0 the one with most points, 1 the next ...

    Points in one cube of side `cell`, or in cubes that touch (also by a corner), belong together. So what is closer
    than one cell always does, what is further apart than 2 sqrt(3) cells never by itself.
    """
    if len(xyz) == 0:
        return np.empty(0, np.int64)
    if cell <= 0:
        cell = 1.0
    whole = np.floor((xyz.astype(np.float64) - xyz.min(0)) / cell)
    if whole.max() >= 1 << 20:  # cubes are numbered in 21 bits an axis
        whole = np.stack([_squeezed(column) for column in whole.T], axis=-1)
    code = _code(whole.astype(np.int64))
    cubes, of_point = np.unique(code, return_inverse=True)
    ends = []
    for step in _HALF:
        shifted = cubes + (step[0] << 42) + (step[1] << 21) + step[2]
        at = np.minimum(np.searchsorted(cubes, shifted), len(cubes) - 1)
        hit = np.flatnonzero(cubes[at] == shifted)
        ends.append(np.stack([hit, at[hit]]))
    pairs = np.concatenate(ends, axis=1)
    graph = coo_matrix((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(len(cubes), len(cubes)))
    label = connected_components(graph, directed=False)[1][of_point]
    sizes = np.bincount(label)
    rank = np.empty(len(sizes), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return rank[label]


def _code(whole: np.ndarray) -> np.ndarray:
    """One number a cube, with a free cube around on each side."""
    whole = whole + 1
    return (whole[:, 0] << 42) + (whole[:, 1] << 21) + whole[:, 2]


def _squeezed(column: np.ndarray) -> np.ndarray:
    """Whole numbers with every gap of more than one shortened to two: neighbours stay neighbours, others stay apart."""
    values, inverse = np.unique(column, return_inverse=True)
    return np.cumsum(np.minimum(np.diff(values, prepend=values[0]), 2))[inverse]


def is_outlier(xyz: np.ndarray, k: int = 16, ratio: float = 2.0) -> np.ndarray:
    """(N,) bool: points whose mean distance to k neighbours is `ratio` standard deviations above the mean of all.

    The statistical outlier removal of Rusu et al., "Towards 3D point cloud based object maps" (2008).
    """
    if len(xyz) < 3:
        return np.zeros(len(xyz), bool)
    distance = neighbour_distance(xyz, k)
    return distance > distance.mean() + ratio * distance.std()


def robust_bounds(xyz: np.ndarray, *, least_share: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corner (3,) of the points without strays.

    Told from at most 20,000 of them: clusters with less than `least_share` of the points do not count, unless all are
    so small.
    """
    few = xyz[sample(len(xyz))].astype(np.float64)
    if len(few) < 3:
        return (few.min(0), few.max(0)) if len(few) else (np.zeros(3), np.zeros(3))
    label = cluster_labels(few, 3 * float(np.quantile(neighbour_distance(few, 8), 0.75)))
    share = np.bincount(label) / len(few)
    large = share >= least_share
    kept = few[large[label]] if large.any() else few
    return kept.min(0), kept.max(0)
