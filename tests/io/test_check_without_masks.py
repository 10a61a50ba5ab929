"""`dyn4d check` of clips without masks, of sources that are to be imported, and of folders with dead links."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from io_clips import frame, make_clip, save

from dyn4d import cli
from dyn4d.core.errors import InputError
from dyn4d.io.clips import load_clip
from dyn4d.io.importers.detect import read_source


def _checked(clip: Path, tmp_path: Path) -> tuple[int, dict]:
    file = tmp_path / "found.json"
    code = cli.main(["check", str(clip), "--json", str(file)])
    return code, json.loads(file.read_text())


def test_a_clip_without_masks_is_looked_at_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = make_clip(tmp_path / "clip", 8, masks=False, depth=False, camera={})
    save(clip / "rgb/00005.png", np.asarray(frame(4)))
    broken = clip / "rgb/00002.png"
    broken.write_bytes(broken.read_bytes()[:-25])
    code, found = _checked(clip, tmp_path)
    kinds = {one["kind"]: one for one in found["findings"]}
    assert code == 2 and not found["usable"]
    assert found["findings"][0]["kind"] == "no masks" and f"dyn4d mask {clip} --box" in kinds["no masks"]["remedy"]
    assert kinds["repeated"]["frames"] == [5] and "00002.png" in kinds["unreadable"]["text"]
    assert not any("mask pixels" in one["text"] for one in found["findings"])
    assert "has no masks" in capsys.readouterr().err


def test_sizes_that_differ_are_said_beside_missing_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = make_clip(tmp_path / "clip", 4, masks=False, depth=False, camera={})
    save(clip / "rgb/00003.png", frame(3, 12, 10))
    code, found = _checked(clip, tmp_path)
    assert code == 2 and [one["kind"] for one in found["findings"]] == ["no masks", "unreadable"]
    assert "00003.png is 12x10" in capsys.readouterr().err


def test_a_source_of_another_format_is_to_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "lego"
    save(source / "images/0.png", frame(0))
    (source / "transforms.json").write_text("{}")
    assert cli.main(["check", str(source)]) == 2
    assert f"looks like nerfstudio: dyn4d import {source} --out" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["gone.png", "00001.png"])
def test_links_that_lead_nowhere_are_named(tmp_path: Path, target: str) -> None:
    clip = make_clip(tmp_path / "clip", 4, depth=False, camera={})
    link = clip / "rgb/00001.png"
    link.unlink()
    link.symlink_to(target)
    for read in (load_clip, lambda path: read_source(path / "rgb")):
        with pytest.raises(InputError, match=rf"00001\.png is a link to {target}, which leads nowhere"):
            read(clip)
