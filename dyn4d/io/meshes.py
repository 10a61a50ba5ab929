"""Triangle meshes with vertex colours: the object that flows, and its PLY file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dyn4d.core.checks import check_shape
from dyn4d.io.atomic import atomic_path

_VERTEX = [
    *((name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")),
    *((name, "u1") for name in ("red", "green", "blue")),
]
_KINDS = {"<f4": "float", "u1": "uchar"}


@dataclass(frozen=True)
class Mesh:
    """Attributes:
    vertices: (V, 3) float32 world. faces: (F, 3) int32, counter-clockwise as seen from outside.
    normals: (V, 3) float32 unit, outwards. rgb: (V, 3) float32 sRGB in [0, 1].
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    rgb: np.ndarray

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for label, shape in (("vertices", ("V", 3)), ("faces", ("F", 3)), ("normals", ("V", 3)), ("rgb", ("V", 3))):
            check_shape(f"Mesh.{label}", getattr(self, label), shape, sizes)


def as_bytes(rgb: np.ndarray) -> np.ndarray:
    """Colours in [0, 1] as uint8."""
    return np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def write_mesh_ply(path: str | Path, mesh: Mesh) -> None:
    """Write a mesh as binary PLY with normals and vertex colours, atomically."""
    columns = (*mesh.vertices.T, *mesh.normals.T, *as_bytes(mesh.rgb).T)
    vertices = np.empty(len(mesh.vertices), _VERTEX)
    for (name, _), column in zip(_VERTEX, columns):
        vertices[name] = column
    faces = np.empty(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    head += [f"property {_KINDS[kind]} {name}" for name, kind in _VERTEX]
    head += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write("\n".join(head).encode())
        stream.write(vertices.tobytes())  # plyfile would write the faces one by one
        stream.write(faces.tobytes())
