"""A painted toy bird on a plinth that turns: rigid, for poses and rigid laws."""

from __future__ import annotations

import math

import numpy as np

from dyn4d.synthetic.model import TURNTABLE, Model, mark, marks_table, rest_surface
from dyn4d.synthetic.skeleton import turn
from dyn4d.synthetic.solids import Primitive, as_table, cone, ellipsoid

SWEEP = math.radians(110.0)  # how far it turns over the clip


def _solids() -> list[Primitive]:
    parts = [
        ellipsoid((0, 0, 0.09), (0.40, 0.40, 0.10), blend=0.02),
        cone((0, 0, 0.15), 0.14, (0, 0, 0.28), 0.10, blend=0.06),
        ellipsoid((-0.04, 0, 0.52), (0.36, 0.25, 0.26), blend=0.05),
        cone((-0.28, 0, 0.58), 0.15, (-0.56, 0, 0.80), 0.045, blend=0.08),
        cone((0.16, 0, 0.66), 0.14, (0.22, 0, 0.88), 0.12, blend=0.08),
        ellipsoid((0.24, 0, 0.98), (0.175, 0.16, 0.16), blend=0.05),
        cone((0.36, 0, 0.96), 0.075, (0.56, 0, 0.92), 0.025, blend=0.03),
    ]
    for sign in (1, -1):
        parts.append(ellipsoid((-0.10, 0.235 * sign, 0.55), (0.24, 0.055, 0.14), blend=0.03))
        parts.append(cone((-0.24, 0.25 * sign, 0.56), 0.05, (-0.42, 0.28 * sign, 0.64), 0.02, blend=0.04))
        parts.append(ellipsoid((0.335, 0.10 * sign, 1.02), (0.04, 0.036, 0.042), blend=0.012))
    for i in range(3):
        parts.append(cone((0.24 - 0.07 * i, 0, 1.12), 0.03, (0.16 - 0.12 * i, 0, 1.25 - 0.03 * i), 0.02, blend=0.03))
    return parts


def _marks() -> list[list[float]]:
    rows = [mark((0.44, 0, 0.95), (0.60, 0, 0.91), 0.075, (255, 178, 40), edge=0.01)]
    for i in range(3):
        rows.append(mark((0.17 - 0.12 * i, 0, 1.24 - 0.03 * i), (0.16 - 0.12 * i, 0, 1.26 - 0.03 * i), 0.05,
                         (240, 70, 90), edge=0.01))  # fmt: skip
    for sign in (1, -1):
        eye, pupil, glint = ((x, y * sign, z) for x, y, z in
                             ((0.350, 0.112, 1.027), (0.365, 0.124, 1.03), (0.367, 0.120, 1.048)))  # fmt: skip
        rows.append(mark(eye, eye, 0.036, (255, 255, 255), edge=0.003))
        rows.append(mark(pupil, pupil, 0.024, (24, 22, 34), edge=0.003))
        rows.append(mark(glint, glint, 0.009, (255, 255, 255), edge=0.002))
    return rows


def build_turntable(cell: float, seed: int) -> Model:
    """The toy, about 1.25 m tall. Args: cell: spacing of the mesh in metres; seed: changes where the turn starts."""
    start = -SWEEP / 2 - 0.6 if seed == 0 else float(np.random.default_rng(seed).uniform(-math.pi, math.pi))
    vertices, faces, occlusion = rest_surface(as_table(_solids()), cell, 0.12)

    def pose(t: float) -> np.ndarray:
        return vertices @ turn(start + SWEEP * t).T

    def path(t: float) -> np.ndarray:
        return np.array([0.0, 0.0, 0.60])

    return Model(vertices, faces, occlusion, TURNTABLE, marks_table(_marks(), 1.0), pose, path, camera_static=True)
