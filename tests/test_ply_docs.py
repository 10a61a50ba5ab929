"""The Python of docs/ply.md runs as it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "io"))
from ply_clouds import gaussians, save

PAGE = Path(__file__).parent.parent / "docs" / "ply.md"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "cloud.ply", gaussians(300, 1))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert (tmp_path / "small.compressed.ply").exists() and names["sheet"] is not None
    assert "rows        300" in capsys.readouterr().out


def test_the_page_names_every_option() -> None:
    """Options that the help lists and the page does not would be found by nobody."""
    from dataclasses import fields

    from dyn4d.ply_cli import ACTIONS

    text = PAGE.read_text(encoding="utf-8")
    quiet = {"quiet", "debug", "columns", "size", "frames", "elevation", "background", "turntable"}
    for kind, *_ in ACTIONS.values():
        for entry in fields(kind):
            if entry.name not in (*kind.PLACES, *quiet):
                flag = f"--{kind.NAMES.get(entry.name, entry.name).replace('_', '-')}"
                assert flag in text, flag
