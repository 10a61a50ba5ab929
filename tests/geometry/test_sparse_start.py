"""What ties frames together, and the closed-form poses that the alignment starts from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pair_scenes import ball_truth, exact_predictions
from torch import Tensor

from dyn4d.core.rotations import rotation_angle
from dyn4d.geometry.bundle_state import cross_matrix
from dyn4d.geometry.relative_pose import relative_poses
from dyn4d.geometry.sparse_problem import SparseProblem, condense
from dyn4d.geometry.sparse_start import _fits, pair_ties


def cloud(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points before a camera, the same in another one, and weights."""
    random = torch.Generator().manual_seed(seed)
    source = torch.randn(count, 3, generator=random, dtype=torch.float64) + torch.tensor([0.0, 0, 5])
    turn = torch.linalg.matrix_exp(cross_matrix(0.2 * torch.randn(3, generator=random, dtype=torch.float64)))
    target = 1.3 * source @ turn.T + torch.tensor([0.4, -0.2, 0.6])
    target += 0.01 * torch.randn(count, 3, generator=random, dtype=torch.float64)
    return source, target, 0.5 + torch.rand(count, generator=random, dtype=torch.float64)


def test_fits_of_many_pairs_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their lengths, and in whatever batches."""
    clouds = [cloud(count, seed) for seed, count in enumerate((4, 150, 30, 31, 7))]
    sources, targets, weights = (list(each) for each in zip(*clouds))
    monkeypatch.setattr("dyn4d.geometry.sparse_start.BATCH", 3)
    for together, alone in zip(_fits(sources, targets, weights), (_fits([s], [t], [w])[0] for s, t, w in clouds)):
        torch.testing.assert_close(together.R, alone.R)
        torch.testing.assert_close(together.t, alone.t)
        torch.testing.assert_close(together.scale, alone.scale)
    assert _fits([], [], []) == []


def test_wrong_points_hardly_pull() -> None:
    source, target, weight = cloud(200, 5)
    clean = _fits([source], [target], [weight])[0]
    spoilt = target.clone()
    spoilt[::4] = spoilt[::4].flip(0)
    found = _fits([source], [spoilt], [weight])[0]
    assert torch.rad2deg(rotation_angle(found.R, clean.R)) < 0.5
    assert float(found.scale) == pytest.approx(float(clean.scale), rel=0.01)


def ball_problem() -> tuple[SparseProblem, list]:
    scene = exact_predictions(ball_truth(3), scale_seed=1, noise=0.01, match_step=4)
    problem = condense(scene.frames, scene.results)
    return problem, relative_poses(scene.frames, problem.views, scene.results)


def test_poorly_explained_matches_tie_less() -> None:
    """As many matches, all of them a little off: the other pairs go first."""
    problem, _ = ball_problem()
    first = problem.pairs[0]
    shift = torch.tensor([4.0, 0.0]) * torch.sin(first.b.xy[:, 1:] / 3)
    off = replace(first, b=replace(first.b, xy=(first.b.xy + shift.round()).clamp(0.5, 47.5)))
    least = min(len(pair) for pair in problem.pairs)
    same = [pair.select(torch.arange(least)) for pair in (first, off)]
    scores = [pair_ties(replace(problem, pairs=(pair,)), [], 12)[0][0, 1] for pair in same]
    assert 12 < scores[1] < 0.97 * scores[0] and scores[0] <= least


def test_pairs_without_enough_matches_go_by_their_passes() -> None:
    problem, passes = ball_problem()
    few = tuple(pair.select(torch.arange(5)) for pair in problem.pairs)
    scores, by_points = pair_ties(replace(problem, pairs=few), passes, 12)
    assert by_points == [(0, 1), (0, 2), (1, 2)] and (scores[scores > 0] == 1).all()
    scores, by_points = pair_ties(replace(problem, pairs=few), [], 12)
    assert by_points == [] and (scores == 0).all()
