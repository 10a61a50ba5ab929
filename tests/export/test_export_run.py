"""The stages as they read a run folder: written by hand here, so that nothing needs to be trained."""

import json

import numpy as np
import pytest
import torch
from export_scenes import arc, ball, timeline

from dyn4d.core.errors import InputError, RunError
from dyn4d.core.types import Clip, FramePoints
from dyn4d.deformation import TrajectoryField
from dyn4d.export.config import ExportConfig, RenderConfig
from dyn4d.export.renders import render_cloud, to_uint8
from dyn4d.export.run import evaluate_run, export_run, load_result, render_run, summarise_run, timeline_of
from dyn4d.geometry.motion import PointMotion
from dyn4d.io import artifacts
from dyn4d.io.atomic import write_json
from dyn4d.io.cameras_json import read_cameras, write_cameras
from dyn4d.io.ply import read_ply, write_ply
from dyn4d.io.truth import TruthPicture, write_truth

COUNT = 4
GREY = (0.5, 0.5, 0.5)


@pytest.fixture
def run(tmp_path):
    """A run of a ball that stands still, as the geometry, deform and gaussians stages would leave it."""
    folder = tmp_path / "run"
    write_cameras(folder / "geometry/cameras.json", arc(COUNT), timeline(COUNT), extra={"poses": "given"})
    write_ply(folder / "gaussians/canonical.ply", ball())
    TrajectoryField.still().save(folder / "gaussians/field.safetensors")
    shown = {"mpsnr": 40.0, "psnr": 41.0, "mssim": 0.99, "iou": 0.99, "per_frame": [{"frame": 0, "mpsnr": 40.0}]}
    curves = {"l1": [[0, 1.0], [20, 0.5]], "count": [[0, 300], [20, 300]]}
    write_json(folder / "gaussians/metrics.json", {"background": GREY, "input": shown, "count": 300, "curves": curves})
    reunions = [{"gone": 2, "back": 5, "followed": True}, {"gone": 1, "back": 4, "followed": False}]
    write_json(folder / "deformation/metrics.json", {"cycle": {"max_rel": 0.0}, "curves": {}, "reunions": reunions})
    return folder


def pictures():
    drawn = render_cloud(ball(), arc(COUNT), GREY)
    return to_uint8(drawn.rgb), (drawn.alpha[..., 0] > 0.5).numpy()


def clip(tmp_path, rows=(0, 2, 3)):
    rgb, masks = pictures()
    return Clip(
        name="ball", source=tmp_path, images=[rgb[i] for i in rows], masks=[masks[i] for i in rows],
        frames=np.array(rows), timeline=timeline(COUNT), width=48, height=40,
    )  # fmt: skip


def leave_points(run):
    """Points of three selected frames, half of which move by 4 px."""
    means, rows = ball().means, torch.arange(300)
    xy = torch.stack([rows % 48 + 0.5, rows // 48 + 0.5], -1)
    points = FramePoints(means, means.abs(), means, rows // 100, xy, torch.ones(300))
    artifacts.save(run / "geometry/frame_points.npz", points)
    artifacts.save(run / "geometry/motion.npz", PointMotion(4.0 * (rows % 2), torch.ones(300)))


def test_times_come_back_from_the_run(run):
    found = timeline_of(read_cameras(run / "geometry/cameras.json"))
    np.testing.assert_allclose(found.times, timeline(COUNT).times)
    assert found.names == timeline(COUNT).names and found.fps == pytest.approx(10)


def test_render_export_and_summary(run, tmp_path):
    render_run(run, run / "renders", RenderConfig())
    export_run(run, run / "export", ExportConfig(tracks=40))
    leave_points(run)
    figures = summarise_run(
        run, ExportConfig(report_frames=2), clip=clip(tmp_path), seconds={"geometry": 1.5}, settings="seed: 0",
        warnings=["frame 1 is dark"],
    )  # fmt: skip
    assert len(list((run / "renders/orbit").glob("*.png"))) == COUNT  # all frames, though one was not selected
    assert len(list((run / "export/ply").glob("frame_*.ply"))) == COUNT
    assert torch.equal(
        read_ply(run / "export/ply/frame_0003.ply").means, read_ply(run / "export/ply/frame_0000.ply").means
    )
    assert artifacts.load(run / "export/tracks.npz", dict)["xyz"].shape == (COUNT, 40, 3)
    assert figures == json.loads((run / "metrics.json").read_text())
    assert figures["input"]["mpsnr"] == 40.0 and figures["seconds"] == {"geometry": 1.5}
    assert figures["track"]["epe_rel"] is None and figures["cycle"]["max_rel"] == 0.0
    page = (run / "report.html").read_text(encoding="utf-8")
    for text in ("Moving", "Against the input", "Tracks", "Number of Gaussians", "frame 1 is dark", "seed: 0",
                 "Cameras and motion", "Cameras of 4 frames", "4 px and more", "motion: 50% of"):  # fmt: skip
        assert text in page
    assert "hid after frame 2 is what came out before frame 5" in page
    assert "hid after frame 1 " not in page, "the fit refused that one"
    assert '<a href="export/player.html">' in page and (run / "export/player.html").stat().st_size > 1e6
    assert "http:" not in page and "https:" not in page and "<script" not in page


def test_report_without_renders_or_tracks(run, tmp_path):
    summarise_run(run, ExportConfig(), clip=clip(tmp_path, rows=(1,)), seconds={})
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Against the input" in page and "Moving" not in page and "Tracks" not in page


def test_no_report_when_not_asked_for(run, tmp_path):
    summarise_run(run, ExportConfig(report=False), clip=clip(tmp_path), seconds={})
    assert (run / "metrics.json").is_file() and not (run / "report.html").exists()


def test_evaluation_of_a_perfect_run(run, tmp_path):
    rgb, masks = pictures()
    views = [
        TruthPicture(i, i / 10, "near_left", rgb[i], masks[i], None, arc(COUNT).world_from_cam[i].numpy())
        for i in (1, 2)
    ]
    tracks = np.repeat(ball(20).means.numpy()[None], COUNT, axis=0)
    write_truth(
        tmp_path / "truth", views, arc(COUNT), K=arc(COUNT).K[0].numpy(), timeline=timeline(COUNT),
        tracks_world=tracks, visible=np.ones((COUNT, 20), dtype=bool), uv=np.zeros((COUNT, 20, 2)),
    )  # fmt: skip
    write_json(run / "metrics.json", {"input": {"mpsnr": 1.0}, "track": {"epe_rel": None}})
    found = evaluate_run(run, tmp_path / "truth")
    assert found["groups"]["near_left"]["n"] == 2 and found["near"]["mpsnr"] > 45 and found["far"]["mpsnr"] is None
    assert found["track"]["epe_rel"] < 1e-6 and found["camera"]["rotation_deg"] < 1e-4
    assert json.loads((run / "eval.json").read_text())["aligned_by"] == "given cameras"
    kept = json.loads((run / "metrics.json").read_text())
    assert kept["track"]["epe_rel"] == found["track"]["epe_rel"] and kept["input"]["mpsnr"] == 1.0


def test_what_is_missing_is_named(run, tmp_path):
    with pytest.raises(InputError, match="no run folder"):
        load_result(tmp_path / "nothing")
    (run / "gaussians/canonical.ply").unlink()
    with pytest.raises(RunError, match="finish the gaussians stage first"):
        load_result(run)
