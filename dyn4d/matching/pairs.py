"""Which frames are matched with which.

`pair_graph` is for clips. `SceneGraph` holds the kinds of graph that users of pair networks know by name; all of them
but `oneref` and a list of one's own join every two frames whose distance is in a set of gaps, so that the number of
pairs is known without making them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dyn4d.core.errors import InputError

GraphKind = Literal["complete", "swin", "logwin", "oneref"]
DEFAULT_WINDOW = 3
_FORMS = "complete, swin[-WINDOW][-noncyclic], logwin[-WINDOW][-noncyclic] or oneref[-FRAME], such as swin-5-noncyclic"


def pair_graph(count: int, window: int, strides: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j < count, each once and sorted: j - i is at most `window` or one of `strides`.

    Their number grows with frames times (window + strides), never with frames squared. Where a clip is too short for
    any stride beyond the window, first and last frame are still joined, so that its ends hold together.
    """
    gaps = sorted(set(range(1, window + 1)) | {s for s in strides if s > 0})
    pairs = {(i, i + gap) for gap in gaps for i in range(count - gap)}
    if count > 1 and gaps and not any(window < gap < count for gap in gaps):
        pairs.add((0, count - 1))
    return sorted(pairs)


@dataclass(frozen=True)
class Prefilter:
    """Drops the pairs whose frames are further apart than `reach`; `cyclic` counts around the end of the clip too."""

    reach: int
    cyclic: bool = False

    def __post_init__(self) -> None:
        if self.reach < 1:
            raise InputError(f"prefilter: frames at most {self.reach} apart leave no pair; use a number from 1")

    @staticmethod
    def parse(text: str) -> Prefilter:
        """From `seqN` or `cycN`. Raises `InputError`."""
        found = re.fullmatch(r"(seq|cyc)(\d+)", text.strip())
        if not found:
            raise InputError(f"prefilter {text!r}: not known; use seqN or cycN, such as seq5")
        return Prefilter(int(found[2]), cyclic=found[1] == "cyc")

    def keeps(self, gap: int, count: int) -> bool:
        """May frames `gap` apart in a clip of `count` stay together?"""
        return (min(gap, count - gap) if self.cyclic else gap) <= self.reach


@dataclass(frozen=True)
class SceneGraph:
    """A named way to choose pairs of frames.

    Attributes:
        kind: "complete", all pairs; "swin", frames at most `window` apart; "logwin", frames 1, 2, 4 … 2^(window - 1)
            apart; "oneref", all with the frame `reference`.
        window: of swin and logwin.
        cyclic: the clip's ends are neighbours (swin and logwin).
        reference: of oneref, counted from 0.
    """

    kind: GraphKind = "complete"
    window: int = DEFAULT_WINDOW
    cyclic: bool = True
    reference: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("complete", "swin", "logwin", "oneref"):
            raise InputError(f"scene graph {self.kind!r}: not known; use {_FORMS}")
        if self.window < 1:
            raise InputError(f"scene graph {self.kind}-{self.window}: no pairs; use a window from 1")
        if self.reference < 0:
            raise InputError(f"scene graph oneref-{self.reference}: frames are counted from 0")

    @staticmethod
    def parse(text: str) -> SceneGraph:
        """From a name such as `complete`, `swin-5-noncyclic`, `logwin-3`, `oneref-2`. Raises `InputError`."""
        kind, *rest = text.strip().split("-")
        if kind not in ("complete", "swin", "logwin", "oneref"):
            raise InputError(f"scene graph {text!r}: {kind!r} is not known; use {_FORMS}")
        cyclic = True
        if rest and rest[-1] == "noncyclic":
            cyclic = False
            rest = rest[:-1]
        number = None
        if rest and re.fullmatch(r"\d+", rest[0]):
            number = int(rest[0])
            rest = rest[1:]
        if rest:
            raise InputError(f"scene graph {text!r}: {'-'.join(rest)!r} has no meaning here; use {_FORMS}")
        if kind in ("complete", "oneref") and not cyclic:
            raise InputError(f"scene graph {text!r}: {kind} has no ends to join; leave out -noncyclic")
        if kind == "complete":
            if number is not None:
                raise InputError(f"scene graph {text!r}: complete takes no number; use swin-{number} for a window")
            return SceneGraph("complete")
        if kind == "oneref":
            return SceneGraph("oneref", reference=number or 0)
        return SceneGraph(kind, window=DEFAULT_WINDOW if number is None else number, cyclic=cyclic)

    def gaps(self, count: int) -> list[int]:
        """Ascending distances 1 … count - 1 at which all frames of a clip of `count` are joined. Not for oneref."""
        if self.kind == "complete":
            return list(range(1, count))
        if self.kind == "swin":
            offsets = set(range(1, min(self.window, count - 1) + 1))
        else:
            offsets = {1 << k for k in range(min(self.window, count.bit_length())) if 1 << k < count}
        if self.cyclic:  # a step over the end is a step back by the rest; a frame is never its own neighbour
            offsets |= {count - offset for offset in offsets}
        return sorted(offsets)

    def _kept_gaps(self, count: int, prefilter: Prefilter | None) -> list[int]:
        return [gap for gap in self.gaps(count) if prefilter is None or prefilter.keeps(gap, count)]

    def _others(self, count: int, prefilter: Prefilter | None) -> list[int]:
        """The frames that oneref joins with the reference."""
        if count and self.reference >= count:
            raise InputError(f"scene graph oneref-{self.reference}: the clip has {count} frames; use 0 to {count - 1}")
        others = (j for j in range(count) if j != self.reference)
        return [j for j in others if prefilter is None or prefilter.keeps(abs(j - self.reference), count)]

    def count_pairs(self, count: int, prefilter: Prefilter | None = None, *, symmetrize: bool = True) -> int:
        """How many pairs `pairs` will give, without making them."""
        if self.kind == "oneref":
            one_way = len(self._others(count, prefilter))
        else:
            one_way = sum(count - gap for gap in self._kept_gaps(count, prefilter))
        return 2 * one_way if symmetrize else one_way

    def pairs(
        self, count: int, prefilter: Prefilter | None = None, *, symmetrize: bool = True
    ) -> list[tuple[int, int]]:
        """Pairs (i, j), i ≠ j, of frames of a clip of `count`, each once.

        They are sorted by their later frame, then the earlier one (oneref: by the other frame), so that the frames of a
        long clip are needed one after the other. One way, complete gives i > j, swin and logwin i < j, oneref
        i = reference; with `symmetrize` (j, i) follows (i, j) directly, for what is computed for both at once.
        """
        if self.kind == "oneref":
            one_way = [(self.reference, j) for j in self._others(count, prefilter)]
        else:
            gaps = sorted(self._kept_gaps(count, prefilter), reverse=True)
            one_way = [(j - gap, j) for j in range(count) for gap in gaps if gap <= j]
            if self.kind == "complete":
                one_way = [(j, i) for i, j in one_way]
        return both_ways(one_way) if symmetrize else one_way


def both_ways(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Every pair followed by its mirror image."""
    return [pair for i, j in pairs for pair in ((i, j), (j, i))]


def listed_pairs(
    pairs: Iterable[Sequence[int]], count: int, prefilter: Prefilter | None = None, *, symmetrize: bool = True
) -> list[tuple[int, int]]:
    """A user's own list of pairs of frames of a clip of `count`, checked, in their order and without duplicates.

    With `symmetrize`, (i, j) and (j, i) are one pair and both are given. Raises `InputError` for a frame that is not
    there or is paired with itself.
    """
    kept: dict[tuple[int, int], None] = {}
    for number, pair in enumerate(pairs):
        if len(pair) != 2:
            raise InputError(f"pairs[{number}]: {list(pair)}; wanted two frames")
        i, j = int(pair[0]), int(pair[1])
        if not (0 <= i < count and 0 <= j < count):
            raise InputError(f"pairs[{number}]: ({i}, {j}); the clip has {count} frames, counted from 0")
        if i == j:
            raise InputError(f"pairs[{number}]: frame {i} with itself; leave this pair out")
        if prefilter is not None and not prefilter.keeps(abs(i - j), count):
            continue
        if not (symmetrize and (j, i) in kept):
            kept[i, j] = None
    return both_ways(kept) if symmetrize else list(kept)


def scene_pairs(
    count: int,
    graph: str | SceneGraph | Iterable[Sequence[int]] = "complete",
    *,
    prefilter: str | Prefilter | None = None,
    symmetrize: bool = True,
) -> list[tuple[int, int]]:
    """The pairs of frames to look at, by the graph's name or from a list of one's own.

    Args:
        count: frames of the clip.
        graph: a name for `SceneGraph.parse`, a `SceneGraph`, or pairs (i, j).
        prefilter: `seqN`, `cycN` or None.
        symmetrize: give both (i, j) and (j, i), next to each other.
    """
    near = Prefilter.parse(prefilter) if isinstance(prefilter, str) else prefilter
    if isinstance(graph, str):
        graph = SceneGraph.parse(graph)
    if isinstance(graph, SceneGraph):
        return graph.pairs(count, near, symmetrize=symmetrize)
    return listed_pairs(graph, count, near, symmetrize=symmetrize)
