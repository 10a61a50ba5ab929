"""Many pairs, one world: cameras, intrinsics, depth and motion of all frames of a clip from its pairs' results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.checks import check_shape
from dyn4d.core.errors import InputError, RunError
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.rotations import similarity_fit
from dyn4d.geometry.bundle import Bundle, BundleConfig, BundleState, make_directions
from dyn4d.geometry.dense_fusion import fuse_views
from dyn4d.geometry.kinematic import connected_components
from dyn4d.geometry.pair_results import PairFrame, PairResults
from dyn4d.geometry.relative_pose import RelativePose, relative_poses
from dyn4d.geometry.sparse_problem import SparseProblem, condense
from dyn4d.geometry.sparse_start import pair_ties, start_intrinsics, start_state


@dataclass(frozen=True)
class AlignmentConfig:
    """Settings of the alignment."""

    method: Literal["sparse", "mast3r", "dust3r"] = "sparse"
    """sparse = ours, which the settings below are of; mast3r = the published sparse alignment (`sparse_published`),
    dust3r = the published alignment of all points (`pointmap_alignment`), both with their published settings."""
    subsample: int = 8
    """Pixels between anchors, whose depths are refined."""
    least_matches: int = 12
    """Pairs with fewer are tied by their points, if both passes agree, or left out."""
    fusions: int = 3
    """How often the depths of all passes are brought together with the poses found, and these refined again."""
    bundle: BundleConfig = field(default_factory=BundleConfig)


@dataclass(frozen=True)
class Alignment:
    """The cameras of T frames and what their kept pixels (P of each, `PairFrame.pixels`) see.

    Attributes:
        K: (T, 3, 3) float64 px of the views, half-integer pixel centres.
        world_from_cam: (T, 4, 4) float64; NaN where a frame could not be placed.
        depth: (P,) float64 planar z of each frame in world units; NaN where unknown.
        conf: (P,) float64 confidence, 0 where the depth is unknown.
        motion: (P,) float64 px, how far the matches of the pixel's block are from where a rigid object would have
            them, in the median; NaN where there is none.
        pixel_error: of the matches, standard deviation along an axis in px. notes: lines for the user.
    """

    K: Tensor
    world_from_cam: Tensor
    depth: tuple[Tensor, ...]
    conf: tuple[Tensor, ...]
    motion: tuple[Tensor, ...]
    pixel_error: float
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_shape("Alignment.K", self.K, ("T", 3, 3))
        check_shape("Alignment.world_from_cam", self.world_from_cam, (len(self.K), 4, 4))

    @property
    def registered(self) -> Tensor:
        """(T,) bool: is the pose known?"""
        return torch.isfinite(self.world_from_cam).flatten(1).all(-1)


def align(
    frames: Sequence[PairFrame],
    results: PairResults,
    config: AlignmentConfig | None = None,
    *,
    intrinsics: Sequence[Tensor | None] | None = None,
    world_from_cam: Tensor | None = None,
    fix_poses: bool = False,
    progress: Progress | None = None,
) -> Alignment:
    """Cameras and depths of all frames that matches or agreeing points tie together.

    Canonical views and the passes' relative poses start it; Levenberg-Marquardt refines poses, focal length and the
    depth of anchors on the matches' reprojection, the relative poses and priors (`dyn4d.geometry.bundle`). With the
    poses found, all passes' depths are brought together, and the poses are refined again.

    Where no pose is given, the world is the first registered frame's camera, in the mean lengths of the network.

    Args:
        frames: T frames as the network saw them. results: of their pairs; read several times.
        intrinsics: K (3, 3) of each view, None where unknown; None: each frame's own K where it has one. Given ones
            stay as they are, principal point included.
        world_from_cam: (T, 4, 4) known poses, NaN where unknown: where to start, or with `fix_poses` where to stay.

    Raises:
        RunError: nothing ties any two frames together; the numbers make no sense.
        InputError: poses are to stay, which the method "mast3r" cannot do.
    """
    config, progress = config or AlignmentConfig(), progress or SilentProgress()
    known = [frame.K for frame in frames] if intrinsics is None else list(intrinsics)
    if len(known) != len(frames):
        raise ValueError(f"intrinsics: wanted {len(frames)} entries, found {len(known)}")
    if config.method == "mast3r" and fix_poses:
        raise InputError("alignment mast3r: it cannot keep poses fixed; use sparse or dust3r")
    if config.method != "sparse":
        published = _dust3r if config.method == "dust3r" else _mast3r
        return published(frames, results, known, world_from_cam, fix_poses, progress)
    points = _principal_points(frames, known)
    problem = condense(frames, results, subsample=config.subsample, principal_points=points)
    lens = start_intrinsics(frames, problem, known, shared=config.bundle.shared_intrinsics)
    if lens is None:
        raise RunError("alignment: no pixel of any frame has a usable point; look at the masks and the weights")
    relative = relative_poses(frames, problem.views, results)
    scores, by_points = pair_ties(problem, relative, config.least_matches)
    parts = connected_components(scores)
    if len(parts[0]) < 2:
        raise RunError("alignment: no two frames have enough matches or points that agree; use a wider graph of pairs")
    notes = _notes(problem, parts, scores, by_points)
    state = start_state(problem, lens, relative, scores, parts[0])
    state = _with_known_poses(state, world_from_cam, fix=fix_poses)
    rounds = config.fusions + 1
    progress.start("alignment", rounds)
    for number in range(rounds):
        bundle = make_bundle(problem, relative, state, scores, config.bundle)
        state = bundle.solve()
        config = replace(config, bundle=replace(config.bundle, depth_sigma=bundle.depth_sigma))  # what was learnt
        progress.update(pixels=bundle.pixel_error)
        if number + 1 < rounds:
            problem = replace(problem, views=fuse_views(frames, problem.views, results, state))
            problem = condense(frames, results, principal_points=problem.principal_points, views=problem.views)
            relative = relative_poses(frames, problem.views, results)
            state = replace(state, log_depth=tuple(torch.zeros_like(each) for each in state.log_depth))
    progress.finish()
    given = world_from_cam is not None and bool(torch.isfinite(world_from_cam).flatten(1).all(-1).any())
    return _result(frames, bundle, state if given else at_home(state), notes)


def _given(known: Sequence[Tensor | None]) -> Tensor:
    """(T, 3, 3), NaN where unknown."""
    nothing = torch.full((3, 3), torch.nan, dtype=torch.float64)
    return torch.stack([nothing if each is None else each.double() for each in known])


def _dust3r(
    frames: Sequence[PairFrame], results: PairResults, known: Sequence[Tensor | None], world_from_cam: Tensor | None,
    fix_poses: bool, progress: Progress,
) -> Alignment:  # fmt: skip
    from dyn4d.geometry.pointmap_alignment import align_pointmaps
    from dyn4d.geometry.pointmap_config import PointmapConfig

    config = PointmapConfig(fix_poses=fix_poses, principal_point="source")
    found = align_pointmaps(frames, results, config, K=_given(known), world_from_cam=world_from_cam, progress=progress)
    depth = tuple(torch.where(each > 0, each.double(), torch.nan) for each in found.depth)
    conf = tuple(torch.where(torch.isfinite(d), c.double(), 0.0) for d, c in zip(depth, found.conf))
    motion = tuple(torch.full_like(each, torch.nan) for each in depth)
    return Alignment(found.K, found.world_from_cam, depth, conf, motion, float("nan"), found.notes)


def _mast3r(
    frames: Sequence[PairFrame], results: PairResults, known: Sequence[Tensor | None], world_from_cam: Tensor | None,
    fix_poses: bool, progress: Progress,
) -> Alignment:  # fmt: skip
    from dyn4d.geometry.kinematic import unmatched_views
    from dyn4d.geometry.sparse_published import align_published

    problem = condense(frames, results, principal_points=_principal_points(frames, known))
    unmatched = unmatched_views(problem, frames, results)
    found = align_published(
        problem, unmatched=unmatched, K=_given(known), world_from_cam=world_from_cam, progress=progress
    )  # fmt: skip
    depths, confs = [], []
    for row, (frame, view) in enumerate(zip(frames, problem.views)):
        depth = torch.full((int(frame.kept.sum()),), torch.nan, dtype=torch.float64)
        conf = torch.zeros_like(depth)
        if bool(found.registered[row]):
            at = torch.searchsorted(frame.pixels, view.pixels)
            z = found.depth(problem, row).double()
            depth[at], conf[at] = torch.where(z > 0, z, torch.nan), torch.where(z > 0, view.conf, 0.0)
        depths.append(depth)
        confs.append(conf)
    motion = tuple(torch.full_like(each, torch.nan) for each in depths)
    return Alignment(found.K, found.world_from_cam, tuple(depths), tuple(confs), motion, float("nan"))


def _principal_points(frames: Sequence[PairFrame], known: Sequence[Tensor | None]) -> Tensor:
    """(T, 2) px of the views: the given ones, else the middle of the picture that a view is cut from."""
    points = [
        K[:2, 2].double() if K is not None else frame.view.to_view(_middle(frame)) for K, frame in zip(known, frames)
    ]
    return torch.stack(points) if points else torch.zeros(0, 2, dtype=torch.float64)


def _middle(frame: PairFrame) -> Tensor:
    """The middle of the picture that a view is cut from: where its principal point is, if nothing else is known."""
    width, height = frame.view.source
    return torch.tensor([width / 2, height / 2], dtype=torch.float64)


def _notes(
    problem: SparseProblem, parts: Sequence[Sequence[int]], scores: np.ndarray, by_points: Sequence[tuple[int, int]]
) -> list[str]:
    notes = []
    poor = "whose matches are too few or contradict each other"
    if by_points:
        notes.append(f"alignment: {len(by_points)} of {len(problem.pairs)} pairs, {poor}, go by their points")
    left = [f"{pair.frame_a}-{pair.frame_b}" for pair in problem.pairs if scores[pair.frame_a, pair.frame_b] == 0]
    if left:
        shown = ", ".join(left[:8]) + (" ..." if len(left) > 8 else "")
        notes.append(f"alignment: {len(left)} pairs, {poor} and so do their points, are left out: {shown}")
    if len(parts) > 1:
        lost = ", ".join(str(n) for part in parts[1:] for n in part)
        notes.append(f"alignment: frames {lost} are tied to none of the {len(parts[0])} others and get no pose")
    return notes


def make_bundle(
    problem: SparseProblem,
    relative: Sequence[RelativePose],
    state: BundleState,
    scores: np.ndarray,
    config: BundleConfig,
) -> Bundle:
    """Of the pairs that are tied, within the active frames."""

    def counts(a: int, b: int) -> bool:
        return bool(state.active[a]) and bool(state.active[b]) and scores[a, b] > 0

    by_matches = scores > 1  # 1: tied by points alone
    pairs = [
        pair for pair in problem.pairs
        if counts(pair.frame_a, pair.frame_b) and by_matches[pair.frame_a, pair.frame_b] and len(pair)
    ]  # fmt: skip
    directions = make_directions(problem, pairs, config.max_per_pair)
    return Bundle(problem, directions, [one for one in relative if counts(one.a, one.b)], state, config)


def _with_known_poses(state: BundleState, known: Tensor | None, *, fix: bool) -> BundleState:
    """The state moved to known poses: first as a whole, then frame by frame."""
    if known is None:
        return state
    known = known.double()
    there = torch.isfinite(known).flatten(1).all(-1) & state.active
    rows = torch.nonzero(there).squeeze(-1)
    if len(rows) == 0:
        return state
    found, true = state.world_from_cam[rows], known[rows]
    spread = true[:, :3, 3].std(0, correction=0).norm() / found[:, :3, 3].std(0, correction=0).norm().clamp_min(1e-12)
    scale = spread if len(rows) > 1 and float(spread) > 0 else torch.ones((), dtype=torch.float64)
    # Centres, and a step along each axis from them: few or collinear cameras still fix the rotation.
    step = (scale * state.scale[rows].median() if len(rows) else scale) * 1.0
    ends = [
        torch.cat([pose[:, :3, 3] * k, *(pose[:, :3, 3] * k + step * pose[:, :3, axis] for axis in range(3))])
        for pose, k in ((found, scale), (true, 1.0))
    ]
    R, t, _ = similarity_fit(*ends)
    pose = state.world_from_cam.clone()
    pose[:, :3, :3] = R @ pose[:, :3, :3]
    pose[:, :3, 3] = scale * state.world_from_cam[:, :3, 3] @ R.T + t
    pose[rows] = true
    fixed = there if fix else torch.zeros_like(there)
    return replace(state, world_from_cam=pose, scale=state.scale * scale, fixed_pose=fixed)


def at_home(state: BundleState) -> BundleState:
    """The same world with the first registered camera at its origin and the frames' geometric mean scale 1."""
    first = int(torch.nonzero(state.active)[0])
    size = torch.exp(torch.log(state.scale[state.active]).mean())
    R, centre = state.world_from_cam[first, :3, :3], state.world_from_cam[first, :3, 3]
    pose = state.world_from_cam.clone()
    pose[:, :3, :3] = R.T @ pose[:, :3, :3]
    pose[:, :3, 3] = (pose[:, :3, 3] - centre) @ R / size
    return replace(state, world_from_cam=pose, scale=state.scale / size)


def _result(frames: Sequence[PairFrame], bundle: Bundle, state: BundleState, notes: Sequence[str]) -> Alignment:
    problem, count = bundle.problem, len(frames)
    K = torch.zeros(count, 3, 3, dtype=torch.float64)
    K[:, 0, 0], K[:, 1, 1] = (state.focal[:, None] * state.aspect).unbind(-1)
    K[:, :2, 2], K[:, 2, 2] = state.principal_point, 1
    pose = torch.where(state.active[:, None, None], state.world_from_cam, torch.nan)
    errors = bundle.errors(state)
    depths, confs, motions = [], [], []
    for n, (frame, view) in enumerate(zip(frames, problem.views)):
        size = int(frame.kept.sum())
        depth, motion = (torch.full((size,), torch.nan, dtype=torch.float64) for _ in range(2))
        conf = torch.zeros(size, dtype=torch.float64)
        if bool(state.active[n]):
            rows = torch.searchsorted(frame.pixels, view.pixels)
            depth[rows] = state.depth(n, view.anchor_depth[view.anchor], view.anchor, view.ratio)
            conf[rows] = view.conf
            ends = [(d.anchor, e) for d, e in zip(bundle.directions, errors) if d.i == n]
            motion[rows] = _block_medians(ends, len(view.anchor_depth))[view.anchor]
        depths.append(depth)
        confs.append(conf)
        motions.append(motion)
    values = [K, pose[state.active], *(d[torch.isfinite(d)] for d in depths)]
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise RunError("alignment: the solution is not finite")
    return Alignment(K, pose, tuple(depths), tuple(confs), tuple(motions), bundle.pixel_error, tuple(notes))


def _block_medians(ends: Sequence[tuple[Tensor, Tensor]], count: int) -> Tensor:
    """(A,) median of the errors at each anchor, NaN where there is none."""
    out = torch.full((count,), torch.nan, dtype=torch.float64)
    if not ends:
        return out
    anchor, error = torch.cat([a for a, _ in ends]), torch.cat([e for _, e in ends])
    order = torch.argsort(error, stable=True)
    order = order[torch.argsort(anchor[order], stable=True)]
    used, counts = torch.unique_consecutive(anchor[order], return_counts=True)
    middle = counts.cumsum(0) - counts + (counts - 1) // 2
    out[used] = error[order][middle]
    return out
