"""Cameras and depths of a clip from matches: the published sparse alignment, on the pixels that count only.

First the distance in space between what matched pixels see is lessened, by camera poses and a depth scale for each
frame; then the distance in pixels, by focal lengths, principal points and anchor depths too. Nothing ties focal lengths
to depths, so both drift even from a perfect start.

Source: Duisterhof et al., "MASt3R-SfM", 2024, sections 3.3 and 3.4. OpenCV axes, half-integer pixel centres.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dyn4d.core.checks import check_shape, require_finite
from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.geometry.depth_basis import spectral_basis
from dyn4d.geometry.focal import SeenPoints, estimate_focal, published_limits
from dyn4d.geometry.kinematic import KinematicTree, SeenAnchors, TreeMode, component_tree, matches_enough
from dyn4d.geometry.sparse_losses import (
    DepthMode,
    PackedMatches,
    PackedPointmaps,
    SceneState,
    SceneUnknowns,
    falling_rate,
    intrinsics_matrix,
)
from dyn4d.geometry.sparse_problem import SparseProblem
from dyn4d.geometry.world_frame import LEAST_PARALLAX, fit_world

Losses = tuple[float, float, float, float]

# What K changes by where pixel centres are at half-integers, not integers.
HALF_PIXEL = torch.tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], dtype=torch.float64)


@dataclass(frozen=True)
class PublishedConfig:
    """Settings of the published sparse alignment; defaults are its own."""

    tree: TreeMode = "hclust-ward"
    """How poses are chained: hclust-ward = along Ward's clusters; mst = along the spanning tree of most matches."""
    coarse_steps: int = 300
    """Steps of the search in space. 0: none."""
    coarse_lr: float = 0.07
    """Its first learning rate."""
    coarse_gamma: float = 1.5
    """Exponent of its distances."""
    fine_steps: int = 300
    """Steps of the search in pixels. 0: none."""
    fine_lr: float = 0.01
    """Its first learning rate."""
    fine_gamma: float = 0.5
    """Exponent of its distances."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rates fall to 0."""
    min_match_conf: float = 5.0
    """A pair without a surer match is held together by its pointmaps instead."""
    pointmap_weight: float = 0.01
    """Weight of these pointmaps."""
    pointmap_gamma: float = 1.1
    """Exponent of their distances."""
    optimise_pp: bool = True
    """The search in pixels moves principal points."""
    optimise_depth: bool = True
    """The search in pixels moves anchor depths."""
    depth_mode: DepthMode = "add"
    """What a longer focal length does to a frame's depth: add = moves all of it away; mul = stretches it."""
    exp_depth: bool = False
    """Search for the logarithms of anchor depths, which keeps those of depth_mode mul above 0."""
    depth_rank: int = 0
    """Anchor depths change by this many smooth shapes a frame only (`depth_basis`). 0: each anchor by itself."""
    shared_intrinsics: bool = False
    """One focal length, in pixels of the views, and one principal point for all frames whose intrinsics are unknown."""
    fix_intrinsics: bool = True
    """Known intrinsics stay as they are; else they are where the search begins, as published."""
    fix_poses: bool = False
    """Known poses stay as they are; else they are where the search begins."""

    def __post_init__(self) -> None:
        choices = {"tree": ("hclust-ward", "mst"), "schedule": ("cosine", "linear"), "depth_mode": ("add", "mul")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"published.{name}: {getattr(self, name)!r}; wanted one of {', '.join(known)}")
        for name in ("coarse_steps", "coarse_lr", "coarse_gamma", "fine_steps", "fine_lr", "fine_gamma",
                     "pointmap_weight", "pointmap_gamma", "depth_rank"):  # fmt: skip
            value, low = getattr(self, name), "from" if name.endswith(("steps", "weight", "rank")) else "above"
            if not 0 <= value < math.inf or (value == 0 and low == "above"):
                raise InputError(f"published.{name}: {value}; wanted a number {low} 0")


@dataclass(frozen=True)
class PublishedAlignment:
    """Cameras and anchor depths of T frames.

    The world is that of the given poses; without any the first registered camera, in units of the pairs' pointmaps.

    Attributes:
        K: (T, 3, 3) float64 in pixels of the views, half-integer centres; the start for frames not registered.
        world_from_cam: (T, 4, 4) float64; NaN for frames not registered.
        anchor_depth: for each frame (A,) float64 planar z, which may fall below 0; none where not registered.
        scale: (T,) float64 world lengths over those of the frame's canonical view; NaN where not registered.
        relief: (T,) float64 what depths relative to an anchor shrink by.
        losses: first and last of the search in space, first and last of that in pixels.
    """

    K: Tensor
    world_from_cam: Tensor
    anchor_depth: tuple[Tensor, ...]
    scale: Tensor
    relief: Tensor
    losses: Losses

    def __post_init__(self) -> None:
        sizes = {"T": len(self.anchor_depth)}
        for name, shape in (("K", ("T", 3, 3)), ("world_from_cam", ("T", 4, 4)), ("scale", ("T",)), ("relief", ("T",))):
            check_shape(f"PublishedAlignment.{name}", getattr(self, name), shape, sizes)

    @property
    def registered(self) -> Tensor:
        """(T,) bool."""
        return self.scale.isfinite()

    def depth(self, problem: SparseProblem, frame: int) -> Tensor:
        """(P,) float64 planar z of each pixel of the frame's canonical view; 0 = none."""
        view, anchors = problem.views[frame], self.anchor_depth[frame]
        if len(anchors) == 0:
            return torch.zeros_like(view.ratio)
        return (anchors[view.anchor] * (1 + (view.ratio - 1) * self.relief[frame])).clamp_min(0)


def align_published(
    problem: SparseProblem, config: PublishedConfig | None = None, *, unmatched: Sequence[SeenAnchors] = (),
    frames: Sequence[int] | None = None, K: Tensor | None = None, world_from_cam: Tensor | None = None,
    device: torch.device | str = "cpu", progress: Progress | None = None,
) -> PublishedAlignment:  # fmt: skip
    """Solve for the cameras and anchor depths of one connected component; float64 throughout.

    Args:
        unmatched: what holds pairs together that match too little, from `unmatched_views`; else they count for nothing.
        frames: those of the component; None: of the largest. One frame alone stays as it is.
        K: (T, 3, 3) known intrinsics in pixels of the views, NaN where unknown.
        world_from_cam: (T, 4, 4) known poses, NaN where unknown: where to begin, or with `config.fix_poses` where to
            stay. Their world and unit stay in any case, those of most of them where some contradict the others.
        progress: counts the steps of both searches.

    Raises:
        RunError: frames there are, but nothing ties two of them together; or a loss is not finite.
        ValueError: shapes do not fit, or `frames` are not tied together.
    """
    config, progress = config or PublishedConfig(), progress or SilentProgress()
    known, poses = (_given(n, v, len(problem), k) for n, v, k in (("K", K, 3), ("world_from_cam", world_from_cam, 4)))
    first_K = _first_intrinsics(problem, known)
    unmatched = unmatched if config.pointmap_weight else ()
    tree = component_tree(problem, unmatched, frames, min_match_conf=config.min_match_conf, mode=config.tree)
    rows = list(tree.frames)
    given = poses[rows]
    scene, matches, pointmaps = _build(problem, tree, unmatched, first_K, known, given, config, torch.device(device))
    inner, given = None, given.to(device)
    at = given.isfinite().flatten(1).all(1)
    if bool(at.any()):
        origin, unit = given[at][0, :3, 3], _unit(scene(), matches, given)
        wide = (given[at][:, :3, 3] - origin).norm(dim=-1).max() * unit
        pinned = config.fix_poses and bool(wide > LEAST_PARALLAX * scene().depth.median())
        unit = unit if pinned or not config.fix_poses else 1.0
        inner = origin.cpu(), unit
        scene.place(given[:, :3, :3], (given[:, :3, 3] - origin) * unit, pinned=pinned)
    losses = _search(scene, matches, pointmaps, config, progress)
    return _result(scene, problem, rows, first_K, poses, losses, inner if config.fix_poses else None)


def _given(name: str, value: Tensor | None, count: int, side: int) -> Tensor:
    """(T, side, side) float64, NaN where any entry is not finite."""
    if value is None:
        return torch.full((count, side, side), torch.nan, dtype=torch.float64)
    check_shape(name, value, (count, side, side))
    value = value.detach().double().cpu()
    return value.where(value.isfinite().flatten(1).all(1)[:, None, None], torch.nan)


def _first_intrinsics(problem: SparseProblem, known: Tensor) -> Tensor:
    """(T, 3, 3): known ones, else each frame's own estimate, else those of a view 60° wide."""
    out = known.clone()
    for frame in known.isnan().flatten(1).any(1).nonzero()[:, 0].tolist():
        view, pp = problem.views[frame], problem.principal_points[frame]
        limits = published_limits(view.width, view.height)
        focal = estimate_focal(SeenPoints(view.xy, view.points, (float(pp[0]), float(pp[1]))), limits=limits)
        lens = torch.full((1, 2), 2 * limits[0] if focal is None else focal, dtype=torch.float64)
        out[frame] = intrinsics_matrix(lens, pp[None])[0]
    if bool((out[:, [0, 1], [0, 1]] <= 0).any()):
        raise ValueError("K: wanted focal lengths above 0")
    return out


def _build(
    problem: SparseProblem, tree: KinematicTree, unmatched: Sequence[SeenAnchors], first_K: Tensor, known: Tensor,
    given: Tensor, config: PublishedConfig, device: torch.device,
) -> tuple[SceneUnknowns, PackedMatches, PackedPointmaps]:  # fmt: skip
    rows = list(tree.frames)
    local, views = {frame: number for number, frame in enumerate(rows)}, [problem.views[frame] for frame in rows]
    depths = [view.anchor_depth for view in views]
    first_anchor = torch.tensor([0, *(len(each) for each in depths)]).cumsum(0).tolist()
    held = given.isfinite().flatten(1).all(1) & config.fix_poses
    scene = SceneUnknowns(
        first_K[rows] - HALF_PIXEL, torch.tensor([[view.width, view.height] for view in views]).double(), depths,
        tree.parents, fixed=known[rows].isfinite().flatten(1).all(1) & config.fix_intrinsics,
        shared=torch.stack([view.conf.mean() for view in views]) if config.shared_intrinsics else None,
        depth_mode=config.depth_mode, exp_depth=config.exp_depth,
        basis=torch.cat([spectral_basis(view, config.depth_rank) for view in views]) if config.depth_rank else None,
        held=held,
    )  # fmt: skip
    xy = torch.cat([view.anchor_xy - 0.5 for view in views])
    usable = (pair for pair in problem.pairs if matches_enough(pair, config.min_match_conf))
    matches = PackedMatches.pack(usable, local, first_anchor)
    pointmaps = PackedPointmaps.pack(unmatched, local, first_anchor, xy)
    return scene.to(device), matches.to(device), pointmaps.to(device)


@torch.no_grad()
def _unit(state: SceneState, matches: PackedMatches, poses: Tensor) -> float:
    """How many lengths of the predictions are one of the given poses': that which brings matched points together."""
    state = replace(state, rotation=poses[:, :3, :3].nan_to_num(), centre=torch.zeros_like(state.centre))
    frame, half, world = matches.pixels.frame, len(matches), matches.pixels.world(state)
    apart, base = world[half:] - world[:half], (poses[frame[:half], :3, 3] - poses[frame[half:], :3, 3])
    good = base.isfinite().all(-1)
    apart, base, weight = apart[good], base[good], matches.weight[good]
    unit, each = 1.0, weight
    for _ in range(10):  # the least sum of distances, by reweighting
        along = float((each * base.square().sum(-1)).sum())
        unit = float((each * (apart * base).sum(-1)).sum()) / along if along > 0 else 1.0
        each = weight / (apart - unit * base).norm(dim=-1).clamp_min(1e-9)
    return unit if unit > 0 else 1.0


def _search(
    scene: SceneUnknowns, matches: PackedMatches, pointmaps: PackedPointmaps, config: PublishedConfig,
    progress: Progress,
) -> Losses:  # fmt: skip
    def evaluate(between: Callable[[SceneState, float], Tensor], gamma: float) -> Tensor:
        state = scene()
        loss = between(state, gamma) if len(matches) else state.centre.new_zeros(())
        if len(pointmaps):
            loss = loss + config.pointmap_weight * pointmaps.loss(state, config.pointmap_gamma)
        return loss

    if not len(matches) + len(pointmaps):  # one frame
        return 0.0, 0.0, 0.0, 0.0
    coarse = [scene.quats, scene.translation, scene.log_size]
    fine = [*coarse, scene.log_focal, *[scene.pp] * config.optimise_pp, *[scene.core] * config.optimise_depth]
    losses: list[float] = []
    progress.start("sparse alignment", config.coarse_steps + config.fine_steps)
    for name, between, unknowns, gamma, rate, steps in (
        ("space", matches.distance_loss, coarse, config.coarse_gamma, config.coarse_lr, config.coarse_steps),
        ("pixels", matches.pixel_loss, fine, config.fine_gamma, config.fine_lr, config.fine_steps),
    ):
        optimiser = torch.optim.Adam(unknowns, lr=rate, betas=(0.9, 0.9))
        for step in range(steps + 1):
            loss = evaluate(between, gamma)
            require_finite(loss, f"sparse alignment in {name}, step {step}")
            losses.append(float(loss.detach()))
            if step == steps:  # only a look at where the last one led
                break
            optimiser.param_groups[0]["lr"] = falling_rate(config.schedule, step, steps, rate)
            scene.zero_grad()
            loss.backward()
            optimiser.step()
            scene.normalise()
            progress.update(loss=losses[-1])
    progress.finish()
    return losses[0], losses[config.coarse_steps], losses[config.coarse_steps + 1], losses[-1]


@torch.no_grad()
def _result(
    scene: SceneUnknowns, problem: SparseProblem, rows: list[int], first_K: Tensor, poses: Tensor, losses: Losses,
    inner: tuple[Tensor, float] | None,
) -> PublishedAlignment:  # fmt: skip
    """inner: where poses stay, the origin of the search in the known world, and its lengths per length there."""
    state = scene().to(torch.device("cpu"))
    found = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    found[:, :3, :3], found[:, :3, 3] = state.rotation, state.centre
    R, t, unit = _home(found, poses[rows], rows, state.depth) if inner is None else _back(*inner)
    found[:, :3, :3], found[:, :3, 3] = R @ state.rotation, unit * state.centre @ R.T + t
    if inner is not None:  # to the bit
        known = poses[rows].isfinite().flatten(1).all(1)
        found[known] = poses[rows][known]
    for value in (state.K, found, state.scale, state.depth):
        require_finite(value, "sparse alignment, the result")
    K, world_from_cam = first_K.clone(), torch.full_like(poses, torch.nan)
    scale, relief = torch.full_like(poses[:, 0, 0], torch.nan), torch.ones_like(poses[:, 0, 0])
    K[rows], world_from_cam[rows] = state.K + HALF_PIXEL, found
    scale[rows], relief[rows] = unit * state.scale, state.relief
    depth = [view.anchor_depth[:0] for view in problem.views]
    for row, part in zip(rows, (unit * state.depth).split([len(problem.views[row].anchor_depth) for row in rows])):
        depth[row] = part
    return PublishedAlignment(K, world_from_cam, tuple(depth), scale, relief, losses)


def _home(found: Tensor, given: Tensor, rows: list[int], depth: Tensor) -> tuple[Tensor, Tensor, float]:
    """R (3, 3), t (3,) and scale into the world of most of the given poses; without any to the lowest frame's camera.

    Args:
        depth: (A,) what the frames see.
    """
    known = given.isfinite().flatten(1).all(1)
    if not bool(known.any()):
        first = found[rows.index(min(rows))]
        return first[:3, :3].T, -first[:3, :3].T @ first[:3, 3], 1.0
    fit = fit_world(found[known], given[known], float(depth.median()) if len(depth) else 1.0)
    return fit.R, fit.t, fit.size


def _back(origin: Tensor, unit: float) -> tuple[Tensor, Tensor, float]:
    return torch.eye(3, dtype=origin.dtype), origin, 1 / unit
