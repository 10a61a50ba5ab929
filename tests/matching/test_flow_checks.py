"""The checks of a flow on flows whose truth is known: what is hidden, pulled apart, unknown."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow_checks import CheckMaps, claims, differences, match_cost, stretch
from dyn4d.matching.flow_fields import compose, filled, sample, targets

SHAPE = (40, 60)
INNER = (slice(8, -8), slice(8, -8))


def linear(matrix: tuple[tuple[float, float], tuple[float, float]]) -> np.ndarray:
    """The flow of a linear map about the middle of the window."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float64)
    x, y = x - (SHAPE[1] - 1) / 2, y - (SHAPE[0] - 1) / 2
    (a, b), (c, d) = matrix
    return np.stack([(a - 1) * x + b * y, c * x + (d - 1) * y], -1).astype(np.float32)


def test_claims_are_the_change_of_area() -> None:
    everything = np.ones(SHAPE, bool)
    half = linear(((2, 0), (0, 1)))  # b is half as wide: each pixel of b comes back to every other column of a
    np.testing.assert_allclose(claims(everything, everything, half)[INNER].mean(), 0.5, atol=0.01)
    twice = claims(everything, everything, linear(((0.5, 0), (0, 1))))
    assert abs(twice[15:25, 25:35].mean() - 2) < 0.02
    same = claims(everything, everything, np.zeros((*SHAPE, 2), np.float32))
    np.testing.assert_allclose(same[2:-2, 2:-2], 1, atol=1e-5)
    assert same.min() > 0.99  # the rim too


def test_claims_of_nobody_and_from_everywhere() -> None:
    everything, nothing = np.ones(SHAPE, bool), np.zeros(SHAPE, bool)
    still = np.zeros((*SHAPE, 2), np.float32)
    assert claims(everything, nothing, still).max() == 0
    assert np.isfinite(claims(nothing, everything, still)).all()
    far = np.full((*SHAPE, 2), 1e7, np.float32)
    assert claims(everything, everything, far).max() == 0 and claims(everything, everything, -far).max() == 0
    unknown = np.where(np.arange(60)[:, None] < 30, np.float32(np.nan), still)
    count = claims(everything, everything, unknown)
    assert count[:, :26].max() < 0.01 and count[4:-4, 34:-4].min() > 0.99


def test_an_occluded_strip_is_claimed_by_nobody() -> None:
    """The left half moves 10 px right over the right half, which stands still."""
    back = np.zeros((*SHAPE, 2), np.float32)
    back[:, :40] = (-10, 0)  # in b the front ends at column 40; what was between 30 and 40 is hidden
    count = claims(np.ones(SHAPE, bool), np.ones(SHAPE, bool), back)
    assert count[4:-4, 33:37].max() < 0.05 and count[4:-4, 44:-4].min() > 0.95 and count[4:-4, 4:26].min() > 0.95


@pytest.mark.parametrize(
    ("matrix", "largest"),
    [(((1, 0), (0, 1)), 1), (((0, -1), (1, 0)), 1), (((3, 0), (0, 1)), 3), (((1, 1), (0, 1)), 1.618),
     (((1, 0), (0, 0.2)), 1)],
)  # fmt: skip
def test_stretch_is_the_largest_singular_value(
    matrix: tuple[tuple[float, float], tuple[float, float]], largest: float
) -> None:
    found = stretch(linear(matrix))[INNER]
    np.testing.assert_allclose(found, np.linalg.svd(np.array(matrix))[1][0], rtol=1e-3)
    np.testing.assert_allclose(found, largest, rtol=1e-3)


def test_differences_see_colours_of_one_brightness() -> None:
    """Pure red and green of one grey value: what looks at grey pictures is blind here."""
    red, green = np.array([255, 0, 0], np.uint8), np.array([0, 130, 0], np.uint8)
    grey = [cv2.cvtColor(np.full((1, 1, 3), colour, np.uint8), cv2.COLOR_RGB2GRAY)[0, 0] for colour in (red, green)]
    assert abs(int(grey[0]) - int(grey[1])) < 2
    a, b = np.full((*SHAPE, 3), red), np.full((*SHAPE, 3), green)
    still = np.zeros((*SHAPE, 2), np.float32)
    assert differences(a, a, still).max() == 0
    np.testing.assert_allclose(differences(a, b, still), (255 + 130) / 3, rtol=1e-5)


def test_doubts_add_up() -> None:
    config = MatchingConfig(max_difference=20.0, max_stretch=4.0)
    start = np.array([[3.0, 3.0], [4.5, 3.2]])

    def cost(error: float = 0.0, difference: float = 0.0, claim: float = 1.0, pull: float = 1.0) -> np.ndarray:
        maps = CheckMaps(*(np.full(SHAPE, value, np.float32) for value in (difference, claim, pull)))
        return match_cost(np.full(2, error), np.full(2, 2.0), maps, start, config)

    np.testing.assert_allclose(cost(), 0, atol=1e-9)
    for alone in ({"error": 2.0}, {"difference": 20.0}, {"claim": 0.25}, {"pull": 4.0}):
        np.testing.assert_allclose(cost(**alone), 1, rtol=1e-5)
    np.testing.assert_allclose(cost(error=1.0, difference=10.0, claim=0.5, pull=2.0), 1, rtol=1e-5)
    np.testing.assert_allclose(cost(claim=3.0, pull=0.5), 0, atol=1e-9)  # the other way round is no doubt
    assert (cost(claim=0.0) > 1).all() and np.isfinite(cost(claim=0.0)).all()
    assert not (cost(pull=np.nan) < 1).any()


def test_unknown_flow_stays_unknown_on_the_way() -> None:
    first = np.zeros((*SHAPE, 2), np.float32)
    first[..., 0] = 5
    second = np.ones((*SHAPE, 2), np.float32)
    first[10, 10], second[20, 25] = np.nan, np.nan
    both = compose(first, second)
    assert np.isnan(both[10, 10]).all() and np.isnan(both[20, 20]).all()
    assert np.isfinite(both).all(-1).sum() >= both[..., 0].size - 5
    np.testing.assert_array_equal(both[30, 30], [6, 1])
    whole = filled(both)
    assert np.isfinite(whole).all() and (whole[10, 10] == [6, 1]).all()
    assert filled(first[:1]) is not None and (filled(np.full((3, 3, 2), np.nan, np.float32)) == 0).all()


def test_filled_is_the_nearest_known() -> None:
    flow = np.full((6, 9, 2), np.nan, np.float32)
    flow[2, 1], flow[4, 8] = (1, 2), (3, 4)
    whole = filled(flow)
    for row, column in np.ndindex(6, 9):
        near = np.hypot(row - 2, column - 1), np.hypot(row - 4, column - 8)
        if abs(near[0] - near[1]) > 0.1:
            np.testing.assert_array_equal(whole[row, column], (1, 2) if near[0] < near[1] else (3, 4))
    assert filled(whole) is whole


def test_targets_and_sample_agree() -> None:
    flow = linear(((1.1, 0.05), (0, 0.9)))
    x, y = targets(flow)
    ramp = np.arange(60, dtype=np.float32)[None].repeat(40, 0)
    inner = (slice(10, 30), slice(10, 50))
    np.testing.assert_allclose(sample(ramp, x, y)[inner], x[inner], atol=1 / 32)
