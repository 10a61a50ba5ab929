"""Long 3D tracks of the object's points from matches alone, before anything is fitted.

Points are started evenly over the object wherever nothing is tracked yet, linked from frame to frame
(`dyn4d.matching.linking`) and lifted to the world through the points of each frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from dyn4d.core.checks import check_shape
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Correspondences, FramePoints
from dyn4d.geometry.lift import sample_points
from dyn4d.matching.linking import LinkedTracks, Linker
from dyn4d.matching.local_motion import MotionTable, masked_median

LIVE_SHARE = 0.25  # of the tracks, started in the first frame; the others are for what comes into view later
LEAST_SEEN = 3  # a track of fewer frames gives its place to another
LEAST_CONF = 0.1  # of a frame's median confidence: where a surface turns away more than that, points slide
MAX_JUMP = 8.0  # of `lift`
BESIDE = 6  # tracks around a track, whose distances are watched
MAX_STRAIN = 0.6  # of the logarithm of those distances: no surface is stretched or pressed together by more


@dataclass(frozen=True)
class PointTracks:
    """N points of the object over F frames, as they were seen.

    Attributes:
        xyz: (F, N, 3) float32 world, NaN where the point was not seen or has no depth.
        xy: (F, N, 2) float32 px, NaN where it was not seen.
        visible: (F, N) bool, seen. conf: (F, N) float32 in [0, 1], 0 where not seen: the weight of the matches x the
            share of direct matches to and from the track's other frames that agree x what drift and strain leave.
        rgb: (N, 3) float32 in [0, 1]. frame_first: (N,) int64, the selected frame that the track was started in; it
            may have been followed to earlier frames too.
    """

    xyz: Tensor
    xy: Tensor
    visible: Tensor
    conf: Tensor
    rgb: Tensor
    frame_first: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for label, shape in (("xyz", ("F", "N", 3)), ("xy", ("F", "N", 2)), ("visible", ("F", "N")),
                             ("conf", ("F", "N")), ("rgb", ("N", 3)), ("frame_first", ("N",))):  # fmt: skip
            check_shape(f"PointTracks.{label}", getattr(self, label), shape, sizes)

    def select(self, rows: Tensor) -> PointTracks:
        """The tracks that an index or a boolean mask names."""
        return PointTracks(
            self.xyz[:, rows], self.xy[:, rows], self.visible[:, rows], self.conf[:, rows], self.rgb[rows],
            self.frame_first[rows],
        )  # fmt: skip

    def spread(self, frames: np.ndarray, count: int) -> PointTracks:
        """The same tracks over all `count` frames of the clip, of which these are the rows `frames`; the others have
        seen nothing."""

        def wide(table: Tensor, nothing: float) -> Tensor:
            out = torch.full((count, *table.shape[1:]), nothing, dtype=table.dtype)
            out[torch.as_tensor(frames)] = table
            return out

        nan = float("nan")
        return PointTracks(
            wide(self.xyz, nan), wide(self.xy, nan), wide(self.visible, False), wide(self.conf, 0.0), self.rgb,
            self.frame_first,
        )  # fmt: skip


def track_points(
    matches: Correspondences, points: FramePoints, height: int, width: int, frames: int, *, count: int = 2000,
    seed: int = 0, progress: Progress | None = None,
) -> PointTracks:  # fmt: skip
    """Up to `count` tracks that cover the object in all frames.

    Args:
        matches: between T = `frames` frames of `height` x `width` pixels. points: of the same frames.
        count: at most this many tracks; some third of them are in one frame at a time.
        seed: where points are started. progress: told of each frame, forwards and back.

    Returns:
        Tracks over T frames, in the order they were started; those seen in fewer than three frames are left out
        (unless the clip has fewer).
    """
    support = Surfaces(points, height, width, frames)
    linker = Linker(MotionTable(matches), LinkedTracks.empty(frames, count), support)
    starter = _Starter(points, frames, count, seed)
    progress = progress or SilentProgress()
    progress.start("tracks", 2 * frames)
    for frame in range(frames):
        linker.step(frame)
        starter.start(frame, linker.tracks)
        progress.update()
    for frame in reversed(range(frames)):
        linker.step(frame, forwards=False)
        progress.update()
    progress.finish()
    linker.settle()
    tracks = linker.tracks
    rows = np.flatnonzero(tracks.start >= 0)
    rows = rows[np.argsort(tracks.start[rows], kind="stable")]
    found = lift_tracks(tracks.select(rows), points, height, width)
    return found.select(found.visible.sum(0) >= min(LEAST_SEEN, frames))


def track_queries(
    matches: Correspondences, points: FramePoints, height: int, width: int, frames: int, *, start: np.ndarray,
    xy: np.ndarray,
) -> PointTracks:  # fmt: skip
    """Tracks of given pixels `xy` (N, 2) of frames `start` (N,); otherwise as `track_points`. All N are kept."""
    tracks = LinkedTracks.empty(frames, len(start))
    for frame in np.unique(start).tolist():
        rows = np.flatnonzero(start == frame)
        tracks.begin(rows, frame, xy[rows])
    linker = Linker(MotionTable(matches), tracks, Surfaces(points, height, width, frames))
    for frame in range(frames):
        linker.step(frame)
    for frame in reversed(range(frames)):
        linker.step(frame, forwards=False)
    linker.settle()
    return lift_tracks(tracks, points, height, width)


def lift_tracks(tracks: LinkedTracks, points: FramePoints, height: int, width: int) -> PointTracks:
    """2D tracks with the points of the world under them."""
    frame, row = np.nonzero(tracks.seen)
    found = sample_points(
        frame, tracks.xy[frame, row].astype(np.float64), points, (height, width), len(tracks.xy), MAX_JUMP
    )
    xyz = np.full((*tracks.xy.shape[:2], 3), np.nan, np.float32)
    xyz[frame[found.found], row[found.found]] = found.xyz[found.found]
    rgb = _colours(tracks, points, height, width)
    strained = strain(xyz, tracks.start)
    torn = strained > MAX_STRAIN
    tracks.forget(torn)
    xyz[torn] = np.nan
    conf = tracks.confidence() / (1.0 + np.square(2.0 * strained / MAX_STRAIN))
    return PointTracks(
        torch.from_numpy(xyz), torch.from_numpy(tracks.xy), torch.from_numpy(tracks.seen),
        torch.from_numpy(conf.astype(np.float32)), torch.from_numpy(rgb), torch.from_numpy(tracks.start),
    )  # fmt: skip


def strain(xyz: np.ndarray, start: np.ndarray) -> np.ndarray:
    """How far the surface around each track seems stretched or pressed together: what a track does that slides.

    Args:
        xyz: (T, N, 3) world, NaN where unknown. start: (N,) the frame each track was started in.

    Returns:
        (T, N) float32 >= 0: the median, over the tracks that were nearest at the start, of the absolute logarithm of
        the distance over that at the start; 0 where fewer than three of them are known.
    """
    frames, count = xyz.shape[:2]
    beside, apart = np.zeros((count, BESIDE), np.int64), np.full((count, BESIDE), np.nan, np.float32)
    for frame in np.unique(start).tolist():
        known = np.flatnonzero(np.isfinite(xyz[frame, :, 0]))
        rows = known[start[known] == frame]
        if len(rows) == 0 or len(known) <= BESIDE:
            continue
        distance, index = KDTree(xyz[frame, known]).query(xyz[frame, rows], k=BESIDE + 1)
        beside[rows], apart[rows] = known[np.asarray(index)[:, 1:]], np.asarray(distance)[:, 1:]
    out = np.zeros((frames, count), np.float32)
    for frame in range(frames):
        distance = np.linalg.norm(xyz[frame][:, None] - xyz[frame][beside], axis=-1)
        valid = (distance > 0) & (apart > 0)  # NaN is no
        change = np.abs(np.log(np.where(valid, distance, 1.0) / np.where(valid, apart, 1.0)))
        out[frame] = np.where(valid.sum(1) >= 3, masked_median(change[..., None], valid)[:, 0], 0.0)
    return out


def _colours(tracks: LinkedTracks, points: FramePoints, height: int, width: int) -> np.ndarray:
    """(N, 3) of the pixel each track was started at; grey where it has no point."""
    rgb = np.full((len(tracks.start), 3), 0.5, np.float32)
    frame_of, pixels, colours = points.frame.numpy(), points.xy.numpy(), points.rgb.numpy()
    for frame in np.unique(tracks.start).tolist():
        rows = np.flatnonzero(tracks.start == frame)
        mine = np.flatnonzero(frame_of == frame)
        index = np.full((height, width), -1)
        column, line = np.floor(pixels[mine]).astype(int).T
        index[line, column] = mine
        at = np.floor(tracks.xy[frame, rows]).astype(int)
        inside = ((at >= 0) & (at < [width, height])).all(1)
        at = np.clip(at, 0, [width - 1, height - 1])
        point = np.where(inside, index[at[:, 1], at[:, 0]], -1)
        rgb[rows[point >= 0]] = colours[point[point >= 0]]
    return rgb


class Surfaces:
    """Where each frame sees the object's surface well enough to follow a point on it: where it has a point, and not one
    of much less confidence than is usual there, as at the outline, where surfaces turn away."""

    def __init__(self, points: FramePoints, height: int, width: int, frames: int) -> None:
        self.known = np.zeros((frames, height, width), bool)
        conf = points.conf.numpy()
        column, row = np.floor(points.xy.numpy()).astype(np.int64).T
        frame = points.frame.numpy()
        for f in np.unique(frame).tolist():
            mine = np.flatnonzero(frame == f)
            good = mine[conf[mine] > LEAST_CONF * np.median(conf[mine])]
            self.known[f, row[good], column[good]] = True

    def __call__(self, frame: int, xy: np.ndarray) -> np.ndarray:
        height, width = self.known.shape[1:]
        column, row = np.floor(xy).astype(np.int64).T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        return inside & self.known[frame, row.clip(0, height - 1), column.clip(0, width - 1)]


class _Starter:
    """Starts tracks where a frame's points have none near."""

    def __init__(self, points: FramePoints, frames: int, count: int, seed: int) -> None:
        order = np.argsort(points.frame.numpy(), kind="stable")
        bounds = np.searchsorted(points.frame.numpy()[order], np.arange(frames + 1))
        self.rows = [order[bounds[f] : bounds[f + 1]] for f in range(frames)]
        self.xy, self.conf = points.xy.numpy().astype(np.float64), points.conf.numpy()
        self.frames, self.count, self.seed = frames, count, seed
        areas = [len(rows) for rows in self.rows if len(rows)]
        live = max(1.0, LIVE_SHARE * count)
        self.spacing = max(1.0, float(np.sqrt(np.median(areas) / live))) if areas else 1.0

    def start(self, frame: int, tracks: LinkedTracks) -> None:
        allowed = int(self.count * (LIVE_SHARE + (1 - LIVE_SHARE) * (frame + 1) / self.frames))
        chosen = self._uncovered(frame, tracks.xy[frame])
        slots = self._slots(frame, tracks)
        room = min(len(slots), allowed - (self.count - len(slots)))
        if room <= 0 or len(chosen) == 0:
            return
        random = np.random.default_rng([self.seed, frame])
        if len(chosen) > room:
            chosen = np.sort(random.choice(chosen, room, replace=False))
        tracks.begin(slots[: len(chosen)], frame, self.xy[chosen])

    def _uncovered(self, frame: int, places: np.ndarray) -> np.ndarray:
        """Rows of points of the frame, one for each cell of a grid that has no track in it or near it."""
        rows = self.rows[frame]
        if len(rows) == 0:
            return rows
        xy = self.xy[rows]
        live = places[np.isfinite(places[:, 0])]
        far = np.ones(len(rows), bool)
        if len(live):
            far = KDTree(live).query(xy, distance_upper_bound=0.8 * self.spacing)[0] > 0.8 * self.spacing
        rows, xy = rows[far], xy[far]
        phase = np.random.default_rng([self.seed, frame, 1]).random(2)
        place = xy / self.spacing + phase
        cell = np.floor(place)
        away = np.square(place - cell - 0.5).sum(1)
        key = cell[:, 1] * 1_000_003 + cell[:, 0]
        order = np.lexsort((away - self.conf[rows], key))  # the best of each cell first: confident, near its middle
        first = np.r_[True, np.diff(key[order]) != 0] if len(order) else np.zeros(0, bool)
        return rows[order[first]]

    def _slots(self, frame: int, tracks: LinkedTracks) -> np.ndarray:
        """Tracks not begun yet, and those that were lost after a frame or two."""
        seen = tracks.seen
        lost = (seen.sum(0) < LEAST_SEEN) & (tracks.start < frame - LEAST_SEEN)
        return np.flatnonzero((tracks.start < 0) | lost)
