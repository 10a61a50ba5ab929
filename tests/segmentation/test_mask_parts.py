"""The parts that masks are made with: smoothing, colours, motion, screens, sheets."""

from __future__ import annotations

import numpy as np
import pytest
from mask_scenes import disc_clip, iou, noise

from dyn4d.core.errors import InputError
from dyn4d.export.mask_sheet import Tile, chosen_frames, mask_sheet
from dyn4d.segmentation import MaskConfig, key_colour, make_keyer
from dyn4d.segmentation.colours import Palette, Sample, colour_evidence
from dyn4d.segmentation.keyed import parse_colour
from dyn4d.segmentation.motion import departure
from dyn4d.segmentation.smoothing import edge_weights, smooth_labels


def test_smoothing_keeps_what_is_even_and_stays_between_the_extremes() -> None:
    random = np.random.default_rng(0)
    lab = random.uniform(0, 100, (12, 15, 3)).astype(np.float32)
    weights = edge_weights(lab, 1.5)
    trust = random.uniform(0.1, 1, (12, 15)).astype(np.float32)
    even = np.full((12, 15), 0.3, np.float32)
    np.testing.assert_allclose(smooth_labels(even, trust, weights, 2.0), even, atol=1e-5)
    chance = random.uniform(0.2, 0.7, (12, 15)).astype(np.float32)
    smooth = smooth_labels(chance, trust, weights, 2.0, steps=400)
    assert smooth.min() >= chance.min() - 1e-4 and smooth.max() <= chance.max() + 1e-4
    assert smooth.std() < chance.std()


def test_smoothing_solves_its_equations() -> None:
    random = np.random.default_rng(1)
    lab = random.uniform(0, 50, (4, 5, 3)).astype(np.float32)
    right, below = edge_weights(lab, 1.0)
    chance, trust = random.uniform(size=(2, 4, 5)).astype(np.float32)
    matrix = np.diag(trust.ravel().astype(float))
    number = np.arange(20).reshape(4, 5)
    for a, b, w in [*zip(number[:, :-1].ravel(), number[:, 1:].ravel(), right.ravel()),
                    *zip(number[:-1].ravel(), number[1:].ravel(), below.ravel())]:  # fmt: skip
        matrix[a, a] += w
        matrix[b, b] += w
        matrix[a, b] -= w
        matrix[b, a] -= w
    exact = np.linalg.solve(matrix, (trust * chance).ravel()).reshape(4, 5)
    np.testing.assert_allclose(smooth_labels(chance, trust, (right, below), 1.0, steps=200), exact, atol=2e-3)


def test_colours_seen_on_the_object_speak_for_it() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30], image[:, 30:] = (200, 40, 40), (40, 40, 200)
    palette = Palette(image.reshape(-1, 3), 8)
    shares = palette.shares(image)
    np.testing.assert_allclose(shares.share.sum(-1), 1, atol=1e-5)
    v, u = np.mgrid[0:40, 0:60].astype(np.float32)
    labels = (u < 30).astype(np.float32)
    found = colour_evidence(len(palette), shares, [Sample(shares, u, v, labels, np.ones_like(labels))], 8.0)
    assert found.chance[:, :30].min() > 0.75 and found.chance[:, 30:].max() < 0.25
    other = np.full((40, 60, 3), (200, 40, 40), np.uint8)  # red everywhere: also where it was not seen
    afar = colour_evidence(
        len(palette), palette.shares(other), [Sample(shares, u, v, labels, np.ones_like(labels))], 3.0
    )
    assert afar.chance[20, 55] > found.chance[20, 55] and afar.known[20, 55] < afar.known[20, 10]


def test_what_moves_with_the_background_has_not_departed() -> None:
    still = noise(3, 60, 90, (100, 100, 100)).astype(np.float32)
    lab, other = still[:, :80], np.roll(still, 4, axis=1)[:, :80]
    flow = np.zeros((60, 80, 2), np.float32)
    flow[..., 0] = 4
    flow[20:40, 20:40] = (9, 3)  # a flow that runs over the edges of what moves: nothing does here
    background = np.ones((60, 80), bool)
    background[10:50, 10:50] = False
    away = departure(flow, lab, other, background)
    assert away is not None and away[5:, 10:-10].max() < 0.5
    assert departure(flow, lab, other, np.zeros((60, 80), bool)) is None


def test_a_screen_and_a_flat_background() -> None:
    for colour, kind, name in (((20, 190, 60), "chroma", "green"), ((20, 190, 60), "chroma", "auto"),
                               ((128, 128, 128), "background", "auto")):  # fmt: skip
        images, masks = disc_clip(3, flat=colour)
        random = np.random.default_rng(0)
        noisy = [np.clip(i + random.normal(0, 3, i.shape), 0, 255).astype(np.uint8) for i in images]
        found = list(key_colour(noisy, make_keyer(noisy, kind, name)))
        assert min(iou(one.mask, mask) for one, mask in zip(found, masks)) > 0.93, (kind, name)
        assert all(0 <= one.score <= 1 for one in found)


def test_backgrounds_that_are_none_are_refused() -> None:
    images, _ = disc_clip(2)
    with pytest.raises(InputError, match="not of one colour"):
        make_keyer([noise(4, 60, 80, (120, 120, 120))], "background", "auto")
    with pytest.raises(InputError, match="not at the borders"):
        make_keyer(images, "chroma", "#ff00ff")
    with pytest.raises(InputError, match="they show no screen"):
        make_keyer([np.full((60, 80, 3), 90, np.uint8)], "background", "#5a5a5a")  # nothing is on it
    with pytest.raises(InputError, match="wanted green, blue or a colour"):
        parse_colour("greenish", "--chroma")
    assert parse_colour("#0080Ff", "--chroma") == (0, 128, 255)


def test_options_out_of_range_are_refused() -> None:
    for wrong in ({"size": 10}, {"palette": 1}, {"carried": -1.0}, {"radius": 0.0}, {"min_score": 2.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MaskConfig(**wrong)  # type: ignore[arg-type]


def test_the_sheet_shows_the_worst_first() -> None:
    worst, even = chosen_frames([0.9, 0.2, 0.7, 0.1, 1.0], 0.5)
    assert worst == [3, 1] and even == [0, 2, 4]  # those that are not shown yet
    assert chosen_frames([0.1, 0.2], 0.5) == ([0, 1], [])
    assert chosen_frames([1.0] * 99, 0.5, [50])[1].count(50) == 1 and chosen_frames([1.0], 0.5) == ([], [0])
    images, masks = disc_clip(2)
    tiles = [Tile(f"{i}", image, mask, 0.3, i == 0) for i, (image, mask) in enumerate(zip(images, masks))]
    sheet = mask_sheet(tiles[:1], tiles, "two frames")
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    red = (sheet.astype(int) - sheet.mean(-1, keepdims=True))[..., 0] > 80
    assert red.any() and mask_sheet([], tiles[1:], "one").shape[0] < sheet.shape[0]
    shown = [mask_sheet([], [Tile("0", images[0], masks[0], score, False, key=True)], "one") for score in (1, 0.9, 0.8)]
    assert len({picture.tobytes() for picture in shown}) == 3  # a key frame's score is written, too
