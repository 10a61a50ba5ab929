"""Do the frames agree? Points are looked at from other frames; what floats where others saw through is dropped.

Votes across time hold only for what did not move. So it is measured how many of the votes agree, per pair of frames
and around each point: pairs between which much moved have no say, nor has a pair where most of a point's surroundings
moved along with it; and unless the whole object is rigid, both earlier and later frames have to speak against a point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Clip, FramePoints, GeometryResult
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.consistency_kernels import AGAINST, AGREES, NONE, look
from dyn4d.geometry.view_maps import MARGIN, FrameViews, ViewMap

RIGID = 0.96  # share of agreeing votes, over pairs of frames near and far, from which the object counts as rigid
LAGS = (1, 2, 4, 8, 16)  # frames apart, of the pairs that vote
SAMPLED = 6  # pairs a lag that the measure of rigidity looks at
PAIR = 0.7  # share of agreeing votes below which a pair has no say
AROUND = 0.6  # and the share around a point below which the pair has none about this point
WINDOW = 0.06  # of the object's size in the picture: how far "around" reaches
FEW_VOTES = 50  # below this a pair says nothing of rigidity
PIXELS = 1.5  # two depths agree within what this many pixels span
NOISE = 3.0  # or within this many standard deviations of the depth
MOST = 0.02  # but at most within this share of the object's size
STEEP = (
    3.0  # neighbouring pixels are on one patch of surface if it falls by at most this many pixels' span between them
)
WHOLE = 0.8  # where parts move, a patch goes if this share of it is contradicted
SUPPORT = 1 / 3  # a point with more agreeing votes than this share of those against it stays


@dataclass(frozen=True)
class Rigidity:
    """How far the frames agree on one rigid object.

    Attributes:
        share: of the votes that agree, mean over pairs of frames near and far; NaN where no two frames saw the same.
        pairs: how many pairs that is. noise: standard deviation of depth, as a share of it.
    """

    share: float
    pairs: int
    noise: float

    @property
    def rigid(self) -> bool:
        return self.share >= RIGID

    def note(self) -> str:
        """One line for the user."""
        what = (
            "one rigid object"
            if self.rigid
            else f"a rigid object would have {RIGID:.0%} or more: no mesh of all frames"
        )
        return f"geometry: {self.share:.1%} of what frames see of one another agrees ({what})"


def _votes(a: ViewMap, b: ViewMap, noise: float, size: float) -> tuple[np.ndarray, np.ndarray]:
    """(n,) and (m,) uint8: what b says of a's points, and a of b's."""
    told: list[np.ndarray] = []
    through = np.zeros(len(a), bool), np.zeros(len(b), bool)
    for here, there, seen in ((a, b, through[1]), (b, a, through[0])):
        votes = np.empty(len(here), np.uint8)
        look(
            here.xyz, there.cam_from_world, there.K, there.free, there.row, NOISE * noise, MOST * size,
            PIXELS * there.footprint, votes, seen,
        )  # fmt: skip
        told.append(votes)
    for votes, seen in zip(told, through):
        # a point that agrees though another lies before it agrees by chance, or is at the rim of something: no vote
        votes[seen] = np.where(votes[seen] == AGREES, NONE, AGAINST)
    return told[0], told[1]


def _share(votes: tuple[np.ndarray, np.ndarray]) -> float:
    """Agreeing ones of all votes; NaN where there are few."""
    agree, against = (sum(int((part == kind).sum()) for part in votes) for kind in (AGREES, AGAINST))
    return agree / (agree + against) if agree + against >= FEW_VOTES else math.nan


def _differences(a: ViewMap, b: ViewMap, limit: float) -> np.ndarray:
    """Relative differences between the depth of a's points in b's camera and what b saw there, up to `limit` long."""
    in_camera = a.xyz[:: max(1, len(a) // 5000)] @ b.cam_from_world[:3, :3].T + b.cam_from_world[:3, 3]
    in_camera = in_camera[np.isfinite(in_camera).all(-1) & (in_camera[:, 2] > 0)]
    column, line = np.floor((in_camera @ b.K.T)[:, :2] / in_camera[:, 2:]).astype(np.int64).T
    inside = (column >= 0) & (line >= 0) & (column < b.row.shape[1]) & (line < b.row.shape[0])
    column, line, depth = column[inside], line[inside], in_camera[inside, 2]
    hit = b.row[line, column] >= 0
    difference = b.free[line, column][hit] - depth[hit]
    return (difference / depth[hit])[np.abs(difference) < limit]


def _pairs(frames: list[int], lags: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Some pairs of each lag, evenly over the clip."""
    for lag in lags:
        firsts = np.unique(np.linspace(0, len(frames) - 1 - lag, SAMPLED).astype(int)) if lag < len(frames) else ()
        yield from ((frames[i], frames[i + lag]) for i in firsts)


def measure_rigidity(views: FrameViews) -> Rigidity:
    """Look at some pairs of frames, neighbours up to the whole clip apart."""
    frames, size = views.frames, views.size
    if len(frames) < 2 or size <= 0:
        return Rigidity(math.nan, 0, 0.0)
    found = [_differences(views[a], views[b], 0.05 * size) for a, b in _pairs(frames, (1,))]
    differences = np.abs(np.concatenate(found))
    noise = 1.4826 * float(np.median(differences)) if len(differences) else 0.0
    lags = tuple(2**k for k in range(len(frames).bit_length()) if 2**k < len(frames))
    shares = [_share(_votes(views[a], views[b], noise, size)) for a, b in _pairs(frames, lags)]
    shares = [share for share in shares if not math.isnan(share)]
    return Rigidity(float(np.mean(shares)) if shares else math.nan, len(shares), noise)


# ----------------------------------------------------------------------------------------- cleaning


@dataclass
class _Ballots:
    """Votes of all points: agreeing ones, and those against from earlier and later frames. (N,) uint8 each."""

    agree: np.ndarray
    earlier: np.ndarray
    later: np.ndarray

    @staticmethod
    def empty(count: int) -> _Ballots:
        return _Ballots(*(np.zeros(count, np.uint8) for _ in range(3)))

    def add(self, rows: slice, votes: np.ndarray, *, later: bool) -> None:
        self.agree[rows] += votes == AGREES
        (self.later if later else self.earlier)[rows] += votes == AGAINST


def _box_sum(image: np.ndarray, half: int) -> np.ndarray:
    """(h, w) float32: the sum over the square of side 2 half + 1 around each pixel."""
    height, width = image.shape
    total = np.zeros((height + 1, width + 1), np.float32)
    np.cumsum(np.cumsum(image, axis=0, dtype=np.float32), axis=1, out=total[1:, 1:])
    low_y, high_y = np.arange(height) - half, np.arange(height) + half + 1
    low_x, high_x = np.arange(width) - half, np.arange(width) + half + 1
    low_y, high_y = np.maximum(low_y, 0), np.minimum(high_y, height)
    low_x, high_x = np.maximum(low_x, 0), np.minimum(high_x, width)
    return total[high_y][:, high_x] - total[low_y][:, high_x] - total[high_y][:, low_x] + total[low_y][:, low_x]


def _where_rigid(view: ViewMap, votes: np.ndarray, window: float) -> np.ndarray:
    """The votes without those against points most of whose surroundings are spoken against too: there it moved."""
    seen = view.row >= 0
    image = np.zeros(view.row.shape, np.uint8)
    image[seen] = votes[view.row[seen]]
    half = max(3, round(window * max(image.shape) / (1 + 2 * MARGIN)))
    agree, against = _box_sum(image == AGREES, half), _box_sum(image == AGAINST, half)
    moved = (image == AGAINST) & (agree < AROUND * (agree + against))
    out = votes.copy()
    out[view.row[moved]] = NONE
    return out


def _all_votes(views: FrameViews, rigidity: Rigidity, *, trust: bool, progress: Progress) -> _Ballots:
    """Every frame with its neighbours; only as many maps as the longest lag are held."""
    ballots = _Ballots.empty(len(views.points))
    frames, held = views.frames, {}
    window = WINDOW * (2 if rigidity.rigid else 1)  # what moves is little, then
    progress.start("views", len(frames))
    for place, first in enumerate(frames):
        for lag in (0, *LAGS):
            if place + lag < len(frames) and place + lag not in held:
                held[place + lag] = views[frames[place + lag]]
        a = held[place]
        for lag in LAGS:
            if place + lag >= len(frames):
                break
            second, b = frames[place + lag], held[place + lag]
            votes = _votes(a, b, rigidity.noise, views.size)
            if not trust:
                if not _share(votes) >= PAIR:
                    continue
                votes = _where_rigid(a, votes[0], window), _where_rigid(b, votes[1], window)
            ballots.add(views.rows(first), votes[0], later=True)
            ballots.add(views.rows(second), votes[1], later=False)
        del held[place]
        progress.update()
    progress.finish()
    return ballots


def _detached(view: ViewMap, clear: np.ndarray) -> np.ndarray:
    """(n,) bool: those of `clear` (n,) whose whole patch of surface is to be dropped.

    The rim of a moving limb is spoken against from both sides of time now and then, but it hangs together with the rest
    of the limb; what flies does not.
    """
    ends: list[np.ndarray] = []
    height, width = view.row.shape
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = np.s_[: height - dy, max(-dx, 0) : width - max(dx, 0)]
        there = np.s_[dy:, max(dx, 0) : width + min(dx, 0)]
        a, b, depth_a, depth_b = view.row[here], view.row[there], view.free[here], view.free[there]
        with np.errstate(invalid="ignore"):  # infinity less infinity, outside the mask
            close = np.abs(depth_a - depth_b) <= STEEP * view.footprint * np.minimum(depth_a, depth_b)
        joined = (a >= 0) & (b >= 0) & close
        ends.append(np.stack([a[joined], b[joined]]))
    first, second = np.concatenate(ends, axis=1)
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(len(clear), len(clear)))
    count, patch = connected_components(graph, directed=False)
    size, bad = np.bincount(patch, minlength=count), np.bincount(patch, weights=clear, minlength=count)
    return clear & (bad >= WHOLE * size)[patch]


def clean_points(
    views: FrameViews, rigidity: Rigidity, *, trust: bool = False, progress: Progress | None = None
) -> tuple[FramePoints, int]:
    """The points without those that other frames contradict, and how many were dropped.

    A point goes if most frames that say anything of it are against it; one with votes for and against loses confidence
    in their proportion. Unless the object is rigid, both earlier and later frames have to be against a point, and only
    those go that hang together with no others.

    Args:
        trust: count every vote, as if the object were rigid.
    """
    points = views.points
    if len(views.frames) < 2 or views.size <= 0:
        return points, 0
    ballots = _all_votes(views, rigidity, trust=trust, progress=progress or SilentProgress())
    agree = ballots.agree.astype(np.float32)
    against = ballots.earlier.astype(np.float32) + ballots.later
    clear = (against >= 2) & (agree <= SUPPORT * against)
    if trust or rigidity.rigid:
        clear |= (against == 1) & (agree == 0)
    else:
        clear &= (ballots.earlier > 0) & (ballots.later > 0)
        for frame in views.frames:
            rows = views.rows(frame)
            if clear[rows].any():
                clear[rows] = _detached(views[frame], clear[rows])
    conf = points.conf * torch.from_numpy((agree + 1) / (agree + against + 1))
    kept = replace(points, conf=conf.clamp_min(1e-3)).select(torch.from_numpy(~clear))
    return kept, int(clear.sum())


def check_views(
    clip: Clip, found: GeometryResult, config: GeometryConfig, progress: Progress | None = None
) -> tuple[GeometryResult, Rigidity]:
    """Measure how rigid the object is and clean its points as `config.clean` says. The measure is always taken: it
    tells what of the object the scene for other programs shows."""
    progress = progress or SilentProgress()
    views = clip_views(clip, found)
    rigidity = measure_rigidity(views)
    if rigidity.pairs:
        found = _noted(found, rigidity.note(), progress)
    if config.clean != "off":
        kept, dropped = clean_points(views, rigidity, trust=config.clean == "on", progress=progress)
        if dropped:
            share = dropped / len(found.points)
            found = replace(found, points=kept)
            line = f"geometry: {dropped} points dropped ({share:.2%}) that other frames contradict"
            found = _noted(found, line, progress)
        else:
            found = replace(found, points=kept)
    return found, rigidity


def clip_views(clip: Clip, found: GeometryResult) -> FrameViews:
    """The maps of a clip's frames, with the depth outside the masks where the points' source has it: only this tells
    what stands before the object. Where a clip's own maps have none, nothing does."""
    if found.source == "rgbd":
        return FrameViews(found.points, found.cameras, clip.masks, clip.depth, empty=math.inf)
    return FrameViews(found.points, found.cameras, clip.masks, found.depth)


def _noted(found: GeometryResult, line: str, progress: Progress) -> GeometryResult:
    progress.note(line)
    return replace(found, notes=(*found.notes, line))
