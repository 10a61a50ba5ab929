"""Writing rows of Gaussians or points: PLY, compressed PLY, SPZ, .splat, GLB and CSV, whole or not at all.

PLY, CSV, .splat and GLB are written as the rows come; SPZ holds its packed bytes (20 to 65 a row), a compressed PLY its
own and 56 bytes a row more for putting neighbours together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io import compressed_ply, ply_header, splat_file, splat_glb, spz
from dyn4d.io import ply_fields as pf
from dyn4d.io.atomic import atomic_path
from dyn4d.io.rows import Rows, require_gaussians, require_positions

Form = Literal["gaussians", "points"]
Format = Literal["ply", "compressed.ply", "spz", "splat", "glb", "csv"]
FORMATS: tuple[Format, ...] = ("compressed.ply", "ply", "spz", "splat", "glb", "csv")  # longer suffixes first
ONLY_GAUSSIANS = ("compressed.ply", "spz", "splat")
HIGHEST_DEGREE = {"compressed.ply": 3, "spz": 3, "splat": 0, "glb": 3}


@dataclass(frozen=True)
class WriteOptions:
    """How to write.

    Attributes:
        form: as Gaussians or as points; None: as they are. degree: keep spherical harmonics up to it; None: all that
            the format holds. keep_order: of a compressed PLY, whose rows are else put along a curve through space.
        turn_spz: give an SPZ the axes that the format prescribes.
    """

    form: Form | None = None
    degree: int | None = None
    keep_order: bool = False
    turn_spz: bool = True


PLAIN = WriteOptions()


@dataclass(frozen=True)
class Written:
    """What came of writing.

    Attributes:
        path, format: the file. form: what it holds. count, bytes: of it. left_out: rows that the format cannot hold.
        order: (N,) row of the source (after `left_out`) that each row of the file is; None: the same order.
        lost: what the format has no place for, one line each.
    """

    path: Path
    format: Format
    form: Form
    count: int
    bytes: int
    left_out: int
    order: np.ndarray | None
    lost: tuple[str, ...]


def format_of(path: str | Path) -> Format:
    """The format that a file's name asks for. Raises `InputError` where none does."""
    name = Path(path).name.lower()
    found: Format | None = next((form for form in FORMATS if name.endswith(f".{form}")), None)
    if found is None:
        raise InputError(f"{path}: its name says no format; wanted one that ends in .ply, .compressed.ply, .spz, "
                         ".splat, .glb or .csv")  # fmt: skip
    return found


def write_rows(path: str | Path, rows: Rows, options: WriteOptions = PLAIN) -> Written:
    """Write rows in the format of the name, atomically.

    A PLY of Gaussians that is not changed keeps all its fields and their types. Formats with a fixed layout take what
    they have a place for.

    Raises:
        InputError: the format needs what the rows do not have, or the source is damaged; nothing was written.
        RunError: the disk is full, or the place cannot be written.
    """
    path = Path(path).expanduser()
    kind = format_of(path)
    form = _form(rows, kind, options)
    changed, lost = _prepare(rows, kind, form, options)
    source, left_out = _without_undrawable(changed, kind, form)
    if rows.kind == "mesh":
        lost = (*lost, "the faces of the mesh")
    if kind == "splat" and source.count == 0:
        raise InputError(
            f"{rows.path} gives no rows to write, and a .splat without rows is no file; choose another format"
        )
    writer = {"ply": _write_ply, "csv": _write_csv, "splat": _write_splat, "spz": _write_spz, "glb": _write_glb,
              "compressed.ply": _write_compressed}[kind]  # fmt: skip
    with atomic_path(path) as temporary:
        order = writer(temporary, source, options)
        size = temporary.stat().st_size
    return Written(path, kind, form, source.count, size, left_out, order, lost)


def writable(rows: Rows, path: str | Path, options: WriteOptions = PLAIN) -> Rows:
    """The rows that `write_rows` would write to `path`, with all they have. Raises as it does."""
    kind = format_of(path)
    return _without_undrawable(rows, kind, _form(rows, kind, options))[0]


def _form(rows: Rows, kind: Format, options: WriteOptions) -> Form:
    require_positions(rows)
    gaussians = pf.is_gaussian(rows.names)
    form = options.form or ("gaussians" if gaussians else "points")
    if form == "points" and kind in ONLY_GAUSSIANS:
        what = "--as points" if options.form else f"{rows.path} holds points, which"
        raise InputError(f"{what} cannot be written as .{kind}; choose .ply, .glb or .csv")
    if form == "gaussians" and (not gaussians or kind not in ("ply", "csv") or options.degree is not None):
        require_gaussians(rows, "--as gaussians" if options.form else f".{kind}")
    return form


def _prepare(rows: Rows, kind: Format, form: Form, options: WriteOptions) -> tuple[Rows, tuple[str, ...]]:
    """The rows with the fields that will be written, and what is lost by that."""
    names, lost = rows.names, []
    if form == "points":
        out = as_points(rows) if pf.is_gaussian(names) or kind != "ply" else rows
        if pf.is_gaussian(names):
            lost.append("opacity, scale and rotation: only places and colours are kept")
        if pf.rest_count(names):
            lost.append("view-dependent colour (f_rest)")
        if kind == "glb" and any(name in out.names for name in (*pf.NORMAL, "confidence")):
            lost.append("normals and confidence")
        return out, tuple(lost)
    degree = pf.sh_degree(names)
    most = HIGHEST_DEGREE.get(kind, 4) if options.degree is None else min(options.degree, HIGHEST_DEGREE.get(kind, 4))
    out = rows
    if degree is not None and degree > most:
        out = with_degree(rows, most)
        lost.append(f"spherical harmonics of degree {most + 1} to {degree}" if degree > most + 1 else
                    f"spherical harmonics of degree {degree}")  # fmt: skip
    if kind not in ("ply", "csv"):
        known = {*pf.GAUSSIAN_FIELDS, *pf.NORMAL, *pf.rest_names(pf.rest_count(names))}
        extra = [name for name in names if name not in known]
        if extra:
            lost.append(f"the field{'s' if len(extra) > 1 else ''} {', '.join(extra)}")
    return out, tuple(lost)


def with_degree(rows: Rows, degree: int) -> Rows:
    """The same Gaussians with spherical harmonics of another degree: cut, or filled with zeros. Other fields stay."""
    old, new = pf.rest_count(rows.names) // 3, pf.REST_COUNTS[degree] // 3
    if old == new:
        return rows
    place = next((i for i, n in enumerate(rows.names) if n.startswith("f_rest_")), None)
    if place is None:
        place = rows.names.index(pf.DC[-1]) + 1
    others = [name for name in rows.names if not name.startswith("f_rest_")]
    fields = [*others[:place], *pf.rest_names(3 * new), *others[place:]]
    dtype = np.dtype([(name, rows.dtype[name] if name in others else np.dtype("f4")) for name in fields])

    def change(block: np.ndarray) -> np.ndarray:
        out = np.zeros(len(block), dtype=dtype)
        for name in others:
            out[name] = block[name]
        for channel in range(3):
            for k in range(min(old, new)):
                out[f"f_rest_{channel * new + k}"] = block[f"f_rest_{channel * old + k}"]
        return out

    return rows.mapped(dtype, change)


def as_points(rows: Rows) -> Rows:
    """Places, normals that are not all fields of a Gaussian, colours as bytes, and the confidence."""
    names, gaussians = rows.names, pf.is_gaussian(rows.names)
    coloured = pf.colour_names(names) is not None or all(name in names for name in pf.DC)
    normals = not gaussians and all(name in names for name in pf.NORMAL)
    confidence = pf.confidence_name(names)
    fields = [(axis, rows.dtype[axis].str[1:]) for axis in pf.POSITION]
    fields += [(name, "f4") for name in pf.NORMAL] if normals else []
    fields += [(name, "u1") for name in pf.COLOURS[0]] if coloured else []
    fields += [("confidence", "f4")] if confidence else []
    dtype = np.dtype(fields)

    def change(block: np.ndarray) -> np.ndarray:
        out = np.zeros(len(block), dtype=dtype)
        for name in (*pf.POSITION, *(pf.NORMAL if normals else ())):
            out[name] = block[name]
        rgb = pf.colours(block) if coloured else None
        if rgb is not None:
            levels = np.round(np.clip(np.nan_to_num(rgb), 0, 1) * 255)
            for at, name in enumerate(pf.COLOURS[0]):
                out[name] = levels[:, at]
        if confidence:
            out["confidence"] = block[confidence]
        return out

    return rows.mapped(dtype, change)


def _without_undrawable(rows: Rows, kind: Format, form: Form) -> tuple[Rows, int]:
    """Without the rows that cannot be quantised; PLY and CSV hold any number."""
    if kind in ("ply", "csv"):
        return rows, 0
    if form == "gaussians":
        keep = np.concatenate([np.empty(0, bool), *(pf.drawable(block) for block in rows.blocks())])
    else:
        keep = np.all(np.isfinite(rows.column(pf.POSITION)), axis=-1)
    return (rows, 0) if keep.all() else (rows.selected(keep), int((~keep).sum()))


# ------------------------------------------------------------------------------------------ each format


def _counted(rows: Rows) -> Iterator[np.ndarray]:
    done = 0
    for block in rows.blocks():
        done += len(block)
        yield block
    if done != rows.count:
        raise InputError(f"{rows.path} gave {done:,} rows, {rows.count:,} a moment before; is it being written?")


def _write_ply(path: Path, rows: Rows, options: WriteOptions) -> None:
    stored = rows.dtype.newbyteorder("<")
    with path.open("wb") as stream:
        stream.write(ply_header.header_text(stored, rows.count, comments=_ascii(rows.comments)).encode("ascii"))
        for block in _counted(rows):
            stream.write(np.ascontiguousarray(block.astype(stored, copy=False)).data)


def _ascii(comments: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text.encode("ascii", "replace").decode("ascii") for text in comments)


def _write_csv(path: Path, rows: Rows, options: WriteOptions) -> None:
    """As many digits as bring the same numbers back: 9 for float32, 17 for float64."""
    forms = [{"f4": "%.9g", "f8": "%.17g"}.get(rows.dtype[name].str[1:], "%d") for name in rows.names]
    line = ",".join(forms)
    with path.open("w", encoding="ascii", newline="\n") as stream:
        stream.write(",".join(rows.names) + "\n")
        for block in _counted(rows):
            stream.writelines(line % row + "\n" for row in block.tolist())


def _write_splat(path: Path, rows: Rows, options: WriteOptions) -> None:
    with path.open("wb") as stream:
        for block in _counted(rows):
            stream.write(splat_file.encode(block).data)


def _write_glb(path: Path, rows: Rows, options: WriteOptions) -> None:
    splat_glb.write(path, replace(rows, read=lambda n: _counted(rows)))


def _write_spz(path: Path, rows: Rows, options: WriteOptions) -> None:
    degree = pf.sh_degree(rows.names) or 0
    furthest = max((float(np.abs(pf.columns(block, pf.POSITION)).max()) for block in rows.blocks()), default=0.0)
    head = spz.Head(spz.VERSION, rows.count, degree, spz.fraction_bits(furthest))
    parts = {name: np.empty((rows.count, size), np.uint8) for name, size in head.sections()}
    at = 0
    for block in _counted(rows):
        for name, values in spz.encode(block, degree, head.fraction_bits, turn=options.turn_spz).items():
            parts[name][at : at + len(block)] = values
        at += len(block)
    with path.open("wb") as stream:
        spz.write(stream, head, parts)


def _write_compressed(path: Path, rows: Rows, options: WriteOptions) -> np.ndarray | None:
    rest = pf.rest_names(pf.rest_count(rows.names))
    core, sh = np.empty((rows.count, 14), np.float32), np.empty((rows.count, len(rest)), np.uint8)
    at = 0
    for block in _counted(rows):
        part = slice(at, at + len(block))
        core[part, :3], core[part, 3:6] = pf.columns(block, pf.POSITION), pf.colours(block)
        core[part, 6], core[part, 7:10] = pf.opacities(block), pf.columns(block, pf.SCALE)
        core[part, 10:] = pf.unit_quats(block)
        sh[part] = compressed_ply.encode_sh(pf.columns(block, rest))
        at += len(block)
    order = None if options.keep_order else compressed_ply.morton_order(core[:, :3])
    step = compressed_ply.CHUNK * 256
    pieces = [_pick(core, order, at, step) for at in range(0, rows.count, step)]
    encoded = [compressed_ply.encode(piece) for piece in pieces]
    del core, pieces
    lines = ["ply", "format binary_little_endian 1.0", "comment dyn4d"]
    lines += ply_header.element_lines("chunk", compressed_ply.CHUNK_DTYPE, sum(len(chunks) for chunks, _ in encoded))
    lines += ply_header.element_lines("vertex", compressed_ply.VERTEX_DTYPE, rows.count)
    if rest:
        lines += ply_header.element_lines("sh", np.dtype([(name, "u1") for name in rest]), rows.count)
    with path.open("wb") as stream:
        stream.write("\n".join([*lines, "end_header", ""]).encode("ascii"))
        for chunks, _ in encoded:
            stream.write(chunks.data)
        for _, packed in encoded:
            stream.write(packed.data)
        for at in range(0, rows.count if rest else 0, step):
            stream.write(_pick(sh, order, at, step).data)
    return order


def _pick(table: np.ndarray, order: np.ndarray | None, at: int, step: int) -> np.ndarray:
    return np.ascontiguousarray(table[at : at + step] if order is None else table[order[at : at + step]])
