"""The whole pipeline on a small synthetic clip: files, quality, single stages, kills, bad input."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dyn4d.config import Config, Options, from_plain, load_config, load_preset, with_clip
from dyn4d.core.errors import InputError, RunError
from dyn4d.export.config import RenderConfig
from dyn4d.export.run import why_nothing_left_out
from dyn4d.io.cameras_json import read_cameras
from dyn4d.io.clips import load_clip
from dyn4d.pipeline import STAGES, clip_fingerprint, run_all, run_eval, run_prepare, run_stage, run_status
from dyn4d.runner import MARKER
from dyn4d.synthetic import build_scene, write_scene

FRAMES = 12
SMALL = {
    "matching": {"threads": 1},
    "deformation": {"steps": 150, "tracks": 200, "pairs_per_step": 12, "points_per_pair": 96, "cells": 32},
    "gaussians": {"steps": 200, "initial": 2500, "maximum": 3000},
    "export": {"tracks": 50},
}
TINY = {
    "matching": {"window": 2, "strides": [], "min_size": 64, "threads": 1},
    "deformation": {"steps": 12, "tracks": 20, "cells": 8, "checkpoint_seconds": 0.05},
    "gaussians": {"steps": 12, "initial": 200, "maximum": 250, "checkpoint_seconds": 0.05},
    "export": {"tracks": 10},
}


def options(changes: dict[str, dict[str, object]]) -> Options:
    return from_plain(Options, changes, source="test", base=load_preset("quick"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    write_scene(build_scene("creature", frames=FRAMES, size=96), folder)
    return folder


@pytest.fixture(scope="module")
def run(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "creature"
    run_all(with_clip(options(SMALL), scene / "clip"), folder)
    run_eval(folder, scene / "truth")
    return folder


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_scene(build_scene("turntable", frames=4, size=48), folder, truth=False)
    return folder / "clip"


def expected_files(count: int) -> list[str]:
    out = ["run.json", "config.yaml", "metrics.json", "report.html", "geometry/cameras.json",
           "geometry/frame_points.npz", "geometry/correspondences.npz", "geometry/motion.npz",
           "geometry/tracks.npz", "geometry/scene.glb",
           "geometry/sparse/cameras.bin", "geometry/sparse/images.bin",
           "geometry/sparse/points3D.bin", "deformation/field.safetensors", "deformation/metrics.json",
           "deformation/tracks.npz", "gaussians/canonical.ply", "gaussians/field.safetensors",
           "gaussians/metrics.json"]  # fmt: skip
    for name in ("input", "fixed", "orbit"):
        out += [f"renders/{name}.mp4", *(f"renders/{name}/{i:06d}.png" for i in range(count))]
    return out + [f"export/ply/frame_{i:04d}.ply" for i in range(count)]


# --------------------------------------------------------------------------------- a finished run


def test_every_file_of_the_contract_is_there(run: Path) -> None:
    missing = [name for name in expected_files(FRAMES) if not (run / name).is_file() or not (run / name).stat().st_size]
    assert not missing
    assert all((run / "geometry" / "points" / f"{i:06d}.ply").is_file() for i in range(FRAMES))
    assert not [p for p in run.rglob("*") if p.name.startswith((".tmp", ".partial", ".lock"))]


def test_quality(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["input"]["mpsnr"] > 21
    assert metrics["cycle"]["max_rel"] < 1e-5
    assert metrics["track"]["epe_rel"] < 0.03
    evaluation = json.loads((run / "eval.json").read_text())
    assert evaluation["near"]["mpsnr"] > 18
    assert evaluation["camera"]["centre_rel"] < 1e-6
    assert evaluation["aligned_by"]


def test_run_json(run: Path) -> None:
    state = json.loads((run / "run.json").read_text())
    assert {"dyn4d", "python", "torch", "numpy"} <= set(state["versions"])
    assert state["seed"] == 0 and state["device"]
    assert [entry["state"] for entry in state["stages"].values()] == ["done"] * 6
    assert len(state["time"]["seconds"]) == FRAMES and state["time"]["first"] == state["time"]["seconds"][0]
    seconds = json.loads((run / "metrics.json").read_text())["seconds"]
    assert set(seconds) == set(state["stages"]) and all(value > 0 for value in seconds.values())


def test_config_is_the_resolved_one(run: Path, scene: Path) -> None:
    config = load_config(run / "config.yaml")
    assert config == with_clip(options(SMALL), scene / "clip")
    assert set(yaml.safe_load((run / "config.yaml").read_text())) == {f.name for f in dataclasses.fields(Config)}


def test_cameras_are_those_of_the_clip(run: Path, scene: Path) -> None:
    found, given = read_cameras(run / "geometry" / "cameras.json"), read_cameras(scene / "clip" / "cameras.json")
    assert len(found.frames) == FRAMES
    for a, b in zip(found.frames, given.frames):
        assert np.allclose(a.world_from_cam, b.world_from_cam, atol=1e-9)  # type: ignore[arg-type]
        assert a.time == pytest.approx(b.time)


def test_others_can_read_the_files(run: Path) -> None:
    plyfile = pytest.importorskip("plyfile")
    canonical = plyfile.PlyData.read(str(run / "gaussians" / "canonical.ply"))["vertex"]
    frames = [plyfile.PlyData.read(str(run / f"export/ply/frame_{i:04d}.ply"))["vertex"] for i in (0, FRAMES - 1)]
    assert len(canonical) == len(frames[0]) == len(frames[1]) > 100
    assert np.array_equal(frames[0]["f_dc_0"], frames[1]["f_dc_0"])  # row i is one Gaussian
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(str(run / "geometry" / "sparse"))
    assert model.num_reg_images() == FRAMES and model.num_points3D() > 100


def test_run_again_skips_everything(run: Path, scene: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.name != "run.json"}
    run_all(with_clip(options(SMALL), scene / "clip"), run)
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert (run / "eval.json").is_file()


def test_changed_options_are_refused_and_nothing_changes(run: Path, scene: Path) -> None:
    config = with_clip(options({**SMALL, "gaussians": {**SMALL["gaussians"], "steps": 201}}), scene / "clip")
    text = (run / "config.yaml").read_text()
    with pytest.raises(InputError, match=r"gaussians: .*steps: 200 -> 201.*render, export.*--overwrite"):
        run_all(config, run)
    assert (run / "config.yaml").read_text() == text


def test_another_clip_is_refused(run: Path, small_clip: Path) -> None:
    with pytest.raises(InputError, match=r"prepare: .*clip: \w+ had \d+ files, and has \d+"):
        run_all(with_clip(options(SMALL), small_clip), run)


def test_a_later_stage_alone_and_what_it_makes_stale(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = load_config(copy / "config.yaml")
    dark = dataclasses.replace(config, render=RenderConfig(which=("fixed",), background="black"))
    with pytest.raises(InputError, match=r"render\.background"):
        run_stage("render", copy, config=dark)
    run_stage("render", copy, config=dark, overwrite=True)
    assert (copy / "renders" / "fixed.mp4").is_file() and not (copy / "renders" / "input.mp4").exists()
    plan = {one.stage.name: one for one in run_status(copy)[0]}
    assert plan["gaussians"].status == "done" and plan["export"].status == "changed"
    assert "older render" in plan["export"].reason
    with pytest.raises(InputError, match="older render"):
        run_stage("export", copy)
    run_stage("export", copy, overwrite=True)
    assert all(one.status == "done" for one in run_status(copy)[0])


def test_renders_are_added_to_a_finished_stage(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = load_config(copy / "config.yaml")
    kept = {path: path.stat().st_mtime_ns for path in (copy / "renders").rglob("*.*") if path.name != MARKER}
    shown = (copy / "report.html").read_text()
    run_stage("render", copy, config=dataclasses.replace(config, render=RenderConfig(which=("dolly", "depth"))))
    for name in ("dolly.mp4", "depth/000000.png", "depth.json", "input.mp4"):
        assert (copy / "renders" / name).is_file(), name
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    assert all(one.status == "done" for one in run_status(copy)[0])
    report = (copy / "report.html").read_text()
    assert "dolly" in report and "dolly" not in shown
    assert str(copy) not in report and config.clip not in report  # nor where they lie
    kept_names = load_config(copy / "config.yaml").render.which
    assert set(kept_names) == {*config.render.which, "dolly", "depth"}
    more = dataclasses.replace(config, render=RenderConfig(which=("dolly",), gif=True, alpha=True))
    run_stage("render", copy, config=more)  # of all that are there
    for name in ("dolly.gif", "fixed.gif", "dolly_alpha/000000.png", "orbit_alpha/000000.png"):
        assert (copy / "renders" / name).is_file(), name
    assert load_config(copy / "config.yaml").render.which == kept_names


def test_a_deleted_report_is_written_again_without_retraining(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "report.html").unlink()
    marker = (copy / "export" / MARKER).stat().st_mtime_ns
    run_all(load_config(copy / "config.yaml"), copy)
    assert (copy / "report.html").is_file()
    assert (copy / "export" / MARKER).stat().st_mtime_ns == marker
    assert json.loads((copy / "metrics.json").read_text())["track"]["epe_rel"] is not None


# ------------------------------------------------------------------------------------ stage by stage


def test_stages_one_at_a_time_on_some_frames(small_clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = with_clip(dataclasses.replace(options(TINY), frames="::2"), small_clip)
    with pytest.raises(InputError, match="is not a run"):
        run_stage("geometry", out)
    run_prepare(config, out)
    with pytest.raises(RunError, match=r"geometry has to be done first .*dyn4d geometry"):
        run_stage("deform", out)
    for name in ("geometry", "deform", "gaussians", "render", "export"):
        run_stage(name, out)
    missing = [name for name in expected_files(4) if not (out / name).is_file()]  # frames not used are exported too
    assert not missing
    assert sorted(p.name for p in (out / "geometry" / "points").iterdir()) == ["000000.ply", "000002.ply"]
    assert len(read_cameras(out / "geometry" / "cameras.json").frames) == 4
    assert json.loads((out / "metrics.json").read_text())["track"]["epe_rel"] is None


def test_a_run_says_what_is_risky_in_its_clip(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = shutil.copytree(scene / "clip", tmp_path / "clip")
    config = dataclasses.replace(with_clip(options(TINY), clip), hold_out=4)
    run_prepare(config, tmp_path / "clean")
    assert not capsys.readouterr().err  # frames that are held out leave no gap
    for path in sorted((clip / "mask").iterdir())[4:6]:
        mask = np.asarray(Image.open(path)).copy()
        mask[:40] = mask.max()
        Image.fromarray(mask).save(path)
    run_prepare(config, tmp_path / "cut")
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "reaches the edge" in line)
    assert line.startswith("warning: frames 4-5: ") and "(mend: " in line
    said = json.loads((tmp_path / "cut" / "prepare" / "clip.json").read_text())["findings"]
    assert line.removeprefix("warning: ") in said


@pytest.mark.parametrize("where", ["dyn4d.io.clip_watch.ClipWatch.add", "dyn4d.io.clip_findings.find_risks"])
def test_a_fault_in_looking_for_risks_stops_no_run(
    where: str, small_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("odd\npicture")

    monkeypatch.setattr(where, broken)
    run_prepare(with_clip(options(TINY), small_clip), tmp_path / "run")
    assert "warning: what is risky in the clip could not be told (ValueError: odd picture)" in capsys.readouterr().err


def test_frames_held_out_are_evaluated_without_truth(small_clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_all(with_clip(dataclasses.replace(options(TINY), hold_out=3), small_clip), out)
    assert json.loads((out / "prepare" / "clip.json").read_text())["selected"] == [0, 2, 3]
    content = run_eval(out)
    assert content["left_out"]["n"] == 1 and content["left_out"]["mpsnr"] > 5 and content["left_out"]["depth_rel"] < 1
    assert content["groups"] == {} and content["aligned_by"] is None
    assert json.loads((out / "eval.json").read_text()) == content
    assert "frames left out" in (out / "report.html").read_text(encoding="utf-8")

    whole = tmp_path / "whole"
    run_all(with_clip(options(TINY), small_clip), whole)
    with pytest.raises(InputError, match=r"nothing to compare with.*--hold-out 8"):
        run_eval(whole)
    assert not (whole / "eval.json").exists()


def test_why_nothing_can_be_compared(small_clip: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    clip = load_clip(small_clip)
    assert "make a run with --hold-out 8" in why_nothing_left_out(clip, [0, 1, 2, 3])
    bare = dataclasses.replace(clip, poses_given=False)
    assert "the 1 frame left out has no camera" in why_nothing_left_out(bare, [0, 1, 2])
    shutil.copytree(small_clip, tmp_path / "clip")
    said = json.loads((tmp_path / "clip" / "cameras.json").read_text())
    for frame in said["frames"]:
        del frame["w2c"]
    (tmp_path / "clip" / "cameras.json").write_text(json.dumps(said))
    run_prepare(dataclasses.replace(with_clip(options(TINY), tmp_path / "clip"), hold_out=3), tmp_path / "run")
    assert "warning: --hold-out 3: the clip gives no camera poses" in capsys.readouterr().err


def test_a_still_reconstruction(small_clip: Path, tmp_path: Path) -> None:
    config = with_clip(options({**TINY, "deformation": {"kind": "none", "tracks": 20}}), small_clip)
    run_all(config, tmp_path / "run")
    tracks = np.load(tmp_path / "run" / "deformation" / "tracks.npz")
    assert np.ptp(tracks["xyz"], axis=0).max() == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_kill_9_at_many_moments_then_the_same_command(small_clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    path = tmp_path / "config.yaml"
    from dyn4d.config import dump_config

    path.write_text(dump_config(with_clip(options(TINY), small_clip)))
    program = (
        "from pathlib import Path\nfrom dyn4d.config import load_config\nfrom dyn4d.pipeline import run_all\n"
        f"run_all(load_config(Path({str(path)!r})), {str(out)!r})"
    )
    for stage in ("prepare", "geometry", "deform", "gaussians", "render"):  # kill each soon after it began
        process = subprocess.Popen([sys.executable, "-c", program])
        for _ in range(6000):
            if (out / f".partial-{stage}").exists() or process.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(0.1)
        process.kill()
        process.wait()
    run_all(load_config(path), out)
    assert not [name for name in expected_files(4) if not (out / name).is_file()]
    assert not [p for p in out.rglob("*") if p.name.startswith((".tmp", ".partial", ".lock"))]
    state = json.loads((out / "run.json").read_text())
    assert [entry["state"] for entry in state["stages"].values()] == ["done"] * 6
    assert all(one.status == "done" for one in run_status(out)[0])


# ------------------------------------------------------------------------------------------ bad input


def copy_clip(clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip, tmp_path / "clip"))


@pytest.mark.usefixtures("no_small_weights")
def test_no_depth_ends_with_one_message_and_no_folder(small_clip: Path, tmp_path: Path) -> None:
    clip = copy_clip(small_clip, tmp_path)
    shutil.rmtree(clip / "depth")
    cameras = json.loads((clip / "cameras.json").read_text())
    for frame in cameras["frames"]:
        frame.pop("depth", None)
    (clip / "cameras.json").write_text(json.dumps(cameras))
    with pytest.raises(InputError, match="depth"):
        run_all(with_clip(options(TINY), clip), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_image_cut_short_is_named(small_clip: Path, tmp_path: Path) -> None:
    clip = copy_clip(small_clip, tmp_path)
    victim = sorted((clip / "rgb").iterdir())[2]
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(InputError, match=victim.name):
        run_all(with_clip(options(TINY), clip), tmp_path / "run")


def test_a_device_that_is_not_there(small_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--device warp"):
        run_all(with_clip(dataclasses.replace(options(TINY), device="warp"), small_clip), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_truth_that_is_not_there(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--truth"):
        run_eval(run, tmp_path / "nothing")


def test_fingerprint_follows_content_not_dates(small_clip: Path, tmp_path: Path) -> None:
    copy = copy_clip(small_clip, tmp_path)
    os.utime(copy / "cameras.json", (1, 1))
    assert clip_fingerprint(copy) == clip_fingerprint(small_clip)
    (copy / "README.md").write_text("notes")
    assert clip_fingerprint(copy) == clip_fingerprint(small_clip)
    (copy / "cameras.json").write_text((copy / "cameras.json").read_text() + " ")
    assert clip_fingerprint(copy) != clip_fingerprint(small_clip)


def test_geometry_depends_on_what_is_in_named_files(tmp_path: Path) -> None:
    maps = tmp_path / "export" / "depth"
    maps.mkdir(parents=True)
    (maps / "0.npy").write_bytes(b"a")
    (tmp_path / "clip").mkdir()
    geometry = next(stage for stage in STAGES if stage.name == "geometry")
    chosen = dataclasses.replace(options(TINY).geometry, pointmaps=str(tmp_path / "export"))
    config = with_clip(dataclasses.replace(options(TINY), geometry=chosen), tmp_path / "clip")
    before = geometry.settings(config)
    assert geometry.settings(config) == before
    (maps / "0.npy").write_bytes(b"b")
    assert geometry.settings(config) != before


def test_time_is_that_of_the_whole_clip(small_clip: Path) -> None:
    assert load_clip(small_clip, frames="1:3").times.tolist() == pytest.approx([1 / 3, 2 / 3])
