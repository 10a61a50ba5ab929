"""Random bodies with bones: people, animals, snakes, branching things, blobs, furniture and vessels, each by its seed.

They are made to teach shape: no two are alike, none is anyone's model. A body is about as large as the unit ball and
stands along z; rest-pose conventions are those of `skeleton`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyn4d.synthetic.body_plan import THINNEST, Gait, Plan, Rng, triple, unit
from dyn4d.synthetic.config import PEOPLE
from dyn4d.synthetic.raster import vertex_normals
from dyn4d.synthetic.skeleton import owners_of, skin_weights
from dyn4d.synthetic.solids import Primitive, ambient_occlusion, as_table, bounds, box, cone, ellipsoid, mesh_solid
from dyn4d.synthetic.walkers import person, quadruped

CELLS = 36_000  # of the grid that a body is meshed on


@dataclass(frozen=True)
class Body:
    """A closed surface that hangs on bones.

    Attributes:
        kind: which of `KINDS`. flexible: how far its joints turn, 0 = rigid, 1 = as an animal's.
        rest: (V, 3), normals: (V, 3) unit, occlusion: (V,) in (0, 1]. faces: (F, 3) int64, counter-clockwise outside.
        weights: (V, B) of the bones. parent: (B,) int64, -1 = the root. joint: (B, 3) where each hangs on its parent.
        gait: how it goes, where it is one that goes; such a body stands upright and looks along x.
    """

    kind: str
    flexible: float
    rest: np.ndarray
    normals: np.ndarray
    occlusion: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    parent: np.ndarray
    joint: np.ndarray
    gait: Gait | None = None


def make_body(seed: int, index: int, people: float = PEOPLE) -> Body:
    """Body number `index`; the same for the same arguments.

    Args:
        people: share of the bodies that are people, in [0, 1]; the others share what is left as they usually do.
    """
    rng = np.random.default_rng([seed, 41, index])
    kind = str(rng.choice(list(KINDS), p=shares_of_kinds(people)))
    plan = KINDS[kind](rng)
    table = as_table(plan.parts)
    low, high = bounds(table, 0.1)
    cell = max(float((np.prod(high - low) / CELLS) ** (1 / 3)), 0.015)
    vertices, faces = mesh_solid(table, cell)
    softness = np.full(len(plan.parent), rng.uniform(0.02, 0.08))
    weights = skin_weights(vertices, table, owners_of(plan.parts), softness)
    normals = vertex_normals(vertices, faces)
    occlusion = ambient_occlusion(vertices, normals, table, 0.25)
    middle = (vertices.max(0) + vertices.min(0)) / 2
    size = np.linalg.norm(vertices - middle, axis=1).max()
    joints = (np.stack(plan.joint) - middle) / size
    return Body(
        kind, plan.flexible, (vertices - middle) / size, normals, occlusion, faces, weights,
        np.array(plan.parent, dtype=np.int64), joints, plan.gait,
    )  # fmt: skip


def _animal(rng: Rng) -> Plan:
    """A trunk that lies, legs in pairs, neck and head, perhaps a tail."""
    plan = Plan(float(rng.uniform(0.5, 1.2)))
    half, girth = rng.uniform(0.25, 0.6), rng.uniform(0.10, 0.3)
    back, front = np.array([-half, 0, 0]), np.array([half, 0, rng.uniform(-0.1, 0.15)])
    hips = plan.bone(0, np.zeros(3))
    plan.parts.append(cone(triple(back), girth * rng.uniform(0.7, 1.1), (0, 0, 0), girth, blend=0.1, bone=hips))
    plan.parts.append(cone((0, 0, 0), girth, triple(front), girth * rng.uniform(0.7, 1.2), blend=0.1, bone=0))
    leg, thick = rng.uniform(0.3, 0.9), girth * rng.uniform(0.25, 0.55)
    for pair in range(int(rng.choice([1, 2, 2, 2, 3]))):
        x = half * (0.85 - 1.7 * pair / max(1, 1)) if pair < 2 else 0.0
        for side in (-1, 1):
            start = np.array([np.clip(x, -half, half), side * girth * 0.7, -0.3 * girth])
            down = np.array([rng.normal(0, 0.15), side * rng.uniform(0, 0.35), -1.0])
            plan.limb(rng, start, down, leg, thick, 0 if x > 0 else hips, end=thick * rng.choice([0, 1.2]))
    neck = np.array([rng.uniform(0.2, 1.0), 0, rng.uniform(-0.2, 1.2)])
    tip = plan.limb(rng, front, neck, rng.uniform(0.1, 0.6), girth * rng.uniform(0.4, 0.8), 0, segments=2, taper=0.7)
    _head(plan, rng, tip, unit(neck), girth * rng.uniform(0.5, 1.1))
    if rng.random() < 0.7:
        away = np.array([-1.0, 0, rng.uniform(-0.6, 0.8)])
        plan.limb(rng, back, away, rng.uniform(0.2, 1.0), girth * rng.uniform(0.2, 0.5), hips, segments=3, taper=0.3)
    return plan


def _head(plan: Plan, rng: Rng, at: np.ndarray, along: np.ndarray, size: float) -> None:
    size = max(size, 0.07)
    last = len(plan.parent) - 1
    plan.parts.append(ellipsoid(triple(at), triple(size * rng.uniform(0.7, 1.2, 3)), blend=0.4 * size, bone=last))
    nose = at + size * unit(np.array([1.0, 0, -0.2]) + 0.4 * along)
    if rng.random() < 0.7:
        plan.parts.append(cone(triple(at), 0.6 * size, triple(nose), 0.35 * size, blend=0.4 * size, bone=last))
    if rng.random() < 0.6:
        for side in (-1, 1):
            ear = at + size * np.array([-0.2, side * 0.5, 0.8])
            tip = ear + size * rng.uniform(0.4, 1.4) * unit(np.array([-0.3, side * rng.uniform(0.1, 1), 1.0]))
            plan.parts.append(cone(triple(ear), 0.045, triple(tip), 0.035, blend=0.03, bone=last))


def _biped(rng: Rng) -> Plan:
    """A trunk that stands, two legs, two arms or wings, a head."""
    plan = Plan(float(rng.uniform(0.6, 1.3)))
    height, girth = rng.uniform(0.3, 0.6), rng.uniform(0.1, 0.25)
    low, high = np.zeros(3), np.array([rng.normal(0, 0.05), 0, height])
    chest = plan.bone(0, np.array([0, 0, 0.4 * height]))
    wide = girth * rng.uniform(0.9, 1.5)
    plan.parts.append(ellipsoid((0, 0, 0.1), (girth, wide * 0.9, 0.35 * height), blend=0.08))
    plan.parts.append(ellipsoid(triple(0.75 * high), (girth, wide, 0.45 * height), blend=0.08, bone=chest))
    for side in (-1, 1):
        leg = np.array([rng.normal(0, 0.1), side * rng.uniform(0.0, 0.4), -1])
        thick = girth * rng.uniform(0.4, 0.65)
        plan.limb(
            rng,
            low + np.array([0, side * 0.55 * wide, 0]),
            leg,
            rng.uniform(0.5, 1.0),
            thick,
            0,
            kink=0.2,
            end=0.9 * thick,
        )
        arm = np.array([rng.normal(0, 0.3), side * rng.uniform(0.4, 1.2), rng.uniform(-1, 0.5)])
        start = high + np.array([0, side * 0.9 * wide, -0.1])
        plan.limb(rng, start, arm, rng.uniform(0.4, 0.9), thick * 0.7, chest, kink=0.4, end=0.6 * thick)
    tip = plan.limb(rng, high, np.array([0.1, 0, 1.0]), rng.uniform(0.1, 0.25), 0.5 * girth, chest, segments=1)
    _head(plan, rng, tip + np.array([0, 0, 0.05]), np.array([0, 0, 1.0]), rng.uniform(0.1, 0.22))
    return plan


def _snake(rng: Rng) -> Plan:
    """A chain that winds."""
    plan = Plan(float(rng.uniform(0.4, 0.9)))
    count, radius = int(rng.integers(5, 10)), rng.uniform(0.07, 0.2)
    at, angle, parent = np.zeros(3), rng.uniform(0, 2 * math.pi), 0
    turn, rise = rng.normal(0, 0.5), rng.normal(0, 0.15)
    for number in range(count):
        angle += turn + rng.normal(0, 0.35)
        to = at + 2.2 / count * np.array([math.cos(angle), math.sin(angle), rise + rng.normal(0, 0.15)])
        bone = parent if number == 0 else plan.bone(parent, at)
        shape = [math.sin(math.pi * (0.12 + 0.8 * (number + d) / count)) ** 0.5 for d in (0, 1)]
        ends = [max(radius * s, THINNEST) for s in shape]
        plan.parts.append(cone(triple(at), ends[0], triple(to), ends[1], blend=0.04, bone=bone))
        at, parent = to, bone
    if rng.random() < 0.6:
        plan.parts.append(ellipsoid(triple(at), triple(radius * rng.uniform(0.8, 1.8, 3)), blend=0.05, bone=parent))
    return plan


def _branching(rng: Rng) -> Plan:
    """A core with 2 to 10 limbs that may branch: spiders, starfish, plants, nothing in particular."""
    plan = Plan(float(rng.uniform(0.3, 1.0)))
    core = rng.uniform(0.12, 0.4, 3)
    plan.parts.append(_lump(rng, np.zeros(3), core, 0))
    flat = rng.random() < 0.4
    for _ in range(int(rng.integers(2, 11))):
        direction = unit(rng.normal(0, 1, 3) * ([1, 1, 0.2] if flat else [1, 1, 1]))
        start = direction * core * 0.8
        radius = rng.uniform(0.05, 0.16)
        segments = int(rng.integers(1, 4))
        tip = plan.limb(rng, start, direction, rng.uniform(0.3, 1.0), radius, 0, segments=segments, kink=0.5,
                        taper=rng.uniform(0.4, 1.2), end=radius * rng.choice([0, 0, 1.5]))  # fmt: skip
        if rng.random() < 0.25:
            aside = unit(direction + rng.normal(0, 0.7, 3))
            plan.limb(rng, tip, aside, rng.uniform(0.2, 0.5), 0.7 * radius, len(plan.parent) - 1, segments=1)
    return plan


def _lump(rng: Rng, centre: np.ndarray, halves: np.ndarray, bone: int, blend: float = 0.06) -> Primitive:
    """An ellipsoid, a box, or something between."""
    if rng.random() < 0.5:
        return ellipsoid(triple(centre), triple(halves), blend=blend, bone=bone)
    rounding = float(min(halves) * rng.uniform(0.15, 0.95))
    return box(triple(centre), triple(halves), rounding, blend=blend * rng.uniform(0.2, 1), bone=bone)


def _blob(rng: Rng) -> Plan:
    """A few lumps run together; soft ones bend between them."""
    plan = Plan(float(rng.choice([0.0, 0.3, 0.6])))
    plan.parts.append(_lump(rng, np.zeros(3), rng.uniform(0.2, 0.6, 3), 0))
    for _ in range(int(rng.integers(0, 6))):
        centre = unit(rng.normal(0, 1, 3)) * rng.uniform(0.2, 0.6)
        bone = plan.bone(0, 0.6 * centre)
        plan.parts.append(_lump(rng, centre, rng.uniform(0.08, 0.4, 3), bone, rng.uniform(0.02, 0.2)))
    return plan


def _furniture(rng: Rng) -> Plan:
    """Slabs on legs, with backs, drawers and lamps on them; rigid, or with one hinge."""
    plan = Plan(float(rng.choice([0.0, 0.0, 0.35])))
    wide, deep, thick, tall = (
        rng.uniform(0.3, 0.8),
        rng.uniform(0.25, 0.6),
        rng.uniform(0.04, 0.15),
        rng.uniform(0.2, 0.9),
    )
    soft = rng.uniform(0.01, 0.04)
    plan.parts.append(box((0, 0, 0), (wide, deep, thick), soft, blend=0.01))
    r = rng.uniform(THINNEST, 0.09)
    feet = int(rng.choice([1, 3, 4, 4, 4]))
    for foot in range(feet):
        angle = 2 * math.pi * (foot + 0.5) / feet
        reach = 0.0 if feet == 1 else 0.85
        x, y = reach * wide * np.sign(math.cos(angle)), reach * deep * np.sign(math.sin(angle))
        out = rng.uniform(0.9, 1.2)
        plan.parts.append(cone((x, y, 0), r * rng.uniform(1, 1.4), (x * out, y * out, -tall), r, blend=0.02))
    if feet == 1:
        plan.parts.append(box((0, 0, -tall), (0.6 * wide, 0.6 * deep, 0.05), 0.03, blend=0.03))
    pick = rng.random()
    if pick < 0.4:  # a back
        hinge = plan.bone(0, np.array([-wide, 0, 0]))
        high = rng.uniform(0.3, 0.9)
        plan.parts.append(box((-wide * 0.95, 0, high / 2), (0.06, deep, high / 2), soft, blend=0.02, bone=hinge))
    elif pick < 0.6:  # a box below
        plan.parts.append(box((0, 0, -0.4 * tall), (0.8 * wide, 0.8 * deep, 0.4 * tall), soft, blend=0.01))
    elif pick < 0.85:  # something on it
        arm = plan.bone(0, np.zeros(3))
        high = rng.uniform(0.15, 0.6)
        plan.parts.append(cone((0, 0, 0), 0.06, (0.1, 0.1, high), 0.05, blend=0.02, bone=arm))
        plan.parts.append(_lump(rng, np.array([0.1, 0.1, high]), rng.uniform(0.1, 0.3, 3), arm, 0.03))
    return plan


def _vessel(rng: Rng) -> Plan:
    """Round things stacked on an axis: bottles, toys, tools; some with a handle."""
    plan = Plan(float(rng.choice([0.0, 0.0, 0.5])))
    z, r = -0.8, rng.uniform(0.1, 0.4)
    count = int(rng.integers(1, 5))
    for number in range(count):
        height, wider = rng.uniform(0.15, 0.7), rng.uniform(0.06, 0.45)
        bone = 0 if number == 0 else plan.bone(len(plan.parent) - 1, np.array([0, 0, z]))
        if rng.random() < 0.35:
            halves = np.array([wider, wider * rng.uniform(0.5, 1), height / 2])
            plan.parts.append(_lump(rng, np.array([0, 0, z + height / 2]), halves, bone, 0.03))
        else:
            plan.parts.append(cone((0, 0, z), r, (0, 0, z + height), wider, blend=0.03, bone=bone))
        z, r = z + height, wider
    if rng.random() < 0.4:
        for a, b in (((0.2, -0.4), (0.6, -0.3)), ((0.6, -0.3), (0.6, 0.1)), ((0.6, 0.1), (0.2, 0.2))):
            plan.parts.append(cone((a[0], 0, a[1]), 0.055, (b[0], 0, b[1]), 0.055, blend=0.02))
    return plan


KINDS = {
    "person": person, "quadruped": quadruped, "animal": _animal, "biped": _biped, "snake": _snake,
    "branching": _branching, "blob": _blob, "furniture": _furniture, "vessel": _vessel,
}  # fmt: skip
SHARES = (PEOPLE, 0.40, 0.05, 0.05, 0.07, 0.06, 0.05, 0.04, 0.02)


def shares_of_kinds(people: float) -> np.ndarray:
    """Of each of `KINDS`, all together 1; see `make_body`."""
    others = np.array([kind != "person" for kind in KINDS])
    shares = np.array(SHARES)
    return np.where(others, shares * (1 - people) / shares[others].sum(), people)
