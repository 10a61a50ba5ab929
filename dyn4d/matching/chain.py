"""Several matchers as one: each says what it found and how good it is, and their matches are rated and merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dyn4d.core.protocols import Matcher
from dyn4d.core.types import Correspondences
from dyn4d.matching.calibration import ErrorTable, RawMatches, flow_quality, rate
from dyn4d.matching.describe import Describer, describe_matches, match_keypoints
from dyn4d.matching.flow_pair import FlowMatcher
from dyn4d.matching.merge import MergeRules, RatedMatches, merge_matches

UNKNOWN_GAP = 8  # frames: what two pictures are taken to be apart that are no frames of a clip


class Link(Protocol):
    """One matcher of a chain. `name`: of its calibration."""

    @property
    def name(self) -> str: ...

    def look(self, frame_a: np.ndarray, frame_b: np.ndarray, mask_a: np.ndarray, mask_b: np.ndarray) -> RawMatches: ...


@dataclass(frozen=True)
class FlowLink:
    """Optical flow. `gap`: frames between the two pictures, which its table asks for."""

    matcher: FlowMatcher
    gap: int = UNKNOWN_GAP
    name: str = "flow"

    def look(self, frame_a: np.ndarray, frame_b: np.ndarray, mask_a: np.ndarray, mask_b: np.ndarray) -> RawMatches:
        return flow_quality(self.matcher(frame_a, frame_b, mask_a, mask_b), self.gap)


@dataclass(frozen=True)
class DescriberLink:
    """Descriptors, checked by their neighbours."""

    describer: Describer

    @property
    def name(self) -> str:
        return self.describer.name

    def look(self, frame_a: np.ndarray, frame_b: np.ndarray, mask_a: np.ndarray, mask_b: np.ndarray) -> RawMatches:
        a, b = self.describer.features(frame_a, mask_a), self.describer.features(frame_b, mask_b)
        return describe_matches(a, b, match_keypoints(a, b))


@dataclass(frozen=True)
class MatcherLink:
    """Any other matcher, a pair network for one. Its weights are all that is known of how good its matches are."""

    matcher: Matcher
    name: str

    def look(self, frame_a: np.ndarray, frame_b: np.ndarray, mask_a: np.ndarray, mask_b: np.ndarray) -> RawMatches:
        return weight_quality(self.matcher(frame_a, frame_b, mask_a, mask_b))


def weight_quality(matches: Correspondences) -> RawMatches:
    """Matches whose only quality is their weight."""
    return RawMatches(matches, {"weight": matches.weight.double().numpy()})


def rate_and_cut(
    raw: RawMatches, name: str, *, max_error: float, tables: Mapping[str, ErrorTable] | None = None
) -> RatedMatches:
    """`rate`, without the matches that are expected to be off by more than `max_error` pixels."""
    rated = rate(raw, name, tables)
    return rated.select((rated.error <= max_error).nonzero()[:, 0])


@dataclass(frozen=True)
class ChainMatcher:
    """Core's `Matcher` protocol on several matchers: all look at the two pictures, and what they find becomes one set
    without doubles, whose weights mean the same whoever found it (`dyn4d.matching.calibration`).

    Attributes:
        links: the matchers. rules: see `MergeRules`. tables: of the calibration; None: those of the package.
        max_error: matches that are expected to be off by more than these pixels are left out.
    """

    links: tuple[Link, ...]
    rules: MergeRules = MergeRules()  # noqa: RUF009 - frozen
    tables: Mapping[str, ErrorTable] | None = None
    max_error: float = 4.0

    def __post_init__(self) -> None:
        if not self.links:
            raise ValueError("ChainMatcher: no matchers; give at least one")

    def __call__(
        self, frame_a: np.ndarray, frame_b: np.ndarray, mask_a: np.ndarray, mask_b: np.ndarray
    ) -> Correspondences:
        """Matches from picture 0 to picture 1, (H, W, 3) uint8 each, inside their masks (H, W) bool."""
        parts = []
        for link in self.links:
            raw = link.look(frame_a, frame_b, mask_a, mask_b)
            parts.append(rate_and_cut(raw, link.name, max_error=self.max_error, tables=self.tables))
        return merge_matches(parts, self.rules, most=[self.max_error] * len(parts)).matches
