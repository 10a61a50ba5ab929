"""Animated GIFs: small, and shown by everything."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from dyn4d.io.atomic import atomic_path

MOST_SIDE = 480  # px: GIFs are for pages and messages; larger ones take many times the room of a video
MOST_FPS = 50.0  # viewers slow down pictures that are shown for less than 1/50 s


def gif_durations(count: int, fps: float) -> list[int]:
    """Milliseconds of each of `count` pictures, in the format's steps of 10, without drifting from `fps`."""
    ends = [round(100 * i / fps) for i in range(count + 1)]
    return [10 * max(1, b - a) for a, b in pairwise(ends)]


def write_gif(path: str | Path, frames: Iterable[np.ndarray], count: int, fps: float, longest: int = MOST_SIDE) -> None:
    """Write `count` pictures (H, W, 3) uint8 as a looping GIF, made smaller to `longest` pixels where they are larger.

    Above `MOST_FPS` every second, third, ... picture is left out, so that the time stays true. Equal neighbours become
    one picture that is shown longer.

    Raises:
        ValueError: no pictures. RunError: the file cannot be written.
    """
    step = max(1, math.ceil(fps / MOST_FPS))
    kept = -(-count // step)
    small = (_small(frame, longest) for i, frame in enumerate(frames) if i % step == 0)
    first = next(small, None)
    if first is None:
        raise ValueError(f"write_gif: {path}: no pictures")
    with atomic_path(path) as temporary:
        first.save(
            temporary, format="GIF", save_all=True, append_images=small, loop=0, disposal=1,
            duration=gif_durations(kept, fps / step),
        )  # fmt: skip


def _small(frame: np.ndarray, longest: int) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(frame))
    ratio = longest / max(picture.size)
    if ratio < 1:
        size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
