"""A head on a neck that opens and shuts its mouth: what touches comes apart, and shows what was hidden."""

from __future__ import annotations

import math

import numpy as np

from dyn4d.synthetic.model import WORM, Model, mark, marks_table, rest_surface
from dyn4d.synthetic.skeleton import Bone, blend_skin, owners_of, skin_weights, turn
from dyn4d.synthetic.solids import Primitive, as_table, cone, ellipsoid

_HINGE = (0.06, 0.0, 0.70)
_UPPER, _LOWER = math.radians(-20.0), math.radians(24.0)  # pitch of the jaws in the rest pose, whose mouth is open
_SCALE = 1.4  # of all lengths below
_CYCLES = 1.5  # shut, open, shut, open

_BONES = [
    Bone("foot", None, (0, 0, 0.0), 0.05),
    Bone("neck", "foot", (0, 0, 0.20), 0.08),
    Bone("head", "neck", (0, 0, 0.58), 0.06),
    Bone("upper", "head", _HINGE, 0.02),
    Bone("lower", "head", _HINGE, 0.02),
]
_INDEX = {bone.name: i for i, bone in enumerate(_BONES)}


def _jaw(along: float, aside: float, up: float, pitch: float) -> tuple[float, float, float]:
    """A place in the rest pose, from one of the shut jaw: metres from the hinge."""
    c, s = math.cos(pitch), math.sin(pitch)
    return _HINGE[0] + c * along + s * up, aside, _HINGE[2] - s * along + c * up


def _solids() -> list[Primitive]:
    head = _INDEX["head"]
    parts = [
        ellipsoid((-0.02, 0, 0.09), (0.24, 0.22, 0.10), bone=_INDEX["foot"]),
        cone((-0.03, 0, 0.16), 0.135, (-0.02, 0, 0.52), 0.115, blend=0.08, bone=_INDEX["neck"]),
        ellipsoid((-0.03, 0, 0.71), (0.16, 0.165, 0.155), blend=0.05, bone=head),
    ]
    for sign in (1, -1):
        parts.append(ellipsoid((0.04, 0.085 * sign, 0.865), (0.058, 0.052, 0.06), blend=0.02, bone=head))
    for aside in (-0.075, 0.0, 0.075):  # three cones side by side are a plate
        reach = 0.44 if aside == 0.0 else 0.40
        for name, pitch, up, radius in (("upper", _UPPER, 0.042, 0.058), ("lower", _LOWER, -0.038, 0.048)):
            start, end = _jaw(0.03, aside, up, pitch), _jaw(reach, 0.75 * aside, 0.9 * up, pitch)
            parts.append(cone(start, radius, end, 0.8 * radius, blend=0.035, bone=_INDEX[name]))
    tongue = (_jaw(0.10, 0, 0.004, _LOWER), _jaw(0.33, 0, 0.0, _LOWER))
    parts.append(cone(tongue[0], 0.034, tongue[1], 0.026, blend=0.012, bone=_INDEX["lower"]))
    return parts


def _marks() -> list[list[float]]:
    rows = []
    for aside in (-0.045, 0.0, 0.045):  # the inside of the mouth
        for pitch, up in ((_UPPER, -0.050), (_LOWER, 0.050)):
            ends = _jaw(0.08, aside, up, pitch), _jaw(0.38, 0.75 * aside, up, pitch)
            rows.append(mark(*ends, 0.056, (186, 40, 62), edge=0.008))
    for step in range(6):  # teeth, painted on the rims
        for sign in (1, -1):
            for pitch, up in ((_UPPER, 0.012), (_LOWER, -0.012)):
                place = _jaw(0.14 + 0.055 * step, sign * (0.125 - 0.007 * step), up, pitch)
                rows.append(mark(place, place, 0.020, (252, 248, 232), edge=0.004))
    rows.append(mark(_jaw(0.10, 0, 0.030, _LOWER), _jaw(0.36, 0, 0.022, _LOWER), 0.030, (255, 138, 150), edge=0.006))
    for sign in (1, -1):
        eye, pupil = (0.075, 0.095 * sign, 0.88), (0.09, 0.105 * sign, 0.885)
        rows.append(mark(eye, eye, 0.038, (255, 255, 255), edge=0.003))
        rows.append(mark(pupil, pupil, 0.022, (24, 22, 34), edge=0.003))
        nostril = _jaw(0.43, 0.035 * sign, 0.095, _UPPER)
        rows.append(mark(nostril, nostril, 0.016, (40, 24, 40), edge=0.004))
    return rows


def mouth(t: float, phase: float = 0.0) -> float:
    """How far the mouth is open at time t in [0, 1]: 0 shut, 1 wide open."""
    return 0.5 - 0.5 * math.cos(2 * math.pi * (_CYCLES * t + phase))


def _bones_at(t: float, phase: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (B, 3, 3) and offsets (B, 3) of all bones."""
    shut, beat = 1.0 - mouth(t, phase), 2 * math.pi * (t + phase)
    turns = {
        "neck": turn(0.0, 0.10 * math.sin(beat), 0.06 * math.cos(beat)),
        "head": turn(0.30 * math.sin(beat + 0.6), 0.10 * math.cos(beat)),
        "upper": turn(0.0, -_UPPER * shut),
        "lower": turn(0.0, -_LOWER * shut),
    }
    heads = _SCALE * np.array([bone.head for bone in _BONES], dtype=np.float64)
    rotation, joint = np.tile(np.eye(3), (len(_BONES), 1, 1)), heads.copy()
    for i, bone in enumerate(_BONES):
        if bone.parent is not None:
            parent = _INDEX[bone.parent]
            rotation[i] = rotation[parent] @ turns[bone.name]
            joint[i] = joint[parent] + rotation[parent] @ (heads[i] - heads[parent])
    return rotation, joint - np.einsum("bij,bj->bi", rotation, heads)


def build_snapper(cell: float, seed: int) -> Model:
    """The snapper, about 1.3 m tall. Its mouth is shut in the first frame where `seed` is 0.

    Args:
        cell: spacing of the mesh in metres. seed: changes the phase of its motion.
    """
    phase = 0.0 if seed == 0 else float(np.random.default_rng(seed).uniform())
    solids = _solids()
    table = as_table(solids, _SCALE)
    vertices, faces, occlusion = rest_surface(table, cell, 0.11)
    softness = _SCALE * np.array([bone.softness for bone in _BONES])
    weights = skin_weights(vertices, table, owners_of(solids), softness)

    def pose(t: float) -> np.ndarray:
        return blend_skin(vertices, weights, *_bones_at(t, phase))

    def path(t: float) -> np.ndarray:
        return np.array([0.17, 0.0, 0.67])

    return Model(vertices, faces, occlusion, WORM, marks_table(_marks(), _SCALE), pose, path)
