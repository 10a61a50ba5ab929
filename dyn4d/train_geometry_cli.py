"""What `dyn4d train-geometry` does: weights of a small masked pair network from nothing but dyn4d's own pictures.

Free of torch until it is called; returns the text to print.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Progress
from dyn4d.training.geometry_config import GeometryTraining


@dataclass(frozen=True)
class GeometryRequest:
    """What to train and where to write it.

    Attributes:
        out: the weights, ending in .safetensors. resume: a state to go on from. init: weights of an earlier training to
            start from. mean: weights whose mean is written, instead of a training. samples: instead of
            `training.samples`. minutes: stop after this long. threads: of torch; the weights depend on it in their
            last bits. device: "auto", "cpu" or "cuda". overwrite: replace weights that are there.
    """

    out: str
    resume: str | None = None
    init: str | None = None
    mean: tuple[str, ...] = ()
    samples: int | None = None
    minutes: float | None = None
    threads: int = 2
    device: str = "auto"
    overwrite: bool = False
    training: GeometryTraining = field(default_factory=GeometryTraining)


def train_geometry_files(request: GeometryRequest, progress: Progress) -> str:
    """Train; returns lines for the terminal. Raises `InputError` where something given cannot be used."""
    name = "dyn4d train-geometry"
    out = Path(request.out).expanduser()
    if out.suffix != ".safetensors":
        raise InputError(f"{name}: --out {request.out}; wanted a name that ends in .safetensors")
    if request.threads < 1:
        raise InputError(f"{name}: --threads {request.threads}; wanted at least 1")
    if request.minutes is not None and not request.minutes > 0:
        raise InputError(f"{name}: --minutes {request.minutes:g}; wanted a number above 0")
    if out.is_dir():
        raise InputError(f"{out} is a folder; choose another name with --out")
    unfinished = out.with_suffix(".state")
    go_on = not request.mean and request.resume is None and unfinished.is_file() and not request.overwrite
    if request.resume is None and not go_on and out.exists() and not request.overwrite:
        raise InputError(f"{out} is there already; choose another name, go on with --resume, or give --overwrite")
    if request.resume is not None and request.init is not None:
        raise InputError(f"{name}: --init goes with a new training, --resume with a stopped one; give one")
    if request.mean:
        return _mean(request, out, progress)
    import torch

    from dyn4d.core.allocator import keep_freed_memory
    from dyn4d.core.protocols import resolve_device
    from dyn4d.training.geometry import saved_config
    from dyn4d.training.geometry_run import train_geometry

    keep_freed_memory()
    device = resolve_device(request.device)
    state = None if request.resume is None else Path(request.resume).expanduser()
    if go_on:
        progress.note(f"{unfinished} is there: going on with it (--overwrite starts anew)")
        state = unfinished
    config = request.training
    if state is not None and config == GeometryTraining():
        config = saved_config(state)
    try:
        config = config if request.samples is None else replace(config, samples=request.samples)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    init = None if request.init is None else Path(request.init).expanduser()
    before = torch.get_num_threads()
    torch.set_num_threads(request.threads)
    try:
        outcome = train_geometry(
            config, out, resume=state, init=init, minutes=request.minutes, device=device, progress=progress
        )
    finally:
        torch.set_num_threads(before)
    text = f"{out}\n{out.with_suffix('.jsonl')}"
    if not outcome.finished:
        text += f"\nstopped after {outcome.samples} of {config.samples} samples; the same command goes on"
    return text


def _mean(request: GeometryRequest, out: Path, progress: Progress) -> str:
    name = "dyn4d train-geometry"
    for other in ("resume", "init", "samples", "minutes"):
        if getattr(request, other) is not None:
            raise InputError(f"{name}: --mean trains nothing, --{other} is of a training; give one")
    if len(request.mean) == 1:
        raise InputError(f"{name}: --mean {request.mean[0]}; wanted two files at least")
    from dyn4d.core.protocols import resolve_device
    from dyn4d.training.weight_mean import mean_weights

    files = [Path(file).expanduser() for file in request.mean]
    figures = mean_weights(files, request.training, out, device=resolve_device(request.device), progress=progress)
    depth = f": depth {figures['depth']:.2%} (a plane: {figures['flat']:.2%})" if "depth" in figures else ""
    return f"{out}{depth}"
