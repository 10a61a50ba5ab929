"""What is known of a clip once a pair network has looked at it: the frames as it saw them, and each pair's outcome.

Only pixels that count are kept, as packed lists, so that the background cannot enter an average: it is not there. A
mask is a boolean beside the confidence and never a confidence value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.checks import check_shape
from dyn4d.matching.image_size import InputView


@dataclass(frozen=True)
class PairFrame:
    """One frame of a clip as a pair network is given it.

    Attributes:
        view: how it was cut out of the clip's picture, and the way back.
        image: (H, W, 3) uint8 sRGB, H and W multiples of 16; filled outside the object if that was asked for.
        kept: (H, W) bool, pixels whose points and confidences count.
        matched: (H, W) bool, pixels that may be matched.
        K: (3, 3) float64 intrinsics in pixels of the view, half-integer pixel centres; None where unknown.
    """

    view: InputView
    image: np.ndarray
    kept: np.ndarray
    matched: np.ndarray
    K: Tensor | None = None

    def __post_init__(self) -> None:
        size = self.view.height, self.view.width
        for label, wanted in (("image", (*size, 3)), ("kept", size), ("matched", size)):
            found = getattr(self, label).shape
            if found != wanted:
                raise ValueError(f"PairFrame.{label}: wanted shape {wanted}, found {found}")

    @property
    def width(self) -> int:
        return self.view.width

    @property
    def height(self) -> int:
        return self.view.height

    @property
    def pixels(self) -> Tensor:
        """(P,) int64 flat index (row * width + column) of each kept pixel, ascending: the order of `PairResult`."""
        return torch.from_numpy(np.flatnonzero(self.kept))


@dataclass(frozen=True)
class PairResult:
    """What a network said of the frames a and b, in both orders, at the pixels that count, and what was matched.

    `b_in_a` are the points of b's pixels in a's camera. a's camera is that of the pass (a, b), b's that of (b, a); the
    two passes have scales of their own.

    Attributes:
        frame_a, frame_b: rows in the clip's selected frames, frame_a ≠ frame_b.
        a_in_a, a_in_b: (Pa, 3), b_in_a, b_in_b: (Pb, 3) float32, in the order of `PairFrame.pixels`.
        conf_a_in_a, ...: (P,) float32 confidence of these points, above 1.
        xy_a, xy_b: (M, 2) int64 (column, row) of matched pixels of the views, each pair once.
        weight: (M,) float32 > 0, confidence of the match.
    """

    frame_a: int
    frame_b: int
    a_in_a: Tensor
    b_in_a: Tensor
    b_in_b: Tensor
    a_in_b: Tensor
    conf_a_in_a: Tensor
    conf_b_in_a: Tensor
    conf_b_in_b: Tensor
    conf_a_in_b: Tensor
    xy_a: Tensor
    xy_b: Tensor
    weight: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for side in "ab":
            for camera in "ab":
                for label, shape in ((f"{side}_in_{camera}", (f"P{side}", 3)),
                                     (f"conf_{side}_in_{camera}", (f"P{side}",))):  # fmt: skip
                    check_shape(f"PairResult.{label}", getattr(self, label), shape, sizes)
        for label, shape in (("xy_a", ("M", 2)), ("xy_b", ("M", 2)), ("weight", ("M",))):
            check_shape(f"PairResult.{label}", getattr(self, label), shape, sizes)
        if self.frame_a == self.frame_b:
            raise ValueError(f"PairResult: frame {self.frame_a} with itself")

    def swapped(self) -> PairResult:
        """The same with a and b exchanged."""
        return PairResult(
            self.frame_b, self.frame_a, self.b_in_b, self.a_in_b, self.a_in_a, self.b_in_a,
            self.conf_b_in_b, self.conf_a_in_b, self.conf_a_in_a, self.conf_b_in_a, self.xy_b, self.xy_a, self.weight,
        )  # fmt: skip


class PairResults(Protocol):
    """The results of a clip, one for each unordered pair; those on disk are read when asked for."""

    @property
    def pairs(self) -> Sequence[tuple[int, int]]:
        """(frame_a, frame_b) of each result."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> PairResult: ...

    def __iter__(self) -> Iterator[PairResult]: ...


@dataclass(frozen=True)
class PairResultList:
    """Results that are all in memory."""

    results: tuple[PairResult, ...]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [(result.frame_a, result.frame_b) for result in self.results]

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> PairResult:
        return self.results[index]

    def __iter__(self) -> Iterator[PairResult]:
        return iter(self.results)
