from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dyn4d.geometry.canonical import (
    CanonicalAccumulator,
    CanonicalView,
    RatioMode,
    anchors_of,
    canonical_views,
    elect_anchors,
)
from dyn4d.geometry.pair_results import PairFrame, PairResult, PairResultList
from dyn4d.matching.image_size import fit_view

MODES: tuple[RatioMode, ...] = ("avg-angle", "avg-reldepth")
FIELDS = ("pixels", "points", "conf", "anchor", "ratio", "anchor_pixels", "anchor_depth")
WIDTH, HEIGHT = 32, 24


def bumpy(count: int, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> tuple[Tensor, Tensor]:
    """Pointmaps (count, H * W, 3) of one surface, each with a scale and noise of its own, and confidences above 1."""
    generator = torch.Generator().manual_seed(seed)
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    ray = torch.stack([(u - width / 2) / width, (v - height / 2) / width, torch.ones_like(u)], dim=-1).double()
    depth = 3 + torch.sin(u / 5) * torch.cos(v / 4)
    points = (ray * depth[..., None]).reshape(1, -1, 3)
    scale = 1 + 0.05 * torch.randn(count, 1, 1, generator=generator)
    noise = 1 + 0.01 * torch.randn(count, width * height, 1, generator=generator)
    conf = 1 + torch.rand(count, width * height, generator=generator).exp()
    return (points * scale * noise).float(), conf


def mask_of(kind: str, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Tensor:
    """(H * W,) bool."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    if kind == "one":
        mask[height - 1, width - 1] = True
    elif kind == "border":
        mask[0], mask[-1], mask[:, 0], mask[:, -1] = True, True, True, True
    elif kind == "half":
        mask = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.5
    elif kind == "full":
        mask[:] = True
    return mask.flatten()


def canonical(
    points: Tensor, conf: Tensor, mask: Tensor, counts: Tensor | None = None, mode: RatioMode = "avg-angle", *,
    width: int = WIDTH, height: int = HEIGHT, subsample: int = 8,
) -> CanonicalView:  # fmt: skip
    pixels = mask.nonzero()[:, 0]
    accumulator = CanonicalAccumulator(pixels, width, height, subsample=subsample, mode=mode)
    for k in range(len(points)):
        accumulator.add(points[k, pixels], conf[k, pixels], None if counts is None else counts[k, pixels])
    return accumulator.view()


def check_sound(view: CanonicalView) -> None:
    for name in FIELDS:
        assert torch.isfinite(getattr(view, name).double()).all(), name
    assert (view.points[:, 2] > 0).all() and (view.ratio > 0).all() and (view.conf > 0).all()
    rows = torch.searchsorted(view.pixels, view.anchor_pixels)
    assert torch.equal(view.pixels[rows], view.anchor_pixels)
    assert torch.equal(view.anchor[rows], torch.arange(len(rows)))  # an anchor is its own anchor
    assert (view.ratio[rows] == 1).all()
    assert torch.equal(view.points[rows, 2], view.anchor_depth)
    blocks_wide = -(-view.width // view.subsample)

    def block(flat: Tensor) -> Tensor:
        return flat // view.width // view.subsample * blocks_wide + flat % view.width // view.subsample

    assert torch.equal(block(view.anchor_pixels), block(view.pixels).unique())
    assert torch.equal(block(view.pixels), block(view.anchor_pixels)[view.anchor])


def same_bits(one: CanonicalView, other: CanonicalView) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


@pytest.fixture(scope="module")
def golden(reference: Path) -> dict[str, np.ndarray]:
    with np.load(reference / "golden" / "matching.npz", allow_pickle=False) as data:
        return {name: data[name] for name in data.files if name.split("/")[0] in ("canon", "anchor")}


class TestPublished:
    """The whole picture counts: the numbers of the published code."""

    def view(self, golden: dict[str, np.ndarray], mode: RatioMode) -> CanonicalView:
        points, conf = torch.from_numpy(golden["canon/pts"]), torch.from_numpy(golden["canon/conf"])
        count, height, width = conf.shape
        full = torch.ones(height * width, dtype=torch.bool)
        return canonical(points.view(count, -1, 3), conf.view(count, -1), full, mode=mode, width=width, height=height)

    @pytest.mark.parametrize("mode", MODES)
    def test_canonical_view(self, golden: dict[str, np.ndarray], mode: RatioMode) -> None:
        view = self.view(golden, mode)
        check_sound(view)
        # float32 sums against float64 ones
        np.testing.assert_allclose(view.points, golden[f"canon/{mode}/canon"].reshape(-1, 3), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(view.conf, golden[f"canon/{mode}/conf"].ravel(), rtol=1e-6)
        np.testing.assert_allclose(view.ratio, golden[f"canon/{mode}/canon2"].ravel(), rtol=2e-6)

    def test_anchors_of_matches(self, golden: dict[str, np.ndarray]) -> None:
        view = self.view(golden, "avg-angle")
        anchor, ratio = anchors_of(view, torch.from_numpy(golden["anchor/xy"]))
        np.testing.assert_array_equal(anchor, golden["anchor/idx"])
        np.testing.assert_allclose(ratio, golden["anchor/off"], rtol=2e-6)


class TestAnchors:
    def test_a_full_picture_has_the_centres_of_its_blocks(self) -> None:
        view = canonical(*bumpy(1), mask_of("full"))
        column, row = view.anchor_pixels % WIDTH, view.anchor_pixels // WIDTH
        assert column.view(3, 4)[0].tolist() == [4, 12, 20, 28]
        assert row.view(3, 4)[:, 0].tolist() == [4, 12, 20]
        assert torch.equal(view.anchor_xy, torch.stack([column, row], -1) + 0.5)

    def test_the_nearest_pixel_the_first_of_equals(self) -> None:
        pixels = torch.tensor([0, 4 * WIDTH + 3, 4 * WIDTH + 5, 5 * WIDTH + 12])
        rows, anchor = elect_anchors(pixels, WIDTH, HEIGHT, 8)
        assert rows.tolist() == [1, 3]
        assert anchor.tolist() == [0, 0, 0, 1]

    def test_blocks_at_the_edge_are_cut_off(self) -> None:
        width, height = 18, 11  # the last blocks have 2 columns and 3 rows
        view = canonical(
            *bumpy(2, width=width, height=height), torch.ones(width * height) > 0, width=width, height=height
        )
        check_sound(view)
        assert (view.anchor_pixels % width).tolist() == [4, 12, 17] * 2
        assert (view.anchor_pixels // width).tolist() == [4] * 3 + [10] * 3

    @pytest.mark.parametrize("subsample", [1, 3, 64])
    def test_other_blocks(self, subsample: int) -> None:
        view = canonical(*bumpy(2), mask_of("half"), subsample=subsample)
        check_sound(view)
        if subsample == 1:
            assert torch.equal(view.pixels, view.anchor_pixels) and (view.ratio == 1).all()
        assert subsample != 64 or len(view.anchor_pixels) == 1


class TestByHand:
    def test_mean_confidence_and_ratio(self) -> None:
        """Two pixels, two pairs; weights 1 and 3, then 2 and 2."""
        points = torch.tensor([[[0.0, 0, 2], [0.3, 0, 2.4]], [[0.0, 0, 4], [0.5, 0, 4.5]]], dtype=torch.float64)
        conf = torch.tensor([[1.0, 2.0], [3.0, 2.0]], dtype=torch.float64) + 0.999
        pixels = torch.tensor([4 * 16 + 4, 4 * 16 + 5])
        accumulators = {mode: CanonicalAccumulator(pixels, 16, 16, mode=mode) for mode in MODES}
        for accumulator in accumulators.values():
            for k in range(2):
                accumulator.add(points[k], conf[k])
        view = accumulators["avg-angle"].view()
        anchor_z, z = (1 * 2 + 3 * 4) / 4, (2.4 + 4.5) / 2
        np.testing.assert_allclose(view.points[:, 2], [anchor_z, z], rtol=1e-12)
        np.testing.assert_allclose(view.conf, [10 / 4, 2], rtol=1e-12)
        assert view.anchor_pixels.tolist() == [4 * 16 + 4]
        angle = (np.arctan(0.4 / 0.3) + np.arctan(0.5 / 0.5)) / 2
        np.testing.assert_allclose(view.ratio, [1, 1 + 0.4 * np.tan(angle) / anchor_z], rtol=1e-12)
        ratio = accumulators["avg-reldepth"].view().ratio
        np.testing.assert_allclose(ratio, [1, (2.4 / 2 + 4.5 / 4) / 2], rtol=1e-12)

    @pytest.mark.parametrize("mode", MODES)
    def test_one_pair_is_kept_as_it_is(self, mode: RatioMode) -> None:
        points, conf = bumpy(1)
        view = canonical(points, conf, mask_of("half"), mode=mode)
        torch.testing.assert_close(view.points.float(), points[0, view.pixels])
        torch.testing.assert_close(view.conf, (conf[0, view.pixels] - 0.999).double())
        torch.testing.assert_close(view.ratio, view.points[:, 2] / view.anchor_depth[view.anchor], rtol=1e-9, atol=0)

    def test_angles_that_run_away_give_way_to_the_depths(self) -> None:
        """A sure pair that sees a step between two pixels and an unsure one that sees them far apart: the published
        mean lies at 29 times the anchor's depth, and mirrored at a negative depth."""
        for step in (0.5, -0.5):
            points = torch.tensor([[[0.0, 0, 1], [0.001, 0, 1 + step]], [[0.0, 0, 1], [1, 0, 1]]])
            accumulator = CanonicalAccumulator(torch.tensor([4 * 16 + 4, 4 * 16 + 5]), 16, 16)
            accumulator.add(points[0], torch.tensor([11.0, 11.0]))
            accumulator.add(points[1], torch.tensor([1.1, 1.1]))
            view = accumulator.view()
            check_sound(view)
            np.testing.assert_allclose(view.ratio[1], view.points[1, 2], rtol=1e-6)


class TestMatches:
    def test_pixels_that_do_not_count(self) -> None:
        view = canonical(*bumpy(2), mask_of("border"))
        xy = torch.tensor([[0, 0], [1, 1], [31, 23], [-1, 0], [32, 0], [0, 24], [0, -1], [5, 0]])
        anchor, ratio = anchors_of(view, xy)
        assert (anchor < 0).tolist() == [False, True, False, True, True, True, True, False]
        assert (ratio[anchor < 0] == 1).all()
        rows = view.rows(xy)
        assert torch.equal(view.xy[rows[rows >= 0]], xy[rows >= 0] + 0.5)
        depth = view.anchor_depth[anchor] * ratio
        torch.testing.assert_close(depth[rows >= 0], view.points[rows[rows >= 0], 2], rtol=0.05, atol=0)

    def test_no_pixels_and_no_matches(self) -> None:
        anchor, ratio = anchors_of(canonical(*bumpy(2), mask_of("empty")), torch.tensor([[3, 4]]))
        assert anchor.tolist() == [-1] and ratio.tolist() == [1]
        anchor, ratio = anchors_of(canonical(*bumpy(2), mask_of("full")), torch.zeros(0, 2, dtype=torch.int64))
        assert anchor.shape == ratio.shape == (0,)

    def test_half_integer_coordinates_are_refused(self) -> None:
        with pytest.raises(ValueError, match="wanted whole columns and rows"):
            anchors_of(canonical(*bumpy(1), mask_of("full")), torch.tensor([[3.5, 4.5]]))


class TestFrames:
    def test_each_frame_gets_what_its_pairs_say_of_it(self) -> None:
        shape = fit_view(512, 384, 64)
        kept = [mask_of(kind, 1, shape.width, shape.height) for kind in ("half", "full", "border", "half")]
        picture = np.zeros((shape.height, shape.width, 3), dtype=np.uint8)
        masks = [mask.numpy().reshape(shape.height, shape.width) for mask in kept]
        frames = [PairFrame(shape, picture, mask, mask) for mask in masks]
        maps = {pair: bumpy(4, seed, shape.width, shape.height) for seed, pair in enumerate(((0, 1), (2, 0)))}
        results = []
        for (a, b), (points, conf) in maps.items():
            at_a, at_b = frames[a].pixels, frames[b].pixels
            none = torch.zeros(0, 2, dtype=torch.int64)
            results.append(
                PairResult(
                    a, b, points[0][at_a], points[1][at_b], points[2][at_b], points[3][at_a],
                    conf[0][at_a], conf[1][at_b], conf[2][at_b], conf[3][at_a], none, none, torch.zeros(0),
                )
            )  # fmt: skip
        views = canonical_views(frames, PairResultList(tuple(results)))
        wanted = {
            0: [torch.stack([maps[0, 1][part][0], maps[2, 0][part][2]]) for part in (0, 1)],
            1: [maps[0, 1][part][2:3] for part in (0, 1)],
            2: [maps[2, 0][part][:1] for part in (0, 1)],
        }
        for n, (points, conf) in wanted.items():
            assert same_bits(views[n], canonical(points, conf, kept[n], width=shape.width, height=shape.height))
        assert len(views[3]) == 0 and kept[3].any()  # no pairs
        swapped = canonical_views(frames, PairResultList(tuple(result.swapped() for result in results)))
        assert all(same_bits(one, other) for one, other in zip(views, swapped))


class TestErrors:
    def test_messages(self) -> None:
        pixels = torch.arange(6)
        with pytest.raises(ValueError, match="wanted a number from 1"):
            CanonicalAccumulator(pixels, 3, 2, subsample=0)
        with pytest.raises(ValueError, match="wanted avg-angle or avg-reldepth"):
            CanonicalAccumulator(pixels, 3, 2, mode="mean")  # type: ignore[arg-type]
        for wrong in (pixels.flip(0), pixels + 1, torch.tensor([1, 1])):
            with pytest.raises(ValueError, match="ascending flat indices of 3 x 2"):
                CanonicalAccumulator(wrong, 3, 2)
        with pytest.raises(ValueError, match=r"conf: wanted shape \(P=6\), found \(5,\)"):
            CanonicalAccumulator(pixels, 3, 2).add(torch.ones(6, 3), torch.ones(5))
