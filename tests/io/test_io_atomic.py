"""Files and folders are there whole or not at all."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dyn4d.core.errors import InputError, RunError
from dyn4d.io.atomic import atomic_folder, atomic_path, read_json, write_json


def _all_files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_file_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new/folder/a.mp4"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".mp4" and temporary.name.startswith(".")
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new" and len(list(target.parent.iterdir())) == 1


def test_failure_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert target.read_text() == "old" and _all_files(tmp_path) == ["a.txt"]


def test_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for names in (["a", "b"], ["b", "c"]):
        with atomic_folder(target) as folder:
            for name in names:
                (folder / name).write_text(name)
        assert _all_files(target) == names
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as folder:
        (folder / "half").write_text("")
        raise KeyboardInterrupt
    assert _all_files(tmp_path) == ["out", "out/b", "out/c"]


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "disk full while writing"), (errno.EACCES, "no permission to write"), (errno.EIO, "cannot write")],
)
@pytest.mark.parametrize("kind", [atomic_path, atomic_folder])
def test_os_errors_become_one_line(tmp_path: Path, kind, number: int, message: str) -> None:
    with pytest.raises(RunError, match=message) as caught, kind(tmp_path / "a"):
        raise OSError(number, "as the system says")
    assert str(tmp_path / "a") in str(caught.value) and not list(tmp_path.iterdir())


def test_json_round_trip_of_all_kinds(tmp_path: Path) -> None:
    value = {
        "a": np.float32(0.5), "b": np.arange(3), "c": torch.tensor([1.0, math.nan]), "d": (1, 2), "e": math.inf,
        "f": tmp_path, "g": None, "h": True, "i": {"é": np.int64(3)}, 4: np.bool_(False),
    }  # fmt: skip
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == {
        "a": 0.5, "b": [0, 1, 2], "c": [1.0, None], "d": [1, 2], "e": None,
        "f": str(tmp_path), "g": None, "h": True, "i": {"é": 3}, "4": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "line 1, column 1"), (b'{"a": 1,\n "b"', "line 2"), (b"[1]", "found a list"), (b"\xff\xfe\x00", "UTF-8")],
)
def test_damaged_json_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match=r"x\.json is not there"):
        read_json(path)
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_what_a_writer_keeps_to_itself_others_may_read(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("as usual")
    with atomic_path(tmp_path / "field.safetensors") as temporary:
        temporary.write_text("tensors")
        temporary.chmod(0o600)
    assert (tmp_path / "field.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
