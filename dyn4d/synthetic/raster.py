"""Exact drawing of a triangle mesh: z-buffer at sample points, and exact visibility of single points.

Pixels: the centre of the top-left pixel is (0.5, 0.5). Depth is planar z; its inverse is linear in the picture, so
nothing here is approximated beyond rounding.
"""

from __future__ import annotations

import numba
import numpy as np


def project(vertices: np.ndarray, K: np.ndarray, cam_from_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (V, 2) and planar depth (V,) of world points (V, 3), float64."""
    in_camera = vertices @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    z = in_camera[:, 2]
    x, y = in_camera[:, 0] / z, in_camera[:, 1] / z
    return np.stack([K[0, 0] * x + K[0, 1] * y + K[0, 2], K[1, 1] * y + K[1, 2]], axis=1), z


@numba.njit(cache=True, error_model="numpy")
def z_buffer(
    xy: np.ndarray, z: np.ndarray, faces: np.ndarray, width: int, height: int, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest triangle at every sample point.

    Args:
        xy: (V, 2) px, z: (V,) > 0 planar depth of the vertices. faces: (F, 3).
        samples: sample points along each side of a pixel, at its (i + 0.5) / samples; 1 = the pixel centre.

    Returns:
        face (H*s, W*s) int32, -1 = none, and inverse depth (H*s, W*s) float64, 0 = none.
    """
    rows, cols = height * samples, width * samples
    face = np.full((rows, cols), -1, dtype=np.int32)
    nearest = np.zeros((rows, cols))
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if z[a] <= 1e-6 or z[b] <= 1e-6 or z[c] <= 1e-6:
            continue
        ax, ay = xy[a, 0] * samples - 0.5, xy[a, 1] * samples - 0.5
        bx, by = xy[b, 0] * samples - 0.5, xy[b, 1] * samples - 0.5
        cx, cy = xy[c, 0] * samples - 0.5, xy[c, 1] * samples - 0.5
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        x0, x1 = max(int(np.ceil(min(ax, bx, cx))), 0), min(int(np.floor(max(ax, bx, cx))), cols - 1)
        y0, y1 = max(int(np.ceil(min(ay, by, cy))), 0), min(int(np.floor(max(ay, by, cy))), rows - 1)
        ia, ib, ic = 1.0 / z[a], 1.0 / z[b], 1.0 / z[c]
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                wa = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                wb = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                wc = 1.0 - wa - wb
                if wa >= 0.0 and wb >= 0.0 and wc >= -1e-12:
                    inverse = wa * ia + wb * ib + wc * ic
                    if inverse > nearest[y, x]:
                        nearest[y, x] = inverse
                        face[y, x] = f
    return face, nearest


@numba.njit(cache=True, error_model="numpy")
def _occluded(
    xy: np.ndarray, z: np.ndarray, faces: np.ndarray, points: np.ndarray, depth: np.ndarray, own: np.ndarray,
    order: np.ndarray, start: np.ndarray, width: int, height: int,
) -> np.ndarray:  # fmt: skip
    """(N,) bool: does some triangle other than the point's own lie in front of it, at its exact place?"""
    hidden = np.zeros(points.shape[0], dtype=np.bool_)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, bx, by, cx, cy = xy[a, 0], xy[a, 1], xy[b, 0], xy[b, 1], xy[c, 0], xy[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        x0, x1 = max(int(np.floor(min(ax, bx, cx))), 0), min(int(np.floor(max(ax, bx, cx))), width - 1)
        y0, y1 = max(int(np.floor(min(ay, by, cy))), 0), min(int(np.floor(max(ay, by, cy))), height - 1)
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                for k in range(start[y * width + x], start[y * width + x + 1]):
                    i = order[k]
                    if hidden[i] or own[i] == f:
                        continue
                    px, py = points[i, 0], points[i, 1]
                    wa = ((bx - px) * (cy - py) - (by - py) * (cx - px)) / area
                    wb = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) / area
                    wc = 1.0 - wa - wb
                    if wa >= 0.0 and wb >= 0.0 and wc >= 0.0:
                        inverse = wa / z[a] + wb / z[b] + wc / z[c]
                        if inverse * depth[i] > 1.0 + 1e-9:
                            hidden[i] = True
    return hidden


def visible_points(
    xy: np.ndarray, z: np.ndarray, faces: np.ndarray, *, points: np.ndarray, depth: np.ndarray, own: np.ndarray,
    width: int, height: int,
) -> np.ndarray:  # fmt: skip
    """Which surface points a camera sees, decided at their exact places (not at pixel centres).

    Args:
        xy, z, faces: the projected mesh, counter-clockwise faces seen from outside.
        points: (N, 2) px and depth: (N,) of the points. own: (N,) the face each lies in.
        width, height: of the picture.

    Returns:
        (N,) bool: inside the picture, on a face turned to the camera, and no other triangle in front.
    """
    a, b, c = (xy[faces[own, i]] for i in range(3))
    # y runs down the picture, so a face that is counter-clockwise from outside has negative area when it faces us
    turned = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]) < 0
    inside = (points[:, 0] >= 0) & (points[:, 0] < width) & (points[:, 1] >= 0) & (points[:, 1] < height)
    inside &= (depth > 0) & turned
    rows = np.flatnonzero(inside)
    pixel = np.floor(points[rows, 1]).astype(np.int64) * width + np.floor(points[rows, 0]).astype(np.int64)
    order = rows[np.argsort(pixel, kind="stable")]
    start = np.concatenate([[0], np.cumsum(np.bincount(pixel, minlength=width * height))])
    return inside & ~_occluded(xy, z, faces, points, depth, own, order, start, width, height)


@numba.njit(cache=True, error_model="numpy")
def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals (V, 3), outwards for counter-clockwise faces."""
    out = np.zeros_like(vertices)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b] - vertices[a]
        vx, vy, vz = vertices[c] - vertices[a]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for i in (a, b, c):
            out[i, 0] += nx
            out[i, 1] += ny
            out[i, 2] += nz
    for i in range(out.shape[0]):
        length = np.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2)
        if length > 0:
            out[i] /= length
    return out
