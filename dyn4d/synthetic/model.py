"""What every moving object offers to the scene: a closed rest mesh and its shape at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dyn4d.synthetic.raster import vertex_normals
from dyn4d.synthetic.solids import ambient_occlusion, mesh_solid

CREATURE, WORM, TURNTABLE, DANCER = 0, 1, 2, 3


@dataclass(frozen=True)
class Model:
    """A textured object that moves.

    Attributes:
        rest: (V, 3) float64 vertices of the rest pose, metres. Texture is painted on these coordinates.
        faces: (F, 3) int64, counter-clockwise from outside.
        occlusion: (V,) in (0, 1], how open the rest surface is.
        paint: which texture (CREATURE, WORM, TURNTABLE, DANCER).
        marks: (M, 11) painted regions: ends a, b (3 + 3), radius, soft edge, colour (3). See `shading`.
        pose: time in [0, 1] -> (V, 3) float64 world, Z up.
        path: time in [0, 1] -> (3,) a smooth point near the object's middle, for the camera to follow.
        camera_static: the natural way to film it is a camera that stands still.
    """

    rest: np.ndarray
    faces: np.ndarray
    occlusion: np.ndarray
    paint: int
    marks: np.ndarray
    pose: Callable[[float], np.ndarray]
    path: Callable[[float], np.ndarray]
    camera_static: bool = False


def rest_surface(table: np.ndarray, cell: float, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, faces and occlusion of a solid; `reach` is how far (metres) a neighbouring part darkens."""
    vertices, faces = mesh_solid(table, cell)
    return vertices, faces, ambient_occlusion(vertices, vertex_normals(vertices, faces), table, reach)


def mark(
    a: tuple[float, float, float], b: tuple[float, float, float], radius: float, colour: tuple[int, int, int],
    *, edge: float = 0.004,
) -> list[float]:  # fmt: skip
    """One painted region: all within `radius` of the segment a-b takes `colour` (0-255), fading over `edge`."""
    return [*a, *b, radius, edge, *(c / 255 for c in colour)]


def marks_table(rows: list[list[float]], scale: float) -> np.ndarray:
    """Marks as an array (M, 11), lengths times `scale`."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 11)
    table[:, :8] *= scale
    return table
