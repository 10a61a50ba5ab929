"""Pictures brought to a size that a pair network takes, and what happens to masks, K and pixel coordinates on the way.

The centre of the top-left pixel is (0.5, 0.5), so that every step is x' = scale · x + offset without any half pixels.
Sizes and filters are those the published networks were trained with (Pillow's LANCZOS to shrink, BICUBIC to enlarge).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.types import Camera
from dyn4d.matching.windows import mask_box

PATCH = 16
Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two exclusive


@dataclass(frozen=True)
class InputView:
    """A picture cut to `box`, resized to `resized` and cut to `crop`.

    Attributes:
        source: (width, height) of the picture it starts from.
        box: what is cut out of it, in its pixels.
        resized: (width, height) to which that is brought.
        crop: what is cut out of the result.
    """

    source: tuple[int, int]
    box: Box
    resized: tuple[int, int]
    crop: Box

    def __post_init__(self) -> None:
        for name, (left, top, right, bottom), (width, height) in (
            ("box", self.box, self.source),
            ("crop", self.crop, self.resized),
        ):
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                found = f"({left}, {top}, {right}, {bottom})"
                raise ValueError(f"InputView.{name}: {found} is not a window of {width} x {height} pixels")

    @property
    def width(self) -> int:
        return self.crop[2] - self.crop[0]

    @property
    def height(self) -> int:
        return self.crop[3] - self.crop[1]

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the view per pixel of the picture, along x and y; rounding makes them differ a little."""
        left, top, right, bottom = self.box
        return self.resized[0] / (right - left), self.resized[1] / (bottom - top)

    @property
    def offset(self) -> tuple[float, float]:
        """Where the picture's corner (0, 0) lies in the view."""
        return -self.box[0] * self.scale[0] - self.crop[0], -self.box[1] * self.scale[1] - self.crop[1]

    @property
    def matrix(self) -> Tensor:
        """(3, 3) float64: homogeneous pixels of the picture → pixels of the view."""
        (sx, sy), (ox, oy) = self.scale, self.offset
        return torch.tensor([[sx, 0, ox], [0, sy, oy], [0, 0, 1]], dtype=torch.float64)

    def to_view(self, xy: Tensor) -> Tensor:
        """Pixel coordinates (..., 2) of the picture → of the view; may lie outside it."""
        return xy * xy.new_tensor(self.scale) + xy.new_tensor(self.offset)

    def to_source(self, xy: Tensor) -> Tensor:
        """Pixel coordinates (..., 2) of the view → of the picture; the inverse of `to_view`."""
        return (xy - xy.new_tensor(self.offset)) / xy.new_tensor(self.scale)

    def inside(self, xy: Tensor) -> Tensor:
        """(...,) bool: do pixel coordinates (..., 2) of the picture lie in the view?"""
        at = self.to_view(xy)
        return ((at >= 0) & (at < at.new_tensor([self.width, self.height]))).all(-1)

    def K_to_view(self, K: Tensor) -> Tensor:
        """Intrinsics (..., 3, 3) of the picture → of the view."""
        return (self.matrix.to(K.device) @ K.double()).to(K.dtype)

    def K_to_source(self, K: Tensor) -> Tensor:
        """Intrinsics (..., 3, 3) of the view → of the picture."""
        (sx, sy), (ox, oy) = self.scale, self.offset
        back = torch.tensor([[1 / sx, 0, -ox / sx], [0, 1 / sy, -oy / sy], [0, 0, 1]], dtype=torch.float64)
        return (back.to(K.device) @ K.double()).to(K.dtype)

    def camera_to_view(self, camera: Camera) -> Camera:
        if (camera.width, camera.height) != self.source:
            raise ValueError(f"camera: {camera.width} x {camera.height}, the view is of {self.source} pixels")
        return replace(camera, K=self.K_to_view(camera.K), width=self.width, height=self.height)

    def image(self, image: np.ndarray) -> np.ndarray:
        """The view (height, width, 3) uint8 of the picture (H, W, 3) uint8."""
        self._check("image", image, (3,))
        if image.dtype != np.uint8:
            raise ValueError(f"image: wanted uint8, found {image.dtype}")
        left, top, right, bottom = self.box
        part = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
        shrinks = max(right - left, bottom - top) > max(self.resized)
        part = part.resize(self.resized, Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC)
        return np.asarray(part.crop(self.crop))

    def mask(self, mask: np.ndarray, mode: Literal["area", "nearest"] = "area") -> np.ndarray:
        """The view (height, width) bool of a mask (H, W) bool; no pixel of it rests on background.

        Args:
            mode: "area": True where the whole of the pixel is object; "nearest": where its centre is, which keeps
                parts thinner than a pixel of the view.
        """
        self._check("mask", mask, ())
        mask = mask.astype(bool)
        if mode == "nearest":
            columns = np.floor(self._edges(0, 0.5)[:-1]).astype(np.int64)
            rows = np.floor(self._edges(1, 0.5)[:-1]).astype(np.int64)
            return mask[rows[:, None], columns]
        if mode != "area":
            raise ValueError(f"mode: {mode!r}; wanted area or nearest")
        background = _integral(_integral((~mask).astype(np.float64), self._edges(1)).T, self._edges(0)).T
        return background < 1e-6  # of a pixel of the picture: less than any rounding of the edges

    def depth(self, depth: np.ndarray) -> np.ndarray:
        """The view (height, width) of a depth map (H, W): that at each pixel's centre, never a mixture of two."""
        self._check("depth", depth, ())
        columns = np.floor(self._edges(0, 0.5)[:-1]).astype(np.int64)
        rows = np.floor(self._edges(1, 0.5)[:-1]).astype(np.int64)
        return depth[rows[:, None], columns]

    def _edges(self, axis: int, shift: float = 0.0) -> np.ndarray:
        """(n + 1,) where the pixels of the view begin along x (0) or y (1), in pixels of the picture. Whole numbers are
        divided last, so that edges that fall on the picture's own are exact."""
        first, last = self.crop[axis], self.crop[axis + 2]
        length = self.box[axis + 2] - self.box[axis]
        return self.box[axis] + (np.arange(first, last + 1) + shift) * length / self.resized[axis]

    def _check(self, name: str, value: np.ndarray, trailing: tuple[int, ...]) -> None:
        wanted = (self.source[1], self.source[0], *trailing)
        if value.shape != wanted:
            raise ValueError(f"{name}: wanted shape {wanted}, found {value.shape}")


def _integral(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n, ...) what `values` (N, ...), constant on each unit cell, add up to between neighbouring `edges` (n + 1,)."""
    total = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    edges = edges.clip(0, len(values))
    cell = np.minimum(np.floor(edges).astype(np.int64), len(values) - 1)
    at = total[cell] + (edges - cell).reshape(-1, *[1] * (values.ndim - 1)) * values[cell]
    return np.diff(at, axis=0)


def fit_view(width: int, height: int, size: int = 512, *, square_ok: bool = False) -> InputView:
    """The view of a whole picture that the published networks take.

    Size 224: the short side becomes 224, and the central square is kept. Other sizes: the long side becomes `size`, and
    both sides are cut, evenly around the centre, to multiples of 16; of a square a quarter of the height goes too,
    unless `square_ok`.

    Args:
        width, height: of the picture. size: 224, or another multiple of 16.
    """
    if size < PATCH or size % PATCH:
        raise InputError(f"image size {size}: use a multiple of {PATCH}, such as 512")
    longest = max(width, height)
    target = round(size * longest / min(width, height)) if size == 224 else size
    across, down = (round(side * target / longest) for side in (width, height))
    cx, cy = across // 2, down // 2
    if size == 224:
        half_width = half_height = min(cx, cy)
    else:
        half_width, half_height = ((2 * c) // PATCH * PATCH // 2 for c in (cx, cy))
        if across == down and not square_ok:
            half_height = 3 * half_width // 4 // (PATCH // 2) * (PATCH // 2)
    if half_width == 0 or half_height == 0:
        raise InputError(
            f"a picture of {width} x {height} pixels is too long and thin: at size {size} its short side has less than "
            f"{PATCH} pixels; crop it first"
        )
    crop = (cx - half_width, cy - half_height, cx + half_width, cy + half_height)
    return InputView((width, height), (0, 0, width, height), (across, down), crop)


def full_view(width: int, height: int, size: int = 512) -> InputView:
    """The view of a whole picture with nothing cut off: the long side becomes `size`, the short one the multiple of 16
    that is nearest to its share. So x and y scale by up to a few percent differently (more at small sizes), and K says
    so; of a 16:9 picture at size 112 cutting would take a quarter.

    Args:
        width, height: of the picture. size: a multiple of 16.
    """
    if size < PATCH or size % PATCH:
        raise InputError(f"image size {size}: use a multiple of {PATCH}, such as 512")
    longest = max(width, height)
    across, down = (max(round(size * side / longest / PATCH), 1) * PATCH for side in (width, height))
    return InputView((width, height), (0, 0, width, height), (across, down), (0, 0, across, down))


def object_view(
    mask: np.ndarray, size: int = 512, *, margin: float = 0.1, square_ok: bool = False, thinnest: float = 5 / 16
) -> InputView:
    """The view of an object: its box and a margin, as large as the network takes, so that it fills what is looked at.

    Nothing of the object is cut off. The box is widened to a shape the networks know: the short side is between
    `thinnest` and 3/4 (1 with `square_ok`) of the long one, both multiples of 16, the long one `size`. Near the
    picture's edges the box is moved inwards; where the picture itself is too small, the view takes what there is.
    Rounding to whole pixels makes x and y scale a little differently, and K says so. An empty mask gives the whole
    picture.

    Args:
        mask: (H, W) bool, True = object. margin: on each side, as a share of the object's box.
    """
    if size < PATCH or size % PATCH:
        raise InputError(f"image size {size}: use a multiple of {PATCH}, such as 512")
    if not margin >= 0:
        raise InputError(f"margin {margin}: use a share of the object's size, from 0")
    height, width = mask.shape
    box = mask_box(np.asarray(mask, dtype=bool)) or (0, 0, width, height)
    sides = np.array([box[2] - box[0], box[3] - box[1]], dtype=np.float64) * (1 + 2 * margin)
    centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    target = _target(sides, size, square_ok, thinnest)
    wanted = np.ceil(target * (sides / target).max() - 1e-9).astype(np.int64)
    taken = np.minimum(wanted, [width, height])
    if (taken < wanted).any():  # the picture ends first: the shape of what there is, whatever it is
        short = max(round(size * int(taken.min()) / int(taken.max()) / PATCH), 1) * PATCH
        target = np.array([size, short] if taken[0] >= taken[1] else [short, size], dtype=np.int64)
    start = np.clip(np.floor(centre - taken / 2).astype(np.int64), 0, [width, height] - taken)
    # Rounding to whole pixels must not cut the box where there is no margin.
    start = np.clip(np.minimum(start, [box[0], box[1]]), 0, [width, height] - taken)
    left, top = (int(v) for v in start)
    right, bottom = left + int(taken[0]), top + int(taken[1])
    across, down = int(target[0]), int(target[1])
    return InputView((width, height), (left, top, right, bottom), (across, down), (0, 0, across, down))


def _target(sides: np.ndarray, size: int, square_ok: bool, thinnest: float) -> np.ndarray:
    """(2,) width and height of the view for a box with these sides."""
    ratio = float(sides.min() / sides.max())
    largest = size if square_ok else max(3 * size // 4 // PATCH, 1) * PATCH
    short = min(max(math.ceil(ratio * size / PATCH - 1e-9), math.ceil(thinnest * size / PATCH)) * PATCH, largest)
    return np.array([size, short] if sides[0] >= sides[1] else [short, size], dtype=np.int64)
