"""The training of a small masked pair network: it learns, goes on where it was stopped to the last bit, stops in
time, and its command says no in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from dyn4d import cli
from dyn4d.core.errors import InputError, RunError
from dyn4d.geometry.weights import load_pair_network
from dyn4d.io.checkpoint import load_tensors
from dyn4d.training import geometry_run
from dyn4d.training.depth_losses import depth_loss, relief_loss
from dyn4d.training.geometry import (
    GeometryTrainer,
    geometry_losses,
    predict,
    saved_config,
)
from dyn4d.training.geometry_batch import to_batch
from dyn4d.training.geometry_config import GeometryTraining, NetworkSizes, ObjectPairs
from dyn4d.training.geometry_data import GeometrySample, SampleSource
from dyn4d.training.geometry_eval import depth_errors, evaluate, flat_errors
from dyn4d.training.geometry_run import train_geometry
from dyn4d.training.loop import TrainingFiles
from dyn4d.training.weight_mean import mean_weights

TINY = GeometryTraining(
    samples=12, batch=2, warmup=4, evaluate_every=6, held_out=2, alone=0.0,
    network=NetworkSizes(stem=(8, 8, 16), width=32, encoder=1, decoder=1, heads=2, fusion=8, descriptor=8),
    data=ObjectPairs(size=32, first_size=32, bodies=2, reuse=2, textures=2, scenes=0.2, matches=32),
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@lru_cache(maxsize=1)
def some_samples() -> list[GeometrySample]:
    source = SampleSource(replace(TINY.data, size=64, scenes=0.0), 9)
    return [source(index) for index in range(4)]


def same_tensors(a: Path, b: Path) -> bool:
    one, two = load_tensors(a, None).tensors, load_tensors(b, None).tensors
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_it_learns_the_samples_that_it_sees() -> None:
    config = replace(TINY, samples=400, batch=2, rate=3e-3, warmup=10, average=0.9,
                     data=replace(TINY.data, size=64, scenes=0.0))  # fmt: skip
    trainer = GeometryTrainer(config, lambda index: some_samples()[index % 2])
    first = evaluate(trainer.averaged(), some_samples()[:2])
    assert math.isclose(first["depth"], first["flat"], rel_tol=1e-4)  # begins with a plane
    for _ in range(41):
        trainer.train_step()
    last = evaluate(trainer.averaged(), some_samples()[:2])
    assert last["depth"] < 0.85 * first["flat"] and last["other"] < 0.85 * first["other"]


def test_relief_counts_steps_of_depth_and_no_factor_of_the_whole() -> None:
    rng = torch.Generator().manual_seed(0)
    truth = 1 + 0.2 * torch.rand(2, 32, 32, generator=rng)
    valid, one = torch.rand(2, 32, 32, generator=rng) > 0.1, torch.ones(2, 1, 1)
    assert float(relief_loss(3.7 * truth, truth, valid, one)) < 1e-5
    column = torch.arange(32.0)
    tilted = truth * torch.exp(0.01 * column)  # a step of d pixels is wrong by 0.01 d across, and not downwards
    everywhere = torch.ones_like(valid)
    assert float(relief_loss(tilted, truth, everywhere, one)) == pytest.approx(0.01 * (1 + 2 + 4 + 8 + 16), rel=1e-3)
    assert float(relief_loss(tilted, truth, everywhere, 2 * one)) == pytest.approx(0.02 * 31, rel=1e-3)
    depth = torch.where(valid, tilted, torch.full_like(tilted, 1e-20)).requires_grad_()
    relief_loss(depth, torch.where(valid, truth, torch.zeros_like(truth)), valid, one).backward()
    assert depth.grad is not None and bool(depth.grad.isfinite().all()) and not bool(depth.grad[~valid].any())


def test_depth_counts_every_pixel_alike_after_one_factor_a_picture() -> None:
    truth = torch.full((2, 8, 8), 3.0)
    valid, one = torch.ones(2, 8, 8, dtype=torch.bool), torch.ones(2, 1, 1)
    assert float(depth_loss(0.2 * truth, truth, valid, one)) < 1e-6
    half = truth.clone()
    half[:, :4] *= math.exp(0.1)  # one half is 0.1 too far: 0.05 from the mean either way
    assert float(depth_loss(half, truth, valid, one)) == pytest.approx(0.05, rel=1e-4)
    valid[:, :4] = False
    assert float(depth_loss(half, truth.where(valid, torch.zeros(())), valid, one)) < 1e-6


def test_descriptors_may_learn_without_a_say_in_the_shapes() -> None:
    batch = to_batch(some_samples()[:2], 32, 0)
    for share in (0.0, 0.25, 1.0):
        config = replace(TINY, match_share=share, data=replace(TINY.data, size=64))
        network = GeometryTrainer(config, None).network
        geometry_losses(predict(network, batch), batch, config, 0.1)["matches"].backward()
        stem = next(network.stem.parameters()).grad
        own = network.head.local.out.weight.grad
        assert own is not None and float(own.abs().max()) > 0
        if share == 0:
            assert stem is None or float(stem.abs().max()) == 0
        elif share == 0.25:
            assert stem is not None
            quarter = stem
        else:
            assert stem is not None and torch.allclose(0.25 * stem, quarter, rtol=1e-3, atol=1e-9)


def test_a_training_begins_with_the_weights_of_another(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    train_geometry(replace(TINY, samples=4), first)
    trainer = GeometryTrainer(replace(TINY, seed=1, data=replace(TINY.data, size=64)), None)
    trainer.start_from(first)  # another seed and another size of the views, the same sizes of the network
    begun = load_pair_network(first).state_dict()
    assert all(torch.equal(value, begun[name]) for name, value in trainer.average.items())
    assert all(torch.equal(value, begun[name]) for name, value in trainer.network.state_dict().items())
    train_geometry(replace(TINY, samples=2, rate=1e-9, matrix_rate=1e-9, average=0.5), second, init=first)
    ended = load_pair_network(second).state_dict()
    assert all(torch.allclose(ended[name], begun[name], atol=1e-3) for name in begun)
    with pytest.raises(InputError, match="other sizes"):
        GeometryTrainer(replace(TINY, network=replace(TINY.network, width=16, heads=1)), None).start_from(first)


def test_the_mean_of_two_networks_is_between_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, out = (tmp_path / f"{name}.safetensors" for name in "abc")
    train_geometry(replace(TINY, samples=4), first)
    train_geometry(replace(TINY, samples=4, seed=1), second, init=first)
    figures = mean_weights([first, second], TINY, out)
    a, b, mean = (load_pair_network(file).state_dict() for file in (first, second, out))
    assert all(torch.allclose(mean[name], (a[name] + b[name]) / 2, atol=1e-3) for name in mean)
    assert any(not torch.equal(mean[name], a[name]) for name in mean)
    assert load_pair_network(out).depth_error == pytest.approx(figures["depth"])
    wide = tmp_path / "wide.safetensors"
    train_geometry(replace(TINY, samples=2, network=replace(TINY.network, width=16, heads=1)), wide)
    with pytest.raises(InputError, match="other sizes"):
        mean_weights([first, wide], TINY, tmp_path / "d.safetensors")
    assert not (tmp_path / "d.safetensors").exists()
    assert cli.main(["train-geometry", "--out", str(out), "--mean", str(first), str(second)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_single_views_are_learnt_first_and_then_pairs() -> None:
    config = replace(TINY, samples=400, alone=0.25, depth_weight=1.0, batch=2, rate=3e-3, warmup=10, average=0.9,
                     data=replace(TINY.data, size=64, scenes=0.0))  # fmt: skip
    assert config.alone_samples == 100
    trainer = GeometryTrainer(config, lambda index: some_samples()[index % 2])
    before = {name: value.clone() for name, value in trainer.network.named_parameters()}
    first = trainer.train_step()
    assert first["matches"] == first["points"] == 0 and first["relief"] > 0 and first["depth"] > 0
    assert first["loss"] == pytest.approx(first["relief"] + first["depth"])  # what is shown is what is trained
    for _ in range(40):
        last = trainer.train_step()
    assert last["relief"] < 0.8 * first["relief"]
    moved = {name for name, value in trainer.network.named_parameters() if not torch.equal(value, before[name])}
    assert any(name.startswith("stem") for name in moved) and not any("dec_" in n or "local" in n for n in moved)
    batch = to_batch(some_samples()[:2], 32, 0)
    with torch.no_grad():  # what a view says by itself is what it says beside another, until pairs are learnt
        alone = trainer.network.depth_alone(batch.images, batch.hints)
        pair, _ = predict(trainer.network, batch)
        with torch.autocast("cpu", torch.bfloat16):
            low = trainer.network.depth_alone(batch.images, batch.hints)
    assert torch.allclose(pair.points_a[..., 2], alone[:2], rtol=1e-4)
    assert low.dtype == torch.float32 and torch.allclose(low, alone, rtol=0.1)
    assert trainer.temperature() == pytest.approx(config.temperature[0])
    trainer.samples = 100
    pairs = trainer.train_step()
    assert pairs["matches"] != 0
    parts = ("points", "matches", "relief", "depth")
    assert pairs["loss"] == pytest.approx(sum(pairs[name] for name in parts), rel=1e-5)
    assert replace(config, alone=0.0).alone_samples == 0


@pytest.mark.parametrize("alone", [0.0, 0.5])
def test_stopped_and_gone_on_with_it_is_the_same_to_the_bit(alone: float, tmp_path: Path) -> None:
    config = replace(TINY, alone=alone, echo=3)
    whole = train_geometry(config, tmp_path / "whole.safetensors")
    assert whole.finished and whole.samples == 12 and not TrainingFiles(tmp_path / "whole.safetensors").state.exists()
    part = tmp_path / "part.safetensors"
    calls = 0
    while not (outcome := train_geometry(
        config, part, resume=TrainingFiles(part).state if calls else None, minutes=1e-6
    )).finished:  # fmt: skip
        calls += 1
        assert outcome.samples == 2 * calls
        assert saved_config(TrainingFiles(part).state) == config
    assert calls == 5 and same_tensors(part, tmp_path / "whole.safetensors")
    logs = [[json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
            for name in ("whole", "part")]  # fmt: skip
    for a, b in zip(*logs, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
    assert [line["samples"] for line in logs[0] if "evaluation" in line] == [0, 6, 12]


def test_weights_are_loaded_and_say_what_they_were_measured_at(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    train_geometry(replace(TINY, samples=2), file)
    network = load_pair_network(file)
    assert network.config.masked and network.config.img_size == (32, 32)
    head = load_tensors(file, None).config
    assert head["samples"] == 2 and "Apache-2.0" in head["licence"] and head["metrics"]["flat"] > 0
    said = network.predict_pair(torch.rand(1, 3, 48, 64), torch.rand(1, 3, 48, 64))
    assert bool(torch.isfinite(said.points_b_in_a).all())


def test_states_of_other_trainings_are_refused(tmp_path: Path) -> None:
    trainer = GeometryTrainer(TINY, SampleSource(TINY.data, TINY.seed))
    trainer.train_step()
    trainer.save(tmp_path / "a.state")
    longer = GeometryTrainer(replace(TINY, samples=40, workers=1), None)
    longer.resume(tmp_path / "a.state")  # what may change on the way
    assert longer.step == 1 and all(
        torch.equal(a, b) for a, b in zip(trainer.average.values(), longer.average.values())
    )
    with pytest.raises(InputError, match="another rate"):
        GeometryTrainer(replace(TINY, rate=0.5), None).resume(tmp_path / "a.state")
    with pytest.raises(InputError, match="format"):
        trainer.save_weights(tmp_path / "w.safetensors")
        longer.resume(tmp_path / "w.safetensors")


def test_ctrl_c_saves_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    plain = GeometryTrainer.train_step

    def step(self: GeometryTrainer) -> dict[str, float]:
        steps.append(self.step)
        if len(steps) == 2:
            asked.append(2)
        return plain(self)

    asked: list[int] = []
    monkeypatch.setattr(GeometryTrainer, "train_step", step)
    monkeypatch.setattr(geometry_run, "stop_between_steps", lambda: _Asked(asked))
    with pytest.raises(KeyboardInterrupt):
        train_geometry(TINY, tmp_path / "w.safetensors")
    assert load_tensors(tmp_path / "w.state", None).config["step"] == 2 and (tmp_path / "w.safetensors").is_file()


class _Asked:
    def __init__(self, asked: list[int]) -> None:
        self.asked = asked

    def __enter__(self) -> list[int]:
        return self.asked

    def __exit__(self, *args: object) -> None: ...


def test_a_loss_that_is_no_number_stops_it() -> None:
    trainer = GeometryTrainer(TINY, SampleSource(TINY.data, TINY.seed))
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(math.nan)
    with pytest.raises(RunError, match="broke down at step 0"):
        trainer.train_step()


def test_the_background_has_no_gradient_and_no_say() -> None:
    """A frame's loss is the same whatever stands around the object."""
    config = replace(TINY, data=replace(TINY.data, size=64))
    network = GeometryTrainer(config, None).network
    samples = some_samples()[:2]
    noise = np.random.default_rng(0)
    noisy = [
        replace(s, image=np.where(s.mask[..., None], s.image, noise.integers(0, 255, s.image.shape)).astype(np.uint8))
        for s in samples
    ]
    losses = []
    for some in (samples, noisy):
        batch = to_batch(some, 32, 0)
        losses.append(geometry_losses(predict(network, batch), batch, config, 0.1))
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


def test_depth_errors_are_after_one_scale() -> None:
    truth = torch.tensor([1.0, 2.0, 4.0])
    assert float(depth_errors(3 * truth, truth).max()) < 1e-6
    assert torch.allclose(flat_errors(truth), torch.tensor([1.0, 0.0, 0.5]))


def test_the_rate_rises_and_falls() -> None:
    trainer = GeometryTrainer(replace(TINY, samples=100, warmup=10, batch=5, temperature=(0.2, 0.05),
                                      cooling=0.5), None)  # fmt: skip
    assert math.isclose(trainer.pace(), 0.5) and math.isclose(trainer.temperature(), 0.2)
    trainer.samples = 50
    assert math.isclose(trainer.pace(), 0.5) and math.isclose(trainer.temperature(), 0.05)
    trainer.samples = 100
    assert trainer.pace() < 1e-9 and trainer.done


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--out is missing"),
        (("--out", "a.pth"), "ends in .safetensors"),
        (("--out", "a.safetensors", "--minutes", "0"), "--minutes 0"),
        (("--out", "a.safetensors", "--threads", "0"), "--threads 0"),
        (("--out", "a.safetensors", "--samples", "0"), "training.samples: 0"),
        (("--out", "a.safetensors", "--training.data.size", "100"), "training.data.size: 100"),
        (("--out", "a.safetensors", "--training.network.width", "30"), "training.network.width: 30"),
        (("--out", "a.safetensors", "--resume", "none.state"), "none.state"),
        (("--out", "a.safetensors", "--init", "none.safetensors"), "none.safetensors"),
        (("--out", "a.safetensors", "--init", "a", "--resume", "b"), "--init goes with a new training"),
        (("--out", "a.safetensors", "--mean", "a"), "wanted two files at least"),
        (("--out", "a.safetensors", "--mean", "a", "b", "--samples", "4"), "--mean trains nothing, --samples"),
        (("--out", "a.safetensors", "--mean", "none.safetensors", "small"), "none.safetensors"),
    ],
)
def test_the_command_says_no_in_one_line(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train-geometry", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said
    assert not list(tmp_path.iterdir())


def test_the_command_goes_on_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "w.safetensors"
    words = ["train-geometry", "--out", str(out), "--threads", "1", "--device", "cpu"]
    train_geometry(TINY, out, minutes=1e-6)
    assert cli.main([*words, "--minutes", "0.0001"]) == 0
    assert "stopped after 4 of 12 samples" in capsys.readouterr().out
    assert cli.main([*words, "--samples", "6"]) == 0
    assert "stopped" not in capsys.readouterr().out and not out.with_suffix(".state").exists()
    assert cli.main(words) == 2 and "is there already" in capsys.readouterr().err
