"""Where sparse alignment starts: intrinsics from the points, and poses along a tree of the surest pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.rotations import rotation_angle, weighted_similarity_fit
from dyn4d.geometry.bundle_state import BundleState
from dyn4d.geometry.focal import SeenPoints, diagonal_limits, estimate_focal
from dyn4d.geometry.kinematic import kinematic_tree
from dyn4d.geometry.pair_results import PairFrame
from dyn4d.geometry.relative_pose import RelativePose
from dyn4d.geometry.sparse_problem import MatchedEnds, PairMatches, SparseProblem

ROUNDS = 10  # of reweighting
BATCH = 64  # pairs that are fitted together
EXPLAINED = 0.25  # of how far apart points are seen: matches this far from a pose are not explained by it
LEAST_SHARE = 0.15  # of the matches that one pose has to explain; of random ones it explains some 3 %
AGREE_DEG, AGREE_SCALE, AGREE_CENTRE = 15.0, 1.3, 0.25  # of both passes of a pair that has no matches to go by
AGREE_STILL = 0.05  # of the depth: by so much two passes may differ that see hardly any way between the cameras


@dataclass(frozen=True)
class Similarity:
    """Canonical points of `child` in the camera of `parent`: y = scale · R x + t."""

    R: Tensor
    t: Tensor
    scale: Tensor

    def inverse(self) -> Similarity:
        return Similarity(self.R.T, -(self.R.T @ self.t) / self.scale, 1 / self.scale)


@dataclass(frozen=True)
class Intrinsics:
    """What is known of T cameras before their poses are.

    Attributes:
        network_focal: (T,) px, from the canonical points. focal: (T,) the given one, where there is one.
        aspect: (T, 2) the focal lengths along x and y over `focal`. principal_point: (T, 2) px. given: (T,) bool.
    """

    network_focal: Tensor
    focal: Tensor
    aspect: Tensor
    principal_point: Tensor
    given: Tensor


def start_intrinsics(
    frames: Sequence[PairFrame], problem: SparseProblem, known: Sequence[Tensor | None], *, shared: bool
) -> Intrinsics | None:
    """None where not a single frame's points say anything of the focal length."""
    seen = []
    for frame, view, point in zip(frames, problem.views, problem.principal_points):
        x, y = point.tolist()
        seen.append(SeenPoints(view.xy, view.points, (x, y), frame.view.scale))
    limits = diagonal_limits(*frames[0].view.source)
    usable = [row for row, view in enumerate(problem.views) if len(view)]
    together = estimate_focal([seen[row] for row in usable], limits=limits) if usable else None
    if together is None:
        return None
    network, focal, aspect = [], [], []
    for row, frame in enumerate(frames):
        own = None if shared or not len(problem.views[row]) else estimate_focal(seen[row], limits=limits)
        sx, sy = frame.view.scale
        mean = (sx * sy) ** 0.5
        estimate = (together if own is None else own) * mean
        network.append(estimate)
        K = known[row]
        if K is None:
            focal.append(estimate)
            aspect.append((sx / mean, sy / mean))
        else:
            fx, fy = float(K[0, 0]), float(K[1, 1])
            focal.append((fx * fy) ** 0.5)
            aspect.append((fx / focal[-1], fy / focal[-1]))
    as_tensor = [torch.tensor(values, dtype=torch.float64) for values in (network, focal, aspect)]
    given = torch.tensor([K is not None for K in known])
    return Intrinsics(as_tensor[0], as_tensor[1], as_tensor[2], problem.principal_points.clone(), given)


def matched_points(problem: SparseProblem, lens: Intrinsics, frame: int, ends: MatchedEnds) -> Tensor:
    """(M, 3) canonical points of one side's matches, in the frame's camera."""
    view = problem.views[frame]
    depth = view.anchor_depth[ends.anchor] * ends.ratio
    focal = lens.network_focal[frame] * lens.aspect[frame]
    ray = (ends.xy - lens.principal_point[frame]) / focal
    return torch.cat([ray, torch.ones_like(depth)[:, None]], -1) * depth[:, None]


def pair_ties(
    problem: SparseProblem, relative: Sequence[RelativePose], least: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """How firmly each two frames are tied, and the pairs that are so by their points alone.

    Matches count where a single pose between the two cameras explains them; a pair most of whose matches contradict
    each other says nothing, however many it has.

    Args:
        least: matches that tie a pair. With fewer it still is tied where its two passes agree on the pose.

    Returns:
        (T, T) int64 score, 0 = not tied, 1 = by points alone, else the matches that a pose explains, well explained
        ones counting more; (frame_a, frame_b) of those without enough matches.
    """
    scores, by_points = np.zeros((len(problem), len(problem)), dtype=np.int64), []
    passes = {(pose.a, pose.b): pose for pose in relative}
    enough = [pair for pair in problem.pairs if len(pair) >= least]
    explained = dict(zip(((pair.frame_a, pair.frame_b) for pair in enough), _explained(problem, passes, enough)))
    for pair in problem.pairs:
        a, b = pair.frame_a, pair.frame_b
        count, score = explained.get((a, b), (0, 0))
        if count < max(least, LEAST_SHARE * len(pair)):
            agree = (a, b) in passes and (b, a) in passes and len(problem.views[a]) > 0
            agree = agree and _agree(passes[a, b], passes[b, a], float(problem.views[a].anchor_depth.median()))
            score = 1 if agree else 0
            if agree:
                by_points.append((a, b))
        scores[a, b] = scores[b, a] = score
    return scores, by_points


def _explained(
    problem: SparseProblem, passes: dict[tuple[int, int], RelativePose], pairs: Sequence[PairMatches]
) -> list[tuple[int, int]]:
    """For each pair how many matches one pose explains, of those that the passes say and, where these are poor, the
    matches'; and the same with those that are explained poorly counting less, at least 2."""
    ends = [
        tuple(
            problem.views[n].points[problem.views[n].rows((ends.xy - 0.5).round().long())]
            for n, ends in ((pair.frame_a, pair.a), (pair.frame_b, pair.b))
        )
        for pair in pairs
    ]
    found = []
    for pair, (target, source) in zip(pairs, ends):
        candidates = _of_passes(passes, pair.frame_a, pair.frame_b)
        found.append(max((_count(_misfit(one, source, target)) for one in candidates), default=(0, 2)))
    poor = [n for n, pair in enumerate(pairs) if found[n][0] < len(pair) / 2 and len(pair) >= 4]
    fits = _fits([ends[n][1] for n in poor], [ends[n][0] for n in poor], [pairs[n].weight for n in poor])
    for n, fit in zip(poor, fits):
        found[n] = max(found[n], _count(_misfit(fit, ends[n][1], ends[n][0])))
    return found


def _count(misfit: Tensor) -> tuple[int, int]:
    return int((misfit < 1).sum()), max(round(float((1 - misfit.square()).clamp_min(0).sum())), 2)


def _misfit(one: Similarity, source: Tensor, target: Tensor) -> Tensor:
    """(M,) how far matched points are seen from each other, in both cameras the larger; 1 = not explained.

    The unit is a share of how far apart the points are seen in each picture, so that it makes no difference how large
    the object is, and a fit that draws all points together explains none.
    """

    def apart(seen: Tensor, wanted: Tensor) -> Tensor:
        rays, to = seen[:, :2] / seen[:, 2:].clamp_min(1e-12), wanted[:, :2] / wanted[:, 2:]
        spread = (to - to.median(0).values).norm(dim=-1).median().clamp_min(1e-12)
        return ((rays - to).norm(dim=-1) / spread).where(seen[:, 2] > 0, torch.inf)

    back = one.inverse()
    there = apart(one.scale * source @ one.R.T + one.t, target)
    return torch.maximum(there, apart(back.scale * target @ back.R.T + back.t, source)) / EXPLAINED


def _of_passes(passes: dict[tuple[int, int], RelativePose], parent: int, child: int) -> list[Similarity]:
    """What the two passes say of the child's points in the parent's camera."""
    there, back = passes.get((parent, child)), passes.get((child, parent))
    found = [] if there is None else [Similarity(there.R, there.t, there.scale)]
    return found if back is None else [*found, Similarity(back.R, back.t, back.scale).inverse()]


def _agree(there: RelativePose, back: RelativePose, depth: float) -> bool:
    """Do both passes say the same? `depth` is what the first frame sees, in its own lengths."""
    other = Similarity(back.R, back.t, back.scale).inverse()
    turned = float(torch.rad2deg(rotation_angle(there.R, other.R)))
    scaled = float(torch.log(there.scale / other.scale).abs())
    size = max(float(there.t.norm()), float(other.t.norm()))
    moved = float((there.t - other.t).norm())
    near = moved <= AGREE_CENTRE * size + AGREE_STILL * depth
    return turned < AGREE_DEG and scaled < np.log(AGREE_SCALE) and near


def start_state(
    problem: SparseProblem,
    lens: Intrinsics,
    relative: Sequence[RelativePose],
    scores: np.ndarray,
    frames: Sequence[int],
) -> BundleState:
    """Poses and scales of one connected part, along the spanning tree with the most matches.

    The middle frame's camera is the world, in the lengths of its canonical view.
    """
    count = len(problem)
    pose = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    scale = torch.ones(count, dtype=torch.float64)
    tree = kinematic_tree(scores, [len(view.anchor_depth) for view in problem.views], frames, mode="mst")
    pairs = {(pair.frame_a, pair.frame_b): pair for pair in problem.pairs}
    passes = {(one.a, one.b): one for one in relative}
    for (parent, child), step in zip(tree.edges, _edges(problem, lens, passes, pairs, tree.edges)):
        pose[child, :3, :3] = pose[parent, :3, :3] @ step.R
        pose[child, :3, 3] = pose[parent, :3, 3] + scale[parent] * (pose[parent, :3, :3] @ step.t)
        scale[child] = scale[parent] * step.scale
    active = torch.zeros(count, dtype=torch.bool)
    active[list(frames)] = True
    nothing = torch.zeros(count, dtype=torch.bool)
    return BundleState(
        pose, scale, lens.focal.clone(), lens.network_focal, lens.principal_point.clone(), lens.aspect,
        tuple(torch.zeros_like(view.anchor_depth) for view in problem.views), active, nothing, lens.given,
    )  # fmt: skip


def _edges(
    problem: SparseProblem, lens: Intrinsics, passes: dict[tuple[int, int], RelativePose],
    pairs: dict[tuple[int, int], PairMatches], edges: Sequence[tuple[int, int]],
) -> list[Similarity]:  # fmt: skip
    """The pose between two frames each: of what the two passes and the matches say, that which explains the matches
    best, errors beyond explanation all counting the same."""
    candidates = [_of_passes(passes, *edge) for edge in edges]
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    weights = []
    for n, (parent, child) in enumerate(edges):
        pair = pairs.get((parent, child)) or pairs.get((child, parent))
        if pair is None or len(pair) < 4:
            continue
        ends = (pair.a, pair.b) if pair.frame_a == parent else (pair.b, pair.a)
        target, source = (matched_points(problem, lens, f, e) for f, e in zip((parent, child), ends))
        seen[n] = source, target
        weights.append(pair.weight)
    fits = _fits([source for source, _ in seen.values()], [target for _, target in seen.values()], weights)
    for (n, (source, target)), fit in zip(seen.items(), fits):
        candidates[n] = [min([*candidates[n], fit], key=lambda one: _cost(one, source, target))]
    return [of_edge[0] for of_edge in candidates]


def _cost(one: Similarity, source: Tensor, target: Tensor) -> float:
    return float(_misfit(one, source, target).clamp_max(1).square().mean())


def _fits(sources: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Similarity]:
    """Robust similarities source → target, many at a time: shorter lists are filled up with weight 0."""
    found: list[Similarity] = []
    pad = torch.nn.utils.rnn.pad_sequence
    for first in range(0, len(sources), BATCH):
        some = slice(first, first + BATCH)
        source, target = (pad(list(each[some]), batch_first=True) for each in (sources, targets))
        outside = pad([torch.ones_like(each) for each in weights[some]], batch_first=True) == 0
        squared = target.square().sum(-1).masked_fill(outside, 1.0)
        base = used = pad(list(weights[some]), batch_first=True) / squared
        for number in range(ROUNDS):
            R, t, scale = weighted_similarity_fit(source, target, used)
            if number + 1 < ROUNDS:
                far = scale[:, None, None] * source @ R.mT + t[:, None] - target
                relative = far.square().sum(-1) / squared
                typical = relative.masked_fill(outside, torch.nan).nanmedian(-1).values.clamp_min(1e-16)
                used = base / (1 + relative / (4 * typical[:, None]))
        found += [Similarity(*each) for each in zip(R, t, scale)]
    return found
