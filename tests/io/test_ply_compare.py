"""Comparing two files: what is the same, moved, added, removed, changed; and the figures of `info` against NumPy's."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from ply_clouds import gaussians, points, save
from scipy.spatial.transform import Rotation

from dyn4d.core.errors import InputError
from dyn4d.io import ply_fields as pf
from dyn4d.io.ply_compare import compare_files, property_differences, side_by_side
from dyn4d.io.ply_convert import convert_file
from dyn4d.io.ply_info import QUANTILES, ply_info, short_fields
from dyn4d.io.rows import open_rows


def both(tmp_path: Path, a: np.ndarray, b: np.ndarray, **options):
    return compare_files(save(tmp_path / "a.ply", a), save(tmp_path / "b.ply", b), **options)


@pytest.mark.parametrize("by", ["row", "nearest"])
@pytest.mark.parametrize("count", [1, 2, 300])
def test_a_file_is_the_same_as_itself(tmp_path: Path, by: str, count: int) -> None:
    rows = gaussians(count, 1, extra=("confidence",))
    found = both(tmp_path, rows, rows, by=by)
    assert found.same and (found.paired, found.moved, found.added, found.removed) == (count, 0, 0, 0)
    assert all(d.quantiles == (0, 0, 0) and d.beyond == 0 for d in found.differences.values())
    assert found.decades == ((0.0, 0.0, count),) and found.format().endswith("same")
    assert set(found.differences) == {"colour", "opacity", "scale", "rotation", "confidence"} | (
        {"harmonics"} if by == "row" else set()
    )


def test_rows_that_moved(tmp_path: Path) -> None:
    a = gaussians(400, 0)
    b = a.copy()
    b["x"][:100] += 1e-3
    for by in ("row", "nearest"):
        found = both(tmp_path, a, b, by=by)
        assert (found.moved, found.added, found.removed, found.same) == (100, 0, 0, False)
        assert found.distance is not None and found.distance.quantiles[-1] == pytest.approx(1e-3, rel=1e-3)
        assert sum(count for *_, count in found.decades) == 400 and found.decades[0] == (0.0, 0.0, 300)
    assert both(tmp_path, a, b, tolerance=2e-3).same and not both(tmp_path, a, b, tolerance=5e-4).same


def test_rows_added_removed_and_shuffled(tmp_path: Path) -> None:
    a = gaussians(300, 0)
    order = np.random.default_rng(3).permutation(300)
    found = both(tmp_path, a, a[order], by="nearest")
    assert found.same and found.paired == 300
    by_itself = both(tmp_path, a, a[order])  # as many rows, but another order: that is seen
    assert by_itself.same and by_itself.by == "nearest" and "another order" in by_itself.format()
    assert "--by nearest" in both(tmp_path, a, a[order], by="row").format()
    more = np.concatenate([a, gaussians(40, 0, seed=9)])
    more["x"][300:] += 50
    found = both(tmp_path, a, more[np.random.default_rng(1).permutation(340)])
    assert (found.by, found.added, found.removed, found.moved) == ("nearest", 40, 0, 0)
    found = both(tmp_path, more, a)
    assert (found.added, found.removed, found.moved) == (0, 40, 0) and not found.same


def test_a_compressed_ply_is_compared_by_place_and_what_only_moved_by_row(tmp_path: Path) -> None:
    rows = gaussians(2000, 0)
    for name in ("f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"):
        rows[name] = rows[name][0]  # no row looks different from another
    a = save(tmp_path / "a.ply", rows)
    convert_file(a, tmp_path / "a.compressed.ply")
    found = compare_files(a, tmp_path / "a.compressed.ply")
    assert found.by == "nearest" and found.reordered and found.removed == found.added <= 20
    moved = gaussians(2000, 0)
    moved["x"] += np.linspace(0, 3, 2000, dtype=np.float32)
    assert both(tmp_path, gaussians(2000, 0), moved).by == "row"


@pytest.mark.parametrize("by", ["row", "nearest"])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_axes_of_an_ellipsoid_may_come_in_any_order(tmp_path: Path, order: tuple[int, ...], by: str) -> None:
    a = gaussians(300, 0)
    b = a.copy()
    axes = Rotation.from_quat(pf.unit_quats(a)[:, [1, 2, 3, 0]]).as_matrix()[:, :, list(order)]
    axes[:, :, 0] *= np.linalg.det(axes)[
        :, None
    ]  # two axes that change places mirror; a third that turns round does not
    quats = Rotation.from_matrix(axes).as_quat()[:, [3, 0, 1, 2]]
    for i, name in enumerate(pf.ROTATION):
        b[name] = quats[:, i]
    for i, at in enumerate(order):
        b[f"scale_{i}"] = a[f"scale_{at}"]
    found = both(tmp_path, a, b, by=by)
    assert found.same and found.differences["scale"].quantiles[-1] == 0
    assert found.differences["rotation"].quantiles[-1] < 0.01
    b["scale_0"] += np.float32(0.1)
    found = both(tmp_path, a, b, by=by)
    assert found.differences["scale"].quantiles[-1] == pytest.approx(100 * np.expm1(0.1), rel=1e-3)
    assert found.differences["scale"].beyond == 300 and found.differences["rotation"].beyond == 0


def test_gaussians_beside_points_are_said_to_be_so(tmp_path: Path) -> None:
    text = both(tmp_path, gaussians(50, 0), points(50), by="row").format()
    assert "A is Gaussians, B points" in text
    assert "B points" not in both(tmp_path, gaussians(50, 0), gaussians(50, 1)).format()


def test_a_row_that_is_there_twice_is_neither_added_nor_the_same_file(tmp_path: Path) -> None:
    a = gaussians(50, 0)
    found = both(tmp_path, a, np.concatenate([a, a[:5]]))
    assert (found.added, found.removed, found.moved) == (0, 0, 0) and not found.same


def test_other_properties(tmp_path: Path) -> None:
    a = gaussians(100, 1, extra=("confidence",))
    b = a.copy()
    b["f_dc_1"] += np.float32(10 / 255 / pf.SH_DC)
    b["scale_2"] += np.float32(np.log(1.05))
    b["confidence"] = 0.5
    b["f_rest_8"] += np.float32(0.25)
    found = both(tmp_path, a, b).differences
    assert found["colour"].quantiles[1] == pytest.approx(10, rel=1e-3) and found["colour"].beyond == 100
    assert found["scale"].mean == pytest.approx(5, rel=1e-3)
    assert found["harmonics"].mean == pytest.approx(0.25, rel=1e-4)
    assert found["opacity"].beyond == 0 and found["rotation"].beyond == 0
    assert found["confidence"].quantiles[-1] == pytest.approx(np.abs(a["confidence"] - 0.5).max(), rel=1e-5)


def test_the_angle_between_two_gaussians() -> None:
    """That of the turn between their axes; half a turn about one of them is none."""
    half = np.sqrt(0.5)
    one = np.array([[1.0, 0, 0, 0]] * 6)
    other = np.array([[1, 0, 0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, -1], [np.cos(0.05), 0, np.sin(0.05), 0],
                      [half, half, 0, 0]])  # fmt: skip
    found = property_differences({"rotation": one}, {"rotation": other})["rotation"]
    np.testing.assert_allclose(found, [0, 0, 0, 0, np.degrees(0.1), 90], atol=1e-5)
    rng = np.random.default_rng(0)
    a, b = (q / np.linalg.norm(q, axis=-1, keepdims=True) for q in rng.normal(size=(2, 200, 4)))
    from scipy.spatial.transform import Rotation

    frames = [Rotation.from_quat(q[:, [1, 2, 3, 0]]) for q in (a, b)]
    turns = [Rotation.identity(), *(Rotation.from_rotvec(np.pi * axis) for axis in np.eye(3))]
    wanted = np.min([(frames[0].inv() * frames[1] * turn).magnitude() for turn in turns], axis=0)
    found = property_differences({"rotation": a}, {"rotation": b})["rotation"]
    np.testing.assert_allclose(found, np.degrees(wanted), atol=1e-4)


def test_rows_without_a_place(tmp_path: Path) -> None:
    a = gaussians(30, 0)
    b = a.copy()
    b["y"][3], b["opacity"][4] = np.nan, np.nan
    for by in ("row", "nearest"):
        found = both(tmp_path, a, b, by=by)
        assert found.unplaced == 1 and not found.same and "no place" in found.format()
        assert found.differences["opacity"].beyond == 1
    a["opacity"][4] = b["opacity"][4] = np.inf
    assert both(tmp_path, a, b).differences["opacity"].beyond == 0


@pytest.mark.parametrize("a, b", [(0, 0), (0, 5), (5, 0)])
def test_nothing_on_a_side(tmp_path: Path, a: int, b: int) -> None:
    found = both(tmp_path, points(a), points(b))
    assert (found.added, found.removed, found.same) == (b, a, a == b) and found.format()
    json.dumps(found.as_dict(), default=str)


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 5 rows, .*b.ply 6: they cannot be compared row by row"):
        both(tmp_path, points(5), points(6), by="row")
    with pytest.raises(InputError, match="--tolerance -1"):
        both(tmp_path, points(5), points(5), tolerance=-1.0)
    found = both(tmp_path, points(5), gaussians(5, 0))
    assert found.only_a == ("red", "green", "blue") and "opacity" in found.only_b and "only in B" in found.format()


def test_blocks_of_different_lengths_are_cut_at_the_same_places(tmp_path: Path) -> None:
    a = open_rows(save(tmp_path / "a.ply", gaussians(1000, 0)))
    keep = np.arange(1000) % 3 > 0
    kept, whole = a.selected(keep), a.whole()[keep]
    at = 0
    from dataclasses import replace

    ragged = replace(a, count=len(whole), read=lambda n: iter(np.split(whole, [5, 6, 400])))
    for left, right in side_by_side(kept, ragged):
        np.testing.assert_array_equal(left, right)
        at += len(left)
    assert at == len(whole)


# ------------------------------------------------------------------------------------------------ info


@pytest.mark.parametrize("kind", ["float", "double"])
def test_info_says_what_numpy_says(tmp_path: Path, kind: str) -> None:
    rows = gaussians(4000, 2, extra=("confidence",))
    if kind == "double":
        rows = rows.astype([(name, "f8") for name in rows.dtype.names or ()])
    info = ply_info(save(tmp_path / "g.ply", rows))
    xyz = pf.columns(rows, pf.POSITION, np.float64)
    np.testing.assert_array_equal(info.low, xyz.min(0))
    np.testing.assert_array_equal(info.high, xyz.max(0))
    np.testing.assert_allclose(info.middle, np.quantile(xyz, (0.01, 0.99), axis=0), rtol=1e-5)
    opacity = 1 / (1 + np.exp(-rows["opacity"].astype(np.float64)))
    np.testing.assert_allclose(info.opacity, np.quantile(opacity, QUANTILES), rtol=1e-5)
    largest = np.exp(pf.columns(rows, pf.SCALE, np.float64)).max(-1)
    np.testing.assert_allclose(info.scale, np.quantile(largest, QUANTILES), rtol=1e-5)
    spread = info.spreads["confidence"]
    np.testing.assert_allclose(spread.quantiles, np.quantile(rows["confidence"], QUANTILES), rtol=1e-6)
    assert all(sum(s.counts) == 4000 for s in info.spreads.values()) and set(info.spreads) == {
        "opacity",
        "scale",
        "confidence",
    }
    assert (info.count, info.sh_degree, info.row_bytes) == (4000, 2, rows.dtype.itemsize)
    assert json.loads(json.dumps(info.as_dict(), default=str))["memory_bytes"] == rows.nbytes


def test_info_counts_what_is_broken(tmp_path: Path) -> None:
    rows = gaussians(100, 0)
    rows["x"][:3], rows["opacity"][2:6], rows["scale_1"][50] = np.nan, np.inf, -np.inf
    for name in pf.ROTATION:
        rows[name][7:9] = 0
    rows[20:25] = rows[30]  # five rows like another
    for name in pf.POSITION:
        rows[name][60] = rows[name][61]  # one at its place only
    info = ply_info(save(tmp_path / "g.ply", rows))
    assert info.nan == {"x": 3} and info.inf == {"opacity": 4, "scale_1": 1} and info.not_finite == 7
    assert (info.duplicates, info.identical, info.zero_quats) == (6, 5, 2)
    text = info.format()
    assert "x 3 NaN, opacity 4 Inf, scale_1 1 Inf" in text and "2 are zero" in text
    assert "6 rows at a place another row has, 5 of them alike" in text


def test_zero_and_minus_zero_are_one_place(tmp_path: Path) -> None:
    rows = points(2, colour=False)
    for axis in "xyz":
        rows[axis] = [0.0, -0.0]
    info = ply_info(save(tmp_path / "p.ply", rows))
    assert (info.duplicates, info.identical) == (1, 0)


def test_the_size_of_blocks_does_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = open_rows(save(tmp_path / "g.ply", gaussians(1000, 1)))
    for size in (1, 7, 1000, 4096):
        np.testing.assert_array_equal(np.concatenate(list(rows.blocks(size))), rows.whole())
    from dyn4d.io.ply_convert import convert_file

    for suffix in ("spz", "splat", "compressed.ply"):
        convert_file(tmp_path / "g.ply", tmp_path / f"g.{suffix}")
        found = open_rows(tmp_path / f"g.{suffix}")
        for size in (3, 300, 1000):
            parts = list(found.blocks(size))
            assert max(map(len, parts)) <= size
            np.testing.assert_array_equal(np.concatenate(parts), found.whole())


def test_fields_are_shortened() -> None:
    names = ("x", "y", "z", *pf.DC, *pf.rest_names(9), "opacity", "rot_0", "rot_2", "rot_3", "layer_7")
    assert short_fields(names) == "x y z f_dc_0…2 f_rest_0…8 opacity rot_0 rot_2…3 layer_7"


def test_harmonics_that_only_one_file_has_are_a_difference(tmp_path: Path) -> None:
    from dyn4d.io.row_writers import with_degree

    rows = open_rows(save(tmp_path / "full.ply", gaussians(40, 2)))
    whole = rows.whole()
    for degree in (0, 1):
        found = both(tmp_path, whole, with_degree(rows, degree).whole())
        lost = [f"f_rest_{8 * channel + k}" for channel in range(3) for k in range((degree + 1) ** 2 - 1, 8)]
        wanted = np.abs(pf.columns(whole, lost)).max()
        assert not found.same and found.differences["harmonics"].quantiles[-1] == pytest.approx(wanted)
    assert both(tmp_path, whole, with_degree(rows, 3).whole()).same  # filled with zeros, it is the same colour
