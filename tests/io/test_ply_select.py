"""Cropping and merging: by hand, and that one undoes the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ply_clouds import gaussians, points, save

from dyn4d.core.clusters import cluster_labels, is_outlier, robust_bounds, spacing
from dyn4d.core.errors import InputError
from dyn4d.io import ply_fields as pf
from dyn4d.io.ply_select import Selection, merge, select
from dyn4d.io.row_writers import write_rows
from dyn4d.io.rows import open_rows


def kept(tmp_path: Path, rows: np.ndarray, **asked) -> np.ndarray:
    return select(open_rows(save(tmp_path / "in.ply", rows)), Selection(**asked)).keep


def test_each_thing_that_can_be_asked_for(tmp_path: Path) -> None:
    rows = gaussians(500, 0, extra=("confidence",))
    xyz = pf.columns(rows, pf.POSITION, np.float64)
    opacity, largest = pf.opacities(rows), pf.scales(rows).max(-1)
    box = (-1.0, -0.5, -2.0, 0.5, 1.0, 2.0)
    for asked, wanted in (
        ({"box": box}, ((xyz >= box[:3]) & (xyz <= box[3:])).all(-1)),
        ({"sphere": (0.1, 0.2, -0.3, 1.0)}, np.linalg.norm(xyz - [0.1, 0.2, -0.3], axis=-1) <= 1),
        ({"min_opacity": 0.3, "max_opacity": 0.9}, (opacity >= 0.3) & (opacity <= 0.9)),
        ({"min_scale": 0.02, "max_scale": 0.1}, (largest >= 0.02) & (largest <= 0.1)),
        ({"min_confidence": 0.5}, rows["confidence"] >= 0.5),
        ({"box": box, "min_opacity": 0.5}, ((xyz >= box[:3]) & (xyz <= box[3:])).all(-1) & (opacity >= 0.5)),
    ):
        assert 0 < wanted.sum() < 500
        np.testing.assert_array_equal(kept(tmp_path, rows, **asked), wanted)
        np.testing.assert_array_equal(kept(tmp_path, rows, **asked, invert=True), ~wanted)


def test_nan_meets_no_limit(tmp_path: Path) -> None:
    rows = gaussians(10, 0)
    rows["x"][0], rows["opacity"][1], rows["f_dc_0"][2] = np.nan, np.nan, np.inf
    for name in pf.ROTATION:
        rows[name][3] = 0
    np.testing.assert_array_equal(kept(tmp_path, rows, finite=True), np.arange(10) > 3)
    np.testing.assert_array_equal(kept(tmp_path, rows, sphere=(0.0, 0, 0, 1e9)), np.arange(10) != 0)
    np.testing.assert_array_equal(kept(tmp_path, rows, min_opacity=0.0), np.arange(10) != 1)


def test_counts_add_up(tmp_path: Path) -> None:
    rows = gaussians(400, 0)
    found = select(open_rows(save(tmp_path / "in.ply", rows)),
                   Selection(box=(-1, -1, -1, 1, 1, 1), min_opacity=0.5, max_scale=0.05))  # fmt: skip
    assert found.keep.sum() + sum(count for _, count in found.dropped) == 400 and len(found.dropped) == 3


def test_the_largest_cluster_and_outliers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = points(1000)
    body = rng.normal(size=(1000, 3))
    body /= np.linalg.norm(body, axis=-1, keepdims=True)
    body[700:900] = body[700:900] * 0.3 + [5, 0, 0]  # a second one
    body[900:] = rng.uniform(-40, 40, (100, 3))  # dust
    for at, axis in enumerate("xyz"):
        rows[axis] = body[:, at]
    keep = kept(tmp_path, rows, largest_cluster=True)
    assert keep[:700].mean() > 0.98 and not keep[700:900].any() and keep[900:].sum() <= 1
    wide = kept(tmp_path, rows, largest_cluster=True, gap=5.0)
    assert wide[:900].all()
    stray = kept(tmp_path, rows, outliers=1.0)
    assert stray[:900].all() and stray[900:].mean() < 0.5


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(0, 300), degree=st.sampled_from([0, 1]), cut=st.floats(-2, 2), seed=st.integers(0, 9))
def test_cropping_and_merging_what_was_cropped_is_the_whole(
    tmp_path: Path, count: int, degree: int, cut: float, seed: int
) -> None:
    rows = gaussians(count, degree, seed, extra=("confidence",))
    source = open_rows(save(tmp_path / "in.ply", rows))
    box = (-1e9, -1e9, -1e9, cut, 1e9, 1e9)
    for name, invert in (("left.ply", False), ("right.ply", True)):
        write_rows(tmp_path / name, source.selected(select(source, Selection(box=box, invert=invert)).keep))
    together, notes = merge([open_rows(tmp_path / "left.ply"), open_rows(tmp_path / "right.ply")])
    write_rows(tmp_path / "whole.ply", together)
    whole = open_rows(tmp_path / "whole.ply").whole()
    inside = rows["x"] <= cut
    np.testing.assert_array_equal(whole, np.concatenate([rows[inside], rows[~inside]]))
    assert notes == ()


@pytest.mark.parametrize("first", [True, False])
def test_a_field_that_only_some_files_have_is_dropped_and_said(tmp_path: Path, first: bool) -> None:
    with_it, without = gaussians(5, 0, extra=("confidence",)), gaussians(4, 0, seed=1)
    a, b = (with_it, without) if first else (without, with_it)
    rows, notes = merge([open_rows(save(tmp_path / "a.ply", a)), open_rows(save(tmp_path / "b.ply", b))])
    names = list(without.dtype.names or ())
    np.testing.assert_array_equal(rows.whole(), np.concatenate([a[names], b[names]]))
    lacks = tmp_path / ("b.ply" if first else "a.ply")
    assert notes == (f"the field confidence is dropped, for it is not in {lacks}",)


def test_harmonics_of_a_lower_degree_are_filled_up(tmp_path: Path) -> None:
    a, b = gaussians(5, 1), gaussians(7, 3, seed=1)
    rows, notes = merge([open_rows(save(tmp_path / "a.ply", a)), open_rows(save(tmp_path / "b.ply", b))])
    whole = rows.whole()
    assert rows.count == len(whole) == 12 and pf.sh_degree(rows.names) == 3
    assert len(notes) == 1 and "degree 1, filled up with zeros to 3" in notes[0]
    np.testing.assert_array_equal(whole["f_rest_15"][:5], a["f_rest_3"])  # first of green
    np.testing.assert_array_equal(whole["f_rest_3"][:5], np.zeros(5))
    np.testing.assert_array_equal(whole["f_rest_44"][5:], b["f_rest_44"])


def test_normals_types_and_order_of_fields_may_differ(tmp_path: Path) -> None:
    a = gaussians(4, 0)
    names = [name for name in reversed(a.dtype.names or ()) if name not in pf.NORMAL]
    b = np.zeros(3, [(name, "f8" if name == "x" else "f4") for name in names])
    b["x"], b["opacity"] = 1 / 3, 2
    rows, notes = merge([open_rows(save(tmp_path / "a.ply", a)), open_rows(save(tmp_path / "b.ply", b))])
    whole = rows.whole()
    assert rows.dtype["x"] == np.float64 and whole["x"][-1] == 1 / 3 and whole["opacity"][-1] == 2
    assert "no normals" in notes[0] and rows.names == a.dtype.names


def test_what_cannot_be_merged_or_cropped(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a.ply", gaussians(3, 0)), save(tmp_path / "b.ply", points(3))
    with pytest.raises(InputError, match=r"holds Gaussians, .*points"):
        merge([open_rows(a), open_rows(b)])
    lame = gaussians(3, 0)
    lame = lame[[name for name in lame.dtype.names or () if name != "rot_3"]].astype(
        [(name, "f4") for name in lame.dtype.names or () if name != "rot_3"]
    )
    with pytest.raises(InputError, match=r"d.ply: a Gaussian needs the fields rot_3"):
        merge([open_rows(a), open_rows(save(tmp_path / "d.ply", lame))])
    with pytest.raises(InputError, match="two files"):
        merge([open_rows(a)])
    with pytest.raises(InputError, match="without opacity"):
        select(open_rows(b), Selection(min_opacity=0.1))
    with pytest.raises(InputError, match="no field confidence"):
        select(open_rows(a), Selection(min_confidence=0.1))
    for asked, says in (
        ({}, "say what to keep"), ({"box": (1.0, 0, 0, 0, 1, 1)}, "lower corner first"),
        ({"sphere": (0.0, 0, 0, -1)}, "a radius of -1"), ({"outliers": 0.0}, "more than 0"),
        ({"min_scale": float("nan")}, "--min-scale: NaN"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            select(open_rows(a), Selection(**asked))


# -------------------------------------------------------------------------------------------- clusters


def test_clusters_by_hand() -> None:
    line = np.array([[0.0, 0, 0], [0.9, 0, 0], [1.8, 0, 0], [9, 0, 0], [9.5, 0, 0], [1e12, 0, 0]])
    np.testing.assert_array_equal(cluster_labels(line, 1.0), [0, 0, 0, 1, 1, 2])
    assert len(cluster_labels(np.empty((0, 3)), 1.0)) == 0
    np.testing.assert_array_equal(cluster_labels(np.zeros((4, 3)), 0.0), np.zeros(4))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 80), cell=st.floats(0.05, 0.5), seed=st.integers(0, 99))
def test_clusters_join_what_is_near_and_part_what_is_far(count: int, cell: float, seed: int) -> None:
    """Against single linkage by all pairs: what is joined within one cell is one cluster, what is not joined within
    2 sqrt(3) cells is not."""
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial.distance import cdist

    xyz = np.random.default_rng(seed).random((count, 3))
    label = cluster_labels(xyz, cell)
    apart = cdist(xyz, xyz)
    near = connected_components(apart <= cell)[1]
    far = connected_components(apart <= 2 * np.sqrt(3) * cell * (1 + 1e-9))[1]
    together = label[:, None] == label
    assert together[near[:, None] == near].all() and not together[far[:, None] != far].any()
    assert (np.diff(np.bincount(label)) <= 0).all()


def test_bounds_that_strays_do_not_move() -> None:
    rng = np.random.default_rng(0)
    body = rng.random((5000, 3)) * [1, 2, 3]
    arm = np.stack([np.linspace(1, 1.8, 60), np.full(60, 1.0), np.full(60, 1.5)], -1)  # thin, but joined
    dust = rng.normal(size=(250, 3)) * 500
    low, high = robust_bounds(np.concatenate([body, arm, dust]))
    np.testing.assert_allclose(low, [0, 0, 0], atol=0.1)
    np.testing.assert_allclose(high, [1.8, 2, 3], atol=0.1)
    for few in (np.zeros((1, 3)), np.array([[0.0, 0, 0], [1, 2, 3]]), np.ones((9, 3)), np.empty((0, 3))):
        low, high = robust_bounds(few)
        if len(few):
            np.testing.assert_allclose([low, high], [few.min(0), few.max(0)])
    assert spacing(np.stack([np.arange(9.0), np.zeros(9), np.zeros(9)], -1), k=2) == pytest.approx(1)
    assert not is_outlier(np.zeros((2, 3))).any()
