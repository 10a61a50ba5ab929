"""What all tests share: fixed seeds, the reference data (or a reason to skip), and options for the device."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # cores are shared out among processes, before torch counts them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("dyn4d", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("dyn4d")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of tests that can use one: cpu, cuda")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no CUDA device that torch can use")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


@pytest.fixture
def no_small_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a copy of dyn4d without the weights of its small pair network."""
    from dyn4d.geometry import own_weights

    monkeypatch.setattr(own_weights, "SMALL", tmp_path / "none.safetensors")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  libraries still draw from it


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with `golden/`, `r2d2/` and `data/`."""
    value = os.environ.get("DYN4D_REFERENCE")
    if not value:
        pytest.skip("DYN4D_REFERENCE is not set: no reference data")
    return Path(value)


@pytest.fixture(scope="session")
def splat_transform() -> Callable[..., None]:
    """Runs PlayCanvas' splat-transform, an independent reader and writer of splat files, on a source and a target."""
    folder = os.environ.get("DYN4D_SPLAT_TRANSFORM", "")
    program = Path(folder) / "node_modules" / ".bin" / "splat-transform" if folder else None
    found = str(program) if program and program.exists() else shutil.which("splat-transform")
    if found is None or shutil.which("node") is None:
        pytest.skip(
            "splat-transform is not there: npm install --prefix FOLDER @playcanvas/splat-transform, and set "
            "DYN4D_SPLAT_TRANSFORM=FOLDER"
        )

    def run(source: Path, target: Path, *options: str) -> None:
        command = [found, "-q", "-w", *options, str(source), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr

    return run
