"""What one package asks of another, without importing it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.types import Correspondences


@runtime_checkable
class Field(Protocol):
    """A map between the world at time t and one canonical space. `t` is a number, or a tensor that broadcasts against
    the leading dimensions of `xyz` (..., 3); time runs over [0, 1].

    `invertible`: `to_canonical` undoes `from_canonical`; else it only searches for a point that goes near.
    """

    invertible: bool

    def from_canonical(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """Canonical points (..., 3) -> world points (..., 3) at time t."""
        ...

    def to_canonical(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """World points at time t (..., 3) -> canonical points (..., 3)."""
        ...

    def jacobian(self, xyz: Tensor, t: float | Tensor) -> Tensor:
        """d from_canonical / d xyz at canonical points (..., 3) -> (..., 3, 3); world rows, canonical columns."""
        ...

    def motion(self, xyz: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """`from_canonical` and `jacobian` of canonical points (N, 3) at one time, in one go. The Jacobian is a constant
        unless the field learns it apart from the motion."""
        ...


class Matcher(Protocol):
    """Finds the same points in two pictures, inside both masks."""

    def __call__(
        self, frame_a: np.ndarray, frame_b: np.ndarray, mask_a: np.ndarray, mask_b: np.ndarray
    ) -> Correspondences: ...


class Progress(Protocol):
    """Where long work says how far it is. `update(loss=…)` moves on by one."""

    def start(self, label: str, total: int, done: int = 0) -> None: ...

    def update(self, **values: float) -> None: ...

    def finish(self) -> None: ...

    def note(self, line: str) -> None:
        """One line for the user: what was chosen and why."""
        ...


class SilentProgress:
    """Says nothing: for tests and library use."""

    def start(self, label: str, total: int, done: int = 0) -> None: ...

    def update(self, **values: float) -> None: ...

    def finish(self) -> None: ...

    def note(self, line: str) -> None: ...


def resolve_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda`, `cuda:1` … name. Raises `InputError` where it is not there."""
    from dyn4d.core.errors import InputError

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: no such kind of device; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {name}: this machine has no CUDA device that torch can use; use --device cpu")
    return device
