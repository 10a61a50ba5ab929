"""What trains R2D2: descriptors by average precision, weighed by their reliability; repeatable and peaky keypoints.

Nothing that is not seen in both pictures has weight or gradient. Sources: Revaud et al., "R2D2: Repeatable and Reliable
Detector and Descriptor", NeurIPS 2019, eqs. 1 to 5; He et al., "Local Descriptors Optimized for Average Precision",
CVPR 2018 (the soft histogram).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dyn4d.core.checks import check_shape
from dyn4d.matching.r2d2_sampling import Samples

BINS = 25
KAPPA = 0.5
PATCH = 16
LEAST = 1e-16  # a count of nothing


def _histogram(scores: Tensor, weight: Tensor, bins: int) -> Tensor:
    """(Q, bins) soft counts of scores (Q, N) with weights, the first bin that of the highest score.

    Bin centres lie evenly from 1 to 0; a score counts in the two next to it, the nearer the more (a triangle); what is
    outside [0, 1] counts in the outer ones. Two additions a score, where the sum over all bins would take 25.
    """
    place = (1 - scores).clamp(0, 1) * (bins - 1)
    low = place.detach().floor().clamp(max=bins - 2)
    share = place - low
    index = low.long()
    counts = torch.zeros(scores.shape[0], bins, dtype=scores.dtype, device=scores.device)
    counts = counts.scatter_add(1, index, (1 - share) * weight)
    return counts.scatter_add(1, index + 1, share * weight)


def average_precision(scores: Tensor, positive: Tensor, usable: Tensor | None = None, *, bins: int = BINS) -> Tensor:
    """(Q,) differentiable average precision of each row, 0 where a row has no positive.

    With the soft counts n_b of all entries and p_b of the right ones in bin b (from the highest score down):
    precision_b = Σ_{c≤b} p_c / Σ_{c≤b} n_c, AP = Σ_b precision_b p_b / Σ_c p_c. It equals the exact one where all
    scores are bin centres, each its own; an entry between two centres counts a little less, half before its rank.

    Args:
        scores: (Q, N), meant for [0, 1]. usable: (Q, N) or (1, N) bool, entries that count; None = all.
        positive: which are right: (Q, N) bool, or (Q,) int64 for one column in each row.
        bins: at least 2.
    """
    check_shape("scores", scores, (None, None))
    if bins < 2:
        raise ValueError(f"bins: {bins}; wanted at least 2")
    if scores.shape[1] == 0:
        return scores.new_zeros(scores.shape[0])
    counted = torch.ones_like(scores) if usable is None else usable.to(scores.dtype).expand_as(scores)
    if usable is not None:
        scores = torch.where(usable.expand_as(scores), scores, torch.zeros_like(scores))  # no NaN of what is left out
    everything = _histogram(scores, counted, bins)
    if positive.dtype == torch.bool:
        right = _histogram(scores, counted * positive, bins)
    else:
        right = _histogram(scores.gather(1, positive[:, None]), counted.gather(1, positive[:, None]), bins)
    precision = right.cumsum(1) / everything.cumsum(1).clamp(min=LEAST)
    return (precision * right).sum(1) / right.sum(1).clamp(min=LEAST)


def reliability_loss(samples: Samples, *, kappa: float = KAPPA, plain: float = 0.0, bins: int = BINS) -> Tensor:
    """() mean over the queries with a partner of 1 - AP R - (1 - R) κ (R2D2 eq. 5): claiming reliability R pays where
    AP > κ, and costs where it is less. With κ = 0 and R = 1 this is 1 - AP. 0 where no query has a partner.

    Args:
        plain: share of 1 - AP, whatever R, mixed into that: without any, descriptors that are not yet reliable are not
            trained either, and a short training may end with none that are.
    """
    precision = average_precision(samples.scores, samples.partner, samples.usable, bins=bins)
    trust = samples.reliability
    loss = (1 - plain) * (1 - precision * trust - (1 - trust) * kappa) + plain * (1 - precision)
    return torch.where(samples.known, loss, torch.zeros_like(loss)).sum() / samples.known.sum().clamp(min=1)


def _patches(maps: Tensor, side: int) -> Tensor:
    """(B, n, side²) of maps (B, 1, H, W), overlapping by half; of smaller maps one patch as large as they are."""
    size = min(side, maps.shape[-2]), min(side, maps.shape[-1])
    return F.unfold(maps, size, stride=max(side // 2, 1)).transpose(1, 2)


def similarity_loss(repeatability_a: Tensor, repeatability_b: Tensor, valid: Tensor, *, patch: int = PATCH) -> Tensor:
    """() 1 - mean cosine of the patches of both maps (R2D2 eq. 1), the second warped onto the first.

    Args:
        repeatability_a, repeatability_b: (B, 1, H, W). valid: (B, H, W) bool; other pixels count as 0 in both, and
            patches with none are left out. No patch at all is a loss of 0.
        patch: pixels of a patch's side, N in the paper.
    """
    sizes: dict[str, int] = {}
    for label, value, shape in (("repeatability_a", repeatability_a, ("B", 1, "H", "W")),
                                ("repeatability_b", repeatability_b, ("B", 1, "H", "W")),
                                ("valid", valid, ("B", "H", "W"))):  # fmt: skip
        check_shape(label, value, shape, sizes)
    seen = valid[:, None]
    a, b = (_patches(torch.where(seen, m, torch.zeros_like(m)), patch) for m in (repeatability_a, repeatability_b))
    counted = _patches(seen.to(a.dtype), patch).sum(-1) > 0
    cosine = F.cosine_similarity(a, b, dim=-1)
    loss = torch.where(counted, 1 - cosine, torch.zeros_like(cosine))
    return loss.sum() / counted.sum().clamp(min=1)


def peakiness_loss(repeatability: Tensor, *, patch: int = PATCH) -> Tensor:
    """() 1 - mean over the patches of (max - mean) (R2D2 eq. 2) of one picture's map (B, 1, H, W): a flat map, though
    perfectly repeatable, has a loss of 1."""
    check_shape("repeatability", repeatability, (None, 1, None, None))
    parts = _patches(repeatability, patch)
    return 1 - (parts.amax(-1) - parts.mean(-1)).mean()
