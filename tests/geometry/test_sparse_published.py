"""The published sparse alignment: its formulas, the published figures, and clips that are not as they should be."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair_scenes import (
    PairScene,
    ball_truth,
    exact_predictions,
    golden_predictions,
    turning_truth,
)
from torch import Tensor

from dyn4d.core.errors import InputError, RunError
from dyn4d.core.rotations import rotation_angle, similarity_fit, wxyz_to_matrix
from dyn4d.geometry.canonical import CanonicalView
from dyn4d.geometry.depth_basis import spectral_basis
from dyn4d.geometry.kinematic import unmatched_views
from dyn4d.geometry.pair_results import PairResult, PairResultList
from dyn4d.geometry.sparse_losses import PackedMatches, SceneUnknowns, falling_rate, gamma_loss
from dyn4d.geometry.sparse_problem import MatchedEnds, PairMatches, SparseProblem, condense
from dyn4d.geometry.sparse_published import PublishedAlignment, PublishedConfig, align_published

QUICK = PublishedConfig(coarse_steps=200, fine_steps=50, optimise_depth=False, optimise_pp=False)
SHORT = replace(QUICK, coarse_steps=30, fine_steps=20)


def condensed(scene: PairScene) -> SparseProblem:
    """Principal points as published: (W / 2, H / 2) where pixel centres are at integers."""
    pp = torch.tensor([[frame.width / 2 + 0.5, frame.height / 2 + 0.5] for frame in scene.frames])
    return condense(scene.frames, scene.results, principal_points=pp)


def errors(scene: PairScene, problem: SparseProblem, found: PublishedAlignment) -> dict[str, np.ndarray]:
    """Of registered frames, as in the report of the published code: after a similarity that is fitted to the centres of
    the cameras and to points one unit along their axes."""
    rows = found.registered.nonzero()[:, 0].tolist()
    cam, true, scale = found.world_from_cam[rows], scene.truth.world_from_cam[rows], 1.0
    R, t = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for _ in range(5):  # the unit is one of the truth
        ends = [torch.cat([pose[:, :3, 3], pose[:, :3, 3] + pose[:, :3, 2]]) for pose in (cam, true)]
        R, t, step = similarity_fit(*ends)
        cam[:, :3, 3] *= step
        scale *= float(step)
    off = torch.cat([(found.depth(problem, i) * scale / scene.kept_depth(i) - 1).abs() for i in rows])
    return {
        "scale": np.array(scale),
        "rot_err_deg": torch.rad2deg(rotation_angle(R @ cam[:, :3, :3], true[:, :3, :3])).numpy(),
        "cam_center_err": (cam[:, :3, 3] @ R.T + t - true[:, :3, 3]).norm(dim=-1).numpy(),
        "focals": found.K[:, 0, 0].numpy(),
        "depth_absrel_median": off.median().numpy(),
        "depth_absrel_mean": off.mean().numpy(),
        "depth_frac_gt5pct": (off > 0.05).double().mean().numpy(),
    }


def check_quality(scene: PairScene, problem: SparseProblem, found: PublishedAlignment, *, deg: float, rel: float):
    """Rotations to `deg`, centres to 3 `rel` of the baseline, depths to `rel`."""
    off = errors(scene, problem, found)
    assert off["rot_err_deg"].max() < deg
    assert off["cam_center_err"].max() < 3 * rel * scene.truth.baseline
    assert off["depth_absrel_median"] < rel


def with_result(scene: PairScene, index: int, **changes: Tensor) -> PairScene:
    results = list(scene.results)
    results[index] = replace(results[index], **changes)
    return replace(scene, results=PairResultList(tuple(results)))


def without_matches(result: PairResult) -> dict[str, Tensor]:
    return {"xy_a": result.xy_a[:0], "xy_b": result.xy_b[:0], "weight": result.weight[:0]}


@pytest.fixture(scope="module")
def ball() -> PairScene:
    return exact_predictions(ball_truth(4, 48, 64))


# The formulas


@pytest.mark.parametrize("gamma", [0.4, 0.5, 1, 1.1, 1.5])
def test_robust_losses_are_the_published_ones(reference: Path, gamma: float) -> None:
    with np.load(reference / "golden" / "misc.npz") as data:
        distance = torch.from_numpy(data["gamma/x"]).double().norm(dim=-1)
        wanted = torch.from_numpy(data[f"gamma/{gamma:g}"]).double()
    torch.testing.assert_close(gamma_loss(distance, gamma), wanted, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.1, 1.5])
def test_robust_losses_start_at_0_with_slope_1(gamma: float) -> None:
    at = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = gamma_loss(at, gamma)
    (slope,) = torch.autograd.grad(value, at)
    assert float(value.detach()) == 0
    assert float(slope) == pytest.approx(1)


def test_schedules(reference: Path) -> None:
    with np.load(reference / "golden" / "misc.npz") as data:
        wanted = data["sched/cos"]
    np.testing.assert_allclose([falling_rate("cosine", step, 10, 0.07) for step in range(11)], wanted, atol=1e-12)
    assert [falling_rate("linear", step, 4, 2.0) for step in range(5)] == [2, 1.5, 1, 0.5, 0]


SIZE = (40, 24)
PARENTS = [0, 0, 1]


def random_unknowns(depth_mode: str, exp_depth: bool, shared: bool) -> SceneUnknowns:
    K = torch.tensor([[[60.0 + 4 * i, 0, 19 + i], [0, 62, 12], [0, 0, 1]] for i in range(3)], dtype=torch.float64)
    depths = [2 + torch.rand(4, dtype=torch.float64) for _ in range(3)]
    scene = SceneUnknowns(
        K, torch.tensor([SIZE] * 3).double(), depths, PARENTS, fixed=torch.tensor([False, False, True]),
        shared=torch.tensor([1.0, 3.0, 9.0]).double() if shared else None,
        depth_mode=depth_mode, exp_depth=exp_depth,  # type: ignore[arg-type]
    )  # fmt: skip
    with torch.no_grad():
        for value in scene.parameters():
            value += 0.1 * torch.randn_like(value)
    return scene


def point_by_hand(scene: SceneUnknowns, shared: bool, frame: int, anchor: int, ratio: float, u: float, v: float):
    """World point of one pixel, its camera's centre, rotation, focal lengths and principal point; spelt out."""
    width, height = SIZE
    first_f = 60.0 + 4 * frame
    aspect = 62 / first_f
    row = 0 if shared else frame
    f = math.exp(float(scene.log_focal[row])) if frame < 2 else first_f
    ppx, ppy = [float(x) for x in scene.pp[row]] if frame < 2 else [(19 + frame) / width, 12 / height]
    sizes = [math.exp(float(x)) for x in scene.log_size]
    s, g, m = sizes[frame], 1 / min(sizes), float(scene.median[frame])
    z = s * m * f / first_f
    R, t = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    path = {0: [0], 1: [0, 1], 2: [0, 1, 2]}[frame]
    for each in path:
        t = R @ scene.translation[each] + t
        R = R @ wxyz_to_matrix(scene.quats[each])
    arm = torch.tensor([width / f * (0.5 - ppx), height / (f * aspect) * (0.5 - ppy), 1.0], dtype=torch.float64)
    centre = g * (t - R @ (z * arm))
    c = float(scene.core[4 * frame + anchor])
    c = math.exp(c) if scene.exp_depth else c
    D = g * (z + (c - 1) * m * s) if scene.depth_mode == "add" else g * z * c
    depth = D * (1 + (ratio - 1) * first_f / f)
    ray = torch.tensor([(u - ppx * width) / f, (v - ppy * height) / (f * aspect), 1.0], dtype=torch.float64)
    return R @ ray * depth + centre, centre, R, (f, f * aspect), (ppx * width, ppy * height)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("depth_mode", "exp_depth"), [("add", False), ("mul", False), ("mul", True), ("add", True)])
def test_losses_are_the_formulas_spelt_out(depth_mode: str, exp_depth: bool, shared: bool) -> None:
    scene = random_unknowns(depth_mode, exp_depth, shared)
    pairs = []
    for a, b in ((5, 3), (8, 3)):  # frames of the clip that are 1, 0 and 2 here
        end_a, end_b = (
            MatchedEnds(
                torch.rand(6, 2, dtype=torch.float64) * torch.tensor(SIZE) + 0.5, torch.randint(0, 4, (6,)),
                0.8 + 0.4 * torch.rand(6, dtype=torch.float64),
            )
            for _ in range(2)
        )  # fmt: skip
        pairs.append(PairMatches(a, b, end_a, end_b, 0.5 + torch.rand(6, dtype=torch.float64)))
    local = {3: 0, 5: 1, 8: 2}
    matches = PackedMatches.pack(pairs, local, [0, 4, 8])
    space, pixels, total = 0.0, 0.0, 0.0
    with torch.no_grad():
        for pair in pairs:
            for row in range(len(pair)):
                seen = []
                for frame, end in ((local[pair.frame_a], pair.a), (local[pair.frame_b], pair.b)):
                    u, v = (end.xy[row] - 0.5).tolist()
                    anchor, ratio = int(end.anchor[row]), float(end.ratio[row])
                    seen.append((point_by_hand(scene, shared, frame, anchor, ratio, u, v), u, v))
                weight = float(pair.weight[row])
                total += weight
                space += weight * float(gamma_loss((seen[0][0][0] - seen[1][0][0]).norm(), 1.5))
                for mine, other in (seen, seen[::-1]):
                    (_, centre, R, focal, pp), u, v = mine
                    x, y, z = (R.T @ (other[0][0] - centre)).tolist()
                    z = max(z, 1e-3)
                    at = (min(max(focal[k] * value / z + pp[k], -1000), 2000) for k, value in enumerate((x, y)))
                    apart = math.dist((u, v), tuple(at))
                    pixels += weight * float(gamma_loss(torch.tensor(apart, dtype=torch.float64), 0.5)) / 2
        state = scene()
        assert float(matches.distance_loss(state, 1.5)) == pytest.approx(space / total, rel=1e-11)
        assert float(matches.pixel_loss(state, 0.5)) == pytest.approx(pixels / total, rel=1e-11)


def test_a_start_from_poses_is_those_poses() -> None:
    scene = random_unknowns("add", False, False)
    with torch.no_grad():
        scene.log_size.zero_()
    rotation = wxyz_to_matrix(torch.randn(3, 4, dtype=torch.float64))
    centre = torch.randn(3, 3, dtype=torch.float64)
    with torch.no_grad():  # what the searches begin with
        scene.log_focal.copy_(scene.first_focal.log())
    scene.place(rotation, centre)
    state = scene()
    torch.testing.assert_close(state.rotation.detach(), rotation)
    torch.testing.assert_close(state.centre.detach(), centre)
    rotation[1], centre[1] = torch.nan, torch.nan  # in the place of its parent, then
    scene.place(rotation, centre)
    torch.testing.assert_close(scene().rotation[[0, 2]].detach(), rotation[[0, 2]])
    torch.testing.assert_close(scene().rotation[1].detach(), rotation[0])


# The published figures


Golden = tuple[PairScene, SparseProblem, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def golden(reference: Path) -> Golden:
    scene = golden_predictions(reference)
    return scene, condensed(scene), json.loads((reference / "golden" / "sga_report.json").read_text())


# The stored descriptors are rounded to half precision, which moves a handful of the 4,236 matches. Over six roundings
# first losses are 1.0887 to 1.0903 and last ones vary by 0.2 %; the published figures lie within what was found, and
# the tolerances are about twice as wide as that.
LOOSE = {
    "scale": 0.005, "rot_err_deg": 0.3, "cam_center_err": 0.01, "focals": 0.8, "depth_absrel_median": 0.001,
    "depth_absrel_mean": 0.002, "depth_frac_gt5pct": 0.005,
}  # fmt: skip
CLOSE = {
    "scale": 0.002, "rot_err_deg": 0.06, "cam_center_err": 0.004, "focals": 0.2, "depth_absrel_median": 4e-4,
    "depth_absrel_mean": 5e-4, "depth_frac_gt5pct": 1e-4,
}  # fmt: skip
CASES = {
    "code_default": (PublishedConfig(), LOOSE),
    "mst": (PublishedConfig(tree="mst"), LOOSE),
    "shared": (PublishedConfig(shared_intrinsics=True), LOOSE),
    "refine_nodepth": (PublishedConfig(optimise_depth=False), CLOSE),
    "coarse": (PublishedConfig(fine_steps=0), CLOSE),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_published_figures(golden: Golden, case: str) -> None:
    scene, problem, report = golden
    wanted, (config, tolerances) = report[f"noisy/{case}"], CASES[case]
    found = align_published(problem, config)
    first, last = wanted["loss_first_last"]
    assert found.losses[0] == pytest.approx(first, rel=1e-3)
    assert found.losses[1 if case == "coarse" else 3] == pytest.approx(last, rel=2e-3)
    measured = errors(scene, problem, found)
    for name, tolerance in tolerances.items():
        np.testing.assert_allclose(measured[name], wanted[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.slow
def test_other_rates_and_exponents(golden: Golden) -> None:
    """Those published in July 2024."""
    _, problem, report = golden
    config = PublishedConfig(coarse_lr=0.2, coarse_steps=500, coarse_gamma=1.1, fine_steps=0, tree="mst")
    wanted = report["noisy/july2024"]["loss_first_last"][:2]
    np.testing.assert_allclose(align_published(problem, config).losses[:2], wanted, rtol=2e-3)


def test_pointmaps_alone(golden: Golden) -> None:
    """The published code ends at 2.2 to 2.9 degrees and 3.4 % here."""
    scene, problem, _ = golden
    config = PublishedConfig(min_match_conf=1e6, fine_steps=0)
    views = unmatched_views(problem, scene.frames, scene.results, min_match_conf=1e6)
    assert len(views) == 12
    found = align_published(problem, config, unmatched=views)
    check_quality(scene, problem, found, deg=1.0, rel=0.01)
    assert found.losses[1] < 0.2 * found.losses[0] < 0.01


# Clips as they come


def test_a_perfect_scene(ball: PairScene) -> None:
    problem = condensed(ball)
    found = align_published(problem, QUICK)
    check_quality(ball, problem, found, deg=0.6, rel=0.006)  # matches are whole pixels, of 0.8 degrees
    assert bool(found.registered.all())
    torch.testing.assert_close(found.world_from_cam[0], torch.eye(4, dtype=torch.float64))
    np.testing.assert_allclose(found.K[:, 0, 0], ball.truth.K[:, 0, 0], rtol=0.02)
    torch.testing.assert_close(found.K[:, :2, 2], problem.principal_points)
    assert float(found.scale.min()) == pytest.approx(1)


def test_principal_points_move(ball: PairScene) -> None:
    found = align_published(condensed(ball), replace(QUICK, optimise_pp=True))
    moved = (found.K[:, :2, 2] - ball.truth.K[:, :2, 2]).abs()
    assert 0.01 < float(moved.max()) < 2


def test_repeats_to_the_bit(ball: PairScene) -> None:
    config = replace(QUICK, coarse_steps=40, fine_steps=40, optimise_depth=True)
    one, other = (align_published(condensed(ball), config) for _ in range(2))
    torch.manual_seed(5)
    third = align_published(condensed(ball), config)
    for found in (other, third):
        assert torch.equal(one.world_from_cam, found.world_from_cam)
        assert torch.equal(one.K, found.K)
        assert all(torch.equal(a, b) for a, b in zip(one.anchor_depth, found.anchor_depth))
        assert one.losses == found.losses


@pytest.mark.parametrize("exp_depth", [False, True])
def test_low_rank_depths(ball: PairScene, exp_depth: bool) -> None:
    """The change of a frame's anchor depths is a combination of the basis, and of nothing else."""
    problem = condensed(ball)
    config = replace(
        QUICK, coarse_steps=60, fine_steps=60, optimise_depth=True, depth_rank=3, depth_mode="mul", exp_depth=exp_depth
    )
    found = align_published(problem, config)
    for view, depth in zip(problem.views, found.anchor_depth):
        relative = depth / view.anchor_depth
        change = relative.log() if exp_depth else (relative - relative.mean()) * view.anchor_depth
        basis = torch.cat([spectral_basis(view, 3), *([] if exp_depth else [view.anchor_depth[:, None]])], 1)
        left = change - basis @ torch.linalg.lstsq(basis, change[:, None]).solution[:, 0]
        assert change.abs().max() > 1e-4 and left.abs().max() < 1e-9
    assert (found.depth(problem, 0) > 0).all()
    check_quality(ball, problem, found, deg=2.0, rel=0.03)


def test_the_basis_of_depths(ball: PairScene) -> None:
    view = condensed(ball).views[0]
    count = len(view.anchor_depth)
    basis = spectral_basis(view, 5)
    torch.testing.assert_close(basis.T @ basis / count, torch.eye(5, dtype=torch.float64), atol=1e-9, rtol=0)
    assert basis[:, 0].std() < 1e-6  # the smoothest moves all alike
    few = select_anchors(view, torch.arange(2))
    assert spectral_basis(few, 5)[:, 2:].count_nonzero() == 0 and spectral_basis(few, 2).abs().min() > 0
    assert spectral_basis(select_anchors(view, torch.arange(0)), 2).shape == (0, 2)


def test_large_bases_are_the_same(ball: PairScene, monkeypatch: pytest.MonkeyPatch) -> None:
    view = condensed(ball).views[0]
    small = spectral_basis(view, 4)
    monkeypatch.setattr("dyn4d.geometry.depth_basis.DENSE", 0)
    large = spectral_basis(view, 4)
    torch.testing.assert_close((small * large).mean(0).abs(), torch.ones(4, dtype=torch.float64), atol=1e-6, rtol=0)
    assert torch.equal(large, spectral_basis(view, 4))


def select_anchors(view: CanonicalView, rows: Tensor) -> CanonicalView:
    """The view of these anchors alone."""
    at = torch.searchsorted(view.pixels, view.anchor_pixels[rows])
    return replace(
        view, pixels=view.pixels[at], points=view.points[at], conf=view.conf[at], anchor=torch.arange(len(rows)),
        ratio=view.ratio[at], anchor_pixels=view.anchor_pixels[rows], anchor_depth=view.anchor_depth[rows],
    )  # fmt: skip


def test_one_pair() -> None:
    scene = exact_predictions(ball_truth(2, 48, 64, arc_deg=15))
    problem = condensed(scene)
    found = align_published(problem, QUICK)
    check_quality(scene, problem, found, deg=2.5, rel=0.015)


def test_masks_keep_the_background_out() -> None:
    """A random half of the pixels; whatever was said of the others has no influence at all."""
    half = np.random.default_rng(0).random((4, 48, 64)) < 0.5
    scenes = [exact_predictions(ball_truth(), kept=half, background=value, match_step=4) for value in (None, -1e6)]
    one, other = (align_published(condensed(scene), QUICK) for scene in scenes)
    assert torch.equal(one.world_from_cam, other.world_from_cam)
    check_quality(scenes[0], condensed(scenes[0]), one, deg=0.6, rel=0.006)
    assert [len(one.depth(condensed(scenes[0]), t)) for t in range(4)] == half.sum((1, 2)).tolist()


def test_the_turning_ball_in_its_own_frame(reference: Path) -> None:
    truth = turning_truth(reference)
    scene = exact_predictions(truth, kept=truth.object_mask)
    problem = condensed(scene)
    found = align_published(problem, PublishedConfig(fine_steps=0))
    check_quality(scene, problem, found, deg=0.5, rel=0.006)  # published, matches filtered: 0.3 to 0.4, 0.0066


def test_a_pair_without_matches(ball: PairScene) -> None:
    scene = with_result(ball, 0, **without_matches(ball.results[0]))
    problem = condensed(scene)
    found = align_published(problem, QUICK)
    check_quality(scene, problem, found, deg=1.2, rel=0.01)
    views = unmatched_views(problem, scene.frames, scene.results)
    assert [(view.frame, view.camera) for view in views] == [(1, 0), (0, 1)]
    with_pointmaps = align_published(problem, QUICK, unmatched=views)
    check_quality(scene, problem, with_pointmaps, deg=1.2, rel=0.01)
    assert with_pointmaps.losses[0] > found.losses[0]
    ignored = align_published(problem, replace(QUICK, pointmap_weight=0.0), unmatched=views)
    assert torch.equal(ignored.world_from_cam, found.world_from_cam)


def test_frames_apart() -> None:
    scene = exact_predictions(ball_truth(5), pairs=[(1, 4), (1, 2), (2, 4), (0, 3)])
    problem = condensed(scene)
    found = align_published(problem, SHORT)
    assert found.registered.tolist() == [False, True, True, False, True]
    assert bool(found.world_from_cam[[0, 3]].isnan().all())
    assert bool(found.world_from_cam[[1, 2, 4]].isfinite().all())
    assert bool(found.K.isfinite().all())
    assert len(found.anchor_depth[0]) == len(found.anchor_depth[3]) == 0
    assert float(found.depth(problem, 3).abs().sum()) == 0
    torch.testing.assert_close(found.world_from_cam[1], torch.eye(4, dtype=torch.float64))
    others = align_published(problem, SHORT, frames=[3, 0])
    assert others.registered.tolist() == [True, False, False, True, False]
    alone = align_published(problem, SHORT, frames=[2])
    torch.testing.assert_close(alone.depth(problem, 2), problem.views[2].points[:, 2])
    assert alone.losses == (0, 0, 0, 0)


def test_one_frame_and_none() -> None:
    scene = exact_predictions(ball_truth(2), pairs=[])
    nothing = condense(scene.frames[:1], PairResultList(()))
    found = align_published(nothing, SHORT)
    torch.testing.assert_close(found.world_from_cam, torch.eye(4, dtype=torch.float64)[None])
    assert float(found.K[0, 0, 0]) == pytest.approx(64 / (2 * math.tan(math.radians(30))))
    with pytest.raises(RunError, match="none of 0 pairs has a match surer than 5"):
        align_published(condense(scene.frames, PairResultList(())), SHORT)


def test_a_frame_without_pixels() -> None:
    kept = np.ones((3, 48, 64), dtype=bool)
    kept[1] = False
    scene = exact_predictions(ball_truth(3, arc_deg=30), kept=kept)
    found = align_published(condensed(scene), SHORT)
    assert found.registered.tolist() == [True, False, True]
    assert len(found.depth(condensed(scene), 1)) == 0


# What is known


def test_known_intrinsics_stay_or_begin(ball: PairScene) -> None:
    problem = condensed(ball)
    K = ball.truth.K.clone()
    K[0, 0, 0], K[0, 1, 1], K[0, 0, 2] = 75.0, 74.0, 31.0
    K[1:3] = torch.nan
    found = align_published(problem, SHORT, K=K)
    torch.testing.assert_close(found.K[[0, 3]], K[[0, 3]], rtol=1e-12, atol=1e-12)
    assert found.K[1, 0, 0] != found.K[2, 0, 0]
    shared = align_published(problem, replace(SHORT, shared_intrinsics=True), K=K)
    torch.testing.assert_close(shared.K[0], K[0], rtol=1e-12, atol=1e-12)
    assert torch.equal(shared.K[1], shared.K[2])
    begun = align_published(problem, replace(SHORT, fix_intrinsics=False), K=K)
    assert abs(float(begun.K[0, 0, 0]) - 75.0) > 0.05
    assert float(begun.K[0, 1, 1] / begun.K[0, 0, 0]) == pytest.approx(74 / 75)


def test_known_poses_are_the_start_and_the_world(ball: PairScene) -> None:
    problem = condensed(ball)
    true = ball.truth.world_from_cam.clone()
    true[:, :3, 3] *= 7  # a world of other units
    found = align_published(problem, replace(QUICK, coarse_steps=0, fine_steps=0), world_from_cam=true)
    torch.testing.assert_close(found.world_from_cam, true)
    assert found.scale == pytest.approx([7.0] * 4, rel=0.02)
    assert found.losses[0] < 0.05
    some = true.clone()
    some[2] = torch.nan
    found = align_published(problem, QUICK, world_from_cam=some)
    assert (found.world_from_cam[:, :3, 3] - true[:, :3, 3]).norm(dim=-1).max() < 0.05 * 7 * ball.truth.baseline
    assert float(torch.rad2deg(rotation_angle(found.world_from_cam[:, :3, :3], true[:, :3, :3])).max()) < 1.0
    depth = torch.cat([found.depth(problem, t) / ball.kept_depth(t) for t in range(4)])
    assert float(depth.median()) == pytest.approx(7, rel=0.03)


def test_known_poses_may_stay(ball: PairScene) -> None:
    """To the bit; frames without one, depths and sizes come to them."""
    problem, known = condensed(ball), ball.truth.world_from_cam.clone()
    known[:, :3, 3] = 7 * known[:, :3, 3] + 30
    some = known.clone()
    some[2] = torch.nan
    found = align_published(problem, replace(QUICK, fix_poses=True), world_from_cam=some)
    assert torch.equal(found.world_from_cam[[0, 1, 3]], known[[0, 1, 3]])
    assert float((found.world_from_cam[2, :3, 3] - known[2, :3, 3]).norm()) < 0.05 * 7 * ball.truth.baseline
    assert float(torch.rad2deg(rotation_angle(found.world_from_cam[2, :3, :3], known[2, :3, :3]))) < 1.0
    assert found.scale == pytest.approx([7.0] * 4, rel=0.02)
    one = torch.full_like(known, torch.nan)
    one[1] = known[1]  # says nothing of the size, which stays that of the predictions
    alone = align_published(problem, replace(QUICK, fix_poses=True), world_from_cam=one)
    assert torch.equal(alone.world_from_cam[1], known[1]) and float(alone.scale.min()) == pytest.approx(1)
    check_quality(ball, problem, alone, deg=0.6, rel=0.006)


def test_a_wild_known_pose_does_not_move_the_world(ball: PairScene) -> None:
    problem, known = condensed(ball), ball.truth.world_from_cam.clone()
    wild = known.clone()
    wild[3, :3, 3] += 40
    found = align_published(problem, QUICK, world_from_cam=wild)
    assert (found.world_from_cam[:3, :3, 3] - known[:3, :3, 3]).norm(dim=-1).max() < 0.3
    assert found.scale == pytest.approx([1.0] * 4, rel=0.1)


# Errors


def test_what_is_not_finite_is_an_error_of_one_line(ball: PairScene) -> None:
    problem = condensed(ball)
    broken = replace(problem.views[0], anchor_depth=problem.views[0].anchor_depth * math.nan)
    with pytest.raises(RunError, match="sparse alignment in space, step 0: a loss is not finite") as caught:
        align_published(replace(problem, views=(broken, *problem.views[1:])), QUICK)
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=r"sparse alignment in (space|pixels), step \d+: a loss is not finite"):
        align_published(problem, replace(QUICK, coarse_lr=1e12))


@pytest.mark.parametrize(
    "wrong",
    [{"coarse_steps": -1}, {"fine_lr": 0.0}, {"pointmap_weight": math.nan}, {"tree": "star"}, {"depth_mode": "div"}],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"published.{next(iter(wrong))}"):
        PublishedConfig(**wrong)  # type: ignore[arg-type]


def test_arguments_are_checked(ball: PairScene) -> None:
    problem = condensed(ball)
    with pytest.raises(ValueError, match=r"K: wanted shape \(4, 3, 3\)"):
        align_published(problem, QUICK, K=torch.eye(3))
    with pytest.raises(ValueError, match="focal lengths above 0"):
        align_published(problem, QUICK, K=-ball.truth.K)
    with pytest.raises(ValueError, match=r"world_from_cam: wanted shape"):
        align_published(problem, QUICK, world_from_cam=torch.eye(4))
