"""The command line: help without torch, exit codes, one line for an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dyn4d import cli
from dyn4d.core.errors import RunError

COMMANDS = ["demo", "run", "prepare", "geometry", "deform", "gaussians", "render", "export", "eval", "status", "view",
            "import", "check", "match", "mask", "ply", "weights", "train-matcher", "train-geometry"]  # fmt: skip
HEAVY = ("torch", "numba", "cv2", "av", "scipy")


def call(*words: str) -> tuple[int, str]:
    """Run in a process of its own; returns the exit code and the heavy packages that it imported."""
    program = (
        "import sys\nfrom dyn4d.cli import main\ncode = main(sys.argv[1:])\n"
        f"print('IMPORTED', [m for m in {HEAVY!r} if m in sys.modules])\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "words",
    [["--help"], ["run", "--help"], ["demo", "--help"], ["match", "--help"], ["import", "--help"], ["--version"]],
)
def test_help_needs_nothing_heavy(words: list[str]) -> None:
    code, out = call(*words)
    assert code == 0 and "IMPORTED []" in out


def test_status_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "a.png").write_bytes(b"x")
    (tmp_path / "run.json").write_text('{"format": "dyn4d-run/1", "stages": {}}')
    (tmp_path / "config.yaml").write_text(f"clip: {tmp_path / 'clip'}\n")
    code, out = call("status", str(tmp_path))
    assert code == 0 and "IMPORTED []" in out
    assert "geometry" in out and "not done yet" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0 and cli.main([name, "--help"]) == 0  # twice in one process
    out = capsys.readouterr().out
    assert f"dyn4d {name}" in out and "--debug" in out
    assert "{None}" not in out and "[bold]" not in out and "(default: '')" not in out.split(" options ")[0]


def test_top_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"dyn4d {name} " in out for name in COMMANDS)
    assert set(cli.COMMANDS) == set(COMMANDS)


def test_run_help_shows_every_fixed_option(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["run", "--help"])
    out = capsys.readouterr().out
    for flag in ("--out", "--preset", "--geometry.source", "--frames", "--max-size", "--device", "--seed",
                 "--overwrite", "--quiet", "--debug", "--deformation.kind", "--mask"):  # fmt: skip
        assert flag in out


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("dyn4d: "), lines
    return lines[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say what to do"),
        (["sing"], "sing: no such command; there are demo, run"),
        (["pyl"], "pyl: no such command; did you mean ply?"),
        (["run"], "CLIP is missing"),
        (["run", "clip", "--geometry.sorce", "rgbd"], "--geometry.sorce"),
        (["run", "clip", "--geometry.source", "magic"], "--geometry.source: wanted one of auto, rgbd, "),
        (["run", "clip", "--steps", "7"], "no option --steps; perhaps --deformation.steps or --gaussians.steps; see"),
        (["export", "{tmp}", "--out", "x"], "is not a run"),
        (["run", "clip", "--seed", "one"], "dyn4d: --seed: wanted a whole number, found 'one'; see dyn4d run --help"),
        (["run", "clip", "--max-size", "big"], "--max-size: wanted a whole number, found 'big'"),
        (["run", "clip", "--render.which", "orbit", "moon"], "--render.which: wanted one of input, fixed, "),
        (["run", "clip", "--seed", "-1"], "seed: wanted 0 or more"),
        (["run", "clip", "--gaussians.steps", "-5"], "gaussians.steps"),
        (["run", "clip", "--preset", "fast"], "no such preset; use one of quick"),
        (["run", "clip", "more"], "'more' is one word too many"),
        (["run", "clip", "--max-size"], "--max-size: its value is missing"),
        (["run", "not/there"], "not/there is not there"),
        (["prepare", "clip"], "--out is missing"),
        (["geometry"], "RUN is missing"),
        (["geometry", "not/there"], "is not a run"),
        (["status", "not/there"], "is not a run"),
        (["eval"], "RUN is missing"),
        (["eval", "not/there"], "is not a run"),
        (["run", "clip", "--hold-out", "1"], "hold_out: wanted 0 for none, or 2 or more"),
        (["eval", "not/there", "--truth", "x"], "is not a run"),
        (["check", "not/there"], "not/there is not there"),
        (["ply", "wobble", "a.ply"], "dyn4d: ply wobble: no such action; there are info"),
        (["ply", "crap", "a.ply"], "ply crap: no such action; did you mean crop?"),
        (["ply", "crop", "a.ply", "b.ply", "--box", "1", "2"], "--box: wanted 6 values, found 2"),
        (["ply", "info", "not/there.ply"], "not/there.ply"),
        (["demo", "--length", "0", "--out", "{tmp}/d"], "frames"),
        (["demo", "--scene", "cat"], "--scene: wanted one of creature, "),
    ],
)
def test_bad_usage_is_2_and_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([word.format(tmp=tmp_path) for word in words]) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RunError("it broke"), 1, "it broke"),
        (KeyboardInterrupt(), 130, "run the same command to go on"),
        (ValueError("a\nb"), 1, "internal error: ValueError: a b"),
        (MemoryError(), 1, "out of memory"),
        (OSError(13, "Permission denied", "x"), 1, "Permission denied"),
    ],
)
def test_failures(
    error: BaseException, code: int, message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(name: str, words: object) -> None:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "fail", (fail, "", ""))
    assert cli.main(["fail"]) == code
    assert message in one_line(capsys)
    assert cli.main(["fail", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_a_preset_is_what_options_are_read_over() -> None:
    words = ["clip", "--preset", "quick", "--gaussians.initial", "123"]
    quick = cli.load_preset("quick")
    args = cli.parse(cli.RunArgs, "run", words, cli.RunArgs(options=cli._preset_of(words, "default")))
    assert args.options.gaussians.initial == 123
    assert args.options.gaussians.steps == quick.gaussians.steps
    assert cli._preset_of(["--preset=quality"], "default") == cli.load_preset("quality")
    assert cli._preset_of([], "default") == cli.load_preset("default")


def test_none_undoes_a_limit() -> None:
    default = cli.RunArgs(options=cli.load_preset("quick"))
    assert default.options.max_size is not None
    assert cli.parse(cli.RunArgs, "run", ["clip", "--max-size", "none"], default).options.max_size is None
    from dyn4d.cli_args import MatchArgs

    assert cli.parse(MatchArgs, "match", ["a", "b", "--mask-a", "none"], MatchArgs()).mask_a == "none"  # no mask at all


def test_module_and_stage_scripts_are_the_same_program() -> None:
    root = Path(__file__).parent.parent
    for program in (["-m", "dyn4d", "geometry"], [str(root / "stages" / "geometry.py")]):
        done = subprocess.run([sys.executable, *program], capture_output=True, text=True, check=False, cwd=root)
        assert done.returncode == 2 and "RUN is missing" in done.stderr
    for stage in ("prepare", "geometry", "deform", "gaussians", "render", "export"):
        assert f'main(["{stage}", *sys.argv[1:]])' in (root / "stages" / f"{stage}.py").read_text()


@pytest.mark.parametrize(("stage", "own"), [("render", "--render.*"), ("geometry", "--geometry.* and --matching.*")])
def test_the_help_of_a_stage_says_which_options_are_its_own(
    stage: str, own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = cli.main([stage, "--help"])
    except SystemExit as stop:
        code = stop.code
    assert code in (0, None) and f"Its own are {own}" in " ".join(capsys.readouterr().out.split())
