"""Smooth solids from round cones, ellipsoids and rounded boxes, and closed triangle meshes of their surfaces.

A solid is a table of primitives joined one after the other by a polynomial smooth union. Its zero level set is meshed
by naive surface nets (Gibson 1998) and the vertices are then pulled onto the surface by Newton steps. Rest-pose
coordinates, any length unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

ROUND_CONE, ELLIPSOID, ROUND_BOX = 0, 1, 2


@dataclass(frozen=True)
class Primitive:
    """One building block.

    Attributes:
        kind: ROUND_CONE (spheres at `a` and `b` and what lies between), ELLIPSOID (centre `a`, half axes `b`) or
            ROUND_BOX (the same, edges along x, y, z rounded by `ra`).
        a, b: three numbers each. ra, rb: radii at a and b (round cone).
        blend: width of the smooth union with everything before it.
        bone: index of the bone that carries it.
    """

    kind: int
    a: tuple[float, float, float]
    b: tuple[float, float, float]
    ra: float = 0.0
    rb: float = 0.0
    blend: float = 0.03
    bone: int = 0


def cone(
    a: tuple[float, float, float], ra: float, b: tuple[float, float, float], rb: float, *, blend: float = 0.03,
    bone: int = 0,
) -> Primitive:  # fmt: skip
    """A round cone from `a` (radius `ra`) to `b` (radius `rb`)."""
    return Primitive(ROUND_CONE, a, b, ra, rb, blend, bone)


def ellipsoid(
    centre: tuple[float, float, float], axes: tuple[float, float, float], *, blend: float = 0.03, bone: int = 0
) -> Primitive:
    """An ellipsoid with half axes along x, y, z."""
    return Primitive(ELLIPSOID, centre, axes, 0.0, 0.0, blend, bone)


def box(
    centre: tuple[float, float, float], halves: tuple[float, float, float], rounding: float, *, blend: float = 0.03,
    bone: int = 0,
) -> Primitive:  # fmt: skip
    """A box with half sides along x, y, z, its edges rounded by less than the least of them."""
    return Primitive(ROUND_BOX, centre, halves, rounding, 0.0, blend, bone)


def as_table(primitives: list[Primitive], scale: float = 1.0) -> np.ndarray:
    """The primitives as rows (P, 10) float64 of kind, a, b, ra, rb, blend, all lengths times `scale`."""
    rows = [[p.kind, *p.a, *p.b, p.ra, p.rb, p.blend] for p in primitives]
    table = np.array(rows, dtype=np.float64).reshape(-1, 10)
    table[:, 1:] *= scale
    return table


@numba.njit(cache=True, error_model="numpy")
def _primitive_distance(row: np.ndarray, x: float, y: float, z: float) -> float:
    """Signed distance to one primitive; for the ellipsoid the usual first-order bound, exact on the surface."""
    px, py, pz = x - row[1], y - row[2], z - row[3]
    if row[0] == 1:
        ax, ay, az = row[4], row[5], row[6]
        k0 = np.sqrt((px / ax) ** 2 + (py / ay) ** 2 + (pz / az) ** 2)
        k1 = np.sqrt((px / ax**2) ** 2 + (py / ay**2) ** 2 + (pz / az**2) ** 2)
        if k1 < 1e-12:
            return -min(ax, ay, az)
        return k0 * (k0 - 1.0) / k1
    if row[0] == 2:
        qx, qy, qz = abs(px) - row[4] + row[7], abs(py) - row[5] + row[7], abs(pz) - row[6] + row[7]
        beyond = np.sqrt(max(qx, 0.0) ** 2 + max(qy, 0.0) ** 2 + max(qz, 0.0) ** 2)
        return beyond + min(max(qx, max(qy, qz)), 0.0) - row[7]
    dx, dy, dz = row[4] - row[1], row[5] - row[2], row[6] - row[3]
    length2 = dx * dx + dy * dy + dz * dz
    length = np.sqrt(length2)
    difference = row[7] - row[8]
    if length <= abs(difference):  # one end sphere holds the other
        if difference >= 0:
            return np.sqrt(px * px + py * py + pz * pz) - row[7]
        qx, qy, qz = x - row[4], y - row[5], z - row[6]
        return np.sqrt(qx * qx + qy * qy + qz * qz) - row[8]
    along = (px * dx + py * dy + pz * dz) / length
    across = np.sqrt(max(px * px + py * py + pz * pz - along * along, 0.0))
    sine = difference / length
    cosine = np.sqrt(1.0 - sine * sine)
    # the nearest sphere's centre, seen along the slanted flank
    foot = min(max(along - across * sine / cosine, 0.0), length)
    radius = row[7] - difference * foot / length
    return np.sqrt((along - foot) ** 2 + across * across) - radius


@numba.njit(cache=True, error_model="numpy")
def distances(points: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Signed distance (N,) of points (N, 3) to the smooth union of all rows."""
    out = np.empty(points.shape[0])
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        total = 1e9
        for p in range(table.shape[0]):
            d = _primitive_distance(table[p], x, y, z)
            k = table[p, 9]
            h = max(k - abs(total - d), 0.0)
            total = min(total, d) - (h * h / (4 * k) if k > 0 else 0.0)
        out[i] = total
    return out


@numba.njit(cache=True, error_model="numpy")
def part_distances(points: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Signed distance (N, P) of points (N, 3) to every primitive on its own."""
    out = np.empty((points.shape[0], table.shape[0]))
    for i in range(points.shape[0]):
        for p in range(table.shape[0]):
            out[i, p] = _primitive_distance(table[p], points[i, 0], points[i, 1], points[i, 2])
    return out


def gradient(points: np.ndarray, table: np.ndarray, step: float) -> np.ndarray:
    """Central-difference gradient (N, 3) of the signed distance."""
    out = np.empty_like(points)
    for axis in range(3):
        shift = np.zeros(3)
        shift[axis] = step
        out[:, axis] = (distances(points + shift, table) - distances(points - shift, table)) / (2 * step)
    return out


def bounds(table: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corner (3,) of a box that holds the solid."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for row in table:
        ends = [(row[1:4], row[4:7])] if row[0] != ROUND_CONE else [(row[1:4], row[7]), (row[4:7], row[8])]
        for centre, radius in ends:
            low, high = np.minimum(low, centre - radius), np.maximum(high, centre + radius)
    return low - margin, high + margin


def mesh_solid(table: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Closed mesh of the solid's surface.

    Args:
        table: (P, 10) from `as_table`.
        cell: spacing of the sampling grid, about the length of the triangles' edges.

    Returns:
        vertices (V, 3) float64 on the surface, faces (F, 3) int64 counter-clockwise seen from outside. Every edge
        belongs to exactly two faces, except where two sheets of the surface touch within one cell.
    """
    low, high = bounds(table, 0.05 * float(table[:, 1:].max()) + 2 * cell)
    counts = np.ceil((high - low) / cell).astype(int) + 1
    axes = [low[i] + cell * np.arange(counts[i]) for i in range(3)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    value = distances(grid.reshape(-1, 3), table).reshape(grid.shape[:3])
    vertices, faces = _surface_nets(value)
    vertices = low + cell * vertices
    for _ in range(4):
        slope = gradient(vertices, table, 0.05 * cell)
        distance = distances(vertices, table)
        step = distance[:, None] * slope / np.maximum((slope**2).sum(1, keepdims=True), 0.25)
        vertices = vertices - np.clip(step, -0.5 * cell, 0.5 * cell)
    return vertices, faces


def _surface_nets(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Naive surface nets of a grid of signed values: vertices in grid coordinates, triangles facing growing values."""
    inside = value < 0
    corners = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    shape = tuple(n - 1 for n in value.shape)

    def corner(array: np.ndarray, c: tuple[int, int, int]) -> np.ndarray:
        return array[c[0] : c[0] + shape[0], c[1] : c[1] + shape[1], c[2] : c[2] + shape[2]]

    filled = sum(corner(inside, c).astype(np.int8) for c in corners)
    cells = np.argwhere((filled > 0) & (filled < 8))
    index = np.full(shape, -1, dtype=np.int64)
    index[tuple(cells.T)] = np.arange(len(cells))
    total, weight = np.zeros((len(cells), 3)), np.zeros(len(cells))
    for a in corners:
        for axis in range(3):
            if a[axis]:
                continue
            b = tuple(1 if i == axis else a[i] for i in range(3))
            va, vb = value[tuple((cells + a).T)], value[tuple((cells + b).T)]
            cut = (va < 0) != (vb < 0)
            fraction = np.where(cut, va / np.where(cut, va - vb, 1.0), 0.0)
            point = np.array(a, dtype=np.float64) + fraction[:, None] * np.eye(3)[axis]
            total += np.where(cut[:, None], point, 0.0)
            weight += cut
    vertices = cells + total / weight[:, None]
    faces = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        start = np.take(inside, np.arange(value.shape[axis] - 1), axis=axis)
        end = np.take(inside, np.arange(1, value.shape[axis]), axis=axis)
        edges = np.argwhere(start != end)
        outward = start[tuple(edges.T)]  # inside at the start: the surface faces +axis
        step_u, step_v = np.eye(3, dtype=np.int64)[u], np.eye(3, dtype=np.int64)[v]
        quad = np.stack(
            [index[tuple((edges - d).T)] for d in (step_u + step_v, step_v, np.zeros(3, np.int64), step_u)], axis=1
        )
        quad = np.where(outward[:, None], quad, quad[:, ::-1])
        faces += [quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]]
    return vertices, np.concatenate(faces)


def ambient_occlusion(points: np.ndarray, normals: np.ndarray, table: np.ndarray, reach: float) -> np.ndarray:
    """How open the surface is (N,) in (0, 1]: 1 = nothing near. Compares the distance field a few steps along the
    normal with the steps themselves (Evans 2006)."""
    closed = np.zeros(len(points))
    total = 0.0
    for fraction, weight in ((0.15, 1.0), (0.4, 0.7), (1.0, 0.5)):
        step = fraction * reach
        gap = np.clip(step - distances(points + step * normals, table), 0.0, step) / step
        closed += weight * gap
        total += weight
    return 1.0 - closed / total
