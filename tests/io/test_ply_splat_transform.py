"""Against PlayCanvas' splat-transform, an independent reader and writer of our formats.

It is an npm package: `npm install --prefix FOLDER @playcanvas/splat-transform`, and DYN4D_SPLAT_TRANSFORM=FOLDER.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ply_clouds import gaussians, save
from scipy.spatial import KDTree

from dyn4d.io import ply_fields as pf
from dyn4d.io.ply_compare import properties, property_differences
from dyn4d.io.ply_convert import convert_file
from dyn4d.io.row_writers import WriteOptions
from dyn4d.io.rows import open_rows

pytestmark = pytest.mark.external


@pytest.fixture(scope="module")
def transform(splat_transform):
    def run(source: Path, target: Path, *options: str) -> np.ndarray:
        splat_transform(source, target, *options)
        return open_rows(target, turn_spz=False).whole()

    return run


def in_order_of(rows: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Rows put in the order of others at nearly the same places."""
    index = KDTree(pf.columns(rows, pf.POSITION)).query(pf.columns(other, pf.POSITION))[1]
    assert len(set(index.tolist())) == len(other)
    return rows[index]


@pytest.mark.parametrize("suffix", ["ply", "compressed.ply", "spz", "splat"])
@pytest.mark.parametrize("degree", [0, 2, 3])
def test_it_reads_the_same_from_our_files(tmp_path: Path, transform, suffix: str, degree: int) -> None:
    out = tmp_path / f"ours.{suffix}"
    convert_file(save(tmp_path / "in.ply", gaussians(600, degree)), out)
    ours = open_rows(out, turn_spz=False).whole()
    theirs = in_order_of(transform(out, tmp_path / "theirs.ply"), ours)
    np.testing.assert_allclose(pf.columns(theirs, pf.POSITION), pf.columns(ours, pf.POSITION), atol=1e-6)
    apart = property_differences(properties(ours), properties(theirs))
    # a byte of a .splat's rotation is (n - 128) / 128 to us and n / 127.5 - 1 to it
    assert apart.pop("rotation").max() < (1.0 if suffix == "splat" else 1e-3)
    assert all(values.max() < 2e-3 for values in apart.values()), {k: v.max() for k, v in apart.items()}
    assert ("harmonics" in apart) is (degree > 0 and suffix != "splat")


@pytest.mark.parametrize("suffix", ["compressed.ply", "spz"])
@pytest.mark.parametrize("degree", [0, 3])
def test_we_read_the_same_from_its_files(tmp_path: Path, transform, suffix: str, degree: int) -> None:
    made = tmp_path / f"theirs.{suffix}"
    source = save(tmp_path / "in.ply", gaussians(600, degree))
    version = ("--spz-version", "3") if suffix == "spz" else ()
    ours = transform(source, made, *version)
    theirs = in_order_of(transform(made, tmp_path / "again.ply"), ours)
    np.testing.assert_allclose(pf.columns(theirs, pf.POSITION), pf.columns(ours, pf.POSITION), atol=1e-6)
    apart = property_differences(properties(ours), properties(theirs))
    assert all(values.max() < 2e-3 for values in apart.values()), {k: v.max() for k, v in apart.items()}


def test_our_packing_loses_no_more_than_its_own(tmp_path: Path, transform) -> None:
    """Both put rows along a curve through space; the errors are within a tenth of each other."""
    source = save(tmp_path / "in.ply", gaussians(5000, 0))
    before = open_rows(source).whole()
    errors = []
    theirs = transform(source, tmp_path / "theirs.compressed.ply")
    convert_file(source, tmp_path / "ours.compressed.ply")
    for rows in (theirs, open_rows(tmp_path / "ours.compressed.ply").whole()):
        after = in_order_of(rows, before)
        apart = pf.columns(before, pf.POSITION) - pf.columns(after, pf.POSITION)
        errors.append(np.linalg.norm(apart, axis=-1).mean())
    assert errors[1] < 1.1 * errors[0]


def test_spz_as_it_writes_it(tmp_path: Path, transform) -> None:
    """It stores the axes of the PLY as they are: with turn_spz off both ways are the same file for both of us."""
    source = save(tmp_path / "in.ply", gaussians(300, 1))
    convert_file(source, tmp_path / "as_is.spz", WriteOptions(turn_spz=False))
    theirs = transform(tmp_path / "as_is.spz", tmp_path / "back.ply")
    before = open_rows(source).whole()
    np.testing.assert_allclose(theirs["y"], before["y"], atol=1e-5)
