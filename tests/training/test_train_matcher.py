"""The training of a small R2D2: it learns, goes on where it was stopped to the last bit, and its command says no in one
line."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dyn4d import cli
from dyn4d.core.errors import InputError, RunError
from dyn4d.core.protocols import SilentProgress
from dyn4d.io.checkpoint import load_tensors
from dyn4d.matching.r2d2_weights import OWN_LICENCE, SMALL, load_r2d2
from dyn4d.training import r2d2
from dyn4d.training.config import MatcherTraining, PairConfig
from dyn4d.training.r2d2 import MatcherTrainer, saved_config
from dyn4d.training.r2d2_data import PairSource
from dyn4d.training.r2d2_run import train_matcher

TINY = MatcherTraining(
    pairs=28, widths=(4, 4, 8, 8, 8, 8, 8, 8, 16), batch=2, crop=64, dense_batch=1, dense_crop=64, dense_every=3,
    rate=5e-3, warmup=4, data=PairConfig(textures=3, frames=0, picture=96, photometric=0.3, layers=0.0),
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def source() -> PairSource:
    return PairSource(TINY.data, TINY.seed)


def test_a_few_steps_lower_the_loss_and_find_more_partners(source: PairSource) -> None:
    config = replace(TINY, pairs=160, kappa=0.0, dense_every=1000)
    trainer = MatcherTrainer(config, lambda index, size: source(index % 8, size))
    steps = [trainer.train_step() for _ in range(25)]
    first, last = steps[:4], steps[-4:]
    for name, better in (("reliability", -0.05), ("ap", 0.05)):
        change = np.mean([s[name] for s in last]) - np.mean([s[name] for s in first])
        assert change * np.sign(better) > abs(better), (name, change)


def test_dense_steps_train_the_keypoints(source: PairSource) -> None:
    trainer = MatcherTrainer(replace(TINY, dense_every=1, pairs=60), source)
    before = trainer.network.sal.weight.detach().clone()
    steps = [trainer.train_step() for _ in range(30)]
    assert not torch.equal(before, trainer.network.sal.weight)
    assert np.mean([s["peakiness"] for s in steps[-5:]]) < np.mean([s["peakiness"] for s in steps[:5]]) - 0.003
    assert {"reliability", "similarity", "peakiness"} <= set(steps[0])


def weights(file: Path) -> dict[str, torch.Tensor]:
    return load_tensors(file, None).tensors


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class StopAfter(SilentProgress):
    """Presses Ctrl-C in the step in which so many pairs are seen."""

    def __init__(self, pairs: int) -> None:
        self.left, self.training = pairs, False

    def start(self, label: str, total: int, done: int = 0) -> None:
        self.training = label == "training"

    def update(self, **values: float) -> None:
        self.left -= self.training
        if self.training and self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
def test_stopped_and_gone_on_with_is_unbroken_bit_for_bit(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    train_matcher(TINY, whole)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_matcher(TINY, broken, progress=StopAfter(9))
    assert signal.getsignal(signal.SIGINT) is handler
    state = tmp_path / "broken.state"
    assert state.is_file() and saved_config(state) == TINY and not same(weights(whole), weights(broken))
    done = len((tmp_path / "broken.jsonl").read_text().splitlines())
    assert done < len((tmp_path / "whole.jsonl").read_text().splitlines())
    train_matcher(TINY, broken, resume=state)
    assert same(weights(whole), weights(broken))
    assert not state.exists() and not (tmp_path / "whole.state").exists()
    logs = [[json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
            for name in ("whole", "broken")]  # fmt: skip
    for one, other in zip(*logs, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}
    assert [line["step"] for line in logs[0]] == list(range(1, len(logs[0]) + 1))
    assert logs[0][-1]["pairs"] >= TINY.pairs > logs[0][-2]["pairs"]


def test_what_it_wrote_can_be_loaded(tmp_path: Path) -> None:
    config = replace(TINY, pairs=2)
    network = train_matcher(config, tmp_path / "w.safetensors")
    loaded = load_r2d2(tmp_path / "w.safetensors")
    assert loaded.licence == OWN_LICENCE and loaded.network.widths == TINY.widths
    assert torch.equal(loaded.network.sal.weight, network.sal.weight)
    head = load_tensors(tmp_path / "w.safetensors", None).config
    assert head["training"]["seed"] == 0 and head["pairs"] == 2


def test_a_training_can_start_from_weights(tmp_path: Path, source: PairSource) -> None:
    first = train_matcher(replace(TINY, pairs=2), tmp_path / "first.safetensors")
    trainer = MatcherTrainer(replace(TINY, seed=7), source)
    trainer.start_from(tmp_path / "first.safetensors")
    for name, value in trainer.network.state_dict().items():
        assert name.endswith("tracked") or torch.equal(value, first.state_dict()[name]), name
    assert all(p.requires_grad for p in trainer.network.parameters()) and trainer.network.training
    trainer.train_step()
    with pytest.raises(InputError, match=r"first\.safetensors has the widths \(4, 4"):
        MatcherTrainer(replace(TINY, widths=(4,) * 9), source).start_from(tmp_path / "first.safetensors")


def test_it_works_outside_of_the_main_thread(tmp_path: Path) -> None:
    done: list[bool] = []

    def work() -> None:
        train_matcher(replace(TINY, pairs=1), tmp_path / "w.safetensors")
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_a_training_does_not_disturb_the_callers_random_numbers(source: PairSource) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    MatcherTrainer(TINY, source)
    assert torch.equal(torch.rand(3), wanted)


def test_a_state_of_other_settings_is_refused(tmp_path: Path, source: PairSource) -> None:
    MatcherTrainer(TINY, source).save(tmp_path / "a.state")
    with pytest.raises(InputError, match=r"a\.state is of a training with another rate, seed"):
        MatcherTrainer(replace(TINY, rate=0.01, seed=4), source).resume(tmp_path / "a.state")
    MatcherTrainer(replace(TINY, save_every=1.0), source).resume(tmp_path / "a.state")
    (tmp_path / "cut.state").write_bytes((tmp_path / "a.state").read_bytes()[:500])
    with pytest.raises(InputError, match=r"cut\.state is damaged"):
        saved_config(tmp_path / "cut.state")
    with pytest.raises(InputError, match="wanted 'dyn4d-r2d2-training"):
        saved_config(SMALL)


def test_a_loss_that_is_not_finite_ends_the_training(source: PairSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(r2d2, "reliability_loss", lambda *args, **more: torch.tensor(float("nan")))
    with pytest.raises(RunError, match="broke down at step 0"):
        MatcherTrainer(TINY, source).train_step()


# --------------------------------------------------------------------------------------------------- the command

OPTIONS = ["--training.widths", "4", "4", "4", "4", "4", "4", "4", "4", "8", "--training.batch", "1",
           "--training.crop", "64", "--training.dense-crop", "64", "--training.dense-batch", "1",
           "--training.data.textures", "1", "--training.data.frames", "0", "--training.data.picture", "64"]  # fmt: skip


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train-matcher", "--out", "w.safetensors", "--pairs", "2", *OPTIONS]) == 0
    assert capsys.readouterr().out.split() == ["w.safetensors", "w.jsonl"]
    assert len((tmp_path / "w.jsonl").read_text().splitlines()) == 2
    assert load_r2d2("w.safetensors").network.dim == 8
    assert cli.main(["train-matcher", "--out", "w.safetensors", "--pairs", "2", *OPTIONS]) == 2
    assert "w.safetensors is there already" in capsys.readouterr().err


def test_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train-matcher", "--out", "w.safetensors", "--pairs", "6", *OPTIONS]
    assert cli.main([*words[:2], "whole.safetensors", *words[3:]]) == 0
    step, done = MatcherTrainer.train_step, []

    def stop(trainer: MatcherTrainer) -> dict[str, float]:
        done.append(trainer.step)
        if len(done) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(trainer)

    monkeypatch.setattr(MatcherTrainer, "train_step", stop)
    assert cli.main(words) == 130 and "run the same command to go on" in capsys.readouterr().err
    assert (tmp_path / "w.state").is_file()
    assert cli.main([*words, "--training.seed", "5"]) == 2
    assert "another seed; give the same options" in capsys.readouterr().err
    assert cli.main(words) == 0 and done == list(range(6))
    assert same(weights(tmp_path / "w.safetensors"), weights(tmp_path / "whole.safetensors"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--out is missing"),
        (["--out", "w.pt"], "wanted a name that ends in .safetensors"),
        (["--out", "w.safetensors", "--pairs", "0"], "training.pairs: 0"),
        (["--out", "w.safetensors", "--threads", "0"], "--threads 0"),
        (["--out", "w.safetensors", "--resume", "no.state"], "no.state is not there"),
        (["--out", "w.safetensors", "--training.crop", "66"], "training.crop: 66"),
    ],
)
def test_the_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train-matcher", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0], lines
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------ what comes with dyn4d


def test_the_network_that_comes_with_dyn4d() -> None:
    r2d2 = load_r2d2()
    assert r2d2.licence.startswith("Apache-2.0") and SMALL.stat().st_size <= 3_000_000
    assert r2d2.network.widths == MatcherTraining().widths
    rng = np.random.default_rng(0)
    picture = np.kron(rng.uniform(0, 1, (12, 16, 3)), np.ones((10, 10, 1)))
    found = r2d2.extract(torch.from_numpy(picture).permute(2, 0, 1)[None].float(), 500)
    assert len(found) > 20 and torch.allclose(found.descriptors.norm(dim=1), torch.ones(len(found)), atol=1e-5)


def test_its_card_says_how_it_was_made() -> None:
    text = SMALL.with_suffix(".md").read_text(encoding="utf-8")
    assert "Apache-2.0" in text and "dyn4d train-matcher" in text
    assert SMALL.with_suffix(".jsonl").is_file()
    head = load_tensors(SMALL, None).config
    last = json.loads(SMALL.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["pairs"] == head["pairs"] >= head["training"]["pairs"]
