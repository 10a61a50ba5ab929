"""Encodings of what conditions the coupling layers: Gabor features of time, Fourier features of position."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class GaborNet(nn.Module):
    """Multiplicative filter network of one input, time, with Gabor filters.

    z_0 = g_0(t), z_i = g_i(t) · (A_i z_{i-1} + c_i), out = B z_n + d, where
    g(t) = sin(w t + b) · exp(-γ (t - μ)² / 2), all trained.

    Source: Fathony et al., Multiplicative Filter Networks, ICLR 2021, section 4.

    Args:
        features: length of the code. hidden: number of filters. depth: multiplications, so depth + 1 filter layers.
        input_scale: spread of the frequencies; larger follows faster motion and interpolates less smoothly.
        generator: where the initial values are drawn from.
    """

    def __init__(
        self,
        features: int,
        *,
        hidden: int = 128,
        depth: int = 2,
        input_scale: float = 96.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        shape = (depth + 1, hidden)
        uniform = torch.rand(*shape, generator=generator)
        # Gamma(1.5, 1), drawn as a sum of an exponential and half a squared normal so that the generator is obeyed
        gamma = -torch.log1p(-torch.rand(*shape, generator=generator))
        gamma = gamma + 0.5 * torch.randn(*shape, generator=generator).square()
        spread = input_scale / math.sqrt(depth + 1)
        self.frequency = nn.Parameter((2 * uniform - 1) * spread * gamma.sqrt())
        self.phase = nn.Parameter((2 * torch.rand(*shape, generator=generator) - 1) * math.pi)
        self.centre = nn.Parameter(2 * torch.rand(*shape, generator=generator) - 1)
        self.gamma = nn.Parameter(gamma)
        bound = math.sqrt(1 / hidden)
        self.mix = nn.Parameter((2 * torch.rand(depth, hidden, hidden, generator=generator) - 1) * bound)
        self.mix_bias = nn.Parameter((2 * torch.rand(depth, hidden, generator=generator) - 1) * bound)
        self.out = nn.Linear(hidden, features)
        with torch.no_grad():
            self.out.weight.copy_((2 * torch.rand(features, hidden, generator=generator) - 1) * bound)
            self.out.bias.copy_((2 * torch.rand(features, generator=generator) - 1) * bound)

    def forward(self, t: Tensor) -> Tensor:
        """Times (B,) in [0, 1] -> codes (B, features)."""
        x = (2 * t - 1)[:, None, None]  # the filters' centres are spread over [-1, 1]
        filters = torch.sin(self.frequency * x + self.phase)
        filters = filters * torch.exp(-0.5 * self.gamma * (x - self.centre).square())
        z = filters[:, 0]
        for i in range(self.mix.shape[0]):
            z = filters[:, i + 1] * (z @ self.mix[i].T + self.mix_bias[i])
        return self.out(z)


def fourier_size(frequencies: int) -> int:
    """Length of the encoding of two coordinates."""
    return 2 + 4 * frequencies


def fourier(pair: Tensor, bands: Tensor, window: Tensor) -> Tensor:
    """Encode two coordinates (..., 2): themselves, then window · sin and window · cos of each band.

    Args:
        bands: (L,) angular frequencies. window: (L,) weights in [0, 1], for fitting coarse to fine.
    """
    angle = (pair.unsqueeze(-1) * bands).flatten(-2)
    weight = window.repeat(2)
    return torch.cat([pair, torch.sin(angle) * weight, torch.cos(angle) * weight], dim=-1)


def fourier_derivative(pair: Tensor, bands: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """d fourier / d pair[..., 0] and d fourier / d pair[..., 1], each (..., 2 + 4 L)."""
    angle = pair.unsqueeze(-1) * bands
    weight = bands * window
    d_sin, d_cos = torch.cos(angle) * weight, -torch.sin(angle) * weight
    zero = torch.zeros_like(d_sin[..., 0, :])
    one, none = torch.ones_like(pair[..., :1]), torch.zeros_like(pair[..., :1])
    first = torch.cat([one, none, d_sin[..., 0, :], zero, d_cos[..., 0, :], zero], dim=-1)
    second = torch.cat([none, one, zero, d_sin[..., 1, :], zero, d_cos[..., 1, :]], dim=-1)
    return first, second


def coarse_to_fine(frequencies: int, progress: float) -> Tensor:
    """Window (L,) at `progress` in [0, 1]: bands open one after another, smoothly (as in BARF and Nerfies)."""
    alpha = progress * frequencies - torch.arange(frequencies, dtype=torch.float32)
    return 0.5 * (1 - torch.cos(math.pi * alpha.clamp(0, 1)))
