"""Kernels as C functions: what they refuse, how work is divided among threads, and when the cache is stale."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from dyn4d.raster import native
from dyn4d.raster.native import Kernel, kernel, unpack
from dyn4d.raster.threads import even_bounds, launch, launch_all, launch_whole, numbered, whole

_COUNT = "i8 f4[:,:] i8[:]"


@kernel(_COUNT)
def count_visits(lo: int, hi: int, pack: int) -> None:
    """Adds `step` to the visits of each item, as often as it is handled."""
    step, table, visits = unpack(pack, _COUNT)
    for i in range(lo, hi):
        visits[i] += step * table.shape[1]


def given() -> list[Any]:
    return [1, torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)]


def test_arguments_arrive() -> None:
    arguments = given()
    launch(count_visits, array("q", [1, 4]), *arguments)
    assert arguments[2].tolist() == [0, 2, 2, 2, 0]


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (1, torch.zeros(5, 2, dtype=torch.float64)),
        (1, torch.zeros(5, 2, dtype=torch.int32)),
        (1, torch.zeros(10)),
        (1, torch.zeros(2, 5).T),
        (1, torch.zeros(5, 4)[:, ::2]),
        (1, np.zeros((5, 2), np.float32)),
        (2, torch.zeros(5, dtype=torch.int32)),
        (2, torch.zeros(5, 1, dtype=torch.int64)),
        (2, torch.zeros(10, dtype=torch.int64)[::2]),
    ],
)
def test_wrong_arrays_are_refused_by_name(position: int, value: Any) -> None:
    arguments = given()
    arguments[position] = value
    with pytest.raises(TypeError, match=f"count_visits: argument {position}"):
        launch(count_visits, array("q", [0, 5]), *arguments)
    with pytest.raises(TypeError, match=f"count_visits: argument {position}"):
        launch_whole(count_visits, 5, *arguments)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_wrong_numbers_of_arguments_are_refused_by_name(count: int) -> None:
    arguments = (given() * 2)[:count]
    with pytest.raises(TypeError, match=f"count_visits: wanted 3 arguments, found {count}"):
        launch(count_visits, array("q", [0, 5]), *arguments)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("total", [0, 1, 7, 512, 513, 5000])
@pytest.mark.parametrize("step", [1, 512])
def test_every_item_is_handled_once(threads: None, total: int, step: int) -> None:
    bounds = even_bounds(total, step)
    assert bounds[0] == 0 and bounds[-1] == total and (np.diff(bounds) >= 0).all()
    assert all(bound % step == 0 for bound in bounds[:-1])
    numbers, ends = numbered(bounds)
    assert numbers.tolist() == list(range(len(bounds))) and ends.tolist() == bounds.tolist()
    visits = torch.zeros(total, dtype=torch.int64)
    launch(count_visits, bounds, 1, torch.zeros(1, 1), visits)
    assert (visits == 1).all()


def test_several_at_once(threads: None) -> None:
    """Each with its own arguments, divided or not, also where there is nothing to do."""
    table = torch.zeros(1, 1)
    visits = [torch.zeros(total, dtype=torch.int64) for total in (1000, 300, 0)]
    divided = [(count_visits, even_bounds(len(v)), (i + 2, table, v)) for i, v in enumerate(visits)]
    alone = torch.zeros(50, dtype=torch.int64)
    launch_all([whole(count_visits, 50, 1, table, alone), *divided])
    assert (alone == 1).all() and all((v == i + 2).all() for i, v in enumerate(visits))
    launch_all([])


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("cached_kernel", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cached_kernel", module)  # numba looks there
    spec.loader.exec_module(module)
    return module


def test_a_kernel_is_compiled_anew_when_the_folder_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Macros in other files are compiled into a kernel, so its own file says too little."""
    path = tmp_path / "cached_kernel.py"
    path.write_text(
        "from dyn4d.raster.native import kernel, unpack\n"
        "@kernel('i8[:]')\n"
        "def fill(lo: int, hi: int, pack: int) -> None:\n"
        "    (out,) = unpack(pack, 'i8[:]')\n"
        "    for i in range(lo, hi):\n"
        "        out[i] = i\n",
        encoding="utf-8",
    )

    def from_cache() -> bool:
        made: Kernel = load(path, monkeypatch).fill
        out = torch.zeros(3, dtype=torch.int64)
        launch_whole(made, 3, out)
        assert out.tolist() == [0, 1, 2]
        return made.compiled.cache_hits > 0

    monkeypatch.setattr(native, "_fingerprint", lambda: "one")
    assert not from_cache()
    assert from_cache()
    monkeypatch.setattr(native, "_fingerprint", lambda: "two")
    assert not from_cache()
    monkeypatch.setattr(native, "_fingerprint", lambda: "one")
    assert from_cache()


def test_the_fingerprint_is_of_every_file_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(native.__file__).parent
    for source in folder.glob("*.py"):
        shutil.copy(source, tmp_path)

    def fingerprint() -> str:
        monkeypatch.setattr(native, "_sources", "")
        return native._fingerprint()

    truth = fingerprint()
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    assert fingerprint() == truth, "the place of the folder does not matter"
    for source in sorted(tmp_path.glob("*.py")):
        before = source.read_bytes()
        source.write_bytes(before + b"\n")
        assert fingerprint() != truth, source.name
        source.write_bytes(before)
    assert fingerprint() == truth
