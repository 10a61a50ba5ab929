"""COLMAP sparse models in their binary form: cameras.bin, images.bin, points3D.bin.

COLMAP's own conventions are ours: OpenCV axes, half-integer pixel centres, poses as world -> camera, quaternions
wxyz. Format: colmap.github.io/format.html. Cameras are PINHOLE, so a skew in K is lost.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dyn4d.core.errors import InputError
from dyn4d.core.rotations import matrix_to_wxyz, wxyz_to_matrix
from dyn4d.core.types import Camera
from dyn4d.io.atomic import atomic_folder

_PINHOLE = 1
# model id -> number of parameters; those beyond the pinhole ones are distortion
_PARAMETERS = {0: 3, 1: 4, 2: 4, 3: 5, 4: 8, 5: 8, 6: 12}
_POINT2D = np.dtype([("xy", "<f8", 2), ("point", "<i8")])


@dataclass(frozen=True)
class Observations:
    """Which image saw which point where.

    Attributes:
        point: (O,) row of the points. image: (O,) row of the images. xy: (O, 2) px.
    """

    point: np.ndarray
    image: np.ndarray
    xy: np.ndarray


@dataclass(frozen=True)
class ColmapModel:
    """A sparse model as read, images in the order of their names' ids.

    Attributes:
        camera: I cameras, float64. names: I file names. xyz: (P, 3) float64. rgb: (P, 3) uint8.
    """

    camera: Camera
    names: tuple[str, ...]
    xyz: np.ndarray
    rgb: np.ndarray


def write_model(
    folder: str | Path,
    camera: Camera,
    names: Sequence[str],
    *,
    xyz: np.ndarray,
    rgb: np.ndarray,
    observations: Observations | None = None,
) -> None:
    """Write a sparse model; images whose pose is unknown are left out. The folder appears whole or not at all.

    Args:
        folder: where the three files go; replaced.
        camera: one camera an image. names: their file names.
        xyz: (P, 3) world. rgb: (P, 3) uint8, or float in [0, 1].
        observations: tracks of the points; those of images left out are dropped.
    """
    if len(camera) != len(names) or len(xyz) != len(rgb):
        raise ValueError(
            f"write_model: {len(camera)} cameras, {len(names)} names; {len(xyz)} points, {len(rgb)} colours"
        )
    seen = observations or Observations(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))
    registered = camera.registered.cpu().numpy()
    keep = registered[seen.image]
    seen = Observations(np.asarray(seen.point)[keep], np.asarray(seen.image)[keep], np.asarray(seen.xy)[keep])
    K = camera.K.detach().double().cpu().numpy()
    # All pictures of one real camera share one entry; per-frame intrinsics get one each.
    shared = len(K) > 0 and bool((K[0] == K).all())
    with atomic_folder(folder) as out:
        (out / "cameras.bin").write_bytes(_cameras_bytes(K[:1] if shared else K, camera.width, camera.height))
        images, slots = _images_bytes(camera, names, seen, registered, shared)
        (out / "images.bin").write_bytes(images)
        (out / "points3D.bin").write_bytes(_points_bytes(np.asarray(xyz), np.asarray(rgb), seen, slots))


def _cameras_bytes(K: np.ndarray, width: int, height: int) -> bytes:
    parts = [struct.pack("<Q", len(K))]
    for i, k in enumerate(K):
        parts.append(struct.pack("<iiQQ4d", i + 1, _PINHOLE, width, height, k[0, 0], k[1, 1], k[0, 2], k[1, 2]))
    return b"".join(parts)


def _images_bytes(
    camera: Camera, names: Sequence[str], seen: Observations, registered: np.ndarray, shared: bool
) -> tuple[bytes, np.ndarray]:
    """images.bin, and for every observation its place (O,) in its image's list."""
    pose = camera.cam_from_world.detach().double().cpu()
    order = np.argsort(seen.image, kind="stable")
    starts = np.searchsorted(seen.image[order], np.arange(len(names) + 1))
    slots = np.empty(len(order), dtype=np.int32)
    parts = [struct.pack("<Q", int(registered.sum()))]
    for row in np.flatnonzero(registered):
        mine = order[starts[row] : starts[row + 1]]
        slots[mine] = np.arange(len(mine))
        quaternion = matrix_to_wxyz(pose[row, :3, :3]).tolist()
        identifier = 1 if shared else int(row) + 1
        parts.append(struct.pack("<i7di", int(row) + 1, *quaternion, *pose[row, :3, 3].tolist(), identifier))
        points = np.empty(len(mine), dtype=_POINT2D)
        points["xy"], points["point"] = seen.xy[mine], seen.point[mine] + 1
        parts += [names[int(row)].encode() + b"\0", struct.pack("<Q", len(mine)), points.tobytes()]
    return b"".join(parts), slots


def _points_bytes(xyz: np.ndarray, rgb: np.ndarray, seen: Observations, slots: np.ndarray) -> bytes:
    if rgb.dtype != np.uint8:
        rgb = np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
    order = np.argsort(seen.point, kind="stable")
    lengths = np.bincount(seen.point, minlength=len(xyz)) if len(seen.point) else np.zeros(len(xyz), np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    parts = [struct.pack("<Q", len(xyz))]
    for length in np.unique(lengths):  # records of one length are one array: no loop over points
        rows = np.flatnonzero(lengths == length)
        kind = [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("length", "<u8")]
        records = np.zeros(len(rows), dtype=[*kind, ("track", "<i4", (int(length), 2))])
        records["id"], records["xyz"], records["rgb"] = rows + 1, xyz[rows], rgb[rows]
        records["length"] = length
        if length:
            which = order[starts[rows][:, None] + np.arange(length)]
            records["track"][..., 0] = seen.image[which] + 1
            records["track"][..., 1] = slots[which]
        parts.append(records.tobytes())
    return b"".join(parts)


class ModelBytes:
    """A file's bytes, read from front to back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InputError(f"{path} is not there; a COLMAP model is cameras.bin, images.bin and points3D.bin")
        self.data = path.read_bytes()
        self.at = 0

    def take(self, layout: str) -> tuple:
        size = struct.calcsize("<" + layout)
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += size
        return values

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise struct.error("past the end")

    def text(self) -> str:
        end = self.data.index(b"\0", self.at)
        value = self.data[self.at : end].decode()
        self.at = end + 1
        return value


def read_model(folder: str | Path) -> ColmapModel:
    """Read a binary sparse model of pinhole cameras that share one size.

    Raises:
        InputError: a file is missing or damaged, cameras are distorted or of several sizes; names the file.
    """
    folder = Path(folder)
    files = [ModelBytes(folder / name) for name in ("cameras.bin", "images.bin", "points3D.bin")]
    current = files[0]
    try:
        intrinsics, size = _read_cameras(files[0])
        current = files[1]
        K, poses, names = _read_images(files[1], intrinsics)
        current = files[2]
        xyz, rgb = _read_points(files[2])
    except (struct.error, ValueError, KeyError, UnicodeDecodeError, MemoryError) as error:
        raise InputError(f"{current.path} is damaged or cut short ({error}); write or copy it again") from error
    camera = Camera(torch.from_numpy(K), torch.from_numpy(poses), *size)
    return ColmapModel(camera, names, xyz, rgb)


def _read_cameras(file: ModelBytes) -> tuple[dict[int, np.ndarray], tuple[int, int]]:
    intrinsics: dict[int, np.ndarray] = {}
    sizes = set()
    for _ in range(file.take("Q")[0]):
        identifier, model, width, height = file.take("iiQQ")
        if model not in _PARAMETERS:
            raise InputError(f"{file.path}: camera {identifier} is of model {model}; undistort to PINHOLE first")
        parameters = file.take(f"{_PARAMETERS[model]}d")
        single = model in (0, 2, 3)
        focal, centre = ((parameters[0],) * 2, parameters[1:3]) if single else (parameters[:2], parameters[2:4])
        if any(parameters[3 if single else 4 :]):
            raise InputError(f"{file.path}: camera {identifier} is distorted; run COLMAP's image_undistorter first")
        intrinsics[identifier] = np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1.0]])
        sizes.add((width, height))
    if len(sizes) > 1:
        raise InputError(f"{file.path} has cameras of {len(sizes)} sizes; all frames of a clip need one size")
    return intrinsics, sizes.pop() if sizes else (1, 1)


def _read_images(file: ModelBytes, intrinsics: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    found = []
    for _ in range(file.take("Q")[0]):
        identifier, *numbers, camera = file.take("i7di")
        name = file.text()
        file.skip(file.take("Q")[0] * _POINT2D.itemsize)
        found.append((identifier, numbers, camera, name))
    found.sort(key=lambda image: image[0])
    K, poses = np.empty((len(found), 3, 3)), np.tile(np.eye(4), (len(found), 1, 1))
    for row, (_, numbers, camera, _) in enumerate(found):
        K[row] = intrinsics[camera]
        rotation = wxyz_to_matrix(torch.tensor(numbers[:4], dtype=torch.float64)).numpy().T
        poses[row, :3, :3] = rotation
        poses[row, :3, 3] = -rotation @ np.array(numbers[4:])
    return K, poses, tuple(name for *_, name in found)


def _read_points(file: ModelBytes) -> tuple[np.ndarray, np.ndarray]:
    count = file.take("Q")[0]
    if count * 43 > len(file.data):  # a damaged count must not ask for all memory
        raise ValueError(f"{count} points do not fit {len(file.data)} bytes")
    identifiers, xyz, rgb = np.empty(count, np.int64), np.empty((count, 3)), np.empty((count, 3), np.uint8)
    for row in range(count):
        values = file.take("Q3d3BdQ")
        identifiers[row], xyz[row], rgb[row] = values[0], values[1:4], values[4:7]
        file.skip(values[8] * 8)
    order = np.argsort(identifiers, kind="stable")
    return xyz[order], rgb[order]
