"""What `dyn4d import` does: a recording or data set in another format becomes a clip folder.

Free of torch until it is called; returns the text to print.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from dyn4d.core.errors import InputError

if TYPE_CHECKING:
    from dyn4d.core.protocols import Progress
    from dyn4d.io.importers.writer import WrittenClip

FormatName = Literal[
    "auto", "blender", "nerfstudio", "colmap", "nerfies", "record3d", "realsense", "tum", "davis", "video", "images"
]


@dataclass(frozen=True)
class ImportArgs:
    """Make a clip folder of a recording or data set: D-NeRF and Blender, nerfstudio, COLMAP, Nerfies and DyCheck,
    Record3D, RealSense, TUM RGB-D, DAVIS, a video, a folder of pictures."""

    PLACES: ClassVar[dict[str, str]] = {"source": "SOURCE"}
    quiet: bool = False
    """Say nothing but warnings and errors."""
    debug: bool = False
    """Show where an error comes from."""
    source: str = ""
    """The file or folder."""
    out: str = ""
    """The clip folder to write."""
    format: FormatName = "auto"
    """What SOURCE is. auto: by what lies there."""
    frames: str | None = None
    """Only these frames: start:stop:step."""
    max_size: int | None = None
    """Longest side in pixels; larger frames are made smaller."""
    fps: float | None = None
    """Sources without times: their frames a second (default 24). Videos and recordings: how many frames a second to
    take at most."""
    sequence: str | None = None
    """davis: the sequence's name."""
    object_id: tuple[int, ...] = ()
    """davis: labels of the object. Default: everything that is labelled."""
    masks: str | None = None
    """Folder or video of masks, white on the object, one a frame of SOURCE."""
    images: str | None = None
    """colmap: folder of the pictures."""
    image_scale: int | None = None
    """nerfies: 2 reads rgb/2x. Default: the largest pictures."""
    background: Literal["white", "black", "grey"] = "white"
    """Behind pictures whose alpha channel is the mask."""
    intrinsics: tuple[float, ...] = ()
    """FX FY CX CY in pixels of SOURCE's pictures, where it does not hold them."""
    pixel_centre: Literal["integer", "half-integer"] = "integer"
    """What CX CY count from: the centre of the top-left pixel (as OpenCV) or its corner (as COLMAP)."""
    depth_div: float | None = None
    """tum, nerfstudio: units of depth in one world unit. Default: 5000, 1000."""
    min_confidence: Literal[0, 1, 2] = 1
    """record3d: depth rated lower (0 low, 1 medium, 2 high) is left out."""
    static: bool = False
    """The camera stands still: all poses are the identity."""
    overwrite: bool = False
    """Replace a clip that was imported to the same place."""


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
        image_scale=args.image_scale, intrinsics=args.intrinsics, pixel_centre=args.pixel_centre,
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
    parts = [f"{clip.frames} frames, {clip.width} x {clip.height}"]
    parts.append("masks" if clip.masks else "no masks")
    parts.append("depth" if clip.depth else "no depth")
    if clip.intrinsics:
        parts.append(f"poses of {clip.poses}" if clip.poses else "intrinsics, no poses")
    else:
        parts.append("no cameras")
    views = [
        f"  {clip.views} held-out views in {clip.folder / 'truth'}: dyn4d eval RUN --truth {clip.folder / 'truth'}"
    ]
    notes = [f"  {note}" for note in clip.notes]
    return [f"{clip.folder}  ({name}: {', '.join(parts)})", *notes, *(views if clip.views else []), *_next(clip)]


def _next(clip: WrittenClip) -> list[str]:
    """What to do now."""
    out = []
    if not clip.depth:
        out.append("  no depth: dyn4d run needs --geometry.weights, or maps of another estimator (docs/geometry.md)")
    if not clip.masks:
        out.append(f"next: dyn4d mask {clip.folder} --box X0 Y0 X1 Y1 --out {clip.folder}   (there are no masks yet)")
    else:
        out.append(f"next: dyn4d check {clip.folder}, then dyn4d run {clip.folder}")
    return out
