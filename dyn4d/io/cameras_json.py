"""`cameras.json`: intrinsics, poses, times and file names of a clip's frames.

On disk K may use integer pixel centres (`pixel_centre`), poses are `w2c` (world -> camera). In memory pixel centres
are half-integer and poses are `world_from_cam`. Lengths in world units, times in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dyn4d.core.errors import InputError
from dyn4d.core.types import Camera, Timeline
from dyn4d.io.atomic import read_json, write_json

_ROTATION_TOLERANCE = 1e-2


@dataclass(frozen=True)
class FrameEntry:
    """One entry of `frames`.

    Attributes:
        index: its `index`, or its position in the list. time: seconds, or None.
        rgb, mask, depth: file names relative to the folder of the file, or None.
        no_depth: the entry says `"depth": null`, this frame has none.
        world_from_cam: (4, 4) float64, or None where unknown. K: (3, 3) of this frame alone, or None.
    """

    index: int
    time: float | None = None
    rgb: str | None = None
    mask: str | None = None
    depth: str | None = None
    no_depth: bool = False
    world_from_cam: np.ndarray | None = None
    K: np.ndarray | None = None


@dataclass(frozen=True)
class CameraFile:
    """A `cameras.json` (or the head of a `views.json`) as read.

    Attributes:
        source: the file. K: (3, 3) float64 shared by all frames, half-integer pixel centres; or None.
        width, height: picture size, or None where not given. depth_div: integer depth / depth_div = world units.
        fps: frames a second, or None. static: `camera` begins with "static". frames: entries in order of `index`.
    """

    source: Path
    K: np.ndarray | None
    width: int | None
    height: int | None
    depth_div: float
    fps: float | None
    static: bool
    frames: tuple[FrameEntry, ...]

    def camera(self, count: int | None = None, *, width: int | None = None, height: int | None = None) -> Camera | None:
        """Cameras of `count` frames (default: one an entry), float64; None where neither K nor a pose is known.

        Poses are NaN where unknown, the identity where the camera is static. Raises `InputError` where a pose has no
        K, or only some frames have one.
        """
        count = len(self.frames) if count is None else count
        entries = list(self.frames) or [FrameEntry(index=i) for i in range(count)]
        if len(entries) != count:
            raise InputError(f"{self.source} lists {len(entries)} frames, the clip has {count}; make them the same")
        posed = any(entry.world_from_cam is not None for entry in entries)
        if self.K is None and not any(entry.K is not None for entry in entries):
            if posed:
                raise InputError(f"{self.source} has poses (w2c) but no K; add K, the 3x3 intrinsics in pixels")
            return None
        width, height = width or self.width, height or self.height
        if width is None or height is None:
            raise InputError(f"{self.source} has no width and height; add the size of the pictures in pixels")
        intrinsics = np.empty((count, 3, 3))
        poses = np.full((count, 4, 4), np.nan)
        for row, entry in enumerate(entries):
            K = self.K if entry.K is None else entry.K
            if K is None:
                raise InputError(f"{self.source}: frame {row} has no K, others have; add it there or once at the top")
            intrinsics[row] = K
            if entry.world_from_cam is not None:
                poses[row] = entry.world_from_cam
            elif self.static:
                poses[row] = np.eye(4)
        return Camera(torch.from_numpy(intrinsics), torch.from_numpy(poses), int(width), int(height))

    @property
    def poses_given(self) -> bool:
        """Is the camera static by the file's word, or is at least one pose in it?"""
        return self.static or any(entry.world_from_cam is not None for entry in self.frames)


def _number(value: Any, where: str, name: str, *, positive: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise InputError(f"{where}: {name} is {value!r}; wanted a number")
    if positive and value <= 0:
        raise InputError(f"{where}: {name} is {value!r}; wanted a number above 0")
    return float(value)


def _whole(value: Any, where: str, name: str, *, least: int) -> int:
    number = _number(value, where, name)
    if number != int(number) or number < least:
        raise InputError(f"{where}: {name} is {value!r}; wanted a whole number, at least {least}")
    return int(number)


def _matrix(value: Any, where: str, name: str, shapes: tuple[tuple[int, int], ...]) -> np.ndarray:
    try:
        matrix = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape not in shapes or not np.isfinite(matrix).all():
        wanted = " or ".join(f"{a}x{b}" for a, b in shapes)
        raise InputError(f"{where}: {name} is not a {wanted} matrix of finite numbers; mend it or leave it out")
    return matrix


def _intrinsics(value: Any, where: str, shift: float) -> np.ndarray:
    K = _matrix(value, where, "K", ((3, 3),)).copy()
    if K[0, 0] <= 0 or K[1, 1] <= 0 or np.abs(K[[1, 2, 2], [0, 0, 1]]).max() > 1e-9 or abs(K[2, 2] - 1) > 1e-9:
        raise InputError(
            f"{where}: K is no pinhole matrix; wanted [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0"
        )
    K[0, 2] += shift
    K[1, 2] += shift
    return K


def _pose(value: Any, where: str) -> np.ndarray:
    """`w2c` (4x4 or its upper 3x4) -> world_from_cam (4, 4)."""
    w2c = _matrix(value, where, "w2c", ((4, 4), (3, 4)))
    rotation = w2c[:3, :3]
    off = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if off > _ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        raise InputError(
            f"{where}: the upper left 3x3 of w2c is no rotation (off by {off:.2g}); poses are rigid, OpenCV axes"
        )
    out = np.eye(4)
    out[:3, :3] = rotation.T
    out[:3, 3] = -rotation.T @ w2c[:3, 3]
    return out


def _text(value: Any, where: str, name: str) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise InputError(f"{where}: {name} is {value!r}; wanted a file name")


def _pixel_shift(data: dict[str, Any], path: Path) -> float:
    value = data.get("pixel_centre", "half-integer")
    word = re.match(r"[a-z]+(-[a-z]+)?", value.strip().lower()) if isinstance(value, str) else None
    shifts = {"half-integer": 0.0, "integer": 0.5}
    if word is None or word.group() not in shifts:
        raise InputError(f"{path}: pixel_centre is {value!r}; wanted it to begin with half-integer or integer")
    return shifts[word.group()]


def parse_entry(entry: Any, where: str, position: int, shift: float) -> FrameEntry:
    """One object of `frames` or `views`; unknown keys are left alone. Raises `InputError` naming `where`."""
    if not isinstance(entry, dict):
        raise InputError(f"{where}: wanted an object {{…}}, found {entry!r}")
    time, w2c, K, index = (entry.get(key) for key in ("time", "w2c", "K", "index"))
    return FrameEntry(
        index=position if index is None else _whole(index, where, "index", least=0),
        time=None if time is None else _number(time, where, "time"),
        rgb=_text(entry.get("rgb"), where, "rgb"),
        mask=_text(entry.get("mask"), where, "mask"),
        depth=_text(entry.get("depth"), where, "depth"),
        no_depth="depth" in entry and entry["depth"] is None,
        world_from_cam=None if w2c is None else _pose(w2c, where),
        K=None if K is None else _intrinsics(K, where, shift),
    )


def parse_head(data: dict[str, Any], path: Path, frames: tuple[FrameEntry, ...] = ()) -> CameraFile:
    """The keys above `frames` or `views`. Raises `InputError` naming the file and the key."""
    shift = _pixel_shift(data, path)
    where = str(path)
    K, width, height, fps = (data.get(key) for key in ("K", "width", "height", "fps"))
    depth_div = data.get("depth_div")
    camera = data.get("camera")
    return CameraFile(
        source=path,
        K=None if K is None else _intrinsics(K, where, shift),
        width=None if width is None else _whole(width, where, "width", least=1),
        height=None if height is None else _whole(height, where, "height", least=1),
        depth_div=1000.0 if depth_div is None else _number(depth_div, where, "depth_div", positive=True),
        fps=None if fps is None else _number(fps, where, "fps", positive=True),
        static=isinstance(camera, str) and camera.strip().lower().startswith("static"),
        frames=frames,
    )


def read_entries(data: dict[str, Any], path: Path, key: str) -> list[FrameEntry]:
    """The list under `key`, in the file's order. Raises `InputError` naming file, key and position."""
    listed = data.get(key)
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise InputError(f"{path}: {key} is a {type(listed).__name__}; wanted a list")
    shift = _pixel_shift(data, path)
    return [parse_entry(entry, f"{path}, {key}[{i}]", i, shift) for i, entry in enumerate(listed)]


def read_cameras(path: str | Path) -> CameraFile:
    """Read a `cameras.json`. Frames are put in the order of `index` where all have one.

    Raises:
        InputError: missing, broken JSON, a key with a wrong value, an index twice; names file, frame and key.
    """
    path = Path(path)
    data = read_json(path)
    entries = read_entries(data, path, "frames")
    indices = [entry.index for entry in entries]
    if len(set(indices)) != len(indices):
        twice = next(i for i in indices if indices.count(i) > 1)
        raise InputError(f"{path}: two frames have index {twice}; every frame needs its own")
    return parse_head(data, path, tuple(sorted(entries, key=lambda entry: entry.index)))


def write_cameras(
    path: str | Path,
    camera: Camera,
    timeline: Timeline | None = None,
    *,
    rgb: Sequence[str] | None = None,
    mask: Sequence[str] | None = None,
    depth: Sequence[str] | None = None,
    depth_div: float | None = None,
    extra: dict[str, Any] | None = None,
) -> None:
    """Write cameras (F, …) in the clip format, half-integer pixel centres; `w2c` is null where a pose is unknown.

    Args:
        path: the file, conventionally `cameras.json`.
        camera: one camera a frame, in the order of the clip.
        timeline: times in seconds and names of the same frames.
        rgb, mask, depth: file names relative to the folder; rgb defaults to `rgb/<name>.png`.
        depth_div: integer depth = world units x depth_div.
        extra: more keys for the top of the file, such as a licence.
    """
    count = len(camera)
    names = timeline.names if timeline is not None else tuple(f"{i:05d}" for i in range(count))
    if len(names) != count:
        raise ValueError(f"write_cameras: {count} cameras, {len(names)} frames in the timeline")
    K = camera.K.detach().double().cpu().numpy()
    w2c = camera.cam_from_world.detach().double().cpu().numpy()
    known = camera.registered.cpu().numpy()
    shared = count > 0 and bool((K[0] == K).all())
    head: dict[str, Any] = {"width": camera.width, "height": camera.height, "num_frames": count}
    if timeline is not None:
        head["fps"] = timeline.fps
    if shared:
        head["K"] = K[0]
    head["pixel_centre"] = "half-integer: the centre of the top-left pixel is (0.5, 0.5)"
    head["camera"] = "OpenCV (x right, y down, z forward); X_cam = w2c @ X_world"
    if depth_div is not None:
        head["depth_div"] = float(depth_div)
    frames = []
    for i in range(count):
        entry: dict[str, Any] = {"index": i}
        if timeline is not None:
            entry["time"] = float(timeline.seconds[i])
        entry["rgb"] = rgb[i] if rgb is not None else f"rgb/{names[i]}.png"
        for key, given in (("mask", mask), ("depth", depth)):
            if given is not None:
                entry[key] = given[i]
        if not shared:
            entry["K"] = K[i]
        entry["w2c"] = w2c[i] if known[i] else None
        frames.append(entry)
    write_json(path, {**head, **(extra or {}), "frames": frames})
