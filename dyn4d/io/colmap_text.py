"""COLMAP sparse models as text: cameras.txt, images.txt, points3D.txt. Conventions as in `colmap`, to full precision.

Format: colmap.github.io/format.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dyn4d.core.rotations import matrix_to_wxyz
from dyn4d.core.types import Camera
from dyn4d.io.atomic import atomic_folder
from dyn4d.io.colmap import Observations
from dyn4d.io.meshes import as_bytes


def write_model_text(
    folder: str | Path, camera: Camera, names: Sequence[str], *, xyz: np.ndarray, rgb: np.ndarray,
    observations: Observations | None = None,
) -> None:  # fmt: skip
    """Write what `colmap.write_model` writes, with the same numbers of cameras, images and points, as text.

    Args:
        camera: one an image; those without a pose are left out. names: file names of the images.
        xyz: (P, 3) world. rgb: (P, 3) uint8, or float in [0, 1]. observations: which image saw which point where.
    """
    if len(camera) != len(names) or len(xyz) != len(rgb):
        raise ValueError(
            f"write_model_text: {len(camera)} cameras, {len(names)} names; {len(xyz)} points, {len(rgb)} colours"
        )
    seen = observations or Observations(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))
    registered = camera.registered.cpu().numpy()
    keep = registered[np.asarray(seen.image, np.int64)]
    point, image = np.asarray(seen.point)[keep], np.asarray(seen.image)[keep]
    K = camera.K.detach().double().cpu().numpy()
    shared = len(K) > 0 and bool((K[0] == K).all())
    images, slots = _images(camera, names, Observations(point, image, np.asarray(seen.xy)[keep]), registered, shared)
    colours = rgb if rgb.dtype == np.uint8 else as_bytes(rgb)
    with atomic_folder(folder) as out:
        _write(out / "cameras.txt", _cameras(K[:1] if shared else K, camera.width, camera.height))
        _write(out / "images.txt", images)
        _write(out / "points3D.txt", _points(xyz, colours, point, image, slots))


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in values)


def _cameras(K: np.ndarray, width: int, height: int) -> list[str]:
    lines = ["# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]"]
    for i, k in enumerate(K):
        lines.append(f"{i + 1} PINHOLE {width} {height} {_numbers([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])}")
    return lines


def _images(
    camera: Camera, names: Sequence[str], seen: Observations, registered: np.ndarray, shared: bool
) -> tuple[list[str], np.ndarray]:
    """Two lines an image, and for every observation its place (O,) in its image's list."""
    pose = camera.cam_from_world.detach().double().cpu()
    order = np.argsort(seen.image, kind="stable")
    starts = np.searchsorted(seen.image[order], np.arange(len(names) + 1))
    slots = np.empty(len(order), np.int64)
    lines = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", "# X Y POINT3D_ID ..."]
    for row in np.flatnonzero(registered).tolist():
        mine = order[starts[row] : starts[row + 1]]
        slots[mine] = np.arange(len(mine))
        turn = _numbers(matrix_to_wxyz(pose[row, :3, :3]).tolist())
        lines.append(f"{row + 1} {turn} {_numbers(pose[row, :3, 3].tolist())} {1 if shared else row + 1} {names[row]}")
        lines.append(" ".join(f"{_numbers(seen.xy[one])} {seen.point[one] + 1}" for one in mine))
    return lines, slots


def _points(xyz: np.ndarray, rgb: np.ndarray, point: np.ndarray, image: np.ndarray, slots: np.ndarray) -> list[str]:
    tracks: list[list[str]] = [[] for _ in range(len(xyz))]
    for one in np.argsort(point, kind="stable").tolist():
        tracks[int(point[one])].append(f"{image[one] + 1} {slots[one]}")
    lines = ["# POINT3D_ID X Y Z R G B ERROR TRACK[] as (IMAGE_ID POINT2D_IDX)"]
    for row, (place, colour, track) in enumerate(zip(xyz, rgb.tolist(), tracks)):
        lines.append(" ".join([f"{row + 1} {_numbers(place)}", *map(str, colour), "0", *track]))
    return lines
