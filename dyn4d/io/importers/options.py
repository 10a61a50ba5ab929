"""What a reader of another format may be told. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dyn4d.core.errors import InputError

Background = Literal["white", "black", "grey"]
PixelCentre = Literal["integer", "half-integer"]
DEFAULT_FPS = 24.0


@dataclass(frozen=True)
class ImportOptions:
    """Choices that a source leaves open. The help texts are those of `dyn4d import --help`.

    Attributes:
        fps: of sources without times, their frames a second; of timed ones, how many a second to take at most.
        sequence: of a data set with several. images: folder of the pictures, where they are not found.
        masks: folder or video of masks. object_id: labels of the object in label pictures; empty: everything labelled.
        image_scale: of sources that hold pictures in several sizes, such as 2 for `rgb/2x`.
        intrinsics: fx, fy, cx, cy in pixels, where the source has none; `pixel_centre` says what they count from.
        depth_div: units of integer depth in one world unit, where the source's own definition is not followed.
        min_confidence: depth below it is left out, where the source rates it 0 (low) to 2 (high).
    """

    fps: float | None = None
    sequence: str | None = None
    images: str | None = None
    masks: str | None = None
    object_id: tuple[int, ...] = ()
    image_scale: int | None = None
    intrinsics: tuple[float, ...] = ()
    pixel_centre: PixelCentre = "integer"
    depth_div: float | None = None
    min_confidence: int = 1

    def __post_init__(self) -> None:
        if self.fps is not None and not self.fps > 0:
            raise InputError(f"--fps {self.fps}: wanted a number above 0")
        if self.depth_div is not None and not self.depth_div > 0:
            raise InputError(f"--depth-div {self.depth_div}: wanted a number above 0")
        if self.intrinsics and (len(self.intrinsics) != 4 or min(self.intrinsics[:2]) <= 0):
            raise InputError(f"--intrinsics {self.intrinsics}: wanted FX FY CX CY in pixels, the first two above 0")
        if not 0 <= self.min_confidence <= 2:
            raise InputError(f"--min-confidence {self.min_confidence}: wanted 0, 1 or 2")
