"""The folders that a scene is written to hold what was drawn, in the documented formats."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dyn4d.synthetic import SceneFolders, SyntheticConfig, build_scene, write_scene
from dyn4d.synthetic.scene import Scene
from dyn4d.synthetic.write import encode_depth


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, SceneFolders]:
    scene = build_scene(config=SyntheticConfig(size=64, frames=5, tracks=100, held_out_every=2, seed=3))
    return scene, write_scene(scene, tmp_path_factory.mktemp("scene"))


def test_clip_holds_the_pictures(written: tuple[Scene, SceneFolders]) -> None:
    scene, folders = written
    data = json.loads((folders.clip / "cameras.json").read_text(encoding="utf-8"))
    assert (data["width"], data["height"], data["num_frames"]) == (64, 64, 5)
    assert data["pixel_centre"].startswith("half-integer")
    assert [f["index"] for f in data["frames"]] == list(range(5))
    for kind in ("rgb", "mask", "depth"):
        assert sorted(p.name for p in (folders.clip / kind).iterdir()) == [f"{i:05d}.png" for i in range(5)]
    for frame, entry in enumerate(data["frames"]):
        picture = scene.draw(frame)
        read = {k: cv2.imread(str(folders.clip / entry[k]), cv2.IMREAD_UNCHANGED) for k in ("rgb", "mask", "depth")}
        assert np.array_equal(read["rgb"][..., ::-1], picture.rgb)
        assert np.array_equal(read["mask"], picture.mask * np.uint8(255))
        assert read["depth"].dtype == np.uint16
        assert np.abs(read["depth"] / data["depth_div"] - picture.depth).max() <= 0.5001 / data["depth_div"]
        assert np.array_equal(read["depth"] > 0, read["mask"] > 0)
        assert entry["time"] == pytest.approx(frame / 24)
        assert np.allclose(np.array(entry["w2c"]) @ scene.rig.pose(frame), np.eye(4), atol=1e-12)


def test_truth_holds_views_cameras_and_tracks(written: tuple[Scene, SceneFolders]) -> None:
    scene, folders = written
    assert folders.truth is not None
    data = json.loads((folders.truth / "views.json").read_text(encoding="utf-8"))
    assert len(data["views"]) == 18
    for entry, (frame, name, pose) in zip(data["views"], scene.held_out()):
        assert (entry["index"], entry["view"]) == (frame, name)
        assert np.allclose(np.array(entry["w2c"]) @ pose, np.eye(4), atol=1e-12)
    entry = data["views"][7]
    picture = scene.draw(entry["index"], np.linalg.inv(np.array(entry["w2c"])))
    assert np.array_equal(cv2.imread(str(folders.truth / entry["mask"]), 0) > 127, picture.mask)
    cameras = json.loads((folders.truth / "cameras.json").read_text(encoding="utf-8"))
    own = json.loads((folders.clip / "cameras.json").read_text(encoding="utf-8"))
    assert [f["w2c"] for f in cameras["frames"]] == [f["w2c"] for f in own["frames"]]
    with np.load(folders.truth / "tracks.npz", allow_pickle=False) as tracks:
        assert np.allclose(tracks["tracks_world"], scene.tracks.xyz, atol=1e-6)
        assert np.array_equal(tracks["visible"], scene.tracks.visible)
        assert np.allclose(tracks["uv"], scene.tracks.uv, atol=1e-4)


def test_readers_of_the_package_agree(written: tuple[Scene, SceneFolders]) -> None:
    load_clip = pytest.importorskip("dyn4d.io.clips", reason="the clip reader is not there").load_clip
    scene, folders = written
    clip = load_clip(folders.clip)
    assert len(clip) == 5 and (clip.width, clip.height) == (64, 64) and clip.poses_given
    assert np.allclose(clip.times, scene.times)
    picture = scene.draw(3)
    assert np.array_equal(clip.images[3], picture.rgb)
    assert np.array_equal(clip.masks[3], picture.mask)
    assert np.allclose(clip.depth[3], picture.depth, atol=1.1e-4)
    assert np.allclose(clip.cameras.world_from_cam, scene.cameras.world_from_cam)
    assert np.allclose(clip.cameras.K, scene.cameras.K)


def test_truth_reader_of_the_package_agrees(written: tuple[Scene, SceneFolders]) -> None:
    load_truth = pytest.importorskip("dyn4d.io.truth", reason="the truth reader is not there").load_truth
    scene, folders = written
    truth = load_truth(folders.truth)
    assert len(truth.views) == 18
    assert np.allclose(truth.tracks_world, scene.tracks.xyz, atol=1e-6)


def test_writing_again_replaces_and_truth_can_be_left_out(tmp_path: Path) -> None:
    for frames in (4, 2):
        scene = build_scene("worm", config=SyntheticConfig(size=48, frames=frames, tracks=10))
        folders = write_scene(scene, tmp_path, truth=False)
        assert folders.truth is None
        assert len(list((folders.clip / "rgb").iterdir())) == frames
    assert [p.name for p in tmp_path.iterdir()] == ["clip"]


def test_depth_units() -> None:
    depth = np.array([[0.0, 1e-5, 1.00009, 13.0, 14.0]])
    assert encode_depth(depth, 5000.0).tolist() == [[0, 1, 5000, 65000, 0]]
