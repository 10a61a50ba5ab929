"""One frame of a source, brought to the size and the straight lens of the clip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dyn4d.core.errors import InputError
from dyn4d.io.images import image_size, require_whole
from dyn4d.io.importers.lens import Lens, Straightener
from dyn4d.io.importers.options import Background
from dyn4d.io.importers.sequence import SourceFrame
from dyn4d.io.readers import resize_depth, resize_mask, resize_rgb

COPIED = frozenset({".png", ".jpg", ".jpeg"})
BACKGROUND: dict[Background, int] = {"white": 255, "black": 0, "grey": 128}


@dataclass(frozen=True)
class WriteRules:
    """`frames`: start:stop:step. `max_size`: longest side in pixels. `fps`: at most so many a second, of sources with
    times. `background`: behind pictures with alpha. `static`: the camera stands still, all poses are the identity."""

    frames: str | None = None
    max_size: int | None = None
    fps: float | None = None
    background: Background = "white"
    static: bool = False

    def __post_init__(self) -> None:
        if self.max_size is not None and self.max_size < 1:
            raise InputError(f"--max-size {self.max_size}: wanted at least 1 pixel")


@dataclass(frozen=True)
class ReadyFrame:
    """A frame as it is written. `copy`: the file that holds `rgb` as it is."""

    rgb: np.ndarray | None
    copy: Path | None
    mask: np.ndarray | None
    depth: np.ndarray | None
    depth_copy: Path | None
    lens: Lens | None
    width: int
    height: int


class FrameMaker:
    """Brings frames to the size and the straight lens of the clip. Maps of a lens are kept while it is the same."""

    def __init__(self, rules: WriteRules, *, alpha: bool) -> None:
        self.rules, self.alpha = rules, alpha
        self._straight: tuple[Lens, Straightener] | None = None

    def _straightener(self, lens: Lens, label: str) -> Straightener:
        if self._straight is None or self._straight[0] != lens:
            self._straight = lens, Straightener.of(lens, label)
        return self._straight[1]

    def make(self, frame: SourceFrame) -> ReadyFrame:
        """Read one frame. Raises `InputError` naming the file that cannot be used."""
        file = frame.rgb.file
        size = image_size(file) if file is not None else None
        rgb = frame.rgb.read() if size is None or not self._as_it_is(frame, size) else None
        if rgb is None and file is not None:
            require_whole(file)
        height, width = rgb.shape[:2] if rgb is not None else (size or (0, 0))[::-1]
        mask = self._mask(frame, rgb, width, height)
        if rgb is not None and rgb.shape[-1] == 4:
            rgb = self._flatten(rgb)
        depth, depth_copy = self._depth(frame, width, height)
        lens = None if frame.lens is None else frame.lens.scaled(width, height, frame.rgb.label)
        if lens is not None and not lens.plain:
            straight = self._straightener(lens, frame.rgb.label)
            assert rgb is not None
            rgb, lens = straight.rgb(rgb), straight.lens
            mask = None if mask is None else straight.mask(mask)
            depth = None if depth is None else straight.depth(depth)
        w, h = self._target(width, height)
        if (w, h) != (width, height):
            assert rgb is not None
            rgb = resize_rgb(rgb, w, h)
            mask = None if mask is None else resize_mask(mask, w, h)
            depth = None if depth is None else resize_depth(depth, w, h)
            lens = None if lens is None else lens.scaled(w, h, frame.rgb.label)
        return ReadyFrame(rgb, file if rgb is None else None, mask, depth, depth_copy, lens, w, h)

    def _target(self, width: int, height: int) -> tuple[int, int]:
        longest = max(width, height)
        if self.rules.max_size is None or longest <= self.rules.max_size:
            return width, height
        scale = self.rules.max_size / longest
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _as_it_is(self, frame: SourceFrame, size: tuple[int, int]) -> bool:
        """May the picture's file be copied? Not where something is to be done to it, EXIF included."""
        file = frame.rgb.file
        assert file is not None
        if self.alpha or file.suffix.lower() not in COPIED or self._target(*size) != size:
            return False
        if frame.lens is not None and not frame.lens.plain:
            return False
        with Image.open(file) as picture:
            plain = picture.mode in ("RGB", "L") and picture.info.get("transparency") is None
            return plain and Image.Image.getexif(picture).get(0x0112, 1) == 1

    def _mask(self, frame: SourceFrame, rgb: np.ndarray | None, width: int, height: int) -> np.ndarray | None:
        if frame.mask is None:
            return rgb[..., 3] > 127 if self.alpha and rgb is not None and rgb.shape[-1] == 4 else None
        mask = frame.mask.read()
        _check_shape(mask, width, height, frame.mask.label)
        return mask if mask.shape == (height, width) else resize_mask(mask, width, height)

    def _flatten(self, rgba: np.ndarray) -> np.ndarray:
        if not self.alpha:
            return np.ascontiguousarray(rgba[..., :3])
        share = rgba[..., 3:].astype(np.float32) / 255
        behind = np.float32(BACKGROUND[self.rules.background])
        return np.round(rgba[..., :3] * share + behind * (1 - share)).astype(np.uint8)

    def _depth(self, frame: SourceFrame, width: int, height: int) -> tuple[np.ndarray | None, Path | None]:
        if frame.depth is None:
            return None, None
        file = frame.depth.file
        plain = frame.lens is None or frame.lens.plain
        unchanged = plain and self._target(width, height) == (width, height)
        if file is not None and file.suffix.lower() == ".png" and unchanged and image_size(file) == (width, height):
            require_whole(file)
            return None, file
        depth = frame.depth.read()
        _check_shape(depth, width, height, frame.depth.label)
        return (depth if depth.shape == (height, width) else resize_depth(depth, width, height)), None


def _check_shape(values: np.ndarray, width: int, height: int, label: str) -> None:
    """Masks and depth may be coarser than the picture, but show the same."""
    h, w = values.shape[:2]
    if abs(w * height - h * width) > 0.02 * w * height:
        raise InputError(f"{label} is {w}x{h}, its picture {width}x{height}: another shape; make them the same")
