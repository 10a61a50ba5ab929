"""The trajectory field: an invertible map between the world at any time and one canonical space."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dyn4d.core.protocols import Field
from dyn4d.deformation.coupling import CouplingStack
from dyn4d.deformation.encodings import GaborNet
from dyn4d.deformation.root import RootMotion
from dyn4d.io.checkpoint import load_tensors, save_tensors

FORMAT = "dyn4d-trajectory-field/1"


@dataclass(frozen=True)
class FieldShape:
    """What is needed to build a field before its tensors are loaded."""

    layers: int
    hidden: int
    frequencies: int
    time_features: int
    input_scale: float
    knots: int


class TrajectoryField(nn.Module):
    """x(t) = centre + half_size · (R(t) · F(z, code(t)) + d(t)), z = (canonical - centre) / half_size.

    F is a stack of coupling layers, code a GaborNet, R and d the root motion: each is undone exactly, so
    `to_canonical` inverts `from_canonical` to rounding. With no layers and a still root nothing moves.

    Lengths are world units outside. Times run over [0, 1]: a number, or a tensor that broadcasts against the leading
    dimensions of the points; (B, 1) against points (B, N, 3) is the fast form for several frames at once.

    Args:
        shape: sizes of the network. root: poses over time, in normalised coordinates.
        centre, half_size: the box of the object's points over the clip.
        seed: of the initial values.
    """

    invertible = True
    centre: Tensor
    half_size: Tensor

    def __init__(
        self, shape: FieldShape, *, root: RootMotion, centre: Tensor, half_size: float | Tensor, seed: int = 0
    ) -> None:
        super().__init__()
        self.shape = shape
        generator = torch.Generator().manual_seed(seed)
        self.time_code = GaborNet(shape.time_features, input_scale=shape.input_scale, generator=generator)
        self.stack = CouplingStack(
            shape.layers,
            frequencies=shape.frequencies,
            hidden=shape.hidden,
            time_features=shape.time_features,
            generator=generator,
        )
        self.root = root
        self.register_buffer("centre", torch.as_tensor(centre, dtype=torch.float32).clone())
        self.register_buffer("half_size", torch.as_tensor(half_size, dtype=torch.float32).clone())

    @staticmethod
    def still() -> TrajectoryField:
        """The field of an object that does not move: the identity at every time."""
        shape = FieldShape(layers=0, hidden=1, frequencies=0, time_features=1, input_scale=1.0, knots=1)
        return TrajectoryField(shape, root=RootMotion.still(torch.zeros(1)), centre=torch.zeros(3), half_size=1.0)

    @property
    def moves(self) -> bool:
        """Can anything move at all?"""
        return self.shape.layers > 0 or self.shape.knots > 1

    def _arrange(self, xyz: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Points as (B, N, 3) and times as (B,), so that each row of points shares one time code."""
        if xyz.shape[-1] != 3:
            raise ValueError(f"xyz: wanted shape (..., 3), found {tuple(xyz.shape)}")
        times = torch.as_tensor(t, dtype=xyz.dtype, device=xyz.device)
        if times.numel() == 1:
            return xyz.reshape(1, -1, 3), times.reshape(1)
        if times.dim() >= 2 and times.shape[-1] == 1 and times.shape[:-1] == xyz.shape[:-2]:
            return xyz.reshape(-1, xyz.shape[-2], 3), times.reshape(-1)
        return xyz.reshape(-1, 1, 3), times.expand(xyz.shape[:-1]).reshape(-1)

    def _codes(self, times: Tensor) -> Tensor:
        if len(times) < 64:
            return self.time_code(times)
        unique, back = torch.unique(times, return_inverse=True)
        return self.time_code(unique)[back]

    def from_canonical(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """Canonical points (..., 3) -> world points (..., 3) at time t."""
        if not self.moves:
            return xyz
        points, times = self._arrange(xyz, t)
        z = (points - self.centre) / self.half_size
        if self.shape.layers:
            z = self.stack(z, self._codes(times))
        rotation, translation = self.root.at(times)
        z = z @ rotation.transpose(-1, -2) + translation.unsqueeze(-2)
        return (z * self.half_size + self.centre).reshape(xyz.shape)

    def to_canonical(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """World points (..., 3) at time t -> canonical points (..., 3)."""
        if not self.moves:
            return xyz
        points, times = self._arrange(xyz, t)
        rotation, translation = self.root.at(times)
        z = ((points - self.centre) / self.half_size - translation.unsqueeze(-2)) @ rotation
        if self.shape.layers:
            z = self.stack.inverse(z, self._codes(times))
        return (z * self.half_size + self.centre).reshape(xyz.shape)

    def transport(self, xyz: Tensor, t_src: float | Tensor, t_dst: float | Tensor) -> Tensor:
        """World points at time `t_src` -> where they are at time `t_dst`."""
        return self.from_canonical(self.to_canonical(xyz, t_src), t_dst)

    def jacobian(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """d from_canonical / d xyz at canonical points (..., 3) -> (..., 3, 3), rows = world. Analytic, and itself
        differentiable."""
        if not self.moves:
            return torch.eye(3, dtype=xyz.dtype, device=xyz.device).expand(*xyz.shape, 3)
        points, times = self._arrange(xyz, t)
        rotation, _ = self.root.at(times)
        if not self.shape.layers:
            return rotation.unsqueeze(-3).expand(*points.shape, 3).reshape(*xyz.shape, 3)
        _, jacobian = self.stack.forward_jacobian((points - self.centre) / self.half_size, self._codes(times))
        return (rotation.unsqueeze(-3) @ jacobian).reshape(*xyz.shape, 3)

    def save(self, path: Path) -> None:
        """Write `field.safetensors`: tensors and the sizes to build the field again."""
        tensors = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        save_tensors(Path(path), tensors, asdict(self.shape), FORMAT)

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> TrajectoryField:
        """Read a field that `save` wrote. Raises `InputError` where the file is damaged or of another kind."""
        saved = load_tensors(Path(path), FORMAT)
        shape = FieldShape(**saved.config)
        field = TrajectoryField(
            shape, root=RootMotion.still(torch.zeros(shape.knots)), centre=torch.zeros(3), half_size=1.0
        )
        field.load_state_dict(saved.tensors)
        return field.to(device).eval()


@torch.no_grad()
def cycle_error(field: Field, xyz: Tensor, t: float | Tensor, *, chunk: int = 65536) -> tuple[float, float]:
    """Largest and mean distance between points and what comes back from canonical space, in world units."""
    largest, total = 0.0, 0.0
    times = torch.as_tensor(t, dtype=xyz.dtype).expand(xyz.shape[0])
    for start in range(0, xyz.shape[0], chunk):
        part, when = xyz[start : start + chunk], times[start : start + chunk]
        when = when[:1] if bool((when == when[0]).all()) else when
        error = (field.from_canonical(field.to_canonical(part, when), when) - part).norm(dim=-1)
        largest, total = max(largest, float(error.max())), total + float(error.double().sum())
    return largest, total / max(xyz.shape[0], 1)
