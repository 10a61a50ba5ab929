"""Matching the frames of a clip by flow, by descriptors, and by both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_match_clip import make_clip, moving_square, same, square

from dyn4d.core.errors import InputError
from dyn4d.core.types import Clip, Correspondences
from dyn4d.matching.clip_matching import far_pairs, match_frames
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow import match_clip
from dyn4d.matching.r2d2_extract import R2D2Features

SHIFT = (1.5, -1.0)
FLOW = MatchingConfig(window=1, strides=(), far_strides=(3, 6), min_size=128, max_per_pair=150)
BOTH = replace(FLOW, matcher="flow+r2d2")


class Grid:
    """Describes points that move with the square by words of their own; counts its calls."""

    name = "r2d2"

    def __init__(self, clip: Clip) -> None:
        self.frames = {image.tobytes(): i for i, image in enumerate(clip.images)}
        self.calls: list[int] = []

    def features(self, frame: np.ndarray, mask: np.ndarray) -> R2D2Features:
        at = self.frames[frame.tobytes()]
        self.calls.append(at)
        y, x = np.mgrid[30:60:3, 28:58:3]
        xy = np.stack([x.ravel(), y.ravel()], 1) + 0.25 + at * np.array(SHIFT)
        words = torch.nn.functional.normalize(
            torch.randn(len(xy), 16, generator=torch.Generator().manual_seed(0)), dim=1
        )
        one = torch.ones(len(xy))
        return R2D2Features(torch.from_numpy(xy).float(), words, one, one)


def clip(count: int = 8) -> Clip:
    return moving_square(SHIFT, count)


def gaps(found: Correspondences) -> set[int]:
    return set((found.frame_b - found.frame_a).tolist())


def test_flow_alone_is_what_it_was() -> None:
    assert same(match_frames(clip(4), FLOW, 3), match_clip(clip(4), FLOW, 3))


def test_descriptors_reach_where_flow_does_not() -> None:
    moving = clip()
    found = match_frames(moving, BOTH, describer=Grid(moving))
    alone = match_clip(moving, FLOW)
    assert gaps(alone) == {-7, -1, 1, 7} and gaps(found) == {-7, -6, -3, -1, 1, 3, 6, 7}
    key = found.frame_a * 100 + found.frame_b
    assert bool((key.diff() >= 0).all())
    gap = (found.frame_b - found.frame_a).float()
    off = (found.xy_b - found.xy_a - gap[:, None] * torch.tensor(SHIFT)).norm(dim=-1)
    assert float(off[gap.abs() == 3].max()) < 1e-3 and int((gap == 3).sum()) == 5 * 100
    assert float(found.weight.min()) > 0 and float(found.weight.max()) <= 1
    there, back = found.select(gap == 6), found.select(gap == -6)
    assert sorted(map(tuple, there.xy_a.tolist())) == sorted(map(tuple, back.xy_b.tolist()))


def test_descriptors_alone_look_at_neighbours_too() -> None:
    moving = clip(5)
    found = match_frames(moving, replace(BOTH, matcher="r2d2"), describer=Grid(moving))
    assert gaps(found) == {-3, -1, 1, 3}
    assert far_pairs(5, replace(BOTH, matcher="r2d2")) == [(0, 1), (0, 3), (1, 2), (1, 4), (2, 3), (3, 4)]
    assert far_pairs(5, BOTH) == [(0, 3), (1, 4)]
    assert far_pairs(3, BOTH) == [(0, 2)]  # too short for any stride: its ends


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    moving = clip()
    whole = match_frames(moving, BOTH, describer=Grid(moving), cache=tmp_path / "a")
    first = Grid(moving)

    class Stopped(Grid):
        def features(self, frame: np.ndarray, mask: np.ndarray) -> R2D2Features:
            if len(self.calls) == 4:
                raise KeyboardInterrupt
            return super().features(frame, mask)

    with pytest.raises(KeyboardInterrupt):
        match_frames(moving, BOTH, describer=Stopped(moving), cache=tmp_path / "b")
    for name in ("keypoints", "matches"):
        (tmp_path / "b" / "far" / f"{name}_000000.npz").write_bytes(b"")  # a full disk, say
    second = match_frames(moving, BOTH, describer=first, cache=tmp_path / "b")
    assert same(whole, second)
    assert len(set(first.calls)) == len(first.calls) < 8 and 0 in first.calls
    again = Grid(moving)
    assert same(whole, match_frames(moving, BOTH, describer=again, cache=tmp_path / "b")) and not again.calls


def test_no_folder_is_left_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    moving = clip()
    found = match_frames(moving, BOTH, describer=Grid(moving))
    assert same(found, match_frames(moving, BOTH, describer=Grid(moving), cache=tmp_path / "cache"))
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_one_frame_and_empty_masks() -> None:
    one = clip(1)
    assert len(match_frames(one, BOTH, describer=Grid(one))) == 0
    moving = clip()
    masks = [mask & (i not in (2, 3)) for i, mask in enumerate(moving.masks)]
    hidden = replace(moving, masks=masks)
    found = match_frames(hidden, BOTH, describer=Grid(hidden))
    assert not set(found.frame_a.tolist()) & {2, 3} and 3 in gaps(found)
    empty = make_clip(list(moving.images), [square(0, 0, 0)] * 8)
    assert len(match_frames(empty, BOTH, describer=Grid(empty))) == 0


def test_any_matcher_can_be_the_far_one() -> None:
    moving = clip()

    def centre(a: np.ndarray, b: np.ndarray, mask_a: np.ndarray, mask_b: np.ndarray) -> Correspondences:
        middle = [torch.tensor(np.argwhere(mask).mean(0)[::-1] + 0.5)[None].float() for mask in (mask_a, mask_b)]
        return Correspondences(torch.zeros(1).long(), torch.ones(1).long(), *middle, torch.full((1,), 7.0))

    found = match_frames(moving, replace(BOTH, matcher="flow+mast3r"), matcher=centre)
    assert {3, -6} <= gaps(found)
    with pytest.raises(InputError, match=r"needs a pair network; give --geometry.weights"):
        match_frames(moving, replace(BOTH, matcher="mast3r"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"matcher": "sift"}, "'sift'; wanted one of flow, r2d2"),
        ({"far_strides": (8, 0)}, "far_strides: .8, 0.; wanted numbers from 1"),
        ({"descriptor_size": 100}, "descriptor_size: 100; wanted a multiple of 16"),
        ({"max_error": 0.0}, "max_error: 0.0; wanted more than 0"),
    ],
)
def test_settings_are_checked(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(BOTH, **changes)


def test_a_table_of_ones_own_is_used(tmp_path: Path) -> None:
    axis = {"name": "margin", "rises": False, "places": [0.0]}
    file = tmp_path / "table.json"
    file.write_text(json.dumps({"matchers": {"r2d2": {"axes": [axis], "median_px": [2.0]}}}))
    moving = clip()
    config = replace(BOTH, matcher="r2d2", calibration=str(file))
    found = match_frames(moving, config, describer=Grid(moving))
    assert len(found) and bool(((found.weight - 0.2).abs() < 1e-6).all())  # 1 / (1 + 2^2)
    assert len(match_frames(moving, replace(config, max_error=1.9), describer=Grid(moving))) == 0
    with pytest.raises(InputError, match="no such file"):
        match_frames(moving, replace(config, calibration="nowhere.json"), describer=Grid(moving))


def test_the_flow_is_trusted_by_the_frames_between_of_the_whole_clip() -> None:
    moving = clip(4)
    timeline = replace(moving.timeline, times=np.linspace(0, 1, 28), seconds=np.linspace(0, 1, 28),
                       names=tuple(f"{i:05d}" for i in range(28)))  # fmt: skip
    apart = replace(moving, frames=np.arange(4) * 9, timeline=timeline)
    near, far = (match_frames(some, BOTH, describer=Grid(some)) for some in (moving, apart))
    gap = [(found.frame_b - found.frame_a).abs() == 1 for found in (near, far)]
    doubt = [1 - float(found.weight[rows].median()) for found, rows in zip((near, far), gap)]
    assert doubt[1] > 1.2 * doubt[0] > 0


def test_damaged_files_of_a_stopped_run_are_made_again(tmp_path: Path) -> None:
    moving = clip()
    whole = match_frames(moving, BOTH, describer=Grid(moving), cache=tmp_path)
    for file in sorted(tmp_path.rglob("*.npz")):
        content = bytearray(file.read_bytes())
        at = content.find(b"PK\x01\x02")
        content[at + 10] = 99  # a way of packing that nobody knows
        file.write_bytes(bytes(content))
    assert same(whole, match_frames(moving, BOTH, describer=Grid(moving), cache=tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "a.pt", "matcher": "flow"}, "weights: has no meaning with matching.matcher flow"),
        ({"weights": "a.pt", "matcher": "mast3r"}, "weights: has no meaning with matching.matcher mast3r"),
        ({"calibration": "a.json", "matcher": "flow"}, "calibration: has no meaning with matching.matcher flow"),
        ({"max_difference": float("nan")}, "max_difference: nan; wanted more than 0"),
        ({"patch_size": 17}, "patch_size: 17; wanted at most 16"),
    ],
)
def test_settings_that_could_not_work_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(BOTH, **changes)
