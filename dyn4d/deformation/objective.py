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
from dyn4d.deformation.field import Moments, TrajectoryField
from dyn4d.deformation.observations import Observations
from dyn4d.deformation.sampling import PairBatch, PairSampler

EXTRA_REACH = 20.0
"""`Trust.reach` at least of matches that `FieldObjective.also_draw` adds: they start far from where the field is."""


@dataclass(frozen=True)
class FieldTerms:
    """Means of the terms, unweighted and differentiable; `silhouette` is None where it was not looked at."""

    transport: Tensor
    isometry: Tensor
    silhouette: Tensor | None
    smooth: Tensor

    def weighted(self, config: DeformationConfig) -> Tensor:
        total = self.transport + config.isometry * self.isometry + config.smooth * self.smooth
        return total if self.silhouette is None else total + config.silhouette * self.silhouette


@dataclass(frozen=True)
class Trust:
    """What a batch is asked to believe.

    Attributes:
        gap: matches between frames at most this far apart; None: all.
        reach: how far off a match may be and still pull with all its force, in units of `DeformationConfig.robust`.
        silhouettes: keep points inside the masks and behind the surfaces of frames that they are not matched with.
    """

    gap: int | None = None
    reach: float = 10.0
    silhouettes: bool = True


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
        view = self.seen_there.cam_from_world
        self.centres = -torch.einsum("tji,tj->ti", view[:, :3, :3], view[:, :3, 3])
        self.times = times.float()
        self.half_size = half_size
        self.config = config
        self.depth_trust = config.depth_trust or 1.0
        self.device = device
        self.extra: PairSampler | None = None
        self.extra_share = 0.0

    def also_draw(self, pairs: LiftedPairs | None, share: float) -> None:
        """From now on take `share` of each batch, one frame pair at least, from matches beside the usual ones."""
        self.extra = PairSampler(pairs, len(self.times)) if pairs is not None else None
        self.extra_share = share

    def _draw(self, count: int, trust: Trust, generator: torch.Generator) -> tuple[PairBatch, Tensor]:
        """A batch, and how far off (B, 1) each frame pair's matches may be and still pull, normalised."""
        size, robust = self.config.points_per_pair, self.config.robust
        extra = max(1, round(count * self.extra_share)) if self.extra is not None else 0
        batch = self.sampler.draw(max(1, count - extra), size, generator, gap=trust.gap)
        reach = torch.full((len(batch.frame_a), 1), trust.reach * robust)
        if self.extra is None:
            return batch, reach
        further = torch.full((extra, 1), max(trust.reach, EXTRA_REACH) * robust)
        return batch.and_also(self.extra.draw(extra, size, generator)), torch.cat([reach, further])

    def __call__(self, field: TrajectoryField, seed: int, *, share: float = 1.0, trust: Trust = Trust()) -> FieldTerms:
        """Terms on a batch drawn by `seed`; `share` < 1 draws that part of the usual pairs."""
        generator = torch.Generator().manual_seed(seed)
        config, device, times = self.config, self.device, self.times
        size = config.points_per_pair
        batch, reach = self._draw(max(1, round(config.pairs_per_step * share)), trust, generator)
        few = max(1, size // 3)
        near, valid = losses.neighbours(
            batch.xyz_a[:, :few], batch.frame_a, self.seen, self.points,
            reach=0.05 * self.seen.span, generator=generator,
        )  # fmt: skip
        other = torch.randint(len(times), batch.frame_a.shape, generator=generator)

        source = torch.cat([batch.xyz_a, near], dim=1).to(device)
        valid, weight = valid.to(device), batch.weight.to(device)
        bends = max(1, len(other) // 4)  # frames at which the paths' bends are looked at
        frames = [batch.frame_a, batch.frame_b, other, *self._around(other[:bends])]
        moments, rows = self._moments(field, torch.cat(frames))
        in_a, in_b, in_other, *in_three = rows.split([len(f) for f in frames])
        canonical = moments.to_canonical(source, in_a)
        at_b = moments.from_canonical(canonical, in_b)
        target, moved = batch.xyz_b.to(device), at_b[:, :size]
        if self.depth_trust < 1:
            sight = torch.nn.functional.normalize(target - self.centres[batch.frame_b.to(device)][:, None], dim=-1)
            moved = target + losses.less_along(moved - target, sight, self.depth_trust)
        transport = losses.transport_residual(moved, target, self.half_size, config.robust, reach.to(device))
        transport = (transport * weight).sum() / weight.sum().clamp_min(1e-9)

        pair = torch.cat([canonical[:, :few], canonical[:, size:]], dim=1)
        at_other = moments.from_canonical(pair, in_other)
        a, b = source[:, :few], source[:, size:]
        bent = losses.strain(a, b, at_b[:, :few], at_b[:, size:]) + losses.strain(
            a, b, at_other[:, :few], at_other[:, few:]
        )
        isometry = (bent * valid).sum() / valid.sum().clamp_min(1)
        silhouette = None
        if trust.silhouettes:
            off_mask, in_front = losses.visual_residual(
                at_other, other.to(device), self.seen_there, self.half_size,
                margin=2 * config.robust / self.depth_trust,
            )  # fmt: skip
            silhouette = (off_mask + in_front).mean()
        smooth = self._smooth(moments, canonical[:bends, :few].detach(), in_three)
        return FieldTerms(transport, isometry, silhouette, smooth)

    def _around(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The frames before, at and after the given ones, or next to them at the clip's ends."""
        middle = frames.clamp(1, max(len(self.times) - 2, 1)).clamp_max(len(self.times) - 1)
        return (middle - 1).clamp_min(0), middle, (middle + 1).clamp_max(len(self.times) - 1)

    def _moments(self, field: TrajectoryField, frames: Tensor) -> tuple[Moments, Tensor]:
        """The field at the times of some frames, and the row of each."""
        unique, rows = torch.unique(frames, return_inverse=True)
        return field.moments(self.times[unique].to(self.device)), rows.to(self.device)

    def _smooth(self, moments: Moments, canonical: Tensor, rows: list[Tensor]) -> Tensor:
        """Mean acceleration over the time between frames, normalised lengths a frame²."""
        if self.config.smooth == 0 or len(self.times) < 3:
            return canonical.new_zeros(())
        before, now, after = moments.from_canonical(canonical.repeat(3, 1, 1), torch.cat(rows)).chunk(3)
        return ((before - 2 * now + after) / self.half_size).square().sum(-1).add(1e-8).sqrt().mean()
