"""Many pairs, one world: cameras, intrinsics, depth and motion of all frames of a clip from its pairs' results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.checks import check_shape
from dyn4d.core.errors import RunError
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Correspondences
from dyn4d.geometry.alignment_notes import pair_notes, part_notes
from dyn4d.geometry.alignment_result import Alignment, Note, bundle_result, neighbour_scales
from dyn4d.geometry.bundle import Bundle, BundleConfig, BundleState, make_directions
from dyn4d.geometry.dense_fusion import fuse_views
from dyn4d.geometry.flow_ties import with_matches
from dyn4d.geometry.focal_check import OPEN, FocalCheck, StretchedResults, check_focal, stretch_factors
from dyn4d.geometry.kinematic import connected_components
from dyn4d.geometry.pair_results import PairFrame, PairResults
from dyn4d.geometry.relative_pose import MOST_POINTS, RelativePose, relative_poses
from dyn4d.geometry.sparse_problem import PairMatches, SparseProblem, condense
from dyn4d.geometry.sparse_start import Intrinsics, pair_ties, start_intrinsics, start_state
from dyn4d.geometry.world_frame import (
    at_home,
    fit_world,
    in_known_world,
    known_rows,
    scene_depth,
    with_known_poses,
)

FEWER_POINTS = 1500  # of a pass that its relative pose is found by, where another matcher holds the frames


@dataclass(frozen=True)
class AlignmentConfig:
    """Settings of the alignment."""

    method: Literal["sparse", "mast3r", "dust3r"] = "sparse"
    """sparse = ours, which the settings below are of unless they say otherwise; mast3r = the published sparse alignment
    (`sparse_published`), dust3r = the published alignment of all points (`pointmap_alignment`), both with their
    published settings."""
    subsample: int = 8
    """Pixels between anchors, whose depths are refined."""
    least_matches: int = 12
    """Pairs with fewer are tied by their points, if both passes agree, or left out."""
    fusions: int = 3
    """How often the depths of all passes are brought together with the poses found, and these refined again."""
    bundle: BundleConfig = field(default_factory=BundleConfig)
    optimise_depth: bool = True
    """Of sparse and mast3r: refine the depths of anchors with the poses; else they stay what the network said."""
    depth_rank: int = 0
    """Of mast3r: anchor depths change by this many smooth shapes a frame only; 0 = each anchor by itself."""

    def __post_init__(self) -> None:
        if self.method not in ("sparse", "mast3r", "dust3r"):
            raise ValueError(f"alignment.method: {self.method!r}; wanted sparse, mast3r or dust3r")
        for name, low in (("subsample", 1), ("least_matches", 4), ("fusions", 0), ("depth_rank", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"alignment.{name}: {getattr(self, name)}; wanted a number from {low}")


def align(
    frames: Sequence[PairFrame],
    results: PairResults,
    config: AlignmentConfig | None = None,
    *,
    intrinsics: Sequence[Tensor | None] | None = None,
    world_from_cam: Tensor | None = None,
    fix_poses: bool = False,
    matches: Correspondences | None = None,
    progress: Progress | None = None,
) -> Alignment:
    """Cameras and depths of all frames that matches or agreeing points tie together.

    Canonical views and the passes' relative poses start it; Levenberg-Marquardt refines poses, focal length and the
    depth of anchors on the matches' reprojection, the relative poses and priors (`dyn4d.geometry.bundle`). With the
    poses found, all passes' depths are brought together, and the poses are refined again.

    Of several parts that nothing ties together the largest is solved or, with `fix_poses`, all parts whose known poses
    say how large they are. Known poses outside these parts stay as they are; there the depths are scaled as those of
    the frames around. Where no pose is given, the world is the first registered frame's camera, in the mean
    lengths of the network.

    Args:
        frames: T frames as the network saw them. results: of their pairs; read several times.
        intrinsics: K (3, 3) of each view, None or NaN where unknown; None: each frame's own K where it has one. Given
            ones stay as they are, principal point included.
        world_from_cam: (T, 4, 4) known poses, NaN where unknown: where to start, or with `fix_poses` where to stay.
        matches: of another matcher, in pixels of the pictures that the views are cut from, which the sparse alignment
            goes by instead of the results' where they tie frames together.

    Raises:
        RunError: nothing ties any two frames together; the numbers make no sense.
        ValueError: shapes that do not fit, or focal lengths that are not above 0.
    """
    config, progress = config or AlignmentConfig(), progress or SilentProgress()
    known = _known_intrinsics(frames, intrinsics)
    given = _known_poses(len(frames), world_from_cam)
    if config.method != "sparse":
        return _published(frames, results, known, given, fix_poses, config, progress)
    settings = replace(config.bundle, refine_depth=config.bundle.refine_depth and config.optimise_depth)
    start = _start(frames, results, known, config, matches)
    check = check_focal(start.problem, tied_pairs(start.problem, start.state, start.scores), start.state, settings)
    factors = stretch_factors(start.lens, check)
    remarks = _focal_notes(frames, check, factors, start)
    if factors is not None:
        results = StretchedResults(results, factors)
        start = _start(frames, results, known, config, matches)
    problem, relative, scores = start.problem, start.relative, start.scores
    state, odd, solved = _in_world(start, given, fix_poses)
    if odd:
        what = "are kept as asked" if fix_poses else "are not begun with"
        text = f"alignment: the given poses of frames {{frames}} contradict the pictures and the others, and {what}"
        remarks.append(Note(text, tuple(odd)))
    rounds = config.fusions + 1
    progress.start("alignment", rounds)
    for number in range(rounds):
        bundle = make_bundle(problem, relative, state, scores, settings)
        state = bundle.solve()
        settings = replace(settings, depth_sigma=bundle.depth_sigma)  # what was learnt
        progress.update(pixels=bundle.pixel_error)
        if number + 1 < rounds:
            problem = replace(problem, views=fuse_views(frames, problem.views, results, state))
            problem = condense(frames, results, principal_points=problem.principal_points, views=problem.views)
            problem = problem if matches is None else with_matches(problem, frames, matches, config.least_matches)
            relative = relative_poses(frames, problem.views, results, max_points=start.pose_points)
            state = replace(state, log_depth=tuple(torch.zeros_like(each) for each in state.log_depth))
    progress.finish()
    related = len(known_rows(state, given)) > 0
    if not related:
        state = at_home(state)
    elif not fix_poses:  # poses to begin with may be noisy: no single one of them holds the world
        depth = scene_depth(state, [view.anchor_depth for view in problem.views])
        state = in_known_world(state, given, depth)
    state, kept = _with_the_others(state, given if related else None, config)
    notes = pair_notes(problem, scores, start.by_points, "whose matches are too few or contradict each other")
    remarks = [*notes, *part_notes(solved, kept), *remarks]
    return bundle_result(frames, bundle, state, remarks, state.active | kept)


def _known_intrinsics(frames: Sequence[PairFrame], intrinsics: Sequence[Tensor | None] | None) -> list[Tensor | None]:
    """K (3, 3) of each view, None where unknown."""
    said = [frame.K for frame in frames] if intrinsics is None else list(intrinsics)
    if len(said) != len(frames):
        raise ValueError(f"intrinsics: wanted {len(frames)} entries, found {len(said)}")
    for n, K in enumerate(said):
        if K is None:
            continue
        check_shape(f"intrinsics[{n}]", K, (3, 3))
        if bool(torch.isfinite(K).all()) and not bool((K.diagonal()[:2] > 0).all()):
            raise ValueError(f"intrinsics[{n}]: wanted focal lengths above 0, found {K.diagonal()[:2].tolist()}")
    return [None if K is None or not bool(torch.isfinite(K).all()) else K.double().cpu() for K in said]


def _known_poses(count: int, poses: Tensor | None) -> Tensor:
    """(T, 4, 4) float64, all of a pose NaN where any of it is not finite."""
    if poses is None:
        return torch.full((count, 4, 4), torch.nan, dtype=torch.float64)
    check_shape("world_from_cam", poses, (count, 4, 4))
    poses = poses.detach().double().cpu()
    return poses.where(torch.isfinite(poses).flatten(1).all(1)[:, None, None], torch.nan)


def _in_world(start: _Start, given: Tensor, fix: bool) -> tuple[BundleState, list[int], list[tuple[int, ...]]]:
    """The parts that are to be solved in the world of the given poses, the frames whose given poses contradict the
    others, and these parts. Besides the largest part, only poses that stay bring another into the same world."""
    found = []
    for part in start.parts[: None if fix else 1]:
        if len(part) < 2:
            break
        state = start_state(start.problem, start.lens, start.relative, start.scores, part)
        depth = scene_depth(state, [view.anchor_depth for view in start.problem.views])
        rows = known_rows(state, given)
        held = fix and len(rows) > 0 and fit_world(state.world_from_cam[rows], given[rows], depth).scale is not None
        if held or not found:
            state, odd = with_known_poses(state, given, depth, fix=fix)
            found.append((held, part, state, odd))
    # a part that nothing holds has a world of its own
    found = [each for each in found if each[0]] or found[:1]
    state, odd = found[0][2], list(found[0][3])
    for _, _, other, more in found[1:]:
        here = other.active
        state = replace(
            state, world_from_cam=torch.where(here[:, None, None], other.world_from_cam, state.world_from_cam),
            scale=torch.where(here, other.scale, state.scale), active=state.active | here,
            fixed_pose=state.fixed_pose | (other.fixed_pose & here),
        )  # fmt: skip
        odd += more
    return state, sorted(odd), [part for _, part, _, _ in found]


def _with_the_others(state: BundleState, stay: Tensor | None, config: AlignmentConfig) -> tuple[BundleState, Tensor]:
    """The state with what can be said of frames that nothing ties: the common focal length, and known poses (T,
    4, 4) with the scale of the frames around; (T,) bool which of them have a pose so."""
    free, kept = ~state.fixed_focal, torch.zeros_like(state.active)
    change = (state.focal / state.network_focal)[state.active & free]
    if config.bundle.shared_intrinsics and len(change):
        focal = torch.where(free & ~state.active, state.network_focal * change.median(), state.focal)
        state = replace(state, focal=focal)
    if stay is not None:
        kept = torch.isfinite(stay).flatten(1).all(1) & ~state.active
        pose = torch.where(kept[:, None, None], stay, state.world_from_cam)
        scale = neighbour_scales(state.scale.where(state.active, torch.nan))
        state = replace(state, world_from_cam=pose, scale=scale)
    return state, kept


@dataclass(frozen=True)
class _Start:
    """All that is known before the first refinement; pose_points: of a pass, that its relative pose is found by."""

    problem: SparseProblem
    lens: Intrinsics
    relative: list[RelativePose]
    pose_points: int
    scores: np.ndarray
    by_points: list[tuple[int, int]]
    parts: list[tuple[int, ...]]
    state: BundleState


def _start(
    frames: Sequence[PairFrame], results: PairResults, known: Sequence[Tensor | None], config: AlignmentConfig,
    matches: Correspondences | None,
) -> _Start:  # fmt: skip
    points = _principal_points(frames, known)
    problem = condense(frames, results, subsample=config.subsample, principal_points=points)
    problem = problem if matches is None else with_matches(problem, frames, matches, config.least_matches)
    lens = start_intrinsics(frames, problem, known, shared=config.bundle.shared_intrinsics)
    if lens is None:
        raise RunError("alignment: no pixel of any frame has a usable point; look at the masks and the weights")
    most = MOST_POINTS if matches is None else FEWER_POINTS
    relative = relative_poses(frames, problem.views, results, max_points=most)
    scores, by_points = pair_ties(problem, relative, config.least_matches)
    parts = connected_components(scores)
    if len(parts[0]) < 2:
        raise RunError("alignment: no two frames have enough matches or points that agree; use a wider graph of pairs")
    state = start_state(problem, lens, relative, scores, parts[0])
    return _Start(problem, lens, relative, most, scores, by_points, parts, state)


def _focal_notes(
    frames: Sequence[PairFrame], check: FocalCheck | None, factors: Tensor | None, start: _Start
) -> list[Note]:
    notes = []
    if check is not None and check.factor != 1:
        row = int(torch.nonzero(start.state.active & ~start.lens.given)[0])
        sx, sy = frames[row].view.scale
        long = float(start.lens.network_focal[row]) / (sx * sy) ** 0.5  # of the picture that the view is cut from
        notes.append(
            Note(
                f"alignment: the network sees with a focal length of {long:.0f} px, the matches say "
                f"{long * check.factor:.0f} (within {check.sigma:.1%}): its depths are brought to that"
            )
        )
    elif factors is not None:
        notes.append(
            Note("alignment: the network's depths are brought to the given focal length, which is not its own")
        )
    if check is not None and check.sigma > OPEN:
        notes.append(
            Note(
                "alignment: the focal length is the network's word; the views turn too little for the matches to tell "
                "(give K in cameras.json if it is known)"
            )
        )
    return notes


def _published(
    frames: Sequence[PairFrame], results: PairResults, known: Sequence[Tensor | None], given: Tensor, fix_poses: bool,
    config: AlignmentConfig, progress: Progress,
) -> Alignment:  # fmt: skip
    from dyn4d.geometry.published_methods import dust3r, mast3r
    from dyn4d.geometry.sparse_published import PublishedConfig

    unknown = torch.full((3, 3), torch.nan, dtype=torch.float64)
    K = torch.stack([unknown if each is None else each for each in known]) if known else unknown[None][:0]
    if config.method == "dust3r":
        return dust3r(frames, results, K, given, fix_poses=fix_poses, progress=progress)
    settings = PublishedConfig(
        optimise_depth=config.optimise_depth, depth_rank=config.depth_rank, fix_poses=fix_poses
    )  # fmt: skip
    return mast3r(frames, results, K, given, settings, progress=progress)


def _principal_points(frames: Sequence[PairFrame], known: Sequence[Tensor | None]) -> Tensor:
    """(T, 2) px of the views: the given ones, else the middle of the picture that a view is cut from."""
    points = [K[:2, 2] if K is not None else frame.view.to_view(_middle(frame)) for K, frame in zip(known, frames)]
    return torch.stack(points) if points else torch.zeros(0, 2, dtype=torch.float64)


def _middle(frame: PairFrame) -> Tensor:
    """The middle of the picture that a view is cut from: where its principal point is, if nothing else is known."""
    width, height = frame.view.source
    return torch.tensor([width / 2, height / 2], dtype=torch.float64)


def make_bundle(
    problem: SparseProblem,
    relative: Sequence[RelativePose],
    state: BundleState,
    scores: np.ndarray,
    config: BundleConfig,
) -> Bundle:
    """Of the pairs that are tied, within the active frames."""

    directions = make_directions(problem, tied_pairs(problem, state, scores), config.max_per_pair)
    tied = [one for one in relative if _counts(state, scores, one.a, one.b)]
    return Bundle(problem, directions, tied, state, config)


def tied_pairs(problem: SparseProblem, state: BundleState, scores: np.ndarray) -> list[PairMatches]:
    """Those that go by their matches, within the active frames; a score of 1 is that of points alone."""
    return [
        pair for pair in problem.pairs
        if _counts(state, scores, pair.frame_a, pair.frame_b) and scores[pair.frame_a, pair.frame_b] > 1 and len(pair)
    ]  # fmt: skip


def _counts(state: BundleState, scores: np.ndarray, a: int, b: int) -> bool:
    return bool(state.active[a]) and bool(state.active[b]) and scores[a, b] > 0
