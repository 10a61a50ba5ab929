"""TUM RGB-D folders and Record3D recordings become clips with depth."""

import json
import zipfile

import cv2
import numpy as np
import pytest
import torch
from import_checks import assert_passes_check, assert_sees, imported, run_import
from import_sources import EYES, HEIGHT, POINTS, WIDTH, disc, opencv_w2c, opengl_pose, picture, quaternion, save

from dyn4d.core.errors import InputError
from dyn4d.core.types import Camera, Timeline
from dyn4d.io import load_clip
from dyn4d.io.camera_files import write_tum
from dyn4d.io.importers import record3d

# --------------------------------------------------------------------------------------------------- TUM

lzfse = pytest.importorskip("lzfse")
T0 = 1305031102.175304
TUM_LENS = (70.0, 72.0, 31.0, 24.5)  # integer pixel centres, as OpenCV


def tum(folder, *, lens=TUM_LENS, size=(WIDTH, HEIGHT), count=5):
    """Depth 8 ms late and missing for frame 3, the pose of frame 4 missing; a motion capture at 100 Hz."""
    rgb, depth, truth = ["# color images", "# timestamp filename"], ["# depth"], ["# timestamp tx ty tz qx qy qz qw"]
    for i in range(count):
        t = T0 + i / 30
        save(folder / f"rgb/{t:.6f}.png", picture(i, *size))
        rgb.append(f"{t:.6f} rgb/{t:.6f}.png")
        if i != 3:
            save(folder / f"depth/{t + 0.008:.6f}.png", np.full(size[::-1], 5000 + 1000 * i + 1, np.uint16))
            depth.append(f"{t + 0.008:.6f} depth/{t + 0.008:.6f}.png")
        for step in (-1, 0, 1):
            if i == 4:
                continue
            pose = np.linalg.inv(opencv_w2c(EYES[i] + 0.3 * step))  # the colour camera in the world
            w, x, y, z = quaternion(pose[:3, :3])
            numbers = " ".join(f"{v:.12f}" for v in [*pose[:3, 3], x, y, z, w])
            truth.append(f"{t + step * 0.009:.4f} {numbers}")
    for name, lines in (("rgb", rgb), ("depth", depth), ("groundtruth", truth)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def tum_pixels(eye, points, lens=TUM_LENS):
    """The benchmark's formula, u = X fx / Z + cx with the first pixel's centre at 0; here from its corner."""
    w2c = opencv_w2c(eye)
    x, y, z = w2c[:3, :3] @ points.T + w2c[:3, 3:]
    fx, fy, cx, cy = lens
    return np.stack([fx * x / z + cx + 0.5, fy * y / z + cy + 0.5], axis=1)


def test_tum_poses_depth_times_and_their_pairing(tmp_path):
    clip = imported(tum(tmp_path / "desk"), tmp_path / "clip", mask="none", intrinsics=TUM_LENS)
    assert np.allclose(clip.timeline.seconds, [T0 + i / 30 for i in range(5)], atol=1e-6)
    assert clip.cameras.registered.tolist() == [True, True, True, True, False]
    for row in range(4):
        assert_sees(clip, row, POINTS, tum_pixels(EYES[row], POINTS))
    assert np.allclose(clip.depth[2], (5000 + 2001) / 5000) and not clip.depth[3].any()
    saved = cv2.imread(str(min((tmp_path / "clip/depth").iterdir())), cv2.IMREAD_UNCHANGED)
    assert saved is not None
    assert saved.dtype == np.uint16 and (saved == 5001).all()  # whole units stay whole
    assert_passes_check(clip)


def test_tum_intrinsics_are_those_of_ros_for_its_own_size_alone(tmp_path):
    folder = tum(tmp_path / "full", size=(640, 480), count=2)
    said = run_import(folder, tmp_path / "clip")
    assert "319.5" in said
    clip = load_clip(tmp_path / "clip", mask="none")
    assert_sees(clip, 1, POINTS, tum_pixels(EYES[1], POINTS, (525.0, 525.0, 319.5, 239.5)))
    with pytest.raises(InputError, match="--intrinsics"):
        run_import(tum(tmp_path / "small"), tmp_path / "b")


def test_depth_that_is_cut_short_is_refused_by_name(tmp_path):
    root = tum(tmp_path / "dog")
    last = sorted((root / "depth").iterdir())[-1]
    last.write_bytes(last.read_bytes()[: last.stat().st_size * 2 // 3])
    with pytest.raises(InputError, match=rf"{last.name} is damaged or cut short"):
        run_import(root, tmp_path / "clip", intrinsics=TUM_LENS)


def test_other_depth_units_and_half_integer_centres(tmp_path):
    lens = (70.0, 72.0, 31.5, 25.0)
    clip = imported(tum(tmp_path / "bonn"), tmp_path / "clip", mask="none", depth_div=1000.0, intrinsics=lens,
                    pixel_centre="half-integer")  # fmt: skip
    assert np.allclose(clip.depth[0], 5.001)
    assert_sees(clip, 0, POINTS, tum_pixels(EYES[0], POINTS))


def test_trajectories_that_dyn4d_exports_come_back(tmp_path):
    folder = tum(tmp_path / "desk")
    poses = torch.from_numpy(np.stack([np.linalg.inv(opencv_w2c(eye)) for eye in EYES[::-1].copy()]))
    camera = Camera(torch.eye(3).double().expand(5, 3, 3), poses, WIDTH, HEIGHT)
    seconds = np.array([float(line.split()[0]) for line in (folder / "rgb.txt").read_text().splitlines()[2:]])
    timeline = Timeline((seconds - seconds[0]) / np.ptp(seconds), seconds, tuple("abcde"))
    write_tum(folder / "groundtruth.txt", camera, timeline)
    clip = imported(folder, tmp_path / "clip", mask="none", intrinsics=TUM_LENS)
    assert torch.allclose(clip.cameras.world_from_cam, poses, atol=1e-9)


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("rgb.txt", "1305031102.2", "rgb.txt, line"),
        ("rgb.txt", "1305031102.2 rgb/gone.png", "gone.png"),
        ("depth.txt", "soon depth/1.png", "depth"),
        ("groundtruth.txt", "1305031102.2 1 2 3 0 0 0", "groundtruth.txt, line"),
        ("groundtruth.txt", "1305031102.2 1 2 3 0 0 0 0", "quaternion"),
    ],
)
def test_damaged_tum_folders_are_one_line(tmp_path, file, line, words):
    folder = tum(tmp_path / "desk")
    with (folder / file).open("a") as text:
        text.write(line + "\n")
    with pytest.raises(InputError) as caught:
        run_import(folder, tmp_path / "clip", intrinsics=TUM_LENS)
    assert words in str(caught.value) and "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- Record3D

K3 = [[70.0, 0.0, 31.0], [0.0, 72.0, 25.5], [0.0, 0.0, 1.0]]


def coarse(index):
    """(H/4, W/4) metres: a disc before a wall."""
    return np.where(disc(WIDTH // 4, HEIGHT // 4), 1.5 + index, 3.0 + index).astype(np.float32)


def r3d(path, *, count=4, poses=True, sizes=True, each=False, changes=None):
    """A .r3d: a zip of metadata and rgbd/."""
    meta = {
        "w": WIDTH,
        "h": HEIGHT,
        "fps": 30,
        "K": np.array(K3).T.ravel().tolist(),
        "dw": WIDTH // 4,
        "dh": HEIGHT // 4,
    }
    if not sizes:
        del meta["dw"], meta["dh"]
    if poses:
        rows = [opengl_pose(eye) for eye in EYES[:count]]
        meta["poses"] = [[*np.roll(quaternion(p[:3, :3]), -1).tolist(), *p[:3, 3].tolist()] for p in rows]
        meta["initPose"] = meta["poses"][0]
    if each:
        meta["perFrameIntrinsicCoeffs"] = [[70.0 + i, 72.0, 31.0, 25.5] for i in range(count)]
        meta["frameTimestamps"] = [100.0, 100.04, 100.06, 100.11][:count]
    meta |= changes or {}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata", json.dumps(meta))
        for i in range(count):
            file = save(path.parent / "tmp.jpg", picture(i), quality=95)
            archive.write(file, f"rgbd/{i}.jpg")
            confidence = np.full((HEIGHT // 4, WIDTH // 4), 2, np.uint8)
            confidence[0], confidence[1] = 0, 1
            archive.writestr(f"rgbd/{i}.depth", lzfse.compress(coarse(i).tobytes()))
            archive.writestr(f"rgbd/{i}.conf", lzfse.compress(confidence.tobytes()))
    return path


def arkit_pixels(eye, points, fx=70.0):
    """OpenGL's camera axes; ARKit's principal point counts from the picture's corner."""
    x, y, z = (np.linalg.inv(opengl_pose(eye)) @ np.c_[points, np.ones(len(points))].T)[:3]
    return np.stack([fx * x / -z + 31.0, 72.0 * -y / -z + 25.5], axis=1)


@pytest.mark.parametrize("sizes", [True, False])
def test_record3d_cameras_and_depth(tmp_path, sizes):
    clip = imported(r3d(tmp_path / "dog.r3d", sizes=sizes), tmp_path / "clip", mask="none")
    assert clip.timeline.fps == pytest.approx(30)
    for row in range(4):
        assert_sees(clip, row, POINTS, arkit_pixels(EYES[row], POINTS))
        depth = clip.depth[row]
        assert depth.shape == (HEIGHT, WIDTH) and set(np.unique(depth)) == {0.0, 1.5 + row, 3.0 + row}
        assert (depth[:4] == 0).all() and (depth[4:] > 0).all()  # a row of low confidence, four pixels high
        # each coarse pixel became a block of 4 x 4
        assert np.array_equal(depth[6::4, 2::4], coarse(row)[1:])
    assert_passes_check(clip)


def test_record3d_confidence_and_values_of_each_frame(tmp_path):
    source = r3d(tmp_path / "dog.r3d", each=True)
    clip = imported(source, tmp_path / "clip", mask="none", min_confidence=2)
    assert not clip.depth[0][:8].any() and clip.depth[0][8:].all()
    assert_sees(clip, 3, POINTS, arkit_pixels(EYES[3], POINTS, 73.0))
    assert clip.timeline.seconds.tolist() == pytest.approx([0, 0.04, 0.06, 0.11])
    slower = imported(source, tmp_path / "slow", mask="none", fps=20.0)
    assert slower.timeline.seconds.tolist() == pytest.approx([0, 0.04, 0.11])
    everything = imported(source, tmp_path / "all", mask="none", min_confidence=0)
    assert everything.depth[0].all()


def test_an_unpacked_recording_without_poses(tmp_path):
    with zipfile.ZipFile(r3d(tmp_path / "dog.r3d", poses=False)) as archive:
        archive.extractall(tmp_path / "dog")
    said = run_import(tmp_path / "dog", tmp_path / "clip")
    assert "no poses" in said
    clip = load_clip(tmp_path / "clip", mask="none")
    assert not clip.poses_given and float(clip.cameras.K[0, 1, 1]) == 72
    assert (tmp_path / "clip/rgb/00002.jpg").read_bytes() == (tmp_path / "dog/rgbd/2.jpg").read_bytes()
    still = imported(tmp_path / "dog", tmp_path / "still", mask="none", static=True)
    assert still.poses_given and torch.equal(still.cameras.world_from_cam[1], torch.eye(4).double())


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    source = r3d(tmp_path / "dog.r3d")
    monkeypatch.setattr(record3d, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"dyn4d\[recordings\]"):
        run_import(source, tmp_path / "clip")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"K": [1, 2]}, "K has not"),
        ({"K": [0.0] * 9}, "focal"),
        ({"poses": [[0, 0, 0, 1, 0, 0, 0]]}, "1 poses"),
        ({"poses": [[0, 0, 0, 0, 0, 0, 0]] * 4}, "quaternion"),
        ({"dw": 7}, "values"),
        ({"w": None}, "w has not"),
    ],
)
def test_damaged_recordings_are_one_line(tmp_path, changes, words):
    with pytest.raises(InputError) as caught:
        run_import(r3d(tmp_path / "dog.r3d", changes=changes), tmp_path / "clip")
    assert words in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "clip").exists()


def test_a_cut_recording_is_one_line(tmp_path):
    source = r3d(tmp_path / "dog.r3d")
    source.write_bytes(source.read_bytes()[:900])
    with pytest.raises(InputError, match="cut short"):
        run_import(source, tmp_path / "clip")
