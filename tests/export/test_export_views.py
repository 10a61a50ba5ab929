"""Orbits, filled gaps and the guess of "up"."""

from dataclasses import replace

import pytest
import torch
from export_scenes import arc

from dyn4d.core.cameras import project
from dyn4d.core.errors import RunError
from dyn4d.export.views import fill_poses, orbit_views, upward


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


def test_orbit_shows_the_whole_object_from_all_sides():
    low, high = torch.tensor([-0.4, 0.1, -0.5]), torch.tensor([0.8, 0.9, 0.4])
    camera = orbit_views(arc(7), low, high, turns=1.0, count=12)
    corners = torch.cartesian_prod(*torch.stack([low, high], dim=1).double())
    for i in range(12):
        pixels, depth = project(camera.K[i], camera.cam_from_world[i], corners)
        assert (depth > 0).all() and (pixels >= 0).all()
        assert (pixels[:, 0] <= camera.width).all() and (pixels[:, 1] <= camera.height).all()
    centre = (low + high).double() / 2
    away = torch.nn.functional.normalize(camera.world_from_cam[:, :3, 3] - centre, dim=-1)
    assert float(away[0] @ away[6]) < -0.8
    assert (away[:, 2] - away[0, 2]).abs().max() < 1e-6  # the same height all the way
