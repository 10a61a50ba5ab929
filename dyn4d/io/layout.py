"""Which files make a clip: finding frames, masks and depth maps, and putting them in step with one another."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dyn4d.core.errors import InputError
from dyn4d.io.cameras_json import CameraFile, FrameEntry
from dyn4d.io.images import DEPTH_SUFFIXES, IMAGE_SUFFIXES, has_alpha, read_rgba
from dyn4d.io.video import VIDEO_SUFFIXES, VideoReader

_MASK_FOLDERS = ("mask", "masks")


class NoMasksError(InputError):
    """Nothing says where the object is, and nobody said that the whole frame is."""


@dataclass(frozen=True)
class Frames:
    """The colour frames of a clip, all of them.

    Attributes:
        root: the folder that `cameras.json`, `mask/` and `depth/` are looked for in.
        names: F stems. entries: F entries of `cameras.json`, or none.
        paths: F image files, or None where `video` has the frames.
        flat: the images lie in `root` itself.
    """

    root: Path
    names: tuple[str, ...]
    entries: tuple[FrameEntry, ...]
    paths: tuple[Path, ...] | None = None
    video: VideoReader | None = None
    flat: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def label(self, index: int) -> str:
        return str(self.paths[index]) if self.paths is not None else f"{self.video and self.video.path}, frame {index}"


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorts frame_2 before frame_10."""
    parts = re.split(r"(\d+)", path.name)
    return [(1, int(part), part) if part.isdigit() else (0, 0, part) for part in parts]


def list_files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """The visible files of a folder with these suffixes, in natural order. Raises `InputError` where one is a link that
    leads to no file."""
    allowed = set(suffixes)
    try:
        found = [p for p in folder.iterdir() if p.suffix.lower() in allowed and not p.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be listed: {error.strerror or error}") from error
    for path in sorted(found, key=natural_key):
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path} is a link to {path.readlink()}, which leads nowhere; mend or remove it")
    return sorted((p for p in found if p.is_file()), key=natural_key)


def composed(name: str) -> str:
    """One spelling of names with accents: macOS and others store the same name in different letters."""
    return unicodedata.normalize("NFC", name)


def by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by (`composed`) stem. Raises `InputError` where two differ only in their suffix."""
    stems: dict[str, Path] = {}
    for path in paths:
        stem = composed(path.stem)
        if stem in stems:
            raise InputError(f"{path} and {stems[stem].name} have the same name; remove one of them")
        stems[stem] = path
    return stems


def find_frames(path: Path, camera_file: CameraFile | None) -> Frames:
    """The frames of a clip folder, a folder of images or a video. Raises `InputError` where `path` is none of these."""
    if not path.exists():
        raise InputError(f"{path} is not there; give a clip folder, a video file or a folder of images")
    if path.is_file():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise InputError(f"{path} is a single picture; give the folder of all pictures of the moving object")
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise InputError(f"{path} is no video; give a clip folder, a folder of images or one of: "
                             f"{' '.join(sorted(VIDEO_SUFFIXES))}")  # fmt: skip
        return _video_frames(path.parent, path, camera_file)
    folder = path / "rgb"
    if folder.is_dir():
        images, videos = list_files(folder, IMAGE_SUFFIXES), list_files(folder, VIDEO_SUFFIXES)
        if not images and not videos:
            raise InputError(f"{folder} holds no images (png, jpg) and no video; put the frames there")
    else:
        images, videos = list_files(path, IMAGE_SUFFIXES), list_files(path, VIDEO_SUFFIXES)
        videos = [v for v in videos if not v.stem.lower().startswith(("mask", "depth", "preview"))]
        videos = [v for v in videos if v.stem == "rgb"] or videos
        if len(images) > 1:
            images = [image for image in images if image.stem.lower() != "preview"]
        if not images and not videos:
            raise InputError(f"{path} is no clip: it holds no rgb/ folder, no images and no video")
    flat = not folder.is_dir()
    # One picture beside a video is its preview; beside more pictures the video is.
    if images and not (flat and videos and (len(images) == 1 or videos[0].stem == "rgb")):
        if flat:
            _refuse_mixed(path, images)
        return _image_frames(path, images, camera_file, flat=flat)
    if len(videos) > 1:
        raise InputError(f"{videos[0].parent} holds {len(videos)} videos; keep one, or give the video's own path")
    return _video_frames(path, videos[0], camera_file)


def _refuse_mixed(folder: Path, images: Sequence[Path]) -> None:
    strange = [p for p in images if re.search(r"(^|[_\-.])(mask|depth|flow|normal)s?$", p.stem.lower())]
    if strange:
        raise InputError(
            f"{folder} is no clip: pictures and {strange[0].name} lie side by side; put frames into rgb/, masks into "
            "mask/ and depth into depth/, with the same names"
        )


def _video_frames(root: Path, video_path: Path, camera_file: CameraFile | None) -> Frames:
    video = VideoReader(video_path)
    names = tuple(f"{i:06d}" for i in range(len(video)))
    entries = camera_file.frames if camera_file else ()
    _same_count(entries, len(names), camera_file, str(video_path))
    return Frames(root, names, entries, video=video)


def _same_count(entries: Sequence[FrameEntry], count: int, camera_file: CameraFile | None, what: str) -> None:
    if entries and camera_file and len(entries) != count:
        raise InputError(f"{camera_file.source} lists {len(entries)} frames, {what} has {count}; make them the same")


def _image_frames(root: Path, images: list[Path], camera_file: CameraFile | None, *, flat: bool) -> Frames:
    stems = by_stem(images)
    entries = camera_file.frames if camera_file else ()
    folder = images[0].parent
    if camera_file and entries and all(entry.rgb for entry in entries):
        ordered = []
        for entry in entries:
            name = composed(Path(str(entry.rgb)).stem)
            if name not in stems:
                raise InputError(
                    f"{camera_file.source} lists {entry.rgb}, which is not in {folder} ({len(images)} images, "
                    f"{len(entries)} frames listed); add the picture or take the frame out of the list"
                )
            ordered.append(stems[name])
        if len(set(ordered)) != len(ordered):
            raise InputError(f"{camera_file.source} lists a picture twice; every frame needs its own")
        unlisted = [p.name for p in images if p not in set(ordered)]
        if unlisted:
            raise InputError(
                f"{folder} has {len(images)} images, {camera_file.source} lists {len(entries)} frames: "
                f"{unlisted[0]} is not listed; list it or take it away"
            )
        images = ordered
    else:
        _same_count(entries, len(images), camera_file, str(folder))
    return Frames(root, tuple(p.stem for p in images), entries, paths=tuple(images), flat=flat)


def match_files(frames: Frames, folder: Path, suffixes: Iterable[str], what: str) -> tuple[Path, ...]:
    """One file of `folder` for each frame, by stem; for a video's frames by order where the names do not say.

    Raises:
        InputError: counts that differ, a frame without a file or a file without a frame; names both.
    """
    files = list_files(folder, suffixes)
    if not files:
        raise InputError(f"{folder} holds no {what}s; fill it, name another folder or take it away")
    arrays = {p.stem for p in files if p.suffix.lower() == ".npy"}
    files = [p for p in files if p.suffix.lower() == ".npy" or p.stem not in arrays]  # a picture of an array: preview
    stems = by_stem(files)
    names = [composed(name) for name in frames.names]
    if frames.video is not None and len(files) == len(frames) and any(n not in stems for n in names):
        return tuple(files)
    missing = [name for name in names if name not in stems]
    counts = f"{folder} has {len(files)} files, the clip {len(frames)} frames"
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"{counts}: no {what} for frame {missing[0]}{more}; files need the names of the frames")
    known = set(names)
    extra = [p.name for p in files if composed(p.stem) not in known]
    if extra:
        raise InputError(f"{counts}: {extra[0]} belongs to no frame; add the frame or take the file away")
    return tuple(stems[name] for name in names)


def _listed(frames: Frames, key: str, what: str) -> tuple[Path | None, ...] | None:
    """The files that `cameras.json` names under `key`; None where it names none, or those are elsewhere."""
    named = [getattr(entry, key) for entry in frames.entries]
    if not any(named):
        return None
    paths = tuple(frames.root / name if name else None for name in named)
    for name, path in zip(frames.names, paths):
        if path is not None and not path.is_file():
            raise InputError(f"{path} is not there, but cameras.json names it as the {what} of frame {name}; "
                             "add it or take the key away")  # fmt: skip
    return paths


def find_masks(frames: Frames, mask: str) -> tuple[Path, ...] | VideoReader | str:
    """Where the masks are: one file a frame, a video, "alpha", or "none" (the whole frame).

    Args:
        frames: the clip's frames.
        mask: "auto", "none", "alpha", or the path of a folder or video (also relative to the clip).

    Raises:
        InputError: there are none, or they do not fit the frames; says what to do.
    """
    if mask == "none":
        return "none"
    if mask == "alpha":
        return _alpha(frames, asked=True)
    if mask != "auto":
        place = next((p for p in (Path(mask), frames.root / mask) if p.exists()), None)
        if place is None:
            raise InputError(f"--mask {mask} is not there; give a folder or video of masks, auto, alpha or none")
        return _masks_at(frames, place)
    listed = _listed(frames, "mask", "mask")
    if listed is not None:
        without = next((n for n, p in zip(frames.names, listed) if p is None), None)
        if without is not None:
            raise InputError(f"cameras.json names masks, but none for frame {without}; name one for every frame")
        return tuple(p for p in listed if p is not None)
    for place in _mask_places(frames):
        if place.exists():
            return _masks_at(frames, place)
    return _alpha(frames, asked=False)


def _mask_places(frames: Frames) -> list[Path]:
    root = frames.root
    places = [root / name for name in _MASK_FOLDERS]
    places += [root / f"mask{suffix}" for suffix in sorted(VIDEO_SUFFIXES)]
    stem = frames.video.path.stem if frames.video is not None else root.name
    beside = frames.video.path.parent if frames.video is not None else root.parent
    if frames.flat or frames.video is not None:
        places = [beside / f"{stem}_{name}" for name in _MASK_FOLDERS] + [
            beside / f"{stem}_mask{suffix}" for suffix in sorted(VIDEO_SUFFIXES)
        ] + places  # fmt: skip
    if frames.flat:
        places += [root.parent / name for name in _MASK_FOLDERS]
    return places


def _masks_at(frames: Frames, place: Path) -> tuple[Path, ...] | VideoReader:
    if place.is_dir():
        videos = list_files(place, VIDEO_SUFFIXES)
        if len(videos) != 1 or list_files(place, IMAGE_SUFFIXES):
            return match_files(frames, place, IMAGE_SUFFIXES, "mask")
        place = videos[0]
    if place.suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(f"{place} is neither a folder nor a video of masks")
    video = VideoReader(place)
    if len(video) != len(frames):
        raise InputError(f"{place} has {len(video)} frames, the clip {len(frames)}; masks are needed for every frame")
    return video


def _alpha(frames: Frames, *, asked: bool) -> str:
    if frames.paths is not None:
        opaque = [p for p in frames.paths if not has_alpha(p)]
        if opaque and len(opaque) < len(frames):
            raise InputError(f"{opaque[0]} has no alpha channel, other frames have; give all of them one, or mask/")
        if not opaque and any((read_rgba(p)[..., 3] < 255).any() for p in frames.paths):
            return "alpha"
    where = frames.video.path if frames.video is not None else frames.root
    if asked:
        raise InputError(f"{where}: --mask alpha, but the frames have no alpha channel that masks anything")
    named = shlex.quote(str(where))
    if frames.video is None and (where / "rgb").is_dir():
        how = f"put PNGs with the frames' names into mask/, make them with dyn4d mask {named} --box X0 Y0 X1 Y1"
    else:
        how = f"make it a clip with dyn4d import {named} --out CLIP, and masks with dyn4d mask CLIP --box X0 Y0 X1 Y1"
    raise NoMasksError(
        f"{where} has no masks; {how}, name a folder or video with --mask, or take the whole frame with --mask none"
    )


def find_depth(frames: Frames) -> tuple[Path | None, ...] | None:
    """One depth file a frame (None where `cameras.json` says null), or None where the clip has no depth.

    Raises:
        InputError: a file is missing, or counts differ.
    """
    listed = _listed(frames, "depth", "depth")
    if listed is not None:
        without = next(
            (n for n, p, e in zip(frames.names, listed, frames.entries) if p is None and not e.no_depth), None
        )
        if without is not None:
            raise InputError(f"cameras.json names depth, but none for frame {without}; name it, or say null")
        return listed
    folder = frames.root / "depth"
    return match_files(frames, folder, DEPTH_SUFFIXES, "depth map") if folder.is_dir() else None
