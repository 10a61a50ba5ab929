from __future__ import annotations

import pytest

from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.pairs import pair_graph


@pytest.mark.parametrize("count", [0, 1, 2, 5, 30, 200])
def test_pairs_are_ordered_unique_and_in_range(count: int) -> None:
    pairs = pair_graph(count, 6, (8, 12, 16, 24))
    assert pairs == sorted(set(pairs))
    assert all(0 <= i < j < count for i, j in pairs)
    assert {(i, i + 1) for i in range(count - 1)} <= set(pairs)


def test_the_number_of_pairs_grows_with_the_frames() -> None:
    counts = [len(pair_graph(n, 6, (8, 12, 16, 24))) for n in (100, 200, 300)]
    assert counts[1] - counts[0] == counts[2] - counts[1] == 100 * 10


def test_a_short_clip_joins_its_ends() -> None:
    assert (0, 7) in pair_graph(8, 2, (24,))
    assert pair_graph(2, 6, (8,)) == [(0, 1)]


def test_a_stride_within_the_window_counts_once() -> None:
    assert pair_graph(10, 3, (2, 3)) == pair_graph(10, 3)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"window": -1}, "window"),
        ({"strides": (0,)}, "strides"),
        ({"fb_px": 0}, "fb_px"),
        ({"max_per_pair": 0}, "max_per_pair"),
        ({"max_size": 100}, "max_size"),
    ],
)
def test_settings_out_of_range_name_the_field(changes: dict, name: str) -> None:
    with pytest.raises(ValueError, match=f"matching.{name}"):
        MatchingConfig(**changes)
