"""Several matchers as one, on two pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_match_clip import moving_square
from test_r2d2_network import small_r2d2

from dyn4d.core.protocols import Matcher
from dyn4d.core.types import Correspondences
from dyn4d.matching.chain import ChainMatcher, DescriberLink, FlowLink, MatcherLink, rate_and_cut, weight_quality
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.describe import R2D2Describer, describe_matches, match_keypoints
from dyn4d.matching.flow_pair import FlowMatcher
from dyn4d.matching.r2d2_extract import R2D2Config, R2D2Features

SHIFT = (3.0, -2.0)
FLOW = FlowLink(FlowMatcher(MatchingConfig(min_size=128, max_per_pair=300)), gap=1)
OPEN = R2D2Config(min_size=0, reliability=0.0, repeatability=0.0, unbiased=True)


def listed(xy_a: list[list[float]], xy_b: list[list[float]], weight: float = 0.5) -> Matcher:
    def call(frame_a: np.ndarray, frame_b: np.ndarray, mask_a: np.ndarray, mask_b: np.ndarray) -> Correspondences:
        row = torch.zeros(len(xy_a), dtype=torch.int64)
        return Correspondences(row, row + 1, torch.tensor(xy_a), torch.tensor(xy_b), torch.full((len(xy_a),), weight))

    return call


def pictures() -> tuple[np.ndarray, ...]:
    clip = moving_square(SHIFT, 2)
    return clip.images[0], clip.images[1], clip.masks[0], clip.masks[1]


def test_one_matcher_keeps_its_matches() -> None:
    found, alone = ChainMatcher((FLOW,))(*pictures()), FLOW.matcher(*pictures())
    assert torch.equal(found.xy_a, alone.xy_a) and torch.equal(found.xy_b, alone.xy_b)
    assert float(found.weight.min()) > 0 and float(found.weight.max()) <= 1


def test_another_adds_what_is_new_and_loses_what_is_wrong() -> None:
    alone = FLOW.matcher(*pictures())
    a, b = alone.xy_a[:3].tolist(), alone.xy_b[:3].tolist()
    gone = [[x + 20.37, y + 0.19] for x, y in b[1:2]]  # where no other match ends
    new = [[44.0, 46.0]]
    extra = MatcherLink(listed([a[0], a[1], new[0]], [[b[0][0] + 0.3, b[0][1]], gone[0], [47.0, 44.0]]), "other")
    found = ChainMatcher((FLOW, extra), max_error=10)(*pictures())
    assert len(alone) <= len(found) <= len(alone) + 1
    assert not bool(((found.xy_b - torch.tensor(gone)).norm(dim=-1) < 1e-3).any())
    spot = (found.xy_a - torch.tensor(new)).norm(dim=-1)
    assert float(spot.min()) < 1  # it, or a match of the flow that is as good as the same
    moved = found.xy_b - found.xy_a - torch.tensor(SHIFT)
    assert float(moved.norm(dim=-1).median()) < 0.2


def test_what_is_expected_to_be_far_off_is_left_out() -> None:
    raw = weight_quality(listed([[1.0, 1.0]] * 4, [[1.0, 1.0]] * 4, 0.5)(*pictures()))
    assert len(rate_and_cut(raw, "other", max_error=2.1, tables={})) == 4
    assert len(rate_and_cut(raw, "other", max_error=1.9, tables={})) == 0


def test_no_matchers_and_no_matches() -> None:
    with pytest.raises(ValueError, match="give at least one"):
        ChainMatcher(())
    a, b, mask, _ = pictures()
    nothing = np.zeros_like(mask)
    chain = ChainMatcher((FLOW, DescriberLink(R2D2Describer(small_r2d2(), size=96, config=OPEN))))
    assert len(chain(a, b, nothing, mask)) == 0


def features(xy: np.ndarray, descriptors: np.ndarray) -> R2D2Features:
    unit = torch.nn.functional.normalize(torch.from_numpy(descriptors).float(), dim=1)
    one = torch.ones(len(xy))
    return R2D2Features(torch.from_numpy(xy).float(), unit, one, one)


def test_keypoints_and_their_margins() -> None:
    rng = np.random.default_rng(0)
    xy, words = rng.uniform(0, 100, (60, 2)), rng.normal(size=(60, 32))
    a, b = features(xy, words), features(xy + 5, words + 0.05 * rng.normal(size=words.shape))
    found = match_keypoints(a, b)
    assert found.rows.tolist() == [[i, i] for i in range(60)]
    table = (a.descriptors @ b.descriptors.T).double().numpy()
    far_b = np.linalg.norm(b.keypoints.numpy()[:, None] - b.keypoints.numpy(), axis=-1) >= 4
    far_a = np.linalg.norm(a.keypoints.numpy()[:, None] - a.keypoints.numpy(), axis=-1) >= 4
    for i in range(60):
        rival = max(table[i][far_b[i]].max(), table[:, i][far_a[i]].max())
        assert found.margin[i] == pytest.approx(max(table[i, i] - rival, 0), abs=1e-5)
    twice = features(np.concatenate([xy, xy + 0.5]), np.concatenate([words, words]))
    np.testing.assert_allclose(match_keypoints(a, twice).margin.min(), match_keypoints(a, a).margin.min(), atol=1e-5)


def test_neighbours_and_a_third_picture_drop_strays() -> None:
    rng = np.random.default_rng(0)
    xy, words = rng.uniform(0, 100, (80, 2)), rng.normal(size=(80, 32))
    ends = xy + 5
    ends[:8] = rng.uniform(0, 100, (8, 2))
    a, b, k = features(xy, words), features(ends, words), features(xy + 2, words)
    found = match_keypoints(a, b)
    raw = describe_matches(a, b, found, frames=(3, 9))
    assert raw.matches.frame_a.unique().tolist() == [3] and raw.matches.frame_b.unique().tolist() == [9]
    strays = raw.quality["votes"][np.isin(raw.matches.xy_a[:, 0].numpy(), xy[:8, 0].astype(np.float32))]
    assert len(strays) < 8 and (strays < 0.5).all()
    there = match_keypoints(a, k)
    shuffled = type(found)(found.rows, found.similarity, found.margin)
    over = describe_matches(a, b, found, over=(k, there, shuffled))
    assert (over.quality["cycle"] == 1).all()
    wrong = type(found)(np.stack([found.rows[:, 0], np.roll(found.rows[:, 1], 7)], 1), found.similarity, found.margin)
    assert len(describe_matches(a, b, found, over=(k, there, wrong))) < 10


def test_the_object_is_described_at_one_size() -> None:
    describer = R2D2Describer(small_r2d2(), size=96, top_k=50, config=OPEN)
    image, _, mask, _ = pictures()
    found = describer.features(image, mask)
    cell = found.keypoints.floor().long()
    assert 0 < len(found) <= 50
    assert bool(torch.from_numpy(mask)[cell[:, 1], cell[:, 0]].all())
    assert float(found.scales.max()) == pytest.approx(96 / 54, rel=0.1)  # 44 px of object and its margin
    assert len(describer.features(image, np.zeros_like(mask))) == 0


def test_without_a_rival_there_is_no_margin_and_tiny_objects_have_rivals() -> None:
    rng = np.random.default_rng(5)
    words = rng.normal(size=(30, 32))
    alone = features(np.array([[5.0, 5.0]]), words[:1])
    assert match_keypoints(alone, alone).margin.tolist() == [0.0]
    one_place = features(np.full((30, 2), 5.0), words)
    assert match_keypoints(one_place, one_place).margin.max() <= 1
    spread = rng.uniform(0, 100, (30, 2))
    big, tiny = features(spread, words), features(3 * spread / 100, words)  # all of it within 4 px
    usual, small = (match_keypoints(some, some).margin for some in (big, tiny))
    assert (small > 0).all() and np.median(small) < 1.2 * np.median(usual)
    assert (match_keypoints(alone, big).margin == 0).all()


def test_masks_with_negative_strides() -> None:
    image, _, mask, _ = pictures()
    describer = R2D2Describer(small_r2d2(), size=96, top_k=50, config=OPEN)
    flipped = np.ascontiguousarray(mask[::-1, ::-1])[::-1, ::-1]
    assert torch.equal(describer.features(image, flipped).keypoints, describer.features(image, mask).keypoints)


def test_more_pixels_than_the_usual_largest_level_are_looked_at() -> None:
    image, _, mask, _ = pictures()
    found = R2D2Describer(small_r2d2(), size=128, config=R2D2Config(
        min_size=0, max_size=96, reliability=0.0, repeatability=0.0, unbiased=True
    )).features(image, mask)  # fmt: skip
    assert float(found.scales.max()) == pytest.approx(128 / 54, rel=0.1)  # not 96 / 54


def test_a_match_that_a_contradiction_makes_too_doubtful_goes() -> None:
    a, b = [[50.0, 50.0]], [[60.0, 50.0]]
    other = [[50.5, 50.0]], [[50.5, 70.0]]
    links = MatcherLink(listed(a, b), "one"), MatcherLink(listed(*other), "two")
    both = ChainMatcher(links, tables={}, max_error=20)(*pictures())
    assert len(both) == 2  # neither is clearly better: expected to be off by half of what they differ
    assert len(ChainMatcher(links, tables={}, max_error=4)(*pictures())) == 0
    assert len(ChainMatcher(links[:1], tables={}, max_error=4)(*pictures())) == 1
