"""Runs stages: skips what is done and unchanged, goes on with what was stopped, refuses to replace what changed.

A stage works in `.partial-<stage>/`, which names the key it works for, and only finished folders get their own name.
A finished folder carries a marker, `.stage.json`, that moves with it in the same rename: it, not `run.json`, decides
what is done, so there is no moment at which a kill leaves the two apart. Free of torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dyn4d.config import differences
from dyn4d.core.errors import Dyn4DError, InputError, RunError
from dyn4d.io.atomic import read_json, write_json
from dyn4d.progress import TickingProgress
from dyn4d.runs import RunFolder, RunState, describe_error, remove_temporary

MARKER = ".stage.json"
NEUTRAL = {"threads", "checkpoint_seconds"}  # options that change how long a stage takes, not what it makes
Status = Literal["done", "absent", "partial", "changed"]


@dataclass(frozen=True)
class StageContext:
    """What a stage's work is given.

    Attributes:
        run: the run folder; earlier stages' folders are read there.
        config: whatever the caller configures stages with.
        out: the folder to fill; it becomes the stage's own. It may hold work of an earlier, stopped attempt.
        scratch: kept until the stage is done, then dropped.
        progress: where to say how far it is.
        state: what `run.json` holds.
    """

    run: RunFolder
    config: Any
    out: Path
    scratch: Path
    progress: TickingProgress
    state: RunState


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: what it is called on the command line.
        folder: what it writes, inside the run.
        inputs: the stages whose folders it reads.
        settings: its part of the configuration (JSON values) plus whatever else decides what it makes.
        work: fills `StageContext.out`.
        finish: called once the stage's folder has its name; quick, and may be called again.
        beside: files directly in the run folder that `finish` writes; where one is missing it is called again.
        version: raised when the same settings come to make something else.
        parts: what is asked for of a stage that makes several things, each independent of the others. A finished folder
            that has only some gets the others added; what it has beyond them stays.
        keep: the configuration with the parts in it that a finished folder has, so that it goes on naming them.
    """

    name: str
    folder: str
    inputs: tuple[str, ...]
    settings: Callable[[Any], dict[str, Any]]
    work: Callable[[StageContext], None]
    finish: Callable[[RunFolder, Any, RunState], None] | None = None
    beside: Callable[[Any], tuple[str, ...]] = lambda _: ()
    version: int = 1
    parts: Callable[[Any], tuple[str, ...]] = lambda _: ()
    keep: Callable[[Any, Sequence[str]], Any] = lambda config, _: config


@dataclass(frozen=True)
class Planned:
    """A stage with its key, the parts asked for, what was found on disk and why it would (not) run."""

    stage: Stage
    key: str
    settings: dict[str, Any]
    input_keys: dict[str, str]
    status: Status
    reason: str
    parts: tuple[str, ...] = ()


def stage_key(stage: Stage, settings: Mapping[str, Any], input_keys: Mapping[str, str]) -> str:
    """Names what a stage makes: equal keys, equal results."""
    text = json.dumps([stage.name, stage.version, _without_neutral(settings), dict(input_keys)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_neutral(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_neutral(v) for k, v in value.items() if k not in NEUTRAL}
    return value


def _read(path: Path) -> dict[str, Any] | None:
    """A marker, or None where there is none or it is damaged: it is then as if the stage had not run."""
    try:
        return read_json(path) if path.is_file() else None
    except InputError:
        return None


def make_plan(stages: Sequence[Stage], config: Any, run: RunFolder) -> list[Planned]:
    """What would happen to each stage, in order. Changes nothing."""
    plan: list[Planned] = []
    keys: dict[str, str] = {}
    for stage in stages:
        settings = json.loads(json.dumps(stage.settings(config)))
        input_keys = {name: keys[name] for name in stage.inputs}
        key = keys[stage.name] = stage_key(stage, settings, input_keys)
        parts = stage.parts(config)
        status, reason = _inspect(stage, key, settings, input_keys, parts, run)
        if status == "done":
            missing = [name for name in stage.beside(config) if not (run.root / name).exists()]
            if missing:
                status, reason = "partial", f"{missing[0]} is missing"
        plan.append(Planned(stage, key, settings, input_keys, status, reason, parts))
    return plan


def with_finished_parts(stages: Sequence[Stage], config: Any, run: RunFolder) -> Any:
    """The configuration with all parts in it that finished folders of the same keys have. What is asked for next then
    adds to them, and counts for them too."""
    for one in make_plan(stages, config, run):
        marker = _read(run.root / one.stage.folder / MARKER) or {}
        if marker.get("key") == one.key:
            config = one.stage.keep(config, [str(name) for name in marker.get("parts", [])])
    return config


def same_run(stage: Stage, made_from: Stage, run: RunFolder) -> bool:
    """Is what a finished stage was made from what lies there now?"""
    marker, source = (_read(run.root / one.folder / MARKER) or {} for one in (stage, made_from))
    return bool(source.get("key")) and marker.get("inputs", {}).get(made_from.name) == source.get("key")


def _inspect(
    stage: Stage, key: str, settings: dict[str, Any], input_keys: dict[str, str], parts: Sequence[str], run: RunFolder
) -> tuple[Status, str]:
    partial = _read(run.partial(stage.name) / "state.json")
    marker = _read(run.root / stage.folder / MARKER)
    agreed = marker is None or (marker.get("key") != key and partial is not None and partial.get("replaces"))
    if partial is not None and partial.get("key") == key and agreed:
        return "partial", "was stopped; goes on"
    if marker is None:
        if (run.root / stage.folder).exists():
            return "changed", f"{stage.folder}/ is there, but was not finished by this program"
        return "absent", "not done yet"
    if marker.get("key") != key:
        return "changed", _why(marker, stage, settings, input_keys)
    lost = _lost_file(stage, marker, run)
    if lost is not None:
        return lost
    missing = _missing_parts(parts, marker)
    if missing:
        return "partial", f"adds {', '.join(missing)}"
    return "done", "done; nothing changed"


def _missing_parts(parts: Sequence[str], marker: dict[str, Any]) -> list[str]:
    return [name for name in parts if name not in marker.get("parts", [])]


def _why(marker: dict[str, Any], stage: Stage, settings: dict[str, Any], input_keys: dict[str, str]) -> str:
    lines = differences(_without_neutral(marker.get("settings", {})), _without_neutral(settings))
    if lines:
        return "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")
    before = marker.get("inputs", {})
    stale = [name for name, key in input_keys.items() if before.get(name) != key]
    if stale:
        return f"made from an older {' and '.join(stale)}"
    return f"made by an older version of the {stage.name} stage"


def _lost_file(stage: Stage, marker: dict[str, Any], run: RunFolder) -> tuple[Status, str] | None:
    folder = run.root / stage.folder
    for name, size in marker.get("files", {}).items():
        try:
            found = (folder / name).stat().st_size
        except OSError:
            return "absent", f"{stage.folder}/{name} is missing"
        if found != size:
            return "changed", f"{stage.folder}/{name} has {found} bytes, {size} were written"
    return None


def refuse_changes(plan: Sequence[Planned], *, overwrite: bool) -> None:
    """Raise `InputError` where going on would replace finished work that was made with other settings."""
    changed = [one for one in plan if one.status == "changed"]
    if changed and not overwrite:
        first = changed[0]
        others = f" (then also {', '.join(p.stage.name for p in changed[1:])})" if len(changed) > 1 else ""
        elsewhere = ", or another --out" if any(one.stage.name == "prepare" for one in plan) else ""
        raise InputError(
            f"{first.stage.name}: finished, but not by what is asked for now: {first.reason}{others}; "
            f"give --overwrite to replace it{elsewhere}"
        )


def require_done(plan: Sequence[Planned], names: Sequence[str], run: RunFolder) -> None:
    """Raise `RunError` unless these stages are finished and up to date."""
    for one in plan:
        if one.stage.name in names and one.status != "done":
            command = f"dyn4d {one.stage.name} {run.root}" + (" --overwrite" if one.status == "changed" else "")
            if one.stage.name == "prepare":
                command = "dyn4d run with the same clip and --out"
            raise RunError(f"{one.stage.name} has to be done first ({one.reason}): {command}")


def execute(
    planned: Planned, config: Any, run: RunFolder, state: RunState, progress: Any, *, overwrite: bool = False
) -> bool:
    """Bring one stage up to date. The caller holds the lock of the folder.

    Returns:
        True if the stage ran, False if there was nothing to do (a line says so).

    Raises:
        InputError: it would replace finished work and `overwrite` is off.
        RunError: the disk is full, or whatever the stage raises.
    """
    stage = planned.stage
    if planned.status == "done":
        _restore(planned, run, state)
        progress.note(f"{stage.name}: skipped, nothing changed")
        return False
    refuse_changes([planned], overwrite=overwrite)
    partial = run.partial(stage.name)
    before = _read(partial / "state.json")
    goes_on = before is not None and before.get("key") == planned.key and _same_parts(before, planned)
    progress.note(f"{stage.name}: {'going on' if goes_on else 'started'}")
    state.begin(stage.name, planned.key, goes_on=goes_on)
    try:
        if not _is_placed(planned, run):
            if not (goes_on and before and before.get("complete")):
                _work(planned, config, run, state, progress, goes_on=goes_on)
            _commit(stage, config, run)
        elif partial.exists():  # killed between the last rename and the removal of what was replaced
            shutil.rmtree(partial)
        if stage.finish is not None:
            stage.finish(run, config, state)
    except BaseException as error:
        _record_failure(state, error)
        if isinstance(error, OSError) and not isinstance(error, Dyn4DError):
            raise _from_os(error, stage.name) from error
        raise
    state.end("done")
    progress.note(f"{stage.name}: done, {state.stage(stage.name)['seconds']:.0f} s")
    return True


def _work(planned: Planned, config: Any, run: RunFolder, state: RunState, progress: Any, *, goes_on: bool) -> None:
    stage, partial = planned.stage, run.partial(planned.stage.name)
    replaces = planned.status == "changed"
    if goes_on:
        replaces = replaces or bool((_read(partial / "state.json") or {}).get("replaces"))
        remove_temporary(partial, "**/")
    record = {"key": planned.key, "parts": list(planned.parts), "complete": False, "replaces": replaces}
    if not goes_on:
        if partial.exists():
            shutil.rmtree(partial)
        write_json(partial / "state.json", record)
    out, scratch = partial / stage.folder, partial / "scratch"
    out.mkdir(exist_ok=True)
    scratch.mkdir(exist_ok=True)
    made = _take_over(planned, run, out)
    stage.work(StageContext(run, config, out, scratch, TickingProgress(progress, state.tick), state))
    files = {path.relative_to(out).as_posix(): path.stat().st_size for path in sorted(out.rglob("*")) if path.is_file()}
    marker = {
        "key": planned.key,
        "stage": stage.name,
        "settings": planned.settings,
        "inputs": planned.input_keys,
        "parts": sorted({*made, *planned.parts}),
        "seconds": state.seconds_so_far(),
        "files": {name: size for name, size in files.items() if name != MARKER},
    }
    write_json(out / MARKER, marker)
    write_json(partial / "state.json", {**record, "complete": True})


def _same_parts(before: dict[str, Any], planned: Planned) -> bool:
    return list(before.get("parts", [])) == list(planned.parts)


def _take_over(planned: Planned, run: RunFolder, out: Path) -> list[str]:
    """The parts that the finished folder has already, if it was made by the same key; their files come to `out`.

    They are linked, not copied, where the disk can do so: files are only ever replaced, never written into.
    """
    folder = run.root / planned.stage.folder
    marker = _read(folder / MARKER)
    if marker is None or marker.get("key") != planned.key or _lost_file(planned.stage, marker, run) is not None:
        return []
    for name in marker.get("files", {}):
        target = out / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(folder / name, target)
            except OSError:
                shutil.copy2(folder / name, target)
    return [str(name) for name in marker.get("parts", [])]


def _is_placed(planned: Planned, run: RunFolder) -> bool:
    """Is the stage's folder whole and up to date? Then only what `finish` writes is missing."""
    marker = _read(run.root / planned.stage.folder / MARKER)
    if marker is None or marker.get("key") != planned.key or _missing_parts(planned.parts, marker):
        return False
    return _lost_file(planned.stage, marker, run) is None


def _commit(stage: Stage, config: Any, run: RunFolder) -> None:
    """Move the finished folder to its name. Can be stopped anywhere and called again."""
    partial = run.partial(stage.name)
    source, target, old = partial / stage.folder, run.root / stage.folder, partial / "old"
    for name in stage.beside(config):
        (run.root / name).unlink(missing_ok=True)  # made from the old folder
    if source.exists():
        if target.is_dir():
            if old.exists():
                shutil.rmtree(old)
            target.rename(old)  # a folder cannot be renamed over a filled one
        source.replace(target)
    shutil.rmtree(partial)


def _restore(planned: Planned, run: RunFolder, state: RunState) -> None:
    """A kill right after the rename leaves `run.json` behind the truth, and perhaps the emptied partial folder."""
    entry = state.stage(planned.stage.name)
    if entry.get("state") != "done" or entry.get("key") != planned.key:
        marker = _read(run.root / planned.stage.folder / MARKER) or {}
        entry.clear()
        entry.update(state="done", seconds=marker.get("seconds", 0.0), key=planned.key)
        state.save()
    partial = run.partial(planned.stage.name)
    if partial.exists():
        shutil.rmtree(partial)


def _record_failure(state: RunState, error: BaseException) -> None:
    interrupted = isinstance(error, KeyboardInterrupt)
    values = {} if interrupted else {"error": describe_error(error)}
    try:
        state.end("interrupted" if interrupted else "failed", **values)
    except (OSError, Dyn4DError):  # the disk may be full: the first error is the one to tell
        return


def _from_os(error: OSError, stage: str) -> RunError:
    where = f" while writing {os.fsdecode(error.filename)}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"{stage}: disk full{where}; free some space and run the same command to go on")
    return RunError(f"{stage}: {error.strerror or error}{where}")
