"""Renders and PLY sequences: every frame, the right place, and going on after an interruption."""

import numpy as np
import pytest
import torch
from export_scenes import Carousel, arc, ball, timeline
from PIL import Image

from dyn4d.core.cameras import project
from dyn4d.export import renders
from dyn4d.export.config import ExportConfig, RenderConfig
from dyn4d.export.sequence import write_sequence
from dyn4d.io.ply import read_ply


def write(out, count=4, **options):
    return renders.write_renders(
        ball(), Carousel(), timeline(count), cameras=arc(count), out=out, config=RenderConfig(**options)
    )


def test_every_frame_of_every_render_and_videos(tmp_path):
    videos = write(tmp_path)
    assert [v.name for v in videos] == ["input.mp4", "fixed.mp4", "orbit.mp4"]
    for name in ("input", "fixed", "orbit"):
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == [f"{i:06d}.png" for i in range(4)]
        assert (tmp_path / f"{name}.mp4").stat().st_size > 500
    picture = np.asarray(Image.open(tmp_path / "input/000002.png"))
    assert picture.shape == (40, 48, 3)
    assert (picture[0, 0] == 255).all() and picture[20, 24].min() < 200  # white behind, the ball in the middle


def test_silhouette_is_where_the_moved_ball_is(tmp_path):
    camera, field, cloud = arc(3), Carousel(), ball()
    moved = renders.move_cloud(cloud, field, 1.0)
    drawn = renders.render_cloud(moved, camera[2], (0.2, 0.4, 0.6))
    solid = torch.nonzero(drawn.alpha[0, ..., 0] > 0.5).double()
    centre = solid.mean(0).flip(0) + 0.5
    wanted, depth = project(camera.K[2], camera.cam_from_world[2], torch.tensor([[0.3, 0.0, 0.0]]).double())
    assert (centre - wanted[0]).norm() < 1.0
    middle = drawn.depth[0, int(wanted[0, 1]), int(wanted[0, 0]), 0]
    assert float(depth[0]) - 0.6 < float(middle) < float(depth[0]) - 0.1  # mostly its front
    torch.testing.assert_close(drawn.rgb[0, 0, 0], torch.tensor([0.2, 0.4, 0.6]))
    assert float(drawn.depth[0, 0, 0, 0]) == 0


def test_goes_on_where_it_stopped(tmp_path, monkeypatch):
    write(tmp_path, which=("input",))
    before = (tmp_path / "input/000001.png").stat().st_mtime_ns
    (tmp_path / "input/000002.png").unlink()
    (tmp_path / "input/000003.png").write_bytes(b"")
    drawn = []
    original = renders.render_cloud
    monkeypatch.setattr(renders, "render_cloud", lambda *a: drawn.append(1) or original(*a))
    write(tmp_path, which=("input",))
    assert len(drawn) == 2
    assert (tmp_path / "input/000001.png").stat().st_mtime_ns == before
    assert (tmp_path / "input/000003.png").stat().st_size > 0


def test_fixed_view_stays_and_orbit_turns():
    field, cloud, frames = Carousel(), ball(), timeline(6)
    views = renders.render_views(cloud, field, frames, cameras=arc(6), config=RenderConfig())
    assert all(len(camera) == 6 for camera in views.values())
    assert (views["fixed"].world_from_cam == views["fixed"].world_from_cam[0]).all()
    assert (views["orbit"].world_from_cam[0] - views["orbit"].world_from_cam[3]).norm() > 2


def test_one_frame(tmp_path):
    write(tmp_path, count=1)
    assert (tmp_path / "orbit/000000.png").is_file() and (tmp_path / "orbit.mp4").is_file()


def test_tracks_are_left_to_the_trails(tmp_path):
    assert write(tmp_path, which=("tracks",)) == []


def test_background_colour():
    assert renders.background_colour(RenderConfig(background="clip"), [0.1, 0.2, 0.3]) == (0.1, 0.2, 0.3)
    assert renders.background_colour(RenderConfig(background="black"), [0.1, 0.2, 0.3]) == (0, 0, 0)


def test_sequence_lists_the_same_gaussians_in_world_units(tmp_path):
    cloud, field, frames = ball(), Carousel(), timeline(4)
    paths = write_sequence(cloud, field, frames, out=tmp_path / "ply")
    assert [p.name for p in paths] == [f"frame_{i:04d}.ply" for i in range(4)]
    for path, t in zip(paths, frames.times):
        read = read_ply(path)
        torch.testing.assert_close(read.means, field.from_canonical(cloud.means, float(t)), atol=1e-6, rtol=0)
        torch.testing.assert_close(read.opacities, cloud.opacities, atol=1e-5, rtol=0)
    before = paths[0].stat().st_mtime_ns
    paths[1].unlink()
    write_sequence(cloud, field, frames, out=tmp_path / "ply")
    assert paths[0].stat().st_mtime_ns == before and paths[1].is_file()


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: RenderConfig(which=()), "render.which"),
        (lambda: RenderConfig(which=("top",)), "render.which"),  # type: ignore[arg-type]
        (lambda: RenderConfig(fps=-1), "render.fps"),
        (lambda: RenderConfig(trail=-1), "render.trail"),
        (lambda: ExportConfig(report_frames=0), "export.report_frames"),
        (lambda: ExportConfig(tracks=-1), "export.tracks"),
    ],
)
def test_options_are_checked(build, name):
    with pytest.raises(ValueError, match=name):
        build()
