"""The world of known poses, and the first camera's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dyn4d.core.rotations import rotation_angle
from dyn4d.geometry.bundle_state import BundleState, cross_matrix
from dyn4d.geometry.world_frame import at_home, fit_world, in_known_world, scene_depth, with_known_poses


def poses(count: int, spread: float = 1.0, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    turn = torch.linalg.matrix_exp(cross_matrix(torch.randn(count, 3, generator=random).double()))
    out = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    out[:, :3, :3], out[:, :3, 3] = turn, spread * torch.randn(count, 3, generator=random).double()
    return out


def moved(pose: Tensor, scale: float = 2.5) -> tuple[Tensor, Tensor, Tensor]:
    """In another world: the poses, and that world's R and t."""
    R = torch.linalg.matrix_exp(cross_matrix(torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64)))
    t = torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64)
    out = pose.clone()
    out[:, :3, :3], out[:, :3, 3] = R @ pose[:, :3, :3], scale * pose[:, :3, 3] @ R.T + t
    return out, R, t


def noisy(pose: Tensor, degrees: float, shift: float, seed: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    turn = torch.deg2rad(torch.tensor(degrees)) / 3**0.5 * torch.randn(len(pose), 3, generator=random).double()
    out = pose.clone()
    out[:, :3, :3] = out[:, :3, :3] @ torch.linalg.matrix_exp(cross_matrix(turn))
    out[:, :3, 3] += shift / 3**0.5 * torch.randn(len(pose), 3, generator=random).double()
    return out


def state_of(pose: Tensor) -> BundleState:
    count, no = len(pose), torch.zeros(len(pose), dtype=torch.bool)
    one = torch.ones(count, dtype=torch.float64)
    return BundleState(
        pose, one, 100 * one, 100 * one, torch.zeros(count, 2).double(), torch.ones(count, 2).double(),
        tuple(torch.zeros(1).double() for _ in range(count)), ~no, no, no,
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_an_exact_similarity_is_found(count: int) -> None:
    found, size = poses(count), 1.0 if count == 1 else 2.5  # one camera says nothing of the size
    known, R, t = moved(found, size)
    fit = fit_world(found, known, 4.0)
    torch.testing.assert_close(fit.R, R)
    assert fit.size == pytest.approx(size) and (fit.scale is None) == (count == 1)
    torch.testing.assert_close(fit.t, t)
    assert fit.agrees.all()


def test_noise_is_averaged() -> None:
    found = poses(40)
    known, R, _ = moved(found)
    fit = fit_world(found, noisy(known, 1.0, 0.025), 4.0)  # 1 degree, 1 % of how far the centres are spread
    assert torch.rad2deg(rotation_angle(fit.R, R)) < 0.4 and fit.agrees.all()
    assert fit.scale is not None and float(fit.scale) == pytest.approx(2.5, rel=0.005)


def test_wild_poses_do_not_matter_and_are_named() -> None:
    found = poses(9)
    known, R, _ = moved(found)
    known = noisy(known, 1.0, 0.025)
    known[[2, 5, 7]] = poses(3, 1e4, seed=3)
    fit = fit_world(found, known, 4.0)
    assert torch.rad2deg(rotation_angle(fit.R, R)) < 1
    assert fit.scale is not None and float(fit.scale) == pytest.approx(2.5, rel=0.03)
    assert fit.agrees.tolist() == [n not in (2, 5, 7) for n in range(9)]


def test_centres_in_one_place_do_not_say_the_scale() -> None:
    """Neither do those whose distances are all noise; the lengths then stay those of the network."""
    found = poses(6, spread=1e-5)
    known, R, t = moved(found)
    fit = fit_world(found, known, 4.0)
    assert fit.scale is None
    torch.testing.assert_close(fit.R, R)
    torch.testing.assert_close(fit.t, t, atol=1e-3, rtol=0)
    found = poses(6, spread=0.02)
    other = poses(6, spread=0.02, seed=9)
    known = found.clone()
    known[:, :3, 3] = 50 * other[:, :3, 3]
    assert fit_world(found, known, 4.0).scale is None
    assert fit_world(found[:1], known[:1], 4.0).scale is None


def test_what_is_begun_with() -> None:
    state = state_of(poses(6))
    known, _, _ = moved(state.world_from_cam)
    known[3] = torch.nan
    known[4] = poses(1, 100.0, seed=4)[0]
    begun, odd = with_known_poses(state, known, 4.0, fix=False)
    assert odd == [4] and not begun.fixed_pose.any()
    rows = [0, 1, 2, 5]
    assert torch.equal(begun.world_from_cam[rows], known[rows])
    torch.testing.assert_close(begun.world_from_cam[4], moved(state.world_from_cam)[0][4])
    kept, odd = with_known_poses(state, known, 4.0, fix=True)
    assert odd == [4] and kept.fixed_pose.tolist() == [True, True, True, False, True, True]
    assert torch.equal(kept.world_from_cam[4], known[4])
    torch.testing.assert_close(begun.scale, 2.5 * state.scale)
    nothing = torch.full_like(known, torch.nan)
    assert with_known_poses(state, nothing, 4.0, fix=True) == (state, [])


def test_a_noisy_first_pose_does_not_turn_the_world() -> None:
    state = state_of(poses(20))
    known, R, _ = moved(state.world_from_cam)
    out = in_known_world(state, noisy(known, 1.0, 0.02), 4.0)
    assert torch.rad2deg(rotation_angle(out.world_from_cam[0, :3, :3], R @ state.world_from_cam[0, :3, :3])) < 0.6


def test_home_and_depth() -> None:
    state = replace(state_of(poses(3)), active=torch.tensor([False, True, True]), scale=torch.tensor([9.0, 2, 8]))
    home = at_home(state)
    torch.testing.assert_close(home.world_from_cam[1], torch.eye(4, dtype=torch.float64))
    assert float(home.scale[1:].log().mean()) == pytest.approx(0)
    depths = [torch.tensor([100.0]), torch.tensor([1.0, 3, 4]), torch.tensor([])]
    assert scene_depth(state, depths) == 6
    assert scene_depth(state, [torch.tensor([])] * 3) == 1
