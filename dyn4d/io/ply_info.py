"""What is in a file of Gaussians or points, in figures: `dyn4d ply info`. NumPy only; the file is read in blocks.

Kept for the whole of it are a few columns (some 50 bytes a row), for exact quantiles and duplicates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dyn4d.io import ply_fields as pf
from dyn4d.io import text_figures as tf
from dyn4d.io.ply_body import trailing_bytes
from dyn4d.io.rows import Rows, open_rows

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
BINS = 24


@dataclass(frozen=True)
class Spread:
    """How values are spread. `quantiles`: at `QUANTILES`, of the finite ones; `counts`: a histogram of 24 bins between
    `low` and `high`, of their logarithms where `log`."""

    quantiles: tuple[float, ...]
    counts: tuple[int, ...]
    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class PlyInfo:
    """A file of Gaussians or points in figures.

    Attributes:
        path: the file. bytes: its size. container: "PLY", "compressed PLY", "SPZ" or ".splat". kind: "3DGS",
            "compressed 3DGS" (a compressed PLY), "points", "mesh" or "other".
        encoding: how numbers are stored, such as "binary little endian". count: rows. fields: their names; what a
            packed container unpacks to.
        row_bytes: of a row once it is read. comments: of the header. trailing: bytes after the data.
        missing: what a Gaussian would need besides, where it looks like one. sh_degree: of Gaussians, else None.
        faces: rows of the element `face`.
        low, high: bounds of the finite positions, None without any. middle: the bounds without the outer 1 % at each
            end of each axis.
        spreads: by name: "opacity" in [0, 1], "scale" (of a Gaussian's largest axis, world units), and every field that
            is no part of the layout, such as "confidence".
        nan, inf: of each field that has any, how many values. not_finite: rows with one in any field.
        duplicates: rows whose position an earlier row has. identical: those that are so in every field.
        zero_quats: rows whose quaternion is 0.
    """

    path: Path
    bytes: int
    container: str
    kind: str
    encoding: str
    count: int
    fields: tuple[str, ...]
    row_bytes: int
    comments: tuple[str, ...] = ()
    trailing: int = 0
    missing: tuple[str, ...] = ()
    sh_degree: int | None = None
    faces: int = 0
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    middle: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    spreads: dict[str, Spread] = field(default_factory=dict)
    nan: dict[str, int] = field(default_factory=dict)
    inf: dict[str, int] = field(default_factory=dict)
    not_finite: int = 0
    duplicates: int = 0
    identical: int = 0
    zero_quats: int = 0

    @property
    def opacity(self) -> tuple[float, ...] | None:
        """Quantiles of the opacities, None without any."""
        return self.spreads["opacity"].quantiles if "opacity" in self.spreads else None

    @property
    def scale(self) -> tuple[float, ...] | None:
        """Quantiles of the scales of the largest axes, None without any."""
        return self.spreads["scale"].quantiles if "scale" in self.spreads else None

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        spreads = {name: {"quantiles": dict(zip(map(str, QUANTILES), spread.quantiles)), "histogram": spread.counts,
                          "low": spread.low, "high": spread.high, "log": spread.log}
                   for name, spread in self.spreads.items()}  # fmt: skip
        memory = self.row_bytes * self.count
        return {**self.__dict__, "path": str(self.path), "spreads": spreads, "memory_bytes": memory}

    def format(self) -> str:
        """Lines for the terminal, no newline at the end."""
        return "\n".join([*tf.labelled(_head_lines(self)), *_number_tables(self), *tf.labelled(_doubt_lines(self))])


# --------------------------------------------------------------------------------------------- as text


def _head_lines(info: PlyInfo) -> list[tuple[str, str]]:
    kind = {"3DGS": "3DGS", "compressed 3DGS": "3DGS, compressed by PlayCanvas' layout"}.get(info.kind, info.kind)
    if info.sh_degree is not None:
        kind += f", spherical harmonics of degree {info.sh_degree}"
    what = info.encoding if info.container == "PLY" else f"{info.container}, {info.encoding}"
    count = f"{info.count:,}" + (f", {info.faces:,} faces" if info.faces else "")
    lines = [
        ("file", f"{info.path} ({tf.size(info.bytes)}, {what})"), ("kind", kind),
        ("rows", f"{count}; {tf.size(info.row_bytes * info.count)} in memory, {info.row_bytes} bytes each"),
        ("fields", short_fields(info.fields)),
    ]  # fmt: skip
    if info.missing:
        lines.append(("missing", " ".join(info.missing)))
    if info.comments:
        more = len(info.comments) - 3
        lines.append(("comments", " | ".join(info.comments[:3]) + (f" | {more} more" if more > 0 else "")))
    return lines


def _number_tables(info: PlyInfo) -> list[str]:
    out: list[str] = []
    if info.low is not None and info.high is not None and info.middle is not None:
        sides = [high - low for low, high in zip(info.low, info.high)]
        table = [["bounds", "min", "1 %", "99 %", "max", "size"]]
        columns = zip(info.low, *info.middle, info.high, sides)
        table += [[f"  {axis}", *map(tf.number, values)] for axis, values in zip("xyz", columns)]
        out += _wide(table)
    if info.spreads:
        table = [["values", "min", "5 %", "median", "95 %", "max", "histogram"]]
        table += [[f"  {name}", *map(tf.number, spread.quantiles), _histogram(spread)]
                  for name, spread in info.spreads.items()]  # fmt: skip
        out += _wide(table)
    return out


def _wide(table: list[list[str]]) -> list[str]:
    """Columns of the same width in all tables, so that they stand below each other."""

    def cell(at: int, text: str) -> str:
        return text.ljust(12) if at == 0 else "  " + text if at == 6 else text.rjust(10)

    return ["".join(cell(at, text) for at, text in enumerate(line)).rstrip() for line in table]


def _histogram(spread: Spread) -> str:
    ends = f"{tf.number(spread.low)}", f"{tf.number(spread.high)}{', log' if spread.log else ''}"
    return f"{ends[0]} {tf.spark(spread.counts)} {ends[1]}"


def _doubt_lines(info: PlyInfo) -> list[tuple[str, str]]:
    bad = [f"{name} {_bad(info.nan.get(name, 0), info.inf.get(name, 0))}" for name in info.fields
           if name in info.nan or name in info.inf]  # fmt: skip
    more = len(bad) - 6
    where = ": " + ", ".join(bad[:6]) + (f", {more} more fields" if more > 0 else "") if bad else ""
    lines = [("NaN or Inf", f"{tf.rows(info.not_finite)}{where}")]
    twice = f" at a place another row has, {info.identical:,} of them alike in all fields" if info.duplicates else ""
    lines.append(("duplicates", tf.rows(info.duplicates) + twice))
    if info.zero_quats:
        lines.append(("rotations", f"{info.zero_quats:,} are zero"))
    if info.trailing:
        lines.append(("trailing", f"{info.trailing:,} bytes after the data"))
    return lines


def _bad(nan: int, inf: int) -> str:
    return " ".join(text for text in (f"{nan:,} NaN" if nan else "", f"{inf:,} Inf" if inf else "") if text)


def short_fields(names: tuple[str, ...]) -> str:
    """Names with runs such as f_rest_0 to f_rest_44 as f_rest_0…44."""
    parts: list[tuple[str, int | None, int]] = []
    for name in names:
        stem, _, digits = name.rpartition("_")
        at = int(digits) if stem and digits.isdecimal() else None
        last = parts[-1] if parts else None
        if at is not None and last is not None and last[0] == stem and last[1] is not None and at == last[2] + 1:
            parts[-1] = (stem, last[1], at)
        else:
            parts.append((stem if at is not None else name, at, at or 0))
    return " ".join(stem if first is None else f"{stem}_{first}" + (f"…{last}" if last > first else "")
                    for stem, first, last in parts)  # fmt: skip


# -------------------------------------------------------------------------------------------- gathering


def ply_info(path: str | Path, *, turn_spz: bool = True) -> PlyInfo:
    """Look through a file of Gaussians, points or a mesh: PLY, compressed PLY, SPZ or .splat. `turn_spz` as of
    `open_rows`.

    Raises:
        InputError: missing, empty, damaged, cut short, or without points; names the file and the place.
    """
    return rows_info(open_rows(path, turn_spz=turn_spz))


def rows_info(rows: Rows) -> PlyInfo:
    """The same of rows that are open already."""
    faces = rows.header.find("face") if rows.header else None
    kept = _gather(rows)
    values: dict[str, Any] = kept.pop("values")
    if rows.kind == "3DGS":
        values["sh_degree"] = pf.sh_degree(rows.names)
        values["missing"] = tuple(name for name in pf.GAUSSIAN_FIELDS if name not in rows.names)
    values |= _position_figures(kept.pop("xyz"), kept.pop("hash"))
    spreads = {name: _spread(column, name) for name, column in kept.items()}
    return PlyInfo(
        path=rows.path, bytes=rows.path.stat().st_size, container=rows.container,
        kind="compressed 3DGS" if rows.container == "compressed PLY" else rows.kind, encoding=rows.encoding,
        count=rows.count, fields=rows.names, row_bytes=rows.dtype.itemsize, comments=rows.comments,
        trailing=trailing_bytes(rows.header) if rows.header else 0, faces=faces.count if faces else 0,
        spreads={name: spread for name, spread in spreads.items() if spread is not None}, **values,
    )  # fmt: skip


def _gather(rows: Rows) -> dict[str, Any]:
    """One pass: columns to keep, and counts under "values"."""
    names = rows.names
    logs = all(name in names for name in pf.SCALE)
    turned = all(name in names for name in pf.ROTATION)
    placed = all(axis in names for axis in pf.POSITION)
    known = {*pf.POSITION, *pf.NORMAL, *pf.DC, "opacity", *pf.SCALE, *pf.ROTATION, *pf.rest_names(pf.rest_count(names)),
             *(pf.colour_names(names) or ())}  # fmt: skip
    extra = [name for name in names if name not in known]
    kind = np.float64 if placed and any(rows.dtype[axis].itemsize > 4 for axis in pf.POSITION) else np.float32
    columns: dict[str, list[np.ndarray]] = {"xyz": [], "hash": []}
    nan: dict[str, int] = {}
    inf: dict[str, int] = {}
    bad = zero = 0
    weights = _hash_weights(rows.dtype.itemsize)
    for block in rows.blocks():
        broken = np.zeros(len(block), bool)
        for name in names:
            column = block[name]
            if column.dtype.kind == "f" and not (finite := np.isfinite(column)).all():
                broken |= ~finite
                missing = int(np.isnan(column).sum())
                nan[name] = nan.get(name, 0) + missing
                inf[name] = inf.get(name, 0) + int((~finite).sum()) - missing
        bad += int(broken.sum())
        if turned:
            zero += int((pf.columns(block, pf.ROTATION) == 0).all(-1).sum())
        if placed:
            columns["xyz"].append(pf.columns(block, pf.POSITION, kind))
            columns["hash"].append(_hashes(block, weights))
        if "opacity" in names:
            columns.setdefault("opacity", []).append(pf.opacities(block))
        if logs:
            columns.setdefault("scale", []).append(pf.scales(block).max(-1))
        for name in extra:
            columns.setdefault(name, []).append(block[name].copy())
    empty = {"xyz": np.empty((0, 3)), "hash": np.empty(0, np.uint64)}
    out: dict[str, Any] = {}
    for name in list(columns):  # one after the other, so that no more than one is held twice
        parts = columns.pop(name)
        out[name] = np.concatenate(parts) if parts else empty[name]
    out["values"] = {"nan": _some(nan), "inf": _some(inf), "not_finite": bad, "zero_quats": zero}
    return out


def _some(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _hash_weights(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1 << 63, size=-(-size // 4), dtype=np.uint64) * np.uint64(
        2
    ) + np.uint64(1)


def _hashes(block: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """64 bits from all bytes of each row. Only compared among rows at the same place, so that chance has no part."""
    raw = np.ascontiguousarray(block).view(np.uint8).reshape(len(block), -1)
    if raw.shape[1] % 4:
        raw = np.pad(raw, ((0, 0), (0, -raw.shape[1] % 4)))
    return np.ascontiguousarray(raw).view(np.uint32).astype(np.uint64) @ weights


def _position_figures(xyz: np.ndarray, hashes: np.ndarray) -> dict[str, Any]:
    there = np.isfinite(xyz).all(-1)
    if not there.all():
        xyz, hashes = xyz[there], hashes[there]
    if len(xyz) == 0:
        return {}
    # the order brings equal places together, and equal rows within them; -0 and 0 are one place
    order = np.lexsort((hashes, *(xyz + xyz.dtype.type(0)).T))
    alike = np.ones(len(order) - 1, bool)
    for column in xyz.T:
        column = column[order]
        alike &= column[1:] == column[:-1]
    hashes = hashes[order]
    edges = np.quantile(xyz, (0.01, 0.99), axis=0)
    return {
        "low": tuple(xyz.min(0).tolist()), "high": tuple(xyz.max(0).tolist()),
        "middle": (tuple(edges[0].tolist()), tuple(edges[1].tolist())), "duplicates": int(alike.sum()),
        "identical": int((alike & (hashes[1:] == hashes[:-1])).sum()),
    }  # fmt: skip


def _spread(values: np.ndarray, name: str) -> Spread | None:
    values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if len(values) == 0:
        return None
    quantiles = tuple(float(v) for v in np.quantile(values, QUANTILES))
    low, high = quantiles[0], quantiles[-1]
    if name == "scale":
        places = np.log(values[values > 0].astype(np.float64)) if (values > 0).any() else np.zeros(1)
        counts = np.histogram(places, BINS)[0]
        return Spread(quantiles, tuple(counts.tolist()), float(np.exp(places.min())), high, log=True)
    ends = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    return Spread(quantiles, tuple(np.histogram(values, BINS, ends)[0].tolist()), *ends)
