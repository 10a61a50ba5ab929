"""`dyn4d match`: what it writes and says, pictures of all kinds, errors that leave nothing behind."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dyn4d import cli
from dyn4d.core.protocols import SilentProgress
from dyn4d.core.types import Correspondences
from dyn4d.demo import make_demo_clip
from dyn4d.io import artifacts
from dyn4d.io.images import read_mask, read_rgb
from dyn4d.match_cli import covered_share
from dyn4d.runs import RunFolder

ROOT = Path(__file__).parent.parent
SIZE = 96


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short demo in `runs/demo` of a folder of its own."""
    root = tmp_path_factory.mktemp("match")
    make_demo_clip(
        RunFolder(root / "runs" / "demo"), scene="creature", background="grey", frames=24, size=SIZE, overwrite=False,
        progress=SilentProgress(),
    )  # fmt: skip
    return root


@pytest.fixture
def here(frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a.png, b.png and their masks."""
    monkeypatch.chdir(tmp_path)
    clip = frames / "runs" / "demo" / "clip"
    for name, number in (("a", "00000"), ("b", "00002")):
        for kind, suffix in (("rgb", ""), ("mask", "_mask")):
            (tmp_path / f"{name}{suffix}.png").write_bytes((clip / kind / f"{number}.png").read_bytes())
    return tmp_path


MASKS = ["--mask-a", "a_mask.png", "--mask-b", "b_mask.png"]


def check_result(name: str) -> tuple[Correspondences, dict]:
    found = artifacts.load(f"{name}.npz", Correspondences)
    assert read_rgb(f"{name}.png").shape[1] >= 640
    return found, artifacts.load_meta(f"{name}.npz")


def inside(xy: torch.Tensor, mask: np.ndarray) -> bool:
    cell = xy.floor().long().numpy()
    return bool(mask[cell[:, 1], cell[:, 0]].all())


# -------------------------------------------------------------------------------------------------- what it does


def test_two_frames(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(here.iterdir())
    assert cli.main(["match", "a.png", "b.png", *MASKS]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert set(here.iterdir()) - before == {here / "matches_a_b.npz", here / "matches_a_b.png"}
    found, about = check_result("matches_a_b")
    said = re.match(r"([\d,]+) matches by flow, on (\d+) % of the object in A and (\d+) % of the object in B\n", out)
    assert said and int(said[1].replace(",", "")) == len(found) == about["matches"] > 300
    assert 50 < int(said[2]) <= 100
    assert out.splitlines()[1:] == ["  matches_a_b.npz", "  matches_a_b.png"]
    assert inside(found.xy_a, read_mask("a_mask.png")) and inside(found.xy_b, read_mask("b_mask.png"))
    assert about["matcher"] == "flow" and about["options"]["size"] == 640 and about["notes"] == []
    assert about["pixel_centre"] == "half-integer"
    assert about["pictures"]["a"]["file"] == "a.png" and about["pictures"]["b"]["mask"] == "b_mask.png"
    assert (about["pictures"]["a"]["width"], about["pictures"]["a"]["height"]) == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("out", "name"), [("x", "x"), ("x.png", "x"), ("x.npz", "x"), ("v1.5", "v1.5"), ("new/", "new/matches_a_b"),
                      ("there", "there/matches_a_b"), ("new/deep/x", "new/deep/x")],
)  # fmt: skip
def test_names_of_the_output(here: Path, out: str, name: str) -> None:
    (here / "there").mkdir()
    assert cli.main(["match", "a.png", "b.png", *MASKS, "--out", out, "--quiet"]) == 0
    check_result(name)


def test_quiet_says_nothing_and_overwrite_overwrites(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["match", "a.png", "b.png", *MASKS, "--quiet"]
    assert cli.main(words) == 0
    assert capsys.readouterr() == ("", "")
    first = Path("matches_a_b.npz").read_bytes()
    assert cli.main([*words, "--lines", "3"]) == 2
    assert "is there already; choose another name with --out, or give --overwrite" in capsys.readouterr().err
    assert cli.main([*words, "--overwrite", "--mask-a", "none"]) == 0
    assert Path("matches_a_b.npz").read_bytes() != first


def test_without_masks_everything_is_the_object(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["match", "a.png", "b.png"]) == 0
    assert " % of A and " in capsys.readouterr().out
    _, about = check_result("matches_a_b")
    assert about["pictures"]["a"]["mask"] == "none" and about["pictures"]["a"]["object_pixels"] == SIZE * SIZE


def test_alpha_is_a_mask_unless_another_is_given(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = read_mask("b_mask.png")
    Image.fromarray(np.dstack([read_rgb("b.png"), np.where(mask, 255, 0).astype(np.uint8)])).save("c.png")
    Image.fromarray(np.dstack([read_rgb("b.png"), np.full_like(mask, 255, dtype=np.uint8)])).save("opaque.png")
    assert cli.main(["match", "a.png", "c.png", "--mask-a", "a_mask.png"]) == 0
    assert "  B: c.png is masked by its alpha channel\n" in capsys.readouterr().out
    assert cli.main(["match", "a.png", "b.png", *MASKS]) == 0
    alpha, about = check_result("matches_a_c")
    given, _ = check_result("matches_a_b")
    assert torch.equal(alpha.xy_b, given.xy_b) and about["pictures"]["b"]["mask"] == "alpha"
    assert cli.main(["match", "a.png", "c.png", *MASKS[:2], "--mask-b", "none", "--overwrite"]) == 0
    assert check_result("matches_a_c")[1]["pictures"]["b"]["object_pixels"] == SIZE * SIZE
    assert cli.main(["match", "a.png", "opaque.png", *MASKS[:2]]) == 0
    assert check_result("matches_a_opaque")[1]["pictures"]["b"]["mask"] == "none"


def test_pictures_of_all_kinds(here: Path) -> None:
    """Upright by EXIF, grey, portrait, masks of 16 bit and of 0 and 1."""
    picture, mask = read_rgb("b.png"), read_mask("b_mask.png")
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(picture[:, 8:])))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save("turned.png", exif=exif)
    Image.fromarray(picture[:, 8:]).convert("L").save("grey.png")
    Image.fromarray(mask[:, 8:].astype(np.uint16) * 65535).save("deep.png")
    Image.fromarray(mask[:, 8:].astype(np.uint8)).save("binary.png")
    xy = []
    for name, masked in (("turned", "deep"), ("grey", "binary")):
        words = ["match", "a.png", f"{name}.png", "--mask-a", "a_mask.png", "--mask-b", f"{masked}.png", "--quiet"]
        assert cli.main(words) == 0
        found, about = check_result(f"matches_a_{name}")
        assert (about["pictures"]["b"]["width"], about["pictures"]["b"]["height"]) == (SIZE - 8, SIZE)
        assert len(found) > 200 and inside(found.xy_b, mask[:, 8:])
        xy.append((found.xy_b - found.xy_a).median(0).values)
    assert (xy[0] - xy[1]).abs().max() < 0.5


def test_no_match_is_an_answer(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.full((40, 30, 3), 255, np.uint8)).save("white.png")
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save("black.png")
    assert cli.main(["match", "white.png", "black.png"]) == 0
    assert "no match by flow, on 0 % of A and 0 % of B" in capsys.readouterr().out
    assert len(check_result("matches_white_black")[0]) == 0


def test_covered_share() -> None:
    mask = np.zeros((300, 480), dtype=bool)
    mask[:, 240:] = True
    rows, columns = np.nonzero(mask)
    everywhere = np.stack([columns, rows], -1) + 0.5
    assert covered_share(everywhere, mask) == 1
    assert covered_share(everywhere[columns < 360], mask) == pytest.approx(0.5, abs=0.05)
    assert covered_share(everywhere[:1], mask) == pytest.approx(1 / 480, rel=0.2)
    assert covered_share(everywhere[:0], mask) == 0
    assert covered_share(everywhere, mask & False) == 0


# --------------------------------------------------------------------------------------------------- bad input


def spoil(folder: Path) -> None:
    """Files that are not what they should be."""
    (folder / "zero.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:300])
    (folder / "text.png").write_text("not a picture")
    (folder / "film.mp4").write_bytes(b"\0" * 64)
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(folder / "nothing.png")
    Image.fromarray(np.full((10, 20), 255, np.uint8)).save(folder / "other.png")
    Image.fromarray(np.zeros((SIZE, SIZE, 4), np.uint8)).save(folder / "clear.png")
    (folder / "folder").mkdir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "A is missing"),
        (["a.png"], "B is missing"),
        (["a.png", "b.png", "c.png"], "c.png"),
        (["nobody.png", "b.png"], "nobody.png is not there"),
        (["a.png", "zero.png"], "zero.png is empty (0 bytes)"),
        (["cut.png", "b.png"], "cut.png is damaged or cut short"),
        (["text.png", "b.png"], "text.png is no image that can be read"),
        (["film.mp4", "b.png"], "film.mp4 is a video; give one picture"),
        (["folder", "b.png"], "folder is a folder; give one picture"),
        (["a.png", "clear.png"], "clear.png is transparent everywhere; give --mask-b FILE"),
        (["a.png", "b.png", "--mask-a", "nobody.png"], "nobody.png is not there"),
        (["a.png", "b.png", "--mask-a", "folder"], "folder is a folder; give one mask"),
        (["a.png", "b.png", "--mask-a", "other.png"], "other.png is 20x10, its picture a.png is 96x96"),
        (["a.png", "b.png", "--mask-b", "nothing.png"], "nothing.png marks no object"),
        (["a.png", "b.png", "--mask-b", "zero.png"], "zero.png is empty (0 bytes)"),
        (["a.png", "b.png", "--matcher", "magic"], "--matcher: wanted one of mast3r, r2d2, flow"),
        (["a.png", "b.png", "--matcher", "mast3r"], "give the .pth file or the folder of a MASt3R network with --weig"),
        (["a.png", "b.png", "--matcher", "flow", "--weights", "w.pth"], "the matcher flow takes no --weights"),
        (["a.png", "b.png", "--weights", "w.pth"], "w.pth is not there"),
        (["a.png", "b.png", "--weights", "text.png"], "for weights of R2D2 give --matcher r2d2"),
        (["a.png", "b.png", "--weights", "w.pt", "--matcher", "r2d2"], "w.pt is not there"),
        (["a.png", "b.png", "--size", "500"], "--size 500; wanted a multiple of 16"),
        (["a.png", "b.png", "--size", "16"], "--size 16; wanted a multiple of 16, from 64"),
        (["a.png", "b.png", "--lines", "-1"], "--lines -1; wanted a number from 0"),
        (["a.png", "b.png", "--device", "abacus"], "--device abacus: no such kind of device"),
        (["a.png", "b.png", "--out", "a.png/x"], "a.png is a file, no folder for x.npz"),
        (["a.png", "b.png", "--out", "a.png", "--overwrite"], "a.png is one of the pictures given"),
    ],
)
def test_errors_are_2_and_one_line_and_leave_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    spoil(here)
    before = sorted(here.rglob("*"))
    assert cli.main(["match", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("dyn4d: ") and message in lines[0], lines
    assert sorted(here.rglob("*")) == before


def test_a_failure_on_the_way_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*anything: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    before = sorted(here.rglob("*"))
    assert cli.main(["match", "a.png", "b.png", *MASKS, "--out", "new"]) == 1
    assert "disk full while writing new.npz" in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


# ----------------------------------------------------------------------------------------- matchers with weights


def small_weights(path: Path, *, descriptors: bool = True) -> None:
    from dyn4d.geometry.network_config import PairNetworkConfig
    from dyn4d.geometry.weights import random_weights, save_pair_weights

    sizes = {"enc_embed_dim": 16, "enc_depth": 1, "enc_num_heads": 2, "dec_embed_dim": 24, "dec_depth": 4,
             "dec_num_heads": 3, "img_size": (64, 64), "dpt_layer_dims": (8, 12, 16, 20), "dpt_feature_dim": 16,
             "dpt_head_dims": (8, 6)}  # fmt: skip
    head = {"head_type": "catmlp+dpt", "desc_dim": 8, "two_confs": True} if descriptors else {"head_type": "dpt"}
    config = PairNetworkConfig(**head, **sizes)
    save_pair_weights(path, config, random_weights(config, 3))


@pytest.mark.parametrize("fine", [True, False])
def test_mast3r(here: Path, capsys: pytest.CaptureFixture[str], fine: bool) -> None:
    small_weights(here / "small.pth")
    words = ["match", "a.png", "b.png", *MASKS, "--weights", "small.pth", "--size", "64"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert cli.main([*words, "--coarse-to-fine" if fine else "--no-coarse-to-fine"]) == 0
    out, err = capsys.readouterr()
    assert "by mast3r, on " in out and "weights: unknown: no published model has these sizes" in err
    assert ("windows: " in err) == fine
    found, about = check_result("matches_a_b")
    assert (
        len(found) > 0 and inside(found.xy_a, read_mask("a_mask.png")) and inside(found.xy_b, read_mask("b_mask.png"))
    )
    assert "CC BY-NC-SA 4.0" in about["notes"][0]
    assert about["matcher"] == "mast3r" and about["options"]["weights"] == "small.pth"
    assert about["options"]["size"] == 64 and about["options"]["coarse_to_fine"] == fine


def test_dust3r_matches_by_points(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_weights(here / "dust3r.pth", descriptors=False)
    assert cli.main(["match", "a.png", "b.png", *MASKS, "--weights", "dust3r.pth", "--size", "64"]) == 0
    assert "dust3r.pth is a DUSt3R network, which describes no pixels" in capsys.readouterr().err
    found, _ = check_result("matches_a_b")
    assert inside(found.xy_a, read_mask("a_mask.png")) and inside(found.xy_b, read_mask("b_mask.png"))


def test_r2d2_needs_no_weights(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["match", "a.png", "b.png", *MASKS, "--matcher", "r2d2", "--size", "96"]) == 0
    out, err = capsys.readouterr()
    assert "by r2d2" in out and "Apache-2.0" in err and "CC BY" not in err
    _, about = check_result("matches_a_b")
    assert about["options"]["weights"] == "" and "Apache-2.0" in about["notes"][0]


def test_r2d2(here: Path, reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(reference / "r2d2" / "r2d2_WASF_N16.pt")
    words = ["match", "a.png", "b.png", *MASKS, "--matcher", "r2d2", "--weights", weights]
    assert cli.main([*words, "--size", "64"]) == 0
    out, err = capsys.readouterr()
    assert "by r2d2" in out and "CC BY-NC-SA 3.0" in err
    found, about = check_result("matches_a_b")
    assert inside(found.xy_a, read_mask("a_mask.png")) and inside(found.xy_b, read_mask("b_mask.png"))
    assert about["matcher"] == "r2d2" and about["options"]["size"] == 64 and "CC BY-NC-SA 3.0" in about["notes"][0]


# --------------------------------------------------------------------------------------------- its documentation


def test_the_examples_of_the_documentation_run(frames: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "matching.md").read_text(encoding="utf-8")
    assert cli.main(["match", "a.png", "b.png", *MASKS, "--out", str(frames / "matches_A_B"), "--quiet"]) == 0
    monkeypatch.chdir(frames)
    names: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        exec(compile(block, "docs/matching.md", "exec"), names)
    assert len(names["found"]) > 0 and len(names["matches"]) > 0  # type: ignore[arg-type]
    pairs = str([(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)])
    assert f"# {pairs}" in text and len(names["pairs"]) > 1000  # type: ignore[arg-type]


def test_the_documentation_names_the_options_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "matching.md").read_text(encoding="utf-8")
    cli.main(["match", "--help"])
    shown = capsys.readouterr().out
    own = text.split("\n## ")[1]  # "Two pictures"; further down are options of other commands
    flags = set(re.findall(r"`(--[a-z-]+)", own))
    assert flags >= {"--mask-a", "--matcher", "--weights", "--out", "--size", "--overwrite"}
    assert all(flag in shown for flag in flags)


@pytest.mark.parametrize("matcher", [[], ["--matcher", "flow"], ["--matcher", "flow+r2d2"]])
def test_coarse_to_fine_is_for_mast3r(here: Path, matcher: list[str], capsys: pytest.CaptureFixture) -> None:
    before = sorted(here.iterdir())
    assert cli.main(["match", "a.png", "b.png", *MASKS, *matcher, "--no-coarse-to-fine"]) == 2
    assert "--no-coarse-to-fine is for mast3r" in capsys.readouterr().err and sorted(here.iterdir()) == before
