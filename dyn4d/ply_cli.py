"""What `dyn4d ply info|compare|convert|preview|crop|merge` do. Free of torch until something is drawn.

Each action is a function of its arguments (`dyn4d.ply_args`) that returns what to print and the exit code.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyn4d.core.errors import InputError
from dyn4d.ply_args import CompareArgs, ConvertArgs, CropArgs, InfoArgs, MergeArgs, PlyArgs, PreviewArgs

if TYPE_CHECKING:
    from dyn4d.core.protocols import Progress
    from dyn4d.export.ply_preview import Drawable, PreviewOptions
    from dyn4d.io.row_writers import Written

Answer = tuple[str, int]
VIDEOS = (".gif", ".mp4")
SECONDS = 3.0  # of a turntable


# --------------------------------------------------------------------------------------------- actions


def _json(value: Any) -> str:
    from dyn4d.io.atomic import json_text

    return json_text(value)


def info(args: InfoArgs, progress: Progress) -> Answer:
    from dyn4d.io.ply_info import ply_info

    found = ply_info(args.file, turn_spz=args.turn_spz)
    return (_json(found.as_dict()) if args.json else found.format()), 0


def compare(args: CompareArgs, progress: Progress) -> Answer:
    from dyn4d.io.ply_compare import compare_files

    found = compare_files(args.a, args.b, by=args.by, tolerance=args.tolerance, reach=args.reach,
                          turn_spz=args.turn_spz)  # fmt: skip
    return (_json(found.as_dict()) if args.json else found.format()), 0 if found.same else 1


def convert(args: ConvertArgs, progress: Progress) -> Answer:
    from dyn4d.io.ply_convert import convert_file
    from dyn4d.io.row_writers import WriteOptions, format_of

    format_of(args.out)
    if args.sh_degree is not None and not 0 <= args.sh_degree <= 4:
        raise InputError(f"--sh-degree {args.sh_degree}: wanted 0 to 4")
    out = _free(args.out, args.overwrite)
    options = WriteOptions(None if args.as_ == "auto" else args.as_, args.sh_degree, args.keep_order, args.turn_spz)
    done = convert_file(args.file, out, options)
    return (_json(done.as_dict()) if args.json else done.format()), 0


def crop(args: CropArgs, progress: Progress) -> Answer:
    from dyn4d.io import text_figures as tf
    from dyn4d.io.ply_select import select
    from dyn4d.io.row_writers import WriteOptions, format_of, write_rows
    from dyn4d.io.rows import open_rows

    args.require_something()
    format_of(args.out)
    out = _free(args.out, args.overwrite)
    rows = open_rows(args.file, turn_spz=args.turn_spz)
    found = select(rows, args)
    if rows.count and not found.keep.any():
        why = ", ".join(f"{count:,} {label}" for label, count in found.dropped if count)
        raise InputError(f"{rows.path}: nothing would be kept of {tf.rows(rows.count)} ({why}); ask for less")
    written = write_rows(out, rows.selected(found.keep), WriteOptions(turn_spz=args.turn_spz))
    if args.json:
        return _json({"source": rows.path, "path": out, "before": rows.count, "kept": written.count,
                      "dropped": dict(found.dropped), "inverted": args.invert,
                      "left_out": written.left_out}), 0  # fmt: skip
    lines = [("kept", f"{written.count:,} of {tf.rows(rows.count)} ({tf.share(written.count, rows.count)})")]
    lines += [("kept" if args.invert else "dropped", f"{count:,} {label}") for label, count in found.dropped]
    return "\n".join(tf.labelled([*lines, *_written_lines(written)])), 0


def merge(args: MergeArgs, progress: Progress) -> Answer:
    from dyn4d.io import text_figures as tf
    from dyn4d.io.ply_select import merge as merged
    from dyn4d.io.row_writers import WriteOptions, format_of, write_rows
    from dyn4d.io.rows import open_rows

    if len(args.files) < 3:
        raise InputError("dyn4d ply merge: wanted two files or more, and then the file to write")
    *files, target = args.files
    format_of(target)
    out = _free(target, args.overwrite)
    sources = [open_rows(file, turn_spz=args.turn_spz) for file in files]
    rows, notes = merged(sources)
    written = write_rows(out, rows, WriteOptions(turn_spz=args.turn_spz))
    if args.json:
        return _json({"sources": [{"path": r.path, "count": r.count} for r in sources], "path": out,
                      "count": written.count, "notes": notes, "left_out": written.left_out}), 0  # fmt: skip
    lines = [("merged", f"{r.path} ({tf.rows(r.count)})") for r in sources]
    lines += [("note", note) for note in notes]
    return "\n".join(tf.labelled([*lines, *_written_lines(written)])), 0


def _written_lines(written: Written) -> list[tuple[str, str]]:
    from dyn4d.io import text_figures as tf

    lines = [("lost", what) for what in written.lost]
    if written.left_out:
        lines.append(("left out", f"{tf.rows(written.left_out)} with NaN or Inf, which the format cannot hold"))
    return [*lines, ("file", f"{written.path} ({tf.rows(written.count)}, {tf.size(written.bytes)})")]


def _free(text: str, overwrite: bool) -> Path:
    """The path to write to. Raises `InputError` where something is there that may not be replaced."""
    path = Path(text).expanduser()
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file")
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already; choose another name, or give --overwrite")
    return path


# --------------------------------------------------------------------------------------------- preview


def preview(args: PreviewArgs, progress: Progress) -> Answer:
    if args.columns is not None and not 8 <= args.columns <= 1000:
        raise InputError(f"--columns {args.columns}: wanted 8 to 1000")
    from dyn4d.io.rows import open_rows

    rows = open_rows(args.file, turn_spz=args.turn_spz)
    out = _preview_file(args)
    from dyn4d.export.ply_preview import PreviewOptions, load_drawable

    up, why = _upward(Path(args.file)) if args.up == "auto" else (args.up, "as asked")
    turning = out is not None and out.suffix.lower() != ".png"
    size = args.size if args.size is not None else 480 if turning else 384
    options = PreviewOptions(size, up, _background(args.background), args.frames,
                             args.elevation)  # fmt: skip
    what = load_drawable(rows, up=up)
    lines = []
    if args.terminal:
        lines.append(_in_terminal(what, options, args.columns))
    if out is not None:
        title = _title(what, rows.path, rows.kind)
        _draw_file(out, what, options, title, progress)
        if not args.terminal:
            lines.append(f"{title}; up is {up} ({why})")
        lines.append(f"  {out}")
    if what.left_out:
        lines.append(f"  {what.left_out:,} rows with NaN or Inf are not drawn")
    return "\n".join(lines), 0


def _preview_file(args: PreviewArgs) -> Path | None:
    """The file or folder to write; None where only the terminal is asked for."""
    if not args.out and args.terminal and not args.turntable:
        return None
    stem = re.sub(r"\.ply$", "", Path(args.file).name, flags=re.IGNORECASE).replace(".", "_")
    name = args.out or (f"{stem}_turntable.gif" if args.turntable else f"{stem}_preview.png")
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if suffix == ".png" and args.turntable:
        raise InputError(f"{path}: a turntable is no single picture; choose .gif, .mp4, or the name of a folder")
    if suffix and suffix not in (".png", *VIDEOS):
        raise InputError(f"{path}: wanted a name that ends in .png, .gif or .mp4, or a folder's without a dot")
    if path.is_dir():
        # what takes the place of a folder removes all that was in it: only frames of an earlier preview may go
        if suffix or not all(re.fullmatch(r"\d{4,}\.png", entry.name) for entry in path.iterdir()):
            raise InputError(f"{path} is a folder with other things in it; choose another name")
        if any(path.iterdir()) and not args.overwrite:
            raise InputError(f"{path} holds frames already; choose another name, or give --overwrite")
    if path.is_file() and not args.overwrite:
        raise InputError(f"{path} is there already; choose another name, or give --overwrite")
    return path


def _background(text: str) -> tuple[float, float, float]:
    named = {"paper": "#f4f5f7", "white": "#ffffff", "black": "#000000"}
    digits = named.get(text.lower(), text).lstrip("#")
    try:
        if len(digits) != 6:
            raise ValueError
        red, green, blue = bytes.fromhex(digits)
    except ValueError:
        raise InputError(
            f"--background {text}: wanted paper, white, black, or six hex digits such as #20242c"
        ) from None
    return red / 255, green / 255, blue / 255


def _upward(file: Path) -> tuple[Any, str]:
    """Which axis points up, and why: by the cameras of the run that a file lies in, else as OpenCV has it."""
    usual = "-y", "OpenCV's axes"
    for folder in list(file.expanduser().absolute().parents)[:4]:
        cameras = folder / "geometry" / "cameras.json"
        if cameras.is_file() and (folder / "run.json").is_file():
            from dyn4d.export.views import upward
            from dyn4d.io.cameras_json import read_cameras

            try:
                found = read_cameras(cameras).camera()
            except InputError:  # a preview is no place to complain of cameras
                return usual
            if found is None or not bool(found.registered.any()):
                return usual
            direction = upward(found[found.registered])
            at = int(direction.abs().argmax())
            return ("" if float(direction[at]) > 0 else "-") + "xyz"[at], "by the run's cameras"
    return usual


def _title(what: Drawable, path: Path, kind: str) -> str:
    name = "Gaussians" if kind == "3DGS" else "points"
    sides = " x ".join(f"{side:.3g}" for side in what.high - what.low)
    return f"{path.name}: {len(what):,} {name}, {sides} world units"


def _draw_file(out: Path, what: Drawable, options: PreviewOptions, title: str, progress: Progress) -> None:
    from dyn4d.export import preview_sheet
    from dyn4d.export.ply_preview import six_views, turntable

    suffix = out.suffix.lower()
    if suffix == ".png":
        from dyn4d.io.images import write_png

        write_png(out, preview_sheet.contact_sheet(six_views(what, options), title, options.background))
        return
    frames, fps = turntable(what, options, progress), options.frames / SECONDS
    if suffix == ".gif":
        preview_sheet.write_gif(out, frames, fps)
    elif suffix == ".mp4":
        from dyn4d.io.video import write_mp4

        write_mp4(out, frames, fps)
    else:
        preview_sheet.write_frames(out, frames)


def _in_terminal(what: Drawable, options: PreviewOptions, columns: int | None) -> str:
    from dyn4d.export.ply_preview import six_views
    from dyn4d.export.preview_sheet import half_blocks, terminal_colours

    size = shutil.get_terminal_size((80, 24))
    wide = columns or max(8, size.columns - 1)
    sides = 3 if wide >= 132 else 2 if wide >= 72 else 1
    each = (wide - 2 * (sides - 1)) // sides
    if columns is None:
        each = min(each, 2 * max(size.lines - 3, 8))  # two pixels a line
    views = six_views(what, replace(options, size=max(16, 4 * each)), sides=sides)
    return half_blocks([view for _, view in views], columns=each * sides + 2 * (sides - 1), colours=terminal_colours())


ACTIONS: dict[str, tuple[type[PlyArgs], Callable[..., Answer], str]] = {
    "info": (InfoArgs, info, "fields, bounds, opacities, scales, NaN, duplicates"),
    "compare": (CompareArgs, compare, "what was added, removed, moved or changed"),
    "convert": (ConvertArgs, convert, "another format, and what that costs"),
    "preview": (PreviewArgs, preview, "a picture from six sides, a turntable, or here in the terminal"),
    "crop": (CropArgs, crop, "some rows: by place, opacity, scale, neighbours"),
    "merge": (MergeArgs, merge, "the rows of several files in one"),
}


def usage() -> str:
    """The text of `dyn4d ply --help`."""
    lines = ["usage: dyn4d ply ACTION ... [--debug]", "",
             "Gaussians or points in PLY, compressed PLY, SPZ or .splat files.", ""]  # fmt: skip
    for name, (kind, _, text) in ACTIONS.items():
        lines.append(f"  dyn4d ply {' '.join([name, *kind.PLACES.values()]):25s}{text}")
    return "\n".join([*lines, "", "dyn4d ply ACTION --help lists the options of an action."])
