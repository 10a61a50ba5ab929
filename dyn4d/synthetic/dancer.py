"""A jointed doll that strides along an arc: arms and legs cross the body, hide each other and come back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyn4d.synthetic.arc import Arc
from dyn4d.synthetic.model import DANCER, Model, mark, marks_table, rest_surface
from dyn4d.synthetic.skeleton import Bone, blend_skin, owners_of, skin_weights, turn
from dyn4d.synthetic.solids import Primitive, as_table, cone, ellipsoid

_HIP, _KNEE, _ANKLE = (0.0, 0.095, 0.68), (0.015, 0.10, 0.37), (0.0, 0.105, 0.075)  # of the left side
_SHOULDER, _ELBOW, _WRIST = (0.0, 0.215, 1.09), (-0.01, 0.27, 0.86), (0.015, 0.30, 0.66)


def _side(place: tuple[float, float, float], sign: int) -> tuple[float, float, float]:
    return place[0], sign * place[1], place[2]


def _bones() -> list[Bone]:
    bones = [
        Bone("pelvis", None, (0, 0, 0.74), 0.05),
        Bone("chest", "pelvis", (0, 0, 0.90), 0.05),
        Bone("head", "chest", (0, 0, 1.20), 0.03),
    ]
    for side, sign in (("l", 1), ("r", -1)):
        bones += [
            Bone(f"thigh_{side}", "pelvis", _side(_HIP, sign), 0.03),
            Bone(f"shin_{side}", f"thigh_{side}", _side(_KNEE, sign), 0.025),
            Bone(f"foot_{side}", f"shin_{side}", _side(_ANKLE, sign), 0.02),
            Bone(f"arm_{side}", "chest", _side(_SHOULDER, sign), 0.025),
            Bone(f"forearm_{side}", f"arm_{side}", _side(_ELBOW, sign), 0.022),
        ]
    return bones


def _solids(index: dict[str, int]) -> list[Primitive]:
    parts = [
        ellipsoid((0, 0, 0.74), (0.115, 0.155, 0.12), bone=index["pelvis"]),
        cone((0, 0, 0.88), 0.125, (0, 0, 1.05), 0.145, blend=0.06, bone=index["chest"]),
        cone((0, 0, 1.14), 0.055, (0, 0, 1.24), 0.05, blend=0.04, bone=index["chest"]),
        ellipsoid((0.015, 0, 1.36), (0.125, 0.115, 0.135), blend=0.03, bone=index["head"]),
        cone((0.12, 0, 1.345), 0.028, (0.165, 0, 1.335), 0.02, blend=0.02, bone=index["head"]),
    ]
    for side, sign in (("l", 1), ("r", -1)):
        hip, knee, ankle = (_side(p, sign) for p in (_HIP, _KNEE, _ANKLE))
        shoulder, elbow, wrist = (_side(p, sign) for p in (_SHOULDER, _ELBOW, _WRIST))
        parts += [
            cone(hip, 0.088, knee, 0.06, blend=0.035, bone=index[f"thigh_{side}"]),
            cone(knee, 0.058, ankle, 0.042, blend=0.015, bone=index[f"shin_{side}"]),
            ellipsoid((0.05, ankle[1], 0.042), (0.11, 0.05, 0.042), blend=0.025, bone=index[f"foot_{side}"]),
            cone(shoulder, 0.06, elbow, 0.045, blend=0.035, bone=index[f"arm_{side}"]),
            cone(elbow, 0.043, wrist, 0.034, blend=0.012, bone=index[f"forearm_{side}"]),
            ellipsoid((wrist[0] + 0.01, wrist[1], 0.615), (0.045, 0.028, 0.06), blend=0.02,
                      bone=index[f"forearm_{side}"]),
        ]  # fmt: skip
    return parts


def _marks() -> list[list[float]]:
    rows = [mark((-0.02, 0, 1.44), (-0.09, 0, 1.36), 0.105, (96, 52, 30), edge=0.012)]
    for sign in (1, -1):
        eye, pupil = (0.122, 0.048 * sign, 1.385), (0.130, 0.049 * sign, 1.386)
        rows.append(mark(eye, eye, 0.026, (255, 255, 255), edge=0.003))
        rows.append(mark(pupil, pupil, 0.014, (24, 22, 34), edge=0.003))
        hand = (0.025, 0.30 * sign, 0.61)
        rows.append(mark(hand, hand, 0.06, (248, 196, 150), edge=0.006))
        rows.append(mark((-0.06, 0.105 * sign, 0.03), (0.16, 0.105 * sign, 0.03), 0.05, (60, 40, 60), edge=0.008))
    rows.append(mark((0.128, 0.03, 1.285), (0.128, -0.03, 1.285), 0.012, (190, 50, 60), edge=0.004))
    return rows


@dataclass(frozen=True)
class Stride:
    """How it walks: metres covered, heading change, cycles over the clip, phase in cycles, swings in radians."""

    distance: float = 0.9
    bend: float = math.radians(30)
    cycles: float = 1.5
    phase: float = 0.0
    leg: float = 0.55
    arm: float = 0.75


class _Walker:
    """Bone motions at any time, each joint turned against its parent."""

    def __init__(self, bones: list[Bone], stride: Stride) -> None:
        self.bones = bones
        self.index = {bone.name: i for i, bone in enumerate(bones)}
        self.heads = np.array([bone.head for bone in bones], dtype=np.float64)
        self.stride = stride
        self.arc = Arc(stride.distance, stride.bend)

    def bones_at(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Rotations (B, 3, 3) and offsets (B, 3) of all bones at time t in [0, 1]."""
        beat = 2 * math.pi * (self.stride.cycles * t + self.stride.phase)
        turns = self._turns(beat)
        rotation = np.tile(np.eye(3), (len(self.bones), 1, 1))
        joint = np.zeros((len(self.bones), 3))
        for i, bone in enumerate(self.bones):
            if bone.parent is None:
                rotation[i] = turn(self.arc.heading(t * self.stride.distance)) @ turns[bone.name]
                joint[i] = np.append(self.arc.place(t * self.stride.distance), bone.head[2])
            else:
                parent = self.index[bone.parent]
                rotation[i] = rotation[parent] @ turns.get(bone.name, np.eye(3))
                joint[i] = joint[parent] + rotation[parent] @ (self.heads[i] - self.heads[parent])
        return rotation, joint - np.einsum("bij,bj->bi", rotation, self.heads)

    def _turns(self, beat: float) -> dict[str, np.ndarray]:
        """The turn of each bone against its parent."""
        sway = math.sin(beat)
        out = {
            "pelvis": turn(0.12 * sway, 0.03, 0.05 * math.cos(beat)),
            "chest": turn(-0.28 * sway, 0.04 + 0.03 * math.sin(2 * beat)),
            "head": turn(0.16 * sway + 0.25 * math.sin(0.5 * beat), 0.06 * math.sin(2 * beat + 1.0)),
        }
        for side, sign in (("l", 1), ("r", -1)):
            swing = sign * sway
            lifted = max(math.cos(beat) * -sign, 0.0)  # the leg that is carried forward bends at the knee
            out[f"thigh_{side}"] = turn(0.0, self.stride.leg * swing - 0.25 * lifted)
            out[f"shin_{side}"] = turn(0.0, 0.12 + 0.95 * lifted)
            out[f"foot_{side}"] = turn(0.0, -0.15 * swing + 0.1)
            out[f"arm_{side}"] = turn(0.0, -self.stride.arm * swing, -0.05 * sign)
            out[f"forearm_{side}"] = turn(0.25 * sign * max(-swing, 0.0), -0.45 - 0.45 * max(swing, 0.0))
        return out


def build_dancer(cell: float, seed: int) -> Model:
    """The striding doll, about 1.5 m tall.

    Args:
        cell: spacing of the mesh in metres. seed: changes the phase of the stride.
    """
    phase = 0.0 if seed == 0 else float(np.random.default_rng(seed).uniform())
    bones = _bones()
    walker = _Walker(bones, Stride(phase=phase))
    solids = _solids(walker.index)
    table = as_table(solids)
    vertices, faces, occlusion = rest_surface(table, cell, 0.10)
    weights = skin_weights(vertices, table, owners_of(solids), np.array([bone.softness for bone in bones]))

    def pose(t: float) -> np.ndarray:
        shape = blend_skin(vertices, weights, *walker.bones_at(t))
        shape[:, 2] -= shape[:, 2].min()  # some part of a foot always stands on the ground
        return shape

    def path(t: float) -> np.ndarray:
        return np.append(walker.arc.place(t * walker.stride.distance), 0.74)

    return Model(vertices, faces, occlusion, DANCER, marks_table(_marks(), 1.0), pose, path)
