"""Cameras of a clip from an estimator's maps: those that came with them, or ones that its points imply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.optimize import minimize_scalar

from dyn4d.geometry.estimator_maps import Placement
from dyn4d.geometry.focal import SeenPoints, diagonal_limits, intrinsics

SAMPLES = 2000  # points of a frame that its camera is found from
FRAMES_FOR_FOCAL = 5  # that a common focal length is looked for in, where only the points' world is known
FOCALS = 24  # tried at first
NEAR = 2.0  # pixels of the map: a point that is further from its pixel does not count for a pose
LEAST_POINTS = 12


@dataclass(frozen=True)
class MapFacts:
    """What is remembered of one frame's map.

    Attributes:
        place: where it lies. K: (3, 3) of the picture, or None. world_from_cam: (4, 4), or None.
        xy: (P, 2) pixels of the picture and points: (P, 3) a sample of its points, where it gave points.
        in_world: they are in the world, else in the frame's camera.
        conf: lowest and highest confidence, or None.
    """

    place: Placement
    K: np.ndarray | None
    world_from_cam: np.ndarray | None
    xy: np.ndarray
    points: np.ndarray
    in_world: bool
    conf: tuple[float, float] | None


def sample_points(points: np.ndarray, conf: np.ndarray | None, place: Placement) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the picture (P, 2) and points (P, 3), at most `SAMPLES`, evenly from the better half of a map."""
    usable = np.isfinite(points).all(-1) & (points != 0).any(-1)
    if conf is not None and usable.any():
        conf = np.where(np.isfinite(conf), conf, -np.inf)
        usable &= conf >= np.median(conf[usable])
    at = np.flatnonzero(usable)
    at = at[:: max(-(-len(at) // SAMPLES), 1)]
    row, column = np.divmod(at, points.shape[1])
    return place.to_picture(np.stack([column, row], -1) + 0.5), points[row, column]


def focal_intrinsics(facts: Sequence[MapFacts | None], picture: tuple[int, int]) -> np.ndarray | None:
    """(3, 3) K of the picture with one focal length for all frames, from points in the cameras' own frames; None where
    there are none or they say nothing. The principal point is the picture's centre."""
    centre = (picture[0] / 2, picture[1] / 2)
    seen = [
        SeenPoints(torch.from_numpy(fact.xy), torch.from_numpy(fact.points), centre)
        for fact in facts
        if fact is not None and not fact.in_world and len(fact.xy)
    ]
    found = intrinsics(seen, limits=diagonal_limits(*picture))[0] if seen else None
    return None if found is None else found.numpy()


def world_intrinsics(facts: Sequence[MapFacts | None], picture: tuple[int, int]) -> np.ndarray | None:
    """(3, 3) K of the picture with the focal length that lets points in the world be seen at their pixels best by
    cameras placed freely: the least median distance in pixels over a few frames. None where no pose is found.

    Points on one plane that faces the camera say nothing of it.
    """
    known = [fact for fact in facts if fact is not None and fact.in_world and len(fact.xy) >= LEAST_POINTS]
    if not known:
        return None
    some = [known[i] for i in np.unique(np.linspace(0, len(known) - 1, FRAMES_FOR_FOCAL).astype(int))]

    def miss(log_focal: float) -> float:
        K = _matrix(float(np.exp(log_focal)), picture)
        misses = [pose_of_points(fact, K)[1] for fact in some]
        return float(np.median(misses))

    lowest, highest = np.log(diagonal_limits(*picture))
    tried = np.linspace(lowest, highest, FOCALS)
    costs = np.array([miss(value) for value in tried])
    if not np.isfinite(costs).any():
        return None
    best, step = tried[int(np.argmin(costs))], tried[1] - tried[0]
    found = minimize_scalar(miss, bounds=(best - step, best + step), method="bounded", options={"xatol": 1e-5})
    return _matrix(float(np.exp(found.x)), picture)


def _matrix(focal: float, picture: tuple[int, int]) -> np.ndarray:
    return np.array([[focal, 0, picture[0] / 2], [0, focal, picture[1] / 2], [0, 0, 1]])


def pose_of_points(fact: MapFacts, K: np.ndarray) -> tuple[np.ndarray | None, float]:
    """world_from_cam (4, 4) from a frame's points in the world and their pixels, and the median distance from these in
    pixels; None and infinity where no camera sees enough points near their pixels.

    Consensus of minimal samples, then least squares on the points that agree (OpenCV's solvePnP).
    """
    if len(fact.xy) < LEAST_POINTS or not fact.in_world:
        return None, np.inf
    near = NEAR / min(fact.place.scale)
    centre = np.median(fact.points, axis=0)
    spread = float(np.median(np.abs(fact.points - centre))) or 1.0
    points = (fact.points - centre) / spread  # OpenCV's solvers like numbers about 1
    try:
        found, turn, shift, agree = cv2.solvePnPRansac(
            points, fact.xy, K, None, iterationsCount=200, reprojectionError=near, confidence=0.9999,
            flags=cv2.SOLVEPNP_SQPNP,
        )  # fmt: skip
        if not found or agree is None or len(agree) < LEAST_POINTS:
            return None, np.inf
        agree = agree[:, 0].astype(np.int64)
        turn, shift = cv2.solvePnPRefineLM(points[agree], fact.xy[agree], K, np.zeros(4), turn, shift)
    except cv2.error:  # points on a line, and other cases in which its algebra gives up
        return None, np.inf
    rotation = cv2.Rodrigues(turn)[0]
    in_camera = points @ rotation.T + shift[:, 0]
    if not np.isfinite(in_camera).all() or np.median(in_camera[:, 2]) <= 0:
        return None, np.inf
    seen = in_camera @ K.T
    miss = np.linalg.norm(seen[:, :2] / np.where(seen[:, 2:] == 0, 1e-9, seen[:, 2:]) - fact.xy, axis=-1)
    pose = np.eye(4)
    pose[:3, :3] = rotation.T
    pose[:3, 3] = centre - spread * rotation.T @ shift[:, 0]
    return pose, float(np.median(miss))
