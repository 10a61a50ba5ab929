"""Structural similarity of pictures, differentiable in the first."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.checks import check_shape

WINDOW = 11
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2


def window_weights(dtype: torch.dtype = torch.float64) -> Tensor:
    """(11,) Gaussian weights that sum to 1."""
    x = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-x * x / (2 * SIGMA * SIGMA))
    return (weights / weights.sum()).to(dtype)


def ssim_reference(pred: Tensor, target: Tensor) -> Tensor:
    """`ssim` in plain torch: any dtype and device, differentiable in both."""
    line = window_weights(pred.dtype).to(pred.device)
    count = pred.shape[-1]

    def blur(image: Tensor) -> Tensor:
        image = image.permute(2, 0, 1).unsqueeze(0)
        pad = WINDOW // 2
        across = torch.nn.functional.conv2d(
            image, line.reshape(1, 1, 1, -1).expand(count, 1, 1, -1), padding=(0, pad), groups=count
        )
        both = torch.nn.functional.conv2d(
            across, line.reshape(1, 1, -1, 1).expand(count, 1, -1, 1), padding=(pad, 0), groups=count
        )
        return both[0].permute(1, 2, 0)

    mu_a, mu_b = blur(pred), blur(target)
    var_a, var_b = blur(pred * pred) - mu_a * mu_a, blur(target * target) - mu_b * mu_b
    cov = blur(pred * target) - mu_a * mu_b
    luminance = (2 * mu_a * mu_b + C1) / (mu_a * mu_a + mu_b * mu_b + C1)
    return luminance * (2 * cov + C2) / (var_a + var_b + C2)


def ssim(pred: Tensor, target: Tensor) -> Tensor:
    """SSIM map (H, W, D) of two pictures (H, W, D) in [0, 1] (Wang et al. 2004): 11x11 Gaussian window, sigma 1.5,
    zeros outside the picture.

    Differentiable in `pred`, and in both where the tensors are not float32 on the CPU or `target` wants a gradient:
    then plain torch does it, more slowly.
    """
    sizes: dict[str, int] = {}
    check_shape("ssim pred", pred, ("H", "W", "D"), sizes)
    check_shape("ssim target", target, ("H", "W", "D"), sizes)
    fast = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (pred, target))
    if not fast or pred.numel() == 0 or (torch.is_grad_enabled() and target.requires_grad) or not _has_numba():
        return ssim_reference(pred, target)
    return _Ssim.apply(pred, target)  # type: ignore[return-value]


def _has_numba() -> bool:
    return find_spec("numba") is not None


class _Ssim(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pred: Tensor, target: Tensor) -> Tensor:
        from dyn4d.raster import ssim_kernels as k
        from dyn4d.raster.threads import even_bounds, launch

        height, channels = pred.shape[0], pred.shape[2]
        a, b = _rows(pred), _rows(target)
        out = torch.empty(pred.shape)
        slopes = torch.empty(3, height if ctx.needs_input_grad[0] else 0, a.shape[1])
        launch(
            k.ssim_chunk, k.ssim_parallel, even_bounds(height), a, b, channels, _taps(), np.float32(C1),
            np.float32(C2), _rows(out), *slopes.numpy(),
        )  # fmt: skip
        ctx.save_for_backward(pred, target, slopes)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        from dyn4d.raster import ssim_kernels as k
        from dyn4d.raster.threads import even_bounds, launch

        pred, target, slopes = ctx.saved_tensors
        out = torch.empty(pred.shape)
        launch(
            k.ssim_backward_chunk, k.ssim_backward_parallel, even_bounds(len(pred)), _rows(pred), _rows(target),
            pred.shape[2], _taps(), _rows(grads[0]), *slopes.numpy(), _rows(out),
        )  # fmt: skip
        return out, None


def _rows(image: Tensor) -> np.ndarray:
    """(H, W · D) view of a picture (H, W, D)."""
    return image.detach().contiguous().numpy().reshape(image.shape[0], -1)


def _taps() -> np.ndarray:
    """The window from its middle outwards: (6,)."""
    return window_weights(torch.float32).numpy()[WINDOW // 2 :].copy()
