"""Where the cameras stand: the filmed arc, and held-out views around it. World Z up, metres, OpenCV cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

FOCAL = 351.6771 / 256.0  # focal length over picture width: a 40 degree field of view
ARC = math.radians(40.0)
HELD_OUT = {  # azimuth and elevation relative to the filmed camera at the same instant, degrees
    "near_left": (-12.0, 0.0),
    "near_right": (12.0, 0.0),
    "high": (0.0, 14.0),
    "low": (0.0, -11.0),
    "far_left": (-45.0, 4.0),
    "far_right": (45.0, 4.0),
}


@dataclass(frozen=True)
class Rig:
    """Cameras on a sphere around a point that they look at.

    Attributes:
        azimuth, elevation: (T,) radians. distance: metres. targets: (T, 3) world.
    """

    azimuth: np.ndarray
    elevation: np.ndarray
    distance: float
    targets: np.ndarray

    def pose(self, frame: int, turn_deg: float = 0.0, raise_deg: float = 0.0) -> np.ndarray:
        """`world_from_cam` (4, 4) of the camera of a frame, moved around the target."""
        azimuth = self.azimuth[frame] + math.radians(turn_deg)
        elevation = max(self.elevation[frame] + math.radians(raise_deg), math.radians(2.0))
        away = np.array(
            [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
        )
        return looking_at(self.targets[frame] + self.distance * away, self.targets[frame])


def looking_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`world_from_cam` (4, 4) float64 of a level camera at `eye` that looks at `target`; not straight up or down."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, np.array([0.0, 0.0, 1.0]))
    right /= np.linalg.norm(right)
    out = np.eye(4)
    out[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    out[:3, 3] = eye
    return out


def intrinsics(size: int) -> np.ndarray:
    """K (3, 3) of a square picture, half-integer pixel centres."""
    return np.array([[FOCAL * size, 0, size / 2], [0, FOCAL * size, size / 2], [0, 0, 1]])


def film(
    shapes: list[np.ndarray], targets: np.ndarray, times: np.ndarray, *, static: bool, seed: int, margin: float = 0.06
) -> Rig:
    """Cameras on a 40 degree arc (or one that stands still), close enough to fill the picture in every frame.

    Args:
        shapes: T vertex arrays (V, 3). targets: (T, 3) what to look at. times: (T,) in [0, 1].
        margin: free border as a share of the picture.
    """
    lift = 0.0 if seed == 0 else float(np.random.default_rng(seed + 7).uniform(-0.06, 0.06))
    middle = math.radians(-52.0)
    if static:
        azimuth, elevation = np.full(len(times), middle), np.full(len(times), math.radians(17.0) + lift)
        targets = np.repeat(targets.mean(0, keepdims=True), len(times), axis=0)
    else:
        azimuth = middle + ARC * (times - 0.5)
        elevation = math.radians(17.0) + lift + math.radians(1.5) * np.sin(2 * math.pi * times)
    rig = Rig(azimuth, elevation, 1.0, targets)
    limit = (0.5 - margin) / FOCAL
    distance = 1.0
    for frame, shape in enumerate(shapes):  # |x| <= limit * (z + distance - 1) for every vertex
        pose = rig.pose(frame)
        in_camera = (shape - pose[:3, 3]) @ pose[:3, :3]
        need = np.abs(in_camera[:, :2]).max(1) / limit - in_camera[:, 2] + 1.0
        distance = max(distance, float(need.max()))
    return Rig(azimuth, elevation, distance, targets)
