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

from dyn4d.core.types import Camera
from dyn4d.geometry.triangulation import SeenAgain

REACH = 6.0  # px of a picture of 256 pixels: standard deviation of what is looked at beside an outline
SPAN = 8  # frames before and after, whose measured pixels count too: the surroundings stand still
CLOSE = 0.05  # of its depth: what is known worse says nothing
EXACT = 0.01  # of its depth: what is known better counts no more
LEAST_SUPPORT = 0.5  # measured pixels, weighted, near a pixel of the outline
TOUCHES = 0.04  # share of an outline that touches something, at the least: fewer pixels are the tail of what is off
TIGHTEST = 0.5  # each frame says how large the object is at the most; this share of them may say too little
MOST_OUTLINE = 1000  # pixels of it that are asked
LEAST_OUTLINE = 20  # pixels
DEGREE = 2  # of the curve that an object's path is like
LEAST_FRAMES = 8
ALIKE = 0.7  # correlation of what the camera does beside such a curve with what the object seems to do
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
        frame, xy, depth = seen.frame[some], seen.xy[some], 1 / seen.inverse[some]
        K, pose = cameras.K.double().cpu(), cameras.world_from_cam.double().cpu()
        focal = K[frame].diagonal(dim1=-2, dim2=-1)[:, :2]
        flat = (xy - K[frame, :2, 2]) / focal
        points = torch.cat([flat, torch.ones_like(flat[:, :1])], 1) * depth[:, None]
        world = torch.einsum("nij,nj->ni", pose[frame, :3, :3], points) + pose[frame, :3, 3]
        here = ((world - pose[row, :3, 3]) @ pose[row, :3, :3]).numpy()
        z = np.where(here[:, 2] > 0, here[:, 2], 1.0)
        at = here[:, :2] / z[:, None] * K[row].diagonal()[:2].numpy() + K[row, :2, 2].numpy()
        height, width = mask.shape
        inside = (here[:, 2] > 0) & (at >= 0).all(1) & (at < [width, height]).all(1)
        at, z, sigma = at[inside], z[inside], (seen.sigma * seen.inverse.reciprocal())[some].numpy()[inside]
        column, line = at.astype(np.int64).T
        free = ~mask[line, column]
        weight = np.minimum(1.0, (EXACT / np.maximum(sigma[free], 1e-6)) ** 2)
        return Surroundings(at[free], 1 / z[free], weight)

    def beside(self, xy: np.ndarray, reach: float) -> np.ndarray:
        """(M,) inverse depth carried on to pixels (M, 2), linearly: weighted regression around each, weights falling
        with the distance as a Gaussian of `reach` px. NaN where too little is near."""
        away = (self.xy[None] - xy[:, None]) / reach
        weight = np.exp(-0.5 * (away**2).sum(-1)) * self.weight
        terms = np.concatenate([np.ones_like(away[..., :1]), away], -1)
        total = weight.sum(1)
        matrix = np.einsum("mn,mni,mnj->mij", weight, terms, terms)
        matrix += np.diag([1e-12, 1e-2, 1e-2]) * np.maximum(total, 1e-9)[:, None, None]
        goal = np.einsum("mn,mni,n->mi", weight, terms, self.inverse)
        good = total > LEAST_SUPPORT
        out = np.full(len(xy), np.nan)
        out[good] = np.linalg.solve(matrix[good], goal[good][..., None])[:, 0, 0]
        return out


def outline_ratios(mask: np.ndarray, around: Surroundings, own: np.ndarray) -> np.ndarray:
    """(N,) depth of the surroundings beside pixels of an object's outline over the object's own.

    Args:
        mask: (H, W) bool. around: of the same picture. own: (H, W) depth of the object in any unit, 0 = unknown.
    """
    inside = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)  # the picture's edge is none
    y, x = np.nonzero(mask & (inside == 0) & (own > 0))
    if len(around.xy) == 0 or len(y) == 0:
        return np.zeros(0)
    some = np.linspace(0, len(y) - 1, min(len(y), MOST_OUTLINE)).round().astype(int)
    y, x = y[some], x[some]
    there = around.beside(np.stack([x, y], 1) + 0.5, max(REACH * max(mask.shape) / 256, 2.0))
    good = there > 1e-9
    return 1 / (there[good] * own[y, x][good])


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


def path_scale(cameras: np.ndarray, arms: np.ndarray, times: np.ndarray) -> float:
    """The same where nothing is known around the object, by its path: taken too small it goes along with each turn and
    bob of the camera, too large against it. At the right size its path through the world is the plainest: nearest to
    a curve of second degree in time (the cameras' path must not be one). NaN where that says nothing.

    Args:
        cameras: (T, 3) centres, world. arms: (T, 3) from there to the object's middle, world axes, in the object's
            unit. times: (T,).
    """
    if len(times) < LEAST_FRAMES:
        return float("nan")
    basis, _ = np.linalg.qr(np.vander((times - times[0]) / max(np.ptp(times), 1e-12), DEGREE + 1))
    own, there = (part - basis @ (basis.T @ part) for part in (cameras, arms))
    both, far = float((own * there).sum()), float((there * there).sum())
    alike = -both / max(np.sqrt(far * float((own * own).sum())), 1e-12)
    return -both / far if alike > ALIKE else float("nan")
