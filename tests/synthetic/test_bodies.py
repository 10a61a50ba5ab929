"""Random bodies are closed and hang on their bones; two moments of one differ by what is not rigid alone."""

from __future__ import annotations

import numpy as np
import pytest

from dyn4d.synthetic.bodies import KINDS, Body, make_body, shares_of_kinds
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


@pytest.mark.parametrize("kind", ["person", "quadruped"])
def test_what_walks_swings_its_legs_along_x_and_bends_its_knees_one_way(kind: str) -> None:
    index = next(i for i in range(200) if make_body(5, i).kind == kind)
    body = make_body(5, index)
    assert body.gait is not None
    low = np.flatnonzero(body.rest[:, 2] < body.rest[:, 2].min() + 0.06)  # its feet
    paths = np.stack([pose_body(body, body.gait.turns(phase))[low] for phase in np.linspace(0, 2 * np.pi, 9)])
    assert np.allclose(paths[0], paths[-1])  # a step later everything is where it was
    reach = np.ptp(paths, axis=0).max(0)
    assert reach[0] > 0.1 and reach[0] > 3 * reach[1]
    for side in (-1, 1):
        ahead = paths[:, body.rest[low, 1] * side > 0, 0].mean(1)
        assert np.ptp(ahead) > 0.05
    if kind == "person":
        left, right = (paths[:, body.rest[low, 1] * side > 0, 0].mean(1) for side in (1, -1))
        assert np.corrcoef(left, right)[0, 1] < -0.5  # one foot goes ahead as the other goes back
        joint, parent = body.joint, body.parent
        knees = [b for b in range(1, len(parent)) if parent[b] > 0 and joint[b, 2] < -0.2 < joint[parent[b], 2]]
        assert len(knees) == 2
        for phase in np.linspace(0, 2 * np.pi, 9):
            assert (body.gait.turns(phase)[knees, 1] >= -1e-9).all()  # shins go back, never ahead


def test_what_walks_differs_from_moment_to_moment_and_from_sample_to_sample() -> None:
    body = next(b for b in (make_body(5, i) for i in range(200)) if b.kind == "person")
    moments = [two_moments(body, np.random.default_rng(seed)) for seed in range(8)]
    assert max(np.abs(a - b).max() for a, b in moments) > 0.2
    assert min(np.abs(moments[0][0] - a).max() for a, _ in moments[1:]) > 0.01


def test_the_share_of_people_is_as_asked_and_the_others_keep_theirs_among_themselves() -> None:
    for share, wanted in ((1.0, {True}), (0.0, {False})):
        assert {make_body(6, index, share).kind == "person" for index in range(6)} == wanted
    for share in (0.0, 0.26, 0.7):
        shares = dict(zip(KINDS, shares_of_kinds(share)))
        assert shares["person"] == share and np.isclose(sum(shares.values()), 1)
        assert np.isclose(shares["quadruped"] / shares["snake"], 0.40 / 0.07)
