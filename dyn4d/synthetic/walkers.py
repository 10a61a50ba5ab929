"""Random people and four-legged animals that stand, look along x and go: proportions as nature's, joints that bend one
way, a gait. Most of what is filmed is one of these, and how they stand tells much of which part of them is nearer."""

from __future__ import annotations

import math

import numpy as np

from dyn4d.synthetic.body_plan import THINNEST, Plan, Rng, Swing, triple, unit
from dyn4d.synthetic.solids import box, cone, ellipsoid

ACROSS = np.array([0.0, 1.0, 0.0])  # turning about it by a positive angle takes what hangs down backwards
UP = np.array([0.0, 0.0, 1.0])


def _bend(mean: float = 0.0, amplitude: float = 0.0, phase: float = 0.0) -> Swing:
    """Of a limb's bone about the axis across the body; back is positive."""
    return Swing(ACROSS, mean, amplitude, phase)


def _chain(
    plan: Plan, points: list[np.ndarray], radii: list[float], parent: int, bends: list[Swing], blend: float = 0.5
) -> int:
    """Round cones from point to point, each on a bone of its own; the last bone."""
    for a, b, ra, rb, bend in zip(points, points[1:], radii, radii[1:], bends):
        parent = plan.bone(parent, a)
        ra, rb = max(ra, THINNEST), max(rb, THINNEST)
        plan.parts.append(cone(triple(a), ra, triple(b), rb, blend=blend * ra, bone=parent))
        plan.swings[parent] = bend
    return parent


def person(rng: Rng) -> Plan:
    """Upright on two legs: a person, a child, a doll, a robot."""
    plan = Plan(float(rng.uniform(0.3, 0.8)))
    leg, trunk = rng.uniform(0.65, 1.0), rng.uniform(0.5, 0.65)
    wide, deep = rng.uniform(0.13, 0.24), rng.uniform(0.08, 0.16)
    limb = rng.uniform(0.05, 0.095)
    stride, arms, phase = rng.uniform(0.1, 0.75), rng.uniform(0.0, 0.8), rng.uniform(0, 2 * math.pi)
    knee, elbow = rng.uniform(0.3, 1.3), rng.uniform(0.0, 1.2)
    lean = rng.normal(0.05, 0.1)
    # root: the pelvis, at the origin
    plan.parts.append(ellipsoid((0, 0, 0.04), (deep, 0.9 * wide, 0.13), blend=0.06))
    chest = plan.bone(0, np.array([0, 0, 0.1]))
    plan.swings[chest] = Swing(UP, 0.0, float(rng.uniform(0, 0.2)), phase)
    shoulders = np.array([trunk * math.sin(lean), 0, trunk * math.cos(lean)])
    if rng.random() < 0.25:
        plan.parts.append(box(triple(0.55 * shoulders), (deep, wide, 0.45 * trunk), 0.6 * deep, blend=0.05, bone=chest))
    else:
        plan.parts.append(ellipsoid(triple(0.72 * shoulders), (deep * 1.1, wide, 0.36 * trunk), blend=0.08, bone=chest))
        plan.parts.append(ellipsoid(triple(0.4 * shoulders), (deep, 0.8 * wide, 0.35 * trunk), blend=0.08, bone=chest))
    splay = rng.uniform(-0.05, 0.15)
    for side in (-1, 1):
        at = phase + (0 if side < 0 else math.pi)
        hip = np.array([0, side * 0.5 * wide, -0.02])
        down = unit(np.array([0.0, side * splay, -1.0]))
        thigh = leg * rng.uniform(0.48, 0.52)
        middle, ankle = hip + thigh * down, hip + (leg - 0.04) * down
        bends = [_bend(-0.1 - 0.1 * stride, stride, at + math.pi), _bend(knee / 2, knee / 2, at + math.pi / 2)]
        last = _chain(plan, [hip, middle, ankle], [1.5 * limb, limb, 0.7 * limb], 0, bends)
        foot = plan.bone(last, ankle)
        plan.swings[foot] = _bend(-0.05, 0.2, at)
        toe = ankle + np.array([rng.uniform(0.13, 0.22), side * 0.03, -0.03])
        plan.parts.append(cone(triple(ankle), 0.055, triple(toe), 0.05, blend=0.03, bone=foot))
        raised = rng.random() < 0.15
        start = shoulders + np.array([0, side * (wide + 0.02), -0.05])
        out = np.array([0.0, side * rng.uniform(0.05, 0.35), -1.0])
        if raised:
            out = np.array([rng.normal(0, 0.4), side * rng.uniform(0.2, 1.2), rng.uniform(-0.3, 1.0)])
        reach = rng.uniform(0.26, 0.36)
        lower = unit(out * [1, 0.5, 1]) if not raised else unit(out + rng.normal(0, 0.3, 3))
        bend, wrist = start + reach * unit(out), start + reach * unit(out) + 0.9 * reach * lower
        bends = [_bend(0.0, arms, at), _bend(-elbow / 2, min(elbow / 2, 0.3), at)]
        hand = _chain(plan, [start, bend, wrist], [0.85 * limb, 0.75 * limb, 0.6 * limb], chest, bends)
        fist = rng.uniform(0.045, 0.075)
        plan.parts.append(
            ellipsoid(triple(wrist + 0.05 * lower), (fist, 0.8 * fist, 1.3 * fist), blend=0.03, bone=hand)
        )
    neck = plan.bone(chest, shoulders)
    plan.swings[neck] = Swing(UP, float(rng.normal(0, 0.25)), 0.1, rng.uniform(0, 6.3))
    size = rng.uniform(0.1, 0.24)
    centre = shoulders + np.array([0.02, 0, 0.05 + size])
    plan.parts.append(cone(triple(shoulders), 0.06, triple(centre), 0.06, blend=0.03, bone=neck))
    _face(plan, rng, centre, size, neck)
    if rng.random() < 0.15:  # a skirt or coat
        hem = rng.uniform(0.2, 0.5) * leg
        plan.parts.append(cone((0, 0, 0.1), 0.8 * wide, (0, 0, -hem), rng.uniform(0.8, 1.2) * wide, blend=0.04))
    if rng.random() < 0.2:  # something on the back
        pack = (rng.uniform(0.06, 0.12), rng.uniform(0.1, 0.18), rng.uniform(0.12, 0.22))
        plan.parts.append(
            box(triple(0.65 * shoulders - np.array([deep + 0.5 * pack[0], 0, 0])), pack, 0.05, blend=0.02, bone=chest)
        )
    return plan


def _face(plan: Plan, rng: Rng, centre: np.ndarray, size: float, bone: int) -> None:
    """A head, and what shows where it looks: nose, hair, brim."""
    pick = rng.random()
    if pick < 0.7:
        halves = size * rng.uniform(0.8, 1.05, 3)
        plan.parts.append(ellipsoid(triple(centre), triple(halves), blend=0.04, bone=bone))
    elif pick < 0.85:
        halves = size * rng.uniform(0.7, 1.0, 3)
        plan.parts.append(box(triple(centre), triple(halves), 0.4 * float(halves.min()), blend=0.03, bone=bone))
    else:  # a drum that looks ahead
        front = np.array([0.7 * size, 0, 0])
        plan.parts.append(cone(triple(centre - front), 0.8 * size, triple(centre + front), size, blend=0.03, bone=bone))
    if rng.random() < 0.5:
        nose = centre + np.array([size, 0, -0.15 * size])
        plan.parts.append(ellipsoid(triple(nose), triple(size * rng.uniform(0.15, 0.35, 3)), blend=0.02, bone=bone))
    pick = rng.random()
    if pick < 0.2:  # a brim
        plan.parts.append(
            ellipsoid(triple(centre + np.array([0.6 * size, 0, 0.5 * size])), (0.9 * size, 0.8 * size, 0.05), bone=bone)
        )
    elif pick < 0.45:  # hair behind
        plan.parts.append(
            ellipsoid(
                triple(centre - np.array([0.35 * size, 0, 0.3 * size * rng.uniform(-1, 2)])),
                triple(size * rng.uniform(0.6, 1.1, 3)), blend=0.04, bone=bone,
            )
        )  # fmt: skip
    elif pick < 0.65:
        for side in (-1, 1):
            ear = centre + size * np.array([0, side * 0.6, 0.7])
            tip = ear + size * np.array([0, side * 0.3, rng.uniform(0.2, 1.2)])
            plan.parts.append(cone(triple(ear), 0.06, triple(tip), 0.045, blend=0.03, bone=bone))


def quadruped(rng: Rng) -> Plan:
    """On four legs, belly down: dogs and cats, horses and cattle, what one meets."""
    plan = Plan(float(rng.uniform(0.3, 0.8)))
    half = rng.uniform(0.36, 0.6)  # of the trunk's length
    chest, loin = rng.uniform(0.13, 0.25), rng.uniform(0.8, 1.1)
    loin *= chest
    flat = rng.uniform(0.7, 1.0)  # width over height
    leg = rng.uniform(0.35, 0.95)
    limb = rng.uniform(0.05, 0.085) + 0.15 * (chest - 0.13)
    stride, phase = rng.uniform(0.1, 0.7), rng.uniform(0, 2 * math.pi)
    gallop = rng.random() < 0.35
    hips, front = np.array([-half, 0, 0]), np.array([half, 0, rng.normal(0, 0.04)])
    rump = plan.bone(0, np.zeros(3))
    plan.swings[rump] = _bend(0.0, float(rng.uniform(0.05, 0.3)) if gallop else 0.03, phase)
    for a, b, ra, rb, bone in ((hips, 0 * hips, loin, 0.9 * loin, rump), (0 * hips, front, 0.9 * loin, chest, 0)):
        for side in (-1, 1):  # two cones beside each other: a trunk higher than wide or the other way round
            aside = np.array([0, side * 0.25 * (flat - 0.6) * chest, 0])
            plan.parts.append(cone(triple(a + aside), ra * flat, triple(b + aside), rb * flat, blend=0.1, bone=bone))
    plan.parts.append(
        ellipsoid(triple(0.7 * front - [0, 0, 0.15 * chest]), (0.35 * half, flat * chest, 1.1 * chest), blend=0.06)
    )
    ground = -0.5 * chest - leg
    knee, lift = rng.uniform(0.2, 1.1), rng.uniform(0.0, 0.35)
    between = rng.uniform(0.2, 1.0) if gallop else math.pi
    for pair, (at, root) in enumerate(((front, 0), (hips, rump))):
        shift = (rng.uniform(1.5, 3.5) if gallop else rng.uniform(0.8, 3.2)) * pair
        for side in (-1, 1):
            turn = phase + shift + (between if side > 0 else 0.0)
            inset = 0.12 * half * (-1 if pair == 0 else 1)
            hip = at + np.array([inset, side * (0.55 * flat * chest + 0.02), -0.35 * chest])
            back = lift * (0.5 if pair == 0 else 1.0)
            long = hip[2] - ground
            first = hip + np.array([(-0.15 if pair == 0 else 0.3) * back * long, side * 0.02, -0.4 * long])
            second = first + np.array([(0.1 if pair == 0 else -0.45) * back * long, 0, -0.32 * long])
            foot = np.array([second[0] + 0.05 * back, second[1], ground])
            fold = knee / 2
            bends = [
                _bend(0.0, stride, turn + math.pi),
                _bend((1 if pair == 0 else -0.4) * fold, (1 if pair == 0 else -0.4) * fold, turn + math.pi / 2),
                _bend(0.6 * fold, 0.6 * fold, turn + math.pi / 2),
            ]
            top = 0.6 * chest if pair else 0.5 * chest
            last = _chain(plan, [hip, first, second, foot], [top, 1.1 * limb, 0.9 * limb, 0.8 * limb], root, bends)
            toe = foot + np.array([rng.uniform(0.03, 0.1), 0, 0])
            plan.parts.append(cone(triple(foot), 0.05, triple(toe), 0.045, blend=0.02, bone=last))
    up = rng.uniform(-0.1, 1.3)
    neck = unit(np.array([1.0, 0, 1.3 * up]))
    long = rng.uniform(0.12, 0.5) * (1 if up > 0.3 else 0.6)
    start = front + np.array([0.3 * chest, 0, 0.3 * chest])
    poll = start + long * neck
    bends = [_bend(float(rng.normal(0, 0.15)), 0.08, phase)]
    bone = _chain(plan, [start, poll], [0.75 * chest, rng.uniform(0.45, 0.7) * chest], 0, bends, blend=0.8)
    head = plan.bone(bone, poll)
    plan.swings[head] = Swing(UP, float(rng.normal(0, 0.3)), 0.05, phase)
    _muzzle(plan, rng, poll, rng.uniform(0.5, 0.85) * chest, head)
    _tail(plan, rng, hips - np.array([0.7 * loin, 0, -0.4 * loin]), rump, phase)
    return plan


def _muzzle(plan: Plan, rng: Rng, at: np.ndarray, size: float, bone: int) -> None:
    size = max(size, 0.085)
    ahead = unit(np.array([1.0, 0, rng.uniform(-1.0, 0.1)]))
    plan.parts.append(ellipsoid(triple(at), triple(size * rng.uniform(0.85, 1.1, 3)), blend=0.5 * size, bone=bone))
    nose = at + size * rng.uniform(0.9, 2.6) * ahead
    plan.parts.append(
        cone(triple(at), 0.7 * size, triple(nose), max(size * rng.uniform(0.3, 0.55), 0.04), blend=0.03, bone=bone)
    )
    broad = rng.uniform(0.045, 0.07)
    for side in (-1, 1):
        ear = at + size * np.array([-0.2, side * 0.55, 0.75])
        long = size * rng.uniform(0.4, 1.5)
        tip = ear + long * unit(np.array([-0.2, side * rng.uniform(0.1, 1.2), rng.uniform(-0.5, 1)]))
        plan.parts.append(cone(triple(ear), broad, triple(tip), 0.04, blend=0.03, bone=bone))


def _tail(plan: Plan, rng: Rng, at: np.ndarray, root: int, phase: float) -> None:
    if rng.random() < 0.12:
        return
    long, count = rng.uniform(0.1, 0.8), 3
    thick = rng.uniform(0.045, 0.11)
    bushy = rng.random() < 0.35
    slope, curl = rng.uniform(-1.3, 1.0), rng.normal(0, 0.4)
    points, radii = [at], [thick]
    for number in range(count):
        way = np.array([-math.cos(slope), 0, math.sin(slope)])
        points.append(points[-1] + long / count * way)
        radii.append(thick * ([1.6, 1.9, 0.6][number] if bushy else 1 - 0.2 * (number + 1)))
        slope += curl
    last = _chain(plan, points, radii, root, [_bend(0, 0.08, phase + n) for n in range(count)])
    sway = last - count + 1
    plan.swings[sway] = Swing(UP, float(rng.normal(0, 0.2)), 0.2, phase)
