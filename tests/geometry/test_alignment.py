"""The sparse alignment as a whole: reference figures, masks, graphs, wrong input, known cameras, motion."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pair_scenes import (
    CameraErrors,
    PairScene,
    Truth,
    ball_seen,
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
from dyn4d.core.rotations import rotation_angle, similarity_fit
from dyn4d.geometry.alignment import Alignment, AlignmentConfig, align
from dyn4d.geometry.bundle import BundleConfig
from dyn4d.geometry.bundle_state import cross_matrix
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
    for x, y in zip(a.depth + a.conf, b.depth + b.conf):
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
def test_the_second_method_reaches_its_published_figures(reference: Path) -> None:
    scene = golden_predictions(reference)
    out = align(scene.frames, scene.results, AlignmentConfig(method="dust3r"))
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert errors.rotation_deg <= 0.03 and errors.centre <= 0.001 and errors.depth <= 0.0032


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


@cache
def golden_errors(reference: Path, share: float = 1.0, seed: int = 0) -> CameraErrors:
    """Of the noisy reference scene with a share of its pixels, drawn by chance."""
    kept = None if share == 1 else np.random.default_rng(seed).random((4, 96, 128)) < share
    scene = golden_predictions(reference, kept=kept)
    out = solve(scene, AlignmentConfig())
    assert out.registered.all() and worst_depth(scene, out) < 0.5
    return camera_errors(scene, out.world_from_cam, out.depth)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_half_of_the_pixels(reference: Path, seed: int) -> None:
    """Errors grow by less than half: what is left is enough, and none of it is lost."""
    whole, half = golden_errors(reference), golden_errors(reference, 0.5, seed)
    assert half.rotation_deg < 1.5 * whole.rotation_deg
    assert half.centre < 1.5 * whole.centre
    assert half.depth < 1.5 * whole.depth


@pytest.mark.slow
def test_a_tenth_of_the_pixels(reference: Path) -> None:
    errors = golden_errors(reference, 0.1)
    assert errors.rotation_deg < 0.2 and errors.centre < 0.004 and errors.depth < 0.012


def test_half_of_the_pixels_over_draws_of_the_noise() -> None:
    """The same for what is expected of an error: it is that of a dozen draws of noise and masks."""
    truth, squares = ball_truth(), np.zeros((2, 3))
    for seed in range(6):
        half = np.random.default_rng(seed).random(truth.object_mask.shape) < 0.5
        for row, kept in enumerate((None, half)):
            scene = exact_predictions(truth, kept=kept, scale_seed=seed, noise=0.01, match_step=4)
            out = solve(scene)
            errors = camera_errors(scene, out.world_from_cam, out.depth)
            squares[row] += np.square([errors.rotation_deg, errors.centre, errors.depth])
    assert (np.sqrt(squares[1] / squares[0]) < 1.5).all()


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
    everything = solve(changed(ball(), without_matches))
    errors = camera_errors(ball(), everything.world_from_cam, everything.depth)
    assert errors.rotation_deg < 0.6 and errors.depth < 0.01


METHODS: tuple[Literal["sparse", "mast3r", "dust3r"], ...] = ("sparse", "mast3r", "dust3r")


@cache
def in_parts() -> PairScene:
    """Frames 1, 2 and 4 hang together, so do 0 and 3; 5 has no pair."""
    return exact_predictions(ball_truth(6), pairs=[(0, 3), (1, 2), (2, 4), (1, 4)], scale_seed=1, match_step=4)


def true_depths(scene: PairScene, out: Alignment, frames: Collection[int], within: float) -> bool:
    return all(abs(float((out.depth[n] / scene.kept_depth(n)).nanmedian()) - 1) < within for n in frames)


@pytest.mark.parametrize("method", METHODS)
def test_fixed_poses_bring_all_parts_into_one_world(method: Any) -> None:
    """And stay to the bit, also those of frames that nothing ties."""
    scene, known = in_parts(), in_parts().truth.world_from_cam
    out = align(scene.frames, scene.results, AlignmentConfig(method, fusions=1), world_from_cam=known, fix_poses=True)
    assert torch.equal(out.world_from_cam, known)
    assert true_depths(scene, out, range(5), 0.02)
    assert any("5" in note and "given poses" in note for note in out.named_notes([str(n) for n in range(6)]))


@pytest.mark.parametrize("method", METHODS)
def test_an_untied_frame_keeps_its_fixed_pose_and_is_as_large_as_the_others(method: Any) -> None:
    """Without its pose it gets none, and a note names it."""
    scene = ball(count=5, window=2)
    scene = changed(
        scene, lambda r: without_matches(garbage(r)), [(a, b) for a in range(5) for b in range(5) if 4 in (a, b)]
    )
    if method == "dust3r":  # believes all points
        return
    if method == "mast3r":  # believes points where there is no match: no pair at all
        pairs = [r for r in scene.results if 4 not in (r.frame_a, r.frame_b)]
        scene = replace(scene, results=PairResultList(tuple(pairs)))
    known = scene.truth.world_from_cam
    config = AlignmentConfig(method, fusions=1)
    out = align(scene.frames, scene.results, config, world_from_cam=known, fix_poses=True)
    assert torch.equal(out.world_from_cam, known) and true_depths(scene, out, range(4), 0.03)
    assert any(
        "frames e are tied to none of the 4 others; their given poses stay" in n for n in out.named_notes("abcde")
    )
    if method == "sparse":  # what its own passes say of it is there
        assert true_depths(scene, out, [4], 0.2) and out.K[4, 0, 0] == out.K[0, 0, 0]
    plain = align(scene.frames, scene.results, config)
    assert plain.registered.tolist() == [True] * 4 + [False]
    assert any("frames 4 are tied to none" in note for note in plain.notes)
    some = known.clone()
    some[0] = math.nan
    begun = align(scene.frames, scene.results, config, world_from_cam=some)
    assert torch.equal(begun.world_from_cam[4], known[4]) and begun.registered.all()


@pytest.mark.parametrize("method", METHODS)
def test_pairs_without_any_match(method: Any) -> None:
    """All methods go by the points then, and ours and the published sparse one say so."""
    scene = changed(ball(), without_matches)
    out = align(scene.frames, scene.results, AlignmentConfig(method, fusions=1))
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert out.registered.all() and errors.rotation_deg < 2 and errors.depth < 0.03
    assert method == "dust3r" or any("6 of 6 pairs" in note for note in out.notes)


@pytest.mark.parametrize("turning", [False, True])
def test_cameras_in_one_place_without_matches(turning: bool) -> None:
    """Two passes that see no way between the cameras agree, for all that noise makes of it."""
    truth = ball_truth()
    poses = truth.world_from_cam[1:2].repeat(4, 1, 1)
    for n in range(4):
        axis = torch.tensor([0.0, math.radians(4.0 * n * turning), 0.0], dtype=torch.float64)
        poses[n, :3, :3] = poses[n, :3, :3] @ torch.linalg.matrix_exp(cross_matrix(axis))
    seen = [ball_seen(truth.K[n], poses[n], 48, 64) for n in range(4)]
    still = replace(truth, world_from_cam=poses, depth=torch.stack([depth for depth, _ in seen]))
    scene = changed(exact_predictions(still, scale_seed=1, noise=0.01), without_matches)
    out = solve(scene)
    assert out.registered.all() and out.world_from_cam[:, :3, 3].norm(dim=-1).max() < 0.05
    turned = out.world_from_cam[0, :3, :3].T @ out.world_from_cam[3, :3, :3]
    assert torch.rad2deg(rotation_angle(turned, poses[0, :3, :3].T @ poses[3, :3, :3])) < 0.5
    fixed = solve(scene, world_from_cam=poses, fix_poses=True)
    assert torch.equal(fixed.world_from_cam, poses)


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
    assert out.registered.all()
    assert camera_errors(scene, out.world_from_cam, out.depth).depth < 0.01
    found, truth = out.world_from_cam[:, :3, 3].double(), scene.truth.world_from_cam[:, :3, 3]
    R, t, s = similarity_fit(found, truth)
    assert (s * found @ R.T + t - truth).norm(dim=-1).max() < 0.02
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
    with pytest.raises(RunError, match="no pixel of any frame"):
        align(scene.frames, PairResultList(()), AlignmentConfig("mast3r"))


def test_wrong_input_names_itself() -> None:
    scene = ball()
    for wrong in ({"method": "none"}, {"subsample": 0}, {"fusions": -1}, {"depth_rank": -1}, {"least_matches": 1}):
        with pytest.raises(ValueError, match=rf"alignment\.{next(iter(wrong))}"):
            AlignmentConfig(**wrong)  # type: ignore[arg-type]
    for known, text in (
        ({"intrinsics": [None]}, "wanted 4 entries"),
        ({"intrinsics": [None, torch.eye(4)] + [None] * 2}, r"intrinsics\[1\]: wanted shape"),
        ({"intrinsics": [None] * 3 + [-torch.eye(3)]}, r"intrinsics\[3\]: wanted focal lengths above 0"),
        ({"world_from_cam": torch.eye(4)}, "world_from_cam: wanted shape"),
        ({"world_from_cam": torch.eye(4).repeat(3, 1, 1)}, "world_from_cam: wanted shape"),
    ):
        for method in METHODS:
            with pytest.raises(ValueError, match=text):
                align(scene.frames, scene.results, AlignmentConfig(method), **known)  # type: ignore[arg-type]


# ---- lenses and views ----


def test_known_intrinsics_stay() -> None:
    scene = exact_predictions(ball_truth(), scale_seed=3, noise=0.02, with_K=True, match_step=4)
    assert torch.equal(solve(scene).K, scene.truth.K)
    assert torch.equal(solve(ball(), intrinsics=list(ball().truth.K)).K, ball().truth.K)
    unknown = torch.full((3, 3), math.nan)
    some = solve(ball(), intrinsics=[None, ball().truth.K[1], unknown, None])
    assert torch.equal(some.K[1], ball().truth.K[1]) and not torch.equal(some.K[0], ball().truth.K[0])
    assert some.K[0, 0, 0] == pytest.approx(73.6, rel=0.03)


@pytest.mark.parametrize("method", ["sparse", "mast3r"])
def test_depths_that_stay_or_change_by_few_shapes(method: Any) -> None:
    """Without refined depths the relief within an anchor's block and between blocks is the network's."""
    scene = ball(0.02)
    found = {
        (free, rank): align(
            scene.frames, scene.results, AlignmentConfig(method, 8, fusions=0, optimise_depth=free, depth_rank=rank)
        )
        for free, rank in ((True, 0), (False, 0), (True, 2))
    }
    one, still, few = (found[key].depth[0] for key in ((True, 0), (False, 0), (True, 2)))
    assert (one / still / (one / still).median() - 1).abs().max() > 1e-3
    same = (one / few / (one / few).median() - 1).abs().max()
    assert same == 0 if method == "sparse" else same > 1e-3


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


@pytest.mark.parametrize("method", METHODS)
def test_fixed_poses_stay_to_the_bit(method: Any) -> None:
    known = ball().truth.world_from_cam.clone()
    known[:, :3, 3] = 7 * known[:, :3, 3] + 40  # in a unit and a place of their own
    scene, config = ball(), AlignmentConfig(method, fusions=1)
    out = align(scene.frames, scene.results, config, world_from_cam=known, fix_poses=True)
    assert torch.equal(out.world_from_cam, known)
    assert all(abs(float((d / scene.kept_depth(n)).median()) / 7 - 1) < 0.02 for n, d in enumerate(out.depth))


@pytest.mark.parametrize("method", METHODS)
def test_one_frame_with_a_known_pose(method: Any) -> None:
    """It is aligned with itself."""
    truth = ball_truth(1)
    twice = Truth(*(torch.cat([each, each]) for each in (truth.K, truth.world_from_cam, truth.depth)),
                  np.concatenate([truth.object_mask] * 2))  # fmt: skip
    scene, known = exact_predictions(twice, match_step=4), twice.world_from_cam
    out = align(scene.frames, scene.results, AlignmentConfig(method, fusions=1), world_from_cam=known, fix_poses=True)
    assert torch.equal(out.world_from_cam, known)
    assert true_depths(scene, out, range(2), 0.1)


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


def noisy_poses(degrees: float, share: float) -> Tensor:
    """The true poses of the ball, turned and moved by so much (share of the distance of neighbours)."""
    random, known = torch.Generator().manual_seed(4), ball(count=6).truth.world_from_cam.clone()
    axis = torch.nn.functional.normalize(torch.randn(6, 3, generator=random, dtype=torch.float64), dim=-1)
    turn = torch.linalg.matrix_exp(cross_matrix(axis * math.radians(degrees)))
    shift = torch.nn.functional.normalize(torch.randn(6, 3, generator=random, dtype=torch.float64), dim=-1)
    known[:, :3, :3] = known[:, :3, :3] @ turn
    known[:, :3, 3] += share * ball(count=6).truth.baseline * shift
    return known


@pytest.mark.parametrize("wild", [False, True])
def test_noisy_poses_as_a_start(wild: bool) -> None:
    """A degree and a hundredth off: the solution is as good as without them, in their world but for the mean error."""
    known = noisy_poses(1.0, 0.01)
    if wild:
        known[4] = known[4].flip(0, 1) + 50
        known[4, 3] = torch.tensor([0.0, 0, 0, 1])
        known[4, :3, :3] = known[0, :3, :3] @ torch.diag(torch.tensor([-1.0, 1, -1], dtype=torch.float64))
    scene = ball(count=6)
    out = solve(scene, world_from_cam=known)
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert errors.rotation_deg < 0.3 and errors.centre < 0.01 and errors.depth < 0.01
    off = torch.rad2deg(rotation_angle(out.world_from_cam[:, :3, :3], scene.truth.world_from_cam[:, :3, :3]))
    assert off.max() < 1.0
    away = (out.world_from_cam[:, :3, 3] - scene.truth.world_from_cam[:, :3, 3]).norm(dim=-1)
    assert away.max() < 0.1 and any("frames 4 contradict" in note for note in out.notes) == wild


def test_noisy_fixed_poses_stay_and_depths_bear_with_them() -> None:
    known = noisy_poses(1.0, 0.01)
    out = solve(ball(count=6), world_from_cam=known, fix_poses=True)
    assert torch.equal(out.world_from_cam, known) and out.notes == ()
    off = [(d / ball(count=6).kept_depth(n)).median() - 1 for n, d in enumerate(out.depth)]
    assert torch.stack(off).abs().max() < 0.05


def test_a_wild_fixed_pose_is_named() -> None:
    known = ball(count=6).truth.world_from_cam.clone()
    known[2, :3, 3] += 30
    out = solve(ball(count=6), world_from_cam=known, fix_poses=True)
    assert torch.equal(out.world_from_cam, known)
    assert any("frames 2 contradict" in note and "kept as asked" in note for note in out.notes)
    for n in (0, 1, 4, 5):
        assert abs(float((out.depth[n] / ball(count=6).kept_depth(n)).median()) - 1) < 0.03


# ---- little to go by ----


@pytest.mark.parametrize("side", [8, 5, 2])
def test_tiny_objects(side: int) -> None:
    """So many pixels across: finite cameras, or one clear error."""
    truth = ball_truth()
    kept = np.zeros_like(truth.object_mask)
    for n in range(4):
        row, column = (int(v) for v in np.argwhere(truth.object_mask[n]).mean(0))
        kept[n, row : row + side, column : column + side] = True
    scene = exact_predictions(truth, kept=kept, noise=0.01, scale_seed=0, match_step=1)
    try:
        out = solve(scene)
    except RunError as error:
        assert side == 2 and "alignment: " in str(error)
        return
    assert out.registered.sum() >= 2 and torch.isfinite(out.world_from_cam[out.registered]).all()
    assert 0.5 < float(out.K[0, 0, 0]) / 73.6 < 2
    for n in range(4):
        known = torch.isfinite(out.depth[n])
        spread = out.depth[n][known] / out.depth[n][known].median()
        assert spread.min() > 0.5 and spread.max() < 2


# ---- invariance, repeatability, what moves ----


def test_the_world_without_known_poses() -> None:
    out = solve(ball())
    torch.testing.assert_close(out.world_from_cam[0], torch.eye(4, dtype=torch.float64), atol=1e-9, rtol=0)
    assert camera_errors(ball(), out.world_from_cam).scale == pytest.approx(1, abs=0.05)  # units of the predictions
    assert [len(d) for d in out.depth] == [len(f.pixels) for f in ball().frames]


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


def test_what_moves_hardly_pulls() -> None:
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
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert errors.rotation_deg < 0.5 and errors.centre < 0.01 and errors.depth < 0.01
