"""Canonical views under masks, holes and wild numbers, and the laws they keep."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_canonical import FIELDS, HEIGHT, MODES, WIDTH, bumpy, canonical, check_sound, mask_of, same_bits

from dyn4d.geometry.canonical import RatioMode


class TestMasks:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("kind", ["empty", "one", "border", "half", "full"])
    @pytest.mark.parametrize("background", [float("nan"), float("inf"), 0.0, 1e4, -1.0])
    def test_the_background_changes_no_bit(self, kind: str, mode: RatioMode, background: float) -> None:
        points, conf = bumpy(3)
        mask = mask_of(kind)
        clean = canonical(points, conf, mask, mode=mode)
        check_sound(clean)
        assert len(clean) == int(mask.sum())
        points[:, ~mask], conf[:, ~mask] = background, background
        assert same_bits(clean, canonical(points, conf, mask, mode=mode))

    @pytest.mark.parametrize("mode", MODES)
    @given(seed=st.integers(0, 1000), background=st.sampled_from([float("nan"), float("-inf"), 0.0, 1e4, -1.0]))
    def test_a_pixel_may_count_in_some_pairs_only(self, mode: RatioMode, seed: int, background: float) -> None:
        points, conf = bumpy(3, seed)
        mask = mask_of("half", seed)
        counts = torch.rand(3, len(mask), generator=torch.Generator().manual_seed(seed)) < 0.5
        clean = canonical(points, conf, mask, counts, mode)
        check_sound(clean)
        assert len(clean) == int((mask & counts.any(0)).sum())
        changed, unsure = points.clone(), conf.clone()
        changed[~counts], unsure[~counts] = background, background
        assert same_bits(clean, canonical(changed, unsure, mask, counts, mode))
        # The mean of a pixel is that of the pairs in which it counts.
        weight = ((conf - 0.999).double() * counts)[:, clean.pixels]
        mean = (weight[..., None] * points[:, clean.pixels]).sum(0) / weight.sum(0)[:, None]
        torch.testing.assert_close(clean.points, mean)

    @pytest.mark.parametrize("mode", MODES)
    def test_what_cannot_be_used_is_as_if_it_did_not_count(self, mode: RatioMode) -> None:
        points, conf = bumpy(3)
        mask = mask_of("half")
        draw = torch.rand(3, len(mask), generator=torch.Generator().manual_seed(5)) * 14
        counts = draw >= 7
        clean = canonical(points, conf, mask, counts, mode)
        for k, wrong in enumerate((float("nan"), float("inf"), 0.0, -1.0)):
            points[..., 2][draw.long() == k] = wrong
        for k, wrong in enumerate((float("nan"), 0.999, 0.0)):
            conf[draw.long() == k + 4] = wrong
        assert same_bits(clean, canonical(points, conf, mask, mode=mode))

    @given(seed=st.integers(0, 1000))
    def test_no_numbers_break_it(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        wild = torch.tensor([float("nan"), float("inf"), 0, -1, 1e-45, 1e-38, 1e-8, 1, 1.001, 1e4, 1e29, 3e38])
        points = wild[torch.randint(len(wild), (3, WIDTH * HEIGHT, 3), generator=generator)]
        conf = wild[torch.randint(len(wild), (3, WIDTH * HEIGHT), generator=generator)]
        for mode in MODES:
            check_sound(canonical(points, conf, mask_of("half", seed), mode=mode))

    def test_a_block_without_its_anchor_elects_another(self) -> None:
        points, conf = bumpy(2)
        centre = 4 * WIDTH + 4
        points[:, centre] = torch.nan
        view = canonical(points, conf, mask_of("full"))
        check_sound(view)
        assert len(view) == WIDTH * HEIGHT - 1 and centre not in view.pixels.tolist()
        assert int(view.anchor_pixels[0]) == 3 * WIDTH + 4
        first = view.anchor == 0
        torch.testing.assert_close(view.ratio[first], view.points[first, 2] / view.anchor_depth[0])
        others = canonical(*bumpy(2), mask_of("full"))
        rows = torch.searchsorted(others.pixels, view.pixels[~first])
        assert torch.equal(view.ratio[~first], others.ratio[rows])


class TestLaws:
    @pytest.mark.parametrize("mode", MODES)
    def test_order_of_pairs(self, mode: RatioMode) -> None:
        points, conf = bumpy(6)
        points[2, ::3] = torch.nan
        one = canonical(points, conf, mask_of("half"), mode=mode)
        for seed in range(3):
            order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
            other = canonical(points[order], conf[order], mask_of("half"), mode=mode)
            for name in FIELDS:
                torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-13, atol=1e-13)

    @pytest.mark.parametrize("mode", MODES)
    def test_scale(self, mode: RatioMode) -> None:
        points, conf = bumpy(3)
        one = canonical(points, conf, mask_of("half"), mode=mode)
        for scale in (2.0**-30, 0.01, 1e6):
            other = canonical(points.double() * scale, conf, mask_of("half"), mode=mode)
            torch.testing.assert_close(other.points, one.points * scale, rtol=1e-12, atol=0)
            torch.testing.assert_close(other.anchor_depth, one.anchor_depth * scale, rtol=1e-12, atol=0)
            torch.testing.assert_close(other.ratio, one.ratio, rtol=1e-12, atol=0)
            assert torch.equal(other.conf, one.conf) and torch.equal(other.anchor, one.anchor)

    @pytest.mark.parametrize("mode", MODES)
    def test_every_pair_twice_is_the_same(self, mode: RatioMode) -> None:
        points, conf = bumpy(3)
        one = canonical(points, conf, mask_of("half"), mode=mode)
        other = canonical(points.repeat(2, 1, 1), conf.repeat(2, 1), mask_of("half"), mode=mode)
        for name in FIELDS:
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-13, atol=1e-13)
