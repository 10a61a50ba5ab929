"""Losses that train a pair network: points, their confidence, descriptors and their confidence, inside masks.

Nothing outside `valid` has any weight or gradient, not even where the truth is NaN there, and no valid pixel at all is
a loss of 0. Maps come back unreduced where the caller may want them so.

Sources: Wang et al., "DUSt3R: Geometric 3D Vision Made Easy", CVPR 2024, eqs. 2 to 4; Leroy et al., "Grounding Image
Matching in 3D with MASt3R", ECCV 2024, eqs. 5 to 11; van den Oord et al., "Representation Learning with Contrastive
Predictive Coding", 2018 (InfoNCE).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dyn4d.core.cameras import transform
from dyn4d.core.checks import check_shape
from dyn4d.core.types import PairPrediction

InfoNCEMode = Literal["proper", "all", "dual"]
LEAST = 1e-8  # probabilities and lengths below this count as this


@dataclass(frozen=True)
class PairTruth:
    """What a pair network should have said of B pairs of pictures (a, b).

    Attributes:
        points_a: (B, Ha, Wa, 3), points_b_in_a: (B, Hb, Wb, 3), both in a's camera; anything where not valid.
        valid_a, valid_b: (B, H, W) bool, the truth is known and the pixel is on the object.
        sky_a, sky_b: (B, H, W) bool, infinitely far away; or None. Where valid too, valid counts.
        metric: (B,) bool, the truth is in metres; None = nowhere.
    """

    points_a: Tensor
    points_b_in_a: Tensor
    valid_a: Tensor
    valid_b: Tensor
    sky_a: Tensor | None = None
    sky_b: Tensor | None = None
    metric: Tensor | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        shapes = (("points_a", ("B", "Ha", "Wa", 3)), ("points_b_in_a", ("B", "Hb", "Wb", 3)),
                  ("valid_a", ("B", "Ha", "Wa")), ("valid_b", ("B", "Hb", "Wb")), ("sky_a", ("B", "Ha", "Wa")),
                  ("sky_b", ("B", "Hb", "Wb")), ("metric", ("B",)))  # fmt: skip
        for label, shape in shapes:
            value = getattr(self, label)
            if value is None:
                continue
            check_shape(f"PairTruth.{label}", value, shape, sizes)
            if not label.startswith("points") and value.dtype != torch.bool:
                raise ValueError(f"PairTruth.{label}: wanted bool, found {value.dtype}")

    @staticmethod
    def from_world(
        points_a: Tensor, points_b: Tensor, valid_a: Tensor, valid_b: Tensor, *, cam_from_world_a: Tensor
    ) -> PairTruth:
        """From points of the world (B, H, W, 3) and the poses (B, 4, 4) of a's camera."""
        moved = [transform(cam_from_world_a, points.flatten(1, 2)).view_as(points) for points in (points_a, points_b)]
        return PairTruth(moved[0], moved[1], valid_a, valid_b)

    def within(self, mask_a: Tensor, mask_b: Tensor) -> PairTruth:
        """The same for what lies inside the object masks (B, H, W) bool; what is outside counts as nothing."""
        sky_a = None if self.sky_a is None else self.sky_a & mask_a
        sky_b = None if self.sky_b is None else self.sky_b & mask_b
        return replace(self, valid_a=self.valid_a & mask_a, valid_b=self.valid_b & mask_b, sky_a=sky_a, sky_b=sky_b)


@dataclass(frozen=True)
class PixelLosses:
    """One view's losses, unreduced.

    Attributes:
        value: (B, H, W), 0 where not counted. counted: (B, H, W) bool.
    """

    value: Tensor
    counted: Tensor

    def mean(self) -> Tensor:
        """() over what is counted in the whole batch; 0 where that is nothing."""
        return masked_mean(self.value, self.counted)


def masked_mean(value: Tensor, mask: Tensor) -> Tensor:
    """() mean of `value` where `mask`; 0, with gradients of 0, where that is nowhere. NaN outside does no harm."""
    return torch.where(mask, value, torch.zeros_like(value)).sum() / mask.sum().clamp(min=1)


def _only(points: Tensor, valid: Tensor) -> Tensor:
    """Points with the invalid ones set to 0, so that no NaN of theirs reaches a gradient."""
    return torch.where(valid[..., None], points, torch.zeros_like(points))


def mean_distance(points: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]) -> Tensor:
    """(B,) mean distance of both views' valid points from a's camera, at least 1e-8: the scale of eq. 3 (DUSt3R)."""
    total = sum(_only(p, v).norm(dim=-1).flatten(1).sum(1) for p, v in zip(points, valid))
    count = sum(v.flatten(1).sum(1) for v in valid)
    assert isinstance(total, Tensor) and isinstance(count, Tensor)
    return (total / count.clamp(min=1)).clamp(min=LEAST)


def _divide(points: tuple[Tensor, Tensor], scale: Tensor) -> tuple[Tensor, Tensor]:
    return points[0] / scale[:, None, None, None], points[1] / scale[:, None, None, None]


def _distances(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]) -> list[Tensor]:
    return [(_only(x, v) - _only(y, v)).norm(dim=-1) for x, y, v in zip(a, b, valid)]


def pointmap_regression(
    prediction: PairPrediction, truth: PairTruth, *, normalise: bool = True, sky_loss: float | None = None
) -> tuple[PixelLosses, PixelLosses]:
    """Distance of each predicted point from the true one, views a and b (DUSt3R eq. 2; MASt3R eq. 5).

    Args:
        normalise: divide the prediction and the truth by their own mean distance from a's camera over the valid pixels
            of both views. Where the truth is metric both are divided by the truth's, so that scale is learnt.
        sky_loss: the loss of pixels of the sky, which then count too (for `confidence_loss`: the network says that it
            does not know); None = the sky does not count.
    """
    predicted = prediction.points_a, prediction.points_b_in_a
    true = truth.points_a, truth.points_b_in_a
    valid = truth.valid_a, truth.valid_b
    if normalise:
        true_scale, scale = mean_distance(true, valid), mean_distance(predicted, valid)
        if truth.metric is not None:
            scale = torch.where(truth.metric, true_scale, scale)
        predicted, true = _divide(predicted, scale), _divide(true, true_scale)
    losses = []
    for value, where, sky in zip(_distances(predicted, true, valid), valid, (truth.sky_a, truth.sky_b)):
        counted = where
        if sky is not None and sky_loss is not None:
            value = torch.where(sky & ~where, torch.full_like(value, sky_loss), value)
            counted = where | sky
        losses.append(PixelLosses(value, counted))
    return losses[0], losses[1]


def regression_loss(losses: tuple[PixelLosses, PixelLosses]) -> Tensor:
    """() mean over view a plus mean over view b."""
    return losses[0].mean() + losses[1].mean()


def confidence_loss(
    prediction: PairPrediction, losses: tuple[PixelLosses, PixelLosses], *, alpha: float = 0.2
) -> Tensor:
    """() regression weighted by the predicted confidence C, which pays for being low: mean of C l - alpha log C over
    view a plus that over view b (DUSt3R eq. 4)."""
    total = torch.zeros((), dtype=prediction.conf_a.dtype, device=prediction.conf_a.device)
    for conf, loss in zip((prediction.conf_a, prediction.conf_b), losses):
        safe = torch.where(loss.counted, conf, torch.ones_like(conf))
        total = total + masked_mean(safe * loss.value - alpha * safe.log(), loss.counted)
    return total


def aligned_distances(
    prediction: PairPrediction, truth: PairTruth, *, shift: bool = False, keep_truth_scale: bool = False
) -> tuple[PixelLosses, PixelLosses]:
    """Distances after a robust alignment of each pair, to evaluate: indifferent to scale and, with `shift`, to depth.

    Each point set (both views' valid points) may first be moved along z by its median; its scale is then the median
    distance from its median point.

    Args:
        keep_truth_scale: bring the prediction to the truth's scale rather than both to 1.
    """
    predicted = prediction.points_a, prediction.points_b_in_a
    true = truth.points_a, truth.points_b_in_a
    valid = truth.valid_a, truth.valid_b
    # The value does not change with this; but the gradient goes through the mean distance, and not through the medians,
    # each of which would hang on one pixel.
    predicted = _divide(predicted, mean_distance(predicted, valid))
    (centre, scale), (true_centre, true_scale) = (_robust(points, valid) for points in (predicted, true))
    if shift:
        along = centre.new_tensor([0, 0, 1])
        predicted = predicted[0] - (centre * along)[:, None, None], predicted[1] - (centre * along)[:, None, None]
        true = true[0] - (true_centre * along)[:, None, None], true[1] - (true_centre * along)[:, None, None]
    if keep_truth_scale:
        predicted = _divide(predicted, scale / true_scale)
    else:
        predicted, true = _divide(predicted, scale), _divide(true, true_scale)
    a, b = _distances(predicted, true, valid)
    return PixelLosses(a, valid[0]), PixelLosses(b, valid[1])


def _robust(points: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(B, 3) median of each coordinate and (B,) median distance from there, at least 1e-8, both without gradient."""
    centres, scales = [], []
    for number in range(points[0].shape[0]):
        own = torch.cat([p[number][v[number]] for p, v in zip(points, valid)]).detach()
        if len(own) == 0:
            own = points[0].new_zeros(1, 3)
        centre = own.median(0).values
        centres.append(centre)
        scales.append((own - centre).norm(dim=-1).median().clamp(min=LEAST))
    return torch.stack(centres), torch.stack(scales)


def values_at(maps: Tensor, xy: Tensor) -> Tensor:
    """(B, N, ...) of maps (B, H, W, ...) at whole pixels (B, N, 2) as (column, row)."""
    check_shape("xy", xy, (maps.shape[0], None, 2))
    batch = torch.arange(maps.shape[0], device=maps.device)[:, None]
    return maps[batch, xy[..., 1], xy[..., 0]]


def info_nce(
    desc_a: Tensor,
    desc_b: Tensor,
    valid: Tensor,
    *,
    temperature: float = 0.05,
    mode: InfoNCEMode = "proper",
    block_size: int = 8192,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(B, N) contrastive loss of N pairs of descriptors that should match, each against all others of its picture pair.

    S_ij = exp(a_i · b_j / temperature). Pairs that are not valid (negatives) have loss 0 but stay in the sums.

    Args:
        desc_a, desc_b: (B, N, D) unit descriptors; row i of a belongs to row i of b. valid: (B, N) bool.
        mode: "proper": -log S_ii / Σ_j S_ji - log S_ii / Σ_j S_ij (MASt3R eq. 10), each ratio at least 1e-8; "dual":
            the same as one logarithm of the product; "all": -log S_ii / Σ_jk S_jk.
        block_size: where N is larger, the pairs are shuffled and only blocks of this many meet; memory grows with its
            square. generator: draws the order.
    """
    if mode not in ("proper", "all", "dual"):
        raise ValueError(f"mode: {mode!r}; wanted proper, all or dual")
    count = desc_a.shape[1]
    if count > block_size:
        device = desc_a.device if generator is None else generator.device
        order = torch.randperm(count, generator=generator, device=device).to(desc_a.device)
        parts = [
            info_nce(desc_a[:, rows], desc_b[:, rows], valid[:, rows], temperature=temperature, mode=mode,
                     block_size=block_size)
            for rows in order.split(block_size)
        ]  # fmt: skip
        return torch.cat(parts, dim=1)[:, order.argsort()]
    logits = desc_a @ desc_b.transpose(-1, -2) / temperature
    own = logits.diagonal(dim1=-2, dim2=-1)
    least = math.log(LEAST)
    if mode == "all":
        log_ratio = (own - logits.flatten(1).logsumexp(1, keepdim=True)).clamp(min=least)
    else:
        columns, rows = own - logits.logsumexp(-2), own - logits.logsumexp(-1)
        if mode == "proper":
            log_ratio = columns.clamp(min=least) + rows.clamp(min=least)
        else:
            log_ratio = (columns + rows).clamp(min=least)
    return torch.where(valid, -log_ratio, torch.zeros_like(log_ratio))


def confident_matching(
    loss: Tensor,
    conf_a: Tensor,
    conf_b: Tensor,
    valid: Tensor,
    *,
    alpha: float = 10.0,
    combine: Literal["mean", "prod"] = "mean",
) -> Tensor:
    """() matching losses (B, N) weighted by the descriptors' confidences (B, N): mean of l q - alpha log q over the
    valid pairs, q the mean or the product of the two."""
    if combine not in ("mean", "prod"):
        raise ValueError(f"combine: {combine!r}; wanted mean or prod")
    q = (conf_a + conf_b) / 2 if combine == "mean" else conf_a * conf_b
    q = torch.where(valid, q, torch.ones_like(q))
    return masked_mean(loss * q - alpha * q.log(), valid)


@dataclass(frozen=True)
class MatchTargets:
    """Pixels that should match in B pairs of pictures.

    Attributes:
        xy_a, xy_b: (B, N, 2) int64 whole pixels (column, row). valid: (B, N) bool, False = a negative: two pixels that
            do not match each other, nor any other pair.
    """

    xy_a: Tensor
    xy_b: Tensor
    valid: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for label, shape in (("xy_a", ("B", "N", 2)), ("xy_b", ("B", "N", 2)), ("valid", ("B", "N"))):
            check_shape(f"MatchTargets.{label}", getattr(self, label), shape, sizes)

    def within(self, mask_a: Tensor, mask_b: Tensor) -> MatchTargets:
        """The same with the pairs that have an end outside the object masks (B, H, W) bool turned into negatives."""
        return replace(self, valid=self.valid & values_at(mask_a, self.xy_a) & values_at(mask_b, self.xy_b))


def matching_loss(
    prediction: PairPrediction,
    targets: MatchTargets,
    *,
    alpha: float = 10.0,
    combine: Literal["mean", "prod"] = "mean",
    temperature: float = 0.05,
    mode: InfoNCEMode = "proper",
    block_size: int = 8192,
) -> Tensor:
    """() confidence-weighted InfoNCE loss of a prediction's descriptors at the targets (MASt3R eq. 10 and 11)."""
    parts = (prediction.desc_a, prediction.desc_b, prediction.desc_conf_a, prediction.desc_conf_b)
    desc_a, desc_b, conf_a, conf_b = parts
    if desc_a is None or desc_b is None or conf_a is None or conf_b is None:
        raise ValueError("prediction: it has no descriptors to train; use a network with a descriptor head")
    loss = info_nce(
        values_at(desc_a, targets.xy_a), values_at(desc_b, targets.xy_b), targets.valid,
        temperature=temperature, mode=mode, block_size=block_size,
    )  # fmt: skip
    conf = values_at(conf_a, targets.xy_a), values_at(conf_b, targets.xy_b)
    return confident_matching(loss, *conf, targets.valid, alpha=alpha, combine=combine)


def pair_loss(
    prediction: PairPrediction,
    truth: PairTruth,
    targets: MatchTargets | None = None,
    *,
    alpha: float = 0.2,
    match_weight: float = 0.075,
    sky_loss: float | None = 2.0,
) -> Tensor:
    """() what MASt3R is trained with: the confidence-weighted regression plus `match_weight` times the matching loss
    (eq. 12); without targets the first alone, as for DUSt3R."""
    total = confidence_loss(prediction, pointmap_regression(prediction, truth, sky_loss=sky_loss), alpha=alpha)
    return total if targets is None else total + match_weight * matching_loss(prediction, targets)
