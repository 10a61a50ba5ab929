"""Names and units of the fields of Gaussians and points, as PLY files have them. NumPy only.

Stored values are those of the standard 3DGS layout: opacity is a logit, scales are natural logarithms of standard
deviations in world units, quaternions are w x y z of any length, colour is `rgb = 0.5 + SH_DC * f_dc`, and f_rest has
all red coefficients first, then green, then blue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SH_DC = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi))

POSITION = ("x", "y", "z")
NORMAL = ("nx", "ny", "nz")
DC = tuple(f"f_dc_{i}" for i in range(3))
SCALE = tuple(f"scale_{i}" for i in range(3))
ROTATION = tuple(f"rot_{i}" for i in range(4))
GAUSSIAN_FIELDS = (*POSITION, *DC, "opacity", *SCALE, *ROTATION)
REST_COUNTS = (0, 9, 24, 45, 72)
COLOURS = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
CONFIDENCE = ("confidence", "conf")
OPACITY_EDGE = 1e-7  # float32 turns a logit beyond ±16.6 into exactly 0 or 1
# Right, down, forward <-> right, up, back is half a turn about x: positions, quaternions w x y z, and each harmonic of
# degree 1 to 4 keep their value or change sign.
TURN_XYZ = np.array([1, -1, -1], np.float32)
TURN_WXYZ = np.array([1, 1, -1, -1], np.float32)
TURN_SH = np.array(
    [(-1) ** (degree + abs(m)) * (-1 if m < 0 else 1) for degree in range(1, 5) for m in range(-degree, degree + 1)],
    np.float32,
)


def is_gaussian(names: Sequence[str]) -> bool:
    """Do the fields look like Gaussians, whole or not?"""
    return any(name in names for name in (*DC, *SCALE, *ROTATION, "opacity"))


def rest_count(names: Sequence[str]) -> int:
    """How many fields f_rest_* there are."""
    return sum(name.startswith("f_rest_") for name in names)


def rest_names(count: int) -> tuple[str, ...]:
    return tuple(f"f_rest_{i}" for i in range(count))


def sh_degree(names: Sequence[str]) -> int | None:
    """Degree of the spherical harmonics, None where the fields f_rest_* are those of no degree."""
    count = rest_count(names)
    if count not in REST_COUNTS or any(name not in names for name in rest_names(count)):
        return None
    return REST_COUNTS.index(count)


def colour_names(names: Sequence[str]) -> tuple[str, ...] | None:
    """The three fields of a point's colour, if there are any."""
    return next((group for group in COLOURS if all(name in names for name in group)), None)


def confidence_name(names: Sequence[str]) -> str | None:
    return next((name for name in CONFIDENCE if name in names), None)


def gaussian_dtype(degree: int, extra: Sequence[str] = ()) -> np.dtype:
    """Rows of the standard layout, all float32, with normals as every viewer takes them."""
    rest = rest_names(REST_COUNTS[degree])
    names = (*POSITION, *NORMAL, *DC, *rest, "opacity", *SCALE, *ROTATION, *extra)
    return np.dtype([(name, "<f4") for name in names])


# -------------------------------------------------------------------------------------------- values


def columns(rows: np.ndarray, names: Sequence[str], kind: type = np.float32) -> np.ndarray:
    """Fields of structured rows (N,) as a table (N, len(names))."""
    table = _as_table(rows)
    if table is not None and names:
        places = [rows.dtype.names.index(name) for name in names]  # type: ignore[union-attr]
        first, last = places[0], places[-1] + 1
        if places == list(range(first, last)):
            places = slice(first, last)
        with np.errstate(over="ignore", invalid="ignore"):  # what a damaged file holds; the callers look at the values
            return table[:, places].astype(kind, copy=isinstance(places, slice))
    out = np.empty((len(rows), len(names)), dtype=kind)
    for at, name in enumerate(names):
        out[:, at] = rows[name]
    return out


def _as_table(rows: np.ndarray) -> np.ndarray | None:
    """Rows of nothing but float32 as a table without a copy, which is several times faster than field by field."""
    fields = rows.dtype.fields or {}
    packed = rows.dtype.itemsize == 4 * len(fields) and rows.flags.c_contiguous
    if not packed or any(entry[0] != np.float32 for entry in fields.values()):
        return None
    return rows.view(np.float32).reshape(len(rows), len(fields))


def opacities(rows: np.ndarray) -> np.ndarray:
    """(N,) in [0, 1]."""
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-rows["opacity"].astype(np.float64)))).astype(np.float32)


def scales(rows: np.ndarray) -> np.ndarray:
    """(N, 3) standard deviations, world units."""
    with np.errstate(over="ignore"):
        return np.exp(columns(rows, SCALE, np.float64)).astype(np.float32)


def unit_quats(rows: np.ndarray) -> np.ndarray:
    """(N, 4) w x y z of length 1; zero ones become the identity."""
    quats = columns(rows, ROTATION, np.float64)
    length = np.linalg.norm(quats, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.where(length > 0, quats / np.maximum(length, 1e-300), [1.0, 0, 0, 0]).astype(np.float32)


def colours(rows: np.ndarray) -> np.ndarray | None:
    """(N, 3) sRGB: of Gaussians without their view-dependent part and not clipped; None without colour."""
    names = rows.dtype.names or ()
    if all(name in names for name in DC):
        return (0.5 + SH_DC * columns(rows, DC, np.float64)).astype(np.float32)
    group = colour_names(names)
    if group is None:
        return None
    kind = rows.dtype[group[0]]
    top = float(np.iinfo(kind).max) if kind.kind in "iu" else 1.0
    return columns(rows, group) / np.float32(top)


def logit(opacity: np.ndarray) -> np.ndarray:
    """Float32 logits of opacities in [0, 1], kept 1e-7 off both ends."""
    inside = np.clip(opacity.astype(np.float64), OPACITY_EDGE, 1 - OPACITY_EDGE)
    return np.log(inside / (1 - inside)).astype(np.float32)


def drawable(rows: np.ndarray) -> np.ndarray:
    """(N,) bool: Gaussians whose numbers can be drawn and quantised. Infinite logits (0 and 1) and a scale of 0 can."""
    good = np.isfinite(columns(rows, (*POSITION, *DC, *ROTATION))).all(-1) & ~np.isnan(rows["opacity"])
    logs = columns(rows, SCALE)
    return good & ~(np.isnan(logs) | (logs == np.inf)).any(-1)
