"""What is in a PLY file, for people: `dyn4d ply info`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io.ply import GAUSSIAN_FIELDS, is_gaussian, read_elements, rest_count

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class PlyInfo:
    """A PLY file in figures.

    Attributes:
        path: the file. bytes: its size. kind: "3DGS", "points", "mesh", "compressed 3DGS" or "other".
        encoding: "binary little endian", "binary big endian" or "text". count: rows of the element `vertex`.
        fields: their names. missing: what a Gaussian would need besides, where it looks like one.
        sh_degree: of Gaussians, else None. faces: rows of the element `face`.
        low, high: bounds of the finite positions, None without any.
        opacity, scale: quantiles `QUANTILES` of the activated values (scale: of the largest axis), None without any.
        not_finite: rows with a NaN or an infinity in any field. duplicates: rows whose position another row has.
        zero_quats: rows whose quaternion is 0.
    """

    path: Path
    bytes: int
    kind: str
    encoding: str
    count: int
    fields: tuple[str, ...]
    missing: tuple[str, ...] = ()
    sh_degree: int | None = None
    faces: int = 0
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    opacity: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    not_finite: int = 0
    duplicates: int = 0
    zero_quats: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {**self.__dict__, "path": str(self.path)}

    def format(self) -> str:
        """Lines for the terminal, no newline at the end."""
        kind = self.kind if self.sh_degree is None else f"{self.kind}, spherical harmonics of degree {self.sh_degree}"
        rows = [
            ("file", f"{self.path} ({_size(self.bytes)}, {self.encoding})"),
            ("kind", kind),
            ("rows", f"{self.count:,}" + (f", {self.faces:,} faces" if self.faces else "")),
            ("fields", _short_fields(self.fields)),
        ]
        if self.missing:
            rows.append(("missing", " ".join(self.missing)))
        if self.low is not None and self.high is not None:
            rows.append(
                ("bounds", "   ".join(f"{a} {lo:.4g} … {hi:.4g}" for a, lo, hi in zip("xyz", self.low, self.high)))
            )
            rows.append(("size", " x ".join(f"{hi - lo:.4g}" for lo, hi in zip(self.low, self.high))))
        for label, values in (("opacity", self.opacity), ("scale", self.scale)):
            if values is not None:
                low, few, middle, most, high = values
                rows.append(
                    (label, f"min {low:.3g}   5% {few:.3g}   median {middle:.3g}   95% {most:.3g}   max {high:.3g}")
                )
        rows.append(("NaN or Inf", _rows(self.not_finite)))
        rows.append(("duplicates", f"{_rows(self.duplicates)} at a place another row has"))
        if self.zero_quats:
            rows.append(("rotations", f"{self.zero_quats:,} are zero"))
        return "\n".join(f"{label:<11} {text}" for label, text in rows)


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _size(count: int) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count} B"
        count = count / 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"


def _short_fields(names: tuple[str, ...]) -> str:
    rest = rest_count(names)
    if rest < 2:
        return " ".join(names)
    shown = [name for name in names if not name.startswith("f_rest_")]
    place = next(i for i, name in enumerate(names) if name.startswith("f_rest_"))
    return " ".join([*shown[:place], f"f_rest_0…{rest - 1}", *shown[place:]])


def _quantiles(values: np.ndarray) -> tuple[float, ...] | None:
    values = values[np.isfinite(values)]
    return tuple(float(v) for v in np.quantile(values, QUANTILES)) if len(values) else None


def _stack(vertices: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    return np.stack([vertices[name].astype(np.float64) for name in names], axis=-1)


def _duplicates(xyz: np.ndarray) -> int:
    """Rows beyond the first at each place."""
    # +0.0 turns -0 into 0, so that equal places have equal bytes: sorting those is faster than rows of floats.
    rows = np.ascontiguousarray(xyz + 0.0).view(np.dtype((np.void, 24))).reshape(-1)
    return len(rows) - len(np.unique(rows))


def _kind(names: tuple[str, ...], faces: int) -> str:
    if any(name.startswith("packed_") for name in names):
        return "compressed 3DGS"
    if not all(axis in names for axis in "xyz"):
        return "other"
    if is_gaussian(names):
        return "3DGS"
    return "mesh" if faces else "points"


def ply_info(path: str | Path) -> PlyInfo:
    """Look through a PLY file of Gaussians, points or a mesh.

    Raises:
        InputError: missing, empty, damaged, cut short, or without points; names the file.
    """
    path = Path(path)
    data = read_elements(path)
    if "vertex" not in data:
        raise InputError(f"{path} has no element 'vertex', so no points")
    vertices = data["vertex"].data
    names = tuple(vertices.dtype.names or ())
    faces = len(data["face"].data) if "face" in data else 0
    kind = _kind(names, faces)
    numeric = [name for name in names if vertices.dtype[name].kind in "fiu"]
    values: dict[str, Any] = {}
    if kind == "3DGS":
        rest = rest_count(names)
        values["sh_degree"] = round((rest / 3 + 1) ** 0.5) - 1
        values["missing"] = tuple(name for name in GAUSSIAN_FIELDS if name not in names)
        if "opacity" in names:
            with np.errstate(over="ignore"):
                values["opacity"] = _quantiles(1 / (1 + np.exp(-vertices["opacity"].astype(np.float64))))
        if all(f"scale_{i}" in names for i in range(3)):
            logs = _stack(vertices, ("scale_0", "scale_1", "scale_2")).max(-1)
            with np.errstate(over="ignore"):
                values["scale"] = _quantiles(np.exp(logs))
        if all(f"rot_{i}" in names for i in range(4)):
            quats = _stack(vertices, ("rot_0", "rot_1", "rot_2", "rot_3"))
            values["zero_quats"] = int((quats == 0).all(-1).sum())
    finite = np.ones(len(vertices), dtype=bool)
    for name in numeric:
        finite &= np.isfinite(vertices[name])
    if all(axis in numeric for axis in "xyz"):
        xyz = _stack(vertices, ("x", "y", "z"))
        there = xyz[np.isfinite(xyz).all(-1)]
        values["duplicates"] = _duplicates(there)
        if len(there):
            values["low"] = tuple(float(v) for v in there.min(0))
            values["high"] = tuple(float(v) for v in there.max(0))
    encoding = "text" if data.text else f"binary {'little' if data.byte_order in '<' else 'big'} endian"
    return PlyInfo(
        path=path,
        bytes=path.stat().st_size,
        kind=kind,
        encoding=encoding,
        count=len(vertices),
        fields=names,
        faces=faces,
        not_finite=int((~finite).sum()),
        **values,
    )
