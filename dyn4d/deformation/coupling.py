"""Affine coupling layers that each move one coordinate (RealNVP; Dinh et al., ICLR 2017).

A layer scales and shifts coordinate k by amounts that depend only on the two other coordinates and on time:
y_k = x_k · exp(s) + t. As the other two pass through unchanged, the same s and t undo it exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyn4d.deformation.encodings import fourier, fourier_derivative, fourier_size

MAX_LOG_SCALE = 1.0
"""A layer stretches by at most e^±1, which keeps float32 round trips exact to about 1e-6."""


class CouplingLayer(nn.Module):
    """One coupling layer; the identity when made.

    Args:
        coordinate: 0, 1 or 2, the one that is moved. time_features: length of the time code.
    """

    def __init__(
        self, coordinate: int, *, frequencies: int, hidden: int, time_features: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.coordinate = coordinate
        self.others = [i for i in range(3) if i != coordinate]

        def draw(rows: int, columns: int, gain: float = 2.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns, generator=generator) * (gain / columns) ** 0.5)

        self.w1, self.b1 = draw(hidden, fourier_size(frequencies)), nn.Parameter(torch.zeros(hidden))
        self.w2, self.b2 = draw(hidden, hidden), nn.Parameter(torch.zeros(hidden))
        self.w3, self.b3 = nn.Parameter(torch.zeros(2, hidden)), nn.Parameter(torch.zeros(2))
        self.time1 = draw(hidden, time_features)
        self.time2 = draw(2 * hidden, hidden)
        self.time3 = nn.Parameter(torch.zeros(2, hidden))  # a plain motion of the whole needs no position

    def condition(self, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Time codes (B, C) -> biases (B, 1, hidden), (B, 1, hidden) and (B, 1, 2) of the layer's network."""
        h = torch.nn.functional.silu(code @ self.time1.T)
        first, second = (h @ self.time2.T).unsqueeze(-2).chunk(2, dim=-1)
        return first + self.b1, second + self.b2, (h @ self.time3.T).unsqueeze(-2) + self.b3

    @staticmethod
    def _bound(raw: Tensor) -> tuple[Tensor, Tensor]:
        return MAX_LOG_SCALE * torch.tanh(raw[..., :1] / MAX_LOG_SCALE), raw[..., 1:]

    def scale_shift(
        self, pair: Tensor, biases: tuple[Tensor, Tensor, Tensor], bands: Tensor, window: Tensor
    ) -> tuple[Tensor, Tensor]:
        """s and t, each (B, N, 1), at the two other coordinates (B, N, 2)."""
        h = torch.nn.functional.silu(fourier(pair, bands, window) @ self.w1.T + biases[0])
        h = torch.nn.functional.silu(h @ self.w2.T + biases[1])
        return self._bound(h @ self.w3.T + biases[2])

    def scale_shift_jacobian(
        self, pair: Tensor, biases: tuple[Tensor, Tensor, Tensor], bands: Tensor, window: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """s, t (B, N, 1) and their derivatives by the two other coordinates, each (B, N, 2), by forward mode."""
        pre1 = fourier(pair, bands, window) @ self.w1.T + biases[0]
        gate1 = torch.sigmoid(pre1)
        pre2 = (pre1 * gate1) @ self.w2.T + biases[1]
        gate2 = torch.sigmoid(pre2)
        raw = (pre2 * gate2) @ self.w3.T + biases[2]
        slope1 = gate1 * (1 + pre1 * (1 - gate1))
        slope2 = gate2 * (1 + pre2 * (1 - gate2))
        d_raw = []
        for tangent in fourier_derivative(pair, bands, window):
            d_raw.append((((tangent @ self.w1.T) * slope1) @ self.w2.T * slope2) @ self.w3.T)
        s, t = self._bound(raw)
        slope = 1 - (s / MAX_LOG_SCALE).square()
        d_s = torch.cat([d[..., :1] for d in d_raw], dim=-1) * slope
        d_t = torch.cat([d[..., 1:] for d in d_raw], dim=-1)
        return s, t, d_s, d_t


class CouplingStack(nn.Module):
    """Coupling layers one after another, over normalised coordinates (about [-1, 1]³).

    Coordinates are moved in the fixed order x y z x y z …, so that every one is covered alike.
    """

    bands: Tensor
    window: Tensor

    def __init__(
        self, layers: int, *, frequencies: int, hidden: int, time_features: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CouplingLayer(
                i % 3, frequencies=frequencies, hidden=hidden, time_features=time_features, generator=generator
            )
            for i in range(layers)
        )
        self.register_buffer("bands", torch.pi * 2.0 ** torch.arange(frequencies))
        self.register_buffer("window", torch.ones(frequencies))

    def _layers(self) -> list[CouplingLayer]:
        return list(self.layers)  # type: ignore[arg-type]

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Canonical points (B, N, 3) -> points at the times of the codes (B, C)."""
        columns = list(x.split(1, dim=-1))
        for layer in self._layers():
            pair = torch.cat([columns[i] for i in layer.others], dim=-1)
            s, t = layer.scale_shift(pair, layer.condition(code), self.bands, self.window)
            columns[layer.coordinate] = columns[layer.coordinate] * torch.exp(s) + t
        return torch.cat(columns, dim=-1)

    def inverse(self, y: Tensor, code: Tensor) -> Tensor:
        """The exact inverse of `forward`."""
        columns = list(y.split(1, dim=-1))
        for layer in reversed(self._layers()):
            pair = torch.cat([columns[i] for i in layer.others], dim=-1)
            s, t = layer.scale_shift(pair, layer.condition(code), self.bands, self.window)
            columns[layer.coordinate] = (columns[layer.coordinate] - t) * torch.exp(-s)
        return torch.cat(columns, dim=-1)

    def forward_jacobian(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` and its Jacobian (B, N, 3, 3), rows = outputs. The determinant is exp(Σ s) > 0."""
        columns = list(x.split(1, dim=-1))
        eye = torch.eye(3, dtype=x.dtype, device=x.device)
        rows = [eye[i].expand_as(x) for i in range(3)]
        for layer in self._layers():
            k, (a, b) = layer.coordinate, layer.others
            pair = torch.cat([columns[a], columns[b]], dim=-1)
            s, t, d_s, d_t = layer.scale_shift_jacobian(pair, layer.condition(code), self.bands, self.window)
            stretch = torch.exp(s)
            slope = columns[k] * stretch * d_s + d_t
            rows[k] = stretch * rows[k] + slope[..., :1] * rows[a] + slope[..., 1:] * rows[b]
            columns[k] = columns[k] * stretch + t
        return torch.cat(columns, dim=-1), torch.stack(rows, dim=-2)
