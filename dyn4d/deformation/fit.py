"""Fitting the trajectory field on lifted correspondences, and what it says about itself afterwards."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.checks import require_finite
from dyn4d.core.protocols import Progress
from dyn4d.core.types import Camera, FramePoints, FrameReader, LiftedPairs
from dyn4d.deformation.config import DeformationConfig
from dyn4d.deformation.coupling import coarse_to_fine
from dyn4d.deformation.field import FieldShape, TrajectoryField, cycle_error
from dyn4d.deformation.files import AnyField
from dyn4d.deformation.objective import FieldObjective, Trust
from dyn4d.deformation.observations import observe
from dyn4d.deformation.offset_field import OffsetField, OffsetShape
from dyn4d.deformation.published_fit import fit_published
from dyn4d.deformation.reviews import Reviews
from dyn4d.deformation.root import RootMotion, fit_root
from dyn4d.io.checkpoint import Checkpoint, load_tensors, optimiser_tensors, restore_optimiser, save_tensors

CHECKPOINT = "dyn4d-field-fit/4"
FIT_LEVELS = 4
"""Levels of the splines that matches are fitted with, up to 32 cells a side: about as fine as they are exact."""
NEAR = 3
"""Frames apart, at most, of the matches that the fit begins with."""


@dataclass(frozen=True)
class FitResult:
    """A fitted field, its measures (`deformation/metrics.json`) and its loss curves."""

    field: AnyField
    metrics: dict[str, Any]
    objective: FieldObjective | None = None
    curves: dict[str, list[list[float]]] = dataclass_field(default_factory=dict)


def trust_at(fraction: float) -> Trust:
    """What the fit believes after a share of its steps.

    It begins with neighbouring frames, whose matches are nearly all right, and lets them pull from any distance. A limb
    that swings far then goes where it went. Matches between frames further apart may mistake one leg for the other,
    half a stride later; with them, or with the masks (the other leg is inside the mask too), or with a kernel that lets
    go of what is far, from the start, a field that leaves legs where they are and swaps them is found first, and kept.
    """
    reach = 10.0 * max(10.0 ** (1 - fraction / 0.6), 1.0)
    return Trust(NEAR, reach, silhouettes=False) if fraction < 0.4 else Trust(reach=reach)


def bounds(points: FramePoints) -> tuple[Tensor, float]:
    """Centre (3,) and half of the largest side of the box that holds all but the most extreme points."""
    if len(points) == 0:
        return torch.zeros(3), 1.0
    low = torch.from_numpy(np.quantile(points.xyz.numpy(), 0.001, axis=0)).float()
    high = torch.from_numpy(np.quantile(points.xyz.numpy(), 0.999, axis=0)).float()
    return (low + high) / 2, max(float((high - low).max()) / 2, 1e-6)


def build_objective(
    pairs: LiftedPairs,
    points: FramePoints,
    cameras: Camera,
    masks: FrameReader,
    times: np.ndarray,
    config: DeformationConfig,
    *,
    device: torch.device,
) -> FieldObjective | None:
    """Our field's own loss over a clip; None where there is nothing to move (no pairs), or the field is another."""
    if config.kind != "realnvp" or len(pairs) == 0:
        return None
    return FieldObjective(
        pairs, points, observe(points, cameras, masks), times=torch.as_tensor(times),
        half_size=bounds(points)[1], config=config, device=device,
    )  # fmt: skip


def initial_field(
    pairs: LiftedPairs, points: FramePoints, times: np.ndarray, config: DeformationConfig, *, seed: int
) -> TrajectoryField:
    """The field before training: the root motion, and a network that is the identity."""
    centre, half_size = bounds(points)
    knots = torch.as_tensor(times, dtype=torch.float32)
    root = RootMotion.still(knots)
    if config.root:
        normal = replace(pairs, xyz_a=(pairs.xyz_a - centre) / half_size, xyz_b=(pairs.xyz_b - centre) / half_size)
        root = fit_root(normal, knots, generator=torch.Generator().manual_seed(seed))
    shape = FieldShape(
        layers=config.layers, cells=config.cells, time_features=config.time_features,
        input_scale=config.time_scale * len(times), knots=len(times),
    )  # fmt: skip
    return TrajectoryField(shape, root=root, centre=centre, half_size=half_size, seed=seed)


def fit_field(
    pairs: LiftedPairs,
    points: FramePoints,
    cameras: Camera,
    masks: FrameReader,
    times: np.ndarray,
    config: DeformationConfig,
    *,
    device: torch.device,
    seed: int,
    progress: Progress,
    checkpoint: Path | None = None,
) -> FitResult:
    """Fit a field by t -> canonical -> t' on correspondences.

    Args:
        pairs: lifted correspondences between the T frames. points: all frames' points, world.
        cameras: T cameras. masks: T masks. times: (T,) in [0, 1].
        checkpoint: a file that holds the state of an unfinished fit: read if it is there, rewritten as the fit goes.

    Raises:
        RunError: a loss is not finite.
    """
    if config.kind == "mlp":
        centre, half_size = bounds(points)
        offset = OffsetField(OffsetShape(), centre=centre, half_size=half_size, seed=seed)
        return FitResult(offset, measure(offset, points, times, pairs))
    if config.kind == "modgs" and len(pairs):
        centre, half_size = bounds(points)
        published, curves = fit_published(
            pairs, times, centre=centre, half_size=half_size, steps=config.steps,
            points=config.pairs_per_step * config.points_per_pair, device=device, seed=seed, progress=progress,
            checkpoint=checkpoint, checkpoint_seconds=config.checkpoint_seconds,
        )  # fmt: skip
        return FitResult(published, measure(published, points, times, pairs) | {"curves": curves}, None, curves)
    objective = build_objective(pairs, points, cameras, masks, times, config, device=device)
    if objective is None:
        if config.kind != "none" and len(times) > 1:
            progress.note("deformation: no correspondences between frames, so nothing can move")
        still = TrajectoryField.still()
        return FitResult(still, measure(still, points, times, pairs))

    state = _begin(pairs, points, times, config, device=device, seed=seed, checkpoint=checkpoint)
    field, curves = state.field, state.curves
    reviews = Reviews(points, objective.seen, objective.times.to(device), steps=config.steps, seed=seed)
    if state.saved is not None:
        reviews.restore(state.saved.tensors, state.saved.config["reunions"])
        objective.also_draw(reviews.pairs, reviews.share)

    _train(state, objective, reviews, config, seed=seed, progress=progress, checkpoint=checkpoint)
    field.stack.window.fill_(1.0)
    field.eval()
    objective.also_draw(None, 0.0)
    found = reviews.summary(field)
    metrics = measure(field, points, times, pairs) | {"curves": curves, "reunions": found}
    return FitResult(field, metrics, objective, curves)


@dataclass(frozen=True)
class _State:
    """An unfinished fit. Attributes: step: the next one. saved: the checkpoint it was read from."""

    field: TrajectoryField
    optimiser: torch.optim.Optimizer
    curves: dict[str, list[list[float]]]
    step: int
    saved: Checkpoint | None


def _begin(
    pairs: LiftedPairs,
    points: FramePoints,
    times: np.ndarray,
    config: DeformationConfig,
    *,
    device: torch.device,
    seed: int,
    checkpoint: Path | None,
) -> _State:
    """A new fit, or the one that a checkpoint holds."""
    saved = load_tensors(checkpoint, CHECKPOINT) if checkpoint and checkpoint.exists() else None
    if saved is None:
        field = initial_field(pairs, points, times, config, seed=seed)
    else:
        field = TrajectoryField(
            FieldShape(**saved.config["shape"]), root=RootMotion.still(torch.zeros(len(times))),
            centre=torch.zeros(3), half_size=1.0,
        )  # fmt: skip
        field.load_state_dict({k[6:]: v for k, v in saved.tensors.items() if k.startswith("field.")})
    field.to(device).train()
    optimiser = torch.optim.Adam(field.parameter_groups(config.lr), betas=(0.9, 0.99), fused=True)
    if saved is None:
        return _State(field, optimiser, {"transport": [], "isometry": [], "silhouette": []}, 0, None)
    restore_optimiser("field", optimiser, dict(field.named_parameters()), saved.tensors)
    return _State(field, optimiser, saved.config["curves"], saved.config["step"], saved)


def _train(
    state: _State,
    objective: FieldObjective,
    reviews: Reviews,
    config: DeformationConfig,
    *,
    seed: int,
    progress: Progress,
    checkpoint: Path | None,
) -> None:
    """The fit's remaining steps."""
    field, optimiser = state.field, state.optimiser
    progress.start("deformation", config.steps, state.step)
    last_saved = time.monotonic()
    for step in range(state.step, config.steps):
        fraction = step / config.steps
        opened = coarse_to_fine(len(field.stack.levels), 0.5 + 2.0 * fraction)
        opened[FIT_LEVELS:] = 0
        field.stack.window.copy_(opened)
        if config.reunions and step in reviews.steps:
            reviews.review(field)
            objective.also_draw(reviews.pairs, reviews.share)
        wave = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * fraction))
        for group in optimiser.param_groups:
            group["lr"] = group["initial"] * wave * min(1, (step + 1) / 30)
        terms = objective(field, seed * 1_000_003 + step, trust=trust_at(fraction))
        loss = terms.weighted(config)
        require_finite(loss, f"deformation step {step}")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 20 == 0 or step == config.steps - 1:
            for name, curve in state.curves.items():
                value = getattr(terms, name)
                if value is not None:
                    curve.append([step, float(value.detach())])
        progress.update(loss=float(loss.detach()))
        if checkpoint and time.monotonic() - last_saved > config.checkpoint_seconds:
            _save(checkpoint, replace(state, step=step + 1), reviews)
            last_saved = time.monotonic()
    progress.finish()


def _save(path: Path, state: _State, reviews: Reviews) -> None:
    tensors = {f"field.{k}": v.detach().cpu() for k, v in state.field.state_dict().items()}
    tensors |= optimiser_tensors("field", state.optimiser, dict(state.field.named_parameters()))
    matches, reunions = reviews.state()
    values = {"shape": vars(state.field.shape), "step": state.step, "curves": state.curves, "reunions": reunions}
    save_tensors(path, tensors | matches, values, CHECKPOINT)


@torch.no_grad()
def measure(
    field: AnyField, points: FramePoints, times: np.ndarray, pairs: LiftedPairs, *, most: int = 200_000
) -> dict[str, Any]:
    """Cycle error over the frames' points (all of them up to `most`; None for a field that has no inverse) and how well
    matches are met, relative to the object's size."""
    field = field.cpu()
    size = max(points.extent(), 1e-9)
    stride = max(1, len(points) // most)
    when = torch.as_tensor(times, dtype=torch.float32)
    largest, total, count = 0.0, 0.0, 0
    for frame in range(len(times)) if field.invertible else ():
        xyz = points.xyz[points.frame == frame][::stride]
        if len(xyz):
            high, mean = cycle_error(field, xyz, when[frame])
            largest, total, count = max(largest, high), total + mean * len(xyz), count + len(xyz)
    metrics: dict[str, Any] = {
        "cycle": {
            "max": largest,
            "max_rel": largest / size,
            "mean_rel": total / max(count, 1) / size,
            "points": count,
        }
        if field.invertible
        else None,
        "object_size": size,
        "transport": None,
    }
    if len(pairs):
        rows = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:20000]
        error = field.transport(pairs.xyz_a[rows], when[pairs.frame_a[rows]], when[pairs.frame_b[rows]])
        error = (error - pairs.xyz_b[rows]).norm(dim=-1) / size
        metrics["transport"] = {
            "median_rel": float(error.median()),
            "mean_rel": float(error.mean()),
            "p90_rel": float(error.quantile(0.9)),
        }
    return metrics
