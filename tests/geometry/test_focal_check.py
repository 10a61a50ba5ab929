"""A network that takes the lens for too long or too short, and what the matches say of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from pair_scenes import PairScene, ball_seen, ball_truth, camera_errors, exact_predictions, golden_predictions

from dyn4d.geometry.alignment import Alignment, AlignmentConfig, align
from dyn4d.geometry.focal_check import StretchedResults
from dyn4d.geometry.pair_results import PairResultList

SHORT = AlignmentConfig(fusions=1)


def along_the_axis(scene: PairScene, factor: float) -> PairScene:
    """What a network says that takes all lenses for `factor` times as long."""
    factors = torch.full((len(scene.frames),), factor, dtype=torch.float64)
    return replace(scene, results=PairResultList(tuple(StretchedResults(scene.results, factors))))


@cache
def ball(arc_deg: float = 50.0, count: int = 4) -> PairScene:
    truth = ball_truth(count, arc_deg=arc_deg)
    return exact_predictions(truth, scale_seed=3, noise=0.01, match_step=4)


def focal_error(scene: PairScene, out: Alignment) -> float:
    return float(out.K[0, 0, 0] / scene.truth.K[0, 0, 0]) - 1


@pytest.mark.parametrize("factor", [0.6, 0.8, 1.2, 1.5])
def test_a_wrong_focal_length_is_found(factor: float) -> None:
    scene = along_the_axis(ball(), factor)
    out = align(scene.frames, scene.results, SHORT)
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert abs(focal_error(scene, out)) < 0.01
    assert errors.rotation_deg < 0.3 and errors.centre < 0.006 and errors.depth < 0.01
    assert any("the matches say" in note for note in out.notes)


def test_two_frames_may_suffice() -> None:
    scene = along_the_axis(ball(15.0, 2), 1.2)
    out = align(scene.frames, scene.results, SHORT)
    assert abs(focal_error(scene, out)) < 0.03


def test_a_right_one_stands() -> None:
    plain = align(ball().frames, ball().results, SHORT)
    assert plain.notes == () and abs(focal_error(ball(), plain)) < 0.005


def test_where_nothing_turns_the_network_is_believed_and_the_run_says_so() -> None:
    truth = ball_truth(3)
    poses = truth.world_from_cam[:1].repeat(3, 1, 1)
    poses[:, 0, 3] += 0.005 * torch.arange(3)  # four from the ball
    depth = torch.stack([ball_seen(truth.K[0], pose, *truth.size)[0] for pose in poses])
    truth = replace(truth, world_from_cam=poses, depth=depth)
    scene = exact_predictions(truth, scale_seed=3, noise=0.01, match_step=8)
    wrong = along_the_axis(scene, 1.2)
    out = align(wrong.frames, wrong.results, SHORT)
    assert focal_error(scene, out) == pytest.approx(0.2, abs=0.06)
    assert any("the network's word" in note for note in out.notes)
    assert not any("the matches say" in note for note in out.notes)


def test_given_focal_lengths_are_what_the_network_is_brought_to() -> None:
    scene = along_the_axis(ball(), 1.3)
    out = align(scene.frames, scene.results, SHORT, intrinsics=list(scene.truth.K))
    assert torch.equal(out.K, scene.truth.K)
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert errors.rotation_deg < 0.3 and errors.depth < 0.01
    assert any("given focal length" in note for note in out.notes)


def test_what_bends_does_not_pass_for_a_lens() -> None:
    """Matches that slide over the object from frame to frame: the focal length stays near the network's."""
    truth = ball_truth(5)
    scene = exact_predictions(truth, kept=truth.object_mask, scale_seed=3, noise=0.01, match_step=3)
    results = []
    for result in scene.results:
        around = result.xy_b.double() - result.xy_b.double().mean(0)
        slide = (result.frame_b - result.frame_a) * torch.stack([around[:, 1] / 10, torch.sin(around[:, 0] / 8)], -1)
        end = (result.xy_b + slide).round().long().clamp_min(0)
        end[:, 0], end[:, 1] = end[:, 0].clamp_max(63), end[:, 1].clamp_max(47)
        inside = torch.from_numpy(scene.frames[result.frame_b].kept)[end[:, 1], end[:, 0]]
        rows = {"xy_a": result.xy_a[inside], "xy_b": end[inside], "weight": result.weight[inside]}
        results.append(replace(result, **rows))
    out = align(scene.frames, PairResultList(tuple(results)), SHORT)
    assert abs(focal_error(scene, out)) < 0.1
    assert not any("the matches say" in note for note in out.notes)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_on_the_reference_scene(reference: Path, factor: float) -> None:
    scene = along_the_axis(golden_predictions(reference), factor)
    out = align(scene.frames, scene.results)
    errors = camera_errors(scene, out.world_from_cam, out.depth)
    assert abs(focal_error(scene, out)) < 0.03
    assert errors.rotation_deg < 0.4 and errors.depth < 0.02
