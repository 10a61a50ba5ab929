"""The drawing of matches: sizes, colours, what is shown of the pictures."""

from __future__ import annotations

import numpy as np
import pytest

from dyn4d.export.match_picture import GAP, WIDTH, MatchText, draw_matches, place_colours, shown_boxes

Pair = tuple[np.ndarray, np.ndarray]


def pictures(*sizes: tuple[int, int]) -> Pair:
    """White pictures of (width, height)."""
    a, b = (np.full((height, width, 3), 255, dtype=np.uint8) for width, height in sizes)
    return a, b


def whole(pair: Pair) -> Pair:
    return np.ones(pair[0].shape[:2], dtype=bool), np.ones(pair[1].shape[:2], dtype=bool)


def none() -> Pair:
    return np.zeros((0, 2)), np.zeros((0, 2))


@pytest.mark.parametrize(
    "sizes",
    [
        ((64, 64), (64, 64)),
        ((3840, 2160), (320, 240)),
        ((90, 400), (400, 90)),
        ((1, 1), (5, 3)),
        ((3000, 16), (40, 40)),
    ],
)
def test_any_two_sizes(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    pair = pictures(*sizes)
    drawing = draw_matches(pair, whole(pair), (np.array([[0.5, 0.5]]), np.array([[0.5, 0.5]])), MatchText("1 match"))
    assert drawing.dtype == np.uint8 and drawing.ndim == 3 and drawing.shape[2] == 3
    assert drawing.shape[1] <= WIDTH and drawing.shape[0] <= 1100
    assert drawing.max() > 180


def test_no_match_and_no_object() -> None:
    pair = pictures((80, 60), (80, 60))
    nothing = np.zeros((60, 80), dtype=bool), np.zeros((60, 80), dtype=bool)
    for masks in (whole(pair), nothing):
        assert draw_matches(pair, masks, none()).shape == draw_matches(pair, masks, none(), lines=0).shape
    assert shown_boxes(nothing) == [(0, 0, 80, 60)] * 2


def test_the_background_is_dark_and_the_object_is_not() -> None:
    pair = pictures((100, 100), (100, 100))
    mask = np.zeros((100, 100), dtype=bool)
    mask[:, :50] = True
    drawing = draw_matches(pair, (mask, mask), none()).astype(int)
    row = drawing[drawing.shape[0] // 2]
    bright = row.mean(-1) > 150
    assert 0.4 < bright.mean() < 0.6
    assert row[~bright].mean() < 90


def test_a_match_has_one_colour_on_both_sides_where_it_is() -> None:
    pair = pictures((200, 200), (200, 200))
    black = (pair[0] * 0, pair[1] * 0)
    xy = np.array([[20.5, 100.5]]), np.array([[150.5, 40.5]])
    drawing = draw_matches(black, whole(pair), xy, lines=1).astype(int)
    scale = (drawing.shape[1] - 3 * GAP) / 2 / 200
    top = (drawing.shape[0] - 200 * scale + GAP) / 2
    spots = [(GAP + xy[0][0] * scale), (2 * GAP + (200 + xy[1][0]) * scale)]
    colour = place_colours(xy[0], whole(pair)[0])[0].astype(int)
    for x, y in ((spots[0][0], top + xy[0][0, 1] * scale), (spots[1][0], top + xy[1][0, 1] * scale)):
        assert np.abs(drawing[round(y), round(x)] - colour).max() < 12


def test_colours_say_where_on_the_object() -> None:
    mask = np.zeros((100, 300), dtype=bool)
    mask[20:80, 50:250] = True
    places = np.array([[60.0, 50], [240, 50], [150, 25], [150, 75], [150, 50], [61, 50]])
    colours = place_colours(places, mask).astype(int)
    apart = np.abs(colours[:4, None] - colours[None, :4]).sum(-1)
    assert apart[~np.eye(4, dtype=bool)].min() > 90  # left, right, top and bottom are told apart
    assert np.abs(colours[0] - colours[5]).max() < 8  # neighbours are alike
    assert np.ptp(colours[4]) < np.ptp(colours[:4], axis=1).min()  # pale in the middle
    assert place_colours(np.zeros((0, 2)), mask).shape == (0, 3)


def test_what_is_far_from_the_object_is_left_out() -> None:
    a, b = np.zeros((400, 600), dtype=bool), np.zeros((400, 600), dtype=bool)
    a[100:140, 200:260] = True
    b[380:400, 0:100] = True
    boxes = shown_boxes((a, b))
    assert [(right - left, bottom - top) for left, top, right, bottom in boxes] == [(150, 70)] * 2  # one scale
    for (left, top, right, bottom), mask in zip(boxes, (a, b)):
        assert mask[top:bottom, left:right].sum() == mask.sum()
    other = np.ones((50, 40), dtype=bool)
    assert shown_boxes((a, other))[1] == (0, 0, 40, 50)


def test_lines_are_few_and_spread() -> None:
    pair = pictures((200, 200), (200, 200))
    black = (pair[0] * 0, pair[1] * 0)
    y, x = np.mgrid[10:190:6, 10:190:6]
    xy = np.stack([x.ravel(), y.ravel()], -1) + 0.5
    gaps = []
    for lines in (0, 12):
        drawing = draw_matches(black, whole(pair), (xy, xy), lines=lines).astype(int)
        gaps.append(np.ptp(drawing[60:-60, drawing.shape[1] // 2], axis=-1) > 25)
    assert not gaps[0].any()
    crossings = np.flatnonzero(np.diff(gaps[1].astype(int)) == 1)
    assert 6 <= len(crossings) <= 12 and np.ptp(crossings) > 0.7 * len(gaps[1])


def test_long_and_foreign_names() -> None:
    pair = pictures((60, 60), (60, 60))
    text = MatchText("2,500 matches" * 9, "flow " * 99, "猫" * 300, "ü.png")
    assert draw_matches(pair, whole(pair), none(), text).shape[1] == 640
