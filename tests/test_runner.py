"""The stage runner: skip, go on, refuse, overwrite; kills at every moment; the lock; a full disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fake_pipeline as fake
import pytest

from dyn4d import runner, runs
from dyn4d.core.errors import InputError, RunError
from dyn4d.io import atomic
from dyn4d.progress import PlainProgress
from dyn4d.runs import RunFolder, RunState, locked

FILES = ["run.json", "one/a.txt", "two/deep/b.txt", "three/c.txt", "sum.json"]


def visible(root: Path) -> list[str]:
    """Every file but the markers."""
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and p.name != runner.MARKER)


def results(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text() for name in FILES if name != "run.json"}


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, str]:
    fake.run_fake(tmp_path / "expected" / "run", fake.config())
    return results(tmp_path / "expected" / "run")


def test_runs_once_then_skips(tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert fake.run_fake(root, fake.config()) == ["first", "second", "third"]
    assert visible(root) == sorted(FILES)  # nothing half-done, no lock, no scratch
    before = {name: (root / name).stat().st_mtime_ns for name in FILES if name != "run.json"}
    assert fake.run_fake(root, fake.config()) == []
    assert before == {name: (root / name).stat().st_mtime_ns for name in before}


def test_run_json_says_what_happened(tmp_path: Path) -> None:
    fake.run_fake(tmp_path / "run", fake.config(sleep=0.01))
    stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert list(stages) == ["first", "second", "third"]
    assert all(entry["state"] == "done" for entry in stages.values())
    assert stages["second"]["seconds"] >= fake.PIECES * 0.01


def test_change_is_refused_with_its_reason_and_nothing_is_touched(tmp_path: Path) -> None:
    root = tmp_path / "run"
    fake.run_fake(root, fake.config())
    before = results(root)
    with pytest.raises(InputError, match=r"second: .*value: 2 -> 7 \(then also third\).*--overwrite"):
        fake.run_fake(root, fake.config(second=7))
    assert results(root) == before and visible(root) == sorted(FILES)


def test_overwrite_replaces_only_what_changed(tmp_path: Path) -> None:
    root = tmp_path / "run"
    fake.run_fake(root, fake.config())
    stamp = (root / "one" / "a.txt").stat().st_mtime_ns
    assert fake.run_fake(root, fake.config(second=7), overwrite=True) == ["second", "third"]
    assert (root / "one" / "a.txt").stat().st_mtime_ns == stamp
    assert (root / "three" / "c.txt").read_text().startswith("17 0")
    assert visible(root) == sorted(FILES)


def test_options_that_change_only_the_time_taken_do_not_count(tmp_path: Path) -> None:
    fake.run_fake(tmp_path / "run", fake.config())
    assert fake.run_fake(tmp_path / "run", fake.config(threads=8)) == []


def test_a_lost_file_is_made_again(tmp_path: Path) -> None:
    root = tmp_path / "run"
    fake.run_fake(root, fake.config())
    (root / "two" / "deep" / "b.txt").unlink()
    assert fake.run_fake(root, fake.config()) == ["second"]
    (root / "sum.json").unlink()
    assert fake.run_fake(root, fake.config()) == ["third"]
    shutil.rmtree(root / "one")
    assert fake.run_fake(root, fake.config()) == ["first"]
    assert visible(root) == sorted(FILES)


def test_an_edited_file_is_not_replaced_silently(tmp_path: Path) -> None:
    root = tmp_path / "run"
    fake.run_fake(root, fake.config())
    (root / "two" / "deep" / "b.txt").write_text("mine")
    with pytest.raises(InputError, match=r"two/deep/b.txt has 4 bytes"):
        fake.run_fake(root, fake.config())
    assert fake.run_fake(root, fake.config(), overwrite=True) == ["second"]


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("")
    with pytest.raises(InputError, match=r"holds other files \(cat.jpg\)"):
        fake.run_fake(tmp_path / "photos", fake.config())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        fake.run_fake(tmp_path / "file", fake.config())


# ---------------------------------------------------------------------------------------------- kills


class Killed(BaseException):
    """Stands for the end of the process: once raised, nothing more reaches the disk."""


class Mortal:
    """Lets the first `lives` changes of the disk through, then fails all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lives: int) -> None:
        self.lives, self.count = lives, 0
        self.patch = monkeypatch
        for owner, name in (
            (Path, "rename"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (Path, "write_text"),
            (shutil, "rmtree"), (runs, "write_json"), (runner, "write_json"), (atomic, "write_json"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, self.wrap(getattr(owner, name)))

    def wrap(self, function: Any) -> Any:
        def mortal(*args: Any, **options: Any) -> Any:
            self.count += 1
            if self.count > self.lives:
                raise Killed
            return function(*args, **options)

        return mortal


def run_until_killed(root: Path, settings: dict[str, Any], lives: int, *, overwrite: bool = False) -> bool:
    """True if it was killed."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        Mortal(monkeypatch, lives)
        try:
            fake.run_fake(root, settings, overwrite=overwrite)
        except Killed:
            return True
    return False


def test_killed_at_any_change_of_the_disk_it_goes_on(tmp_path: Path, expected: dict[str, str]) -> None:
    for lives in range(1000):
        root = tmp_path / str(lives) / "run"
        root.parent.mkdir()
        killed = run_until_killed(root, fake.config(), lives)
        fake.run_fake(root, fake.config())
        assert results(root) == expected, lives
        assert visible(root) == sorted(FILES), lives
        if not killed:
            assert lives > 60  # every part of the run was hit
            return
    raise AssertionError("never ended by itself")


def test_killed_while_overwriting_old_or_new_is_whole(tmp_path: Path, expected: dict[str, str]) -> None:
    fake.run_fake(tmp_path / "old" / "run", fake.config())
    fake.run_fake(tmp_path / "new" / "run", fake.config(second=7))
    wanted = results(tmp_path / "new" / "run")
    for lives in range(1000):
        root = tmp_path / str(lives) / "run"
        shutil.copytree(tmp_path / "old" / "run", root)
        killed = run_until_killed(root, fake.config(second=7), lives, overwrite=True)
        found = root / "two" / "deep" / "b.txt"
        assert not found.exists() or found.read_text() in (expected["two/deep/b.txt"], wanted["two/deep/b.txt"])
        fake.run_fake(root, fake.config(second=7), overwrite=True)
        assert results(root) == wanted, lives
        assert visible(root) == sorted(FILES), lives
        if not killed:
            return
    raise AssertionError("never ended by itself")


def start_program(root: Path) -> subprocess.Popen[str]:
    program = [sys.executable, fake.__file__, str(root)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def wait_for_pieces(root: Path, count: int) -> None:
    log = root.parent / "log"
    for _ in range(1000):
        if log.exists() and len(log.read_text().split()) >= count:
            return
        time.sleep(0.01)
    raise AssertionError("the program does not work")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_kill_9_inside_a_stage_then_the_same_command(tmp_path: Path, expected: dict[str, str]) -> None:
    root = tmp_path / "killed" / "run"
    root.parent.mkdir()
    process = start_program(root)
    wait_for_pieces(root, 4)
    process.kill()
    process.communicate()
    assert (root / ".lock").exists()  # left behind, but nobody holds it
    done = len((root.parent / "log").read_text().split())
    assert fake.run_fake(root, fake.config()) == ["second", "third"]
    computed = (root.parent / "log").read_text().split()
    assert len(computed) <= fake.PIECES + 1  # at most the piece that was cut off is made twice
    assert done >= 4 and results(root) == expected and visible(root) == sorted(FILES)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_is_130_and_one_line_and_seconds_add_up(tmp_path: Path) -> None:
    root = tmp_path / "stopped" / "run"
    root.parent.mkdir()
    process = start_program(root)
    wait_for_pieces(root, 6)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.strip().splitlines() == ["dyn4d: stopped; run the same command to go on"]
    before = RunState(RunFolder(root)).data["stages"]["second"]
    assert before["state"] == "interrupted" and before["seconds"] >= 0.25
    fake.run_fake(root, fake.config())
    after = RunState(RunFolder(root)).data["stages"]["second"]
    assert after["state"] == "done" and after["seconds"] >= before["seconds"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_two_at_once_are_kept_apart(tmp_path: Path) -> None:
    root = tmp_path / "twice" / "run"
    root.parent.mkdir()
    process = start_program(root)
    wait_for_pieces(root, 1)
    try:
        with pytest.raises(InputError, match=f"process {process.pid}"):
            fake.run_fake(root, fake.config())
    finally:
        process.kill()
        process.communicate()


def test_a_stale_lock_is_taken_over_and_removed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create()
    (run.root / ".lock").write_text("999999999\n")
    with locked(run):
        assert (run.root / ".lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(InputError, match="this process"), locked(run):
            pass
    assert not (run.root / ".lock").exists()


# -------------------------------------------------------------------------------------------- failures


def failing(error: BaseException) -> tuple[runner.Stage, ...]:
    def work(ctx: runner.StageContext) -> None:
        raise error

    return (runner.Stage("only", "only", (), lambda c: {}, work),)


def run_stages(stages: tuple[runner.Stage, ...], root: Path, progress: Any = None) -> None:
    run = RunFolder(root)
    run.create()
    with locked(run):
        state = RunState(run)
        for planned in runner.make_plan(stages, None, run):
            runner.execute(planned, None, run, state, progress or runner_progress())


def runner_progress() -> Any:
    from dyn4d.progress import QuietProgress

    return QuietProgress()


def test_a_full_disk_is_one_clear_error_and_can_be_gone_on_from(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "big.npz")
    with pytest.raises(RunError, match=r"only: disk full while writing big.npz.*the same command"):
        run_stages(failing(error), tmp_path / "run")
    entry = RunState(RunFolder(tmp_path / "run")).data["stages"]["only"]
    assert entry["state"] == "failed" and "No space" in entry["error"]
    done = (runner.Stage("only", "only", (), lambda c: {}, lambda ctx: None),)
    run_stages(done, tmp_path / "run")
    assert RunState(RunFolder(tmp_path / "run")).data["stages"]["only"]["state"] == "done"


def test_the_first_error_is_told_even_if_run_json_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(ctx: runner.StageContext) -> None:
        def full(*args: Any) -> None:
            raise RunError("disk full while writing run.json")

        monkeypatch.setattr(runs, "write_json", full)
        raise OSError(errno.ENOSPC, "No space left on device", "first.npz")

    with pytest.raises(RunError, match=r"first\.npz"):
        run_stages((runner.Stage("only", "only", (), lambda c: {}, work),), tmp_path / "run")


def test_warnings_are_kept_once_and_forgotten_when_the_stage_starts_anew(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create()
    state = RunState(run)
    state.begin("a", "key", goes_on=False)
    state.warn("dark")
    state.warn("dark")
    state.end("done")
    assert RunState(run).data["warnings"] == [{"stage": "a", "text": "dark"}]
    state.begin("a", "other", goes_on=False)
    assert RunState(run).data["warnings"] == []


def test_a_damaged_marker_is_not_taken_for_a_finished_stage(tmp_path: Path) -> None:
    root = tmp_path / "run"
    fake.run_fake(root, fake.config())
    (root / "one" / runner.MARKER).write_text("{")
    with pytest.raises(InputError, match="one/ is there, but was not finished"):
        fake.run_fake(root, fake.config())


def test_an_earlier_stage_is_asked_for_by_its_command(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create()
    plan = runner.make_plan(fake.STAGES, fake.config(), run)
    with pytest.raises(RunError, match=r"first has to be done first.*dyn4d first"):
        runner.require_done(plan, ("first",), run)


def test_lines_say_what_is_skipped_and_what_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake.run_fake(tmp_path / "run", fake.config(), progress=PlainProgress(every=0.0))
    said = capsys.readouterr().err
    assert "second: started" in said and f"second: {fake.PIECES}/{fake.PIECES} loss 11" in said
    fake.run_fake(tmp_path / "run", fake.config(), progress=PlainProgress())
    assert capsys.readouterr().err.splitlines() == [
        f"{n}: skipped, nothing changed" for n in ("first", "second", "third")
    ]
