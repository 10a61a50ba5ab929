"""The condensed problem of sparse alignment: canonical views, and matches whose depths hang on their anchors.

Source: Duisterhof et al., "MASt3R-SfM", 2024, sections 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dyn4d.core.checks import check_shape
from dyn4d.geometry.canonical import CanonicalView, RatioMode, anchors_of, canonical_views
from dyn4d.geometry.pair_results import PairFrame, PairResult, PairResults


@dataclass(frozen=True)
class MatchedEnds:
    """One side of M matches.

    Attributes:
        xy: (M, 2) float64 pixels of the view, half-integer centres.
        anchor: (M,) int64 row of the view's anchors. ratio: (M,) float64 > 0, depth over that of the anchor.
    """

    xy: Tensor
    anchor: Tensor
    ratio: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for label, shape in (("xy", ("M", 2)), ("anchor", ("M",)), ("ratio", ("M",))):
            check_shape(f"MatchedEnds.{label}", getattr(self, label), shape, sizes)

    def __len__(self) -> int:
        return self.anchor.shape[0]

    def select(self, rows: Tensor) -> MatchedEnds:
        return MatchedEnds(self.xy[rows], self.anchor[rows], self.ratio[rows])


@dataclass(frozen=True)
class PairMatches:
    """The matches of one unordered pair of frames whose two ends both count.

    Attributes:
        frame_a, frame_b: rows in the clip's selected frames.
        a, b: both sides of M matches. weight: (M,) float64 > 0.
        from_a: (M,) bool, whose depth is believed: that of a's pixel or of b's; None: both.
    """

    frame_a: int
    frame_b: int
    a: MatchedEnds
    b: MatchedEnds
    weight: Tensor
    from_a: Tensor | None = None

    def __post_init__(self) -> None:
        if not len(self.a) == len(self.b) == len(self.weight):
            raise ValueError(f"PairMatches: {len(self.a)}, {len(self.b)} ends and {len(self.weight)} weights")

    def __len__(self) -> int:
        return len(self.weight)

    def select(self, rows: Tensor) -> PairMatches:
        side = None if self.from_a is None else self.from_a[rows]
        return replace(self, a=self.a.select(rows), b=self.b.select(rows), weight=self.weight[rows], from_a=side)


@dataclass(frozen=True)
class SparseProblem:
    """All that sparse alignment reads.

    Attributes:
        views: the canonical view of each of T frames; without pixels where no pair could place any.
        principal_points: (T, 2) float64 px of the views, half-integer centres.
        pairs: with their matches; pairs without any match are here too, with none.
    """

    views: tuple[CanonicalView, ...]
    principal_points: Tensor
    pairs: tuple[PairMatches, ...]

    def __post_init__(self) -> None:
        check_shape("SparseProblem.principal_points", self.principal_points, (len(self.views), 2))

    def __len__(self) -> int:
        return len(self.views)


def condense(
    frames: Sequence[PairFrame],
    results: PairResults,
    *,
    subsample: int = 8,
    mode: RatioMode = "avg-angle",
    principal_points: Tensor | None = None,
    views: Sequence[CanonicalView] | None = None,
) -> SparseProblem:
    """Read all results twice, one at a time: for the canonical views, then for the matches.

    Args:
        views: where they are known already.
        subsample: pixels between anchors.
        principal_points: (T, 2); None: from each frame's K where that is known, else the view's centre.
    """
    if views is None:
        views = canonical_views(frames, results, subsample=subsample, mode=mode)
    pairs = tuple(_pair_matches(views, result) for result in results)
    if principal_points is None:
        known = [f.K[:2, 2] if f.K is not None else torch.tensor([f.width / 2, f.height / 2]) for f in frames]
        principal_points = torch.stack([value.double() for value in known]) if known else torch.zeros(0, 2)
    return SparseProblem(tuple(views), principal_points.double(), pairs)


def _pair_matches(views: Sequence[CanonicalView], result: PairResult) -> PairMatches:
    anchor_a, ratio_a = anchors_of(views[result.frame_a], result.xy_a)
    anchor_b, ratio_b = anchors_of(views[result.frame_b], result.xy_b)
    found = PairMatches(
        result.frame_a, result.frame_b,
        MatchedEnds(result.xy_a.double() + 0.5, anchor_a, ratio_a),
        MatchedEnds(result.xy_b.double() + 0.5, anchor_b, ratio_b), result.weight.double(),
    )  # fmt: skip
    return found.select((anchor_a >= 0) & (anchor_b >= 0))
