"""R2D2's keypoints on small random networks: the pyramid, thresholds, masks, sizes, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_r2d2_network import picture, small_r2d2
from torch import Tensor
from torch.nn import functional as F

from dyn4d.matching.r2d2_extract import R2D2Config, R2D2Features, _levels
from dyn4d.matching.r2d2_network import normalise

ALL = {"min_size": 0, "max_size": 10_000, "min_scale": 0.3, "reliability": 0.0, "repeatability": 0.0}


def rows(features: R2D2Features) -> list[tuple[float, float, float]]:
    """(x, y, scale) to 1/1000 pixel, sorted."""
    table = torch.cat([features.keypoints, features.scales[:, None]], 1).double()
    return sorted((round(x, 3), round(y, 3), round(s, 4)) for x, y, s in table.tolist())


def inside(features: R2D2Features, mask: np.ndarray) -> Tensor:
    """(N,) bool: do the keypoints' pixels lie in the mask?"""
    pixel = features.keypoints.floor().long()
    return torch.from_numpy(mask)[pixel[:, 1], pixel[:, 0]]


def disc(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    at_y, at_x = np.mgrid[:height, :width] + 0.5
    return (at_x - x) ** 2 + (at_y - y) ** 2 < radius**2


# ------------------------------------------------------------------------------------------------- extraction


@pytest.mark.parametrize(("height", "width"), [(41, 60), (60, 41)])
@pytest.mark.parametrize("unbiased", [False, True])
def test_against_a_plain_twin(height: int, width: int, unbiased: bool) -> None:
    """Pixel by pixel, as the paper says it: from the dense maps of each level."""
    r2d2, image = small_r2d2(), picture(height, width)
    wanted: list[tuple[float, ...]] = []
    level, scale = normalise(image), 1.0
    for step in range(7):  # 2**(-7/4) is below 0.3
        if step:
            scale /= 2**0.25
            size = [round(height * scale), round(width * scale)]
            level = F.interpolate(level, size, mode="bilinear", align_corners=False)
        maps = r2d2.network(level)
        reliable, repeatable = maps.reliability[0, 0].tolist(), maps.repeatability[0, 0].tolist()
        h, w = level.shape[-2:]
        for y in range(h):
            for x in range(w):
                around = [r[max(x - 1, 0) : x + 2] for r in repeatable[max(y - 1, 0) : y + 2]]
                if repeatable[y][x] == max(map(max, around)) and reliable[y][x] >= 0.4 and repeatable[y][x] >= 0.3:
                    shift = 0.5 * width / w, 0.5 * height / h
                    dx, dy = shift if unbiased else (0.5, 0.5)
                    wanted.append((round(x * width / w + dx, 3), round(y * height / h + dy, 3), round(scale, 4)))
    found = r2d2.extract(image, None, **{**ALL, "reliability": 0.4, "repeatability": 0.3}, unbiased=unbiased)
    assert len(wanted) > 100 and len({scale for *_, scale in wanted}) == 7
    np.testing.assert_allclose(rows(found), sorted(wanted), atol=2e-3)


def test_what_comes_out() -> None:
    found = small_r2d2().extract(picture(50, 70), **ALL)
    count = len(found)
    assert count > 50 and found.descriptors.shape == (count, 8)
    for value in (found.keypoints, found.descriptors, found.scores, found.scales):
        assert value.dtype == torch.float32 and value.device.type == "cpu" and not value.requires_grad
    assert bool((found.scores.diff() >= 0).all()) and bool((found.scores > 0).all()) and bool((found.scores <= 1).all())
    torch.testing.assert_close(found.descriptors.norm(dim=1), torch.ones(count))
    assert bool((found.keypoints > 0).all()) and bool((found.keypoints < torch.tensor([70, 50])).all())
    torch.testing.assert_close(found.sizes, 32 / found.scales)


def test_values_are_those_of_the_dense_maps() -> None:
    image = picture(30, 45)
    found = small_r2d2().extract(image, None, **{**ALL, "min_scale": 1.0})
    dense = small_r2d2().dense(image)
    assert dense.descriptors.shape == (8, 30, 45) and dense.reliability.shape == dense.repeatability.shape == (30, 45)
    x, y = (found.keypoints - 0.5).long().unbind(-1)
    torch.testing.assert_close(found.descriptors, dense.descriptors[:, y, x].T)
    torch.testing.assert_close(found.scores, (dense.reliability * dense.repeatability)[y, x])


def test_the_best_are_kept() -> None:
    r2d2, image = small_r2d2(), picture(50, 70)
    every = r2d2.extract(image, None, **ALL)
    best = r2d2.extract(image, 20, **ALL)
    assert len(best) == 20 and torch.equal(best.scores, every.scores[-20:])
    assert torch.equal(best.keypoints, every.keypoints[-20:])
    assert rows(r2d2.extract(image, 10**6, **ALL)) == rows(every)


def test_thresholds() -> None:
    image = picture(50, 70)
    dense = small_r2d2().dense(image)
    config = R2D2Config(min_scale=1.0, reliability=0.5, repeatability=0.4)
    found = small_r2d2().extract(image, None, config=config)
    x, y = (found.keypoints - 0.5).long().unbind(-1)
    assert len(found) and bool((dense.reliability[y, x] >= 0.4999).all())
    assert bool((dense.repeatability[y, x] >= 0.3999).all())
    assert len(small_r2d2().extract(image, None, config=config, reliability=0.0)) > len(found)
    assert len(small_r2d2().extract(image, None, reliability=1.0, repeatability=1.0)) == 0
    wider = small_r2d2().extract(image, None, config=config, nms=7)
    assert set(rows(wider)) < set(rows(found))


def test_flat_pictures_keep_ties() -> None:
    found = small_r2d2().extract(torch.full((1, 3, 70, 70), 0.5), None, **{**ALL, "min_scale": 1.0})
    middle = (found.keypoints > 26).all(1) & (found.keypoints < 44).all(1)
    assert int(middle.sum()) == 18 * 18  # the padding is not seen from there: all are as good as their neighbours


def test_the_same_again() -> None:
    r2d2, image = small_r2d2(), picture(50, 70)
    first, second = r2d2.extract(image, 100, **ALL), r2d2.extract(image.clone(), 100, **ALL)
    assert torch.equal(first.keypoints, second.keypoints) and torch.equal(first.descriptors, second.descriptors)
    assert torch.equal(first.scores, second.scores)


def test_the_picture_stays_as_it_is() -> None:
    image = picture(20, 20)
    before = image.clone()
    small_r2d2().extract(image)
    small_r2d2().dense(image)
    assert torch.equal(image, before)


# ------------------------------------------------------------------------------------------------- the pyramid


def sizes(height: int, width: int, **changes: Any) -> list[tuple[int, int]]:
    """(width, height) of the levels that are looked at."""
    levels = _levels(torch.zeros(1, 3, height, width), R2D2Config(**changes))
    return [(level.image.shape[-1], level.image.shape[-2]) for level in levels]


def test_levels_of_the_published_settings() -> None:
    wanted = [(854, 480), (718, 404), (604, 339), (508, 285), (427, 240), (359, 202), (302, 170)]
    assert sizes(480, 854) == wanted
    assert sizes(854, 480) == [(h, w) for w, h in wanted]  # portrait
    assert [max(size) for size in sizes(1200, 1600)] == [951, 800, 673, 566, 476, 400, 336, 283]
    assert sizes(1024, 512)[0] == (512, 1024) and sizes(1024, 512)[-1] == (128, 256)


def test_limits_of_the_pyramid() -> None:
    assert sizes(100, 200, min_size=0, min_scale=0.5, max_scale=0.75) == [(141, 71), (119, 59), (100, 50)]
    assert sizes(100, 200, min_size=50, scale_factor=2.0) == [(200, 100), (100, 50), (50, 25)]
    assert sizes(3000, 30, min_size=0)[-1][0] == 1  # down to a single column, then it ends
    assert sizes(400, 400, min_size=300, max_size=320) == []


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (160, 120), (255, 1)])
def test_pictures_below_the_smallest_size_are_looked_at_once(size: tuple[int, int]) -> None:
    assert sizes(*size) == [size[::-1]]
    found = small_r2d2().extract(picture(*size), reliability=0.0, repeatability=0.0)
    assert len(found) >= 1 and bool((found.scales == 1).all())


def test_no_level_is_no_keypoint() -> None:
    found = small_r2d2().extract(picture(40, 40), min_size=30, max_size=32)
    assert len(found) == 0 and found.keypoints.shape == (0, 2) and found.descriptors.shape == (0, 8)


def test_unbiased_keypoints_are_where_the_pixels_are() -> None:
    """At half size a pixel stands for two by two."""
    level = next(iter(_levels(torch.zeros(1, 3, 40, 100), R2D2Config(max_scale=0.5))), None)
    assert level is None  # smaller than min_size: as it is, or not at all
    level = next(iter(_levels(torch.zeros(1, 3, 40, 100), R2D2Config(min_size=0, max_scale=0.5))))
    assert level.image.shape[-2:] == (20, 50)
    assert level.places(0, unbiased=True).tolist() == [1 + 2 * i for i in range(50)]
    assert level.places(0, unbiased=False).tolist() == [0.5 + 2 * i for i in range(50)]
    assert level.places(1, unbiased=True).tolist() == [1 + 2 * i for i in range(20)]


# ------------------------------------------------------------------------------------------------------- masks


@settings(max_examples=15)
@given(st.integers(0, 69), st.integers(0, 49), st.floats(0.3, 30), st.booleans())
def test_no_keypoint_outside_the_mask(x: int, y: int, radius: float, unbiased: bool) -> None:
    mask = disc(50, 70, x + 0.5, y + 0.5, radius)
    image = picture(50, 70)
    found = small_r2d2().extract(image, None, mask, **ALL, unbiased=unbiased)
    assert bool(inside(found, mask).all())
    every = small_r2d2().extract(image, None, **ALL, unbiased=unbiased)
    keep = inside(every, mask)
    assert rows(found) == [row for row in rows(every) if mask[math.floor(row[1]), math.floor(row[0])]]
    torch.testing.assert_close(found.scores, every.scores[keep], atol=1e-5, rtol=1e-5)


def test_the_background_cannot_use_up_the_budget() -> None:
    mask = disc(50, 70, 20, 20, 8)
    image = picture(50, 70)
    alone = small_r2d2().extract(image, None, mask, **ALL)
    assert len(alone) > 12
    best = small_r2d2().extract(image, 12, torch.from_numpy(mask), **ALL)
    assert torch.equal(best.keypoints, alone.keypoints[-12:])


def test_an_empty_mask_is_legal_and_a_full_one_is_none() -> None:
    image = picture(50, 70)
    assert len(small_r2d2().extract(image, 10, np.zeros((50, 70), dtype=bool), **ALL)) == 0
    full = small_r2d2().extract(image, None, torch.ones(50, 70, dtype=torch.bool), **ALL)
    none = small_r2d2().extract(image, None, **ALL)
    assert torch.equal(full.keypoints, none.keypoints) and torch.equal(full.descriptors, none.descriptors)


def test_distant_background_has_no_influence_and_near_background_has() -> None:
    mask = disc(220, 260, 130, 110, 10)
    image, other = picture(220, 260), picture(220, 260, seed=1)
    settings = {**ALL, "min_scale": 0.5}
    first = small_r2d2().extract(image, None, mask, **settings)
    assert len(first) > 20 and float(first.scales.min()) < 0.51
    rows_in, columns_in = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]

    def with_background(distance: int) -> R2D2Features:
        """Another background from this far from the box around the mask."""
        mixed = other.clone()
        y = slice(rows_in[0] - distance, rows_in[-1] + 1 + distance)
        x = slice(columns_in[0] - distance, columns_in[-1] + 1 + distance)
        mixed[..., y, x] = image[..., y, x]
        return small_r2d2().extract(mixed, None, mask, **settings)

    far, near = with_background(2 * 33), with_background(2)
    assert torch.equal(far.keypoints, first.keypoints) and torch.equal(far.descriptors, first.descriptors)
    assert torch.equal(far.scores, first.scores)
    assert near.scores.shape != first.scores.shape or not torch.equal(near.scores, first.scores)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(2, 3, 8, 8), r"wanted shape \(1, 3, H, W\), found \(2, 3, 8, 8\); give one picture at a time"),
        (torch.zeros(0, 3, 8, 8), "give one picture at a time"),
        (torch.zeros(3, 8, 8), r"wanted shape \(1, 3, H, W\), found \(3, 8, 8\)"),
        (torch.zeros(1, 1, 8, 8), "repeat a grey picture three times"),
        (torch.zeros(1, 4, 8, 8), r"found \(1, 4, 8, 8\)"),
        (torch.zeros(1, 3, 0, 8), r"found \(1, 3, 0, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"found torch.uint8; divide by 255"),
        (torch.full((1, 3, 8, 8), 255.0), r"wanted values in \[0, 1\], found 255 to 255"),
        (torch.full((1, 3, 8, 8), float("nan")), r"wanted values in \[0, 1\], found nan"),
        (torch.full((1, 3, 8, 8), -1.5), r"wanted values in \[0, 1\]"),
    ],
)
def test_pictures_that_are_refused(image: Tensor, message: str) -> None:
    for call in (small_r2d2().extract, small_r2d2().dense):
        with pytest.raises(ValueError, match=message):
            call(image)


def test_other_floats_are_taken() -> None:
    image = picture(20, 20)
    assert rows(small_r2d2().extract(image.double(), **ALL)) == rows(small_r2d2().extract(image, **ALL))
    assert len(small_r2d2().extract(image.half(), **ALL)) > 0


@pytest.mark.parametrize(
    "mask", [np.ones((8, 9), dtype=bool), np.ones((8, 8), dtype=np.uint8), torch.ones(8, 8), torch.ones(1, 8, 8) > 0]
)
def test_masks_that_are_refused(mask: Any) -> None:
    with pytest.raises(ValueError, match=r"mask: wanted bool \(8, 8\) as the image has, found "):
        small_r2d2().extract(picture(8, 8), 10, mask)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"scale_factor": 1.0}, "scale_factor"), ({"min_size": -1}, "min_size"), ({"min_size": 300, "max_size": 200},
     "min_size = 300"), ({"min_scale": 1.5}, "min_scale"), ({"min_scale": 0.5, "max_scale": 0.4}, "min_scale = 0.5"),
     ({"reliability": 1.1}, "reliability"), ({"repeatability": float("nan")}, "repeatability"), ({"nms": 4}, "odd")],
)  # fmt: skip
def test_settings_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"r2d2\.\w+: .*{message}|r2d2\.{message}"):
        small_r2d2().extract(picture(8, 8), **changes)


def test_other_arguments_that_are_refused() -> None:
    with pytest.raises(ValueError, match="top_k: 0; wanted at least 1"):
        small_r2d2().extract(picture(8, 8), 0)
    with pytest.raises(TypeError, match=r"r2d2\.max_pixels: no such setting; there are scale_factor, min_size"):
        small_r2d2().extract(picture(8, 8), max_pixels=3)
