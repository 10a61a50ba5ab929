"""Settings of the matching between frames."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MatchingConfig:
    """How pixels of one frame are found again in others."""

    window: int = 6
    """Every frame is matched with this many frames after it."""
    strides: tuple[int, ...] = (8, 12, 16, 24)
    """And with the frames this far after it, for motion seen over a longer time."""
    max_per_pair: int = 2500
    """At most this many matches are kept for each ordered pair of frames, drawn evenly over the mask."""
    fb_px: float = 1.0
    """A match is kept if going there and back again ends within this many pixels of the clip."""
    fb_relative: float = 0.01
    """Added to `fb_px` for each pixel that the match moves (beyond the shift of the whole object)."""
    max_difference: float = 24.0
    """A match is dropped where the grey values around its two ends differ by more than this (of 255) on average."""
    min_size: int = 360
    """Smaller objects are enlarged (at most 4 times) for the flow until their longest side has about these pixels."""
    max_size: int = 640
    """Larger objects are made smaller for the flow, to save time."""
    finest_scale: int = 1
    """Finest level of the flow's pyramid: 0 = full size, 1 = half."""
    patch_size: int = 8
    """Side of the patches of the inverse search."""
    refinement: int = 5
    """Variational refinement steps on each level."""
    threads: int = 2
    """Frames matched at the same time."""

    def __post_init__(self) -> None:
        for name, low in (("window", 0), ("max_per_pair", 1), ("min_size", 16), ("max_size", 32), ("finest_scale", 0),
                          ("patch_size", 4), ("refinement", 0), ("threads", 1)):  # fmt: skip
            if getattr(self, name) < low:
                raise ValueError(f"matching.{name}: {getattr(self, name)}; wanted at least {low}")
        for name in ("fb_px", "fb_relative"):
            if not 0 <= getattr(self, name) < 1e6:
                raise ValueError(f"matching.{name}: {getattr(self, name)}; wanted a number from 0")
        for name in ("fb_px", "max_difference"):
            if getattr(self, name) <= 0:
                raise ValueError(f"matching.{name}: {getattr(self, name)}; wanted more than 0")
        if self.max_size < self.min_size:
            raise ValueError(f"matching.max_size: {self.max_size}; wanted at least min_size = {self.min_size}")
        if any(stride < 1 for stride in self.strides):
            raise ValueError(f"matching.strides: {self.strides}; wanted numbers from 1")
