"""`dyn4d view`: what it shows of finished and unfinished runs, what it notices, whom it serves."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from export_scenes import Carousel, arc, ball, timeline

from dyn4d import cli
from dyn4d.core.errors import InputError, RunError
from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.core.types import Clip, FramePoints
from dyn4d.deformation import TrajectoryField
from dyn4d.deformation.tracks import Tracks
from dyn4d.export import requirements
from dyn4d.export.renders import render_cloud
from dyn4d.export.trails import choose_tracks
from dyn4d.export.view_scene import LiveScene, Scene, fade, finite, load_scene
from dyn4d.gaussians.warp import covariance, move_cloud
from dyn4d.io import artifacts
from dyn4d.io.atomic import write_json
from dyn4d.io.cameras_json import write_cameras
from dyn4d.io.ply import read_ply, write_ply

COUNT = 4


def frame_points(frames: int = COUNT) -> FramePoints:
    """Of the turning ball: 30 of its Gaussians at each frame."""
    means, times = ball().means, timeline(COUNT).times
    xyz = torch.cat([Carousel().from_canonical(means[30 * i : 30 * i + 30], float(times[i])) for i in range(frames)])
    rows = torch.arange(len(xyz))
    xy = torch.stack([rows % 48 + 0.5, rows // 48 + 0.5], -1)
    return FramePoints(xyz, xyz.abs().clamp(0, 1), xyz, rows // 30, xy, torch.linspace(0.01, 1, len(xyz)))


def leave_geometry(run: Path) -> None:
    write_cameras(run / "geometry/cameras.json", arc(COUNT), timeline(COUNT), extra={"poses": "given"})
    artifacts.save(run / "geometry/frame_points.npz", frame_points())


def leave_field(run: Path) -> None:
    (run / "deformation").mkdir(parents=True, exist_ok=True)
    TrajectoryField.still().save(run / "deformation/field.safetensors")
    xyz = ball(20).means.expand(COUNT, 20, 3).contiguous()
    first, seen = torch.zeros(20, dtype=torch.int64), torch.ones(COUNT, 20, dtype=torch.bool)
    artifacts.save(run / "deformation/tracks.npz", Tracks(xyz, xyz[0].abs(), first, torch.ones(COUNT, 20), seen))


def leave_gaussians(run: Path) -> None:
    write_ply(run / "gaussians/canonical.ply", ball())
    TrajectoryField.still().save(run / "gaussians/field.safetensors")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose geometry stage is done."""
    folder = tmp_path / "run"
    write_json(folder / "run.json", {"format": "dyn4d-run/1", "stages": {}, "warnings": []})
    (folder / "config.yaml").write_text("clip: /nowhere\n")
    leave_geometry(folder)
    return folder


def moving_scene(**others) -> Scene:
    return Scene(timeline(COUNT), arc(COUNT), cloud=ball(), field=Carousel(), points=frame_points(), **others)


# ------------------------------------------------------------------------------------------------ scene


def test_the_stages_give_what_they_have(run: Path) -> None:
    assert load_scene(run).layers == ("points",)
    leave_field(run)
    assert load_scene(run).layers == ("field", "points")
    leave_gaussians(run)
    scene = load_scene(run)
    assert scene.layers == ("gaussians", "field", "points") and len(scene) == COUNT
    np.testing.assert_allclose(scene.splats(2).centres, read_ply(run / "gaussians/canonical.ply").means, atol=1e-6)
    np.testing.assert_allclose(scene.up, [0, 0, 1], atol=1e-6)
    assert scene.tracks is not None and scene.tracks.xyz.shape == (COUNT, 20, 3)


@pytest.mark.parametrize("frame", [0, 3])
def test_splats_are_those_of_move_cloud(frame: int) -> None:
    scene, t = moving_scene(), float(timeline(COUNT).times[frame])
    moved, shown = move_cloud(ball(), Carousel(), t), scene.splats(frame)
    np.testing.assert_array_equal(shown.centres, moved.means.numpy())
    expected = covariance(wxyz_to_matrix(moved.quats_wxyz), moved.scales)
    np.testing.assert_allclose(shown.covariances, expected.numpy(), atol=1e-8)
    np.testing.assert_array_equal(shown.opacity, moved.opacities.numpy())
    assert (shown.conf == 1).all()
    np.testing.assert_array_equal(scene.splats(frame, canonical=True).centres, ball().means.numpy())


def test_colours_are_those_of_the_renders() -> None:
    """One opaque Gaussian of changing colour before the camera: its middle has the colour that is shown."""
    cloud = ball(1)
    cloud.means.zero_()
    cloud.scales.fill_(0.3)
    sh = torch.cat([cloud.sh, 0.2 * torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(1))], dim=1)
    cloud = type(cloud)(cloud.means, cloud.quats_wxyz, cloud.scales, torch.ones(1), sh)
    cameras = arc(COUNT, span=2.5)
    scene = Scene(timeline(COUNT), cameras, cloud=cloud, field=Carousel(turn=0.5, shift=0.0))
    for frame in range(COUNT):
        moved = move_cloud(cloud, Carousel(turn=0.5, shift=0.0), float(timeline(COUNT).times[frame]))
        drawn = render_cloud(moved, cameras[[frame]], (0.0, 0.0, 0.0))
        seen = drawn.rgb[0, 20, 24] / drawn.alpha[0, 20, 24]
        np.testing.assert_allclose(scene.splats(frame).rgb[0], seen.numpy(), atol=0.01)
    assert np.ptp([scene.splats(frame).rgb[0] for frame in range(COUNT)], axis=0).max() > 0.02


def test_points_of_frames_and_of_the_field() -> None:
    scene, points = moving_scene(), frame_points()
    np.testing.assert_array_equal(scene.frame_points(2).xyz, points.xyz[points.frame == 2].numpy())
    canonical = scene.field_points(0, canonical=True).xyz
    np.testing.assert_allclose(canonical, ball().means[: 30 * COUNT].numpy(), atol=1e-5)
    at = Carousel().from_canonical(ball().means[: 30 * COUNT], float(timeline(COUNT).times[3]))
    np.testing.assert_allclose(scene.field_points(3).xyz, at.numpy(), atol=1e-5)


def test_frames_left_out_show_those_before() -> None:
    scene = Scene(timeline(COUNT), arc(COUNT), points=frame_points(2), selected=np.array([0, 3]))
    assert [scene.frame_points(i).frame for i in range(COUNT)] == [0, 0, 0, 3]


def test_trails_end_at_the_frame() -> None:
    xyz = np.stack([ball(5).means.numpy() + i for i in range(COUNT)])
    xyz[1, 0] = np.nan
    scene = moving_scene(tracks=choose_tracks(xyz, np.ones(xyz.shape[:2], bool)))
    ends, colours = scene.trails(3, 2)
    assert ends.shape == (2 * 5 - 1, 2, 3) and np.isfinite(ends).all() and colours.shape == ends.shape
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 1, atol=1e-6)
    assert {round(float(e[1, 0] - e[0, 0])) for e in ends} == {1} and len(scene.trails(0, 9)[0]) == 0


def test_one_frame_and_numbers_that_are_none() -> None:
    points = frame_points(1)
    points.xyz[3] = float("nan")
    cloud = ball()
    cloud.means[7] = float("inf")
    scene = Scene(timeline(1), arc(1), cloud=cloud, field=Carousel(), points=points)
    assert len(scene.frame_points(0).xyz) == 29 and len(scene.splats(0).centres) == 299
    assert len(finite(points)) == 29 and np.isfinite(scene.framing.size) and scene.framing.size > 0


def test_fading() -> None:
    conf = np.array([0.0, 0.44, 0.45, 0.5, 1.0])
    np.testing.assert_allclose(fade(conf, 0.5), [0, 0.4, 0.5, 1, 1])
    assert (fade(conf, 0.0) == 1).all()


def test_a_finished_stage_is_noticed(run: Path) -> None:
    live = LiveScene(run)
    assert not live.refresh() and live.scene.layers == ("points",)
    leave_field(run)
    assert live.refresh() and live.scene.layers[0] == "field" and not live.refresh()
    leave_gaussians(run)
    assert live.refresh() and live.scene.layers[0] == "gaussians"


def test_a_stage_that_is_being_replaced_is_tried_again(run: Path) -> None:
    live = LiveScene(run)
    leave_field(run)
    whole = (run / "deformation/field.safetensors").read_bytes()
    (run / "deformation/field.safetensors").write_bytes(b"")
    assert not live.refresh() and live.scene.layers == ("points",)
    (run / "deformation/field.safetensors").write_bytes(whole)
    assert live.refresh() and live.scene.layers[0] == "field"


# ------------------------------------------------------------------------------------------------ errors


def test_nothing_to_show_names_the_stage(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "geometry/cameras.json").unlink()
    with pytest.raises(RunError, match="finish the geometry stage first"):
        load_scene(run)
    with pytest.raises(InputError, match="no run folder"):
        load_scene(tmp_path / "nothing")
    pytest.importorskip("viser", reason="viser is not installed")
    assert cli.main(["view", str(run), "--no-browser"]) == 1
    assert cli.main(["view", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "dyn4d geometry" in lines[0] and "is not a run" in lines[1]


def test_without_viser_it_says_what_to_install(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    assert cli.main(["view", str(run)]) == 2
    assert "pip install 'dyn4d[view]'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/")
    answer = connection.getresponse()
    text = answer.read().decode("utf-8", "replace")
    connection.close()
    assert answer.status == 200
    return text


def test_the_page_is_served_to_this_machine_only(run: Path) -> None:
    pytest.importorskip("viser", reason="viser is not installed")
    from dyn4d.export.viewer import Viewer

    picture = np.full((40, 48, 3), 200, np.uint8)
    clip = Clip(
        name="ball", source=run, images=[picture] * COUNT, masks=[picture[..., 0] > 0] * COUNT, frames=np.arange(COUNT),
        timeline=timeline(COUNT), width=48, height=40,
    )  # fmt: skip
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        taken = busy.getsockname()[1]
        viewer = Viewer(LiveScene(run), port=taken, clip=lambda: clip)
        try:
            port = viewer.server.get_port()
            assert viewer.server.get_host() == "127.0.0.1" and port != taken
            assert viewer.address == f"http://127.0.0.1:{port}"
            listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            assert f"0100007F:{port:04X}" in listening and f"00000000:{port:04X}" not in listening
            page = get(port)
            assert "<html" in page and not {"http://", "https://"} & set(_loaded(page))
            assert viewer.server.request_share_url() is None
            leave_field(run)
            leave_gaussians(run)
            assert viewer.poll() and "splats" in viewer._nodes and not viewer.poll()
            viewer.settings.layer, viewer.settings.least = "points", 0.1
            viewer.draw()
            shown = viewer._nodes["points"].points
            expected = viewer._inside(frame_points().xyz[:30].numpy()[frame_points().conf[:30].numpy() >= 0.1])
            np.testing.assert_allclose(shown, expected)
            viewer.settings.layer, viewer.settings.canonical = "field", True
            viewer.draw()
        finally:
            viewer.stop()


def _loaded(page: str) -> list[str]:
    """Beginnings of what the page's tags would load."""
    import re

    return [m[:8].split("//")[0] + "//" for m in re.findall(r"<(?:script|link|img)[^>]*?(?:src|href)=\"([^\"]+)", page)]


def test_ports_out_of_range_are_refused() -> None:
    from dyn4d.export.viewer import free_port as choose

    with pytest.raises(InputError, match="--port 70000"):
        choose(70000)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_it_quietly(run: Path) -> None:
    pytest.importorskip("viser", reason="viser is not installed")
    command = [sys.executable, "-m", "dyn4d.cli", "view", str(run), "--no-browser", "--port", str(free_port())]
    # a shell that runs the tests in the background has its children ignore Ctrl-C
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    watchdog = threading.Timer(90, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:")
        get(int(line.split()[0].rsplit(":", 1)[1]))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        watchdog.cancel()
        process.kill()
    assert process.returncode == 0 and out == "" and err == ""
