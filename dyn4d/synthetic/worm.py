"""A caterpillar whose soft body bends and stretches along a curve that wriggles."""

from __future__ import annotations

import math

import numpy as np

from dyn4d.synthetic.model import WORM, Model, mark, marks_table, rest_surface
from dyn4d.synthetic.solids import Primitive, as_table, cone, ellipsoid

_LENGTH, _SEGMENTS = 1.25, 9


def _solids() -> list[Primitive]:
    """Straight along x, head at +x, resting on z = 0."""
    parts = []
    for i in range(_SEGMENTS):
        s = i / (_SEGMENTS - 1)
        radius = 0.075 + 0.055 * math.sin(math.pi * (0.12 + 0.72 * s))
        x = _LENGTH * (s - 0.5) * 0.84 - 0.06
        parts.append(ellipsoid((x, 0, 0.13), (0.085, radius, radius), blend=0.035))
    parts.append(ellipsoid((0.56, 0, 0.155), (0.125, 0.125, 0.12), blend=0.03))
    for sign in (1, -1):
        parts.append(cone((0.60, 0.05 * sign, 0.25), 0.018, (0.66, 0.095 * sign, 0.37), 0.012, blend=0.02))
        parts.append(ellipsoid((0.665, 0.10 * sign, 0.375), (0.026, 0.026, 0.026), blend=0.01))
        parts.append(ellipsoid((0.645, 0.058 * sign, 0.19), (0.034, 0.032, 0.036), blend=0.012))
    return parts


def _marks() -> list[list[float]]:
    rows = []
    for sign in (1, -1):
        tip = (0.665, 0.10 * sign, 0.375)
        rows.append(mark((0.61, 0.06 * sign, 0.27), (0.66, 0.095 * sign, 0.37), 0.03, (90, 40, 110), edge=0.006))
        rows.append(mark(tip, tip, 0.034, (255, 96, 80), edge=0.004))
        eye, pupil, glint = ((x, y * sign, z) for x, y, z in
                             ((0.668, 0.062, 0.196), (0.682, 0.066, 0.198), (0.684, 0.062, 0.213)))  # fmt: skip
        rows.append(mark(eye, eye, 0.030, (255, 255, 255), edge=0.003))
        rows.append(mark(pupil, pupil, 0.018, (24, 22, 34), edge=0.003))
        rows.append(mark(glint, glint, 0.007, (255, 255, 255), edge=0.002))
    return rows


class _Wriggle:
    """The centre line at any time: an S that travels, a hump, and a head that looks around."""

    def __init__(self, phase: float) -> None:
        self.phase = phase
        self.grid = np.linspace(-0.8, 0.8, 321)

    def frames(self, s: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Points, tangents, left and up directions (N, 3) of the centre line at arc lengths s (N,)."""
        beat = 2 * math.pi * (1.25 * t + self.phase)
        g = self.grid
        yaw = 0.62 * np.sin(beat - 4.6 * g) + 0.5 * np.clip(g - 0.25, 0, None) * math.sin(beat + 1.0)
        rise = np.exp(-(((g - 0.42) / 0.28) ** 2))
        hump = (
            0.24
            * (0.6 + 0.4 * math.sin(beat + 0.7))
            * np.sin(5.2 * (g + 0.05) - 0.5 * beat)
            * np.exp(-((g / 0.45) ** 2))
        )
        pitch = hump + 0.30 * rise * (0.8 + 0.4 * math.sin(beat + 2.0))
        stretch = 1.0 + 0.06 * np.sin(beat - 6.0 * g)
        tangent = np.stack([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)], axis=1)
        step = stretch[:, None] * tangent * (g[1] - g[0])
        line = np.cumsum(step, axis=0) - 0.5 * step
        line -= line.mean(0)
        line[:, 0] += 0.30 * (t - 0.5)
        point = np.stack([np.interp(s, g, line[:, i]) for i in range(3)], axis=1)
        forward = np.stack([np.interp(s, g, tangent[:, i]) for i in range(3)], axis=1)
        forward /= np.linalg.norm(forward, axis=1, keepdims=True)
        left = np.cross(np.array([0.0, 0.0, 1.0]), forward)
        left /= np.linalg.norm(left, axis=1, keepdims=True)
        return point, forward, left, np.cross(forward, left)


def build_worm(cell: float, seed: int) -> Model:
    """The caterpillar, about 1.3 m long. Args: cell: spacing of the mesh in metres; seed: changes the phase."""
    wriggle = _Wriggle(0.0 if seed == 0 else float(np.random.default_rng(seed).uniform()))
    table = as_table(_solids())
    vertices, faces, occlusion = rest_surface(table, cell, 0.08)

    def pose(t: float) -> np.ndarray:
        point, _, left, up = wriggle.frames(vertices[:, 0], t)
        swell = 1.0 + 0.05 * np.sin(2 * math.pi * (1.25 * t + wriggle.phase) - 6.0 * vertices[:, 0:1] + math.pi)
        shape = point + swell * (vertices[:, 1:2] * left + (vertices[:, 2:3] - 0.13) * up)
        shape[:, 2] -= shape[:, 2].min()  # some part of it always lies on the ground
        return shape

    def path(t: float) -> np.ndarray:
        return np.array([0.30 * (t - 0.5), 0.0, 0.18])

    return Model(vertices, faces, occlusion, WORM, marks_table(_marks(), 1.0), pose, path)
