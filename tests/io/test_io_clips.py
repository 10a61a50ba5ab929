"""Opening clips: every layout, every error a person can make."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from io_clips import HEIGHT, WIDTH, K, cameras, disc, frame, make_clip, pose, save, write_cameras_file

from dyn4d.core.cameras import pixel_grid, project, unproject
from dyn4d.core.errors import InputError
from dyn4d.io.clips import kept_frames, load_clip, select_frames
from dyn4d.io.video import write_mp4

# ---------------------------------------------------------------- what is read


def test_clip_folder_is_read_whole(tmp_path: Path) -> None:
    clip = load_clip(make_clip(tmp_path / "fox"))
    assert (clip.name, len(clip), clip.width, clip.height) == ("fox", 4, WIDTH, HEIGHT)
    assert clip.cameras is not None and clip.depth is not None and clip.poses_given
    for i in range(4):
        np.testing.assert_array_equal(clip.images[i], frame(i))
        np.testing.assert_array_equal(clip.masks[i], disc(i))
        np.testing.assert_array_equal(clip.depth[i], np.where(disc(i), np.float32((2000 + i) / 1000), 0))
        np.testing.assert_allclose(clip.cameras.cam_from_world[i], pose(i), atol=1e-12)
    assert clip.cameras.K.dtype == torch.float64
    np.testing.assert_allclose(clip.cameras.K[2], K)
    np.testing.assert_allclose(clip.timeline.seconds, np.arange(4) / 10)
    np.testing.assert_allclose(clip.times, [0, 1 / 3, 2 / 3, 1])


def test_frames_are_read_lazily_and_handed_out_as_copies(tmp_path: Path) -> None:
    clip = load_clip(make_clip(tmp_path))
    clip.images[1][:] = 0
    np.testing.assert_array_equal(clip.images[1], frame(1))
    (tmp_path / "rgb/00002.png").unlink()  # nobody asked for it yet
    np.testing.assert_array_equal(clip.images[-1], frame(3))
    with pytest.raises(InputError, match=r"00002\.png is not there"):
        clip.images[2]
    with pytest.raises(IndexError):
        clip.images[4]


def test_other_files_in_the_folder_are_ignored(tmp_path: Path) -> None:
    make_clip(tmp_path)
    save(tmp_path / "preview.jpg", frame(0, 99, 5))
    save(tmp_path / "mask_upstream/odd.png", frame(0))
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "rgb/notes.txt").write_text("hello")
    (tmp_path / "rgb/.hidden.png").write_bytes(b"")
    assert len(load_clip(tmp_path)) == 4


def test_unknown_keys_and_a_byte_order_mark_are_taken(tmp_path: Path) -> None:
    data = cameras(4, licence="x", object_bounds=[[0], [1]])
    data["frames"][0]["upstream"] = "a.png"
    make_clip(tmp_path, camera=data)
    text = (tmp_path / "cameras.json").read_text()
    (tmp_path / "cameras.json").write_text("\ufeff" + text, encoding="utf-8")
    assert load_clip(tmp_path).poses_given


def test_flat_folder_of_images_with_a_mask_folder(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"shots/frame_{i}.jpg", frame(i), quality=95)
        save(tmp_path / f"shots/mask/frame_{i}.png", disc(i).astype(np.uint8) * 255)
    clip = load_clip(tmp_path / "shots")
    assert clip.names == ("frame_0", "frame_1", "frame_2")
    np.testing.assert_array_equal(clip.masks[2], disc(2))
    shutil.move(tmp_path / "shots/mask", tmp_path / "elsewhere")
    again = load_clip(tmp_path / "shots", mask=str(tmp_path / "elsewhere"))
    np.testing.assert_array_equal(again.masks[2], disc(2))


def test_names_sort_as_numbers_and_match_by_stem(tmp_path: Path) -> None:
    for i in (1, 2, 10):
        save(tmp_path / f"rgb/f{i}.jpg", frame(i))
        save(tmp_path / f"mask/f{i}.png", disc(i).astype(np.uint8) * 255)
    clip = load_clip(tmp_path)
    assert clip.names == ("f1", "f2", "f10")
    np.testing.assert_array_equal(clip.masks[2], disc(10))


def test_index_in_cameras_json_orders_the_frames(tmp_path: Path) -> None:
    data = cameras(4)
    names = ["d", "b", "a", "c"]
    for i, name in enumerate(names):
        save(tmp_path / f"rgb/{name}.png", frame(i))
        save(tmp_path / f"mask/{name}.png", disc(i).astype(np.uint8) * 255)
        data["frames"][i]["rgb"] = f"rgb/{name}.png"
    data["frames"].reverse()
    write_cameras_file(tmp_path, data)
    clip = load_clip(tmp_path)
    assert clip.names == tuple(names)
    np.testing.assert_array_equal(clip.images[0], frame(0))
    np.testing.assert_array_equal(clip.masks[3], disc(3))


@pytest.mark.parametrize("mask", ["none", None])
def test_mask_none_takes_the_whole_frame(tmp_path: Path, mask: str | None) -> None:
    make_clip(tmp_path, masks=False)
    clip = load_clip(tmp_path, mask=mask, max_size=12)
    assert clip.masks[0].shape == (9, 12) and all(clip.masks[i].all() for i in range(4))


def test_alpha_channel_masks(tmp_path: Path) -> None:
    for i in range(2):
        save(tmp_path / f"{i}.png", np.dstack([frame(i), np.where(disc(i), 255, 0).astype(np.uint8)]))
    clip = load_clip(tmp_path)
    np.testing.assert_array_equal(clip.masks[1], disc(1))
    np.testing.assert_array_equal(clip.images[1], frame(1))
    save(tmp_path / "1.png", frame(1))
    with pytest.raises(InputError, match=r"1\.png has no alpha"):
        load_clip(tmp_path)


def test_opaque_alpha_is_no_mask(tmp_path: Path) -> None:
    save(tmp_path / "0.png", np.dstack([frame(0), np.full((HEIGHT, WIDTH), 255, np.uint8)]))
    with pytest.raises(InputError, match="has no masks"):
        load_clip(tmp_path)


def test_one_frame_has_time_zero(tmp_path: Path) -> None:
    clip = load_clip(make_clip(tmp_path, 1))
    assert clip.times.tolist() == [0.0] and clip.timeline.fps == 24.0


# ---------------------------------------------------------------- time and selection


def test_time_is_fixed_before_frames_are_selected(tmp_path: Path) -> None:
    clip = load_clip(make_clip(tmp_path, 7), frames="1:-1:2")
    assert clip.frames.tolist() == [1, 3, 5]
    np.testing.assert_allclose(clip.times, [1 / 6, 3 / 6, 5 / 6])
    np.testing.assert_array_equal(clip.images[2], frame(5))
    assert clip.depth is not None and clip.depth[1].max() == np.float32(2.003)
    assert clip.cameras is not None and clip.all_cameras is not None
    assert (len(clip.cameras), len(clip.all_cameras), len(clip.timeline)) == (3, 7, 7)
    np.testing.assert_allclose(clip.cameras.cam_from_world[1], pose(3), atol=1e-12)


@pytest.mark.parametrize("text", ["2:", ":3", "::2", "-3:", "0:100:3", " 1 : 5 : 2 ", "1:5:", ":"])
def test_selection_means_what_a_python_slice_means(text: str) -> None:
    parts = [int(p) if p.strip() else None for p in text.split(":")]
    assert select_frames(text, 9).tolist() == list(range(9))[slice(*parts)]


@pytest.mark.parametrize(
    ("text", "message"),
    [("5", "wanted start:stop"), ("a:b", "whole numbers"), ("1:2:3:4", "wanted start:stop"),
     ("::0", "step must be"), ("::-1", "step must be"), ("9:", "the clip has 9, numbered 0 to 8")],
)  # fmt: skip
def test_bad_selection(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select_frames(text, 9)


def test_every_nth_frame_is_held_out(tmp_path: Path) -> None:
    rows = np.arange(3, 51)
    for every in (2, 3, 8, 60):
        kept = kept_frames(rows, every)
        left = np.setdiff1d(rows, kept)
        assert np.array_equal(left, rows[every // 2 :: every])
        assert kept[0] == 3
    assert np.array_equal(kept_frames(rows, 0), rows)
    assert load_clip(make_clip(tmp_path, 7), frames="1:", hold_out=3).frames.tolist() == [1, 3, 4, 6]
    with pytest.raises(InputError, match="2 or more"):
        load_clip(tmp_path, hold_out=1)


def test_times_of_the_frames_win_over_fps(tmp_path: Path) -> None:
    data = cameras(3)
    for entry, time in zip(data["frames"], (5.0, 5.5, 7.0)):
        entry["time"] = time
    clip = load_clip(make_clip(tmp_path, 3, camera=data))
    np.testing.assert_allclose(clip.times, [0, 0.25, 1])
    data["frames"][2]["time"] = 5.5
    write_cameras_file(tmp_path, data)
    with pytest.raises(InputError, match=r"frame 2 is at 5\.5 s, not after frame 1"):
        load_clip(tmp_path)


def test_index_gaps_are_gaps_in_time(tmp_path: Path) -> None:
    data = cameras(3)
    for entry, index in zip(data["frames"], (0, 1, 4)):
        entry["index"] = index
    np.testing.assert_allclose(load_clip(make_clip(tmp_path, 3, camera=data)).times, [0, 0.25, 1])


def test_without_fps_24_frames_are_a_second(tmp_path: Path) -> None:
    clip = load_clip(make_clip(tmp_path, camera={}))
    np.testing.assert_allclose(clip.timeline.seconds, np.arange(4) / 24)


# ---------------------------------------------------------------- cameras


def test_integer_pixel_centres_are_shifted_by_half(tmp_path: Path) -> None:
    data = cameras(2, pixel_centre="integer (first row/column are 0)")
    data["frames"][1]["K"] = [[40, 0, 10], [0, 40, 8], [0, 0, 1]]
    clip = load_clip(make_clip(tmp_path, 2, camera=data))
    assert clip.cameras is not None
    np.testing.assert_allclose(clip.cameras.K[0, :2, 2], [12.5, 9.5])
    np.testing.assert_allclose(clip.cameras.K[1], [[40, 0, 10.5], [0, 40, 8.5], [0, 0, 1]])


@pytest.mark.parametrize("value", ["Half-Integer: the centre of …", "half-integer", None])
def test_half_integer_is_the_default(tmp_path: Path, value: str | None) -> None:
    clip = load_clip(make_clip(tmp_path, 2, camera=cameras(2, pixel_centre=value)))
    assert clip.cameras is not None
    np.testing.assert_allclose(clip.cameras.K[0], K)


def test_unregistered_frames_are_nan(tmp_path: Path) -> None:
    data = cameras(3)
    data["frames"][1]["w2c"] = None
    clip = load_clip(make_clip(tmp_path, 3, camera=data))
    assert clip.cameras is not None
    assert clip.cameras.registered.tolist() == [True, False, True] and clip.poses_given


def test_static_camera_is_the_identity(tmp_path: Path) -> None:
    data = cameras(2, camera="static, on a tripod")
    for entry in data["frames"]:
        del entry["w2c"]
    clip = load_clip(make_clip(tmp_path, 2, camera=data))
    assert clip.cameras is not None and clip.poses_given
    np.testing.assert_array_equal(clip.cameras.world_from_cam, np.tile(np.eye(4), (2, 1, 1)))


def test_static_camera_without_a_list_of_frames(tmp_path: Path) -> None:
    clip = load_clip(make_clip(tmp_path, 2, camera=cameras(2, camera="static", frames=None)))
    assert clip.cameras is not None and bool(clip.cameras.registered.all()) and len(clip.cameras) == 2


def test_k_without_poses_is_kept_for_solving(tmp_path: Path) -> None:
    data = cameras(2, camera="OpenCV")
    for entry in data["frames"]:
        del entry["w2c"]
    clip = load_clip(make_clip(tmp_path, 2, camera=data))
    assert clip.cameras is not None and not clip.poses_given and not clip.cameras.registered.any()
    np.testing.assert_allclose(clip.cameras.K[1], K)


def test_depth_named_null_is_none_for_that_frame(tmp_path: Path) -> None:
    data = cameras(2)
    data["frames"][0]["depth"] = "depth/00000.png"
    data["frames"][1]["depth"] = None
    clip = load_clip(make_clip(tmp_path, 2, camera=data))
    assert clip.depth is not None and clip.depth[0].any() and not clip.depth[1].any()


BAD_CAMERAS = [
    ({"pixel_centre": "corner"}, "pixel_centre is 'corner'"),
    ({"K": [[1, 2], [3, 4]]}, "K is not a 3x3"),
    ({"K": [[0, 0, 1], [0, 1, 1], [0, 0, 1]]}, "K is no pinhole matrix"),
    ({"K": None}, "poses .* but no K"),
    ({"width": "wide"}, "width is 'wide'"),
    ({"width": 640, "height": 480}, "says 640x480, the frames are 24x18"),
    ({"depth_div": 0}, "depth_div is 0"),
    ({"fps": -1}, "fps is -1"),
    ({"frames": "all"}, "frames is a str"),
    ({"frames": [3, 4]}, r"frames\[0\]: wanted an object"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CAMERAS)
def test_bad_cameras_json_names_file_and_key(tmp_path: Path, change: dict, message: str) -> None:
    make_clip(tmp_path, 2, camera=cameras(2, **change))
    with pytest.raises(InputError, match=message) as caught:
        load_clip(tmp_path)
    assert "cameras.json" in str(caught.value)


BAD_FRAMES = [
    ({"w2c": [[1, 0, 0, 0]] * 4}, "is no rotation"),
    ({"w2c": (np.diag([1, 1, -1, 1])).tolist()}, "is no rotation"),
    ({"w2c": (2 * np.eye(4)).tolist()}, "is no rotation"),
    ({"w2c": "identity"}, "w2c is not a 4x4"),
    ({"w2c": [[float("nan")] * 4] * 4}, "finite"),
    ({"time": "now"}, "time is 'now'"),
    ({"index": 0}, "two frames have index 0"),
    ({"index": 1.5}, "index is 1.5"),
    ({"rgb": "rgb/00007.png"}, "lists rgb/00007.png, which is not in"),
    ({"mask": "mask/nope.png"}, "nope.png is not there"),
    ({"depth": "depth/nope.png"}, "nope.png is not there"),
]


@pytest.mark.parametrize(("change", "message"), BAD_FRAMES)
def test_bad_frame_entry_is_named(tmp_path: Path, change: dict, message: str) -> None:
    data = cameras(2)
    data["frames"][1].update(change)
    make_clip(tmp_path, 2, camera=data)
    with pytest.raises(InputError, match=message):
        load_clip(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"K": [1, 2', "[]", "\x00\x01"])
def test_broken_json(tmp_path: Path, text: str) -> None:
    make_clip(tmp_path, 2)
    (tmp_path / "cameras.json").write_text(text)
    with pytest.raises(InputError, match=r"cameras\.json"):
        load_clip(tmp_path)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(("width", "height", "longest"), [(24, 18, 12), (25, 18, 10), (18, 40, 16), (640, 7, 30)])
def test_max_size_scales_k_exactly(tmp_path: Path, width: int, height: int, longest: int) -> None:
    save(tmp_path / "rgb/0.png", frame(0, width, height))
    save(tmp_path / "mask/0.png", disc(0, width, height).astype(np.uint8) * 255)
    data = cameras(1, width=width, height=height)
    data["frames"][0]["rgb"] = "rgb/0.png"
    write_cameras_file(tmp_path, data)
    clip = load_clip(tmp_path, max_size=longest)
    assert max(clip.width, clip.height) == longest and clip.cameras is not None
    assert clip.images[0].shape == (clip.height, clip.width, 3) and clip.masks[0].shape == (clip.height, clip.width)
    point = torch.tensor([[0.2, -0.1, 1.5]], dtype=torch.float64)
    full = load_clip(tmp_path).cameras
    assert full is not None and (clip.cameras.width, clip.cameras.height) == (clip.width, clip.height)
    old, _ = project(full.K[0], full.cam_from_world[0], point)
    new, _ = project(clip.cameras.K[0], clip.cameras.cam_from_world[0], point)
    torch.testing.assert_close(new, old * torch.tensor([clip.width / width, clip.height / height]))


def test_smaller_clips_are_not_enlarged(tmp_path: Path) -> None:
    assert load_clip(make_clip(tmp_path), max_size=999).width == WIDTH
    with pytest.raises(InputError, match="--max-size 0"):
        load_clip(tmp_path, max_size=0)


def test_scaled_depth_stays_on_the_surface(tmp_path: Path) -> None:
    """Depth of a slanted plane, made smaller, still unprojects onto that plane: centres stay in place."""
    height, width = 36, 48
    intrinsics = torch.tensor([[60.0, 0, 24], [0, 60, 18], [0, 0, 1]], dtype=torch.float64)
    grid = pixel_grid(height, width, torch.float64).reshape(-1, 2)
    rays = unproject(intrinsics, torch.eye(4, dtype=torch.float64), grid, torch.ones(len(grid), dtype=torch.float64))
    normal = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)
    depth = (2.0 / (rays @ normal)).reshape(height, width).numpy()
    save(tmp_path / "rgb/0.png", frame(0, width, height))
    np.save(_parent(tmp_path / "depth/0.npy"), depth)
    data = cameras(1, width=width, height=height, K=intrinsics.tolist(), camera="static", frames=None)
    write_cameras_file(tmp_path, data)
    clip = load_clip(tmp_path, mask="none", max_size=24)
    assert clip.depth is not None and clip.cameras is not None
    centres = pixel_grid(clip.height, clip.width, torch.float64).reshape(-1, 2)
    z = torch.from_numpy(clip.depth[0]).double().reshape(-1)
    points = unproject(clip.cameras.K[0], torch.eye(4, dtype=torch.float64), centres, z)
    assert float((points @ normal - 2.0).abs().max()) < 1e-3  # bilinear in z; a half-pixel shift gives 5e-3


def test_scaled_depth_invents_no_surface_between_two(tmp_path: Path) -> None:
    save(tmp_path / "rgb/0.png", frame(0, 20, 20))
    depth = np.where(np.arange(20) < 9, 1000, 3000).astype(np.uint16) * np.ones((20, 1), np.uint16)
    depth[:, 15:] = 0
    save(tmp_path / "depth/0.png", depth)
    clip = load_clip(tmp_path, mask="none", max_size=10)
    assert clip.depth is not None and set(np.unique(clip.depth[0])) == {0.0, 1.0, 3.0}


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_portrait_exif_orientation(tmp_path: Path) -> None:
    from PIL import Image

    upright = frame(3, 18, 24)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn it clockwise to view
    stored = np.rot90(upright, 1)
    save(tmp_path / "rgb/0.jpg", stored, exif=exif, quality=100, subsampling=0)
    save(tmp_path / "mask/0.png", disc(0, 18, 24).astype(np.uint8) * 255)
    clip = load_clip(tmp_path)
    assert (clip.width, clip.height) == (18, 24)
    assert np.abs(clip.images[0].astype(int) - upright).max() < 12


def test_4k_frames_keep_the_cache_small(tmp_path: Path) -> None:
    picture = np.zeros((2160, 3840, 3), np.uint8)
    for i in range(2):
        save(tmp_path / f"rgb/{i}.png", picture + i, compress_level=1)
    clip = load_clip(tmp_path, mask="none", max_size=64)
    assert clip.images[1].shape == (36, 64, 3) and (clip.images[1] == 1).all()


# ---------------------------------------------------------------- what people get wrong


def _remove(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("no picture")


def _wide(path: Path) -> None:
    save(path, np.zeros((HEIGHT, WIDTH + 1), np.uint16 if "depth" in path.parts else np.uint8))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("mask/00002.png", _remove, r"mask has 3 files, the clip 4 frames: no mask for frame 00002"),
        ("depth/00002.png", _remove, r"depth has 3 files, the clip 4 frames: no depth map for frame 00002"),
        ("rgb/00002.png", _remove, r"lists rgb/00002.png, which is not in .*rgb \(3 images, 4 frames listed\)"),
        ("rgb/00002.png", _empty, r"00002.png is empty \(0 bytes\)"),
        ("mask/00002.png", _empty, r"00002.png is empty \(0 bytes\)"),
        ("depth/00002.png", _empty, r"00002.png is empty \(0 bytes\)"),
        ("rgb/00002.png", _text, "00002.png is no image"),
        ("rgb/00002.png", _wide, "00002.png is 25x18, 00000.png is 24x18"),
        ("mask/00002.png", _wide, "00002.png is 25x18, its frame is 24x18"),
        ("depth/00002.png", _wide, "00002.png is 25x18, its frame is 24x18"),
    ],
)
def test_damaged_files_are_named_when_the_clip_is_opened(tmp_path: Path, name: str, damage, message: str) -> None:
    make_clip(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(InputError, match=message):
        load_clip(tmp_path)


@pytest.mark.parametrize("name", ["rgb/00002.png", "mask/00002.png", "depth/00002.png"])
def test_truncated_picture_is_named_when_it_is_read(tmp_path: Path, name: str) -> None:
    make_clip(tmp_path)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:-30])
    clip = load_clip(tmp_path)
    with pytest.raises(InputError, match=r"00002\.png is damaged or cut short"):
        getattr(clip, {"rgb": "images", "mask": "masks", "depth": "depth"}[name.split("/")[0]])[2]


@pytest.mark.parametrize(
    ("extra", "message"),
    [("rgb/00004.png", "5 images, .* lists 4 frames: 00004.png is not listed"),
     ("mask/00004.png", "mask has 5 files, the clip 4 frames: 00004.png belongs to no frame"),
     ("depth/00004.png", "depth has 5 files, the clip 4 frames: 00004.png belongs to no frame"),
     ("rgb/00003.jpg", "have the same name")],
)  # fmt: skip
def test_files_too_many(tmp_path: Path, extra: str, message: str) -> None:
    make_clip(tmp_path)
    save(tmp_path / extra, frame(0))
    with pytest.raises(InputError, match=message):
        load_clip(tmp_path)


def test_counts_differ_from_a_list_without_names(tmp_path: Path) -> None:
    make_clip(tmp_path, camera=cameras(4, frames=[{"w2c": pose(i).tolist()} for i in range(3)]))
    with pytest.raises(InputError, match=r"lists 3 frames, .*rgb has 4"):
        load_clip(tmp_path)


def test_no_masks_says_what_to_do(tmp_path: Path) -> None:
    make_clip(tmp_path, masks=False)
    with pytest.raises(InputError, match=r"has no masks; put PNGs .* --mask none"):
        load_clip(tmp_path)
    with pytest.raises(InputError, match="--mask nowhere is not there"):
        load_clip(tmp_path, mask="nowhere")
    (tmp_path / "mask").mkdir()
    with pytest.raises(InputError, match="mask holds no masks"):
        load_clip(tmp_path)


def test_what_is_no_clip(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        load_clip(tmp_path / "nothing")
    with pytest.raises(InputError, match="is no clip: it holds no rgb/ folder"):
        load_clip(tmp_path)
    (tmp_path / "rgb").mkdir()
    with pytest.raises(InputError, match="rgb holds no images"):
        load_clip(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match="is no video"):
        load_clip(tmp_path / "a.txt")
    for name in ("0_rgb.jpg", "0_depth.png", "0_mask.png"):
        save(tmp_path / "pair" / name, frame(0))
    with pytest.raises(InputError, match=r"is no clip: pictures and 0_depth\.png lie side by side"):
        load_clip(tmp_path / "pair")


# ---------------------------------------------------------------- video


def test_video_as_a_clip_with_masks_of_every_kind(tmp_path: Path) -> None:
    frames = [frame(i, 32, 24) for i in range(5)]
    masks = [disc(i, 32, 24) for i in range(5)]
    write_mp4(tmp_path / "dog.mp4", frames, 12.5)
    with pytest.raises(InputError, match=r"dog\.mp4 has no masks"):
        load_clip(tmp_path / "dog.mp4")
    whole = load_clip(tmp_path / "dog.mp4", mask="none", frames="1::2")
    assert (whole.name, len(whole), whole.frames.tolist()) == ("dog", 2, [1, 3])
    np.testing.assert_allclose(whole.timeline.seconds, np.arange(5) / 12.5, atol=1e-6)
    assert np.abs(whole.images[1].astype(int) - frames[3]).mean() < 6

    for i, mask in enumerate(masks):
        save(tmp_path / f"m/{i}.png", mask.astype(np.uint8) * 255)
    by_folder = load_clip(tmp_path / "dog.mp4", mask=str(tmp_path / "m"))
    np.testing.assert_array_equal(by_folder.masks[4], masks[4])

    write_mp4(tmp_path / "dog_mask.mp4", [np.repeat(m[..., None], 3, -1).astype(np.uint8) * 255 for m in masks], 12.5)
    by_video = load_clip(tmp_path / "dog.mp4")  # found by its name
    assert (by_video.masks[3] != masks[3]).mean() < 0.02

    (tmp_path / "m/2.png").unlink()
    with pytest.raises(InputError, match="m has 4 files, the clip 5 frames"):
        load_clip(tmp_path / "dog.mp4", mask=str(tmp_path / "m"))
    write_mp4(tmp_path / "short.mp4", frames[:3], 12.5)
    with pytest.raises(InputError, match=r"short\.mp4 has 3 frames, the clip 5"):
        load_clip(tmp_path / "dog.mp4", mask=str(tmp_path / "short.mp4"))


def test_clip_folder_around_a_video(tmp_path: Path) -> None:
    write_mp4(tmp_path / "rgb/film.mp4", [frame(i) for i in range(3)], 24)
    save(tmp_path / "preview.jpg", frame(0, 7, 7))
    for i in range(3):
        save(tmp_path / f"mask/{i:05d}.png", disc(i).astype(np.uint8) * 255)
        save(tmp_path / f"depth/{i:05d}.png", np.full((HEIGHT, WIDTH), 1500, np.uint16))
    write_cameras_file(tmp_path, cameras(3))
    clip = load_clip(tmp_path)
    assert len(clip) == 3 and clip.depth is not None and clip.poses_given
    np.testing.assert_array_equal(clip.masks[2], disc(2))
    assert clip.depth[2].min() == 1.5
    np.testing.assert_allclose(clip.timeline.seconds, [0, 0.1, 0.2])  # fps of cameras.json
    shutil.move(tmp_path / "rgb/film.mp4", tmp_path / "film.mp4")
    (tmp_path / "rgb").rmdir()
    assert len(load_clip(tmp_path)) == 3


# ---------------------------------------------------------------- reference data

REFERENCE = os.environ.get("DYN4D_REFERENCE")
CLIPS = {
    "gt_cesiumman_walk": (48, 256, 256), "gt_fox_run": (48, 256, 256), "gt_horse_room": (48, 256, 256),
    "gt_snake_dance": (48, 256, 256), "real_tube_rgbd": (80, 640, 480), "real_fox_static": (25, 270, 480),
    "real_dino_turntable": (16, 640, 480), "real_camel": (60, 854, 480),
}  # fmt: skip


@pytest.mark.skipif(not REFERENCE, reason="DYN4D_REFERENCE is not set")
@pytest.mark.parametrize("name", CLIPS)
def test_reference_clips_load(name: str) -> None:
    assert REFERENCE is not None
    folder = Path(REFERENCE) / "data" / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not among the reference data")
    clip = load_clip(folder, mask="none" if name == "real_fox_static" else "auto")
    assert (len(clip), clip.width, clip.height) == CLIPS[name]
    assert clip.images[-1].shape == (clip.height, clip.width, 3)
    assert 0.005 < clip.masks[-1].mean() <= 1
    if name.startswith("gt_") or name == "real_tube_rgbd":
        assert clip.poses_given and clip.depth is not None and clip.cameras is not None
        seen = clip.depth[-1][clip.masks[-1]]
        assert (seen > 0).mean() > 0.9 and 0.2 < np.median(seen) < 10
    if name == "real_tube_rgbd":
        assert clip.cameras is not None and clip.cameras.K[0, 0, 2] == 320.0


@pytest.mark.skipif(not REFERENCE, reason="DYN4D_REFERENCE is not set")
def test_reference_pair_is_refused_clearly() -> None:
    folder = Path(str(REFERENCE)) / "data/real_shirt_pair"
    if not folder.is_dir():
        pytest.skip("real_shirt_pair is not among the reference data")
    with pytest.raises(InputError, match="is no clip"):
        load_clip(folder)
