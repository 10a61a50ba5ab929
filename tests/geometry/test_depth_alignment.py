"""Poses from depth and flow, held by the background or by the object; the truth is a drawn scene's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dyn4d.core.errors import InputError
from dyn4d.core.rotations import rigid_fit, rotation_angle
from dyn4d.core.types import Camera, Clip
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.depth_alignment import choose_anchor, solve_depth_poses
from dyn4d.geometry.sources import solve_geometry
from dyn4d.io.clips import load_clip
from dyn4d.matching.config import MatchingConfig

MATCHING = MatchingConfig(window=2, strides=(), max_per_pair=400)


def drawn(folder: Path, name: str, background: str) -> tuple[Clip, torch.Tensor]:
    """A clip of a few frames, and the object's true tracks (T, N, 3)."""
    from dyn4d.synthetic import build_scene, write_scene

    write_scene(build_scene(name, frames=24, size=128, background=background), folder)
    clip = load_clip(folder / "clip", frames="0:8:2")
    with np.load(folder / "truth" / "tracks.npz") as data:
        tracks = torch.from_numpy(data["tracks_world"]).double()[torch.from_numpy(clip.frames)]
    return clip, tracks


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return drawn(tmp_path_factory.mktemp("room"), "creature", "room")[0]


@pytest.fixture(scope="module")
def turntable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, torch.Tensor]:
    return drawn(tmp_path_factory.mktemp("turntable"), "turntable", "grey")


def without_poses(clip: Clip) -> Clip:
    assert clip.cameras is not None
    unknown = torch.full_like(clip.cameras.world_from_cam, torch.nan)
    return replace(clip, cameras=replace(clip.cameras, world_from_cam=unknown), poses_given=False)


def errors(found: Camera, true: torch.Tensor) -> tuple[float, float]:
    """Degrees and world units, with the first cameras laid on one another: the unit is that of the depth."""
    move = true[0] @ torch.linalg.inv(found.world_from_cam[0])
    ours = move @ found.world_from_cam
    turned = torch.rad2deg(rotation_angle(ours[:, :3, :3], true[:, :3, :3]))
    return float(turned.max()), float((ours[:, :3, 3] - true[:, :3, 3]).norm(dim=-1).max())


def test_the_background_holds_the_cameras(room: Clip) -> None:
    assert room.cameras is not None
    assert choose_anchor(room, "auto")[0] == "background"
    found = solve_depth_poses(without_poses(room), MATCHING)
    turned, moved = errors(found.cameras, room.cameras.world_from_cam.double())
    travelled = float((room.cameras.world_from_cam[-1] - room.cameras.world_from_cam[0])[:3, 3].norm())
    assert turned < 0.15 and moved < 0.01 < travelled / 10
    assert torch.equal(found.cameras.K, room.cameras.K) and "on the background" in found.notes[0]


def test_the_object_holds_the_cameras(turntable: tuple[Clip, torch.Tensor]) -> None:
    clip, tracks = turntable
    assert clip.cameras is not None and choose_anchor(clip, "auto")[0] == "object"
    true = clip.cameras.world_from_cam.double().clone()
    for row in range(len(clip)):
        motion = torch.eye(4, dtype=torch.float64)
        motion[:3, :3], motion[:3, 3] = rigid_fit(tracks[0], tracks[row])
        true[row] = torch.linalg.inv(motion) @ true[row]
    assert float(rotation_angle(true[0, :3, :3], true[-1, :3, :3])) > 0.5  # it does turn
    found = solve_depth_poses(without_poses(clip), MATCHING)
    turned, moved = errors(found.cameras, true)
    size = float((tracks.flatten(0, 1).amax(0) - tracks.flatten(0, 1).amin(0)).max())
    assert turned < 1.0 and moved < 0.02 * size


def test_a_run_without_poses_gets_points_in_one_world(room: Clip) -> None:
    """A wall point that all frames see has one place."""
    result = solve_geometry(without_poses(room), GeometryConfig(), matching=MATCHING)
    given = solve_geometry(room, GeometryConfig(), matching=MATCHING)
    assert result.poses_solved and not given.poses_solved
    assert len(result.points) == len(given.points)
    assert room.cameras is not None
    move = room.cameras.world_from_cam[0].double() @ torch.linalg.inv(result.cameras.world_from_cam[0])
    ours = result.points.xyz.double() @ move[:3, :3].T + move[:3, 3]
    assert float((ours - given.points.xyz.double()).norm(dim=-1).median()) < 0.01


def test_given_poses_are_kept_unless_the_object_is_to_hold_them(turntable: tuple[Clip, torch.Tensor]) -> None:
    clip, _ = turntable
    assert clip.cameras is not None
    kept = solve_geometry(clip, GeometryConfig(), matching=MATCHING)
    assert torch.equal(kept.cameras.world_from_cam, clip.cameras.world_from_cam)
    solved = solve_geometry(clip, GeometryConfig(anchor="object"), matching=MATCHING)
    assert solved.poses_solved


def test_a_frame_without_the_object_is_left_out(turntable: tuple[Clip, torch.Tensor]) -> None:
    clip = without_poses(turntable[0])
    masks = [np.asarray(clip.masks[row]).copy() for row in range(len(clip))]
    masks[-1][:] = False
    found = solve_depth_poses(replace(clip, masks=masks), MATCHING, anchor="object")
    assert found.cameras.registered.tolist() == [True] * (len(clip) - 1) + [False]
    assert any("could not be placed" in note and clip.names[-1] in note for note in found.notes)


def test_nothing_to_tie_is_one_clear_error(turntable: tuple[Clip, torch.Tensor]) -> None:
    clip = without_poses(turntable[0])
    nothing = [np.zeros((clip.height, clip.width), np.float32)] * len(clip)
    with pytest.raises(InputError, match="no two frames have 30 matches on the object; give poses"):
        solve_depth_poses(replace(clip, depth=nothing), MATCHING, anchor="object")
    with pytest.raises(InputError, match="depth maps and K"):
        solve_depth_poses(replace(clip, depth=None), MATCHING)
