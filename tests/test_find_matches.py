"""The matching as a part of the geometry stage: its options, the terms of its weights, and what is told early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dyn4d import stagework
from dyn4d.config import Config, Options, with_clip
from dyn4d.core.errors import InputError
from dyn4d.core.types import Correspondences
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.pair_config import PairConfig
from dyn4d.matching.config import MatchingConfig
from dyn4d.pipeline import run_all
from dyn4d.progress import QuietProgress
from dyn4d.synthetic import build_scene, write_scene


class State:
    def __init__(self, licences: list[str]) -> None:
        self.data: dict[str, Any] = {"licences": licences}

    def update(self, **values: Any) -> None:
        self.data.update(values)


def found_with(
    config: Config, licences: list[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], list[str]]:
    """What `match_frames` is called with, and the licences afterwards."""
    calls: list[dict[str, Any]] = []

    def match_frames(*_: Any, **options: Any) -> Correspondences:
        calls.append(options)
        return Correspondences.empty()

    monkeypatch.setattr("dyn4d.matching.clip_matching.match_frames", match_frames)
    state = State(licences)
    ctx: Any = SimpleNamespace(config=config, state=state, progress=QuietProgress(), scratch=Path("scratch"))
    clip: Any = None
    stagework.find_matches(ctx, clip)
    return calls[0], state.data["licences"]


def test_a_pair_network_takes_its_options_and_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = SimpleNamespace(notes=("weights: their terms", "one decoder"), config=SimpleNamespace(masked=False))
    monkeypatch.setattr("dyn4d.geometry.weights.load_pair_network", lambda *_: network)
    pairs = PairConfig(size=224, subsample=4)
    config = Config(
        clip="x", device="cpu", matching=MatchingConfig(matcher="flow+mast3r"),
        geometry=GeometryConfig(weights="w.pth", pairs=pairs),
    )  # fmt: skip
    options, licences = found_with(config, ["weights: their terms"], monkeypatch)
    assert options["matcher"].config == pairs
    assert licences == ["weights: their terms", "one decoder"]


def test_the_terms_of_networks_for_flow_and_descriptors_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    raft = SimpleNamespace(licence="RAFT's terms", colour=True)
    monkeypatch.setattr("dyn4d.matching.estimators.make_estimator", lambda *_: raft)
    config = Config(clip="x", device="cpu", matching=MatchingConfig(matcher="flow+r2d2", flow="raft"))
    options, licences = found_with(config, ["of the geometry"], monkeypatch)
    assert options["estimator"] is raft
    assert licences[:2] == ["of the geometry", "matching: RAFT's terms"] and "Apache-2.0" in licences[2]
    again = found_with(config, licences, monkeypatch)[1]
    assert again == licences


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    write_scene(build_scene("creature", frames=3, size=48), folder)
    return folder / "clip"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"matcher": "r2d2", "weights": "none.pt"}, "none.pt is not there"),
        ({"matcher": "flow+r2d2", "calibration": "none.json"}, "none.json: no such file"),
        ({"matcher": "flow+mast3r"}, "no weights of a pair network"),
        ({"flow": "raft"}, "flow raft needs weights"),
        ({"flow": "raft", "flow_weights": "none.pth"}, r"torchvision|none.pth is not there"),
        ({"flow": "files"}, "has no folder flow"),
        ({"flow": "files", "flow_files": "none"}, "none is not there"),
    ],
)
def test_what_the_matching_lacks_is_told_before_anything_is_done(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the geometry was begun")

    monkeypatch.setattr("dyn4d.geometry.sources.solve_geometry", never)
    monkeypatch.chdir(tmp_path)
    config = with_clip(replace(Options(), matching=MatchingConfig(**changes)), clip)
    with pytest.raises(InputError, match=words):
        run_all(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_flow_files_that_fit_no_frames_are_told_early(clip: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x_y.npy", np.zeros((48, 48, 2)))
    config = with_clip(replace(Options(), matching=MatchingConfig(flow="files", flow_files=str(tmp_path))), clip)
    with pytest.raises(InputError, match=r"x_y.npy is not named after two frames"):
        run_all(config, tmp_path / "run")
