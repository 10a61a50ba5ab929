"""How far long work is: a bar on a terminal, plain lines elsewhere, nothing with --quiet. Free of torch.

All of it goes to stderr, so that stdout stays for results. Warnings (of the `dyn4d` logger) are always shown.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

PLAIN_EVERY = 10.0  # seconds between two plain lines
FEW_STEPS, FEW_SECONDS = 3, 3.0  # after the first step, before anything is said about the rest
RECENT = 60.0  # seconds that tell how fast it goes now


def _format(values: dict[str, float]) -> str:
    return " ".join(f"{name} {_number(value)}" for name, value in values.items())


def _number(value: float) -> str:
    """Counts in full, all else to four digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 and value == int(value) else f"{value:.4g}"


def rough_duration(seconds: float) -> str:
    """As a person would say it: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class TimeLeft:
    """How long the rest takes, by the pace of the last minute, or of the last few steps where these take longer.

    The first step does not count: things are compiled and read in it. Nor does what an earlier run had done.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._marks: deque[tuple[float, int]] = deque()  # when, and how many steps were done then; at most one a second

    def step(self, done: int) -> None:
        """Note that one more is done, `done` in all."""
        now, marks = self.clock(), self._marks
        if not marks or now - marks[-1][0] >= 1.0:
            marks.append((now, done))
        while len(marks) > FEW_STEPS + 1 and marks[1][0] <= now - RECENT:
            marks.popleft()

    def seconds(self, done: int, total: int) -> float | None:
        """An estimate, or None as long as too little is known."""
        if not self._marks:
            return None
        since, before = self._marks[0]
        spent, steps = self.clock() - since, done - before
        if steps < FEW_STEPS or spent < FEW_SECONDS:
            return None
        return spent * max(total - done, 0) / steps


class PlainProgress:
    """Lines of text: the start, every few seconds, and the end."""

    def __init__(
        self, stream: TextIO | None = None, every: float = PLAIN_EVERY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stream = stream or sys.stderr
        self.every, self.clock = every, clock
        self._label, self._total, self._done = "", 0, 0
        self._last: dict[str, float] = {}
        self._spoke = self._began = 0.0
        self._left = TimeLeft(clock)

    def note(self, line: str) -> None:
        print(line, file=self.stream, flush=True)

    def warn(self, line: str) -> None:
        self.note(line)

    def start(self, label: str, total: int, done: int = 0) -> None:
        self._label, self._total, self._done, self._last = label, total, done, {}
        self._began = self._spoke = self.clock()
        self._left = TimeLeft(self.clock)
        if done:
            self.note(f"{label}: going on at {done} of {total}")

    def update(self, **values: float) -> None:
        self._done += 1
        self._left.step(self._done)
        if values:
            self._last = values
        if self.clock() - self._spoke >= self.every:
            self._spoke = self.clock()
            line = f"{self._label}: {self._done}/{self._total} {_format(self._last)}".rstrip()
            left = self._left.seconds(self._done, self._total)
            self.note(line if left is None else f"{line}, {'about ' if left >= 90 else ''}{rough_duration(left)} left")

    def finish(self) -> None:
        if self._label:
            seconds = self.clock() - self._began
            line = f"{self._label}: {self._done}/{self._total} {_format(self._last)}".rstrip()
            self.note(f"{line} ({seconds:.0f} s)")
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
