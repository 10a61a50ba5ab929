"""Run-length coded masks of COCO and SAM 2."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dyn4d.io.rle import decode_counts, decode_rle, encode_counts, encode_rle

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


def test_by_hand() -> None:
    mask = np.array([[0, 1], [0, 1], [1, 0]], bool)  # by columns: 0 0 1 | 1 1 0
    assert encode_rle(mask, text=False) == {"size": [3, 2], "counts": [2, 3, 1]}
    assert encode_counts([2, 3, 1]) == "231"
    assert decode_counts("231") == [2, 3, 1]
    np.testing.assert_array_equal(decode_rle({"size": [3, 2], "counts": "231"}), mask)
    assert encode_rle(np.ones((2, 2), bool), text=False)["counts"] == [0, 4]


@given(MASKS)
def test_what_was_coded_is_read_back(mask: np.ndarray) -> None:
    for text in (True, False):
        np.testing.assert_array_equal(decode_rle(encode_rle(mask, text=text)), mask)


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=30))
def test_runs_of_any_length_and_order_survive_as_text(runs: list[int]) -> None:
    assert decode_counts(encode_counts(runs)) == runs


@given(MASKS)
def test_the_text_is_that_of_pycocotools(mask: np.ndarray) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_rle(mask)["counts"] == theirs["counts"].decode()
    np.testing.assert_array_equal(decode_rle({"size": theirs["size"], "counts": theirs["counts"].decode()}), mask)


@pytest.mark.parametrize(
    ("rle", "says"),
    [
        ({"size": [2, 2], "counts": [3]}, "add up to 3 pixels"),
        ({"size": [2], "counts": [4]}, "wanted \\[height, width\\]"),
        ({"counts": [4]}, "wanted \\[height, width\\]"),
        ({"size": [2, 2], "counts": None}, "neither a list"),
        ({"size": [2, 2], "counts": [5, -1]}, "neither a list"),
        ({"size": [2, 2], "counts": "P"}, "end in the middle"),
        ({"size": [2, 2], "counts": "\x10"}, "hold the character"),
    ],
)
def test_damage_is_named(rle: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        decode_rle(rle)
