"""A whole training of a small pair network: its files, its time, Ctrl-C, its log, samples made ahead."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.training.geometry import GeometryTrainer
from dyn4d.training.geometry_config import GeometryTraining, ObjectPairs
from dyn4d.training.geometry_data import HELD_OUT, GeometrySample, SampleSource
from dyn4d.training.geometry_eval import evaluate
from dyn4d.training.loop import TrainingFiles, log_until, short, stop_between_steps, write_log

OTHER_SEED = 1_000_003  # held-out samples have bodies and textures that no training with a usual seed meets
AHEAD = 3  # batches


@dataclass(frozen=True)
class Outcome:
    """What a call came to. finished: all samples are done; else the state is there to go on from. samples: seen so
    far. figures: of the last evaluation."""

    finished: bool
    samples: int
    figures: dict[str, float]


def train_geometry(
    config: GeometryTraining, out: Path, *, resume: Path | None = None, init: Path | None = None,
    minutes: float | None = None, device: torch.device | str = "cpu", progress: Progress | None = None,
) -> Outcome:  # fmt: skip
    """Train and write the weights to `out`, beside them the log (`.jsonl`) and, until done, the state (`.state`).

    Args:
        resume: a state to go on from. init: weights of an earlier training to start from, instead of random ones.
        minutes: stop in time to have written everything after this long.

    Raises:
        InputError: the state or the weights do not fit. RunError: the loss is not finite. KeyboardInterrupt: Ctrl-C,
            after the step was done and the state written; give it as `resume` to go on.
    """
    begin = saved = time.monotonic()
    progress, files = progress or SilentProgress(), TrainingFiles(out)
    trainer = GeometryTrainer(config, None, device)
    lines: list[str] = []
    if resume is not None:
        trainer.resume(resume)
        lines = log_until(files.log, trainer.step)
    elif init is not None:
        trainer.start_from(init)
    spent = float(json.loads(lines[-1])["seconds"]) if lines else 0.0
    held_out = held_out_samples(config, progress)
    figures = _last_figures(lines)

    def look() -> None:
        nonlocal figures
        figures = evaluate(trainer.averaged(), held_out)
        seconds = spent + time.monotonic() - begin
        line = {
            "step": trainer.step,
            "samples": trainer.samples,
            "seconds": round(seconds, 1),
            "evaluation": 1,
            **figures,
        }
        lines.append(json.dumps({k: short(v) for k, v in line.items()}))
        if "depth" in figures:
            progress.note(
                f"{trainer.samples} samples: depth {figures['depth']:.2%} (a plane: {figures['flat']:.2%}), points of "
                f"the other view {figures['other']:.2%}, matches within 3 px {figures['matches']:.1%}"
            )

    def save() -> None:
        trainer.save(files.state)
        trainer.save_weights(files.weights, figures)
        write_log(files.log, lines)

    if not lines:
        look()
    progress.start("training", config.samples, trainer.samples)
    longest = 0.0  # of the steps, evaluations and checkpoints so far: what has to fit in the rest of the time
    with samples_ahead(config, trainer.next_sample) as source, stop_between_steps() as asked:
        trainer.source = source
        while not trainer.done:
            started, before = time.monotonic(), trainer.samples
            measured = trainer.train_step()
            measured["seconds"] = spent + round(time.monotonic() - begin, 1)
            lines.append(json.dumps({k: short(v) for k, v in measured.items()}))
            for _ in range(min(trainer.samples, config.samples) - before):
                progress.update(loss=measured["loss"])
            if trainer.samples // config.evaluate_every > before // config.evaluate_every or trainer.done:
                look()
            if asked:
                save()
                raise KeyboardInterrupt
            if time.monotonic() - saved > config.save_every:
                save()
                saved = time.monotonic()
            longest = max(longest, time.monotonic() - started)
            if minutes is not None and time.monotonic() - begin + longest > 60 * minutes and not trainer.done:
                break
        save()
    progress.finish()
    if trainer.done:
        files.state.unlink(missing_ok=True)
    return Outcome(trainer.done, trainer.samples, figures)


def held_out_samples(config: GeometryTraining, progress: Progress) -> list[GeometrySample]:
    """Samples of bodies that no training with the same settings meets."""
    data = replace(config.data, textures=min(config.data.textures, 40))
    source = SampleSource(data, config.seed + OTHER_SEED)
    progress.start("held-out samples", config.held_out)
    out = []
    for number in range(config.held_out):
        out.append(source(HELD_OUT + number))
        progress.update()
    progress.finish()
    return out


def _last_figures(lines: list[str]) -> dict[str, float]:
    for line in reversed(lines):
        values = json.loads(line)
        if values.pop("evaluation", 0):
            return {k: v for k, v in values.items() if k not in ("step", "samples", "seconds")}
    return {}


# -------------------------------------------------------------------------------------- samples made ahead

_source: SampleSource | None = None  # of a worker process


def _begin(data: ObjectPairs, seed: int, small: int) -> None:
    global _source
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer stops them
    _source = SampleSource(data, seed, small)


def _make(index: int) -> GeometrySample:
    assert _source is not None
    return _source(index)


class _Ahead:
    """Samples in order from `first` on, made in processes before they are asked for."""

    def __init__(self, pool: ProcessPoolExecutor, first: int, depth: int) -> None:
        self._pool, self._next, self._depth = pool, first, depth
        self._waiting: deque[tuple[int, Future[GeometrySample]]] = deque()

    def __call__(self, index: int) -> GeometrySample:
        while len(self._waiting) < self._depth:
            self._waiting.append((self._next, self._pool.submit(_make, self._next)))
            self._next += 1
        number, future = self._waiting.popleft()
        if number != index:
            raise ValueError(f"sample {index}: wanted {number}, the next in order")
        return future.result()


@contextmanager
def samples_ahead(config: GeometryTraining, first: int) -> Iterator[SampleSource | _Ahead]:
    """Where a training gets its samples from, number `first` and on: the same whatever the number of processes."""
    if config.workers == 0:
        yield SampleSource(config.data, config.seed, config.small_samples)
        return
    # Fresh processes: forked ones would inherit the threads of torch in any state.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(config.workers, context, _begin, (config.data, config.seed, config.small_samples))
    try:
        yield _Ahead(pool, first, AHEAD * config.batch)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
