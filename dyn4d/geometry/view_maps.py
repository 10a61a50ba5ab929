"""What each camera saw of the object, as maps made again from the points: how far every ray is known to be free.

The points of a frame know their pixels, so its depth map need not be kept; one frame's map is made when it is asked
for. This works for every source of geometry, and after points were dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from dyn4d.core.types import Camera, FramePoints, FrameReader

MARGIN = 0.1  # of the object's box in the picture, kept around it


@dataclass(frozen=True)
class ViewMap:
    """One frame's box around the object. All lengths in world units.

    Attributes:
        free: (h, w) float32. The ray of the pixel is free up to here (planar z): the object's surface where `row` >= 0;
            outside the mask up to the background; 0 where nothing is known.
        row: (h, w) int32 row of the pixel's point among the frame's points, -1 = none.
        points: the frame's points; NaN ones are in no pixel. depth: (n,) float64 their planar z.
        cosine: (n,) float32 between their normals and the rays to the camera; -1 where the normal is unknown.
        left, top: the box's first column and row in the picture.
        K: (3, 3) float64 of the box. cam_from_world: (4, 4) float64. eye: (3,) the camera's centre.
    """

    free: np.ndarray
    row: np.ndarray
    points: FramePoints
    depth: np.ndarray
    cosine: np.ndarray
    left: int
    top: int
    K: np.ndarray
    cam_from_world: np.ndarray
    eye: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    @property
    def xyz(self) -> np.ndarray:
        return self.points.xyz.numpy()

    @cached_property
    def footprint(self) -> float:
        """What a pixel spans at depth 1."""
        return float(1 / np.sqrt(self.K[0, 0] * self.K[1, 1]))


class FrameViews:
    """The maps of T frames, made one at a time.

    Args:
        points: of all frames, on the CPU, the first frame's first. cameras: T. masks: T masks, True = object.
        background: T depth maps in the same unit, for what stands before the object outside its mask, which may hide
            parts of it; None: nothing is known of it.
        empty: how far rays outside the mask are free where the background has no depth; 0 = that is not known.
    """

    def __init__(
        self, points: FramePoints, cameras: Camera, masks: FrameReader, background: FrameReader | None = None,
        *, empty: float = 0.0,
    ) -> None:  # fmt: skip
        if len(points) > 1 and bool((points.frame[1:] < points.frame[:-1]).any()):
            raise ValueError("FrameViews: points are not in the order of their frames")
        self.points, self.masks, self.background, self.empty = points, masks, background, empty
        self.cameras = cameras.to("cpu", torch.float64)
        self.starts = torch.searchsorted(points.frame, torch.arange(len(cameras) + 1)).tolist()
        registered = cameras.registered.tolist()
        self.frames = [i for i in range(len(cameras)) if registered[i] and self.starts[i + 1] > self.starts[i]]

    def rows(self, frame: int) -> slice:
        """Where the frame's points are among all."""
        return slice(self.starts[frame], self.starts[frame + 1])

    def with_points(self, points: FramePoints) -> FrameViews:
        """The same cameras and masks with other points."""
        return FrameViews(points, self.cameras, self.masks, self.background, empty=self.empty)

    def frame_points(self, frame: int) -> FramePoints:
        part = self.rows(frame)
        p = self.points
        return FramePoints(p.xyz[part], p.rgb[part], p.normal[part], p.frame[part], p.xy[part], p.conf[part])

    @cached_property
    def size(self) -> float:
        """The object's size as one frame sees it: the median of the largest sides of the frames' boxes, without their
        outermost hundredth."""
        sides = []
        for frame in self.frames:
            xyz = self.frame_points(frame).xyz.numpy()
            xyz = xyz[np.isfinite(xyz).all(-1)][:: max(1, len(xyz) // 5000)]
            if len(xyz):
                low, high = np.quantile(xyz, [0.005, 0.995], axis=0)
                sides.append(float((high - low).max()))
        return float(np.median(sides)) if sides else 0.0

    def __getitem__(self, frame: int) -> ViewMap:
        part = self.frame_points(frame)
        camera = self.cameras[frame]
        cam_from_world = camera.cam_from_world.numpy()
        xyz = part.xyz.numpy()
        depth = xyz @ cam_from_world[2, :3] + cam_from_world[2, 3]
        column, line = np.floor(part.xy.numpy()).astype(np.int64).T
        inside = (column >= 0) & (column < camera.width) & (line >= 0) & (line < camera.height)
        usable = inside & np.isfinite(xyz).all(-1) & (depth > 0)
        mask = np.asarray(self.masks[frame], dtype=bool)
        left, top, right, bottom = _box(mask, column[usable], line[usable])
        view = mask[top:bottom, left:right]
        if self.background is None:
            behind = np.full(view.shape, self.empty, np.float32)
        else:
            behind = np.asarray(self.background[frame], np.float32)[top:bottom, left:right]
            behind = np.where(np.isfinite(behind) & (behind > 0), behind, self.empty)
        free = np.where(view, np.float32(0), behind).astype(np.float32)
        row = np.full(view.shape, -1, np.int32)
        at = line[usable] - top, column[usable] - left
        free[at], row[at] = depth[usable], np.flatnonzero(usable)
        K = camera.K.numpy().copy()
        K[:2, 2] -= (left, top)
        eye = camera.world_from_cam[:3, 3].numpy()
        return ViewMap(
            free, row, part, depth, _cosine(part, eye), left, top, K, cam_from_world, eye
        )  # fmt: skip


def _box(mask: np.ndarray, column: np.ndarray, line: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of the mask and the pixels, with a margin."""
    rows = np.concatenate([np.flatnonzero(mask.any(1)), line])
    columns = np.concatenate([np.flatnonzero(mask.any(0)), column])
    if len(rows) == 0:
        return 0, 0, 1, 1
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()]) + 1
    margin = int(np.ceil(MARGIN * (high - low).max())) + 3
    (left, top), (right, bottom) = np.maximum(low - margin, 0), np.minimum(high + margin, mask.shape[::-1])
    return int(left), int(top), int(right), int(bottom)


def _cosine(part: FramePoints, eye: np.ndarray) -> np.ndarray:
    """(n,) float32; -1 where the normal is unknown."""
    normal = part.normal.numpy()
    ray = eye.astype(np.float32) - part.xyz.numpy()
    length = np.maximum(np.linalg.norm(ray, axis=-1), 1e-20)
    known = np.isfinite(normal).all(-1) & (np.abs(normal).max(-1, initial=0) > 0.5)
    cosine = np.clip(np.einsum("ij,ij->i", np.where(known[:, None], normal, 0), ray) / length, 0, 1)
    return np.where(known, cosine, -1).astype(np.float32)
