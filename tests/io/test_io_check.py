"""What `check_clip` notices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from io_clips import HEIGHT, WIDTH, cameras, disc, make_clip, save

from dyn4d.core.errors import InputError
from dyn4d.io.check import Finding, check_clip, refuse_errors
from dyn4d.io.clips import load_clip


def _lines(folder: Path, severity: str, **options) -> list[str]:
    return [f.line() for f in check_clip(load_clip(folder, **options)) if f.severity == severity]


def _blank(path: Path, pixels: int = 0) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask.reshape(-1)[:pixels] = 255
    save(path, mask)


def test_a_good_clip_has_only_figures(tmp_path: Path) -> None:
    make_clip(tmp_path)
    found = check_clip(load_clip(tmp_path))
    assert {f.severity for f in found} == {"info"}
    text = "\n".join(f.line() for f in found)
    assert "4 of 4 frames, 24x18, 0.30 s at 10 frames a second" in text
    assert f"median {int(disc().sum())}" in text and "depth inside the masks: 100.0% to 100.0%" in text
    refuse_errors(found)


def test_few_and_no_mask_pixels_on_some_frames_warn(tmp_path: Path) -> None:
    make_clip(tmp_path)
    _blank(tmp_path / "mask/00001.png")
    _blank(tmp_path / "mask/00002.png", 15)
    warnings = _lines(tmp_path, "warning")
    assert any("00001.png: the mask is empty" in line for line in warnings)
    assert any("00002.png: the mask has only 15 pixels" in line for line in warnings)
    assert not _lines(tmp_path, "error")
    _blank(tmp_path / "mask/00002.png", 16)
    assert not any("has only" in line for line in _lines(tmp_path, "warning"))


def test_all_masks_empty_is_refused(tmp_path: Path) -> None:
    make_clip(tmp_path)
    for i in range(4):
        _blank(tmp_path / f"mask/{i:05d}.png")
    with pytest.raises(InputError, match="all 4 masks are empty; masks are white"):
        refuse_errors(check_clip(load_clip(tmp_path)))
    assert not any("mask is empty" in line for line in _lines(tmp_path, "warning"))  # said once


def test_depth_without_k_is_refused(tmp_path: Path) -> None:
    make_clip(tmp_path, camera={})
    with pytest.raises(InputError, match=r"has depth but no K; add cameras\.json"):
        refuse_errors(check_clip(load_clip(tmp_path)))


def test_bad_depth_values_warn_with_their_number(tmp_path: Path) -> None:
    make_clip(tmp_path, depth=False)
    for i in range(4):
        depth = np.full((HEIGHT, WIDTH), 2.0)
        if i == 2:
            depth[0, :3] = np.nan, -1, np.inf
        path = tmp_path / f"depth/{i:05d}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, depth)
    for options in ({}, {"max_size": 12}, {"frames": "2:"}):
        warnings = _lines(tmp_path, "warning", **options)
        assert len(warnings) == 1 and "00002.npy: 3 depth values are NaN, infinite or negative" in warnings[0]


def test_depth_outside_the_masks(tmp_path: Path) -> None:
    make_clip(tmp_path)
    save(tmp_path / "depth/00001.png", np.zeros((HEIGHT, WIDTH), np.uint16))
    assert any("00001.png: no depth inside the mask" in line for line in _lines(tmp_path, "warning"))
    for i in range(4):
        save(tmp_path / f"depth/{i:05d}.png", np.where(disc(i), 0, 900).astype(np.uint16))
    assert any("no frame has depth inside its mask" in line for line in _lines(tmp_path, "error"))


def test_unreadable_frames_are_all_listed(tmp_path: Path) -> None:
    make_clip(tmp_path)
    for name in ("rgb/00001.png", "mask/00002.png", "depth/00003.png"):
        file = tmp_path / name
        file.write_bytes(file.read_bytes()[:-25])
    errors = _lines(tmp_path, "error")
    assert len(errors) == 3 and all("damaged or cut short" in line for line in errors)
    with pytest.raises(InputError, match=r"and 2 more; dyn4d check lists them"):
        refuse_errors(check_clip(load_clip(tmp_path)))


def test_poses_that_are_missing_are_counted(tmp_path: Path) -> None:
    data = cameras(4)
    data["frames"][2]["w2c"] = None
    data["frames"][3]["w2c"] = None
    make_clip(tmp_path, camera=data)
    assert _lines(tmp_path, "warning") == ["2 of 4 frames have no pose (w2c), the first is frame 2"]


def test_principal_point_outside_the_picture(tmp_path: Path) -> None:
    make_clip(tmp_path, camera=cameras(4, K=[[30, 0, 320], [0, 30, 240], [0, 0, 1]]))
    assert any("principal point (320.0, 240.0) lies outside" in line for line in _lines(tmp_path, "warning"))


def test_findings_keep_the_frame_of_the_whole_clip(tmp_path: Path) -> None:
    make_clip(tmp_path)
    _blank(tmp_path / "mask/00003.png")
    found = check_clip(load_clip(tmp_path, frames="1::2"))
    assert [f.frame for f in found if f.severity == "warning"] == [3]
    assert Finding("info", "a").line() == "a"
