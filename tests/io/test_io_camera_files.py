"""Cameras in other programs' files, read again by other programs: evo, pycolmap, and nerfstudio's own formula."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dyn4d.core.cameras import look_at, project
from dyn4d.core.types import Camera, Timeline
from dyn4d.io.camera_files import write_transforms, write_tum
from dyn4d.io.colmap import Observations, write_model
from dyn4d.io.colmap_text import write_model_text

COUNT = 5


def cameras(count=COUNT, *, unknown=()):
    poses = []
    for i in range(count):
        eye = torch.tensor([2.0 + i / 3, 1.0 - i / 2, 0.7], dtype=torch.float64)
        poses.append(look_at(eye, torch.zeros(3).double(), torch.tensor([0.1, 0, 1.0]).double()))
    K = torch.tensor([[410.0, 0, 161.25], [0, 405.0, 118.5], [0, 0, 1]], dtype=torch.float64)
    poses = torch.stack(poses)
    poses[list(unknown)] = float("nan")
    return Camera(K.expand(count, 3, 3).clone(), poses, 320, 240)


def timeline(count=COUNT):
    seconds = 3.5 + np.array([0.0, 0.1, 0.25, 0.3, 0.5])[:count]
    times = (seconds - seconds[0]) / (seconds[-1] - seconds[0]) if count > 1 else np.zeros(1)
    return Timeline(times, seconds, tuple(f"{i:05d}" for i in range(count)))


def gl_pixel(entry, head, point):
    """Where OpenGL's camera sees a world point, by nerfstudio's description alone: x right, y up, looking along -z."""
    x, y, z, _ = np.linalg.inv(np.array(entry["transform_matrix"])) @ [*point, 1]
    lens = {**head, **entry}
    return lens["fl_x"] * x / -z + lens["cx"], lens["fl_y"] * -y / -z + lens["cy"]


def test_transforms_see_the_world_as_the_cameras_do(tmp_path):
    camera, names = cameras(unknown=[2]), [f"images/{i}.png" for i in range(COUNT)]
    write_transforms(tmp_path / "t.json", camera, timeline(), names)
    head = json.loads((tmp_path / "t.json").read_text())
    assert [f["file_path"] for f in head["frames"]] == [names[i] for i in (0, 1, 3, 4)]
    assert (head["w"], head["h"], head["fl_x"], head["cy"]) == (320, 240, 410.0, 118.5)
    point = torch.tensor([[0.2, -0.3, 0.4]], dtype=torch.float64)
    for entry in head["frames"]:
        row = entry["frame_index"]
        want, _ = project(camera.K[row], camera.cam_from_world[row], point)
        assert gl_pixel(entry, head, point[0].numpy()) == pytest.approx(tuple(want[0].tolist()), abs=1e-9)
        assert entry["seconds"] == timeline().seconds[row] and entry["time"] == pytest.approx(timeline().times[row])


def test_transforms_with_a_lens_for_each_frame_and_held_out_frames(tmp_path):
    camera = cameras()
    camera.K[3, 0, 0] = 500.0
    names = [f"a b/{i}.png" for i in range(COUNT)]
    write_transforms(tmp_path / "t.json", camera, timeline(), names, held_out={1, 4})
    head = json.loads((tmp_path / "t.json").read_text())
    assert "fl_x" not in head and [f["fl_x"] for f in head["frames"]] == [410, 410, 410, 500, 410]
    assert head["test_filenames"] == [names[1], names[4]] == head["val_filenames"]
    assert head["train_filenames"] == [names[0], names[2], names[3]]


def test_evo_reads_the_trajectory(tmp_path):
    evo = pytest.importorskip("evo.tools.file_interface", reason="evo is not installed")
    camera = cameras(unknown=[0, 3])
    write_tum(tmp_path / "a trajectory.txt", camera, timeline())
    found = evo.read_tum_trajectory_file(str(tmp_path / "a trajectory.txt"))
    rows = [1, 2, 4]
    np.testing.assert_allclose(found.timestamps, timeline().seconds[rows], atol=1e-9)
    np.testing.assert_allclose(np.stack(found.poses_se3), camera.world_from_cam[rows].numpy(), atol=1e-10)


def model(unknown=()):
    rng = np.random.default_rng(0)
    xyz, rgb = rng.normal(size=(30, 3)), rng.integers(0, 256, (30, 3)).astype(np.uint8)
    seen = Observations(rng.permutation(np.repeat(np.arange(30), 2)), rng.integers(0, COUNT, 60), rng.random((60, 2)))
    return {"xyz": xyz, "rgb": rgb, "observations": seen}, cameras(unknown=unknown)


@pytest.mark.parametrize("own_lens", [False, True])
def test_pycolmap_reads_the_same_from_text_as_from_the_binary_model(tmp_path, own_lens):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    content, camera = model(unknown=[1])
    if own_lens:
        camera.K[4, 1, 1] = 333.25
    names = [f"frame-{i}.jpg" for i in range(COUNT)]
    write_model(tmp_path / "bin", camera, names, **content)
    write_model_text(tmp_path / "text", camera, names, **content)
    one, two = (pycolmap.Reconstruction(str(tmp_path / name)) for name in ("bin", "text"))
    assert sorted(one.images) == sorted(two.images) == [1, 3, 4, 5]
    assert len(one.cameras) == len(two.cameras) == (COUNT if own_lens else 1)
    for key, image in one.images.items():
        other = two.images[key]
        assert image.name == other.name == names[key - 1]
        np.testing.assert_array_equal(image.camera.params, other.camera.params)
        pose = other.cam_from_world
        pose = (pose() if callable(pose) else pose).matrix()
        np.testing.assert_allclose(pose, camera.cam_from_world[key - 1, :3].numpy(), atol=1e-12)
        assert [p.point3D_id for p in image.points2D] == [p.point3D_id for p in other.points2D]
        np.testing.assert_array_equal([p.xy for p in image.points2D], [p.xy for p in other.points2D])
    for key, point in one.points3D.items():
        other = two.points3D[key]
        np.testing.assert_array_equal(point.xyz, other.xyz)
        np.testing.assert_array_equal(point.color, other.color)
        elements = [sorted((e.image_id, e.point2D_idx) for e in p.track.elements) for p in (point, other)]
        assert elements[0] == elements[1]


def test_no_pose_at_all_and_one_frame(tmp_path):
    nobody = replace(cameras(), world_from_cam=torch.full((COUNT, 4, 4), float("nan")).double())
    write_transforms(tmp_path / "t.json", nobody, timeline(), ["x"] * COUNT)
    assert json.loads((tmp_path / "t.json").read_text())["frames"] == []
    write_tum(tmp_path / "t.txt", nobody, timeline())
    assert (tmp_path / "t.txt").read_text().startswith("#")
    write_tum(tmp_path / "one.txt", cameras(1), timeline(1))
    assert len((tmp_path / "one.txt").read_text().splitlines()) == 2
    with pytest.raises(ValueError, match="5 cameras"):
        write_tum(tmp_path / "t.txt", cameras(), timeline(1))
