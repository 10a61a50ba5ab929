"""Bones, smooth skinning weights, linear-blend skinning and two-bone limbs.

Rest pose: x forward, y left, z up, the creature stands on z = 0. A bone's motion is x -> R (x - head_rest) + head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyn4d.synthetic.solids import Primitive, part_distances


@dataclass(frozen=True)
class Bone:
    """One bone of the rest pose.

    Attributes:
        name, parent: its name and its parent's (None for the root).
        head: the joint where it hangs on its parent.
        softness: distance over which its hold on the surface fades.
    """

    name: str
    parent: str | None
    head: tuple[float, float, float]
    softness: float = 0.03


def skin_weights(points: np.ndarray, table: np.ndarray, owners: np.ndarray, softness: np.ndarray) -> np.ndarray:
    """Weights (N, B) that fade with the distance to each bone's own primitives.

    Args:
        points: (N, 3) rest. table: (P, 10) primitives. owners: (P,) bone of each. softness: (B,) fade lengths > 0.

    Returns:
        Rows that are >= 0 and sum to 1; smooth over the surface, so that skin stretches but never tears.
    """
    each = part_distances(points, table)
    weights = np.zeros((len(points), len(softness)))
    for bone in range(len(softness)):
        mine = owners == bone
        if mine.any():
            weights[:, bone] = np.exp(-np.maximum(each[:, mine].min(1), -softness[bone]) / softness[bone])
    weights = weights / weights.sum(1, keepdims=True)
    weights = np.maximum(weights - 0.01, 0.0)  # forget bones too far to matter, without a jump
    return weights / weights.sum(1, keepdims=True)


def blend_skin(rest: np.ndarray, weights: np.ndarray, rotations: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Linear-blend skinning: rest (V, 3), weights (V, B), x -> R_b x + o_b with (B, 3, 3), (B, 3) -> (V, 3)."""
    matrices = np.concatenate([rotations, offsets[:, :, None]], axis=2).reshape(len(rotations), 12)
    blended = (weights @ matrices).reshape(-1, 3, 4)
    return np.einsum("vij,vj->vi", blended[:, :, :3], rest) + blended[:, :, 3]


def owners_of(primitives: list[Primitive]) -> np.ndarray:
    """(P,) the bone of each primitive."""
    return np.array([p.bone for p in primitives], dtype=np.int64)


def turn(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Rotation (3, 3): roll about x, then pitch (nose down > 0) about y, then yaw about z, in radians."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return about_z @ about_y @ about_x


def _frame(direction: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """Orthonormal columns: along `direction`, across towards `bend`, and their cross product."""
    x = direction / np.linalg.norm(direction)
    y = bend - (bend @ x) * x
    y = y / np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)], axis=1)


@dataclass(frozen=True)
class LimbPose:
    """Rotations (3, 3) of the upper and the lower bone and the places (3,) of knee and ankle."""

    upper: np.ndarray
    lower: np.ndarray
    knee: np.ndarray
    ankle: np.ndarray


def bend_limb(
    rest: tuple[np.ndarray, np.ndarray, np.ndarray], hip: np.ndarray, goal: np.ndarray, hint: np.ndarray
) -> LimbPose:
    """Two-bone inverse kinematics by the law of cosines.

    Args:
        rest: hip, knee and ankle (3,) in the rest pose, not in one line.
        hip: (3,) where the hip is now. goal: (3,) where the ankle should be; pulled in if the limb is too short.
        hint: (3,) the side to which the knee bends.
    """
    hip0, knee0, ankle0 = rest
    upper, lower = float(np.linalg.norm(knee0 - hip0)), float(np.linalg.norm(ankle0 - knee0))
    reach = goal - hip
    length = float(np.linalg.norm(reach))
    limit = 0.995 * (upper + lower)
    direction = reach / length
    length = min(length, limit)
    along = (upper**2 - lower**2 + length**2) / (2 * length)
    aside = math.sqrt(max(upper**2 - along**2, 0.0))
    side = _frame(direction, hint)[:, 1]
    knee = hip + along * direction + aside * side
    ankle = hip + length * direction
    bend0 = knee0 - 0.5 * (hip0 + ankle0)
    rest_upper, rest_lower = _frame(knee0 - hip0, bend0), _frame(ankle0 - knee0, bend0)
    return LimbPose(
        upper=_frame(knee - hip, side) @ rest_upper.T,
        lower=_frame(ankle - knee, side) @ rest_lower.T,
        knee=knee,
        ankle=ankle,
    )
