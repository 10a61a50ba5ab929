"""Tiny recordings and data sets in other programs' formats, written from their public definitions alone.

Nothing here uses dyn4d: the formulas say where each format's own camera sees a point.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
POINTS = np.array([[0.0, 0.0, 0.0], [0.3, -0.2, 0.1], [-0.25, 0.15, 0.3], [0.1, 0.28, -0.2]])
WIDE = 1.8 * POINTS  # towards the edges of the pictures, where distortion shows
EYES = np.array([[2.0, 0.3, 0.6], [1.8, 0.9, 0.5], [1.5, 1.3, 0.7], [1.1, 1.6, 0.4], [0.6, 1.9, 0.6]])


def save(path: Path, values: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def picture(index: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    v, u = np.mgrid[0:height, 0:width]
    return np.stack([np.full_like(u, 30 * index % 256), u * 255 // width, v * 255 // height], -1).astype(np.uint8)


def disc(width: int = WIDTH, height: int = HEIGHT, index: int = 0) -> np.ndarray:
    v, u = np.mgrid[0:height, 0:width]
    return (u - width / 2 - index) ** 2 + (v - height / 2) ** 2 < (height / 3) ** 2


def dots(pixels: np.ndarray, width: int, height: int, sigma: float = 1.0) -> np.ndarray:
    """A picture with a bright spot at each place (N, 2), counted from the corner of the first pixel."""
    v, u = np.mgrid[0:height, 0:width] + 0.5
    out = np.zeros((height, width))
    for x, y in pixels:
        out = np.maximum(out, np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2)))
    return np.repeat(np.round(255 * out).astype(np.uint8)[..., None], 3, axis=2)


def centre_of_dot(image: np.ndarray, near: np.ndarray, reach: float = 4.0) -> np.ndarray:
    """Where the spot near a place is, to a hundredth of a pixel."""
    grey = image[..., 0].astype(float)
    v, u = np.mgrid[0 : grey.shape[0], 0 : grey.shape[1]] + 0.5
    grey = np.where(np.hypot(u - near[0], v - near[1]) < reach, grey, 0)
    return np.array([(grey * u).sum(), (grey * v).sum()]) / grey.sum()


def opengl_pose(eye: np.ndarray, up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> np.ndarray:
    """Camera to world with OpenGL's axes (x right, y up, z backwards), looking at the origin."""
    back = eye / np.linalg.norm(eye)
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    out = np.eye(4)
    out[:3] = np.stack([right, np.cross(back, right), back, eye], axis=1)
    return out


def opencv_w2c(eye: np.ndarray) -> np.ndarray:
    """World to camera with OpenCV's axes (x right, y down, z forward), looking at the origin."""
    pose = opengl_pose(eye)
    pose[:3, 1:3] *= -1
    return np.linalg.inv(pose)


def brown(x: float, y: float, k: tuple[float, ...], p: tuple[float, float]) -> tuple[float, float]:
    """Brown's distortion with OpenCV's names, k1 k2 k3 and p1 p2, as OpenCV's and COLMAP's manuals have it."""
    r2 = x * x + y * y
    radial = 1 + k[0] * r2 + k[1] * r2**2 + (k[2] if len(k) > 2 else 0) * r2**3
    return (
        x * radial + 2 * p[0] * x * y + p[1] * (r2 + 2 * x * x),
        y * radial + p[0] * (r2 + 2 * y * y) + 2 * p[1] * x * y,
    )


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """w x y z of a rotation, by the axis and angle of it."""
    from scipy.spatial.transform import Rotation

    return np.roll(Rotation.from_matrix(matrix).as_quat(), 1)


# ----------------------------------------------------------------------------------------------- COLMAP

IDS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "RADIAL": 3, "OPENCV": 4, "OPENCV_FISHEYE": 5,
       "FULL_OPENCV": 6}  # fmt: skip


def write_colmap(
    folder: Path, kind: str, model: str, params: list[float], names: list[str], poses: list[np.ndarray],
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> None:  # fmt: skip
    """A model of one camera, from colmap.github.io/format.html; every image has one point that is in no track."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "txt":
        numbers = " ".join(map(repr, params))
        (folder / "cameras.txt").write_text(f"# a comment\n7 {model} {size[0]} {size[1]} {numbers}\n")
        lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME", "# POINTS2D[] as (X, Y, POINT3D_ID)"]
        for row, (name, w2c) in enumerate(zip(names, poses)):
            values = " ".join(map(repr, map(float, [*quaternion(w2c[:3, :3]), *w2c[:3, 3]])))
            lines += [f"{row + 1} {values} 7 {name}", "1.5 2.5 -1" if row else ""]
        (folder / "images.txt").write_text("\n".join(lines) + "\n")
        (folder / "points3D.txt").write_text("# none\n")
        return
    body = struct.pack("<Q", 1) + struct.pack(f"<iiQQ{len(params)}d", 7, IDS[model], *size, *params)
    (folder / "cameras.bin").write_bytes(body)
    body = struct.pack("<Q", len(names))
    for row, (name, w2c) in enumerate(zip(names, poses)):
        body += struct.pack("<i7di", row + 1, *quaternion(w2c[:3, :3]), *w2c[:3, 3], 7) + name.encode() + b"\0"
        body += struct.pack("<Q", 1) + struct.pack("<ddq", 1.5, 2.5, -1)
    (folder / "images.bin").write_bytes(body)
    (folder / "points3D.bin").write_bytes(struct.pack("<Q", 0))
