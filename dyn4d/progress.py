"""How far long work is: a bar on a terminal, plain lines elsewhere, nothing with --quiet. Free of torch.

All of it goes to stderr, so that stdout stays for results. Warnings (of the `dyn4d` logger) are always shown.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

PLAIN_EVERY = 10.0  # seconds between two plain lines


def _format(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in values.items())


def _duration(seconds: float) -> str:
    """Roughly, as a person would say it: "40 s", "about 12 min", "about 3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


class PlainProgress:
    """Lines of text: the start, every few seconds, and the end."""

    def __init__(self, stream: TextIO | None = None, every: float = PLAIN_EVERY) -> None:
        self.stream = stream or sys.stderr
        self.every = every
        self._label, self._total, self._done, self._first = "", 0, 0, 0
        self._last: dict[str, float] = {}
        self._spoke = self._began = 0.0

    def note(self, line: str) -> None:
        print(line, file=self.stream, flush=True)

    def warn(self, line: str) -> None:
        self.note(line)

    def start(self, label: str, total: int, done: int = 0) -> None:
        self._label, self._total, self._done, self._first, self._last = label, total, done, done, {}
        self._began = self._spoke = time.monotonic()
        if done:
            self.note(f"{label}: going on at {done} of {total}")

    def update(self, **values: float) -> None:
        self._done += 1
        if values:
            self._last = values
        if time.monotonic() - self._spoke >= self.every:
            self._spoke = time.monotonic()
            line = f"{self._label}: {self._done}/{self._total} {_format(self._last)}".rstrip()
            self.note(f"{line}, {_duration(self._left())} left")

    def _left(self) -> float:
        """Seconds, if the rest goes as what was done since the start of this run; work known before does not count."""
        return (time.monotonic() - self._began) * (self._total - self._done) / max(self._done - self._first, 1)

    def finish(self) -> None:
        if self._label:
            seconds = time.monotonic() - self._began
            self.note(f"{self._label}: {self._done}/{self._total} {_format(self._last)} ({seconds:.0f} s)")
        self._label = ""


class QuietProgress:
    """Says nothing but warnings."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr

    def warn(self, line: str) -> None:
        print(line, file=self.stream, flush=True)

    def note(self, line: str) -> None: ...

    def start(self, label: str, total: int, done: int = 0) -> None: ...

    def update(self, **values: float) -> None: ...

    def finish(self) -> None: ...


class BarProgress:
    """A tqdm bar with the loss."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._bar: Any = None

    def note(self, line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line, file=self.stream)

    def warn(self, line: str) -> None:
        self.note(line)

    def start(self, label: str, total: int, done: int = 0) -> None:
        from tqdm import tqdm

        self.finish()
        self._bar = tqdm(total=total, initial=done, desc=label, file=self.stream, dynamic_ncols=True, mininterval=0.2)

    def update(self, **values: float) -> None:
        if self._bar is not None:
            if values:
                self._bar.set_postfix_str(_format(values), refresh=False)
            self._bar.update(1)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


AnyProgress = PlainProgress | QuietProgress | BarProgress


class TickingProgress:
    """Passes everything on and calls `tick` each time: the clock of a running stage is kept by it."""

    def __init__(self, inner: Any, tick: Callable[[], None]) -> None:
        self.inner, self.tick = inner, tick

    def note(self, line: str) -> None:
        self.inner.note(line)
        self.tick()

    def start(self, label: str, total: int, done: int = 0) -> None:
        self.inner.start(label, total, done)
        self.tick()

    def update(self, **values: float) -> None:
        self.inner.update(**values)
        self.tick()

    def finish(self) -> None:
        self.inner.finish()
        self.tick()


def make_progress(*, quiet: bool = False, stream: TextIO | None = None) -> AnyProgress:
    """The kind that fits: nothing if `quiet`, a bar on a terminal, else plain lines."""
    stream = sys.stderr if stream is None else stream
    if quiet or stream is None:
        return QuietProgress(stream)
    return BarProgress(stream) if stream.isatty() else PlainProgress(stream)


class WarningHandler(logging.Handler):
    """Hands each warning of the package to a function, as one line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(level=logging.WARNING)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(" ".join(record.getMessage().split()))
