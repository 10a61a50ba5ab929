"""Folders of Nerfies, HyperNeRF and DyCheck: dataset.json, metadata.json, camera/, rgb/<n>x/, depth/<n>x/.

Cameras: `orientation` turns the world into the camera (OpenCV's axes), `position` is the camera's centre, pixel centres
are half-integer, distortion is Brown's. Formats: the README of google/nerfies, docs/DATASETS.md of KAIR-BAIR/dycheck.
Depth is planar z in the world's unit (metres in DyCheck), as the code that wrote the data set has it. The world is
that of the camera files, before scene.json's centre and scale. An alpha channel tells where LiDAR saw something.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io.atomic import read_json
from dyn4d.io.images import image_size, read_depth
from dyn4d.io.importers.lens import Lens
from dyn4d.io.importers.options import DEFAULT_FPS, ImportOptions
from dyn4d.io.importers.pixels import mask_pixels, picture_pixels
from dyn4d.io.importers.sequence import Pixels, Sequence4D, SourceFrame, one_per_instant, rigid


def read_nerfies(source: Path, options: ImportOptions) -> Sequence4D:
    """The training pictures by time are the clip, those of val_ids are held out.

    Raises:
        InputError: a file or key is missing or damaged; names it.
    """
    dataset = read_json(source / "dataset.json")
    train, val = _ids(dataset, "train_ids", source), _ids(dataset, "val_ids", source)
    if not train:
        raise InputError(f"{source / 'dataset.json'}: train_ids is empty; there is nothing to import")
    scale = _scale(source, options)
    times = _times(source, [*train, *val])
    fps, notes = _fps(source, options)
    depth = source / "depth" / f"{scale}x"
    frames = [_frame(source, item, scale, times[item] / fps, depth) for item in train]
    cameras = _camera_ids(source, val)
    views = []
    for item in val:
        covisible = source / "covisible" / f"{scale}x" / "val" / f"{item}.png"
        mask = mask_pixels(covisible) if covisible.is_file() else None
        views.append(_frame(source, item, scale, times[item] / fps, depth, mask=mask, view=cameras[item]))
    frames, more, said = one_per_instant(frames, "train")
    if any(view.mask is not None for view in views):
        notes.append("masks of held-out views are the co-visibility masks of the data set, not the object's")
    if any(frame.depth for frame in frames):
        notes.append("depth is taken as metres, as the data set's own code writes it")
    keypoints = source / "keypoint" / f"{scale}x"
    extra = {
        f"keypoint/{p.relative_to(keypoints).as_posix()}": p
        for p in (sorted(keypoints.rglob("*.json")) if keypoints.is_dir() else [])
    }
    return Sequence4D("nerfies", source, tuple(frames), (*views, *more), extra=extra, notes=(*notes, *said))


def _ids(dataset: dict[str, Any], key: str, source: Path) -> list[str]:
    value = dataset.get(key, [] if key == "val_ids" else None)
    if not isinstance(value, list):
        raise InputError(f"{source / 'dataset.json'}: {key} is missing; wanted a list of the pictures' ids")
    return [str(item) for item in value]


def _scale(source: Path, options: ImportOptions) -> int:
    """The n of rgb/<n>x to read: as asked, else the largest pictures."""
    folder = source / "rgb"
    names = [p.name for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    there = sorted(int(name[:-1]) for name in names if name.endswith("x") and name[:-1].isdigit())
    if not there:
        raise InputError(f"{folder} holds no pictures; wanted {folder / '1x'} or another size, such as 2x")
    if options.image_scale is None:
        return there[0]
    if options.image_scale not in there:
        raise InputError(f"--image-scale {options.image_scale}: {folder} has {', '.join(f'{n}x' for n in there)}")
    return options.image_scale


def _metadata(source: Path) -> dict[str, Any]:
    path = source / "metadata.json"
    return read_json(path) if path.is_file() else {}


def _times(source: Path, items: list[str]) -> dict[str, float]:
    """The time step of each picture: warp_id (time_id in some), else its place among the ids."""
    metadata = _metadata(source)
    found = {}
    for row, item in enumerate(items):
        entry = metadata.get(item, {}) if metadata else {"warp_id": row}
        value = next((entry[key] for key in ("time_id", "warp_id", "appearance_id") if key in entry), None)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{source / 'metadata.json'}: {item} has no warp_id, the step in time")
        found[item] = float(value)
    return found


def _camera_ids(source: Path, items: list[str]) -> dict[str, str]:
    metadata = _metadata(source)
    found = {item: metadata.get(item, {}).get("camera_id") for item in items}
    return {item: "val" if camera is None else f"camera_{camera}" for item, camera in found.items()}


def _fps(source: Path, options: ImportOptions) -> tuple[float, list[str]]:
    if options.fps is not None:
        return options.fps, []
    path = source / "extra.json"
    value = read_json(path).get("fps") if path.is_file() else None
    if isinstance(value, (int, float)) and value > 0:
        return float(value), []
    return DEFAULT_FPS, [f"the frame rate is not given; {DEFAULT_FPS:g} is assumed (--fps says otherwise)"]


def _vector(data: dict[str, Any], keys: tuple[str, ...], count: int, where: str, default: Any = None) -> np.ndarray:
    value = next((data[key] for key in keys if data.get(key) is not None), default)
    try:
        array = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != (count,) or not np.isfinite(array).all():
        raise InputError(f"{where}: {keys[0]} is {value!r}; wanted {count} number{'s' if count > 1 else ''}")
    return array


def read_camera(path: Path) -> tuple[Lens, np.ndarray]:
    """The lens, at the size of 1x, and world_from_cam (4, 4) of a camera file. Raises `InputError` naming the key."""
    data, where = read_json(path), str(path)
    turn = _vector(data, ("orientation",), 9, where).reshape(3, 3)
    centre = _vector(data, ("position",), 3, where)
    width, height = _vector(data, ("image_size",), 2, where)
    focal = float(_vector(data, ("focal_length",), 1, where)[0])
    aspect = float(_vector(data, ("pixel_aspect_ratio",), 1, where, 1.0)[0])
    if min(focal, aspect, width, height) <= 0:
        raise InputError(f"{where}: focal_length, pixel_aspect_ratio and image_size must be above 0")
    cx, cy = _vector(data, ("principal_point",), 2, where)
    k1, k2, k3 = _vector(data, ("radial_distortion",), 3, where, [0, 0, 0])
    p1, p2 = _vector(data, ("tangential_distortion", "tangential"), 2, where, [0, 0])
    skew = float(_vector(data, ("skew",), 1, where, 0.0)[0])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn.T, centre
    lens = Lens(
        round(width), round(height), focal, focal * aspect, float(cx), float(cy), skew,
        (float(k1), float(k2), float(k3), 0.0, 0.0, 0.0), (float(p1), float(p2)),
    )  # fmt: skip
    return lens, rigid(pose, f"{where}: orientation")


def _frame(
    source: Path, item: str, scale: int, seconds: float, depth: Path, *, mask: Pixels | None = None, view: str = ""
) -> SourceFrame:
    folder = source / "rgb" / f"{scale}x"
    path = next((folder / f"{item}{s}" for s in (".png", ".jpg", ".jpeg") if (folder / f"{item}{s}").is_file()), None)
    if path is None:
        raise InputError(f"{folder / item}.png is not there, but dataset.json lists it; add it or take it out")
    lens, pose = read_camera(source / "camera" / f"{item}.json")
    file = depth / f"{item}.npy"
    return SourceFrame(
        name=item, seconds=seconds, rgb=picture_pixels(path), mask=mask,
        depth=Pixels(lambda: read_depth(file), str(file)) if file.is_file() else None,
        lens=_at_scale(lens, image_size(path), scale, path), world_from_cam=pose, view=view,
    )  # fmt: skip


def _at_scale(lens: Lens, size: tuple[int, int], scale: int, path: Path) -> Lens:
    """The lens of pictures made `scale` times smaller: all of it is divided, as the data sets' own code does, though
    the picture's size is rounded."""
    wanted = round(lens.width / scale), round(lens.height / scale)
    if abs(size[0] - wanted[0]) > 1 or abs(size[1] - wanted[1]) > 1:
        raise InputError(f"{path} is {size[0]}x{size[1]}, its camera says {wanted[0]}x{wanted[1]} at {scale}x")
    return Lens(
        size[0], size[1], lens.fx / scale, lens.fy / scale, lens.cx / scale, lens.cy / scale, lens.skew / scale,
        lens.radial, lens.tangential,
    )  # fmt: skip
