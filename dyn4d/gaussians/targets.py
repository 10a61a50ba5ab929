"""What each frame asks of the render, cut to the object: colours, mask, depth, and what is behind the outline."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from dyn4d.core.cameras import transform
from dyn4d.core.types import Camera, Clip, FramePoints

EDGE = 1.5
"""Pixels on either side of the outline in which object and background mix in the picture."""


@dataclass(frozen=True)
class FrameTarget:
    """One frame's window round the object, (h, w) pixels.

    Attributes:
        frame: row in the selected frames. time: in [0, 1]. left, top: the window's first pixel. picture: width and
            height of the whole.
        image: (h, w, 3) uint8. mask: (h, w) bool. edge: (h, w) bool, pixels in which colours mix.
        behind: (h, w, 3) uint8, the background's colour continued under the outline.
        depth: (h, w) float32 planar z, 0 = none. K: (3, 3) of the window. cam_from_world: (4, 4).
    """

    frame: int
    time: float
    left: int
    top: int
    picture: tuple[int, int]
    image: Tensor
    mask: Tensor
    edge: Tensor
    behind: Tensor
    depth: Tensor
    K: Tensor
    cam_from_world: Tensor


def _continue_background(image: np.ndarray, outside_distance: np.ndarray) -> np.ndarray:
    """Each pixel's colour from the nearest pixel that is clearly background."""
    clear = outside_distance > EDGE + 0.5
    if not clear.any():
        return image
    _, labels = cv2.distanceTransformWithLabels(
        (~clear).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    labels = np.asarray(labels, dtype=np.int64)
    colour = np.zeros((int(labels.max()) + 1, 3), dtype=np.uint8)
    colour[labels[clear]] = image[clear]
    return colour[labels]


def make_target(clip: Clip, camera: Camera, points: FramePoints, frame: int, *, margin: int) -> FrameTarget | None:
    """The window of one frame; None where its mask is empty or its pose unknown.

    Args:
        camera: all T cameras. points: all frames' points (their depth is what is compared with).
    """
    mask = np.asarray(clip.masks[frame], dtype=bool)
    if not mask.any() or not bool(camera.registered[frame]):
        return None
    ys, xs = np.nonzero(mask)
    left, top = max(int(xs.min()) - margin, 0), max(int(ys.min()) - margin, 0)
    right, bottom = min(int(xs.max()) + margin + 1, clip.width), min(int(ys.max()) + margin + 1, clip.height)
    window = (slice(top, bottom), slice(left, right))
    cut = np.ascontiguousarray(mask[window])
    image = np.ascontiguousarray(np.asarray(clip.images[frame])[window])
    outside = cv2.distanceTransform((~cut).astype(np.uint8), cv2.DIST_L2, 5)
    inside = cv2.distanceTransform(cut.astype(np.uint8), cv2.DIST_L2, 5)

    view = camera.cam_from_world[frame].float()
    rows = points.frame == frame
    depth = torch.zeros(bottom - top, right - left)
    xy = points.xy[rows].long()
    depth[xy[:, 1] - top, xy[:, 0] - left] = transform(view, points.xyz[rows])[:, 2]
    K = camera.K[frame].float().clone()
    K[0, 2] -= left
    K[1, 2] -= top
    return FrameTarget(
        frame=frame,
        time=float(clip.times[frame]),
        left=left,
        top=top,
        picture=(clip.width, clip.height),
        image=torch.from_numpy(image),
        mask=torch.from_numpy(cut),
        edge=torch.from_numpy((outside + inside) <= EDGE),
        behind=torch.from_numpy(_continue_background(image, outside)),
        depth=depth,
        K=K,
        cam_from_world=view,
    )


def background_colour(clip: Clip, *, frames: int = 8) -> tuple[float, float, float]:
    """Median colour in [0, 1] of what is outside the masks, from a few frames; mid grey where nothing is outside."""
    samples = []
    for frame in np.unique(np.linspace(0, len(clip) - 1, frames).astype(int)):
        mask = np.asarray(clip.masks[frame], dtype=np.uint8)
        outside = cv2.dilate(mask, np.ones((5, 5), np.uint8)) == 0
        if outside.any():
            samples.append(np.median(np.asarray(clip.images[frame])[outside], axis=0))
    if not samples:
        return (0.5, 0.5, 0.5)
    red, green, blue = np.median(samples, axis=0) / 255.0
    return float(red), float(green), float(blue)
