"""Long 2D tracks: matches between pairs of frames, linked over the clip.

A track goes on from every earlier frame that has matches into the next one, over short and long strides at once: where
it goes is what most of them say, each trusted by how far its own end may have drifted. Chains are thereby held by the
direct matches over longer strides, and a point that was hidden is found again by those that reach over the gap, if the
matches of the way back return to where they began. At the end, a place on which the direct matches to and from other
frames do not agree is taken out.

Flow follows the outline of a thing that turns, and with it a point that has long gone round the back. Where a surface
is known, `support` ends such a track before it slides: it says where the camera sees a surface well enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dyn4d.matching.local_motion import Guess, MotionTable

AGREE_PX = 1.0  # ends of chained and direct matches this far apart still agree
CYCLE_PX = 1.5  # a point found again must come back to within this
AGREE_SHARE = 0.5  # of the links to and from a place
START_PX = 0.05  # a track's own start is where it is
STRIDE_GROWTH = 1.9  # of the strides that a track seen in the last frame listens to


@dataclass
class LinkedTracks:
    """N tracks over T frames while they are made, and after.

    Attributes:
        xy: (T, N, 2) float32 px, NaN where not seen. start: (N,) int64 the frame each was started in.
        sigma: (T, N) float32 px, how far the place may have drifted. quality: (T, N) mean weight of the matches used.
        links, agree: (T, N) float32: direct links between this place and the track's other places, and how many agree.
    """

    xy: np.ndarray
    start: np.ndarray
    sigma: np.ndarray
    quality: np.ndarray
    links: np.ndarray
    agree: np.ndarray

    @staticmethod
    def empty(frames: int, count: int) -> LinkedTracks:
        return LinkedTracks(
            np.full((frames, count, 2), np.nan, np.float32), np.full(count, -1, np.int64),
            *(np.zeros((frames, count), np.float32) for _ in range(4)),
        )  # fmt: skip

    @property
    def seen(self) -> np.ndarray:
        """(T, N) bool."""
        return np.isfinite(self.xy[..., 0])

    def begin(self, rows: np.ndarray, frame: int, xy: np.ndarray) -> None:
        """Start the tracks `rows` at `xy` (n, 2) of a frame; whatever they were is forgotten."""
        self.xy[:, rows], self.start[rows] = np.nan, frame
        for table in (self.sigma, self.quality, self.links, self.agree):
            table[:, rows] = 0
        self.xy[frame, rows], self.sigma[frame, rows], self.quality[frame, rows] = xy, START_PX, 1.0

    def forget(self, frame_and_row: np.ndarray) -> None:
        """Take out the places that a mask (T, N) names."""
        self.xy[frame_and_row] = np.nan

    def select(self, rows: np.ndarray) -> LinkedTracks:
        tables = (self.xy, self.sigma, self.quality, self.links, self.agree)
        xy, sigma, quality, links, agree = (table[:, rows] for table in tables)
        return LinkedTracks(xy, self.start[rows], sigma, quality, links, agree)

    def confidence(self) -> np.ndarray:
        """(T, N) float32 in [0, 1], 0 where not seen: the weight of the matches x the share of the direct links to and
        from the track's other places that agree x what the drift leaves."""
        share = (self.agree + 1.0) / (self.links + 1.0)
        held = 1.0 / (1.0 + np.square(self.sigma / 2.0))
        return np.where(self.seen, np.clip(self.quality * share * held, 0.0, 1.0), 0.0).astype(np.float32)


@dataclass
class Linker:
    """Carries tracks from frame to frame.

    Attributes:
        table: the matches. tracks: what is carried; changed in place.
        support: takes a frame and places (n, 2) px, says for each (n,) bool whether it can be seen there.
    """

    table: MotionTable
    tracks: LinkedTracks
    support: Callable[[int, np.ndarray], np.ndarray] | None = None

    def step(self, frame: int, *, forwards: bool = True) -> None:
        """Find in `frame` the tracks that its partners before it (after it, if not `forwards`) have seen."""
        tracks = self.tracks
        sources = self.table.partners(frame, earlier=forwards)
        began = (tracks.start >= 0) & ((tracks.start < frame) if forwards else (tracks.start > frame))
        if not sources or not began.any():
            return
        near = frame - 1 if forwards else frame + 1
        known = np.stack([began & np.isfinite(tracks.xy[s, :, 0]) for s in sources])
        rows = np.flatnonzero(known.any(0))
        known = known[:, rows] & self._listened(frame, sources, np.isfinite(tracks.xy[near, rows, 0]))
        places = np.full((len(sources), len(rows), 2), np.nan)
        sigma = np.full((len(sources), len(rows)), np.inf)
        quality = np.zeros((len(sources), len(rows)))
        for i, source in enumerate(sources):
            motion = self.table.motion(source, frame)
            mine = np.flatnonzero(known[i])
            if motion is None or len(mine) == 0:
                continue
            guess = motion.at(tracks.xy[source, rows[mine]].astype(np.float64))
            places[i, mine], quality[i, mine] = guess.xy, guess.quality
            sigma[i, mine] = np.hypot(guess.sigma, tracks.sigma[source, rows[mine]])
        found = combine(places, sigma, quality)
        told = np.isfinite(found.xy[:, 0])
        lost = told & ~np.isfinite(tracks.xy[near, rows, 0])
        told[lost] &= self._returns(frame, sources, rows[lost], places[:, lost], found.xy[lost])
        if self.support is not None:
            told[told] = self.support(frame, found.xy[told])
        off = np.linalg.norm(places - found.xy, axis=-1)
        link = np.isfinite(off) & told
        agree = np.exp(-0.5 * np.square(np.where(link, off, 0.0) / np.maximum(AGREE_PX, sigma)))
        agree = np.where(link, agree, 0.0)
        tracks.xy[frame, rows[told]] = found.xy[told]
        tracks.sigma[frame, rows[told]] = found.sigma[told]
        tracks.quality[frame, rows[told]] = found.quality[told]
        tracks.links[frame, rows] += link.sum(0)
        tracks.agree[frame, rows] += agree.sum(0)
        for i, source in enumerate(sources):
            tracks.links[source, rows] += link[i]
            tracks.agree[source, rows] += agree[i]

    def _listened(self, frame: int, sources: list[int], held: np.ndarray) -> np.ndarray:
        """(S, n) which sources are asked: all where the track was just lost; where it is `held` (n,), strides that grow
        by steps are enough and take half the time."""
        chosen, last = np.zeros(len(sources), bool), 0.0
        for i, source in enumerate(sources):
            if abs(source - frame) >= STRIDE_GROWTH * last:
                chosen[i], last = True, abs(source - frame)
        return chosen[:, None] | ~held

    def _returns(
        self, frame: int, sources: list[int], rows: np.ndarray, places: np.ndarray, found: np.ndarray
    ) -> np.ndarray:
        """Which points `found` (n, 2) in `frame` come back to a place that the track was seen at."""
        back = np.zeros(len(rows), bool)
        for i, source in enumerate(sources):
            motion = self.table.motion(frame, source)
            mine = np.flatnonzero(np.isfinite(places[i, :, 0]) & ~back)
            if motion is None or len(mine) == 0:
                continue
            guess = motion.at(found[mine])
            error = np.linalg.norm(guess.xy - self.tracks.xy[source, rows[mine]], axis=-1)
            back[mine] = error < np.maximum(CYCLE_PX, guess.sigma)  # NaN is no
        return back

    def settle(self) -> None:
        """Take out the places on which most links to and from them do not agree; where a track was started stays."""
        tracks = self.tracks
        share = tracks.agree / np.maximum(tracks.links, 1.0)
        doubtful = (tracks.links >= 3) & (share < AGREE_SHARE)
        own = np.arange(len(tracks.xy))[:, None] == tracks.start
        tracks.forget(doubtful & ~own)


def combine(places: np.ndarray, sigma: np.ndarray, quality: np.ndarray) -> Guess:
    """One place for each of n points from what S sources say.

    Args:
        places: (S, n, 2) px, NaN where a source says nothing. sigma, quality: (S, n).

    Returns:
        The mean, by inverse variance, of those near the weighted median; nothing where they are not at least half.
    """
    weight = np.where(np.isfinite(places[..., 0]), 1.0 / np.square(sigma), 0.0)
    total = weight.sum(0)
    middle = np.stack([_weighted_median(places[..., axis], weight) for axis in range(2)], axis=-1)
    off = np.linalg.norm(places - middle, axis=-1)
    near = weight * (off <= np.maximum(AGREE_PX, 2.0 * np.where(np.isfinite(sigma), sigma, 0.0)))
    held = near.sum(0)
    told = (total > 0) & (2 * held >= total)
    held = np.maximum(held, 1e-12)
    xy = (near[..., None] * np.nan_to_num(places)).sum(0) / held[:, None]
    # the sources' errors go together, so that several of them are not taken for better than they are on average
    drift = np.sqrt((near > 0).sum(0) / held)
    worth = (near * quality).sum(0) / held
    return Guess(np.where(told[:, None], xy, np.nan), np.where(told, drift, np.inf), np.where(told, worth, 0.0))


def _weighted_median(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Over axis 0 of (S, n)."""
    order = np.argsort(np.where(weight > 0, values, np.inf), axis=0)
    ordered = np.take_along_axis(values, order, axis=0)
    share = np.cumsum(np.take_along_axis(weight, order, axis=0), axis=0)
    place = (share < 0.5 * share[-1]).sum(0)
    return np.take_along_axis(ordered, place[None], axis=0)[0]
