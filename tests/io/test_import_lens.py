"""Distorted lenses: the straight picture's pixels come from where the lens puts their rays, and none is blank."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from import_sources import brown

from dyn4d.core.errors import InputError
from dyn4d.io.importers.held_out import looked_at, nearest_frames
from dyn4d.io.importers.lens import Lens, Straightener
from dyn4d.io.importers.realign import Aligner
from dyn4d.io.importers.writer import thinned

PLAIN = Lens(80, 60, 90.0, 92.0, 41.0, 29.0)
BARREL = replace(PLAIN, radial=(-0.2, 0.05, -0.01, 0, 0, 0), tangential=(0.004, -0.002))
PINCUSHION = replace(PLAIN, radial=(0.15, 0.02, 0, 0, 0, 0), tangential=(-0.003, 0.002))
SKEWED = replace(PLAIN, skew=3.0)
RATIONAL = replace(PLAIN, radial=(0.3, 0.1, 0.02, 0.5, 0.1, 0.01))


@pytest.mark.parametrize("lens", [BARREL, PINCUSHION, SKEWED, RATIONAL])
def test_straight_pixels_come_from_where_the_lens_sees_them(lens):
    straight = Straightener.of(lens, "here")
    K = straight.lens.K
    assert straight.lens.plain
    for row, column in ((0, 0), (59, 79), (30, 40), (5, 70)):
        x, y, _ = np.linalg.inv(K) @ [column + 0.5, row + 0.5, 1]  # a ray of the straight picture
        if lens is RATIONAL:
            D = np.array([*lens.radial[:2], 0, 0, *lens.radial[2:]])
            ((u, v),) = cv2.projectPoints(np.array([[x, y, 1.0]]), np.zeros(3), np.zeros(3), lens.K, D)[0][0]
        else:
            a, b = brown(x, y, lens.radial[:3], lens.tangential)
            u, v = lens.fx * a + lens.skew * b + lens.cx, lens.fy * b + lens.cy
        found = straight.columns[row, column] + 0.5, straight.rows[row, column] + 0.5
        assert found == pytest.approx((u, v), abs=1e-3)


@pytest.mark.parametrize("lens", [BARREL, PINCUSHION, SKEWED])
def test_no_pixel_is_blank_and_little_is_lost(lens):
    straight = Straightener.of(lens, "here")
    assert straight.columns.min() >= -1e-4 and straight.columns.max() <= lens.width - 1 + 1e-4
    assert straight.rows.min() >= -1e-4 and straight.rows.max() <= lens.height - 1 + 1e-4
    touched = [straight.columns.min() < 0.1, straight.columns.max() > lens.width - 1.1,
               straight.rows.min() < 0.1, straight.rows.max() > lens.height - 1.1]  # fmt: skip
    assert any(touched)  # it reaches an edge: a lower zoom would show what is not there


def test_a_plain_lens_is_left_alone_and_scaling_is_that_of_the_picture():
    assert PLAIN.straight("here") is PLAIN
    half = PLAIN.scaled(40, 30, "here")
    assert (half.fx, half.cx, half.cy) == (45.0, 20.5, 14.5)
    with pytest.raises(InputError, match="another shape"):
        PLAIN.scaled(60, 80, "here")


def test_depth_of_another_camera_lands_where_its_points_are_seen():
    """A slanted plane: every aligned pixel's depth is the plane's there, but for the size of a source pixel."""
    source, target = Lens(64, 48, 60.0, 60.0, 32.0, 24.0), Lens(96, 72, 100.0, 102.0, 47.0, 37.0)
    move = np.eye(4)
    move[:3, 3] = [0.03, -0.01, 0.005]
    v, u = np.mgrid[0:48, 0:64] + 0.5
    normal = np.array([0.2, -0.1, 1.0])  # normal . X = 1.5
    rays = np.stack([(u - 32) / 60, (v - 24) / 60, np.ones_like(u)], -1)
    out = Aligner(source, target, move)((1.5 / (rays @ normal)).astype(np.float32))
    assert out.shape == (72, 96)
    v, u = np.mgrid[0:72, 0:96] + 0.5
    rays = np.stack([(u - 47) / 100, (v - 37) / 102, np.ones_like(u)], -1)
    truth = (1.5 + normal @ move[:3, 3]) / (rays @ normal)
    inner = np.s_[8:-8, 8:-8]
    assert (out[inner] > 0).all()
    assert np.abs(out - truth)[inner].max() < 0.01  # the plane changes by up to 8 mm in a source pixel
    assert (Aligner(source, source, np.eye(4))(np.full((48, 64), 2.0, np.float32)) == 2).all()


def test_the_nearer_surface_wins():
    lens = Lens(32, 32, 32.0, 32.0, 16.0, 16.0)
    depth = np.full((32, 32), 2.0, np.float32)
    depth[:, :16] = 1.0
    move = np.eye(4)
    move[0, 3] = 0.25  # the near half moves 8 pixels to the right, the far one 4
    out = Aligner(lens, lens, move)(depth)
    assert (out[:, 8:24] == 1).all() and (out[:, 24:] == 2).all() and (out[:, :8] == 0).all()


def test_clocks_and_nearest_frames():
    seconds = np.array([0.0, 0.09, 0.22, 0.3, 0.41, 0.5])
    assert thinned(seconds, 5.0) == [0, 2, 4]
    assert thinned(seconds, 100.0) == [0, 1, 2, 3, 4, 5] and thinned(seconds[:1], 5.0) == [0]
    assert nearest_frames([0.0, 0.25, 9.0], seconds.tolist()) == [0, 2, 5]


def test_parallel_cameras_look_at_nothing():
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = [0, 1, 2]
    assert looked_at(poses) is None
