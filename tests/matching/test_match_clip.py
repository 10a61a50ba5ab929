from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dyn4d.core.types import Clip, Correspondences, Timeline
from dyn4d.matching import flow as flow_module
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow import match_clip

SIZE = 96
CONFIG = MatchingConfig(window=2, strides=(3,), min_size=128, max_per_pair=400)


def texture(seed: int, size: int = 200) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(size, size, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255)


def shifted(picture: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """(SIZE, SIZE) window of `picture` whose content moved by (dx, dy)."""
    move = np.array([[1, 0, dx - 40], [0, 1, dy - 40]], dtype=np.float64)
    return cv2.warpAffine(picture, move, (SIZE, SIZE), flags=cv2.INTER_CUBIC)


def square(cx: float, cy: float, half: float) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    return (np.abs(x - cx) < half) & (np.abs(y - cy) < half)


def make_clip(images: list[np.ndarray], masks: list[np.ndarray]) -> Clip:
    count = len(images)
    times = np.linspace(0, 1, count) if count > 1 else np.zeros(1)
    timeline = Timeline(times, times, tuple(f"{i:05d}" for i in range(count)))
    pictures = [np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in images]
    return Clip("test", Path("test"), pictures, masks, np.arange(count), timeline, SIZE, SIZE)


def moving_square(shift: tuple[float, float], count: int = 4) -> Clip:
    """A textured square that moves by `shift` a frame over a textured background that stands still."""
    front, back = texture(0), texture(1)
    images, masks = [], []
    for i in range(count):
        dx, dy = i * shift[0], i * shift[1]
        mask = square(44 + dx, 46 + dy, 22)
        images.append(np.where(mask[..., None], shifted(front, dx, dy), shifted(back, 0, 0)))
        masks.append(mask)
    return make_clip(images, masks)


def same(a: Correspondences, b: Correspondences) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Correspondences))


@pytest.mark.parametrize("shift", [(2.4, -1.3), (0.0, 0.0), (-4.0, 3.5)])
def test_a_translation_is_found_to_a_fraction_of_a_pixel(shift: tuple[float, float]) -> None:
    matches = match_clip(moving_square(shift), CONFIG)
    gap = (matches.frame_b - matches.frame_a).float()
    error = matches.xy_b - matches.xy_a - gap[:, None] * torch.tensor(shift)
    length = error.norm(dim=-1)
    assert len(matches) == 2 * 400 * 6  # every ordered pair of this easy clip is full
    assert length.median() < 0.1
    assert length.quantile(0.95) < 0.5


def test_columns_keep_their_promises() -> None:
    clip = moving_square((1.0, 2.0))
    matches = match_clip(clip, CONFIG)
    key = matches.frame_a * 100 + matches.frame_b
    assert bool((key.diff() >= 0).all())
    assert set(key.unique().tolist()) == {a * 100 + b for a in range(4) for b in range(4) if a != b}
    assert matches.xy_a.dtype == torch.float32 and matches.weight.dtype == torch.float32
    assert torch.equal(matches.xy_a % 1, torch.full_like(matches.xy_a, 0.5))
    assert float(matches.weight.min()) > 0 and float(matches.weight.max()) <= 1


def test_background_never_matches() -> None:
    clip = moving_square((5.0, 1.5))
    matches = match_clip(clip, CONFIG)
    for frame, xy in ((matches.frame_a, matches.xy_a), (matches.frame_b, matches.xy_b)):
        cell = xy.floor().long()
        inside = [bool(clip.masks[int(f)][int(y), int(x)]) for f, (x, y) in zip(frame, cell)]
        assert all(inside)


def test_the_checks_drop_what_is_hidden() -> None:
    # a textured patch slides 6 px over a textured body that stands still: the strip it moves onto is hidden
    front, cover, mask = texture(0), texture(5), square(48, 48, 38)
    images, patches = [], []
    for dx in (0.0, 6.0):
        patch = square(42 + dx, 48, 14)
        images.append(np.where(patch[..., None], shifted(cover, dx, 0), shifted(front, 0, 0)))
        patches.append(patch)
    clip = make_clip(images, [mask, mask])
    hidden = patches[1] & ~patches[0]
    small = np.ones((9, 9), np.uint8)
    seen = cv2.erode((mask & ~patches[0] & ~patches[1]).astype(np.uint8), small) > 0
    slid = cv2.erode(patches[0].astype(np.uint8), small) > 0

    def shares(**changes: float) -> list[float]:
        matches = match_clip(clip, replace(CONFIG, max_per_pair=10**6, **changes))
        cell = matches.xy_a[matches.frame_a == 0].floor().long()
        return [float(torch.from_numpy(m)[cell[:, 1], cell[:, 0]].sum() / m.sum()) for m in (hidden, seen, slid)]

    unchecked = shares(fb_px=100.0, max_difference=255.0, max_stretch=1e9)
    there_and_back, both = shares(max_difference=255.0, max_stretch=1e9), shares(max_difference=12.0)
    assert unchecked[0] > 0.95
    assert there_and_back[0] < 0.65  # a smooth flow bends the hidden strip onto the cover: looks must tell, too
    assert both[0] < 0.3
    assert both[1] > 0.97 and both[2] > 0.9


def test_places_of_another_colour_never_match() -> None:
    base, mask, spot = shifted(texture(0), 0, 0) / 2, square(48, 48, 34), square(48, 48, 12)
    images = [base, np.where(spot[..., None], base + 120, base)]
    matches = match_clip(make_clip(images, [mask, mask]), CONFIG)
    cell = matches.xy_a[matches.frame_a == 0].floor().long()
    assert int(torch.from_numpy(square(48, 48, 9))[cell[:, 1], cell[:, 0]].sum()) == 0


def test_a_run_that_goes_on_from_its_cache_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = moving_square((1.5, 0.5))
    plain = match_clip(clip, CONFIG, seed=3)
    assert same(plain, match_clip(clip, CONFIG, seed=3, cache=tmp_path))
    files = sorted(tmp_path.glob("*.npz"))
    assert len(files) == 3
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:100])  # damaged: made again
    made: list[int] = []
    original = flow_module._match_frame

    def counted(engine, i, targets, **rest):
        made.append(i)
        return original(engine, i, targets, **rest)

    monkeypatch.setattr(flow_module, "_match_frame", counted)
    assert same(plain, match_clip(clip, CONFIG, seed=3, cache=tmp_path))
    assert sorted(made) == [0, 1]
    assert not list(tmp_path.glob(".*"))


def test_threads_and_order_do_not_matter_but_the_seed_does() -> None:
    clip = moving_square((1.0, 0.0))
    one = match_clip(clip, replace(CONFIG, threads=1), seed=1)
    assert same(one, match_clip(clip, replace(CONFIG, threads=3), seed=1))
    assert not same(one, match_clip(clip, CONFIG, seed=2))


def test_one_frame_has_no_matches() -> None:
    assert len(match_clip(moving_square((0, 0), count=1), CONFIG)) == 0


def test_a_frame_with_an_empty_mask_is_left_out() -> None:
    clip = moving_square((1.0, 0.0))
    masks = [np.asarray(clip.masks[i]) for i in range(4)]
    masks[1] = np.zeros_like(masks[1])
    matches = match_clip(replace(clip, masks=masks), CONFIG)
    assert 1 not in matches.frame_a.tolist() + matches.frame_b.tolist()
    assert {0, 2, 3} == set(matches.frame_a.tolist())
    nothing = [np.zeros_like(mask) for mask in masks]
    assert len(match_clip(replace(clip, masks=nothing), CONFIG)) == 0


def test_an_object_that_reaches_the_border_and_a_whole_frame_mask() -> None:
    picture = texture(0)
    images = [shifted(picture, 3.0 * i, 0) for i in range(3)]
    masks = [np.ones((SIZE, SIZE), bool)] * 3
    matches = match_clip(make_clip(images, masks), CONFIG)
    gap = (matches.frame_b - matches.frame_a).float()
    error = (matches.xy_b - matches.xy_a - gap[:, None] * torch.tensor([3.0, 0.0])).norm(dim=-1)
    assert error.median() < 0.1


def test_chosen_pixels_alone_are_matched_as_they_are_among_all() -> None:
    clip = moving_square((2.0, 1.0))
    grid = np.zeros((SIZE, SIZE), dtype=bool)
    grid[::5, ::5] = True
    all_ = match_clip(clip, replace(CONFIG, max_per_pair=10**6))
    column, row = all_.xy_a.floor().long().unbind(-1)
    wanted = all_.select(torch.nonzero(torch.from_numpy(grid)[row, column]).squeeze(-1))
    assert len(wanted) > 500 and same(match_clip(clip, CONFIG, only=[grid] * 4), wanted)


def test_flow_that_is_carried_on_well_enough_has_no_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[tuple[int, int, bool]] = []
    real = flow_module.FlowEngine.flow

    def watched(self: flow_module.FlowEngine, a: int, b: int, init: np.ndarray | None = None) -> np.ndarray:
        searched.append((a, b, init is None))
        return real(self, a, b, init)

    monkeypatch.setattr(flow_module.FlowEngine, "flow", watched)
    clip, config = moving_square((2.0, 1.0)), replace(CONFIG, threads=1)
    match_clip(clip, config)
    assert (0, 3, True) in searched and (3, 0, True) in searched
    searched.clear()
    found = match_clip(clip, config, enough=0.5)
    assert (0, 3, True) not in searched and (0, 3, False) in searched
    assert bool(((found.frame_a == 0) & (found.frame_b == 3)).any())
    match_clip(clip, config, enough=1.01)  # never enough
    assert (0, 3, True) in searched
