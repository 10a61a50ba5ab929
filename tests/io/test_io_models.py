"""cameras.json, COLMAP models and truth folders: written, read back, and read by others."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from io_clips import disc, frame

from dyn4d.core.cameras import look_at, orbit, project
from dyn4d.core.errors import InputError
from dyn4d.core.types import Camera, Timeline
from dyn4d.io.cameras_json import read_cameras, write_cameras
from dyn4d.io.colmap import Observations, read_model, write_model
from dyn4d.io.images import read_depth, read_mask, read_rgb
from dyn4d.io.truth import TruthPicture, load_truth, write_truth

WIDTH, HEIGHT = 40, 30


def make_cameras(count: int, *, vary: bool = False) -> Camera:
    up, origin = torch.tensor([0.0, 0, 1]).double(), torch.zeros(3).double()
    K = torch.tensor([[50.0, 0, 20.25], [0, 51, 14.5], [0, 0, 1]]).double()
    first = Camera(K, look_at(torch.tensor([3.0, 0, 0.7]).double(), origin, up), WIDTH, HEIGHT)
    cameras = orbit(first, origin, up, [17.0 * i for i in range(count)])
    K = cameras.K.clone()
    if vary:
        K[:, 0, 0] += torch.arange(count)
    return Camera(K, cameras.world_from_cam, WIDTH, HEIGHT)


def make_timeline(count: int) -> Timeline:
    seconds = 3.0 + np.arange(count) / 30
    times = (seconds - seconds[0]) / max(seconds[-1] - seconds[0], 1e-9)
    return Timeline(times, seconds, tuple(f"f{i}" for i in range(count)))


def lose(camera: Camera, row: int) -> Camera:
    poses = camera.world_from_cam.clone()
    poses[row] = math.nan
    return Camera(camera.K, poses, camera.width, camera.height)


# ---------------------------------------------------------------- cameras.json


@pytest.mark.parametrize("vary", [False, True])
@pytest.mark.parametrize("count", [1, 4])
def test_cameras_round_trip(tmp_path: Path, vary: bool, count: int) -> None:
    camera, timeline = make_cameras(count, vary=vary), make_timeline(count)
    camera = lose(camera, count - 1) if count > 1 else camera
    write_cameras(tmp_path / "cameras.json", camera, timeline, depth_div=5000, extra={"source": "test"})
    file = read_cameras(tmp_path / "cameras.json")
    back = file.camera()
    assert back is not None and (back.width, back.height) == (WIDTH, HEIGHT) and file.depth_div == 5000
    torch.testing.assert_close(back.K, camera.K, rtol=0, atol=0)
    torch.testing.assert_close(back.world_from_cam, camera.world_from_cam, equal_nan=True, rtol=0, atol=1e-14)
    assert [entry.time for entry in file.frames] == timeline.seconds.tolist()
    assert [entry.rgb for entry in file.frames] == [f"rgb/f{i}.png" for i in range(count)]
    raw = json.loads((tmp_path / "cameras.json").read_text())
    assert raw["pixel_centre"].startswith("half-integer") and raw["source"] == "test"
    assert ("K" in raw) == (not vary or count == 1)
    if count > 1:
        assert raw["frames"][-1]["w2c"] is None and "w2c" in raw["frames"][0]


def test_integer_centres_and_the_identity_of_projection(tmp_path: Path) -> None:
    """The same camera written with integer centres projects half a pixel further, which is where the pixels are."""
    camera = make_cameras(2)
    write_cameras(tmp_path / "cameras.json", camera)
    data = json.loads((tmp_path / "cameras.json").read_text())
    data["pixel_centre"] = "integer"
    (tmp_path / "cameras.json").write_text(json.dumps(data))
    moved = read_cameras(tmp_path / "cameras.json").camera()
    assert moved is not None
    points = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.3
    before, _ = project(camera.K, camera.cam_from_world, points)
    after, _ = project(moved.K, moved.cam_from_world, points)
    torch.testing.assert_close(after, before + 0.5)


def test_cameras_file_without_what_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "cameras.json"
    path.write_text('{"frames": [{"rgb": "a.png"}]}')
    assert read_cameras(path).camera() is None
    path.write_text('{"K": [[1,0,0],[0,1,0],[0,0,1]], "frames": [{}, {}]}')
    with pytest.raises(InputError, match="no width and height"):
        read_cameras(path).camera()
    with pytest.raises(InputError, match="lists 2 frames, the clip has 3"):
        read_cameras(path).camera(3, width=4, height=4)
    path.write_text('{"frames": [{"K": [[1,0,0],[0,1,0],[0,0,1]]}, {}]}')
    with pytest.raises(InputError, match="frame 1 has no K"):
        read_cameras(path).camera(2, width=4, height=4)


# ---------------------------------------------------------------- COLMAP


@pytest.mark.parametrize("vary", [False, True])
def test_colmap_model_as_pycolmap_reads_it(tmp_path: Path, vary: bool) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    camera = lose(make_cameras(4, vary=vary), 2)
    names = ["a.png", "b c.png", "lost.png", "ü.png"]
    rng = np.random.default_rng(0)
    xyz = rng.normal(size=(12, 3)) * 0.2
    rgb = rng.integers(0, 256, (12, 3), dtype=np.uint8)
    # tracks of 0 to 3 sightings, in no order
    pairs = [(p, i) for p in range(12) for i in range(4) if (p + i) % 4 < p % 4]
    rng.shuffle(pairs)
    point, image = np.array(pairs).T
    uv, _ = project(camera.K, camera.cam_from_world, torch.from_numpy(xyz))
    xy = uv.numpy()[image, point]
    write_model(tmp_path / "sparse", camera, names, xyz=xyz, rgb=rgb, observations=Observations(point, image, xy))
    assert sorted(p.name for p in (tmp_path / "sparse").iterdir()) == ["cameras.bin", "images.bin", "points3D.bin"]

    model = pycolmap.Reconstruction(str(tmp_path / "sparse"))
    assert {image.name for image in model.images.values()} == {"a.png", "b c.png", "ü.png"}
    assert len(model.points3D) == 12 and (vary or len(model.cameras) == 1)
    by_name = {image.name: image for image in model.images.values()}
    for row in (0, 1, 3):
        seen = by_name[names[row]]
        pose = seen.cam_from_world()
        np.testing.assert_allclose(pose.matrix(), camera.cam_from_world[row, :3], atol=1e-9)
        np.testing.assert_allclose(model.cameras[seen.camera_id].calibration_matrix(), camera.K[row], atol=1e-12)
        assert len(seen.points2D) == int((image == row).sum())
        for spot in seen.points2D:  # every sighting is where the point projects: both lists agree
            there = model.points3D[spot.point3D_id]
            np.testing.assert_allclose(seen.project_point(there.xyz), spot.xy, atol=1e-6)
    for p in range(12):
        there = model.points3D[p + 1]
        np.testing.assert_allclose(there.xyz, xyz[p])
        np.testing.assert_array_equal(there.color, rgb[p])
        kept = sorted(i + 1 for q, i in pairs if q == p and i != 2)
        assert sorted(e.image_id for e in there.track.elements) == kept
        for element in there.track.elements:
            assert model.images[element.image_id].points2D[element.point2D_idx].point3D_id == p + 1


def test_colmap_round_trip_and_no_points(tmp_path: Path) -> None:
    camera = make_cameras(3)
    write_model(tmp_path / "m", camera, ["a", "b", "c"], xyz=np.zeros((0, 3)), rgb=np.zeros((0, 3)))
    back = read_model(tmp_path / "m")
    assert back.names == ("a", "b", "c") and back.xyz.shape == (0, 3)
    torch.testing.assert_close(back.camera.world_from_cam, camera.world_from_cam, rtol=0, atol=1e-12)
    torch.testing.assert_close(back.camera.K, camera.K, rtol=0, atol=0)
    write_model(tmp_path / "m", camera, ["a", "b", "c"], xyz=np.eye(3), rgb=np.eye(3))
    assert read_model(tmp_path / "m").rgb.tolist() == (np.eye(3) * 255).tolist()
    with pytest.raises(ValueError, match="3 cameras, 2 names"):
        write_model(tmp_path / "m", camera, ["a", "b"], xyz=np.eye(3), rgb=np.eye(3))


def test_colmap_models_by_pycolmap_are_read(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    write_model(tmp_path / "a", make_cameras(3), ["a", "b", "c"], xyz=np.eye(3), rgb=np.eye(3))
    (tmp_path / "b").mkdir()
    pycolmap.Reconstruction(str(tmp_path / "a")).write_binary(str(tmp_path / "b"))
    back = read_model(tmp_path / "b")
    torch.testing.assert_close(back.camera.world_from_cam, make_cameras(3).world_from_cam, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(back.xyz, np.eye(3))


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
@pytest.mark.parametrize("keep", [0, 4, -3])
def test_damaged_colmap_model(tmp_path: Path, name: str, keep: int) -> None:
    camera = make_cameras(2)
    seen = Observations(np.array([0, 1]), np.array([0, 1]), np.zeros((2, 2)))
    write_model(tmp_path, camera, ["a", "b"], xyz=np.eye(3), rgb=np.eye(3), observations=seen)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=f"{name} is damaged or cut short"):
        read_model(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match=f"{name} is not there"):
        read_model(tmp_path)


# ---------------------------------------------------------------- truth


def _write_truth(folder: Path, tracks: bool = True) -> tuple[Camera, Camera, dict[str, np.ndarray]]:
    own, held = make_cameras(4), make_cameras(6)
    rng = np.random.default_rng(0)
    given = {"tracks_world": rng.normal(size=(4, 7, 3)), "visible": rng.random((4, 7)) > 0.5,
             "uv": rng.normal(size=(4, 7, 2))} if tracks else {}  # fmt: skip
    pictures = (
        TruthPicture(2 * i, 0.1 * i, view, frame(i, WIDTH, HEIGHT), disc(i, WIDTH, HEIGHT),
                     np.full((HEIGHT, WIDTH), 2.0), held.world_from_cam[i + 4].numpy())
        for i in range(2) for view in ("near_left", "high")
    )  # fmt: skip
    write_truth(folder, pictures, own, K=own.K[0].numpy(), timeline=make_timeline(4), depth_div=5000, **given)
    return own, held, given


def test_truth_round_trip(tmp_path: Path) -> None:
    own, held, given = _write_truth(tmp_path / "truth")
    truth = load_truth(tmp_path / "truth")
    assert [(v.index, v.view) for v in truth.views] == [(0, "near_left"), (0, "high"), (2, "near_left"), (2, "high")]
    view = truth.views[3]
    np.testing.assert_array_equal(read_rgb(view.rgb), frame(1, WIDTH, HEIGHT))
    np.testing.assert_array_equal(read_mask(view.mask), disc(1, WIDTH, HEIGHT))
    assert view.depth is not None and (read_depth(view.depth, truth.depth_div) == 2).all() and view.time == 0.1
    torch.testing.assert_close(view.camera.world_from_cam, held.world_from_cam[5], rtol=0, atol=1e-12)
    torch.testing.assert_close(view.camera.K, own.K[0])
    assert truth.cameras is not None
    torch.testing.assert_close(truth.cameras.world_from_cam, own.world_from_cam, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(truth.tracks_world, given["tracks_world"])
    np.testing.assert_array_equal(truth.visible, given["visible"])
    np.testing.assert_array_equal(truth.uv, given["uv"])


def test_truth_without_tracks_or_cameras(tmp_path: Path) -> None:
    _write_truth(tmp_path, tracks=False)
    (tmp_path / "cameras.json").unlink()
    truth = load_truth(tmp_path)
    assert truth.tracks_world is None and truth.cameras is None and len(truth.views) == 4


def test_truth_with_integer_centres(tmp_path: Path) -> None:
    own, _, _ = _write_truth(tmp_path)
    data = json.loads((tmp_path / "views.json").read_text())
    data["pixel_centre"] = "integer"
    (tmp_path / "views.json").write_text(json.dumps(data))
    torch.testing.assert_close(load_truth(tmp_path).views[0].camera.K[:2, 2], own.K[0, :2, 2] + 0.5)


def test_bad_truth_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no truth folder: it has no views\.json"):
        load_truth(tmp_path)
    _write_truth(tmp_path / "t")
    path = tmp_path / "t/views.json"
    text = path.read_text()

    def with_change(change) -> None:
        data = json.loads(text)
        change(data)
        path.write_text(json.dumps(data))

    for change, message in (
        (lambda d: d.update(views=[]), "lists no views"),
        (lambda d: d.pop("width"), "no width and height"),
        (lambda d: d.pop("K"), r"views\[0\]: wanted rgb, mask, w2c and K"),
        (lambda d: d["views"][1].pop("w2c"), r"views\[1\]: wanted rgb"),
        (lambda d: d["views"][1].pop("index"), r"views\[1\]: no index"),
        (lambda d: d["views"][2].update(rgb="rgb/nope.png"), "nope.png is not there"),
        (lambda d: d.update(width=41), "is 40x30, views.json says 41x30"),
    ):
        with_change(change)
        with pytest.raises(InputError, match=message):
            load_truth(tmp_path / "t")
    path.write_text(text)
    tracks = tmp_path / "t/tracks.npz"
    np.savez(tracks, tracks_world=np.zeros((4, 7, 2)), visible=np.zeros((4, 7)))
    with pytest.raises(InputError, match="wanted \\(T,N,3\\)"):
        load_truth(tmp_path / "t")
    np.savez(tracks, tracks_world=np.zeros((4, 7, 3)))
    with pytest.raises(InputError, match="visible"):
        load_truth(tmp_path / "t")
    tracks.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"tracks\.npz is damaged"):
        load_truth(tmp_path / "t")
