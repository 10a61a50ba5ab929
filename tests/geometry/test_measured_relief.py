"""A network's relief that is bent through measured points."""

from __future__ import annotations

import numpy as np

from dyn4d.geometry.measured_relief import TRUSTS, bend

HEIGHT, WIDTH = 120, 150


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A disc: true depth with a bump and a tilt, what a network says of it (the bump alone, in another unit), mask."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    u, v = (x - 75) / 50, (y - 60) / 50
    mask = u**2 + v**2 < 1
    bump = -0.1 * np.exp(-4 * ((u - 0.3) ** 2 + v**2))
    true = 4 * np.exp(bump + 0.12 * u)
    return np.where(mask, true, 0), np.where(mask, np.exp(bump), 0), mask


def points(true: np.ndarray, mask: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y, x = np.nonzero(mask)
    pick = rng.permutation(len(y))[:count]
    return np.stack([x[pick], y[pick]], 1) + 0.5, true[y[pick], x[pick]]


def error(found: np.ndarray, true: np.ndarray, mask: np.ndarray) -> float:
    return float(np.abs(np.log(found[mask] / true[mask])).mean())


def test_what_the_network_says_wrong_is_measured_and_what_it_says_right_stays() -> None:
    true, said, mask = scene()
    xy, depth = points(true, mask, 400)
    curve = bend(said, mask, xy, depth, np.full(400, 0.003))
    assert curve is not None
    found = curve.apply(said)
    assert error(found, true, mask) < 0.01 < 0.05 < error(4 * said, true, mask)
    plain = bend(np.where(mask, 1.0, 0), mask, xy, depth, np.full(400, 0.003))
    assert plain is not None and error(plain.apply(mask * 1.0), true, mask) > 1.3 * error(found, true, mask)
    assert (found[~mask] == 0).all()


def test_wrong_points_do_little() -> None:
    true, said, mask = scene()
    xy, depth = points(true, mask, 100)
    depth[::5] *= 1.4
    curve = bend(said, mask, xy, depth, np.full(100, 0.003))
    assert curve is not None and error(curve.apply(said), true, mask) < 0.02


def test_a_part_that_nothing_measures_keeps_its_relief_at_the_others_distance() -> None:
    true, said, mask = scene()
    xy, depth = points(true, mask, 200)
    left = xy[:, 0] < 60
    curve = bend(said, mask, xy[left], depth[left], np.full(int(left.sum()), 0.003))
    assert curve is not None
    assert error(curve.apply(said), true, mask) < 0.12


def test_pictures_of_any_size_and_too_few_points() -> None:
    true, said, mask = scene()
    xy, depth = points(true, mask, 60)
    small = bend(said, mask, xy, depth, np.full(60, 0.003))
    said3, mask3 = (np.kron(each, np.ones((3, 3), each.dtype)) for each in (said, mask))
    large = bend(said3, mask3, 3 * xy, depth, np.full(60, 0.003))
    assert small is not None and large is not None
    again = large.apply(np.kron(said, np.ones((3, 3))))[1::3, 1::3]
    assert error(again, small.apply(said), mask) < 0.005
    assert bend(said, mask, xy[:3], depth[:3], np.full(3, 0.003)) is None
    outside = xy * 0 + 1.5
    assert bend(said, mask, outside, depth, np.full(60, 0.003)) is None


def test_a_good_network_is_believed_more_where_measured_points_are_wrong_together() -> None:
    true, _, mask = scene()
    xy, depth = points(true, mask, 400)
    corner = (xy[:, 0] > 100) & (xy[:, 1] > 60)
    depth = np.where(corner, 1.1 * depth, depth)  # as limbs are that move by themselves
    off = [error(found.apply(true), true, mask)
           for trust in (TRUSTS[0], TRUSTS[2])
           if (found := bend(true, mask, xy, depth, np.full(400, 0.01), trust)) is not None]  # fmt: skip
    assert len(off) == 2 and off[1] < 0.8 * off[0]
