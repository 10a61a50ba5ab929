"""How far from the directions that were filmed a result may be looked at, where its depth was only estimated.

Seen from where it was filmed an object looks right whatever its depth. Seen from an angle a beside that, what is off by
e along the line of sight is off by e sin(a) in the picture.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dyn4d.core.types import Camera
from dyn4d.export.views import Extent, Swing, fill_poses, find_stand

SHIFT = 0.04  # of the object's size: how far an error of depth may move what is seen
LEAST = 12.0  # degrees that are always allowed
MOST = 60.0  # degrees: nothing was measured of the sides that were not filmed, however right the others are


def view_limit(cameras: Camera, extent: Extent, depth_error: float | None) -> float | None:
    """Degrees between a view and the nearest input camera's within which a result can be trusted, from `LEAST` to
    `MOST`; None = any.

    Args:
        cameras: the clip's F cameras. depth_error: relative error that depth is expected to have; None = measured.
    """
    if depth_error is None or depth_error <= 0:
        return None
    places = fill_poses(cameras).world_from_cam[:, :3, 3]
    away = places - extent.centres.to(places)
    off = depth_error * float(away.norm(dim=-1).median())
    sine = SHIFT * 2 * extent.radius / max(off, 1e-12)
    angle = math.degrees(math.asin(sine)) if sine < 1 else 90.0
    return min(max(angle, LEAST), MOST)


def allowed_turn(cameras: Camera, extent: Extent, limit: float | None) -> Swing | None:
    """How far a path round the object may turn so that some input camera is always within `limit` degrees; None = all
    round.

    Args:
        cameras: the clip's F cameras, all with poses.
    """
    if limit is None:
        return None
    stand = find_stand(cameras, extent)
    centres = extent.centres.to(stand.direction)
    filmed = torch.nn.functional.normalize(cameras.world_from_cam[:, :3, 3] - centres, dim=-1)
    degrees = torch.arange(-180, 181)
    near = [bool((filmed @ _turned(stand.direction, stand.up, float(a))).max() >= math.cos(math.radians(limit)))
            for a in degrees]  # fmt: skip
    if all(near):
        return None
    low = high = 180  # the row of no turn
    while low > 0 and near[low - 1]:
        low -= 1
    while high < 360 and near[high + 1]:
        high += 1
    return Swing(float(degrees[low]), float(degrees[high]), limit)


def _turned(direction: Tensor, up: Tensor, angle: float) -> Tensor:
    """A direction (3,) turned by `angle` degrees about `up` (Rodrigues)."""
    a = math.radians(angle)
    return (
        direction * math.cos(a) + torch.linalg.cross(up, direction) * math.sin(a)
        + up * (up @ direction) * (1 - math.cos(a))
    )  # fmt: skip
