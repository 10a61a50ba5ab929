"""The inner loops of the fusion. One module, because numba's cache of a function does not notice a change in another
file."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, error_model="numpy", nogil=True)
def integrate(
    value: np.ndarray, weight: np.ndarray, corner: np.ndarray, origin: np.ndarray, voxel: float, reach: float,
    cam_from_world: np.ndarray, K: np.ndarray, free: np.ndarray, row: np.ndarray, xyz: np.ndarray, normal: np.ndarray,
    trust: np.ndarray, carve: float,
) -> None:  # fmt: skip
    """Bring one frame into blocks of voxels (a running weighted mean).

    Within `reach` of a surface the distance is that to the plane through the pixel's point; a voxel before it is free,
    one behind it is not touched. Where the 3x3 pixels around a voxel lie outside the mask and are free beyond it, the
    voxel is free with the weight `carve`.

    Args:
        value, weight: (B, S, S, S) float32, changed. corner: (B, 3) int32 first voxel of each block.
        origin: (3,) world place of voxel (0, 0, 0)'s centre. voxel, reach: world units.
        free, row, K, cam_from_world: see `ViewMap`. xyz, normal: (n, 3) of its points, normals 0 = unknown.
        trust: (n,) weights.
    """
    blocks, side = value.shape[0], value.shape[1]
    height, width = free.shape
    c = cam_from_world
    for b in range(blocks):
        for i in range(side):
            for j in range(side):
                for k in range(side):
                    x = origin[0] + voxel * (corner[b, 0] + i)
                    y = origin[1] + voxel * (corner[b, 1] + j)
                    z = origin[2] + voxel * (corner[b, 2] + k)
                    zc = c[2, 0] * x + c[2, 1] * y + c[2, 2] * z + c[2, 3]
                    if not zc > 0:
                        continue
                    xc = c[0, 0] * x + c[0, 1] * y + c[0, 2] * z + c[0, 3]
                    yc = c[1, 0] * x + c[1, 1] * y + c[1, 2] * z + c[1, 3]
                    u = (K[0, 0] * xc + K[0, 1] * yc) / zc + K[0, 2]
                    v = K[1, 1] * yc / zc + K[1, 2]
                    if not (u >= 1 and v >= 1 and u < width - 1 and v < height - 1):
                        continue
                    column, line = int(u), int(v)
                    n = row[line, column]
                    if n < 0:
                        clear = True
                        for jj in range(line - 1, line + 2):
                            for ii in range(column - 1, column + 2):
                                if row[jj, ii] >= 0 or not free[jj, ii] > zc + reach:
                                    clear = False
                        if not clear:
                            continue
                        distance, share = np.float64(1.0), np.float64(carve)
                    else:
                        before = np.float64(free[line, column]) - zc
                        ray = np.sqrt(xc * xc + yc * yc + zc * zc) / zc
                        nx, ny, nz = normal[n, 0], normal[n, 1], normal[n, 2]
                        if nx != 0 or ny != 0 or nz != 0:
                            away = nx * (x - xyz[n, 0]) + ny * (y - xyz[n, 1]) + nz * (z - xyz[n, 2])
                        else:
                            away = before * ray
                        if before * ray > 4 * reach:
                            distance = np.float64(1.0)
                        elif before * ray < -4 * reach or away < -reach:
                            continue
                        else:
                            distance = min(away / reach, 1.0)
                        share = np.float64(trust[n])
                        if distance < 0:  # behind a surface less is known: thin things have another side
                            share *= 1 + distance
                    total = weight[b, i, j, k] + share
                    if total > 0:
                        value[b, i, j, k] += (distance - value[b, i, j, k]) * share / total
                        weight[b, i, j, k] = total


@numba.njit(cache=True, error_model="numpy", nogil=True)
def add_colours(
    vertices: np.ndarray, normals: np.ndarray, cam_from_world: np.ndarray, eye: np.ndarray, K: np.ndarray,
    free: np.ndarray, row: np.ndarray, rgb: np.ndarray, trust: np.ndarray, near: float, total: np.ndarray,
    weight: np.ndarray,
) -> None:  # fmt: skip
    """Add one frame's colours to the vertices that it sees: those at most `near` behind or before what it saw.

    Args:
        vertices, normals: (V, 3). eye: (3,). rgb: (n, 3), trust: (n,) of the frame's points.
        total: (V, 3), weight: (V,), changed.
    """
    height, width = free.shape
    c = cam_from_world
    for n in range(vertices.shape[0]):
        x, y, z = vertices[n, 0], vertices[n, 1], vertices[n, 2]
        zc = c[2, 0] * x + c[2, 1] * y + c[2, 2] * z + c[2, 3]
        if not zc > 0:
            continue
        xc = c[0, 0] * x + c[0, 1] * y + c[0, 2] * z + c[0, 3]
        yc = c[1, 0] * x + c[1, 1] * y + c[1, 2] * z + c[1, 3]
        u = (K[0, 0] * xc + K[0, 1] * yc) / zc + K[0, 2]
        v = K[1, 1] * yc / zc + K[1, 2]
        if not (u >= 0 and v >= 0 and u < width and v < height):
            continue
        point = row[int(v), int(u)]
        dx, dy, dz = eye[0] - x, eye[1] - y, eye[2] - z
        length = np.sqrt(dx * dx + dy * dy + dz * dz)
        facing = (normals[n, 0] * dx + normals[n, 1] * dy + normals[n, 2] * dz) / max(length, 1e-20)
        if point < 0 or facing <= 0.05 or abs(free[int(v), int(u)] - zc) > near / max(facing, 0.2):
            continue
        share = trust[point] * facing * facing
        weight[n] += share
        for channel in range(3):
            total[n, channel] += share * rgb[point, channel]
