"""Robust kernels: functions of a residual's length that grow slower than its square."""

from __future__ import annotations

import torch
from torch import Tensor


def huber(residual: Tensor, delta: float) -> Tensor:
    """Huber's loss of residual lengths (...,) >= 0: r²/(2 delta) below `delta`, r - delta/2 above (same units as r)."""
    return torch.where(residual < delta, residual.square() / (2 * delta), residual - delta / 2)


def charbonnier(residual: Tensor, eps: float) -> Tensor:
    """Smooth absolute value sqrt(r² + eps²) - eps of residual lengths (...,)."""
    return (residual.square() + eps * eps).sqrt() - eps


def geman_mcclure(squared: Tensor, scale: float | Tensor) -> Tensor:
    """Geman-McClure of squared lengths (...,): r²/(r² + scale²) · scale², quadratic near 0, flat far out."""
    s2 = scale * scale
    return squared * s2 / (squared + s2)
