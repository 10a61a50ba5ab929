"""What all trainings share: their files, Ctrl-C between steps, and a log of a line a step."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dyn4d.io.atomic import atomic_path


@dataclass(frozen=True)
class TrainingFiles:
    """Where a training writes: the weights, its log (a line of JSON a step), and its state, removed at the end."""

    weights: Path

    @property
    def log(self) -> Path:
        return self.weights.with_suffix(".jsonl")

    @property
    def state(self) -> Path:
        return self.weights.with_suffix(".state")


@contextmanager
def stop_between_steps() -> Iterator[list[int]]:
    """Inside, the first Ctrl-C only fills the list that is handed out, the second stops at once: a step that is cut in
    two would leave weights and statistics that no unbroken training has."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there can Ctrl-C be taken
        yield asked
        return

    def note(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def short(value: float) -> float:
    """Five digits, for a log."""
    return float(f"{value:.5g}")


def write_log(file: Path, lines: list[str]) -> None:
    """All of a log, atomically."""
    with atomic_path(file) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def log_until(file: Path, step: int) -> list[str]:
    """The lines of a log up to a step; what a killed training wrote beyond its state is left out."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("{") and json.loads(line)["step"] <= step]
