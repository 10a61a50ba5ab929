"""Ground truth for evaluation: views that a run never saw, the clip's true cameras, and 3D tracks.

A truth folder holds `views.json` (the head of `cameras.json`, and `views[]`: index, time, view, rgb, mask, depth,
w2c), `cameras.json` (clip format) and `tracks.npz` (`tracks_world`, `visible`, `uv`), all in the clip's own world.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dyn4d.core.errors import InputError
from dyn4d.core.types import Camera, Timeline
from dyn4d.io.atomic import atomic_folder, read_json, write_json
from dyn4d.io.cameras_json import parse_head, read_cameras, read_entries, write_cameras
from dyn4d.io.images import image_size, write_depth, write_mask, write_png


@dataclass(frozen=True)
class TruthView:
    """One held-out picture.

    Attributes:
        index: frame of the clip. time: seconds, or None. view: name of its group, such as "near_left".
        rgb, mask: files. depth: file, or None. camera: a single camera (K (3, 3), world_from_cam (4, 4)), float64.
    """

    index: int
    time: float | None
    view: str
    rgb: Path
    mask: Path
    depth: Path | None
    camera: Camera


@dataclass(frozen=True)
class Truth:
    """A truth folder as read; pictures stay on disk.

    Attributes:
        source: the folder. views: in the file's order. width, height, depth_div: of all views.
        cameras: the clip's true cameras (T, …) float64, or None.
        tracks_world: (T, N, 3) float64, visible: (T, N) bool, uv: (T, N, 2) float64 px or None; or None without tracks.
    """

    source: Path
    views: tuple[TruthView, ...]
    width: int
    height: int
    depth_div: float
    cameras: Camera | None = None
    tracks_world: np.ndarray | None = None
    visible: np.ndarray | None = None
    uv: np.ndarray | None = None


@dataclass(frozen=True)
class TruthPicture:
    """A held-out picture to write: rgb (H, W, 3) uint8, mask (H, W) bool, depth (H, W) or None, pose (4, 4)."""

    index: int
    time: float
    view: str
    rgb: np.ndarray
    mask: np.ndarray
    depth: np.ndarray | None
    world_from_cam: np.ndarray


def load_truth(folder: str | Path) -> Truth:
    """Read a truth folder.

    Raises:
        InputError: no `views.json`, a view without rgb, mask, pose or K, a picture that is missing or of another size,
            damaged tracks; names the file.
    """
    folder = Path(folder)
    path = folder / "views.json"
    if not path.is_file():
        raise InputError(f"{folder} is no truth folder: it has no views.json")
    data = read_json(path)
    head = parse_head(data, path)
    listed = data.get("views")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{path} lists no views; wanted views: [{{index, view, rgb, mask, w2c}}, …]")
    entries = read_entries(data, path, "views")
    if head.width is None or head.height is None:
        raise InputError(f"{path} has no width and height; add the size of the pictures in pixels")
    views = []
    for i, entry in enumerate(entries):
        where = f"{path}, views[{i}]"
        K = head.K if entry.K is None else entry.K
        if K is None or entry.world_from_cam is None or entry.rgb is None or entry.mask is None:
            raise InputError(f"{where}: wanted rgb, mask, w2c and K (there or at the top)")
        if "index" not in listed[i]:
            raise InputError(f"{where}: no index; it names the frame of the clip")
        camera = Camera(torch.from_numpy(K), torch.from_numpy(entry.world_from_cam), head.width, head.height)
        name = listed[i].get("view")
        views.append(
            TruthView(
                index=entry.index,
                time=entry.time,
                view=name if isinstance(name, str) and name else "view",
                rgb=_picture(folder, entry.rgb, where, camera),
                mask=_picture(folder, entry.mask, where, camera),
                depth=None if entry.depth is None else _file(folder, entry.depth, where),
                camera=camera,
            )
        )
    own = folder / "cameras.json"
    cameras = read_cameras(own).camera() if own.is_file() else None
    return Truth(folder, tuple(views), head.width, head.height, head.depth_div, cameras, **_tracks(folder))


def held_out_times(folder: Path) -> list[float]:
    """Seconds of the views of a truth folder that have a time; none where there is no `views.json`. Raises `InputError`
    where that is broken."""
    path = folder / "views.json"
    if not path.is_file():
        return []
    return [entry.time for entry in read_entries(read_json(path), path, "views") if entry.time is not None]


def _file(folder: Path, name: str, where: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise InputError(f"{path} is not there, but {where} names it")
    return path


def _picture(folder: Path, name: str, where: str, camera: Camera) -> Path:
    path = _file(folder, name, where)
    width, height = image_size(path)
    if (width, height) != (camera.width, camera.height):
        raise InputError(f"{path} is {width}x{height}, views.json says {camera.width}x{camera.height}")
    return path


def _tracks(folder: Path) -> dict[str, Any]:
    path = folder / "tracks.npz"
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            world = archive["tracks_world"].astype(np.float64)
            visible = archive["visible"].astype(bool)
            uv = archive["uv"].astype(np.float64) if "uv" in archive.files else None
    except KeyError as error:
        raise InputError(f"{path}: {error}; wanted tracks_world (T,N,3), visible (T,N) and uv (T,N,2)") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged or cut short; copy or write it again") from error
    if world.ndim != 3 or world.shape[-1] != 3 or visible.shape != world.shape[:2]:
        raise InputError(f"{path}: tracks_world {world.shape} and visible {visible.shape}; wanted (T,N,3) and (T,N)")
    if uv is not None and uv.shape != (*world.shape[:2], 2):
        raise InputError(f"{path}: uv is {uv.shape}, tracks_world {world.shape}; wanted (T,N,2)")
    return {"tracks_world": world, "visible": visible, "uv": uv}


def write_truth(
    folder: str | Path,
    pictures: Iterable[TruthPicture],
    cameras: Camera,
    *,
    K: np.ndarray,
    timeline: Timeline | None = None,
    depth_div: float = 1000.0,
    tracks_world: np.ndarray | None = None,
    visible: np.ndarray | None = None,
    uv: np.ndarray | None = None,
) -> None:
    """Write a truth folder, whole or not at all.

    Args:
        folder: replaced if it is there.
        pictures: held-out views; may be a generator, they are written one by one.
        cameras: the clip's own true cameras, one a frame; their size is that of the views.
        K: (3, 3) of all held-out views, half-integer pixel centres.
        timeline: times and names of the clip's frames.
        depth_div: depth PNG = world units x depth_div.
        tracks_world, visible, uv: (T, N, 3), (T, N), (T, N, 2); all or none.
    """
    with atomic_folder(folder) as out:
        views = []
        for picture in pictures:
            stem = f"{picture.view}_{picture.index:05d}.png"
            entry: dict[str, Any] = {"index": picture.index, "time": picture.time, "view": picture.view}
            write_png(out / "rgb" / stem, picture.rgb)
            write_mask(out / "mask" / stem, picture.mask)
            entry |= {"rgb": f"rgb/{stem}", "mask": f"mask/{stem}"}
            if picture.depth is not None:
                write_depth(out / "depth" / stem, picture.depth, depth_div)
                entry["depth"] = f"depth/{stem}"
            views.append({**entry, "w2c": np.linalg.inv(picture.world_from_cam)})
        head = {
            "width": cameras.width,
            "height": cameras.height,
            "K": K,
            "pixel_centre": "half-integer: the centre of the top-left pixel is (0.5, 0.5)",
            "depth_div": depth_div,
        }
        write_json(out / "views.json", {**head, "views": views})
        write_cameras(out / "cameras.json", cameras, timeline)
        if tracks_world is not None and visible is not None and uv is not None:
            np.savez_compressed(out / "tracks.npz", tracks_world=tracks_world, visible=visible, uv=uv)
