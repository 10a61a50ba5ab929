"""The report: one file, no links, everything in it; its charts, pictures and warnings."""

import re

import numpy as np
import pytest
import torch
from export_scenes import Carousel, arc, ball, timeline

from dyn4d.core.cameras import look_at
from dyn4d.core.types import Camera, GaussianCloud
from dyn4d.export import charts, metrics, pictures, tracks
from dyn4d.export.geometry_pictures import GeometryPictures
from dyn4d.export.report import FramePictures, ReportContent, build_html, duration, find_warnings, number, write_report
from dyn4d.export.run import renders_aside

FIGURES = {
    "input": {"mpsnr": 29.5, "psnr": 31.0, "mssim": 0.93, "iou": 0.96},
    "track": {"epe_rel": None},
    "cycle": {"max_rel": 3e-7},
    "seconds": {"geometry": 12.0, "deform": 60.0, "gaussians": 125.5, "export": None},
}


def picture(seed=0, height=24, width=32):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def content(**changes):
    aside = {-30: picture(4), 0: picture(5), 30: picture(6)}
    frames = [FramePictures(7, *(picture(i) for i in range(4)), mpsnr=28.25, aside=aside)]
    values = {
        "name": "a <clip> & more",
        "facts": [("frames", "48")],
        "metrics": FIGURES,
        "frames": frames,
        "movies": {"input": [picture(1)] * 3, "fixed": [picture(2)] * 3, "orbit": [picture(3)] * 3},
        "curves": {"Fitting": {"loss": [3.0, 2.0, 1.0], "other": [[0, 1.0], [5, None], [10, 0.5]]}},
        "per_frame": {0: 28.0, 1: 29.0},
        "tracks": picture(5),
        "geometry": GeometryPictures(picture(6), "4 cameras & more", {7: picture(7), 9: picture(8)}, 3.5, "a < b"),
        "config": "steps: 5 < 6",
        "files": [("renders/", "videos")],
        "warnings": ["frame 3 is <dark>"],
    }
    return ReportContent(**{**values, **changes})


def test_page_is_whole_and_loads_nothing(tmp_path):
    path = write_report(tmp_path / "report.html", content())
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    assert not re.search(r"https?:|//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    assert "<script" not in page and "<link" not in page
    for source in re.findall(r'src="([^"]{0,30})', page):
        assert source.startswith("data:image/")
    for text in (
        "29.50",
        "0.960",
        "3.3<small>min",
        "a &lt;clip&gt; &amp; more",
        "steps: 5 &lt; 6",
        "frame 3 is &lt;dark&gt;",
        "4 cameras &amp; more",
        "3.5 px and more",
        "frame 9",
        "a &lt; b.",
        "30° to the left",
    ):
        assert text in page
    assert "<clip>" not in page


def test_plus_is_to_the_right_of_the_camera():
    """A ball in front of a level camera, a red one to its right: seen from further right, the red one is nearer."""
    means = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    red = torch.tensor([[[0.0, 0.0, 0.0]], [[2.0, -1.5, -1.5]]])
    cloud = GaussianCloud(means, torch.tensor([[1.0, 0, 0, 0]] * 2), torch.full((2, 3), 0.15), torch.ones(2), red)
    pose = look_at(torch.tensor([0.0, -4.0, 0.0]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    camera = Camera(torch.tensor([[200.0, 0, 64], [0, 200.0, 64], [0, 0, 1]]), pose, 128, 128)
    views = renders_aside(cloud, camera, torch.tensor([0.0, 0.0, 1.0]), (1.0, 1.0, 1.0))
    size = {angle: int((view[..., 0].astype(int) - view[..., 1] > 100).sum()) for angle, view in views.items()}
    assert size[30] > size[0] > size[-30]
    less = renders_aside(cloud, camera, torch.tensor([0.0, 0.0, 1.0]), (1.0, 1.0, 1.0), 12)
    assert sorted(less) == [-12, 0, 12] and (less[0] == views[0]).all() and not (less[12] == views[30]).all()


def test_an_almost_empty_run_still_has_a_page():
    page = build_html(ReportContent(name="nothing"))
    assert "nothing" in page and "nan" not in page.lower().replace("nano", "")


def test_only_what_is_known_of_the_geometry_is_shown():
    assert "Cameras and motion" not in build_html(content(geometry=None))
    assert "Cameras and motion" not in build_html(content(geometry=GeometryPictures()))
    page = build_html(content(geometry=GeometryPictures(picture(6), "one camera")))
    assert "one camera" in page and "How far points move" not in page


def test_evaluation_is_shown_when_there_is_one():
    row = {"mpsnr": 24.5, "psnr": 25.0, "mssim": 0.9, "iou": 0.9, "n": 12, "lpips": None}
    evaluation = {
        "groups": {"near_left": row},
        "near": {"mpsnr": 24.5},
        "far": {"mpsnr": None},
        "track": {"epe_rel": 0.0123, "epe_mean": 0.02},
        "camera": {"centre_rel": 0.0, "rotation_deg": 0.0},
        "aligned_by": "given cameras",
    }
    page = build_html(content(evaluation=evaluation))
    assert "held out: near_left" in page and "given cameras" in page and "1.23 %" in page
    assert "dyn4d eval" not in page


@pytest.mark.parametrize(
    ("values", "steps", "found"),
    [
        ([3, 2, None, 1], [0, 1, 3], [3, 2, 1]),
        ([[0, 5.0], [10, 4.0]], [0, 10], [5, 4]),
        ({"step": [0, 50], "value": [1.0, float("nan")]}, [0], [1]),
    ],
)
def test_curves_in_every_form(values, steps, found):
    x, y = charts.as_curve(values)
    assert x.tolist() == steps and y.tolist() == found


def test_charts_stay_inside_their_box():
    values = {"a": list(np.geomspace(1e-4, 30, 1000)), "b": [0.5], "bad": [None, None], "worse": {"x": [1]}}
    chart = charts.line_chart(values)
    assert "nan" not in chart and chart.count("<polyline") == 1 and chart.count("<circle") == 1
    points = re.search(r'points="([^"]+)"', chart).group(1).split()
    assert len(points) <= charts.MOST_POINTS
    xy = np.array([[float(v) for v in p.split(",")] for p in points])
    assert (xy >= 0).all() and (xy[:, 0] <= charts.WIDTH).all() and (xy[:, 1] <= charts.HEIGHT).all()
    assert charts.line_chart({"empty": []}) == "" and charts.bars([]) == ""
    assert "nan" not in charts.line_chart({"flat": [1.0, 1.0]}) and "<svg" in charts.line_chart({"negative": [-1, 2]})


def test_pictures():
    assert pictures.colour_map(np.array([0.0, 1.0, 2.0, np.nan]))[[0, 1]].tolist() == [
        list(pictures.HEAT[0]), list(pictures.HEAT[-1]),
    ]  # fmt: skip
    mask = np.zeros((24, 32), dtype=bool)
    mask[5:10] = True
    error = pictures.error_picture(picture(0), picture(0), mask)
    assert (error[6] == pictures.HEAT[0]).all() and (error[0] == pictures.PAPER).all()
    depth = pictures.depth_picture(np.linspace(1, 2, 768).reshape(24, 32), mask.astype(float))
    assert depth[9, 0].sum() < depth[5, 0].sum() and (depth[20] == pictures.PAPER).all()
    assert pictures.depth_picture(np.zeros((4, 4)), np.zeros((4, 4))).shape == (4, 4, 3)
    assert pictures.fit_within(picture(0), 16).shape == (12, 16, 3)
    assert pictures.fit_within(picture(0), 100).shape == (24, 32, 3)
    assert pictures.side_by_side([picture(0), picture(1)], gap=3).shape == (24, 67, 3)
    assert pictures.animation_uri([picture(0), picture(1)], 10).startswith("data:image/")


def test_numbers_and_durations():
    assert [number(None), number(float("nan")), number(1.234), number(0.5, ".1f", 100)] == ["–", "–", "1.23", "50.0"]
    assert [duration(s) for s in (0.84, 42, 185, 7300)] == ["0.8 s", "42 s", "3 min 05 s", "2 h 01 min"]


def test_warnings_only_where_something_is_wrong():
    assert find_warnings(FIGURES) == []
    poor = {"input": {"mpsnr": 15.0, "iou": 0.5}, "cycle": {"max_rel": 1e-3}}
    assert len(find_warnings(poor, unregistered=[3, 4])) == 4
    assert find_warnings({"input": {"mpsnr": None}, "cycle": {}}) == []


def test_metrics_have_the_promised_keys():
    figures = metrics.assemble({}, {}, {})
    assert figures["input"]["mpsnr"] is None and figures["track"]["epe_rel"] is None
    assert figures["cycle"]["max_rel"] is None and figures["seconds"] == {}
    gaussians = {"input": {"mpsnr": 30.0, "per_frame": [29.0, None, 31.0]}, "count": 5}
    evaluation = {"track": {"epe_rel": 0.01}}
    figures = metrics.assemble(gaussians, {"cycle": {"max_rel": 1e-6}}, {"deform": 3}, evaluation=evaluation)
    assert figures["input"]["mpsnr"] == 30.0 and figures["cycle"]["max_rel"] == 1e-6
    assert figures["track"]["epe_rel"] == 0.01 and figures["seconds"] == {"deform": 3.0}
    assert metrics.per_frame_mpsnr(gaussians) == {0: 29.0, 2: 31.0}
    assert metrics.per_frame_mpsnr({"input": {"per_frame": [{"frame": 4, "mpsnr": 20}]}}) == {4: 20.0}


def test_gaussian_tracks_follow_the_field():
    cloud, field, frames = ball(), Carousel(), timeline(4)
    found = tracks.gaussian_tracks(cloud, field, frames, count=50)
    assert found["xyz"].shape == (4, 50, 3) and len(set(found["gaussian"].tolist())) == 50
    start = cloud.means[torch.from_numpy(found["gaussian"])]
    np.testing.assert_allclose(found["xyz"][3], field.from_canonical(start, 1.0).numpy(), atol=1e-6)
    assert tracks.gaussian_tracks(cloud, field, frames, count=5000)["xyz"].shape[1] == len(cloud)


def test_trails_are_drawn_and_hidden_heads_are_not():
    camera, base = arc(4), np.full((40, 48, 3), 255, dtype=np.uint8)
    found = tracks.gaussian_tracks(ball(), Carousel(), timeline(4), count=60)
    colours = tracks.rainbow(found["xyz"][0])
    shown = tracks.draw_trails(base, found["xyz"], camera[3], colours=colours, frame=3)
    assert shown.shape == base.shape and (shown != 255).any()
    hidden = tracks.draw_trails(
        base, found["xyz"], camera[3], colours=colours, frame=3, depth=torch.full((40, 48), 0.1)
    )
    assert (hidden == 255).all()
    assert tracks.spread_rows(np.zeros((0, 3)), 5).shape == (0,) and len(tracks.spread_rows(np.eye(3), 2)) == 2
