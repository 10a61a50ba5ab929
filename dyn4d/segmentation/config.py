"""Settings of mask making. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MaskConfig:
    """How an object is followed through a clip."""

    size: int = 384
    """Longest side in pixels at which the object is followed; edges are then fitted to the full pictures."""
    carried: float = 0.6
    """Weight of the labels that optical flow brings along."""
    colours: float = 1.0
    """Weight of what colours say, learnt from the frame before and the key frame."""
    motion: float = 0.5
    """Weight of what departures from the camera's motion say."""
    motion_gap: int = 4
    """Frames over which those departures are looked for, to both sides."""
    palette: int = 64
    """Colours that are told apart."""
    radius: float = 0.1
    """Over which colours are learnt around a place, as a share of the object's size."""
    strength: float = 1.0
    """How strongly neighbours of like colour hold together."""
    contrast: float = 1.5
    """Differences of this many times the usual one count as edges."""
    min_score: float = 0.8
    """Frames with a lower score are named, and are to be looked at."""

    def __post_init__(self) -> None:
        if not 64 <= self.size <= 4096:
            raise ValueError(f"size: {self.size}; wanted 64 to 4096 pixels")
        for name in ("carried", "colours", "motion", "strength"):
            if not 0 <= getattr(self, name) < 1e3:
                raise ValueError(f"{name}: {getattr(self, name)}; wanted a number from 0")
        for name in ("radius", "contrast"):
            if not 0 < getattr(self, name) < 1e3:
                raise ValueError(f"{name}: {getattr(self, name)}; wanted more than 0")
        if not 2 <= self.palette <= 1024:
            raise ValueError(f"palette: {self.palette}; wanted 2 to 1024 colours")
        if self.motion_gap < 1:
            raise ValueError(f"motion_gap: {self.motion_gap}; wanted at least 1 frame")
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score: {self.min_score}; wanted 0 to 1")
