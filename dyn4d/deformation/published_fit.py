"""The published recipe for the first stage: one pair of frames a step, squared errors, and a smooth motion.

Steps and points are those of the budget; rates decay over them as far as they do over the published 500,000.

Source: Liu et al., "MoDGS", ICLR 2025, section 3.2 and its released configuration.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dyn4d.core.checks import require_finite
from dyn4d.core.knn import nearest
from dyn4d.core.protocols import Progress
from dyn4d.core.types import LiftedPairs
from dyn4d.deformation.published_field import PublishedField, PublishedShape, random_order
from dyn4d.io.checkpoint import load_tensors, optimiser_tensors, restore_optimiser, save_tensors

CHECKPOINT = "dyn4d-published-fit/1"
LAYERS = 4
LR_CODE, LR_LAYERS = 1e-3, 1e-4
DECAY = 0.99999**500_000  # of the rates, from the first step to the last
REACH = 8  # frames between the two of a pair
NEIGHBOURS = 20
SMOOTHNESS = 1.0


@dataclass(frozen=True)
class StepPair:
    """The matches of one ordered pair of frames: xyz_a, xyz_b (N, 3) world."""

    frame_a: int
    frame_b: int
    xyz_a: Tensor
    xyz_b: Tensor


class NearPairs:
    """Draws a frame, then another within `REACH` of it: by its share of the frame's matches, but direct neighbours
    count as a share of 0.1 each."""

    def __init__(self, pairs: LiftedPairs, count: int) -> None:
        self.pairs = pairs
        unique, sizes = torch.unique_consecutive(pairs.frame_a * count + pairs.frame_b, return_counts=True)
        starts = torch.cumsum(sizes, 0) - sizes
        a, b = unique // count, unique % count
        near = (a - b).abs() <= REACH
        near = near if bool(near.any()) else torch.ones_like(near)
        self.frame_a, self.frame_b, self.sizes, self.starts = a[near], b[near], sizes[near], starts[near]
        share = self.sizes / torch.zeros(count).index_add_(0, self.frame_a, self.sizes.float())[self.frame_a]
        self.chance = torch.where((self.frame_a - self.frame_b).abs() <= 1, torch.full_like(share, 0.1), share)
        self.sources = torch.unique(self.frame_a)

    def draw(self, points: int, generator: torch.Generator) -> StepPair:
        """At most `points` matches of one pair, without repetition."""
        source = self.sources[torch.randint(len(self.sources), (1,), generator=generator)]
        rows = torch.nonzero(self.frame_a == source)[:, 0]
        row = int(rows[torch.multinomial(self.chance[rows], 1, generator=generator)])
        size, start = int(self.sizes[row]), int(self.starts[row])
        chosen = start + torch.randperm(size, generator=generator)[:points]
        return StepPair(
            int(self.frame_a[row]), int(self.frame_b[row]), self.pairs.xyz_a[chosen], self.pairs.xyz_b[chosen]
        )


def published_loss(field: PublishedField, pair: StepPair, t_a: float, t_b: float, half_size: float) -> Tensor:
    """Mean squared error of the transported points, and of the difference of near-by points' motions; normalised."""
    moved = field.transport(pair.xyz_a, t_a, t_b)
    loss = ((moved - pair.xyz_b) / half_size).square().mean()
    if len(moved) > 1:
        _, index = nearest(pair.xyz_a, pair.xyz_a, NEIGHBOURS + 1)
        motion = (moved - pair.xyz_a) / half_size
        loss = loss + SMOOTHNESS * (motion.unsqueeze(1) - motion[index[:, 1:]]).square().mean()
    return loss


def fit_published(
    pairs: LiftedPairs,
    times: np.ndarray,
    *,
    centre: Tensor,
    half_size: float,
    steps: int,
    points: int,
    device: torch.device,
    seed: int,
    progress: Progress,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 20.0,
) -> tuple[PublishedField, dict[str, list[list[float]]]]:
    """Fit the published field, as `fit_field` fits ours. Returns it and its curve.

    Raises:
        RunError: a loss is not finite.
    """
    shape = PublishedShape(order=random_order(LAYERS, seed))
    field = PublishedField(shape, centre=centre, half_size=half_size, seed=seed)
    saved = load_tensors(checkpoint, CHECKPOINT) if checkpoint and checkpoint.exists() else None
    start: int = 0
    curve: list[list[float]] = []
    if saved is not None:
        field.load_state_dict({k[6:]: v for k, v in saved.tensors.items() if k.startswith("field.")})
        start, curve = saved.config["step"], saved.config["curve"]
    field.to(device).train()
    parameters: Mapping[str, nn.Parameter] = dict(field.named_parameters())
    code = [p for name, p in parameters.items() if name.startswith("time_code.")]
    layers = [p for name, p in parameters.items() if not name.startswith("time_code.")]
    groups = [{"params": code, "first": LR_CODE}, {"params": layers, "first": LR_LAYERS}]
    optimiser = torch.optim.Adam(groups, lr=LR_LAYERS, fused=True)
    if saved is not None:
        restore_optimiser("field", optimiser, parameters, saved.tensors)
    sampler = NearPairs(pairs, len(times))
    progress.start("deformation", steps, start)
    last_saved = time.monotonic()
    for step in range(start, steps):
        for group in optimiser.param_groups:
            group["lr"] = group["first"] * DECAY ** (step / steps)
        pair = sampler.draw(points, torch.Generator().manual_seed(seed * 1_000_003 + step))
        pair = StepPair(pair.frame_a, pair.frame_b, pair.xyz_a.to(device), pair.xyz_b.to(device))
        loss = published_loss(field, pair, float(times[pair.frame_a]), float(times[pair.frame_b]), half_size)
        require_finite(loss, f"deformation step {step}")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 20 == 0 or step == steps - 1:
            curve.append([step, float(loss.detach())])
        progress.update(loss=float(loss.detach()))
        if checkpoint and time.monotonic() - last_saved > checkpoint_seconds:
            tensors = {f"field.{k}": v.detach().cpu() for k, v in field.state_dict().items()}
            tensors |= optimiser_tensors("field", optimiser, parameters)
            save_tensors(checkpoint, tensors, {"step": step + 1, "curve": curve}, CHECKPOINT)
            last_saved = time.monotonic()
    progress.finish()
    return field.eval(), {"transport": curve}
