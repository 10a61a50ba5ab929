"""Small clips written by hand for the tests of reading them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 24, 18
K = [[30.0, 0.0, 12.0], [0.0, 31.0, 9.0], [0.0, 0.0, 1.0]]


def frame(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A smooth picture whose red channel says which frame it is."""
    v, u = np.mgrid[0:height, 0:width]
    return np.stack([np.full_like(u, 20 * index % 256), u * 255 // width, v * 255 // height], -1).astype(np.uint8)


def disc(index: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    v, u = np.mgrid[0:height, 0:width]
    return (u - width / 2 - index) ** 2 + (v - height / 2) ** 2 < (min(width, height) / 3) ** 2


def save(path: Path, values: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def pose(index: int) -> np.ndarray:
    """w2c of a camera that turns about the vertical and moves."""
    c, s = np.cos(0.1 * index), np.sin(0.1 * index)
    out = np.eye(4)
    out[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    out[:3, 3] = [0.1 * index, -0.2, 2.0]
    return out


def cameras(count: int, **changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "width": WIDTH, "height": HEIGHT, "K": K, "depth_div": 1000, "fps": 10,
        "frames": [{"index": i, "rgb": f"rgb/{i:05d}.png", "w2c": pose(i).tolist()} for i in range(count)],
    }  # fmt: skip
    data.update(changes)
    return {key: value for key, value in data.items() if value is not None}


def write_cameras_file(folder: Path, data: dict[str, Any]) -> None:
    (folder / "cameras.json").write_text(json.dumps(data))


def make_clip(
    folder: Path, count: int = 4, *, depth: bool = True, camera: dict[str, Any] | None = None, masks: bool = True
) -> Path:
    """A whole clip folder; `camera={}` leaves cameras.json out."""
    for i in range(count):
        save(folder / f"rgb/{i:05d}.png", frame(i))
        if masks:
            save(folder / f"mask/{i:05d}.png", disc(i).astype(np.uint8) * 255)
        if depth:
            save(folder / f"depth/{i:05d}.png", np.where(disc(i), 2000 + i, 0).astype(np.uint16))
    if camera != {}:
        write_cameras_file(folder, camera or cameras(count))
    return folder
