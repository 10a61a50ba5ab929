"""`dyn4d run --estimate`, and the first lines of a run: the estimate as text."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dyn4d.config import Config
from dyn4d.core.errors import Dyn4DError
from dyn4d.core.listing import counted
from dyn4d.progress import rough_duration

if TYPE_CHECKING:
    from dyn4d.estimate import Estimate

log = logging.getLogger(__name__)


def about(estimate: Estimate) -> str:
    """One line: what there is to do."""
    size, work = estimate.size, estimate.work
    used = "" if size.frames == size.all_frames else f"{size.frames} of "
    pairs = "1 pair" if work.pairs == 1 else f"{work.pairs} pairs"
    return (
        f"{used}{counted(size.all_frames, 'frame')}, {size.width} x {size.height} pixels; {pairs} of frames, "
        f"{_rough(work.points)} points, {_rough(work.gaussians_end)} Gaussians"
    )


def _rough(count: float) -> str:
    if count >= 1e6:
        return f"{count / 1e6:.1f} million"
    return f"{round(count, -3):,.0f}" if count >= 10_000 else f"{round(count, -2):,.0f}"


def short_lines(estimate: Estimate) -> list[str]:
    """The first lines of a run."""
    from dyn4d.estimate import size_words

    slowest = sorted(estimate.to_do, key=lambda stage: -estimate.costs[stage].seconds)[:2]
    where = ", ".join(f"{stage} {rough_duration(estimate.costs[stage].seconds)}" for stage in slowest)
    need = f"memory {size_words(estimate.memory)}, disk {size_words(estimate.disk)}"
    return [about(estimate), f"expected: {rough_duration(estimate.seconds)} ({where}); {need}", *estimate.notes]


def table(estimate: Estimate) -> str:
    """Everything, for `--estimate`."""
    from dyn4d.estimate import size_words

    lines = [about(estimate), "", f"{'stage':10s}  {'time':>8s}  {'memory':>8s}  {'disk':>8s}"]
    for stage, cost in estimate.costs.items():
        if stage in estimate.done:
            lines.append(f"{stage:10s}  {'done':>8s}")
            continue
        row = (rough_duration(cost.seconds), size_words(cost.memory), size_words(cost.disk))
        lines.append(f"{stage:10s}  {row[0]:>8s}  {row[1]:>8s}  {row[2]:>8s}")
    total = (rough_duration(estimate.seconds), size_words(estimate.memory), size_words(estimate.disk))
    lines.append(f"{'in all':10s}  {total[0]:>8s}  {total[1]:>8s}  {total[2]:>8s}")
    there = "not known" if estimate.memory_there is None else size_words(estimate.memory_there)
    threads, disk = counted(estimate.threads, "thread"), size_words(estimate.disk_there)
    lines += ["", f"here: {threads}, memory {there}, disk {disk} free"]
    return "\n".join([*lines, *(f"note: {note}" for note in estimate.notes)])


def show_estimate(config: Config, out: Path | str, *, overwrite: bool, say: Callable[[str], None]) -> None:
    """`dyn4d run --estimate`: print the table. Raises `InputError` where the run does not fit, or cannot begin."""
    from dyn4d.estimate import make_estimate, refuse_what_does_not_fit

    estimate = make_estimate(config, out, overwrite=overwrite, measure_network=True)
    say(table(estimate))
    refuse_what_does_not_fit(estimate)


def announce(config: Config, out: Path | str, *, overwrite: bool, force: bool, say: Callable[[str], None]) -> None:
    """The first lines of a run; nothing where all is done. Raises `InputError` where it does not fit, unless `force`.

    A fault in estimating is no reason not to run: it is noted, and the run begins.
    """
    from dyn4d.estimate import make_estimate, refuse_what_does_not_fit

    try:
        estimate = make_estimate(config, out, overwrite=overwrite)
        lines = short_lines(estimate) if estimate.to_do else []
    except Dyn4DError:
        raise
    except Exception as error:
        log.debug("no estimate", exc_info=error)
        say(f"no estimate ({type(error).__name__}: {' '.join(str(error).split())})")
        return
    for line in lines:
        say(line)
    if not force:
        refuse_what_does_not_fit(estimate)
