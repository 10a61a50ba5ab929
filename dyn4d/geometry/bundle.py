"""Our sparse alignment: Levenberg-Marquardt on the matches' reprojection, with priors that keep what is weakly seen.

Every match says twice where the partner's pixel should see it. Unknown are, per frame, the pose, the scale of the
canonical view and the focal length (one for all, if they share it), and the depth of every anchor. What the network
says of focal and relief enters as a prior: Adam without one walks away even from a perfect start along the direction in
which focal and depth trade for each other. The anchors are eliminated (Schur complement), so that the system that is
solved has ten unknowns a frame, however many pixels there are. Memory and time are linear in the number of pairs, but
for the Cholesky factor of that system (a hundred frames: 700 unknowns).

The forward model is that of Duisterhof et al., MASt3R-SfM, 2024, but for the focal length: a change of it stretches a
frame's content along its axis, as a network that is wrong about it does. (Published is a shift that keeps the relief
within a block of pixels; with that a wrong focal length holds itself.) Everything is float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.errors import RunError
from dyn4d.geometry.bundle_state import CENTRE, FOCAL, POINT, ROTATION, SCALE, UNKNOWNS, BundleState, cross_matrix
from dyn4d.geometry.deviations import pixel_deviation
from dyn4d.geometry.elimination import EliminatedAnchors, add_blocks
from dyn4d.geometry.relative_pose import RelativePose, RelativeTerms
from dyn4d.geometry.reprojection import BY_DEPTH, Direction, Reprojection, Sums, make_directions
from dyn4d.geometry.sparse_problem import SparseProblem
from dyn4d.geometry.world_frame import LEAST_PARALLAX, scene_depth

__all__ = ["Bundle", "BundleConfig", "BundleState", "Direction", "make_directions"]


@dataclass(frozen=True)
class BundleConfig:
    """What may move, and how far from where the network put it."""

    iterations: int = 40
    """Steps at most."""
    tolerance: float = 1e-3
    """Done where two steps in a row gain less than this share of the cost, and the learnt scales rest."""
    shared_intrinsics: bool = True
    """One focal length for all frames (of the picture that the views are cut from)."""
    refine_focal: bool = True
    refine_depth: bool = True
    refine_principal_point: bool = False
    refine_scale: bool = True
    """False where all frames' depths have one unit, as those of a sensor have."""
    focal_sigma: float = 0.1
    """Standard deviation of the logarithm of the focal around the network's, however many frames share it."""
    depth_sigma: float = 0.02
    """Of the logarithm of an anchor's depth, relative to its frame, to start with."""
    depth_sigma_limits: tuple[float, float] = (0.002, 0.05)
    """What may be learnt of it."""
    point_sigma: float = 0.02
    """Of the principal point, as a share of the view's longer side."""
    least_pixel_error: float = 0.2
    """Matches are never believed more closely than this many pixels."""
    max_per_pair: int = 2000
    """More matches of a pair are thinned out evenly."""


@dataclass
class Bundle:
    """The least-squares problem of one connected part of a clip.

    Args:
        problem: its frames. directions: see `make_directions`. relative: what the passes say of poses.
        state: where to start. config: what may move.

    Attributes:
        pixel_error: standard deviation of the matches along an axis in pixels. depth_sigma: of the logarithm of the
            anchors' depths. overconfidence: by which the information of the relative poses is divided. All three are
            found from the residuals.
    """

    problem: SparseProblem
    directions: list[Direction]
    relative: list[RelativePose]
    state: BundleState
    config: BundleConfig
    pixel_error: float = field(init=False, default=1.0)
    depth_sigma: float = field(init=False, default=0.02)
    overconfidence: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        device = self.state.focal.device
        self._relatives = RelativeTerms.stacked(self.relative, device) if self.relative else None
        self._matches = Reprojection(
            self.directions,
            [len(each) for each in self.state.log_depth],
            principal_points=self.config.refine_principal_point,
            device=device,
        )
        self._layout()
        self._start_focal = torch.log(self.state.network_focal)
        self._start_point = self.state.principal_point.clone()

    def _layout(self) -> None:
        """Which global unknown each frame's unknown is; -1 = it stays. One frame and its scale hold the world."""
        state, config = self.state, self.config
        frames = torch.nonzero(state.active).squeeze(-1).tolist()
        index = torch.full((len(state.active), UNKNOWNS), -1, dtype=torch.int64)
        held = [n for n in frames if bool(state.fixed_pose[n])]
        spread = float(state.world_from_cam[held, :3, 3].std(0).norm()) if len(held) > 1 else 0.0
        depth = scene_depth(state, [view.anchor_depth for view in self.problem.views])
        apart = spread > LEAST_PARALLAX * depth  # fixed poses in one place leave the scale open
        still = set(held) if held else {frames[0]}
        count = 0
        focal = point = -1
        for n in frames:
            if n not in still:
                index[n, :6] = torch.arange(count, count + 6)
                count += 6
            if config.refine_scale and (n != frames[0] or apart):
                index[n, SCALE] = count
                count += 1
            if config.refine_focal and not bool(state.fixed_focal[n]):
                if focal < 0 or not config.shared_intrinsics:
                    focal = count
                    count += 1
                index[n, FOCAL] = focal
            if config.refine_principal_point and not bool(state.fixed_focal[n]):
                if point < 0 or not config.shared_intrinsics:
                    point = count
                    count += 2
                index[n, POINT] = torch.tensor([point, point + 1])
        self.frames, self.index, self.count = frames, index, count
        self._padded_index = torch.where(index < 0, count, index).to(state.focal.device)

    # ------------------------------------------------------------------------------------------- cost

    def errors(self, state: BundleState) -> list[Tensor]:
        """For each direction (M,) px between where a match is and where it should be seen."""
        return list(self._matches.errors(state).split([len(d.weight) for d in self.directions]))

    def _measure(self, state: BundleState) -> _Measured:
        return _Measured(self._matches.errors(state), None if self._relatives is None else self._relatives.chi(state))

    def _robust(self, error: Tensor) -> tuple[Tensor, Tensor]:
        """Cost and weight of Cauchy's kernel, for errors (M,) in pixels."""
        squared = (error / (2 * self.pixel_error)) ** 2
        return 2 * torch.log1p(squared), 1 / (1 + squared) / self.pixel_error**2

    def _relative_robust(self, chi: Tensor) -> tuple[Tensor, Tensor]:
        """Cost and weight of Cauchy's kernel for squared residuals (E,) of seven dimensions."""
        scaled = chi / self.overconfidence
        width = 4 * 7.0
        return width / 2 * torch.log1p(scaled / width), 1 / (1 + scaled / width) / self.overconfidence

    def cost(self, state: BundleState, measured: _Measured | None = None) -> float:
        """Half the weighted robust squares, with the scales learnt so far."""
        measured = self._measure(state) if measured is None else measured
        total = float((self._matches.weight * self._robust(measured.errors)[0]).sum())
        if measured.chi is not None:
            total += float(self._relative_robust(measured.chi)[0].sum())
        return total + self._prior_cost(state)

    def _prior_cost(self, state: BundleState) -> float:
        config, total = self.config, 0.0
        if config.refine_depth:
            total += sum(float(state.log_depth[n].square().sum()) for n in self.frames) / self.depth_sigma**2 / 2
        moved, _, weight = self._lens_prior(state)
        return total + float((weight * moved.square()).sum()) / 2

    def _lens_prior(self, state: BundleState) -> tuple[Tensor, Tensor, Tensor]:
        """What log focals and principal points have moved, their columns and their priors' information, all (T, 3).
        What several frames share is one observation, however many they are."""
        columns = self._padded_index[:, FOCAL:]
        shared = torch.bincount(columns.flatten(), minlength=self.count + 1)[columns]
        focal = torch.log(state.focal) - self._start_focal
        moved = torch.cat([focal[:, None], state.principal_point - self._start_point], -1)
        sides = [max(view.width, view.height) for view in self.problem.views]
        wide = self.config.point_sigma * torch.tensor(sides, dtype=torch.float64, device=moved.device)
        sigma = torch.stack([torch.full_like(wide, self.config.focal_sigma), wide, wide], -1)
        return moved, columns, torch.where(columns < self.count, 1 / (sigma**2 * shared), 0.0)

    # ------------------------------------------------------------------------------------------- one step

    def _normal_equations(
        self, state: BundleState, measured: _Measured
    ) -> tuple[Tensor, Tensor, list[EliminatedAnchors]]:
        """H (n, n), gradient (n,) of the frames' unknowns, and each frame's anchors."""
        device = state.focal.device
        H = torch.zeros(self.count + 1, self.count + 1, dtype=torch.float64, device=device)  # the last: what stays
        g = torch.zeros(self.count + 1, dtype=torch.float64, device=device)
        index = self._padded_index
        sums = self._matches.sums(state, self._robust(measured.errors)[1], anchors=self.config.refine_depth)
        columns = torch.cat([index[self._matches.i], index[self._matches.j]], -1)  # (D, 20)
        back = sums.unknowns.mT
        add_blocks(H, g, columns, back @ sums.products[:, :-1, :-1] @ sums.unknowns, back @ sums.products[:, :-1, -1:])
        if self._relatives is not None and measured.chi is not None:
            residual, by_a, by_b = self._relatives.terms(state)
            columns = torch.cat([index[self._relatives.a], index[self._relatives.b]], -1)  # (E, 20)
            both = torch.cat([by_a, by_b], -1)  # (E, 7, 20)
            weight = self._relative_robust(measured.chi)[1]
            informed = both.mT @ self._relatives.information * weight[:, None, None]
            add_blocks(H, g, columns, informed @ both, informed @ residual[..., None])
        moved, columns, weight = self._lens_prior(state)
        H.diagonal().index_add_(0, columns.flatten(), weight.flatten())
        g.index_add_(0, columns.flatten(), (weight * moved).flatten())
        return (
            H[:-1, :-1],
            g[:-1],
            [self._eliminated(n, sums, state) for n in self.frames] if self.config.refine_depth else [],
        )

    def _eliminated(self, n: int, sums: Sums, state: BundleState) -> EliminatedAnchors:
        """The anchors of frame n; their prior: no match, no move."""
        index, numbers, prior = self._padded_index, self._matches.of_frame.get(n, []), 1 / self.depth_sigma**2
        found = sums.by_anchor.get(n, state.log_depth[n].new_zeros(0, len(state.log_depth[n]), self._matches.columns))
        cross = found[..., :-1] @ sums.unknowns[numbers]  # (D, A, 20)
        own, other = cross[..., :UNKNOWNS].sum(0), cross[..., UNKNOWNS:].transpose(0, 1).flatten(1)
        return EliminatedAnchors(
            n,
            torch.cat([index[n], index[self._matches.j[numbers]].flatten()]),
            torch.cat([own, other], -1),
            found[..., BY_DEPTH].sum(0) + prior,
            found[..., -1].sum(0) + prior * state.log_depth[n],
        )

    def _step(
        self, H: Tensor, g: Tensor, anchors: list[EliminatedAnchors], damping: float
    ) -> tuple[Tensor, list[Tensor]]:
        """Changes (n,) of the frames' unknowns and (A,) of each frame's log depths."""
        S, rhs = H + torch.diag(damping * H.diagonal() + 1e-12), -g
        S, rhs = torch.nn.functional.pad(S, (0, 1, 0, 1)), torch.nn.functional.pad(rhs, (0, 1))
        for kept in anchors:
            kept.eliminate(S, rhs, damping)
        S, rhs = S[:-1, :-1], rhs[:-1]
        factor, failed = torch.linalg.cholesky_ex(S)
        if int(failed) or not bool(torch.isfinite(rhs).all()):
            return torch.full_like(rhs, torch.nan), []
        change = torch.cholesky_solve(rhs[:, None], factor)[:, 0]
        padded = torch.nn.functional.pad(change, (0, 1))
        return change, [kept.back(padded, damping) for kept in anchors]

    def _moved(self, state: BundleState, change: Tensor, depths: list[Tensor]) -> BundleState:
        each = torch.nn.functional.pad(change, (0, 1))[self._padded_index]
        pose = state.world_from_cam.clone()
        turn = torch.linalg.matrix_exp(cross_matrix(each[:, ROTATION]))
        pose[:, :3, :3] = torch.where(state.active[:, None, None], pose[:, :3, :3] @ turn, pose[:, :3, :3])
        pose[:, :3, 3] = pose[:, :3, 3] + each[:, CENTRE]
        log_depth = list(state.log_depth)
        for n, delta in zip(self.frames, depths):
            log_depth[n] = log_depth[n] + delta
        return replace(
            state, world_from_cam=pose, scale=state.scale * torch.exp(each[:, SCALE].clamp(-1, 1)),
            focal=state.focal * torch.exp(each[:, FOCAL].clamp(-0.5, 0.5)),
            principal_point=state.principal_point + each[:, POINT], log_depth=tuple(log_depth),
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------- all of it

    def _learn_errors(self, measured: _Measured, *, mixed: bool) -> None:
        """How large the matches' errors are, and how much too sure the relative poses: from the median of the squared
        residuals, of the latter less what the fit takes away by following them.

        Args:
            mixed: tell wrong matches from right ones first. At the start all may be far off.
        """
        self.pixel_error, self.overconfidence = 1.0, 1.0
        if len(measured.errors):
            area = max(float(np.median([len(self.problem.views[n]) for n in self.frames])), 100.0)
            found = pixel_deviation(measured.errors, area if mixed else None)
            self.pixel_error = max(found, self.config.least_pixel_error)
        if measured.chi is not None:
            free = max(1 - (len(self.frames) - 1) / len(self.relative), 0.25)
            typical = float(measured.chi.median()) / 6.35  # the median of seven squared standard draws
            self.overconfidence = max(typical / free, 1.0)

    def _learn(self, state: BundleState, measured: _Measured, anchors: list[EliminatedAnchors]) -> bool:
        """Bring the three scales up to date; True where one changed by more than 3 %."""
        before = self.pixel_error, self.depth_sigma, self.overconfidence
        self._learn_errors(measured, mixed=True)
        if anchors:  # empirical Bayes: what the anchors moved, and how far they might have
            moved = torch.cat([state.log_depth[kept.frame].square() + 1 / kept.diagonal for kept in anchors])
            low, high = self.config.depth_sigma_limits
            self.depth_sigma = min(max(float(moved.mean().sqrt()), low), high)
        now = self.pixel_error, self.depth_sigma, self.overconfidence
        return any(abs(a / b - 1) > 0.03 for a, b in zip(now, before))

    def solve(self) -> BundleState:
        """The state with the least cost that was found.

        Raises:
            RunError: the numbers are not finite from the start.
        """
        damping, state, calm = 1e-3, self.state, 0
        measured = self._measure(state)
        self.depth_sigma = self.config.depth_sigma
        self._learn_errors(measured, mixed=False)
        cost = self.cost(state, measured)
        if not math.isfinite(cost):
            raise RunError("alignment: the starting cameras make no sense (errors are not finite)")
        for _ in range(self.config.iterations):
            H, g, anchors = self._normal_equations(state, measured)
            better = False
            while damping < 1e8:
                change, depths = self._step(H, g, anchors, damping)
                if bool(torch.isfinite(change).all()):
                    tried = self._moved(state, change, depths)
                    seen = self._measure(tried)
                    now = self.cost(tried, seen)
                    if now < cost:
                        better = True
                        break
                damping *= 10
            if not better:
                break
            gain, state, measured, cost, damping = cost - now, tried, seen, now, max(damping / 10, 1e-9)
            if gain >= self.config.tolerance * abs(cost):
                calm = 0
                continue
            calm = 0 if self._learn(state, measured, anchors) else calm + 1
            if calm == 2:
                break
            cost = self.cost(state, measured)
        self.state = state
        return state


@dataclass(frozen=True)
class _Measured:
    """Residuals of a state: (M,) px of the matches, (E,) squared in standard deviations of the relative poses."""

    errors: Tensor
    chi: Tensor | None
