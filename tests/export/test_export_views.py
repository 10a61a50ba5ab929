"""Orbits, filled gaps and the guess of "up"."""

from dataclasses import replace

import pytest
import torch
from export_scenes import arc

from dyn4d.core.cameras import project
from dyn4d.core.errors import RunError
from dyn4d.export.views import Extent, fill_poses, fixed_view, orbit_views, upward


def drop(camera, rows):
    poses = camera.world_from_cam.clone()
    poses[rows] = float("nan")
    return replace(camera, world_from_cam=poses)


def test_fill_poses_keeps_known_ones_and_interpolates_the_rest():
    camera = arc(9)
    filled = fill_poses(drop(camera, [0, 4, 5, 8]))
    known = [1, 2, 3, 6, 7]
    assert torch.equal(filled.world_from_cam[known], camera.world_from_cam[known])
    torch.testing.assert_close(filled.world_from_cam[[0, 8]], camera.world_from_cam[[1, 7]])
    rotation = filled.world_from_cam[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.transpose(-1, -2), torch.eye(3).double().expand(9, 3, 3))
    # between two cameras of a smooth arc, the straight line is close to the truth
    assert (filled.world_from_cam[4] - camera.world_from_cam[4]).abs().max() < 0.06


def test_fill_poses_without_any_says_where():
    with pytest.raises(RunError, match=r"cameras\.json"):
        fill_poses(drop(arc(3), [0, 1, 2]))


def test_up_is_found_from_cameras_that_look_down():
    z = torch.tensor([0.0, 0, 1]).double()
    assert float(upward(arc(9, lift=1.2)) @ z) > 0.999  # from the x axes: 25 degrees down
    assert float(upward(arc(1, lift=1.0)) @ z) > 0.999  # one camera: the nearest world axis
    static = replace(arc(4), world_from_cam=torch.eye(4).double().expand(4, 4, 4))
    assert torch.equal(upward(static), torch.tensor([0.0, -1, 0]).double())


def moving_extent(count):
    """A unit of 0.6 x 0.4 x 0.9 that goes along x by 1.2."""
    centres = torch.zeros(count, 3).double()
    centres[:, 0] = torch.linspace(-0.6, 0.6, count)
    half = torch.tensor([0.3, 0.2, 0.45]).double()
    corners = torch.cartesian_prod(*torch.stack([-half, half], dim=1))
    return Extent(centres, float(half.norm()), (centres[:, None] + corners).reshape(-1, 3), corners), corners


def inside(camera, i, points):
    pixels, depth = project(camera.K[i], camera.cam_from_world[i], points)
    size = torch.tensor([camera.width, camera.height])
    return bool((depth > 0).all() and (pixels >= 0).all() and (pixels <= size).all())


def test_orbit_follows_the_object_and_shows_it_from_all_sides():
    extent, corners = moving_extent(12)
    camera = orbit_views(arc(12), extent, turns=1.0)
    assert all(inside(camera, i, extent.centres[i] + corners) for i in range(12))
    away = torch.nn.functional.normalize(camera.world_from_cam[:, :3, 3] - extent.centres, dim=-1)
    assert float(away[0] @ away[6]) < -0.8
    assert (away[:, 2] - away[0, 2]).abs().max() < 1e-6  # the same height all the way


def test_fixed_view_is_the_middle_camera_unless_the_object_leaves_it():
    extent, _ = moving_extent(5)
    small = Extent(extent.centres * 0.1, 0.1, extent.points * 0.1, extent.offsets * 0.1)
    wide = fixed_view(arc(5), extent)
    assert torch.equal(fixed_view(arc(5), small).K, arc(5).K[2])
    assert torch.equal(wide.world_from_cam, arc(5).world_from_cam[2])
    turned = replace(arc(5), K=arc(5).K * torch.tensor([2.0, 2.0, 1.0]).diag().double())  # a longer lens
    turned.K[:, :2, 2] = arc(5).K[:, :2, 2]
    narrow = fixed_view(turned, extent)
    pixels, _ = project(narrow.K, narrow.cam_from_world, extent.points)
    assert narrow.K[0, 0] < turned.K[2, 0, 0]
    assert (pixels > 0).all() and (pixels < torch.tensor([48, 40])).all()
