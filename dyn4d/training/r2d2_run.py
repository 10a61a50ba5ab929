"""A whole training of a small R2D2: its files, Ctrl-C, its log."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.matching.r2d2_network import R2D2Network
from dyn4d.matching.r2d2_weights import save_r2d2
from dyn4d.training.config import MatcherTraining
from dyn4d.training.loop import TrainingFiles, log_until, short, stop_between_steps, write_log
from dyn4d.training.r2d2 import MatcherTrainer
from dyn4d.training.r2d2_data import PairSource


def train_matcher(
    config: MatcherTraining, out: Path, *, resume: Path | None = None, init: Path | None = None,
    progress: Progress | None = None,
) -> R2D2Network:  # fmt: skip
    """Train and write the weights to `out`, beside them the log (`.jsonl`) and, until done, the state (`.state`).

    Args:
        resume: a state to go on from. init: weights of an earlier training to start from, instead of random ones.

    Raises:
        InputError: the state or the weights do not fit. RunError: the loss is not finite. KeyboardInterrupt: Ctrl-C,
            after the step was done and the state written; give it as `resume` to go on.
    """
    progress, files = progress or SilentProgress(), TrainingFiles(out)
    lines: list[str] = []
    trainer = MatcherTrainer(config, None)
    if init is not None and resume is None:
        trainer.start_from(init)
    if resume is not None:
        trainer.resume(resume)
        lines = log_until(files.log, trainer.step)
    trainer.source = PairSource(config.data, config.seed, progress)
    spent = float(json.loads(lines[-1])["seconds"]) if lines else 0.0
    begin = saved = time.monotonic()

    def save() -> None:
        trainer.save(files.state)
        save_r2d2(trainer.network, files.weights, {"pairs": trainer.pairs, "training": asdict(config)})
        write_log(files.log, lines)

    progress.start("training", config.pairs, trainer.pairs)
    with stop_between_steps() as asked:
        while not trainer.done:
            before = trainer.pairs
            figures: dict[str, float] = trainer.train_step()
            figures["seconds"] = spent + round(time.monotonic() - begin, 1)
            lines.append(json.dumps({k: short(v) for k, v in figures.items()}))
            for _ in range(min(trainer.pairs, config.pairs) - before):
                progress.update(loss=figures["reliability"])
            if asked:
                save()
                raise KeyboardInterrupt
            if time.monotonic() - saved > config.save_every:
                save()
                saved = time.monotonic()
        save()
    files.state.unlink(missing_ok=True)
    progress.finish()
    return trainer.network
