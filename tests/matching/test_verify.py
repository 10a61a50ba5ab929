"""What bears a match out: its neighbours, and the way over a third picture."""

from __future__ import annotations

import numpy as np
import pytest

from dyn4d.matching.verify import common_similarity, cycle_states, neighbour_votes


def test_neighbours_vote_for_smooth_motion_and_against_strays() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 100, (300, 2))
    angle = np.radians(12)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    b = a @ turn.T * 1.1 + [30, -5]
    wrong = rng.permutation(300)[:90]
    b[wrong] = rng.uniform(0, 130, (90, 2))
    votes = neighbour_votes(a, b)
    right = np.setdiff1d(np.arange(300), wrong)
    assert np.median(votes[right]) > 0.5 and (votes[right] > 0.25).mean() > 0.9
    assert (votes[wrong] < 0.25).mean() > 0.9


def test_many_starts_with_one_end_do_not_bear_each_other_out() -> None:
    rng = np.random.default_rng(1)
    a = rng.uniform(0, 100, (40, 2))
    votes = neighbour_votes(a, np.tile([[50.0, 50.0]], (40, 1)))
    assert votes.max() < 0.5


def test_few_matches() -> None:
    assert neighbour_votes(np.zeros((0, 2)), np.zeros((0, 2))).shape == (0,)
    assert neighbour_votes(np.zeros((1, 2)), np.zeros((1, 2))).tolist() == [0.0]
    assert neighbour_votes(np.array([[0.0, 0], [5, 0]]), np.array([[9.0, 0], [14, 0]])).tolist() == [1.0, 1.0]
    same = np.zeros((20, 2))
    assert neighbour_votes(same, same + 3).tolist() == [1.0] * 20


def test_the_way_over_a_third_picture() -> None:
    xy_b = np.array([[0.0, 0], [2, 0], [50, 0], [60, 0]])
    direct = np.array([[0, 0], [1, 2], [3, 3], [5, 1]])
    first, second = np.array([[0, 7], [1, 8], [5, 9]]), np.array([[7, 1], [8, 0]])
    assert cycle_states(direct, first, second, xy_b).tolist() == [1, -1, 0, 0]
    none = np.zeros((0, 2), np.int64)
    assert cycle_states(direct, none, second, xy_b).tolist() == [0, 0, 0, 0]
    assert cycle_states(none, first, second, xy_b).shape == (0,)


@pytest.mark.parametrize(("scale", "degrees"), [(1.8, 0), (1.0, 45), (0.5, 90), (1.4, 180)])
def test_a_turn_or_a_scale_of_the_whole_is_no_reason_to_refuse(scale: float, degrees: float) -> None:
    rng = np.random.default_rng(2)
    a = rng.uniform(0, 100, (300, 2))
    turn = scale * np.exp(1j * np.radians(degrees))
    z = (a[:, 0] + 1j * a[:, 1]) * turn + 30 - 5j
    b = np.stack([z.real, z.imag], -1) + rng.normal(0, 0.5, (300, 2))
    wrong = rng.permutation(300)[:120]
    b[wrong] = rng.uniform(b.min(0), b.max(0), (120, 2))
    right = np.setdiff1d(np.arange(300), wrong)
    votes = neighbour_votes(a, b)
    assert np.median(votes[right]) > 0.4 and np.median(votes[wrong]) < 0.2
    found = common_similarity(a, b)
    assert found is not None and abs(found[0] - turn) < 0.05


def test_a_part_that_does_not_turn_with_the_whole_keeps_its_votes() -> None:
    rng = np.random.default_rng(3)
    body, arm = rng.uniform(0, 100, (240, 2)), rng.uniform([0, 130], [60, 150], (60, 2))
    turned = (body - 50) @ np.array([[0.0, 1], [-1, 0]]) + 50
    a, b = np.concatenate([body, arm]), np.concatenate([turned, arm + np.array([4, 2])])
    assert common_similarity(a, b) is not None
    votes = neighbour_votes(a, b)
    assert np.median(votes[:240]) > 0.9 and np.median(votes[240:]) > 0.9


def test_what_only_bends_has_no_common_turn() -> None:
    rng = np.random.default_rng(4)
    a = rng.uniform(0, 100, (200, 2))
    b = a + np.stack([np.full(200, 8.0), 5 * np.sin(a[:, 0] / 20) - 3], -1)
    assert common_similarity(a, b) is None and common_similarity(a, rng.permutation(b)) is None
    assert common_similarity(a, np.tile([[50.0, 50.0]], (200, 1))) is None
    assert common_similarity(np.zeros((50, 2)), b[:50]) is None
