"""Muon (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024): steps of matrices whose
directions all count alike. A small pair network learns shapes from far fewer views so than with AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

STEPS = 5  # of Newton and Schulz's iteration
QUINTIC = (3.4445, -4.7750, 2.0315)  # its polynomial: steepest at 0 of those that keep what is in [0, 1] near 1


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix U V' near a matrix U S V' (M, N): singular values of some 0.7 to 1.2, whatever they were; 0 of 0."""
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class Muon(Optimizer):
    """Nesterov's momentum, orthogonalised, for parameters of two dimensions and more: those of a convolution are taken
    as a matrix of one row for each channel that comes out.

    Args:
        rate: length of a step, as the largest singular value of a square matrix. momentum: share that stays. decay: of
            the weights, times the rate, in each step.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], rate: float, *, momentum: float = 0.95, decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": rate, "momentum": momentum, "weight_decay": decay})
        if any(p.dim() < 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("Muon: wanted parameters of two dimensions and more; leave the rest to another optimiser")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step. Parameters without a gradient are left alone."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(parameter)
        mean = state["mean"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(mean, group["momentum"]).flatten(1)
        rows, columns = ahead.shape
        direction = orthogonalised(ahead).view(parameter.shape) * max(1.0, rows / columns) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
