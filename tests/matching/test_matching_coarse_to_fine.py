"""Coarse-to-fine matching with made-up descriptors: where windows lie, which are chosen, what comes out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.types import Correspondences
from dyn4d.matching.coarse_to_fine import (
    CoarseToFineConfig,
    DescriptorMatcher,
    Window,
    choose_window_pairs,
    match_coarse_to_fine,
    merge_matches,
    overlapping_windows,
)

SHIFT = (37, 22)  # of the second picture against the first, columns and rows


def waves(count: int = 24) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(2, count, generator=random) * 9, torch.rand(count, generator=random) * 6.3


def coloured(height: int, width: int, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """A picture whose colours say where in the scene each pixel is: to the pixel, and smooth to the eye of a resize."""
    y, x = np.mgrid[:height, :width] + 0.5
    position = np.stack([(x + shift[0]) / 700, (y + shift[1]) / 700, np.zeros_like(x)], -1)
    return np.rint(position * 255).clip(0, 255).astype(np.uint8)


def describe_colours(a: np.ndarray, b: np.ndarray) -> tuple[Tensor, Tensor]:
    """Random Fourier features of the colours: near in colour = near in the scene = large product."""
    frequency, phase = waves()

    def one(image: np.ndarray) -> Tensor:
        colour = torch.from_numpy(image[..., :2].copy()).float() / 255
        return torch.nn.functional.normalize(torch.cos(colour @ frequency + phase), dim=-1)

    return one(a), one(b)


def true_offset(found: Correspondences) -> Tensor:
    """(M, 2) how far each match is from where it should be, in pixels."""
    return found.xy_a - found.xy_b - torch.tensor(SHIFT)


class Spy:
    """A matcher that remembers what it was given."""

    def __init__(self, subsample: int = 8) -> None:
        self.inner = DescriptorMatcher(describe_colours, subsample=subsample)
        self.sizes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __call__(
        self, frame_a: np.ndarray, frame_b: np.ndarray, mask_a: np.ndarray, mask_b: np.ndarray
    ) -> Correspondences:
        assert frame_a.shape[:2] == mask_a.shape and frame_b.shape[:2] == mask_b.shape
        self.sizes.append((frame_a.shape[:2], frame_b.shape[:2]))
        return self.inner(frame_a, frame_b, mask_a, mask_b)


CONFIG = CoarseToFineConfig(size=128)


def disc(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def test_large_pictures_are_matched_at_full_resolution() -> None:
    a, b = coloured(300, 420), coloured(300, 420, SHIFT)
    mask_a, mask_b = disc(300, 420, 200, 150, 90), disc(300, 420, 200 - SHIFT[0], 150 - SHIFT[1], 90)
    spy = Spy()
    found = match_coarse_to_fine(spy, a, b, mask_a, mask_b, CONFIG)
    assert spy.sizes[0] == ((96, 128), (96, 128)) and len(spy.sizes) > 2
    assert all(max(*sa, *sb) <= 128 and not any(side % 16 for side in (*sa, *sb)) for sa, sb in spy.sizes)
    coarse = spy.inner(a[::3, ::3].copy(), b[::3, ::3].copy(), mask_a[::3, ::3], mask_b[::3, ::3])
    assert len(found) > 2 * len(coarse)
    assert true_offset(found).abs().max() < 4  # 8-bit colours tell 2.7 pixels apart
    assert mask_a[found.xy_a[:, 1].long(), found.xy_a[:, 0].long()].all()
    assert mask_b[found.xy_b[:, 1].long(), found.xy_b[:, 0].long()].all()
    for xy in (found.xy_a, found.xy_b):
        assert len(torch.unique(xy.floor(), dim=0)) == len(xy)
    assert found.frame_a.unique().tolist() == [0] and found.frame_b.unique().tolist() == [1]


def test_masks_save_windows() -> None:
    a, b = coloured(300, 420), coloured(300, 420, SHIFT)
    full, masked = Spy(), Spy()
    match_coarse_to_fine(full, a, b, config=CONFIG)
    small = disc(300, 420, 200, 150, 40)
    match_coarse_to_fine(masked, a, b, small, np.roll(small, (-SHIFT[1], -SHIFT[0]), (0, 1)), CONFIG)
    assert len(masked.sizes) < len(full.sizes) / 2


def test_small_pictures_are_looked_at_once() -> None:
    spy = Spy()
    found = match_coarse_to_fine(spy, coloured(96, 128), coloured(96, 128, SHIFT), config=CONFIG)
    assert len(spy.sizes) == 1 and len(found) > 0
    assert true_offset(found).abs().max() < 4


@pytest.mark.parametrize("empty", [0, 1])
def test_an_empty_mask_has_no_matches(empty: int) -> None:
    masks = [np.ones((200, 200), dtype=bool), np.ones((200, 200), dtype=bool)]
    masks[empty][:] = False
    spy = Spy()
    assert len(match_coarse_to_fine(spy, coloured(200, 200), coloured(200, 200), *masks, config=CONFIG)) == 0
    assert not spy.sizes


def test_no_coarse_match_is_no_match() -> None:
    def nothing(frame_a: np.ndarray, frame_b: np.ndarray, mask_a: np.ndarray, mask_b: np.ndarray) -> Correspondences:
        return Correspondences.empty()

    assert len(match_coarse_to_fine(nothing, coloured(200, 300), coloured(300, 200), config=CONFIG)) == 0


def test_one_pixel_of_object() -> None:
    mask = np.zeros((300, 420), dtype=bool)
    mask[299, 419] = True
    found = match_coarse_to_fine(Spy(), coloured(300, 420), coloured(300, 420), mask, mask, CONFIG)
    assert found.xy_a.tolist() in ([], [[419.5, 299.5]])


@given(st.integers(16, 500), st.integers(16, 500), st.sampled_from([0.0, 0.3, 0.5]), st.sampled_from([64, 128]))
def test_windows_cover_the_picture(height: int, width: int, overlap: float, size: int) -> None:
    config = CoarseToFineConfig(size=size, overlap=overlap)
    windows = overlapping_windows(np.ones((height, width), dtype=bool), config)
    seen = np.zeros((height, width), dtype=int)
    for window in windows:
        assert window.width % 16 == window.height % 16 == 0 and max(window.width, window.height) <= size
        assert window.cut(seen).shape == (window.height, window.width)
        window.cut(seen)[:] += 1
    assert seen.min() >= 1
    lefts = sorted({w.left for w in windows})
    assert all(after - before <= max(windows[0].width * (1 - overlap), 1) + 0.5 for before, after in pairwise(lefts))


def test_windows_without_object_are_left_out() -> None:
    mask = np.zeros((300, 420), dtype=bool)
    mask[0, 0] = True
    assert overlapping_windows(mask, CONFIG) == [Window(0, 0, 128, 96)]
    with pytest.raises(InputError, match="at least 16"):
        overlapping_windows(np.ones((10, 300), dtype=bool), CONFIG)


def test_the_fewest_pairs_that_cover_are_chosen() -> None:
    windows = [Window(0, 0, 10, 10), Window(5, 0, 10, 10), Window(20, 0, 10, 10)]
    xy = torch.tensor([[1.5, 1], [6, 1], [7, 1], [8, 1], [12, 1], [25, 1]])
    assert choose_window_pairs(xy, xy, windows, windows, coverage=1.0) == [(0, 0), (1, 1), (2, 2)]
    assert choose_window_pairs(xy, xy, windows, windows, coverage=0.6) == [(0, 0)]
    assert choose_window_pairs(xy, xy, windows, windows, coverage=0.8) == [(0, 0), (1, 1)]
    assert choose_window_pairs(xy, xy, windows, windows, coverage=1.0, max_pairs=2) == [(0, 0), (1, 1)]
    assert choose_window_pairs(xy[:0], xy[:0], windows, windows, coverage=0.9) == []
    outside = torch.tensor([[500.0, 1]])
    assert choose_window_pairs(outside, outside, windows, windows, coverage=0.9) == []


@given(st.integers(0, 1000), st.sampled_from([0.5, 0.9, 1.0]))
def test_chosen_pairs_cover_what_was_asked(seed: int, coverage: float) -> None:
    random = torch.Generator().manual_seed(seed)
    xy_a, xy_b = (torch.rand(60, 2, generator=random) * torch.tensor([420.0, 300.0]) for _ in range(2))
    windows = overlapping_windows(np.ones((300, 420), dtype=bool), CONFIG)
    chosen = choose_window_pairs(xy_a, xy_b, windows, windows, coverage=coverage)
    covered = torch.stack([windows[i].holds(xy_a) & windows[j].holds(xy_b) for i, j in chosen]).any(0)
    assert covered.float().mean() >= coverage - 1e-6
    assert len(set(chosen)) == len(chosen)


def test_merging_keeps_the_heaviest_match_of_a_pixel() -> None:
    def matches(rows: list[tuple[float, float, float, float, float]]) -> Correspondences:
        table = torch.tensor(rows)
        frame = torch.zeros(len(rows), dtype=torch.int64)
        return Correspondences(frame, frame + 1, table[:, :2], table[:, 2:4], table[:, 4])

    one = matches([(3.5, 1.5, 4.5, 1.5, 0.5), (8.5, 1.5, 9.5, 1.5, 0.7)])
    other = matches([(3.5, 1.5, 4.5, 1.5, 0.9), (8.5, 1.5, 2.5, 2.5, 0.6), (1.5, 2.5, 4.5, 1.5, 0.1)])
    merged = merge_matches([one, other])
    assert merged.xy_a.tolist() == [[3.5, 1.5], [8.5, 1.5]]
    assert merged.xy_b.tolist() == [[4.5, 1.5], [9.5, 1.5]]
    assert merged.weight.tolist() == pytest.approx([0.9, 0.7])
    assert len(merge_matches([])) == 0


@pytest.mark.parametrize("changes", [{"size": 100}, {"aspect": 0}, {"overlap": 1}, {"coverage": 0}, {"max_pairs": -1}])
def test_settings_out_of_range_name_the_field(changes: dict) -> None:
    with pytest.raises(ValueError, match=f"coarse_to_fine.{next(iter(changes))}"):
        CoarseToFineConfig(**changes)
