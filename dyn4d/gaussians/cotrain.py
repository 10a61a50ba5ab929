"""Training the Gaussians and the field together, one frame a step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dyn4d.core.checks import require_finite
from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Field, Progress
from dyn4d.core.types import Camera, Clip, FramePoints, GaussianCloud
from dyn4d.gaussians.confidence import confidence
from dyn4d.gaussians.config import GaussiansConfig
from dyn4d.gaussians.densify import PullStatistics, densify
from dyn4d.gaussians.evaluate import input_metrics
from dyn4d.gaussians.exposure import Exposure
from dyn4d.gaussians.init import initial_cloud
from dyn4d.gaussians.losses import RenderTerms, render_terms, stray
from dyn4d.gaussians.model import NAMES, GaussianModel, build_optimiser
from dyn4d.gaussians.targets import FrameTarget, background_colour, make_target
from dyn4d.gaussians.warp import move
from dyn4d.io.checkpoint import load_tensors, optimiser_tensors, restore_optimiser, save_tensors
from dyn4d.raster import rasterization

CHECKPOINT = "dyn4d-cotrain/1"
LONGEST = math.log(4.0)
"""Logarithm of the length of a Gaussian's longest axis over its second, from which on it is a needle."""
STRAYS = 100.0
"""Times `silhouette`: weight of what is astray. Few Gaussians are, and the mean is over all."""
Regulariser = Callable[[Field, int], Tensor]
"""The field's own weighted loss on a batch drawn by a seed."""


@dataclass(frozen=True)
class CotrainResult:
    """The canonical cloud, the field trained with it, `gaussians/metrics.json` and the loss curves."""

    cloud: GaussianCloud
    field: Field
    metrics: dict[str, Any]
    curves: dict[str, list[list[float]]]


@dataclass
class CotrainState:
    """Everything that a step changes."""

    model: GaussianModel
    field: Field
    gaussian_optimiser: torch.optim.Adam
    field_optimiser: torch.optim.Adam | None
    pull: PullStatistics
    step: int
    curves: dict[str, list[list[float]]]
    exposure: Exposure | None = None
    exposure_optimiser: torch.optim.Adam | None = None


def field_parameters(field: Field) -> dict[str, nn.Parameter]:
    """The field's trainable tensors by name; none for a field that cannot move or is not a network."""
    if isinstance(field, nn.Module) and getattr(field, "moves", True):
        return dict(field.named_parameters())
    return {}


def draw_frame(
    model: GaussianModel, field: Field, target: FrameTarget, *, sh_degree: int | None = None
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Draw the Gaussians at a target's time into its window: (h, w, 4) colour and depth, (h, w, 1) alpha, and the
    rasteriser's `info` with `means`, (N, 3) world. `sh_degree`: of the bands that are open, all if not given."""
    cloud = model.cloud(sh_degree)
    moved = move(cloud, field, target.time)
    height, width = target.mask.shape
    renders, alphas, info = rasterization(
        means=moved.means,
        quats=None,
        scales=None,
        covars=moved.covars,
        opacities=cloud.opacities,
        colors=moved.sh,
        sh_degree=cloud.sh_degree,
        viewmats=target.cam_from_world.unsqueeze(0),
        Ks=target.K.unsqueeze(0),
        width=width,
        height=height,
        render_mode="RGB+ED",
        packed=False,
        absgrad=True,
    )
    return renders[0], alphas[0], {**info, "means": moved.means}


def cotrain_step(
    state: CotrainState,
    target: FrameTarget,
    config: GaussiansConfig,
    *,
    half_size: float,
    background: Tensor,
    regulariser: Regulariser | None,
    seed: int,
) -> tuple[float, RenderTerms]:
    """One gradient step on Gaussians and field; changes `state`, opens no file. Returns the loss and its terms."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.rand(3, generator=generator).to(background) if config.random_background else background
    render, alpha, info = draw_frame(state.model, state.field, target, sh_degree=open_bands(state.step, config))
    if state.exposure is not None:
        render = torch.cat([render[..., :3] * state.exposure.gains()[target.frame], render[..., 3:]], dim=-1)
    terms = render_terms(
        render, alpha, target, colour=colour, half_size=half_size, generator=generator,
        order_form=config.depth_order_form,
    )  # fmt: skip
    loss = terms.weighted(config) + shape_terms(state.model, config, half_size)
    if config.silhouette:
        astray = stray(info["means"], torch.sigmoid(state.model.logit_opacities), target, half_size)
        loss = loss + config.silhouette * STRAYS * astray
    due = config.field > 0 and state.step % config.field_every == 0
    if regulariser is not None and state.field_optimiser is not None and due:
        loss = loss + config.field * config.field_every * regulariser(state.field, seed)
    require_finite(loss, f"gaussians step {state.step}, frame {target.frame}")
    optimisers = [optimiser for optimiser, _ in _optimisers(state).values()]
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()
    state.pull.add(info["means2d"].absgrad[0], info["radii"][0])
    for optimiser in optimisers:
        optimiser.step()
    return float(loss.detach()), terms


def open_bands(step: int, config: GaussiansConfig) -> int:
    """Degree of the spherical harmonics in use at a step."""
    return min(config.sh_degree, int(step / (0.15 * max(config.steps, 1))))


def shape_terms(model: GaussianModel, config: GaussiansConfig, half_size: float) -> Tensor:
    """Weighted means over the Gaussians that no picture asks for: flat, small, faint, and no needles."""
    total = model.means.new_zeros(())
    if config.needles:
        longest, second = model.log_scales.topk(2, dim=-1).values.unbind(-1)
        total = total + config.needles * (longest - second - LONGEST).clamp_min(0).mean()
    if config.flatten:
        total = total + config.flatten * model.log_scales.exp().amin(-1).mean() / half_size
    if config.scale:
        total = total + config.scale * model.log_scales.exp().mean() / half_size
    if config.opacity:
        total = total + config.opacity * torch.sigmoid(model.logit_opacities).mean()
    return total


def set_rates(state: CotrainState, config: GaussiansConfig, half_size: float) -> None:
    """Means decay to a hundredth exponentially, their other parameters to a tenth by a cosine; the field warms up,
    then falls to a twentieth by a cosine."""
    fraction = state.step / max(config.steps, 1)
    wave = 0.5 * (1 + math.cos(math.pi * fraction))
    for group in state.gaussian_optimiser.param_groups:
        if group["name"] == "means":
            group["lr"] = config.lr_means * half_size * 0.01**fraction
        else:
            group["lr"] = group["initial"] * (0.1 + 0.9 * wave)
    if state.field_optimiser is not None:
        cosine = 0.05 + 0.95 * wave
        warm = min(1.0, (state.step + 1) / 50)
        for group in state.field_optimiser.param_groups:
            group["lr"] = group["initial"] * cosine * warm


def frame_order(step: int, count: int, seed: int) -> int:
    """Each epoch shows every frame once, in an order fixed by the seed, so that a resumed run goes on alike."""
    epoch, place = divmod(step, count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 7919 + epoch))
    return int(order[place])


def cotrain(
    clip: Clip,
    points: FramePoints,
    field: Field,
    cameras: Camera,
    config: GaussiansConfig,
    *,
    regulariser: Regulariser | None = None,
    device: torch.device,
    seed: int,
    progress: Progress,
    checkpoint: Path | None = None,
) -> CotrainResult:
    """Make Gaussians from the points and train them with the field on all frames.

    Args:
        points: all frames' points, world. field: fitted; trained further in place where it has parameters.
        cameras: T cameras. regulariser: keeps the field to its correspondences while colours pull at it.
        checkpoint: a file that holds the state of unfinished training: read if it is there, rewritten as it goes.

    Raises:
        InputError: no frame has both a pose and a mask. RunError: a loss is not finite.
    """
    half_size = max(points.extent() / 2, 1e-6)
    found = [make_target(clip, cameras, points, i, margin=config.margin) for i in range(len(clip))]
    targets = [_to(target, device) for target in found if target is not None]
    if not targets:
        raise InputError(f"{clip.source}: no frame has both an object mask and a known camera pose")
    background = background_colour(clip)
    state = _start(clip, points, field, config, half_size, device=device, seed=seed, checkpoint=checkpoint)
    if config.steps:
        progress.start("gaussians", config.steps, state.step)
    last_saved = time.monotonic()
    while state.step < config.steps:
        target = targets[frame_order(state.step, len(targets), seed)]
        set_rates(state, config, half_size)
        step_seed = seed * 1_000_003 + 500_000_000 + state.step
        loss, terms = cotrain_step(
            state, target, config, half_size=half_size, background=torch.tensor(background, device=device),
            regulariser=regulariser, seed=step_seed,
        )  # fmt: skip
        if state.step % 20 == 0 or state.step == config.steps - 1:
            for name, curve in state.curves.items():
                value = len(state.model) if name == "count" else float(getattr(terms, name).detach())
                curve.append([state.step, value])
        state.step += 1
        fraction = state.step / config.steps
        if config.densify_from <= fraction <= config.densify_until and state.step % config.densify_every == 0:
            densify(state.model, state.gaussian_optimiser, state.pull, config, half_size=half_size)
            state.pull = PullStatistics(len(state.model), device)
        progress.update(loss=loss)
        if checkpoint and time.monotonic() - last_saved > config.checkpoint_seconds:
            save_state(checkpoint, state)
            last_saved = time.monotonic()
    if config.steps:
        progress.finish()
    if isinstance(state.field, nn.Module):
        state.field.eval()
    with torch.no_grad():
        cloud = state.model.cloud()
        keep = torch.nonzero((cloud.opacities > config.prune_opacity) & torch.isfinite(cloud.means).all(-1))[:, 0]
        cloud = cloud.select(keep) if len(keep) else cloud
        cloud = GaussianCloud(
            cloud.means, nn.functional.normalize(cloud.quats_wxyz, dim=-1), cloud.scales, cloud.opacities, cloud.sh
        )
        gains = state.exposure.gains() if state.exposure is not None else None
        cloud = replace(cloud, confidence=confidence(cloud, state.field, targets, gains=gains))
    metrics = {
        "background": list(background),
        "exposure": gains.tolist() if gains is not None else None,
        "input": input_metrics(
            clip, cloud, state.field, cameras, background, gains=gains, device=device, progress=progress
        ),
        "count": len(cloud),
        "curves": state.curves,
    }
    return CotrainResult(cloud.to("cpu"), state.field, metrics, state.curves)


def _to(target: FrameTarget, device: torch.device) -> FrameTarget:
    tensors = {f.name: getattr(target, f.name) for f in fields(target)}
    moved = {name: value.to(device) for name, value in tensors.items() if isinstance(value, Tensor)}
    return replace(target, **moved)


def _start(
    clip: Clip,
    points: FramePoints,
    field: Field,
    config: GaussiansConfig,
    half_size: float,
    *,
    device: torch.device,
    seed: int,
    checkpoint: Path | None,
) -> CotrainState:
    """The first state, or the saved one."""
    if isinstance(field, nn.Module):
        field.to(device).train()
    saved = load_tensors(checkpoint, CHECKPOINT) if checkpoint and checkpoint.exists() else None
    if saved is None:
        cloud = initial_cloud(
            points, _on_cpu(field), torch.as_tensor(np.asarray(clip.times)), config.begin,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        if isinstance(field, nn.Module):
            field.to(device)
        model = GaussianModel.from_cloud(cloud.to(device), config.sh_degree)
    else:
        model = GaussianModel({name: saved.tensors[f"gaussians.{name}"].to(device) for name in NAMES})
        if isinstance(field, nn.Module):
            field.load_state_dict({k[6:]: v for k, v in saved.tensors.items() if k.startswith("field.")})
    parameters = field_parameters(field)
    optimiser = build_optimiser(model, config, half_size)
    field_optimiser = None
    if parameters:
        groups = getattr(field, "parameter_groups", None)
        plain = [{"params": list(parameters.values()), "lr": config.lr_field, "initial": config.lr_field}]
        field_optimiser = torch.optim.Adam(
            groups(config.lr_field) if groups else plain, lr=config.lr_field, betas=(0.9, 0.99), fused=True
        )
    curves: dict[str, list[list[float]]] = {"l1": [], "ssim": [], "silhouette": [], "depth": [], "count": []}
    state = CotrainState(model, field, optimiser, field_optimiser, PullStatistics(len(model), device), 0, curves)
    if config.exposure:
        state.exposure = Exposure(len(clip)).to(device)
        state.exposure_optimiser = state.exposure.optimiser()
    if saved is not None:
        restore_state(state, saved.tensors, saved.config)
    return state


def _on_cpu(field: Field) -> Field:
    return cast(Field, field.cpu()) if isinstance(field, nn.Module) else field


def _optimisers(state: CotrainState) -> dict[str, tuple[torch.optim.Adam, dict[str, nn.Parameter]]]:
    out = {"gaussians": (state.gaussian_optimiser, {name: getattr(state.model, name) for name in NAMES})}
    if state.field_optimiser is not None:
        out["field"] = (state.field_optimiser, field_parameters(state.field))
    if state.exposure is not None and state.exposure_optimiser is not None:
        out["exposure"] = (state.exposure_optimiser, dict(state.exposure.named_parameters()))
    return out


def save_state(path: Path, state: CotrainState) -> None:
    """Write everything that a step changes, atomically."""
    tensors = {f"gaussians.{name}": value.cpu() for name, value in state.model.raw().items()}
    if isinstance(state.field, nn.Module):
        tensors |= {f"field.{key}": value.detach().cpu() for key, value in state.field.state_dict().items()}
    tensors |= {"pull.total": state.pull.total.cpu(), "pull.seen": state.pull.seen.cpu()}
    if state.exposure is not None:
        tensors["exposure"] = state.exposure.log_gains.detach().cpu()
    for label, (optimiser, parameters) in _optimisers(state).items():
        tensors |= optimiser_tensors(label, optimiser, parameters)
    save_tensors(path, tensors, {"step": state.step, "curves": state.curves}, CHECKPOINT)


def restore_state(state: CotrainState, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Put back what `save_state` took; model and field already hold their tensors."""
    state.step, state.curves = int(config["step"]), config["curves"]
    device = state.model.means.device
    if state.exposure is not None:
        with torch.no_grad():
            state.exposure.log_gains.copy_(tensors["exposure"])
    state.pull.total, state.pull.seen = tensors["pull.total"].to(device), tensors["pull.seen"].to(device)
    for label, (optimiser, parameters) in _optimisers(state).items():
        restore_optimiser(label, optimiser, parameters, tensors)
