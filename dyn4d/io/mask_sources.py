"""Masks that other programs made: palette PNGs (DAVIS, SAM 2), folders and videos of masks, and RLE in JSON.

A source has one mask a frame of a clip. Frames without any object have an empty mask.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.core.listing import listed
from dyn4d.io.images import IMAGE_SUFFIXES, read_labels, read_mask, read_objects
from dyn4d.io.layout import list_files
from dyn4d.io.readers import LazyFrames
from dyn4d.io.rle import decode_rle
from dyn4d.io.video import VIDEO_SUFFIXES, VideoReader


def open_masks(path: str | Path, names: Sequence[str], size: tuple[int, int], object_id: int | None) -> LazyFrames:
    """T masks (H, W) bool from a file or folder.

    Args:
        path: a folder of PNGs with the frames' names or in their order, also with a folder for each object; a video;
            or JSON with RLE (SAM 2's and SA-V's, YouTube-VIS's, or {frame: RLE}).
        names: of the T frames. size: (width, height) of the frames. object_id: which object; None: the only one.

    Raises:
        InputError: naming the file and what does not fit.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"{path} is not there; give a folder, a video or a .json of masks")
    if path.is_dir():
        read, labels = _folder(path, names, object_id)
    elif path.suffix.lower() == ".json":
        read, labels = _json(path, names, object_id)
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        video = VideoReader(path)
        _check_count(path, len(video), names)
        read, labels = (lambda i: video[i].max(-1) > 127), [f"{path}, frame {i}" for i in range(len(names))]
    else:
        hint = "; for the mask of one frame alone, take --key-masks" if path.suffix.lower() in IMAGE_SUFFIXES else ""
        raise InputError(f"{path}: wanted a folder, a video or a .json with the masks of all frames{hint}")

    def checked(index: int) -> np.ndarray:
        mask = read(index)
        if mask.shape != size[::-1]:
            found = f"{mask.shape[1]}x{mask.shape[0]}"
            raise InputError(f"{labels[index]} is {found}, its frame {size[0]}x{size[1]}; make them the same")
        return mask

    return LazyFrames(labels, checked, cache_bytes=0)


Reader = Callable[[int], np.ndarray]


def _check_count(path: Path, found: int, names: Sequence[str]) -> None:
    if found != len(names):
        raise InputError(f"{path} has masks of {found} frames, the clip has {len(names)}; they have to be the same")


def _folder(path: Path, names: Sequence[str], object_id: int | None) -> tuple[Reader, list[str]]:
    files = list_files(path, IMAGE_SUFFIXES)
    folders = [f for f in sorted(path.iterdir()) if f.is_dir() and f.name.isdigit()]
    if not files and folders:  # a folder for each object
        ids = [int(f.name) for f in folders]
        chosen = _one_of(path, ids, object_id)
        path, object_id = folders[ids.index(chosen)], None
        files = list_files(path, IMAGE_SUFFIXES)
    stems = {file.stem: file for file in files}
    if not all(name in stems for name in names):
        if not files or len(files) != len(names):
            missing = [name for name in names if name not in stems]
            held = listed([file.name for file in files], 3) if files else "none"
            raise InputError(
                f"{path} has no mask for frame {listed(missing, 3)} of {len(names)}; it holds {held}: give masks the "
                "names of the frames"
            )
        stems = dict(zip(names, files))
    chosen_files = [stems[name] for name in names]

    def read(index: int) -> np.ndarray:
        if object_id is None:
            return read_mask(chosen_files[index])
        return read_labels(chosen_files[index]) == object_id

    if object_id is not None:
        _require_object(chosen_files, object_id)
    else:
        object_id = _only_object(path, chosen_files)
    return read, [str(file) for file in chosen_files]


def _only_object(path: Path, files: Sequence[Path]) -> int | None:
    """The one object of label pictures; None where they are masks. Raises `InputError` where there are several."""
    ids: set[int] = set()
    for file in files:
        found = read_objects(file)
        if found is None:
            return None
        ids |= found
    return _one_of(path, sorted(ids), None) if ids else None


def _require_object(files: Sequence[Path], object_id: int) -> None:
    seen: set[int] = set()
    for file in files:
        seen |= set(np.unique(read_labels(file)).tolist())
        if object_id in seen:
            return
    ids = sorted(seen - {0})
    raise InputError(f"--object-id {object_id} is in none of {files[0].parent}; it has {listed(ids) or 'no objects'}")


def _one_of(path: Path, ids: Sequence[int], wanted: int | None) -> int:
    """The wanted object, or the only one."""
    if wanted is None:
        if len(ids) == 1:
            return ids[0]
        raise InputError(f"{path} has the objects {listed(sorted(ids))}; choose one with --object-id")
    if wanted not in ids:
        raise InputError(f"--object-id {wanted} is not in {path}; it has {listed(sorted(ids))}")
    return wanted


def _json(path: Path, names: Sequence[str], object_id: int | None) -> tuple[Reader, list[str]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no JSON that can be read: {error}") from error
    table = frame_table(path, data, names)
    ids = sorted({one for objects in table.values() for one in objects})
    if not ids:
        raise InputError(f"{path} holds no masks")
    chosen = _one_of(path, ids, object_id)
    last = max(table)
    if last >= len(names):
        raise InputError(
            f"{path} has a mask for frame {last}, the clip has {len(names)} frames (0 to {len(names) - 1})"
        )
    first = next(rle for objects in table.values() for rle in objects.values() if rle)
    labels = [f"{path}, frame {i}" for i in range(len(names))]

    def read(index: int) -> np.ndarray:
        rle = table.get(index, {}).get(chosen)
        try:
            if not rle:
                height, width = first["size"]
                return np.zeros((height, width), bool)
            return decode_rle(rle)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{labels[index]}, object {chosen}: {error}") from error

    return read, labels


def frame_table(path: Path, data: Any, names: Sequence[str]) -> dict[int, dict[int, dict[str, Any]]]:
    """frame -> object -> RLE, from any of the layouts that are known. Raises `InputError` for others."""
    if isinstance(data, dict) and isinstance(data.get("masklet"), list):  # SA-V: a list of frames of a list of objects
        ids = data.get("masklet_id") or range(len(data["masklet"][0]) if data["masklet"] else 0)
        _check_count(path, len(data["masklet"]), names)
        return {i: {int(o): rle for o, rle in zip(ids, row) if _is_rle(rle)} for i, row in enumerate(data["masklet"])}
    if isinstance(data, dict) and isinstance(data.get("annotations"), list):  # COCO, and its form for videos
        data = data["annotations"]
    table: dict[int, dict[int, dict[str, Any]]] = {}
    known = {name: i for i, name in enumerate(names)}
    if isinstance(data, dict):
        for key, value in data.items():
            if isinstance(value, (dict, list)):
                frame = _frame(path, key, known)
                for one, rle in _objects(value):
                    table.setdefault(frame, {})[one] = rle
    elif isinstance(data, list):
        for row, entry in enumerate(data):
            if isinstance(entry, dict) and isinstance(entry.get("segmentations"), list):
                _check_count(path, len(entry["segmentations"]), names)
                for frame, rle in enumerate(entry["segmentations"]):
                    if _is_rle(rle):
                        table.setdefault(frame, {})[_id(entry, row + 1)] = rle
            elif isinstance(entry, dict):
                keys = [k for k in ("frame", "frame_idx", "frame_index", "image_id") if k in entry]
                frame = _frame(path, entry[keys[0]] if keys else row, known)
                for one, rle in _objects(entry):
                    table.setdefault(frame, {})[one] = rle
            elif isinstance(entry, list):
                for one, rle in _objects(entry):
                    table.setdefault(row, {})[one] = rle
    if not table:
        raise InputError(f"{path} holds no RLE masks in a layout that is known; see docs/masks.md")
    return table


def _is_rle(value: Any) -> bool:
    return isinstance(value, dict) and "size" in value and "counts" in value


def _id(entry: dict[str, Any], fallback: int) -> int:
    value = next((entry[k] for k in ("object_id", "obj_id", "track_id", "instance_id", "id") if k in entry), fallback)
    try:
        return int(value)
    except (TypeError, ValueError):
        return fallback


def _objects(value: Any) -> list[tuple[int, dict[str, Any]]]:
    """The objects of one frame and their RLEs."""
    if _is_rle(value):
        return [(1, value)]
    if isinstance(value, dict):
        inner = next((value[k] for k in ("segmentation", "mask", "rle", "masks", "objects") if k in value), None)
        if _is_rle(inner):
            return [(_id(value, 1), inner)]  # type: ignore[list-item]
        if inner is not None:
            return _objects(inner)
        return [(int(k), found) for k, v in value.items() if str(k).isdigit() for _, found in _objects(v)]
    if isinstance(value, list):
        pairs = [(n, one) for n, entry in enumerate(value, 1) for one in _objects(entry)]
        return [(number if _is_rle(value[number - 1]) else one, rle) for number, (one, rle) in pairs]
    return []


def _frame(path: Path, key: Any, known: dict[str, int]) -> int:
    text = str(key)
    stem = Path(text).stem
    if stem in known and not isinstance(key, int):
        return known[stem]
    if text.lstrip("-").isdigit() and int(text) >= 0:
        return int(text)
    raise InputError(f"{path}: {text!r} is neither the number nor the name of a frame")
