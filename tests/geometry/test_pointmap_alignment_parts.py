"""Parts of the alignment of pointmaps: the loss and its gradient, depth on rays, first values, graphs, settings."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pair_scenes import ball_truth, exact_predictions

from dyn4d.core.cameras import invert_rigid, pixel_grid, project
from dyn4d.core.errors import InputError
from dyn4d.core.rotations import weighted_similarity_fit, wxyz_to_matrix
from dyn4d.geometry import pointmap_search
from dyn4d.geometry.pair_results import PairFrame
from dyn4d.geometry.pointmap_config import PointmapConfig
from dyn4d.geometry.pointmap_depth import nearest_on_rays
from dyn4d.geometry.pointmap_initialisation import (
    initial_intrinsics,
    pnp_pose,
    procrustes,
)
from dyn4d.geometry.pointmap_problem import build_problem, connected_parts, pixel_weight, sanitise, usable_edges
from dyn4d.geometry.pointmap_search import pointmap_distance
from dyn4d.matching.image_size import InputView

CPU = torch.device("cpu")


def random_edges(frames: int = 3, edges: int = 5, pixels: int = 7) -> tuple[torch.Tensor, ...]:
    world = torch.randn(frames, 3, pixels, dtype=torch.float64)
    turn, shift = torch.randn(edges, 3, 3, dtype=torch.float64), torch.randn(edges, 3, dtype=torch.float64)
    points, weight = torch.randn(edges, 2, 3, pixels, dtype=torch.float64), torch.rand(edges, 2, pixels).double()
    weight[:, :, ::3] = 0
    ends = torch.stack([torch.arange(edges) % frames, (torch.arange(edges) + 1) % frames], -1)
    return world, turn, shift, points, weight, ends


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("at_a_time", [1, 10**6])
def test_distance_and_its_gradient(squared: bool, at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pointmap_search, "_AT_A_TIME", at_a_time)
    world, turn, shift, points, weight, ends = random_edges()
    expected = 0.0
    for e, pair in enumerate(ends.tolist()):
        for view, frame in enumerate(pair):
            length = (world[frame] - (turn[e] @ points[e, view] + shift[e, :, None])).norm(dim=0)
            expected += float((weight[e, view] * (length**2 if squared else length)).sum())
    found = pointmap_distance(world, turn, shift, points, weight, ends, squared=squared)
    assert float(found) == pytest.approx(expected)
    inputs = [value.requires_grad_() for value in (world, turn, shift)]
    assert torch.autograd.gradcheck(
        lambda w, r, t: pointmap_distance(w, r, t, points, weight, ends, squared=squared), inputs
    )


def test_points_without_weight_have_no_gradient() -> None:
    world, turn, shift, points, weight, ends = random_edges()
    world.requires_grad_()
    pointmap_distance(world, turn, shift, points, weight, ends).backward()
    assert world.grad is not None and (world.grad[:, :, ::3] == 0).all() and (world.grad[:, :, 1] != 0).all()


def test_a_perfect_fit_has_a_finite_gradient() -> None:
    world = torch.randn(2, 3, 5, requires_grad=True)
    points = torch.stack([world.detach(), world.detach().flip(0)])
    ends = torch.tensor([[0, 1], [1, 0]])
    loss = pointmap_distance(world, torch.eye(3).repeat(2, 1, 1), torch.zeros(2, 3), points, torch.ones(2, 2, 5), ends)
    loss.backward()
    assert float(loss.detach()) == 0 and world.grad is not None and (world.grad == 0).all()


@pytest.mark.parametrize("squared", [False, True])
def test_depth_along_rays_is_the_best(squared: bool) -> None:
    rays = torch.cat([torch.randn(6, 2) * 0.3, torch.ones(6, 1)], 1).double()
    points = rays * (3 + torch.randn(4, 6, 1).double() * 0.3) + 0.1 * torch.randn(4, 6, 3).double()
    weight = torch.rand(4, 6).double()
    weight[:, 0] = 0
    depth = nearest_on_rays(rays, points, weight, squared=squared)
    grid = torch.linspace(1, 5, 40001, dtype=torch.float64)
    distance = (grid[:, None, None, None] * rays - points).norm(dim=-1)  # (grid, E, P)
    best = grid[(weight * (distance**2 if squared else distance)).sum(1).argmin(0)]
    assert depth[0] == 0
    torch.testing.assert_close(depth[1:], best[1:], atol=2e-3, rtol=0)


def test_an_outlier_moves_no_depth_between_agreeing_passes() -> None:
    rays = torch.tensor([[0.1, -0.2, 1.0]])
    points = torch.stack([2 * rays, 2 * rays, 2 * rays, 50 * rays])
    assert float(nearest_on_rays(rays, points, torch.ones(4, 1))) == pytest.approx(2, rel=1e-3)


def test_sanitise_and_weights() -> None:
    points = torch.tensor([[1.0, 2, 3], [math.nan, 0, 1], [0, 0, math.inf], [1, 1, 1], [1, 1, 1]])
    clean, conf = sanitise(points, torch.tensor([2.0, 5, 5, math.nan, -1]))
    assert torch.isfinite(clean).all() and conf.tolist() == [2, 0, 0, 0, 0]
    values = torch.tensor([0.0, 0.5, 1.0, 4.0])
    assert pixel_weight(values, "log").tolist() == pytest.approx([0, 0, 0, math.log(4)])
    assert pixel_weight(values, "sqrt").tolist() == pytest.approx([0, 0.5**0.5, 1, 2])
    assert pixel_weight(values, "m1").tolist() == [0, 0, 0, 3] and pixel_weight(values, "id").tolist() == [0, 0.5, 1, 4]


def test_connected_parts() -> None:
    edges = torch.tensor([[5, 6], [0, 1], [1, 0], [3, 2], [2, 4]])
    assert connected_parts(8, edges) == [[2, 3, 4], [0, 1], [5, 6]]


def test_edges_with_few_pixels_are_not_used() -> None:
    truth = ball_truth(3)
    kept = truth.object_mask.copy()
    kept[1] = False
    kept[1, 20, 30:37] = True
    scene = exact_predictions(truth, kept=kept)
    problem = build_problem(scene.frames, scene.results, PointmapConfig(), CPU)
    used = usable_edges(problem, PointmapConfig())
    assert used.tolist() == [False, False, True, True, False, False]
    assert problem.select(used).edges.tolist() == [[0, 2], [2, 0]] and problem.select(used).ids.tolist() == [2, 3]


def test_subsample_is_the_same_pixels_in_all_edges() -> None:
    scene = exact_predictions(ball_truth(3))
    problem = build_problem(scene.frames, scene.results, PointmapConfig(max_points=50), CPU)
    assert [len(r) for r in problem.rows] == [50, 50, 50]
    for ends, points in zip(problem.edges.tolist(), problem.points):
        for frame, seen in zip(ends, points):  # the camera of the edge's first frame
            K, pose = scene.truth.K[frame], scene.truth.world_from_cam
            in_frame = (invert_rigid(pose[frame]) @ pose[ends[0]])[None]
            at, _ = project(K[None], in_frame, seen.T[None].double())
            torch.testing.assert_close(at[0], problem.xy[frame].double(), atol=1e-3, rtol=0)


def test_focal_lengths_of_views_of_another_scale() -> None:
    """Half of the picture's size along x, a third along y: K follows, with square pixels of the picture."""
    scene = exact_predictions(ball_truth(2))
    view = InputView((128, 144), (0, 0, 128, 144), (64, 48), (0, 0, 64, 48))
    stretched = [replace(f, view=view) for f in scene.frames]
    results = scene.results
    for config in (PointmapConfig(), PointmapConfig(shared_intrinsics=True)):
        problem = build_problem(stretched, results, config, CPU)
        K = initial_intrinsics(problem, stretched, torch.full((2, 3, 3), math.nan, dtype=torch.float64), config)
        torch.testing.assert_close(K[:, 0, 0] / K[:, 1, 1], torch.full((2,), 1.5, dtype=torch.float64))
    source = InputView((200, 100), (0, 0, 64, 48), (64, 48), (0, 0, 64, 48))
    aside = [PairFrame(source, f.image, f.kept, f.matched) for f in scene.frames]
    problem = build_problem(aside, results, PointmapConfig(), CPU)
    known = torch.full((2, 3, 3), math.nan, dtype=torch.float64)
    K = initial_intrinsics(problem, aside, known, PointmapConfig(principal_point="source"))
    assert K[0, :2, 2].tolist() == [100, 50]


def test_procrustes_uses_only_points_of_weight() -> None:
    source = torch.randn(20, 3, dtype=torch.float64)
    R, t = wxyz_to_matrix(torch.randn(4, dtype=torch.float64)), torch.randn(3, dtype=torch.float64)
    target = 2.5 * source @ R.T + t
    target[10:] = 1e6
    weights = torch.rand(20, dtype=torch.float64) + 0.1
    weights[10:] = 0
    fit = procrustes(source, target, weights)
    assert fit is not None
    for found, wanted in zip(fit, (R, t, torch.tensor(2.5, dtype=torch.float64))):
        torch.testing.assert_close(found, wanted)
    assert procrustes(source, target, torch.zeros(20)) is None
    assert procrustes(torch.zeros(20, 3).double(), target, weights) is None
    batch = weighted_similarity_fit(source.expand(2, 20, 3), target.expand(2, 20, 3), weights.expand(2, 20))
    torch.testing.assert_close(batch[0][1], R)


def test_pnp_finds_the_camera_among_outliers() -> None:
    truth = ball_truth(1)
    points, xy = truth.world_points(0)[::5], pixel_grid(*truth.size, dtype=torch.float64).reshape(-1, 2)[::5]
    points = points.clone()
    points[::9] += torch.randn(len(points[::9]), 3, dtype=torch.float64)
    pose = pnp_pose(points, xy, truth.K[0], 0)
    assert pose is not None
    torch.testing.assert_close(pose, truth.world_from_cam[0], atol=0.05, rtol=0)
    assert pnp_pose(points[:4], xy[:4], truth.K[0], 0) is None
    assert pnp_pose(points[:1].expand(30, 3), xy[:30], truth.K[0], 0) is None


def test_settings_are_checked() -> None:
    for wrong in (
        {"distance": "l3"}, {"iterations": -1}, {"lr": 0.0}, {"lr_min": 1.0}, {"max_points": 3}, {"schedule": "none"},
    ):  # fmt: skip
        with pytest.raises(InputError, match=rf"pointmaps\.(lr|{next(iter(wrong))})"):
            PointmapConfig(**wrong)  # type: ignore[arg-type]


def test_exact_scene_is_consistent() -> None:
    """The scenes of these tests: true matches see the same point, in bounds and inside the masks."""
    truth = ball_truth(3)
    scene = exact_predictions(truth, kept=truth.object_mask)
    for result in scene.results:
        assert len(result.xy_a) > 10
        width = truth.size[1]
        ends = [truth.world_points(f)[xy[:, 1] * width + xy[:, 0]]
                for f, xy in ((result.frame_a, result.xy_a), (result.frame_b, result.xy_b))]  # fmt: skip
        assert float((ends[0] - ends[1]).norm(dim=-1).median()) < 0.1
        for f, xy in ((result.frame_a, result.xy_a), (result.frame_b, result.xy_b)):
            assert truth.object_mask[f][xy[:, 1].numpy(), xy[:, 0].numpy()].all()
    assert np.isfinite(truth.depth.numpy()).all()
