"""Tracks after the fit: visible where the depth says so, trusted where the matches are met."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dyn4d.core.types import Camera, FramePoints, LiftedPairs
from dyn4d.deformation.field import TrajectoryField
from dyn4d.deformation.tracks import DOUBTFUL, HIDDEN, SEEN, Tracks, carry, find_evidence, find_sight, make_tracks
from dyn4d.io import artifacts

SIZE, FRAMES = 40, 3


def cameras(count: int = FRAMES) -> Camera:
    """At the origin, looking along z: a point (x, y, 4) is at pixel 20 + 10 x, 20 + 10 y."""
    K = torch.tensor([[40.0, 0, 20], [0, 40.0, 20], [0, 0, 1]]).double().expand(count, 3, 3).clone()
    return Camera(K, torch.eye(4).double().expand(count, 4, 4).clone(), SIZE, SIZE)


def wall(count: int = FRAMES) -> FramePoints:
    """A wall at z = 4 in the pixels from 10 to 29, and in frame 1 a bar before it at z = 3, columns 18 to 21."""
    parts = []
    for frame in range(count):
        rows, columns = (v.ravel() for v in np.mgrid[10:30, 10:30])
        z = np.where((frame == 1) & (columns >= 18) & (columns < 22), 3.0, 4.0)
        xy = np.stack([columns, rows], -1) + 0.5
        xyz = np.concatenate([(xy - 20) / 40 * z[:, None], z[:, None]], -1)
        parts.append((xyz, np.full(len(xy), frame), xy))
    xyz, frame, xy = (torch.from_numpy(np.concatenate(c)) for c in zip(*parts, strict=True))
    count = len(xyz)
    return FramePoints(xyz.float(), torch.rand(count, 3), torch.zeros(count, 3), frame, xy.float(), torch.ones(count))


def masks(count: int = FRAMES) -> list[np.ndarray]:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[10:30, 10:30] = True
    return [mask] * count


POINTS = torch.tensor([
    [0.0, 0.0, 4.0],  # on the wall; behind the bar in frame 1
    [0.8, 0.0, 4.0],  # on the wall
    [0.4, 0.0, 2.0],  # before the wall
    [1.5, 0.0, 4.0],  # beside the object
    [0.0, 0.0, -4.0],  # behind the camera
    [9.0, 0.0, 4.0],  # outside the picture
])  # fmt: skip


@pytest.mark.parametrize("with_masks", [True, False])
def test_points_are_seen_hidden_or_doubtful(with_masks: bool) -> None:
    sight = find_sight(
        POINTS.expand(FRAMES, -1, -1), wall(), cameras(), frames=np.arange(FRAMES),
        masks=masks() if with_masks else None,
    )  # fmt: skip
    assert sight.visible[0].tolist() == [True, True, True, False, False, False]
    assert sight.visible[1].tolist() == [False, True, True, False, False, False]
    wanted = torch.tensor([SEEN, SEEN, DOUBTFUL, DOUBTFUL, HIDDEN, HIDDEN])
    assert torch.equal(sight.placement[0], wanted) and sight.placement[1, 0] == HIDDEN


def test_frames_without_pose_or_left_out_tell_nothing() -> None:
    some = cameras()
    some.world_from_cam[1] = float("nan")
    sight = find_sight(POINTS.expand(5, -1, -1), wall(), some, frames=np.array([0, 2, 4]), masks=masks())
    assert sight.visible.any(1).tolist() == [True, False, False, False, True]
    assert (sight.placement[1:4] == HIDDEN).all()


def test_an_empty_mask_shows_nothing() -> None:
    nothing = [np.zeros((SIZE, SIZE), bool)] * FRAMES
    points = wall().select(torch.zeros(0, dtype=torch.int64))
    sight = find_sight(POINTS.expand(FRAMES, -1, -1), points, cameras(), frames=np.arange(FRAMES), masks=nothing)
    assert not sight.visible.any() and (sight.placement == HIDDEN).all()


def still_pairs(miss: float, frames: tuple[int, int] = (0, 1)) -> LiftedPairs:
    """Matches on the wall that move by `miss` along x where x > 0; the field stands still."""
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 15), torch.linspace(-1, 1, 15), torch.tensor([4.0]))
    count = len(grid)
    moved = grid + miss * (grid[:, :1] > 0) * torch.tensor([1.0, 0, 0])
    return LiftedPairs(
        torch.full((count,), frames[0]), torch.full((count,), frames[1]), grid, moved, torch.ones(count)
    )  # fmt: skip


def test_evidence_falls_where_matches_are_missed() -> None:
    xyz = torch.tensor([[-0.5, 0.0, 4.0], [0.5, 0.0, 4.0], [0.0, 0.0, 40.0]]).expand(FRAMES, -1, -1)
    found = find_evidence(
        TrajectoryField.still(), xyz, still_pairs(0.1), np.linspace(0, 1, FRAMES), 5.0, frames=np.arange(FRAMES)
    )
    assert found.min() >= 0 and found.max() <= 1
    torch.testing.assert_close(found[:, 0], torch.ones(FRAMES))
    torch.testing.assert_close(found[:2, 1], torch.full((2,), 0.2))  # 0.1 of 5 is 2 %: 1 / (1 + 2^2)
    torch.testing.assert_close(found[2, 1], torch.tensor(0.2))  # frame 2 has no matches: as in the last that has
    torch.testing.assert_close(found[:, 2], torch.full((FRAMES,), 0.5))  # none anywhere near


def test_between_frames_with_matches_evidence_is_interpolated() -> None:
    xyz = torch.tensor([[0.5, 0.0, 4.0]]).expand(5, -1, -1)
    found = find_evidence(
        TrajectoryField.still(), xyz, still_pairs(0.0), np.array([0.0, 1.0]), 5.0, frames=np.array([0, 4])
    )
    torch.testing.assert_close(found, torch.ones(5, 1))
    nothing = find_evidence(TrajectoryField.still(), xyz, None, np.array([0.0, 1.0]), 5.0, frames=np.array([0, 4]))
    torch.testing.assert_close(nothing, torch.full((5, 1), 0.5))


def test_made_tracks_stand_where_they_were_seen_and_come_back_from_the_file(tmp_path) -> None:
    times = np.linspace(0, 1, FRAMES)
    tracks = make_tracks(
        TrajectoryField.still(), wall(), cameras(), frames=np.arange(FRAMES), frame_times=times, all_times=times,
        count=200, seed=1, masks=masks(), pairs=still_pairs(0.0),
    )  # fmt: skip
    assert tracks.xyz.shape == (FRAMES, 200, 3) and tracks.conf.shape == tracks.visible.shape == (FRAMES, 200)
    assert tracks.conf.min() >= 0 and tracks.conf.max() <= 1 and tracks.visible.dtype == torch.bool
    own = tracks.frame_first, torch.arange(200)
    assert tracks.visible[own].all() and (tracks.conf[own] == SEEN).all()
    again = make_tracks(
        TrajectoryField.still(), wall(), cameras(), frames=np.arange(FRAMES), frame_times=times, all_times=times,
        count=200, seed=1, masks=masks(), pairs=still_pairs(0.0),
    )  # fmt: skip
    assert torch.equal(tracks.xyz, again.xyz) and torch.equal(tracks.conf, again.conf)
    artifacts.save(tmp_path / "tracks.npz", tracks)
    assert torch.equal(artifacts.load(tmp_path / "tracks.npz", Tracks).visible, tracks.visible)


def test_one_frame() -> None:
    tracks = make_tracks(
        TrajectoryField.still(), wall(1), cameras(1), frames=np.zeros(1, int), frame_times=np.zeros(1),
        all_times=np.zeros(1), count=50, seed=0, masks=masks(1),
    )  # fmt: skip
    assert tracks.visible.all() and (tracks.conf == 1).all()


def test_points_are_carried_from_their_own_times() -> None:
    class Sliding:
        invertible = True

        def from_canonical(self, xyz, t):
            return xyz + torch.tensor([1.0, 0, 0]) * t

        def to_canonical(self, xyz, t):
            return xyz - torch.tensor([1.0, 0, 0]) * t

        def jacobian(self, xyz, t):
            return torch.eye(3).expand(*xyz.shape, 3)

        def motion(self, xyz, t):
            return self.from_canonical(xyz, t), self.jacobian(xyz, t)

    found = carry(Sliding(), torch.zeros(2, 3), torch.tensor([0.0, 1.0]), np.array([0.0, 0.5, 1.0]))
    assert found[..., 0].tolist() == [[0.0, -1.0], [0.5, -0.5], [1.0, 0.0]]
