"""Masks that other programs made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dyn4d.core.errors import InputError
from dyn4d.io.mask_folder import MaskFolder, named_masks
from dyn4d.io.mask_sources import open_masks
from dyn4d.io.rle import encode_rle

NAMES, SIZE = ("00000", "00001", "00002"), (8, 6)


def labels(frame: int) -> np.ndarray:
    """Two objects: 1 on the left, 2 on the right; the second is away from frame 2."""
    values = np.zeros((6, 8), np.uint8)
    values[1:4, 1 + frame : 3 + frame] = 1
    if frame < 2:
        values[4:, 6:] = 2
    return values


def save_palette(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values).convert("P")
    picture.putdata(values.ravel().tolist())
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.save(path)


def check(path: Path, object_id: int | None, wanted: int) -> None:
    found = open_masks(path, NAMES, SIZE, object_id)
    assert len(found) == 3
    for frame in range(3):
        np.testing.assert_array_equal(found[frame], labels(frame) == wanted)


def test_palette_pictures_hold_several_objects(tmp_path: Path) -> None:
    for frame, name in enumerate(NAMES):
        save_palette(tmp_path / f"{name}.png", labels(frame))
    with pytest.raises(InputError, match="has the objects 1, 2; choose one with --object-id"):
        open_masks(tmp_path, NAMES, SIZE, None)
    check(tmp_path, 1, 1)
    check(tmp_path, 2, 2)  # empty in the last frame
    with pytest.raises(InputError, match=r"--object-id 7 is in none of .* it has 1, 2"):
        open_masks(tmp_path, NAMES, SIZE, 7)


def save_grey(folder: Path, values: list[np.ndarray], mode: str = "L") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, one in zip(NAMES, values):
        Image.fromarray(one).convert(mode).save(folder / f"{name}.png")


def test_grey_pictures_of_labels_hold_several_objects(tmp_path: Path) -> None:
    for kind in (np.uint8, np.uint16):
        folder = tmp_path / kind.__name__
        save_grey(folder, [labels(frame).astype(kind) for frame in range(3)], "L" if kind is np.uint8 else "I;16")
        with pytest.raises(InputError, match="has the objects 1, 2; choose one with --object-id"):
            open_masks(folder, NAMES, SIZE, None)
        check(folder, 2, 2)
    for name, one in zip(NAMES, map(labels, range(3))):
        picture = Image.fromarray(one)
        picture.putpalette([n for grey in range(256) for n in (grey, grey, grey)])
        (tmp_path / "palette").mkdir(exist_ok=True)
        picture.save(tmp_path / "palette" / f"{name}.png")
    with pytest.raises(InputError, match="has the objects 1, 2"):
        open_masks(tmp_path / "palette", NAMES, SIZE, None)


@pytest.mark.parametrize("of_object", [1, 2, 255, 200])
def test_masks_of_one_object_need_no_number(of_object: int, tmp_path: Path) -> None:
    save_grey(tmp_path / "grey", [(labels(i) == 1).astype(np.uint8) * of_object for i in range(3)])
    check(tmp_path / "grey", None, 1)
    for frame, name in enumerate(NAMES):
        save_palette(tmp_path / "palette" / f"{name}.png", (labels(frame) == 1).astype(np.uint8) * min(of_object, 2))
    check(tmp_path / "palette", None, 1)


def test_soft_masks_and_grey_palettes_are_no_labels(tmp_path: Path) -> None:
    soft = [np.where(labels(i) == 1, 255, np.where(labels(i) == 2, 3, 0)).astype(np.uint8) for i in range(3)]
    save_grey(tmp_path / "soft", soft)
    check(tmp_path / "soft", None, 1)
    for name, one in zip(NAMES, soft):
        picture = Image.fromarray(np.where(one == 255, 2, np.where(one > 0, 1, 0)).astype(np.uint8)).convert("P")
        picture.putdata(np.where(one == 255, 2, np.where(one > 0, 1, 0)).ravel().tolist())
        picture.putpalette([0, 0, 0, 3, 3, 3, 255, 255, 255])
        (tmp_path / "palette").mkdir(exist_ok=True)
        picture.save(tmp_path / "palette" / f"{name}.png")
    check(tmp_path / "palette", None, 1)
    Image.fromarray(labels(0)).save(tmp_path / "soft" / "00000.png")  # the others say that these are masks
    assert not open_masks(tmp_path / "soft", NAMES, SIZE, None)[0].any()


def test_a_folder_for_each_object(tmp_path: Path) -> None:
    for number in (1, 2):
        for frame in range(3):
            path = tmp_path / f"{number:03d}" / f"{frame:05d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray((labels(frame) == number).astype(np.uint8) * 255).save(path)
    check(tmp_path, 2, 2)
    with pytest.raises(InputError, match="objects 1, 2; choose one with --object-id"):
        open_masks(tmp_path, NAMES, SIZE, None)


def rle(frame: int, number: int) -> dict[str, Any]:
    return encode_rle(labels(frame) == number)


LAYOUTS: dict[str, Any] = {
    "by frame and object": {str(f): {str(n): rle(f, n) for n in (1, 2)} for f in range(3)},
    "by name": {f"{name}.jpg": {"1": rle(f, 1), "2": rle(f, 2)} for f, name in enumerate(NAMES)},
    "list of entries": [
        {"frame_idx": f, "obj_id": n, "segmentation": rle(f, n)} for f in range(3) for n in (1, 2)
    ],
    "SA-V": {"masklet": [[rle(f, 1), rle(f, 2)] for f in range(3)], "masklet_id": [1, 2]},
    "YouTube-VIS": {
        "annotations": [{"id": n, "segmentations": [rle(f, n) if (labels(f) == n).any() else None for f in range(3)]}
                        for n in (1, 2)]
    },
    "list of lists": [[rle(f, 1), rle(f, 2)] for f in range(3)],
    "list of frames": [{"frame": f, "objects": {"1": rle(f, 1), "2": rle(f, 2)}} for f in range(3)],
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_json(name: str, tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(LAYOUTS[name]))
    check(path, 1, 1)
    check(path, 2, 2)


def test_one_object_needs_no_number_and_missing_frames_are_empty(tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    path.write_text(json.dumps({"0": rle(0, 1), "2": rle(2, 1)}))
    found = open_masks(path, NAMES, SIZE, None)
    assert found[0].sum() == 6 and not found[1].any() and found[2].any()


def test_json_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    for text, says in (
        ("{", "no JSON that can be read"), ("[]", "no RLE masks in a layout"),
        ('{"a": {"b": 1}}', "neither the number"),
        (json.dumps({"9": rle(0, 1)}), "mask for frame 9, the clip has 3 frames"),
        (json.dumps({"masklet": [[rle(0, 1)]], "masklet_id": [1]}), "masks of 1 frames, the clip has 3"),
        (json.dumps(LAYOUTS["SA-V"]), "objects 1, 2; choose one"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError, match=says):
            open_masks(path, NAMES, SIZE, None)
    path.write_text(json.dumps({"0": {"size": [6, 8], "counts": [5]}}))
    with pytest.raises(InputError, match=r"frame 0, object 1: .*add up to 5"):
        open_masks(path, NAMES, SIZE, None)[0]
    path.write_text(json.dumps({"0": encode_rle(np.ones((3, 3), bool))}))
    with pytest.raises(InputError, match="is 3x3, its frame 8x6"):
        open_masks(path, NAMES, SIZE, None)[0]


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        open_masks(tmp_path / "none", NAMES, SIZE, None)
    save_palette(tmp_path / "one" / "00001.png", labels(0))
    with pytest.raises(InputError, match="masks of all frames; for the mask of one frame alone, take --key-masks"):
        open_masks(tmp_path / "one" / "00001.png", NAMES, SIZE, None)
    save_palette(tmp_path / "00001.png", labels(0))
    with pytest.raises(InputError, match=r"no mask for frame 00000, 00002 of 3; it holds 00001\.png"):
        open_masks(tmp_path, NAMES, SIZE, None)


def test_masks_of_key_frames_go_by_their_names(tmp_path: Path) -> None:
    save_palette(tmp_path / "keys" / "00002.png", labels(2))
    assert list(named_masks(tmp_path / "keys", NAMES, 0)) == [2]
    assert list(named_masks(tmp_path / "keys" / "00002.png", NAMES, 0)) == [2]
    save_palette(tmp_path / "mine.png", labels(1))
    assert list(named_masks(tmp_path / "mine.png", NAMES, 1)) == [1]
    save_palette(tmp_path / "keys" / "other.png", labels(2))
    with pytest.raises(InputError, match=r"other\.png has the name of no frame"):
        named_masks(tmp_path / "keys", NAMES, 0)


def test_masks_stand_together_or_not_at_all(tmp_path: Path) -> None:
    folder = MaskFolder(tmp_path, NAMES, SIZE)
    with pytest.raises(KeyboardInterrupt), folder.replaced() as writer:
        writer.write(0, labels(0) > 0)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with folder.replaced() as writer:
        for frame in range(3):
            writer.write(frame, labels(frame) > 0)
    np.testing.assert_array_equal(folder.read(1), labels(1) > 0)
    with pytest.raises(InputError, match="holds masks already"):
        folder.require_free(overwrite=False)
    folder.require_free(overwrite=True)
