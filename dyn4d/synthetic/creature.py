"""A small patterned dragon that walks: planted feet, a spine that follows its path, swaying head and tail."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyn4d.synthetic.arc import Arc
from dyn4d.synthetic.model import CREATURE, Model, mark, marks_table, rest_surface
from dyn4d.synthetic.skeleton import Bone, bend_limb, blend_skin, owners_of, skin_weights, turn
from dyn4d.synthetic.solids import Primitive, as_table, cone, ellipsoid

SCALE = 0.85  # the tables below are drawn for a creature 1.4 long; the world's is 1.2 m

_TAIL = (
    (-0.34, 0.46, 0.095),
    (-0.47, 0.475, 0.07),
    (-0.58, 0.515, 0.056),
    (-0.67, 0.585, 0.046),
    (-0.725, 0.68, 0.038),
    (-0.735, 0.78, 0.03),
)  # fmt: skip  (x, z, radius)
_SPIKES = (
    (-0.30, 0.565, 0),
    (-0.19, 0.595, 0),
    (-0.08, 0.60, 1),
    (0.03, 0.60, 1),
    (0.14, 0.61, 2),
    (0.245, 0.635, 2),
    (0.325, 0.695, 3),
)  # fmt: skip  (x, z of the root, bone)

_LEGS = {  # hip, knee, ankle of the left leg; radii; bone that carries the hip
    "front": ((0.20, 0.105, 0.40), (0.150, 0.135, 0.225), (0.195, 0.135, 0.065), (0.078, 0.056, 0.044), "chest"),
    "hind": ((-0.22, 0.105, 0.41), (-0.160, 0.140, 0.235), (-0.225, 0.140, 0.065), (0.098, 0.062, 0.046), "pelvis"),
}


def _bones() -> list[Bone]:
    bones = [
        Bone("pelvis", None, (-0.22, 0, 0.45), 0.07),
        Bone("spine", "pelvis", (-0.10, 0, 0.46), 0.07),
        Bone("chest", "spine", (0.08, 0, 0.46), 0.07),
        Bone("neck", "chest", (0.26, 0, 0.50), 0.05),
        Bone("head", "neck", (0.40, 0, 0.67), 0.035),
        Bone("ear_l", "head", (0.40, 0.085, 0.80), 0.02),
        Bone("ear_r", "head", (0.40, -0.085, 0.80), 0.02),
    ]
    for i in range(5):
        x, z, _ = _TAIL[i]
        bones.append(Bone(f"tail{i}", f"tail{i - 1}" if i else "pelvis", (x, 0, z), 0.035))
    for kind, (hip, knee, ankle, _, carrier) in _LEGS.items():
        for side, sign in (("l", 1), ("r", -1)):
            places = [(p[0], sign * p[1], p[2]) for p in (hip, knee, ankle)]
            bones.append(Bone(f"{kind}_{side}_upper", carrier, places[0], 0.035))
            bones.append(Bone(f"{kind}_{side}_lower", f"{kind}_{side}_upper", places[1], 0.028))
            bones.append(Bone(f"{kind}_{side}_paw", f"{kind}_{side}_lower", places[2], 0.022))
    return bones


def _solids(index: dict[str, int]) -> list[Primitive]:
    parts = [
        cone((-0.27, 0, 0.445), 0.125, (-0.12, 0, 0.45), 0.15, bone=index["pelvis"]),
        cone((-0.12, 0, 0.45), 0.15, (0.06, 0, 0.45), 0.155, blend=0.06, bone=index["spine"]),
        cone((0.06, 0, 0.455), 0.155, (0.22, 0, 0.47), 0.14, blend=0.06, bone=index["chest"]),
        cone((0.26, 0, 0.51), 0.105, (0.40, 0, 0.68), 0.085, blend=0.08, bone=index["neck"]),
        ellipsoid((0.45, 0, 0.735), (0.135, 0.122, 0.115), blend=0.05, bone=index["head"]),
        cone((0.50, 0, 0.705), 0.085, (0.625, 0, 0.685), 0.068, blend=0.06, bone=index["head"]),
    ]
    for sign, side in ((1, "l"), (-1, "r")):
        parts += [
            cone((0.40, 0.075 * sign, 0.80), 0.045, (0.345, 0.14 * sign, 0.93), 0.014, bone=index[f"ear_{side}"]),
            ellipsoid((0.535, 0.082 * sign, 0.775), (0.036, 0.026, 0.04), blend=0.012, bone=index["head"]),
            ellipsoid((0.668, 0.028 * sign, 0.72), (0.02, 0.016, 0.014), blend=0.015, bone=index["head"]),
        ]
    for i in range(5):
        (xa, za, ra), (xb, zb, rb) = _TAIL[i], _TAIL[i + 1]
        parts.append(cone((xa, 0, za), ra, (xb, 0, zb), rb, blend=0.05, bone=index[f"tail{i}"]))
    parts.append(ellipsoid((-0.735, 0, 0.82), (0.04, 0.035, 0.065), blend=0.03, bone=index["tail4"]))
    for x, z, bone in _SPIKES:
        parts.append(cone((x, 0, z), 0.034, (x - 0.035, 0, z + 0.062), 0.009, blend=0.02, bone=bone))
    for kind, (hip, knee, ankle, radii, _) in _LEGS.items():
        for side, sign in (("l", 1), ("r", -1)):
            h, k, a = ((p[0], sign * p[1], p[2]) for p in (hip, knee, ankle))
            parts += [
                cone(h, radii[0], k, radii[1], blend=0.045, bone=index[f"{kind}_{side}_upper"]),
                cone(k, radii[1], a, radii[2], blend=0.02, bone=index[f"{kind}_{side}_lower"]),
                ellipsoid(
                    (a[0] + 0.032, a[1], 0.036), (0.075, 0.056, 0.036), blend=0.03, bone=index[f"{kind}_{side}_paw"]
                ),
            ]
    return parts


def _marks() -> list[list[float]]:
    coral, cream, dark, white = (242, 84, 72), (255, 236, 190), (28, 24, 34), (255, 255, 255)
    rows = []
    for x, z, _ in _SPIKES:
        rows.append(mark((x - 0.012, 0, z + 0.028), (x - 0.04, 0, z + 0.075), 0.026, coral, edge=0.008))
    rows.append(mark((-0.735, 0, 0.80), (-0.735, 0, 0.90), 0.06, coral, edge=0.012))
    for kind in _LEGS.values():
        x, y, _ = kind[2]
        for sign in (1, -1):
            for toe in (-0.032, 0.0, 0.032):
                claw = (x + 0.104, sign * y + toe, 0.018)
                rows.append(mark(claw, claw, 0.017, cream, edge=0.004))
    for sign in (1, -1):
        eye = (0.553, 0.096 * sign, 0.783)
        pupil = (0.566, 0.103 * sign, 0.786)
        glint = (0.566, 0.100 * sign, 0.803)
        rows.append(mark((0.395, 0.10 * sign, 0.835), (0.37, 0.135 * sign, 0.90), 0.02, (255, 170, 150), edge=0.01))
        rows.append(mark(eye, eye, 0.030, white, edge=0.003))
        rows.append(mark(pupil, pupil, 0.021, dark, edge=0.003))
        rows.append(mark(glint, glint, 0.008, white, edge=0.002))
        nostril = (0.686, 0.030 * sign, 0.724)
        rows.append(mark(nostril, nostril, 0.010, dark, edge=0.003))
    return rows


@dataclass(frozen=True)
class Gait:
    """How it walks, in the units of the tables above: distance covered, heading change, strides, phase in cycles."""

    distance: float = 0.66
    bend: float = math.radians(26)
    strides: float = 1.8
    phase: float = 0.0
    stance: float = 0.56
    lift: float = 0.075


_LEG_PHASE = {("hind", "l"): 0.0, ("front", "l"): 0.25, ("hind", "r"): 0.5, ("front", "r"): 0.75}


class _Walker:
    """Bone motions at any time, from the gait."""

    def __init__(self, bones: list[Bone], gait: Gait) -> None:
        self.bones = bones
        self.index = {bone.name: i for i, bone in enumerate(bones)}
        self.heads = np.array([bone.head for bone in bones], dtype=np.float64)
        self.gait = gait
        self.arc = Arc(gait.distance, gait.bend)

    def bones_at(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Rotations (B, 3, 3) and offsets (B, 3) of all bones at time t in [0, 1]."""
        u = t * self.gait.distance
        beat = 2 * math.pi * (self.gait.strides * t + self.gait.phase)
        rotation = self._turns(u, beat)
        joint = np.zeros((len(self.bones), 3))
        for i, bone in enumerate(self.bones):
            if bone.parent is None:
                joint[i, :2] = self.arc.place(u + bone.head[0])
                joint[i, 2] = bone.head[2] - 0.035 + 0.009 * math.cos(2 * beat)
            elif "_paw" not in bone.name and "_lower" not in bone.name:
                parent = self.index[bone.parent]
                joint[i] = joint[parent] + rotation[parent] @ (self.heads[i] - self.heads[parent])
        for (kind, side), phase in _LEG_PHASE.items():
            self._leg(kind, side, phase, t, rotation, joint)
        return rotation, joint - np.einsum("bij,bj->bi", rotation, self.heads)

    def _turns(self, u: float, beat: float) -> np.ndarray:
        rotation = np.tile(np.eye(3), (len(self.bones), 1, 1))
        sway = math.sin(beat)

        def put(name: str, yaw: float, pitch: float = 0.0, roll: float = 0.0) -> None:
            x = self.heads[self.index[name], 0]
            rotation[self.index[name]] = turn(self.arc.heading(u + min(max(x, -0.4), 0.35)) + yaw, pitch, roll)

        put("pelvis", 0.09 * sway, 0.02 * math.sin(2 * beat + 0.6), 0.05 * sway)
        put("spine", 0.0, 0.0, 0.0)
        put("chest", -0.09 * sway, -0.02 * math.sin(2 * beat), -0.05 * sway)
        put("neck", 0.16 * math.sin(0.5 * beat + 0.4), 0.07 * math.sin(2 * beat + 0.5))
        put("head", 0.30 * math.sin(0.5 * beat + 0.1), 0.10 * math.sin(2 * beat + 1.2), 0.10 * math.sin(0.5 * beat))
        for side, sign in (("l", 1), ("r", -1)):
            flap = 0.16 * math.sin(2 * beat + 2.2)
            head = rotation[self.index["head"]]
            rotation[self.index[f"ear_{side}"]] = head @ turn(0.1 * sign * flap, -0.5 * flap, sign * flap)
        for i in range(5):
            swing = (0.10 + 0.11 * i) * math.sin(beat - 0.75 * i - 0.5)
            put(f"tail{i}", swing, 0.05 * (i + 1) * math.sin(2 * beat - 0.6 * i))
        return rotation

    def _leg(self, kind: str, side: str, phase: float, t: float, rotation: np.ndarray, joint: np.ndarray) -> None:
        """Places one leg: planted on the ground for the stance, carried forward in an arc for the swing."""
        gait = self.gait
        upper, lower, paw = (self.index[f"{kind}_{side}_{part}"] for part in ("upper", "lower", "paw"))
        ankle0 = self.heads[paw]
        cycle = gait.strides * t + gait.phase + phase
        step = math.floor(cycle)
        part = cycle - step

        def planted(number: int) -> tuple[np.ndarray, float]:
            """Ankle and heading of the foot that stands during step `number`: in its rest place at mid-stance."""
            middle = (number + gait.stance / 2 - gait.phase - phase) / gait.strides * gait.distance
            heading = self.arc.heading(middle + ankle0[0])
            across = np.array([-math.sin(heading), math.cos(heading)]) * ankle0[1]
            return np.append(self.arc.place(middle + ankle0[0]) + across, ankle0[2]), heading

        goal, heading = planted(step)
        pitch = 0.0
        if part > gait.stance:
            s = (part - gait.stance) / (1 - gait.stance)
            smooth = s * s * (3 - 2 * s)
            after, heading_after = planted(step + 1)
            goal = (1 - smooth) * goal + smooth * after
            goal[2] += gait.lift * math.sin(math.pi * s) ** 2
            heading = (1 - smooth) * heading + smooth * heading_after
            pitch = 0.75 * math.sin(math.pi * s) ** 2 * math.cos(math.pi * (s - 0.25))
        forward = np.array([math.cos(heading), math.sin(heading), 0.0])
        hint = self.heads[lower] - 0.5 * (self.heads[upper] + ankle0)
        hint = turn(math.atan2(forward[1], forward[0])) @ hint
        rest = (self.heads[upper], self.heads[lower], ankle0)
        pose = bend_limb(rest, joint[upper], goal, hint)
        rotation[upper], rotation[lower], rotation[paw] = pose.upper, pose.lower, turn(heading, pitch)
        joint[lower], joint[paw] = pose.knee, pose.ankle


def build_creature(cell: float, seed: int) -> Model:
    """The walking dragon, about 1.2 m long.

    Args:
        cell: spacing of the mesh in metres.
        seed: changes the phase of the gait and the side to which it turns.
    """
    rng = np.random.default_rng(seed)
    side = 1.0 if seed == 0 else float(rng.choice([-1.0, 1.0]))
    gait = Gait(phase=0.1 if seed == 0 else float(rng.uniform()), bend=side * math.radians(26))
    bones = _bones()
    walker = _Walker(bones, gait)
    solids = _solids(walker.index)
    table = as_table(solids, SCALE)
    vertices, faces, occlusion = rest_surface(table, cell, 0.12 * SCALE)
    softness = SCALE * np.array([bone.softness for bone in bones])
    weights = skin_weights(vertices, table, owners_of(solids), softness)

    def pose(t: float) -> np.ndarray:
        rotations, offsets = walker.bones_at(t)
        return blend_skin(vertices, weights, rotations, SCALE * offsets)

    def path(t: float) -> np.ndarray:
        return SCALE * np.append(walker.arc.place(t * gait.distance), 0.42)

    return Model(vertices, faces, occlusion, CREATURE, marks_table(_marks(), SCALE), pose, path)
