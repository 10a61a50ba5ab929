from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_network import SMALL, SMALL_DUST3R, picture, small_network
from torch import Tensor

import dyn4d.geometry
from dyn4d.core.errors import InputError
from dyn4d.geometry.network import PairNetwork
from dyn4d.geometry.network_config import PRESETS
from dyn4d.geometry.weights import (
    convert_weights,
    describe_weights,
    licence_of,
    load_pair_network,
    random_weights,
    save_pair_weights,
)
from dyn4d.matching import r2d2_weights
from dyn4d.weights_cli import weights_text

OFFICIAL = "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric"


def pth(path: Path, tensors: dict[str, Tensor], text: str = SMALL.constructor(), **more: Any) -> Path:
    torch.save({"args": argparse.Namespace(model=text, lr=1e-4), "model": tensors, **more}, path)
    return path


def without(tensors: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not any(part in name for part in parts)}


def predicts_the_same(network: PairNetwork, other: PairNetwork) -> bool:
    pairs = [net.predict_pair(picture(32, 32, 1), picture(32, 48, 2)) for net in (network, other)]
    return torch.equal(pairs[0].points_b_in_a, pairs[1].points_b_in_a) and torch.equal(pairs[0].conf_a, pairs[1].conf_a)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return random_weights(SMALL, seed=3)


@pytest.fixture(scope="module")
def network() -> PairNetwork:
    return small_network(seed=3)


# ------------------------------------------------------------------------------------------- forms of a file


def test_an_official_pth(tmp_path: Path, tensors: dict[str, Tensor], network: PairNetwork) -> None:
    loaded = load_pair_network(pth(tmp_path / "w.pth", tensors), "cpu")
    assert loaded.config == SMALL and not loaded.training
    assert predicts_the_same(loaded, network)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert any("CC BY-NC-SA 4.0" in note for note in loaded.notes)


def test_a_training_file(tmp_path: Path, tensors: dict[str, Tensor], network: PairNetwork) -> None:
    more = {"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}, "scaler": {}, "epoch": 7, "best_so_far": 1.5}
    assert predicts_the_same(load_pair_network(pth(tmp_path / "w.pth", tensors, **more)), network)


def test_a_folder_and_a_file_with_its_configuration(
    tmp_path: Path, tensors: dict[str, Tensor], network: PairNetwork
) -> None:
    folder = save_pair_weights(tmp_path / "model", SMALL, tensors)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    kwargs = json.loads((folder / "config.json").read_text())
    assert kwargs["depth_mode"] == ["exp", float("-inf"), float("inf")]
    assert predicts_the_same(load_pair_network(folder), network)
    assert predicts_the_same(load_pair_network(str(folder / "model.safetensors")), network)
    (folder / "config.json").rename(folder / "model.json")
    assert predicts_the_same(load_pair_network(folder), network)


def test_what_a_hub_adds_to_its_configuration(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    folder = save_pair_weights(tmp_path / "model", SMALL, tensors)
    kwargs = json.loads((folder / "config.json").read_text())
    kwargs |= {"desc_mode": "norm", "freeze": "none", "landscape_only": True, "patch_embed_cls": "ManyAR_PatchEmbed",
               "norm_im2_in_dec": True, "mask_ratio": 0.9, "mlp_ratio": 4, "patch_size": 16}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(kwargs))
    assert load_pair_network(folder).config == SMALL


@pytest.mark.parametrize("spelling", ["both", "layer1_rn", "layer_rn"])
def test_both_spellings_of_a_key(
    tmp_path: Path, tensors: dict[str, Tensor], network: PairNetwork, spelling: str
) -> None:
    drop = {"both": (), "layer1_rn": (".layer_rn.",), "layer_rn": tuple(f".layer{i}_rn." for i in range(1, 5))}
    some = without(tensors, *drop[spelling])
    assert len(tensors) - len(some) == (0 if spelling == "both" else 8)
    assert predicts_the_same(load_pair_network(pth(tmp_path / "w.pth", some)), network)


def test_spellings_that_differ(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    key = "downstream_head2.dpt.scratch.layer_rn.1.weight"
    with pytest.raises(InputError, match=r"layer2_rn.weight and .*layer_rn.1.weight are the same layer, but differ"):
        load_pair_network(pth(tmp_path / "w.pth", {**tensors, key: tensors[key] + 1}))


def test_keys_that_are_never_used_may_be_missing(
    tmp_path: Path, tensors: dict[str, Tensor], network: PairNetwork
) -> None:
    some = without(tensors, "mask_token", "refinenet4.resConfUnit1")
    assert len(tensors) - len(some) == 9
    loaded = load_pair_network(pth(tmp_path / "w.pth", some))
    assert predicts_the_same(loaded, network) and not bool(loaded.mask_token.any())


def test_one_decoder_is_copied(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = pth(tmp_path / "w.pth", without(tensors, "dec_blocks2"))
    loaded = load_pair_network(path)
    assert any("one decoder" in note for note in loaded.notes)
    for name, value in loaded.dec_blocks.state_dict().items():
        assert torch.equal(value, loaded.dec_blocks2.state_dict()[name])
    info = describe_weights(path)
    assert any("one decoder" in note for note in info.notes) and "one decoder" in info.format()
    assert info.parameters == describe_weights(pth(tmp_path / "all.pth", tensors)).parameters
    again = load_file(convert_weights(path, tmp_path / "folder") / "model.safetensors")
    assert not any(name.startswith("dec_blocks2") for name in again)


def test_half_precision_becomes_float32(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = pth(tmp_path / "w.pth", {name: value.half() for name, value in tensors.items()})
    loaded = load_pair_network(path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.enc_norm.weight, tensors["enc_norm.weight"].half().float())
    assert describe_weights(path).dtypes == ("float16",)


def test_sizes_come_from_the_shapes_where_the_text_leaves_them_open(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    text = (
        "AsymmetricMASt3R(enc_num_heads=2, dec_num_heads=3, output_mode='pts3d+desc8', two_confs=True, "
        "img_size=(64, 64), desc_conf_mode=('exp', 0, inf))"
    )
    assert load_pair_network(pth(tmp_path / "w.pth", tensors, text)).config == SMALL


def test_the_reference_network(tmp_path: Path, reference: Path) -> None:
    numpy = pytest.importorskip("numpy")
    path = reference / "golden" / "mast3r_micro.npz"
    if not path.exists():
        pytest.skip(f"{path.name} is not among the reference data")
    with numpy.load(path) as file:
        state = {name[3:]: torch.from_numpy(file[name]) for name in file.files if name.startswith("sd/")}
        kwargs = json.loads(str(file["config_json"]))
        image_a, image_b, expected = (
            torch.from_numpy(file[f"c1_landscape/{name}"]) for name in ("img1", "img2", "view1.conf")
        )
    modes = {k: (v[0], *map(float, v[1:])) for k, v in kwargs.items() if k.endswith("_mode") and isinstance(v, list)}
    kwargs = {**kwargs, **modes}
    text = f"AsymmetricMASt3R({', '.join(f'{k}={v!r}' for k, v in kwargs.items() if not k.startswith('_'))})"
    loaded = load_pair_network(pth(tmp_path / "w.pth", state, text))
    pair = loaded.predict_pair((image_a + 1) / 2, (image_b + 1) / 2)
    torch.testing.assert_close(pair.conf_a, expected, rtol=1e-4, atol=0)


def test_a_hub_id_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install huggingface_hub\); or get model.safetensors and config.json"):
        load_pair_network(OFFICIAL)


def test_a_hub_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, network: PairNetwork) -> None:
    folder = save_pair_weights(tmp_path / "hub", SMALL, random_weights(SMALL, seed=3))
    asked = []

    def hf_hub_download(model: str, name: str) -> str:
        asked.append((model, name))
        return str(folder / name)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    assert predicts_the_same(load_pair_network(OFFICIAL), network)
    assert asked == [(OFFICIAL, "config.json"), (OFFICIAL, "model.safetensors")]


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hf_hub_download(model: str, name: str) -> str:
        raise ConnectionError("no route to host\nmore lines")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    with pytest.raises(InputError, match=r"could not be fetched from the hub \(no route to host\); or get"):
        load_pair_network(OFFICIAL)


# --------------------------------------------------------------------------------------- files that do not fit


def refusal(path: str | Path) -> str:
    """The text of the one error that loading ends in."""
    with pytest.raises(InputError) as caught:
        load_pair_network(path)
    text = str(caught.value)
    assert "\n" not in text and Path(path).stem in text
    return text


def test_missing_and_extra_keys_are_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    text = refusal(pth(tmp_path / "w.pth", without(tensors, "enc_blocks.1.attn")))
    assert "4 tensors (enc_blocks.1.attn.qkv.weight, enc_blocks.1.attn.qkv.bias, enc_blocks.1.attn.proj.weight" in text
    assert "missing" in text
    text = refusal(pth(tmp_path / "w.pth", {**tensors, "prediction_head.weight": torch.zeros(2)}))
    assert "1 tensor (prediction_head.weight) too many" in text
    text = refusal(pth(tmp_path / "w.pth", without(tensors, "enc_blocks.1.")))
    assert "12 tensors" in text and ", …) missing" in text
    text = refusal(pth(tmp_path / "w.pth", {**tensors, "enc_norm.bias": torch.zeros(5)}))
    assert "enc_norm.bias has shape (5,), wanted (32,)" in text


def test_a_configuration_of_another_network(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    text = SMALL.constructor().replace("enc_depth=2", "enc_depth=3")
    assert "12 tensors (enc_blocks.2.norm1.weight" in refusal(pth(tmp_path / "w.pth", tensors, text))
    text = SMALL.constructor().replace("desc8", "desc9")
    assert "head_local_features.fc2.weight has shape" in refusal(pth(tmp_path / "w.pth", tensors, text))
    dust3r = pth(tmp_path / "w.pth", random_weights(SMALL_DUST3R), SMALL.constructor())
    assert "missing" in refusal(dust3r) and "downstream_head1.proj.weight" in refusal(dust3r)
    assert "named arguments" in refusal(pth(tmp_path / "w.pth", tensors, "__import__('os').getcwd()"))


def test_values_that_are_not_finite(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    broken = {**tensors, "enc_norm.bias": torch.full((32,), float("nan"))}
    with pytest.raises(InputError, match=r"enc_norm\.bias is not finite"):
        load_pair_network(pth(tmp_path / "w.pth", broken))


def test_files_that_are_no_weights(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    whole = pth(tmp_path / "whole.pth", tensors).read_bytes()
    folder = save_pair_weights(tmp_path / "folder", SMALL, tensors)
    safe = (folder / "model.safetensors").read_bytes()

    def file(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    empty = tmp_path / "hollow"
    empty.mkdir()
    (tmp_path / "cut_safe.json").write_text((folder / "config.json").read_text())
    assert "empty" in refusal(file("nothing.pth", b""))
    with pytest.raises(InputError, match="empty"):
        describe_weights(tmp_path / "nothing.pth")
    assert "fetch it again" in refusal(file("cut.pth", whole[: len(whole) // 2]))
    assert "fetch it again" in refusal(file("cut_few.pth", whole[:7]))
    assert "cut short" in refusal(file("cut_safe.safetensors", safe[: len(safe) // 2]))
    assert "fetch it again" in refusal(file("cut_few.safetensors", safe[:6]))
    assert "no checkpoint" in refusal(file("page.pth", b"<!DOCTYPE html><html>not found</html>"))
    assert "no checkpoint" in refusal(file("picture.safetensors", b"\x89PNG\r\n\x1a\n" + bytes(100)))
    assert "does not say what network" in refusal(file("alone.safetensors", safe))
    assert "is not there" in refusal(tmp_path / "absent.pth")
    assert "found no weights" in refusal(empty)
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert "fetch it again" in refusal(tmp_path / "other.pth")
    (folder / "config.json").write_text("{")
    assert "not whole JSON" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [
        {"weights": {}},
        {"args": argparse.Namespace(model="Net()"), "model": {"a": 3}},
        {"args": argparse.Namespace(model="Net()"), "model": {"a": torch.zeros(2, dtype=torch.int64)}},
        {"args": argparse.Namespace(model="Net()"), "model": {3: torch.zeros(2)}},
        {"args": argparse.Namespace(model="Net()"), "model": {}},
        {"args": None, "model": {"a": torch.zeros(2)}},
        {"args": argparse.Namespace(model=3), "model": {"a": torch.zeros(2)}},
        [torch.zeros(2)],
        torch.zeros(2),
        "text",
    ],
)
def test_torch_files_of_another_form(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    refusal(tmp_path / "w.pth")


class Hostile:
    """Runs a command where it is unpickled without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return (os.system, (self.command,))


@pytest.mark.parametrize("form", ["zip", "old torch", "plain 0", "plain 2", "plain 5", "in args", "hidden"])
def test_nothing_in_a_file_is_run(tmp_path: Path, tensors: dict[str, Tensor], form: str) -> None:
    trace = tmp_path / "hacked"
    payload = Hostile(f"{sys.executable} -c \"open(r'{trace}', 'w')\"")
    path = tmp_path / "w.pth"
    content: Any = {"args": argparse.Namespace(model=SMALL.constructor()), "model": tensors, "more": payload}
    if form == "zip":
        torch.save(content, path)
    elif form == "old torch":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif form == "in args":
        torch.save({"args": argparse.Namespace(model=payload), "model": tensors}, path)
    elif form == "hidden":
        path = tmp_path / "w.safetensors"  # the name says nothing of the content
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(payload, protocol=int(form[-1])))
    text = refusal(path)
    assert not trace.exists()
    wanted = {"hidden": ("damaged", "system"), "zip": ("system",), "in args": ("system",)}.get(form, ("plain pickle",))
    assert any(word in text for word in wanted), text


def test_a_class_of_ours_is_refused_by_name(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "w.pth"
    torch.save({"args": SimpleNamespace(model=SMALL.constructor()), "model": tensors}, path)
    assert "types.SimpleNamespace" in refusal(path)


def test_reading_leaves_the_list_of_allowed_classes_as_it_was(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    before = set(torch.serialization.get_safe_globals())
    load_pair_network(pth(tmp_path / "w.pth", tensors))
    assert set(torch.serialization.get_safe_globals()) == before and argparse.Namespace not in before


def test_a_device_that_is_not_there(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match="toaster"):
        load_pair_network(pth(tmp_path / "w.pth", tensors), "toaster")


# ---------------------------------------------------------------------------------- description and conversion


def test_the_description(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = pth(tmp_path / "w.pth", tensors)
    info = describe_weights(path)
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and info.bytes == path.stat().st_size
    assert info.parameters == sum(parameter.numel() for parameter in PairNetwork(SMALL).parameters())
    assert (info.kind, info.model, info.config) == ("pth", "custom", SMALL)
    assert "2 blocks, width 32, 2 heads" in info.format() and info.sha256 in info.format()


def test_licences() -> None:
    for config in PRESETS.values():
        assert config.name in licence_of(config) and "CC BY-NC-SA 4.0" in licence_of(config)
        assert "training data" in licence_of(config) and "Map-free" in licence_of(config)
    assert licence_of(SMALL).startswith("unknown")


def test_conversion_there_and_back(tmp_path: Path, tensors: dict[str, Tensor], network: PairNetwork) -> None:
    source = pth(tmp_path / "w.pth", tensors)
    folder = convert_weights(source, tmp_path / "folder")
    converted = load_file(folder / "model.safetensors")
    assert set(converted) == set(without(tensors, ".layer_rn."))
    assert all(torch.equal(value, tensors[name]) for name, value in converted.items())
    assert predicts_the_same(load_pair_network(folder), network)
    back = convert_weights(folder, tmp_path / "back.pth")
    assert predicts_the_same(load_pair_network(back), network)
    assert describe_weights(back).config == describe_weights(folder).config == SMALL
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back.pth", "folder", "w.pth"]


def test_conversion_keeps_the_bits_of_half_precision(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    half = {name: value.bfloat16() for name, value in tensors.items()}
    folder = convert_weights(pth(tmp_path / "w.pth", half), tmp_path / "folder")
    converted = load_file(folder / "model.safetensors")
    assert all(value.dtype == torch.bfloat16 and torch.equal(value, half[name]) for name, value in converted.items())


def test_conversion_replaces_nothing(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    source = pth(tmp_path / "w.pth", tensors)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    for target in (tmp_path / "mine", source, tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(InputError, match="is there already"):
            convert_weights(source, target)
    with pytest.raises(InputError, match="wanted a folder"):
        convert_weights(source, tmp_path / "w.safetensors")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_random_weights_are_a_function_of_the_seed() -> None:
    first, second, other = random_weights(SMALL, 1), random_weights(SMALL, 1), random_weights(SMALL, 2)
    assert list(first) == list(PairNetwork(SMALL).state_dict())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["enc_norm.bias"], other["enc_norm.bias"])


def test_the_command(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    source = pth(tmp_path / "w.pth", tensors)
    assert "sha256" in weights_text("info", str(source))
    assert str(tmp_path / "w" / "model.safetensors") in weights_text("convert", str(source))
    assert str(tmp_path / "x.pth") in weights_text("convert", str(tmp_path / "w"), str(tmp_path / "x.pth"))
    with pytest.raises(InputError, match="--out"):
        weights_text("convert", str(tmp_path / "w"))
    with pytest.raises(InputError, match="goes with dyn4d weights convert"):
        weights_text("info", str(source), "there")


def test_names_are_exported_and_loaded_late() -> None:
    assert dyn4d.geometry.load_pair_network is load_pair_network
    code = (
        "import sys, dyn4d.geometry, dyn4d.geometry.network_config, dyn4d.weights_cli; "
        "sys.exit('torch' in sys.modules or 'huggingface_hub' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_tensors_of_a_foreign_safetensors_file(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, str(tmp_path / "w.safetensors"))
    (tmp_path / "w.json").write_text(SMALL.hub_json())
    assert "missing" in refusal(tmp_path / "w.safetensors") and "1 tensor (a) too many" in refusal(
        tmp_path / "w.safetensors"
    )


def test_weights_of_the_matcher_are_told_apart() -> None:
    said = weights_text("info", str(Path(r2d2_weights.__file__).parent / "weights" / "r2d2_small.safetensors"))
    assert "matcher" in said and "Apache-2.0" in said and "dyn4d match" in said
