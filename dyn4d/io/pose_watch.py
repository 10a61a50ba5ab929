"""Measures whether given poses carry depth of one frame onto that of another, and whether other readings of the same
numbers would: the inverse matrices, the camera axes of OpenGL, both, or no motion."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dyn4d.core.types import Clip

PLACES = 8  # places in the clip from which frames are compared
LAGS = (1, 2, 4, 8, 16)  # frames between the two
SIDE = 160  # px: of the reduced maps
LEAST = 100  # points in a pair, below which it says nothing
AROUND = 0.05  # of the picture: depth outside the mask from which on that is compared, not the object's
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])

GIVEN, INVERSE, FLIPPED, INVERSE_FLIPPED, STILL = range(5)


def readings(poses: np.ndarray) -> np.ndarray:
    """(5, T, 4, 4) world_from_cam: as given (T, 4, 4), and what would be right if the file held something else."""
    inverse = np.linalg.inv(poses)
    return np.stack([poses, inverse, poses @ FLIP, inverse @ FLIP, np.broadcast_to(np.eye(4), poses.shape)])


@dataclass(frozen=True)
class PosePair:
    """Two frames, `lag` rows apart: of each reading the median of |log(depth)| off (1 for points that come to lie where
    nothing is), and whether the background told that, or the object."""

    lag: int
    off: np.ndarray
    background: bool


@dataclass(frozen=True)
class _Small:
    depth: np.ndarray
    mask: np.ndarray


@dataclass
class PoseWatch:
    """Look at the frames in order, with `add`; then read `pairs`."""

    clip: Clip
    pairs: list[PosePair] = field(default_factory=list)
    _held: dict[int, _Small] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._wanted: dict[int, list[int]] = {}
        cameras, count = self.clip.cameras, len(self.clip)
        if cameras is None or not self.clip.poses_given or self.clip.depth is None:
            return
        known = cameras.registered.numpy()
        poses = cameras.world_from_cam.numpy().astype(np.float64)
        if not known.any() or np.ptp(poses[known], axis=0).max() < 1e-9:
            return
        self._poses = readings(np.where(known[:, None, None], poses, np.eye(4)))
        self._K = cameras.K.numpy().astype(np.float64)
        for lag in LAGS:
            if lag > max(count // 3, 1):
                break
            for first in {*np.linspace(0, count - 1 - lag, PLACES).astype(int).tolist()}:
                if known[first] and known[first + lag]:
                    self._wanted.setdefault(first + lag, []).append(first)
        self._last = {first: row for row in sorted(self._wanted) for first in self._wanted[row]}

    def add(self, row: int, mask: np.ndarray, depth: np.ndarray) -> None:
        """mask (H, W) bool and depth (H, W) of selected frame `row`."""
        if not self._wanted or not (row in self._wanted or row in self._last):
            return
        step = max(1, max(depth.shape) // SIDE)
        part = np.s_[step // 2 :: step, step // 2 :: step]
        here = _Small(np.where(np.isfinite(depth[part]), depth[part], 0), mask[part].copy())
        for first in self._wanted.get(row, []):
            if first in self._held:
                pair = self._compare(first, row, self._held[first], here, step)
                self.pairs += [] if pair is None else [pair]
        if row in self._last:
            self._held[row] = here
        self._held = {first: small for first, small in self._held.items() if self._last[first] > row}

    def _compare(self, a: int, b: int, before: _Small, after: _Small, step: int) -> PosePair | None:
        outside = (before.depth > 0) & ~before.mask
        background = bool(outside.mean() > AROUND)
        chosen = outside if background else (before.depth > 0) & before.mask
        there = (after.depth > 0) & (after.mask != background)
        y, x = np.nonzero(chosen)
        if len(y) < LEAST or np.count_nonzero(there) < LEAST:
            return None
        z = before.depth[y, x].astype(np.float64)
        pixels = np.stack([x * step + step // 2 + 0.5, y * step + step // 2 + 0.5, np.ones(len(x))])
        points = np.linalg.inv(self._K[a]) @ pixels * z
        off = np.ones((len(self._poses), len(z)))
        for reading, poses in enumerate(self._poses):
            motion = np.linalg.inv(poses[b]) @ poses[a]
            moved = motion[:3, :3] @ points + motion[:3, 3:]
            ahead = np.flatnonzero(moved[2] > 1e-9)
            u, v, w = self._K[b] @ moved[:, ahead]
            column, line = np.floor(u / w / step), np.floor(v / w / step)
            inside = (column >= 0) & (line >= 0) & (column < there.shape[1]) & (line < there.shape[0])
            ahead, column, line = ahead[inside], column[inside].astype(int), line[inside].astype(int)
            hit = there[line, column]
            ahead, column, line = ahead[hit], column[hit], line[hit]
            off[reading, ahead] = np.minimum(np.abs(np.log(moved[2, ahead] / after.depth[line, column])), 1)
        return PosePair(b - a, np.median(off, axis=1), background)
