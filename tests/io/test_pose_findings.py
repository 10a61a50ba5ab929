"""Poses that are written the wrong way round or with other axes are named; right ones, and doubtful cases, are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from dyn4d.core.types import Clip
from dyn4d.io.check import Finding, inspect_clip
from dyn4d.io.clips import load_clip
from dyn4d.synthetic import build_scene, write_scene

FRAMES = 16
GL = np.diag([1.0, -1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """A creature in a room, the camera going round it."""
    scene = build_scene("creature", frames=FRAMES, size=96, background="room")
    clip = load_clip(write_scene(scene, tmp_path_factory.mktemp("poses"), truth=False).clip)
    assert clip.depth is not None
    return replace(clip, images=list(clip.images), masks=list(clip.masks), depth=list(clip.depth))


def posed(clip: Clip, change: Callable[[np.ndarray], np.ndarray]) -> Clip:
    assert clip.cameras is not None
    poses = torch.from_numpy(np.ascontiguousarray(change(clip.cameras.world_from_cam.numpy())))
    return replace(clip, cameras=replace(clip.cameras, world_from_cam=poses))


def about_poses(clip: Clip) -> list[Finding]:
    return [f for f in inspect_clip(clip) if f.kind == "poses"]


@pytest.mark.parametrize(
    ("change", "text", "remedy"),
    [
        (np.linalg.inv, "camera-to-world (", "its inverse"),
        (lambda poses: poses @ GL, "OpenGL's camera axes", "diag(1, -1, -1, 1) @ w2c"),
        (lambda poses: np.linalg.inv(poses @ GL), "camera-to-world with OpenGL's camera axes", "invert it"),
    ],
)
def test_wrong_poses_are_errors_that_say_what_fits(clean: Clip, change: Callable, text: str, remedy: str) -> None:
    found = about_poses(posed(clean, change))
    assert [f.severity for f in found] == ["error"]
    assert text in found[0].text and remedy in found[0].remedy


def test_right_poses_are_not_doubted_whatever_the_unit_of_depth(clean: Clip) -> None:
    assert clean.depth is not None
    for factor in (1.0, 0.2, 5.0):
        assert about_poses(replace(clean, depth=[one * factor for one in clean.depth])) == []


def test_poses_that_move_while_the_camera_stands_still(clean: Clip) -> None:
    assert clean.depth is not None
    same = replace(clean, images=[clean.images[0]] * FRAMES, masks=[clean.masks[0]] * FRAMES,
                   depth=[clean.depth[0]] * FRAMES)  # fmt: skip
    found = about_poses(same)
    assert len(found) == 1 and "the camera stands still" in found[0].text
    assert about_poses(posed(same, lambda poses: np.repeat(poses[:1], FRAMES, axis=0))) == []


def test_an_object_that_moves_by_itself_tells_nothing_sure(clean: Clip) -> None:
    """Without depth of the background no motion, or the inverse, may fit a moving object better than right poses."""
    assert clean.depth is not None
    alone = replace(clean, depth=[np.where(mask, depth, 0) for mask, depth in zip(clean.masks, clean.depth)])
    assert about_poses(alone) == []
    still = [alone.depth[0]] * FRAMES if alone.depth is not None else None
    assert about_poses(replace(alone, masks=[clean.masks[0]] * FRAMES, depth=still)) == []


def test_frames_without_poses_are_left_out(clean: Clip) -> None:
    def unknown(poses: np.ndarray) -> np.ndarray:
        poses = np.linalg.inv(poses)
        poses[1::5] = np.nan
        return poses

    assert len(about_poses(posed(clean, unknown))) == 1
