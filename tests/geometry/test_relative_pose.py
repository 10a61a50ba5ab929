"""What passes say of poses: the closed form, its information, its derivatives, and how much too sure it is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pair_scenes import PairScene, ball_truth, exact_predictions
from test_bundle import FULL, moved, random_state, small_bundle
from torch import Tensor

from dyn4d.core.cameras import invert_rigid
from dyn4d.core.rotations import rotation_angle, rotation_vector
from dyn4d.geometry.bundle_state import UNKNOWNS, cross_matrix
from dyn4d.geometry.canonical import canonical_views
from dyn4d.geometry.pair_results import PairResultList
from dyn4d.geometry.relative_pose import (
    BATCH,
    RelativePose,
    RelativeTerms,
    _information,
    pass_stretch,
    relative_poses,
)

CPU = torch.device("cpu")


def poses_of(scene: PairScene, **options: int) -> list[RelativePose]:
    return relative_poses(scene.frames, canonical_views(scene.frames, scene.results), scene.results, **options)


def true_relative(scene: PairScene, a: int, b: int) -> Tensor:
    return invert_rigid(scene.truth.world_from_cam[a]) @ scene.truth.world_from_cam[b]


def test_exact_passes_give_exact_poses() -> None:
    scene = exact_predictions(ball_truth(3, 24, 32), scale_seed=1)
    found = poses_of(scene)
    assert [(one.a, one.b) for one in found] == [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)]
    views = canonical_views(scene.frames, scene.results)
    for one in found:
        true = true_relative(scene, one.a, one.b)
        # The unit of a's canonical view is that of the mean of its passes.
        unit = (views[one.a].points[:, 2] / scene.kept_depth(one.a)).median()
        assert rotation_angle(one.R, true[:3, :3]) < 1e-5
        torch.testing.assert_close(one.t, unit * true[:3, 3], rtol=1e-4, atol=1e-4)
        assert one.error < 1e-5


def test_batches_are_what_single_passes_are() -> None:
    scene = exact_predictions(ball_truth(7, 24, 32), scale_seed=1, noise=0.02)
    together = poses_of(scene)
    assert len(together) == 42 > BATCH
    views = canonical_views(scene.frames, scene.results)
    alone = [p for r in scene.results for p in relative_poses(scene.frames, views, PairResultList((r,)))]
    for one, other in zip(together, alone):
        for name in ("R", "t", "scale", "information"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-8, atol=1e-9)


def test_information_is_the_sum_of_products_of_derivatives() -> None:
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 40, 3, generator=random).double(), torch.rand(2, 40, generator=random).double()
    R = torch.linalg.matrix_exp(cross_matrix(torch.randn(2, 3, generator=random).double()))
    scale = torch.tensor([0.6, 1.7], dtype=torch.float64)

    def seen(n: int, m: int, by: Tensor) -> Tensor:
        turned = R[n] @ torch.linalg.matrix_exp(cross_matrix(by[:3])) @ x[n, m]
        return scale[n] * torch.exp(by[6]) * turned + by[3:6]

    for n, found in enumerate(_information(R, scale, x, weight)):
        wanted = torch.zeros(7, 7, dtype=torch.float64)
        for m in range(40):
            J = torch.autograd.functional.jacobian(lambda by, m=m, n=n: seen(n, m, by), torch.zeros(7).double())
            wanted += weight[n, m] * J.T @ J
        torch.testing.assert_close(found, wanted)


def test_information_is_that_of_the_noise() -> None:
    """Errors in standard deviations are those of a normal distribution of seven dimensions."""
    chi = []
    for seed in range(6):
        scene = exact_predictions(ball_truth(4, 32, 48), scale_seed=seed, noise=0.0)
        views = canonical_views(scene.frames, scene.results)
        random = torch.Generator().manual_seed(seed)
        results = []
        for r in scene.results:  # errors of the same size along each axis, relative to the distance
            changes = {}
            for name in ("b_in_a", "a_in_b"):
                p = getattr(r, name)
                changes[name] = p + 0.01 * p.norm(dim=-1, keepdim=True) * torch.randn(p.shape, generator=random)
            results.append(replace(r, **changes))
        for one in relative_poses(scene.frames, views, PairResultList(tuple(results))):
            true = true_relative(scene, one.a, one.b)
            units = [(views[n].points[:, 2] / scene.kept_depth(n)).median() for n in (one.a, one.b)]
            error = torch.cat(
                [
                    rotation_vector(true[:3, :3].T @ one.R),
                    one.t - units[0] * true[:3, 3],
                    torch.log(one.scale * units[1] / units[0])[None],
                ]
            )
            chi.append(float(error @ one.information @ error))
    assert 3.5 < sorted(chi)[len(chi) // 2] < 11  # the median of seven squared standard draws is 6.35


def test_wild_points_count_for_little() -> None:
    scene = exact_predictions(ball_truth(2, 24, 32), scale_seed=1, noise=0.005)
    (result,) = scene.results
    points = result.b_in_a.clone()
    points[::4] = torch.randn(len(points[::4]), 3) * 3 + torch.tensor([0.0, 0, 6])
    points[1::4] = math.nan
    one = poses_of(replace(scene, results=PairResultList((replace(result, b_in_a=points),))))[0]
    assert torch.rad2deg(rotation_angle(one.R, true_relative(scene, 0, 1)[:3, :3])) < 0.5


def test_too_few_points_say_nothing() -> None:
    truth = ball_truth(2, 24, 32)
    kept = truth.object_mask & False
    kept[:, 10, 8:19] = True  # eleven
    assert poses_of(exact_predictions(truth, kept=kept)) == []
    kept[:, 10, 8:20] = True
    assert len(poses_of(exact_predictions(truth, kept=kept))) == 2


def test_thinning() -> None:
    scene = exact_predictions(ball_truth(3, 24, 32), scale_seed=1, noise=0.01)
    for full, few in zip(poses_of(scene), poses_of(scene, max_points=200)):
        assert torch.rad2deg(rotation_angle(full.R, few.R)) < 1.5
        assert few.information.trace() < full.information.trace()


def test_stretch() -> None:
    scene = exact_predictions(ball_truth(2, 24, 32))
    view = canonical_views(scene.frames, scene.results)[0]
    points, conf = (view.points / 3).float(), torch.full((len(view),), 5.0)
    points[::3] = 100  # a third of nonsense
    stretch = pass_stretch(view, points, conf)
    assert stretch is not None and float(stretch) == pytest.approx(3, rel=1e-3)
    assert pass_stretch(view, -points, conf) is None and pass_stretch(view, points, conf * 0) is None


@pytest.mark.parametrize("end", ["a", "b"])
@pytest.mark.parametrize("far", [False, True])
def test_derivatives(end: str, far: bool) -> None:
    """By all unknowns of both frames; also where the residual's rotation is large."""
    bundle = small_bundle()
    relative = bundle.relative
    if far:
        turn = torch.linalg.matrix_exp(torch.tensor([[0, -0.9, 0.4], [0.9, 0, -0.7], [-0.4, 0.7, 0]]).double())
        relative = [replace(one, R=one.R @ turn) for one in relative]
    for number, one in enumerate(relative):
        terms = RelativeTerms.stacked([one], CPU)
        residual, by_a, by_b = terms.terms(bundle.state)
        torch.testing.assert_close(residual, terms.residual(bundle.state))
        ours = (by_a if end == "a" else by_b)[0]
        n = getattr(one, end)
        step = 1e-6
        for unknown in range(UNKNOWNS):
            change = torch.zeros(UNKNOWNS, dtype=torch.float64)
            change[unknown] = step
            up, down = (terms.residual(moved(bundle.state, n, sign * change))[0] for sign in (1, -1))
            torch.testing.assert_close(ours[:, unknown], (up - down) / (2 * step), rtol=1e-6, atol=1e-7)
        assert number < len(relative)


def test_the_true_state_has_no_residual() -> None:
    bundle = small_bundle(at_truth=True)
    truth = exact_predictions(ball_truth(3, 24, 32, arc_deg=30))
    views = canonical_views(truth.frames, truth.results)
    terms = RelativeTerms.stacked(relative_poses(truth.frames, views, truth.results), CPU)
    assert terms.residual(bundle.state).abs().max() < 1e-5
    state = random_state(truth.truth, bundle.problem)
    residual = terms.residual(state)
    torch.testing.assert_close(terms.chi(state), torch.stack([r @ m @ r for r, m in zip(residual, terms.information)]))


def test_a_pass_that_lies_is_outvoted() -> None:
    """One pass a quarter turn off: the solution hardly moves, and the others' weights stay."""
    plain = small_bundle(replace(FULL, refine_principal_point=False), at_truth=True)
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    liars = [replace(plain.relative[0], R=quarter, t=plain.relative[0].t + 2), *plain.relative[1:]]
    other = small_bundle(plain.config, at_truth=True)
    other = type(other)(other.problem, other.directions, liars, other.state, other.config)
    a, b = plain.solve().world_from_cam, other.solve().world_from_cam
    assert torch.rad2deg(rotation_angle(a[:, :3, :3], b[:, :3, :3])).max() < 0.3
    assert (a[:, :3, 3] - b[:, :3, 3]).norm(dim=-1).max() < 0.03
