"""What all tests share: fixed seeds, the reference data (or a reason to skip), and options for the device."""

from __future__ import annotations

import os
from pathlib import Path

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
