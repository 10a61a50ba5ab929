"""Solids: distances against brute force, closed meshes, skinning and limbs."""

from __future__ import annotations

import numpy as np
import pytest

from dyn4d.synthetic import creature
from dyn4d.synthetic.raster import vertex_normals
from dyn4d.synthetic.skeleton import bend_limb, blend_skin, skin_weights, turn
from dyn4d.synthetic.solids import ambient_occlusion, as_table, cone, distances, ellipsoid, mesh_solid, part_distances


@pytest.mark.parametrize("radii", [(0.3, 0.1), (0.1, 0.3), (0.2, 0.2), (0.9, 0.1), (0.05, 0.8)])
def test_round_cone_is_the_union_of_its_spheres(radii: tuple[float, float]) -> None:
    rng = np.random.default_rng(3)
    a, b = np.array([0.1, -0.2, 0.3]), np.array([0.5, 0.3, 0.1])
    points = rng.uniform(-1.5, 1.5, (300, 3))
    s = np.linspace(0, 1, 20001)
    centres, radius = a + s[:, None] * (b - a), radii[0] + s * (radii[1] - radii[0])
    expected = np.array([(np.linalg.norm(p - centres, axis=1) - radius).min() for p in points])
    found = part_distances(points, as_table([cone(tuple(a), radii[0], tuple(b), radii[1])]))[:, 0]
    assert np.abs(found - expected).max() < 1e-6


def test_ellipsoid_distance_is_zero_on_its_surface_and_exact_for_a_sphere() -> None:
    rng = np.random.default_rng(4)
    way = rng.normal(size=(200, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    axes = (0.4, 0.2, 0.7)
    table = as_table([ellipsoid((0.1, 0.2, 0.3), axes)])
    surface = np.array([0.1, 0.2, 0.3]) + way * axes
    assert np.abs(distances(surface, table)).max() < 1e-12
    assert (distances(0.9 * surface + 0.1 * np.array([0.1, 0.2, 0.3]), table) < 0).all()
    ball = as_table([ellipsoid((0, 0, 0), (0.5, 0.5, 0.5))])
    assert np.allclose(distances(1.3 * way, ball), 0.8)


def test_mesh_of_a_ball_is_closed_turned_outwards_and_round() -> None:
    table = as_table([ellipsoid((0.1, 0, 0), (0.5, 0.5, 0.5))])
    vertices, faces = mesh_solid(table, 0.05)
    assert np.abs(distances(vertices, table)).max() < 1e-6
    directed = {(int(f[i]), int(f[(i + 1) % 3])) for f in faces for i in range(3)}
    assert len(directed) == 3 * len(faces)  # no directed edge twice
    assert all((b, a) in directed for a, b in directed)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    volume = np.einsum("ij,ij->", a, np.cross(b, c)) / 6
    assert volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.01)
    normals = vertex_normals(vertices, faces)
    assert np.einsum("ij,ij->i", normals, (vertices - [0.1, 0, 0]) / 0.5).min() > 0.99
    assert ambient_occlusion(vertices, normals, table, 0.1).min() > 0.99


def test_creature_mesh_is_closed() -> None:
    model = creature.build_creature(0.02, 0)
    edges = np.sort(np.concatenate([model.faces[:, [0, 1]], model.faces[:, [1, 2]], model.faces[:, [2, 0]]]), axis=1)
    _, count = np.unique(edges, axis=0, return_counts=True)
    assert (count == 2).all()
    assert 0 < model.occlusion.min() < 0.8 < model.occlusion.max() <= 1


def test_weights_sum_to_one_and_the_rest_pose_stays() -> None:
    table = as_table([cone((0, 0, 0), 0.1, (0.5, 0, 0), 0.1), cone((0.5, 0, 0), 0.1, (1, 0, 0), 0.1)])
    points = np.random.default_rng(0).uniform([-0.1, -0.1, -0.1], [1.1, 0.1, 0.1], (200, 3))
    weights = skin_weights(points, table, np.array([0, 1]), np.array([0.05, 0.05]))
    assert np.allclose(weights.sum(1), 1)
    assert (weights >= 0).all()
    assert np.allclose(weights[points[:, 0] < 0.1, 0], 1)
    assert np.allclose(blend_skin(points, weights, np.tile(np.eye(3), (2, 1, 1)), np.zeros((2, 3))), points)
    one = turn(0.3, 0.2, 0.1)
    moved = blend_skin(points, weights, np.stack([one, one]), np.tile([1.0, 2.0, 3.0], (2, 1)))
    assert np.allclose(moved, points @ one.T + [1, 2, 3])


def test_limb_reaches_its_goal_and_keeps_its_lengths() -> None:
    rng = np.random.default_rng(5)
    rest = (np.array([0, 0, 0.4]), np.array([-0.05, 0.03, 0.22]), np.array([0.0, 0.0, 0.05]))
    for _ in range(50):
        hip, goal = rng.normal(size=3), rng.normal(size=3)
        goal = hip + (goal - hip) / np.linalg.norm(goal - hip) * rng.uniform(0.1, 0.6)
        pose = bend_limb(rest, hip, goal, rng.normal(size=3))
        assert np.linalg.norm(pose.knee - hip) == pytest.approx(np.linalg.norm(rest[1] - rest[0]))
        assert np.linalg.norm(pose.ankle - pose.knee) == pytest.approx(np.linalg.norm(rest[2] - rest[1]))
        if np.linalg.norm(goal - hip) < 0.35:
            assert np.allclose(pose.ankle, goal)
        for rotation, start, end, a, b in (
            (pose.upper, rest[0], rest[1], hip, pose.knee),
            (pose.lower, rest[1], rest[2], pose.knee, pose.ankle),
        ):
            assert np.allclose(rotation @ rotation.T, np.eye(3))
            assert np.linalg.det(rotation) == pytest.approx(1)
            assert np.allclose(rotation @ (end - start), b - a)


def test_creature_walks_on_planted_feet_and_never_tears() -> None:
    gait = creature.Gait()
    bones = creature._bones()
    walker = creature._Walker(bones, gait)
    times = np.linspace(0, 1, 121)
    joints = []
    for t in times:
        rotation, offset = walker.bones_at(float(t))
        assert np.allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3))
        joints.append(np.einsum("bij,bj->bi", rotation, walker.heads) + offset)
    paths = np.stack(joints)
    for (kind, side), phase in creature._LEG_PHASE.items():
        cycle = gait.strides * times + gait.phase + phase
        stands = (cycle % 1 < gait.stance)[1:] & (np.floor(cycle[1:]) == np.floor(cycle[:-1]))
        ankle = paths[:, walker.index[f"{kind}_{side}_paw"]]
        assert stands.sum() > 20
        assert np.abs(np.diff(ankle, axis=0))[stands].max() < 1e-9
        assert np.ptp(ankle[:, 2]) > 0.05  # and it does lift in the swing
    model = creature.build_creature(0.02, 0)
    edges = np.concatenate([model.faces[:, [0, 1]], model.faces[:, [1, 2]], model.faces[:, [2, 0]]])
    length = np.linalg.norm(model.rest[edges[:, 0]] - model.rest[edges[:, 1]], axis=1)
    for t in np.linspace(0, 1, 9):
        shape = model.pose(float(t))
        stretched = np.linalg.norm(shape[edges[:, 0]] - shape[edges[:, 1]], axis=1)
        assert np.quantile(stretched / length, 0.999) < 2.0
        assert stretched.max() < 4 * 0.02
