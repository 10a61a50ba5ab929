"""Settings of the geometry stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dyn4d.geometry.pair_config import PairConfig


@dataclass(frozen=True)
class GeometryConfig:
    """Where the object's points and the cameras come from."""

    source: Literal["auto", "rgbd", "mast3r", "pointmaps"] = "auto"
    """auto = rgbd where the clip has depth maps, mast3r where it has none and weights are given."""
    weights: str = ""
    """Of mast3r: a file or folder of weights, or a model's id on the hub."""
    anchor: Literal["auto", "background", "object"] = "auto"
    """What holds the cameras where they are solved: what is around the object, or the object itself, whose rigid motion
    then goes into the poses. auto = poses that are given; else the background where there is enough of it."""
    pairs: PairConfig = field(default_factory=PairConfig)
    """Of mast3r: how the network is shown the frames."""
    alignment: Literal["sparse", "mast3r", "dust3r"] = "sparse"
    """Of mast3r: sparse = ours, on matches and relative poses, with priors; mast3r and dust3r = the published ones."""
    fusions: int = 2
    """Of the sparse alignment: how often all passes' depths are brought together and the poses refined again."""
    subsample: int = 8
    """Of the sparse alignment: pixels between anchors, whose depths are refined."""
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
        if self.anchor not in ("auto", "background", "object"):
            raise ValueError(f"geometry.anchor: {self.anchor!r}; wanted auto, background or object")
        if self.alignment not in ("sparse", "mast3r", "dust3r"):
            raise ValueError(f"geometry.alignment: {self.alignment!r}; wanted sparse, mast3r or dust3r")
        for name, low in (("fusions", 0), ("subsample", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"geometry.{name}: {getattr(self, name)}; wanted a number from {low}")
        if not 0 < self.max_slope_deg < 90:
            raise ValueError(f"geometry.max_slope_deg: {self.max_slope_deg}; wanted an angle between 0 and 90")
        if self.erode < 0:
            raise ValueError(f"geometry.erode: {self.erode}; wanted a number from 0")
        if not 0 <= self.min_conf < 1:
            raise ValueError(f"geometry.min_conf: {self.min_conf}; wanted a number from 0, below 1")
