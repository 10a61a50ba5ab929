"""From a clip to a moving splat: the stages in order, and the functions that run them.

    from dyn4d.config import load_preset, with_clip
    from dyn4d.pipeline import run_all
    run_all(with_clip(load_preset("quick"), "clips/dog"), "runs/dog")

Calling the same again goes on where it was stopped, or skips what is done.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dyn4d import __version__, stagework
from dyn4d.config import NAMED_INPUTS, Config, as_plain, dump_config, load_config
from dyn4d.core.errors import InputError
from dyn4d.export.config import DEFAULT_RENDERS
from dyn4d.export.requirements import require_formats
from dyn4d.io.atomic import atomic_path
from dyn4d.progress import QuietProgress, WarningHandler
from dyn4d.runner import (
    Planned,
    Stage,
    execute,
    make_plan,
    refuse_changes,
    require_done,
    same_run,
    with_finished_parts,
)
from dyn4d.runs import RunFolder, RunState, locked

PACKAGES = ("torch", "numpy", "numba", "opencv-python-headless", "av", "roma", "gsplat")
CLIP_FOLDERS = ("rgb", "mask", "masks", "depth", "flow", "pointmaps")
HEAD = 1 << 16  # bytes at both ends of a clip's file that are hashed


# ----------------------------------------------------------------------------------------- settings


def clip_fingerprint(path: Path | str) -> dict[str, Any]:
    """What is in a clip, as `files_fingerprint` has it. Raises `InputError` where there is nothing."""
    path = Path(path)
    if path.is_file():
        files = [path, *sorted(p for p in path.parent.glob(f"{path.stem}_mask*") if p.is_file())]
    elif path.is_dir():
        files = [p for p in path.iterdir() if p.is_file()]
        for name in CLIP_FOLDERS:
            files += [p for p in (path / name).glob("*") if p.is_file()]
    else:
        raise InputError(f"{path} is not there; give a clip folder, a video file or a folder of images")
    return files_fingerprint(path, [p for p in files if p.suffix.lower() not in (".md", ".txt")])


def files_fingerprint(path: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Number of files, and a digest of their names, sizes, first and last bytes.

    Not their dates: a copied clip is the same clip.

    Args:
        path: the folder that the files are in, at any depth, or one of them.
    """
    digest = hashlib.sha256()
    files = sorted(p for p in files if not p.name.startswith("."))
    try:
        for file in files:
            size = file.stat().st_size
            digest.update(f"{file.relative_to(path if path.is_dir() else path.parent).as_posix()} {size}\n".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(HEAD))
                if size > HEAD:
                    stream.seek(max(HEAD, size - HEAD))
                    digest.update(stream.read(HEAD))
    except OSError as error:
        raise InputError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from error
    return {"name": path.name, "files": len(files), "digest": digest.hexdigest()[:16]}


def _prepare_settings(config: Config) -> dict[str, Any]:
    names = ("frames", "hold_out", "max_size")
    out = {"clip": clip_fingerprint(config.clip), **{name: getattr(config, name) for name in names}}
    named = Path(config.mask)
    masks = clip_fingerprint(named) if config.mask not in ("auto", "none", "alpha") and named.exists() else config.mask
    return {**out, "mask": masks}


def _named_input(text: str) -> Any:
    """What a file or folder that an option names holds; the text itself where it names none."""
    path = Path(text)
    if not text or not path.exists():
        return text
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return files_fingerprint(path, files)


def _geometry_settings(config: Config) -> dict[str, Any]:
    """The options, and what is in the files that they name."""
    settings = _sections("geometry", "matching")(config)
    for section, name in NAMED_INPUTS:
        settings[section] = {**settings[section], name: _named_input(settings[section][name])}
    return settings


def _sections(*names: str) -> Any:
    def settings(config: Config) -> dict[str, Any]:
        plain = as_plain(config)
        return {"seed": config.seed, **{name: plain[name] for name in names}}

    return settings


def _export_settings(config: Config) -> dict[str, Any]:
    """Without the formats, which are parts: each can be added to a finished export."""
    settings = _sections("export")(config)
    return {**settings, "export": {k: v for k, v in settings["export"].items() if k != "formats"}}


def _report_files(config: Config) -> tuple[str, ...]:
    return ("metrics.json", "report.html") if config.export.report else ("metrics.json",)


def _render_settings(config: Config) -> dict[str, Any]:
    """Without what is to be made, which are parts. `which` has one value, so that the keys of older runs hold."""
    settings = {k: v for k, v in as_plain(config.render).items() if k not in ("bullet_frame", "gif", "alpha")}
    return {"render": {**settings, "which": list(DEFAULT_RENDERS)}}


def _show_added_renders(run: RunFolder, config: Config, state: RunState) -> None:
    """A report that is there, and of these Gaussians, is written again with the renders that were added."""
    render, export = (next(stage for stage in STAGES if stage.name == name) for name in ("render", "export"))
    if run.report.is_file() and same_run(export, render, run):
        stagework.summarise(run, config, state)


STAGES: tuple[Stage, ...] = (
    Stage("prepare", "prepare", (), _prepare_settings, stagework.prepare),
    Stage("geometry", "geometry", ("prepare",), _geometry_settings, stagework.geometry, version=2),
    Stage("deform", "deformation", ("geometry",), _sections("deformation"), stagework.deform, version=2),
    Stage(
        "gaussians", "gaussians", ("geometry", "deform"), _sections("gaussians"), stagework.gaussians,
        finish=stagework.forget_evaluation,
    ),
    Stage(
        "render", "renders", ("gaussians",), _render_settings, stagework.render, finish=_show_added_renders,
        parts=lambda config: config.render.parts(),
        keep=lambda config, parts: replace(config, render=config.render.with_made(parts)),
    ),
    Stage(
        "export", "export", ("gaussians", "render"), _export_settings, stagework.export,
        finish=stagework.summarise, beside=_report_files, parts=lambda config: config.export.formats,
        keep=lambda config, parts: replace(config, export=config.export.with_made(parts)),
    ),
)  # fmt: skip
STAGE_NAMES = tuple(stage.name for stage in STAGES)


# ---------------------------------------------------------------------------------------- one command, many stages


def core_count() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


def set_threads() -> int:
    """Let torch use every core, unless OMP_NUM_THREADS says otherwise. Returns the number."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(core_count())
    return torch.get_num_threads()


def _versions() -> dict[str, str]:
    out = {"dyn4d": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


@contextmanager
def _warnings_to(state: RunState, progress: Any) -> Iterator[None]:
    """Warnings of the package go to `run.json` (and so into the report) and to the user."""
    say = getattr(progress, "warn", None) or progress.note

    def handle(text: str) -> None:
        state.warn(text)
        say(f"warning: {text}")

    handler, logger = WarningHandler(handle), logging.getLogger("dyn4d")
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _bring_up(
    names: tuple[str, ...],
    config: Config,
    run: RunFolder,
    *,
    overwrite: bool,
    progress: Any,
    allow: tuple[str, ...] = (),
    before: Callable[[], None] | None = None,
) -> RunFolder:
    """Run these stages, in order; those before them have to be done."""
    progress = QuietProgress() if progress is None else progress
    run.refuse_others(allow)
    config = with_finished_parts(STAGES, config, run)
    _check_early(names, config, run, overwrite=overwrite)
    if before is not None:
        before()
    run.create(allow)
    with locked(run):
        plan = make_plan(STAGES, config, run)  # again: another process may just have ended
        mine = [one for one in plan if one.stage.name in names]
        refuse_changes(mine, overwrite=overwrite)
        state = RunState(run)
        _write_config(config, run)
        busy = any(one.status != "done" for one in mine)
        facts: dict[str, Any] = {"seed": config.seed, "name": Path(config.clip).name}
        if busy:
            device = stagework.device_of(config)
            facts |= {"versions": _versions(), "device": str(device), "threads": set_threads()}
        state.update(**facts)
        with _warnings_to(state, progress):
            for one in mine:
                earlier = plan[: STAGE_NAMES.index(one.stage.name)]
                require_done(make_plan(STAGES, config, run), [p.stage.name for p in earlier], run)
                execute(one, config, run, state, progress, overwrite=overwrite)
    return run


def _check_early(names: tuple[str, ...], config: Config, run: RunFolder, *, overwrite: bool) -> None:
    """What can be refused before anything is written."""
    plan = make_plan(STAGES, config, run)
    mine = [one for one in plan if one.stage.name in names]
    refuse_changes(mine, overwrite=overwrite)
    first = STAGE_NAMES.index(names[0])
    if names[0] != "prepare":
        run.require()
        require_done(plan, STAGE_NAMES[:first], run)
    todo = {one.stage.name for one in mine if one.status != "done"}
    if "export" in todo:
        require_formats(config.export.formats)
    if todo & {"prepare", "geometry"}:
        stagework.device_of(config)
        clip = stagework.open_clip(config)
        if "geometry" in todo:
            from dyn4d.geometry.sources import choose_source

            choose_source(clip, config.geometry)
            stagework.check_matching(config, clip)


def _write_config(config: Config, run: RunFolder) -> None:
    text = dump_config(config)
    if not run.config.is_file() or run.config.read_text(encoding="utf-8") != text:
        with atomic_path(run.config) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _folder(run: RunFolder | Path | str) -> RunFolder:
    return run if isinstance(run, RunFolder) else RunFolder(run)


# ----------------------------------------------------------------------------------------- to call


def run_all(
    config: Config,
    run: RunFolder | Path | str,
    *,
    overwrite: bool = False,
    progress: Any = None,
    allow: tuple[str, ...] = (),
    before: Callable[[], None] | None = None,
) -> RunFolder:
    """The whole pipeline.

    Args:
        config: see `dyn4d.config.with_clip`. run: the run folder, made if need be.
        overwrite: replace finished stages that were made with other settings.
        progress: a `Progress`; silent if None.
        allow: names that may be in the folder although it is not a run yet.
        before: called when the clip and the options can be used, before anything is written; may refuse by raising.

    Raises:
        InputError: the clip or an option cannot be used, or finished work would be replaced.
        RunError: the run failed. Called again, it goes on where it stopped.
    """
    return _bring_up(
        STAGE_NAMES, config, _folder(run), overwrite=overwrite, progress=progress, allow=allow, before=before
    )


def run_prepare(
    config: Config, run: RunFolder | Path | str, *, overwrite: bool = False, progress: Any = None
) -> RunFolder:
    """Make a run: check the clip, write the resolved configuration."""
    return _bring_up(("prepare",), config, _folder(run), overwrite=overwrite, progress=progress)


def run_stage(
    name: str,
    run: RunFolder | Path | str,
    *,
    config: Config | None = None,
    overwrite: bool = False,
    progress: Any = None,
) -> RunFolder:
    """One stage of a run whose earlier stages are done; `config` defaults to the run's own."""
    folder = _folder(run)
    folder.require()
    return _bring_up((name,), config or load_config(folder.config), folder, overwrite=overwrite, progress=progress)


def run_geometry(run: RunFolder | Path | str, **options: Any) -> RunFolder:
    """Cameras, points and matches. Options as of `run_stage`."""
    return run_stage("geometry", run, **options)


def run_deform(run: RunFolder | Path | str, **options: Any) -> RunFolder:
    """The deformation field and tracks. Options as of `run_stage`."""
    return run_stage("deform", run, **options)


def run_gaussians(run: RunFolder | Path | str, **options: Any) -> RunFolder:
    """The Gaussians, trained with the field. Options as of `run_stage`."""
    return run_stage("gaussians", run, **options)


def run_render(run: RunFolder | Path | str, **options: Any) -> RunFolder:
    """Pictures and videos. Options as of `run_stage`."""
    return run_stage("render", run, **options)


def run_export(run: RunFolder | Path | str, **options: Any) -> RunFolder:
    """PLYs, tracks, figures and the report. Options as of `run_stage`."""
    return run_stage("export", run, **options)


def run_eval(run: RunFolder | Path | str, truth: Path | str = "", *, progress: Any = None) -> dict[str, Any]:
    """Compare a finished run with ground truth, and with the frames that it left out; writes `eval.json` and brings
    `metrics.json` and the report up to date.

    Args:
        truth: a folder, or "" where there is none: then there must be frames that were left out.

    Raises:
        InputError: no run or no ground truth there. RunError: a stage is missing or out of date.
    """
    folder = _folder(run)
    folder.require()
    if truth and not Path(truth).is_dir():
        raise InputError(f"--truth {truth}: there is no such folder; it holds views.json, cameras.json and tracks.npz")
    config = load_config(folder.config)
    require_done(make_plan(STAGES, config, folder), ("geometry", "deform", "gaussians"), folder)
    from dyn4d.export.run import evaluate_run

    set_threads()
    with locked(folder):
        device = stagework.device_of(config)
        content = evaluate_run(
            folder.root, Path(truth) if truth else None, clip=stagework.open_whole_clip(config),
            used=RunState(folder).data["clip"]["selected"], device=device, progress=progress,
        )  # fmt: skip
        if folder.metrics.is_file() and (folder.export.is_dir() or not config.export.report):
            stagework.summarise(folder, config, RunState(folder))
    return content


def run_status(run: RunFolder | Path | str) -> tuple[list[Planned], RunState]:
    """What is done and what would run again and why; changes nothing."""
    folder = _folder(run)
    folder.require()
    return make_plan(STAGES, load_config(folder.config), folder), RunState(folder)
