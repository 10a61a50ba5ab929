from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dyn4d.core.cameras import look_at, project
from dyn4d.core.errors import InputError
from dyn4d.core.types import Camera, Clip, Timeline
from dyn4d.geometry import solve_geometry
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.rgbd import frames_from_depth
from dyn4d.geometry.sources import choose_source

HEIGHT, WIDTH, FOCAL = 60, 80, 100.0
CONFIG = GeometryConfig()


def cameras(count: int) -> Camera:
    K = torch.tensor([[FOCAL, 0, 41.0], [0, FOCAL, 29.0], [0, 0, 1]], dtype=torch.float64)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    eyes = [torch.tensor([3.0, 0.3 * i, 0.8], dtype=torch.float64) for i in range(count)]
    poses = torch.stack([look_at(eye, torch.zeros(3, dtype=torch.float64), up) for eye in eyes])
    return Camera(K.expand(count, 3, 3).clone(), poses, WIDTH, HEIGHT)


def make_clip(depths: list[np.ndarray], masks: list[np.ndarray] | None = None) -> Clip:
    count = len(depths)
    masks = masks or [np.ones((HEIGHT, WIDTH), bool)] * count
    times = np.linspace(0, 1, count) if count > 1 else np.zeros(1)
    images = [np.full((HEIGHT, WIDTH, 3), 51, np.uint8)] * count
    timeline = Timeline(times, times, tuple(f"{i:05d}" for i in range(count)))
    camera = cameras(count)
    return Clip(
        "test", Path("/clips/test"), images, masks, np.arange(count), timeline, WIDTH, HEIGHT, depth=depths,
        cameras=camera, all_cameras=camera, poses_given=True,
    )  # fmt: skip


def plane_depth(normal: np.ndarray, distance: float) -> np.ndarray:
    """Depth of the plane normal · X = -distance in camera space."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    ray = np.stack([(columns - 41.0) / FOCAL, (rows - 29.0) / FOCAL, np.ones((HEIGHT, WIDTH))], -1)
    return (-distance / (ray @ normal)).astype(np.float32)


def test_points_project_back_to_their_pixels_and_depth() -> None:
    random = np.random.default_rng(0)
    depths = [(2 + 0.002 * random.random((HEIGHT, WIDTH))).astype(np.float32) for _ in range(3)]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:40, 20:70] = True
    result = frames_from_depth(make_clip(depths, [mask] * 3), CONFIG)
    points = result.points
    assert len(points) == 3 * mask.sum()
    assert points.frame.bincount().tolist() == [mask.sum()] * 3
    assert torch.allclose(points.rgb, torch.full_like(points.rgb, 0.2))
    for i in range(3):
        rows = points.frame == i
        xyz = points.xyz[rows].double()
        uv, depth = project(result.cameras.K[i], result.cameras.cam_from_world[i], xyz)
        assert torch.allclose(uv, points.xy[rows].double(), atol=1e-3)
        column, row = points.xy[rows].floor().long().T
        assert torch.allclose(depth, torch.from_numpy(depths[i])[row, column].double(), atol=1e-5)


@pytest.mark.parametrize("direction", [(0.0, 0.0, -1.0), (0.6, 0.0, -0.8), (-0.3, 0.7, -0.65)])
def test_normals_of_a_plane_point_to_the_camera(direction: tuple[float, float, float]) -> None:
    normal = np.array(direction) / np.linalg.norm(direction)
    clip = make_clip([plane_depth(normal, 2.0)])
    result = frames_from_depth(clip, CONFIG)
    expected = torch.from_numpy(normal) @ result.cameras.world_from_cam[0, :3, :3].T
    assert len(result.points) > 0.98 * HEIGHT * WIDTH
    assert torch.allclose(result.points.normal.double(), expected.expand(len(result.points), 3), atol=2e-3)
    eye = result.cameras.world_from_cam[0, :3, 3].float()
    assert bool(((eye - result.points.xyz) * result.points.normal).sum(-1).min() > 0)
    assert float(result.points.conf.min()) > 0 and float(result.points.conf.max()) <= 1


def test_confidence_falls_with_the_angle() -> None:
    means = []
    for degrees in (0, 70, 78):
        angle = np.radians(degrees)
        normal = np.array([0, np.sin(angle), -np.cos(angle)])
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[25:33, 30:50] = True
        points = frames_from_depth(make_clip([plane_depth(normal, 1.0)], [mask]), CONFIG).points
        means.append(float(points.conf.mean()))
    assert means[0] > 0.9 > means[1] > means[2]


@pytest.mark.parametrize("ramp", [1, 2])
def test_flying_pixels_on_a_step_are_removed_and_the_edges_stay(ramp: int) -> None:
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    depth[:, 40:] = 3.0
    between = np.linspace(2, 3, ramp + 2)[1:-1].astype(np.float32)
    depth[:, 40 : 40 + ramp] = between
    points = frames_from_depth(make_clip([depth]), CONFIG).points
    columns = points.xy[:, 0].floor().long()
    assert not bool(((columns >= 40) & (columns < 40 + ramp)).any())
    kept = columns.bincount(minlength=WIDTH)
    assert bool((kept[1:40] == HEIGHT).all()) and bool((kept[40 + ramp : -1] == HEIGHT).all())
    beside, middle = points.conf[columns == 39].mean(), points.conf[columns == 20].mean()
    assert beside < 0.7 * middle


def test_a_thin_object_without_depth_around_it_stays() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:50, 30:32] = True
    depth = np.where(mask, 2.0, 0).astype(np.float32)
    assert len(frames_from_depth(make_clip([depth], [mask]), CONFIG).points) == mask.sum()


def test_erosion_widens_the_gap_at_a_jump() -> None:
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    depth[:, 40:] = 3.0
    clip = make_clip([depth])
    columns = frames_from_depth(clip, GeometryConfig(erode=1)).points.xy[:, 0].floor().long()
    assert sorted(set(range(WIDTH)) - set(columns.tolist())) == [39, 40]


def test_bad_depth_empty_masks_and_unknown_poses_are_left_out() -> None:
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    broken = depth.copy()
    broken[5, 5], broken[6, 6], broken[7, 7], broken[8, 8] = np.nan, -1, np.inf, 0
    empty = np.zeros((HEIGHT, WIDTH), bool)
    full = ~empty
    clip = make_clip([broken, depth, depth], [full, empty, full])
    poses = cameras(3).world_from_cam.clone()
    poses[2] = float("nan")
    result = frames_from_depth(replace(clip, cameras=replace(cameras(3), world_from_cam=poses)), CONFIG)
    assert result.points.frame.unique().tolist() == [0]
    assert len(result.points) == HEIGHT * WIDTH - 4
    assert bool(torch.isfinite(result.points.xyz).all())
    assert any("2 frames have no points" in note and "00001, 00002" in note for note in result.notes)


def test_one_frame_through_the_front_door() -> None:
    clip = make_clip([np.full((HEIGHT, WIDTH), 2.0, np.float32)])
    result = solve_geometry(clip, CONFIG)
    assert result.source == "rgbd" and len(result.cameras) == 1 and len(result.points) == HEIGHT * WIDTH


@pytest.mark.usefixtures("no_small_weights")
def test_each_lack_has_one_line_that_says_what_to_do() -> None:
    clip = make_clip([np.full((HEIGHT, WIDTH), 2.0, np.float32)])
    cases = [
        (replace(clip, depth=None), CONFIG, "nothing to get geometry from: add depth maps in depth/"),
        (replace(clip, depth=None), GeometryConfig(source="rgbd"), "source rgbd needs depth maps"),
        (replace(clip, cameras=None), CONFIG, "no K: add cameras.json"),
        (clip, GeometryConfig(source="mast3r"), "mast3r: no weights: give --geometry.weights"),
        (clip, GeometryConfig(source="pointmaps"), "source pointmaps: there are none: put pointmaps.npz"),
        (replace(clip, depth=[np.zeros((HEIGHT, WIDTH), np.float32)]), CONFIG, "no frame has depth on the object"),
    ]
    for bad, config, text in cases:
        with pytest.raises(InputError, match=text) as caught:
            solve_geometry(bad, config)
        assert "\n" not in str(caught.value)


def test_one_frame_without_a_pose_is_the_world() -> None:
    clip = make_clip([np.full((HEIGHT, WIDTH), 2.0, np.float32)])
    result = solve_geometry(replace(clip, poses_given=False), CONFIG)
    assert result.poses_solved
    torch.testing.assert_close(result.cameras.world_from_cam[0], torch.eye(4, dtype=torch.float64))


def test_auto_takes_depth_where_there_is_some() -> None:
    assert choose_source(make_clip([np.ones((HEIGHT, WIDTH), np.float32)]), CONFIG) == "rgbd"


def test_auto_takes_the_first_source_that_has_all_it_needs(tmp_path: Path) -> None:
    """Depth without K is of no use to rgbd, and keeps nothing else from being used."""
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    bare = replace(make_clip([depth]), cameras=None, all_cameras=None, poses_given=False)
    assert choose_source(bare, GeometryConfig(weights="naver/some")) == "mast3r"
    np.savez(tmp_path / "pointmaps.npz", depth=depth[None], K=cameras(1).K[0].numpy())
    (tmp_path / "rgb").mkdir()
    Image.fromarray(np.asarray(bare.images[0])).save(tmp_path / "rgb" / "00000.png")
    here = replace(bare, source=tmp_path)
    assert choose_source(here, GeometryConfig(weights="naver/some")) == "pointmaps"
    assert choose_source(replace(make_clip([depth]), source=tmp_path), CONFIG) == "rgbd"
    result = solve_geometry(here, CONFIG)
    assert result.source == "pointmaps" and "depth maps are not used, as there is no K" in result.notes[0]


def test_settings_out_of_range_name_the_field() -> None:
    with pytest.raises(ValueError, match=r"geometry\.max_slope_deg"):
        GeometryConfig(max_slope_deg=90)
    with pytest.raises(ValueError, match=r"geometry\.source"):
        GeometryConfig(source="lidar")  # type: ignore[arg-type]
    for name in ("poses", "focal", "principal_point"):
        with pytest.raises(ValueError, match=rf"geometry\.{name}: 'some'; wanted"):
            replace(CONFIG, **{name: "some"})
