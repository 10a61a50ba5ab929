"""How far each point moves against the solved cameras: what is left of a match when nothing but the camera moved.

A point that stands still in the world is seen in another frame where the cameras say. How many pixels away from there
its match lies is its motion. Where the background holds the cameras that is how the object moves in the world; where
the object holds them, only what is not rigid in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from dyn4d.core.cameras import project
from dyn4d.core.checks import check_shape
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Camera, Correspondences, FramePoints

REACH = 6  # frames: partners further away say less of where a point is, and fewer of them are found
MOVES = 2.0  # px; twice what the matching lets pass as an error of going there and back
FILL = (3.0, 24.0)  # px: the shortest and the longest way to a matched point that may speak for its neighbour
STEEP = 3.0  # two points lie on one surface if they are at most this many times as far apart as their pixels say
FEW = 0.5  # a share of known points below which the note says so


@dataclass(frozen=True)
class PointMotion:
    """What `score_motion` found, one row for each row of `FramePoints`.

    Attributes:
        residual: (N,) float32 px between where a point's match lies in its partner frames and where it would lie if the
            point stood still; the median over the partners. NaN = unknown.
        gap: (N,) float32 mean distance to those partners in selected frames: `residual / gap` is in px a frame. NaN
            where `residual` is.
    """

    residual: Tensor
    gap: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("PointMotion.residual", self.residual, ("N",), sizes)
        check_shape("PointMotion.gap", self.gap, ("N",), sizes)

    def __len__(self) -> int:
        return self.residual.shape[0]

    def known(self) -> float:
        """The share of points with a residual; 0 where there are none."""
        return float(torch.isfinite(self.residual).double().mean()) if len(self) else 0.0

    def moving(self, limit: float = MOVES) -> float:
        """The share of known points whose residual is above `limit` px; NaN where none is known."""
        values = self.residual[torch.isfinite(self.residual)]
        return float((values > limit).double().mean()) if len(values) else float("nan")

    def note(self) -> str:
        """One line for the user."""
        values, gaps = self.residual[torch.isfinite(self.residual)], self.gap[torch.isfinite(self.gap)]
        if len(values) == 0:
            return "motion: not known, no match of two frames has a point and a camera at both ends"
        line = (
            f"motion: {self.moving():.0%} of the object's points move against the cameras by more than {MOVES:g} px "
            f"between two matched frames, {float(gaps.mean()):.1f} frames apart on average (half of the points by more "
            f"than {float(values.median()):.2f} px)"
        )
        return line if self.known() >= FEW else f"{line}; only {self.known():.0%} of the points have matches near by"


class _Ends:
    """The matches as pairs of frames, and the row of the point at each end."""

    def __init__(self, points: FramePoints, matches: Correspondences, count: int, size: tuple[int, int]) -> None:
        self.first, self.second = matches.frame_a.numpy(), matches.frame_b.numpy()
        self.xy_a, self.xy_b = matches.xy_a.numpy(), matches.xy_b.numpy()
        key = self.first.astype(np.int64) * count + self.second
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        self.pairs = {divmod(int(key[rows[0]]), count): rows for rows in np.split(order, starts[1:]) if len(rows)}
        frame = points.frame.numpy()
        by_frame = np.argsort(frame, kind="stable")
        bounds = np.searchsorted(frame[by_frame], np.arange(count + 1))
        self.points = [by_frame[bounds[f] : bounds[f + 1]] for f in range(count)]
        self.pixel = np.floor(points.xy.numpy()).astype(np.int32)  # column and row
        # partners[f]: f's partners with the pairs they share, as it comes: (f, g), (g, f) or both
        self.partners: list[dict[int, list[tuple[int, int]]]] = [{} for _ in range(count)]
        for a, b in self.pairs:
            if a != b:
                self.partners[a].setdefault(b, []).append((a, b))
                self.partners[b].setdefault(a, []).append((a, b))
        self.row_a, self.row_b = (np.full(len(matches), -1, dtype=np.int64) for _ in range(2))
        for f in range(count):
            self._find_rows(f, size)

    def _find_rows(self, f: int, size: tuple[int, int]) -> None:
        """The points at the ends of the matches that lie in frame f: those of the same pixel."""
        if not self.partners[f] or len(self.points[f]) == 0:
            return
        index = np.full(size, -1, dtype=np.int64)
        column, row = self.pixel[self.points[f]].T
        index[row, column] = self.points[f]
        for pairs in self.partners[f].values():
            for pair in pairs:
                rows = self.pairs[pair]
                xy = self.xy_a if pair[0] == f else self.xy_b
                at = np.floor(xy[rows]).astype(np.int64)
                inside = ((at >= 0) & (at < [size[1], size[0]])).all(-1)
                found = np.full(len(rows), -1, dtype=np.int64)
                found[inside] = index[at[inside, 1], at[inside, 0]]
                (self.row_a if pair[0] == f else self.row_b)[rows] = found

    def near(self, f: int, reach: int) -> list[int]:
        """The partners of f at most `reach` frames away; if there are none, the nearest ones."""
        gaps = {g: abs(g - f) for g in self.partners[f]}
        limit = max(reach, min(gaps.values(), default=0))
        return sorted(g for g, gap in gaps.items() if gap <= limit)


def score_motion(
    points: FramePoints,
    cameras: Camera,
    matches: Correspondences,
    *,
    reach: int = REACH,
    progress: Progress | None = None,
) -> PointMotion:
    """The motion of every point against the cameras, in pixels.

    For each match a → b with a point at both ends: the distance in frame b between the match and the projection of a's
    point. It counts for the points at both ends. Each frame is compared with its partners at most `reach` selected
    frames before and after it (all are in one unit, pixels of the picture, and not divided by the distance in time:
    the matches' own error does not grow with it). In each partner, a point without a match takes the value of the
    nearest matched one, if that is a few pixels away and on the same surface. The result is the median over partners.

    Args:
        points: at most one a pixel. cameras: T, of the selected frames; matches in frames without a pose do not count.
        matches: between the selected frames.
        reach: in selected frames. Where a frame has no partner so near, its nearest ones are taken.

    Returns:
        NaN where no partner has anything to say of a point. One partner and one frame are in memory at a time, besides
        the matches.
    """
    progress = progress or SilentProgress()
    count, size = len(cameras), (cameras.height, cameras.width)
    residual, gap = np.full((2, len(points)), np.nan, dtype=np.float32)
    ends = _Ends(points, matches, count, size)
    xyz = points.xyz.numpy()
    K, cam_from_world = cameras.K.double().cpu(), cameras.cam_from_world.double().cpu()
    registered = cameras.registered.cpu().tolist()

    def of_pair(pair: tuple[int, int]) -> np.ndarray:
        """(m,) the residual of each match of the pair, NaN where an end has no point."""
        rows, b = ends.pairs[pair], pair[1]
        start, known = ends.row_a[rows], (ends.row_a[rows] >= 0) & (ends.row_b[rows] >= 0)
        there, depth = project(K[b], cam_from_world[b], torch.from_numpy(xyz[start].astype(np.float64)))
        # a point is at the centre of its pixel, a match may start beside it: to first order it ends as far beside it
        off = ends.xy_a[rows] - (ends.pixel[start] + 0.5)
        error = np.linalg.norm(there.numpy() + off - ends.xy_b[rows], axis=-1)
        return np.where(known & (depth.numpy() > 0), error, np.nan)

    progress.start("motion", count)
    for f in range(count):
        progress.update()
        mine = ends.points[f]
        if len(mine) == 0 or not registered[f]:
            continue
        found: list[tuple[int, np.ndarray, np.ndarray]] = []  # partner, rows of `mine`, residuals
        for g in ends.near(f, reach):
            if registered[g]:
                pairs = ends.partners[f][g]
                rows = np.concatenate([(ends.row_a if p[0] == f else ends.row_b)[ends.pairs[p]] for p in pairs])
                error = np.concatenate([of_pair(pair) for pair in pairs])
                good = np.isfinite(error)
                if good.any():
                    # `mine` ascends, so rows of the table become rows of the frame
                    found.append((g, np.searchsorted(mine, rows[good]), error[good]))
        if found:
            spread = _Spread(ends.pixel[mine], xyz[mine], K[f], cam_from_world[f])
            radius = float(np.clip(2 * np.sqrt(len(mine) / max(len(rows) for _, rows, _ in found)), *FILL))
            table = np.stack([spread.over(rows, error, radius) for _, rows, error in found])
            residual[mine] = _median(table)
            gap[mine] = _mean(np.array([abs(g - f) for g, _, _ in found], dtype=np.float32), np.isfinite(table))
    progress.finish()
    return PointMotion(torch.from_numpy(residual), torch.from_numpy(gap))


class _Spread:
    """Carries values of some points of one frame to the others around them."""

    def __init__(self, pixel: np.ndarray, xyz: np.ndarray, K: Tensor, cam_from_world: Tensor) -> None:
        corner = pixel.min(0)
        self.column, self.row = (pixel - corner).T
        self.shape = int(self.row.max()) + 1, int(self.column.max()) + 1
        self.xyz = xyz
        depth = xyz.astype(np.float64) @ cam_from_world[2, :3].numpy() + float(cam_from_world[2, 3])
        self.covered = depth / float((K[0, 0] * K[1, 1]).sqrt())  # (n,) world units across a pixel at each point

    def over(self, rows: np.ndarray, values: np.ndarray, radius: float) -> np.ndarray:
        """(n,) float32: `values` at `rows` (their mean where there are several), and around these, up to `radius` px
        away on the same surface, that of the nearest; else NaN."""
        count = len(self.xyz)
        times = np.bincount(rows, minlength=count)
        total = np.bincount(rows, weights=values, minlength=count)
        seeds = np.flatnonzero(times)
        picture = np.ones(self.shape, dtype=np.uint8)
        picture[self.row[seeds], self.column[seeds]] = 0
        away, labels = cv2.distanceTransformWithLabels(
            picture, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        label = np.asarray(labels, dtype=np.int32)  # of the nearest seed
        seed_of = np.zeros(int(label.max()) + 1, dtype=np.int64)
        seed_of[label[self.row[seeds], self.column[seeds]]] = seeds
        nearest, away = seed_of[label[self.row, self.column]], away[self.row, self.column]
        apart = np.linalg.norm(self.xyz - self.xyz[nearest], axis=-1)
        same = (away <= radius) & (apart <= STEEP * self.covered * (away + 1))
        return np.where(same, total[nearest] / times[nearest], np.nan).astype(np.float32)


def _median(table: np.ndarray) -> np.ndarray:
    """Of each column of (P, n) without its NaNs; NaN where it has nothing else. (`nanmedian` takes far longer.)"""
    known = np.isfinite(table).sum(0)
    ordered = np.sort(table, axis=0)  # NaN last
    low, high = (np.take_along_axis(ordered, np.maximum(i, 0)[None], 0)[0] for i in ((known - 1) // 2, known // 2))
    return np.where(known > 0, (low + high) / 2, np.nan)


def _mean(values: np.ndarray, used: np.ndarray) -> np.ndarray:
    """(n,) the mean of `values` (P,) over those used (P, n) bool; NaN where none is."""
    count = used.sum(0)
    return np.where(count > 0, values @ used / np.maximum(count, 1), np.nan)
