"""How a clip's frames are given to a pair network, and what is kept of its answers. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dyn4d.core.errors import InputError

VIEWS = ("whole", "full", "object", "square")
FILLS = ("none", "grey", "mean", "black", "white")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class PairConfig:
    """Settings of the pair network. The mask acts in three places, each with a switch of its own."""

    graph: str = "swin-4-noncyclic"
    """Which frames are looked at together: complete, swin[-WINDOW][-noncyclic], logwin[-WINDOW][-noncyclic] or
    oneref[-FRAME]."""
    prefilter: str = ""
    """seqN or cycN: leave out pairs of frames further apart than N. Empty: none."""
    size: int = 512
    """Longest side in pixels of what the network is given; a multiple of 16."""
    view: Literal["whole", "full", "object", "square"] = "whole"
    """whole = the frame, its longer sides' ends cut to a multiple of 16; full = all of the frame, each side scaled to
    a multiple of 16; object = the object's box and a margin, enlarged, with the intrinsics carried along; square = the
    same, widened to a square."""
    margin: float = 0.1
    """Of view = object or square: on each side, as a share of the box."""
    square_ok: bool = True
    """Give a square picture whole. The published networks never saw one in training; False cuts a quarter of its
    height, as their own loader does, and with it what is there of the object."""
    fill: Literal["none", "grey", "mean", "black", "white"] = "none"
    """Mask, first place: paint the background over before the network sees it; mean = the object's mean colour. With
    none the background is a hint to the network, without it nothing there can have an influence. The published
    networks were trained on whole pictures."""
    mask_confidence: bool = True
    """Mask, second place: points and confidences of the background do not count."""
    mask_matching: bool = True
    """Mask, third place: matches start, are looked for and end inside the object only."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 = encoder and decoders in half precision, heads in full; auto = bf16 where the processor multiplies
    matrices of it (CUDA, AMX)."""
    batch: int = 0
    """Pairs decoded at a time; 0 = by the free memory."""
    subsample: int = 8
    """Pixels between the seeds of the matching."""
    max_rounds: int = 10
    """How often a seed may go there and back."""
    border: int = 3
    """Matches closer than this many pixels to an edge of the view are dropped."""

    def __post_init__(self) -> None:
        if self.size < 16 or self.size % 16:
            raise InputError(f"geometry.pairs.size: {self.size}; wanted a multiple of 16")
        for name, known in (("view", VIEWS), ("fill", FILLS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise InputError(f"geometry.pairs.{name}: {getattr(self, name)!r}; wanted one of {', '.join(known)}")
        for name, low in (("margin", 0), ("batch", 0), ("subsample", 1), ("max_rounds", 1), ("border", 0)):
            if not getattr(self, name) >= low:
                raise InputError(f"geometry.pairs.{name}: {getattr(self, name)}; wanted a number from {low}")
