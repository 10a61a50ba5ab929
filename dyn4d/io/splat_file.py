"""The .splat format: 32 bytes a Gaussian and no header.

Position and linear scale are three float32 each, then red, green, blue and opacity as bytes, then the quaternion w x y
z as bytes around 128. No spherical harmonics, no other fields; axes are those of the PLY.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io import ply_fields as pf

RECORD = np.dtype([("xyz", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])
DTYPE = pf.gaussian_dtype(0)
SMALLEST = 1e-20  # a standard deviation of 0 has no logarithm


def count_rows(path: Path) -> int:
    """How many Gaussians there are. Raises `InputError` where the file ends inside one."""
    size = path.stat().st_size
    if size % RECORD.itemsize:
        raise InputError(f"{path} is no .splat file or is cut short: {size:,} bytes are {size // 32:,} rows of 32 "
                         f"bytes and {size % 32} more; write or copy it again")  # fmt: skip
    return size // RECORD.itemsize


def read_blocks(path: Path, count: int, rows: int) -> Iterator[np.ndarray]:
    """Rows with the fields of a PLY."""
    with path.open("rb") as stream:
        while count > 0:
            found = np.fromfile(stream, dtype=RECORD, count=min(rows, count))
            if len(found) == 0:
                raise InputError(f"{path} became shorter while it was read; try again")
            count -= len(found)
            yield decode(found)


def decode(found: np.ndarray) -> np.ndarray:
    out = np.zeros(len(found), dtype=DTYPE)
    quats = (found["quat"].astype(np.float32) - 128) / 128
    length = np.linalg.norm(quats, axis=-1, keepdims=True)
    quats = np.where(length > 0, quats / np.maximum(length, 1e-9), np.array([1, 0, 0, 0], np.float32))
    opacity = pf.logit(found["rgba"][:, 3] / 255)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.maximum(found["scale"], SMALLEST))
    groups = (
        (pf.POSITION, found["xyz"]), (pf.SCALE, logs), (pf.ROTATION, quats), (("opacity",), opacity[:, None]),
        (pf.DC, (found["rgba"][:, :3].astype(np.float32) / 255 - 0.5) / np.float32(pf.SH_DC)),
    )  # fmt: skip
    for names, values in groups:
        for at, name in enumerate(names):
            out[name] = values[:, at]
    return out


def encode(rows: np.ndarray) -> np.ndarray:
    """Gaussians with the fields of a PLY -> records. Colours outside [0, 1] are clipped."""
    out = np.empty(len(rows), dtype=RECORD)
    out["xyz"] = pf.columns(rows, pf.POSITION)
    out["scale"] = pf.scales(rows)
    colours = pf.colours(rows)
    assert colours is not None, "the caller checked that these are Gaussians"
    out["rgba"][:, :3] = np.round(np.clip(colours, 0, 1) * 255)
    out["rgba"][:, 3] = np.round(pf.opacities(rows) * 255)
    out["quat"] = np.clip(np.round(pf.unit_quats(rows) * 128 + 128), 0, 255)
    return out
