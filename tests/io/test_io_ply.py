"""PLY: the standard layout as plyfile sees it, round trips, other people's files, damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from dyn4d.core.errors import InputError
from dyn4d.core.types import GaussianCloud
from dyn4d.io.ply import PointCloud, read_ply, write_ply, write_points_ply
from dyn4d.io.ply_info import ply_info


def make_cloud(count: int = 50, degree: int = 3, seed: int = 0) -> GaussianCloud:
    rng = torch.Generator().manual_seed(seed)
    quats = torch.randn(count, 4, generator=rng)
    return GaussianCloud(
        means=torch.randn(count, 3, generator=rng),
        quats_wxyz=quats,
        scales=torch.rand(count, 3, generator=rng) * 0.1 + 1e-4,
        opacities=torch.rand(count, generator=rng) * 0.98 + 0.01,
        sh=torch.randn(count, (degree + 1) ** 2, 3, generator=rng),
    )


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_round_trip(tmp_path: Path, degree: int, count: int) -> None:
    cloud = make_cloud(count, degree)
    write_ply(tmp_path / "c.ply", cloud)
    back = read_ply(tmp_path / "c.ply")
    assert isinstance(back, GaussianCloud) and back.sh_degree == degree
    torch.testing.assert_close(back.means, cloud.means, rtol=0, atol=0)
    torch.testing.assert_close(back.sh, cloud.sh, rtol=0, atol=0)
    torch.testing.assert_close(back.scales, cloud.scales, rtol=2e-6, atol=0)
    torch.testing.assert_close(back.opacities, cloud.opacities, rtol=1e-6, atol=1e-6)
    unit = torch.nn.functional.normalize(cloud.quats_wxyz, dim=-1)
    torch.testing.assert_close(back.quats_wxyz, unit, rtol=1e-6, atol=1e-6)


def test_layout_that_viewers_expect(tmp_path: Path) -> None:
    cloud = make_cloud(7, 2)
    write_ply(tmp_path / "c.ply", cloud)
    head = (tmp_path / "c.ply").read_bytes().split(b"end_header\n")[0].decode()
    assert head.startswith("ply\nformat binary_little_endian 1.0\n") and "element vertex 7\n" in head
    file = PlyData.read(str(tmp_path / "c.ply"))
    vertex = file["vertex"]
    names = [p.name for p in vertex.properties]
    rest = [f"f_rest_{i}" for i in range(24)]
    assert names == [
        "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity",
        "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
    ]  # fmt: skip
    assert len(file.elements) == 1 and all(p.val_dtype == "f4" for p in vertex.properties)
    np.testing.assert_array_equal(vertex["y"], cloud.means[:, 1])
    np.testing.assert_array_equal(vertex["nx"], np.zeros(7))
    np.testing.assert_array_equal(vertex["f_dc_2"], cloud.sh[:, 0, 2])
    np.testing.assert_array_equal(vertex["f_rest_0"], cloud.sh[:, 1, 0])  # all of red first …
    np.testing.assert_array_equal(vertex["f_rest_8"], cloud.sh[:, 1, 1])  # … then green
    np.testing.assert_array_equal(vertex["f_rest_23"], cloud.sh[:, 8, 2])
    np.testing.assert_allclose(1 / (1 + np.exp(-vertex["opacity"])), cloud.opacities, rtol=1e-5)
    np.testing.assert_allclose(np.exp(vertex["scale_1"]), cloud.scales[:, 1], rtol=1e-5)
    w = cloud.quats_wxyz[:, 0] / cloud.quats_wxyz.norm(dim=-1)
    np.testing.assert_allclose(vertex["rot_0"], w, rtol=1e-5)


def test_extreme_values_stay_finite(tmp_path: Path) -> None:
    cloud = GaussianCloud(
        torch.zeros(2, 3), torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 9]]), torch.tensor([[0.0, 1e-30, 1e6]] * 2),
        torch.tensor([0.0, 1.0]), torch.zeros(2, 1, 3),
    )  # fmt: skip
    write_ply(tmp_path / "c.ply", cloud)
    assert ply_info(tmp_path / "c.ply").not_finite == 0
    back = read_ply(tmp_path / "c.ply")
    assert isinstance(back, GaussianCloud)
    torch.testing.assert_close(back.opacities, torch.tensor([0.0, 1.0]), rtol=0, atol=2e-7)
    torch.testing.assert_close(back.quats_wxyz, torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1]]))


def test_rows_of_a_sequence_keep_their_order(tmp_path: Path) -> None:
    cloud = make_cloud(100)
    for name in ("frame_0000.ply", "frame_0001.ply"):
        write_ply(tmp_path / name, cloud)
    assert (tmp_path / "frame_0000.ply").read_bytes() == (tmp_path / "frame_0001.ply").read_bytes()


@pytest.mark.parametrize("rgb_kind", [None, "uint8", "float"])
@pytest.mark.parametrize("extras", [False, True])
def test_points_round_trip(tmp_path: Path, rgb_kind: str | None, extras: bool) -> None:
    rng = np.random.default_rng(0)
    xyz, colours = rng.normal(size=(20, 3)), rng.integers(0, 256, (20, 3), dtype=np.uint8)
    rgb = {None: None, "uint8": colours, "float": torch.from_numpy(colours / 255.0)}[rgb_kind]
    normal, conf = (rng.normal(size=(20, 3)), rng.random(20)) if extras else (None, None)
    write_points_ply(tmp_path / "p.ply", torch.from_numpy(xyz), rgb, normal=normal, conf=conf)
    back = read_ply(tmp_path / "p.ply")
    assert isinstance(back, PointCloud) and len(back) == 20
    np.testing.assert_allclose(back.xyz, xyz, rtol=1e-6)
    if rgb is None:
        assert back.rgb is None
    else:
        assert back.rgb is not None
        np.testing.assert_allclose(back.rgb, colours / 255.0, rtol=1e-6)
    if extras:
        assert back.normal is not None and back.conf is not None
        np.testing.assert_allclose(back.normal, normal, rtol=1e-5)
        np.testing.assert_allclose(back.conf, conf, rtol=1e-5)


def test_no_points_and_wrong_shapes(tmp_path: Path) -> None:
    write_points_ply(tmp_path / "p.ply", np.zeros((0, 3)), np.zeros((0, 3)))
    assert len(read_ply(tmp_path / "p.ply")) == 0 and ply_info(tmp_path / "p.ply").low is None
    with pytest.raises(ValueError, match="xyz 4 rows"):
        write_points_ply(tmp_path / "p.ply", np.zeros((4, 3)), np.zeros((5, 3)))


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_other_peoples_encodings(tmp_path: Path, text: bool, order: str) -> None:
    values = np.array([(1.5, 2, 3, 10), (4, 5, 6, 20)], dtype=[("x", "f8"), ("y", "f8"), ("z", "f8"), ("w", "i4")])
    faces = np.array([([0, 1, 0],)], dtype=[("vertex_indices", "O")])
    data = PlyData([PlyElement.describe(values, "vertex"), PlyElement.describe(faces, "face")], text, order)
    data.write(str(tmp_path / "p.ply"))
    back = read_ply(tmp_path / "p.ply")
    np.testing.assert_array_equal(back.xyz, [[1.5, 2, 3], [4, 5, 6]])  # type: ignore[union-attr]
    info = ply_info(tmp_path / "p.ply")
    assert (info.kind, info.count, info.faces) == ("mesh", 2, 1)
    assert info.encoding == ("text" if text else f"binary {'little' if order == '<' else 'big'} endian")


def _write(path: Path, **fields) -> Path:
    values = np.zeros(3, dtype=[(name, "f4") for name in fields])
    for name, value in fields.items():
        values[name] = value
    PlyData([PlyElement.describe(values, "vertex")]).write(str(path))
    return path


def test_missing_fields_are_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "g.ply", x=0, y=0, z=0, opacity=0, scale_0=0, scale_1=0, scale_2=0)
    with pytest.raises(InputError, match="a Gaussian needs the fields f_dc_0, f_dc_1, f_dc_2, rot_0"):
        read_ply(path)
    assert "rot_0" in ply_info(path).missing and "missing" in ply_info(path).format()
    with pytest.raises(InputError, match=r"a point needs the fields .*z"):
        read_ply(_write(tmp_path / "p.ply", x=0, y=0))
    assert ply_info(tmp_path / "p.ply").kind == "other"
    with pytest.raises(InputError, match="compressed PLY"):
        read_ply(_write(tmp_path / "c.ply", packed_position=0, packed_color=0))
    with pytest.raises(InputError, match="a compressed PLY needs packed_position, packed_rotation"):
        ply_info(tmp_path / "c.ply")
    whole = dict.fromkeys(["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2",
                           "rot_0", "rot_1", "rot_2", "rot_3"], 0)  # fmt: skip
    assert read_ply(_write(tmp_path / "n.ply", **whole)).sh_degree == 0  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"5 fields f_rest_\*"):
        read_ply(_write(tmp_path / "r.ply", **whole, **{f"f_rest_{i}": 0 for i in range(5)}))


def test_no_vertex_element(tmp_path: Path) -> None:
    values = np.zeros(2, dtype=[("a", "f4")])
    PlyData([PlyElement.describe(values, "camera")]).write(str(tmp_path / "p.ply"))
    for read in (read_ply, ply_info):
        with pytest.raises(InputError, match="has no element 'vertex'"):
            read(tmp_path / "p.ply")


@pytest.mark.parametrize("read", [read_ply, ply_info])
@pytest.mark.parametrize("keep", [0, 3, 40, 200, 900, -1])
def test_cut_short_is_one_clear_error(tmp_path: Path, read, keep: int) -> None:
    path = tmp_path / "c.ply"
    with pytest.raises(InputError, match=r"c\.ply is not there"):
        read(path)
    write_ply(path, make_cloud(20, 1))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"c\.ply is (empty|no PLY|damaged|cut short)"):
        read(path)


@pytest.mark.parametrize(
    "data",
    [b"hello", b"ply\n", b"ply\nformat what 1.0\nend_header\n", b"ply\n\xff\xfe\n", b"PNG" * 50,
     b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999999\nproperty float x\nend_header\n1234",
     b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\nword\n",
     b"ply\nformat ascii 1.0\nelement vertex -4\nproperty float x\nend_header\n"],
)  # fmt: skip
def test_nonsense_is_one_clear_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c.ply").write_bytes(data)
    for read in (read_ply, ply_info):
        with pytest.raises(InputError, match=r"c\.ply"):
            read(tmp_path / "c.ply")


def test_info_counts_by_hand(tmp_path: Path) -> None:
    cloud = make_cloud(6, 1)
    means = torch.tensor([[0.0, 0, 0], [-0.0, 0, 0], [1, 2, 3], [1, 2, 3], [float("nan"), 0, 0], [-1, 0, 5]])
    scales = torch.full((6, 3), 0.1)
    scales[:, 1] = 0.5
    cloud = GaussianCloud(means, cloud.quats_wxyz, scales, torch.full((6,), 0.25), cloud.sh)
    write_ply(tmp_path / "c.ply", cloud)
    info = ply_info(tmp_path / "c.ply")
    assert (info.kind, info.count, info.sh_degree, info.not_finite, info.duplicates) == ("3DGS", 6, 1, 1, 2)
    assert info.low == (-1.0, 0.0, 0.0) and info.high == (1.0, 2.0, 5.0) and info.missing == ()
    np.testing.assert_allclose(info.opacity, [0.25] * 5, rtol=1e-6)  # type: ignore[arg-type]
    np.testing.assert_allclose(info.scale, [0.5] * 5, rtol=1e-6)  # type: ignore[arg-type]
    text = info.format()
    assert "degree 1" in text and "f_rest_0…8" in text and "1 row: x 1 NaN\n" in text and "2 rows at" in text
    assert info.bytes == (tmp_path / "c.ply").stat().st_size and info.as_dict()["count"] == 6
