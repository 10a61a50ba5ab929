"""Matches of two pictures by R2D2 on small random networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_r2d2_network import picture, small_r2d2
from torch.nn import functional as F

import dyn4d.matching
from dyn4d.core.protocols import Matcher
from dyn4d.matching.r2d2_extract import R2D2Config, R2D2Features
from dyn4d.matching.r2d2_match import R2D2Matcher, mutual_matches

OPEN = R2D2Config(min_size=0, reliability=0.0, repeatability=0.0, unbiased=True)


def features(descriptors: list[list[float]], scores: list[float] | None = None) -> R2D2Features:
    """Keypoints at (0.5, 0.5), (1.5, 0.5) … with these descriptors, brought to length 1."""
    count = len(descriptors)
    table = F.normalize(torch.tensor(descriptors, dtype=torch.float32).reshape(count, -1), dim=1)
    xy = torch.stack([torch.arange(count) + 0.5, torch.full((count,), 0.5)], 1)
    return R2D2Features(xy, table, torch.tensor(scores or [0.5] * count), torch.ones(count))


def frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    return (picture(height, width, seed)[0].permute(1, 2, 0) * 255).byte().numpy()


def matcher(**changes: Any) -> R2D2Matcher:
    return R2D2Matcher(small_r2d2(), **{"config": OPEN, **changes})


def everywhere(image: np.ndarray) -> np.ndarray:
    return np.ones(image.shape[:2], dtype=bool)


def test_mutual_matches_by_hand() -> None:
    a = features([[1, 0, 0], [0, 1, 0], [0.9, 0.1, 0]])
    b = features([[0, 1, 0.1], [1, 0, 0.01], [0, 0, 1]])
    assert mutual_matches(a, b).tolist() == [[0, 1], [1, 0]]  # row 2 of a wants 1 of b, which prefers 0
    assert mutual_matches(b, a).tolist() == [[0, 1], [1, 0]]
    assert mutual_matches(a, a).tolist() == [[0, 0], [1, 1], [2, 2]]


def test_mutual_matches_agree_with_the_whole_table() -> None:
    a, b = features(torch.randn(70, 5).tolist()), features(torch.randn(90, 5).tolist())
    table = a.descriptors @ b.descriptors.T
    best = (table == table.amax(0)) & (table == table.amax(1, keepdim=True))
    assert mutual_matches(a, b).tolist() == best.nonzero().tolist() and best.any()


def test_nothing_to_match() -> None:
    none = R2D2Features(torch.zeros(0, 2), torch.zeros(0, 3), torch.zeros(0), torch.zeros(0))
    some = features([[1, 0, 0]])
    for a, b in ((none, some), (some, none), (none, none)):
        assert mutual_matches(a, b).shape == (0, 2)
        assert len(matcher().match(a, b)) == 0
    with pytest.raises(ValueError, match="3 and 2 numbers; use one network for both"):
        mutual_matches(some, features([[1, 0]]))


def test_weights_by_hand() -> None:
    a, b = features([[1, 0], [0, 1]], [0.25, 1.0]), features([[0, 1], [4, 3]], [1.0, 0.64])
    found = matcher().match(a, b, frame_a=4, frame_b=9)
    assert found.xy_a.tolist() == [[0.5, 0.5], [1.5, 0.5]] and found.xy_b.tolist() == [[1.5, 0.5], [0.5, 0.5]]
    torch.testing.assert_close(found.weight, torch.tensor([0.8 * 0.4, 1.0]))
    assert found.frame_a.tolist() == [4, 4] and found.frame_b.tolist() == [9, 9]
    assert found.frame_a.dtype == torch.int64
    strict = matcher(min_similarity=0.9).match(a, b)
    assert strict.xy_a.tolist() == [[1.5, 0.5]]


def test_matches_of_opposite_descriptors_or_of_no_score_are_dropped() -> None:
    assert len(matcher().match(features([[1, 0]]), features([[-1, 0]]))) == 0
    assert len(matcher().match(features([[1, 0]]), features([[1, 0]], [0.0]))) == 0


def test_a_moved_picture() -> None:
    """What lies farther from the edges than the network sees is matched to the pixel."""
    scene = frame(130, 150)
    a, b = scene[:120, :140], scene[10:, 4:144]
    mask = np.zeros((120, 140), dtype=bool)
    mask[40:80, 40:100] = True
    find: Matcher = matcher(config=R2D2Config(min_scale=1.0, reliability=0.0, repeatability=0.0, unbiased=True))
    found = find(a, b, mask, np.roll(mask, (-10, -4), (0, 1)))
    assert len(found) > 50 and set(found.frame_a.tolist()) == {0} and set(found.frame_b.tolist()) == {1}
    torch.testing.assert_close(found.xy_a - found.xy_b, torch.tensor([4.0, 10.0]).expand(len(found), 2))
    assert bool((found.weight > 0).all()) and bool((found.weight <= 1).all())
    pixel = found.xy_a.long()
    assert mask[pixel[:, 1], pixel[:, 0]].all() and bool((found.xy_a % 1 == 0.5).all())


def test_masks_and_sizes_of_their_own() -> None:
    a, b = frame(60, 40), frame(33, 70, seed=1)
    mask_a, mask_b = everywhere(a), everywhere(b)
    mask_a[:, 20:] = False
    mask_b[:15] = False
    found = matcher()(a, b, mask_a, mask_b)
    assert len(found) > 10
    assert bool((found.xy_a[:, 0] < 20).all()) and bool((found.xy_b[:, 1] >= 15).all())
    assert bool((found.xy_a < torch.tensor([40, 60])).all()) and bool((found.xy_b < torch.tensor([70, 33])).all())
    again = matcher()(a, b, mask_a, mask_b)
    assert torch.equal(found.xy_a, again.xy_a) and torch.equal(found.weight, again.weight)


def test_empty_masks_are_legal() -> None:
    a = frame(30, 30)
    nothing = np.zeros((30, 30), dtype=bool)
    for masks in ((nothing, everywhere(a)), (everywhere(a), nothing), (nothing, nothing)):
        found = matcher()(a, a, *masks)
        assert len(found) == 0 and found.xy_a.shape == (0, 2)


def test_the_same_picture_is_matched_with_itself() -> None:
    a = frame(40, 50)
    found = matcher(top_k=200)(a, a, everywhere(a), everywhere(a))
    assert 150 < len(found) <= 200
    assert torch.equal(found.xy_a, found.xy_b)


def test_frames_may_be_read_only_or_views() -> None:
    a = frame(40, 50)
    a.flags.writeable = False
    mask = everywhere(a)
    mask.flags.writeable = False
    whole = matcher()(a, a, mask, mask)
    turned = matcher()(a[::-1, ::-1][::-1, ::-1], a, mask[:, ::-1][:, ::-1], mask)
    assert torch.equal(whole.xy_a, turned.xy_a) and len(whole) > 0


@pytest.mark.parametrize(
    "wrong", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8)]
)
def test_frames_that_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"frame: wanted uint8 \(H, W, 3\), found "):
        matcher()(wrong, frame(8, 8), np.ones((8, 8), bool), np.ones((8, 8), bool))


def test_settings_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"min_similarity: 1\.5"):
        matcher(min_similarity=1.5)


def test_the_name_is_exported() -> None:
    assert dyn4d.matching.R2D2Matcher is R2D2Matcher
    assert R2D2Matcher(small_r2d2()).config.unbiased and not R2D2Config().unbiased
