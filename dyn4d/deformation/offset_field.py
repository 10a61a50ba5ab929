"""A field that adds an offset to canonical points: the usual alternative to an invertible one, kept to compare with.

Source: Yang et al., "Deformable 3D Gaussians for High-Fidelity Monocular Dynamic Scene Reconstruction", CVPR 2024,
section 3.2: a network on encoded position and time that moves, turns and stretches Gaussians.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dyn4d.io.checkpoint import Checkpoint, save_tensors

FORMAT = "dyn4d-offset-field/1"
SEARCH_STEPS = 30


@dataclass(frozen=True)
class OffsetShape:
    """Sizes of the network; the published ones.

    Attributes:
        width, depth: of the layers. skip: the layer that sees the encoded input again.
        position_frequencies, time_frequencies: octaves of the encodings.
    """

    width: int = 256
    depth: int = 8
    skip: int = 4
    position_frequencies: int = 10
    time_frequencies: int = 6


def _encode(values: Tensor, frequencies: int) -> Tensor:
    """(..., C) → (..., C + 2 C L): the values, and sine and cosine of each octave."""
    bands = torch.pi * 2.0 ** torch.arange(frequencies, dtype=values.dtype, device=values.device)
    angle = (values.unsqueeze(-1) * bands).flatten(-2)
    return torch.cat([values, angle.sin(), angle.cos()], dim=-1)


class OffsetField(nn.Module):
    """x(t) = c + half_size · f(z, t), z = (c - centre) / half_size; the identity when made.

    The network says how a neighbourhood turns and stretches too, apart from where it goes: `jacobian` is not the
    derivative of the motion but learnt beside it.

    There is no inverse. `to_canonical` searches for one, which need not exist.
    """

    invertible = False
    moves = True
    centre: Tensor
    half_size: Tensor

    def __init__(self, shape: OffsetShape, *, centre: Tensor, half_size: float | Tensor, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("centre", torch.as_tensor(centre, dtype=torch.float32).clone())
        self.register_buffer("half_size", torch.as_tensor(half_size, dtype=torch.float32).clone())
        size = 3 + 6 * shape.position_frequencies + 1 + 2 * shape.time_frequencies
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            widths = [size, *[shape.width] * shape.depth]
            self.layers = nn.ModuleList(
                nn.Linear(before + (size if i == shape.skip else 0), after)
                for i, (before, after) in enumerate(itertools.pairwise(widths))
            )
            self.head = nn.Linear(shape.width, 12)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def _outputs(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """(..., 12): offsets in normalised lengths, then the change of the local axes."""
        if xyz.shape[-1] != 3:
            raise ValueError(f"xyz: wanted shape (..., 3), found {tuple(xyz.shape)}")
        times = torch.as_tensor(t, dtype=xyz.dtype, device=xyz.device).expand(xyz.shape[:-1]).unsqueeze(-1)
        z = (xyz - self.centre) / self.half_size
        encoded = torch.cat(
            [_encode(z, self.shape.position_frequencies), _encode(times, self.shape.time_frequencies)], dim=-1
        )
        h = encoded
        for i, layer in enumerate(self.layers):
            h = torch.relu(layer(torch.cat([h, encoded], dim=-1) if i == self.shape.skip else h))
        return self.head(h)

    def from_canonical(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """Canonical points (..., 3) → world points (..., 3) at time t."""
        return xyz + self.half_size * self._outputs(xyz, t)[..., :3]

    @torch.no_grad()
    def to_canonical(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """A canonical point (..., 3) that goes near the world points (..., 3) at time t: a fixed-point search, whose
        best step counts. Without gradient."""
        guess = best = xyz
        least = torch.full(xyz.shape[:-1], float("inf"), dtype=xyz.dtype, device=xyz.device)
        for _ in range(SEARCH_STEPS):
            miss = xyz - self.from_canonical(guess, t)
            error = miss.norm(dim=-1)
            best = torch.where((error < least).unsqueeze(-1), guess, best)
            least = torch.minimum(error, least)
            guess = guess + 0.7 * miss  # damped: where the offsets change fast a whole step overshoots
        return best

    def transport(self, xyz: Tensor, t_src: float | Tensor, t_dst: float | Tensor) -> Tensor:
        """World points at time `t_src` → about where they are at time `t_dst`."""
        return self.from_canonical(self.to_canonical(xyz, t_src), t_dst)

    def jacobian(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """How the neighbourhood of canonical points (..., 3) turns and stretches → (..., 3, 3); learnt."""
        change = self._outputs(xyz, t)[..., 3:].unflatten(-1, (3, 3))
        return torch.eye(3, dtype=xyz.dtype, device=xyz.device) + change

    def motion(self, xyz: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """`from_canonical` and `jacobian` of points (N, 3) at one time, both differentiable."""
        outputs = self._outputs(xyz, t)
        change = outputs[..., 3:].unflatten(-1, (3, 3))
        return xyz + self.half_size * outputs[..., :3], torch.eye(3, dtype=xyz.dtype, device=xyz.device) + change

    def save(self, path: Path) -> None:
        """Write tensors and sizes as safetensors."""
        save_tensors(Path(path), dict(self.state_dict()), asdict(self.shape), FORMAT)

    @staticmethod
    def from_checkpoint(saved: Checkpoint) -> OffsetField:
        """The field of a file that `save` wrote."""
        field = OffsetField(OffsetShape(**saved.config), centre=torch.zeros(3), half_size=1.0)
        field.load_state_dict(saved.tensors)
        return field.eval()
