"""Some rows of a file, or the rows of several: `dyn4d ply crop` and `dyn4d ply merge`. Read in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io import ply_fields as pf
from dyn4d.io.row_writers import with_degree
from dyn4d.io.rows import Rows, require_gaussians, require_positions
from dyn4d.io.selection import Selection

CLUSTER_CELLS = 4.0  # gap that parts a cluster, in spacings of the points
NEIGHBOURS = 16


@dataclass(frozen=True)
class Selected:
    """`keep` (N,) bool, and how many rows each thing that was asked for dropped of those before it kept."""

    keep: np.ndarray
    dropped: tuple[tuple[str, int], ...]


def select(rows: Rows, selection: Selection) -> Selected:
    """Find the rows to keep; one pass, and two more for outliers and clusters.

    Raises:
        InputError: nothing is asked for, the rows lack a field that is asked about, or the file is damaged.
    """
    selection.require_something()
    _require_fields(rows, selection)
    keep = np.empty(rows.count, bool)
    counts: dict[str, int] = {}
    at = 0
    for block in rows.blocks():
        left = np.ones(len(block), bool)
        for label, good in _tests(block, selection):
            counts[label] = counts.get(label, 0) + int((left & ~good).sum())
            left &= good
        keep[at : at + len(block)] = left
        at += len(block)
    if selection.outliers is not None or selection.largest_cluster:
        _by_neighbours(rows, selection, keep, counts)
    return Selected(~keep if selection.invert else keep, tuple(counts.items()))


def _require_fields(rows: Rows, selection: Selection) -> None:
    require_positions(rows)
    asked = {
        "opacity": (selection.min_opacity, selection.max_opacity),
        "scale_0": (selection.min_scale, selection.max_scale),
    }
    for name, limits in asked.items():
        if any(limit is not None for limit in limits) and name not in rows.names:
            raise InputError(
                f"{rows.path} holds {rows.kind} without {name.partition('_')[0]}; it cannot be cropped by it"
            )
    if selection.min_confidence is not None and pf.confidence_name(rows.names) is None:
        raise InputError(f"{rows.path} has no field confidence; it cannot be cropped by it")


def _tests(block: np.ndarray, s: Selection) -> Iterator[tuple[str, np.ndarray]]:
    """What each thing asked for says of the rows. A NaN never meets a limit."""
    if s.finite:
        good = np.ones(len(block), bool)
        for name in block.dtype.names or ():
            if block.dtype[name].kind == "f":
                good &= np.isfinite(block[name])
        if all(name in (block.dtype.names or ()) for name in pf.ROTATION):
            good &= (pf.columns(block, pf.ROTATION) != 0).any(-1)
        yield "NaN, Inf or no rotation", good
    xyz = pf.columns(block, pf.POSITION, np.float64)
    with np.errstate(invalid="ignore"):
        if s.box is not None:
            yield "outside the box", np.all((xyz >= s.box[:3]) & (xyz <= s.box[3:]), axis=-1)
        if s.sphere is not None:
            yield "outside the sphere", ((xyz - s.sphere[:3]) ** 2).sum(-1) <= s.sphere[3] ** 2
        for label, values, low, high in _limits(block, s):
            if low is not None:
                yield f"{label} below {low:g}", values() >= low
            if high is not None:
                yield f"{label} above {high:g}", values() <= high


def _limits(block: np.ndarray, s: Selection):
    yield "opacity", lambda: pf.opacities(block), s.min_opacity, s.max_opacity
    yield "scale", lambda: pf.scales(block).max(-1), s.min_scale, s.max_scale
    yield "confidence", lambda: block[pf.confidence_name(block.dtype.names or ())], s.min_confidence, None


def _by_neighbours(rows: Rows, selection: Selection, keep: np.ndarray, counts: dict[str, int]) -> None:
    from dyn4d.core.clusters import cluster_labels, is_outlier, spacing

    xyz = rows.column(pf.POSITION)
    placed = np.isfinite(xyz).all(-1)
    if (keep & ~placed).any():
        counts["without a place"] = int((keep & ~placed).sum())
        keep &= placed
    if selection.outliers is not None:
        here = np.flatnonzero(keep)
        far = is_outlier(xyz[here], NEIGHBOURS, selection.outliers)
        keep[here[far]] = False
        counts["outliers"] = int(far.sum())
    if selection.largest_cluster:
        here = np.flatnonzero(keep)
        apart = cluster_labels(xyz[here], selection.gap or CLUSTER_CELLS * spacing(xyz[here])) > 0
        keep[here[apart]] = False
        counts["in smaller clusters"] = int(apart.sum())


# ----------------------------------------------------------------------------------------------- merge


def merge(sources: Sequence[Rows]) -> tuple[Rows, tuple[str, ...]]:
    """The rows of several files, one after the other, with the fields of the first.

    Spherical harmonics of a lower degree are filled up with zeros, and so are normals that a file of Gaussians lacks.
    Other fields that are not in every file are dropped, since any value would be invented. Notes say so. Numbers take
    the wider of two types.

    Returns:
        The rows, and notes.

    Raises:
        InputError: fewer than two files, Gaussians and points together, or Gaussians that lack a field.
    """
    if len(sources) < 2:
        raise InputError("merging needs two files or more, and then the file to write")
    for rows in sources:
        require_positions(rows)
    kinds = {pf.is_gaussian(rows.names) for rows in sources}
    if len(kinds) > 1:
        one, other = (next(r.path for r in sources if pf.is_gaussian(r.names) is kind) for kind in (True, False))
        raise InputError(
            f"{one} holds Gaussians, {other} points; make them the same first: dyn4d ply convert --as points"
        )
    notes: list[str] = []
    sources = _with_one_degree(sources, notes) if True in kinds else list(sources)
    sources = _with_normals(sources, notes) if True in kinds else sources
    first, names = sources[0], _common_fields(sources, notes)
    faces = [str(r.path) for r in sources if r.kind == "mesh"]
    if faces:
        notes.append(f"the faces of {', '.join(faces)} are left out")
    dtype = np.dtype([(name, np.result_type(*(rows.dtype[name] for rows in sources))) for name in names])

    def read(count: int) -> Iterator[np.ndarray]:
        for rows in sources:
            for block in rows.blocks(count):
                if block.dtype == dtype:
                    yield block
                    continue
                out = np.empty(len(block), dtype)
                for name in names:
                    out[name] = block[name]
                yield out

    total = sum(rows.count for rows in sources)
    return replace(first, dtype=dtype, count=total, read=read, header=None, comments=()), tuple(notes)


def _common_fields(sources: Sequence[Rows], notes: list[str]) -> tuple[str, ...]:
    """The fields that all files have, in the first one's order; a note for each that some do not have."""
    if pf.is_gaussian(sources[0].names):
        for rows in sources:
            require_gaussians(rows, "merging")
    for name in dict.fromkeys(name for rows in sources for name in rows.names):
        without = [str(rows.path) for rows in sources if name not in rows.names]
        if without:
            notes.append(f"the field {name} is dropped, for it is not in {', '.join(without)}")
    return tuple(name for name in sources[0].names if all(name in rows.names for rows in sources))


def _with_one_degree(sources: Sequence[Rows], notes: list[str]) -> list[Rows]:
    degrees = [pf.sh_degree(rows.names) for rows in sources]
    known = [d for d in degrees if d is not None]
    if len(known) < len(degrees):
        broken = sources[degrees.index(None)]
        raise InputError(f"{broken.path}: {pf.rest_count(broken.names)} fields f_rest_*, which is no degree")
    most = max(known)
    for rows, degree in zip(sources, known):
        if degree < most:
            notes.append(f"{rows.path}: spherical harmonics of degree {degree}, filled up with zeros to {most}")
    return [with_degree(rows, most) for rows in sources]


def _with_normals(sources: Sequence[Rows], notes: list[str]) -> list[Rows]:
    """Viewers ignore the normals of Gaussians, some files leave them out: no reason to refuse."""
    if len({all(name in rows.names for name in pf.NORMAL) for rows in sources}) == 1:
        return list(sources)
    out = []
    for rows in sources:
        if all(name in rows.names for name in pf.NORMAL):
            out.append(rows)
            continue
        notes.append(f"{rows.path}: no normals, filled up with zeros")
        dtype = np.dtype([*((name, rows.dtype[name]) for name in rows.names), *((name, "f4") for name in pf.NORMAL)])
        out.append(rows.mapped(dtype, _filler(dtype, rows.names)))
    return out


def _filler(dtype: np.dtype, names: tuple[str, ...]):
    def change(block: np.ndarray) -> np.ndarray:
        out = np.zeros(len(block), dtype)
        for name in names:
            out[name] = block[name]
        return out

    return change
