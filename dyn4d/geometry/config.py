"""Settings of the geometry stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GeometryConfig:
    """Where the object's points and the cameras come from."""

    source: Literal["auto", "rgbd", "mast3r", "pointmaps"] = "auto"
    """auto = rgbd where the clip has depth maps."""
    max_slope_deg: float = 82.0
    """Two neighbouring pixels lie on one surface unless it would be turned from the camera by more than this angle."""
    erode: int = 0
    """Drop this many more pixels around each jump in depth (noisy sensors)."""
    min_conf: float = 0.02
    """Points of less confidence are dropped."""

    def __post_init__(self) -> None:
        sources = ("auto", "rgbd", "mast3r", "pointmaps")
        if self.source not in sources:
            raise ValueError(f"geometry.source: {self.source!r}; wanted one of {', '.join(sources)}")
        if not 0 < self.max_slope_deg < 90:
            raise ValueError(f"geometry.max_slope_deg: {self.max_slope_deg}; wanted an angle between 0 and 90")
        if self.erode < 0:
            raise ValueError(f"geometry.erode: {self.erode}; wanted a number from 0")
        if not 0 <= self.min_conf < 1:
            raise ValueError(f"geometry.min_conf: {self.min_conf}; wanted a number from 0, below 1")
