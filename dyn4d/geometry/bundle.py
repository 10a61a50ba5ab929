"""Our sparse alignment: Levenberg-Marquardt on the matches' reprojection, with priors that keep what is weakly seen.

Every match says twice where the partner's pixel should see it. Unknown are, per frame, the pose, the scale of the
canonical view and the focal length (one for all, if they share it), and the depth of every anchor. What the network
says of focal and relief enters as a prior: Adam without one walks away even from a perfect start along the direction in
which focal and depth trade for each other. The anchors are eliminated (Schur complement), so that the system that is
solved has ten unknowns a frame, however many pixels there are. Memory and time are linear in the number of pairs.

The forward model is that of Duisterhof et al., MASt3R-SfM, 2024: a change of the focal moves a frame's content along
its axis and keeps its relief. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dyn4d.core.errors import RunError
from dyn4d.core.rotations import rotation_vector
from dyn4d.geometry.relative_pose import RelativePose
from dyn4d.geometry.sparse_problem import PairMatches, SparseProblem

UNKNOWNS = 10  # of a frame: rotation 3, centre 3, log scale, log focal, principal point 2
_ROTATION, _CENTRE, _SCALE, _FOCAL, _POINT = slice(0, 3), slice(3, 6), 6, 7, slice(8, 10)
NEAREST = 0.02  # least depth of a pixel, as a share of its anchor's; of a point before a camera, of its frame's median
RAYLEIGH = 1.1774  # median length of a 2D Gaussian's draws in standard deviations


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
    """Standard deviation of the logarithm of the focal around the network's."""
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


@dataclass(frozen=True)
class BundleState:
    """Where T frames are.

    Attributes:
        world_from_cam: (T, 4, 4). scale: (T,) world lengths per length of the canonical view. focal: (T,) px.
        network_focal: (T,) px, what the canonical points say. principal_point: (T, 2) px.
        aspect: (T, 2) the focal lengths along x and y are `focal` times these.
        log_depth: for each frame (A,) logarithm of an anchor's depth over that of the scaled canonical view.
        active: (T,) bool, frames that take part; the others' numbers mean nothing.
        fixed_pose: (T,) bool, poses that must stay. fixed_focal: (T,) bool.
    """

    world_from_cam: Tensor
    scale: Tensor
    focal: Tensor
    network_focal: Tensor
    principal_point: Tensor
    aspect: Tensor
    log_depth: tuple[Tensor, ...]
    active: Tensor
    fixed_pose: Tensor
    fixed_focal: Tensor

    def depth(self, frame: int, base: Tensor, anchor: Tensor, ratio: Tensor) -> Tensor:
        """(M,) world depth of pixels with this `ratio` to their anchors, rows `anchor` of canonical depth `base`."""
        stretch = (self.focal[frame] / self.network_focal[frame] + ratio - 1).clamp_min(NEAREST)
        return self.scale[frame] * base * torch.exp(self.log_depth[frame][anchor]) * stretch

    def focals(self, frame: int) -> Tensor:
        """(2,) px along x and y."""
        return self.focal[frame] * self.aspect[frame]


@dataclass(frozen=True)
class Direction:
    """The matches of a pair as seen from i: i's pixel has a depth and is looked for in j."""

    i: int
    j: int
    uv_i: Tensor
    anchor: Tensor
    ratio: Tensor
    base: Tensor
    uv_j: Tensor
    weight: Tensor


@dataclass
class _Linear:
    """Residuals (M, 2) of a direction and what they depend on: i's and j's unknowns (M, 2, 10), depths (M, 2)."""

    residual: Tensor
    by_i: Tensor
    by_j: Tensor
    by_depth: Tensor


def make_directions(problem: SparseProblem, pairs: Sequence[PairMatches], most: int) -> list[Direction]:
    """Both directions of each pair. The mean weight over all matches is 1/2: the two directions of a match are one
    observation, and only relative confidences count."""
    chosen = [_thinned(pair, most) for pair in pairs]
    mean = torch.cat([pair.weight for pair in chosen]).mean() if chosen else torch.ones(())
    out = []
    for pair in chosen:
        for i, j, here, there in (
            (pair.frame_a, pair.frame_b, pair.a, pair.b),
            (pair.frame_b, pair.frame_a, pair.b, pair.a),
        ):
            base = problem.views[i].anchor_depth[here.anchor]
            out.append(Direction(i, j, here.xy, here.anchor, here.ratio, base, there.xy, pair.weight / mean / 2))
    return out


def _thinned(pair: PairMatches, most: int) -> PairMatches:
    if len(pair) <= most:
        return pair
    return pair.select(torch.arange(most, device=pair.weight.device) * len(pair) // most)


def _cross(v: Tensor) -> Tensor:
    """(M, 3, 3) matrices of v × ·."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], dim=-1).reshape(*v.shape[:-1], 3, 3)


def _forward(d: Direction, state: BundleState) -> tuple[Tensor, Tensor]:
    """Points (M, 3) in i's and in j's camera."""
    ray = torch.cat([(d.uv_i - state.principal_point[d.i]) / state.focals(d.i), torch.ones_like(d.base)[:, None]], -1)
    here = ray * state.depth(d.i, d.base, d.anchor, d.ratio)[:, None]
    pose_i, pose_j = state.world_from_cam[d.i], state.world_from_cam[d.j]
    world = here @ pose_i[:3, :3].T + pose_i[:3, 3]
    return here, (world - pose_j[:3, 3]) @ pose_j[:3, :3]


def _residual(d: Direction, state: BundleState, there: Tensor) -> tuple[Tensor, Tensor]:
    """(M, 2) px; (M,) depth in j, kept above a little."""
    near = NEAREST * state.scale[d.i] * d.base.median() if len(d.base) else torch.ones(())
    z = there[:, 2].clamp_min(float(near))
    return state.focals(d.j) * there[:, :2] / z[:, None] + state.principal_point[d.j] - d.uv_j, z


def _linearise(d: Direction, state: BundleState) -> _Linear:
    here, there = _forward(d, state)
    residual, z = _residual(d, state, there)
    rotation_i, rotation_j = state.world_from_cam[d.i, :3, :3], state.world_from_cam[d.j, :3, :3]
    focals_i, focals_j = state.focals(d.i), state.focals(d.j)
    in_front = (there[:, 2] >= z).to(z.dtype)
    by_point = torch.zeros(len(z), 2, 3, dtype=z.dtype, device=z.device)
    by_point[:, 0, 0], by_point[:, 1, 1] = focals_j[0] / z, focals_j[1] / z
    by_point[:, :, 2] = -focals_j * there[:, :2] / z[:, None] ** 2 * in_front[:, None]
    turn = by_point @ (rotation_j.T @ rotation_i)  # by the point in i's camera
    by_i = torch.zeros(len(z), 2, UNKNOWNS, dtype=z.dtype, device=z.device)
    by_i[:, :, _ROTATION] = -turn @ _cross(here)
    by_i[:, :, _CENTRE] = by_point @ rotation_j.T
    along = (turn @ here[:, :, None]).squeeze(-1)  # by the logarithm of the depth
    by_i[:, :, _SCALE] = along
    stretch = state.focal[d.i] / state.network_focal[d.i]
    share = stretch / (stretch + d.ratio - 1).clamp_min(NEAREST)
    sideways = here * here.new_tensor([1.0, 1.0, 0.0])
    by_i[:, :, _FOCAL] = along * share[:, None] - (turn @ sideways[:, :, None]).squeeze(-1)
    by_i[:, :, _POINT] = -turn[:, :, :2] * here[:, 2, None, None] / focals_i
    by_j = torch.zeros_like(by_i)
    by_j[:, :, _ROTATION] = by_point @ _cross(there)
    by_j[:, :, _CENTRE] = -by_i[:, :, _CENTRE]
    by_j[:, :, _FOCAL] = residual + d.uv_j - state.principal_point[d.j]
    by_j[:, 0, 8] = by_j[:, 1, 9] = 1
    return _Linear(residual, by_i, by_j, along)


@dataclass(frozen=True)
class _Relatives:
    """E relative poses, stacked; fields as of `RelativePose`."""

    a: Tensor
    b: Tensor
    R: Tensor
    t: Tensor
    scale: Tensor
    information: Tensor

    @staticmethod
    def stacked(poses: Sequence[RelativePose], device: torch.device) -> _Relatives:
        a, b = (torch.tensor([getattr(one, end) for one in poses], dtype=torch.int64) for end in "ab")
        tables = [torch.stack([getattr(one, name) for one in poses]) for name in ("R", "t", "scale", "information")]
        return _Relatives(a.to(device), b.to(device), *(table.to(device) for table in tables))

    def terms(self, state: BundleState) -> tuple[Tensor, Tensor, Tensor]:
        """Residuals (E, 7) of (rotation, translation, log scale), in the order of `information`, and what they depend
        on: (E, 7, 10) each of a's and b's unknowns."""
        of_a, of_b = state.world_from_cam[self.a], state.world_from_cam[self.b]
        back = of_a[:, :3, :3].mT
        size_a, size_b = state.scale[self.a], state.scale[self.b]
        away = (back @ (of_b[:, :3, 3] - of_a[:, :3, 3])[..., None])[..., 0] / size_a[:, None]
        turn = self.R.mT @ back @ of_b[:, :3, :3]
        scale = torch.log(size_b / size_a / self.scale)
        residual = torch.cat([rotation_vector(turn), away - self.t, scale[:, None]], -1)
        by_a, by_b = (residual.new_zeros(len(residual), 7, UNKNOWNS) for _ in range(2))
        # The residual's rotation is small wherever its information matters: its Jacobian is taken at 0.
        by_b[:, 0:3, _ROTATION] = torch.eye(3, dtype=residual.dtype, device=residual.device)
        by_a[:, 0:3, _ROTATION] = -(of_b[:, :3, :3].mT @ of_a[:, :3, :3])
        by_b[:, 3:6, _CENTRE] = back / size_a[:, None, None]
        by_a[:, 3:6, _CENTRE] = -by_b[:, 3:6, _CENTRE]
        by_a[:, 3:6, _ROTATION] = _cross(away)
        by_a[:, 3:6, _SCALE] = -away
        by_b[:, 6, _SCALE], by_a[:, 6, _SCALE] = 1, -1
        return residual, by_a, by_b

    def chi(self, residual: Tensor) -> Tensor:
        """(E,) squared residuals in standard deviations."""
        return torch.einsum("ei,eij,ej->e", residual, self.information, residual)


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
        self._relatives = _Relatives.stacked(self.relative, self.state.focal.device) if self.relative else None
        self._layout()
        self._start_focal = torch.log(self.state.network_focal)
        self._start_point = self.state.principal_point.clone()

    def _layout(self) -> None:
        """Which global unknown each frame's unknown is; -1 = it stays. One frame and its scale hold the world."""
        state, config = self.state, self.config
        frames = torch.nonzero(state.active).squeeze(-1).tolist()
        index = torch.full((len(state.active), UNKNOWNS), -1, dtype=torch.int64)
        held = [n for n in frames if bool(state.fixed_pose[n])]
        spread = state.world_from_cam[held, :3, 3].std(0).norm() if len(held) > 1 else torch.zeros(())
        still = set(held) if held else {frames[0]}
        count = 0
        focal = point = -1
        for n in frames:
            if n not in still:
                index[n, :6] = torch.arange(count, count + 6)
                count += 6
            if config.refine_scale and (n != frames[0] or float(spread) > 0):
                index[n, _SCALE] = count
                count += 1
            if config.refine_focal and not bool(state.fixed_focal[n]):
                if focal < 0 or not config.shared_intrinsics:
                    focal = count
                    count += 1
                index[n, _FOCAL] = focal
            if config.refine_principal_point and not bool(state.fixed_focal[n]):
                if point < 0 or not config.shared_intrinsics:
                    point = count
                    count += 2
                index[n, _POINT] = torch.tensor([point, point + 1])
        self.frames, self.index, self.count = frames, index, count
        self._root = frames[0]

    # ------------------------------------------------------------------------------------------- cost

    def errors(self, state: BundleState) -> list[Tensor]:
        """For each direction (M,) px between where a match is and where it should be seen."""
        return [_residual(d, state, _forward(d, state)[1])[0].norm(dim=-1) for d in self.directions]

    def _estimate_pixel_error(self, state: BundleState) -> float:
        errors = [error for error in self.errors(state) if len(error)]
        if not errors:
            return 1.0
        return max(float(torch.cat(errors).median()) / RAYLEIGH, self.config.least_pixel_error)

    def _robust(self, error: Tensor) -> tuple[Tensor, Tensor]:
        """Cost and weight of Cauchy's kernel, for errors (M,) in pixels."""
        squared = (error / (2 * self.pixel_error)) ** 2
        return 2 * torch.log1p(squared), 1 / (1 + squared) / self.pixel_error**2

    def cost(self, state: BundleState) -> float:
        total = sum(float((d.weight * self._robust(e)[0]).sum()) for d, e in zip(self.directions, self.errors(state)))
        if self._relatives is not None:
            chi = self._relatives.chi(self._relatives.terms(state)[0])
            total += float(self._relative_robust(chi)[0].sum())
        return total + self._prior_cost(state)

    def _relative_robust(self, chi: Tensor) -> tuple[Tensor, Tensor]:
        """Cost and weight of Cauchy's kernel for squared residuals (E,) of seven dimensions."""
        scaled = chi / self.overconfidence
        width = 4 * 7.0
        return width / 2 * torch.log1p(scaled / width), 1 / (1 + scaled / width) / self.overconfidence

    def _estimate_overconfidence(self, state: BundleState) -> float:
        """From the median of the squared residuals, less what the fit takes away by following them."""
        if self._relatives is None:
            return 1.0
        chi = self._relatives.chi(self._relatives.terms(state)[0])
        free = max(1 - (len(self.frames) - 1) / len(self.relative), 0.25)
        return max(float(chi.median()) / 6.35 / free, 1.0)  # 6.35: the median of seven squared standard draws

    def _prior_cost(self, state: BundleState) -> float:
        config, total = self.config, 0.0
        if config.refine_depth:
            total += sum(float(state.log_depth[n].square().sum()) for n in self.frames) / self.depth_sigma**2 / 2
        shift = torch.log(state.focal) - self._start_focal
        total += float((shift[self.index[:, _FOCAL] >= 0] / config.focal_sigma).square().sum()) / 2
        moved = (state.principal_point - self._start_point) / self._point_sigma()[:, None]
        return total + float(moved[self.index[:, 8] >= 0].square().sum()) / 2

    def _point_sigma(self) -> Tensor:
        sides = [max(view.width, view.height) for view in self.problem.views]
        return self.config.point_sigma * torch.tensor(sides, dtype=torch.float64, device=self.state.focal.device)

    # ------------------------------------------------------------------------------------------- one step

    def _normal_equations(self, state: BundleState) -> tuple[Tensor, Tensor, list[_Eliminated]]:
        """H (n, n), gradient (n,) of the frames' unknowns, and each frame's anchors."""
        device = state.focal.device
        H = torch.zeros(self.count + 1, self.count + 1, dtype=torch.float64, device=device)  # the last: what stays
        g = torch.zeros(self.count + 1, dtype=torch.float64, device=device)
        index = torch.where(self.index < 0, self.count, self.index).to(device)
        by_frame: dict[int, list[Direction]] = {n: [] for n in self.frames}
        for d in self.directions:
            by_frame[d.i].append(d)
        anchors = []
        for n in self.frames:
            partners = [d.j for d in by_frame[n]]
            kept = _Eliminated.empty(
                n, torch.cat([index[n], *(index[j] for j in partners)]), len(state.log_depth[n]), device
            )
            for place, d in enumerate(by_frame[n]):
                line = _linearise(d, state)
                weight = d.weight * self._robust(line.residual.norm(dim=-1))[1]
                both = torch.cat([line.by_i, line.by_j], -1).flatten(0, 1)  # (2M, 20)
                twice = weight.repeat_interleave(2)
                columns = torch.cat([index[d.i], index[d.j]])
                weighted = both * twice[:, None]
                H.index_put_((columns[:, None], columns[None]), weighted.T @ both, accumulate=True)
                g.index_add_(0, columns, weighted.T @ line.residual.flatten())
                if self.config.refine_depth:
                    kept.add(place, d.anchor, line, weight)
            if self.config.refine_depth:
                kept.finish(state.log_depth[n], self.depth_sigma)
                anchors.append(kept)
        if self._relatives is not None:
            residual, by_a, by_b = self._relatives.terms(state)
            columns = torch.cat([index[self._relatives.a], index[self._relatives.b]], -1)  # (E, 20)
            both = torch.cat([by_a, by_b], -1)  # (E, 7, 20)
            weight = self._relative_robust(self._relatives.chi(residual))[1]
            informed = both.mT @ self._relatives.information * weight[:, None, None]
            H.index_put_((columns[:, :, None], columns[:, None]), informed @ both, accumulate=True)
            g.index_put_((columns,), (informed @ residual[..., None])[..., 0], accumulate=True)
        H, g = H[:-1, :-1], g[:-1]
        self._add_priors(state, H, g)
        return H, g, anchors

    def _add_priors(self, state: BundleState, H: Tensor, g: Tensor) -> None:
        sigma, wide = self.config.focal_sigma, self._point_sigma()
        shift = torch.log(state.focal) - self._start_focal
        for n in self.frames:
            at = int(self.index[n, _FOCAL])
            if at >= 0:
                H[at, at] += 1 / sigma**2
                g[at] += shift[n] / sigma**2
            for axis in (0, 1):
                at = int(self.index[n, 8 + axis])
                if at >= 0:
                    H[at, at] += 1 / wide[n] ** 2
                    g[at] += (state.principal_point[n, axis] - self._start_point[n, axis]) / wide[n] ** 2

    def _step(self, H: Tensor, g: Tensor, anchors: list[_Eliminated], damping: float) -> tuple[Tensor, list[Tensor]]:
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
        each = torch.nn.functional.pad(change, (0, 1))[
            torch.where(self.index < 0, self.count, self.index).to(change.device)
        ]
        pose = state.world_from_cam.clone()
        turn = torch.linalg.matrix_exp(_cross(each[:, _ROTATION]))
        pose[:, :3, :3] = torch.where(state.active[:, None, None], pose[:, :3, :3] @ turn, pose[:, :3, :3])
        pose[:, :3, 3] = pose[:, :3, 3] + each[:, _CENTRE]
        log_depth = list(state.log_depth)
        for n, delta in zip(self.frames, depths):
            log_depth[n] = log_depth[n] + delta
        return replace(
            state, world_from_cam=pose, scale=state.scale * torch.exp(each[:, _SCALE].clamp(-1, 1)),
            focal=state.focal * torch.exp(each[:, _FOCAL].clamp(-0.5, 0.5)),
            principal_point=state.principal_point + each[:, _POINT], log_depth=tuple(log_depth),
        )  # fmt: skip

    def _learn(self, state: BundleState, anchors: list[_Eliminated]) -> bool:
        """Bring the three scales up to date; True where one changed by more than 3 %."""
        before = self.pixel_error, self.depth_sigma, self.overconfidence
        self.pixel_error, self.overconfidence = self._estimate_pixel_error(state), self._estimate_overconfidence(state)
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
        self.depth_sigma = self.config.depth_sigma
        self.pixel_error, self.overconfidence = self._estimate_pixel_error(state), self._estimate_overconfidence(state)
        cost = self.cost(state)
        if cost != cost or cost == float("inf"):
            raise RunError("alignment: the starting cameras make no sense (errors are not finite)")
        for _ in range(self.config.iterations):
            H, g, anchors = self._normal_equations(state)
            better = False
            while damping < 1e8:
                change, depths = self._step(H, g, anchors, damping)
                if bool(torch.isfinite(change).all()):
                    tried = self._moved(state, change, depths)
                    now = self.cost(tried)
                    if now < cost:
                        better = True
                        break
                damping *= 10
            if not better:
                break
            gain, state, cost, damping = cost - now, tried, now, max(damping / 10, 1e-9)
            settled = gain < self.config.tolerance * abs(cost) and not self._learn(state, anchors)
            calm = calm + 1 if settled else 0
            if calm == 2:
                break
            cost = self.cost(state)
        self.state = state
        return state


@dataclass
class _Eliminated:
    """The anchors of one frame, which hang on its own unknowns and on those of its partners.

    Attributes:
        columns: (C,) of the frame's unknowns, then of each partner's. cross: (A, C), diagonal: (A,), gradient: (A,).
    """

    frame: int
    columns: Tensor
    cross: Tensor
    diagonal: Tensor
    gradient: Tensor

    @staticmethod
    def empty(frame: int, columns: Tensor, count: int, device: torch.device) -> _Eliminated:
        zeros = torch.zeros(count, dtype=torch.float64, device=device)
        cross = torch.zeros(count, len(columns), dtype=torch.float64, device=device)
        return _Eliminated(frame, columns, cross, zeros, zeros.clone())

    def add(self, place: int, anchor: Tensor, line: _Linear, weight: Tensor) -> None:
        scaled = line.by_depth * weight[:, None]  # (M, 2)
        self.diagonal.index_add_(0, anchor, (scaled * line.by_depth).sum(-1))
        self.gradient.index_add_(0, anchor, (scaled * line.residual).sum(-1))
        own = torch.einsum("mk,mkc->mc", scaled, line.by_i)
        other = torch.einsum("mk,mkc->mc", scaled, line.by_j)
        start = UNKNOWNS * (1 + place)
        self.cross[:, :UNKNOWNS].index_add_(0, anchor, own)
        self.cross[:, start : start + UNKNOWNS].index_add_(0, anchor, other)

    def finish(self, log_depth: Tensor, sigma: float) -> None:
        """The prior: no match, no move."""
        self.diagonal += 1 / sigma**2
        self.gradient += log_depth / sigma**2

    def eliminate(self, S: Tensor, rhs: Tensor, damping: float) -> None:
        inverse = 1 / (self.diagonal * (1 + damping))
        block = self.cross.T @ (self.cross * inverse[:, None])
        S.index_put_((self.columns[:, None], self.columns[None]), -block, accumulate=True)
        rhs.index_add_(0, self.columns, self.cross.T @ (inverse * self.gradient))

    def back(self, change: Tensor, damping: float) -> Tensor:
        delta = -(self.gradient + self.cross @ change[self.columns]) / (self.diagonal * (1 + damping))
        return delta.clamp(-0.5, 0.5)
