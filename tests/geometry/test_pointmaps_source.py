"""The `pointmaps` source: exact maps of a drawn scene, in every form and size, give its cameras and points back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from estimator_scenes import EXPORTS, BallScene, write_export

from dyn4d.core.cameras import project
from dyn4d.core.errors import InputError
from dyn4d.core.types import Clip, GeometryResult
from dyn4d.geometry import solve_geometry
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.estimator_maps import (
    FLOOR,
    Placement,
    confidence_kind,
    depth_to_picture,
    map_box,
    trust_of,
    usable_depth,
)
from dyn4d.geometry.sources import choose_source
from dyn4d.matching.config import MatchingConfig

SCENE = BallScene()
CONFIG = GeometryConfig()
Size = tuple[int, int]
Box = tuple[float, float, float, float]


def arrays(
    scene: BallScene, form: str, size: Size | None = None, box: Box | None = None, *, K: bool = True, poses: bool = True
) -> dict[str, np.ndarray]:
    """What goes into `pointmaps.npz`."""
    size, frames = size or scene.whole, range(scene.count)
    maps = [
        scene.see(i, size, box)[0] if form == "depth" else scene.points(i, size, box, world=form == "points_world")
        for i in frames
    ]
    out = {form: np.stack(maps).astype(np.float32)}
    if K:
        out["K"] = scene.map_K(size, box)
    if poses:
        out["world_from_cam"] = np.stack([scene.pose(i) for i in frames])
    if box is not None:
        out["crop"] = np.array(box)
    return out


def run(
    folder: Path, scene: BallScene, tables: dict[str, Any], config: GeometryConfig = CONFIG, **options: Any
) -> tuple[Clip, GeometryResult]:
    clip = scene.clip(folder, **options)
    np.savez(folder / "pointmaps.npz", **tables)
    return clip, solve_geometry(clip, config, matching=MatchingConfig(window=2, strides=(), max_per_pair=400))


def poses_of(scene: BallScene) -> np.ndarray:
    return np.stack([scene.pose(i) for i in range(scene.count)])


def check_pixels(result: GeometryResult, clip: Clip, limit: float = 0.01) -> None:
    """Every point is seen at its own pixel, and that pixel is in the mask."""
    for i in range(len(clip)):
        rows = result.points.frame == i
        xy = result.points.xy[rows]
        seen, depth = project(
            result.cameras.K[i].double(), result.cameras.cam_from_world[i].double(), result.points.xyz[rows].double()
        )
        assert bool((depth > 0).all())
        assert float((seen - xy).abs().max()) < limit
        column, row = xy.floor().long().T
        assert bool(torch.from_numpy(np.asarray(clip.masks[i]))[row, column].all())


def check_surface(result: GeometryResult, scene: BallScene, rel: float, *, quantile: float = 1.0) -> None:
    """Points are on the ball, relative to its distance."""
    for i in range(scene.count):
        off = scene.distance(result.points.xyz[result.points.frame == i], i)
        assert np.quantile(off, quantile) < rel * np.linalg.norm(scene.ball(i) - scene.pose(i)[:3, 3])


# ------------------------------------------------------------------------------------- forms and sizes


@pytest.mark.parametrize("estimator", EXPORTS)
@pytest.mark.parametrize("shape", [(960, 540), (540, 960)])
def test_exports_of_estimators_are_understood(tmp_path: Path, estimator: str, shape: Size) -> None:
    scene = BallScene(*shape, count=2, focal=800.0)
    clip = scene.clip(tmp_path / "clip", max_size=240)
    path = write_export(scene, tmp_path / "export", estimator)
    result = solve_geometry(clip, GeometryConfig(pointmaps=str(path)))
    assert estimator in result.notes[0]
    np.testing.assert_allclose(result.cameras.world_from_cam.numpy(), poses_of(scene), atol=1e-6)
    ratio = np.diag([clip.width / scene.width, clip.height / scene.height, 1])
    np.testing.assert_allclose(result.cameras.K.numpy(), np.stack([ratio @ scene.K] * 2), rtol=1e-5, atol=1e-3)
    check_pixels(result, clip)
    check_surface(result, scene, 1e-3, quantile=0.98)
    assert float(result.points.conf.max()) <= 0.81  # of 5: 1 - 1/5


@pytest.mark.parametrize("form", ["depth", "points_cam", "points_world"])
@pytest.mark.parametrize("shape", [(96, 64), (64, 96)])
def test_exact_maps_give_cameras_and_points_back(tmp_path: Path, form: str, shape: Size) -> None:
    scene = BallScene(*shape, centre=(shape[0] / 2 + 3, shape[1] / 2 - 2))
    clip, result = run(tmp_path, scene, arrays(scene, form))
    assert result.source == "pointmaps" and result.poses_solved
    np.testing.assert_allclose(result.cameras.world_from_cam.numpy(), poses_of(scene), atol=1e-12)
    np.testing.assert_allclose(result.cameras.K.numpy(), np.stack([scene.K] * scene.count), atol=1e-9)
    check_pixels(result, clip)
    check_surface(result, scene, 1e-5)
    masked = sum(int(np.asarray(clip.masks[i]).sum()) for i in range(scene.count))
    assert len(result.points) == masked


@pytest.mark.parametrize(
    ("size", "box"),
    [((192, 128), None), ((48, 32), None), ((70, 60), None), ((56, 48), (20.0, 4.0, 76.0, 60.0)),
     ((96, 96), (0.0, -16.0, 96.0, 80.0))],
)  # fmt: skip
@pytest.mark.parametrize("form", ["depth", "points_world"])
def test_maps_of_other_sizes_carry_K_and_pixels_along(tmp_path: Path, form: str, size: Size, box: Box | None) -> None:
    clip, result = run(tmp_path, SCENE, arrays(SCENE, form, size, box))
    np.testing.assert_allclose(result.cameras.K.numpy(), np.stack([SCENE.K] * SCENE.count), atol=1e-9)
    check_pixels(result, clip)
    # interpolated: a chord instead of the ball's arc; larger maps may show the wall at the very rim
    check_surface(result, SCENE, 0.01, quantile=0.98)
    masked = sum(int(np.asarray(clip.masks[i]).sum()) for i in range(SCENE.count))
    assert len(result.points) > 0.94 * masked


def test_a_smaller_clip_scales_the_box(tmp_path: Path) -> None:
    box = (20.0, 4.0, 76.0, 60.0)
    clip, result = run(tmp_path, SCENE, arrays(SCENE, "depth", (112, 112), box), max_size=48)
    assert (clip.width, clip.height) == (48, 32)
    check_pixels(result, clip)
    check_surface(result, SCENE, 0.005, quantile=0.95)
    assert float(result.cameras.K[0, 0, 0]) == pytest.approx(SCENE.focal / 2)
    told = {**arrays(SCENE, "depth", (112, 112), box), "crop": np.array(box) / 2, "picture_size": np.array([48, 32])}
    np.savez(tmp_path / "pointmaps.npz", **told)
    again = solve_geometry(clip, CONFIG)
    torch.testing.assert_close(again.points.xyz, result.points.xyz)


def test_planes_come_through_exactly() -> None:
    """Also beyond the centres of the outermost pixels, and with uneven scales."""
    scene = BallScene(radius=0.0)
    for size in ((31, 40), (96, 1), (200, 64)):
        depth, _ = scene.see(1, size)
        place = Placement(size, (0.0, 0.0, 96.0, 64.0), scene.whole)
        found, flying = depth_to_picture(depth, place, scene.K, 82.0)
        if size[1] > 1:
            np.testing.assert_allclose(found, scene.see(1, scene.whole)[0], rtol=1e-12)
        else:
            np.testing.assert_allclose(found[32], scene.see(1, (96, 1))[0][0], rtol=1e-12)
        assert not flying.any()


def test_a_jump_is_never_interpolated() -> None:
    depth, _ = SCENE.see(0, (48, 32))
    found, _ = depth_to_picture(depth, Placement((48, 32), (0.0, 0.0, 96.0, 64.0), (96, 64)), SCENE.K, 82.0)
    exact, ball = SCENE.see(0, SCENE.whole)
    nearest = np.minimum(np.abs(found - exact[ball].max()), np.abs(found - exact[~ball].min()))
    between = (found > exact[ball].max() * 1.02) & (found < exact[~ball].min() * 0.98)
    assert not between.any() and nearest.shape == found.shape


def test_flying_pixels_of_a_map_do_not_become_surfaces(tmp_path: Path) -> None:
    tables = arrays(SCENE, "depth", (48, 32))
    for i in range(SCENE.count):
        ball = SCENE.see(i, (48, 32))[1]
        row = np.flatnonzero(ball.any(1))[ball.any(1).sum() // 2]
        last = np.flatnonzero(ball[row])[-1]
        tables["depth"][i, row, last] = 2.2  # in the air between ball and wall
    _, result = run(tmp_path, SCENE, tables)
    check_surface(result, SCENE, 0.02)
    assert "0 flying" not in result.notes[-1]


# ------------------------------------------------------------------------------------------- cameras


def test_points_in_the_world_tell_the_poses(tmp_path: Path) -> None:
    clip, result = run(tmp_path, SCENE, arrays(SCENE, "points_world", (72, 48), poses=False))
    np.testing.assert_allclose(result.cameras.world_from_cam.numpy(), poses_of(SCENE), atol=1e-5)
    check_pixels(result, clip)


def test_points_in_the_world_alone_tell_the_focal_length_too(tmp_path: Path) -> None:
    _, result = run(tmp_path, SCENE, arrays(SCENE, "points_world", poses=False, K=False))
    assert float(result.cameras.K[0, 0, 0]) == pytest.approx(SCENE.focal, rel=1e-4)
    np.testing.assert_allclose(result.cameras.world_from_cam.numpy(), poses_of(SCENE), atol=1e-3)
    check_surface(result, SCENE, 1e-3)


def test_wrong_points_do_not_turn_the_pose(tmp_path: Path) -> None:
    tables = arrays(SCENE, "points_world", poses=False)
    random = np.random.default_rng(0)
    wrong = random.random(tables["points_world"].shape[:3]) < 0.25
    tables["points_world"][wrong] += random.normal(0, 1, (int(wrong.sum()), 3)).astype(np.float32)
    _, result = run(tmp_path, SCENE, tables)
    np.testing.assert_allclose(result.cameras.world_from_cam.numpy(), poses_of(SCENE), atol=1e-3)


def test_points_in_the_camera_tell_the_focal_length(tmp_path: Path) -> None:
    clip, result = run(tmp_path, SCENE, arrays(SCENE, "points_cam", (48, 40), K=False))
    np.testing.assert_allclose(result.cameras.K.numpy(), np.stack([SCENE.K] * SCENE.count), rtol=1e-5)
    assert any("estimated" in note for note in result.notes)
    check_pixels(result, clip)


def test_the_clips_K_and_poses_fill_what_the_maps_lack(tmp_path: Path) -> None:
    scene, maps = SCENE, arrays(SCENE, "depth", (48, 32), K=False)
    _, result = run(tmp_path / "K", scene, maps, cameras="K")
    np.testing.assert_allclose(result.cameras.world_from_cam.numpy(), poses_of(scene), atol=1e-12)
    np.testing.assert_allclose(result.cameras.K.numpy(), np.stack([scene.K] * scene.count))
    del maps["world_from_cam"]
    clip, result = run(tmp_path / "poses", scene, maps, cameras="poses")
    assert not result.poses_solved
    check_pixels(result, clip)
    check_surface(result, scene, 0.02)


def test_no_K_anywhere_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no K: add K"):
        run(tmp_path, SCENE, arrays(SCENE, "depth", K=False))


def test_a_frame_whose_K_is_unknown_has_its_neighbours(tmp_path: Path) -> None:
    tables = arrays(SCENE, "depth")
    tables["K"] = np.stack([tables["K"]] * SCENE.count)
    tables["K"][0] = np.nan
    _, result = run(tmp_path, SCENE, tables)
    np.testing.assert_allclose(result.cameras.K.numpy(), np.stack([SCENE.K] * SCENE.count))


def test_integer_pixel_centres_are_shifted(tmp_path: Path) -> None:
    tables = arrays(SCENE, "depth", (48, 32))
    tables["K"] = tables["K"] - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    _, result = run(tmp_path, SCENE, {**tables, "pixel_centre": np.array("integer")})
    np.testing.assert_allclose(result.cameras.K[0].numpy(), SCENE.K, atol=1e-9)


def drawn(folder: Path, background: str, name: str) -> tuple[Clip, Clip]:
    """The package's own clip, and the same without depth and cameras, with maps of its depth and K."""
    from dyn4d.io.clips import load_clip
    from dyn4d.synthetic import build_scene, write_scene

    write_scene(build_scene(name, frames=24, size=96, background=background), folder, truth=False)
    clip = load_clip(folder / "clip", frames="0:5:2")
    assert clip.depth is not None and clip.cameras is not None
    maps = np.stack([clip.depth[i] for i in range(len(clip))])
    np.savez_compressed(folder / "clip" / "pointmaps.npz", depth=maps, K=clip.cameras.K.numpy())
    (folder / "clip" / "cameras.json").unlink()
    for path in (folder / "clip" / "depth").iterdir():
        path.unlink()
    (folder / "clip" / "depth").rmdir()
    return clip, load_clip(folder / "clip", frames="0:5:2")


@pytest.mark.slow
@pytest.mark.parametrize(("anchor", "name"), [("background", "creature"), ("object", "turntable")])
def test_poses_are_solved_where_nobody_has_them(tmp_path: Path, anchor: Any, name: str) -> None:
    full, bare = drawn(tmp_path, "room" if anchor == "background" else "grey", name)
    matching = MatchingConfig(window=2, strides=(), max_per_pair=400)
    result = solve_geometry(bare, GeometryConfig(anchor=anchor), matching=matching)
    assert result.poses_solved and bool(result.cameras.registered.all())
    unknown = torch.full_like(full.cameras.world_from_cam, torch.nan)  # type: ignore[union-attr]
    without = replace(full, cameras=replace(full.cameras, world_from_cam=unknown), poses_given=False)  # type: ignore
    same = solve_geometry(without, GeometryConfig(anchor=anchor), matching=matching)
    assert same.source == "rgbd"
    torch.testing.assert_close(result.cameras.world_from_cam, same.cameras.world_from_cam)
    torch.testing.assert_close(result.points.xyz, same.points.xyz)
    torch.testing.assert_close(result.points.conf, same.points.conf)


@pytest.mark.slow
def test_the_object_may_hold_cameras_that_the_maps_give(tmp_path: Path) -> None:
    clip, bare = drawn(tmp_path, "grey", "turntable")
    with np.load(tmp_path / "clip" / "pointmaps.npz") as file:
        tables = dict(file)
    np.savez(tmp_path / "clip" / "pointmaps.npz", world_from_cam=clip.cameras.world_from_cam.numpy(), **tables)  # type: ignore
    kept = solve_geometry(bare, CONFIG)
    assert clip.cameras is not None
    torch.testing.assert_close(kept.cameras.world_from_cam, clip.cameras.world_from_cam)
    turned = solve_geometry(
        bare, GeometryConfig(anchor="object"), matching=MatchingConfig(window=2, strides=(), max_per_pair=400)
    )
    moves = turned.cameras.world_from_cam[0, :3, 3] - turned.cameras.world_from_cam[-1, :3, 3]
    assert float(moves.norm()) > 0.1  # the turntable's turn went into the poses


# ------------------------------------------------------------------------------------ holes and trust


def test_what_is_no_depth_gives_no_points(tmp_path: Path) -> None:
    tables = arrays(SCENE, "points_cam")
    ball = [SCENE.see(i, SCENE.whole)[1] for i in range(SCENE.count)]
    spots = [tuple(np.argwhere(b)[len(np.argwhere(b)) // 2 + k] for k in range(4)) for b in ball]
    for i, spot in enumerate(spots):
        for (y, x), bad in zip(spot, (np.nan, np.inf, 0.0, -1.0)):
            tables["points_cam"][i, y, x] = bad
    _, result = run(tmp_path, SCENE, tables)
    assert bool(torch.isfinite(result.points.xyz).all())
    check_surface(result, SCENE, 1e-5)
    taken = {(int(f), int(y), int(x)) for f, (x, y) in zip(result.points.frame, result.points.xy.floor())}
    assert not any((i, int(y), int(x)) in taken for i, spot in enumerate(spots) for y, x in spot)


def test_frames_without_a_map_or_a_pose_have_no_points(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    clip = SCENE.clip(folder)
    for i in (0, 1, 3):
        tables = {"depth": SCENE.see(i, SCENE.whole)[0], "K": SCENE.K, "world_from_cam": SCENE.pose(i)}
        if i == 1:
            tables["world_from_cam"] = np.full((4, 4), np.nan)
        (folder / "pointmaps").mkdir(exist_ok=True)
        np.savez(folder / "pointmaps" / f"{i:05d}.npz", **tables)  # type: ignore[arg-type]
    flat = [np.full((SCENE.height, SCENE.width, 3), 128, np.uint8)] * SCENE.count  # nothing to solve a pose from
    result = solve_geometry(replace(clip, images=flat), CONFIG)
    assert result.points.frame.unique().tolist() == [0, 3]
    assert result.cameras.registered.tolist() == [True, False, False, True]
    assert bool(torch.isfinite(result.cameras.K).all())
    assert any("1 frames have no map: 00002" in note for note in result.notes)
    assert any("1 frames have no points" in note and "00001" in note for note in result.notes)
    assert any("poses: 1 frames have none, and none is solved" in note for note in result.notes)


def test_masks_that_are_empty_or_maps_without_the_object(tmp_path: Path) -> None:
    tables = arrays(SCENE, "depth")
    tables["depth"][:, SCENE.see(0, SCENE.whole)[1]] = 0
    for i in range(SCENE.count):
        tables["depth"][i][SCENE.see(i, SCENE.whole)[1]] = 0
    with pytest.raises(InputError, match="no frame has a usable point on the object") as caught:
        run(tmp_path, SCENE, tables)
    assert "\n" not in str(caught.value)


def test_one_frame(tmp_path: Path) -> None:
    scene = replace(SCENE, count=1)
    tables = {"depth": scene.see(0, (48, 32))[0], "K": scene.map_K((48, 32))}  # no frame axis either
    clip, result = run(tmp_path, scene, tables)
    assert len(result.cameras) == 1
    torch.testing.assert_close(result.cameras.world_from_cam[0], torch.eye(4, dtype=torch.float64))
    check_pixels(result, clip)


def test_selected_frames_take_their_own_maps(tmp_path: Path) -> None:
    whole = arrays(SCENE, "depth")
    clip, result = run(tmp_path / "whole", SCENE, whole, frames="1:4:2")
    np.testing.assert_allclose(result.cameras.world_from_cam.numpy(), poses_of(SCENE)[[1, 3]], atol=1e-12)
    some = {name: values if name == "K" else values[[1, 3]] for name, values in whole.items()}
    _, again = run(tmp_path / "some", SCENE, some, frames="1:4:2")
    torch.testing.assert_close(again.points.xyz, result.points.xyz)
    check_pixels(result, clip)


def test_trust_multiplies_confidence_and_drops_what_is_unsure(tmp_path: Path) -> None:
    tables = arrays(SCENE, "depth")
    _, plain = run(tmp_path / "a", SCENE, tables)
    conf = np.full(tables["depth"].shape, 4.0)
    conf[:, :, 48:] = 1.25  # 1 - 1/c: 0.75 and 0.2
    _, unsure = run(tmp_path / "b", SCENE, {**tables, "conf": conf})
    left = unsure.points.xy[:, 0] < 48
    torch.testing.assert_close(unsure.points.conf[left], plain.points.conf[left] * 0.75)
    torch.testing.assert_close(unsure.points.conf[~left], plain.points.conf[~left] * 0.2)
    _, fewer = run(tmp_path / "c", SCENE, {**tables, "conf": conf}, GeometryConfig(pointmaps_min_conf=0.3))
    assert bool((fewer.points.xy[:, 0] < 48).all())
    assert 0 <= int(left.sum()) - len(fewer.points) <= 4  # the new end of the surface may leave a pixel in the air
    _, other = run(tmp_path / "d", SCENE, {**tables, "conf": conf}, GeometryConfig(pointmaps_conf="log"))
    torch.testing.assert_close(other.points.conf[left], plain.points.conf[left] * (1 - float(np.exp(-4))))


@pytest.mark.parametrize("kind", ["unit", "above_one", "log"])
def test_trust_rises_with_confidence(kind: str) -> None:
    c = np.linspace(0 if kind != "above_one" else 1, 1 if kind == "unit" else 30, 200)
    trust = trust_of(c, kind)
    assert (np.diff(trust) >= 0).all() and trust.min() >= FLOOR and trust.max() <= 1
    assert (trust_of(np.array([np.nan, np.inf, -np.inf, -3.0]), kind) == FLOOR).all()
    assert confidence_kind(float(c.min()), float(c.max())) == kind


def test_usable_depth() -> None:
    depth, trust = np.array([[1, 0, -1, np.nan, np.inf, 2]]), np.array([[0.5, 1, 1, 1, 1, 0.1]])
    np.testing.assert_array_equal(usable_depth(depth, trust, 0.2), [[1, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(usable_depth(depth, None, 0.2), [[1, 0, 0, 0, 0, 2]])


# ------------------------------------------------------------------------------- where a map lies


@pytest.mark.parametrize(
    ("estimator", "picture", "size", "box"),
    [
        ("VGGT", (1920, 1080), (518, 294), (0, 0, 1920, 1080)),
        ("VGGT", (1080, 1920), (518, 518), (0, 201 / 924 * 1920 + 2 / 924 * 1920, 1080, 721 / 924 * 1920)),
        ("VGGT", (1920, 1080), (518, 518), (0, -112 / 294 * 1080, 1920, 406 / 294 * 1080)),
        ("VGGT", (700, 700), (518, 518), (0, 0, 700, 700)),
        ("MonST3R", (1920, 1080), (512, 288), (0, 0, 1920, 1080)),
        ("MonST3R", (1000, 700), (512, 352), (0, 3 / 358 * 700, 1000, 355 / 358 * 700)),
        ("CUT3R", (600, 600), (512, 384), (0, 64 / 512 * 600, 600, 448 / 512 * 600)),
        ("Depth Anything 3", (1600, 1200), (504, 378), (0, 0, 1600, 1200)),
        ("dyn4d", (1600, 1200), (518, 518), (0, 0, 1600, 1200)),
    ],
)
def test_known_estimators_show_where_their_maps_lie(estimator: str, picture: Size, size: Size, box: Box) -> None:
    found, _ = map_box(size, picture, "auto", estimator)
    np.testing.assert_allclose(found, box, atol=1e-9)


def test_a_map_may_be_said_to_be_cropped_or_padded() -> None:
    assert map_box((100, 100), (200, 100), "crop", "dyn4d")[0] == (50, 0, 150, 100)
    assert map_box((100, 100), (200, 100), "pad", "dyn4d")[0] == (0, -50, 200, 150)
    assert map_box((100, 100), (200, 100), "whole", "VGGT")[0] == (0, 0, 200, 100)
    with pytest.raises(InputError, match=r"the VGGT maps are 518x400.*--geometry\.pointmaps-fit"):
        map_box((518, 400), (1920, 1080), "auto", "VGGT")


def test_the_option_beats_the_files_own_box(tmp_path: Path) -> None:
    tables = {**arrays(SCENE, "depth", (48, 32)), "crop": np.array([0.0, 0.0, 10.0, 10.0])}
    clip, result = run(tmp_path, SCENE, tables, GeometryConfig(pointmaps_fit="whole"))
    np.testing.assert_allclose(result.cameras.K[0].numpy(), SCENE.K, atol=1e-9)
    check_pixels(result, clip)


# ------------------------------------------------------------------------------------------- choosing


@pytest.mark.usefixtures("no_small_weights")
def test_which_source_auto_takes(tmp_path: Path) -> None:
    clip = SCENE.clip(tmp_path / "clip", cameras="poses")
    with pytest.raises(InputError, match="nothing to get geometry from"):
        choose_source(clip, CONFIG)
    with pytest.raises(InputError, match="source pointmaps: there are none"):
        choose_source(clip, GeometryConfig(source="pointmaps"))
    with pytest.raises(InputError, match="elsewhere is not there"):
        choose_source(clip, GeometryConfig(pointmaps="elsewhere"))
    np.savez(tmp_path / "elsewhere.npz", **arrays(SCENE, "depth"))  # type: ignore[arg-type]
    named = GeometryConfig(pointmaps=str(tmp_path / "elsewhere.npz"))
    assert choose_source(clip, named) == "pointmaps"
    np.savez(tmp_path / "clip" / "pointmaps.npz", **arrays(SCENE, "depth"))  # type: ignore[arg-type]
    assert choose_source(clip, CONFIG) == "pointmaps"
    assert choose_source(clip, GeometryConfig(weights="no such file")) == "pointmaps"
    deep = replace(clip, depth=[np.ones((64, 96), np.float32)] * SCENE.count)
    assert choose_source(deep, CONFIG) == "rgbd"
    assert choose_source(deep, named) == "pointmaps"
    assert choose_source(deep, GeometryConfig(source="pointmaps")) == "pointmaps"


@pytest.mark.parametrize(
    "wrong", [{"pointmaps_fit": "stretch"}, {"pointmaps_conf": "percent"}, {"pointmaps_min_conf": 1.0}]
)
def test_settings_out_of_range_name_the_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"geometry\.{next(iter(wrong))}"):
        GeometryConfig(**wrong)


# --------------------------------------------------------------------------------------- command line


def test_from_the_command_line_to_the_files_of_a_run(tmp_path: Path) -> None:
    from dyn4d.cli import main
    from dyn4d.core.types import FramePoints
    from dyn4d.io import artifacts
    from dyn4d.io.cameras_json import read_cameras

    SCENE.write(tmp_path / "clip")
    np.savez(tmp_path / "maps.npz", **arrays(SCENE, "depth", (48, 32)))  # type: ignore[arg-type]
    words = ["prepare", str(tmp_path / "clip"), "--out", str(tmp_path / "run"), "--quiet"]
    assert main([*words, "--geometry.pointmaps", str(tmp_path / "maps.npz")]) == 0
    assert main(["geometry", str(tmp_path / "run"), "--quiet"]) == 0
    points = artifacts.load(tmp_path / "run" / "geometry" / "frame_points.npz", FramePoints)
    assert artifacts.load_meta(tmp_path / "run" / "geometry" / "frame_points.npz")["source"] == "pointmaps"
    for i in range(SCENE.count):
        assert SCENE.distance(points.xyz[points.frame == i], i).max() < 0.03
    cameras = read_cameras(tmp_path / "run" / "geometry" / "cameras.json").camera()
    assert cameras is not None
    np.testing.assert_allclose(cameras.world_from_cam.numpy(), poses_of(SCENE), atol=1e-9)
