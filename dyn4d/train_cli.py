"""What `dyn4d train-matcher` does: weights of a small R2D2 from nothing but dyn4d's own pictures.

Free of torch until it is called; returns the text to print.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Progress
from dyn4d.training.config import MatcherTraining


@dataclass(frozen=True)
class TrainRequest:
    """What to train and where to write it.

    Attributes:
        out: the weights, ending in .safetensors. resume: a state to go on from. init:
            weights to start from. pairs: instead of `training.pairs`.
        threads: of torch; the weights depend on it in their last bits. overwrite: replace weights that are there.
    """

    out: str
    resume: str | None = None
    init: str | None = None
    pairs: int | None = None
    threads: int = 1
    overwrite: bool = False
    training: MatcherTraining = field(default_factory=MatcherTraining)


def train_matcher_files(request: TrainRequest, progress: Progress) -> str:
    """Train; returns lines for the terminal. Raises `InputError` where something given cannot be used."""
    out = Path(request.out).expanduser()
    if out.suffix != ".safetensors":
        raise InputError(f"dyn4d train-matcher: --out {request.out}; wanted a name that ends in .safetensors")
    if request.threads < 1:
        raise InputError(f"dyn4d train-matcher: --threads {request.threads}; wanted at least 1")
    if out.is_dir():
        raise InputError(f"{out} is a folder; choose another name with --out")
    unfinished = out.with_suffix(".state")
    go_on = request.resume is None and unfinished.is_file() and not request.overwrite
    if request.resume is None and not go_on and out.exists() and not request.overwrite:
        raise InputError(f"{out} is there already; choose another name, go on with --resume, or give --overwrite")
    if request.resume is not None and request.init is not None:
        raise InputError("dyn4d train-matcher: --init goes with a new training, --resume with a stopped one; give one")
    config = request.training
    try:
        config = config if request.pairs is None else replace(config, pairs=request.pairs)
    except ValueError as error:
        raise InputError(f"dyn4d train-matcher: {error}") from error
    import torch

    from dyn4d.training.r2d2 import saved_config
    from dyn4d.training.r2d2_run import train_matcher

    state = None if request.resume is None else Path(request.resume).expanduser()
    if state is not None and config == MatcherTraining():
        config = saved_config(state)
    if go_on:
        progress.note(f"{unfinished} is there: going on with it (--overwrite starts anew)")
        state = unfinished
    init = None if request.init is None else Path(request.init).expanduser()
    before = torch.get_num_threads()
    torch.set_num_threads(request.threads)
    try:
        train_matcher(config, out, resume=state, init=init, progress=progress)
    finally:
        torch.set_num_threads(before)
    return f"{out}\n{out.with_suffix('.jsonl')}"
