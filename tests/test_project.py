"""The project's own promises: what the README says is what CI runs, and presets are in the wheel."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parent.parent


def test_the_readme_holds_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert any(re.match(r"python3 -m venv .*&& .*-m pytest$", line) for line in lines)  # .ci/run runs this very line
    assert any(re.match(r"python3 -m venv .*&& .*dyn4d demo$", line) for line in lines)


def test_ci_can_be_run() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n") and "set -euo pipefail" in text
    assert os.name == "nt" or os.access(ROOT / ".ci" / "run", os.X_OK)


def test_presets_are_package_data() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]["configs"] == "dyn4d/configs"
    assert {p.stem for p in (ROOT / "configs").glob("*.yaml")} == {"quick", "default", "quality"}


def test_the_version_is_said_once() -> None:
    from dyn4d import __version__

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project.get("version", __version__) == __version__
