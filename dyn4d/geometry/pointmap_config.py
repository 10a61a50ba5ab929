"""Settings of the alignment of whole pointmaps. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dyn4d.core.errors import InputError

_CHOICES = {
    "schedule": ("cosine", "linear"),
    "distance": ("l1", "l2"),
    "confidence": ("log", "sqrt", "m1", "id"),
    "principal_point": ("view", "source"),
}


@dataclass(frozen=True)
class PointmapConfig:
    """How pointmaps of pairs are brought into one world; defaults are the published ones."""

    iterations: int = 300
    """Steps of Adam. 0: the start alone."""
    lr: float = 0.01
    """Learning rate of the first step."""
    lr_min: float = 1e-6
    """Learning rate of the last step."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls."""
    distance: Literal["l1", "l2"] = "l1"
    """l1 = lengths of the differences, which forgives outliers; l2 = their squares."""
    confidence: Literal["log", "sqrt", "m1", "id"] = "log"
    """How a confidence C weighs a pixel: log C, √C, C - 1 or C."""
    shared_intrinsics: bool = False
    """One focal length, in pixels of the clip's pictures, and one principal point for all frames."""
    optimise_pp: bool = False
    """Solve for the principal points too."""
    principal_point: Literal["view", "source"] = "view"
    """Where it is taken to be while unknown: view = the middle of what the network saw, as the published networks were
    trained; source = the same, but for views cut from the side of a picture the middle of that picture."""
    fix_intrinsics: bool = True
    """Known intrinsics stay as they are; else they are where the search begins."""
    fix_poses: bool = False
    """Known poses stay as they are; else they are where the search begins."""
    min_conf: float = 3.0
    """Pixels of less confidence are not used to find a first pose."""
    max_points: int = 20000
    """At most so many pixels of a frame, drawn by chance, take part in the search; all get a depth in the end."""
    seed: int = 0
    """Of that draw, and of the search for first poses."""

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(f"pointmaps.{name}: {getattr(self, name)!r}; wanted one of {', '.join(known)}")
        for name, low in (("iterations", 0), ("max_points", 16), ("seed", 0), ("min_conf", 0)):
            if not getattr(self, name) >= low:
                raise InputError(f"pointmaps.{name}: {getattr(self, name)}; wanted a number from {low}")
        if not 0 < self.lr_min <= self.lr:
            raise InputError(f"pointmaps.lr: {self.lr}, lr_min: {self.lr_min}; wanted 0 < lr_min <= lr")
