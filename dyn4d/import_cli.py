"""What `dyn4d import` does: a recording or data set in another format becomes a clip folder.

Free of torch until it is called; returns the text to print.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from dyn4d.core.errors import InputError
from dyn4d.core.listing import counted

if TYPE_CHECKING:
    from dyn4d.cli_args import ImportArgs
    from dyn4d.core.protocols import Progress
    from dyn4d.io.importers.writer import WrittenClip


def import_source(args: ImportArgs, progress: Progress) -> str:
    """Write the clip folder; lines for the terminal.

    Raises:
        InputError: the source, or an option, cannot be used; nothing was written.
    """
    source, out = Path(args.source).expanduser(), Path(args.out).expanduser()
    from dyn4d.io.importers.detect import find_format, is_timed, read_source
    from dyn4d.io.importers.maker import WriteRules
    from dyn4d.io.importers.options import ImportOptions
    from dyn4d.io.importers.writer import write_clip

    options = ImportOptions(
        fps=args.fps, sequence=args.sequence, images=args.images, masks=args.masks, object_id=args.object_id,
        image_scale=args.image_scale, intrinsics=args.intrinsics or (), pixel_centre=args.pixel_centre,
        depth_div=args.depth_div, min_confidence=args.min_confidence,
    )  # fmt: skip
    name = find_format(source, args.format)
    rules = WriteRules(args.frames, args.max_size, args.fps if is_timed(name) else None, args.background, args.static)
    _refuse_to_replace(source, out, args.overwrite)
    written = write_clip(read_source(source, options, format=name), out, rules, progress=progress)
    return "\n".join(_lines(written, name))


def _refuse_to_replace(source: Path, out: Path, overwrite: bool) -> None:
    """Only a folder that an import made, or an empty one, is ever replaced, and never one that holds the source."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if not (out.exists() or out.is_symlink()):
        return
    if source.resolve().is_relative_to(out.resolve()):
        raise InputError(f"--out {out} holds the source; choose another folder")
    from dyn4d.io.atomic import read_json

    file = out / "cameras.json"
    if not (file.is_file() and "imported_from" in read_json(file)):
        raise InputError(f"--out {out} is there and was not made by dyn4d import; choose another folder")
    if not overwrite:
        raise InputError(f"--out {out} is there already; choose another folder, or replace it with --overwrite")


def _lines(clip: WrittenClip, name: str) -> list[str]:
    parts = [f"{counted(clip.frames, 'frame')}, {clip.width} x {clip.height}"]
    parts.append("masks" if clip.masks else "no masks")
    parts.append("depth" if clip.depth else "no depth")
    if clip.static:
        parts.append("static camera" if clip.intrinsics else "static camera, no intrinsics")
    elif clip.intrinsics:
        parts.append(f"poses of {clip.poses}" if clip.poses else "intrinsics, no poses")
    else:
        parts.append("no cameras")
    truth = clip.folder / "truth"
    views = [f"  {counted(clip.views, 'held-out view')} in {truth}: dyn4d eval RUN --truth {shlex.quote(str(truth))}"]
    notes = [f"  {note}" for note in clip.notes]
    return [f"{clip.folder}  ({name}: {', '.join(parts)})", *notes, *(views if clip.views else []), *_next(clip)]


def _next(clip: WrittenClip) -> list[str]:
    """What to do now."""
    folder = shlex.quote(str(clip.folder))
    if not clip.masks:
        return [f"next: dyn4d mask {folder} --box X0 Y0 X1 Y1   (there are no masks yet)"]
    if clip.depth:
        return [f"next: dyn4d check {folder}, then dyn4d run {folder}"]
    return [
        f"next: dyn4d check {folder}, then dyn4d run {folder}   (there is no depth: a small network guesses "
        "it; better with --geometry.weights FILE, or maps of another estimator; docs/geometry.md)"
    ]
