"""Folders of Nerfies, HyperNeRF and DyCheck become clips with truth."""

import json

import numpy as np
import pytest
from import_checks import assert_passes_check, assert_sees, assert_shows_dots, imported, run_import, seen
from import_sources import EYES, HEIGHT, POINTS, WIDE, WIDTH, brown, disc, dots, opencv_w2c, picture, save, write_json

from dyn4d.core.errors import InputError
from dyn4d.io import load_clip, load_truth
from dyn4d.io.images import read_mask

STRAIGHT = {"focal_length": 140.0, "principal_point": [62.0, 51.0], "skew": 0.0, "pixel_aspect_ratio": 1.03,
            "radial_distortion": [0.0, 0.0, 0.0], "tangential_distortion": [0.0, 0.0]}  # fmt: skip
BENT = {**STRAIGHT, "radial_distortion": [-0.3, 0.06, 0.01], "tangential_distortion": [0.01, -0.008], "skew": 1.5}


def nerfies_pixels(eye, points, camera, scale):
    """google/nerfies camera.py: orientation @ (X - position), Brown, focal_length, skew, aspect; then Camera.scale."""
    w2c = opencv_w2c(eye)
    orientation, position = w2c[:3, :3], -w2c[:3, :3].T @ w2c[:3, 3]
    x, y, z = orientation @ (points - position).T
    x, y = brown(x / z, y / z, camera["radial_distortion"], camera["tangential_distortion"])
    f = camera["focal_length"]
    u = f * x + camera["skew"] * y + camera["principal_point"][0]
    v = f * camera["pixel_aspect_ratio"] * y + camera["principal_point"][1]
    return np.stack([u, v], axis=1) / scale


def write_camera(path, eye, camera, *, old=False):
    w2c = opencv_w2c(eye)
    data = {**camera, "orientation": w2c[:3, :3].tolist(), "image_size": [2 * WIDTH, 2 * HEIGHT],
            "position": (-w2c[:3, :3].T @ w2c[:3, 3]).tolist()}  # fmt: skip
    if old:  # Nerfies' own writer has another name for it
        data["tangential"] = data.pop("tangential_distortion")
    write_json(path, data)


def dycheck(folder, camera=STRAIGHT, *, pictures=None, depth=True):
    """Five frames of the moving phone, two of another one, at 2x; the alpha channel is where LiDAR saw something."""
    ids = [f"0_{i:05d}" for i in range(5)] + ["1_00001", "2_00003"]
    eyes = [*EYES, EYES[1] + 0.05, -EYES[3]]
    for i, (name, eye) in enumerate(zip(ids, eyes)):
        write_camera(folder / f"camera/{name}.json", eye, camera, old=bool(i % 2))
        rgb = picture(i) if pictures is None else pictures[i]
        alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
        alpha[:10] = 0
        save(folder / f"rgb/2x/{name}.png", np.dstack([rgb, alpha]))
        save(folder / f"rgb/4x/{name}.png", rgb[::2, ::2])
        if depth and i < 5:
            (folder / "depth/2x").mkdir(parents=True, exist_ok=True)
            np.save(folder / f"depth/2x/{name}.npy", np.full((HEIGHT, WIDTH, 1), 1.25 + i, np.float32))
    save(folder / "covisible/2x/val/1_00001.png", disc().astype(np.uint8) * 255)
    write_json(folder / "keypoint/2x/train/0_00002.json", [[1.0, 2.0, 1]])
    write_json(
        folder / "dataset.json",
        {"count": 7, "num_exemplars": 5, "ids": ids, "train_ids": ids[:5][::-1], "val_ids": ids[5:]},
    )
    meta = {n: {"warp_id": int(n[2:]), "appearance_id": int(n[2:]), "camera_id": int(n[0])} for n in ids}
    write_json(folder / "metadata.json", meta)
    write_json(folder / "scene.json", {"scale": 0.1, "center": [5.0, 6.0, 7.0], "near": 0.1, "far": 1.0})
    write_json(folder / "extra.json", {"factor": 2, "fps": 60.0})
    return folder


def test_dycheck_cameras_times_depth_and_no_mask_from_alpha(tmp_path):
    clip = imported(dycheck(tmp_path / "windmill"), tmp_path / "clip", mask="none")
    assert clip.timeline.names == tuple(f"0_{i:05d}" for i in range(5))
    assert clip.timeline.seconds.tolist() == pytest.approx([i / 60 for i in range(5)])
    for row in range(5):  # the world is that of the camera files, before scene.json
        assert_sees(clip, row, POINTS, nerfies_pixels(EYES[row], POINTS, STRAIGHT, 2))
        assert clip.depth is not None and (clip.depth[row] == 1.25 + row).all()
        assert np.array_equal(clip.images[row], picture(row))
    assert not (tmp_path / "clip/mask").exists()
    assert (tmp_path / "clip/keypoint/train/0_00002.json").is_file()
    assert_passes_check(clip)


def test_dycheck_validation_views_and_covisibility(tmp_path):
    said = run_import(dycheck(tmp_path / "windmill"), tmp_path / "clip")
    assert "co-visibility" in said and "1 held-out views have no mask" in said
    views = {view.view: view for view in load_truth(tmp_path / "clip/truth").views}
    assert set(views) == {"near_camera_1", "camera_2"}
    assert (views["near_camera_1"].index, views["camera_2"].index) == (1, 3)
    assert np.array_equal(read_mask(views["near_camera_1"].mask), disc()) and read_mask(views["camera_2"].mask).all()
    found = seen(views["camera_2"].camera, None, POINTS)
    assert np.abs(found - nerfies_pixels(-EYES[3], POINTS, STRAIGHT, 2)).max() < 0.01


def test_distortion_and_skew_are_taken_out(tmp_path):
    shown = [nerfies_pixels(eye, WIDE, BENT, 2) for eye in (*EYES, EYES[1] + 0.05, -EYES[3])]
    folder = dycheck(tmp_path / "bent", BENT, pictures=[dots(p, WIDTH, HEIGHT) for p in shown])
    clip = imported(folder, tmp_path / "clip", mask="none")
    for row in (0, 1):
        assert_shows_dots(clip, row, WIDE, shown[row])


def test_other_scales_frame_rates_and_missing_extras(tmp_path):
    folder = dycheck(tmp_path / "plain", depth=False)
    (folder / "extra.json").unlink()
    said = run_import(folder, tmp_path / "a")
    assert "24 is assumed" in said
    clip = imported(folder, tmp_path / "b", mask="none", image_scale=4, fps=15.0)
    assert (clip.width, clip.height) == (WIDTH // 2, HEIGHT // 2) and clip.timeline.fps == pytest.approx(15)
    assert_sees(clip, 4, POINTS, nerfies_pixels(EYES[4], POINTS, STRAIGHT, 4))
    with pytest.raises(InputError, match="2x, 4x"):
        run_import(folder, tmp_path / "c", image_scale=8)


def test_two_cameras_of_a_rig_at_one_instant(tmp_path):
    folder = dycheck(tmp_path / "rig")
    meta = json.loads((folder / "metadata.json").read_text())
    meta["0_00003"]["warp_id"] = 2
    write_json(folder / "metadata.json", meta)
    run_import(folder, tmp_path / "clip")
    clip = load_clip(tmp_path / "clip", mask="none")
    assert len(clip) == 4 and np.diff(clip.timeline.seconds).tolist() == pytest.approx([1 / 60, 1 / 60, 2 / 60])


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("dataset.json", {"train_ids": None}, "train_ids"),
        ("dataset.json", {"train_ids": ["9_00000"]}, "9_00000"),
        ("metadata.json", {"0_00001": {}}, "0_00001 has no warp_id"),
        ("camera/0_00001.json", {"focal_length": "long"}, "focal_length"),
        ("camera/0_00001.json", {"orientation": [[1, 0, 0], [0, 1, 0], [0, 0, -1]]}, "rigid"),
        ("camera/0_00001.json", {"image_size": [640, 480]}, "320x240"),
    ],
)
def test_damaged_folders_are_one_line(tmp_path, file, change, words):
    folder = dycheck(tmp_path / "d")
    data = json.loads((folder / file).read_text()) | change
    write_json(folder / file, data)
    with pytest.raises(InputError) as caught:
        run_import(folder, tmp_path / "clip")
    assert words in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "clip").exists()
