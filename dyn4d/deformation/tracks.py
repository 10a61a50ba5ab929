"""Long 3D tracks: points of the object carried to every frame of the clip by the field, where the camera sees them, and
how far they can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from dyn4d.core.cameras import project
from dyn4d.core.protocols import Field
from dyn4d.core.types import Camera, FramePoints, FrameReader, LiftedPairs

SEEN, HIDDEN, DOUBTFUL = 1.0, 0.5, 0.1
TOLERANCE = 0.015  # of the object's size: depths this near each other are one surface
BESIDE_PX = 2  # so far outside the mask a point may still be on the object
HALF_TRUST = 0.01  # of the object's size: where matches are missed by this, evidence is one half
NEIGHBOURS, REACH = 8, 0.05  # matches around a point, within this part of the object's size
MOST_PAIRS = 60_000  # matches that are asked; more tell nothing new


@dataclass(frozen=True)
class Tracks:
    """N points over all F frames of a clip.

    Attributes:
        xyz: (F, N, 3) world. rgb: (N, 3). frame_first: (N,) int64, the selected frame that the point was taken from.
        conf: (F, N) in [0, 1]: placement (`Sight`) x evidence (`find_evidence`).
        visible: (F, N) bool: the frame shows the point. False where that is not known: frames left out or without a
            pose.
    """

    xyz: Tensor
    rgb: Tensor
    frame_first: Tensor
    conf: Tensor
    visible: Tensor


@dataclass(frozen=True)
class Sight:
    """Whether cameras see N points at F frames.

    Attributes:
        visible: (F, N) bool. placement: (F, N): 1 where the frame has a surface at that depth, 0.5 where the point is
            hidden or the frame does not tell, 0.1 where the camera looks through the place at something behind it, or
            past the object.
    """

    visible: Tensor
    placement: Tensor


@torch.no_grad()
def carry(field: Field, xyz: Tensor, t: Tensor, all_times: np.ndarray) -> Tensor:
    """World points (N, 3), each at its own time (N,), carried by the field to all F times -> (F, N, 3)."""
    canonical = xyz.clone()
    for moment in torch.unique(t).tolist():
        mine = t == moment
        canonical[mine] = field.to_canonical(xyz[mine], float(moment))
    return torch.stack([field.from_canonical(canonical, float(moment)) for moment in all_times])


def find_sight(
    xyz: Tensor, points: FramePoints, cameras: Camera, *, frames: np.ndarray, masks: FrameReader | None = None
) -> Sight:
    """Depth test of points (F, N, 3) against what each frame saw.

    A point is visible where it lies in the picture, on the object's mask, and not behind the surface that the frame
    saw there: the farthest depth of the pixel and those around it, with a tolerance of 1.5 % of the object's size.

    Args:
        points: of T frames. cameras: T of them. frames: (T,) their rows in `xyz`; other rows are not known.
        masks: T masks (H, W); without them the object is where the points are.
    """
    visible = torch.zeros(xyz.shape[:2], dtype=torch.bool)
    placement = torch.full(xyz.shape[:2], HIDDEN)
    tolerance = TOLERANCE * max(points.extent(), 1e-9)
    height, width = cameras.height, cameras.width
    for row, frame in enumerate(np.asarray(frames).tolist()):
        if not bool(cameras.registered[row]):
            continue
        view = cameras.cam_from_world[row].float()
        mine = points.frame == row
        near, far = _envelope(points.xy[mine].numpy(), points.xyz[mine] @ view[2, :3] + view[2, 3], height, width)
        on_object = far > 0 if masks is None else np.asarray(masks[row], bool)
        away = cv2.distanceTransform((~on_object).astype(np.uint8), cv2.DIST_L2, 5)
        xy, z = (value.numpy() for value in project(cameras.K[row].float(), view, xyz[frame].float()))
        inside = (z > 0) & (xy >= 0).all(-1) & (xy[:, 0] < width) & (xy[:, 1] < height)
        column, line = (np.floor(np.where(inside, xy[:, axis], 0)).astype(int) for axis in range(2))
        known = inside & (far[line, column] > 0)
        behind = known & (z > far[line, column] + tolerance)
        before = known & (z < near[line, column] - tolerance)
        beside = inside & (away[line, column] > BESIDE_PX) & bool(on_object.any())
        placed = np.full(len(z), HIDDEN, np.float32)
        placed[known & ~behind & ~before] = SEEN
        placed[before | beside] = DOUBTFUL
        placement[frame] = torch.from_numpy(placed)
        visible[frame] = torch.from_numpy(inside & ~behind & (away[line, column] <= 1))
    return Sight(visible, placement)


def _envelope(xy: np.ndarray, z: Tensor, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) nearest and farthest depth of each pixel and the eight around it; inf and 0 where there is none."""
    depth = np.zeros((height, width), np.float32)
    column, line = np.floor(xy).astype(int).T
    depth[line, column] = z.numpy()
    window = np.ones((3, 3), np.uint8)
    far = cv2.dilate(depth, window)
    near = cv2.erode(np.where(depth > 0, depth, np.float32(np.inf)), window)
    return near, far


@torch.no_grad()
def find_evidence(
    field: Field, xyz: Tensor, pairs: LiftedPairs | None, times: np.ndarray, size: float, *, frames: np.ndarray
) -> Tensor:
    """How well the field meets the matches around points (F, N, 3): (F, N) in [0, 1].

    The field carries one end of each match to the time of the other; what it misses by is held against both ends. At a
    point it is the median r over the matches nearest to it, within 5 % of the object's size, in that frame, and the
    evidence is 1 / (1 + (r / (1 % of the size))^2). Where a frame has no three matches near, as for what it does not
    see, it is taken from the track's frames before and after that have; one half where none has.

    Args:
        pairs: matches of T frames. times: (T,) of these frames. size: the object's. frames: (T,) their rows in `xyz`.
    """
    out = np.full(xyz.shape[:2], np.nan)
    if pairs is not None and len(pairs) and size > 0:
        rows = torch.arange(0, len(pairs), -(-len(pairs) // MOST_PAIRS))
        some = pairs.select(rows)
        missed = _missed(field, some, torch.as_tensor(times, dtype=torch.float32)) / size
        ends = torch.cat([some.xyz_a, some.xyz_b]).numpy()
        frame_of = torch.cat([some.frame_a, some.frame_b]).numpy()
        missed = np.concatenate([missed, missed])
        order = np.argsort(frame_of, kind="stable")
        bounds = np.searchsorted(frame_of[order], np.arange(len(times) + 1))
        for row, frame in enumerate(np.asarray(frames).tolist()):
            mine = order[bounds[row] : bounds[row + 1]]
            if len(mine) < 3:
                continue
            place = xyz[frame].numpy()
            near, index = KDTree(ends[mine]).query(place, k=NEIGHBOURS, distance_upper_bound=REACH * size)
            found = np.isfinite(near)
            values = np.where(found, missed[mine][np.where(found, index, 0)], np.inf)
            middle = np.take_along_axis(np.sort(values, 1), (np.maximum(found.sum(1), 1)[:, None] - 1) // 2, 1)[:, 0]
            out[frame] = np.where(found.sum(1) >= 3, 1.0 / (1.0 + np.square(middle / HALF_TRUST)), np.nan)
    return torch.from_numpy(_fill(out)).float()


def _missed(field: Field, pairs: LiftedPairs, times: Tensor) -> np.ndarray:
    """(M,) world units: how far from their other end the field carries the matches."""
    parts = []
    for part in torch.arange(len(pairs)).split(20_000):
        one = pairs.select(part)
        canonical = field.to_canonical(one.xyz_a, times[one.frame_a])
        parts.append((field.from_canonical(canonical, times[one.frame_b]) - one.xyz_b).norm(dim=-1))
    return torch.cat(parts).numpy()


def _fill(values: np.ndarray) -> np.ndarray:
    """(F, N) with NaN -> linear between the frames that are known; one half for columns without any."""
    out = values.copy()
    frames = np.arange(len(values))
    for column in np.flatnonzero(np.isnan(values).any(0)):
        known = np.flatnonzero(~np.isnan(values[:, column]))
        out[:, column] = np.interp(frames, known, values[known, column]) if len(known) else 0.5
    return out


@torch.no_grad()
def make_tracks(
    field: Field,
    points: FramePoints,
    cameras: Camera,
    *,
    frames: np.ndarray,
    frame_times: np.ndarray,
    all_times: np.ndarray,
    count: int,
    seed: int,
    masks: FrameReader | None = None,
    pairs: LiftedPairs | None = None,
) -> Tracks:
    """Tracks of `count` points spread over all frames' points.

    Args:
        cameras: T selected cameras. frames: (T,) their indices in the whole clip. frame_times: (T,) their times.
        all_times: (F,) times of the whole clip.
        masks: T masks, for visibility. pairs: the matches that the field was fitted on, for confidence.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(points), generator=generator)[:count].sort().values
    chosen = points.select(rows)
    when = torch.as_tensor(np.asarray(frame_times), dtype=torch.float32)
    xyz = carry(field, chosen.xyz, when[chosen.frame], all_times)
    sight = find_sight(xyz, points, cameras, frames=frames, masks=masks)
    size = points.extent()
    evidence = find_evidence(field, xyz, pairs, frame_times, size, frames=frames)
    own = torch.as_tensor(np.asarray(frames))[chosen.frame]
    evidence[own, torch.arange(len(chosen))] = 1.0  # there the point is where it was seen
    return Tracks(xyz, chosen.rgb, chosen.frame, sight.placement * evidence, sight.visible)
