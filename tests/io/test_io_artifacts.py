"""Artifacts and checkpoints: round trips, damage, and nothing that is executed on reading."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dyn4d.core.errors import InputError
from dyn4d.core.types import Correspondences, FramePoints
from dyn4d.io import artifacts
from dyn4d.io.checkpoint import load_tensors, save_tensors


def _matches(count: int = 9) -> Correspondences:
    rng = torch.Generator().manual_seed(0)
    frame = torch.arange(count)
    return Correspondences(frame, frame + 1, torch.rand(count, 2, generator=rng), torch.rand(count, 2, generator=rng),
                           torch.rand(count, generator=rng))  # fmt: skip


def _points(count: int = 5) -> FramePoints:
    return FramePoints(torch.randn(count, 3), torch.rand(count, 3), torch.zeros(count, 3), torch.arange(count),
                       torch.rand(count, 2), torch.ones(count))  # fmt: skip


@pytest.mark.parametrize("value", [_matches(), _matches(0), _points(), _points(0)], ids=["m9", "m0", "p5", "p0"])
def test_dataclasses_round_trip(tmp_path: Path, value) -> None:
    artifacts.save(tmp_path / "a/x.npz", value, source="rgbd", version=2)
    back = artifacts.load(tmp_path / "a/x.npz", type(value))
    for name, tensor in vars(value).items():
        assert getattr(back, name).dtype == tensor.dtype
        torch.testing.assert_close(getattr(back, name), tensor, rtol=0, atol=0)
    assert artifacts.load_meta(tmp_path / "a/x.npz") == {"source": "rgbd", "version": 2}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.npz"]


def test_dictionaries_round_trip_and_numpy_reads_them(tmp_path: Path) -> None:
    value = {"xyz": torch.randn(2, 3), "names": np.array(["a", "é"]), "flag": np.array([True]), "n": 3}
    artifacts.save(tmp_path / "x.npz", value)
    back = artifacts.load(tmp_path / "x.npz", dict)
    assert set(back) == set(value) and back["names"].tolist() == ["a", "é"] and int(back["n"]) == 3
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["xyz"], value["xyz"])


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a is not a table"):
        artifacts.save(tmp_path / "x.npz", {"a": np.array([object()])})
    with pytest.raises(TypeError, match="found int"):
        artifacts.save(tmp_path / "x.npz", 3)
    assert not list(tmp_path.iterdir())


def test_the_type_asked_for_must_be_inside(tmp_path: Path) -> None:
    artifacts.save(tmp_path / "x.npz", _matches())
    with pytest.raises(InputError, match=r"x\.npz holds Correspondences, wanted FramePoints"):
        artifacts.load(tmp_path / "x.npz", FramePoints)
    with pytest.raises(InputError, match="wanted dict"):
        artifacts.load(tmp_path / "x.npz", dict)


def test_shapes_are_checked_on_reading(tmp_path: Path) -> None:
    good = {name: tensor.numpy() for name, tensor in vars(_matches()).items()}
    header = b'{"format": "dyn4d-artifact/1", "type": "Correspondences", "arrays": {}, "meta": {}}'
    for change, message in (({"xy_a": np.zeros((9, 3))}, "wanted shape"), ({"xy_a": np.array(["a"] * 9)}, "x.npz")):
        np.savez(tmp_path / "x.npz", __header__=np.frombuffer(header, np.uint8), **{**good, **change})
        with pytest.raises(InputError, match=message):
            artifacts.load(tmp_path / "x.npz", Correspondences)
    del good["weight"]
    np.savez(tmp_path / "x.npz", __header__=np.frombuffer(header, np.uint8), **good)
    with pytest.raises(InputError, match="no weight inside"):
        artifacts.load(tmp_path / "x.npz", Correspondences)


@pytest.mark.parametrize("keep", [0, 10, 200, 0.5, -30])
def test_damage_is_one_clear_error(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(InputError, match=r"x\.npz is not there"):
        artifacts.load(path, Correspondences)
    artifacts.save(path, _matches())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match=r"x\.npz is damaged or cut short"):
        artifacts.load(path, Correspondences)


def test_flipped_bytes_never_give_other_numbers(tmp_path: Path) -> None:
    path, value = tmp_path / "x.npz", _matches(40)
    artifacts.save(path, value)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 60):
        broken = bytearray(whole)
        broken[place] ^= 0x55
        path.write_bytes(broken)
        try:
            back = artifacts.load(path, Correspondences)
        except InputError:
            continue
        assert torch.equal(back.xy_a, value.xy_a) and torch.equal(back.weight, value.weight)


def test_foreign_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="has no dyn4d header"):
        artifacts.load(tmp_path / "x.npz", dict)
    np.savez(tmp_path / "x.npz", __header__=np.frombuffer(b'{"format": "later/9"}', np.uint8))
    with pytest.raises(InputError, match="a format this version does not read"):
        artifacts.load(tmp_path / "x.npz", dict)


class _Evil:
    def __reduce__(self):
        return (Path.touch, (Path("should_not_exist"),))


def test_pickles_are_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    artifacts.save(tmp_path / "x.npz", {"a": np.zeros(1)})
    array = np.empty(1, dtype=object)
    array[0] = _Evil()
    np.save(tmp_path / "evil.npy", array, allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.write(tmp_path / "evil.npy", "b.npy")
    with pytest.raises(InputError):
        artifacts.load(tmp_path / "x.npz", dict)
    (tmp_path / "c.safetensors").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(InputError):
        load_tensors(tmp_path / "c.safetensors", None)
    assert not (tmp_path / "should_not_exist").exists()


# ---------------------------------------------------------------- checkpoints


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    shared = torch.randn(4, 6)
    tensors = {
        "a.weight": shared, "a.view": shared[:, ::2], "b": torch.arange(3), "c": torch.zeros(0, 3),
        "d": torch.tensor(2.5, dtype=torch.float64), "e": torch.tensor([True]),
        "f": torch.ones(2, dtype=torch.bfloat16), "g": torch.nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    config = {"layers": 3, "name": "é", "steps": [1, 2.5], "none": None}
    save_tensors(tmp_path / "m/x.safetensors", tensors, config, "dyn4d-field/1")
    back = load_tensors(tmp_path / "m/x.safetensors", "dyn4d-field/1")
    assert back.config == config and back.source.name == "x.safetensors" and back.format == "dyn4d-field/1"
    assert set(back.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert back.tensors[name].dtype == tensor.dtype and torch.equal(back.tensors[name], tensor)
    save_tensors(tmp_path / "m/x.safetensors", {"b": back.tensors["b"]}, {}, "dyn4d-field/1")
    assert torch.equal(back.tensors["a.weight"], shared)  # replacing the file leaves what was read alone


def test_checkpoint_format_is_asked_for(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)}, {}, "dyn4d-field/1")
    with pytest.raises(InputError, match="is of format 'dyn4d-field/1', wanted 'dyn4d-cloud/1'"):
        load_tensors(tmp_path / "x.safetensors", "dyn4d-cloud/1")
    save_file({"a": torch.ones(1)}, str(tmp_path / "y.safetensors"))
    with pytest.raises(InputError, match="format 'unknown'"):
        load_tensors(tmp_path / "y.safetensors", "dyn4d-field/1")
    assert torch.equal(load_tensors(tmp_path / "y.safetensors", None).tensors["a"], torch.ones(1))


@pytest.mark.parametrize("keep", [0, 5, 40, -4])
def test_damaged_checkpoint(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match=r"x\.safetensors is not there"):
        load_tensors(path, "f/1")
    save_tensors(path, {"a": torch.ones(9)}, {}, "f/1")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"x\.safetensors is damaged or cut short"):
        load_tensors(path, "f/1")
