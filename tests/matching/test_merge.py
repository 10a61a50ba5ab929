"""Merging the matches of several matchers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dyn4d.core.types import Correspondences
from dyn4d.matching.merge import MergeRules, RatedMatches, close_rows, merge_matches, weight_of


def rated(rows: list[tuple[int, int, float, float, float, float, float]]) -> RatedMatches:
    """From (frame_a, frame_b, xa, ya, xb, yb, error)."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 7)
    frames, error = table[:, :2].long(), table[:, 6].float()
    matches = Correspondences(frames[:, 0], frames[:, 1], table[:, 2:4].float(), table[:, 4:6].float(), error * 0 + 1)
    return RatedMatches(matches, error)


def ends(found: RatedMatches) -> list[tuple[float, ...]]:
    m = found.matches
    return [tuple(row) for row in torch.cat([m.xy_a, m.xy_b], 1).tolist()]


def test_doubles_become_the_better_one() -> None:
    first = rated([(0, 1, 10.5, 10.5, 20.5, 10.5, 0.4), (0, 1, 40.5, 10.5, 50.5, 10.5, 2.0)])
    second = rated([(0, 1, 10.9, 10.5, 20.4, 10.9, 0.8), (0, 1, 40.2, 10.2, 50.3, 10.5, 0.5)])
    for parts in ([first, second], [second, first]):
        found = merge_matches(parts)
        np.testing.assert_allclose(sorted(ends(found)), [(10.5, 10.5, 20.5, 10.5), (40.2, 10.2, 50.3, 10.5)], rtol=1e-6)
        assert sorted(found.error.tolist()) == pytest.approx([0.4, 0.5])
        torch.testing.assert_close(found.matches.weight, weight_of(found.error))


def test_what_is_close_at_one_end_or_in_other_frames_is_no_double() -> None:
    first = rated([(0, 1, 10.5, 10.5, 20.5, 10.5, 0.4)])
    second = rated([(0, 1, 10.5, 10.5, 22.5, 10.5, 0.8), (1, 0, 10.5, 10.5, 20.5, 10.5, 0.8),
                    (0, 2, 10.5, 10.5, 20.5, 10.5, 0.8)])  # fmt: skip
    found = merge_matches([second, first])
    assert len(found) == 4
    key = (found.matches.frame_a * 10 + found.matches.frame_b).tolist()
    assert key == sorted(key) == [1, 1, 2, 10]


def test_contradictions() -> None:
    first = rated([(0, 1, 10.5, 10.5, 20.5, 10.5, 0.3), (0, 1, 60.5, 10.5, 60.5, 10.5, 1.0)])
    second = rated([(0, 1, 11.0, 10.5, 40.5, 10.5, 1.5), (0, 1, 60.5, 10.0, 70.5, 10.0, 1.2)])
    found = merge_matches([first, second])
    assert ends(found) == [(10.5, 10.5, 20.5, 10.5), (60.5, 10.5, 60.5, 10.5), (60.5, 10.0, 70.5, 10.0)]
    assert found.error.tolist() == pytest.approx([0.3, 5.0, 5.0])  # undecided: both are off by half of the ten pixels
    alone = merge_matches([RatedMatches(*_joined(first, second))])
    assert len(alone) == 4  # one matcher does not contradict itself


def _joined(a: RatedMatches, b: RatedMatches) -> tuple[Correspondences, torch.Tensor]:
    return Correspondences.concatenate([a.matches, b.matches]), torch.cat([a.error, b.error])


def test_a_contradiction_at_the_end_counts_like_one_at_the_start() -> None:
    first = rated([(0, 1, 10.5, 10.5, 20.5, 10.5, 0.3)])
    second = rated([(0, 1, 30.5, 10.5, 20.5, 10.5, 1.5)])
    assert ends(merge_matches([second, first])) == [(10.5, 10.5, 20.5, 10.5)]


def test_dense_neighbours_stay() -> None:
    y, x = np.mgrid[:30, :30] + 0.5
    rows = [(0, 1, u, v, u + 3.3, v - 1.2, 0.5) for u, v in zip(x.ravel().tolist(), y.ravel().tolist())]
    found = merge_matches([rated(rows), rated([])])
    assert len(found) == 900
    np.testing.assert_allclose(ends(found), [row[2:6] for row in rows], rtol=1e-5)


def test_best_first_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 12, (300, 2))
    rows = np.concatenate([np.zeros((300, 1)), np.ones((300, 1)), a, a + rng.normal(0, 0.3, a.shape),
                           rng.uniform(0.1, 3, (300, 1))], 1)  # fmt: skip
    found = merge_matches([rated([tuple(row) for row in rows.tolist()])])
    kept: list[int] = []
    for row in np.argsort(rows[:, 6], kind="stable"):
        same = [np.linalg.norm(rows[row, 2:4] - rows[k, 2:4]) < 1 and np.linalg.norm(rows[row, 4:6] - rows[k, 4:6]) < 1
                for k in kept]  # fmt: skip
        if not any(same):
            kept.append(int(row))
    np.testing.assert_allclose(ends(found), rows[sorted(kept), 2:6], rtol=1e-5)
    assert 20 < len(kept) < 290


def test_close_rows_are_all_found() -> None:
    rng = np.random.default_rng(1)
    xy, pair = rng.uniform(-20, 20, (400, 2)), rng.integers(0, 3, 400) * 7
    p, q = close_rows(pair, xy, 1.7)
    near = (np.linalg.norm(xy[:, None] - xy, axis=-1) < 1.7) & (pair[:, None] == pair)
    assert sorted(zip(p.tolist(), q.tolist())) == [(i, j) for i, j in np.argwhere(near).tolist() if i < j]


def test_nothing_to_merge() -> None:
    assert len(merge_matches([])) == 0
    assert len(merge_matches([rated([]), rated([])])) == 0


def test_rules_are_checked() -> None:
    with pytest.raises(ValueError, match=r"merge.same_px: 0; wanted more than 0"):
        MergeRules(same_px=0)


def test_weights() -> None:
    torch.testing.assert_close(weight_of(torch.tensor([0.0, 1.0, 3.0])), torch.tensor([1.0, 0.5, 0.1]))


def test_each_part_has_its_own_largest_error() -> None:
    first, second = some([[50, 50], [10, 10]], [[60, 50], [12, 10]]), some([[50.5, 50]], [[50.5, 70]])
    parts = [RatedMatches(first, torch.tensor([2.0, 5.0])), RatedMatches(second, torch.tensor([2.0]))]
    assert len(merge_matches(parts)) == 3
    left = merge_matches(parts, most=[float("inf"), 3.0])
    assert left.matches.xy_b.tolist() == [[60, 50], [12, 10]] and float(left.error[0]) > 10
    assert merge_matches(parts, most=[4.0, float("inf")]).matches.xy_b.tolist() == [[50.5, 70]]


def some(a: list, b: list) -> Correspondences:
    frame = torch.zeros(len(a), dtype=torch.int64)
    return Correspondences(frame, frame + 1, torch.tensor(a).float(), torch.tensor(b).float(), torch.ones(len(a)))
