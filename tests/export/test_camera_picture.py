"""The picture of cameras and object: what is drawn where, and clips that have little to draw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dyn4d.core.cameras import look_at
from dyn4d.core.errors import InputError
from dyn4d.core.types import Camera, Clip, FramePoints, Timeline
from dyn4d.export import camera_picture
from dyn4d.export.camera_picture import FIRST, LAST, PANEL, draw_cameras
from dyn4d.export.geometry_pictures import geometry_pictures
from dyn4d.export.pictures import HEAT, PAPER, UNKNOWN, motion_picture
from dyn4d.geometry.motion import PointMotion
from dyn4d.io import artifacts

GAP = 6
BLUE = (0, 0, 255)


def ring(count: int = 12, radius: float = 2.0, *, size: tuple[int, int] = (64, 48), span: float = 6.0) -> Camera:
    """Cameras around the origin on an arc of `span` radians about z, looking down on it a little."""
    poses = []
    for i in range(count):
        angle = span * i / max(count - 1, 1)
        eye = torch.tensor([radius * np.cos(angle), radius * np.sin(angle), 0.5]).double()
        poses.append(look_at(eye, torch.zeros(3).double(), torch.tensor([0.0, 0, 1]).double()))
    K = torch.tensor([[60.0, 0, size[0] / 2], [0, 60.0, size[1] / 2], [0, 0, 1]]).double()
    return Camera(K.expand(count, 3, 3).clone(), torch.stack(poses), *size)


def column(count: int = 3000, frames: int = 1, height: float = 1.0) -> FramePoints:
    """A thin blue column up to `height` above and below the origin."""
    z = torch.linspace(-height, height, count)
    xyz = torch.stack([0.1 * torch.sin(97 * z), 0.1 * torch.cos(89 * z), z], dim=-1)
    none = torch.zeros(count, 3)
    rgb = none + torch.tensor([0.0, 0.0, 1.0])
    return FramePoints(xyz, rgb, none, torch.arange(count) % frames, torch.zeros(count, 2), torch.ones(count))


def panel(picture: np.ndarray, index: int) -> np.ndarray:
    return picture[:, index * (PANEL + GAP) : index * (PANEL + GAP) + PANEL]


def where(picture: np.ndarray, colour: tuple[int, ...], tolerance: int = 24) -> np.ndarray:
    """(M, 2) columns and rows of about this colour, without the legend's and the scale's corners."""
    near = np.abs(picture.astype(int) - colour).max(-1) <= tolerance
    near[-48:, :150] = False
    return np.argwhere(near)[:, ::-1]


def test_three_sides_show_the_same_things_at_one_scale() -> None:
    picture = draw_cameras(ring(), column()).picture
    assert picture.shape == (PANEL, 3 * PANEL + 2 * GAP, 3) and picture.dtype == np.uint8
    oblique, above, front = (panel(picture, i) for i in range(3))
    sides = [np.ptp(where(view, BLUE), axis=0) for view in (oblique, above, front)]
    assert sides[2][1] > 5 * sides[2][0]  # it stands
    assert max(sides[1]) < 1.5 * sides[2][0]  # from above only its thickness is seen
    assert 0.7 * sides[2][1] < sides[0][1] < sides[2][1]  # obliquely it is a little shorter
    scale = sides[2][1] / 2.0  # px of one unit
    for view in (oblique, above, front):
        first, last = (where(view, colour).mean(0) for colour in (FIRST, LAST))
        assert np.isfinite([first, last]).all()
    ring_above = np.ptp(np.concatenate([where(above, FIRST), where(above, LAST)]), axis=0)
    assert max(ring_above) > 0.25 * scale


def test_from_the_front_the_first_camera_is_before_the_object_and_up_is_up() -> None:
    picture = draw_cameras(ring(5, span=0.4), column()).picture
    front, above = panel(picture, 2), panel(picture, 1)
    object_above, camera_above = where(above, BLUE).mean(0), where(above, FIRST).mean(0)
    assert camera_above[1] > object_above[1] + 100  # from above the cameras' side is at the bottom
    middle = where(front, BLUE)[:, 1].mean()
    assert where(front, FIRST)[:, 1].mean() < middle  # half a unit higher than the object's middle
    # to the right of the first camera is the last one, as seen by themselves: they go round anticlockwise from above
    assert where(front, LAST)[:, 0].mean() > where(front, FIRST)[:, 0].mean() + 20


def test_the_nearest_point_is_seen() -> None:
    red = column()
    front = replace(red, xyz=red.xyz + torch.tensor([0.5, 0, 0]), rgb=red.rgb.flip(-1))  # towards the cameras
    both = FramePoints(*(torch.cat([getattr(p, f) for p in (front, red)]) for f in FramePoints.__dataclass_fields__))
    picture = panel(draw_cameras(ring(1), both).picture, 2)
    assert len(where(picture, (255, 0, 0))) > 20 * len(where(picture, BLUE))


def test_other_frames_are_pale() -> None:
    points = column(frames=2)
    points = replace(points, xyz=points.xyz + torch.tensor([0.0, 0.6, 0]) * points.frame[:, None])
    picture = draw_cameras(ring(3, span=0.3), points, frame=0).picture
    pale = tuple(int(v) for v in np.array(BLUE) * 0.25 + np.array(PAPER) * 0.75)
    assert len(where(picture, BLUE)) > 200 and len(where(picture, pale)) > 200
    whole = draw_cameras(ring(3, span=0.3), points).picture
    assert len(where(whole, BLUE)) > 1.6 * len(where(picture, BLUE))


def test_a_camera_that_stands_still_is_one() -> None:
    cameras = ring(9)
    still = replace(cameras, world_from_cam=cameras.world_from_cam[:1].expand(9, 4, 4).clone())
    found = draw_cameras(still, column())
    assert found.text == "cameras of 9 frames, all in one place"
    assert len(where(found.picture, FIRST)) > 50 and len(where(found.picture, LAST)) == 0


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (640, 90)])
def test_one_frame_of_any_shape(size: tuple[int, int]) -> None:
    found = draw_cameras(ring(1, size=size), column())
    assert found.text == "cameras of 1 frame"
    corners = camera_picture._corners(
        ring(1, size=size).K, ring(1, size=size).world_from_cam, ring(1, size=size), 1.0
    )  # fmt: skip
    sides = np.linalg.norm(corners[0, 1] - corners[0, 0]), np.linalg.norm(corners[0, 2] - corners[0, 1])
    assert sides[0] / sides[1] == pytest.approx(size[0] / size[1])


def test_frames_without_a_pose_are_counted() -> None:
    cameras = ring(8)
    poses = cameras.world_from_cam.clone()
    poses[[0, 3]] = torch.nan
    found = draw_cameras(replace(cameras, world_from_cam=poses), column())
    assert found.text == "cameras of 6 frames; 2 frames without a pose"
    none = draw_cameras(replace(cameras, world_from_cam=torch.full_like(poses, torch.nan)), column())
    assert none.text == "no camera; 8 frames without a pose"
    assert len(where(none.picture, BLUE)) > 200 and len(where(none.picture, FIRST)) == 0


def test_a_camera_far_away_does_not_shrink_the_rest() -> None:
    cameras = ring(10, span=1.0)
    poses = cameras.world_from_cam.clone()
    poses[4, :3, 3] *= 500
    found = draw_cameras(replace(cameras, world_from_cam=poses), column())
    assert found.text == "cameras of 10 frames; 1 far away and not shown"
    usual = draw_cameras(cameras, column())
    assert len(where(found.picture, BLUE)) == pytest.approx(len(where(usual.picture, BLUE)), rel=0.1)


def test_odd_clips_do_not_fail() -> None:
    nothing = column(0)
    for cameras, points in (
        (ring(6), None), (ring(6), nothing), (ring(6, radius=1e-9), nothing), (ring(4, radius=1e-6), column(1)),
        (ring(3), column(2, height=1e-12)), (ring(3, radius=1e7), column()), (ring(3, radius=1e-3), column()),
    ):  # fmt: skip
        found = draw_cameras(cameras, points)
        assert found.picture.shape == (PANEL, 3 * PANEL + 2 * GAP, 3)
    bad = column()
    bad.xyz[::2] = torch.nan
    assert len(where(draw_cameras(ring(3), bad).picture, BLUE)) > 100


def test_many_frames_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []
    monkeypatch.setattr(camera_picture, "_frustum", lambda canvas, centre, corners, place: drawn.append(place))
    draw_cameras(ring(300), column(100_000, frames=300))
    assert 3 * 5 < len(drawn) <= 3 * (camera_picture.FRUSTA + 2)
    assert drawn.count(0.0) == 3 and drawn.count(1.0) == 3


def test_the_same_input_gives_the_same_picture() -> None:
    one, other = (draw_cameras(ring(), column(frames=4), frame=2).picture for _ in range(2))
    assert np.array_equal(one, other)


# -------------------------------------------------------------------------------------- what moves


def test_motion_as_colours() -> None:
    rgb = np.full((6, 8, 3), 100, np.uint8)
    xy = np.array([[0.5, 0.5], [7.5, 5.5], [3.5, 2.5], [4.5, 2.5]])
    picture = motion_picture(rgb, xy, np.array([0.0, 9.0, np.nan, 2.0]), top=2.0)
    assert picture[0, 0].tolist() == list(HEAT[0]) and picture[5, 7].tolist() == list(HEAT[-1])
    assert picture[2, 3].tolist() == list(UNKNOWN) and picture[2, 4].tolist() == list(HEAT[-1])
    assert (picture[1] > 200).all() and (rgb == 100).all()
    assert motion_picture(rgb, np.zeros((0, 2)), np.zeros(0), top=2.0).shape == rgb.shape


def clip_of(count: int, frames: np.ndarray) -> Clip:
    seconds = np.arange(count) / 10
    images = [np.full((48, 64, 3), 90, np.uint8) for _ in frames]
    return Clip(
        "x", None, images, [np.ones((48, 64), bool) for _ in frames], frames,  # type: ignore[arg-type]
        Timeline(seconds / seconds[-1], seconds, tuple(f"{i}" for i in range(count))), 64, 48,
    )  # fmt: skip


def test_pictures_of_what_the_stage_left(tmp_path) -> None:
    frames = np.arange(0, 12, 2)
    clip, cameras = clip_of(12, frames), ring(12)
    bare = geometry_pictures(tmp_path, clip, cameras, count=3)
    assert bare.cameras is not None and not bare.motion and "In full colours" not in bare.caption
    points = column(60, frames=6)
    points = points.select(torch.argsort(points.frame, stable=True))
    xy = torch.stack([torch.arange(60) % 10 + 0.5, torch.full((60,), 3.5)], -1)
    points = replace(points, xy=xy)
    artifacts.save(tmp_path / "frame_points.npz", points)
    older = geometry_pictures(tmp_path, clip, cameras, count=3)  # a run of a version without motion.npz
    assert not older.motion and "as frame 6 saw it" in older.caption
    artifacts.save(tmp_path / "motion.npz", PointMotion(torch.full((60,), 7.04), torch.full((60,), 3.0)))
    found = geometry_pictures(tmp_path, clip, cameras, count=3)
    assert list(found.motion) == [0, 4, 10] and found.top == 7.0 and "100%" in found.text
    assert "as frame 6 saw it" in found.caption
    artifacts.save(tmp_path / "motion.npz", PointMotion(torch.full((60,), 0.2), torch.full((60,), 3.0)))
    still = geometry_pictures(tmp_path, clip, cameras, count=3)
    assert still.top == 2.0 and "In full colours" not in still.caption
    assert found.motion[4][3, 0].tolist() == list(HEAT[-1])
    artifacts.save(tmp_path / "motion.npz", PointMotion(torch.full((60,), torch.nan), torch.full((60,), torch.nan)))
    assert not geometry_pictures(tmp_path, clip, cameras, count=3).motion
    artifacts.save(tmp_path / "motion.npz", PointMotion(torch.zeros(5), torch.zeros(5)))
    with pytest.raises(InputError, match=r"motion\.npz has 5 rows, frame_points\.npz 60"):
        geometry_pictures(tmp_path, clip, cameras, count=3)
