"""The inner loop of the cross-view check. One module, because numba's cache of a function does not notice a change in
another file."""

from __future__ import annotations

import numba
import numpy as np

NONE, AGREES, AGAINST = 0, 1, 2


@numba.njit(cache=True, error_model="numpy", nogil=True)
def look(
    xyz: np.ndarray, cam_from_world: np.ndarray, K: np.ndarray, free: np.ndarray, row: np.ndarray, relative: float,
    most: float, least: float, votes: np.ndarray, through: np.ndarray,
) -> None:  # fmt: skip
    """What one frame's map says of another frame's points.

    A point agrees where some of the 3x3 pixels around it has the object's surface at its depth. It is spoken against
    where all that is known of the 5x5 pixels around it lies behind it: the camera looked through the place. Where it
    lies before the surface of the very pixel that it falls on, that pixel's point is too deep, if the point is right.

    Args:
        xyz: (n, 3) world. cam_from_world: (4, 4), K: (3, 3) of the map. free, row: see `ViewMap`.
        relative, most, least: two depths agree within the share `relative` of the depth, at most `most` but at least
            the share `least`.
        votes: (n,) uint8, filled. through: (m,) bool of the map's points, set where another point lies in front.
    """
    height, width = free.shape
    for n in range(xyz.shape[0]):
        votes[n] = 0
        x, y, z = np.float64(xyz[n, 0]), np.float64(xyz[n, 1]), np.float64(xyz[n, 2])
        c = cam_from_world
        zc = c[2, 0] * x + c[2, 1] * y + c[2, 2] * z + c[2, 3]
        if not zc > 0:
            continue
        xc = c[0, 0] * x + c[0, 1] * y + c[0, 2] * z + c[0, 3]
        yc = c[1, 0] * x + c[1, 1] * y + c[1, 2] * z + c[1, 3]
        u = np.floor((K[0, 0] * xc + K[0, 1] * yc) / zc + K[0, 2])
        v = np.floor(K[1, 1] * yc / zc + K[1, 2])
        if not (0 <= u < width and 0 <= v < height):
            continue
        column, line = int(u), int(v)
        tolerance = max(min(relative * zc, most), least * zc)
        agrees, nearest = False, np.inf
        for j in range(max(line - 2, 0), min(line + 3, height)):
            for i in range(max(column - 2, 0), min(column + 3, width)):
                depth = free[j, i]
                nearest = min(nearest, depth)
                if abs(j - line) < 2 and abs(i - column) < 2 and row[j, i] >= 0 and abs(depth - zc) <= tolerance:
                    agrees = True
        if agrees:
            votes[n] = 1
        elif nearest > zc + tolerance:
            votes[n] = 2
        own = row[line, column]
        if own >= 0 and free[line, column] > zc + 2 * tolerance:
            through[own] = True
