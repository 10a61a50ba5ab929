"""How close a picture is to the true one: PSNR and SSIM inside a mask, over the whole frame, and silhouette overlap.

Pictures are (H, W, 3) in [0, 1], masks (H, W) bool. "Inside the mask" always means the *true* mask (or the user's),
never the alpha that the method itself drew: a method could hide its errors there. The masked figures follow the
definitions of DyCheck and Shape of Motion (mPSNR; mSSIM with a mask-normalised 11 x 11 window, sigma 1.5).

A mean over no pixels is NaN, never 0 or infinity: `mean_or_none` leaves those out. Identical pictures score
`MAX_PSNR` dB, so that every figure fits in JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dyn4d.core.checks import check_shape

MAX_PSNR = 100.0
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def _check(prediction: Tensor, target: Tensor, mask: Tensor | None) -> None:
    sizes: dict[str, int] = {}
    check_shape("prediction", prediction, ("H", "W", 3), sizes)
    check_shape("target", target, ("H", "W", 3), sizes)
    if mask is not None:
        check_shape("mask", mask, ("H", "W"), sizes)


def _decibels(mean_square: Tensor) -> Tensor:
    return -10.0 * torch.log10(mean_square.clamp_min(10.0 ** (-MAX_PSNR / 10.0)))


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over the whole frame. () float64."""
    _check(prediction, target, None)
    return _decibels((prediction.double() - target.double()).square().mean())


def mpsnr(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """PSNR in dB inside the mask: -10 log10(sum((p - g)² m) / (3 sum m)). () float64; NaN where the mask is empty."""
    _check(prediction, target, mask)
    inside = mask.double()
    error = (prediction.double() - target.double()).square().sum(-1)
    return _decibels((error * inside).sum() / (3.0 * inside.sum()))


def _blur(maps: Tensor) -> Tensor:
    """Zero-padded 11 x 11 Gaussian filter of (N, 1, H, W), rows then columns."""
    offset = torch.arange(SSIM_WINDOW, dtype=maps.dtype, device=maps.device) - SSIM_WINDOW // 2
    kernel = torch.exp(-offset.square() / (2 * SSIM_SIGMA**2))
    kernel = kernel / kernel.sum()
    half = SSIM_WINDOW // 2
    maps = torch.nn.functional.conv2d(maps, kernel.view(1, 1, -1, 1), padding=(half, 0))
    return torch.nn.functional.conv2d(maps, kernel.view(1, 1, 1, -1), padding=(0, half))


def mssim(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Structural similarity inside the mask. () float64; NaN where the mask is empty.

    Local means, variances and covariance are taken over the part of the window that lies inside the mask (weights
    renormalised to one there), and the resulting map is averaged over the pixels of the mask. Pixels outside the
    mask have no influence at all. With a mask of ones this is SSIM (Wang et al. 2004) whose window is renormalised
    at the borders.
    """
    _check(prediction, target, mask)
    if not bool(mask.any()):
        return torch.full((), math.nan, dtype=torch.float64, device=prediction.device)
    prediction, target, mask = _crop(prediction, target, mask)
    inside = mask.double()
    a = prediction.double().permute(2, 0, 1).unsqueeze(1)
    b = target.double().permute(2, 0, 1).unsqueeze(1)
    weight = _blur(inside[None, None])
    norm = torch.where(weight > 1e-12, 1.0 / weight.clamp_min(1e-12), torch.zeros_like(weight))

    def local_mean(maps: Tensor) -> Tensor:
        return _blur(maps * inside) * norm

    mean_a, mean_b = local_mean(a), local_mean(b)
    var_a = (local_mean(a * a) - mean_a.square()).clamp_min(0.0)
    var_b = (local_mean(b * b) - mean_b.square()).clamp_min(0.0)
    covariance = local_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (mean_a.square() + mean_b.square() + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (var_a + var_b + SSIM_C2)
    ssim_map = (luminance * structure).mean(dim=(0, 1))
    return (ssim_map * inside).sum() / inside.sum()


def _crop(prediction: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mask's bounding box of all three: what lies outside has no influence, and small objects become cheap."""
    rows = torch.nonzero(mask.any(1)).flatten()
    columns = torch.nonzero(mask.any(0)).flatten()
    window = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    return prediction[window], target[window], mask[window]


def iou(alpha: Tensor, mask: Tensor, threshold: float = 0.5) -> Tensor:
    """Intersection over union of the drawn silhouette, alpha (H, W) > threshold, with the true mask (H, W). () float64;
    1 where both are empty."""
    sizes: dict[str, int] = {}
    check_shape("alpha", alpha, ("H", "W"), sizes)
    check_shape("mask", mask, ("H", "W"), sizes)
    drawn, true = alpha > threshold, mask.bool()
    union = (drawn | true).sum()
    if int(union) == 0:
        return torch.ones((), dtype=torch.float64, device=alpha.device)
    return (drawn & true).sum().double() / union.double()


def picture_metrics(rgb: Tensor, alpha: Tensor, target: Tensor, mask: Tensor) -> dict[str, float]:
    """`mpsnr`, `psnr`, `mssim` and `iou` of one picture.

    Args:
        rgb: (H, W, 3) drawn over the background of `target`. alpha: (H, W) drawn silhouette.
        target: (H, W, 3) the true picture. mask: (H, W) bool, the true silhouette.
    """
    return {
        "mpsnr": float(mpsnr(rgb, target, mask)),
        "psnr": float(psnr(rgb, target)),
        "mssim": float(mssim(rgb, target, mask)),
        "iou": float(iou(alpha, mask)),
    }


def mean_or_none(values: Iterable[float | None]) -> float | None:
    """Mean of the finite values; None where there is none. What JSON gets."""
    finite = [v for v in values if v is not None and math.isfinite(v)]
    return sum(finite) / len(finite) if finite else None


def mpsnr_so_far(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """For a line of progress, which ends with what is reported: the mean over the pictures until now, if there is."""
    mean = mean_or_none(row.get("mpsnr") for row in rows)
    return {} if mean is None else {"mpsnr": mean}


def mean_metrics(rows: Iterable[dict[str, float]]) -> dict[str, float | None]:
    """The mean of each of `mpsnr`, `psnr`, `mssim`, `iou` over pictures (dB are averaged as dB, as is usual)."""
    rows = list(rows)
    return {key: mean_or_none(row.get(key) for row in rows) for key in ("mpsnr", "psnr", "mssim", "iou")}
