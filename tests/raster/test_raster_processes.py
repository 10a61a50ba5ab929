"""The same bits for any number of threads, in forked children, and in Python threads that draw at once.

All of it in one process that starts afresh: it needs four threads, and to fork before anything has been drawn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "fresh_process.py"
THREADS = [f"{count} threads" for count in (2, 3, 4)]
AT_ONCE = [f"Python thread {i}, first use" for i in range(4)]
CHILDREN = ["child of a parent that has not drawn", "child of a parent that has drawn", "child that asks for threads"]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    environment = {n: v for n, v in os.environ.items() if n != "OMP_NUM_THREADS"}
    environment |= {"NUMBA_NUM_THREADS": "4", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("way", [*THREADS, *AT_ONCE, *CHILDREN])
def test_same_bits(report: dict[str, Any], way: str) -> None:
    if way in CHILDREN and not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    truth, found = report["found"]["1 threads"], report["found"][way]
    assert isinstance(found, dict), found
    assert len(found) > 10 and [name for name in found if truth[name] != found[name]] == []


def test_what_was_compared(report: dict[str, Any]) -> None:
    """All gradients, and threads that were really there."""
    assert report["thread counts"] == [1, 2, 3, 4]
    truth = report["found"]["1 threads"]
    wanted = ["means", "covars", "opacities", "colors", "viewmats", "backgrounds", "means2d"]
    assert {f"harmonics: grad {name}" for name in wanted} | {"harmonics: absgrad"} <= set(truth)
    assert {"channels: grad quats", "channels: grad scales", "losses: l1", "losses: grad pred"} <= set(truth)
    assert len(set(truth.values())) == len(truth), "no two results are the same, such as all zero"
