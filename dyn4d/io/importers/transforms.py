"""`transforms.json` of nerfstudio and instant-ngp, and `transforms_train|val|test.json` of Blender and D-NeRF.

Poses are camera to world with OpenGL's axes (x right, y up, z backwards); pixel centres are half-integer. Formats:
docs.nerf.studio "Data conventions", the scripts of the NeRF and D-NeRF data sets. Blender's field of view spans the
picture from edge to edge, so its principal point is the middle, (w/2, h/2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io.atomic import read_json
from dyn4d.io.images import IMAGE_SUFFIXES, has_alpha, image_size, read_depth
from dyn4d.io.importers.lens import Lens
from dyn4d.io.importers.options import ImportOptions
from dyn4d.io.importers.pixels import mask_pixels, picture_pixels
from dyn4d.io.importers.sequence import (
    OPENCV_FROM_OPENGL,
    Pixels,
    Sequence4D,
    SourceFrame,
    by_name,
    one_per_instant,
    rigid,
    spread,
    steady,
)  # fmt: skip

SPLITS = ("train", "val", "test")
FISHEYE = {"OPENCV_FISHEYE", "EQUIRECTANGULAR", "ORTHOPHOTO", "FISHEYE624", "PERSPECTIVE_AND_FISHEYE"}
MILLIMETRES = 1000.0


@dataclass(frozen=True)
class _File:
    """A transforms file. `splits`: pictures' names that it calls test (or val)."""

    path: Path
    head: dict[str, Any]
    frames: list[dict[str, Any]]


def _load(path: Path) -> _File:
    data = read_json(path)
    frames = data.get("frames")
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{path} lists no frames; wanted frames: [{{file_path, transform_matrix}}, ...]")
    for row, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise InputError(f"{path}, frames[{row}]: no file_path")
    return _File(path, data, frames)


def find_picture(folder: Path, name: str, where: str) -> Path:
    """The file that `file_path` names; Blender's have no suffix. Raises `InputError` where there is none."""
    path = folder / name.replace("\\", "/")
    if path.is_file():
        return path
    for suffix in (".png", *sorted(IMAGE_SUFFIXES)):
        beside = path.with_name(path.name + suffix)
        if beside.is_file():
            return beside
    raise InputError(f"{path} is not there, but {where} names it; put the pictures where the file looks for them")


def _number(values: dict[str, Any], key: str, where: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where}: {key} is {value!r}; wanted a number")
    return float(value)


def read_lens(values: dict[str, Any], size: tuple[int, int], where: str) -> Lens:
    """The lens that the keys of a file and of a frame describe.

    Raises:
        InputError: no focal length, a model that is not pinhole with Brown's distortion.
    """
    model = str(values.get("camera_model", "OPENCV")).upper()
    if model in FISHEYE or values.get("is_fisheye"):
        raise InputError(f"{where}: camera_model {model}: only pinhole cameras with OPENCV distortion; undistort first")
    found = {k: _number(values, k, where) for k in ("w", "h", "fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4",
             "p1", "p2", "camera_angle_x", "camera_angle_y")}  # fmt: skip
    w, h = found["w"] or size[0], found["h"] or size[1]
    fx, fy = found["fl_x"], found["fl_y"]
    if fx is None and found["camera_angle_x"]:
        fx = 0.5 * w / math.tan(0.5 * found["camera_angle_x"])
    if fy is None and found["camera_angle_y"] and found["fl_x"] is None:
        fy = 0.5 * h / math.tan(0.5 * found["camera_angle_y"])
    fx, fy = fx or fy, fy or fx
    if fx is None or fy is None or min(fx, fy) <= 0:
        raise InputError(f"{where}: no focal length; wanted fl_x (pixels) or camera_angle_x (radians)")
    if found["k4"]:
        raise InputError(
            f"{where}: k4 is {found['k4']:g}, a coefficient of fisheye lenses; undistort the pictures first"
        )
    cx = w / 2 if found["cx"] is None else found["cx"]
    cy = h / 2 if found["cy"] is None else found["cy"]
    radial = (found["k1"] or 0.0, found["k2"] or 0.0, found["k3"] or 0.0, 0.0, 0.0, 0.0)
    tangential = (found["p1"] or 0.0, found["p2"] or 0.0)
    return Lens(round(w), round(h), fx, fy, cx, cy, 0.0, radial, tangential)


def _frame(file: _File, row: int, options: ImportOptions, *, alpha: bool) -> SourceFrame:
    entry, where = file.frames[row], f"{file.path}, frames[{row}]"
    folder = file.path.parent
    path = find_picture(folder, entry["file_path"], where)
    if entry.get("transform_matrix") is None:
        raise InputError(f"{where}: no transform_matrix")
    pose = rigid(entry["transform_matrix"], f"{where}: transform_matrix") @ OPENCV_FROM_OPENGL
    mask, depth = entry.get("mask_path"), entry.get("depth_file_path")
    scale = _number({**file.head, **entry}, "depth_unit_scale_factor", where)
    div = options.depth_div or (1 / scale if scale else MILLIMETRES)
    return SourceFrame(
        name=path.stem,
        seconds=float(row),
        rgb=picture_pixels(path, alpha=alpha),
        mask=mask_pixels(find_picture(folder, mask, where)) if mask else None,
        depth=_depth(find_picture(folder, depth, where), div) if depth else None,
        lens=read_lens({**file.head, **entry}, image_size(path), where),
        world_from_cam=pose,
    )


def _depth(path: Path, div: float) -> Pixels:
    """Whole numbers and floats alike count `div` to a world unit."""
    if path.suffix.lower() != ".npy":
        return Pixels(lambda: read_depth(path, div), str(path), path)
    return Pixels(lambda: (np.asarray(read_depth(path, 1.0), np.float64) / div).astype(np.float32), str(path))


def _times(file: _File, key: str) -> list[float] | None:
    """The frames' `key`, if all have it."""
    if any(frame.get(key) is None for frame in file.frames):
        return None
    found = [_number(frame, key, f"{file.path}, frames[{i}]") for i, frame in enumerate(file.frames)]
    return [value for value in found if value is not None]


def _timed(file: _File, frames: Sequence[SourceFrame]) -> tuple[list[SourceFrame], str | None]:
    """The frames with what the file says of time, and the key that says it."""
    for key in ("seconds", "time"):  # seconds: as dyn4d's own export has them, beside fractions of the clip
        times = _times(file, key)
        if times is not None and (len(times) == 1 or max(times) > min(times)):
            return [replace(frame, seconds=t) for frame, t in zip(frames, times)], key
    return list(frames), None


def read_blender(source: Path, options: ImportOptions) -> Sequence4D:
    """A folder with transforms_train.json: the training pictures are the clip, those of `test` (else `val`) are held
    out. The alpha channel is the mask.

    Raises:
        InputError: a file, key or picture is missing or damaged; names it.
    """
    if not source.is_dir():
        source = source.parent
    train = _load(source / "transforms_train.json")
    other = next((n for n in ("test", "val") if (source / f"transforms_{n}.json").is_file()), None)
    rest = _load(source / f"transforms_{other}.json") if other else None
    frames = [_frame(train, row, options, alpha=True) for row in range(len(train.frames))]
    frames, key = _timed(train, frames)
    held_out: list[SourceFrame] = []
    notes: tuple[str, ...] = ()
    if key is None:
        frames = steady(by_name(frames), options)
        notes = ("there are no times: the pictures are taken in the order of their names; other splits are left out",)
    elif rest is not None and other is not None:
        views = [_frame(rest, row, options, alpha=True) for row in range(len(rest.frames))]
        views, told = _timed(rest, views)
        held_out = [replace(view, view=other) for view in views] if told == key else []
    frames, more, said = one_per_instant(frames, "train")
    held_out = [*held_out, *more]
    if key == "time":
        frames, held_out = spread(frames, held_out, options)
    return Sequence4D(
        "blender", source, tuple(frames), tuple(held_out), MILLIMETRES, alpha=True, notes=(*notes, *said)
    )  # fmt: skip


def read_nerfstudio(source: Path, options: ImportOptions) -> Sequence4D:
    """A transforms.json, or the folder with it. Pictures that it names as test_filenames (else val_filenames) are held
    out; masks are white on the object; depth is in millimetres unless depth_unit_scale_factor says otherwise.

    Raises:
        InputError: a key or picture is missing or damaged, a fisheye lens; names it.
    """
    path = source / "transforms.json" if source.is_dir() else source
    file = _load(path)
    frames = [_frame(file, row, options, alpha=False) for row in range(len(file.frames))]
    frames, key = _timed(file, frames)
    split = next((name for name in ("test", "val") if file.head.get(f"{name}_filenames")), "")
    names = file.head.get(f"{split}_filenames")
    out = {str(name) for name in names} if isinstance(names, list) else set()
    held = [frame["file_path"] in out for frame in file.frames]
    notes: tuple[str, ...] = ()
    if key is None:
        order = {id(frame): at for at, frame in zip(held, frames)}
        named = by_name(frames)
        held = [order[id(frame)] for frame in named]
        frames = steady(named, options)
    if all(held):
        raise InputError(f"{path}: all pictures are {split}_filenames; none is left for the clip")
    held_out = [replace(frame, view=split) for frame, out in zip(frames, held) if out]
    frames, more, said = one_per_instant([frame for frame, out in zip(frames, held) if not out], "train")
    held_out += more
    if key == "time":
        frames, held_out = spread(frames, held_out, options)
    alpha = all(frame.mask is None for frame in frames) and _have_alpha([*frames, *held_out])
    if alpha:
        frames, held_out = _with_alpha(frames), _with_alpha(held_out)
    div = _shared_depth_div(file, options)
    return Sequence4D("nerfstudio", path, tuple(frames), tuple(held_out), div, alpha=alpha, notes=(*notes, *said))


def _shared_depth_div(file: _File, options: ImportOptions) -> float | None:
    """Units of depth files of whole numbers, where all count alike; else None (depth is written as floats)."""
    if options.depth_div:
        return options.depth_div
    scales = {frame.get("depth_unit_scale_factor", file.head.get("depth_unit_scale_factor")) for frame in file.frames}
    if any(str(frame.get("depth_file_path", "")).lower().endswith(".npy") for frame in file.frames) or len(scales) > 1:
        return None
    scale = next(iter(scales), None)
    return 1 / float(scale) if scale else MILLIMETRES


def _with_alpha(frames: Sequence[SourceFrame]) -> list[SourceFrame]:
    return [replace(f, rgb=picture_pixels(f.rgb.file, alpha=True)) if f.rgb.file else f for f in frames]


def _have_alpha(frames: Sequence[SourceFrame]) -> bool:
    return all(frame.rgb.file is not None and has_alpha(frame.rgb.file) for frame in frames)
