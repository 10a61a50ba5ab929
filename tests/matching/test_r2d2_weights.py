"""Weights of R2D2: the published form is read, everything else is one error that names the file and says what to do."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_r2d2_network import NET, SMALL, picture, random_tensors, save_published, small_r2d2

import dyn4d.matching
from dyn4d.core.errors import InputError
from dyn4d.matching.r2d2_weights import OLD_FORMAT, load_r2d2


def refusal(path: Path) -> str:
    """The text of the one error that loading ends in."""
    with pytest.raises(InputError) as caught:
        load_r2d2(path)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    return text


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_the_published_form(tmp_path: Path, old: bool, prefix: str) -> None:
    tensors = random_tensors()
    content = {"net": NET, "state_dict": {prefix + name: value for name, value in tensors.items()}}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    assert ((tmp_path / "w.pt").read_bytes()[: len(OLD_FORMAT)] == OLD_FORMAT) == old
    r2d2 = load_r2d2(tmp_path / "w.pt")
    assert r2d2.network.widths == SMALL and not r2d2.network.training and r2d2.device == torch.device("cpu")
    assert not any(p.requires_grad for p in r2d2.network.parameters())
    found, wanted = r2d2.dense(picture(20, 30)), small_r2d2().dense(picture(20, 30))
    assert torch.equal(found.descriptors, wanted.descriptors)
    assert torch.equal(found.reliability, wanted.reliability)
    assert torch.equal(found.repeatability, wanted.repeatability)


def test_a_file_without_counters_and_in_half_precision(tmp_path: Path) -> None:
    tensors = {name: value.half() for name, value in random_tensors().items() if "tracked" not in name}
    network = load_r2d2(str(save_published(tmp_path / "w.pt", tensors))).network
    assert network.sal.weight.dtype == torch.float32 and torch.equal(network.sal.weight, tensors["sal.weight"].float())


def test_loaded_weights_do_not_hang_on_the_file(tmp_path: Path) -> None:
    path = save_published(tmp_path / "w.pt", random_tensors())
    r2d2 = load_r2d2(path)
    before = r2d2.dense(picture(9, 9)).descriptors
    path.write_bytes(b"x")
    assert torch.equal(before, r2d2.dense(picture(9, 9)).descriptors)


# --------------------------------------------------------------------------------------- files that do not fit


def test_missing_and_extra_tensors_are_named(tmp_path: Path) -> None:
    tensors = random_tensors()
    less = {name: value for name, value in tensors.items() if not name.startswith(("ops.3.", "clf.bias"))}
    text = refusal(save_published(tmp_path / "w.pt", less))
    assert "3 tensors (ops.3.weight, ops.3.bias, clf.bias) missing" in text and "fetch it again" in text
    text = refusal(save_published(tmp_path / "w.pt", {**tensors, "extra.weight": torch.zeros(2)}))
    assert "1 tensor (extra.weight) too many" in text
    text = refusal(save_published(tmp_path / "w.pt", {}))
    assert "38 tensors (ops.0.weight, ops.0.bias, ops.1.running_mean, ops.1.running_var, …) missing" in text
    text = refusal(save_published(tmp_path / "w.pt", {**tensors, "module.sal.bias": torch.zeros(1)}))
    assert "1 tensor (module.sal.bias) too many" in text
    content = {"net": NET, "state_dict": {"module.sal.bias": torch.zeros(1), "sal.bias": torch.zeros(1)}}
    torch.save(content, tmp_path / "w.pt")
    assert "sal.bias twice" in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ops.6.weight", torch.zeros(6, 4, 5, 5), r"ops.6.weight has shape (6, 4, 5, 5), wanted (6, 4, 3, 3)"),
        ("ops.6.weight", torch.zeros(0, 4, 3, 3), "has shape"),
        ("ops.6.weight", torch.zeros(()), "has shape ()"),
        ("sal.bias", torch.zeros(2), "sal.bias has shape (2,), wanted (1,)"),
        ("sal.bias", torch.tensor([float("nan")]), "sal.bias is not finite"),
        ("ops.1.running_var", torch.tensor([1.0, 1, -1, 1]), "a variance, is negative"),
        ("sal.bias", torch.zeros(1, dtype=torch.int64), "module.sal.bias is not a tensor of real numbers"),
        ("sal.bias", 3, "module.sal.bias is not a tensor of real numbers"),
        ("sal.weight", torch.zeros(1, 8, 1, 1).to_sparse(), "module.sal.weight is not a tensor of real numbers"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, name: str, value: Any, message: str) -> None:
    text = refusal(save_published(tmp_path / "w.pt", {**random_tensors(), name: value}))
    assert message in text and "fetch it again" in text


@pytest.mark.parametrize(
    "net",
    ["Quad_L2Net()", "Fast_Quad_L2Net_ConfCFS()", "Quad_L2Net_ConfCFS(relu=True)", "Quad_L2Net_ConfCFS", "",
     "__import__('os').getcwd()", "Quad_L2Net_ConfCFS() or 1", "Quad_L2Net_ConfCFS(print(1))"],
)  # fmt: skip
def test_other_networks_are_refused_by_name(tmp_path: Path, net: str) -> None:
    text = refusal(save_published(tmp_path / "w.pt", random_tensors(), net))
    assert f"is for the network {net!r}" in text and "only Quad_L2Net_ConfCFS() is known" in text


@pytest.mark.parametrize("net", ["Quad_L2Net_ConfCFS(dim=8)", " Quad_L2Net_ConfCFS( 8, mchan = 4 ) "])
def test_widths_as_arguments_are_what_the_tensors_say(tmp_path: Path, net: str) -> None:
    assert load_r2d2(save_published(tmp_path / "w.pt", random_tensors(), net)).network.widths == SMALL


@pytest.mark.parametrize(
    "content",
    [{"weights": {}}, {"net": NET}, {"net": 3, "state_dict": {}}, {"net": NET, "state_dict": [1]},
     {"net": NET, "state_dict": {3: torch.zeros(1)}}, {"state_dict": {}}, [torch.zeros(2)], torch.zeros(2), "text"],
)  # fmt: skip
@pytest.mark.parametrize("old", [False, True])
def test_torch_files_of_another_form(tmp_path: Path, content: Any, old: bool) -> None:
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    assert 'a dictionary with "net" and "state_dict"' in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize("old", [False, True])
def test_files_cut_short(tmp_path: Path, old: bool) -> None:
    whole = save_published(tmp_path / "w.pt", random_tensors(), old=old).read_bytes()
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        assert "fetch it again" in refusal(write(tmp_path / "cut.pt", whole[: int(share * len(whole)) + 3]))


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    assert "is empty; fetch it again" in refusal(write(tmp_path / "nothing.pt", b""))
    assert "is not there" in refusal(tmp_path / "absent.pt")
    assert "cannot be read" in refusal(tmp_path)
    assert "no checkpoint" in refusal(write(tmp_path / "page.pt", b"<!DOCTYPE html><html>not found</html>"))
    assert "fetch it again" in refusal(write(tmp_path / "start.pt", OLD_FORMAT))
    assert "fetch it again" in refusal(write(tmp_path / "noise.pt", OLD_FORMAT + bytes(range(256)) * 40))
    save_file({"a": torch.zeros(2)}, str(tmp_path / "w.safetensors"))
    assert "holds no R2D2 of dyn4d's" in refusal(tmp_path / "w.safetensors")


class Hostile:
    """Runs a command where it is unpickled without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return (os.system, (self.command,))


@pytest.mark.parametrize("form", ["zip", "old torch", "plain 0", "plain 2", "plain 5", "tar"])
def test_nothing_in_a_file_is_run(tmp_path: Path, form: str) -> None:
    trace = tmp_path / "hacked"
    payload = Hostile(f"{sys.executable} -c \"open(r'{trace}', 'w')\"")
    path = tmp_path / "w.pt"
    content: Any = {"net": NET, "state_dict": random_tensors(), "more": payload}
    if form == "tar":  # the oldest form of torch files; the name of its first member looks like the next form
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
            for name in (OLD_FORMAT.decode(errors="surrogateescape"), "storages", "tensors", "pickle"):
                data = pickle.dumps(payload, protocol=2)
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, BytesIO(data))
    elif form.startswith("plain"):
        path.write_bytes(pickle.dumps(payload, protocol=int(form[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    assert form != "tar" or path.read_bytes().startswith(OLD_FORMAT)
    text = refusal(path)
    assert not trace.exists()
    assert ("plain pickle" if form.startswith("plain") else "no checkpoint" if form == "tar" else "system") in text


def test_classes_are_refused_by_name(tmp_path: Path) -> None:
    for old in (False, True):
        save_published(tmp_path / "w.pt", {**random_tensors(), "args": SimpleNamespace(a=1)}, old=old)
        assert "types.SimpleNamespace" in refusal(tmp_path / "w.pt")


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="toaster"):
        load_r2d2(save_published(tmp_path / "w.pt", random_tensors()), "toaster")


def test_names_are_exported_and_loaded_late() -> None:
    assert dyn4d.matching.load_r2d2 is load_r2d2
    code = "import sys, dyn4d.matching; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
