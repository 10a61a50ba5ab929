"""Rows of Gaussians or points, from any file that holds them, a block at a time. NumPy only.

Whatever the container, rows come with the fields of a PLY in its units (`dyn4d.io.ply_fields`), in the file's order and
the world of the file. Nothing is read before the rows are asked for, and no more than a block is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io import compressed_ply, ply_body, splat_file, spz
from dyn4d.io.ply_body import BLOCK
from dyn4d.io.ply_fields import GAUSSIAN_FIELDS, POSITION, is_gaussian, rest_count, sh_degree
from dyn4d.io.ply_header import Header, open_checked, read_header


@dataclass(frozen=True)
class Rows:
    """A table that is read when asked for.

    Attributes:
        path: the file. container: "PLY", "compressed PLY", "SPZ" or ".splat". dtype: of a block. count: rows.
        read: gives structured arrays of at most so many rows, from the first; may be called again.
        header: of a PLY. encoding: how the numbers are stored. comments: of the header.
    """

    path: Path
    container: str
    dtype: np.dtype
    count: int
    read: Callable[[int], Iterator[np.ndarray]] = field(repr=False)
    header: Header | None = field(default=None, repr=False)
    encoding: str = ""
    comments: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.dtype.names or ()

    @property
    def kind(self) -> str:
        """ "3DGS", "points", "mesh" or "other"."""
        if not all(axis in self.names for axis in POSITION):
            return "other"
        if is_gaussian(self.names):
            return "3DGS"
        faces = self.header.find("face") if self.header else None
        return "mesh" if faces is not None and faces.count else "points"

    def blocks(self, rows: int = BLOCK) -> Iterator[np.ndarray]:
        """Structured arrays of at most `rows` rows. Raises `InputError` where the file is cut short or damaged."""
        return self.read(rows)

    def whole(self) -> np.ndarray:
        """All rows at once: for files that are known to be small."""
        parts = list(self.blocks())
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def column(self, names: tuple[str, ...], kind: type = np.float32) -> np.ndarray:
        """Some fields of all rows, (N, len(names))."""
        out = np.empty((self.count, len(names)), dtype=kind)
        at = 0
        for block in self.blocks():
            for place, name in enumerate(names):
                out[at : at + len(block), place] = block[name]
            at += len(block)
        return out

    def selected(self, keep: np.ndarray) -> Rows:
        """Only the rows where `keep` (N,) is True."""

        def read(rows: int) -> Iterator[np.ndarray]:
            at = 0
            for block in self.read(rows):
                part = block[keep[at : at + len(block)]]
                at += len(block)
                if len(part):
                    yield part

        return replace(self, count=int(keep.sum()), read=read)

    def mapped(self, dtype: np.dtype, change: Callable[[np.ndarray], np.ndarray]) -> Rows:
        """Every block changed by a function that keeps its rows."""

        def read(rows: int) -> Iterator[np.ndarray]:
            for block in self.read(rows):
                yield change(block)

        return replace(self, dtype=dtype, read=read)


def require_gaussians(rows: Rows, what: str) -> None:
    """Raises `InputError` unless the rows have every field of a Gaussian. `what`: what needs them."""
    names = rows.names
    if not is_gaussian(names):
        raise InputError(f"{rows.path} holds {rows.kind}, no Gaussians; {what} needs them")
    missing = [name for name in GAUSSIAN_FIELDS if name not in names]
    if missing:
        raise InputError(f"{rows.path}: a Gaussian needs the fields {', '.join(missing)}; found {', '.join(names)}")
    if sh_degree(names) is None:
        raise InputError(f"{rows.path}: {rest_count(names)} fields f_rest_*; wanted f_rest_0 … of 0, 9, 24, 45 or 72 "
                         "coefficients")  # fmt: skip


def require_positions(rows: Rows) -> None:
    """Raises `InputError` unless the rows have x, y and z."""
    missing = [axis for axis in POSITION if axis not in rows.names]
    if missing:
        found = ", ".join(rows.names) or "none"
        raise InputError(f"{rows.path}: a point needs the fields {', '.join(missing)}; found {found}")


def open_rows(path: str | Path, *, turn_spz: bool = True) -> Rows:
    """Open a PLY (any encoding, compressed by PlayCanvas' layout too), an SPZ or a .splat file.

    The container is told by what the file begins with; .splat, which has no mark, by its name. `turn_spz`: an SPZ has
    the axes that the format prescribes, which are turned to those of a PLY; False takes them as they are.

    Raises:
        InputError: missing, empty, none of these, a damaged header, or cut short; says where.
    """
    path = open_checked(path)
    with path.open("rb") as stream:
        head = stream.read(4)
    if path.suffix.lower() == ".spz" or head == spz.MAGIC:
        return _spz_rows(path, turn_spz)
    written_only = "GLB" if head == b"glTF" else "CSV" if path.suffix.lower() == ".csv" else ""
    if written_only and head[:3] != b"ply":
        raise InputError(f"{path}: {written_only} is only written, not read; give the PLY, SPZ or .splat file that it "
                         "was made from")  # fmt: skip
    if path.suffix.lower() == ".splat" and head[:3] != b"ply":
        count = splat_file.count_rows(path)
        return Rows(path, ".splat", splat_file.DTYPE, count, lambda rows: splat_file.read_blocks(path, count, rows),
                    encoding="32 bytes a row")  # fmt: skip
    header = read_header(path)
    vertex = header.find("vertex")
    if vertex is None:
        found = ", ".join(e.name for e in header.elements) or "none"
        raise InputError(f"{path} has no element 'vertex', so no points; its elements: {found}")
    ply_body.check_size(header)
    if compressed_ply.is_compressed(header):
        dtype = compressed_ply.check_layout(header)
        return Rows(path, "compressed PLY", dtype, vertex.count, lambda rows: compressed_ply.read_blocks(header, rows),
                    header, header.encoding, header.comments)  # fmt: skip
    if vertex.lists:
        raise InputError(f"{path}: the property '{vertex.lists[0]}' of the element 'vertex' is a list; wanted one "
                         "number a row")  # fmt: skip
    return Rows(path, "PLY", vertex.dtype(), vertex.count, lambda rows: ply_body.element_blocks(header, "vertex", rows),
                header, header.encoding, header.comments)  # fmt: skip


def _spz_rows(path: Path, turn: bool) -> Rows:
    head = spz.read_head(path)
    return Rows(path, "SPZ", spz.dtype_of(head), head.count, lambda rows: spz.read_blocks(path, rows, turn=turn),
                encoding=f"version {head.version}, {head.fraction_bits} fractional bits")  # fmt: skip
