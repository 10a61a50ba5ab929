"""The reunions that a fit believes in: looked for twice on its way, dropped where the field would not follow."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dyn4d.core.types import FramePoints, LiftedPairs, join_pairs
from dyn4d.deformation.field import TrajectoryField
from dyn4d.deformation.observations import Observations
from dyn4d.deformation.reunions import Reunion, find_reunions

REVIEWS = (0.4, 0.6)
"""Shares of the fit's steps before which reunions are looked for: when neighbouring frames have said what they know,
and once more, when those found first have changed what there is to see."""
SHARE, MOST_SHARE = 0.03, 0.2
"""Part of a batch that one reunion gets, and all together at most."""
FOLLOWED = 0.3
"""Part of a reunion's way that may be left for it to count as followed."""


class Reviews:
    """Finds reunions while a field is fitted.

    Args:
        points: of all T frames, world. seen: their maps. times: (T,), on the field's device. steps, seed: of the fit.
    """

    def __init__(self, points: FramePoints, seen: Observations, times: Tensor, *, steps: int, seed: int) -> None:
        self.points, self.seen, self.times, self.seed = points, seen, times, seed
        self.size = max(points.extent(), 1e-9)
        self.steps = {round(share * steps) for share in REVIEWS}
        self.found: list[Reunion] = []
        self.pairs: LiftedPairs | None = None

    @property
    def share(self) -> float:
        """Part of a batch for the matches of all reunions."""
        return min(SHARE * len(self.found), MOST_SHARE)

    def review(self, field: TrajectoryField) -> None:
        """Drop those that the field does not follow, look for more, and make matches of all."""
        self.found = [reunion for reunion in self.found if self.followed(reunion, field)]
        self.found += find_reunions(field, self.points, self.seen, self.times, seed=self.seed)
        self.pairs = join_pairs([reunion.pairs(field, self.times) for reunion in self.found]) if self.found else None

    def followed(self, reunion: Reunion, field: TrajectoryField) -> bool:
        """Has a field brought the two appearances together, most of the way at least?"""
        return reunion.residual(field, self.times) / self.size < FOLLOWED * max(reunion.moved, 0.02)

    def summary(self, field: TrajectoryField) -> list[dict[str, Any]]:
        """What became of each by a fitted field; `gone` and `back` are rows of the selected frames."""
        return [
            {
                "gone": reunion.gone,
                "back": reunion.back,
                "points": len(reunion.xyz_gone),
                "agreement": reunion.agreement,
                "apart_rel": {"found": reunion.moved, "fitted": reunion.residual(field, self.times) / self.size},
                "followed": self.followed(reunion, field),
            }
            for reunion in self.found
        ]

    def state(self) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Tensors and JSON values from which `restore` makes the same again."""
        if self.pairs is None:
            return {}, []
        names = ("frame_a", "frame_b", "xyz_a", "xyz_b", "weight")
        tensors = {f"pairs.{name}": getattr(self.pairs, name) for name in names}
        for at, reunion in enumerate(self.found):
            tensors |= {f"reunion.{at}.gone": reunion.xyz_gone, f"reunion.{at}.back": reunion.xyz_back}
        plain = ("gone", "back", "agreement", "moved")
        return tensors, [{name: getattr(reunion, name) for name in plain} for reunion in self.found]

    def restore(self, tensors: dict[str, Tensor], values: list[dict[str, Any]]) -> None:
        """Take up what `state` gave."""
        self.found = [
            Reunion(xyz_gone=tensors[f"reunion.{at}.gone"], xyz_back=tensors[f"reunion.{at}.back"], **value)
            for at, value in enumerate(values)
        ]
        found = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("pairs.")}
        self.pairs = LiftedPairs(**found) if found else None
