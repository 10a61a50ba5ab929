"""Where a sample of the object's points is in every frame, by the field, and whether the frame shows it there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import binary_closing, binary_opening
from scipy.spatial import KDTree
from torch import Tensor

from dyn4d.core.cameras import invert_rigid, project
from dyn4d.core.types import FramePoints
from dyn4d.deformation.field import TrajectoryField
from dyn4d.deformation.observations import Observations

MOST_FRAMES = 64
"""Frames looked at; of longer clips only every second, third ... one."""
PER_FRAME = 400
"""Points of each frame that are followed."""
DEPTH = 0.015
"""How far from the depth map a point may be and still be what the map shows, relative to the object's size."""
NEAR = 0.025
"""Canonical distance, relative to the object's size, within which a point stands for its surroundings."""


@dataclass(frozen=True)
class Sightings:
    """N points followed through S of the clip's frames.

    Attributes:
        frames: (S,) the frames. rows: (N,) in the frame points. frame: (N,) where each was seen: index in `frames`.
        canonical: (N, 3). world: (N, S, 3). seen: (N, S), whether the depth map shows a surface there.
        before: (N, S), whether the point would be in front of that surface. facing: (N, S) cosine between its normal
            and the way to the camera, 0 where the normal is not known.
        present: (N, S), whether points of that frame lie around it in canonical space, that is: whether the frame saw
            this very part of the object, by the field.
        size: of the object, world units.
    """

    frames: np.ndarray
    rows: np.ndarray
    frame: np.ndarray
    canonical: np.ndarray
    world: np.ndarray
    seen: np.ndarray
    before: np.ndarray
    facing: np.ndarray
    present: np.ndarray
    size: float


@torch.no_grad()
def follow(field: TrajectoryField, points: FramePoints, seen: Observations, times: Tensor, *, seed: int) -> Sightings:
    """Follow a random sample of the points (world, of all T frames at `times` (T,)) through the clip."""
    frames = torch.arange(0, len(times), -(-len(times) // MOST_FRAMES))
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for frame in frames:
        here = torch.nonzero(points.frame == frame)[:, 0]
        chosen.append(here[torch.randperm(len(here), generator=generator)[:PER_FRAME]])
    rows = torch.cat(chosen)
    device = times.device
    xyz, own = points.xyz[rows].to(device), points.frame[rows]
    size = max(points.extent(), 1e-9)

    canonical = field.to_canonical(xyz, times[own.to(device)])
    slopes = field.jacobian(canonical, times[own.to(device)])
    normal = torch.einsum("nij,ni->nj", slopes, points.normal[rows].to(device))
    world = torch.empty(len(rows), len(frames), 3)
    facing, shown, before = (torch.empty(len(rows), len(frames)) for _ in range(3))
    for at, frame in enumerate(frames.tolist()):
        moved, slopes = field.motion(canonical, float(times[frame]))
        moved, turned = moved.cpu(), carry_normals(slopes, normal).cpu()
        eye = invert_rigid(seen.cam_from_world[frame])[:3, 3]
        world[:, at] = moved
        facing[:, at] = torch.cosine_similarity(turned, eye - moved, dim=-1)
        shown[:, at], before[:, at] = _compare(moved, seen, frame, DEPTH * size)
    index = torch.searchsorted(frames, own).numpy()
    present = _presence(canonical.cpu().numpy(), index, len(frames), NEAR * size)
    return Sightings(
        frames.numpy(), rows.numpy(), index, canonical.cpu().numpy(), world.numpy(), shown.bool().numpy(),
        before.bool().numpy(), facing.numpy(), present, size,
    )  # fmt: skip


def carry_normals(slopes: Tensor, normals: Tensor) -> Tensor:
    """Normals (N, 3) of a surface after a map with Jacobians (N, 3, 3) of positive determinant; of any length."""
    a, b, c = slopes.unbind(-1)
    sides = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=-1)
    return torch.einsum("nij,nj->ni", sides, normals)


def _compare(world: Tensor, seen: Observations, frame: int, margin: float) -> tuple[Tensor, Tensor]:
    """Whether a frame's depth map shows points (N, 3), within a pixel and `margin`, and whether they are before it."""
    xy, z = project(seen.K[frame], seen.cam_from_world[frame], world)
    h, w = seen.depth.shape[1:]
    inside = (z > 0) & (xy >= 0).all(-1) & (xy[:, 0] < w) & (xy[:, 1] < h)
    column, row = xy[:, 0].long().clamp(0, w - 1), xy[:, 1].long().clamp(0, h - 1)
    shown = torch.zeros_like(inside)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            depth = seen.depth[frame, (row + dy).clamp(0, h - 1), (column + dx).clamp(0, w - 1)]
            shown |= (depth > 0) & ((depth - z).abs() < margin)
    depth = seen.depth[frame, row, column]
    return shown & inside, inside & ~shown & (depth > 0) & (z < depth)


def _presence(canonical: np.ndarray, frame: np.ndarray, count: int, reach: float) -> np.ndarray:
    """Which frames (N, S) have at least two points around each point; gaps and blinks of two frames are evened out."""
    pairs = KDTree(canonical).query_pairs(reach, output_type="ndarray")
    near = np.zeros((len(canonical), count), np.int32)
    np.add.at(near, (np.arange(len(canonical)), frame), 1)
    np.add.at(near, (pairs[:, 0], frame[pairs[:, 1]]), 1)
    np.add.at(near, (pairs[:, 1], frame[pairs[:, 0]]), 1)
    wide = np.pad(near >= 2, ((0, 0), (3, 3)), mode="edge")
    return binary_opening(binary_closing(wide, np.ones((1, 4))), np.ones((1, 3)))[:, 3:-3]
