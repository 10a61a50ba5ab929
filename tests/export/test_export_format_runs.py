"""The formats as the export stage writes them, for runs of every kind."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from export_scenes import arc, ball, timeline
from PIL import Image

from dyn4d.core.types import Clip, FramePoints
from dyn4d.deformation import TrajectoryField
from dyn4d.deformation.tracks import Tracks
from dyn4d.export import formats
from dyn4d.export.config import ExportConfig
from dyn4d.export.formats import FILES
from dyn4d.export.run import export_run
from dyn4d.io import artifacts
from dyn4d.io.atomic import write_json
from dyn4d.io.cameras_json import write_cameras
from dyn4d.io.clips import load_clip
from dyn4d.io.ply import write_ply

COUNT = 4
WIDTH, HEIGHT = 48, 40


class Notes:
    """A progress that keeps its notes."""

    def __init__(self):
        self.lines = []

    def start(self, label, total, done=0): ...

    def update(self, **values): ...

    def finish(self): ...

    def note(self, line):
        self.lines.append(line)


def make_clip(folder, *, names=None, size=(WIDTH, HEIGHT), count=COUNT, unknown=()):
    """A clip folder on the disk, whose frames are grey pictures."""
    names = names or [f"{i:05d}.png" for i in range(count)]
    (folder / "rgb").mkdir(parents=True)
    (folder / "mask").mkdir()
    for i, name in enumerate(names):
        Image.new("RGB", size, (40 * i, 100, 50)).save(folder / "rgb" / name)
        Image.new("L", size, 255).save(folder / "mask" / f"{name.rsplit('.', 1)[0]}.png")
    camera = cameras(count, unknown=unknown)
    write_cameras(folder / "cameras.json", camera, timeline(count), rgb=[f"rgb/{name}" for name in names])
    return folder


def cameras(count=COUNT, *, unknown=()):
    camera = arc(count, width=WIDTH, height=HEIGHT)
    camera.world_from_cam[list(unknown)] = float("nan")
    return camera


def make_run(folder, *, count=COUNT, unknown=(), selected=None, tracks=True):
    """What the earlier stages leave, for a ball that stands still."""
    write_cameras(folder / "geometry/cameras.json", cameras(count, unknown=unknown), timeline(count))
    cloud = replace(ball(200), confidence=torch.linspace(0, 1, 200))
    write_ply(folder / "gaussians/canonical.ply", cloud)
    TrajectoryField.still().save(folder / "gaussians/field.safetensors")
    selected = list(range(count)) if selected is None else selected
    write_json(folder / "prepare/clip.json", {"selected": selected})
    rows = torch.arange(60)
    points = FramePoints(
        ball(60).means, ball(60).means.abs(), ball(60).means, rows * len(selected) // 60, rows[:, None] + torch.rand(2),
        torch.ones(60),
    )  # fmt: skip
    artifacts.save(folder / "geometry/frame_points.npz", points)
    if tracks:
        xyz = ball(9).means.expand(count, 9, 3).clone()
        found = Tracks(xyz, xyz[0].abs(), torch.zeros(9).long(), torch.rand(count, 9), torch.rand(count, 9) > 0.5)
        artifacts.save(folder / "deformation/tracks.npz", found)
    return folder


def export(run, *names, clip=None, **options):
    notes = Notes()
    config = ExportConfig(tracks=options.pop("tracks", 20), formats=names, mesh_faces=500, **options)
    opened = (lambda: clip) if isinstance(clip, Clip) else (lambda: load_clip(clip)) if clip else None
    export_run(run, run / "export", config, clip=opened, progress=notes)
    return run / "export", notes.lines


def transforms(out):
    return json.loads((out / "cameras/transforms.json").read_text())


def test_cameras_name_the_clips_own_pictures(tmp_path):
    clip = make_clip(tmp_path / "my run" / "the clip", names=[f"a b {i}.jpg" for i in range(COUNT)])
    run = make_run(tmp_path / "my run", unknown=[1], selected=[0, 1, 2])
    out, notes = export(run, "cameras", clip=clip)
    head = transforms(out)
    files = [frame["file_path"] for frame in head["frames"]]
    assert files == [f"../../the clip/rgb/a b {i}.jpg" for i in (0, 2, 3)]  # inside the run: relative
    for name in files:
        assert Image.open(out / "cameras" / name).size == (head["w"], head["h"])
    assert head["test_filenames"] == [files[2]] and head["train_filenames"] == files[:2]
    _, found = export(run, "images", clip=clip)
    assert not (out / "images").exists() and "none are written" in found[0]
    assert not (out / "cameras/colmap_text").exists() and "names of pictures have spaces" in notes[-1]
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    model = pycolmap.Reconstruction(str(out / "cameras/colmap"))
    assert sorted(image.name for image in model.images.values()) == [f"a b {i}.jpg" for i in (0, 2, 3)]
    assert len(model.points3D) == 60


def test_pictures_elsewhere_are_named_by_their_whole_path(tmp_path):
    clip = make_clip(tmp_path / "clip")
    out, _ = export(make_run(tmp_path / "run"), "cameras", clip=clip)
    assert [f["file_path"] for f in transforms(out)["frames"]] == [
        (clip / f"rgb/{i:05d}.png").as_posix() for i in range(COUNT)
    ]
    assert "test_filenames" not in transforms(out)
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    for name in ("colmap", "colmap_text"):
        model = pycolmap.Reconstruction(str(out / "cameras" / name))
        assert model.num_images() == COUNT and model.num_points3D() == 60


def test_pictures_that_do_not_fit_are_written(tmp_path):
    """Made smaller by --max-size, turned by EXIF, or from a video: no file on the disk is what K belongs to."""
    clip = make_clip(tmp_path / "clip", size=(2 * WIDTH, 2 * HEIGHT))
    (tmp_path / "clip/cameras.json").unlink()
    smaller = load_clip(clip, max_size=WIDTH)
    run = make_run(tmp_path / "run", unknown=[2])
    out, notes = export(run, "cameras", clip=smaller)
    files = [f["file_path"] for f in transforms(out)["frames"]]
    assert files == [f"../images/{i:05d}.png" for i in (0, 1, 3)] and "--export.formats images" in notes[0]
    _, notes = export(run, "images", clip=smaller)
    assert not notes
    for row, name in zip((0, 1, 3), files):
        picture = Image.open(out / "cameras" / name)
        assert picture.size == (WIDTH, HEIGHT) and picture.getpixel((3, 3)) == (40 * row, 100, 50)
    assert not (out / "images/00002.png").exists()


def test_a_clip_that_is_gone_is_said_and_names_stay(tmp_path):
    out, notes = export(make_run(tmp_path / "run"), "cameras", clip=tmp_path / "gone")
    assert [f["file_path"] for f in transforms(out)["frames"]] == [f"../images/{i:05d}.png" for i in range(COUNT)]
    assert "the clip cannot be read" in notes[0]


def everything():
    for package in ("fourdgs", "pxr", "fast_simplification"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    return ("cameras", "csv", "spz", "4dgs", "usd", "mesh", "mesh-usd", "mesh-frames", "tracks-gltf")


@pytest.mark.parametrize("count", [1, 3])
def test_all_formats_of_a_run(tmp_path, count, monkeypatch):
    small = partial(formats.make_moving_mesh, views=24, pixels=160, voxels=64)
    monkeypatch.setattr(formats, "make_moving_mesh", small)
    run = make_run(tmp_path / "run", count=count)
    out, _ = export(run, *everything(), clip=make_clip(tmp_path / "clip", count=count))
    for name, _ in FILES:
        assert (run / name.split()[0]).is_file(), name
    assert len(list((out / "spz").iterdir())) == len(list((out / "mesh").iterdir())) == count
    plyfile = pytest.importorskip("plyfile")
    faces = [np.stack(plyfile.PlyData.read(str(path))["face"]["vertex_indices"]) for path in (out / "mesh").iterdir()]
    assert all(np.array_equal(one, faces[0]) for one in faces)
    assert not list(out.rglob(".tmp*"))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    export(run, *everything())  # all is there
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_no_tracks_at_all(tmp_path):
    run = make_run(tmp_path / "run", tracks=False)
    out, notes = export(run, "csv", tracks=0)
    assert not (out / "tracks").exists() and notes == ["csv: the run has no tracks"]
    out, _ = export(run, "csv")
    assert [path.name for path in (out / "tracks").iterdir()] == ["gaussians.csv"]


def test_csv_of_both_kinds_of_tracks(tmp_path):
    run = make_run(tmp_path / "run")
    out, _ = export(run, "csv")
    lines = (out / "tracks/points.csv").read_text().splitlines()
    assert len(lines) == 1 + 9 * COUNT
    found = artifacts.load(run / "deformation/tracks.npz", Tracks)
    track, frame, seconds, x, _, _, visible, confidence = lines[1 + 9 * 2 + 4].split(",")
    assert (int(track), int(frame), float(seconds)) == (4, 2, 0.2)
    assert float(x) == pytest.approx(float(found.xyz[2, 4, 0]), rel=1e-6)
    assert bool(int(visible)) == bool(found.visible[2, 4])
    assert float(confidence) == pytest.approx(float(found.conf[2, 4]), abs=5.1e-5)
    gaussians = np.genfromtxt(out / "tracks/gaussians.csv", delimiter=",", names=True)
    rows = artifacts.load(out / "tracks.npz", dict)["gaussian"]
    np.testing.assert_array_equal(gaussians["track"][:20], rows)
    np.testing.assert_allclose(gaussians["confidence"][:20], np.linspace(0, 1, 200)[rows], atol=1e-4)
    assert np.isnan(gaussians["visible"]).all()


def test_what_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(path, table):
        path.write_text("half")
        raise RuntimeError("stop")

    monkeypatch.setattr(formats, "write_csv", fail)
    run = make_run(tmp_path / "run")
    with pytest.raises(RuntimeError, match="stop"):
        export(run, "csv")
    left = sorted(path.name for path in (run / "export").iterdir())
    assert left == ["player.html", "ply", "tracks.npz", "tracks.png"]


def test_unknown_formats_are_refused():
    with pytest.raises(ValueError, match="'gif' is not one of cameras, images, csv"):
        ExportConfig(formats=("gif",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mesh_faces must be at least 100"):
        ExportConfig(mesh_faces=3)
