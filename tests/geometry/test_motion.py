"""How far points move against the cameras: rigid and not, drawn and exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dyn4d.core.cameras import project, unproject
from dyn4d.core.types import Camera, Clip, Correspondences, FramePoints
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.motion import MOVES, PointMotion, score_motion
from dyn4d.geometry.rgbd import frames_from_depth, join_frames
from dyn4d.geometry.sources import solve_geometry
from dyn4d.io import artifacts
from dyn4d.io.clips import load_clip
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow import match_clip
from dyn4d.synthetic import build_scene, write_scene
from dyn4d.synthetic.scene import Scene

MATCHING = MatchingConfig(window=3, strides=(), max_per_pair=800, threads=1)
HEIGHT, WIDTH, FOCAL = 40, 60, 80.0
BORDER = 30  # of the exact scene's two halves: pixel columns from here on move


# ------------------------------------------------------------------------------------- drawn scenes


def drawn(scene: Scene, folder: Path, frames: str) -> Clip:
    write_scene(scene, folder, truth=False)
    return load_clip(folder / "clip", frames=frames)


def test_a_rigid_object_that_holds_the_cameras_does_not_move(tmp_path: Path) -> None:
    clip = drawn(build_scene("turntable", frames=24, size=128), tmp_path, "0:8:2")
    matches = match_clip(clip, MATCHING)
    given = solve_geometry(clip, GeometryConfig(), matching=MATCHING)
    turning = score_motion(given.points, given.cameras, matches)
    held = solve_geometry(clip, GeometryConfig(anchor="object"), matching=MATCHING)
    still = score_motion(held.points, held.cameras, matches)
    assert still.known() > 0.9 and turning.known() > 0.9
    assert float(still.residual.nanmedian()) < 0.5
    assert float(turning.residual.nanmedian()) > 4 * float(still.residual.nanmedian())
    assert still.moving() < 0.05 < 0.3 < turning.moving()


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """How often a positive scores above a negative."""
    rank = np.empty(len(scores))
    rank[np.argsort(scores)] = np.arange(1, len(scores) + 1)
    count = int(positive.sum())
    return (rank[positive].sum() - count * (count + 1) / 2) / (count * (len(scores) - count))


def test_the_one_part_that_moves_stands_out(tmp_path: Path) -> None:
    """A creature that stands still but for its head, which nods; the camera goes round it."""
    scene = build_scene("creature", frames=24, size=160)
    rest, shape = scene.model.rest, scene.shapes[0]
    head = rest[:, 0] > 0.26
    pivot = shape[head & (rest[:, 0] < 0.28)].mean(axis=0)
    shapes = []
    for time in scene.times:
        angle = 0.8 * np.sin(2 * np.pi * float(time))
        turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        shapes.append(np.where(head[:, None], (shape - pivot) @ turn.T + pivot, shape))
    scene = replace(scene, shapes=shapes)
    clip = drawn(scene, tmp_path, "0:7")
    result = frames_from_depth(clip, GeometryConfig())
    motion = score_motion(result.points, result.cameras, match_clip(clip, MATCHING))

    column, row = result.points.xy.floor().long().numpy().T
    faces = np.stack([scene.draw(int(frame)).face for frame in clip.frames])
    face = faces[result.points.frame.numpy(), row, column]
    moves = np.asarray(head[scene.model.faces].all(axis=1))[face]
    scores, known = motion.residual.numpy(), np.isfinite(motion.residual.numpy())
    assert known.mean() > 0.9 and 0.05 < moves.mean() < 0.6
    assert auc(scores[known], moves[known]) > 0.95
    middle = [float(np.nanmedian(scores[part])) for part in (moves, ~moves)]
    assert middle[0] > 5 * middle[1] and middle[1] < 0.5


# -------------------------------------------------------------------------------------- exact scenes


def wall(frames: int, *, sideways: float = 0.05) -> tuple[FramePoints, Camera]:
    """A slanted wall, one point a pixel, as each frame of a camera sees it that moves `sideways` by so much a frame."""
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]], dtype=torch.float64)
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    poses[:, 0, 3] = sideways * torch.arange(frames)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    depth = torch.from_numpy(2 + 0.01 * x.ravel())
    xy = torch.from_numpy(np.stack([x.ravel(), y.ravel()], -1))
    parts = []
    for f in range(frames):
        xyz = unproject(K, poses[f], xy, depth)
        none = torch.zeros(len(xy), 3)
        parts.append(
            FramePoints(xyz.float(), none, none, torch.zeros(len(xy), dtype=torch.int64), xy.float(), none[:, 0] + 1)
        )
    return join_frames(parts), Camera(K.expand(frames, 3, 3).clone(), poses, WIDTH, HEIGHT)


def exact_matches(
    points: FramePoints, cameras: Camera, pairs: list[tuple[int, int]], moving: float, step: int = 1
) -> Correspondences:
    """Where each `step`-th point of a is seen in b; right of `BORDER` `moving` px a frame further down."""
    parts = []
    for a, b in pairs:
        mine = points.select(points.frame == a)
        rows = torch.arange(0, len(mine), step)
        there, _ = project(cameras.K[b], cameras.cam_from_world[b], mine.xyz[rows].double())
        start = mine.xy[rows]
        there[:, 1] += moving * (b - a) * (start[:, 0] > BORDER)
        inside = ((there > 0) & (there < torch.tensor([WIDTH, HEIGHT]))).all(-1)
        count = int(inside.sum())
        parts.append(
            Correspondences(
                torch.full((count,), a), torch.full((count,), b), start[inside], there[inside].float(),
                torch.ones(count),
            )
        )  # fmt: skip
    return Correspondences.concatenate(parts)


def both_ways(frames: int, reach: int) -> list[tuple[int, int]]:
    return sorted((a, b) for a in range(frames) for b in range(frames) if 0 < abs(a - b) <= reach)


def test_the_score_is_in_pixels_of_the_picture() -> None:
    points, cameras = wall(2)
    motion = score_motion(points, cameras, exact_matches(points, cameras, [(0, 1), (1, 0)], moving=3.0))
    first = motion.residual[points.frame == 0].reshape(HEIGHT, WIDTH)
    assert first.dtype == torch.float32
    assert torch.allclose(first[:-4, 2 : BORDER - 2], torch.zeros(()), atol=1e-3)
    assert torch.allclose(first[:-4, BORDER + 2 :], torch.tensor(3.0), atol=1e-3)
    assert torch.equal(motion.gap.nan_to_num(1.0), torch.ones(len(points)))


def test_the_median_survives_a_partner_full_of_wrong_matches() -> None:
    points, cameras = wall(5, sideways=0.02)
    matches = exact_matches(points, cameras, both_ways(5, 4), moving=0.0)
    wrong = (matches.frame_a == 2) & (matches.frame_b == 3)
    noise = 20 * torch.rand(len(matches), 2, generator=torch.Generator().manual_seed(0))
    spoiled = replace(matches, xy_b=torch.where(wrong[:, None], (matches.xy_b + noise).clamp(1, 39), matches.xy_b))
    motion = score_motion(points, cameras, spoiled)
    assert float(motion.residual[points.frame == 2].nanmedian()) < 0.01
    assert motion.moving() < 0.05


def test_a_match_that_starts_beside_the_pixel_centre_is_no_motion() -> None:
    points, cameras = wall(2)
    matches = exact_matches(points, cameras, [(0, 1)], moving=0.0)
    aside = torch.tensor([0.4, -0.3])
    moved = replace(matches, xy_a=matches.xy_a + aside, xy_b=matches.xy_b + aside)
    assert float(score_motion(points, cameras, moved).residual.nan_to_num(0).max()) < 0.01


def test_far_partners_count_only_where_there_are_no_near_ones() -> None:
    points, cameras = wall(12, sideways=0.01)
    near, far = both_ways(12, 2), [(0, 11), (0, 10)]
    motion = score_motion(points, cameras, exact_matches(points, cameras, sorted(near + far), 0.5), reach=3)
    assert float(motion.gap.nan_to_num(0).max()) <= 2
    lonely = score_motion(points, cameras, exact_matches(points, cameras, far, 0.5), reach=3)
    known = torch.isfinite(lonely.residual)
    assert set(points.frame[known].tolist()) == {0, 10, 11}
    assert set(lonely.gap[known & (points.frame == 0)].tolist()) == {10.0}  # not 11, which is further
    assert torch.allclose(lonely.residual[known & (points.xy[:, 0] > BORDER + 8)].max(), torch.tensor(5.5), atol=0.51)


def test_neighbours_are_filled_on_the_same_surface_only() -> None:
    points, cameras = wall(2, sideways=0.0)
    # the right half is moved one unit back: another surface, a jump in depth at the border
    back = points.xy[:, 0] > BORDER
    rays = points.xyz / points.xyz[:, 2:]
    points = replace(points, xyz=torch.where(back[:, None], points.xyz + rays, points.xyz))
    matches = exact_matches(points, cameras, [(0, 1)], moving=0.0, step=3)
    left = matches.select(matches.xy_a[:, 0] <= BORDER)
    motion = score_motion(points, cameras, left)
    known = torch.isfinite(motion.residual).reshape(2, HEIGHT, WIDTH)
    assert known[:, :, :BORDER].double().mean() > 0.95
    assert not known[:, :, BORDER:].any()
    flat, cameras = wall(2, sideways=0.0)  # the same matches on one wall go over the border, but not far
    filled = torch.isfinite(score_motion(flat, cameras, left).residual).reshape(2, HEIGHT, WIDTH)
    assert filled[:, :, BORDER].all() and not filled[:, :, BORDER + 10 :].any()


def test_frames_without_points_or_pose_say_nothing() -> None:
    points, cameras = wall(4)
    matches = exact_matches(points, cameras, both_ways(4, 3), moving=0.0)
    poses = cameras.world_from_cam.clone()
    poses[3] = torch.nan
    motion = score_motion(points.select(points.frame != 1), replace(cameras, world_from_cam=poses), matches)
    frames = points.frame[points.frame != 1]
    known = torch.isfinite(motion.residual)
    assert len(motion) == len(frames) and known[frames == 0].double().mean() > 0.9
    assert not known[frames == 3].any()
    assert float(motion.residual[known].max()) < 0.01


@pytest.mark.parametrize("frames", [1, 3])
def test_no_matches(frames: int) -> None:
    points, cameras = wall(frames)
    motion = score_motion(points, cameras, Correspondences.empty())
    assert len(motion) == len(points) and torch.isnan(motion.residual).all() and torch.isnan(motion.gap).all()
    assert "not known" in motion.note() and motion.known() == 0 and np.isnan(motion.moving())
    nothing = score_motion(points.select(points.frame > 9), cameras, Correspondences.empty())
    assert len(nothing) == 0 and "not known" in nothing.note()


def test_matches_outside_the_picture_or_of_a_frame_with_itself_are_ignored() -> None:
    points, cameras = wall(2)
    odd = Correspondences(
        torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), torch.tensor([[5.5, 5.5], [-3.0, 5.0], [7.5, 7.5]]),
        torch.tensor([[9.5, 5.5], [5.5, 5.5], [7.5, float(HEIGHT)]]), torch.ones(3),
    )  # fmt: skip
    assert torch.isnan(score_motion(points, cameras, odd).residual).all()


def test_the_note_and_the_file(tmp_path: Path) -> None:
    motion = PointMotion(torch.tensor([0.1, 3.0, 5.0, torch.nan]), torch.tensor([2.0, 2.0, 2.0, torch.nan]))
    assert motion.moving() == pytest.approx(2 / 3) and motion.known() == 0.75
    assert "67% of the object's points" in motion.note()
    assert f"{MOVES:g} px between two matched frames, 2.0 frames apart" in motion.note()
    few = PointMotion(torch.tensor([0.1, torch.nan, torch.nan]), torch.tensor([1.0, torch.nan, torch.nan]))
    assert "only 33%" in few.note()
    artifacts.save(tmp_path / "motion.npz", motion)
    back = artifacts.load(tmp_path / "motion.npz", PointMotion)
    assert torch.equal(back.residual.nan_to_num(-1), motion.residual.nan_to_num(-1))
    with pytest.raises(ValueError, match=r"PointMotion\.gap"):
        PointMotion(torch.zeros(3), torch.zeros(4))
