"""COLMAP models, binary and text, become clips; what dyn4d writes comes back."""

import numpy as np
import pytest
import torch
from import_checks import assert_passes_check, assert_sees, assert_shows_dots, imported, run_import
from import_sources import (
    EYES,
    HEIGHT,
    POINTS,
    WIDE,
    WIDTH,
    brown,
    disc,
    dots,
    opencv_w2c,
    picture,
    save,
    write_colmap,
)  # fmt: skip

from dyn4d.core.errors import InputError
from dyn4d.core.types import Camera
from dyn4d.io import load_clip
from dyn4d.io.colmap import write_model
from dyn4d.io.colmap_text import write_model_text

NAMES = [f"{i:04d}.jpg" for i in range(5)]
POSES = [opencv_w2c(eye) for eye in EYES]
LENSES = {
    "SIMPLE_PINHOLE": [70.0, 31.0, 25.5],
    "PINHOLE": [70.0, 72.0, 31.0, 25.5],
    "SIMPLE_RADIAL": [70.0, 31.0, 25.5, -0.7],
    "RADIAL": [70.0, 31.0, 25.5, -0.7, 0.02],
    "OPENCV": [70.0, 72.0, 31.0, 25.5, -0.4, 0.08, 0.01, -0.008],
}


def colmap_pixels(model, params, w2c, points):
    """colmap/sensor/models.h: camera from world, OpenCV axes, the first pixel's corner is (0, 0)."""
    x, y, z = w2c[:3, :3] @ points.T + w2c[:3, 3:]
    x, y = x / z, y / z
    one = model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
    (fx, fy, cx, cy), rest = ([params[0], *params[:3]], params[3:]) if one else (params[:4], params[4:])
    k, p = (rest[:2], rest[2:]) if model == "OPENCV" else (rest, (0, 0))
    x, y = brown(x, y, [*k, 0, 0, 0][:3], tuple(p) or (0, 0))
    return np.stack([fx * x + cx, fy * y + cy], axis=1)


def project(folder, kind, model, *, place="sparse/0", names=NAMES, masks=None, pictures=None):
    write_colmap(folder / place, kind, model, LENSES.get(model, [70.0] * 8), names, POSES[: len(names)])
    for i, name in enumerate(names):
        save(folder / "images" / name, picture(i) if pictures is None else pictures[i], quality=95)
        if masks:
            save(folder / masks.format(name=name, stem=name.rsplit(".", 1)[0]), disc(index=i).astype(np.uint8) * 255)
    return folder


@pytest.mark.parametrize("kind", ["bin", "txt"])
@pytest.mark.parametrize("model", ["SIMPLE_PINHOLE", "PINHOLE"])
def test_pinhole_models(tmp_path, kind, model):
    folder = project(tmp_path / "p", kind, model, masks="masks/{name}.png")
    clip = imported(folder, tmp_path / "clip", fps=10.0)
    assert clip.timeline.names == tuple(f"{i:04d}" for i in range(5)) and clip.timeline.fps == pytest.approx(10)
    for row in range(5):
        assert_sees(clip, row, POINTS, colmap_pixels(model, LENSES[model], POSES[row], POINTS))
        assert np.array_equal(clip.masks[row], disc(index=row))
    # nothing was to be done to the pictures: the files are the same
    assert (tmp_path / "clip/rgb/0002.jpg").read_bytes() == (folder / "images/0002.jpg").read_bytes()
    assert_passes_check(clip)


def test_masks_beside_the_named_pictures_are_said(tmp_path):
    folder = project(tmp_path / "p", "txt", "PINHOLE", masks="mask/{stem}.png")
    model = tmp_path / "model"
    (folder / "sparse/0").rename(model)
    said = run_import(model, tmp_path / "clip", images=str(folder / "images"))
    assert f"the masks are those of {folder / 'mask'}" in said


@pytest.mark.parametrize("model", ["SIMPLE_RADIAL", "RADIAL", "OPENCV"])
def test_distorted_models_are_straightened(tmp_path, model):
    names = [name.replace("jpg", "png") for name in NAMES[:2]]
    shown = [colmap_pixels(model, LENSES[model], POSES[i], WIDE) for i in range(2)]
    pictures = [dots(pixels, WIDTH, HEIGHT) for pixels in shown]
    folder = project(tmp_path / "p", "bin", model, names=names, masks="mask/{stem}.png", pictures=pictures)
    clip = imported(folder, tmp_path / "clip")
    for row in range(2):
        assert_shows_dots(clip, row, WIDE, shown[row])


def test_unregistered_pictures_have_no_pose_and_keep_their_place(tmp_path):
    folder = project(tmp_path / "p", "bin", "PINHOLE", names=NAMES[:2] + NAMES[3:])
    save(folder / "images" / NAMES[2], picture(2))
    said = run_import(folder, tmp_path / "clip")
    clip = load_clip(tmp_path / "clip", mask="none")
    assert "1 of 5 pictures are not in the model" in said and "dyn4d mask" in said
    assert clip.cameras.registered.tolist() == [True, True, False, True, True]
    assert_sees(clip, 3, POINTS, colmap_pixels("PINHOLE", LENSES["PINHOLE"], POSES[2], POINTS))


def test_the_model_folder_itself_and_pictures_elsewhere(tmp_path):
    folder = project(tmp_path / "p", "txt", "PINHOLE")
    clip = imported(folder / "sparse" / "0", tmp_path / "a", mask="none")
    (folder / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="--images"):
        run_import(folder / "sparse" / "0", tmp_path / "b")
    again = imported(folder / "sparse" / "0", tmp_path / "b", mask="none", images=str(tmp_path / "elsewhere"))
    assert torch.equal(clip.cameras.world_from_cam, again.cameras.world_from_cam)


def test_the_largest_of_several_models_is_taken(tmp_path):
    folder = project(tmp_path / "p", "bin", "PINHOLE", names=NAMES[:2])
    project(tmp_path / "p", "bin", "SIMPLE_PINHOLE", place="sparse/1")
    said = run_import(folder, tmp_path / "clip")
    assert "of 2 models 1 is taken" in said
    clip = load_clip(tmp_path / "clip", mask="none")
    assert bool(clip.cameras.registered.all()) and float(clip.cameras.K[0, 1, 1]) == 70


def test_names_in_folders_become_numbers_where_they_repeat(tmp_path):
    names = ["cam_a/1.png", "cam_b/1.png"]
    clip = imported(project(tmp_path / "p", "bin", "PINHOLE", names=names), tmp_path / "clip", mask="none")
    assert clip.timeline.names == ("00000", "00001")
    assert_sees(clip, 1, POINTS, colmap_pixels("PINHOLE", LENSES["PINHOLE"], POSES[1], POINTS))


@pytest.mark.parametrize("write", [write_model, write_model_text])
def test_what_dyn4d_exports_comes_back(tmp_path, write):
    poses = torch.from_numpy(np.linalg.inv(np.stack(POSES)))
    poses[2] = float("nan")
    K = torch.tensor([[70.0, 0, 31.25], [0, 72, 25.5], [0, 0, 1]]).double().repeat(5, 1, 1)
    K[3, 0, 0] = 75  # zoomed
    camera = Camera(K, poses, WIDTH, HEIGHT)
    write(tmp_path / "p/colmap", camera, NAMES, xyz=np.zeros((0, 3)), rgb=np.zeros((0, 3), np.uint8))
    for i, name in enumerate(NAMES):
        save(tmp_path / "p/images" / name, picture(i))
    clip = imported(tmp_path / "p", tmp_path / "clip", mask="none")
    assert clip.cameras.registered.tolist() == camera.registered.tolist()
    known = camera.registered
    assert torch.allclose(clip.cameras.world_from_cam[known], poses[known], atol=1e-9)
    assert torch.allclose(clip.cameras.K[known], K[known], atol=1e-9)


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_fisheye_is_one_clear_error(tmp_path, kind):
    folder = project(tmp_path / "p", kind, "OPENCV_FISHEYE")
    with pytest.raises(InputError, match=r"OPENCV_FISHEYE.*image_undistorter"):
        run_import(folder, tmp_path / "clip")


@pytest.mark.parametrize(("kind", "file", "cut"), [
    ("bin", "cameras.bin", 20), ("bin", "images.bin", 100), ("bin", "images.bin", 4), ("txt", "images.txt", 150),
    ("txt", "cameras.txt", 25),
])  # fmt: skip
def test_damaged_models_are_one_line(tmp_path, kind, file, cut):
    folder = project(tmp_path / "p", kind, "PINHOLE")
    path = folder / "sparse/0" / file
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=file) as caught:
        run_import(folder, tmp_path / "clip")
    assert "\n" not in str(caught.value)


def test_a_registered_picture_that_is_missing_is_named(tmp_path):
    folder = project(tmp_path / "p", "bin", "PINHOLE")
    (folder / "images" / NAMES[3]).unlink()
    with pytest.raises(InputError, match=NAMES[3]):
        run_import(folder, tmp_path / "clip")
