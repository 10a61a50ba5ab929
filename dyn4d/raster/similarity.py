"""How alike two pictures are: SSIM, and L1 with 1 - SSIM as one operation, differentiable in the first picture."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

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
    if (torch.is_grad_enabled() and target.requires_grad) or not _fast(pred, target):
        return ssim_reference(pred, target)
    return _Ssim.apply(pred, target)  # type: ignore[return-value]


def l1_and_dssim(
    pred: Tensor, target: Tensor, *, l1_weight: Tensor | None = None, dssim_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sums over the pixels of two pictures (H, W, D) of weight x |pred - target| and of weight x (1 - SSIM), each a
    mean over the channels; one pass forward and one back.

    Args:
        l1_weight, dssim_weight: (H, W) weights of the pixels, e.g. a mask; 1 everywhere if not given.

    Returns:
        two scalars, differentiable in `pred` (and in everything, by plain torch, where `ssim` would use plain torch).
    """
    sizes: dict[str, int] = {}
    check_shape("l1_and_dssim pred", pred, ("H", "W", "D"), sizes)
    check_shape("l1_and_dssim target", target, ("H", "W", "D"), sizes)
    weights = []
    for name, weight in (("l1_weight", l1_weight), ("dssim_weight", dssim_weight)):
        if weight is not None:
            check_shape(f"l1_and_dssim {name}", weight, ("H", "W"), sizes)
        weights.append(pred.new_ones(pred.shape[:2]) if weight is None else weight.to(pred))
    learned = torch.is_grad_enabled() and any(t.requires_grad for t in (target, *weights))
    if learned or not _fast(pred, target):
        gap = (pred - target).abs().mean(-1)
        return (weights[0] * gap).sum(), (weights[1] * (1 - ssim_reference(pred, target)).mean(-1)).sum()
    return _Losses.apply(pred, target, *weights)  # type: ignore[return-value]


def _fast(pred: Tensor, target: Tensor) -> bool:
    """Can the kernels take these?"""
    on_cpu = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (pred, target))
    return on_cpu and pred.numel() > 0 and find_spec("numba") is not None


class _Comparison:
    """Two pictures on their way through the kernels."""

    def __init__(self, pred: Tensor, target: Tensor) -> None:
        from dyn4d.raster.ssim_kernels import row_length, workspace
        from dyn4d.raster.threads import even_bounds, numbered

        self.a, self.b = _rows(pred), _rows(target)
        (self.height, self.size), self.channels = self.a.shape, pred.shape[2]
        self.line = row_length(self.size)
        self.numbers, self.parts = numbered(even_bounds(self.height, each=2))  # each blurs ten rows more than its own
        self.work = torch.empty((len(self.numbers) - 1) * workspace(self.size, self.channels))

    def forward(self, *, by_map: bool, slopes: bool, weights: tuple[Tensor, Tensor] | None) -> tuple[Tensor, ...]:
        """The map (H, S) or none, the slopes (3, H, line) or none, and the rows' sums (H, 2) or none."""
        from dyn4d.raster import ssim_kernels as k
        from dyn4d.raster.threads import launch

        out = torch.empty(self.height if by_map else 0, self.size)
        kept = torch.empty(k.SLOPES, self.height if slopes else 0, self.line)
        losses = torch.empty(0 if weights is None else self.height, 2, dtype=torch.float64)
        given = weights or (torch.empty(0, 0), torch.empty(0, 0))
        launch(
            k.compare, self.numbers, self.parts, self.a, self.b, self.channels, _taps(),
            *(w.contiguous() for w in given), self.work, out, *kept, losses,
        )  # fmt: skip
        return out, kept, losses

    def backward(
        self, slopes: Tensor, by_l1: Tensor, v_ssim: Tensor, scale: tuple[float, float]
    ) -> Tensor:  # fmt: skip
        """The gradient (H, S); `v_ssim` is (H, S) or (H, W)."""
        from dyn4d.raster import ssim_kernels as k
        from dyn4d.raster.threads import launch

        out = torch.empty(self.height, self.size)
        v = v_ssim.contiguous()
        launch(
            k.compare_backward, self.numbers, self.parts, self.a, self.b, self.channels, _taps(),
            by_l1.contiguous(), v, self.size // v.shape[1], torch.tensor(scale, dtype=torch.float64), self.work,
            *slopes, out,
        )  # fmt: skip
        return out


class _Ssim(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pred: Tensor, target: Tensor) -> Tensor:
        out, slopes, _ = _Comparison(pred, target).forward(by_map=True, slopes=ctx.needs_input_grad[0], weights=None)
        ctx.save_for_backward(pred, target, slopes)
        return out.reshape(pred.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        pred, target, slopes = ctx.saved_tensors
        v = grads[0].reshape(len(pred), -1)
        return _Comparison(pred, target).backward(slopes, v.new_empty(0, 0), v, (0.0, 1.0)).reshape(pred.shape), None


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pred: Tensor, target: Tensor, l1_weight: Tensor, dssim_weight: Tensor
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        _, slopes, losses = _Comparison(pred, target).forward(
            by_map=False, slopes=ctx.needs_input_grad[0], weights=(l1_weight, dssim_weight)
        )
        ctx.save_for_backward(pred, target, l1_weight, dssim_weight, slopes)
        l1, dssim = (losses.sum(0) / pred.shape[-1]).float().unbind()
        return l1, dssim

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pred, target, l1_weight, dssim_weight, slopes = ctx.saved_tensors
        scale = (float(grads[0]) / pred.shape[-1], -float(grads[1]) / pred.shape[-1])
        out = _Comparison(pred, target).backward(slopes, l1_weight, dssim_weight, scale)
        return out.reshape(pred.shape), None, None, None


def _rows(image: Tensor) -> Tensor:
    """(H, W · D) view of a picture (H, W, D)."""
    return image.contiguous().flatten(1)


def _taps() -> Tensor:
    """The window from its middle outwards: (6,)."""
    return window_weights(torch.float32)[WINDOW // 2 :]
