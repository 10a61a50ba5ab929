"""The field's own loss: correspondences, isometry, silhouettes and smoothness, on one random batch.

Used to fit the field, and handed to the Gaussian stage as a plain callable so that co-training keeps to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dyn4d.core.types import FramePoints, LiftedPairs
from dyn4d.deformation import losses
from dyn4d.deformation.config import DeformationConfig
from dyn4d.deformation.field import TrajectoryField
from dyn4d.deformation.observations import Observations
from dyn4d.deformation.sampling import PairSampler


@dataclass(frozen=True)
class FieldTerms:
    """Means of the terms, unweighted and differentiable."""

    transport: Tensor
    isometry: Tensor
    silhouette: Tensor
    smooth: Tensor

    def weighted(self, config: DeformationConfig) -> Tensor:
        return (
            self.transport
            + config.isometry * self.isometry
            + config.silhouette * self.silhouette
            + config.smooth * self.smooth
        )


class FieldObjective:
    """Draws batches and evaluates a field on them.

    Args:
        pairs: lifted correspondences. points: of all frames. seen: the frames' maps.
        times: (T,) of the selected frames. half_size: normalised length 1 in world units.
    """

    def __init__(
        self,
        pairs: LiftedPairs,
        points: FramePoints,
        seen: Observations,
        *,
        times: Tensor,
        half_size: float,
        config: DeformationConfig,
        device: torch.device,
    ) -> None:
        self.sampler = PairSampler(pairs, len(times))
        self.points = points.xyz
        self.seen = seen
        self.seen_there = seen.to(device)
        self.times = times.float()
        self.half_size = half_size
        self.config = config
        self.device = device

    def __call__(self, field: TrajectoryField, seed: int, *, share: float = 1.0) -> FieldTerms:
        """Terms on a batch drawn by `seed`; `share` < 1 draws that part of the usual points."""
        generator = torch.Generator().manual_seed(seed)
        config, device, times = self.config, self.device, self.times
        size = max(16, int(config.points_per_pair * share))
        batch = self.sampler.draw(config.pairs_per_step, size, generator)
        few = max(8, size // 3)
        near, valid = losses.neighbours(
            batch.xyz_a[:, :few], batch.frame_a, self.seen, self.points,
            reach=0.05 * self.seen.span, generator=generator,
        )  # fmt: skip
        other = torch.randint(len(times), batch.frame_a.shape, generator=generator)

        source = torch.cat([batch.xyz_a, near], dim=1).to(device)
        valid, weight = valid.to(device), batch.weight.to(device)
        t_a, t_b, t_other = (times[f].unsqueeze(-1).to(device) for f in (batch.frame_a, batch.frame_b, other))
        canonical = field.to_canonical(source, t_a)
        at_b = field.from_canonical(canonical, t_b)
        transport = losses.transport_residual(at_b[:, :size], batch.xyz_b.to(device), self.half_size, config.robust)
        transport = (transport * weight).sum() / weight.sum().clamp_min(1e-9)

        pair = torch.cat([canonical[:, :few], canonical[:, size:]], dim=1)
        at_other = field.from_canonical(pair, t_other)
        a, b = source[:, :few], source[:, size:]
        bent = losses.strain(a, b, at_b[:, :few], at_b[:, size:]) + losses.strain(
            a, b, at_other[:, :few], at_other[:, few:]
        )
        isometry = (bent * valid).sum() / valid.sum().clamp_min(1)
        off_mask, in_front = losses.visual_residual(
            at_other, other.to(device), self.seen_there, self.half_size, margin=2 * config.robust
        )
        silhouette = (off_mask + in_front).mean()
        return FieldTerms(transport, isometry, silhouette, self._smooth(field, canonical[:, : few // 4], t_other))

    def _smooth(self, field: TrajectoryField, canonical: Tensor, t: Tensor) -> Tensor:
        """Mean acceleration over a frame's time, normalised lengths a frame²."""
        if self.config.smooth == 0 or len(self.times) < 3:
            return canonical.new_zeros(())
        step = 1.0 / (len(self.times) - 1)
        middle = t.clamp(step, 1 - step)
        canonical = canonical.detach()
        before, now, after = (field.from_canonical(canonical, middle + d) for d in (-step, 0.0, step))
        return ((before - 2 * now + after) / self.half_size).square().sum(-1).add(1e-8).sqrt().mean()
