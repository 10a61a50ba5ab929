"""How random bodies move: joints that turn, and skin that bends, twists and ripples.

Two moments of one body differ by what is not rigid alone: the second is laid on the first by the rigid motion that most
of the surface shares, so that a camera beside it sees the object's own rigid motion as its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyn4d.synthetic.bodies import Body, Rng
from dyn4d.synthetic.skeleton import blend_skin

ROUNDS = 8  # of the robust alignment


@dataclass(frozen=True)
class Softness:
    """A bend and twist along an axis, and waves.

    Attributes:
        axis: (3,) unit. turn: (3,) rotation vector for each unit of length along it.
        waves: (N, 3) frequencies, phases: (N,), sways: (N, 3) displacements.
    """

    axis: np.ndarray
    turn: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    sways: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        along = points @ self.axis
        across = points - along[:, None] * self.axis
        rotation, travelled = _exponential(along[:, None] * self.turn)
        bent = np.einsum("vij,vj->vi", rotation, across) + along[:, None] * (travelled @ self.axis)
        return bent + np.sin(points @ self.waves.T + self.phases) @ self.sways

    def moved(self, rng: Rng, size: float) -> Softness:
        """The same some time later."""
        turn = self.turn + size * rng.normal(0, 0.25, 3)
        sways = self.sways + size * rng.normal(0, 0.02, self.sways.shape)
        return Softness(self.axis, turn, self.waves, self.phases + size * rng.normal(0, 0.7, len(self.phases)), sways)


def _exponential(turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (N, 3, 3) of rotation vectors (N, 3), and their means along the way from none."""
    angle = np.linalg.norm(turns, axis=1)[:, None, None]
    safe = np.maximum(angle, 1e-6)
    x, y, z = turns.T
    o = np.zeros_like(x)
    k = np.stack([o, -z, y, z, o, -x, -y, x, o], 1).reshape(-1, 3, 3) / safe
    k2 = k @ k
    rotation = np.eye(3) + np.sin(safe) * k + (1 - np.cos(safe)) * k2
    mean = np.eye(3) + (1 - np.cos(safe)) / safe * k + (1 - np.sin(safe) / safe) * k2
    return rotation, mean


def rotation_matrix(turn: np.ndarray) -> np.ndarray:
    """(3, 3) of a rotation vector (3,)."""
    return _exponential(np.asarray(turn, dtype=np.float64)[None])[0][0]


def random_softness(rng: Rng, strength: float) -> Softness:
    axis = rng.normal(0, 1, 3)
    waves = rng.normal(0, 1, (3, 3)) * rng.uniform(1, 4, (3, 1))
    return Softness(
        axis / np.linalg.norm(axis), strength * rng.normal(0, 0.3, 3), waves, rng.uniform(0, 2 * np.pi, 3),
        strength * rng.normal(0, 0.03, (3, 3)),
    )  # fmt: skip


def pose_body(body: Body, turns: np.ndarray) -> np.ndarray:
    """(V, 3) with each bone turned by (B, 3) rotation vectors about its joint, after its parent."""
    own = _exponential(turns)[0]
    rotations, places = np.empty_like(own), np.zeros((len(own), 3))
    for bone, parent in enumerate(body.parent):
        if parent < 0:
            rotations[bone], places[bone] = own[bone], body.joint[bone]
            continue
        rotations[bone] = rotations[parent] @ own[bone]
        places[bone] = rotations[parent] @ (body.joint[bone] - body.joint[parent]) + places[parent]
    offsets = places - np.einsum("bij,bj->bi", rotations, body.joint)
    return blend_skin(body.rest, body.weights, rotations, offsets)


def two_moments(body: Body, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """The surface (V, 3) at two random moments, the second laid on the first as far as it is rigid; the first is
    centred on the middle of its box."""
    strength = body.flexible * float(rng.choice([0.0, 0.5, 1.0], p=[0.15, 0.35, 0.5]))
    speed = float(rng.choice([0.0, 0.3, 0.8, 1.3], p=[0.15, 0.35, 0.35, 0.15]))
    first = strength * rng.normal(0, 0.35, (len(body.parent), 3))
    second = first + body.flexible * speed * rng.normal(0, 0.3, first.shape)
    if body.gait is not None:
        first, second = _going(body, rng, first, second)
    first[0] = second[0] = 0.0
    a, b = pose_body(body, first), pose_body(body, second)
    if rng.random() < 0.6:
        soft = random_softness(rng, max(body.flexible, 0.3) * rng.uniform(0, 1.5))
        a, b = soft(a), soft.moved(rng, speed)(b)
    a = a - (a.max(0) + a.min(0)) / 2
    return a, lay_on(b, a)


def _going(body: Body, rng: Rng, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turns (B, 3) of a body on its way, from turns at random."""
    assert body.gait is not None
    share = float(rng.choice([0.1, 0.25, 0.6], p=[0.4, 0.4, 0.2]))  # of the random ones that stays
    strong = float(rng.choice([0.1, 0.6, 1.0, 1.3], p=[0.15, 0.2, 0.4, 0.25]))
    at, step = rng.uniform(0, 2 * np.pi), float(rng.choice([0.0, 0.3, 1.2, 3.0])) * rng.normal(0, 1)
    turns = [body.gait.turns(phase) for phase in (at, at + step)]
    return share * first + strong * turns[0], share * second + strong * turns[1]


def lay_on(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`points` (V, 3) moved rigidly onto `target` (V, 3), row by row, so that as much as possible lies still: least
    squares, reweighted (Geman and McClure) to hold the part that moves least."""
    weight = np.ones(len(points))
    moved = points
    for _ in range(ROUNDS):
        share = (weight / weight.sum())[:, None]
        centre, goal = (share * points).sum(0), (share * target).sum(0)
        u, _, vt = np.linalg.svd(((points - centre) * share).T @ (target - goal))
        flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
        rotation = (u * flip) @ vt
        moved = (points - centre) @ rotation + goal
        distance = ((moved - target) ** 2).sum(1)
        scale = max(float(np.median(distance)), 1e-6)
        weight = (scale / (scale + distance)) ** 2
    return moved
