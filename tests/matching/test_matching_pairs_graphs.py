"""Named graphs of frame pairs: reference lists, counts, prefilters, errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyn4d.core.errors import InputError
from dyn4d.matching.pairs import Prefilter, SceneGraph, listed_pairs, scene_pairs

GRAPHS = ["complete", "swin", "swin-1", "swin-5-noncyclic", "swin-noncyclic", "logwin", "logwin-4-noncyclic", "oneref"]


def test_pairs_are_the_published_ones_without_its_self_pairs(reference: Path) -> None:
    table = json.loads((reference / "golden" / "scene_graphs.json").read_text())
    seen = 0
    for name, listed in table.items():
        case = re.fullmatch(r"n=(\d+) (\S+) prefilter=(\S+) sym=(\S+)", name)
        if not case:  # retrieval graphs need a retrieval network
            continue
        prefilter = None if case[3] == "None" else case[3]
        found = scene_pairs(int(case[1]), case[2], prefilter=prefilter, symmetrize=case[4] == "True")
        assert len(found) == len(set(found)), name
        assert set(found) == {(i, j) for i, j in listed if i != j}, name
        seen += 1
    assert seen == 288


@given(st.integers(0, 40), st.sampled_from(GRAPHS), st.sampled_from([None, "seq1", "seq4", "cyc3"]), st.booleans())
def test_counts_come_before_the_work(count: int, name: str, prefilter: str | None, symmetrize: bool) -> None:
    graph = SceneGraph.parse(name)
    near = None if prefilter is None else Prefilter.parse(prefilter)
    found = graph.pairs(count, near, symmetrize=symmetrize)
    assert graph.count_pairs(count, near, symmetrize=symmetrize) == len(found) == len(set(found))
    assert all(0 <= i < count and 0 <= j < count and i != j for i, j in found)
    if symmetrize:  # partners next to each other
        assert all(second == first[::-1] for first, second in zip(found[::2], found[1::2]))
    elif name != "oneref":
        assert len({frozenset(pair) for pair in found}) == len(found)
        assert [max(pair) for pair in found] == sorted(max(pair) for pair in found)


def test_a_long_clip_is_counted_at_once() -> None:
    assert SceneGraph.parse("complete").count_pairs(1_000_000) == 1_000_000 * 999_999
    assert SceneGraph.parse("swin-3").count_pairs(1000, symmetrize=False) == 3000
    assert SceneGraph.parse("swin-3-noncyclic").count_pairs(1000, symmetrize=False) == 3 * 1000 - 6
    assert SceneGraph.parse("logwin-9").count_pairs(1000, symmetrize=False) == 9000


@pytest.mark.parametrize("name", ["swin-3", "swin-9", "logwin-5"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_window_longer_than_the_clip_gives_every_pair_once(name: str, count: int) -> None:
    found = scene_pairs(count, name, symmetrize=False)
    assert len(found) == len({frozenset(p) for p in found}) == count * (count - 1) // 2


def test_names() -> None:
    assert SceneGraph.parse("swin-5-noncyclic") == SceneGraph("swin", window=5, cyclic=False)
    assert SceneGraph.parse("logwin") == SceneGraph("logwin", window=3)
    assert SceneGraph.parse("oneref-2") == SceneGraph("oneref", reference=2)
    assert Prefilter.parse("cyc7") == Prefilter(7, cyclic=True)


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("retrieval-20-10", "use complete, swin"),
        ("swin-5-cyclic", "'cyclic' has no meaning here; use"),
        ("swin-0", "use a window from 1"),
        ("complete-4", "use swin-4"),
        ("complete-noncyclic", "leave out -noncyclic"),
        ("oneref-noncyclic", "leave out -noncyclic"),
        ("swin-x", "such as swin-5-noncyclic"),
        ("", "use complete"),
    ],
)
def test_wrong_names_say_how_to_mend_them(name: str, mend: str) -> None:
    with pytest.raises(InputError, match=re.escape(mend)):
        scene_pairs(5, name)


def test_a_reference_that_is_not_there() -> None:
    with pytest.raises(InputError, match="the clip has 5 frames; use 0 to 4"):
        scene_pairs(5, "oneref-5")
    assert scene_pairs(0, "oneref") == []


@pytest.mark.parametrize("text", ["seq", "cyc-2", "near3", "seq0"])
def test_wrong_prefilters(text: str) -> None:
    with pytest.raises(InputError, match="prefilter"):
        Prefilter.parse(text)


def test_a_list_of_ones_own() -> None:
    listed = [[0, 1], (1, 0), (3, 1), (0, 1)]
    assert scene_pairs(4, listed) == [(0, 1), (1, 0), (3, 1), (1, 3)]
    assert scene_pairs(4, listed, symmetrize=False) == [(0, 1), (1, 0), (3, 1)]
    assert scene_pairs(4, listed, prefilter="seq1") == [(0, 1), (1, 0)]
    for wrong, mend in (((1, 1), "leave this pair out"), ((0, 4), "counted from 0"), ((0, 1, 2), "wanted two frames")):
        with pytest.raises(InputError, match=mend):
            listed_pairs([wrong], 4)
