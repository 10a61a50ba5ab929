"""The exact renderer against hand-made cases and a brute-force ray caster."""

from __future__ import annotations

import numpy as np
import pytest

from dyn4d.synthetic.raster import project, visible_points, z_buffer
from dyn4d.synthetic.shading import room_hit
from dyn4d.synthetic.views import film, intrinsics, looking_at

K = np.array([[50.0, 0, 16], [0, 50.0, 16], [0, 0, 1]])


def test_slanted_triangle_has_the_depth_of_its_plane() -> None:
    corners = np.array([[-0.5, -0.4, 2.0], [0.6, -0.3, 3.0], [0.0, 0.7, 2.5]])
    xy, z = project(corners, K, np.eye(4))
    face, inverse = z_buffer(xy, z, np.array([[0, 1, 2]]), 32, 32, 1)
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    rows, cols = np.nonzero(face >= 0)
    assert len(rows) > 50
    rays = np.stack([(cols + 0.5 - 16) / 50, (rows + 0.5 - 16) / 50, np.ones(len(rows))], axis=1)
    assert np.allclose(1 / inverse[rows, cols], normal @ corners[0] / (rays @ normal), rtol=1e-12)
    assert (inverse[face < 0] == 0).all()


@pytest.mark.parametrize("samples", [1, 3, 4])
def test_nearer_triangle_wins_whatever_the_order(samples: int) -> None:
    shape = np.array([[-5.0, -5, 2], [5, -5, 2], [0, 9, 2], [-5, -5, 1], [5, -5, 1], [0, 9, 1]])
    xy, z = project(shape, K, np.eye(4))
    for faces in (np.array([[0, 1, 2], [3, 4, 5]]), np.array([[3, 4, 5], [0, 1, 2]])):
        face, inverse = z_buffer(xy, z, faces, 32, 32, samples)
        assert face.shape == (32 * samples, 32 * samples)
        assert (faces[face, 0] == 3).all()
        assert np.allclose(inverse, 1.0)


def test_square_of_two_triangles_has_no_gap_and_covers_its_pixels() -> None:
    corners = np.array([[4.0, 4], [20, 4], [20, 20], [4, 20]])
    face, _ = z_buffer(corners, np.ones(4), np.array([[0, 2, 1], [0, 3, 2]]), 32, 32, 1)
    expected = np.zeros((32, 32), dtype=bool)
    expected[4:20, 4:20] = True
    assert np.array_equal(face >= 0, expected)


def test_no_triangle_and_triangles_behind_the_camera_draw_nothing() -> None:
    face, inverse = z_buffer(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 3), dtype=np.int64), 8, 8, 2)
    assert (face == -1).all() and (inverse == 0).all()
    face, _ = z_buffer(np.array([[0.0, 0], [30, 0], [0, 30]]), np.array([-1.0, 1, 1]), np.array([[0, 1, 2]]), 8, 8, 1)
    assert (face == -1).all()


def test_visibility_of_single_points() -> None:
    # two parallel squares that face the camera (seen from it counter-clockwise in a y-up world)
    square = np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    shape = np.concatenate([np.c_[square, np.full(4, 3.0)], np.c_[0.3 * square, np.full(4, 2.0)]])
    faces = np.array([[0, 2, 1], [0, 3, 2], [4, 6, 5], [4, 7, 6]])
    xy, z = project(shape, K, np.eye(4))
    points = np.array([[0.1, 0.0, 3.0], [0.9, -0.95, 3.0], [0.1, 0.05, 2.0], [0.8, -0.85, 3.0]])
    own = np.array([0, 0, 2, 0])
    pixels, depth = project(points, K, np.eye(4))
    see = {"points": pixels, "depth": depth, "own": own, "width": 32, "height": 32}
    assert visible_points(xy, z, faces, **see).tolist() == [False, True, True, True]
    assert visible_points(xy, z, faces[:, ::-1].copy(), **see).tolist() == [False] * 4  # turned away
    see.update(width=20)  # part of the square is now outside the picture
    assert visible_points(xy, z, faces, **see).tolist() == [False, False, True, False]


def test_rig_looks_at_its_target_and_keeps_the_object_in_the_picture() -> None:
    rng = np.random.default_rng(2)
    shapes = [rng.uniform(-0.7, 0.7, (100, 3)) for _ in range(7)]
    targets = rng.uniform(-0.1, 0.1, (7, 3))
    times = np.linspace(0, 1, 7)
    rig = film(shapes, targets, times, static=False, seed=1)
    border = []
    for frame in range(7):
        pose = rig.pose(frame)
        assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3))
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
        assert pose[2, 1] < 0  # the picture's y runs down
        centre, _ = project(targets[frame : frame + 1], intrinsics(64), np.linalg.inv(pose))
        assert np.allclose(centre, 32)
        xy, z = project(shapes[frame], intrinsics(64), np.linalg.inv(pose))
        assert (z > 0).all()
        border.append(min(xy.min(), 64 - xy.max()))
    assert min(border) == pytest.approx(0.06 * 64)
    swing = rig.azimuth[-1] - rig.azimuth[0]
    assert np.degrees(swing) == pytest.approx(40)
    static = film(shapes, targets, times, static=True, seed=0)
    assert np.array_equal(static.pose(0), static.pose(6))


def test_look_at_by_hand() -> None:
    pose = looking_at(np.array([3.0, 0, 0]), np.zeros(3))
    assert np.allclose(pose[:3, 2], [-1, 0, 0])
    assert np.allclose(pose[:3, 0], [0, 1, 0])
    assert np.allclose(pose[:3, 1], [0, 0, -1])


def test_room_rays_by_hand() -> None:
    boxes = np.array([[1.0, -0.5, 0.0, 2.0, 0.5, 1.0]])
    eye = np.array([0.0, 0.0, 0.5])
    assert room_hit(eye, 1.0, 0.0, 0.0, 4.0, boxes) == (1.0, 5, 0)
    assert room_hit(eye, -2.0, 0.0, 0.0, 4.0, boxes) == (2.0, 1, 0)
    assert room_hit(eye, 0.0, 1.0, 0.0, 4.0, boxes) == (4.0, 4, 1)
    assert room_hit(eye, 0.0, 0.0, -1.0, 4.0, boxes) == (0.5, 0, 2)
    assert room_hit(eye, 0.0, 0.0, 1.0, 4.0, boxes)[0] == np.inf
    assert room_hit(np.array([1.5, 0.0, 3.0]), 0.0, 0.0, -1.0, 4.0, boxes) == (2.0, 5, 2)
