"""The trajectory field: an invertible map between the world at any time and one canonical space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dyn4d.core.protocols import Field
from dyn4d.deformation.coupling import CouplingStack
from dyn4d.deformation.encodings import GaborNet
from dyn4d.deformation.root import RootMotion
from dyn4d.deformation.splines import Layout, couple, couple_reference
from dyn4d.io.checkpoint import load_tensors, save_tensors

FORMAT = "dyn4d-trajectory-field/2"
_TIMES = 64  # times whose planes are in memory at once where every point has its own


@dataclass(frozen=True)
class FieldShape:
    """What is needed to build a field before its tensors are loaded.

    Attributes:
        layers: coupling layers. cells: of their finest splines, a side. time_features: length of the time code.
        input_scale: bandwidth of the time code. knots: poses of the root motion.
    """

    layers: int
    cells: int
    time_features: int
    input_scale: float
    knots: int


class Moments:
    """A field at some times: what depends on time alone is worked out once, and then any points can be moved.

    Points are (B, N, 3) world units, with rows (B,) that name their times.
    """

    def __init__(self, field: TrajectoryField, times: Tensor) -> None:
        self.field = field
        self.count = len(times)
        self.rotation, self.translation = field.root.at(times)
        self.planes = field.stack.planes(field.time_code(times)) if field.shape.layers else None

    def from_canonical(self, xyz: Tensor, rows: Tensor) -> Tensor:
        """Canonical points (B, N, 3) -> world points at the times of `rows` (B,)."""
        return self._out(_Runs.even(xyz, rows))[0].reshape(xyz.shape)

    def to_canonical(self, xyz: Tensor, rows: Tensor) -> Tensor:
        """World points (B, N, 3) at the times of `rows` (B,) -> canonical points."""
        return self._back(_Runs.even(xyz, rows)).reshape(xyz.shape)

    def _turn(self, z: Tensor, runs: _Runs, *, back: bool) -> Tensor:
        """The root motion of flat points, or its inverse."""
        if runs.size is None:
            rows = torch.repeat_interleave(runs.rows, runs.counts)
            rotation, translation = self.rotation[rows], self.translation[rows]
            if back:
                return torch.einsum("pi,pij->pj", z - translation, rotation)
            return torch.einsum("pj,pij->pi", z, rotation) + translation
        rotation, translation = self.rotation[runs.rows], self.translation[runs.rows].unsqueeze(-2)
        z = z.reshape(len(runs.rows), runs.size, 3)
        z = (z - translation) @ rotation if back else z @ rotation.transpose(-1, -2) + translation
        return z.reshape(-1, 3)

    def _out(self, runs: _Runs, *, jacobian: bool = False, learn: bool = False) -> tuple[Tensor, Tensor | None]:
        """Canonical -> world; `learn`: the Jacobian shall be differentiable."""
        field = self.field
        z = (runs.points - field.centre) / field.half_size
        slopes = None
        if self.planes is not None:
            move = couple_reference if learn else couple
            z, slopes = move(z, self.planes, runs.layout(self.count), jacobian=jacobian)
        if jacobian:
            one = self.count == 1  # for all points
            rotation = self.rotation if one else self.rotation[torch.repeat_interleave(runs.rows, runs.counts)]
            slopes = rotation.expand(len(z), 3, 3) if slopes is None else rotation @ slopes
        return self._turn(z, runs, back=False) * field.half_size + field.centre, slopes

    def _back(self, runs: _Runs) -> Tensor:
        field = self.field
        z = self._turn((runs.points - field.centre) / field.half_size, runs, back=True)
        if self.planes is not None:
            z, _ = couple(z, self.planes, runs.layout(self.count), inverse=True)
        return z * field.half_size + field.centre


@dataclass(frozen=True)
class _Runs:
    """Flat points (P, 3), run after run: run i has `counts[i]` points at time `rows[i]`; `size` if all have as many."""

    points: Tensor
    rows: Tensor
    counts: Tensor
    size: int | None

    @staticmethod
    def even(xyz: Tensor, rows: Tensor) -> _Runs:
        return _Runs(xyz.reshape(-1, 3), rows, torch.full_like(rows, xyz.shape[1]), xyz.shape[1])

    def layout(self, total: int) -> Layout:
        return Layout.of(self.rows.tolist(), self.counts.tolist(), total)


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
        self.stack = CouplingStack(shape.layers, cells=shape.cells, time_features=shape.time_features)
        self.root = root
        self.register_buffer("centre", torch.as_tensor(centre, dtype=torch.float32).clone())
        self.register_buffer("half_size", torch.as_tensor(half_size, dtype=torch.float32).clone())

    @staticmethod
    def still() -> TrajectoryField:
        """The field of an object that does not move: the identity at every time."""
        shape = FieldShape(layers=0, cells=4, time_features=1, input_scale=1.0, knots=1)
        return TrajectoryField(shape, root=RootMotion.still(torch.zeros(1)), centre=torch.zeros(3), half_size=1.0)

    @property
    def moves(self) -> bool:
        """Can anything move at all?"""
        return self.shape.layers > 0 or self.shape.knots > 1

    def moments(self, times: Tensor) -> Moments:
        """The field at times (T,), for moving several sets of points there."""
        return Moments(self, times)

    def _each(
        self, xyz: Tensor, t: float | Tensor, shape: tuple[int, ...], work: Callable[[Moments, _Runs], Tensor]
    ) -> Tensor:
        """`work` on the points (..., 3), put together by times; its rows of shape `shape` in the points' order."""
        if xyz.shape[-1] != 3:
            raise ValueError(f"xyz: wanted shape (..., 3), found {tuple(xyz.shape)}")
        times = torch.as_tensor(t, dtype=xyz.dtype, device=xyz.device)
        flat, outer = xyz.reshape(-1, 3), xyz.shape[:-1]
        if times.numel() == 1:
            runs = _Runs.even(flat.unsqueeze(0), torch.zeros(1, dtype=torch.int64, device=xyz.device))
            return work(self.moments(times.reshape(1)), runs).reshape(*outer, *shape)
        whole = times.dim() >= 2 and times.shape[-1] == 1 and times.shape[:-1] == outer[:-1]
        unique, back = torch.unique(times if whole else times.expand(outer), return_inverse=True)
        back = back.flatten()
        if whole and len(unique) <= _TIMES:
            runs = _Runs.even(flat.reshape(-1, outer[-1], 3), back)
            return work(self.moments(unique), runs).reshape(*outer, *shape)
        if whole:
            back = back.repeat_interleave(outer[-1])
        order = torch.argsort(back, stable=True)
        counts, found = torch.bincount(back, minlength=len(unique)), []
        for block in torch.arange(len(unique), device=xyz.device).split(_TIMES):
            first, count = int(counts[: block[0]].sum()), int(counts[block].sum())
            points = flat[order[first : first + count]]
            found.append(work(self.moments(unique[block]), _Runs(points, block - block[0], counts[block], None)))
        undo = torch.empty_like(order)
        undo[order] = torch.arange(len(order), device=xyz.device)
        out = torch.cat(found) if found else flat.new_zeros(0, *shape)
        return out[undo].reshape(*outer, *shape)

    def from_canonical(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """Canonical points (..., 3) -> world points (..., 3) at time t."""
        if not self.moves:
            return xyz
        return self._each(xyz, t, (3,), lambda moments, runs: moments._out(runs)[0])

    def to_canonical(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """World points (..., 3) at time t -> canonical points (..., 3)."""
        if not self.moves:
            return xyz
        return self._each(xyz, t, (3,), lambda moments, runs: moments._back(runs))

    def transport(self, xyz: Tensor, t_src: float | Tensor, t_dst: float | Tensor) -> Tensor:
        """World points at time `t_src` -> where they are at time `t_dst`."""
        return self.from_canonical(self.to_canonical(xyz, t_src), t_dst)

    def jacobian(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """d from_canonical / d xyz at canonical points (..., 3) -> (..., 3, 3), rows = world. Analytic, and itself
        differentiable."""
        if not self.moves:
            return torch.eye(3, dtype=xyz.dtype, device=xyz.device).expand(*xyz.shape, 3)
        learn = torch.is_grad_enabled()
        return self._each(
            xyz, t, (3, 3), lambda moments, runs: cast(Tensor, moments._out(runs, jacobian=True, learn=learn)[1])
        )

    def motion(self, xyz: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """`from_canonical` and `jacobian` of points (N, 3) at one time, in one go; the Jacobian is a constant."""
        if not self.moves:
            return xyz, self.jacobian(xyz, t)
        moments = self.moments(torch.as_tensor(t, dtype=xyz.dtype, device=xyz.device).reshape(1))
        runs = _Runs.even(xyz.unsqueeze(0), torch.zeros(1, dtype=torch.int64, device=xyz.device))
        moved, jacobian = moments._out(runs, jacobian=True)
        return moved, cast(Tensor, jacobian).detach()

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """What an optimiser is made of; each group's first rate is its `initial`. Finer splines learn more slowly, as
        what they do must add up to little, the time code, on which everything depends, at a fifth, and the poses of the
        root, which move all points at once, at a fiftieth; a root that was never fitted stays as it is."""
        tables = [(lr * 0.7**level, [table]) for level, table in enumerate(self.stack.tables)]
        groups = [*tables, (0.2 * lr, list(self.time_code.parameters())), (0.02 * lr, list(self.root.parameters()))]
        groups = groups[: -1 if self.root.is_still else None]
        return [{"params": parameters, "lr": rate, "initial": rate} for rate, parameters in groups]

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
