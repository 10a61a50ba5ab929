"""Matched pixels → matched points in the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import KDTree

from dyn4d.core.types import Correspondences, FramePoints, LiftedPairs

_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass(frozen=True)
class Sampled:
    """Points of the world under M pixels; what is not `found` means nothing."""

    xyz: np.ndarray  # (M, 3) float64
    found: np.ndarray  # (M,) bool
    conf: np.ndarray  # (M,) float64


class _FrameMap:
    """The points of one frame, found by pixel."""

    def __init__(self, xyz: np.ndarray, xy: np.ndarray, conf: np.ndarray, height: int, width: int) -> None:
        self.xyz, self.conf = xyz, conf
        # one pixel of border on every side, so that neighbours never need a range check
        self.index = np.full((height + 2, width + 2), -1, dtype=np.int64)
        column, row = np.floor(xy).astype(np.int64).T
        self.index[row + 1, column + 1] = np.arange(len(xyz))
        self.spacing = self._spacing()

    def _spacing(self) -> float:
        """Median distance between points of neighbouring pixels: what one pixel covers on the object."""
        left, right = self.index[:, :-1], self.index[:, 1:]
        both = (left >= 0) & (right >= 0)
        if not both.any():
            return 0.0
        return float(np.median(np.linalg.norm(self.xyz[left[both]] - self.xyz[right[both]], axis=-1)))

    def at(self, xy: np.ndarray, max_jump: float) -> Sampled:
        """Points at pixels `xy` (M, 2): bilinear of the four around where all are there and lie on one surface, else
        the nearest if within half a pixel. `max_jump` is in units of the frame's spacing."""
        low = np.floor(xy - 0.5).astype(np.int64)
        low = np.clip(low, -1, [self.index.shape[1] - 3, self.index.shape[0] - 3])
        fraction = xy - 0.5 - low
        corner = np.stack([self.index[low[:, 1] + 1 + dy, low[:, 0] + 1 + dx] for dy, dx in _CORNERS], axis=-1)
        share = np.stack(
            [
                (fraction[:, 0] if dx else 1 - fraction[:, 0]) * (fraction[:, 1] if dy else 1 - fraction[:, 1])
                for dy, dx in _CORNERS
            ],
            axis=-1,
        )
        points = self.xyz[corner]  # a missing corner (-1) reads the last point and is not used below
        limit = max_jump * self.spacing
        sides = [(0, 1), (2, 3), (0, 2), (1, 3)]
        smooth = (corner >= 0).all(-1)
        for p, q in sides:
            smooth &= np.linalg.norm(points[:, p] - points[:, q], axis=-1) <= limit
        needed = (share > 1e-6) & (corner < 0)
        exact = ~needed.any(-1) & (share.max(-1) > 1 - 1e-6)  # on a pixel centre nothing else is needed
        xyz = (points * share[..., None]).sum(1)
        conf = (self.conf[corner] * share).sum(-1)
        best = share.argmax(-1)
        rows = np.arange(len(xy))
        offset = np.abs(fraction - np.array([(dx, dy) for dy, dx in _CORNERS])[best])
        close = (corner[rows, best] >= 0) & (np.hypot(offset[:, 0], offset[:, 1]) <= 0.5)
        use_nearest = ~smooth & (close | exact)
        xyz[use_nearest] = points[rows, best][use_nearest]
        conf[use_nearest] = self.conf[corner[rows, best]][use_nearest]
        return Sampled(xyz, smooth | use_nearest, conf)


def sample_points(
    frame: np.ndarray, xy: np.ndarray, points: FramePoints, size: tuple[int, int], count: int, max_jump: float
) -> Sampled:
    """The points under pixels `xy` (M, 2) of frames `frame` (M,), of `count` frames of `size` (height, width).

    One frame's map is in memory at a time. `max_jump`: see `lift`.
    """
    xyz, xy_points, conf = (getattr(points, n).double().numpy() for n in ("xyz", "xy", "conf"))
    order = np.argsort(points.frame.numpy(), kind="stable")
    bounds = np.searchsorted(points.frame.numpy()[order], np.arange(count + 1))
    rows_order = np.argsort(frame, kind="stable")
    rows_bounds = np.searchsorted(frame[rows_order], np.arange(count + 1))
    out = Sampled(np.zeros((len(frame), 3)), np.zeros(len(frame), bool), np.zeros(len(frame)))
    for f in range(count):
        mine, rows = order[bounds[f] : bounds[f + 1]], rows_order[rows_bounds[f] : rows_bounds[f + 1]]
        if len(mine) == 0 or len(rows) == 0:
            continue
        part = _FrameMap(xyz[mine], xy_points[mine], conf[mine], *size).at(xy[rows], max_jump)
        out.xyz[rows], out.found[rows], out.conf[rows] = part.xyz, part.found, part.conf
    return out


def median_test(start: np.ndarray, end: np.ndarray, *, neighbours: int, factor: float, floor: float) -> np.ndarray:
    """Which matches of one pair move like those around them.

    The displacement of each match is compared with the median of its `neighbours` nearest in `start` (M, 3); a match
    is kept if it strays from that by at most `floor` + `factor` times the median straying of the same neighbours
    (the normalised median test of particle image velocimetry, Westerweel and Scarano 2005).

    Returns:
        (M,) bool. Pairs of fewer matches than neighbours pass whole.
    """
    if len(start) <= neighbours:
        return np.ones(len(start), dtype=bool)
    motion = end - start
    _, index = KDTree(start).query(start, k=neighbours + 1)
    around = motion[np.asarray(index)[:, 1:]]
    middle = np.median(around, axis=1)
    spread = np.median(np.linalg.norm(around - middle[:, None], axis=-1), axis=1)
    return np.linalg.norm(motion - middle, axis=-1) <= floor + factor * spread


def lift(
    corr: Correspondences, points: FramePoints, height: int, width: int, count: int, *, max_jump: float = 8.0,
    neighbours: int = 12, outlier_factor: float = 4.0,
) -> LiftedPairs:  # fmt: skip
    """Matches between pixels as matches between points of the world.

    Args:
        corr: M matches in pixels of pictures `height` x `width`, of `count` frames.
        points: at most one point a pixel; as the geometry sources give them.
        max_jump: four points around a pixel are one surface if its sides are at most this many times as long as what a
            pixel usually covers.
        neighbours, outlier_factor: of the local median test (`median_test`); a factor of 0 switches it off.

    Returns:
        The matches with a point at both ends, in the order of `corr`. Weights are those of the matches times the root
        of the confidence at both ends.
    """
    frame_a, frame_b = corr.frame_a.numpy(), corr.frame_b.numpy()
    size = (height, width)
    a = sample_points(frame_a, corr.xy_a.double().numpy(), points, size, count, max_jump)
    b = sample_points(frame_b, corr.xy_b.double().numpy(), points, size, count, max_jump)
    keep = a.found & b.found
    if outlier_factor > 0:
        keep = _drop_outliers(frame_a, frame_b, a.xyz, b.xyz, keep, neighbours, outlier_factor)
    rows = np.flatnonzero(keep)
    weight = corr.weight.numpy()[rows] * np.sqrt(np.maximum(a.conf[rows] * b.conf[rows], 1e-6))
    kept = torch.from_numpy(rows)
    return LiftedPairs(
        corr.frame_a[kept], corr.frame_b[kept], torch.from_numpy(a.xyz[rows]).float(),
        torch.from_numpy(b.xyz[rows]).float(), torch.from_numpy(weight).float(),
    )  # fmt: skip


def _drop_outliers(
    frame_a: np.ndarray, frame_b: np.ndarray, start: np.ndarray, end: np.ndarray, keep: np.ndarray, neighbours: int,
    factor: float,
) -> np.ndarray:  # fmt: skip
    """`keep` without the matches that fail the median test of their own pair."""
    out = keep.copy()
    rows = np.flatnonzero(keep)
    if len(rows) == 0:
        return out
    extent = float((start[rows].max(0) - start[rows].min(0)).max())
    key = frame_a[rows] * (int(frame_b.max()) + 1) + frame_b[rows]
    order = rows[np.argsort(key, kind="stable")]
    for group in np.split(order, np.flatnonzero(np.diff(np.sort(key))) + 1):
        out[group] = median_test(start[group], end[group], neighbours=neighbours, factor=factor, floor=0.004 * extent)
    return out
