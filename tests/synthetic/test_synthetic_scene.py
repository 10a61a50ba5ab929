"""Whole scenes: pictures, masks, depth, cameras and tracks agree with each other exactly."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from dyn4d.core.cameras import project, unproject
from dyn4d.synthetic import Scene, SyntheticConfig, build_scene
from dyn4d.synthetic.config import SCENES
from dyn4d.synthetic.snapper import mouth

TINY = SyntheticConfig(size=96, frames=9, tracks=400, held_out_every=4)


@functools.lru_cache(maxsize=8)
def tiny(name: str, background: str = "grey") -> Scene:
    return build_scene(name, background=background, config=TINY)


def first_hit(scene: Scene, frame: int, uv: np.ndarray) -> np.ndarray:
    """Brute force: planar depth (N,) of the nearest triangle on the rays through pixels `uv` (N, 2), inf = none."""
    pose, K = scene.rig.pose(frame), scene.K
    shape = (scene.shapes[frame] - pose[:3, 3]) @ pose[:3, :3]
    a, b, c = (shape[scene.model.faces[:, i]] for i in range(3))
    out = []
    for u, v in uv:
        ray = np.array([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], 1.0])
        h = np.cross(ray, c - a)
        determinant = np.einsum("ij,ij->i", b - a, h)
        with np.errstate(divide="ignore", invalid="ignore"):
            s = -np.einsum("ij,ij->i", a, h) / determinant
            q = np.cross(-a, b - a)
            r = q @ ray / determinant
            depth = np.einsum("ij,ij->i", c - a, q) / determinant
        hit = (s >= -1e-12) & (r >= -1e-12) & (s + r <= 1 + 1e-12) & (depth > 0)
        out.append(depth[hit].min() if hit.any() else np.inf)
    return np.array(out)


@pytest.mark.parametrize("name", SCENES)
def test_depth_is_the_nearest_surface_at_the_pixel_centre(name: str) -> None:
    scene = tiny(name)
    rng = np.random.default_rng(1)
    for frame in (0, 5):
        picture = scene.draw(frame)
        assert np.array_equal(picture.mask, picture.depth > 0)
        assert 200 < picture.mask.sum() < 0.6 * picture.mask.size
        rows, cols = np.nonzero(picture.mask)
        pick = rng.choice(len(rows), 25, replace=False)
        rows, cols = np.append(rows[pick], rng.integers(0, 96, 10)), np.append(cols[pick], rng.integers(0, 96, 10))
        expected = first_hit(scene, frame, np.stack([cols + 0.5, rows + 0.5], axis=1))
        assert np.allclose(picture.depth[rows, cols], np.where(np.isinf(expected), 0, expected), rtol=1e-9)


@pytest.mark.parametrize("name", SCENES)
def test_tracks_project_to_their_pixels_and_are_visible_where_nothing_is_in_front(name: str) -> None:
    scene = tiny(name)
    tracks, cameras = scene.tracks, scene.cameras
    assert tracks.xyz.shape == (9, 400, 3) and tracks.visible.shape == (9, 400) and tracks.uv.shape == (9, 400, 2)
    uv, depth = project(cameras.K, cameras.cam_from_world, torch.from_numpy(tracks.xyz))
    assert np.abs(uv.numpy() - tracks.uv).max() < 1e-9
    share = tracks.visible.mean()
    assert 0.2 < share < 0.7
    rng = np.random.default_rng(2)
    for frame in (0, 8):
        pick = rng.choice(400, 40, replace=False)
        nearest = first_hit(scene, frame, tracks.uv[frame, pick])
        gap = depth.numpy()[frame, pick] - nearest
        assert gap.min() > -1e-9  # every point lies on the surface or behind it
        assert np.array_equal(tracks.visible[frame, pick], gap < 1e-9)


@pytest.mark.parametrize("name", SCENES)
def test_visible_tracks_agree_with_the_depth_map(name: str) -> None:
    scene = tiny(name)
    tracks, frame = scene.tracks, 4
    picture, camera = scene.draw(frame), scene.cameras[frame]
    seen = np.flatnonzero(tracks.visible[frame])
    pixel = np.floor(tracks.uv[frame, seen]).astype(int)
    same = picture.face[pixel[:, 1], pixel[:, 0]] == tracks.face[seen]
    assert same.sum() > 15
    seen, pixel = seen[same], pixel[same]
    at = unproject(
        camera.K, camera.world_from_cam, torch.from_numpy(pixel + 0.5),
        torch.from_numpy(picture.depth[pixel[:, 1], pixel[:, 0]]),
    ).numpy()  # fmt: skip
    a, b, c = (scene.shapes[frame][scene.model.faces[tracks.face[seen], i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    assert np.abs(np.einsum("ij,ij->i", at - tracks.xyz[frame, seen], normal)).max() < 1e-9
    assert np.linalg.norm(at - tracks.xyz[frame, seen], axis=1).max() < 0.1


def test_hidden_tracks_stay_hidden_where_the_depth_map_is_far_in_front() -> None:
    scene = tiny("creature")
    tracks, frame = scene.tracks, 4
    picture, camera = scene.draw(frame), scene.cameras[frame]
    _, depth = project(camera.K, camera.cam_from_world, torch.from_numpy(tracks.xyz[frame]))
    pixel = np.floor(tracks.uv[frame]).astype(int)
    front = picture.depth[pixel[:, 1], pixel[:, 0]]
    behind = (front > 0) & (depth.numpy() > front + 0.1)
    assert behind.sum() > 50
    assert not tracks.visible[frame, behind].any()


def test_pictures_are_anti_aliased_over_grey() -> None:
    scene = tiny("creature")
    picture = scene.draw(3)
    mask = picture.mask
    grown, shrunk = mask.copy(), mask.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            grown |= np.roll(mask, step, axis)
            shrunk &= np.roll(mask, step, axis)
    grown2 = grown | np.roll(grown, 1, 0) | np.roll(grown, -1, 0) | np.roll(grown, 1, 1) | np.roll(grown, -1, 1)
    assert (picture.rgb[~grown2] == 128).all()
    outside = grown & ~mask
    mixed = (picture.rgb[outside] != 128).any(1).mean()
    assert mixed > 0.3  # pixels whose centre misses the object still take some of its colour
    inside = picture.rgb[shrunk].astype(float)
    assert inside.std() > 30  # strongly patterned


def test_more_samples_converge_to_the_same_picture() -> None:
    pictures = []
    for samples in (1, 4, 8):
        scene = build_scene("worm", config=SyntheticConfig(size=64, frames=2, supersample=samples, tracks=4))
        pictures.append(scene.draw(1))
    rgb = [p.rgb.astype(float) for p in pictures]
    assert np.abs(rgb[1] - rgb[2]).mean() < 0.5 * np.abs(rgb[0] - rgb[2]).mean()
    assert np.array_equal(pictures[0].mask, pictures[2].mask)
    assert np.array_equal(pictures[0].depth, pictures[2].depth)


def test_turntable_is_rigid_and_the_others_are_not() -> None:
    def spread(name: str) -> float:
        xyz = tiny(name).tracks.xyz
        pairs = np.linalg.norm(xyz[:, :200] - xyz[:, 200:], axis=-1)
        return float(np.abs(pairs - pairs[0]).max())

    assert spread("turntable") < 1e-12
    assert spread("creature") > 0.05
    assert spread("worm") > 0.05
    poses = tiny("turntable").cameras.world_from_cam
    assert bool((poses == poses[0]).all())


@pytest.mark.parametrize("name", SCENES)
def test_object_stands_on_the_ground_inside_every_filmed_picture(name: str) -> None:
    scene = tiny(name)
    assert min(shape[:, 2].min() for shape in scene.shapes) == pytest.approx(0, abs=1e-12)
    assert 1.2 < scene.extent() < 1.9
    for frame in range(len(scene)):
        mask = scene.draw(frame).mask
        assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def test_creature_advances_turns_and_moves_a_few_pixels_a_frame() -> None:
    scene = build_scene("creature", config=SyntheticConfig(size=256, frames=48, tracks=300))
    middle = [shape.mean(0) for shape in scene.shapes]
    assert 0.45 < np.linalg.norm(middle[-1] - middle[0]) < 0.85
    step = np.linalg.norm(np.diff(scene.tracks.uv, axis=0), axis=-1)
    assert 0.5 < step.mean() < 3
    assert step.max() < 9


def test_the_snapper_hides_the_inside_of_its_mouth_where_it_is_shut() -> None:
    scene = tiny("snapper")
    opening = [mouth(t) for t in scene.times]
    assert opening[0] == 0 and opening[-1] == pytest.approx(1)
    wide = scene.draw(len(scene) - 1)
    red, green, blue = (wide.rgb[..., i].astype(int) for i in range(3))
    inside = np.unique(wide.face[wide.mask & (red > 100) & (2 * green < red) & (2 * blue < red + 60)])
    shown = [int(np.isin(scene.draw(frame).face, inside).sum()) for frame in range(len(scene))]
    assert shown[-1] > 100
    assert max(count for count, at in zip(shown, opening) if at < 0.05) < 0.2 * shown[-1]  # what else is red


def test_same_seed_same_scene_and_another_seed_another() -> None:
    first, again = (build_scene("creature", config=TINY, seed=5, frames=3) for _ in range(2))
    assert np.array_equal(first.draw(2).rgb, again.draw(2).rgb)
    assert np.array_equal(first.tracks.xyz, again.tracks.xyz)
    other = build_scene("creature", config=TINY, seed=6, frames=3)
    assert not np.array_equal(first.draw(2).rgb, other.draw(2).rgb)
    assert not np.array_equal(first.draw(2).mask, other.draw(2).mask)


def test_pictures_do_not_depend_on_their_order() -> None:
    scene = build_scene("worm", config=TINY, frames=3)
    late = scene.draw(2).rgb
    scene.draw(0)
    assert np.array_equal(scene.draw(2).rgb, late)


def test_room_has_depth_everywhere_and_masks_only_the_object() -> None:
    grey, room = tiny("creature"), tiny("creature", "room")
    a, b = grey.draw(4), room.draw(4)
    assert np.array_equal(a.mask, b.mask)
    assert np.array_equal(a.depth[a.mask], b.depth[a.mask])
    assert (b.depth > 0).all() and b.depth.max() < 65535 / 5000
    assert b.rgb[~b.mask].astype(float).std() > 20
    camera = room.cameras[4]
    uv = torch.tensor([[10.5, 90.5], [60.5, 94.5]], dtype=torch.float64)
    depth = torch.from_numpy(b.depth[[90, 94], [10, 60]])
    points = unproject(camera.K, camera.world_from_cam, uv, depth).numpy()
    assert np.abs(points[:, 2]).max() < 1e-9  # the floor is z = 0
    for frame, _, pose in room.held_out():
        assert room.room is not None and (np.abs(pose[:2, 3]) < room.room.half).all()
        picture = room.draw(frame, pose)
        lone = grey.draw(frame, pose)
        assert np.array_equal(picture.mask, lone.mask)  # no crate in front


def test_held_out_views_surround_the_filmed_camera() -> None:
    scene = tiny("creature")
    views = scene.held_out()
    assert [frame for frame, _, _ in views] == [f for f in (0, 4, 8) for _ in range(6)]
    assert {name for _, name, _ in views} == {"near_left", "near_right", "high", "low", "far_left", "far_right"}
    for frame, name, pose in views:
        own = scene.rig.pose(frame)
        angle = np.degrees(np.arccos(np.clip(own[:3, 2] @ pose[:3, 2], -1, 1)))
        assert (30 < angle < 60) if name.startswith("far") else (8 < angle < 18)
        assert scene.draw(frame, pose).mask.sum() > 200


def test_single_frame() -> None:
    scene = build_scene("turntable", config=TINY, frames=1)
    assert len(scene) == 1 and scene.times.tolist() == [0.0]
    assert scene.tracks.xyz.shape[0] == 1 and scene.draw(0).mask.any()


@pytest.mark.parametrize(
    ("field", "value"),
    [("scene", "dog"), ("background", "blue"), ("frames", 0), ("size", 8), ("supersample", 9), ("tracks", 0),
     ("depth_div", 1.0), ("fps", 0.0), ("held_out_every", 0)],
)  # fmt: skip
def test_options_out_of_range_name_the_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        SyntheticConfig(**{field: value})  # type: ignore[arg-type]
