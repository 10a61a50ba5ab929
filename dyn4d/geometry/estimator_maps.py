"""An estimator's map brought to the clip's picture: where it lies in it, its depth at the picture's pixels, its trust.

Pixel centres are half-integer in the map and in the picture. A map covers a box of the picture, (left, top, right,
bottom) in its pixels; the box reaches beyond the picture where the estimator padded it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.geometry.depthmap import flying_pixels, joined
from dyn4d.matching.image_size import PATCH, fit_view

Box = tuple[float, float, float, float]
ConfidenceKind = Literal["unit", "above_one", "log"]

FLOOR = 1e-3  # no confidence is less: points that count for nothing are left out otherwise
VGGT_SIZE, VGGT_PATCH = 518, 14  # of what VGGT is shown
UNEVEN = 0.05  # how far the two scales of a map may differ before it is said


# ------------------------------------------------------------------------------- where the map lies


def map_box(size: tuple[int, int], picture: tuple[int, int], fit: str, estimator: str) -> tuple[Box, str]:
    """The box of the picture that a map covers, and a word on how it was found.

    Args:
        size: (width, height) of the map. picture: of the picture that the estimator was given.
        fit: "whole" (all of the picture), "crop" (its middle), "pad" (all of it and evenly more) or "auto": what the
            estimator is known to do, else the whole.

    Raises:
        InputError: `auto`, but the map has no size that the estimator would make of such a picture.
    """
    (w, h), (width, height) = size, picture
    whole = (0.0, 0.0, float(width), float(height))
    if fit in ("crop", "pad"):
        scale = (max if fit == "crop" else min)(w / width, h / height)
        return _centred(w / scale, h / scale, picture), f"{fit}, as asked for"
    if fit == "whole":
        return whole, "whole, as asked for"
    found = None
    if estimator == "VGGT":
        found = _vggt(size, picture)
    elif estimator in ("MonST3R", "CUT3R"):
        found = _dust3r(size, picture)
    if found is not None:
        return found
    uneven = abs(math.log(w / width * height / h))
    if estimator in ("VGGT", "MonST3R", "CUT3R") and uneven > UNEVEN:
        raise InputError(
            f"the {estimator} maps are {w}x{h}, which is not what it makes of {width}x{height} pictures; say how they "
            "lie in them with --geometry.pointmaps-fit whole, crop or pad"
        )
    return whole, "whole" + (f", though its shape differs by {math.expm1(uneven):.0%}" if uneven > UNEVEN else "")


def _centred(across: float, down: float, picture: tuple[int, int]) -> Box:
    left, top = (picture[0] - across) / 2, (picture[1] - down) / 2
    return left, top, left + across, top + down


def _vggt(size: tuple[int, int], picture: tuple[int, int]) -> tuple[Box, str] | None:
    """Its loader makes the picture 518 wide and cuts the middle out of what is then higher; or it makes the long side
    518 and pads the other. The other side becomes a multiple of 14."""
    width, height = picture

    def rounded(value: float) -> int:
        return round(value / VGGT_PATCH) * VGGT_PATCH

    tall = rounded(height * VGGT_SIZE / width)
    if size == (VGGT_SIZE, min(tall, VGGT_SIZE)):
        top = max(tall - VGGT_SIZE, 0) // 2 * height / tall
        box = (0.0, top, float(width), top + min(tall, VGGT_SIZE) * height / tall)
        return box, "the middle of it" if tall > VGGT_SIZE else "whole"
    if size != (VGGT_SIZE, VGGT_SIZE):
        return None
    inner = (VGGT_SIZE, tall) if width >= height else (rounded(width * VGGT_SIZE / height), VGGT_SIZE)
    sx, sy = width / inner[0], height / inner[1]
    left, top = (-((VGGT_SIZE - side) // 2) * scale for side, scale in zip(inner, (sx, sy)))
    return (left, top, left + VGGT_SIZE * sx, top + VGGT_SIZE * sy), "padded to a square"


def _dust3r(size: tuple[int, int], picture: tuple[int, int]) -> tuple[Box, str] | None:
    longest = max(size)
    for target, square_ok in ((longest, False), (longest, True)):
        if target % PATCH:
            continue
        try:
            view = fit_view(*picture, target, square_ok=square_ok)
        except InputError:
            continue
        if (view.width, view.height) == size:
            (sx, sy), (ox, oy) = view.scale, view.offset
            box = (-ox / sx, -oy / sy, (size[0] - ox) / sx, (size[1] - oy) / sy)
            return box, "whole" if view.crop == (0, 0, *view.resized) else "the middle of it"
    return None


@dataclass(frozen=True)
class Placement:
    """A map of `size` (width, height) that covers `box` of a picture of `picture` (width, height)."""

    size: tuple[int, int]
    box: Box
    picture: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the map per pixel of the picture."""
        left, top, right, bottom = self.box
        return self.size[0] / (right - left), self.size[1] / (bottom - top)

    @property
    def is_picture(self) -> bool:
        return self.size == self.picture and self.box == (0, 0, *self.picture)

    def K_to_picture(self, K: np.ndarray) -> np.ndarray:
        """Intrinsics (3, 3) of the map → of the picture."""
        (sx, sy), (left, top) = self.scale, self.box[:2]
        return np.array([[1 / sx, 0, left], [0, 1 / sy, top], [0, 0, 1]]) @ K

    def K_to_map(self, K: np.ndarray) -> np.ndarray:
        """Intrinsics (3, 3) of the picture → of the map."""
        (sx, sy), (left, top) = self.scale, self.box[:2]
        return np.array([[sx, 0, -left * sx], [0, sy, -top * sy], [0, 0, 1]]) @ K

    def to_picture(self, xy: np.ndarray) -> np.ndarray:
        """Pixel coordinates (..., 2) of the map → of the picture."""
        return xy / np.array(self.scale) + np.array(self.box[:2])

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the centres of the picture's columns and rows fall in the map, in pixels of the map."""
        (sx, sy), (left, top) = self.scale, self.box[:2]
        width, height = self.picture
        return (np.arange(width) + 0.5 - left) * sx, (np.arange(height) + 0.5 - top) * sy


# ------------------------------------------------------------------------------------ depth and trust


def usable_depth(depth: np.ndarray, trust: np.ndarray | None, least: float) -> np.ndarray:
    """(h, w) depth with 0 = none: not finite, not in front of the camera, or trusted less than `least`."""
    usable = np.isfinite(depth) & (depth > 0)
    if trust is not None and least > 0:
        usable &= trust >= least
    return np.where(usable, depth, 0.0)


def depth_to_picture(
    depth: np.ndarray, place: Placement, K: np.ndarray, max_slope_deg: float
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) float64 depth at the picture's pixels, 0 = none, and the map's flying pixels (h, w) bool, which go.

    Between pixels of one surface 1 / depth is interpolated, which is exact on a plane; beside a jump the nearest pixel
    counts, for a mean of both sides would invent a surface between them. Flying pixels go first: enlarged, they cannot
    be told from a surface. A map that already is the picture's is left as it is.

    Args:
        depth: (h, w), 0 = none. K: (3, 3) of the picture.
    """
    if place.is_picture:
        return depth, np.zeros(depth.shape, dtype=bool)
    K = place.K_to_map(K)
    focal, valid = float(np.sqrt(K[0, 0] * K[1, 1])), depth > 0
    flying = flying_pixels(depth, valid, focal, max_slope_deg)
    depth, valid = np.where(flying, 0.0, depth), valid & ~flying
    columns, rows = place.axes()
    (h, w) = depth.shape
    left, across = _lower(columns, w)
    top, down = _lower(rows, h)
    right, below = np.minimum(left + 1, w - 1), np.minimum(top + 1, h - 1)
    beside = joined(depth, valid, focal, max_slope_deg, dy=0, dx=1)
    under = joined(depth, valid, focal, max_slope_deg, dy=1, dx=0)
    # a single row or column has no neighbours, and none is needed
    beside, under = (beside if w > 1 else valid), (under if h > 1 else valid)
    smooth = beside[np.ix_(top, left)] & beside[np.ix_(below, left)]
    smooth &= under[np.ix_(top, left)] & under[np.ix_(top, right)]
    inverse = np.where(valid, 1 / np.where(valid, depth, 1.0), 0.0)
    upper = inverse[np.ix_(top, left)] * (1 - across) + inverse[np.ix_(top, right)] * across
    lower = inverse[np.ix_(below, left)] * (1 - across) + inverse[np.ix_(below, right)] * across
    mean = upper * (1 - down[:, None]) + lower * down[:, None]
    smooth &= mean > 0  # continued beyond the outermost pixels' centres it might not be
    near_column, near_row = _nearest(columns, w), _nearest(rows, h)
    out = np.where(smooth, 1 / np.where(smooth, mean, 1.0), depth[np.ix_(near_row, near_column)])
    inside = ((rows >= 0) & (rows < h))[:, None] & ((columns >= 0) & (columns < w))
    return np.where(inside, out, 0.0), flying


def _lower(position: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixel before each position and how far it is to the next; beyond the outermost centres the last pair is
    continued."""
    lower = np.clip(np.floor(position - 0.5), 0, max(count - 2, 0)).astype(np.int64)
    fraction = position - 0.5 - lower if count > 1 else np.zeros(len(position))
    return lower, fraction


def _nearest(position: np.ndarray, count: int) -> np.ndarray:
    return np.clip(np.floor(position), 0, count - 1).astype(np.int64)


def count_inside(pixels: np.ndarray, place: Placement, mask: np.ndarray) -> int:
    """How many of the map's pixels (h, w) bool have their centres in the picture's mask (H, W)."""
    row, column = np.nonzero(pixels)
    x, y = np.floor(place.to_picture(np.stack([column, row], -1) + 0.5)).astype(np.int64).T
    seen = (x >= 0) & (x < mask.shape[1]) & (y >= 0) & (y < mask.shape[0])
    return int(mask[y[seen], x[seen]].sum())


def sample_trust(trust: np.ndarray, place: Placement, xy: np.ndarray) -> np.ndarray:
    """(N,) trust of the map's nearest pixel at pixels `xy` (N, 2) of the picture."""
    at = (xy - np.array(place.box[:2])) * np.array(place.scale)
    return trust[_nearest(at[:, 1], trust.shape[0]), _nearest(at[:, 0], trust.shape[1])]


def confidence_kind(low: float, high: float) -> ConfidenceKind:
    """How an estimator counts confidence, by the range of a whole clip's: up to 1; from 1 up, as DUSt3R and those
    after it do; or, where it goes from below 1 to above, the logarithm of the latter."""
    if high <= 1:
        return "unit"
    return "above_one" if low >= 1 - 1e-3 else "log"


def trust_of(conf: np.ndarray, kind: str) -> np.ndarray:
    """Confidence in (0, 1], a rising function of the estimator's own c.

    `above_one`: 1 - 1/c. Such estimators are trained on c · error - α log c, which is least at c = α / error: 1/c is
    the error that they expect, and c = 1 says nothing. `log`: the same of exp(c). `unit`: c itself. What is not finite
    counts least.
    """
    c = np.where(np.isfinite(conf), conf, 0.0)
    if kind == "above_one":
        c = 1 - 1 / np.maximum(c, 1)
    elif kind == "log":
        c = -np.expm1(-np.maximum(c, 0))
    return np.clip(c, FLOOR, 1.0)
