"""The least-squares problem of the alignment: derivatives, elimination, priors, learnt scales."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from pair_scenes import Truth, ball_truth, exact_predictions
from torch import Tensor

from dyn4d.core.errors import RunError
from dyn4d.geometry.bundle import Bundle, BundleConfig, BundleState, make_directions
from dyn4d.geometry.bundle_state import UNKNOWNS
from dyn4d.geometry.deviations import pixel_deviation
from dyn4d.geometry.relative_pose import relative_poses
from dyn4d.geometry.reprojection import Direction, Reprojection
from dyn4d.geometry.sparse_problem import SparseProblem, condense

FULL = BundleConfig(refine_principal_point=True, shared_intrinsics=False)


def small_bundle(
    config: BundleConfig = FULL, *, count: int = 3, relative: bool = True, at_truth: bool = False
) -> Bundle:
    """A few frames of a tiny ball scene with stretched focals, off-centre principal points and fx ≠ fy, some way from
    the solution. `at_truth`: a square, centred camera, where the scene says."""
    truth = ball_truth(count, 24, 32, arc_deg=30)
    scene = exact_predictions(truth, scale_seed=2, noise=0.01, match_step=6)
    problem = condense(scene.frames, scene.results, subsample=8, principal_points=truth.K[:, :2, 2])
    return Bundle(
        problem,
        make_directions(problem, problem.pairs, 2000),
        relative_poses(scene.frames, problem.views, scene.results) if relative else [],
        true_state(truth, problem) if at_truth else random_state(truth, problem),
        config,
    )


def true_state(truth: Truth, problem: SparseProblem) -> BundleState:
    count = len(truth)
    focal, no = truth.K[:, 0, 0].clone(), torch.zeros(count, dtype=torch.bool)
    return BundleState(
        truth.world_from_cam.clone(), torch.ones(count).double(), focal, focal.clone(), truth.K[:, :2, 2].clone(),
        torch.ones(count, 2).double(), tuple(torch.zeros_like(v.anchor_depth) for v in problem.views), ~no, no, no,
    )  # fmt: skip


def random_state(truth: Truth, problem: SparseProblem) -> BundleState:
    state, random = true_state(truth, problem), torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    pose = state.world_from_cam.clone()
    pose[:, :3, :3] = pose[:, :3, :3] @ torch.linalg.matrix_exp(cross(0.03 * draw(len(truth), 3)))
    pose[:, :3, 3] += 0.05 * draw(len(truth), 3)
    return replace(
        state,
        world_from_cam=pose,
        scale=torch.exp(0.1 * draw(len(truth))),
        focal=state.focal * torch.exp(0.2 * draw(len(truth))),
        principal_point=state.principal_point + 2 * draw(len(truth), 2),
        aspect=torch.exp(0.1 * draw(len(truth), 2)),
        log_depth=tuple(0.1 * draw(len(each)) for each in state.log_depth),
    )


def cross(v: Tensor) -> Tensor:
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*v.shape[:-1], 3, 3)


def moved(state: BundleState, frame: int, change: Tensor, depths: Tensor | None = None) -> BundleState:
    """The slow, obvious twin of a step of one frame: (10,) unknowns, (A,) log depths."""
    pick = torch.zeros(len(state.focal), dtype=torch.float64)
    pick[frame] = 1
    turn = torch.linalg.matrix_exp(cross(change[:3]))
    move = torch.nn.functional.pad(change[3:6, None], (3, 0, 0, 1))
    rotated = state.world_from_cam[frame] @ torch.block_diag(turn, torch.ones(1, 1).double()) + move
    pose = torch.stack([rotated if n == frame else each for n, each in enumerate(state.world_from_cam)])
    log_depth = tuple(
        each + depths if n == frame and depths is not None else each for n, each in enumerate(state.log_depth)
    )
    return replace(
        state,
        world_from_cam=pose,
        scale=state.scale * torch.exp(pick * change[6]),
        focal=state.focal * torch.exp(pick * change[7]),
        principal_point=state.principal_point + pick[:, None] * change[8:10],
        log_depth=log_depth,
    )


def seen(d: Direction, state: BundleState) -> Tensor:
    """(M, 2) residuals of a direction, match after match as the text says."""
    out = []
    for m in range(len(d.weight)):
        stretch = state.focal[d.i] / state.network_focal[d.i] * d.ratio[m]
        depth = state.scale[d.i] * d.base[m] * torch.exp(state.log_depth[d.i][d.anchor[m]]) * stretch
        focal_i, focal_j = (state.focal[n] * state.aspect[n] for n in (d.i, d.j))
        ray = torch.cat([(d.uv_i[m] - state.principal_point[d.i]) / focal_i, torch.ones(1).double()])
        world = state.world_from_cam[d.i, :3, :3] @ (ray * depth) + state.world_from_cam[d.i, :3, 3]
        there = state.world_from_cam[d.j, :3, :3].T @ (world - state.world_from_cam[d.j, :3, 3])
        out.append(focal_j * there[:2] / there[2] + state.principal_point[d.j] - d.uv_j[m])
    return torch.stack(out)


def derivative(f: Callable[[Tensor], Tensor], size: int) -> Tensor:
    found = torch.autograd.functional.jacobian(f, torch.zeros(size, dtype=torch.float64))
    assert isinstance(found, Tensor)
    return found


def table(bundle: Bundle, directions: list[Direction], principal_points: bool = True) -> Reprojection:
    return Reprojection(
        directions,
        [len(view.anchor_depth) for view in bundle.problem.views],
        principal_points=principal_points,
        device=torch.device("cpu"),
    )


def columns_of(found: Reprojection, bundle: Bundle, last: int) -> Tensor:
    """(2, K, M) columns of the first directions, for both axes."""
    factor = torch.cat([torch.exp(each) for each in bundle.state.log_depth])
    return found._columns(found._cameras(bundle.state), factor, 0, last)


# ---- matches ----


def test_errors_against_the_text() -> None:
    bundle = small_bundle()
    errors = bundle.errors(bundle.state)
    assert [len(e) for e in errors] == [len(d.weight) for d in bundle.directions]
    for d, found in zip(bundle.directions, errors):
        torch.testing.assert_close(found, seen(d, bundle.state).norm(dim=-1))


@pytest.mark.parametrize("side", ["i", "j"])
def test_derivatives_by_a_frame(side: str) -> None:
    bundle = small_bundle()
    d = bundle.directions[1]
    found = table(bundle, [d])
    columns = columns_of(found, bundle, 1)  # (2, K, M)
    torch.testing.assert_close(columns[:, -1].T, seen(d, bundle.state))
    both = torch.einsum("akm,ku->mau", columns[:, :-1], found.unknowns(bundle.state)[0])
    ours = both[..., :UNKNOWNS] if side == "i" else both[..., UNKNOWNS:]
    true = derivative(lambda x: seen(d, moved(bundle.state, getattr(d, side), x)), UNKNOWNS)
    torch.testing.assert_close(ours, true, rtol=1e-8, atol=1e-8)
    assert true.abs().amax((0, 1)).count_nonzero() == (UNKNOWNS if side == "i" else UNKNOWNS - 1)  # j's scale is free


def test_derivatives_without_principal_points_are_the_same_columns() -> None:
    bundle = small_bundle()
    more, fewer = (columns_of(table(bundle, bundle.directions, pp), bundle, 2) for pp in (True, False))
    assert torch.equal(more[:, :9], fewer[:, :9]) and torch.equal(more[:, -1], fewer[:, -1])


def test_derivatives_by_depth() -> None:
    bundle = small_bundle()
    d = bundle.directions[0]
    columns = columns_of(table(bundle, [d]), bundle, 1)
    size = len(bundle.state.log_depth[d.i])
    true = derivative(lambda x: seen(d, moved(bundle.state, d.i, torch.zeros(UNKNOWNS).double(), x)), size)
    by_anchor = true.gather(2, d.anchor[:, None, None].expand(-1, 2, 1))[..., 0]
    torch.testing.assert_close(columns[:, 6].T, by_anchor, rtol=1e-8, atol=1e-8)
    assert torch.allclose(true.abs().sum(-1), by_anchor.abs())  # no other anchor


def test_chunks_change_only_roundings(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = small_bundle()
    whole = table(bundle, bundle.directions)
    robust = torch.rand(len(whole), dtype=torch.float64)
    one = whole.sums(bundle.state, robust, anchors=True)
    errors = whole.errors(bundle.state)
    monkeypatch.setattr("dyn4d.geometry.reprojection.CHUNK", 1)
    assert len(list(whole._chunks())) == len(bundle.directions)
    other = whole.sums(bundle.state, robust, anchors=True)
    torch.testing.assert_close(one.products, other.products)
    for n, found in one.by_anchor.items():
        torch.testing.assert_close(found, other.by_anchor[n])
    assert torch.equal(errors, whole.errors(bundle.state))


def test_points_behind_the_partner_stay_finite() -> None:
    bundle = small_bundle()
    pose = bundle.state.world_from_cam.clone()
    pose[1, :3, :3] = pose[1, :3, :3] @ torch.diag(torch.tensor([-1.0, 1, -1], dtype=torch.float64))
    state = replace(bundle.state, world_from_cam=pose)
    assert all(torch.isfinite(e).all() for e in bundle.errors(state))
    H, g, _ = bundle._normal_equations(state, bundle._measure(state))
    assert torch.isfinite(H).all() and torch.isfinite(g).all()


def test_no_directions() -> None:
    bundle = small_bundle()
    alone = Bundle(bundle.problem, [], bundle.relative, bundle.state, bundle.config)
    assert alone.errors(alone.state) == []
    assert torch.isfinite(alone.solve().world_from_cam).all()


def test_weights_and_thinning() -> None:
    problem = small_bundle().problem
    directions = make_directions(problem, problem.pairs, 10)
    assert [len(d.weight) for d in directions] == [10] * 6
    assert float(torch.cat([d.weight for d in directions]).mean()) == pytest.approx(0.5)
    assert (directions[0].i, directions[0].j) == (directions[1].j, directions[1].i)
    assert torch.equal(directions[0].uv_i, directions[1].uv_j)


# ---- steps ----


def gradients(bundle: Bundle, state: BundleState) -> tuple[Tensor, list[Tensor]]:
    """Central differences of the cost by the frames' unknowns, and by some of each frame's log depths."""
    step = 1e-6

    def difference(change: Tensor, depths: list[Tensor]) -> float:
        up, down = (bundle._moved(state, sign * change, [sign * d for d in depths]) for sign in (1, -1))
        return (bundle.cost(up) - bundle.cost(down)) / (2 * step)

    still = [torch.zeros_like(each) for each in state.log_depth]
    eye = step * torch.eye(bundle.count, dtype=torch.float64)
    by_frames = torch.tensor([difference(row, still) for row in eye], dtype=torch.float64)
    by_depth = []
    for n in range(len(still)):
        some = []
        for a in range(min(4, len(still[n]))):
            depths = [each.clone() for each in still]
            depths[n][a] = step
            some.append(difference(torch.zeros(bundle.count, dtype=torch.float64), depths))
        by_depth.append(torch.tensor(some, dtype=torch.float64))
    return by_frames, by_depth


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("relative", [True, False])
def test_gradient_of_the_cost_with_priors(shared: bool, relative: bool) -> None:
    """Robust kernels, relative poses, priors and shared columns, all at once."""
    bundle = small_bundle(replace(FULL, shared_intrinsics=shared), relative=relative)
    bundle.pixel_error, bundle.overconfidence = 3.0, 200.0
    if shared:
        focal = bundle.state.focal[:1] / bundle.state.network_focal[:1] * bundle.state.network_focal
        bundle.state = replace(bundle.state, focal=focal)
    state = bundle.state
    _, g, anchors = bundle._normal_equations(state, bundle._measure(state))
    by_frames, by_depth = gradients(bundle, state)
    torch.testing.assert_close(g, by_frames, rtol=1e-5, atol=1e-6 * float(by_frames.abs().max()))
    for kept, true in zip(anchors, by_depth):
        torch.testing.assert_close(kept.gradient[: len(true)], true, rtol=1e-5, atol=1e-4)
    own = bundle.index[bundle.index >= 0].unique()
    assert torch.equal(own, torch.arange(bundle.count))
    assert bundle.count == 2 * 7 + 3 * (1 if shared else 3)


def test_elimination_is_the_full_system() -> None:
    bundle = small_bundle(replace(FULL, shared_intrinsics=True))
    state, damping = bundle.state, 0.01
    measured = bundle._measure(state)
    H, g, anchors = bundle._normal_equations(state, measured)
    sizes = [len(kept.diagonal) for kept in anchors]
    total = bundle.count + sum(sizes)
    full, rhs = torch.zeros(total, total, dtype=torch.float64), torch.zeros(total, dtype=torch.float64)
    full[: bundle.count, : bundle.count], rhs[: bundle.count] = H, g
    start = bundle.count
    for kept, size in zip(anchors, sizes):
        rows = torch.arange(start, start + size)
        full[rows, rows], rhs[rows] = kept.diagonal, kept.gradient
        for column, values in zip(kept.columns.tolist(), kept.cross.T):
            if column < bundle.count:
                full[rows, column] += values
                full[column, rows] += values
        start += size
    full += torch.diag(damping * full.diagonal())
    expected = torch.linalg.solve(full, -rhs)
    change, depths = bundle._step(H, g, anchors, damping)
    torch.testing.assert_close(change, expected[: bundle.count], rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(torch.cat(depths), expected[bundle.count :].clamp(-0.5, 0.5), rtol=1e-5, atol=1e-8)


def test_the_hessian_is_that_of_the_twin() -> None:
    """Blocks from sums over few columns are those of the full derivatives."""
    bundle = small_bundle(replace(FULL, shared_intrinsics=True), relative=False, count=2)
    state = bundle.state
    H, _, _ = bundle._normal_equations(state, bundle._measure(state))
    full = torch.zeros(bundle.count + 1, bundle.count + 1, dtype=torch.float64)
    for d, error in zip(bundle.directions, bundle.errors(state)):
        for n, other in ((d.i, d.j), (d.j, d.i)):
            weight = (d.weight * bundle._robust(error)[1])[:, None, None]
            by = [derivative(lambda x, d=d, k=k: seen(d, moved(state, k, x)), UNKNOWNS) for k in (n, other)]
            block = torch.einsum("mau,mav->uv", weight * by[0], torch.cat(by, -1))
            columns = torch.where(bundle.index < 0, bundle.count, bundle.index)
            full.index_put_(
                (columns[n][:, None], torch.cat([columns[n], columns[other]])[None]), block, accumulate=True
            )
    diagonal = full.diagonal()
    diagonal[bundle.index[0, 7]] += 1 / bundle.config.focal_sigma**2  # shared: once
    diagonal[bundle.index[0, 8:]] += 1 / (bundle.config.point_sigma * 32) ** 2
    torch.testing.assert_close(H, full[:-1, :-1], rtol=1e-6, atol=1e-6 * float(H.abs().max()))


def test_what_is_held_stays() -> None:
    bundle = small_bundle(BundleConfig(refine_focal=False, refine_depth=False))
    out = bundle.solve()
    assert torch.equal(out.focal, small_bundle().state.focal)
    assert all(torch.equal(a, b) for a, b in zip(out.log_depth, small_bundle().state.log_depth))
    first = small_bundle().state
    assert torch.equal(out.world_from_cam[0], first.world_from_cam[0]) and out.scale[0] == first.scale[0]
    fixed = torch.tensor([False, True, True])
    held = replace(first, fixed_pose=fixed)
    bundle = Bundle(bundle.problem, bundle.directions, bundle.relative, held, FULL)
    assert bundle.count == 6 + 3 + 9  # one pose, all scales, all lenses
    out = bundle.solve()
    assert torch.equal(out.world_from_cam[1:], first.world_from_cam[1:])
    assert not torch.equal(out.world_from_cam[0], first.world_from_cam[0])


def test_fixed_poses_in_one_place_leave_the_scale() -> None:
    bundle = small_bundle(relative=False)
    pose = bundle.state.world_from_cam.clone()
    pose[1, :3, 3] = pose[0, :3, 3] + 1e-14
    held = replace(bundle.state, world_from_cam=pose, fixed_pose=torch.tensor([True, True, False]))
    assert int((Bundle(bundle.problem, bundle.directions, [], held, FULL).index[:, 6] >= 0).sum()) == 2


def test_the_solution_has_no_gradient() -> None:
    bundle = small_bundle(BundleConfig(tolerance=1e-12, iterations=200), at_truth=True)
    start = bundle.cost(bundle.state)
    out = bundle.solve()
    assert bundle.cost(out) <= start
    H, g, anchors = bundle._normal_equations(out, bundle._measure(out))
    change, depths = bundle._step(H, g, anchors, 0.0)
    assert change.abs().max() < 1e-4 and torch.cat(depths).abs().max() < 1e-4


def test_numbers_without_sense_are_an_error() -> None:
    bundle = small_bundle()
    bundle.state = replace(bundle.state, scale=torch.full((3,), math.nan, dtype=torch.float64))
    with pytest.raises(RunError, match="starting cameras make no sense"):
        bundle.solve()


# ---- learnt scales ----


@pytest.mark.parametrize("wrong", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_how_large_errors_are(wrong: float, sigma: float) -> None:
    """The deviation of the right matches, whatever the wrong ones are; the median alone only without any."""
    random = torch.Generator().manual_seed(1)
    right = sigma * torch.randn(30000, 2, generator=random, dtype=torch.float64).norm(dim=-1)
    lost = (torch.rand(30000, 2, generator=random, dtype=torch.float64) * torch.tensor([128.0, 96.0])).norm(dim=-1)
    errors = lost.where(torch.rand(30000, generator=random) < wrong, right)
    assert pixel_deviation(errors, 128 * 96) == pytest.approx(sigma, rel=0.06)
    plain = pixel_deviation(errors, None)
    assert plain == pytest.approx(sigma, rel=0.03) if wrong == 0 else plain > 1.2 * sigma


def test_one_error_and_none() -> None:
    assert pixel_deviation(torch.tensor([2.0]).double(), None) == pytest.approx(2 / 1.1774)
    assert pixel_deviation(torch.zeros(5).double(), 100.0) == 0
