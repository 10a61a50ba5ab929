"""Random bodies are closed and hang on their bones; two moments of one differ by what is not rigid alone."""

from __future__ import annotations

import numpy as np
import pytest

from dyn4d.synthetic.bodies import KINDS, Body, make_body
from dyn4d.synthetic.body_motion import lay_on, pose_body, random_softness, rotation_matrix, two_moments
from dyn4d.synthetic.solids import as_table, box, distances


@pytest.fixture(scope="module")
def bodies() -> list[Body]:
    return [make_body(3, index) for index in range(10)]


def test_bodies_are_closed_and_as_large_as_the_unit_ball(bodies: list[Body]) -> None:
    for body in bodies:
        edges = np.sort(np.concatenate([body.faces[:, [0, 1]], body.faces[:, [1, 2]], body.faces[:, [2, 0]]]), axis=1)
        _, count = np.unique(edges, axis=0, return_counts=True)
        assert (count % 2 == 0).all() and (count == 2).mean() > 0.99
        assert np.isclose(np.linalg.norm(body.rest, axis=1).max(), 1.0)
        corners = body.rest[body.faces]
        volume = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
        assert volume > 0  # counter-clockwise from outside
        assert np.allclose(body.weights.sum(1), 1) and (body.weights >= 0).all()
        assert all(parent < bone for bone, parent in enumerate(body.parent))


def test_bodies_follow_from_seed_and_number(bodies: list[Body]) -> None:
    assert np.array_equal(make_body(3, 4).rest, bodies[4].rest)
    assert len({body.rest.tobytes() for body in bodies}) == len(bodies)
    assert len({body.kind for body in bodies}) > 3 and {body.kind for body in bodies} <= set(KINDS)


def test_no_turn_is_the_rest_pose(bodies: list[Body]) -> None:
    for body in bodies[:4]:
        assert np.allclose(pose_body(body, np.zeros((len(body.parent), 3))), body.rest, atol=1e-6)


def test_the_second_moment_lies_on_the_first(bodies: list[Body]) -> None:
    body = next(b for b in bodies if b.flexible > 0.3)
    for seed in range(6):
        a, b = two_moments(body, np.random.default_rng(seed))
        assert np.allclose(lay_on(b, a), b, atol=0.02)  # nothing rigid is left to take away
        assert np.abs((a.max(0) + a.min(0)) / 2).max() < 1e-9


def test_alignment_holds_the_part_that_lies_still() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(0, 1, (300, 3))
    turn = rotation_matrix(np.array([0.2, -0.4, 0.1]))
    moved = target @ turn.T + [0.3, 0.1, -0.2]
    moved[:60] += [0.8, 0, 0.5]  # a limb that went elsewhere
    assert np.allclose(lay_on(moved, target)[60:], target[60:], atol=2e-3)


def test_a_bend_keeps_the_length_of_its_axis() -> None:
    soft = random_softness(np.random.default_rng(1), 1.0)
    along = np.linspace(-1, 1, 200)[:, None] * soft.axis
    plain = type(soft)(soft.axis, soft.turn, soft.waves, soft.phases, np.zeros((3, 3)))
    bent = plain(along)
    assert np.isclose(np.linalg.norm(np.diff(bent, axis=0), axis=1).sum(), 2.0, rtol=1e-3)


def test_a_rounded_box_is_exact() -> None:
    table = as_table([box((0, 0, 0), (1, 0.5, 0.25), 0.1)])
    points = np.array([[2.0, 0, 0], [0, 0.7, 0], [0, 0, 0], [1 - 0.1 + 0.3, 0.5 - 0.1 + 0.4, 0]])
    assert np.allclose(distances(points, table), [1.0, 0.2, -0.25, 0.4])
