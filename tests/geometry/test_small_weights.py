"""The weights of the small pair network that come with dyn4d."""

from __future__ import annotations

from pathlib import Path

from dyn4d.config import load_preset, with_clip
from dyn4d.geometry.own_weights import LICENCE, NAME, SMALL, own_network
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
