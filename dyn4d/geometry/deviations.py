"""How large errors are, with wrong matches among them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RAYLEIGH = 1.1774  # median length of a 2D Gaussian's draws in standard deviations
SAMPLE = 20000  # errors that tell how large errors are


def pixel_deviation(errors: Tensor, area: float | None) -> float:
    """Standard deviation along an axis of what matches are off by, from the lengths (M,), M > 0, in pixels.

    From their median; where `area` (px²) is given, from that of the right matches, as wrong ones end anywhere in it
    with the same probability (expectation maximisation, so that even a small share of right ones is found).
    """
    if len(errors) > SAMPLE:
        errors = errors[torch.arange(SAMPLE, device=errors.device) * len(errors) // SAMPLE]
    ordered = errors.sort().values
    sigma = ordered[(len(ordered) - 1) // 2] / RAYLEIGH
    share = 0.9
    for _ in range(20 if area is not None and float(sigma) > 0 else 0):
        right = share / (2 * math.pi * sigma**2) * torch.exp(-((ordered / sigma) ** 2) / 2)
        weight = right / (right + (1 - share) / (area or 1.0))
        total = weight.cumsum(0)
        middle = ordered[torch.searchsorted(total, total[-1] / 2).clamp_max(len(ordered) - 1)]
        share, sigma = min(float(weight.mean()), 0.99), (middle / RAYLEIGH).clamp_min(1e-6)
    return float(sigma)
