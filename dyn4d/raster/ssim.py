"""Structural similarity of pictures, differentiable in the first."""

from __future__ import annotations

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
    zeros outside the picture."""
    sizes: dict[str, int] = {}
    check_shape("ssim pred", pred, ("H", "W", "D"), sizes)
    check_shape("ssim target", target, ("H", "W", "D"), sizes)
    return ssim_reference(pred, target)
