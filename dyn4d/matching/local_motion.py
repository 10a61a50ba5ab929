"""Where a point between matches goes: the motion of the matches around it, robustly."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from dyn4d.core.types import Correspondences

NEIGHBOURS = 8
LEAST = 3  # matches that must agree on where a point goes
REACH_PX = 3.0  # matches within this distance tell of a point, or further where matches are sparser
MATCH_PX = 0.15  # what even a good match is off by
RIDGE = 0.003  # holds the gradient of the motion where few matches would leave it free
_ROUNDS = 2


@dataclass(frozen=True)
class Guess:
    """Where n points of frame a are in frame b, by one pair's matches.

    Attributes:
        xy: (n, 2) px, NaN where the matches do not tell. sigma: (n,) px, how far that may be off.
        quality: (n,) the mean weight of the matches that say so.
    """

    xy: np.ndarray
    sigma: np.ndarray
    quality: np.ndarray

    @staticmethod
    def nothing(count: int) -> Guess:
        return Guess(np.full((count, 2), np.nan), np.full(count, np.inf), np.zeros(count))


class LocalMotion:
    """The matches of one ordered pair, asked by place."""

    def __init__(self, xy_a: np.ndarray, xy_b: np.ndarray, weight: np.ndarray) -> None:
        """(M, 2), (M, 2) px and (M,) > 0, M >= 1."""
        self.tree = KDTree(xy_a)
        self.xy_a, self.motion, self.weight = xy_a, xy_b - xy_a, weight
        some = xy_a[:: max(1, len(xy_a) // 256)]
        nearest = self.tree.query(some, k=2)[0][:, 1] if len(xy_a) > 1 else np.zeros(1)
        # points scattered over a plane have their nearest one at half the distance of a grid as dense
        self.reach = max(REACH_PX, 5.0 * float(np.median(nearest)))

    def at(self, xy: np.ndarray) -> Guess:
        """Points `xy` (n, 2) of frame a in frame b.

        The motion around each point is an affine map, fitted to the nearest matches with weights that fall with their
        distance and, in a few rounds that begin at their median, with how far they stray (Geman and McClure's
        weights). It is told only where at least three matches agree, and they are the better half.
        """
        count = len(xy)
        if count == 0:
            return Guess.nothing(0)
        distance, index = self.tree.query(xy, k=NEIGHBOURS, distance_upper_bound=self.reach)
        near = np.asarray(index < len(self.weight))
        index = np.where(near, index, 0)
        offset = (self.xy_a[index] - xy[:, None]) / self.reach
        motion = self.motion[index]
        weight = self.weight[index]
        base = np.where(near, weight * np.exp(-2.0 * np.square(np.where(near, distance, 0) / self.reach)), 0.0)
        found = near.sum(1)

        basis = np.concatenate([np.ones((count, NEIGHBOURS, 1)), offset], axis=-1)
        middle = masked_median(motion, near)
        stray = np.linalg.norm(motion - middle[:, None], axis=-1)
        inverse = np.zeros((count, 3, 3))
        robust = base
        for _ in range(_ROUNDS):
            scale = np.maximum(2.0 * masked_median(stray[..., None], near)[:, 0], 0.3)
            robust = base / np.square(1.0 + np.square(stray / scale[:, None]))
            total = np.maximum(robust.sum(1), 1e-12)
            matrix = np.einsum("nk,nki,nkj->nij", robust, basis, basis) / total[:, None, None]
            matrix += np.diag([1e-9, RIDGE, RIDGE])
            inverse = np.linalg.inv(matrix)
            right = np.einsum("nk,nki,nkd->nid", robust, basis, motion) / total[:, None, None]
            fitted = inverse @ right
            stray = np.where(near, np.linalg.norm(motion - basis @ fitted, axis=-1), 0.0)
            middle = fitted[:, 0]
        agree = near & (stray < 2.0 * np.maximum(masked_median(stray[..., None], near)[:, 0], 0.3)[:, None])
        total = np.maximum(robust.sum(1), 1e-12)
        spread = (robust * np.square(stray)).sum(1) / total
        sigma = np.sqrt((spread + MATCH_PX**2) * np.maximum(inverse[:, 0, 0], 1.0))
        told = (agree.sum(1) >= LEAST) & (2 * agree.sum(1) > found) & (inverse[:, 0, 0] < 6.0)
        quality = (robust * weight).sum(1) / total
        return Guess(
            np.where(told[:, None], xy + middle, np.nan), np.where(told, sigma, np.inf), np.where(told, quality, 0.0)
        )


def masked_median(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The lower median over axis 1 of (n, k, d) where `valid` (n, k); 0 where nothing is."""
    ordered = np.sort(np.where(valid[..., None], values, np.inf), axis=1)
    place = np.maximum(valid.sum(1) - 1, 0) // 2
    middle = np.take_along_axis(ordered, place[:, None, None], axis=1)[:, 0]
    return np.where(np.isfinite(middle), middle, 0.0)


class MotionTable:
    """A clip's matches by ordered pair of frames; the pairs used last stay ready."""

    def __init__(self, matches: Correspondences, keep: int = 64) -> None:
        columns = [getattr(matches, name).numpy() for name in ("frame_a", "frame_b", "xy_a", "xy_b", "weight")]
        frame_a, frame_b = columns[:2]
        order = np.lexsort((frame_b, frame_a))
        if not (order[1:] > order[:-1]).all():
            columns = [column[order] for column in columns]
            frame_a, frame_b = columns[:2]
        self._xy_a, self._xy_b, self._weight = columns[2:]
        starts = np.flatnonzero(np.r_[True, (np.diff(frame_a) != 0) | (np.diff(frame_b) != 0)]) if len(frame_a) else []
        ends = np.r_[starts[1:], len(frame_a)] if len(frame_a) else []
        self._rows = {(int(frame_a[s]), int(frame_b[s])): (int(s), int(e)) for s, e in zip(starts, ends, strict=True)}
        self._ready: OrderedDict[tuple[int, int], LocalMotion] = OrderedDict()
        self._keep = keep

    def partners(self, frame: int, *, earlier: bool) -> list[int]:
        """The frames before (or after) `frame` that have matches into it, nearest first."""
        found = [a for a, b in self._rows if b == frame and (a < b) == earlier]
        return sorted(found, key=lambda a: abs(a - frame))

    def __contains__(self, pair: tuple[int, int]) -> bool:
        return pair in self._rows

    def motion(self, a: int, b: int) -> LocalMotion | None:
        """The motion from frame a to frame b, or None without matches."""
        if (a, b) not in self._rows:
            return None
        if (a, b) not in self._ready:
            rows = slice(*self._rows[a, b])
            part = [np.asarray(c[rows], np.float64) for c in (self._xy_a, self._xy_b, self._weight)]
            self._ready[a, b] = LocalMotion(*part)
            while len(self._ready) > self._keep:
                self._ready.popitem(last=False)
        self._ready.move_to_end((a, b))
        return self._ready[a, b]
