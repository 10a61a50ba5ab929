"""Poses from depth and flow, held by the background or by the object; the truth is a drawn scene's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dyn4d.core.cameras import project, unproject
from dyn4d.core.errors import InputError
from dyn4d.core.rotations import rigid_fit, rotation_angle
from dyn4d.core.types import Camera, Clip
from dyn4d.geometry.bundle_state import cross_matrix
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.depth_alignment import choose_anchor, solve_depth_poses
from dyn4d.geometry.depth_cameras import select_rows
from dyn4d.geometry.depth_problem import LEAST_ALIKE, depth_views, rigid_share
from dyn4d.geometry.region_flow import Regions, pose_matching
from dyn4d.geometry.sources import solve_geometry
from dyn4d.geometry.sparse_problem import MatchedEnds, PairMatches
from dyn4d.io.clips import load_clip
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.pairs import pair_graph

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


def painted(clip: Clip, paint: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Clip:
    """With other pictures: `paint` makes (H, W, 3) of a picture and its mask."""
    pictures = [
        paint(np.asarray(clip.images[n]).copy(), np.asarray(clip.masks[n], dtype=bool)) for n in range(len(clip))
    ]
    return replace(clip, images=pictures)


def known_errors(found: Camera, true: torch.Tensor) -> tuple[float, float]:
    """Degrees and world units in the world of the true poses, nothing laid on anything."""
    turned = torch.rad2deg(rotation_angle(found.world_from_cam[:, :3, :3], true[:, :3, :3]))
    return float(turned.max()), float((found.world_from_cam[:, :3, 3] - true[:, :3, 3]).norm(dim=-1).max())


def noisy_poses(true: torch.Tensor, degrees: float, far: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    out = true.double().clone()
    turn = torch.randn(len(true), 3, generator=generator, dtype=torch.float64) * np.deg2rad(degrees) / 3**0.5
    out[:, :3, :3] = out[:, :3, :3] @ torch.linalg.matrix_exp(cross_matrix(turn))
    out[:, :3, 3] += torch.randn(len(true), 3, generator=generator, dtype=torch.float64) * far / 3**0.5
    return out


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
    assert found.anchor == "background"
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


def test_what_has_no_texture_holds_nothing(room: Clip) -> None:
    """The flow says that a painted wall stands still in the picture, there and back alike."""

    def flat(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.where(mask[..., None], picture, np.uint8(128))

    bare = painted(without_poses(room), flat)
    anchor, why = choose_anchor(bare, "auto")
    assert anchor == "object" and "texture covers 0%" in why
    with pytest.raises(InputError, match=r"matches on the background .*--geometry\.anchor object"):
        solve_depth_poses(bare, MATCHING, anchor="background")


def test_only_the_textured_part_of_the_background_counts(room: Clip) -> None:
    assert room.cameras is not None

    def half(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
        wall = ~mask
        wall[:, : mask.shape[1] // 2] = False
        return np.where(wall[..., None], np.uint8(128), picture)

    found = solve_depth_poses(painted(without_poses(room), half), MATCHING)
    turned, moved = errors(found.cameras, room.cameras.world_from_cam.double())
    assert found.anchor == "background" and turned < 0.3 and moved < 0.02


def test_a_flow_that_was_lost_ties_nothing(room: Clip) -> None:
    """Nothing moves in the picture, it says; the depths say otherwise."""
    far = load_clip(room.source, frames="0:23:22")
    assert far.cameras is not None
    K, true = far.cameras.K.double(), far.cameras.world_from_cam.double()
    views, maps = depth_views(far, Regions(far, "background"))
    rows = torch.from_numpy(np.flatnonzero((maps[0] >= 0) & (maps[1] >= 0)))[::7]
    pixels = torch.stack([rows % far.width, rows // far.width], -1).double() + 0.5

    def ends(frame: int, xy: torch.Tensor) -> MatchedEnds:
        at = torch.from_numpy(maps[frame])[xy[:, 1].long(), xy[:, 0].long()]
        return MatchedEnds(xy, views[frame].anchor[at], views[frame].ratio[at])

    still = PairMatches(0, 1, ends(0, pixels), ends(1, pixels), torch.ones(len(rows)).double())
    depth = views[0].anchor_depth[still.a.anchor] * still.a.ratio
    seen, _ = project(K[1], torch.linalg.inv(true[1]), unproject(K[0], true[0], pixels, depth))
    inside = ((seen >= 0) & (seen < torch.tensor([far.width, far.height]))).all(-1)
    inside &= torch.from_numpy(maps[1])[seen[:, 1].long().clamp(0, 127), seen[:, 0].long().clamp(0, 127)] >= 0
    right = PairMatches(0, 1, ends(0, pixels[inside]), ends(1, seen[inside]), torch.ones(int(inside.sum())).double())
    assert rigid_share(still, views, K) < LEAST_ALIKE < 0.7 < rigid_share(right, views, K)


def test_auto_takes_the_object_where_the_background_cannot_be_matched(room: Clip) -> None:
    random = np.random.default_rng(0)

    def snow(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.where(mask[..., None], picture, random.integers(0, 255, picture.shape, dtype=np.uint8))

    clip = painted(without_poses(room), snow)
    found = solve_depth_poses(clip, MATCHING)
    assert found.anchor == "object" and bool(found.cameras.registered.all())
    assert "on the object (the background places 0% of the frames)" in found.notes[0]


def test_a_single_frame_claims_no_matches(room: Clip) -> None:
    alone = select_rows(without_poses(room), [0])
    found = solve_depth_poses(alone, MATCHING)
    torch.testing.assert_close(found.cameras.world_from_cam[0], torch.eye(4, dtype=torch.float64))
    assert found.notes == ("poses: there is a single frame: its camera is the world",)


def test_frames_without_a_pose_are_solved_in_the_world_of_the_others(room: Clip) -> None:
    assert room.cameras is not None
    true = room.cameras.world_from_cam.double()
    holes = true.clone()
    holes[2] = torch.nan
    some = replace(room, cameras=replace(room.cameras, world_from_cam=holes))
    result = solve_geometry(some, GeometryConfig(), matching=MATCHING)
    assert not result.poses_solved and 2 in result.points.frame.tolist()
    assert torch.equal(result.cameras.world_from_cam[[0, 1, 3]], true[[0, 1, 3]])
    turned, moved = known_errors(result.cameras, true)
    assert turned < 0.15 and moved < 0.01
    assert "those of 1 frames, which have none, solved" in result.notes[0]


def test_a_pose_that_cannot_be_solved_is_left_out(turntable: tuple[Clip, torch.Tensor]) -> None:
    """The object turns: what holds the given cameras does not show."""
    clip, _ = turntable
    assert clip.cameras is not None
    holes = clip.cameras.world_from_cam.clone()
    holes[2] = torch.nan
    some = replace(clip, cameras=replace(clip.cameras, world_from_cam=holes))
    result = solve_geometry(some, GeometryConfig(), matching=MATCHING)
    assert result.cameras.registered.tolist() == [True, True, False, True] and not result.poses_solved
    assert "1 frames have none, and none is solved" in result.notes[0] and "the object moves" in result.notes[0]


def test_refined_poses_are_better_and_stay_in_their_world(room: Clip) -> None:
    assert room.cameras is not None
    true = room.cameras.world_from_cam.double()
    rough = noisy_poses(true, 0.5, 0.03)
    clip = replace(room, cameras=replace(room.cameras, world_from_cam=rough))
    result = solve_geometry(clip, GeometryConfig(poses="refine"), matching=MATCHING)
    assert result.poses_solved and "the given ones refined" in result.notes[0]
    before, after = errors(clip.cameras, true), errors(result.cameras, true)  # type: ignore[arg-type]
    assert after[0] < 0.15 and after[1] < 0.01 and before[0] > 2 * after[0] and before[1] > 2 * after[1]
    turned, moved = known_errors(result.cameras, true)  # the world is off by the mean error of the given poses
    assert turned < 0.5 and moved < 0.03
    solved = solve_geometry(clip, GeometryConfig(poses="solve"), matching=MATCHING)
    torch.testing.assert_close(solved.cameras.world_from_cam[0], torch.eye(4, dtype=torch.float64))


def test_poses_in_another_unit_are_told(room: Clip) -> None:
    assert room.cameras is not None
    true = room.cameras.world_from_cam.double()
    large = true.clone()
    large[:, :3, 3] *= 3
    found = solve_depth_poses(room, MATCHING, world_from_cam=large)
    assert any("a length of the depth is 3 of the given poses" in note for note in found.notes)
    assert errors(found.cameras, true)[1] < 0.01  # in the depth's own unit


@pytest.mark.slow
def test_a_rendered_clip_of_someone_else(reference: Path) -> None:
    """Cameras withheld: within 2 % of the object's size and one degree of the true ones."""
    clip = load_clip(reference / "data" / "gt_horse_room", frames="0:12:2")
    assert clip.cameras is not None
    found = solve_depth_poses(without_poses(clip))
    assert found.anchor == "background" and bool(found.cameras.registered.all())
    turned, moved = errors(found.cameras, clip.cameras.world_from_cam.double())
    assert turned < 1 and moved < 0.02 * 1.6  # the horse's size; it says so in its README


def test_poses_take_few_pairs_of_long_clips() -> None:
    """Linear in the frames, and the flow is the one that was asked for."""
    asked = MatchingConfig(window=6, max_per_pair=2500, min_size=200, patch_size=6)
    used = pose_matching(asked)
    assert (used.min_size, used.patch_size, used.max_per_pair) == (200, 6, 300)
    assert len(pair_graph(48, used.window, used.strides)) == 47 + 44 + 40 + 32
    assert pose_matching(MatchingConfig(max_per_pair=50)).max_per_pair == 50


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
    with pytest.raises(InputError, match=r"no two frames have 30 matches on the object that fit .*; give poses"):
        solve_depth_poses(replace(clip, depth=nothing), MATCHING, anchor="object")
    with pytest.raises(InputError, match="depth maps and K"):
        solve_depth_poses(replace(clip, depth=None), MATCHING)
