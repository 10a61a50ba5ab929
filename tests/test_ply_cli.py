"""`dyn4d ply`: what is printed, exit codes, and that nothing is written or replaced that should not be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "io"))
from ply_clouds import gaussians, points, save

from dyn4d import cli
from dyn4d.ply_cli import ACTIONS


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return save(tmp_path / "g.ply", gaussians(300, 1, extra=("confidence",)))


def call(*words: object) -> int:
    return cli.main(["ply", *map(str, words)])


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_every_action_has_help(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(action, "--help") == 0 and call(action, "--help") == 0  # twice in one process
    out = capsys.readouterr().out
    assert (
        f"dyn4d ply {action}" in out
        and "--debug" in out
        and all(label.strip("[]").split()[0] in out for label in ACTIONS[action][0].PLACES.values())
    )


def test_help_and_figures_need_no_torch(cloud: Path) -> None:
    words = ["", "convert --help", "info g.ply", "compare g.ply g.ply", "crop g.ply o.ply --min-opacity 0.5",
             "convert g.ply o.spz"]  # fmt: skip
    program = (
        "import sys\nfrom dyn4d.cli import main\n"
        f"for words in {words!r}:\n    assert main(['ply', *words.split()]) == 0, words\n"
        "print([m for m in ('torch', 'numba', 'cv2', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip().endswith("[]"), done.stdout + done.stderr


def test_compare_says_by_its_exit_code(cloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compare", cloud, cloud) == 0
    assert capsys.readouterr().out.rstrip().endswith("same")
    other = save(cloud.parent / "h.ply", gaussians(300, 1, seed=5, extra=("confidence",)))
    assert call("compare", cloud, other) == 1
    captured = capsys.readouterr()
    assert captured.out.rstrip().splitlines()[-1] and "different" in captured.out and captured.err == ""
    assert call("compare", cloud, other, "--json") == 1
    assert json.loads(capsys.readouterr().out)["same"] is False
    assert call("compare", cloud, other, "--quiet") == 1 and capsys.readouterr().out == ""
    assert call("compare", cloud, cloud.parent / "none.ply") == 2


@pytest.mark.parametrize("suffix", ["ply", "compressed.ply", "spz", "splat", "glb", "csv"])
def test_convert_and_json(cloud: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("convert", cloud, f"o.{suffix}", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["count"] == 300 and found["bytes"] == Path(f"o.{suffix}").stat().st_size
    assert call("convert", cloud, f"o.{suffix}") == 2
    assert "is there already" in capsys.readouterr().err
    assert call("convert", cloud, f"o.{suffix}", "--overwrite", "--sh-degree", "0") == 0
    out = capsys.readouterr().out
    assert "spherical harmonics of degree 1" in out and f"o.{suffix}" in out
    if suffix not in ("glb", "csv"):
        assert call("info", f"o.{suffix}", "--json") == 0
        assert json.loads(capsys.readouterr().out)["sh_degree"] == 0


def test_a_file_can_be_replaced_by_itself(cloud: Path) -> None:
    assert call("crop", cloud, cloud, "--min-opacity", "0.5", "--overwrite", "--quiet") == 0
    from dyn4d.io.rows import open_rows

    assert 0 < open_rows(cloud).count < 300


def test_crop_and_merge(cloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = ["--box", "-9", "-9", "-9", "0", "9", "9"]
    assert call("crop", cloud, "a.ply", *box) == 0
    assert "outside the box" in capsys.readouterr().out
    assert call("crop", cloud, "b.ply", *box, "--invert", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["before"] == 300 and found["kept"] == found["dropped"]["outside the box"]
    assert call("merge", "a.ply", "b.ply", "c.ply", "--json") == 0
    assert json.loads(capsys.readouterr().out)["count"] == 300
    assert call("compare", cloud, "c.ply", "--by", "nearest", "--quiet") == 0


def test_glb_is_not_read_and_says_so(cloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("convert", cloud, "o.glb", "--quiet") == 0 and call("info", "o.glb") == 2
    assert "o.glb: GLB is only written, not read" in capsys.readouterr().err


def test_spz_axes_wherever_an_spz_is_read(cloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_is = ("--spz-axes", "as-is", "--quiet")
    assert call("convert", cloud, "o.spz", *as_is) == 0
    assert call("compare", cloud, "o.spz", *as_is, "--tolerance", "0.001") == 1  # SPZ has less precision: not the same
    capsys.readouterr()
    assert call("compare", cloud, "o.spz", *as_is[:2], "--json") == 1
    assert json.loads(capsys.readouterr().out)["distance"]["max"] < 1e-4
    assert call("info", "o.spz", "--json") == 0
    turned = json.loads(capsys.readouterr().out)
    assert call("info", "o.spz", "--json", *as_is[:2]) == 0
    straight = json.loads(capsys.readouterr().out)
    assert turned["low"][1] == pytest.approx(-straight["high"][1]) and turned["low"][0] == straight["low"][0]
    assert call("crop", "o.spz", "c.ply", *as_is, "--finite") == 0
    assert call("merge", "o.spz", "c.ply", "m.ply", *as_is) == 0
    assert call("compare", "c.ply", "o.spz", *as_is) == 0
    assert call("preview", "o.spz", "p.png", *as_is, "--size", "32") == 0


def test_preview_names_of_files_with_one_stem_differ(cloud: Path) -> None:
    assert call("convert", cloud, "g.spz", "--quiet") == 0 and call("convert", cloud, "g.compressed.ply") == 0
    for name in ("g.ply", "g.spz", "g.compressed.ply"):
        assert call("preview", name, "--size", "32") == 0
    assert sorted(p.name for p in Path().glob("*.png")) == [
        "g_compressed_preview.png", "g_preview.png", "g_spz_preview.png",
    ]  # fmt: skip


def test_preview_files(cloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--size", "48", "--frames", "3"]
    assert call("preview", cloud, *small) == 0
    assert "300 Gaussians" in capsys.readouterr().out and Path("g_preview.png").stat().st_size > 500
    assert call("preview", cloud, "t.gif", *small) == 0 and call("preview", cloud, "t.mp4", *small) == 0
    assert call("preview", cloud, "frames", *small) == 0 and len(list(Path("frames").iterdir())) == 3
    assert call("preview", cloud, "frames", *small) == 2
    assert call("preview", cloud, "frames", *small[:2], "--frames", "2", "--overwrite") == 0
    assert len(list(Path("frames").iterdir())) == 2
    assert call("preview", cloud, "--turntable", *small) == 0 and Path("g_turntable.gif").exists()
    assert call("preview", cloud, "--terminal", "--columns", "40") == 0
    assert "▀" in capsys.readouterr().out


@pytest.mark.parametrize("folder", [".", "other", "named.png"])
def test_a_folder_with_other_things_is_never_replaced(cloud: Path, folder: str) -> None:
    (cloud.parent / folder).mkdir(exist_ok=True)
    (cloud.parent / folder / "letter.txt").write_text("dear")
    (cloud.parent / folder / "0000.png").write_bytes(b"mine")
    before = sorted(cloud.parent.rglob("*"))
    assert call("preview", cloud, folder, "--overwrite", "--frames", "2", "--size", "32") == 2
    assert sorted(cloud.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["wobble", "g.ply"], "no such action; there are info, compare"),
        (["info"], "FILE is missing"),
        (["convert", "g.ply"], "OUT is missing"),
        (["convert", "g.ply", "o.obj"], "says no format"),
        (["convert", "none.ply", "o.ply"], "none.ply is not there"),
        (["convert", "g.ply", "o.ply", "--sh-degree", "7"], "--sh-degree 7"),
        (["convert", "g.ply", "o.spz", "--as", "points"], "--as points cannot be written as .spz"),
        (["convert", ".", "o.ply"], "is a folder; give one file"),
        (["info", "g.csv"], "CSV is only written, not read; give the PLY"),
        (["preview", "none.ply", "p.ply"], "none.ply is not there"),
        (["preview", "g.ply", "--size", "0"], "--size 0: wanted 16 to 4096 pixels"),
        (["preview", "g.ply", "--size", "-5"], "--size -5: wanted 16"),
        (["preview", "g.ply", "t.gif", "--frames", "0"], "--frames 0: wanted 1"),
        (["preview", "g.ply", "--elevation", "200"], "--elevation 200: wanted"),
        (["crop", "g.ply", "o.ply"], "say what to keep"),
        (["crop", "g.ply", "o.ply", "--box", "1", "2"], "--box"),
        (["merge", "g.ply", "o.ply"], "wanted two files or more"),
        (["merge", "g.ply", "p.ply", "o.ply"], "holds Gaussians"),
        (["preview", "g.ply", "o.jpg"], "ends in .png, .gif or .mp4"),
        (["preview", "g.ply", "g.ply"], "ends in .png, .gif or .mp4"),
        (["preview", "g.ply", "o.png", "--background", "mauve"], "--background mauve"),
        (["preview", "g.ply", "o.png", "--turntable"], "no single picture"),
        (["preview", "g.ply", "--terminal", "--columns", "2"], "--columns 2"),
        (["compare", "g.ply", "p.ply", "--by", "row"], "cannot be compared row by row"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    cloud: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(cloud.parent / "p.ply", points(20))
    (cloud.parent / "g.csv").write_text("x,y,z\n0,0,0\n")
    before = sorted(p.name for p in cloud.parent.iterdir())
    assert call(*words) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert sorted(p.name for p in cloud.parent.iterdir()) == before


def test_the_cameras_of_a_run_say_what_is_up(cloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cameras held level in a world whose z is up."""
    run = cloud.parent / "run"
    (run / "geometry").mkdir(parents=True)
    (run / "gaussians").mkdir()
    (run / "run.json").write_text("{}")
    w2c = [[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 4], [0, 0, 0, 1]]  # looks along y, its own y is down: -z
    (run / "geometry" / "cameras.json").write_text(json.dumps(
        {"K": [[50, 0, 32], [0, 50, 32], [0, 0, 1]], "width": 64, "height": 64, "frames": [{"index": 0, "w2c": w2c}]}
    ))  # fmt: skip
    inside = run / "gaussians" / "canonical.ply"
    inside.write_bytes(cloud.read_bytes())
    assert call("preview", inside, "a.png", "--size", "32") == 0
    assert "up is z (by the run's cameras)" in capsys.readouterr().out
    (run / "geometry" / "cameras.json").write_text("{}")
    assert call("preview", inside, "b.png", "--size", "32") == 0
    assert "up is -y (OpenCV's axes)" in capsys.readouterr().out


def test_crop_that_keeps_nothing_writes_nothing(cloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("crop", cloud, "o.ply", "--sphere", 999, 999, 999, 0.1) == 2
    error = capsys.readouterr().err
    assert "nothing would be kept of 300" in error and "sphere" in error and "Traceback" not in error
    assert call("crop", cloud, "o.ply", "--min-opacity", 5) == 2
    assert "--min-opacity 5: wanted 0 to 1" in capsys.readouterr().err
    assert not Path("o.ply").exists()
