"""Gaussians and points for the tests of `dyn4d ply`, written by plyfile, which is none of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement

from dyn4d.io import ply_fields as pf


def gaussians(count: int = 300, degree: int = 1, seed: int = 0, *, extra: tuple[str, ...] = ()) -> np.ndarray:
    """Rows of the standard layout: opacities from 0.005 to 0.995, scales about 0.03, colours mostly in [0, 1]."""
    rng = np.random.default_rng(seed)
    out = np.zeros(count, pf.gaussian_dtype(degree, extra))
    for name in out.dtype.names or ():
        if name in pf.POSITION or name in pf.ROTATION:
            out[name] = rng.normal(size=count)
        elif name in pf.DC:
            out[name] = rng.normal(scale=0.8, size=count)
        elif name in pf.SCALE:
            out[name] = rng.normal(-3.5, 0.7, size=count)
        elif name == "opacity":
            out[name] = rng.uniform(-5, 5, size=count)
        elif name.startswith("f_rest_"):
            out[name] = rng.normal(scale=0.3, size=count)
        elif name not in pf.NORMAL:
            out[name] = rng.random(count)
    return out


def points(count: int = 200, seed: int = 0, *, colour: bool = True) -> np.ndarray:
    rng = np.random.default_rng(seed)
    fields = [(axis, "f4") for axis in "xyz"] + ([(name, "u1") for name in ("red", "green", "blue")] if colour else [])
    out = np.zeros(count, fields)
    for axis in "xyz":
        out[axis] = rng.normal(size=count)
    for name in ("red", "green", "blue") if colour else ():
        out[name] = rng.integers(0, 256, count)
    return out


def save(path: Path, rows: np.ndarray, *, text: bool = False, order: str = "<", faces: int = 0) -> Path:
    elements = [PlyElement.describe(rows, "vertex")]
    if faces:
        table = np.array([([0, 1, 2],)] * faces, dtype=[("vertex_indices", "O")])
        elements.append(PlyElement.describe(table, "face"))
    PlyData(elements, text=text, byte_order=order).write(str(path))
    return path
