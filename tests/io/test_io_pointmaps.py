"""Reading the maps of other estimators: layouts, damage, what belongs to which frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from io_clips import make_clip

from dyn4d.core.errors import InputError
from dyn4d.core.types import Clip
from dyn4d.io.clips import load_clip
from dyn4d.io.npz import NpzFile, read_npy
from dyn4d.io.pointmaps import checked_intrinsics, checked_pose, find_pointmaps, open_pointmaps

COUNT, H, W = 3, 4, 6
K = np.array([[5.0, 0, 3], [0, 5, 2], [0, 0, 1]])
DEPTH = np.arange(1, COUNT * H * W + 1, dtype=np.float32).reshape(COUNT, H, W)


def turn(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    out = np.eye(4)
    out[:3, :3] = [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    out[:3, 3] = 1, 2, 3
    return out


POSES = np.stack([turn(0.3 * i) for i in range(COUNT)])


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    return load_clip(make_clip(tmp_path / "clip", COUNT, depth=False, camera={}))


# ------------------------------------------------------------------------------------------- archives


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_that_were_saved(tmp_path: Path, save: Any) -> None:
    tables = {
        "plain": DEPTH, "columns": np.asfortranarray(DEPTH.astype(np.float64)), "half": DEPTH.astype(np.float16),
        "big": DEPTH.astype(">f4"), "number": np.float64(3.5), "empty": np.zeros((0, 3)), "text": np.array("integer"),
    }  # fmt: skip
    save(tmp_path / "a.npz", **tables)
    file = NpzFile(tmp_path / "a.npz")
    assert file.names == set(tables)
    for name, values in tables.items():
        assert file.shape(name) == np.shape(values)
        np.testing.assert_array_equal(file.array(name), values)
    assert isinstance(file.array("plain"), np.memmap)  # not in memory
    assert file.array("plain") is file.array("plain")  # and unpacked once


def test_what_is_no_archive_is_one_clear_error(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, depth=DEPTH)
    content = whole.read_bytes()
    bad = bytearray(content)
    bad[70:90] = bytes(20)  # inside the compressed numbers
    cases = {"none": b"", "cut": content[: len(content) // 2], "text": b"depth", "spoilt": bytes(bad)}
    for name, data in cases.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}\.npz is empty, damaged or cut short") as caught:
            NpzFile(path).array("depth")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="is not there"):
        NpzFile(tmp_path / "missing.npz")
    np.savez(tmp_path / "objects.npz", depth=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="depth holds Python objects"):
        NpzFile(tmp_path / "objects.npz").array("depth")
    for name in ("none.npy", "text.npy"):
        (tmp_path / name).write_bytes(cases[name.split(".")[0]])
        with pytest.raises(InputError, match="is empty, damaged"):
            read_npy(tmp_path / name)


# ------------------------------------------------------------------------------------------ our layout


def test_one_file_for_the_clip(clip: Clip) -> None:
    conf = np.full((COUNT, H, W, 1), 2.0)
    np.savez(clip.source / "pointmaps.npz", depth=DEPTH, conf=conf, K=K, world_from_cam=POSES[:, :3])
    path = find_pointmaps(clip.source)
    assert path is not None
    maps = open_pointmaps(path, clip)
    assert len(maps) == COUNT and maps.estimator == "dyn4d"
    for i in range(COUNT):
        found = maps[i]
        assert found is not None and (found.width, found.height) == (W, H)
        np.testing.assert_array_equal(found.depth, DEPTH[i])
        np.testing.assert_array_equal(found.conf, conf[i, ..., 0])
        np.testing.assert_array_equal(found.K, K)
        np.testing.assert_allclose(found.world_from_cam, POSES[i], atol=1e-12)  # type: ignore[arg-type]
        assert found.points is None and found.crop is None


def test_one_file_a_frame_and_one_missing(clip: Clip) -> None:
    folder = clip.source / "pointmaps"
    folder.mkdir()
    for i in (0, 2):
        points = np.stack([DEPTH[i]] * 3, -1)
        np.savez(folder / f"{i:05d}.npz", points_world=points, crop=[1, 2, 9, 8.5], picture_size=[24, 18], K=K,
                 pixel_centre="integer")  # fmt: skip
    (folder / "notes.txt").write_text("not a map")
    maps = open_pointmaps(folder, clip)
    assert maps.rows == (0, -1, 2) and maps[1] is None
    found = maps[2]
    assert found is not None and found.in_world and found.depth is None
    np.testing.assert_array_equal(found.points, np.stack([DEPTH[2]] * 3, -1))
    assert found.crop == (1, 2, 9, 8.5) and found.picture == (24, 18)
    np.testing.assert_array_equal(found.K, np.add(K, [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]))


def test_maps_are_the_clips_or_the_selected_frames(tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip", COUNT, depth=False, camera={})
    some = load_clip(folder, frames="1:")
    np.savez(folder / "pointmaps.npz", depth=DEPTH)
    assert open_pointmaps(folder / "pointmaps.npz", some).rows == (1, 2)
    np.savez(folder / "pointmaps.npz", depth=DEPTH[1:])
    assert open_pointmaps(folder / "pointmaps.npz", some).rows == (0, 1)
    np.savez(folder / "pointmaps.npz", depth=DEPTH[:1])
    with pytest.raises(InputError, match=r"has 1 maps, the clip 3 frames, 2 of them selected; there has to be one"):
        open_pointmaps(folder / "pointmaps.npz", some)


def test_a_videos_frames_take_files_in_order(clip: Clip) -> None:
    folder = clip.source / "pointmaps"
    folder.mkdir()
    for i, name in enumerate(("f_1", "f_2", "f_10")):
        np.savez(folder / f"{name}.npz", depth=DEPTH[i])
    maps = open_pointmaps(folder, clip)
    np.testing.assert_array_equal([m.depth[0, 0] for m in maps], DEPTH[:, 0, 0])  # type: ignore[union-attr]


def test_where_maps_are_looked_for(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_pointmaps(clip.source) is None
    (clip.source / "pointmaps").mkdir()
    assert find_pointmaps(clip.source) == clip.source / "pointmaps"
    (clip.source / "mine").mkdir()
    assert find_pointmaps(clip.source, "mine") == clip.source / "mine"
    (tmp_path / "mine").mkdir()
    assert find_pointmaps(clip.source, "mine") == Path("mine")
    with pytest.raises(InputError, match=r"--geometry\.pointmaps yours is not there"):
        find_pointmaps(clip.source, "yours")
    assert find_pointmaps(clip.source / "video.mp4") is None


@pytest.mark.parametrize(
    ("tables", "text"),
    [
        ({}, "holds no map; wanted one of depth, points_cam, points_world, found nothing"),
        ({"image": DEPTH}, "holds no map; .* found image"),
        ({"depth": DEPTH[0, 0]}, r"depth has the shape \(6,\); wanted \(frames, H, W\)"),
        ({"depth": DEPTH[:, :, :0]}, "depth has the shape"),
        ({"points_cam": DEPTH}, r"points_cam has the shape \(3, 4, 6\)"),
        ({"depth": DEPTH, "conf": DEPTH[:, 1:]}, r"conf has the shape \(3, 3, 6\); wanted \(3, 4, 6\)"),
        ({"depth": DEPTH, "K": np.eye(4)}, r"K has the shape \(4, 4\); wanted \(3, 3, 3\)"),
        ({"depth": DEPTH, "world_from_cam": POSES[:2]}, "world_from_cam has the shape"),
    ],
)
def test_wrong_shapes_name_file_and_array(clip: Clip, tables: dict[str, np.ndarray], text: str) -> None:
    np.savez(clip.source / "pointmaps.npz", **tables)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=text) as caught:
        open_pointmaps(clip.source / "pointmaps.npz", clip)
    assert "pointmaps.npz" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tables", "text"),
    [
        ({"depth": np.full((COUNT, H, W), "far")}, "depth is of type .*; wanted numbers"),
        ({"depth": DEPTH, "K": K * 2}, "K is no pinhole matrix"),
        ({"depth": DEPTH, "K": np.add(K, [[0, 1, 0], [0, 0, 0], [0, 0, 0]])}, "K has skew"),
        ({"depth": DEPTH, "world_from_cam": POSES * 2}, "the pose is no rotation"),
        ({"depth": DEPTH, "world_from_cam": POSES @ np.diag([1.0, 1, -1, 1])}, "the pose is no rotation"),
        ({"depth": DEPTH, "crop": [5, 0, 5, 9]}, "crop is .*; wanted left, top, right, bottom"),
        ({"depth": DEPTH, "K": K, "pixel_centre": "corner"}, "pixel_centre is 'corner'"),
    ],
)
def test_wrong_values_name_file_and_map(clip: Clip, tables: dict[str, Any], text: str) -> None:
    np.savez(clip.source / "pointmaps.npz", **tables)
    maps = open_pointmaps(clip.source / "pointmaps.npz", clip)
    with pytest.raises(InputError, match=text) as caught:
        maps[1]
    assert "pointmaps.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_folders_that_do_not_go_with_the_clip(clip: Clip) -> None:
    folder = clip.source / "pointmaps"
    folder.mkdir()
    with pytest.raises(InputError, match=r"holds no maps: wanted \.npz files with the names of the frames"):
        open_pointmaps(folder, clip)
    np.savez(folder / "00000.npz", depth=DEPTH)
    with pytest.raises(InputError, match=r"00000\.npz has 3 maps; in a folder each file is one frame's"):
        open_pointmaps(folder, clip)[0]
    (folder / "00000.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"00000\.npz is empty, damaged or cut short"):
        open_pointmaps(folder, clip)[0]
    np.savez(folder / "00099.npz", depth=DEPTH[0])
    with pytest.raises(InputError, match=r"00099\.npz belongs to no frame of the clip \(00000 \.\.\. 00002\)"):
        open_pointmaps(folder, clip)
    with pytest.raises(InputError, match=r"is no \.npz"):
        open_pointmaps(clip.source / "rgb" / "00000.png", clip)


def test_intrinsics_and_poses_that_are_not_known() -> None:
    assert checked_intrinsics(None, "x") is None and checked_intrinsics(np.full((3, 3), np.nan), "x") is None
    assert checked_pose(None, "x") is None and checked_pose(np.full((4, 4), np.nan), "x") is None
    rough = POSES[1] + np.random.default_rng(0).normal(0, 1e-4, (4, 4)) * (np.arange(4) < 3)[:, None]
    pose = checked_pose(rough[:3], "x")
    assert pose is not None
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    back = checked_pose(rough, "x", inverse=True)
    assert back is not None
    np.testing.assert_allclose(back @ pose, np.eye(4), atol=1e-12)


# ---------------------------------------------------------------------------------------------- exports


def monst3r(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows = [[i, 1, 2, 3, np.cos(0.15 * i), 0, 0, np.sin(0.15 * i)] for i in range(COUNT)]  # w x y z
    np.savetxt(folder / "pred_traj.txt", rows)
    np.savetxt(folder / "pred_intrinsics.txt", np.stack([K.reshape(9)] * COUNT))
    for i in range(COUNT):
        np.save(folder / f"frame_{i:04d}.npy", DEPTH[i])
        np.save(folder / f"conf_{i}.npy", DEPTH[i] + 1)
    return folder


def cut3r(folder: Path) -> Path:
    for name in ("depth", "conf", "camera"):
        (folder / name).mkdir(parents=True)
    for i in range(COUNT):
        np.save(folder / f"depth/{i:06d}.npy", DEPTH[i])
        np.save(folder / f"conf/{i:06d}.npy", DEPTH[i] + 1)
        np.savez(folder / f"camera/{i:06d}.npz", pose=POSES[i], intrinsics=K)
    return folder


def vggt(path: Path, **changes: Any) -> Path:
    path.mkdir(parents=True)
    tables = {
        "depth": DEPTH[None, ..., None], "depth_conf": DEPTH[None] + 1, "extrinsic": np.linalg.inv(POSES)[None, :, :3],
        "intrinsic": np.stack([K] * COUNT)[None], "world_points": np.stack([DEPTH] * 3, -1)[None],
        "world_points_conf": DEPTH[None] + 2, **changes,
    }  # fmt: skip
    np.savez(path / "predictions.npz", **{name: value for name, value in tables.items() if value is not None})
    return path


def depth_anything(path: Path) -> Path:
    (path / "exports/npz").mkdir(parents=True)
    np.savez_compressed(
        path / "exports/npz/results.npz", image=np.zeros((COUNT, H, W, 3), np.uint8), depth=DEPTH, conf=DEPTH + 1,
        exts=np.linalg.inv(POSES)[:, :3], ixts=np.stack([K] * COUNT),
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("write", "estimator", "shift"),
    [(monst3r, "MonST3R", 0.5), (cut3r, "CUT3R", 0.5), (vggt, "VGGT", 0), (depth_anything, "Depth Anything 3", 0)],
)
def test_known_exports(clip: Clip, tmp_path: Path, write: Any, estimator: str, shift: float) -> None:
    maps = open_pointmaps(write(tmp_path / "export"), clip)
    assert maps.estimator == estimator and len(maps) == COUNT
    for i in range(COUNT):
        found = maps[i]
        assert found is not None and found.K is not None
        np.testing.assert_array_equal(found.depth, DEPTH[i])
        np.testing.assert_array_equal(found.conf, DEPTH[i] + 1)
        np.testing.assert_allclose(found.world_from_cam, POSES[i], atol=1e-6)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.K[:2, 2], K[:2, 2] + shift)


def test_points_of_vggt_where_there_is_no_depth(clip: Clip, tmp_path: Path) -> None:
    found = open_pointmaps(vggt(tmp_path / "export", depth=None) / "predictions.npz", clip)[1]
    assert found is not None and found.in_world and found.points is not None
    np.testing.assert_array_equal(found.points[..., 0], DEPTH[1])
    np.testing.assert_array_equal(found.conf, DEPTH[1] + 2)


def test_one_frame_with_a_batch_axis(tmp_path: Path) -> None:
    one = load_clip(make_clip(tmp_path / "clip", 1, depth=False, camera={}))
    path = vggt(
        tmp_path / "export", depth=DEPTH[None, :1, :, :, None], depth_conf=DEPTH[None, :1], world_points=None,
        extrinsic=np.linalg.inv(POSES)[None, :1, :3], intrinsic=K[None, None],
    )  # fmt: skip
    found = open_pointmaps(path, one)[0]
    assert found is not None
    np.testing.assert_array_equal(found.depth, DEPTH[0])
    np.testing.assert_allclose(found.world_from_cam, POSES[0], atol=1e-12)  # type: ignore[arg-type]


def test_exports_that_are_not_whole(clip: Clip, tmp_path: Path) -> None:
    folder = monst3r(tmp_path / "a")
    (folder / "conf_1.npy").unlink()
    with pytest.raises(InputError, match=r"3 depth maps, but 2 confidences"):
        open_pointmaps(folder, clip)
    folder = monst3r(tmp_path / "b")
    (folder / "pred_traj.txt").write_text("0 1 2 3 1 0 0 0\n")
    with pytest.raises(InputError, match=r"3 depth maps, but 1 poses in pred_traj\.txt"):
        open_pointmaps(folder, clip)
    (folder / "pred_traj.txt").write_text("0 1 2 3 1 0 0\n" * 3)
    with pytest.raises(InputError, match=r"pred_traj\.txt: wanted lines of eight numbers"):
        open_pointmaps(folder, clip)
    (folder / "pred_traj.txt").write_text("x y z\n")
    with pytest.raises(InputError, match=r"pred_traj\.txt is no table of numbers"):
        open_pointmaps(folder, clip)
    (folder / "pred_traj.txt").unlink()
    (folder / "pred_intrinsics.txt").unlink()
    np.save(folder / "conf_1.npy", DEPTH[1, 1:])
    maps = open_pointmaps(folder, clip)
    first = maps[0]
    assert first is not None and first.K is None and first.world_from_cam is None
    with pytest.raises(InputError, match=r"conf_1\.npy is of shape \(3, 6\), its depth \(4, 6\)"):
        maps[1]
    (folder / "frame_0002.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"frame_0002\.npy is empty, damaged or cut short"):
        maps[2]
    folder = cut3r(tmp_path / "c")
    (folder / "camera" / "000001.npz").unlink()
    with pytest.raises(InputError, match=r"3 depth maps, but 2 cameras"):
        open_pointmaps(folder, clip)
    folder = cut3r(tmp_path / "d")
    np.savez(folder / "camera" / "000001.npz", pose=np.eye(2), intrinsics=K)
    with pytest.raises(InputError, match=r"000001\.npz: pose of shape \(2, 2\)"):
        open_pointmaps(folder, clip)[1]
