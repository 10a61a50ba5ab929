"""What mask making gives for each frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class FrameMask:
    """The mask of one frame.

    Attributes:
        frame: its index. mask: (H, W) bool of the full picture, True = object.
        score: in [0, 1], how sure it is. checks: what the score was made from. key: it was given, not found.
    """

    frame: int
    mask: np.ndarray
    score: float
    checks: dict[str, float] = field(default_factory=dict)
    key: bool = False
