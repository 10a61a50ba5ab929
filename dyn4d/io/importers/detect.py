"""Which format a source has: by what lies there, or as the user says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from dyn4d.core.errors import InputError
from dyn4d.io.images import IMAGE_SUFFIXES
from dyn4d.io.importers.options import ImportOptions
from dyn4d.io.importers.sequence import Sequence4D
from dyn4d.io.video import VIDEO_SUFFIXES


@dataclass(frozen=True)
class Format:
    """A format. `reader`: module and function. `wants`: what is looked for, in words. `fits`: is it there? `timed`: the
    source has times."""

    reader: tuple[str, str]
    wants: str
    fits: Callable[[Path], bool]
    timed: bool = False

    def read(self, source: Path, options: ImportOptions) -> Sequence4D:
        module, name = self.reader
        return getattr(import_module(f"dyn4d.io.importers.{module}"), name)(source, options)


def _has(*names: str) -> Callable[[Path], bool]:
    return lambda source: source.is_dir() and all((source / name).exists() for name in names)


def _is_blender(source: Path) -> bool:
    if source.is_file():
        return source.name.startswith("transforms_train") and source.suffix == ".json"
    return (source / "transforms_train.json").is_file()


def _is_transforms(source: Path) -> bool:
    return (source / "transforms.json").is_file() or (source.is_file() and source.suffix.lower() == ".json")


def _is_record3d(source: Path) -> bool:
    if source.is_file():
        return source.suffix.lower() == ".r3d"
    return (source / "rgbd").is_dir() and any((source / name).is_file() for name in ("metadata", "metadata.json"))


def _is_davis(source: Path) -> bool:
    return source.is_dir() and ((source / "JPEGImages").is_dir() or "JPEGImages" in source.absolute().parts)


def _is_colmap(source: Path) -> bool:
    from dyn4d.io.importers.colmap import find_models

    return source.is_dir() and bool(find_models(source))


def _listed(source: Path, suffixes: frozenset[str]) -> list[Path]:
    return [p for p in source.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".")]


def _is_video(source: Path) -> bool:
    if source.is_file():
        return source.suffix.lower() in VIDEO_SUFFIXES
    return len(_listed(source, VIDEO_SUFFIXES)) == 1 and not _listed(source, IMAGE_SUFFIXES)


def _is_pictures(source: Path) -> bool:
    places = [source, source / "images", source / "rgb", source / "frames"]
    return source.is_dir() and any(p.is_dir() and bool(_listed(p, IMAGE_SUFFIXES)) for p in places)


# In the order in which they are tried: what is more particular comes first.
FORMATS: dict[str, Format] = {
    "nerfies": Format(("nerfies", "read_nerfies"), "dataset.json and camera/", _has("dataset.json", "camera")),
    "blender": Format(("transforms", "read_blender"), "transforms_train.json", _is_blender),
    "nerfstudio": Format(("transforms", "read_nerfstudio"), "transforms.json", _is_transforms),
    "record3d": Format(("record3d", "read_record3d"), "a .r3d file, or metadata and rgbd/", _is_record3d, True),
    "realsense": Format(
        ("realsense", "read_realsense"), "a .bag file", lambda p: p.is_file() and p.suffix.lower() == ".bag", True
    ),
    "tum": Format(("tum", "read_tum"), "rgb.txt", _has("rgb.txt"), True),
    "davis": Format(("davis", "read_davis"), "JPEGImages/", _is_davis),
    "colmap": Format(("colmap", "read_colmap"), "cameras.bin or .txt, here or in sparse/0", _is_colmap),
    "video": Format(("video", "read_video"), "a video file", _is_video, True),
    "images": Format(("video", "read_images"), "a folder of pictures", _is_pictures),
}


def find_format(source: Path, name: str = "auto") -> str:
    """The name of the source's format.

    Raises:
        InputError: the source is missing, is a clip already, or fits no format; lists what was looked for.
    """
    if not source.exists():
        raise InputError(f"{source} is not there")
    if name != "auto":
        if not FORMATS[name].fits(source):
            raise InputError(f"{source} does not fit --format {name}: wanted {FORMATS[name].wants}")
        return name
    found = next((key for key, kind in FORMATS.items() if kind.fits(source)), None)
    own = [part for part in ("cameras.json", "rgb") if (source / part).exists()]
    if found in (None, "images", "video") and source.is_dir() and own:
        raise InputError(f"{source} is a clip already (it has {own[0]}): dyn4d check {source}")
    if found is None and source.is_dir() and not any(source.iterdir()):
        raise InputError(f"{source} is empty")
    if found is None:
        wanted = "; ".join(f"{key}: {kind.wants}" for key, kind in FORMATS.items())
        raise InputError(f"{source} is of no format that is known; looked for {wanted}")
    return found


def read_source(source: str | Path, options: ImportOptions | None = None, *, format: str = "auto") -> Sequence4D:
    """Describe a source; its pictures are read later.

    Args:
        source: file or folder. format: a key of `FORMATS`, or "auto".

    Raises:
        InputError: what is wrong with it, where, and how to mend it.
    """
    options = options or ImportOptions()
    source = Path(source).expanduser()
    sequence = FORMATS[find_format(source, format)].read(source, options)
    if options.masks is not None:
        from dyn4d.io.importers.video import with_masks

        sequence = with_masks(sequence, Path(options.masks).expanduser())
    lacks = bool(sequence.frames) and sequence.frames[0].lens is None
    if options.intrinsics and lacks:
        sequence = _with_intrinsics(sequence, options)
    return sequence


def _with_intrinsics(sequence: Sequence4D, options: ImportOptions) -> Sequence4D:
    from dyn4d.io.importers.tum import given_lens

    height, width = sequence.frames[0].rgb.read().shape[:2]
    lens = given_lens(options, (width, height))
    return replace(sequence, frames=tuple(replace(frame, lens=lens) for frame in sequence.frames))


def is_timed(format: str) -> bool:
    """Does a source of this format hold times of its own?"""
    return FORMATS[format].timed
