"""One file of Gaussians or points as another format, and what that costs: `dyn4d ply convert`.

The error is measured, not promised: what was written is read again and held against the source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dyn4d.core.clusters import sample
from dyn4d.io import ply_fields as pf
from dyn4d.io import text_figures as tf
from dyn4d.io.ply_compare import MEASURES, properties, property_differences
from dyn4d.io.row_writers import PLAIN, WriteOptions, Written, writable, write_rows
from dyn4d.io.rows import Rows, open_rows

MEASURED = 100_000  # rows that the error is measured on, where there are more
NOT_READ = ("glb", "csv")  # full precision by construction: float32, or digits enough


@dataclass(frozen=True)
class Loss:
    """The mean and largest absolute error of one property, in `unit`."""

    mean: float
    largest: float
    unit: str


@dataclass(frozen=True)
class Conversion:
    """What was written, and what it costs. `losses` by property, "position" in world units; empty where the format
    keeps full precision and is not read back (GLB, CSV). `measured`: rows that this was told from."""

    source: Path
    source_bytes: int
    written: Written
    losses: dict[str, Loss] = field(default_factory=dict)
    measured: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        w = self.written
        return {
            "source": str(self.source), "source_bytes": self.source_bytes, "path": str(w.path), "format": w.format,
            "holds": w.form, "count": w.count, "bytes": w.bytes, "left_out": w.left_out, "lost": w.lost,
            "order_kept": w.order is None, "errors": {name: loss.__dict__ for name, loss in self.losses.items()},
            "measured_rows": self.measured,
        }  # fmt: skip

    def format(self) -> str:
        """Lines for the terminal, no newline at the end."""
        w = self.written
        sizes = f"{tf.size(self.source_bytes)} -> {tf.size(w.bytes)}"
        if w.bytes and self.source_bytes > w.bytes:
            sizes += f", {self.source_bytes / w.bytes:.3g} times smaller"
        lines = [
            ("file", f"{w.path} ({w.count:,} {'Gaussians' if w.form == 'gaussians' else 'points'})"),
            ("bytes", sizes),
        ]
        lines += [("lost", what) for what in w.lost]
        if w.left_out:
            lines.append(("left out", f"{tf.rows(w.left_out)} with NaN or Inf, which the format cannot hold"))
        if w.order is not None:
            lines.append(("order", "rows are put along a curve through space; --keep-order keeps it, less exact"))
        shown = {name: loss for name, loss in self.losses.items() if loss.largest > 0}
        if not shown:
            what = "float32 or digits enough, nothing is rounded" if w.format in NOT_READ else "none"
            lines.append(("error", what if w.count else "no rows"))
            return "\n".join(tf.labelled(lines))
        table = [["error", "mean", "max", "unit"]]
        table += [
            [f"  {name}", tf.number(loss.mean), tf.number(loss.largest), loss.unit] for name, loss in shown.items()
        ]
        of = "" if self.measured == w.count else f", measured on {self.measured:,} rows"
        table[0][3] += of
        return "\n".join([*tf.labelled(lines), *tf.table(table, left=(0, 3))])


def convert_file(source: str | Path, out: str | Path, options: WriteOptions = PLAIN) -> Conversion:
    """Read a PLY, compressed PLY, SPZ or .splat file and write it in the format that the name of `out` asks for.

    Raises:
        InputError: the source is damaged, the name says no format, or the format cannot hold what is there; nothing was
            written. RunError: the disk is full, or the place cannot be written.
    """
    rows = open_rows(source, turn_spz=options.turn_spz)
    return convert_rows(rows, out, options)


def convert_rows(rows: Rows, out: str | Path, options: WriteOptions = PLAIN) -> Conversion:
    """The same of rows that are open already."""
    size = rows.path.stat().st_size  # before `out`, which may be the same file, takes its place
    few, wanted = _sampled(rows, options, out)
    written = write_rows(out, rows, options)
    if written.format in NOT_READ or written.count == 0:
        return Conversion(rows.path, size, written)
    losses = _losses(few, _gather(open_rows(written.path, turn_spz=options.turn_spz), _places(written, wanted)))
    return Conversion(rows.path, size, written, losses, len(few))


def _sampled(rows: Rows, options: WriteOptions, out: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Some rows of the source that will be written, and their places among those."""
    source = writable(rows, out, options)
    wanted = sample(source.count, MEASURED)
    return _gather(source, wanted), wanted


def _places(written: Written, wanted: np.ndarray) -> np.ndarray:
    """Where the rows `wanted` of the source are in the file."""
    if written.order is None:
        return wanted
    rank = np.empty(len(written.order), np.int64)
    rank[written.order] = np.arange(len(written.order))
    return rank[wanted]


def _gather(rows: Rows, wanted: np.ndarray) -> np.ndarray:
    """Rows by number, in the order asked for."""
    order = np.argsort(wanted, kind="stable")
    ascending = wanted[order]
    out = np.empty(len(wanted), rows.dtype)
    at = 0
    for block in rows.blocks():
        low, high = np.searchsorted(ascending, (at, at + len(block)))
        out[order[low:high]] = block[ascending[low:high] - at]
        at += len(block)
    return out


def _losses(before: np.ndarray, after: np.ndarray) -> dict[str, Loss]:
    with np.errstate(invalid="ignore", over="ignore"):
        apart = pf.columns(before, pf.POSITION, np.float64) - pf.columns(after, pf.POSITION, np.float64)
    found = {"position": np.linalg.norm(apart, axis=-1), **property_differences(properties(before), properties(after))}
    units = {"position": "world units", **{name: measure.unit for name, measure in MEASURES.items()}}
    out = {}
    for name, values in found.items():
        values = values[np.isfinite(values)]
        if len(values):
            out[name] = Loss(float(values.mean(dtype=np.float64)), float(values.max()), units[name])
    return out
