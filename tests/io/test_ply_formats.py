"""Converting: round trips within what each format promises, and what independent readers make of our files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ply_clouds import gaussians, points, save
from plyfile import PlyData

from dyn4d.core.errors import InputError
from dyn4d.io import ply_fields as pf
from dyn4d.io import read_ply
from dyn4d.io.compressed_ply import morton_order
from dyn4d.io.ply_compare import properties, property_differences
from dyn4d.io.ply_convert import convert_file
from dyn4d.io.row_writers import PLAIN, WriteOptions, as_points, format_of, with_degree, write_rows
from dyn4d.io.rows import open_rows
from dyn4d.io.spz import fraction_bits

# the largest error of each property, by format: half a step of its quantisation
PROMISED = {
    "ply": dict.fromkeys(("colour", "opacity", "scale", "rotation", "harmonics"), 0.0),
    "compressed.ply": {"opacity": 0.5 / 255, "scale": 1.0, "rotation": 0.35, "harmonics": 4 / 256, "colour": 1.5},
    "spz": {
        "opacity": 0.5 / 255,
        "scale": 100 * np.expm1(1 / 32),
        "rotation": 0.35,
        "colour": 1.0,
        "harmonics": 8.5 / 128,
    },
    "splat": {"opacity": 0.5 / 255, "scale": 1e-3, "rotation": 1.0, "colour": 0.5},
}


def round_trip(tmp_path: Path, rows: np.ndarray, suffix: str, options: WriteOptions = PLAIN):
    """The rows before, and after in the same order."""
    source, out = save(tmp_path / "in.ply", rows), tmp_path / f"out.{suffix}"
    written = write_rows(out, open_rows(source), options)
    before = rows[pf.drawable(rows)] if suffix != "ply" else rows
    return before if written.order is None else before[written.order], open_rows(out).whole(), written


@pytest.mark.parametrize("suffix", sorted(PROMISED))
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_round_trip_within_the_formats_precision(tmp_path: Path, suffix: str, degree: int) -> None:
    rows = gaussians(700, degree, seed=degree)
    if suffix == "splat":  # clips colours, so they are kept inside
        for name in pf.DC:
            rows[name] = np.clip(rows[name], -1.7, 1.7)
    for name in pf.rest_names(pf.REST_COUNTS[degree]) if suffix == "spz" else ():
        rows[name] = np.clip(rows[name], -0.9, 0.9)  # it ends at -1 and 1
    before, after, written = round_trip(tmp_path, rows, suffix)
    assert written.count == len(after) == 700 and written.left_out == 0
    assert pf.sh_degree(after.dtype.names) == (0 if suffix == "splat" else degree)
    apart = property_differences(properties(before), properties(after))
    for name, limit in PROMISED[suffix].items():
        if name in apart:
            assert apart[name].max() <= limit * 1.01 + 1e-6, name
    place = np.abs(pf.columns(before, pf.POSITION) - pf.columns(after, pf.POSITION)).max()
    furthest = np.abs(pf.columns(rows, pf.POSITION)).max()
    limits = {"ply": 0, "splat": 0, "spz": 0.51 / 2 ** fraction_bits(furthest)}
    assert place <= limits.get(suffix, furthest / 1023), place
    if degree and suffix == "splat":
        assert f"spherical harmonics of degree {'1 to ' if degree > 1 else ''}{degree}" in written.lost


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(0, 600), seed=st.integers(0, 99), far=st.floats(-2e4, 2e4), big=st.floats(1e-3, 1e3),
    suffix=st.sampled_from(["ply", "compressed.ply", "spz", "splat"]),
)  # fmt: skip
def test_any_place_and_size(tmp_path: Path, count: int, seed: int, far: float, big: float, suffix: str) -> None:
    """Positions come back within the steps of the format wherever the object is."""
    rows = gaussians(count, 0, seed)
    for axis in "xyz":
        rows[axis] = rows[axis] * np.float32(big) + np.float32(far)
    if suffix == "splat" and not count:
        with pytest.raises(InputError, match="gives no rows"):
            round_trip(tmp_path, rows, suffix)
        return
    before, after, _ = round_trip(tmp_path, rows, suffix)
    assert len(after) == count
    if not count:
        return
    xyz = pf.columns(before, pf.POSITION, np.float64)
    apart = np.abs(xyz - pf.columns(after, pf.POSITION, np.float64)).max()
    furthest, wide = np.abs(xyz).max(), np.ptp(xyz, axis=0).max()
    step = {"ply": 0, "splat": 0, "spz": 1 / 2 ** fraction_bits(furthest), "compressed.ply": wide / 1023}[suffix]
    assert apart <= 0.51 * step + 2e-7 * furthest


def test_what_cannot_be_quantised_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = gaussians(20, 0)
    rows["x"][3], rows["scale_1"][4], rows["opacity"][5], rows["rot_2"][6], rows["f_dc_0"][7] = (np.nan,) * 5
    rows["opacity"][8], rows["opacity"][9], rows["scale_0"][10] = np.inf, -np.inf, -np.inf  # 1, 0 and flat: they can
    for suffix in ("spz", "splat", "compressed.ply", "glb"):
        written = write_rows(tmp_path / f"o.{suffix}", open_rows(save(tmp_path / "i.ply", rows)))
        assert (written.count, written.left_out) == (15, 5)
    for suffix in ("ply", "csv"):
        written = write_rows(tmp_path / f"o.{suffix}", open_rows(tmp_path / "i.ply"))
        assert (written.count, written.left_out) == (20, 0)
    back = open_rows(tmp_path / "o.ply").whole()
    np.testing.assert_array_equal(back["x"], rows["x"])


def test_a_plain_ply_is_copied_bit_for_bit_with_its_other_fields(tmp_path: Path) -> None:
    rows = gaussians(30, 2, extra=("confidence", "layer"))
    source = save(tmp_path / "in.ply", rows)
    done = convert_file(source, tmp_path / "out.ply")
    assert (tmp_path / "out.ply").read_bytes() == source.read_bytes() and done.written.lost == ()
    for order, text in ((">", False), ("<", True)):
        convert_file(save(tmp_path / "other.ply", rows, order=order, text=text), tmp_path / "out.ply")
        back = PlyData.read(str(tmp_path / "out.ply"))["vertex"].data
        for name in rows.dtype.names or ():
            np.testing.assert_allclose(back[name], rows[name], rtol=2e-7 if text else 0)


def test_the_measured_error_is_the_error(tmp_path: Path) -> None:
    rows = gaussians(500, 1)
    done = convert_file(save(tmp_path / "in.ply", rows), tmp_path / "o.compressed.ply")
    assert done.written.order is not None and done.measured == 500
    before, after = rows[done.written.order], open_rows(tmp_path / "o.compressed.ply").whole()
    apart = property_differences(properties(before), properties(after))
    for name, values in apart.items():
        assert done.losses[name].largest == pytest.approx(values.max()) and done.losses[name].mean == pytest.approx(
            values.mean(), rel=1e-5
        )
    assert "error" in done.format() and json.dumps(done.as_dict())


def test_rows_near_in_space_are_near_in_a_compressed_ply(tmp_path: Path) -> None:
    rows = gaussians(6000, 0)
    source = save(tmp_path / "in.ply", rows)
    sorted_ = convert_file(source, tmp_path / "a.compressed.ply")
    kept = convert_file(source, tmp_path / "b.compressed.ply", WriteOptions(keep_order=True))
    assert kept.written.order is None
    assert sorted_.losses["position"].mean < 0.6 * kept.losses["position"].mean
    order = sorted_.written.order
    assert order is not None and np.array_equal(np.sort(order), np.arange(6000))
    back = open_rows(tmp_path / "b.compressed.ply").whole()
    assert np.abs(pf.columns(back, pf.POSITION) - pf.columns(rows, pf.POSITION)).max() < 0.01


def test_the_curve_through_space() -> None:
    grid = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)], np.float32)
    np.testing.assert_array_equal(morton_order(grid), np.arange(8))
    assert len(morton_order(np.zeros((0, 3), np.float32))) == 0
    np.testing.assert_array_equal(morton_order(np.ones((5, 3), np.float32)), np.arange(5))


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_harmonics_are_cut_and_filled_channel_by_channel(tmp_path: Path, degree: int) -> None:
    rows = open_rows(save(tmp_path / "in.ply", gaussians(10, 2, extra=("confidence",))))
    changed = with_degree(rows, degree).whole()
    before, after = rows.whole(), changed
    old, new = 8, pf.REST_COUNTS[degree] // 3
    for channel in range(3):
        for k in range(new):
            wanted = before[f"f_rest_{channel * old + k}"] if k < old else np.zeros(10)
            np.testing.assert_array_equal(after[f"f_rest_{channel * new + k}"], wanted)
    np.testing.assert_array_equal(after["confidence"], before["confidence"])


def test_points(tmp_path: Path) -> None:
    rows = gaussians(50, 1, extra=("confidence",))
    done = convert_file(save(tmp_path / "in.ply", rows), tmp_path / "p.ply", WriteOptions(form="points"))
    cloud = read_ply(tmp_path / "p.ply")
    np.testing.assert_array_equal(cloud.xyz, pf.columns(rows, pf.POSITION))  # type: ignore[union-attr]
    rgb = np.clip(0.5 + pf.SH_DC * pf.columns(rows, pf.DC), 0, 1)
    np.testing.assert_allclose(cloud.rgb, rgb, atol=0.51 / 255)  # type: ignore[union-attr]
    np.testing.assert_array_equal(cloud.conf, rows["confidence"])  # type: ignore[union-attr]
    assert any("opacity" in text for text in done.written.lost) and done.losses["colour"].largest > 0
    for suffix in ("spz", "splat", "compressed.ply"):
        with pytest.raises(InputError, match=r"holds points, which cannot be written"):
            convert_file(tmp_path / "p.ply", tmp_path / f"p.{suffix}")
    with pytest.raises(InputError, match=r"no Gaussians; --as gaussians needs them"):
        convert_file(tmp_path / "p.ply", tmp_path / "q.ply", WriteOptions(form="gaussians"))
    assert as_points(open_rows(tmp_path / "p.ply")).names == ("x", "y", "z", "red", "green", "blue", "confidence")


def test_csv_brings_the_same_numbers_back(tmp_path: Path) -> None:
    rows = gaussians(40, 1)
    rows["x"][:3] = np.nan, np.inf, 1e-30
    write_rows(tmp_path / "o.csv", open_rows(save(tmp_path / "in.ply", rows)))
    back = np.genfromtxt(tmp_path / "o.csv", delimiter=",", names=True)
    assert back.dtype.names == rows.dtype.names
    for name in rows.dtype.names or ():
        np.testing.assert_array_equal(back[name].astype(np.float32), rows[name])


@pytest.mark.parametrize("name", ["a", "a.obj", "a.ply.gz", "compressed"])
def test_names_without_a_format(name: str) -> None:
    with pytest.raises(InputError, match="says no format"):
        format_of(name)


def test_spz_is_turned_to_the_axes_it_prescribes_and_back(tmp_path: Path) -> None:
    rows = gaussians(64, 3)
    for name in pf.rest_names(45):
        rows[name] = np.clip(rows[name], -0.9, 0.9)
    source = save(tmp_path / "in.ply", rows)
    convert_file(source, tmp_path / "o.spz")
    raw = open_rows(tmp_path / "o.spz", turn_spz=False).whole()
    np.testing.assert_allclose(raw["y"], -rows["y"], atol=1e-5)  # right, up, back
    np.testing.assert_allclose(raw["z"], -rows["z"], atol=1e-5)
    as_is = convert_file(source, tmp_path / "p.spz", WriteOptions(turn_spz=False))
    np.testing.assert_allclose(open_rows(tmp_path / "p.spz", turn_spz=False).whole()["y"], rows["y"], atol=1e-5)
    assert as_is.losses["position"].largest < 1e-5 and as_is.losses["harmonics"].largest < 0.07


def test_the_turn_of_harmonics_is_that_of_the_functions() -> None:
    """The colour seen from a direction is that of the turned Gaussian from the turned direction."""
    import torch

    from dyn4d.raster.sh import sh_basis

    direction = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1)
    turn = torch.from_numpy(pf.TURN_XYZ.astype(np.float64))
    plain, turned = sh_basis(4, direction), sh_basis(4, direction * turn)
    signs = torch.from_numpy(np.concatenate([[1], pf.TURN_SH]).astype(np.float64))
    torch.testing.assert_close(turned, plain * signs)


# ----------------------------------------------------------------------------------- independent readers


def test_plyfile_reads_our_compressed_layout(tmp_path: Path) -> None:
    convert_file(save(tmp_path / "in.ply", gaussians(300, 3)), tmp_path / "o.compressed.ply")
    file = PlyData.read(str(tmp_path / "o.compressed.ply"))
    assert [(e.name, e.count) for e in file.elements] == [("chunk", 2), ("vertex", 300), ("sh", 300)]
    assert [p.name for p in file["sh"].properties] == list(pf.rest_names(45))


@pytest.mark.parametrize("degree", [0, 3])
def test_gsply_reads_the_same_from_our_files(tmp_path: Path, degree: int) -> None:
    gsply = pytest.importorskip("gsply", reason="gsply is not installed (pip install gsply)")
    rows = gaussians(600, degree)
    source = save(tmp_path / "in.ply", rows)
    for name, read in (("o.compressed.ply", gsply.plyread), ("o.spz", gsply.read_spz), ("o.ply", gsply.plyread)):
        convert_file(source, tmp_path / name)
        ours, theirs = open_rows(tmp_path / name, turn_spz=False).whole(), read(str(tmp_path / name))
        np.testing.assert_allclose(theirs.means, pf.columns(ours, pf.POSITION), atol=1e-6)
        np.testing.assert_allclose(theirs.scales, pf.columns(ours, pf.SCALE), atol=1e-5)
        quats = theirs.quats / np.linalg.norm(theirs.quats, axis=-1, keepdims=True)
        np.testing.assert_allclose(quats, pf.unit_quats(ours), atol=1e-5)
        np.testing.assert_allclose(1 / (1 + np.exp(-theirs.opacities)), pf.opacities(ours), atol=1e-5)
        np.testing.assert_allclose(theirs.sh0, pf.columns(ours, pf.DC), atol=1e-5)
        if degree:
            sh = pf.columns(ours, pf.rest_names(45)).reshape(600, 3, 15).transpose(0, 2, 1)
            np.testing.assert_allclose(np.asarray(theirs.shN).reshape(600, 15, 3), sh, atol=1e-5)


@pytest.mark.parametrize("version", [3, 4])
def test_we_read_the_spz_of_gsply(tmp_path: Path, version: int) -> None:
    gsply = pytest.importorskip("gsply", reason="gsply is not installed (pip install gsply)")
    pytest.importorskip("zstandard", reason="zstandard is not installed (pip install 'dyn4d[spz]')")
    rows = gaussians(200, 2)
    data = gsply.plyread(str(save(tmp_path / "in.ply", rows)))
    gsply.write_spz(str(tmp_path / "o.spz"), data, version=version)
    found = open_rows(tmp_path / "o.spz", turn_spz=False)
    assert found.encoding.startswith(f"version {version}") and found.count == 200
    apart = property_differences(properties(rows), properties(found.whole()))
    assert all(apart[name].max() < limit for name, limit in (("colour", 1.1), ("opacity", 0.005), ("scale", 3.5)))
    assert apart["rotation"].max() < 0.4 and apart["harmonics"].max() < 0.07
    if version == 4:
        content = (tmp_path / "o.spz").read_bytes()
        (tmp_path / "o.spz").write_bytes(content[:-40])
        with pytest.raises(InputError, match="cut short"):
            open_rows(tmp_path / "o.spz")


def test_fourdgs_reads_our_glb(tmp_path: Path) -> None:
    gltf = pytest.importorskip("fourdgs.gltf", reason="fourdgs is not installed (pip install fourdgs)")
    rows = gaussians(80, 3)
    convert_file(save(tmp_path / "in.ply", rows), tmp_path / "o.glb")
    found = gltf.from_gltf(str(tmp_path / "o.glb")).gaussians
    turned = pf.columns(rows, pf.POSITION) * [1, -1, -1]  # the file's world in glTF's axes
    np.testing.assert_allclose(found.positions, turned, rtol=1e-6)
    np.testing.assert_allclose(found.scales, np.exp(pf.columns(rows, pf.SCALE)), rtol=1e-5)
    np.testing.assert_allclose(found.colors[:, 3], pf.opacities(rows), atol=1e-6)


def glb(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    magic, version, total, size, kind = struct.unpack("<4sIIII", data[:20])
    assert (magic, version, total, kind) == (b"glTF", 2, len(data), 0x4E4F534A)
    document = json.loads(data[20 : 20 + size])
    return document, data[28 + size :]


def test_glb_by_its_own_rules(tmp_path: Path) -> None:
    rows = gaussians(33, 1)
    convert_file(save(tmp_path / "in.ply", rows), tmp_path / "o.glb")
    document, body = glb(tmp_path / "o.glb")
    primitive = document["meshes"][0]["primitives"][0]
    assert primitive["mode"] == 0 and document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    assert primitive["extensions"]["KHR_gaussian_splatting"]["kernel"] == "ellipse"
    assert len(body) == document["buffers"][0]["byteLength"] and len(body) % 4 == 0
    for view in document["bufferViews"]:
        assert view["byteOffset"] % 4 == 0

    def values(name: str) -> np.ndarray:
        accessor = document["accessors"][primitive["attributes"][name]]
        view = document["bufferViews"][accessor["bufferView"]]
        part = body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        kind = np.uint8 if accessor["componentType"] == 5121 else np.float32
        return np.frombuffer(part, kind).reshape(33, -1)

    quats = values("KHR_gaussian_splatting:ROTATION")[:, [3, 0, 1, 2]] * pf.TURN_WXYZ
    np.testing.assert_allclose(quats, pf.unit_quats(rows), atol=1e-6)
    for k in range(3):
        red = values(f"KHR_gaussian_splatting:SH_DEGREE_1_COEF_{k}")[:, 0]
        np.testing.assert_allclose(red, rows[f"f_rest_{k}"] * pf.TURN_SH[k], atol=1e-6)
    low = document["accessors"][primitive["attributes"]["POSITION"]]["min"]
    np.testing.assert_allclose(low, values("POSITION").min(0))
    assert values("COLOR_0").shape == (33, 4)


@pytest.mark.parametrize("count", [0, 1, 50])
def test_trimesh_reads_our_points(tmp_path: Path, count: int) -> None:
    trimesh = pytest.importorskip("trimesh")
    rows = points(count)
    source = save(tmp_path / "in.ply", rows)
    convert_file(source, tmp_path / "o.glb")
    document, _ = glb(tmp_path / "o.glb") if count else (json.loads((tmp_path / "o.glb").read_bytes()[20:]), b"")
    assert ("meshes" in document) is bool(count)
    if not count:
        return
    scene = trimesh.load(tmp_path / "o.glb")
    (cloud,) = scene.geometry.values()
    np.testing.assert_allclose(cloud.vertices, pf.columns(rows, pf.POSITION) * [1, -1, -1], rtol=1e-6)
    convert_file(source, tmp_path / "o.ply")
    again = trimesh.load(tmp_path / "o.ply")
    np.testing.assert_allclose(again.vertices, pf.columns(rows, pf.POSITION), rtol=1e-6)
    np.testing.assert_array_equal(again.colors[:, :3], pf.columns(rows, pf.COLOURS[0], np.uint8))


def test_an_old_compressed_ply_without_bounds_of_colour(tmp_path: Path) -> None:
    """The first version of the layout has 12 numbers a chunk, and colours between 0 and 1."""
    from plyfile import PlyElement

    rows = gaussians(100, 0)
    convert_file(save(tmp_path / "in.ply", rows), tmp_path / "new.compressed.ply", WriteOptions(keep_order=True))
    file = PlyData.read(str(tmp_path / "new.compressed.ply"))
    chunk, vertex = file["chunk"].data, file["vertex"].data.copy()
    names = [name for name in chunk.dtype.names if name[-1] not in "rgb"]
    level = np.round(np.clip(0.5 + pf.SH_DC * pf.columns(rows, pf.DC), 0, 1) * 255).astype(np.uint32)
    vertex["packed_color"] = level[:, 0] << 24 | level[:, 1] << 16 | level[:, 2] << 8 | vertex["packed_color"] & 255
    bounds = np.zeros(len(chunk), [(name, "f4") for name in names])
    for name in names:
        bounds[name] = chunk[name]
    PlyData([PlyElement.describe(bounds, "chunk"), PlyElement.describe(vertex, "vertex")]).write(
        str(tmp_path / "o.ply")
    )
    found = pf.colours(open_rows(tmp_path / "o.ply").whole())
    np.testing.assert_allclose(found, level / 255, atol=1e-6)
