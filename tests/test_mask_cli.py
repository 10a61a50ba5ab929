"""`dyn4d mask` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mask_scenes import box_of, disc_clip, iou
from PIL import Image

from dyn4d.cli import main
from dyn4d.io import load_clip
from dyn4d.io.images import read_mask, write_png
from dyn4d.io.rle import encode_rle
from dyn4d.io.video import write_mp4
from dyn4d.mask_cli import MaskRequest


def make_clip(folder: Path, count: int = 4, flat: tuple[int, int, int] | None = None) -> list[np.ndarray]:
    images, masks = disc_clip(count, flat=flat)
    for i, image in enumerate(images):
        write_png(folder / "rgb" / f"{i:05d}.png", image)
    return masks


def box_words(mask: np.ndarray) -> list[str]:
    return ["--box", *(f"{v:g}" for v in box_of(mask))]


def run(*words: str) -> int:
    return main(["mask", *words, "--quiet"])


def test_the_fixed_form_makes_masks_that_a_clip_is_read_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = make_clip(tmp_path / "disc")
    out = tmp_path / "disc"
    assert main(["mask", str(out), *box_words(masks[1]), "--frame", "1", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "4 masks by grabcut and flow" in said and str(out / "mask") in said
    clip = load_clip(out)
    assert min(iou(clip.masks[i], mask) for i, mask in enumerate(masks)) > 0.7
    record = json.loads((out / "masks.json").read_text())
    assert record["keys"] == [1] and len(record["frames"]) == 4 and record["options"]["size"] == 384
    assert all(0 <= row["score"] <= 1 for row in record["frames"])
    with Image.open(out / "mask_sheet.png") as sheet:
        assert sheet.width > 400
    before = (out / "mask" / "00000.png").read_bytes()
    assert run(str(out), *box_words(masks[0])) == 2
    assert "holds masks already; give --overwrite" in capsys.readouterr().err
    assert (out / "mask" / "00000.png").read_bytes() == before
    assert sorted(p.name for p in out.iterdir()) == ["mask", "mask_sheet.png", "masks.json", "rgb"]


def test_a_video_with_two_boxes(tmp_path: Path) -> None:
    images, masks = disc_clip(4)
    write_mp4(tmp_path / "disc.mp4", images, 24)
    words = [*box_words(masks[0]), "--frame", "0", *box_words(masks[3]), "--frame", "3"]
    assert run(str(tmp_path / "disc.mp4"), *words, "--out", str(tmp_path / "out")) == 0
    assert sorted(p.name for p in (tmp_path / "out" / "mask").iterdir()) == [f"{i:06d}.png" for i in range(4)]
    clip = load_clip(tmp_path / "disc.mp4", mask=str(tmp_path / "out" / "mask"))
    assert min(iou(clip.masks[i], mask) for i, mask in enumerate(masks)) > 0.75
    assert json.loads((tmp_path / "out" / "masks.json").read_text())["keys"] == [0, 3]


def test_key_frames_from_files(tmp_path: Path) -> None:
    masks = make_clip(tmp_path / "disc")
    Image.fromarray(masks[2]).save(tmp_path / "00002.png")
    keys = {"keys": [{"frame": 0, "box": box_of(masks[0])}, {"frame": 3, "mask": "00002.png"}]}
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    clip, out = str(tmp_path / "disc"), tmp_path / "out"
    assert run(clip, "--key-masks", str(tmp_path / "00002.png"), "--out", str(out)) == 0
    np.testing.assert_array_equal(read_mask(out / "mask" / "00002.png"), masks[2])
    assert run(clip, "--keys", str(tmp_path / "keys.json"), "--out", str(out), "--overwrite") == 0
    assert json.loads((out / "masks.json").read_text())["keys"] == [0, 3]


def test_other_sources(tmp_path: Path) -> None:
    masks = make_clip(tmp_path / "disc", flat=(0, 180, 60))
    clip = str(tmp_path / "disc")
    for name, words in {"chroma": ["--chroma", "green"], "flat": ["--background", "auto"]}.items():
        assert run(clip, *words, "--out", str(tmp_path / name)) == 0
        assert iou(read_mask(tmp_path / name / "mask" / "00001.png"), masks[1]) > 0.9
    (tmp_path / "rle.json").write_text(json.dumps([encode_rle(mask) for mask in masks]))
    assert run(clip, "--masks", str(tmp_path / "rle.json"), "--out", str(tmp_path / "rle")) == 0
    np.testing.assert_array_equal(read_mask(tmp_path / "rle" / "mask" / "00003.png"), masks[3])
    for i, mask in enumerate(masks):
        rgba = np.dstack([np.full((*mask.shape, 3), 90, np.uint8), np.where(mask, 255, 0).astype(np.uint8)])
        rgba[0, 0, :3] = 10  # not of one colour
        write_png(tmp_path / "cut" / "rgb" / f"{i:05d}.png", rgba)
    assert run(str(tmp_path / "cut"), "--alpha") == 0
    np.testing.assert_array_equal(read_mask(tmp_path / "cut" / "mask" / "00000.png"), masks[0])


def test_masks_are_made_and_then_corrected_in_one_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    masks, clip = make_clip(tmp_path / "disc"), str(tmp_path / "disc")
    opened: list[int] = []

    def stand_in(request: MaskRequest, **_: object) -> None:
        opened.append(len(list((Path(request.clip) / "mask").iterdir())))

    monkeypatch.setattr("dyn4d.mask_edit.edit_masks", stand_in)
    assert main(["mask", clip, *box_words(masks[0]), "--edit"]) == 0 and opened == [4]
    assert main(["mask", clip, "--edit"]) == 0 and opened == [4, 4]
    said = capsys.readouterr().out
    assert "look at the sheet" in said and f"to correct: dyn4d mask {clip} --edit" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say where the object is"),
        (["--box", "1", "2", "3"], "box"),
        (["--box", "1", "2", "30", "40", "--chroma", "green"], "--box and --chroma are given"),
        (["--box", "1", "2", "30", "40", "--frame", "0", "--frame", "1"], "1 --box and 2 --frame"),
        (["--box", "1", "2", "30", "40", "--frame", "77"], "--frame 77: the clip has 2 frames"),
        (["--not-point", "3", "4"], "say where the object is"),
        (["--chroma", "green", "--method", "sam2"], "mean nothing with --chroma"),
        (["--box", "1", "2", "30", "40", "--object-id", "1"], "--object-id is for --masks"),
        (["--box", "1", "2", "30", "40", "--method", "sam2"], "needs a checkpoint"),
        (["--box", "1", "2", "30", "40", "--size", "3"], "size: 3"),
        (["--masks", "nowhere"], "nowhere is not there"),
        (["--keys", "nowhere.json"], "nowhere.json is not there"),
        (["--edit"], "has no mask for frame 00000"),
        (["--edit", "--method", "grabcut"], "say where the object is"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DYN4D_SAM2_WEIGHTS", raising=False)
    make_clip(tmp_path / "disc", 2)
    assert run(str(tmp_path / "disc"), *words) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (tmp_path / "disc" / "mask").exists()


def test_pictures_that_lie_free_need_a_place_for_the_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = make_clip(tmp_path / "disc", 2)
    flat = str(tmp_path / "disc" / "rgb")
    assert run(flat, *box_words(masks[0])) == 2
    assert "--out is missing" in capsys.readouterr().err
    assert run(flat, *box_words(masks[0]), "--out", flat) == 2
    assert "choose another folder with --out" in " ".join(capsys.readouterr().err.split())
