"""The path that walkers follow: part of a circle on the ground, whose middle is the origin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Arc:
    """Attributes: length: of the path. bend: change of heading along it in radians, not 0."""

    length: float
    bend: float

    def heading(self, u: float) -> float:
        """Direction of the path after `u` of its length; it keeps turning before the start and after the end."""
        return self.bend * (u / self.length - 0.5)

    def place(self, u: float) -> np.ndarray:
        """Point (2,) of the path after `u` of its length."""
        angle = self.heading(u)
        return self.length / self.bend * np.array([math.sin(angle), 1.0 - math.cos(angle)])
