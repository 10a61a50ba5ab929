"""Encodings of what conditions coupling layers: Gabor features of time, Fourier features of position."""

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


def fourier(pair: Tensor, bands: Tensor) -> Tensor:
    """Encode two coordinates (..., 2): themselves, then sine and cosine of each band, (L,) angular frequencies."""
    angle = (pair.unsqueeze(-1) * bands).flatten(-2)
    return torch.cat([pair, torch.sin(angle), torch.cos(angle)], dim=-1)
