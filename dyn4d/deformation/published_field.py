"""The published invertible field, as the baseline to beat: four coupling layers in a random order, drawn at random.

It differs from `TrajectoryField` in what is known to hold it back: one coordinate is moved more often than the others,
it starts far from the identity, a layer may stretch by e^±8, and Gaussians are moved but neither turned nor stretched.

Source: Liu et al., "MoDGS: Dynamic Gaussian Splatting from Casually-captured Monocular Videos", ICLR 2025; the layers
are those of Wang et al., "Tracking Everything Everywhere All at Once", ICCV 2023.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dyn4d.deformation.encodings import GaborNet, fourier, fourier_size
from dyn4d.io.checkpoint import Checkpoint, save_tensors

FORMAT = "dyn4d-published-field/1"
MAX_LOG_SCALE = 8.0
SLOPE = 0.01  # of the leaky rectifiers


@dataclass(frozen=True)
class PublishedShape:
    """Sizes, and which coordinate each layer moves."""

    order: tuple[int, ...]
    hidden: int = 256
    features: int = 128
    frequencies: int = 5
    filters: int = 256
    input_scale: float = 256.0


def random_order(layers: int, seed: int) -> tuple[int, ...]:
    """Coordinates of the layers: independent permutations of x, y, z one after another, cut to length."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < layers:
        order += torch.randperm(3, generator=generator).tolist()
    return tuple(order[:layers])


def _network(*widths: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        parts += [nn.Linear(before, after), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*parts[:-1])


class _Layer(nn.Module):
    """Scale and shift of one coordinate by the two others and time."""

    def __init__(self, coordinate: int, shape: PublishedShape) -> None:
        super().__init__()
        self.coordinate = coordinate
        self.others = [i for i in range(3) if i != coordinate]
        self.time = _network(shape.features, shape.features, shape.features)
        self.position = nn.Sequential(nn.Linear(fourier_size(shape.frequencies), shape.hidden), nn.LeakyReLU(SLOPE))
        self.both = _network(shape.features + shape.hidden, shape.hidden, shape.hidden, shape.hidden, 2)

    def forward(self, x: Tensor, code: Tensor, bands: Tensor) -> tuple[Tensor, Tensor]:
        """Log scale and shift, each (B, N), of points (B, N, 3) at codes (B, C)."""
        encoded = self.position(fourier(x[..., self.others], bands))
        time = self.time(code).unsqueeze(-2).expand(*encoded.shape[:-1], -1)
        s, shift = self.both(torch.cat([time, encoded], dim=-1)).unbind(-1)
        return s.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE), shift


class PublishedField(nn.Module):
    """World at time t → canonical by y_k ← (y_k - shift) exp(-s), layer after layer; back by the exact inverse.

    Lengths are world units outside, normalised to about [-1, 1] inside; times run over [0, 1].
    """

    invertible = True
    moves = True
    centre: Tensor
    half_size: Tensor
    bands: Tensor

    def __init__(self, shape: PublishedShape, *, centre: Tensor, half_size: float | Tensor, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("centre", torch.as_tensor(centre, dtype=torch.float32).clone())
        self.register_buffer("half_size", torch.as_tensor(half_size, dtype=torch.float32).clone())
        self.register_buffer("bands", torch.pi * 2.0 ** torch.arange(shape.frequencies))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.time_code = GaborNet(shape.features, hidden=shape.filters, input_scale=shape.input_scale)
            self.layers = nn.ModuleList(_Layer(coordinate, shape) for coordinate in shape.order)

    def _arrange(self, xyz: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Normalised points (B, N, 3) and codes (B, C) of their times."""
        if xyz.shape[-1] != 3:
            raise ValueError(f"xyz: wanted shape (..., 3), found {tuple(xyz.shape)}")
        times = torch.as_tensor(t, dtype=xyz.dtype, device=xyz.device)
        if times.numel() == 1:
            points, times = xyz.reshape(1, -1, 3), times.reshape(1)
        elif times.dim() >= 2 and times.shape[-1] == 1 and times.shape[:-1] == xyz.shape[:-2]:
            points, times = xyz.reshape(-1, xyz.shape[-2], 3), times.reshape(-1)
        else:
            points, times = xyz.reshape(-1, 1, 3), times.expand(xyz.shape[:-1]).reshape(-1)
        # the published code is given time in [0, 1] where GaborNet spreads [0, 1] over [-1, 1]
        return (points - self.centre) / self.half_size, self.time_code((times + 1) / 2)

    def to_canonical(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """World points (..., 3) at time t → canonical points (..., 3)."""
        z, code = self._arrange(xyz, t)
        columns = list(z.unbind(-1))
        for layer in self.layers:
            assert isinstance(layer, _Layer)
            s, shift = layer(torch.stack(columns, dim=-1), code, self.bands)
            columns[layer.coordinate] = (columns[layer.coordinate] - shift) * torch.exp(-s)
        return (torch.stack(columns, dim=-1) * self.half_size + self.centre).reshape(xyz.shape)

    def from_canonical(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """Canonical points (..., 3) → world points (..., 3) at time t."""
        z, code = self._arrange(xyz, t)
        columns = list(z.unbind(-1))
        for layer in reversed(list(self.layers)):
            assert isinstance(layer, _Layer)
            s, shift = layer(torch.stack(columns, dim=-1), code, self.bands)
            columns[layer.coordinate] = columns[layer.coordinate] * torch.exp(s) + shift
        return (torch.stack(columns, dim=-1) * self.half_size + self.centre).reshape(xyz.shape)

    def transport(self, xyz: Tensor, t_src: float | Tensor, t_dst: float | Tensor) -> Tensor:
        """World points at time `t_src` → where they are at time `t_dst`."""
        return self.from_canonical(self.to_canonical(xyz, t_src), t_dst)

    def jacobian(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """The identity (..., 3, 3): the published method moves Gaussians without turning them."""
        return torch.eye(3, dtype=xyz.dtype, device=xyz.device).expand(*xyz.shape, 3)

    def motion(self, xyz: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """`from_canonical` and `jacobian` of points (N, 3) at one time."""
        return self.from_canonical(xyz, t), self.jacobian(xyz, t)

    def save(self, path: Path) -> None:
        """Write tensors and sizes as safetensors."""
        save_tensors(Path(path), dict(self.state_dict()), asdict(self.shape), FORMAT)

    @staticmethod
    def from_checkpoint(saved: Checkpoint) -> PublishedField:
        """The field of a file that `save` wrote."""
        shape = PublishedShape(**{**saved.config, "order": tuple(saved.config["order"])})
        field = PublishedField(shape, centre=torch.zeros(3), half_size=1.0)
        field.load_state_dict(saved.tensors)
        return field.eval()
