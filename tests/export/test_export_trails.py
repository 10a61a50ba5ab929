"""The input video with trails: what is seen and what is hidden, one movie, and going on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from export_scenes import arc, ball, timeline

from dyn4d.core.cameras import project
from dyn4d.core.types import Clip
from dyn4d.deformation import TrajectoryField
from dyn4d.deformation.tracks import Tracks
from dyn4d.export import trails
from dyn4d.export.config import RenderConfig
from dyn4d.export.run import load_drawn_tracks, render_run
from dyn4d.export.trails import DrawnTracks, choose_tracks, draw_over, write_track_movie
from dyn4d.geometry.point_tracks import PointTracks
from dyn4d.io import artifacts
from dyn4d.io.atomic import write_json
from dyn4d.io.cameras_json import write_cameras
from dyn4d.io.images import read_rgb
from dyn4d.io.ply import write_ply

COUNT = 6
RED = np.array([[255, 0, 0]], np.uint8)


def clip(count=COUNT):
    return Clip(
        name="grey", source=Path(__file__), images=[np.full((40, 48, 3), 40 + 5 * i, np.uint8) for i in range(count)],
        masks=[np.ones((40, 48), bool)] * count, frames=np.arange(count), timeline=timeline(count), width=48, height=40,
    )  # fmt: skip


def sliding(count=COUNT, visible=True):
    """One point that moves along y."""
    xyz = np.zeros((count, 1, 3))
    xyz[:, 0, 1] = np.linspace(-0.3, 0.3, count)
    return DrawnTracks(xyz, np.full((count, 1), visible), xyz[0])


def drawn(tracks, frame=COUNT - 1, trail=COUNT):
    return draw_over(np.full((40, 48, 3), 100, np.uint8), tracks, arc(COUNT)[2], colours=RED, frame=frame, trail=trail)


def colourful(picture):
    return np.ptp(picture.astype(int), axis=-1)


def test_a_trail_leads_to_where_the_point_is():
    picture = drawn(sliding())
    camera = arc(COUNT)[2]
    xy, _ = project(camera.K, camera.cam_from_world, torch.from_numpy(sliding().xyz[:, 0]))
    for place, least in zip(xy.numpy(), [25, 30, 50, 70, 90, 200], strict=True):
        column, row = np.floor(place).astype(int)
        assert colourful(picture)[row, column] >= least, (place, least)
    inside = np.nonzero(colourful(picture) > 20)
    assert np.ptp(inside[0]) < 6 and np.ptp(inside[1]) > 10  # a line, along the motion
    assert (picture[0, 0] == picture[-1, -1]).all() and picture[0, 0, 0] > 100  # paled, not coloured


def test_hidden_parts_are_faint_and_broken():
    seen, hidden = drawn(sliding()), drawn(sliding(visible=False))
    assert 0 < colourful(hidden).max() < 0.5 * colourful(seen).max()
    assert (colourful(hidden) > 10).sum() < 0.8 * (colourful(seen) > 10).sum()


def test_the_trail_has_the_length_asked_for():
    sizes = [(colourful(drawn(sliding(), trail=n)) > 10).sum() for n in (0, 2, 5)]
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_unknown_places_draw_nothing():
    lost = sliding()
    lost.xyz[:] = np.nan
    behind = sliding()
    behind.xyz[:] = arc(COUNT).world_from_cam[2, :3, 3] - 3 * arc(COUNT).world_from_cam[2, :3, 2]
    for tracks in (lost, behind):
        assert colourful(drawn(tracks)).max() == 0


def test_tracks_are_chosen_over_the_object_and_for_their_length():
    random = np.random.default_rng(0)
    xyz = np.repeat(random.uniform(-1, 1, (1, 900, 3)), 8, axis=0)
    visible = np.ones((8, 900), bool)
    xyz[3:, :200] = np.nan
    visible[3:, :200] = False
    found = choose_tracks(xyz, visible, most=50)
    assert found.xyz.shape == (8, 50, 3) and found.visible.all()
    assert (found.start.max(0) > 0.7).all() and (found.start.min(0) < -0.7).all()
    assert choose_tracks(np.full((4, 9, 3), np.nan), np.zeros((4, 9), bool)).xyz.shape == (4, 0, 3)


def test_movie_of_two_panels_goes_on_where_it_stopped(tmp_path, monkeypatch):
    def movie():
        return write_track_movie(
            clip(), timeline(COUNT), arc(COUNT), [sliding(), sliding(visible=False)], out=tmp_path, trail=4, fps=10
        )

    assert movie() == tmp_path / "tracks.mp4" and (tmp_path / "tracks.mp4").stat().st_size > 500
    assert sorted(p.name for p in (tmp_path / "tracks").iterdir()) == [f"{i:06d}.png" for i in range(COUNT)]
    assert read_rgb(tmp_path / "tracks/000003.png").shape == (427, 2 * 512 + 4, 3)  # enlarged, beside each other
    (tmp_path / "tracks/000002.png").write_bytes(b"")
    drawn, original = [], trails.draw_over
    monkeypatch.setattr(trails, "draw_over", lambda *a, **k: drawn.append(k["frame"]) or original(*a, **k))
    movie()
    assert drawn == [2, 2]


@pytest.mark.parametrize("before", [False, True])
def test_the_render_stage_draws_the_tracks_a_run_has(tmp_path, before):
    run = tmp_path / "run"
    write_cameras(run / "geometry/cameras.json", arc(COUNT), timeline(COUNT), extra={"poses": "given"})
    write_ply(run / "gaussians/canonical.ply", ball())
    TrajectoryField.still().save(run / "gaussians/field.safetensors")
    write_json(run / "gaussians/metrics.json", {"background": (0.5, 0.5, 0.5)})
    config = RenderConfig(which=("tracks",), tracks_before=before)
    assert render_run(run, tmp_path / "none", config, clip=clip()) == []
    xyz = ball(20).means.expand(COUNT, 20, 3).clone()
    seen = torch.ones(COUNT, 20, dtype=torch.bool)
    first = torch.zeros(20, dtype=torch.int64)
    rgb, conf = torch.ones(20, 3), torch.ones(COUNT, 20)
    artifacts.save(run / "deformation/tracks.npz", Tracks(xyz, rgb, first, conf, seen))
    artifacts.save(run / "geometry/tracks.npz", PointTracks(xyz, xyz[..., :2], seen, conf, rgb, first))
    assert len(load_drawn_tracks(run, before=before)) == 1 + before
    assert [v.name for v in render_run(run, tmp_path / "out", config, clip=clip())] == ["tracks.mp4"]
    assert render_run(run, tmp_path / "none", config) == []  # no clip to draw over


def test_one_frame(tmp_path):
    one = sliding(1)
    write_track_movie(clip(1), timeline(1), arc(1), [one], out=tmp_path, trail=5, fps=24)
    assert colourful(read_rgb(tmp_path / "tracks/000000.png")).max() > 100
