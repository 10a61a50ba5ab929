"""A network's relief, bent until it goes through the points of it that were measured.

A small network knows how a surface goes on from pixel to pixel better than which end of an object is nearer. Matches of
a thing that moves mostly as a rigid one say the latter, at some pixels, with some of them wrong (limbs move by
themselves). So the logarithm of what the network's depth is multiplied by is as smooth as it can be over the object
(membrane: least squares of the steps from cell to cell) and near what was measured, robustly. How much the network's
own depth is to be believed beside it, nothing tells here: there is a result for each of some answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor

from dyn4d.core.types import Camera, Correspondences, FrameReader
from dyn4d.geometry.triangulation import SeenAgain, triangulate
from dyn4d.geometry.view_depth import ViewDepth

CELLS = 128  # along the longer side of a picture
CLOSE = 0.1  # of its depth: what is known worse says nothing
EXACT = 0.005  # of its depth: no measured point is believed more
WEIGHT = 0.01  # of its depth: a point known so well weighs as much as STIFF · 1 step from cell to cell
STIFF = 3.0
KEEPS = 3e-3  # weight of the network's own depth in each cell: it decides where nothing near is measured
TRUSTS = (1.0, 1.7, 3.0, 6.0)  # times what its pixels tell: how unsure a measured point is taken to be
USUAL = 0.03  # logarithm of the depth: a point so far from those around it counts half
ROUNDS = 4
LEAST = 10  # measured points that a frame needs


@dataclass(frozen=True)
class Bend:
    """What a depth map is multiplied by: exp(factor + grid), the grid stretched over the picture.

    Attributes:
        factor: logarithm. grid: (h, w) logarithms. known: (h, w) bool, cells of the object.
    """

    factor: float
    grid: np.ndarray
    known: np.ndarray

    def apply(self, depth: np.ndarray) -> np.ndarray:
        """(H, W) depth, bent; what is 0 stays 0."""
        size = depth.shape[1], depth.shape[0]
        share = cv2.resize(self.known.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        total = cv2.resize((self.grid * self.known).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        out, there = np.zeros_like(depth), depth > 0
        out[there] = depth[there] * np.exp(self.factor + total[there] / np.maximum(share[there], 1e-3))
        return out


def bend(
    depth: np.ndarray, mask: np.ndarray, xy: np.ndarray, measured: np.ndarray, sigma: np.ndarray,
    trust: float = 1.0,
) -> Bend | None:  # fmt: skip
    """What brings a depth map through measured points; None where there are too few.

    Args:
        depth: (H, W) in any unit, 0 = unknown. mask: (H, W) bool, the object. xy: (N, 2) px. measured: (N,) depth > 0.
        sigma: (N,) its standard deviation over itself, as the matches' pixels tell it. trust: times as large it is
            taken to be: the same small motion that is not the whole object's is off by the more where parallax is less.
    """
    height, width = mask.shape
    cell = max(height, width) / CELLS if max(height, width) > CELLS else 1.0
    rows, columns = math.ceil(height / cell), math.ceil(width / cell)
    share = cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    column, line = np.minimum(xy.astype(np.int64), [width - 1, height - 1]).T
    at = line * rows // height, column * columns // width
    own = depth[line, column]
    good = mask[line, column] & (own > 0)
    if good.sum() < LEAST:
        return None
    known = share > 0
    number = np.full(known.shape, -1)
    number[known] = np.arange(known.sum())
    off = np.log(measured[good] / own[good])
    factor = float(np.median(off))
    weight = WEIGHT**2 / ((trust * sigma[good]) ** 2 + EXACT**2)
    place, count = number[at][good], int(known.sum())
    steps = np.concatenate([
        np.stack([a[both], b[both]], 1)
        for a, b in ((number[:, :-1], number[:, 1:]), (number[:-1], number[1:]))
        for both in [(a >= 0) & (b >= 0)]
    ])  # fmt: skip
    row = np.arange(len(steps))
    values, ends = np.r_[np.ones(len(steps)), -np.ones(len(steps))], (np.r_[row, row], steps.T.ravel())
    step = sparse.csr_matrix((values, ends), shape=(len(steps), count))
    smooth = STIFF * (step.T @ step)
    sure, found = weight, np.zeros(count)
    for _ in range(ROUNDS):
        matrix = smooth + sparse.diags(np.bincount(place, sure, count) + KEEPS)
        found = np.asarray(spsolve(matrix.tocsc(), np.bincount(place, sure * (off - factor), count)))
        sure = weight / (1 + ((off - factor - found[place]) / USUAL) ** 2)
    grid = np.zeros(known.shape)
    grid[known] = found
    return Bend(factor, grid, known)


@dataclass(frozen=True)
class MeasuredDepth:
    """Depth of T pictures as a network says it, bent through measured points, and what is taken for the frames that
    have too few of them.

    Attributes:
        said: the network's. bends: of each frame or None. rest: of the frames without. factor: unit of the first.
        agree: mean of how well the matches of a pixel agree on one rigid motion, in [0, 1].
    """

    said: ViewDepth
    bends: Sequence[Bend | None]
    rest: ViewDepth
    factor: float = 1.0
    agree: float = 0.0

    def picture(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) depth, 0 = none, and confidence of a picture."""
        if (curve := self.bends[row]) is None:
            return self.rest.picture(row)
        depth, conf = self.said.picture(row)
        return self.factor * curve.apply(depth), conf

    def times(self, factor: float) -> MeasuredDepth:
        """The same in another unit."""
        return replace(self, rest=self.rest.times(factor), factor=factor * self.factor)

    def unbent(self) -> MeasuredDepth:
        """The network's own depth in place of what is bent, by one factor for all frames."""
        factors = [curve.factor for curve in self.bends if curve is not None]
        factor = float(np.median(factors)) if factors else 0.0
        flat = [curve and replace(curve, factor=factor, grid=np.zeros_like(curve.grid)) for curve in self.bends]
        return replace(self, bends=flat)

    def without(self, row: int) -> bool:
        """Does it say nothing of a frame?"""
        return self.bends[row] is None and not bool((self.rest.depth[row] > 0).any())

    def filled(self, other: ViewDepth) -> MeasuredDepth:
        """With another depth in place of the frames that it says nothing of."""
        names = ("frames", "depth", "conf")
        rows = [other if self.without(row) else self.rest for row in range(len(self.bends))]
        parts = ([getattr(one, name)[row] for row, one in enumerate(rows)] for name in names)
        return replace(self, rest=ViewDepth(*parts))


def through_matches(
    said: ViewDepth, rest: ViewDepth, masks: FrameReader, matches: Correspondences, cameras: Camera
) -> list[MeasuredDepth]:
    """A network's depth bent through what matches measure, believing these less and less (`TRUSTS`).

    Args:
        said: of the network. rest: for frames with too few matches. masks: T of (H, W) bool. matches: on the object, in
            pixels of the pictures. cameras: (T,) of the pictures, as the object sees them: its motion is in them.
    """
    seen = triangulate(matches, cameras)
    close = seen.close(CLOSE)
    bends = [_bends_of(seen, close & (seen.frame == row), said, masks[row], row) for row in range(len(cameras))]
    agree = float(seen.agree.mean()) if len(seen.agree) else 0.0
    return [MeasuredDepth(said, of_all, rest, agree=agree) for of_all in zip(*bends)]


def _bends_of(seen: SeenAgain, rows: Tensor, said: ViewDepth, mask: np.ndarray, frame: int) -> list[Bend | None]:
    """One for each of `TRUSTS`."""
    if int(rows.sum()) < LEAST:
        return [None] * len(TRUSTS)
    inverse, sigma = seen.inverse[rows].numpy(), seen.sigma[rows].numpy()
    depth, inside, xy = said.picture(frame)[0], np.asarray(mask, dtype=bool), seen.xy[rows].numpy()
    return [bend(depth, inside, xy, 1 / inverse, sigma / inverse, trust) for trust in TRUSTS]
