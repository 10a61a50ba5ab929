"""How random bodies are thought of before they have a surface: primitives that hang on bones, and how these swing."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from dyn4d.synthetic.solids import Primitive, cone, ellipsoid

Rng = np.random.Generator
THINNEST = 0.045  # least radius of a limb; thinner ones would fall between the grid's points


@dataclass(frozen=True)
class Swing:
    """How one bone turns, as in `Gait`."""

    axis: np.ndarray
    mean: float = 0.0
    amplitude: float = 0.0
    phase: float = 0.0


@dataclass(frozen=True)
class Gait:
    """How B bones turn as a body goes: bone b by mean + amplitude · sin(phase + the gait's phase) about its axis.

    Attributes:
        axis: (B, 3) unit, rest pose. mean, amplitude, phase: (B,) radians.
    """

    axis: np.ndarray
    mean: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray

    def turns(self, phase: float) -> np.ndarray:
        """(B, 3) rotation vectors."""
        return (self.mean + self.amplitude * np.sin(self.phase + phase))[:, None] * self.axis


@dataclass
class Plan:
    """Primitives and bones; bone 0 is the root.

    Attributes:
        flexible: how far its joints turn, 0 = rigid, 1 = as an animal's. parent, joint: of each bone. swings: of the
            bones that a gait moves.
    """

    flexible: float
    parts: list[Primitive] = field(default_factory=list)
    parent: list[int] = field(default_factory=lambda: [-1])
    joint: list[np.ndarray] = field(default_factory=lambda: [np.zeros(3)])
    swings: dict[int, Swing] = field(default_factory=dict)

    @property
    def gait(self) -> Gait | None:
        """None where nothing swings."""
        if not self.swings:
            return None
        still = Swing(np.array([0.0, 0.0, 1.0]))
        rows = [self.swings.get(bone, still) for bone in range(len(self.parent))]
        columns = ([getattr(row, f.name) for row in rows] for f in fields(Swing))
        return Gait(*(np.array(column, dtype=np.float64) for column in columns))

    def bone(self, parent: int, joint: np.ndarray) -> int:
        self.parent.append(parent)
        self.joint.append(np.asarray(joint, dtype=np.float64))
        return len(self.parent) - 1

    def limb(
        self, rng: Rng, start: np.ndarray, direction: np.ndarray, length: float, radius: float, parent: int,
        *, segments: int = 2, taper: float = 0.6, kink: float = 0.4, end: float = 0.0,
    ) -> np.ndarray:  # fmt: skip
        """A chain of round cones, each on a bone of its own; where it ends. `end`: radius of a knob there."""
        at, along, r = np.asarray(start, float), unit(direction), radius
        for _ in range(segments):
            bone = self.bone(parent, at)
            to = at + along * length / segments
            thinner = max(r * taper ** (1 / segments), THINNEST)
            self.parts.append(cone(triple(at), max(r, THINNEST), triple(to), thinner, blend=0.6 * r, bone=bone))
            at, r, parent = to, thinner, bone
            along = unit(along + kink * rng.normal(0, 0.6, 3))
        if end > 0:
            halves = end * rng.uniform(0.7, 1.4, 3)
            self.parts.append(ellipsoid(triple(at), triple(halves), blend=0.5 * end, bone=parent))
        return at


def triple(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def unit(direction: np.ndarray) -> np.ndarray:
    d = np.asarray(direction, dtype=np.float64)
    return d / max(float(np.linalg.norm(d)), 1e-9)
