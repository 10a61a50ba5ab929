"""Canonical views: all that the pairs of a frame say of its shape, as one pointmap in the frame's own camera.

The confidence-weighted mean of a frame's pointmaps, and for each pixel the ratio of its depth to that of an anchor, one
per block of pixels; the alignment moves the anchors, and the pixels follow (Duisterhof et al., MASt3R-SfM, 2024).

Only pixels that count exist here: a block without any has no anchor, and an anchor is always a pixel of its own block.
An observation (one pixel in one pair) that cannot be used has weight exactly 0 and takes nothing from the same pixel's
other observations. Lengths are those of the pairs' pointmaps; OpenCV axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dyn4d.core.checks import check_shape
from dyn4d.geometry.pair_results import PairFrame, PairResults

RatioMode = Literal["avg-angle", "avg-reldepth"]

CONF_OFFSET = 0.999  # the weight of an observation is its confidence less this; a network's confidences are above 1
LARGEST = 1e30  # of coordinates, 1 / depth and confidences: products of such numbers are finite in float64
SLACK = (
    2.0  # a mean ratio may leave the range of the pairs' own ratios, as these have scales of their own, but not more
)


@dataclass(frozen=True)
class CanonicalView:
    """One frame's P pixels that count, and A anchors. Every number is finite, every depth and ratio above 0.

    Attributes:
        pixels: (P,) int64 flat index (row * width + column), ascending.
        points: (P, 3) float64 in the frame's own camera, z > 0.
        conf: (P,) float64 > 0, Σw² / Σw of the weights w = confidence − 0.999.
        anchor: (P,) int64 row of the pixel's anchor in `anchor_pixels`.
        ratio: (P,) float64 > 0, the pixel's depth over its anchor's; exactly 1 at the anchors.
        anchor_pixels: (A,) int64 flat index, one for each block that has a pixel, blocks in row-major order.
        anchor_depth: (A,) float64 > 0, z of `points` there.
        width, height: of the picture in pixels. subsample: side of a block in pixels.
    """

    pixels: Tensor
    points: Tensor
    conf: Tensor
    anchor: Tensor
    ratio: Tensor
    anchor_pixels: Tensor
    anchor_depth: Tensor
    width: int
    height: int
    subsample: int

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for label, shape in (("pixels", ("P",)), ("points", ("P", 3)), ("conf", ("P",)), ("anchor", ("P",)),
                             ("ratio", ("P",)), ("anchor_pixels", ("A",)), ("anchor_depth", ("A",))):  # fmt: skip
            check_shape(f"CanonicalView.{label}", getattr(self, label), shape, sizes)

    def __len__(self) -> int:
        return self.pixels.shape[0]

    @property
    def xy(self) -> Tensor:
        """(P, 2) float64 centre of each pixel; that of the top-left one is (0.5, 0.5)."""
        return _centres(self.pixels, self.width)

    @property
    def anchor_xy(self) -> Tensor:
        """(A, 2) float64 centre of each anchor's pixel."""
        return _centres(self.anchor_pixels, self.width)

    def rows(self, xy: Tensor) -> Tensor:
        """(M,) int64 row of each pixel xy (M, 2) int (column, row); -1 where it does not count or lies outside."""
        check_shape("xy", xy, (None, 2))
        if xy.dtype.is_floating_point:
            raise ValueError(f"xy: wanted whole columns and rows, found {xy.dtype}")
        column, row = xy.long().unbind(-1)
        missing = torch.full_like(column, -1)
        if len(self) == 0:
            return missing
        flat = row * self.width + column
        at = torch.searchsorted(self.pixels, flat).clamp_max(len(self) - 1)
        inside = (column >= 0) & (column < self.width) & (row >= 0) & (row < self.height)
        return torch.where(inside & (self.pixels[at] == flat), at, missing)


def _centres(pixels: Tensor, width: int) -> Tensor:
    return torch.stack([pixels % width, pixels // width], dim=-1).double() + 0.5


def anchors_of(view: CanonicalView, xy: Tensor) -> tuple[Tensor, Tensor]:
    """What the depth of matched pixels hangs on: depth = ratio · depth of the anchor.

    Args:
        xy: (M, 2) int (column, row), such as `PairResult.xy_a`.

    Returns:
        (M,) int64 row in `anchor_pixels`, -1 where the pixel does not count; (M,) float64 ratio, 1 there.
    """
    rows = view.rows(xy)
    missing = rows < 0
    if len(view) == 0:
        return rows, torch.ones(rows.shape, dtype=view.ratio.dtype, device=rows.device)
    at = rows.clamp_min(0)
    return torch.where(missing, rows, view.anchor[at]), torch.where(missing, 1.0, view.ratio[at])


def elect_anchors(pixels: Tensor, width: int, height: int, subsample: int) -> tuple[Tensor, Tensor]:
    """The anchor of each block: of its pixels that which is nearest the block's centre.

    The centre of a block is its pixel at the offset subsample // 2 from its top-left one, so that a picture without a
    mask has the published grid. Of pixels equally near the first in row-major order is taken. Where a side is no
    multiple of `subsample`, the blocks at the right and bottom edges are cut off, and their centres may lie outside.

    Args:
        pixels: (P,) int64 flat indices, ascending.

    Returns:
        (A,) int64 rows in `pixels`, blocks in row-major order; (P,) int64 which of these each pixel has.
    """
    column, row = pixels % width, pixels // width
    block = row // subsample * -(-width // subsample) + column // subsample
    blocks, anchor = torch.unique(block, return_inverse=True)
    far = (column % subsample - subsample // 2) ** 2 + (row % subsample - subsample // 2) ** 2
    order = far * (width * height) + pixels  # distance first, then row-major order
    first = torch.full_like(blocks, torch.iinfo(torch.int64).max).scatter_reduce(0, anchor, order, "amin")
    return torch.searchsorted(pixels, first % (width * height)), anchor


class CanonicalAccumulator:
    """Takes what each pair says of one frame, one pair at a time and in any order, and gives its canonical view.

    It holds 13 numbers a pixel, however many pairs there are. Sums are float64, so that another order changes only
    roundings.

    Args:
        pixels: (P,) int64 flat index of each pixel that counts, ascending: `PairFrame.pixels`.
        width, height: of the picture in pixels.
        subsample: side of a block in pixels.
        mode: how a pixel's ratio to its anchor is averaged. "avg-angle": the slope from the anchor to the pixel, as an
            angle; "avg-reldepth": the ratio itself.
    """

    def __init__(
        self, pixels: Tensor, width: int, height: int, *, subsample: int = 8, mode: RatioMode = "avg-angle"
    ) -> None:
        check_shape("pixels", pixels, (None,))
        if subsample < 1:
            raise ValueError(f"subsample: {subsample}; wanted a number from 1")
        if mode not in ("avg-angle", "avg-reldepth"):
            raise ValueError(f"mode: {mode!r}; wanted avg-angle or avg-reldepth")
        if len(pixels) and (pixels[0] < 0 or pixels[-1] >= width * height or (pixels.diff() <= 0).any()):
            raise ValueError(f"pixels: wanted ascending flat indices of {width} x {height} pixels")
        self.pixels, self.width, self.height = pixels.long(), width, height
        self.subsample, self.mode = subsample, mode
        anchors, anchor = elect_anchors(self.pixels, width, height, subsample)
        self._anchor = anchors[anchor]  # (P,) row of the pixel that is its anchor
        zero = torch.zeros(len(pixels), dtype=torch.float64, device=pixels.device)
        self._weight, self._weight_squared = zero.clone(), zero.clone()
        self._points = zero[:, None].repeat(1, 3)
        # Of the observations in which the pixel and its anchor can both be used:
        self._count, self._reach, self._mean_weight, self._mean = (zero.clone() for _ in range(4))
        self._lowest, self._highest = torch.full_like(zero, torch.inf), zero.clone()

    def add(self, points: Tensor, conf: Tensor, counts: Tensor | None = None) -> None:
        """Take in one pair.

        Left out are observations whose point is not finite or not in front of the camera, and those whose confidence is
        not finite or not above 0.999.

        Args:
            points: (P, 3) in the frame's own camera, in the order of `pixels`.
            conf: (P,) confidence.
            counts: (P,) bool, False = leave the pixel out of this pair, whatever its numbers. None: all count.
        """
        sizes = {"P": len(self.pixels)}
        check_shape("points", points, ("P", 3), sizes)
        check_shape("conf", conf, ("P",), sizes)
        points = points.to(self.pixels.device, torch.float64)
        weight = (conf - CONF_OFFSET).to(self.pixels.device, torch.float64)  # 0.999 in conf's own precision is 0
        # Comparisons with NaN are False.
        valid = (points.abs() < LARGEST).all(-1) & (points[:, 2] > 1 / LARGEST) & (weight > 0) & (weight < LARGEST)
        if counts is not None:
            check_shape("counts", counts, ("P",), sizes)
            valid &= counts.to(valid.device, torch.bool)
        weight = weight.where(valid, 0.0)
        points = points.where(valid[:, None], 0.0)
        self._weight += weight
        self._weight_squared += weight * weight
        self._points += weight[:, None] * points
        self._add_relation(points, weight, valid & valid[self._anchor])

    def _add_relation(self, points: Tensor, weight: Tensor, both: Tensor) -> None:
        """Take in how deep each pixel lies relative to its anchor, where `both` (P,) can be used."""
        weight = weight.where(both, 0.0)
        depth = points[:, 2].where(both, 1.0)
        from_anchor = points - points[self._anchor]
        anchor_depth = points[self._anchor, 2].where(both, 1.0)
        relative = depth / anchor_depth
        self._lowest = self._lowest.minimum(relative.where(both, torch.inf))
        self._highest = self._highest.maximum(relative.where(both, 0.0))
        self._mean_weight += weight
        if self.mode == "avg-reldepth":
            self._mean += weight * relative
            return
        reach = torch.hypot(from_anchor[:, 0], from_anchor[:, 1]).maximum(1e-8 * anchor_depth)
        self._mean += weight * torch.atan((depth - anchor_depth) / reach)
        self._reach += reach.where(both, 0.0)
        self._count += both

    def view(self) -> CanonicalView:
        """The canonical view of what was taken in so far. Pixels without any usable observation are dropped."""
        rows = (self._weight > 0).nonzero()[:, 0]
        pixels = self.pixels[rows]
        anchors, anchor = elect_anchors(pixels, self.width, self.height, self.subsample)
        weight = self._weight[rows]
        points = self._points[rows] / weight[:, None]
        anchor_depth = points[anchors, 2]
        # Where the mean over pairs has nothing to say (a dropped anchor, no pair with both) or nonsense (angles near
        # 90° make tan run away), the ratio is that of the canonical depths themselves.
        plain = points[:, 2] / anchor_depth[anchor]
        mean = self._mean[rows] / self._mean_weight[rows]
        if self.mode == "avg-angle":
            mean = 1 + self._reach[rows] / self._count[rows] * torch.tan(mean) / anchor_depth[anchor]
        same = self._anchor[rows] == rows[anchors[anchor]]
        sound = (mean >= self._lowest[rows] / SLACK) & (mean <= self._highest[rows] * SLACK)
        ratio = mean.where(same & sound, plain)
        return CanonicalView(
            pixels, points, self._weight_squared[rows] / weight, anchor, ratio, pixels[anchors], anchor_depth,
            self.width, self.height, self.subsample,
        )  # fmt: skip


def canonical_views(
    frames: Sequence[PairFrame], results: PairResults, *, subsample: int = 8, mode: RatioMode = "avg-angle"
) -> list[CanonicalView]:
    """The canonical view of every frame. Each result is read once; frames without a pair have views without pixels."""
    sums = [
        CanonicalAccumulator(frame.pixels, frame.width, frame.height, subsample=subsample, mode=mode)
        for frame in frames
    ]
    for result in results:
        sums[result.frame_a].add(result.a_in_a, result.conf_a_in_a)
        sums[result.frame_b].add(result.b_in_b, result.conf_b_in_b)
    return [each.view() for each in sums]
