"""Depths of a moving object, bent until distances on it are the same at all times.

What is filmed bends at its joints, but hardly stretches: two points of one part keep their distance, whatever the whole
does. Matches say where both are in two pictures; the depths have to be such that the distance comes out the same. That
holds for limbs that move by themselves, tells how large a frame's depth is beside that of the others, and asks for no
cameras (isometric structure from motion: Taylor, Jepson and Kutulakos, "Non-rigid structure from locally-rigid motion",
CVPR 2010; Parashar, Pizarro and Bartoli, "Isometric non-rigid shape-from-motion with Riemannian geometry", TPAMI 2018).
Which side of a part is nearer it cannot say where that part looks flat: that stays as it was.

Each frame's depth is multiplied by the exponential of a smooth field over the object. Pairs of points on different
parts are outliers to a robust loss; what is left of freedom goes to the smallest change, smooth in the picture and in
time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Correspondences, FrameReader
from dyn4d.geometry.measured_relief import MeasuredDepth
from dyn4d.geometry.view_depth import ViewDepth

NEAR, FAR = 0.04, 0.32  # of the object's size in the picture: how far apart two points are that are compared
EACH = 3  # pairs of points for each match
LEAST = 8  # matches of two frames, and ten times as many pairs of points in all, below which nothing is said
NOISE = 0.0026  # of the object's size in the picture: half a pixel of 190
SLACK = 0.03  # of a distance: by so much it may change
SIDES = (1, 2, 4, 8, 16, 32)  # knots along a side of the fields whose sum bends a frame
HELD = (0.0, 1.0, 4.0, 16.0, 64.0, 256.0)  # how firmly: the first is the frame's distance, which is free
USUAL = 0.1  # logarithm of depth: a change so large of all knots of one field costs `PRIOR` times its `HELD`
PRIOR = 0.1
SWAY = 0.01  # logarithm of depth: by so much a point's change may differ from the one that it has a frame later
CALM = 0.05  # what such a difference costs, squared; by the square root of the time between
STEPS, RATE, BLUNT = 150, 0.01, 3.0  # BLUNT: times as unsure pairs are taken to be at first, until STEADY of the steps
STEADY = 0.6
AS_ONE = 0.6  # mean agreement of matches with one rigid motion, from which the object is left as that measured it


@dataclass(frozen=True)
class Stretch:
    """What a depth map is multiplied by: the exponential of a field over a square of the picture.

    Attributes:
        middle: (2,) of the square, px. half: half its side, px. knots: (n, n) logarithms, the outer ones on its sides.
    """

    middle: np.ndarray
    half: float
    knots: np.ndarray

    def apply(self, depth: np.ndarray) -> np.ndarray:
        """(H, W) depth, stretched; what is 0 stays 0."""
        last = len(self.knots) - 1
        to_knots = [
            (((np.arange(count) + 0.5 - mid) / self.half).clip(-1, 1) + 1) / 2 * last
            for count, mid in zip(depth.shape[::-1], self.middle)
        ]
        there = depth > 0
        rows, columns = (np.flatnonzero(there.any(axis)) for axis in (1, 0))
        out = np.zeros_like(depth)
        if not len(rows):
            return out
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        x, y = np.meshgrid(to_knots[0][box[1]].astype(np.float32), to_knots[1][box[0]].astype(np.float32))
        knots = self.knots.astype(np.float32)
        field = cv2.remap(knots, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        out[box] = depth[box] * np.exp(field)
        return out


@dataclass(frozen=True)
class EvenDepth:
    """Depth of T pictures whose distances are evened out.

    Attributes:
        source: before that. stretches: of each frame, None where it stays.
        back: (T, 3) what each camera has to move by, in its own axes, for the object's middle to stay in the world,
            where the depth that was measured has it.
        uneven: by how much distances differ between two pictures, before and after: medians, of themselves.
    """

    source: MeasuredDepth
    stretches: Sequence[Stretch | None]
    back: np.ndarray
    uneven: tuple[float, float]

    def picture(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) depth, 0 = none, and confidence of a picture."""
        depth, conf = self.source.picture(row)
        stretch = self.stretches[row]
        return (depth if stretch is None else stretch.apply(depth)), conf

    def times(self, factor: float) -> EvenDepth:
        """The same in another unit."""
        return replace(self, source=self.source.times(factor))

    def filled(self, other: ViewDepth) -> EvenDepth:
        """With another depth in place of the frames that it says nothing of."""
        return replace(self, source=self.source.filled(other))

    def moved(self, world_from_cam: Tensor) -> Tensor:
        """(T, 4, 4) cameras that see the object's middle where they saw it with the depth that was measured."""
        poses = world_from_cam.clone()
        poses[:, :3, 3] += (poses[:, :3, :3] @ torch.from_numpy(self.back).to(poses)[..., None]).squeeze(-1)
        return poses


@dataclass(frozen=True)
class _Reading:
    """What is needed of T depth maps, so that none has to be held.

    Attributes:
        depth: (2, N) at both ends of the matches, 0 = none. centre: (T, 3) mean of the object's points, in the camera.
        middles, halves: (T, 2), (T,) squares around it, px. All NaN where there is nothing.
    """

    depth: np.ndarray
    centre: np.ndarray
    middles: np.ndarray
    halves: np.ndarray


@dataclass(frozen=True)
class Distances:
    """Pairs of matches, and what their distances are made of.

    Attributes:
        frame: (2, N) rows of the frames that each match is in. square: (2, N, 2) where, in [-1, 1] over the frame's
            square. ray: (2, N, 3) of planar depth 1. depth: (2, N).
        first, second: (E,) matches. sure: (E,) by what a distance over its depth is unsure, apart from `SLACK`.
    """

    frame: Tensor
    square: Tensor
    ray: Tensor
    depth: Tensor
    first: Tensor
    second: Tensor
    sure: Tensor

    def off(self, logs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(E,) what distances in the first picture are larger by than in the second, over their depth; and their mean.
        logs: (2, N) by what the logarithms of depth are larger."""
        depth = self.depth if logs is None else self.depth * logs.exp()
        points = self.ray * depth[..., None]
        length = (points[:, self.first] - points[:, self.second]).square().sum(-1).clamp_min(1e-20).sqrt()
        far = (depth[:, self.first] + depth[:, self.second]).detach().mean(0) / 2
        return (length[0] - length[1]) / far, length.mean(0) / far

    def cost(self, logs: Tensor | None = None, blunt: float = 1.0) -> Tensor:
        """Mean over the pairs of what is off, in [0, 1] (Geman and McClure)."""
        off, length = self.off(logs)
        ratio = (off / (blunt * (self.sure + SLACK * length.detach()))).square()
        return (ratio / (1 + ratio)).mean()

    def uneven(self, logs: Tensor | None = None) -> float:
        """Median of what is off, of the distance."""
        off, length = self.off(logs)
        return float((off.abs() / length).median())


def even_out(
    measured: Sequence[MeasuredDepth], masks: FrameReader, matches: Correspondences, K: Tensor, *, seed: int = 0,
    progress: Progress | None = None,
) -> EvenDepth | None:  # fmt: skip
    """The object's depth with distances on it kept over time; None where too little is matched to say.

    It begins with that of the depths which keeps distances best: those that were measured as if the object were rigid,
    the network's believed more or less beside it, and the network's own. Where distances would come out less even than
    they were, that one stays as it is.

    Args:
        measured: of T depth maps, one or several; the cameras go with the first. masks: T of (H, W) bool.
        matches: on the object, in pixels of the pictures.
        K: (T, 3, 3). seed: of the choice of pairs. progress: is told of each step.
    """
    lens = K.double().cpu().numpy()
    frame = torch.stack([matches.frame_a, matches.frame_b]).long().cpu().numpy()
    xy = torch.stack([matches.xy_a, matches.xy_b]).double().cpu().numpy()
    bent = any(curve is not None for curve in measured[0].bends)
    starts = (*measured, measured[0].unbent()) if bent else tuple(measured)
    readings = _read(starts, masks, frame, xy, lens)
    made = [_distances(reading, frame, xy, lens, seed) for reading in readings]
    costs = [math.inf if one is None else float(one.cost()) for one in made]
    best = int(np.argmin(costs))
    found, start, reading = made[best], starts[best], readings[best]
    if found is None:
        return None
    knots, logs = _bend(found, len(lens), progress or SilentProgress())
    uneven = found.uneven(), found.uneven(logs)
    if uneven[1] > max(uneven[0], SLACK):  # most matches are wrong: what agrees with them is worse than what was there
        back = np.nan_to_num(readings[0].centre - reading.centre)
        return EvenDepth(start, [None] * len(lens), back, (uneven[0], uneven[0]))
    used = torch.cat([found.first, found.second])  # a match in no distance says nothing of its frames
    rows = found.frame[:, used].flatten().numpy()
    many = np.bincount(rows, minlength=len(lens))
    tied = np.flatnonzero(many)
    whole = np.bincount(rows, logs[:, used].flatten().double().numpy(), len(lens))[tied] / many[tied]
    change = np.interp(np.arange(len(lens)), tied, whole)  # of a frame that nothing ties: as of those around it
    common = float(np.median(whole))
    stretches: list[Stretch | None] = []
    for row in range(len(lens)):
        own = knots[row] if many[row] else np.full_like(knots[row], change[row])
        stays = not np.isfinite(reading.halves[row])
        stretches.append(None if stays else Stretch(reading.middles[row], float(reading.halves[row]), own - common))
    # the cameras are those of the depth that was measured, wherever the evening out began
    back = np.nan_to_num(readings[0].centre - reading.centre * np.exp(change - common)[:, None])
    return EvenDepth(start, stretches, back, uneven)


def _read(
    starts: Sequence[MeasuredDepth], masks: FrameReader, frame: np.ndarray, xy: np.ndarray, K: np.ndarray
) -> list[_Reading]:
    """Of each: frame (2, N) and xy (2, N, 2) the ends of the matches, K (T, 3, 3)."""
    count = len(K)
    found = [
        _Reading(
            np.zeros(frame.shape), np.full((count, 3), np.nan), np.full((count, 2), np.nan), np.full(count, np.nan)
        )
        for _ in starts
    ]  # fmt: skip
    for row in range(count):
        mask, here = np.asarray(masks[row], dtype=bool), frame == row
        for start, reading in zip(starts, found):
            depth = start.picture(row)[0]
            depth = np.where(mask & np.isfinite(depth), depth, 0)
            height, width = mask.shape
            column, line = xy[here].astype(np.int64).T
            reading.depth[here] = depth[line.clip(0, height - 1), column.clip(0, width - 1)]
            y, x = np.nonzero(depth > 0)
            if len(y):
                ends = np.array([[x.min(), y.min()], [x.max() + 1, y.max() + 1]], dtype=np.float64)
                reading.middles[row], reading.halves[row] = ends.mean(0), np.ptp(ends, axis=0).max() / 2
                points = _rays(np.stack([x, y], 1) + 0.5, K[row]) * depth[y, x][:, None]
                reading.centre[row] = points.mean(0)
    return found


def _distances(reading: _Reading, frame: np.ndarray, xy: np.ndarray, K: np.ndarray, seed: int) -> Distances | None:
    """None where there are too few."""
    good = (reading.depth > 0).all(0) & np.isfinite(K[frame]).all((0, 2, 3))
    if not good.any():
        return None
    frame, xy, depth = frame[:, good], xy[:, good], reading.depth[:, good]
    size = 2 * float(np.nanmedian(reading.halves))
    first, second = _pairs(frame, xy, size, np.random.default_rng(seed))
    if len(first) < 10 * LEAST:
        return None
    lens = K[frame]
    square = ((xy - reading.middles[frame]) / reading.halves[frame][..., None]).clip(-1, 1)
    focal = np.sqrt(lens[..., 0, 0] * lens[..., 1, 1]).mean(0)
    sure = NOISE * size / focal[first]
    at, ray, far = (torch.from_numpy(part).float() for part in (square, _rays(xy, lens), depth))
    one, other = torch.from_numpy(first), torch.from_numpy(second)
    return Distances(torch.from_numpy(frame), at, ray, far, one, other, torch.from_numpy(sure).float())


def _bend(found: Distances, count: int, progress: Progress) -> tuple[np.ndarray, Tensor]:
    """(T, n, n) logarithms at the knots of the frames' squares, and (2, N) those of the matches."""
    fields = [torch.zeros(count, 1, side, side, requires_grad=True) for side in SIDES]
    optimiser = torch.optim.Adam(fields, lr=RATE)
    frame, where = found.frame.flatten(), found.square.flatten(0, 1)
    order = torch.argsort(frame, stable=True)
    many = torch.bincount(frame, minlength=count)
    place = torch.empty_like(frame)
    place[order] = torch.arange(len(frame)) - (many.cumsum(0) - many)[frame[order]]
    slot = frame * int(many.max()) + place
    asked = torch.zeros(count * int(many.max()), 2).index_copy_(0, slot, where).view(count, -1, 1, 2)

    def whole() -> Tensor:
        """(T, 1, n, n): the fields' sum, at the knots of the finest."""
        last = SIDES[-1]
        parts = (interpolate(field, (last, last), mode="bilinear", align_corners=True) for field in fields)
        return torch.stack(list(parts)).sum(0)

    def at_matches(field: Tensor) -> Tensor:
        read = grid_sample(field, asked, mode="bilinear", padding_mode="border", align_corners=True)
        return read.flatten()[slot].view(2, -1)

    gap = (found.frame[0] - found.frame[1]).abs()
    progress.start("evening out distances", STEPS)
    for step in range(STEPS):
        share = step / STEPS
        blunt = BLUNT ** (1 - min(1.0, share / STEADY))
        optimiser.param_groups[0]["lr"] = RATE * min(1.0, (1 - share) / (1 - STEADY))
        field, distance = whole(), fields[0].flatten()
        logs = at_matches(field)
        cost = found.cost(logs, blunt)
        relief = logs - distance[found.frame]  # errors of this last for some frames, those of the distance need not
        sway = ((relief[0] - relief[1]).square() / gap).mean() / SWAY**2
        held = sum(firm * (field / USUAL).square().mean() for firm, field in zip(HELD, fields))
        optimiser.zero_grad()
        (cost + PRIOR * held + CALM * sway).backward()
        optimiser.step()
        progress.update(off=float(cost.detach()))
    progress.finish()
    with torch.no_grad():
        field = whole()
        return field[:, 0].double().numpy(), at_matches(field)


def _pairs(frame: np.ndarray, xy: np.ndarray, size: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Matches of the same two frames, in twos, neither too near to each other nor too far."""
    code = frame[0] * (frame.max(initial=0) + 1) + frame[1]
    order = np.argsort(code, kind="stable")
    found: list[np.ndarray] = []
    for rows in np.split(order, np.flatnonzero(np.diff(code[order])) + 1):
        if len(rows) < LEAST:
            continue
        pick = rows[rng.integers(0, len(rows), (8 * EACH * len(rows), 2))]
        apart = np.linalg.norm(xy[:, pick[:, 0]] - xy[:, pick[:, 1]], axis=-1) / size
        fits = (apart[0] > NEAR) & (apart[0] < FAR) & (apart[1] > NEAR / 3) & (apart[1] < 2 * FAR)
        found.append(pick[fits][: EACH * len(rows)])
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first, second = np.concatenate(found).T
    return first.copy(), second.copy()


def _rays(xy: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(..., 3) rays of planar depth 1 through pixels (..., 2). K: (..., 3, 3)."""
    focal = np.stack([K[..., 0, 0], K[..., 1, 1]], -1)
    return np.concatenate([(xy - K[..., :2, 2]) / focal, np.ones((*xy.shape[:-1], 1))], -1)
