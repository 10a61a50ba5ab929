"""The sparse alignment as a whole: reference figures, masks, graphs, wrong input, known cameras, motion."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_scenes import (
    PairScene,
    ball_truth,
    ball_views,
    camera_errors,
    exact_predictions,
    golden_predictions,
    static_truth,
    turning_truth,
)
from torch import Tensor

from dyn4d.core.errors import RunError
from dyn4d.core.rotations import rotation_angle
from dyn4d.geometry.alignment import Alignment, AlignmentConfig, align
from dyn4d.geometry.bundle import BundleConfig
from dyn4d.geometry.pair_results import PairResult, PairResultList
from dyn4d.matching.image_size import InputView

ROTATION, CENTRE, DEPTH = 0.1, 0.003, 0.004  # bars on the noisy reference scene: degrees, share of the baseline, share
SHORT = AlignmentConfig(fusions=1)


def solve(scene: PairScene, config: AlignmentConfig = SHORT, **known: object) -> Alignment:
    out = align(scene.frames, scene.results, config, **known)  # type: ignore[arg-type]
    assert_finite(out)
    return out


@cache
def ball(noise: float = 0.01, count: int = 4, window: int = 9) -> PairScene:
    pairs = [(a, b) for a in range(count) for b in range(a + 1, min(count, a + 1 + window))]
    return exact_predictions(ball_truth(count), pairs=pairs, scale_seed=3, noise=noise, match_step=4)


def assert_finite(out: Alignment) -> None:
    there = out.registered
    assert torch.isfinite(out.K).all() and math.isfinite(out.pixel_error)
    assert torch.isnan(out.world_from_cam[~there]).all()
    for n, (depth, conf) in enumerate(zip(out.depth, out.conf)):
        known = torch.isfinite(depth)
        assert (depth[known] > 0).all() and (conf[~known] == 0).all() and torch.isfinite(conf).all()
        assert bool(there[n]) or not known.any()


def assert_same(a: Alignment, b: Alignment) -> None:
    assert torch.equal(a.K, b.K) and a.pixel_error == b.pixel_error and a.notes == b.notes
    assert torch.equal(a.world_from_cam.nan_to_num(-1), b.world_from_cam.nan_to_num(-1))
    for x, y in zip(a.depth + a.conf + a.motion, b.depth + b.conf + b.motion):
        assert torch.equal(x.nan_to_num(-1), y.nan_to_num(-1))


def worst_depth(scene: PairScene, out: Alignment) -> float:
    scale = camera_errors(scene, out.world_from_cam).scale
    errors = [(scale * d / scene.kept_depth(n) - 1).abs() for n, d in enumerate(out.depth) if bool(out.registered[n])]
    return float(torch.cat(errors).nan_to_num(0).max())


def changed(scene: PairScene, change: object, which: Collection[tuple[int, int]] | None = None) -> PairScene:
    """The scene with `change` done to some of its results."""
    results = [
        change(r) if which is None or (r.frame_a, r.frame_b) in which else r  # type: ignore[operator]
        for r in scene.results
    ]
    return replace(scene, results=PairResultList(tuple(results)))


def wrong_matches(share: float, size: tuple[int, int], seed: int = 0) -> object:
    """Ends of this share of the matches anywhere in the picture (height, width)."""
    random = torch.Generator().manual_seed(seed)

    def change(result: PairResult) -> PairResult:
        lost = torch.rand(len(result.weight), generator=random) < share
        ends = [torch.randint(side, (len(lost),), generator=random) for side in (size[1], size[0])]
        return replace(result, xy_b=torch.stack(ends, -1).where(lost[:, None], result.xy_b))

    return change


def garbage(result: PairResult) -> PairResult:
    """Nothing that a pair says of its two frames together is true, and it has many matches."""
    random = torch.Generator().manual_seed(result.frame_a + 100 * result.frame_b)
    points = {}
    for name in ("b_in_a", "a_in_b"):
        points[name] = torch.randn(getattr(result, name).shape, generator=random)
        points[name][:, 2] = 2 + 2 * points[name][:, 2].abs()
    rows = torch.randint(len(result.weight), (2, 3000), generator=random)
    return replace(
        result, xy_a=result.xy_a[rows[0]], xy_b=result.xy_b[rows[1]], weight=torch.full((3000,), 20.0), **points
    )


def without_matches(result: PairResult) -> PairResult:
    return replace(result, xy_a=result.xy_a[:0], xy_b=result.xy_b[:0], weight=result.weight[:0])


# ---- reference figures ----


@pytest.mark.slow
def test_bars_on_the_noisy_reference_scene(reference: Path) -> None:
    scene = golden_predictions(reference)
    out = solve(scene, AlignmentConfig())
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert errors.rotation_deg <= ROTATION and errors.centre <= CENTRE and errors.depth <= DEPTH
    assert worst_depth(scene, out) < 0.5
    assert out.registered.all() and out.notes == ()


@pytest.mark.slow
def test_exact_predictions_are_met(reference: Path) -> None:
    truth = static_truth(reference)
    scene = exact_predictions(truth)
    out = solve(scene, AlignmentConfig())
    assert camera_errors(scene, out.world_from_cam).rotation_deg <= 0.02
    assert out.K[0, 0, 0] == pytest.approx(float(truth.K[0, 0, 0]), rel=0.002)
    assert worst_depth(scene, out) < 0.05


@pytest.mark.slow
def test_turning_object_in_its_own_frame(reference: Path) -> None:
    truth = turning_truth(reference)
    scene = exact_predictions(truth, kept=truth.object_mask, scale_seed=1, noise=0.01)
    out = solve(scene, AlignmentConfig())
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert errors.rotation_deg <= 0.4 and errors.centre <= 0.005 and errors.depth <= 0.003


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_share_of_the_pixels(reference: Path, share: float) -> None:
    kept = np.random.default_rng(0).random((4, 96, 128)) < share
    scene = golden_predictions(reference, kept=kept)
    out = solve(scene, AlignmentConfig())
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    slack = 1.5 if share == 0.5 else 4
    assert errors.rotation_deg < slack * 0.05 and errors.centre < slack * 0.001 and errors.depth < slack * 0.003


@pytest.mark.slow
def test_wrong_matches_on_the_reference_scene(reference: Path) -> None:
    scene = golden_predictions(reference)
    out = solve(changed(scene, wrong_matches(0.5, scene.truth.size)), AlignmentConfig())
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert errors.rotation_deg <= ROTATION and errors.centre <= CENTRE and errors.depth <= DEPTH
    assert out.pixel_error < 3 and out.K[0, 0, 0] == pytest.approx(147.2, rel=0.005)


# ---- masks ----


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e4, 0.0, -1.0])
def test_the_background_is_absent(value: float) -> None:
    truth = ball_truth()
    clean, damaged = (
        exact_predictions(truth, kept=truth.object_mask, noise=0.01, scale_seed=0, background=b, match_step=4)
        for b in (None, value)
    )
    assert_same(solve(clean), solve(damaged))


def test_bad_values_at_kept_pixels_do_not_spread() -> None:
    def change(result: PairResult) -> PairResult:
        points, conf = result.b_in_a.clone(), result.conf_a_in_b.clone()
        points[::7], conf[5], conf[6] = math.nan, math.inf, 0.0
        return replace(result, b_in_a=points, conf_a_in_b=conf)

    out = solve(changed(ball(), change, [(0, 2), (1, 3)]))
    assert camera_errors(ball(), out.world_from_cam).rotation_deg < 0.5
    assert all(torch.isfinite(d).all() for d in out.depth)


def test_pixels_that_no_pass_knows_have_no_depth() -> None:
    def change(result: PairResult) -> PairResult:
        points = result.a_in_a.clone()
        points[:5] = math.nan
        return replace(result, a_in_a=points) if result.frame_a == 0 else result

    out = solve(changed(ball(), change))
    assert torch.isnan(out.depth[0][:5]).all() and torch.isfinite(out.depth[0][5:]).all()


def test_a_frame_without_object() -> None:
    truth = ball_truth()
    kept = np.ones_like(truth.object_mask)
    kept[1] = False
    out = solve(exact_predictions(truth, kept=kept, scale_seed=0, match_step=4))
    assert out.registered.tolist() == [True, False, True, True]
    assert len(out.depth[1]) == 0 and any("frames 1 are tied" in note for note in out.notes)


# ---- graphs ----


def test_the_largest_part_is_solved() -> None:
    scene = exact_predictions(ball_truth(6), pairs=[(0, 3), (1, 2), (2, 4), (1, 4)], scale_seed=1, match_step=4)
    out = solve(scene)
    assert out.registered.tolist() == [False, True, True, False, True, False]
    assert any("0, 3, 5" in note for note in out.notes)
    assert camera_errors(scene, out.world_from_cam).rotation_deg < 0.05
    assert torch.isnan(out.depth[0]).all() and (out.depth[1] > 0).all()


def test_pairs_without_matches_go_by_points() -> None:
    out = solve(changed(ball(), without_matches, [(0, 1), (0, 2), (0, 3)]))
    assert out.registered.all() and any("3 of 6 pairs" in note and "points" in note for note in out.notes)
    assert camera_errors(ball(), out.world_from_cam).rotation_deg < 0.5
    assert torch.isnan(out.motion[0]).all() and torch.isfinite(out.motion[1]).any()
    everything = solve(changed(ball(), without_matches))
    errors = camera_errors(ball(), everything.world_from_cam, everything.depth)
    assert errors.rotation_deg < 0.6 and errors.depth < 0.01


def test_two_frames() -> None:
    scene = exact_predictions(ball_truth(2, arc_deg=15), scale_seed=1, noise=0.005, match_step=4)
    out = solve(scene)
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert errors.rotation_deg < 0.3 and errors.depth < 0.02


@pytest.mark.slow
def test_a_chain_does_not_drift_much() -> None:
    scene = exact_predictions(
        ball_truth(10), pairs=[(n, n + 1) for n in range(9)], scale_seed=1, noise=0.01, match_step=4
    )
    out = solve(scene)
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert out.registered.all() and errors.centre < 0.02 and errors.depth < 0.01
    ours, true = out.world_from_cam[:, :3, :3], scene.truth.world_from_cam[:, :3, :3]
    assert torch.rad2deg(rotation_angle(ours[0].T @ ours[9], true[0].T @ true[9])) < 1.5


def test_garbage_pairs_are_survived() -> None:
    """Also where they have the most matches, so that a tree of matches would go along them."""
    scene = ball(count=6, window=3)
    out = solve(changed(scene, garbage, [(1, 2), (3, 5), (2, 4)]))
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert out.registered.all() and errors.rotation_deg < 0.5 and errors.centre < 0.01 and errors.depth < 0.01
    assert any("3 pairs, " in note and "are left out" in note and "1-2" in note for note in out.notes)


def test_a_frame_whose_pairs_are_all_garbage_gets_no_pose() -> None:
    scene = ball(count=6, window=3)
    out = solve(changed(scene, garbage, [(a, b) for a in range(6) for b in range(6) if 2 in (a, b)]))
    assert out.registered.tolist() == [True, True, False, True, True, True]
    assert any("frames 2 are tied" in note for note in out.notes)
    assert camera_errors(scene, out.world_from_cam, out.depth).depth < 0.01


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_wrong_matches(share: float) -> None:
    scene = ball(count=5)
    out = solve(changed(scene, wrong_matches(share, scene.truth.size)))
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert out.registered.all() and out.pixel_error < 0.6
    assert errors.rotation_deg < 0.4 and errors.centre < 0.006 and errors.depth < 0.01


def test_nothing_to_align_is_one_clear_error() -> None:
    truth = ball_truth(2)
    scene = exact_predictions(truth)
    with pytest.raises(RunError, match="alignment: "):
        align(scene.frames, PairResultList(()))
    with pytest.raises(RunError, match="no two frames"):
        solve(changed(scene, lambda r: without_matches(garbage(r))))
    empty = exact_predictions(truth, kept=np.zeros_like(truth.object_mask))
    with pytest.raises(RunError, match="no pixel of any frame"):
        align(empty.frames, empty.results)
    with pytest.raises(ValueError, match="wanted 2 entries"):
        align(scene.frames, scene.results, intrinsics=[None])


# ---- lenses and views ----


def test_known_intrinsics_stay() -> None:
    scene = exact_predictions(ball_truth(), scale_seed=3, noise=0.02, with_K=True, match_step=4)
    assert torch.equal(solve(scene).K, scene.truth.K)
    assert torch.equal(solve(ball(), intrinsics=list(ball().truth.K)).K, ball().truth.K)
    some = solve(ball(), intrinsics=[None, ball().truth.K[1], None, None])
    assert torch.equal(some.K[1], ball().truth.K[1]) and not torch.equal(some.K[0], ball().truth.K[0])
    assert some.K[0, 0, 0] == pytest.approx(73.6, rel=0.03)


def test_shared_and_own_focal_lengths() -> None:
    shared, own = (
        solve(ball(0.02), replace(SHORT, bundle=BundleConfig(shared_intrinsics=yes))).K[:, 0, 0]
        for yes in (True, False)
    )
    assert shared.unique().numel() == 1 and own.unique().numel() == 4
    assert (shared / 73.6 - 1).abs().max() < 0.03 and (own / 73.6 - 1).abs().max() < 0.06


def test_views_cut_out_off_centre() -> None:
    """Windows of the pictures, each with a scale of its own: the cameras of the whole pictures."""
    whole = ball_truth(4, 96, 128)
    whole.K[:, :2, 2] -= 0.5  # in the very middle, as is taken for granted
    boxes = [(10, 8, 106, 80), (0, 20, 96, 92), (32, 24, 128, 96), (20, 0, 108, 66)]
    resized = [(96, 72), (80, 60), (64, 48), (88, 66)]
    crops = [(16, 12, 80, 60), (0, 0, 64, 48), (0, 0, 64, 48), (20, 10, 84, 58)]
    views = [InputView((128, 96), box, size, crop) for box, size, crop in zip(boxes, resized, crops)]
    cut = exact_predictions(ball_views(whole, views), scale_seed=1, noise=0.003, match_step=4, views=views)
    out = solve(cut)
    errors = camera_errors(cut, out.world_from_cam, out.depth)
    assert out.registered.all() and errors.rotation_deg < 0.3 and errors.centre < 0.01 and errors.depth < 0.01
    back = torch.stack([view.K_to_source(K) for view, K in zip(views, out.K)])
    torch.testing.assert_close(back, whole.K, rtol=0.01, atol=1e-9)  # one focal length, the middle of the picture
    full = solve(exact_predictions(whole, scale_seed=1, noise=0.003, match_step=8))
    a, b = (o.world_from_cam[0, :3, :3].T @ o.world_from_cam[3, :3, :3] for o in (out, full))
    assert torch.rad2deg(rotation_angle(a, b)) < 0.3


@pytest.mark.parametrize("focal", [0.6, 3.0])
def test_wide_and_narrow_lenses(focal: float) -> None:
    truth = ball_truth()
    truth.K[:, 0, 0] = truth.K[:, 1, 1] = focal * 64
    scaled = ball_views(truth, [InputView((64, 48), (0, 0, 64, 48), (64, 48), (0, 0, 64, 48))] * 4)
    scene = exact_predictions(scaled, scale_seed=1, noise=0.005, match_step=4)
    out = solve(scene)
    assert out.K[0, 0, 0] == pytest.approx(focal * 64, rel=0.02)
    assert camera_errors(scene, out.world_from_cam, out.depth).depth < 0.01


# ---- known poses ----


def test_known_poses_as_a_start_give_their_world() -> None:
    known = ball().truth.world_from_cam.clone()
    known[2] = math.nan
    out = solve(ball(), world_from_cam=known)
    torch.testing.assert_close(out.world_from_cam, ball().truth.world_from_cam, atol=0.05, rtol=0)
    assert not torch.equal(out.world_from_cam[1], known[1])
    plain = solve(ball())
    turn = plain.world_from_cam[1, :3, :3].T @ plain.world_from_cam[3, :3, :3]
    assert rotation_angle(turn, out.world_from_cam[1, :3, :3].T @ out.world_from_cam[3, :3, :3]) < 1e-3


def test_fixed_poses_stay_to_the_bit() -> None:
    truth = ball().truth
    out = solve(ball(), world_from_cam=truth.world_from_cam, fix_poses=True)
    assert torch.equal(out.world_from_cam, truth.world_from_cam)
    assert all(((d / ball().kept_depth(n)).median() - 1).abs() < 0.01 for n, d in enumerate(out.depth))


def test_some_fixed_poses() -> None:
    known = ball().truth.world_from_cam.clone()
    known[[0, 2]] = math.nan
    out = solve(ball(), world_from_cam=known, fix_poses=True)
    assert torch.equal(out.world_from_cam[[1, 3]], known[[1, 3]])
    torch.testing.assert_close(out.world_from_cam, ball().truth.world_from_cam, atol=0.05, rtol=0)


def test_one_fixed_pose_far_away() -> None:
    known = torch.full((4, 4, 4), math.nan, dtype=torch.float64)
    known[2] = ball().truth.world_from_cam[2]
    known[2, :3, 3] += 1e3
    out = solve(ball(), world_from_cam=known, fix_poses=True)
    assert torch.equal(out.world_from_cam[2], known[2]) and out.registered.all()
    assert camera_errors(ball(), out.world_from_cam).rotation_deg < 0.5


# ---- invariance, repeatability, motion ----


def test_the_world_without_known_poses() -> None:
    out = solve(ball())
    torch.testing.assert_close(out.world_from_cam[0], torch.eye(4, dtype=torch.float64), atol=1e-9, rtol=0)
    assert camera_errors(ball(), out.world_from_cam).scale == pytest.approx(1, abs=0.05)  # units of the predictions
    assert [len(d) for d in out.depth] == [len(f.pixels) for f in ball().frames] == [len(m) for m in out.motion]


def test_repeatable_to_the_bit() -> None:
    assert_same(solve(ball()), solve(ball()))


def test_the_unit_of_one_pass_changes_nothing() -> None:
    def change(result: PairResult) -> PairResult:
        names = ("a_in_a", "b_in_a")
        return replace(result, **{name: 3 * getattr(result, name) for name in names})

    # Of the passes of a frame only the mean's weights see the unit; without noise and jitter even these do not.
    scene = exact_predictions(ball_truth(), match_step=4)
    plain, other = solve(scene), solve(changed(scene, change, [(1, 2)]))
    a, b = plain.world_from_cam, other.world_from_cam
    assert torch.rad2deg(rotation_angle(a[:, :3, :3], b[:, :3, :3])).max() < 0.01
    ratio = a[3, :3, 3].norm() / b[3, :3, 3].norm()
    torch.testing.assert_close(ratio * b[:, :3, 3], a[:, :3, 3], atol=1e-3, rtol=0)
    noisy = solve(changed(ball(), change, [(1, 2)]))
    errors = camera_errors(ball(), noisy.world_from_cam, noisy.depth)
    assert errors.rotation_deg < 0.5 and errors.depth < 0.01


@pytest.mark.parametrize("scale", [2.0**-13, 2.0**13])
def test_units_do_not_matter(scale: float) -> None:
    def change(result: PairResult) -> PairResult:
        names = [f.name for f in fields(result) if f.name in ("a_in_a", "b_in_a", "b_in_b", "a_in_b")]
        return replace(result, **{name: scale * getattr(result, name) for name in names})

    plain, other = solve(ball()), solve(changed(ball(), change))
    torch.testing.assert_close(other.K, plain.K, rtol=1e-3, atol=0)
    torch.testing.assert_close(other.depth[0] / scale, plain.depth[0], rtol=1e-3, atol=0)


def test_what_moves_is_seen() -> None:
    """Matches of a block of the first frame's pixels drift by three pixels a frame."""
    scene = ball(count=5)

    def part(n: int) -> Tensor:
        x, y = scene.truth.world_points(n)[:, 0], scene.truth.world_points(n)[:, 1]
        return (x > 0.1) & (x < 0.9) & (y > -0.6) & (y < 0.3) & torch.from_numpy(scene.truth.object_mask[n].reshape(-1))

    def change(result: PairResult) -> PairResult:
        inside = part(result.frame_a)[result.xy_a[:, 1] * 64 + result.xy_a[:, 0]]
        drift = torch.tensor([0, 3 * (result.frame_b - result.frame_a)])
        end = (result.xy_b + drift).clamp_max(47)
        return replace(result, xy_b=end.where(inside[:, None], result.xy_b))

    out = solve(changed(scene, change))
    assert camera_errors(scene, out.world_from_cam, out.depth).rotation_deg < 0.5
    for n in range(5):
        moving = part(n)
        fast, slow = out.motion[n][moving].nanmedian(), out.motion[n][~moving].nanmedian()
        assert float(fast) > 4 * float(slow) and float(slow) < 1, n
