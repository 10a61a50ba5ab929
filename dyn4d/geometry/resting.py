"""How far a moving object is in a world that its surroundings hold: one picture at a time cannot tell, as a toy near by
looks like a house far away. But it stands before what is around it, and mostly on something.

So its size is the largest at which its outline is nowhere behind the surroundings beside it. Of what flies this is too
large; there a network's word of both together is a better one.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from dyn4d.core.cameras import project, unproject
from dyn4d.core.types import Camera
from dyn4d.geometry.triangulation import SeenAgain

REACH = 6.0  # px of a picture of 256 pixels: standard deviation of what is looked at beside an outline
SPAN = 8  # frames before and after, whose measured pixels count too: the surroundings stand still
CLOSE = 0.05  # of its depth: what is known worse says nothing
EXACT = 0.01  # of its depth: what is known better counts no more
LEAST_SUPPORT = 0.5  # measured pixels, weighted, near a pixel of the outline
TOUCHES = 0.04  # share of an outline that touches something, at the least: fewer pixels are the tail of what is off
TIGHTEST = 0.25  # each frame says how large the object is at the most; this share of them may say too little
EDGE = 3.0  # px of a picture of 256 pixels: so near an outline a coarser map of depth may end
MOST_OUTLINE = 500  # pixels of it that are asked
FAR = 4.0  # reaches; nothing beyond counts
RIDGE = 1e-2  # of the weight: holds the slope where all that is near lies on a line
LEAST_OUTLINE = 20  # pixels
FLIES = 1.6  # by so much more than the network says the object is not made larger


@dataclass(frozen=True)
class Surroundings:
    """Pixels of one picture whose depth is known.

    Attributes:
        xy: (N, 2) px. inverse: (N,) inverse planar depth, which is linear in the picture on planes. weight: (N,).
    """

    xy: np.ndarray
    inverse: np.ndarray
    weight: np.ndarray

    @staticmethod
    def of(seen: SeenAgain, cameras: Camera, row: int, mask: np.ndarray) -> Surroundings:
        """In the picture of a frame, out of what it and the frames around it measured outside its object.

        Args:
            seen: of the background. cameras: (T,) of the pictures. mask: (H, W) bool of the object in this one.
        """
        some = seen.close(CLOSE) & ((seen.frame - row).abs() <= SPAN)
        K, pose = cameras.K.double().cpu(), cameras.world_from_cam.double().cpu()
        world, sigma = [torch.zeros(0, 3, dtype=torch.float64)], [torch.zeros(0, dtype=torch.float64)]
        for frame in seen.frame[some].unique().tolist():
            mine = some & (seen.frame == frame)
            world.append(unproject(K[frame], pose[frame], seen.xy[mine], 1 / seen.inverse[mine]))
            sigma.append(seen.sigma[mine] / seen.inverse[mine])
        at, z = (part.numpy() for part in project(K[row], torch.linalg.inv(pose[row]), torch.cat(world)))
        height, width = mask.shape
        inside = (z > 0) & (at >= 0).all(1) & (at < [width, height]).all(1)
        at, z, sigma = at[inside], z[inside], torch.cat(sigma).numpy()[inside]
        column, line = at.astype(np.int64).T
        free = ~mask[line, column]
        weight = np.minimum(1.0, (EXACT / np.maximum(sigma[free], 1e-6)) ** 2)
        return Surroundings(at[free], 1 / z[free], weight)

    def beside(self, xy: np.ndarray, reach: float) -> np.ndarray:
        """(M,) inverse depth carried on to pixels (M, 2), linearly: weighted regression around each, weights falling
        with the distance as a Gaussian of `reach` px. NaN where too little is near."""
        out = np.full(len(xy), np.nan)
        low, high = xy.min(0) - FAR * reach, xy.max(0) + FAR * reach
        near = ((self.xy >= low) & (self.xy <= high)).all(1)
        if not near.any():
            return out
        middle = xy.mean(0)
        x, y = ((self.xy[near] - middle) / reach).T
        u, v = ((xy - middle) / reach).T
        value = self.inverse[near]
        weight = np.exp(-0.5 * ((x - u[:, None]) ** 2 + (y - v[:, None]) ** 2)) * self.weight[near]
        moments = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y, value, value * x, value * y], 1)
        s, sx, sy, sxx, sxy, syy, t, tx, ty = (weight @ moments).T  # about the middle; then about each pixel
        sxx, sxy, syy = sxx - 2 * u * sx + u * u * s, sxy - u * sy - v * sx + u * v * s, syy - 2 * v * sy + v * v * s
        tx, ty, sx, sy = tx - u * t, ty - v * t, sx - u * s, sy - v * s
        ridge = RIDGE * np.maximum(s, 1e-9)
        matrix = np.stack([s + 1e-12, sx, sy, sx, sxx + ridge, sxy, sy, sxy, syy + ridge], 1).reshape(-1, 3, 3)
        good = s > LEAST_SUPPORT
        out[good] = np.linalg.solve(matrix[good], np.stack([t, tx, ty], 1)[good][..., None])[:, 0, 0]
        return out


def outline_ratios(mask: np.ndarray, around: Surroundings, own: np.ndarray) -> np.ndarray:
    """(N,) depth of the surroundings beside pixels of an object's outline over the object's own.

    Args:
        mask: (H, W) bool. around: of the same picture. own: (H, W) depth of the object in any unit, 0 = unknown.
    """
    own = _to_the_edge(own, mask)
    inside = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)  # the picture's edge is none
    y, x = np.nonzero(mask & (inside == 0) & (own > 0))
    if len(around.xy) == 0 or len(y) == 0:
        return np.zeros(0)
    some = np.linspace(0, len(y) - 1, min(len(y), MOST_OUTLINE)).round().astype(int)
    y, x = y[some], x[some]
    there = around.beside(np.stack([x, y], 1) + 0.5, max(REACH * max(mask.shape) / 256, 2.0))
    good = there > 1e-9
    return 1 / (there[good] * own[y, x][good])


def _to_the_edge(depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Depth of what of an object is within `EDGE` of known depth, from the nearest: thin feet, which it rests on, would
    be missing else."""
    known = mask & (depth > 0)
    if not known.any():
        return depth
    away, nearest = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.asarray(nearest, dtype=np.int64)
    table = np.zeros(int(nearest.max()) + 1)
    table[nearest[known]] = depth[known]
    close = away <= max(EDGE * max(mask.shape) / 256, 1.0)
    return np.where(known, depth, np.where(mask & close, table[nearest], 0.0))


def resting_scale(ratios: list[np.ndarray], said: float) -> tuple[float, bool]:
    """What an object's own depth is multiplied by to be that of the world, and whether it rests on something so.

    Args:
        ratios: of each frame, see `outline_ratios`. said: the same factor by the network's word.
    """
    touching = [float(np.quantile(one, TOUCHES)) for one in ratios if len(one) >= LEAST_OUTLINE]
    if not touching:
        return said, False
    found = float(np.quantile(touching, TIGHTEST))
    if np.isfinite(said) and found > FLIES * said:
        return said, False
    return found, True
