"""Settings of the matching between frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FlowName = Literal["dis", "raft", "files"]
Matcher = Literal["flow", "r2d2", "flow+r2d2", "mast3r", "flow+mast3r"]
MATCHERS: tuple[Matcher, ...] = ("flow", "r2d2", "flow+r2d2", "mast3r", "flow+mast3r")

LARGEST_PATCH = 16  # the smallest window of the flow has 16 pixels; OpenCV reads beyond pictures smaller than a patch


@dataclass(frozen=True)
class MatchingConfig:
    """How pixels of one frame are found again in others."""

    matcher: Matcher = "flow"
    """Who matches. flow: optical flow. r2d2: descriptors of keypoints. flow+r2d2: flow, and descriptors between frames
    far apart. mast3r, flow+mast3r: the pair network of geometry.weights instead of R2D2."""
    weights: str = ""
    """Of R2D2: a file. Empty: those that come with dyn4d."""
    calibration: str = ""
    """What turns the words of each matcher into expected errors: a file of benchmarks/calibrate_matchers.py, for
    weights of your own. Empty: what comes with dyn4d."""
    far_strides: tuple[int, ...] = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
    """Descriptors match every frame with those this far after it."""
    descriptor_size: int = 384
    """Pixels to which the object's longest side is brought for the descriptors, a multiple of 16."""
    max_error: float = 3.0
    """Descriptor matches that are expected to be off by more than these pixels are left out."""
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
    """A match is dropped where the colours around its two ends differ by more than this (of 255) on average."""
    max_stretch: float = 4.0
    """A match is dropped where this many pixels of its frame end on one of the other, or one is pulled this far apart:
    there a part is hidden. Doubts add up, here and in the two limits above."""
    flow: FlowName = "dis"
    """Who finds the flow. dis: OpenCV, no weights. raft: the network of torchvision, with `flow_weights`. files: what
    is in the clip's folder flow, or in `flow_files`; dis where there is none."""
    flow_weights: str = ""
    """Of raft: a file, or large or small: torchvision's own, which it fetches once."""
    flow_files: str = ""
    """A folder of flow files, for files."""
    min_size: int = 360
    """Smaller objects are enlarged (at most 4 times) for the flow until their longest side has about these pixels."""
    max_size: int = 640
    """Larger objects are made smaller for the flow, to save time."""
    finest_scale: int = 1
    """Finest level of the flow's pyramid: 0 = full size, 1 = half."""
    patch_size: int = 8
    """Side of the patches of the inverse search, 4 to 16."""
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
        if self.patch_size > LARGEST_PATCH:
            raise ValueError(f"matching.patch_size: {self.patch_size}; wanted at most {LARGEST_PATCH}")
        for name in ("fb_px", "max_difference"):
            if not getattr(self, name) > 0:  # NaN is none
                raise ValueError(f"matching.{name}: {getattr(self, name)}; wanted more than 0")
        if not 1 < self.max_stretch < 1e12:
            raise ValueError(f"matching.max_stretch: {self.max_stretch}; wanted more than 1")
        if self.flow not in ("dis", "raft", "files"):
            raise ValueError(f"matching.flow: {self.flow!r}; wanted dis, raft or files")
        for name, owner in (("flow_weights", "raft"), ("flow_files", "files")):
            if getattr(self, name) and self.flow != owner:
                raise ValueError(f"matching.{name}: has no meaning with matching.flow {self.flow}; it is for {owner}")
        if self.max_size < self.min_size:
            raise ValueError(f"matching.max_size: {self.max_size}; wanted at least min_size = {self.min_size}")
        for name in ("strides", "far_strides"):
            if any(stride < 1 for stride in getattr(self, name)):
                raise ValueError(f"matching.{name}: {getattr(self, name)}; wanted numbers from 1")
        if self.matcher not in MATCHERS:
            raise ValueError(f"matching.matcher: {self.matcher!r}; wanted one of {', '.join(MATCHERS)}")
        for name, owners in (("weights", ("r2d2", "flow+r2d2")), ("calibration", MATCHERS[1:])):
            if getattr(self, name) and self.matcher not in owners:
                wanted = ", ".join(owners)
                raise ValueError(
                    f"matching.{name}: has no meaning with matching.matcher {self.matcher}; it is for {wanted}"
                )
        if self.descriptor_size < 64 or self.descriptor_size % 16:
            raise ValueError(f"matching.descriptor_size: {self.descriptor_size}; wanted a multiple of 16, from 64")
        if not self.max_error > 0:
            raise ValueError(f"matching.max_error: {self.max_error}; wanted more than 0")
