"""Gaussians or points as glTF 2.0 in its binary form (.glb), written as they come.

Gaussians use the extension KHR_gaussian_splatting: a POINTS primitive with rotation x y z w, linear scale, linear
opacity and one attribute for each spherical harmonic; COLOR_0 lets readers that do not know it show points. Written
against the release candidate of the extension (2026).

Axes: the file's world, right, down, forward, is turned by 180 degrees about x into glTF's right, up, back. The numbers
themselves are turned, harmonics too: a node above them would ask every reader to turn harmonics, which few do.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dyn4d import __version__
from dyn4d.core.errors import InputError
from dyn4d.io import ply_fields as pf
from dyn4d.io.rows import Rows

EXTENSION = "KHR_gaussian_splatting"
_FLOAT, _BYTE = 5126, 5121
_SHAPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
_JSON, _BIN = 0x4E4F534A, 0x004E4942
_LARGEST = (1 << 32) - 1


@dataclass(frozen=True)
class Part:
    """One attribute: its name, numbers a row, and whether they are bytes that stand for [0, 1]."""

    name: str
    wide: int
    byte: bool = False

    @property
    def size(self) -> int:
        return self.wide * (1 if self.byte else 4)


def write(path: Path, rows: Rows) -> None:
    """Write Gaussians (fields of a PLY) or points (x, y, z, and colours as bytes where there are any) to `path`.

    Raises:
        InputError: more than the 4 GiB that a .glb can hold.
    """
    parts = _parts(rows)
    offsets = np.concatenate([[0], np.cumsum([part.size * rows.count for part in parts])]).tolist()
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for block in rows.blocks() if rows.count else ():
        xyz = _values(block, "POSITION")
        low, high = np.minimum(low, xyz.min(0)), np.maximum(high, xyz.max(0))
    document = _document(rows, parts, offsets, low, high)
    text = json.dumps(document, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 4)
    total = 20 + len(text) + (8 + offsets[-1] if rows.count else 0)
    if total > _LARGEST:
        raise InputError(f"{rows.path}: {rows.count:,} rows make a .glb of {total / 1e9:.1f} GB, its format ends at "
                         "4.29 GB; write fewer (--sh-degree, dyn4d ply crop), or another format")  # fmt: skip
    with path.open("wb") as stream:
        stream.write(struct.pack("<4sIIII", b"glTF", 2, total, len(text), _JSON) + text)
        if not rows.count:
            return
        stream.write(struct.pack("<II", offsets[-1], _BIN))
        begin, at = stream.tell(), 0
        for block in rows.blocks():
            for part, offset in zip(parts, offsets):
                stream.seek(begin + offset + part.size * at)
                stream.write(_values(block, part.name).tobytes())
            at += len(block)


def _parts(rows: Rows) -> list[Part]:
    parts = [Part("POSITION", 3)]
    if not pf.is_gaussian(rows.names):
        return [*parts, Part("COLOR_0", 4, byte=True)] if pf.colour_names(rows.names) else parts
    parts += [Part("COLOR_0", 4, byte=True), Part(f"{EXTENSION}:ROTATION", 4), Part(f"{EXTENSION}:SCALE", 3),
              Part(f"{EXTENSION}:OPACITY", 1)]  # fmt: skip
    for degree in range((pf.sh_degree(rows.names) or 0) + 1):
        parts += [Part(f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{k}", 3) for k in range(2 * degree + 1)]
    return parts


def _values(block: np.ndarray, name: str) -> np.ndarray:
    """An attribute of some rows."""
    what = name.rpartition(":")[2]
    if what == "POSITION":
        return pf.columns(block, pf.POSITION) * pf.TURN_XYZ
    if what == "ROTATION":
        return (pf.unit_quats(block) * pf.TURN_WXYZ)[:, [1, 2, 3, 0]]
    if what == "SCALE":
        return pf.scales(block)
    if what == "OPACITY":
        return pf.opacities(block)
    if what == "COLOR_0":
        rgb = pf.colours(block)
        assert rgb is not None, "only where there are colours"
        alpha = pf.opacities(block) if pf.is_gaussian(block.dtype.names or ()) else np.ones(len(block))
        return np.round(np.clip(np.column_stack([_linear(rgb), alpha]), 0, 1) * 255).astype(np.uint8)
    _, _, degree, _, k = what.split("_")
    if degree == "0":
        return pf.columns(block, pf.DC)
    per = pf.rest_count(block.dtype.names or ()) // 3
    row = int(degree) ** 2 - 1 + int(k)
    return pf.columns(block, [f"f_rest_{channel * per + row}" for channel in range(3)]) * pf.TURN_SH[row]


def _linear(rgb: np.ndarray) -> np.ndarray:
    """sRGB as the linear light that COLOR_0 has."""
    value = np.clip(rgb.astype(np.float64), 0, 1)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _document(rows: Rows, parts: list[Part], offsets: list[int], low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    gaussians = pf.is_gaussian(rows.names)
    out: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": f"dyn4d {__version__}"}, "scene": 0, "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "gaussians" if gaussians else "points"}],
    }  # fmt: skip
    if not rows.count:
        return out
    used = [EXTENSION] if gaussians else ["KHR_materials_unlit"]
    primitive: dict[str, Any] = {"mode": 0, "attributes": {part.name: at for at, part in enumerate(parts)}}
    if gaussians:
        primitive["extensions"] = {EXTENSION: {
            "kernel": "ellipse", "colorSpace": "srgb_rec709_display", "sortingMethod": "cameraDistance",
            "projection": "perspective",
        }}  # fmt: skip
    else:
        primitive["material"] = 0
        out["materials"] = [{"name": "points", "extensions": {"KHR_materials_unlit": {}}}]
    out["nodes"][0]["mesh"] = 0
    accessors: list[dict[str, Any]] = [
        {"bufferView": at, "componentType": _BYTE if part.byte else _FLOAT, "count": rows.count,
         "type": _SHAPES[part.wide], **({"normalized": True} if part.byte else {})}
        for at, part in enumerate(parts)
    ]  # fmt: skip
    accessors[0] |= {"min": low.tolist(), "max": high.tolist()}
    views = [{"buffer": 0, "byteOffset": offsets[at], "byteLength": part.size * rows.count, "target": 34962}
             for at, part in enumerate(parts)]  # fmt: skip
    return {
        **out, "extensionsUsed": used, "meshes": [{"name": rows.path.stem, "primitives": [primitive]}],
        "accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": offsets[-1]}],
    }  # fmt: skip
