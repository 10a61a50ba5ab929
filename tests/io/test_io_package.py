"""The package is light to import, and its promises of names hold."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dyn4d.io


def test_importing_loads_neither_torch_nor_codecs() -> None:
    code = "import sys, dyn4d.io; print([m for m in ('torch', 'av', 'PIL', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_promised_name_is_there() -> None:
    for name in dyn4d.io.__all__:
        assert callable(getattr(dyn4d.io, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dyn4d.io.nothing  # noqa: B018
