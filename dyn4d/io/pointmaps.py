"""Depth or points that another estimator left for a clip: finding the files and reading them a frame at a time.

Our own layout is an .npz with named arrays, one for the clip or one a frame in a folder; `estimator_exports` adds those
that other programs write. Nothing is resized here: a map keeps its size and says where in the picture it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.core.listing import listed
from dyn4d.core.types import Clip
from dyn4d.io.layout import by_stem, composed, list_files
from dyn4d.io.npz import NpzFile

PLACES = ("pointmaps.npz", "pointmaps")  # in a clip folder
Role = Literal["depth", "points_cam", "points_world", "conf", "K", "world_from_cam", "cam_from_world", "crop", "size"]
_ROLES: dict[str, Role] = {
    "depth": "depth", "points_cam": "points_cam", "points_world": "points_world", "conf": "conf", "K": "K",
    "world_from_cam": "world_from_cam", "crop": "crop", "picture_size": "size",
}  # fmt: skip
_MAPS: tuple[Role, ...] = ("depth", "points_cam", "points_world")  # the first that is there is used
_AXES: dict[Role, int] = {"points_cam": 3, "points_world": 3, "crop": 1, "size": 1}  # of one frame's array; others: 2
_RIGID = 1e-2  # how far from a rotation the 3x3 of a pose may be


@dataclass(frozen=True)
class EstimatedMap:
    """What an estimator said of one frame, in pixels of its own map with half-integer centres.

    Attributes:
        where: file and frame, for messages.
        depth: (h, w) planar z, or None. points: (h, w, 3), or None; one of the two is there. Float64; what is not
            finite, and depth from 0 down, is none.
        in_world: the points are in the world, else in the frame's camera.
        conf: (h, w) float64 as the estimator counts, or None.
        K: (3, 3) of the map, or None. world_from_cam: (4, 4) rigid, or None.
        crop: (left, top, right, bottom) of the map in the picture, in its pixels; may reach beyond it. Or None.
        picture: (width, height) that `crop` counts in, or None: the clip's.
    """

    where: str
    depth: np.ndarray | None
    points: np.ndarray | None
    in_world: bool = False
    conf: np.ndarray | None = None
    K: np.ndarray | None = None
    world_from_cam: np.ndarray | None = None
    crop: tuple[float, float, float, float] | None = None
    picture: tuple[int, int] | None = None

    @property
    def width(self) -> int:
        return self._values.shape[1]

    @property
    def height(self) -> int:
        return self._values.shape[0]

    @property
    def _values(self) -> np.ndarray:
        values = self.points if self.depth is None else self.depth
        assert values is not None
        return values


@dataclass(frozen=True)
class EstimatedMaps:
    """The maps of a clip's T selected frames, read when asked for.

    Attributes:
        source: the file or folder. estimator: `dyn4d` for our own layout, else whose export it is.
        names: T names of the frames. rows: for each the number of its map, -1 where there is none.
    """

    source: Path
    estimator: str
    names: tuple[str, ...]
    rows: tuple[int, ...]
    read: Callable[[int], EstimatedMap | None] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> EstimatedMap | None:
        """Raises `InputError` naming file and frame where it cannot be used."""
        row = self.rows[index]
        return None if row < 0 else self.read(row)


@dataclass(frozen=True)
class ArrayNames:
    """What the arrays of one kind of file are called.

    Attributes:
        estimator: who writes them. roles: what each array that is used stands for.
        conf_of: the confidence that belongs to `depth` or the points, where there are several.
        shift: added to the principal point, to count from the pixel's corner.
    """

    estimator: str = "dyn4d"
    roles: dict[str, Role] = field(default_factory=lambda: dict(_ROLES))
    conf_of: dict[str, str] = field(default_factory=dict)
    shift: float = 0.0


class StackedMaps:
    """Maps of one .npz: all frames of a clip, or a single one. Arrays of a single frame need no frame axis."""

    def __init__(self, file: NpzFile, names: ArrayNames) -> None:
        """Raises `InputError` where there is no depth and no points, or shapes do not go together."""
        self.file, self.names = file, names
        present: dict[Role, str] = {}
        for name, role in names.roles.items():
            if name in file.names:
                present.setdefault(role, name)
        self.what: Role | None = next((role for role in _MAPS if role in present), None)
        if self.what is None:
            known = ", ".join(name for name, role in names.roles.items() if role in _MAPS)
            raise InputError(f"{file.path} holds no map; wanted one of {known}, found {_listed(sorted(file.names))}")
        chosen = names.conf_of.get(present[self.what])
        if chosen is not None:
            present.pop("conf", None)
            if chosen in file.names:
                present["conf"] = chosen
        self.present = present
        shape = self._shape(self.what)
        self.count, self.size = shape[0], shape[1:3]
        for role in present:
            self._check(role)

    def __len__(self) -> int:
        return self.count

    def _shape(self, role: Role) -> tuple[int, ...]:
        """With the frame axis, without a batch axis of 1 before it or one of 1 behind a map."""
        shape, wanted = self.file.shape(self.present[role]), _AXES.get(role, 2) + 1
        if role in ("depth", "conf") and len(shape) >= wanted and shape[-1] == 1:
            shape = shape[:-1]
        while len(shape) > wanted and shape[0] == 1:
            shape = shape[1:]
        return (1, *shape) if len(shape) < wanted else shape

    def _check(self, role: Role) -> None:
        shape, size = self._shape(role), self.size
        ends: dict[Role, list[tuple[int, ...]]] = {
            "depth": [size], "conf": [size], "points_cam": [(*size, 3)], "points_world": [(*size, 3)], "K": [(3, 3)],
            "world_from_cam": [(4, 4), (3, 4)], "cam_from_world": [(4, 4), (3, 4)], "crop": [(4,)], "size": [(2,)],
        }  # fmt: skip
        counts = (self.count,) if role in (*_MAPS, "conf") else (self.count, 1)  # one K, one pose of a still camera
        if shape[1:] not in ends[role] or shape[0] not in counts or 0 in shape or len(size) != 2:
            wanted = " or ".join(str((self.count, *end)) for end in ends[role]) if len(size) == 2 else "(frames, H, W)"
            found = self.file.shape(self.present[role])
            raise InputError(f"{self.file.path}: {self.present[role]} has the shape {found}; wanted {wanted}")

    def _array(self, role: Role, row: int) -> np.ndarray | None:
        if role not in self.present:
            return None
        name = self.present[role]
        values = self.file.array(name)
        if values.dtype.kind not in "fiu":
            raise InputError(f"{self.file.path}: {name} is of type {values.dtype}; wanted numbers")
        shape = self._shape(role)
        return np.array(values.reshape(shape)[row if shape[0] > 1 else 0], dtype=np.float64)

    def _shift(self) -> float:
        """Added to the principal point: what `pixel_centre` says."""
        if "pixel_centre" not in self.file.names or self.names.estimator != "dyn4d":
            return self.names.shift
        word = str(self.file.array("pixel_centre"))
        for start, shift in (("half-integer", 0.0), ("integer", 0.5)):
            if word.strip().lower().startswith(start):
                return shift
        text = f"{self.file.path}: pixel_centre is {word!r}; wanted it to begin with half-integer or integer"
        raise InputError(text)

    def __call__(self, row: int) -> EstimatedMap:
        """Raises `InputError` naming file, array and frame."""
        where = str(self.file.path) if self.count == 1 else f"{self.file.path}, map {row}"
        assert self.what is not None
        values, crop, size = self._array(self.what, row), self._array("crop", row), self._array("size", row)
        pose = self._array("world_from_cam", row)
        back = self._array("cam_from_world", row) if pose is None else None
        return EstimatedMap(
            where,
            depth=values if self.what == "depth" else None,
            points=None if self.what == "depth" else values,
            in_world=self.what == "points_world",
            conf=self._array("conf", row),
            K=checked_intrinsics(self._array("K", row), where, self._shift()),
            world_from_cam=checked_pose(back, where, inverse=True) if pose is None else checked_pose(pose, where),
            crop=None if crop is None else _box(crop, where),
            picture=None if size is None else (int(size[0]), int(size[1])),
        )


def _listed(names: Sequence[str]) -> str:
    return listed(names) or "nothing"


def checked_intrinsics(K: np.ndarray | None, where: str, shift: float = 0.0) -> np.ndarray | None:
    """K (3, 3) with half-integer centres; None where it is not there or not finite. Raises `InputError`."""
    if K is None or not np.isfinite(K).all():
        return None
    if K[0, 0] <= 0 or K[1, 1] <= 0 or np.abs(K[[1, 2, 2], [0, 0, 1]]).max() > 1e-6 or abs(K[2, 2] - 1) > 1e-6:
        raise InputError(f"{where}: K is no pinhole matrix; wanted [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels of "
                         "the map")  # fmt: skip
    if abs(K[0, 1]) > 1e-3 * K[0, 0]:
        raise InputError(f"{where}: K has skew ({K[0, 1]:g}); only cameras without are known here")
    out = np.eye(3)
    out[[0, 1], [0, 1]], out[:2, 2] = K[[0, 1], [0, 1]], K[:2, 2] + shift
    return out


def checked_pose(pose: np.ndarray | None, where: str, *, inverse: bool = False) -> np.ndarray | None:
    """world_from_cam (4, 4) of a (4, 4) or (3, 4) pose, or of its inverse; None where it is not there or not finite.
    The rotation is the nearest exact one. Raises `InputError` where it is far from any."""
    if pose is None or not np.isfinite(pose).all():
        return None
    left, _, right = np.linalg.svd(pose[:3, :3])
    rotation = left @ right
    off = float(np.abs(rotation - pose[:3, :3]).max())
    if off > _RIGID or np.linalg.det(rotation) < 0:
        raise InputError(f"{where}: the upper left 3x3 of the pose is no rotation (off by {off:.2g}); poses are rigid, "
                         "OpenCV axes")  # fmt: skip
    out = np.eye(4)
    out[:3, :3] = rotation.T if inverse else rotation
    out[:3, 3] = -rotation.T @ pose[:3, 3] if inverse else pose[:3, 3]
    return out


def _box(crop: np.ndarray, where: str) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(value) for value in crop)
    if not (np.isfinite(crop).all() and left < right and top < bottom):
        raise InputError(f"{where}: crop is {crop.tolist()}; wanted left, top, right, bottom in pixels of the picture")
    return left, top, right, bottom


# --------------------------------------------------------------------------------------------- finding


def find_pointmaps(clip_path: Path, named: str = "") -> Path | None:
    """The file or folder of a clip's maps: the one that is named (also relative to the clip folder), else
    `pointmaps.npz` or `pointmaps/` in the clip folder, else None. Raises `InputError` where a named one is not there.
    """
    if named:
        place = next((p for p in (Path(named), clip_path / named) if p.exists()), None)
        if place is None:
            raise InputError(f"--geometry.pointmaps {named} is not there; give an .npz, a folder of them or an "
                             "estimator's export")  # fmt: skip
        return place
    if not clip_path.is_dir():
        return None
    return next((clip_path / name for name in PLACES if (clip_path / name).exists()), None)


def open_pointmaps(path: Path, clip: Clip) -> EstimatedMaps:
    """The maps of a clip's selected frames, whatever the layout; only headers are read.

    Raises:
        InputError: unknown layout, a damaged file, wrong shapes, or maps that do not go with the frames.
    """
    from dyn4d.io.estimator_exports import find_export

    found = find_export(path)
    if found is not None:
        estimator, source, count, read = found
        return EstimatedMaps(source, estimator, clip.names, _in_order(source, count, clip), read)
    if path.is_file():
        stack = StackedMaps(NpzFile(path), ArrayNames())
        return EstimatedMaps(path, "dyn4d", clip.names, _in_order(path, len(stack), clip), stack)
    return _folder(path, clip)


def _in_order(source: Path, count: int, clip: Clip) -> tuple[int, ...]:
    """Maps are those of the whole clip, or of its selected frames."""
    if count == len(clip.timeline):
        return tuple(clip.frames.tolist())
    if count == len(clip):
        return tuple(range(count))
    selected = "" if len(clip) == len(clip.timeline) else f", {len(clip)} of them selected"
    raise InputError(
        f"{source} has {count} maps, the clip {len(clip.timeline)} frames{selected}; there has to be one for each frame"
    )


def _folder(folder: Path, clip: Clip) -> EstimatedMaps:
    files = list_files(folder, (".npz",))
    if not files:
        raise InputError(f"{folder} holds no maps: wanted .npz files with the names of the frames, or an export of "
                         "VGGT, Depth Anything 3, MonST3R or CUT3R")  # fmt: skip
    stems, names = by_stem(files), [composed(name) for name in clip.timeline.names]
    if not any(name in stems for name in names) and len(files) == len(names):  # a video's frames have no names
        stems = dict(zip(names, files))
    extra = [path.name for stem, path in stems.items() if stem not in set(names)]
    if extra:
        raise InputError(f"{folder / extra[0]} belongs to no frame of the clip ({names[0]} ... {names[-1]}); maps have "
                         "the names of the frames")  # fmt: skip
    paths = [stems.get(name) for name in names]

    def read(row: int) -> EstimatedMap:
        path = paths[row]
        assert path is not None
        stack = StackedMaps(NpzFile(path), ArrayNames())
        if len(stack) != 1:
            raise InputError(f"{path} has {len(stack)} maps; in a folder each file is one frame's")
        return stack(0)

    rows = tuple(row if paths[row] is not None else -1 for row in clip.frames.tolist())
    if max(rows) < 0:
        raise InputError(f"{folder} has maps of none of the selected frames, such as {clip.names[0]}.npz")
    return EstimatedMaps(folder, "dyn4d", clip.names, rows, read)
