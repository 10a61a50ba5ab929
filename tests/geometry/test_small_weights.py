"""The weights of the small pair network that come with dyn4d."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dyn4d.config import load_preset, with_clip
from dyn4d.geometry import pair_source
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.own_weights import LICENCE, NAME, SMALL, own_network
from dyn4d.geometry.pair_source import frames_from_pairs
from dyn4d.geometry.sources import choose_source
from dyn4d.geometry.weights import describe_weights, load_pair_network
from dyn4d.io.clips import load_clip
from dyn4d.synthetic import build_scene, write_scene
from dyn4d.training.geometry_config import ObjectPairs
from dyn4d.training.geometry_data import HELD_OUT, SampleSource
from dyn4d.training.geometry_eval import evaluate


def test_they_are_there_small_and_on_our_terms() -> None:
    assert SMALL.is_file() and SMALL.stat().st_size <= 32e6
    said = own_network(SMALL)
    assert said is not None and said.config.masked and said.licence == LICENCE
    assert 0.01 < said.depth_error < 0.1
    network = load_pair_network(NAME)
    assert describe_weights(SMALL).parameters == sum(value.numel() for value in network.state_dict().values())
    card = SMALL.with_suffix(".md").read_text(encoding="utf-8")
    assert "Apache-2.0" in card and "## Limits" in card


def test_they_know_relief_and_matches_of_bodies_that_no_training_saw() -> None:
    source = SampleSource(ObjectPairs(size=144, textures=20, scenes=0.0), 2_000_003)
    samples = [source(HELD_OUT + 7 * n) for n in range(16)]
    found = evaluate(load_pair_network(NAME), samples)  # pyright: ignore[reportArgumentType]
    assert found["depth"] < 0.8 * found["flat"]
    assert found["matches"] > max(0.6, found["still"] + 0.3)


def test_a_clip_without_depth_takes_them_and_one_with_depth_does_not(tmp_path: Path) -> None:
    write_scene(build_scene("turntable", frames=2, size=48), tmp_path)
    given = with_clip(load_preset("quick"), tmp_path / "clip").geometry
    assert choose_source(load_clip(tmp_path / "clip"), given) == "rgbd"
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("rgb", "mask"):
        (tmp_path / "clip" / name).rename(bare / name)
    assert choose_source(load_clip(bare), given) == "mast3r"


def test_a_single_picture_is_looked_at_where_its_object_is(tmp_path: Path) -> None:
    scene = build_scene("creature", frames=1, size=192, background="room")
    clip = load_clip(write_scene(scene, tmp_path, truth=False).clip)
    assert clip.depth is not None
    true, mask = np.asarray(clip.depth[0], dtype=np.float64), np.asarray(clip.masks[0], dtype=bool)
    bare = replace(clip, depth=None, cameras=None, all_cameras=None, poses_given=False)
    found = frames_from_pairs(bare, GeometryConfig(source="mast3r"))
    assert "anchored on the object (a single frame)" in " ".join(found.notes)
    assert len(found.points) > 0.9 * mask.sum()
    x, y = found.points.xy.floor().long().unbind(-1)
    off = np.log(found.points.xyz[:, 2].numpy() / true[y, x])
    flat = np.log(true[mask])
    assert np.median(np.abs(off - np.median(off))) < 0.8 * np.median(np.abs(flat - np.median(flat)))


@pytest.mark.slow
def test_a_body_that_walks_keeps_its_distances_and_comes_out_better_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scene(build_scene("creature", frames=20, size=112), tmp_path)
    clip = load_clip(tmp_path / "clip")
    bare = replace(clip, depth=None, cameras=None, all_cameras=None, poses_given=False)

    def errors() -> tuple[float, float, tuple[str, ...]]:
        """Mean within the frames, and the standard deviation from frame to frame, of the logarithm; the notes."""
        found = frames_from_pairs(bare, GeometryConfig(source="mast3r", weights=NAME))
        assert clip.depth is not None and found.depth is not None
        within, whole = [], []
        for row in range(len(clip)):
            said, true = np.asarray(found.depth[row]), np.asarray(clip.depth[row])
            good = np.asarray(clip.masks[row], dtype=bool) & (true > 0) & (said > 0)
            logs = np.log(true[good] / said[good])
            whole.append(np.median(logs))
            within.append(np.abs(logs - whole[-1]).mean())
        return float(np.mean(within)), float(np.std(whole)), found.notes

    within, drift, notes = errors()
    monkeypatch.setattr(pair_source, "even_out", lambda *_, **__: None)
    before, drifted, plain = errors()
    assert any("distances on the object change by" in note for note in notes)
    assert not any("distances on the object" in note for note in plain)
    assert within < 0.9 * before and drift < 0.7 * drifted
