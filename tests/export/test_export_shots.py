"""Renders on request: paths, frozen time, comparison, depth, confidence, GIFs and pictures with alpha."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from export_scenes import Carousel, arc, ball, timeline
from PIL import Image

from dyn4d.core.cameras import project
from dyn4d.core.errors import InputError, RunError
from dyn4d.core.types import Camera, Clip
from dyn4d.export import paint, renders
from dyn4d.export.config import RENDER_NAMES, RenderConfig
from dyn4d.gaussians.warp import move_cloud
from dyn4d.io.atomic import read_json
from dyn4d.io.gif import gif_durations, write_gif
from dyn4d.io.images import read_rgb, read_rgba

COUNT = 4
ON_REQUEST = ("spiral", "dolly", "bullet", "compare", "depth", "confidence")


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch):
    monkeypatch.setattr(renders, "BULLET_PICTURES", 6)


def rated(**options):
    cloud = ball(**options)
    return replace(cloud, confidence=(cloud.means[:, 2] > 0).float())  # the upper half was seen


def clip(count=COUNT, width=48, height=40) -> Clip:
    images = np.random.default_rng(0).integers(0, 255, (count, height, width, 3), dtype=np.uint8)
    return Clip(
        name="noise", source=Path(__file__), images=list(images), masks=[np.ones((height, width), bool)] * count,
        frames=np.arange(count), timeline=timeline(count), width=width, height=height,
    )  # fmt: skip


def write(out, *which, count=COUNT, cameras=None, given=None, cloud=None, **options):
    return renders.write_renders(
        rated() if cloud is None else cloud, Carousel(), timeline(count), clip=given, out=out,
        cameras=arc(count) if cameras is None else cameras, config=RenderConfig(which=which, **options),
    )  # fmt: skip


def paths(cameras=None, count=9, **options):
    config = RenderConfig(which=("orbit", "spiral", "dolly", "bullet"), **options)
    cameras = arc(count) if cameras is None else cameras
    return renders.render_views(ball(), Carousel(), timeline(count), cameras=cameras, config=config)


def centres(count=9):
    return renders.find_extent(ball(), Carousel(), timeline(count).times).centres


@pytest.mark.parametrize("size", [(48, 40), (31, 65)])
@pytest.mark.parametrize("name", ["orbit", "spiral", "dolly", "bullet"])
def test_paths_look_at_the_object_from_outside_and_see_all_of_it(name, size):
    width, height = size
    camera = paths(arc(9, width=width, height=height))[name]
    middle = centres()
    shot_frames = [9 // 2] * len(camera) if name == "bullet" else range(9)
    for i, frame in enumerate(shot_frames):
        moved = Carousel().from_canonical(ball().means, float(timeline(9).times[frame])).double()
        pixel, depth = project(camera.K[i], camera.cam_from_world[i], middle[frame][None])
        assert (pixel[0] - torch.tensor([width / 2, height / 2])).norm() < 1e-3 and float(depth) > 0
        assert float((moved - camera.world_from_cam[i, :3, 3]).norm(dim=-1).min()) > 0.3  # outside
        pixels, depths = project(camera.K[i], camera.cam_from_world[i], moved)
        assert (depths > 0).all() and (pixels >= 0).all() and (pixels <= torch.tensor([width, height])).all()


def test_spiral_goes_up_and_down_and_dolly_comes_near_on_a_line():
    views, middle = paths(count=16), centres(16)
    offset = views["spiral"].world_from_cam[:, :3, 3] - middle
    height = torch.rad2deg(torch.asin(offset[:, 2] / offset.norm(dim=-1)))
    assert 25 < height.max() < 31 and -31 < height.min() < -25
    turned = torch.rad2deg(torch.atan2(offset[:, 1], offset[:, 0]))
    assert len(torch.unique(torch.round(turned % 360))) == 16
    offset = views["dolly"].world_from_cam[:, :3, 3] - middle
    distance = offset.norm(dim=-1)
    assert distance.argmax() == 0 and distance.argmin() == 8
    torch.testing.assert_close(distance[0], 2 * distance[8])
    torch.testing.assert_close(offset / distance[:, None], (offset[0] / distance[0]).expand(16, 3))


@pytest.mark.parametrize("size", [(48, 40), (31, 65), (40, 40)])
def test_the_dolly_comes_so_near_that_the_object_fills_the_picture(size):
    camera = paths(arc(16, width=size[0], height=size[1]), count=16)["dolly"]
    shares = []
    for i in (0, 8):
        moved = Carousel().from_canonical(ball().means, float(timeline(16).times[i])).double()
        pixels, _ = project(camera.K[i], camera.cam_from_world[i], moved)
        sides = torch.tensor(size).to(pixels)
        shares.append(float(((pixels.amax(0) - pixels.amin(0)) / sides).max()))
    assert 0.35 < shares[0] < 0.5 and 0.75 < shares[1] <= 0.86


def test_a_clip_from_straight_above_has_a_spiral():
    cameras = arc(5)
    pose = torch.diag(torch.tensor([1.0, -1, -1, 1])).double()
    pose[2, 3] = 3
    above = replace(cameras, world_from_cam=pose.expand(5, 4, 4).clone())
    assert torch.isfinite(paths(above, count=5)["spiral"].world_from_cam).all()


def test_bullet_is_one_moment_from_a_moving_camera(tmp_path):
    assert write(tmp_path, "bullet", bullet_frame=3) == [tmp_path / "bullet_000003.mp4"]
    config = RenderConfig(which=("bullet",), bullet_frame=3)
    (shot,) = renders.plan_shots(rated(), Carousel(), timeline(COUNT), cameras=arc(COUNT), config=config)
    assert shot.frames == (3,) * 6
    still = move_cloud(rated(), Carousel(), float(timeline(COUNT).times[3]))
    eyes = shot.cameras.world_from_cam[:, :3, 3]
    assert float(torch.cdist(eyes, eyes).fill_diagonal_(9).min()) > 0.5  # the camera moves
    for i in range(6):
        wanted = renders.to_uint8(renders.render_cloud(still, shot.cameras[i], (1.0, 1.0, 1.0)).rgb[0])
        np.testing.assert_array_equal(read_rgb(tmp_path / f"bullet_000003/{i:06d}.png"), wanted)
    write(tmp_path, "bullet")  # the middle, beside it
    assert not np.array_equal(read_rgb(tmp_path / "bullet/000000.png"), read_rgb(tmp_path / "bullet_000003/000000.png"))
    with pytest.raises(InputError, match=r"bullet_frame: 4.*0 to 3"):
        write(tmp_path, "bullet", bullet_frame=4)


@pytest.mark.parametrize("background", ["white", "black"])
def test_alpha_over_the_background_is_the_opaque_picture(tmp_path, background):
    write(tmp_path, "input", "orbit", "depth", "confidence", alpha=True, background=background)
    behind = np.array(renders.BACKGROUNDS[background]) * 255
    for name in ("input", "orbit", "depth", "confidence"):
        clear = read_rgba(tmp_path / f"{name}_alpha/000002.png").astype(float)
        share = clear[..., 3:] / 255
        opaque = read_rgb(tmp_path / f"{name}/000002.png")
        assert np.abs(clear[..., :3] * share + behind * (1 - share) - opaque).max() <= 1.6, name
        assert share.min() == 0 and share.max() > 0.9


def test_compare_has_the_input_on_the_left(tmp_path):
    given = clip()
    write(tmp_path, "compare", "input", given=given, alpha=True, gif=True)
    for i in range(COUNT):
        both = read_rgb(tmp_path / f"compare/{i:06d}.png")
        assert both.shape == (40, 2 * 48 + paint.GAP, 3)
        np.testing.assert_array_equal(both[:, :48], given.images[i])
        np.testing.assert_array_equal(both[:, -48:], read_rgb(tmp_path / f"input/{i:06d}.png"))
    assert (tmp_path / "compare.gif").is_file() and not (tmp_path / "compare_alpha").exists()


def test_compare_without_its_clip_is_one_error_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="compare needs the clip"):
        write(tmp_path / "out", "compare")
    with pytest.raises(InputError, match="has 3 frames, the run 4"):
        write(tmp_path / "out", "compare", given=clip(3))
    assert not (tmp_path / "out").exists()


def test_depth_can_be_read_back_from_the_colours(tmp_path):
    write(tmp_path, "depth")
    scale = read_json(tmp_path / "depth.json")
    table, step = np.array(paint.VIRIDIS, dtype=int), (scale["far"] - scale["near"]) / 255
    for i, t in enumerate(timeline(COUNT).times):
        drawn = renders.render_cloud(move_cloud(ball(), Carousel(), float(t)), arc(COUNT)[i], (1.0, 1.0, 1.0))
        solid = (drawn.alpha[0, ..., 0] > 0.5).numpy()
        picture = read_rgb(tmp_path / f"depth/{i:06d}.png").astype(int)
        assert (picture[~solid] == 255).all()
        nearest = np.abs(picture[solid][:, None] - table).sum(-1).argmin(-1)
        found = scale["far"] - nearest * step
        assert np.abs(found - drawn.depth[0, ..., 0].numpy()[solid]).max() <= 1.5 * step


def test_both_maps_rise_in_lightness():
    for table in (paint.VIRIDIS, paint.PLASMA):
        light = np.array(table) @ [0.2126, 0.7152, 0.0722]
        assert len(table) == 256 and light[-1] > 4 * light[0] and (np.diff(light) > -2).all()


def test_what_was_seen_is_bright_and_the_rest_dim(tmp_path):
    write(tmp_path, "confidence", background="black")
    picture = read_rgba(tmp_path / "confidence/000000.png")[..., :3].astype(int)
    rows = np.flatnonzero(picture.any((1, 2)))
    top, bottom = picture[rows[2], 24].sum(), picture[rows[-3], 24].sum()
    assert top > 2 * bottom
    with pytest.raises(InputError, match="holds no confidence"):
        write(tmp_path, "confidence", cloud=ball())


@pytest.mark.parametrize("fps", [10.0, 24.0, 120.0])
def test_gif_has_every_picture_and_the_clips_time(tmp_path, fps):
    count = 13
    frames = [np.roll(clip(1, 600, 90).images[0], 5 * i, axis=1) for i in range(count)]
    write_gif(tmp_path / "a.gif", iter(frames), count, fps)
    with Image.open(tmp_path / "a.gif") as found:
        durations = []
        for i in range(found.n_frames):
            found.seek(i)
            durations.append(found.info["duration"])
        assert found.size == (480, 72) and found.info["loop"] == 0
    assert len(durations) == (count if fps <= 50 else 5)
    assert sum(durations) == pytest.approx(1000 * count / fps, abs=25) and min(durations) >= 20
    assert list(tmp_path.iterdir()) == [tmp_path / "a.gif"]
    assert sum(gif_durations(240, 24.0)) == 10_000


def test_one_frame_a_portrait_with_odd_sides_and_everything(tmp_path):
    which = [name for name in RENDER_NAMES if name != "tracks"]
    cameras = arc(1, width=31, height=45)
    write(tmp_path, *which, count=1, cameras=cameras, given=clip(1, 31, 45), gif=True, alpha=True)
    for name in which:
        with av.open(str(tmp_path / f"{name}.mp4")) as video:
            stream = video.streams.video[0]
            assert stream.width % 2 == 0 and stream.height == 46, name
            assert sum(1 for _ in video.decode(stream)) == (6 if name == "bullet" else 1)
        assert read_rgb(tmp_path / f"{name}/000000.png").shape[0] == 45
        with Image.open(tmp_path / f"{name}.gif") as found:
            found.load()


def test_frames_without_a_pose(tmp_path):
    cameras = arc(COUNT)
    poses = cameras.world_from_cam.clone()
    poses[2] = float("nan")
    write(tmp_path, *ON_REQUEST, cameras=replace(cameras, world_from_cam=poses), given=clip())
    assert read_rgb(tmp_path / "depth/000002.png").min() < 200
    with pytest.raises(RunError, match="no frame has a camera pose"):
        lost = Camera(cameras.K, torch.full_like(poses, float("nan")), 48, 40)
        write(tmp_path / "none", "spiral", cameras=lost)


def test_only_what_is_missing_is_made(tmp_path):
    write(tmp_path, "orbit", "spiral")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    write(tmp_path, "orbit", "spiral", "dolly", gif=True, alpha=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (tmp_path / "orbit.gif").is_file() and (tmp_path / "spiral_alpha/000003.png").is_file()


def test_an_interrupt_leaves_no_half_movie(tmp_path, monkeypatch):
    def stopped(folder, count):
        yield np.zeros((40, 48, 3), np.uint8)
        raise KeyboardInterrupt

    write(tmp_path, "orbit")
    monkeypatch.setattr(renders, "stored_pictures", stopped)
    (tmp_path / "orbit.mp4").unlink()
    for _ in range(2):  # the video, then the GIF
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, "orbit", gif=True)
        assert [p.name for p in tmp_path.iterdir()] == ["orbit"] or (tmp_path / "orbit.mp4").read_bytes() == b"whole"
        assert not (tmp_path / "orbit.gif").exists()
        (tmp_path / "orbit.mp4").write_bytes(b"whole")


def test_parts_name_what_is_asked_for():
    config = RenderConfig(which=("input", "bullet", "compare", "input"), bullet_frame=7, gif=True, alpha=True)
    assert config.parts() == (
        "input", "input.gif", "input_alpha", "bullet_000007", "bullet_000007.gif", "bullet_000007_alpha", "compare",
        "compare.gif",
    )  # fmt: skip
    assert RenderConfig().parts() == ("input", "fixed", "orbit", "tracks")
    with pytest.raises(ValueError, match=r"render\.bullet_frame"):
        RenderConfig(bullet_frame=-2)
