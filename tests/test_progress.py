"""How long is left, as plain lines say it: by a clock that the test moves."""

from __future__ import annotations

import io
import re

import pytest

from dyn4d.progress import PlainProgress, TimeLeft


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines_of(seconds: list[float], total: int, *, done: int = 0, every: float = 10.0) -> list[str]:
    """What is said of work whose steps take so long each."""
    clock, stream = Clock(), io.StringIO()
    progress = PlainProgress(stream, every=every, clock=clock)
    progress.start("fit", total, done)
    for step in seconds:
        clock.now += step
        progress.update(loss=1.0)
    return stream.getvalue().splitlines()


def left(line: str) -> float | None:
    """Seconds that a line says are left."""
    found = re.search(r", (?:about )?([\d.]+) (s|min|h) left$", line)
    return None if found is None else float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]]


def test_a_slow_first_step_is_no_measure() -> None:
    lines = lines_of([13.0] + [0.1] * 400, 1000)
    assert lines[0] == "fit: 1/1000 loss 1"
    later = [left(line) for line in lines[1:]]
    assert later[0] == pytest.approx(0.1 * 900, rel=0.1)
    assert all(value is not None for value in later)


def test_nothing_is_said_before_a_few_steps_and_a_few_seconds() -> None:
    assert [left(line) for line in lines_of([20.0] * 3, 50)] == [None] * 3
    assert left(lines_of([20.0] * 4, 50)[-1]) == pytest.approx(20 * 46, rel=0.05)
    assert all(left(line) is None for line in lines_of([9.0] + [0.01] * 250, 1000, every=0.5))
    assert left(lines_of([9.0] + [0.01] * 350, 1000, every=0.5)[-1]) is not None


def test_the_pace_of_late_is_what_counts() -> None:
    """A stage whose steps grow slower: the estimate follows within about a minute."""
    last = lines_of([0.05] * 2000 + [0.5] * 200, 3000)[-1]
    assert left(last) == pytest.approx(0.5 * 800, rel=0.15)


def test_steps_of_minutes_are_averaged_over_a_few() -> None:
    lines = lines_of([300.0] * 5 + [100.0] * 6, 20)
    assert left(lines[-1]) == pytest.approx(100 * 9, rel=0.05)


def test_work_of_an_earlier_run_does_not_count() -> None:
    lines = lines_of([5.0] + [1.0] * 20, 1000, done=900)
    assert lines[0] == "fit: going on at 900 of 1000"
    assert left(lines[-1]) == pytest.approx(82, abs=5)


def test_the_next_stage_starts_afresh() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = PlainProgress(stream, every=0.0, clock=clock)
    for step in (0.5, 30.0):
        progress.start("stage", 100)
        for _ in range(2):
            clock.now += step
            progress.update()
        progress.finish()
    assert all(left(line) is None for line in stream.getvalue().splitlines())
    assert stream.getvalue().splitlines()[-1] == "stage: 2/100 (60 s)"


def test_the_end_and_beyond() -> None:
    clock = Clock()
    guess = TimeLeft(clock)
    assert guess.seconds(0, 10) is None
    for done in range(1, 12):
        clock.now += 2.0
        guess.step(done)
    assert guess.seconds(10, 10) == 0.0 and guess.seconds(11, 10) == 0.0


def test_little_is_kept_of_long_work() -> None:
    clock = Clock()
    guess = TimeLeft(clock)
    for done in range(1, 50_000):
        clock.now += 0.01
        guess.step(done)
    assert len(guess._marks) < 70
    assert guess.seconds(50_000, 60_000) == pytest.approx(100, rel=0.02)


def test_counts_are_told_in_full() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream, every=0.0)
    progress.start("matches", 2)
    progress.update(matches=18234.0, loss=0.123456, large=12345.6)
    assert "matches 18,234 loss 0.1235 large 1.235e+04" in stream.getvalue()
