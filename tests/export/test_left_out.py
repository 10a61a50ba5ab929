"""Frames that a run was not shown: perfect results score perfectly, faults show, what has no camera does not count."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from export_scenes import Carousel, arc, ball, timeline

from dyn4d.deformation.field import TrajectoryField
from dyn4d.export.evaluate import UNKNOWN, Reconstruction, evaluate, format_table
from dyn4d.export.left_out import evaluate_left_out
from dyn4d.export.renders import render_cloud, to_uint8
from dyn4d.gaussians.warp import move_cloud

GREY = (0.5, 0.5, 0.5)
COUNT = 5
SIZE = 1.0


@pytest.fixture(scope="module")
def result() -> Reconstruction:
    return Reconstruction(ball(), Carousel(), timeline(COUNT), arc(COUNT), True, GREY)


@pytest.fixture(scope="module")
def clip(result):
    """What the result itself shows, with its own depth."""
    images, masks, depth = [], [], []
    for frame, t in enumerate(result.timeline.times):
        drawn = render_cloud(move_cloud(result.cloud, result.field, float(t)), result.cameras[frame], GREY)
        images.append(to_uint8(drawn.rgb[0]))
        masks.append((drawn.alpha[0, ..., 0] > 0.5).numpy())
        depth.append(drawn.depth[0, ..., 0].numpy())

    class Frames(SimpleNamespace):
        def __len__(self):
            return COUNT

    return Frames(images=images, masks=masks, depth=depth)


def test_a_perfect_result(result, clip):
    found = evaluate_left_out(result, clip, [0, 2, 4], size=SIZE)
    assert found is not None and found["n"] == 2
    assert found["mpsnr"] > 45 and found["mssim"] > 0.99 and found["iou"] == 1.0
    assert found["depth_rel"] < 1e-6


def test_an_object_that_does_not_move_scores_less(result, clip):
    still = replace(result, field=TrajectoryField.still())
    found = evaluate_left_out(still, clip, [0], size=SIZE)
    assert found["mpsnr"] < 40 and found["n"] == 4


def test_depth_is_relative_to_the_size(result, clip):
    off = type(clip)(images=clip.images, masks=clip.masks, depth=[d + 0.05 for d in clip.depth])
    for size in (1.0, 2.0):
        found = evaluate_left_out(result, off, [0, 1, 2, 3], size=size)
        assert found["depth_rel"] == pytest.approx(0.05 / size, rel=1e-3)
    assert evaluate_left_out(result, off, [0, 1, 2, 3], size=None)["depth_rel"] is None


def test_what_has_no_camera_or_mask_does_not_count(result, clip):
    cameras = arc(COUNT)
    cameras.world_from_cam[1] = torch.nan
    masks = [m if i != 3 else np.zeros_like(m) for i, m in enumerate(clip.masks)]
    some = type(clip)(images=clip.images, masks=masks, depth=None)
    found = evaluate_left_out(replace(result, cameras=cameras), some, [0, 4], size=SIZE)
    assert found["n"] == 1 and found["depth_rel"] is None
    assert evaluate_left_out(replace(result, cameras=cameras), some, [0, 2, 4], size=SIZE) is None
    assert evaluate_left_out(result, clip, range(COUNT), size=SIZE) is None


def test_the_table_has_a_row_for_them(result, clip):
    found = evaluate_left_out(result, clip, [0, 2, 4], size=SIZE)
    text = format_table({**UNKNOWN, "left_out": found})
    assert "frames left out" in text and "depth error" in text and "near views" not in text
    truth = SimpleNamespace(views=[], cameras=result.cameras, tracks_world=None, visible=None)
    assert set(evaluate(result, truth)) == set(UNKNOWN)
