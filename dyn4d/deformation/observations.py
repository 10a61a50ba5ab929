"""What each frame saw, laid out for fast look-ups: depth, the way back to the mask, and neighbours on the surface."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from dyn4d.core.cameras import transform
from dyn4d.core.types import Camera, FramePoints, FrameReader


@dataclass(frozen=True)
class Observations:
    """Per-frame maps at a reduced size (h, w), over the same world as the points.

    Attributes:
        K: (T, 3, 3) of the reduced pictures. cam_from_world: (T, 4, 4).
        depth: (T, h, w) planar z of the object, 0 = none.
        outside: (T, h, w) distance in reduced pixels to the nearest object pixel, 0 on the object.
        rows: (T, h, w) int32 row in the points, -1 = none.
        span: typical size of the object in reduced pixels.
    """

    K: Tensor
    cam_from_world: Tensor
    depth: Tensor
    outside: Tensor
    rows: Tensor
    span: float

    def to(self, device: torch.device) -> Observations:
        return Observations(
            self.K.to(device), self.cam_from_world.to(device), self.depth.to(device), self.outside.to(device),
            self.rows.to(device), self.span,
        )  # fmt: skip


def observe(points: FramePoints, cameras: Camera, masks: FrameReader, *, longest: int = 320) -> Observations:
    """Lay out a clip's points and masks.

    Args:
        points: of all T frames. cameras: T poses; frames without a pose have no points and no mask here.
        masks: T masks (H, W). longest: largest side of the maps in pixels.
    """
    count = len(cameras)
    factor = max(1, -(-max(cameras.width, cameras.height) // longest))
    h, w = -(-cameras.height // factor), -(-cameras.width // factor)
    K = cameras.K.float().clone()
    K[:, :2] /= factor
    view = cameras.cam_from_world.float()
    known = cameras.registered
    view[~known] = torch.eye(4)

    column = (points.xy[:, 0] / factor).long().clamp(0, w - 1)
    row = (points.xy[:, 1] / factor).long().clamp(0, h - 1)
    rows = torch.full((count, h, w), -1, dtype=torch.int32)
    rows[points.frame, row, column] = torch.arange(len(points), dtype=torch.int32)
    depth = torch.zeros(count, h, w)
    outside = torch.zeros(count, h, w)
    spans = []
    for frame in range(count):
        here = rows[frame] >= 0
        index = rows[frame][here].long()
        depth[frame][here] = transform(view[frame], points.xyz[index])[:, 2]
        mask = np.asarray(masks[frame], dtype=np.uint8)
        small = cv2.resize(mask, (w, h), interpolation=cv2.INTER_AREA) if factor == 1 else _shrink(mask, factor, h, w)
        if small.any() and bool(known[frame]):
            away = cv2.distanceTransform(1 - small, cv2.DIST_L2, 5)
            outside[frame] = torch.from_numpy(away)
            ys, xs = np.nonzero(small)
            spans.append(max(np.ptp(xs), np.ptp(ys)) + 1)
    return Observations(K, view, depth, outside, rows, float(np.median(spans)) if spans else 1.0)


def _shrink(mask: np.ndarray, factor: int, h: int, w: int) -> np.ndarray:
    """A reduced pixel is object if any of its pixels is, so that nothing on the object counts as outside."""
    padded = np.zeros((h * factor, w * factor), dtype=np.uint8)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return padded.reshape(h, factor, w, factor).max(axis=(1, 3))
