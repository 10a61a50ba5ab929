"""One brightness a frame and channel, for cameras that adapt theirs while they film."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Exposure(nn.Module):
    """Gains of T frames, all 1 when made. Their geometric mean over the frames stays 1, so that the Gaussians keep the
    clip's mean brightness.

    Attributes:
        log_gains: (T, 3) before the mean is taken off.
    """

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.log_gains = nn.Parameter(torch.zeros(frames, 3))

    def gains(self) -> Tensor:
        """(T, 3), differentiable."""
        return (self.log_gains - self.log_gains.mean(0)).exp()

    def optimiser(self, lr: float = 5e-3) -> torch.optim.Adam:
        """For training along with the Gaussians."""
        return torch.optim.Adam(self.parameters(), lr=lr, betas=(0.9, 0.99))
