"""The alignment of whole pointmaps: reference figures, masks, known cameras, parts that do not hang together."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_scenes import (
    PairScene,
    ball_truth,
    camera_errors,
    exact_predictions,
    golden_predictions,
    scene_frames,
    static_truth,
    turning_truth,
)
from torch import Tensor

from dyn4d.core.errors import RunError
from dyn4d.core.rotations import rotation_angle, wxyz_to_matrix
from dyn4d.geometry.pair_results import PairResult, PairResultList
from dyn4d.geometry.pointmap_alignment import PointmapAlignment, align_pointmaps
from dyn4d.geometry.pointmap_config import PointmapConfig

SHORT = PointmapConfig(iterations=60)
ROTATION, CENTRE, DEPTH = 0.03, 0.001, 0.0032  # of the published alignment on the noisy reference scene, rounded up


def align(scene: PairScene, config: PointmapConfig = SHORT, **known: Tensor | None) -> PointmapAlignment:
    return align_pointmaps(scene.frames, scene.results, config, **known)  # type: ignore[arg-type]


@cache
def ball(noise: float = 0.0, count: int = 4) -> PairScene:
    return exact_predictions(ball_truth(count), scale_seed=3, noise=noise)


def assert_finite(out: PointmapAlignment) -> None:
    assert torch.isfinite(out.K).all()
    assert torch.isfinite(out.world_from_cam[out.registered]).all()
    assert torch.isnan(out.world_from_cam[~out.registered]).all()
    assert all(torch.isfinite(d).all() and (d >= 0).all() for d in out.depth)
    assert all(torch.isfinite(c).all() for c in out.conf) and math.isfinite(out.loss)


def assert_same(a: PointmapAlignment, b: PointmapAlignment) -> None:
    assert torch.equal(a.K, b.K) and torch.equal(a.registered, b.registered) and a.loss == b.loss
    assert torch.equal(a.world_from_cam.nan_to_num(-1), b.world_from_cam.nan_to_num(-1))
    assert all(torch.equal(x, y) for x, y in zip(a.depth + a.conf, b.depth + b.conf))


# ---- shapes and the promised world ----


def test_shapes_and_world() -> None:
    out = align(ball())
    assert out.K.shape == (4, 3, 3) and out.world_from_cam.shape == (4, 4, 4)
    assert out.K.dtype == out.world_from_cam.dtype == torch.float64
    assert [len(d) for d in out.depth] == [len(f.pixels) for f in ball().frames] == [len(c) for c in out.conf]
    assert all(d.dtype == torch.float32 for d in out.depth) and out.notes == ()
    torch.testing.assert_close(out.world_from_cam[0], torch.eye(4, dtype=torch.float64), atol=1e-6, rtol=0)
    assert camera_errors(ball(), out.world_from_cam).scale == pytest.approx(1, abs=0.05)  # units of the predictions
    assert all((c == 12).all() for c in out.conf)
    assert_finite(out)


def test_exact_predictions_are_met(device: torch.device) -> None:
    out = align_pointmaps(ball().frames, ball().results, SHORT, device=device)
    errors = camera_errors(ball(), out.world_from_cam, out.depth)
    assert errors.rotation_deg < 1e-3 and errors.centre < 1e-5 and errors.depth < 1e-5
    torch.testing.assert_close(out.K, ball().truth.K, atol=1e-3, rtol=0)


def test_the_search_improves_on_its_start(device: torch.device) -> None:
    scene = ball(0.02)
    start, end = (
        align_pointmaps(scene.frames, scene.results, PointmapConfig(iterations=steps), device=device)
        for steps in (0, 150)
    )
    assert end.loss < 0.9 * start.loss
    before, after = (camera_errors(scene, out.world_from_cam, out.depth) for out in (start, end))
    assert after.rotation_deg < before.rotation_deg and after.depth < 0.02


# ---- reference figures ----


@cache
def golden(root: Path) -> PairScene:
    return golden_predictions(root, matches=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "with_K"),
    [(PointmapConfig(), False), (PointmapConfig(), True), (PointmapConfig(schedule="linear"), False)],
    ids=["published", "known-K", "linear"],
)
def test_noisy_reference_scene(reference: Path, config: PointmapConfig, with_K: bool) -> None:
    scene = golden(reference)
    out = align(scene, config, K=scene.truth.K if with_K else None)
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert errors.rotation_deg <= ROTATION and errors.centre <= CENTRE and errors.depth <= DEPTH
    assert (out.K - scene.truth.K).abs().max() < (1e-12 if with_K else 0.1)


@pytest.mark.slow
def test_exact_reference_scene(reference: Path) -> None:
    scene = exact_predictions(static_truth(reference))
    out = align(scene, PointmapConfig())
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert errors.rotation_deg <= 0.011 and errors.centre <= 0.0011 and errors.depth <= 2e-4


@pytest.mark.slow
def test_known_poses_on_the_reference_scene(reference: Path) -> None:
    scene = golden(reference)
    poses = scene.truth.world_from_cam
    out = align(scene, PointmapConfig(fix_poses=True), world_from_cam=poses)
    assert torch.equal(out.world_from_cam, poses)
    assert camera_errors(scene, poses, out.depth).depth <= DEPTH
    assert (out.K - scene.truth.K).abs().max() < 0.1


@pytest.mark.slow
def test_turning_ball_in_its_own_frame(reference: Path) -> None:
    """A static camera and a turning object: the object's pixels alone give the motion (published: 1.8° and worse)."""
    truth = turning_truth(reference)
    scene = exact_predictions(truth, kept=truth.object_mask, scale_seed=2, noise=0.01)
    out = align(scene, PointmapConfig(shared_intrinsics=True))
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert errors.rotation_deg < 0.5 and errors.centre < 0.005 and errors.depth < 0.005


# ---- masks ----


@pytest.mark.slow
def test_half_the_pixels_are_enough(reference: Path) -> None:
    kept = np.random.default_rng(0).random((4, 96, 128)) < 0.5
    scene = golden_predictions(reference, matches=False, kept=kept)
    out = align(scene, PointmapConfig())
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert_finite(out)
    assert errors.rotation_deg < 1.5 * ROTATION and errors.centre < 1.5 * CENTRE and errors.depth < 1.5 * DEPTH


@pytest.mark.parametrize("share", [0.1, 0.02])
def test_few_pixels(share: float) -> None:
    truth = ball_truth()
    kept = np.random.default_rng(1).random(truth.depth.shape) < share
    out = align(scene := exact_predictions(truth, kept=kept, noise=0.01, scale_seed=0))
    assert_finite(out)
    assert camera_errors(scene, out.world_from_cam).rotation_deg < 3


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e4, 0.0, -1.0])
def test_the_background_is_absent(value: float) -> None:
    truth = ball_truth()
    clean, damaged = (
        exact_predictions(truth, kept=truth.object_mask, noise=0.01, scale_seed=0, background=b) for b in (None, value)
    )
    assert_same(align(clean), align(damaged))


def test_bad_values_at_kept_pixels_do_not_spread() -> None:
    results = list(ball(0.01).results)
    points, conf = results[2].b_in_a.clone(), results[4].conf_a_in_b.clone()
    points[::7], conf[5] = math.nan, math.inf
    results[2] = replace(results[2], b_in_a=points)
    results[4] = replace(results[4], conf_a_in_b=conf)
    scene = replace(ball(0.01), results=PairResultList(tuple(results)))
    out = align(scene)
    assert_finite(out)
    assert all((d > 0).all() for d in out.depth)
    assert camera_errors(scene, out.world_from_cam).rotation_deg < 1


def test_a_pixel_that_no_pass_knows_has_no_depth() -> None:
    results = []
    for result in ball().results:
        changes = {}
        for name in ("a_in_a", "a_in_b") if result.frame_a == 0 else ():
            changes[name] = getattr(result, name).clone()
            changes[name][:5] = math.nan
        results.append(replace(result, **changes))
    out = align(replace(ball(), results=PairResultList(tuple(results))))
    assert (out.depth[0][:5] == 0).all() and (out.conf[0][:5] == 0).all() and (out.depth[0][5:] > 0).all()


def test_a_frame_without_object() -> None:
    truth = ball_truth()
    kept = truth.object_mask.copy()
    kept[1] = False
    out = align(exact_predictions(truth, kept=kept, scale_seed=0))
    assert out.registered.tolist() == [True, False, True, True]
    assert len(out.depth[1]) == 0 and len(out.notes) == 1 and "frame 1: no pixel" in out.notes[0]
    assert_finite(out)


@pytest.mark.parametrize("share", [0.0, 0.001])
def test_no_pixels_is_one_clear_error(share: float) -> None:
    truth = ball_truth()
    kept = np.random.default_rng(1).random(truth.depth.shape) < share
    with pytest.raises(RunError, match=r"none of 6 pairs has enough pixels.*masks"):
        align(exact_predictions(truth, kept=kept))


# ---- graphs ----


def test_the_largest_part_is_solved() -> None:
    truth = ball_truth(6)
    scene = exact_predictions(truth, pairs=[(0, 3), (1, 2), (2, 4), (1, 4)], scale_seed=1)
    out = align(scene)
    assert out.registered.tolist() == [False, True, True, False, True, False]
    assert any("2 frames (0, 3): no pair ties them" in note for note in out.notes)
    assert any("frame 5: no pair of theirs" in note for note in out.notes)
    assert_finite(out)
    assert camera_errors(scene, out.world_from_cam).rotation_deg < 1e-3
    assert (out.depth[0] == 0).all() and (out.depth[1] > 0).all()


def test_fixed_poses_hold_several_parts() -> None:
    truth = ball_truth(6)
    scene = exact_predictions(truth, pairs=[(0, 1), (2, 3), (3, 4)], scale_seed=1)
    known = truth.world_from_cam.clone()
    known[3] = math.nan
    out = align(scene, replace(SHORT, fix_poses=True), world_from_cam=known)
    assert out.registered.all() and any("frame 5" in note and "given poses are kept" in note for note in out.notes)
    errors = camera_errors(scene, out.world_from_cam, [*out.depth[:5], scene.kept_depth(5)])
    assert errors.rotation_deg < 0.01 and errors.centre < 0.001 and errors.depth < 1e-3 and (out.depth[5] == 0).all()


def test_chain_and_order_of_the_pairs() -> None:
    truth = ball_truth(5, arc_deg=40)
    scene = exact_predictions(truth, pairs=[(3, 2), (0, 1), (4, 3), (2, 1)], scale_seed=1, noise=0.003)
    out = align(scene, PointmapConfig(iterations=150))
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert errors.rotation_deg < 0.7 and errors.centre < 0.02 and errors.depth < 0.01


def test_two_frames() -> None:
    scene = exact_predictions(ball_truth(2, arc_deg=15), scale_seed=1, noise=0.005)
    out = align(scene)
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert errors.rotation_deg < 0.5 and errors.depth < 0.02


def test_one_frame() -> None:
    truth = ball_truth(1)
    (frame,) = scene_frames(truth)
    out = align_pointmaps([frame], PairResultList(()))
    assert torch.equal(out.world_from_cam[0], torch.eye(4, dtype=torch.float64)) and out.registered.all()
    assert (out.depth[0] == 0).all() and out.K[0, 0, 0] == pytest.approx(64 / (2 * math.tan(math.radians(30))))
    assert "nothing to align" in out.notes[0]
    pose = truth.world_from_cam
    known = align_pointmaps([frame], PairResultList(()), K=truth.K, world_from_cam=pose)
    assert torch.equal(known.K, truth.K) and torch.equal(known.world_from_cam, pose)


# ---- known cameras and lenses ----


def test_known_poses_as_a_start_give_their_world() -> None:
    scene = ball(0.01)
    poses = scene.truth.world_from_cam.clone()
    poses[2] = math.nan
    out = align(scene, world_from_cam=poses)
    torch.testing.assert_close(out.world_from_cam, scene.truth.world_from_cam, atol=0.05, rtol=0)
    assert not torch.equal(out.world_from_cam[0], poses[0])


def test_some_fixed_poses() -> None:
    scene = ball(0.01)
    poses = scene.truth.world_from_cam.clone()
    poses[[0, 2]] = math.nan
    out = align(scene, replace(SHORT, fix_poses=True), world_from_cam=poses)
    assert torch.equal(out.world_from_cam[[1, 3]], poses[[1, 3]])
    torch.testing.assert_close(out.world_from_cam, scene.truth.world_from_cam, atol=0.05, rtol=0)


def test_fixed_poses_far_from_the_origin() -> None:
    scene = ball()
    poses = scene.truth.world_from_cam.clone()
    poses[:, :3, 3] = 50 * poses[:, :3, 3] + torch.tensor([1e4, -2e3, 5e3], dtype=torch.float64)
    out = align(scene, replace(SHORT, fix_poses=True), world_from_cam=poses)
    assert torch.equal(out.world_from_cam, poses)
    torch.testing.assert_close(out.depth[1].double(), 50 * scene.kept_depth(1), rtol=1e-3, atol=0)


def test_one_fixed_pose_and_a_camera_that_stands_still() -> None:
    """Fixed poses in a single place do not fix the size: the predictions' unit stays."""
    scene = ball()
    poses = torch.full((4, 4, 4), math.nan, dtype=torch.float64)
    poses[2] = scene.truth.world_from_cam[2]
    out = align(scene, replace(SHORT, fix_poses=True), world_from_cam=poses)
    assert torch.equal(out.world_from_cam[2], poses[2])
    assert camera_errors(scene, out.world_from_cam).scale == pytest.approx(1, abs=0.06)
    still = exact_predictions(replace(scene.truth, world_from_cam=poses[2].expand(4, 4, 4).clone()), pairs=[(0, 1)])
    out = align(still, replace(SHORT, fix_poses=True), world_from_cam=still.truth.world_from_cam)
    assert_finite(out)


def test_known_intrinsics_of_the_frames_stay() -> None:
    scene = exact_predictions(ball_truth(), scale_seed=3, noise=0.02, with_K=True)
    assert torch.equal(align(scene).K, scene.truth.K)
    assert torch.equal(align(ball(0.02), K=scene.truth.K[0]).K, scene.truth.K)
    moved = align(scene, replace(SHORT, fix_intrinsics=False)).K
    assert not torch.equal(moved, scene.truth.K) and (moved - scene.truth.K).abs().max() < 2


def test_shared_focal_length() -> None:
    out = align(ball(0.02), replace(SHORT, shared_intrinsics=True))
    assert out.K[:, 0, 0].unique().numel() == 1 and out.K[0, 0, 0] == pytest.approx(73.6, rel=0.02)
    some = ball().truth.K.clone()
    some[1:] = math.nan
    out = align(ball(0.02), replace(SHORT, shared_intrinsics=True, iterations=0), K=some)
    torch.testing.assert_close(out.K, ball().truth.K)


def test_principal_points_are_found() -> None:
    truth = ball_truth()
    truth.K[:, :2, 2] += torch.tensor([1.5, -1.0], dtype=torch.float64)  # the depth maps are what they are
    scene = exact_predictions(truth, scale_seed=1)
    plain, solved = (
        align(scene, PointmapConfig(iterations=600, optimise_pp=pp, shared_intrinsics=True)) for pp in (False, True)
    )
    assert (plain.K[:, :2, 2] - truth.K[:, :2, 2]).abs().max() > 1.4
    assert (solved.K[:, :2, 2] - truth.K[:, :2, 2]).abs().max() < 0.6
    assert solved.loss < 0.3 * plain.loss


# ---- invariance, repeatability, options ----


def changed_pass(result: PairResult, R: Tensor, t: Tensor, scale: float) -> PairResult:
    """The first pass of a pair in another frame and unit."""
    return replace(result, a_in_a=scale * result.a_in_a @ R.T + t, b_in_a=scale * result.b_in_a @ R.T + t)


@pytest.mark.parametrize("turned", [False, True])
def test_a_similarity_of_one_pass_changes_nothing(turned: bool) -> None:
    scene = ball(0.01)
    R, t = torch.eye(3), torch.zeros(3)
    if turned:  # its own camera is no longer where it says, so that the start is a little worse
        R, t = wxyz_to_matrix(torch.tensor([1.0, 0.05, -0.1, 0.08])), torch.tensor([0.2, -0.1, 0.3])
    results = list(scene.results)
    results[1] = changed_pass(results[1], R, t, 3.0)
    config = PointmapConfig(iterations=300)
    plain = align(scene, config)
    other = align(replace(scene, results=PairResultList(tuple(results))), config)
    ratio = other.world_from_cam[3, :3, 3].norm() / plain.world_from_cam[3, :3, 3].norm()
    angle = torch.rad2deg(rotation_angle(other.world_from_cam[:, :3, :3], plain.world_from_cam[:, :3, :3]))
    bound = 0.3 if turned else 0.02
    assert angle.max() < bound
    difference = other.world_from_cam[:, :3, 3] / ratio - plain.world_from_cam[:, :3, 3]
    assert difference.norm(dim=-1).max() / scene.truth.baseline < bound / 10
    assert other.K[:, 0, 0] == pytest.approx(plain.K[:, 0, 0], rel=0.005)
    if not turned:  # the unit is the geometric mean of the twelve passes
        assert float(ratio) == pytest.approx(3 ** (1 / 12), rel=1e-3)


@pytest.mark.parametrize("scale", [2.0**-13, 2.0**13])
def test_units_do_not_matter(scale: float) -> None:
    results = []
    for result in ball(0.01).results:
        changes = {f.name: scale * getattr(result, f.name) for f in fields(result) if "_in_" in f.name[:6]}
        results.append(replace(result, **{n: v for n, v in changes.items() if not n.startswith("conf")}))
    plain, other = align(ball(0.01)), align(replace(ball(0.01), results=PairResultList(tuple(results))))
    torch.testing.assert_close(other.K, plain.K, rtol=1e-3, atol=0)
    torch.testing.assert_close(other.depth[0] / scale, plain.depth[0], rtol=1e-3, atol=0)
    assert other.loss / scale == pytest.approx(plain.loss, rel=1e-3)


def test_repeatable_and_seeded() -> None:
    few = replace(SHORT, max_points=300)
    first = align(ball(0.01), few)
    assert_same(first, align(ball(0.01), few))
    other = align(ball(0.01), replace(few, seed=1))
    assert not torch.equal(first.K, other.K)
    assert "300 of up to 3072 pixels" in first.notes[0]
    for out in (first, other):
        errors = camera_errors(ball(0.01), out.world_from_cam, out.depth)
        assert errors.rotation_deg < 1 and errors.depth < 0.01
        assert all(len(d) == 3072 and (d > 0).all() for d in out.depth)


@pytest.mark.parametrize(
    "config",
    [
        PointmapConfig(distance="l2", iterations=100),
        PointmapConfig(confidence="sqrt", iterations=100),
        PointmapConfig(confidence="m1", iterations=100),
        PointmapConfig(confidence="id", iterations=100),
        PointmapConfig(principal_point="source", iterations=0),
    ],
)
def test_options(config: PointmapConfig) -> None:
    out = align(ball(0.01), config)
    assert_finite(out)
    assert camera_errors(ball(0.01), out.world_from_cam).rotation_deg < 1.5


def test_confidence_of_one_everywhere_weighs_nothing() -> None:
    plain = [
        replace(r, **{f.name: torch.ones_like(getattr(r, f.name)) for f in fields(r) if f.name.startswith("conf")})
        for r in ball().results
    ]
    scene = replace(ball(), results=PairResultList(tuple(plain)))
    with pytest.raises(RunError, match="some confidence"):
        align(scene)
    out = align(scene, PointmapConfig(confidence="id", iterations=0))
    assert camera_errors(scene, out.world_from_cam).rotation_deg < 1e-3


# ---- errors ----


def test_overflow_is_one_clear_error() -> None:
    results = list(ball().results)
    points = results[0].a_in_a.clone()
    points[100] = 3e38
    results[0] = replace(results[0], a_in_a=points)
    with pytest.raises(RunError, match="alignment of pointmaps"):
        align(replace(ball(), results=PairResultList(tuple(results))))


def test_input_that_does_not_fit() -> None:
    scene = ball()
    with pytest.raises(ValueError, match="frame 3, there are 3 frames"):
        align_pointmaps(scene.frames[:3], scene.results, SHORT)
    fewer = exact_predictions(scene.truth, kept=scene.truth.object_mask)
    with pytest.raises(ValueError, match="which keeps"):
        align_pointmaps(fewer.frames, scene.results, SHORT)
    with pytest.raises(ValueError, match=r"world_from_cam: wanted shape \(4, 4, 4\)"):
        align(scene, world_from_cam=scene.truth.world_from_cam[:3])
    with pytest.raises(ValueError, match="K: wanted shape"):
        align(scene, K=scene.truth.K[:3])
