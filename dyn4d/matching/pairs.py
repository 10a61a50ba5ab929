"""Which frames are matched with which."""

from __future__ import annotations

from collections.abc import Sequence


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
