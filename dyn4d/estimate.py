"""Before a run: how long it will take on this machine, how much memory and disk it needs, and whether that is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dyn4d.config import Config
from dyn4d.core.errors import InputError
from dyn4d.core.memory import free_memory
from dyn4d.core.usage import peak_bytes
from dyn4d.costs import STAGES, StageCost, stage_costs
from dyn4d.gaussians.config import MOST_POINTS
from dyn4d.geometry.sources import choose_source
from dyn4d.network_cost import network_cost, suited_config
from dyn4d.pipeline import STAGES as PIPELINE
from dyn4d.pipeline import core_count, set_threads
from dyn4d.runner import make_plan, refuse_changes
from dyn4d.runs import RunFolder
from dyn4d.speed import MachineSpeed, machine_speed
from dyn4d.stagework import check_matching, device_of, open_clip
from dyn4d.workload import ClipSize, Workload, count_work, look_at_clip

SPARE = 0.05  # of the free disk that is left alone
SHRINK = (0.75, 0.5, 0.375, 0.25, 0.125)
SKIP = (2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to need.

    Attributes:
        config: it was made for. source: of the geometry. size, work: what was counted.
        costs: of each stage. done: stages that are finished already and cost nothing.
        memory_there: bytes that the process may have in all; None where nobody tells. disk_there: bytes free.
        threads: of torch. notes: what is not in the figures.
    """

    config: Config
    source: str
    size: ClipSize
    work: Workload
    costs: dict[str, StageCost]
    done: tuple[str, ...]
    memory_there: int | None
    disk_there: int
    threads: int
    notes: tuple[str, ...] = ()

    @property
    def to_do(self) -> tuple[str, ...]:
        return tuple(stage for stage in STAGES if stage not in self.done)

    @property
    def seconds(self) -> float:
        return sum(self.costs[stage].seconds for stage in self.to_do)

    @property
    def memory(self) -> float:
        return max((self.costs[stage].memory for stage in self.to_do), default=0.0)

    @property
    def disk(self) -> float:
        return sum(self.costs[stage].disk for stage in self.to_do)

    @property
    def lacks(self) -> tuple[str, ...]:
        """What there is too little of: "memory", "disk"."""
        memory = self.memory_there is not None and self.memory > self.memory_there
        return ("memory",) * memory + ("disk",) * (self.disk > (1 - SPARE) * self.disk_there)


def free_disk(place: Path) -> int:
    """Bytes free where a folder is, or will be made."""
    place = place.expanduser().absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def make_estimate(
    config: Config, out: Path | str, *, overwrite: bool = False, fresh: bool = False, measure_network: bool = False
) -> Estimate:
    """Count the work of a run, and weigh it with this machine's speed. Writes nothing but the remembered speed.

    Args:
        out: the run folder; finished stages in it cost nothing. overwrite: replace those made with other options,
            which cost something either way.
        fresh: measure the machine's speed in any case. measure_network: load the weights of a pair network, if there
            are any, and measure it, where that is not known.

    Raises:
        InputError: the clip or an option cannot be used.
    """
    clip, device = open_clip(config), device_of(config)
    source = choose_source(clip, config.geometry)
    check_matching(config, clip)
    threads = set_threads()
    size = look_at_clip(clip)
    looked = suited_config(config) if source == "mast3r" else config  # of the run it stays as asked for
    work, notes = count_work(size, looked, source, poses_given=clip.poses_given), []
    if source == "mast3r":
        cost = network_cost(looked, size, device, measure=measure_network)
        if cost is None:
            notes.append("the pair network is not in the time of geometry: dyn4d run --estimate measures it")
        else:
            seconds = cost.seconds(size.frames, work.network_pairs)
            work = replace(work, network_seconds=seconds, network_bytes=cost.bytes)
            notes.append("of the geometry only the pair network and the matching are counted, not the alignment")
    elif source == "pointmaps":
        notes.append("reading and aligning the maps is not counted")
    if "flow" not in config.matching.matcher or config.matching.flow == "raft":
        notes.append("the network that matches is not counted")
    most, asked = min(int(work.points), MOST_POINTS), config.gaussians.initial
    if asked > min(most, config.gaussians.maximum):
        why = f"gaussians.maximum is {config.gaussians.maximum:,}"
        if most < config.gaussians.maximum:
            why = f"there are about {work.points:,.0f} points"
            if work.points > MOST_POINTS:
                why += f", of which {MOST_POINTS:,} are used"
        notes.append(f"gaussians.initial: {asked:,} asked for; {why}")
    if device.type != "cpu":
        notes.append(f"costs were fitted on processors; on {device} they are scaled by its own speed, and less sure")
    speed = machine_speed(device, fresh=fresh)
    if speed.disturbed:
        notes.append(
            f"other programs keep {speed.others:.1f} processors busy; without them it takes less, perhaps far less"
        )
    parallel = max(1, min(config.matching.threads, core_count()))
    run, done = RunFolder(out), ()
    if run.state.is_file():
        plan = make_plan(PIPELINE, config, run)
        done = tuple(one.stage.name for one in plan if one.status == "done")
        try:
            refuse_changes(plan, overwrite=overwrite)
        except InputError as error:  # all the same it is told what that takes
            notes.append(f"{run.root} holds another run, which dyn4d run would not replace: {error}")
    free = free_memory(torch.device("cpu"))
    return Estimate(
        config, source, size, work, stage_costs(work, config, speed, parallel=parallel), done,
        None if free is None else free + (peak_bytes() or 0), free_disk(Path(out)), threads, tuple(notes),
    )  # fmt: skip


# ------------------------------------------------------------------------------------- what would fit


def _smaller(size: ClipSize, ratio: float) -> ClipSize:
    """The clip with pictures made smaller."""
    area = ratio * ratio
    return replace(
        size, width=round(size.width * ratio), height=round(size.height * ratio), inside=size.inside * area,
        with_depth=size.with_depth * area, box_width=size.box_width * ratio, box_height=size.box_height * ratio,
        widest=size.widest * ratio, highest=size.highest * ratio,
    )  # fmt: skip


def _every(frames: str | None, count: int, step: int) -> str:
    """`--frames` that takes every n-th of the frames taken now."""
    parts = (frames or "").split(":")
    start, stop = [*parts, "", ""][:2]
    before = int(parts[2]) if len(parts) > 2 and parts[2].strip() else 1
    return f"{start or 0}:{stop or count}:{before * step}"


Try = tuple[str, ClipSize, Config]
Change = Callable[[ClipSize, Config], Iterator[Try]]


def _by_size(size: ClipSize, config: Config) -> Iterator[Try]:
    for ratio in SHRINK:
        longest = int(max(size.width, size.height) * ratio) // 16 * 16
        if longest >= 64:
            small = _smaller(size, longest / max(size.width, size.height))
            yield f"--max-size {longest}", small, replace(config, max_size=longest)


def _by_frames(size: ClipSize, config: Config) -> Iterator[Try]:
    for step in SKIP:
        if size.frames // step >= 4:
            text = _every(config.frames, size.all_frames, step)
            yield f"--frames {text}", replace(size, frames=-(-size.frames // step)), replace(config, frames=text)


def _by_gaussians(size: ClipSize, config: Config) -> Iterator[Try]:
    most = config.gaussians.maximum
    while most >= 4000:
        most //= 2
        fewer = replace(config.gaussians, maximum=most, initial=min(config.gaussians.initial, most))
        also = f" --gaussians.initial {most}" if fewer.initial < config.gaussians.initial else ""
        yield f"--gaussians.maximum {most}{also}", size, replace(config, gaussians=fewer)


def _by_matches(size: ClipSize, config: Config) -> Iterator[Try]:
    most = config.matching.max_per_pair
    while most >= 400:
        most //= 2
        yield (f"--matching.max-per-pair {most}", size,
               replace(config, matching=replace(config.matching, max_per_pair=most)))  # fmt: skip


def _by_export(size: ClipSize, config: Config) -> Iterator[Try]:
    if config.export.ply:
        yield "--export.no-ply", size, replace(config, export=replace(config.export, ply=False))
    if len(config.render.which) > 1:
        yield "--render.which input", size, replace(config, render=replace(config.render, which=("input",)))


CHANGES: tuple[Change, ...] = (_by_size, _by_frames, _by_gaussians, _by_matches, _by_export)


def fits(estimate: Estimate, size: ClipSize, config: Config, speed: MachineSpeed | None = None) -> bool:
    """Would this fit in memory and on disk?"""
    given = estimate.work.flows_solved == 0
    work = count_work(size, config, estimate.source, poses_given=given)
    work = replace(work, network_seconds=estimate.work.network_seconds, network_bytes=estimate.work.network_bytes)
    costs = stage_costs(work, config, speed or MachineSpeed(1.0, 1.0, 1.0, 1.0))
    return not replace(estimate, size=size, config=config, work=work, costs=costs).lacks


def what_would_fit(estimate: Estimate) -> tuple[str, ...]:
    """Options, each of which makes the run fit by itself, the mildest value of each; where none does, several
    together; () where nothing that is known does."""
    alone: list[str] = []
    for change in CHANGES:
        tries = change(estimate.size, estimate.config)
        found = next((text for text, size, config in tries if fits(estimate, size, config)), None)
        alone += [found] if found else []
    if alone:
        return tuple(alone)
    for text, size, config in _together((_by_gaussians, _by_size, _by_frames), estimate.size, estimate.config):
        if fits(estimate, size, config):
            return (text.strip(),)
    return ()


def _together(changes: Sequence[Change], size: ClipSize, config: Config) -> Iterator[Try]:
    """Each value of each change, and none, with each of the others; the last changes are tried first."""
    if not changes:
        yield "", size, config
        return
    for text, changed_size, changed in (("", size, config), *changes[0](size, config)):
        for more, last_size, last in _together(changes[1:], changed_size, changed):
            yield f"{text} {more}".strip(), last_size, last


def refuse_what_does_not_fit(estimate: Estimate) -> None:
    """Raise `InputError` where memory or disk will not do, with options with which they would."""
    for what in estimate.lacks[:1]:
        need, there = (
            (estimate.memory, estimate.memory_there or 0) if what == "memory" else (estimate.disk, estimate.disk_there)
        )
        ways = what_would_fit(estimate)
        mend = (
            f"would fit: {', or '.join(ways)}" if ways else "no smaller plan that fits is known; take another machine"
        )
        raise InputError(
            f"{estimate.config.clip}: the run needs about {size_words(need)} of {what}, {size_words(there)} are free; "
            f"{mend} (--ignore-estimate begins all the same)"
        )


def size_words(count: float) -> str:
    """Bytes as a person says them."""
    return f"{count / 2**30:.1f} GB" if count >= 0.95 * 2**30 else f"{max(count, 0) / 2**20:.0f} MB"
