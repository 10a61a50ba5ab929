"""Files for other programs, opened by software that is not ours; each value within the precision that is stated."""

from __future__ import annotations

import csv
import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from export_scenes import Carousel, arc, ball, timeline

from dyn4d.core.errors import InputError
from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.core.types import GaussianCloud, Timeline
from dyn4d.export import requirements
from dyn4d.export.frames import follow_axes, moved_frames
from dyn4d.export.sequence import write_sequence
from dyn4d.export.spz import fraction_bits, write_spz, write_spz_sequence
from dyn4d.export.track_tables import TrackTable, write_csv
from dyn4d.gaussians.warp import covariance, move_cloud
from dyn4d.io.ply import read_ply, write_ply
from dyn4d.raster.sh import rotate_sh

COUNT = 4
SH0 = 0.28209479177387814


def cloud(count=200, *, degree=0, seed=3):
    """Gaussians of all shapes and directions, off the origin."""
    g = torch.Generator().manual_seed(seed)
    return GaussianCloud(
        means=torch.randn(count, 3, generator=g) * 0.4 + torch.tensor([0.3, -0.8, 1.7]),
        quats_wxyz=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1),
        scales=torch.exp(torch.rand(count, 3, generator=g) * 4 - 7),
        opacities=torch.rand(count, generator=g) * 0.98 + 0.01,
        sh=torch.rand(count, (degree + 1) ** 2, 3, generator=g) * 1.4 - 0.7,
        confidence=torch.rand(count, generator=g),
    )


def late(count=COUNT):
    """A timeline that does not begin at 0 and has uneven steps."""
    seconds = 2.0 + np.array([0.0, 0.11, 0.2, 0.35, 0.5])[:count]
    times = (seconds - seconds[0]) / (seconds[-1] - seconds[0]) if count > 1 else np.zeros(1)
    return Timeline(times, seconds, tuple(f"{i:05d}" for i in range(count)))


def shape(quats, scales):
    return covariance(wxyz_to_matrix(torch.as_tensor(quats).double()), torch.as_tensor(scales).double())


def numbers(values):
    """What pxr holds, as NumPy."""
    return np.asarray(values, dtype=np.float64)


# ------------------------------------------------------------------------------------------- frames


def test_axes_follow_without_changing_the_gaussians():
    before = cloud()
    field = Carousel(turn=0.3)
    moved = move_cloud(before, field, 1.0)  # its singular value decomposition sorts the axes anew
    followed = follow_axes(before, moved)
    torch.testing.assert_close(
        shape(followed.quats_wxyz, followed.scales), shape(moved.quats_wxyz, moved.scales), atol=1e-9, rtol=1e-4
    )
    torch.testing.assert_close(followed.scales, before.scales, atol=1e-7, rtol=1e-4)
    dots = (followed.quats_wxyz * before.quats_wxyz).sum(-1)
    assert float(dots.min()) > math.cos(0.15) - 1e-4  # half the angle of the turn


# ---------------------------------------------------------------------------------------------- PLY


def test_the_ply_sequence_is_one_that_supersplat_takes(tmp_path):
    plyfile = pytest.importorskip("plyfile")
    paths = write_sequence(cloud(degree=1), Carousel(), late(), out=tmp_path / "a clip")
    stems = [re.fullmatch(r"(.*?)(\d+)\.ply", path.name) for path in paths]
    assert {match[1] for match in stems if match} == {"frame_"} and all(stems)
    assert [int(match[2]) for match in stems if match] == list(range(COUNT))
    needed = ["x", "y", "z", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4)),
              *(f"f_dc_{i}" for i in range(3)), "opacity", *(f"f_rest_{i}" for i in range(9))]  # fmt: skip
    for path in paths:
        vertex = plyfile.PlyData.read(str(path))["vertex"]
        assert set(needed) <= set(vertex.data.dtype.names) and len(vertex.data) == 200
        assert all(vertex.data.dtype[name] == np.dtype("<f4") for name in needed)


@pytest.mark.external
def test_splat_transform_reads_our_plys(tmp_path, splat_transform):
    made = cloud(degree=1)
    write_ply(tmp_path / "frame 0001.ply", made)
    splat_transform(tmp_path / "frame 0001.ply", tmp_path / "back.ply")
    back = read_ply(tmp_path / "back.ply")
    torch.testing.assert_close(back.means, made.means)
    torch.testing.assert_close(back.sh, made.sh)
    torch.testing.assert_close(back.scales, made.scales, rtol=1e-5, atol=0)


# ---------------------------------------------------------------------------------------------- SPZ


def half_turn(made: GaussianCloud) -> GaussianCloud:
    """A cloud turned about x: from right-down-forwards to right-up-backwards, or back."""
    turn = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    quats = made.quats_wxyz * torch.tensor([1.0, 1.0, -1.0, -1.0])
    sh = rotate_sh(made.sh, turn.expand(len(made), 3, 3)) if made.sh_degree else made.sh
    return dataclasses.replace(made, means=made.means @ turn, quats_wxyz=quats, sh=sh)


def assert_spz_precision(found, made, bits):
    """What `write_spz` states, for a cloud in our axes."""
    assert float((found.means - made.means).abs().max()) <= 0.5 * 2.0**-bits + 1e-6
    assert float((found.scales.log() - made.scales.log()).abs().max()) <= 1 / 32 + 1e-5
    assert float((found.opacities - made.opacities).abs().max()) <= 1 / 510 + 1e-4
    assert float((found.sh[:, 0] - made.sh[:, 0]).abs().max()) * SH0 <= 1 / 270 + 1e-5
    turn = wxyz_to_matrix(found.quats_wxyz.double()).transpose(1, 2) @ wxyz_to_matrix(made.quats_wxyz.double())
    angle = torch.acos(((turn.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2).clamp(-1, 1)).rad2deg()
    assert float(angle.max()) <= 0.25
    if made.sh_degree:
        assert float((found.sh[:, 1:] - made.sh[:, 1:]).abs().max()) <= 1 / 256 + 2e-3


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_gsply_reads_our_spz(tmp_path, degree):
    gsply = pytest.importorskip("gsply", reason="gsply is not installed")
    made = cloud(degree=degree)
    write_spz(tmp_path / "a b.spz", made, bits=16)
    data = gsply.spz.read_spz(tmp_path / "a b.spz")
    sh = torch.tensor(data.sh0)[:, None]
    if degree:
        sh = torch.cat([sh, torch.tensor(data.shN)], dim=1)
    found = GaussianCloud(
        torch.tensor(data.means), torch.tensor(data.quats), torch.tensor(data.scales).exp(),
        torch.tensor(data.opacities).sigmoid(), sh,
    )  # fmt: skip
    assert float((found.means[:, 1] - made.means[:, 1]).abs().min()) > 0.01  # the file is in RUB
    assert_spz_precision(half_turn(found), made, 16)


@pytest.mark.external
@pytest.mark.parametrize("degree", [0, 1])
def test_splat_transform_reads_our_spz(tmp_path, degree, splat_transform):
    """Its versions before 3 turn SPZ back to the axes of a PLY, later ones leave it as it is."""
    made = cloud(degree=degree)
    write_spz(tmp_path / "made.spz", made, bits=16)
    splat_transform(tmp_path / "made.spz", tmp_path / "back.ply")
    back = read_ply(tmp_path / "back.ply")
    turned = bool((back.means[:, 1:] * made.means[:, 1:]).sum() < 0)
    assert_spz_precision(half_turn(back) if turned else back, made, 16)


@pytest.mark.parametrize(("largest", "size"), [(0.01, 0.02), (0.7, 1.3), (63.0, 1.0), (900.0, 900.0), (5e4, 1e3)])
def test_positions_are_fine_enough_and_fit(largest, size):
    bits = fraction_bits(largest, size)
    assert 2.0**-bits <= size / 2**16 and largest * 2.0**bits < 2**23


@pytest.mark.parametrize(("largest", "size"), [(900.0, 1.0), (4e6, 1.0), (1e6, 1e6), (1e-9, 1e-9), (0, 0)])
def test_positions_fit_wherever_the_world_is(largest, size):
    bits = fraction_bits(largest, size)
    assert 1 <= bits <= 24 and largest * 2.0**bits < 2**23


def test_a_world_that_does_not_fit_is_refused(tmp_path):
    far = dataclasses.replace(ball(9), means=ball(9).means + 1e7)
    with pytest.raises(InputError, match="do not fit SPZ"):
        write_spz(tmp_path / "a.spz", far)
    assert not list(tmp_path.iterdir())


def test_an_spz_sequence_has_one_grid(tmp_path):
    gsply = pytest.importorskip("gsply", reason="gsply is not installed")
    paths = write_spz_sequence(ball(30), Carousel(shift=5.0), timeline(COUNT), out=tmp_path)
    assert [path.name for path in paths] == [f"frame_{i:04d}.spz" for i in range(COUNT)]
    step = 2.0**-14  # of an object that is 4 to 8 units large, with its way
    for path in paths:
        means = gsply.spz.read_spz(path).means.astype(np.float64) / step
        np.testing.assert_array_equal(means, np.round(means))
    one = write_spz_sequence(ball(30), Carousel(), timeline(1), out=tmp_path / "one")
    assert len(one) == 1 and one[0].is_file()


# --------------------------------------------------------------------------------------------- 4dgs


@pytest.mark.parametrize("count", [1, COUNT])
def test_fourdgs_validates_and_gives_the_frames_back(tmp_path, count):
    pytest.importorskip("fourdgs", reason="fourdgs is not installed")
    from fourdgs import Bounds
    from fourdgs.keyframe_delta_file import decode_streamed, render_at
    from fourdgs.validate import validate

    from dyn4d.export.fourdgs_file import write_4dgs

    made, times = cloud(), late(count)
    write_4dgs(tmp_path / "a b.4dgs", made, Carousel(), times)
    data = (tmp_path / "a b.4dgs").read_bytes()
    report = validate(data)
    assert report.ok and not report.findings
    decoded = decode_streamed(data)
    frames = list(moved_frames(made, Carousel(), times))
    bounds = Bounds.for_profile("fine", median_scale=float(torch.stack([f.scales for f in frames]).median()))
    seconds = times.seconds - times.seconds[0]
    for index, frame in enumerate(frames):
        found = render_at(decoded, float(seconds[index]))
        assert found["ids"].tolist() == list(range(len(made)))
        assert np.abs(found["centers"] - frame.means.double().numpy()).max() <= 1.05 * bounds.pos + 1e-6
        assert np.abs(np.log(found["scales"] / frame.scales.numpy())).max() <= math.log1p(bounds.scale_rel) + 1e-5
        assert np.abs(found["opacity"] - frame.opacities.numpy()).max() <= bounds.alpha + 1e-4
        rgb = np.clip(0.5 + SH0 * frame.sh[:, 0].numpy(), 0, 1)
        assert np.abs(found["rgb"] - rgb).max() <= bounds.rgb + 1e-5
        quats = np.roll(found["rotations"], 1, axis=1)
        dots = np.abs((quats * frame.quats_wxyz.double().numpy()).sum(-1))
        assert dots.min() >= 1 - 8 * bounds.rot**2
    for a in range(count - 1):  # between frames positions are linear
        found = render_at(decoded, float(seconds[a] + seconds[a + 1]) / 2)
        middle = (frames[a].means + frames[a + 1].means) / 2
        assert np.abs(found["centers"] - middle.double().numpy()).max() <= 1.5 * bounds.pos + 1e-6
    end = float(decoded.header.duration_sec)
    assert end == pytest.approx(seconds[-1] + 1 / times.fps)
    held = render_at(decoded, end - 1e-6)["centers"]
    assert np.abs(held - frames[-1].means.double().numpy()).max() <= 1.05 * bounds.pos + 1e-6


# ---------------------------------------------------------------------------------------------- USD


@pytest.mark.parametrize(("degree", "count"), [(0, COUNT), (2, COUNT), (0, 1)])
def test_usd_holds_the_gaussians_exactly(tmp_path, degree, count):
    pytest.importorskip("pxr.UsdVol", reason="usd-core is not installed")
    from pxr import Usd, UsdGeom, UsdVol

    from dyn4d.export.usd import time_codes, write_gaussians_usd

    made, times = cloud(degree=degree), late(count)
    write_gaussians_usd(tmp_path / "a b.usdc", made, Carousel(), times, arc(count))
    stage = Usd.Stage.Open(str(tmp_path / "a b.usdc"))
    assert UsdGeom.GetStageUpAxis(stage) == "Z" and UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    prim = UsdVol.ParticleField3DGaussianSplat(stage.GetPrimAtPath("/world/gaussians"))
    codes = time_codes(times)
    assert prim.GetPositionsAttr().GetTimeSamples() == pytest.approx(codes.tolist())
    assert codes / stage.GetTimeCodesPerSecond() == pytest.approx(times.seconds)
    assert (stage.GetStartTimeCode(), stage.GetEndTimeCode()) == pytest.approx((codes[0], codes[-1]))
    for code, frame in zip(codes, moved_frames(made, Carousel(), times)):
        np.testing.assert_array_equal(numbers(prim.GetPositionsAttr().Get(code)), frame.means.numpy())
        np.testing.assert_array_equal(numbers(prim.GetScalesAttr().Get(code)), frame.scales.numpy())
        quats = [[q.GetReal(), *q.GetImaginary()] for q in prim.GetOrientationsAttr().Get(code)]
        np.testing.assert_allclose(quats, frame.quats_wxyz.numpy(), atol=1e-7)
        np.testing.assert_array_equal(numbers(prim.GetOpacitiesAttr().Get(code)), made.opacities.numpy())
        sh = numbers(prim.GetRadianceSphericalHarmonicsCoefficientsAttr().Get(code))
        np.testing.assert_allclose(sh.reshape(frame.sh.shape), frame.sh.numpy(), atol=1e-6)
        low, high = numbers(prim.GetExtentAttr().Get(code))
        assert (low <= frame.means.numpy().min(0)).all() and (high >= frame.means.numpy().max(0)).all()
    assert prim.GetRadianceSphericalHarmonicsDegreeAttr().Get() == degree


def test_usd_says_which_way_is_up_and_keeps_the_worlds_numbers(tmp_path):
    pytest.importorskip("pxr.UsdVol", reason="usd-core is not installed")
    from pxr import Usd, UsdGeom

    from dyn4d.core.types import Camera
    from dyn4d.export.usd import write_mesh_usd

    opencv = Camera(torch.eye(3).double()[None], torch.eye(4).double()[None], 8, 8)  # up is -y
    corner = np.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [0.0, 0.0, 1.0]]], np.float32)
    write_mesh_usd(tmp_path / "m.usdc", corner, np.array([[0, 1, 2]]), np.full((3, 3), 0.5), timeline(1), opencv)
    stage = Usd.Stage.Open(str(tmp_path / "m.usdc"))
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/world/mesh"))
    np.testing.assert_array_equal(numbers(mesh.GetPointsAttr().Get(0)), corner[0])
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    turned = UsdGeom.Xformable(mesh).ComputeLocalToWorldTransform(0).Transform((1.0, 2.0, 3.0))
    assert tuple(turned) == pytest.approx((1.0, -2.0, -3.0))


# ------------------------------------------------------------------------------------------- tracks


def table(count=COUNT, tracks=7, **changes):
    rng = np.random.default_rng(1)
    values = {
        "name": "points", "xyz": rng.normal(size=(count, tracks, 3)).astype(np.float32),
        "rgb": rng.random((tracks, 3)), "seconds": late(count).seconds, "identity": np.arange(tracks) * 10,
        "visible": rng.random((count, tracks)) > 0.5, "confidence": rng.random((count, tracks)),
    }  # fmt: skip
    return TrackTable(**{**values, **changes})


def test_csv_has_every_track_at_every_frame(tmp_path):
    made = table()
    made.confidence[1, 2] = np.nan
    write_csv(tmp_path / "a b.csv", made)
    rows = list(csv.DictReader((tmp_path / "a b.csv").open()))
    assert len(rows) == COUNT * 7
    for place, row in enumerate(rows):
        frame, track = divmod(place, 7)
        assert (int(row["frame"]), int(row["track"])) == (frame, 10 * track)
        assert float(row["seconds"]) == pytest.approx(made.seconds[frame], abs=1e-8)
        assert [float(row[axis]) for axis in "xyz"] == pytest.approx(made.xyz[frame, track].tolist(), rel=1e-6)
        assert int(row["visible"]) == made.visible[frame, track]
        if (frame, track) == (1, 2):
            assert row["confidence"] == ""
        else:
            assert float(row["confidence"]) == pytest.approx(made.confidence[frame, track], abs=5.1e-5)
    write_csv(tmp_path / "unknown.csv", table(visible=None, confidence=None))
    assert {row["visible"] + row["confidence"] for row in csv.DictReader((tmp_path / "unknown.csv").open())} == {""}


@pytest.mark.parametrize("count", [1, COUNT])
def test_tracks_as_usd(tmp_path, count):
    pytest.importorskip("pxr.UsdGeom", reason="usd-core is not installed")
    from pxr import Usd, UsdGeom

    from dyn4d.export.usd import time_codes, write_tracks_usd

    known, bare = table(count), table(count, name="gaussians", visible=None, confidence=None)
    write_tracks_usd(tmp_path / "t.usdc", [known, bare], late(count), arc(count))
    stage = Usd.Stage.Open(str(tmp_path / "t.usdc"))
    points = UsdGeom.Points(stage.GetPrimAtPath("/world/points"))
    api = UsdGeom.PrimvarsAPI(points)
    assert list(points.GetIdsAttr().Get()) == known.identity.tolist()
    for frame, code in enumerate(time_codes(late(count))):
        np.testing.assert_array_equal(numbers(points.GetPointsAttr().Get(code)), known.xyz[frame])
        np.testing.assert_array_equal(numbers(api.GetPrimvar("visible").Get(code)), known.visible[frame])
        np.testing.assert_allclose(numbers(api.GetPrimvar("confidence").Get(code)), known.confidence[frame], atol=1e-7)
    assert not UsdGeom.PrimvarsAPI(stage.GetPrimAtPath("/world/gaussians")).HasPrimvar("visible")
    curves = UsdGeom.BasisCurves(stage.GetPrimAtPath("/world/points_paths"))
    assert bool(curves) == (count > 1)
    if curves:
        paths = numbers(curves.GetPointsAttr().Get()).reshape(7, count, 3)
        np.testing.assert_array_equal(paths, known.xyz.transpose(1, 0, 2))


# ------------------------------------------------------------------------------- what is not there


def test_one_error_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name in ("pxr", "fourdgs") else object())
    requirements.require_formats(["cameras", "csv", "spz", "mesh"])
    text = r"usd, mesh-usd needs usd-core; 4dgs needs fourdgs.*pip install 'dyn4d\[formats\]'"
    with pytest.raises(InputError, match=text):
        requirements.require_formats(["usd", "4dgs", "csv", "mesh-usd"])
