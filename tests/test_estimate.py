"""Estimates of runs: what they count, what they refuse and what they propose instead, and that they write nothing."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dyn4d import cli, estimate, speed
from dyn4d.config import Config, load_preset, with_clip
from dyn4d.core.errors import InputError
from dyn4d.core.usage import busy_seconds, forget_peak, machine_seconds, peak_bytes
from dyn4d.costs import KINDS, STAGES, disk_parts, factors, memory_parts, seconds_parts, stage_costs
from dyn4d.estimate import Estimate, make_estimate, refuse_what_does_not_fit, what_would_fit
from dyn4d.estimate_cli import about, short_lines, table
from dyn4d.speed import MachineSpeed, machine_speed
from dyn4d.synthetic import build_scene, write_scene
from dyn4d.workload import ClipSize, count_work, growth, look_at_clip

QUICK = load_preset("quick")
UNIT = MachineSpeed(0.01, 0.1, 0.03, 0.02)
SIZE = ClipSize(frames=48, all_frames=48, width=256, height=256, inside=6000, with_depth=6000, box_width=120,
                box_height=150, widest=140, highest=160, read=0.004)  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimate")
    return write_scene(build_scene("creature", frames=6, size=64), folder, truth=False).clip


@pytest.fixture(autouse=True)
def known_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test of this file waits for a measurement, or writes where the user's is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "measure_speed", lambda device: UNIT)


def plan(size: ClipSize = SIZE, config: Config | None = None, **there: int) -> Estimate:
    config = config or with_clip(QUICK, "clip")
    work = count_work(size, config, "rgbd")
    costs = stage_costs(work, config, UNIT)
    return Estimate(config, "rgbd", size, work, costs, (), there.get("memory", 2**60), there.get("disk", 2**60), 1)


# ------------------------------------------------------------------------------------------ what is counted


def test_growth_follows_the_schedule() -> None:
    config = replace(QUICK.gaussians, steps=1000, maximum=20_000)
    mean, end = growth(config, 9_500)
    assert 9_500 < mean < end <= 20_000
    assert growth(replace(config, maximum=9_500), 9_500)[1] <= 9_500
    assert growth(replace(config, steps=0), 500) == (500, 500)
    assert growth(replace(config, densify_from=1.0, densify_until=1.0, densify_every=7), 500) == (500, 500)


def test_every_cost_grows_with_what_there_is_to_do() -> None:
    base = plan()
    longer, larger = replace(SIZE, frames=96, all_frames=96), replace(
        SIZE, width=512, height=512, inside=24_000, with_depth=24_000, box_width=240, box_height=300, widest=280,
        highest=320, read=0.016,
    )  # fmt: skip
    for size in (longer, larger):
        assert plan(size).seconds > base.seconds and plan(size).disk > base.disk and plan(size).memory > base.memory
    more = replace(base.config, gaussians=replace(QUICK.gaussians, steps=6000))
    assert plan(config=more).costs["gaussians"].seconds > 2 * base.costs["gaussians"].seconds
    fitted = replace(base.config, deformation=replace(QUICK.deformation, steps=4000))
    assert plan(config=fitted).costs["deform"].seconds > 2 * base.costs["deform"].seconds


def test_a_slower_machine_needs_as_much_longer() -> None:
    work, config = count_work(replace(SIZE, read=0.0), with_clip(QUICK, "clip"), "rgbd"), with_clip(QUICK, "clip")
    slow = MachineSpeed(*(3 * value for value in (UNIT.draw, UNIT.field, UNIT.flow, UNIT.plain)))
    for stage, cost in stage_costs(work, config, UNIT).items():
        assert stage_costs(work, config, slow)[stage].seconds == pytest.approx(3 * cost.seconds)


def test_all_factors_belong_to_parts() -> None:
    work, config = count_work(SIZE, with_clip(QUICK, "clip"), "rgbd"), with_clip(QUICK, "clip")
    parts = {"seconds": seconds_parts(work, config, UNIT), "memory": memory_parts(work, config),
             "disk": disk_parts(work, config)}  # fmt: skip
    for kind in KINDS:
        assert set(parts[kind]) == set(STAGES)
        for stage in STAGES:
            assert factors()[kind][stage] and set(factors()[kind][stage]) <= set(parts[kind][stage])
            assert all(value >= 0 for value in factors()[kind][stage].values())


def test_a_still_object_needs_no_fit() -> None:
    config = replace(with_clip(QUICK, "clip"), deformation=replace(QUICK.deformation, kind="none"))
    assert plan(config=config).costs["deform"].seconds < 0.5 * plan().costs["deform"].seconds


def test_a_clip_is_counted_from_a_few_frames(clip: Path) -> None:
    from dyn4d.io.clips import load_clip

    size = look_at_clip(load_clip(clip), most=3)
    assert (size.frames, size.all_frames, size.width, size.height) == (6, 6, 64, 64)
    assert 0 < size.with_depth <= size.inside < 64 * 64 and size.present == 1.0 and size.read > 0
    half = look_at_clip(load_clip(clip, max_size=32))
    assert half.inside == pytest.approx(size.inside / 4, rel=0.2)


# ------------------------------------------------------------------------------------------ what does not fit


def test_what_fits_is_let_through() -> None:
    refuse_what_does_not_fit(plan())


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_what_does_not_fit_is_refused_with_what_would(what: str) -> None:
    huge = replace(SIZE, frames=3000, all_frames=3000, width=3840, height=2160, inside=2e6, with_depth=2e6,
                   box_width=1500, box_height=1800, widest=1700, highest=1900, read=0.3)  # fmt: skip
    need = plan(huge)
    there = {"memory": int(0.6 * need.memory)} if what == "memory" else {"disk": int(0.6 * need.disk)}
    short = plan(huge, **there)
    assert short.lacks == (what,)
    ways = what_would_fit(short)
    assert ways
    with pytest.raises(InputError, match=f"of {what}, .* are free; would fit: ") as caught:
        refuse_what_does_not_fit(short)
    assert all(way in str(caught.value) for way in ways) and "\n" not in str(caught.value)
    for way in ways:  # they are options of the command line, and with them it does fit
        words = ["clip", "--preset", "quick", *way.split()]
        args = cli.parse(cli.RunArgs, "run", words, cli.RunArgs(options=QUICK))
        new = with_clip(args.options, "clip")
        ratio = (args.options.max_size or 3840) / 3840 if "--max-size" in way else 1.0
        step = int(new.frames.split(":")[2]) if new.frames else 1
        size = replace(estimate._smaller(huge, ratio), frames=-(-huge.frames // step))
        assert not plan(size, new, **there).lacks


def test_options_that_only_fit_together_are_found() -> None:
    few = replace(SIZE, frames=6, all_frames=6, width=4000, height=3000, inside=1.2e7, with_depth=1.2e7,
                  box_width=4000, box_height=3000, widest=4000, highest=3000)  # fmt: skip
    many = replace(QUICK.gaussians, initial=10**8, maximum=10**8)
    ways = what_would_fit(plan(few, with_clip(replace(QUICK, gaussians=many), "clip"), memory=5 * 2**30))
    assert ways and all(way.startswith("--") for way in ways)
    tight = plan(few, with_clip(replace(QUICK, gaussians=many), "clip"), memory=2**30)
    (way,) = what_would_fit(tight)
    assert "--max-size" in way and "--gaussians.maximum" in way


def test_where_nothing_fits_it_is_said() -> None:
    with pytest.raises(InputError, match="no smaller plan that fits is known"):
        refuse_what_does_not_fit(plan(memory=2**20))


# ------------------------------------------------------------------------------------------ the command


def test_estimate_prints_a_table_and_writes_nothing(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert cli.main(["run", str(clip), "--estimate", "--preset", "quick"]) == 0
    out, err = capsys.readouterr()
    assert all(stage in out for stage in (*STAGES, "in all", "memory", "disk")) and err == ""
    assert "6 frames, 64 x 64 pixels" in out
    assert not list((tmp_path / "here").iterdir())
    assert cli.main(["run", str(clip), "--estimate", "--gaussians.initial", "9000000"]) == 0
    assert "gaussians.initial: 9,000,000 asked for; there are about" in capsys.readouterr().out
    assert cli.main(["run", str(clip), "--estimate", "--gaussians.maximum", "500"]) == 0
    said = capsys.readouterr().out
    assert "gaussians.maximum is 500" in said and "500 Gaussians" in said


def test_a_run_that_does_not_fit_is_refused_before_it_begins(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(estimate, "free_disk", lambda place: 2**20)
    for words in (["--estimate"], ["--quiet"]):
        assert cli.main(["run", str(clip), "--out", str(tmp_path / "run"), *words]) == 2
        assert "of disk, 1 MB are free" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_small_weights")
def test_without_depth_or_weights_one_line_says_so(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("rgb", "mask"):
        (bare / name).symlink_to(clip / name)
    assert cli.main(["run", str(bare), "--estimate"]) == 2
    err = capsys.readouterr().err
    assert "nothing to get geometry from" in err and len(err.splitlines()) == 1


def test_finished_stages_cost_nothing(clip: Path, tmp_path: Path) -> None:
    from dyn4d.pipeline import run_prepare

    config = with_clip(QUICK, clip)
    run_prepare(config, tmp_path / "run")
    found = make_estimate(config, tmp_path / "run")
    assert found.done == ("prepare",) and "done" in table(found)
    assert found.seconds == pytest.approx(sum(found.costs[stage].seconds for stage in STAGES[1:]))
    entry = json.loads((tmp_path / "run/run.json").read_text())["stages"]["prepare"]
    assert entry["busy_seconds"] > 0 and entry["peak_memory"] > 2**20
    other = replace(config, hold_out=4)
    found = make_estimate(other, tmp_path / "run")
    assert found.done == () and "would not replace: prepare: finished, but not by" in table(found)
    assert "would not replace" not in table(make_estimate(other, tmp_path / "run", overwrite=True))


def test_the_words() -> None:
    found = plan()
    assert about(found).startswith("48 frames, 256 x 256 pixels; ")
    lines = short_lines(found)
    assert len(lines) == 2 and lines[1].startswith("expected: ") and "memory" in lines[1]


# ------------------------------------------------------------------------------------------ the machine


def test_speed_is_remembered_for_a_week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, calls = torch.device("cpu"), []
    monkeypatch.setattr(speed, "measure_speed", lambda device: (calls.append(1), UNIT)[1])
    assert machine_speed(cpu) == UNIT and machine_speed(cpu) == UNIT and len(calls) == 1
    assert machine_speed(cpu, fresh=True) == UNIT and len(calls) == 2
    path = next((tmp_path / "cache" / "dyn4d").glob("speed-*.json"))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "measured": time.time() - 8 * 24 * 3600}))
    machine_speed(cpu)
    path.write_text("{")
    machine_speed(cpu)
    assert len(calls) == 4
    monkeypatch.setattr(speed, "measure_speed", lambda device: (calls.append(1), replace(UNIT, others=1.3))[1])
    path.unlink()
    assert machine_speed(cpu).disturbed and not path.exists()  # a busy machine's speed is not remembered


def test_other_programs_are_noticed() -> None:
    before = machine_seconds()
    if before is None:
        pytest.skip("this system does not say")
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.6)
    finally:
        child.kill()
        child.wait()
    after = machine_seconds()
    assert after is not None and after - before > 0.1


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be closed off there")
def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert machine_speed(torch.device("cpu")) == UNIT


def test_memory_and_time_of_the_process() -> None:
    can_forget = forget_peak()
    before, base = busy_seconds(), peak_bytes()
    size = 60 * 2**20
    # Mapped by hand: what an allocator frees may stay in its heap, and so in the process.
    with mmap.mmap(-1, size) as block:
        for at in range(0, size, 4096):
            block[at] = 1
        high = peak_bytes()
    assert base is not None and high is not None and high > size and busy_seconds() > before
    if can_forget:
        assert high > base + size // 2
        assert forget_peak()
        now = peak_bytes()
        assert now is not None and now < high - size // 2


def test_the_small_network_that_comes_along_is_in_the_estimate(clip: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("rgb", "mask"):
        (bare / name).symlink_to(clip / name)
    asked = with_clip(QUICK, bare)
    found = make_estimate(asked, tmp_path / "run", measure_network=True)
    assert found.config == asked, "what a run is compared with to tell whether its stages are finished"
    assert found.source == "mast3r" and found.work.network_seconds > 0
    assert any("not the alignment" in note for note in found.notes)
