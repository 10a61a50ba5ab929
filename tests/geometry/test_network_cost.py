"""What a pair network is expected to cost: measured on the network itself, once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_network import small_network

from dyn4d.config import Config, load_preset, with_clip
from dyn4d.core.errors import InputError
from dyn4d.geometry import weights
from dyn4d.network_cost import NetworkCost, network_cost
from dyn4d.workload import ClipSize

CPU = torch.device("cpu")
SIZE = ClipSize(frames=10, all_frames=10, width=96, height=64, inside=900, with_depth=0, box_width=30, box_height=40,
                widest=32, highest=41, read=0.001)  # fmt: skip


def config(place: Path) -> Config:
    plain = with_clip(load_preset("quick"), "clip")
    pairs = replace(plain.geometry.pairs, size=96)
    return replace(plain, geometry=replace(plain.geometry, weights=str(place), pairs=pairs))


def test_a_network_is_measured_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place, loaded = tmp_path / "weights.pth", []
    place.write_bytes(b"x")
    monkeypatch.setattr(weights, "load_pair_network", lambda *_: (loaded.append(1), small_network())[1])
    assert network_cost(config(place), SIZE, CPU, measure=False) is None and not loaded
    first = network_cost(config(place), SIZE, CPU, measure=True)
    assert first is not None and first.encode > 0 and first.decode > 0 and first.bytes > 0
    assert network_cost(config(place), SIZE, CPU, measure=False) == first and len(loaded) == 1
    place.write_bytes(b"other weights")
    assert network_cost(config(place), SIZE, CPU, measure=False) is None


def test_weights_that_are_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError):
        network_cost(config(tmp_path / "gone.pth"), SIZE, CPU, measure=True)


def test_pairs_count_once_for_both_orders() -> None:
    assert NetworkCost(encode=2.0, decode=3.0, bytes=0.0).seconds(10, 40) == pytest.approx(10 * 2 + 20 * 3)
