"""Matching of pictures larger than a network's input: first as a whole, made smaller, then window by window.

The coarse matches say which windows of the two pictures see the same thing. The fewest pairs of windows that hold most
of them are matched at full resolution, and the results are put together.

Source: Leroy et al., "Grounding Image Matching in 3D with MASt3R", ECCV 2024, section 3.4 (coarse-to-fine matching).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Matcher, Progress, SilentProgress
from dyn4d.core.types import Correspondences
from dyn4d.matching.image_size import PATCH, InputView
from dyn4d.matching.reciprocal import fast_reciprocal_matches

Describe = Callable[[np.ndarray, np.ndarray], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CoarseToFineConfig:
    """How large pictures are cut into windows."""

    size: int = 512
    """Longest side in pixels of what the network is given, the whole picture or a window; a multiple of 16."""
    aspect: float = 0.75
    """Short side of a window as a share of the long one."""
    overlap: float = 0.5
    """Share of a window that its neighbour sees too, at least."""
    coverage: float = 0.9
    """Window pairs are added until they hold this share of the coarse matches."""
    max_pairs: int = 0
    """At most this many window pairs; 0 = as many as it takes."""

    def __post_init__(self) -> None:
        if self.size < PATCH or self.size % PATCH:
            raise ValueError(f"coarse_to_fine.size: {self.size}; wanted a multiple of {PATCH}")
        if not 0 < self.aspect <= 1:
            raise ValueError(f"coarse_to_fine.aspect: {self.aspect}; wanted more than 0, at most 1")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"coarse_to_fine.overlap: {self.overlap}; wanted from 0, less than 1")
        if not 0 < self.coverage <= 1:
            raise ValueError(f"coarse_to_fine.coverage: {self.coverage}; wanted more than 0, at most 1")
        if self.max_pairs < 0:
            raise ValueError(f"coarse_to_fine.max_pairs: {self.max_pairs}; wanted a number from 0")


@dataclass(frozen=True)
class Window:
    """A part of a picture, in its pixels."""

    left: int
    top: int
    width: int
    height: int

    def cut(self, values: np.ndarray) -> np.ndarray:
        """The window of (H, W, ...)."""
        return values[self.top : self.top + self.height, self.left : self.left + self.width]

    def holds(self, xy: Tensor) -> Tensor:
        """(M,) bool of pixel coordinates (M, 2)."""
        x, y = xy[:, 0] - self.left, xy[:, 1] - self.top
        return (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows start along one side: the fewest that overlap enough, evenly spread, the last at the end."""
    if window >= length:
        return [0]
    steps = int(np.ceil((length - window) / max(window * (1 - overlap), 1.0)))
    return [round(k * (length - window) / steps) for k in range(steps + 1)]


def overlapping_windows(mask: np.ndarray, config: CoarseToFineConfig) -> list[Window]:
    """Windows that cover the picture, row by row, less those without object.

    They lie as the picture does (long side along its long side). A side shorter than the window's is covered by one
    or two windows of as many whole patches as it has.

    Args:
        mask: (H, W) bool, True = object.
    """
    height, width = mask.shape
    if min(height, width) < PATCH:
        raise InputError(f"a picture of {width} x {height} pixels: both sides need at least {PATCH}")
    short = max(round(config.size * config.aspect / PATCH), 1) * PATCH
    across, down = (config.size, short) if width >= height else (short, config.size)
    across, down = (min(window, side // PATCH * PATCH) for window, side in ((across, width), (down, height)))
    windows = [
        Window(left, top, across, down)
        for top in _starts(height, down, config.overlap)
        for left in _starts(width, across, config.overlap)
    ]
    return [window for window in windows if window.cut(mask).any()]


def choose_window_pairs(
    xy_a: Tensor, xy_b: Tensor, windows_a: list[Window], windows_b: list[Window], *, coverage: float, max_pairs: int = 0
) -> list[tuple[int, int]]:
    """Pairs of windows that hold both ends of coarse matches, the one with the most still uncovered first.

    Args:
        xy_a, xy_b: (M, 2) coarse matches in pixels of the full pictures.
        coverage: stop when this share of the matches that any pair holds is covered.
        max_pairs: stop after so many; 0 = no limit.

    Returns:
        (row of windows_a, row of windows_b) in the order of choice; ties go to the first.
    """
    if len(xy_a) == 0 or not windows_a or not windows_b:
        return []
    in_a = torch.stack([window.holds(xy_a) for window in windows_a]).float()
    in_b = torch.stack([window.holds(xy_b) for window in windows_b]).float()
    open_ = in_a.any(0) & in_b.any(0)
    total = int(open_.sum())
    chosen: list[tuple[int, int]] = []
    while total - int(open_.sum()) < coverage * total:
        counts = (in_a[:, open_] @ in_b[:, open_].T).flatten()  # whole numbers: exact in float32 below 16 million
        best = int(counts.argmax())
        pair = best // len(windows_b), best % len(windows_b)
        chosen.append(pair)
        open_ &= ~(in_a[pair[0]].bool() & in_b[pair[1]].bool())
        if len(chosen) == max_pairs:
            break
    return chosen


def merge_matches(parts: list[Correspondences]) -> Correspondences:
    """Matches of several window pairs of one pair of pictures as one set, at most one for each pixel of either.

    Where windows overlap the same pixel may be matched more than once. The heaviest match stays, the first of equals;
    matches are then sorted by pixel of a.
    """
    every = Correspondences.concatenate(parts)
    order = torch.argsort(every.weight, descending=True, stable=True)
    cells_a, cells_b = (xy.floor().long() for xy in (every.xy_a, every.xy_b))
    taken_a: set[tuple[int, int]] = set()
    taken_b: set[tuple[int, int]] = set()
    kept: list[tuple[int, int, int]] = []
    list_a, list_b = cells_a.tolist(), cells_b.tolist()
    for row in order.tolist():
        a, b = tuple(list_a[row]), tuple(list_b[row])
        if a not in taken_a and b not in taken_b:
            taken_a.add(a)
            taken_b.add(b)
            kept.append((a[1], a[0], row))
    return every.select(torch.tensor([row for _, _, row in sorted(kept)], dtype=torch.int64))


def _inside(matches: Correspondences, mask_a: np.ndarray, mask_b: np.ndarray) -> Correspondences:
    """The matches whose both ends are on the object."""
    keep = torch.ones(len(matches), dtype=torch.bool)
    for xy, mask in ((matches.xy_a, mask_a), (matches.xy_b, mask_b)):
        cell = xy.floor().long()
        inside = (cell[:, 0] >= 0) & (cell[:, 0] < mask.shape[1]) & (cell[:, 1] >= 0) & (cell[:, 1] < mask.shape[0])
        x, y = cell[:, 0].clamp(0, mask.shape[1] - 1), cell[:, 1].clamp(0, mask.shape[0] - 1)
        keep &= inside & torch.from_numpy(np.ascontiguousarray(mask))[y, x]
    return matches.select(keep)


def _moved(matches: Correspondences, xy_a: Tensor, xy_b: Tensor) -> Correspondences:
    return Correspondences(matches.frame_a, matches.frame_b, xy_a.float(), xy_b.float(), matches.weight)


def whole_view(width: int, height: int, size: int) -> InputView:
    """The whole picture, nothing cut off, with a long side of `size` and both sides multiples of 16. x and y may scale
    a little differently, which coarse matches can bear."""
    longest = max(width, height)
    across, down = (max(round(side * size / longest / PATCH), 1) * PATCH for side in (width, height))
    return InputView((width, height), (0, 0, width, height), (across, down), (0, 0, across, down))


def match_coarse_to_fine(
    matcher: Matcher,
    image_a: np.ndarray,
    image_b: np.ndarray,
    mask_a: np.ndarray | None = None,
    mask_b: np.ndarray | None = None,
    config: CoarseToFineConfig | None = None,
    *,
    progress: Progress | None = None,
) -> Correspondences:
    """Matches between two pictures of any size, at full resolution and inside both masks.

    Args:
        matcher: what finds matches between two pictures (H, W, 3) uint8 with masks (H, W) bool; both sides of what it
            is given are multiples of 16, the longest `config.size`. It is called once for the whole pictures and once
            for each chosen pair of windows.
        image_a, image_b: (H, W, 3) uint8. mask_a, mask_b: (H, W) bool, True = object; None = everything.
        progress: told of each pair of windows.

    Returns:
        Matches in pixels of the full pictures, frames as the matcher names them; no pixel is matched twice. Empty where
        a mask is, or where the whole pictures have no match.
    """
    config = config or CoarseToFineConfig()
    progress = progress or SilentProgress()
    images = image_a, image_b
    masks = [
        np.ones(image.shape[:2], dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
        for image, mask in zip(images, (mask_a, mask_b))
    ]
    for name, image, mask in zip("ab", images, masks):
        if image.shape[:2] != mask.shape:
            raise ValueError(f"mask_{name}: wanted shape {image.shape[:2]} as image_{name} has, found {mask.shape}")
    if not all(mask.any() for mask in masks):
        return Correspondences.empty()
    views = [whole_view(image.shape[1], image.shape[0], config.size) for image in images]
    small = [view.image(image) for view, image in zip(views, images)]
    # Nearest: a thin part may find no whole pixel of the small picture, and the fine masks are still to come.
    small_masks = [view.mask(mask, "nearest") for view, mask in zip(views, masks)]
    coarse = matcher(small[0], small[1], small_masks[0], small_masks[1])
    full = _moved(coarse, views[0].to_source(coarse.xy_a), views[1].to_source(coarse.xy_b))
    if all(max(image.shape[:2]) <= config.size for image in images):
        return merge_matches([_inside(full, masks[0], masks[1])])  # the network has seen all there is
    windows = [overlapping_windows(mask, config) for mask in masks]
    chosen = choose_window_pairs(
        full.xy_a, full.xy_b, windows[0], windows[1], coverage=config.coverage, max_pairs=config.max_pairs
    )
    parts: list[Correspondences] = []
    progress.start("windows", len(chosen))
    for row_a, row_b in chosen:
        a, b = windows[0][row_a], windows[1][row_b]
        found = matcher(a.cut(image_a), b.cut(image_b), a.cut(masks[0]), b.cut(masks[1]))
        corner_a, corner_b = torch.tensor([a.left, a.top]), torch.tensor([b.left, b.top])
        parts.append(_inside(_moved(found, found.xy_a + corner_a, found.xy_b + corner_b), masks[0], masks[1]))
        progress.update(matches=float(len(found)))
    progress.finish()
    return merge_matches(parts)


@dataclass(frozen=True)
class DescriptorMatcher:
    """Makes a `Matcher` of a function that describes the pixels of two pictures.

    Attributes:
        describe: two pictures (H, W, 3) uint8 → descriptors (Ha, Wa, D), (Hb, Wb, D).
        subsample, border: see `fast_reciprocal_matches`.
    """

    describe: Describe
    subsample: int = 8
    border: int = 0

    def __call__(
        self, frame_a: np.ndarray, frame_b: np.ndarray, mask_a: np.ndarray, mask_b: np.ndarray
    ) -> Correspondences:
        """Matches from picture 0 to picture 1, all of weight 1, at pixel centres."""
        desc_a, desc_b = self.describe(frame_a, frame_b)
        found = fast_reciprocal_matches(
            desc_a, desc_b, mask_a=mask_a, mask_b=mask_b, subsample=self.subsample, border=self.border
        )
        count = len(found.xy_a)
        frame = torch.zeros(count, dtype=torch.int64)
        xy_a, xy_b = (xy.cpu().float() + 0.5 for xy in found)
        return Correspondences(frame, frame + 1, xy_a, xy_b, torch.ones(count))
