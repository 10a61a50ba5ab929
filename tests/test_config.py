"""The options tree: strict reading, round trips, presets, ranges."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dyn4d import config as cf
from dyn4d.config import Config, Options, differences, dump_config, from_plain, load_config, load_preset, with_clip
from dyn4d.core.errors import InputError


def read(text: str, tmp_path: Path) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(path)


@pytest.mark.parametrize("name", cf.PRESETS)
def test_presets_load_and_round_trip(name: str, tmp_path: Path) -> None:
    config = with_clip(load_preset(name), tmp_path / "clip")
    assert read(dump_config(config), tmp_path) == config


@given(
    st.integers(1, 12), st.floats(1e-9, 1e3), st.lists(st.integers(1, 90), max_size=5),
    st.one_of(st.none(), st.text("0123456789:-", max_size=9)),
)  # fmt: skip
def test_any_values_round_trip(layers: int, lr: float, strides: list[int], frames: str | None) -> None:
    options = Options(
        frames=frames,
        deformation=dataclasses.replace(Options().deformation, layers=layers, lr=lr),
        matching=dataclasses.replace(Options().matching, strides=tuple(strides)),
    )
    config = Config(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Options)}, clip="clip")
    assert from_plain(Config, yaml.safe_load(dump_config(config)), source="here") == config


def test_an_empty_file_means_defaults(tmp_path: Path) -> None:
    assert read("", tmp_path) == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gausians: {steps: 3}", r"unknown key 'gausians'; known here: .*gaussians"),
        ("gaussians: {stepz: 3}", r"unknown key 'gaussians.stepz'; known here: .*steps"),
        ("gaussians: {steps: many}", "gaussians.steps: wanted int, found 'many'"),
        ("gaussians: {steps: 3.5}", "gaussians.steps: wanted int, found 3.5"),
        ("gaussians: {steps: true}", "gaussians.steps: wanted int, found True"),
        ("gaussians: {steps: -1}", "gaussians.steps"),
        ("gaussians: 7", "gaussians: wanted a section of keys"),
        ("deformation: {kind: magic}", "deformation.kind: 'magic' is not one of realnvp, none"),
        ("matching: {strides: 8}", "matching.strides: wanted a list"),
        ("matching: {strides: [a]}", "matching.strides: wanted int"),
        ("max_size: 3", "max_size"),
        ("- 1\n- 2", "wanted 'section"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_mistakes_name_the_file_and_the_field(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(text, tmp_path)
    assert str(tmp_path / "config.yaml") in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_that_yaml_takes_for_text(tmp_path: Path) -> None:
    assert read("gaussians: {lr_sh: 1e-3, l1: 2}", tmp_path).gaussians.lr_sh == 1e-3
    assert isinstance(read("gaussians: {l1: 2}", tmp_path).gaussians.l1, float)


def test_unknown_preset() -> None:
    with pytest.raises(InputError, match="quick, default, quality"):
        load_preset("../quick")


def test_no_preset_drops_frames() -> None:
    assert all(load_preset(name).frames is None for name in cf.PRESETS)


def test_paths_are_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masks").mkdir()
    config = with_clip(Options(mask="masks"), "clip")
    assert config.clip == str(tmp_path / "clip") and config.mask == str(tmp_path / "masks")
    assert with_clip(Options(), "clip").mask == "auto"


def test_differences_are_named() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == ["a.c: 2 -> 3"]
    assert differences({"a": 1}, {"a": 1}) == []
    assert differences({"a": {}}, {"a": {"b": True}}) == ["a.b: not set -> on"]
    assert differences({"a": None, "b": ""}, {"a": "0:9", "b": 0}) == ["a: none -> 0:9", "b: nothing -> 0"]
    files = {"name": "mask", "files": 12, "digest": "de10"}
    assert differences({"mask": "auto"}, {"mask": files}) == ["mask: auto -> mask (12 files)"]


def sections() -> list[type[Any]]:
    return [Options, *(type(getattr(Options(), f.name)) for f in dataclasses.fields(Options)
                       if dataclasses.is_dataclass(getattr(Options(), f.name)))]  # fmt: skip


@pytest.mark.parametrize("kind", sections(), ids=lambda kind: kind.__name__)
def test_options_are_frozen_and_explained(kind: type[Any]) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    for at, node in enumerate(body):
        if isinstance(node, ast.AnnAssign):
            after = body[at + 1] if at + 1 < len(body) else None
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), ast.unparse(node)
