"""How far a moving object is in a world that its surroundings hold, of which its own alignment says nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from dyn4d.core.cameras import unproject
from dyn4d.core.types import Camera, Clip, Correspondences
from dyn4d.geometry.resting import Surroundings, outline_ratios, resting_scale
from dyn4d.geometry.triangulation import triangulate
from dyn4d.geometry.view_depth import ObjectDepth, ViewDepth

DEGREE = 2  # of the curve that an object's path is like
LEAST_FRAMES = 8
ALIKE = 0.7  # correlation of what the camera does beside such a curve with what the object seems to do


@dataclass(frozen=True)
class Distance:
    """What an object's own depth is multiplied by to be that of the world.

    Attributes:
        scale: the factor. said: the same by the network's word. why: what it goes by.
    """

    scale: float
    said: float
    why: str


def object_distance(
    clip: Clip, lens: Camera, own: ObjectDepth, seen: ViewDepth, flow: Correspondences, *, background: bool
) -> Distance | None:
    """One factor for the clip: by what the object rests on where a background shows, else by its path; None where
    nothing says how far it is.

    Args:
        lens: (T,) cameras of the pictures. own: the object's depth, in a unit of its own. seen: the network's of all
            that the views show, in the world's unit. flow: of the background. background: shows enough of itself.
    """
    measured = triangulate(flow, lens)
    ratios, said = [], []
    for row in range(len(clip)):
        mask = np.asarray(clip.masks[row], dtype=bool)
        depth, whole = own.picture(row)[0], seen.picture(row)[0]
        if bool(lens.registered[row]):
            ratios.append(outline_ratios(mask, Surroundings.of(measured, lens, row, mask), depth))
        both = mask & (depth > 0) & (whole > 0)
        if both.any():
            said.append(float(np.median(whole[both] / depth[both])))
    if not said:
        return None
    network = float(np.median(said))
    if background:
        scale, rests = resting_scale(ratios, network)
        why = "rests on what is around it" if rests else "touches nothing: the network's word holds"
        return Distance(scale, network, why)
    scale = _by_path(clip, lens, own)
    if math.isfinite(scale):
        return Distance(scale, network, "moves most plainly so")
    return Distance(network, network, "shows nothing of it: the network's word holds")


def _by_path(clip: Clip, lens: Camera, own: ObjectDepth) -> float:
    """See `path_scale`; of the frames whose camera and object are known."""
    rows, arms = [], []
    for row in torch.nonzero(lens.registered).squeeze(-1).tolist():
        depth = own.picture(row)[0]
        y, x = np.nonzero((depth > 0) & np.asarray(clip.masks[row], dtype=bool))
        if not len(y):
            continue
        xy, z = torch.from_numpy(np.stack([x, y], 1) + 0.5), torch.from_numpy(depth[y, x])
        seen = unproject(lens.K[row].double(), torch.eye(4, dtype=torch.float64), xy, z).numpy()
        rows.append(row)
        arms.append(lens.world_from_cam[row, :3, :3].double().numpy() @ np.median(seen, 0))
    if not rows:
        return math.nan
    centres = lens.world_from_cam[rows, :3, 3].numpy()
    return path_scale(centres, np.array(arms), clip.timeline.times[clip.frames[rows]])


def path_scale(cameras: np.ndarray, arms: np.ndarray, times: np.ndarray) -> float:
    """What an object's own depth is multiplied by to be that of the world, by its path.

    Taken too small it goes along with each turn and bob of the camera, too large against it. At the right size its path
    through the world is the plainest: nearest to a curve of second degree in time (the cameras' path must not be one).
    NaN where that says nothing.

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
