"""The similarity between worlds: recovered exactly, undone exactly, sensible where centres do not determine it."""

from dataclasses import replace

import pytest
import torch
from export_scenes import arc

from dyn4d.core.cameras import project
from dyn4d.core.errors import InputError
from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.export.align import FROM_CENTRES, FROM_ROTATIONS, Alignment, align_cameras, camera_errors


def similarity(scale=1.7):
    rotation = wxyz_to_matrix(torch.tensor([0.8, 0.3, -0.4, 0.2]).double())
    return Alignment(rotation, torch.tensor([0.5, -2.0, 1.0]).double(), scale, "test")


def test_points_and_cameras_go_there_and_back():
    there = similarity()
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(there.to_run(there.to_true(points)), points)
    true = arc(4)
    run = there.camera_to_run(true)
    torch.testing.assert_close(there.camera_to_true(run).world_from_cam, true.world_from_cam)
    # the same picture: pixels agree, depths differ by the scale
    pixels, depth = project(true.K[2], true.cam_from_world[2], there.to_true(points))
    pixels_run, depth_run = project(run.K[2], run.cam_from_world[2], points)
    torch.testing.assert_close(pixels, pixels_run)
    torch.testing.assert_close(depth, depth_run * 1.7)


def test_similarity_is_recovered_from_centres():
    there, true = similarity(), arc(8)
    run = there.camera_to_run(true)
    poses = run.world_from_cam.clone()
    poses[3] = float("nan")
    found = align_cameras(replace(run, world_from_cam=poses), true)
    assert found.aligned_by == FROM_CENTRES
    assert found.scale == pytest.approx(1.7)
    torch.testing.assert_close(found.rotation, there.rotation)
    errors = camera_errors(run, true, found, 1.5)
    assert errors["centre_rel"] < 1e-8 and errors["rotation_deg"] < 1e-4


@pytest.mark.parametrize("moving", [True, False])
def test_centres_on_a_line_or_in_one_place_use_rotations(moving):
    true = arc(6)
    poses = true.world_from_cam.clone()
    line = torch.linspace(-1, 1, 6)[:, None].double() * torch.tensor([1.0, 0.5, 0.2]).double() * float(moving)
    poses[:, :3, 3] = torch.tensor([3.0, 0, 1]).double() + line
    true = replace(true, world_from_cam=poses)
    there = similarity(1.7 if moving else 1.0)
    found = align_cameras(there.camera_to_run(true), true)
    assert found.aligned_by == FROM_ROTATIONS
    errors = camera_errors(there.camera_to_run(true), true, found, 1.0)
    assert errors["centre_rel"] < 1e-6 and errors["rotation_deg"] < 1e-4


def test_camera_errors_by_hand():
    true = arc(4)
    poses = true.world_from_cam.clone()
    poses[:, 2, 3] += 0.3
    errors = camera_errors(replace(true, world_from_cam=poses), true, Alignment.identity(), 1.5)
    assert errors["centre_rel"] == pytest.approx(0.2) and errors["rotation_deg"] == pytest.approx(0, abs=1e-5)
    assert camera_errors(true, true, Alignment.identity(), None)["centre_rel"] is None


def test_nothing_in_common_is_an_error():
    true = arc(3)
    lost = replace(true, world_from_cam=torch.full((3, 4, 4), float("nan")).double())
    with pytest.raises(InputError, match="no frame has both"):
        align_cameras(lost, true)
