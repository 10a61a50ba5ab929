"""D-NeRF / Blender and nerfstudio files become clips that see what the files' own formulas see."""

import json
import math

import numpy as np
import pytest
import torch
from import_checks import assert_passes_check, assert_sees, assert_shows_dots, imported, run_import, seen
from import_sources import (
    EYES,
    HEIGHT,
    POINTS,
    WIDE,
    WIDTH,
    brown,
    disc,
    dots,
    opengl_pose,
    picture,
    save,
    write_json,
)  # fmt: skip

from dyn4d.core.errors import InputError
from dyn4d.core.types import Camera, Timeline
from dyn4d.io import load_clip, load_truth
from dyn4d.io.camera_files import write_transforms

ANGLE = 0.69
TIMES = [0.0, 0.25, 0.5, 0.75, 1.0]


def rgba(index):
    alpha = np.where(disc(index=index), 255, 0).astype(np.uint8)
    alpha[0, 0] = 64  # a quarter there
    return np.dstack([picture(index), alpha])


def split(folder, name, eyes, times, **keys):
    frames = []
    for i, eye in enumerate(eyes):
        save(folder / name / f"r_{i:03d}.png", rgba(i))
        pose = opengl_pose(eye).tolist()
        frames.append({"file_path": f"./{name}/r_{i:03d}", "rotation": 0.1, "transform_matrix": pose})
        if times is not None:
            frames[-1]["time"] = times[i]
    write_json(folder / f"transforms_{name}.json", {"camera_angle_x": ANGLE, **keys, "frames": frames})


def dnerf(folder):
    """Training frames out of order; one test view beside a training camera, one on the other side."""
    order = [3, 0, 4, 1, 2]
    split(folder, "train", EYES[order], [TIMES[i] for i in order])
    split(folder, "test", np.array([EYES[1] + 0.02, -EYES[2]]), [0.3, 0.5])
    split(folder, "val", EYES[:1], [0.0])
    return folder


def blender_pixels(eye, points):
    """Blender: x right, y up, looking along -z; the field of view spans the picture from edge to edge."""
    focal = 0.5 * WIDTH / math.tan(0.5 * ANGLE)
    x, y, z = (np.linalg.inv(opengl_pose(eye)) @ np.c_[points, np.ones(len(points))].T)[:3]
    return np.stack([WIDTH / 2 + focal * x / -z, HEIGHT / 2 - focal * y / -z], axis=1)


def test_dnerf_cameras_times_masks_and_background(tmp_path):
    clip = imported(dnerf(tmp_path / "lego"), tmp_path / "clip")
    assert len(clip) == 5 and clip.poses_given
    assert clip.timeline.times.tolist() == pytest.approx(TIMES)
    assert clip.timeline.fps == pytest.approx(24)  # fractions of the clip become seconds
    for row in range(5):
        assert_sees(clip, row, POINTS, blender_pixels(EYES[row], POINTS))
    first = [3, 0, 4, 1, 2].index(0)  # the picture of frame 0
    assert np.array_equal(clip.masks[0], disc(index=first))
    white = clip.images[0]
    assert (white[1, 1] == 255).all() and np.array_equal(white[disc(index=first)], picture(first)[disc(index=first)])
    assert white[0, 0].tolist() == [round(64 / 255 * int(c) + 255 * (1 - 64 / 255)) for c in picture(first)[0, 0]]
    assert_passes_check(clip)


def test_dnerf_test_views_are_the_truth(tmp_path):
    run_import(dnerf(tmp_path / "lego"), tmp_path / "clip")
    truth = load_truth(tmp_path / "clip" / "truth")
    views = {view.view: view for view in truth.views}
    assert set(views) == {"near_test", "test"}
    assert views["near_test"].index == 1 and views["test"].index == 2
    seconds = load_clip(tmp_path / "clip").timeline.seconds
    assert views["near_test"].time == pytest.approx(0.3 * seconds[-1])  # its own instant, between two frames
    for view, eye in ((views["near_test"], EYES[1] + 0.02), (views["test"], -EYES[2])):
        assert np.abs(seen(view.camera, None, POINTS) - blender_pixels(eye, POINTS)).max() < 0.01
    assert truth.cameras is not None and len(truth.cameras) == 5


def test_a_static_blender_scene_is_a_clip_in_the_order_of_names(tmp_path):
    split(tmp_path / "chair", "train", EYES, None)
    said = run_import(tmp_path / "chair", tmp_path / "clip", fps=10.0)
    clip = load_clip(tmp_path / "clip")
    assert "no times" in said and clip.timeline.fps == pytest.approx(10)
    assert_sees(clip, 2, POINTS, blender_pixels(EYES[2], POINTS))


def test_more_cameras_at_one_instant_are_held_out(tmp_path):
    split(tmp_path / "rig", "train", EYES, [0.0, 0.5, 0.5, 0.75, 1.0])
    said = run_import(tmp_path / "rig", tmp_path / "clip")
    assert "1 of 5 pictures show an instant" in said
    assert len(load_clip(tmp_path / "clip")) == 4
    assert [v.view.removeprefix("near_") for v in load_truth(tmp_path / "clip" / "truth").views] == ["train"]


# -------------------------------------------------------------------------------------------- nerfstudio

LENS = {"fl_x": 70.0, "fl_y": 72.0, "cx": 31.0, "cy": 25.5}
BENT = {"k1": -0.4, "k2": 0.08, "p1": 0.01, "p2": -0.008}


def nerfstudio_pixels(eye, points, lens):
    x, y, z = (np.linalg.inv(opengl_pose(eye)) @ np.c_[points, np.ones(len(points))].T)[:3]
    x, y = x / -z, -y / -z
    x, y = brown(x, y, (lens.get("k1", 0), lens.get("k2", 0)), (lens.get("p1", 0), lens.get("p2", 0)))
    return np.stack([lens["fl_x"] * x + lens["cx"], lens["fl_y"] * y + lens["cy"]], axis=1)


def nerfstudio(folder, lens, *, count=5, pictures=None, **keys):
    frames = []
    for i in range(count):
        image = picture(i) if pictures is None else pictures[i]
        save(folder / f"images/frame_{i:05d}.png", image)
        save(folder / f"masks/m{i}.png", np.where(disc(index=i), 255, 0).astype(np.uint8))
        save(folder / f"depths/d{i}.png", np.full((HEIGHT, WIDTH), 1500 + i, np.uint16))
        frames.append({
            "file_path": f"images/frame_{i:05d}.png", "mask_path": f"masks/m{i}.png", "time": TIMES[i],
            "depth_file_path": f"depths/d{i}.png", "transform_matrix": opengl_pose(EYES[i]).tolist(),
        })  # fmt: skip
    head = {"camera_model": "OPENCV", "w": WIDTH, "h": HEIGHT, **lens, **keys}
    write_json(folder / "transforms.json", {**head, "frames": frames})
    return folder


def test_nerfstudio_cameras_masks_and_millimetres(tmp_path):
    clip = imported(nerfstudio(tmp_path / "ns", LENS), tmp_path / "clip")
    for row in range(5):
        assert_sees(clip, row, POINTS, nerfstudio_pixels(EYES[row], POINTS, LENS))
        assert np.array_equal(clip.masks[row], disc(index=row))
        assert clip.depth is not None and np.allclose(clip.depth[row], 1.5 + row / 1000)
    assert_passes_check(clip)


def test_nerfstudio_distortion_is_taken_out_of_pictures_masks_and_depth(tmp_path):
    lens = {**LENS, **BENT}
    shown = [nerfstudio_pixels(EYES[i], WIDE, lens) for i in range(2)]
    pictures = [dots(pixels, WIDTH, HEIGHT) for pixels in shown]
    clip = imported(nerfstudio(tmp_path / "ns", lens, count=2, pictures=pictures), tmp_path / "clip")
    for row in range(2):
        assert_shows_dots(clip, row, WIDE, shown[row])
        assert clip.depth is not None and np.allclose(clip.depth[row], 1.5 + row / 1000)


def test_frames_may_have_lenses_of_their_own_and_scaled_pictures(tmp_path):
    folder = nerfstudio(tmp_path / "ns", LENS, count=3)
    data = json.loads((folder / "transforms.json").read_text())
    data["frames"][1] |= {"fl_x": 75.0, "cx": 33.0}
    data["w"], data["h"] = 2 * WIDTH, 2 * HEIGHT  # the pictures were made smaller after the calibration
    write_json(folder / "transforms.json", data)
    clip = imported(folder, tmp_path / "clip")
    for row, lens in enumerate([LENS, {**LENS, "fl_x": 75.0, "cx": 33.0}, LENS]):
        assert_sees(clip, row, POINTS, nerfstudio_pixels(EYES[row], POINTS, lens) / 2)


def test_float_depth_counts_in_the_files_unit(tmp_path):
    folder = nerfstudio(tmp_path / "ns", LENS, count=2, depth_unit_scale_factor=0.01)
    data = json.loads((folder / "transforms.json").read_text())
    for i in range(2):
        np.save(folder / f"depths/d{i}.npy", np.full((HEIGHT, WIDTH), 150.25 + i, np.float32))
        data["frames"][i]["depth_file_path"] = f"depths/d{i}.npy"
    write_json(folder / "transforms.json", data)
    clip = imported(folder, tmp_path / "clip")
    assert clip.depth is not None and np.allclose(clip.depth[1], 1.5125)


def test_what_dyn4d_exports_comes_back(tmp_path):
    """Cameras, times and the frames that were held out, through our own transforms.json."""
    count = 5
    names = [f"images/{i:05d}.png" for i in range(count)]
    for i, name in enumerate(names):
        save(tmp_path / "out" / name, picture(i))
        save(tmp_path / "out" / f"masks/{i:05d}.png", np.where(disc(index=i), 255, 0).astype(np.uint8))
    poses = np.stack([opengl_pose(eye) @ np.diag([1.0, -1, -1, 1]) for eye in EYES])
    K = torch.tensor([[70.0, 0, 31.25], [0, 72, 25.5], [0, 0, 1]]).double()
    camera = Camera(K.expand(count, 3, 3), torch.from_numpy(poses), WIDTH, HEIGHT)
    seconds = np.array([3.0, 3.1, 3.25, 3.3, 3.5])
    timeline = Timeline((seconds - 3) / 0.5, seconds, tuple(f"{i:05d}" for i in range(count)))
    masks = [f"masks/{i:05d}.png" for i in range(count)]
    write_transforms(tmp_path / "out/transforms.json", camera, timeline, names, held_out=[2], masks=masks)
    clip = imported(tmp_path / "out", tmp_path / "clip")
    assert clip.timeline.seconds.tolist() == pytest.approx(seconds[[0, 1, 3, 4]].tolist())
    assert torch.allclose(clip.cameras.world_from_cam, camera.world_from_cam[[0, 1, 3, 4]], atol=1e-9)
    assert torch.allclose(clip.cameras.K, camera.K[:4])
    (view,) = load_truth(tmp_path / "clip" / "truth").views
    assert view.time == pytest.approx(3.25) and view.view == "near_test"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(frames=[]), "lists no frames"),
        (lambda d: d.update(camera_model="OPENCV_FISHEYE"), "undistort"),
        (lambda d: d.pop("fl_x") and d.pop("fl_y"), "no focal length"),
        (lambda d: d.update(k4=0.1), "k4"),
        (lambda d: d.update(w=WIDTH * 2), "another shape"),
        (lambda d: d.update(k1=-9.0), "folds"),
        (lambda d: d["frames"][1].pop("transform_matrix"), "frames[1]: no transform_matrix"),
        (lambda d: d["frames"][1].update(transform_matrix=(2 * np.eye(4)).tolist()), "not rigid"),
        (lambda d: d["frames"][0].update(file_path="images/gone.png"), "gone.png"),
        (lambda d: d["frames"][0].update(mask_path="masks/gone.png"), "gone.png"),
    ],
)
def test_damaged_transforms_are_one_line(tmp_path, change, words):
    folder = nerfstudio(tmp_path / "ns", LENS, count=2)
    data = json.loads((folder / "transforms.json").read_text())
    change(data)
    write_json(folder / "transforms.json", data)
    with pytest.raises(InputError) as caught:
        run_import(folder, tmp_path / "clip")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "clip").exists() and not list(tmp_path.glob(".tmp*"))
