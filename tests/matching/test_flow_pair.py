"""Flow between two pictures: sizes that differ, masks, and the way back to the pictures given."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dyn4d.core.types import Correspondences
from dyn4d.io.images import read_mask, read_rgb
from dyn4d.matching import FlowMatcher
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.estimators import DisFlow, make_dis
from dyn4d.matching.flow import sample
from dyn4d.matching.flow_pair import common_scale

CONFIG = MatchingConfig(min_size=128, max_per_pair=400)
AT = (80.0, 70.0)  # where the object's middle is


def texture(seed: int, height: int = 150, width: int = 170) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255)


def view(scale: float, shift: tuple[float, float], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A picture of (width, height) pixels of a textured disc, `scale` times as large and moved by `shift` pixels, over
    a background of its own; and its mask. The spot (x, y) of the scene is at scale · (x, y) + shift."""
    width, height = size
    offset = [scale * 0.5 - 0.5 + shift[0], scale * 0.5 - 0.5 + shift[1]]  # of array positions
    move = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    picture = cv2.warpAffine(texture(0), move, size, flags=cv2.INTER_CUBIC)
    y, x = np.mgrid[:height, :width] + 0.5
    centre = scale * np.array(AT) + shift
    mask = np.hypot(x - centre[0], y - centre[1]) < 40 * scale
    behind = texture(9, height, width)
    return np.clip(np.rint(np.where(mask[..., None], picture, behind)), 0, 255).astype(np.uint8), mask


def errors(found: Correspondences, scale_a: float, scale_b: float, shift: tuple[float, float]) -> torch.Tensor:
    """(M,) pixels of the scene; picture a is not shifted."""
    return ((found.xy_b - torch.tensor(shift)) / scale_b - found.xy_a / scale_a).norm(dim=-1)


def inside(found: Correspondences, mask_a: np.ndarray, mask_b: np.ndarray) -> bool:
    cells = [xy.floor().long() for xy in (found.xy_a, found.xy_b)]
    return all(bool(torch.from_numpy(m)[c[:, 1], c[:, 0]].all()) for m, c in zip((mask_a, mask_b), cells))


@pytest.mark.parametrize("size_b", [(170, 150), (150, 190), (400, 130)])
def test_a_shift_is_found_in_pictures_of_other_shapes(size_b: tuple[int, int]) -> None:
    (a, mask_a), (b, mask_b) = view(1, (0, 0), (170, 150)), view(1, (6.25, 3.5), size_b)
    found = FlowMatcher(CONFIG)(a, b, mask_a, mask_b)
    assert len(found) == 400
    assert found.frame_a.unique().tolist() == [0] and found.frame_b.unique().tolist() == [1]
    assert torch.equal(found.xy_a % 1, torch.full_like(found.xy_a, 0.5))
    assert inside(found, mask_a, mask_b) and float(found.weight.min()) > 0 and float(found.weight.max()) <= 1
    error = errors(found, 1, 1, (6.25, 3.5))
    assert error.median() < 0.1 and error.quantile(0.95) < 0.5
    bias = (found.xy_b - found.xy_a).mean(0) - torch.tensor([6.25, 3.5])
    assert bias.abs().max() < 0.05


@pytest.mark.parametrize(("scale_a", "scale_b"), [(1.0, 3.0), (3.0, 1.0), (6.0, 6.0), (1.0, 1.3)])
def test_the_way_back_from_other_scales_is_exact(scale_a: float, scale_b: float) -> None:
    shift = (11.0, 4.0)
    a, mask_a = view(scale_a, (0, 0), (round(170 * scale_a), round(150 * scale_a)))
    b, mask_b = view(scale_b, shift, (round(180 * scale_b), round(160 * scale_b)))
    config = MatchingConfig(min_size=128, max_size=200, max_per_pair=400)  # six times as large is too large
    found = FlowMatcher(config)(a, b, mask_a, mask_b)
    assert len(found) > 300 and inside(found, mask_a, mask_b)
    error = errors(found, scale_a, scale_b, shift)
    assert error.median() < 0.15
    bias = ((found.xy_b - torch.tensor(shift)) / scale_b - found.xy_a / scale_a).mean(0)
    assert bias.abs().max() < 0.08  # half a pixel of the larger picture would be 0.08 to 0.17


def test_scales() -> None:
    small, large = np.ones((50, 100), dtype=bool), np.ones((100, 200), dtype=bool)
    assert common_scale(small, small, 640) == (1, 1)
    assert common_scale(large, small, 640) == (0.5, 1)
    assert common_scale(small, large, 640) == (1, 0.5)
    assert common_scale(small, large, 50) == (0.5, 0.25)
    assert common_scale(large, np.ones((90, 180), dtype=bool), 640) == (1, 1)  # a difference as motion makes it
    assert common_scale(large, np.ones((90, 180), dtype=bool), 100) == (0.5, 0.5)


@pytest.mark.parametrize("empty", [0, 1])
def test_an_empty_mask_has_no_matches(empty: int) -> None:
    a, mask = view(1, (0, 0), (170, 150))
    masks = [mask, mask]
    masks[empty] = np.zeros_like(mask)
    found = FlowMatcher(CONFIG)(a, a, *masks)
    assert len(found) == 0 and found.xy_a.shape == (0, 2) and found.frame_a.dtype == torch.int64


def test_one_pixel_and_tiny_pictures() -> None:
    a, mask = view(1, (0, 0), (170, 150))
    dot = np.zeros_like(mask)
    dot[149, 169] = True
    assert len(FlowMatcher(CONFIG)(a, a, dot, dot)) <= 1
    assert len(FlowMatcher(CONFIG)(a, a, mask, dot)) <= 1
    one = np.zeros((1, 1, 3), np.uint8)
    found = FlowMatcher()(one, a, np.ones((1, 1), bool), mask)
    assert len(found) <= 1


def test_large_objects() -> None:
    picture = np.tile(texture(0), (3, 3, 1)).astype(np.uint8)  # 450 x 510: more pixels than can be looked up at once
    everything = np.ones(picture.shape[:2], dtype=bool)
    assert everything.sum() > 1 << 16
    found = FlowMatcher()(picture, np.roll(picture, 2, 1), everything, everything)
    assert len(found) == 2500
    assert (found.xy_b - found.xy_a - torch.tensor([2.0, 0.0])).norm(dim=-1).median() < 0.1
    spread = torch.histc(found.xy_a[:, 1], 10, 0, 450)
    assert spread.min() > 150  # all over the picture


def test_the_same_call_gives_the_same_matches_and_changes_nothing() -> None:
    (a, mask_a), (b, mask_b) = view(1, (0, 0), (170, 150)), view(1, (2.0, 3.0), (200, 150))
    given = [value.copy() for value in (a, b, mask_a, mask_b)]
    threads = cv2.getNumThreads()
    first, second = (FlowMatcher(CONFIG)(a, b, mask_a, mask_b) for _ in range(2))
    assert all(torch.equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(Correspondences))
    assert all(np.array_equal(x, y) for x, y in zip(given, (a, b, mask_a, mask_b)))
    assert cv2.getNumThreads() == threads
    assert not torch.equal(first.xy_a, FlowMatcher(CONFIG, seed=1)(a, b, mask_a, mask_b).xy_a)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_a": np.zeros((9, 9), np.uint8)}, "frame_a: wanted uint8"),
        ({"frame_b": np.zeros((9, 9, 3), np.float32)}, "frame_b: wanted uint8"),
        ({"mask_b": np.ones((8, 9), bool)}, "mask_b: wanted shape"),
    ],
)
def test_wrong_shapes(change: dict[str, np.ndarray], message: str) -> None:
    good = {"frame_a": np.zeros((9, 9, 3), np.uint8), "frame_b": np.zeros((9, 9, 3), np.uint8),
            "mask_a": np.ones((9, 9), bool), "mask_b": np.ones((9, 9), bool)}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        FlowMatcher()(**{**good, **change})


def test_frames_of_a_film(reference: Path) -> None:
    clip = reference / "data" / "real_camel"
    frames = [read_rgb(clip / "rgb" / f"{name}.jpg") for name in ("00000", "00002")]
    masks = [read_mask(clip / "mask" / f"{name}.png") for name in ("00000", "00002")]
    found = FlowMatcher()(*frames, *masks)
    assert len(found) == 2500 and inside(found, *masks)
    larger = [cv2.resize(frames[1], None, fx=2.5, fy=2.5), cv2.resize(masks[1].astype(np.uint8), (2135, 1200)) > 0]
    again = FlowMatcher()(frames[0], larger[0], masks[0], larger[1])
    step = [(m.xy_b / s - m.xy_a).median(0).values for m, s in ((found, 1.0), (again, 2.5))]
    assert len(again) > 2000 and (step[0] - step[1]).norm() < 0.5


@pytest.mark.parametrize("channels", [(), (2,)])
def test_lookups_of_any_length(channels: tuple[int, ...]) -> None:
    """More than OpenCV takes in one row: the same values as piece by piece."""
    rng = np.random.default_rng(3)
    image = rng.random((40, 50, *channels)).astype(np.float32)
    x, y = rng.uniform(0, 49, 70_001), rng.uniform(0, 39, 70_001)
    whole = sample(image, x, y)
    parts = [sample(image, x[at : at + 1000], y[at : at + 1000]) for at in range(0, len(x), 1000)]
    assert whole.shape == (70_001, *channels)
    np.testing.assert_array_equal(whole, np.concatenate(parts))


SMALL_PICTURES = """
import numpy as np
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.estimators import DisFlow

random = np.random.default_rng(0)
for patch, finest in ((4, 6), (12, 1), (16, 0), (16, 3)):
    flow = DisFlow(MatchingConfig(patch_size=patch, finest_scale=finest))
    for shape in ((16, 16), (16, 640), (640, 16), (20, 24), (64, 64)):
        picture = random.integers(0, 255, shape, np.uint8)
        assert np.abs(flow(picture, picture)).max() < 0.1, (patch, finest, shape)
"""


def test_patches_larger_than_the_picture() -> None:
    """In a process of its own: OpenCV alone writes beyond its memory here."""
    done = subprocess.run([sys.executable, "-c", SMALL_PICTURES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_more_levels_than_the_picture_has_change_nothing_for_the_next() -> None:
    large, small = texture(3)[..., 0].astype(np.uint8), texture(4)[:20, :20, 0].astype(np.uint8)
    config = MatchingConfig(finest_scale=2)
    flow = DisFlow(config)
    first = flow(large, np.roll(large, 2, 1))
    flow(small, small)
    assert np.array_equal(first, flow(large, np.roll(large, 2, 1)))
    plain = make_dis(config).calc(large, np.roll(large, 2, 1), np.zeros((*large.shape, 2), np.float32))
    assert np.array_equal(first, plain)
