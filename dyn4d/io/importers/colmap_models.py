"""COLMAP sparse models with distortion, binary or text: cameras and images. Format: colmap.github.io/format.html.

Poses are camera from world with OpenCV's axes, quaternions wxyz, pixel centres half-integer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io.colmap import ModelBytes
from dyn4d.io.importers.lens import Lens
from dyn4d.io.importers.sequence import from_quaternion, inverse

MODELS = {  # id: name, number of parameters
    0: ("SIMPLE_PINHOLE", 3), 1: ("PINHOLE", 4), 2: ("SIMPLE_RADIAL", 4), 3: ("RADIAL", 5), 4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8), 6: ("FULL_OPENCV", 12), 7: ("FOV", 5), 8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5), 10: ("THIN_PRISM_FISHEYE", 12), 11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
}  # fmt: skip
COUNTS = dict(MODELS.values())
READ = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")


@dataclass(frozen=True)
class ModelImage:
    """A registered image. `name`: its path below the folder of pictures."""

    name: str
    lens: Lens
    world_from_cam: np.ndarray


def make_lens(model: str, width: int, height: int, values: list[float], where: str) -> Lens:
    """The lens of COLMAP's parameters. Raises `InputError` for fisheye and other models."""
    if model not in READ:
        raise InputError(
            f"{where} is of model {model}; wanted one of {', '.join(READ)}. COLMAP's image_undistorter makes PINHOLE "
            "pictures and a model of them"
        )
    if len(values) != COUNTS[model] or not np.isfinite(values).all() or min(values[0], width, height) <= 0:
        raise InputError(f"{where}: {values} are no parameters of {model}")
    if model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
        fx, fy, cx, cy, rest = values[0], values[0], values[1], values[2], values[3:]
        radial, tangential = [*rest, *[0.0] * (6 - len(rest))], (0.0, 0.0)
    else:
        fx, fy, cx, cy, rest = *values[:4], values[4:]
        k1, k2, p1, p2, *more = [*rest, *[0.0] * (8 - len(rest))]
        radial, tangential = [k1, k2, *more], (p1, p2)
    return Lens(width, height, fx, fy, cx, cy, 0.0, tuple(radial), tangential)


def model_kind(folder: Path) -> str | None:
    """ "bin", "txt", or None where there is no model."""
    for kind in ("bin", "txt"):
        if (folder / f"cameras.{kind}").is_file() and (folder / f"images.{kind}").is_file():
            return kind
    return None


def read_images(folder: Path) -> list[ModelImage]:
    """The registered images of a model.

    Raises:
        InputError: no model, a damaged file, a camera of another kind; names the file.
    """
    kind = model_kind(folder)
    if kind is None:
        raise InputError(f"{folder} holds no COLMAP model; wanted cameras.bin and images.bin, or .txt")
    return _read_binary(folder) if kind == "bin" else _read_text(folder)


def _read_binary(folder: Path) -> list[ModelImage]:
    file = ModelBytes(folder / "cameras.bin")
    try:
        lenses = {}
        for _ in range(file.take("Q")[0]):
            identifier, model, width, height = file.take("iiQQ")
            if model not in MODELS:
                raise InputError(f"{file.path}: camera {identifier} is of the unknown model {model}")
            name, count = MODELS[model]
            where = f"{file.path}: camera {identifier}"
            lenses[identifier] = make_lens(name, width, height, list(file.take(f"{count}d")), where)
        file = ModelBytes(folder / "images.bin")
        images = []
        for _ in range(file.take("Q")[0]):
            identifier, *values, camera = file.take("i7di")
            name = file.text()
            file.skip(file.take("Q")[0] * 24)
            images.append(_image(name, values, lenses.get(camera), f"{file.path}: image {identifier}"))
    except (struct.error, ValueError, UnicodeDecodeError, OverflowError) as error:
        raise InputError(f"{file.path} is damaged or cut short ({error}); write or copy it again") from error
    return images


def _image(name: str, values: list[float], lens: Lens | None, where: str) -> ModelImage:
    if lens is None:
        raise InputError(f"{where} ({name}) has a camera that the model does not list")
    return ModelImage(name, lens, inverse(from_quaternion(values[:4], values[4:], where)))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from error
    return [line for line in text.splitlines() if not line.startswith("#")]


def _read_text(folder: Path) -> list[ModelImage]:
    path = folder / "cameras.txt"
    lenses = {}
    row = ""
    try:
        for row in filter(str.strip, _lines(path)):
            identifier, model, width, height, *values = row.split()
            where = f"{path}: camera {identifier}"
            lenses[int(identifier)] = make_lens(model, int(width), int(height), [float(v) for v in values], where)
        path = folder / "images.txt"
        lines, images, at = _lines(path), [], 0
        while at < len(lines):
            row = lines[at]
            if not row.strip():
                at += 1
                continue
            identifier, *values = row.split(maxsplit=9)[:8]
            camera, name = row.split(maxsplit=9)[8:]
            pose = [float(v) for v in values]
            images.append(_image(name.strip(), pose, lenses.get(int(camera)), f"{path}: image {identifier}"))
            at += 2  # the second line holds the points, and may be empty
    except ValueError as error:
        raise InputError(f"{path}: the line {row[:80]!r} is no {path.stem[:-1]} of a COLMAP model") from error
    return images
