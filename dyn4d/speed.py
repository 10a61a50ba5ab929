"""How fast this machine is: a few seconds of the work that runs consist of, measured once and remembered.

A run's cost is counted in these pieces of work (`dyn4d.costs`), so that a table of costs from one machine holds for
another.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from dyn4d import __version__
from dyn4d.core.errors import Dyn4DError
from dyn4d.core.usage import busy_seconds, machine_seconds
from dyn4d.deformation.field import FieldShape, Moments, TrajectoryField
from dyn4d.deformation.root import RootMotion
from dyn4d.io.atomic import read_json, write_json
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.estimators import DisFlow
from dyn4d.raster import rasterization

FORMAT = "dyn4d-speed/1"
LASTS = 7 * 24 * 3600.0  # seconds; machines are changed
ALONE = 0.25  # cores that others may use while it is measured; beyond, it is not remembered
TURNS, ENOUGH = 5, 0.6  # turns at least, and seconds: the quickest counts, as others on the machine only slow it down
PICTURE = 192  # pixels a side
DRAWN = 6000  # Gaussians
BATCH, POINTS = 24, 384  # pairs of frames, points of each
WINDOW = 400  # pixels a side, of the flow


@dataclass(frozen=True)
class MachineSpeed:
    """Seconds of one piece of work of each kind.

    Attributes:
        draw: 6,000 Gaussians into 192 x 192 pixels, forward and backward. field: 24 x 384 points from one time to
            another through a field of the usual size, forward and backward. flow: DIS between two pictures of
            400 x 400 pixels, one thread. plain: sorting, searching and packing by NumPy, SciPy and zlib.
        others: cores that other programs kept busy meanwhile; 0 where that is not known. A few threads that wait for
            each other are slowed down far more than by their share.
    """

    draw: float
    field: float
    flow: float
    plain: float
    others: float = 0.0

    def seconds(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if name != "others"}

    @property
    def disturbed(self) -> bool:
        return self.others > ALONE


def _quickest(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the quickest of some turns, after one that compiles and fetches.

    Where other programs have the processor for a while, the processor's own time is the shorter one, and counts.
    """
    work()
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < TURNS or time.perf_counter() - began < ENOUGH:
        start, busy = time.perf_counter(), busy_seconds()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        wall, busy = time.perf_counter() - start, busy_seconds() - busy
        found.append(wall if device.type == "cuda" else min(wall, max(busy, 1e-6)))
    return min(found)


def _drawing(device: torch.device) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(DRAWN, 3, generator=generator) * 0.35
    means[:, 2] += 3.0
    covars = (0.02**2 * torch.eye(3)).repeat(DRAWN, 1, 1)
    leaves = [t.to(device).requires_grad_() for t in (means, covars, torch.full((DRAWN,), 0.7),
                                                       torch.rand(DRAWN, 1, 3, generator=generator))]  # fmt: skip
    K = torch.tensor([[PICTURE * 1.4, 0, PICTURE / 2], [0, PICTURE * 1.4, PICTURE / 2], [0, 0, 1.0]], device=device)

    def work() -> None:
        renders, alphas, _ = rasterization(
            means=leaves[0], quats=None, scales=None, covars=leaves[1], opacities=leaves[2], colors=leaves[3],
            sh_degree=0, viewmats=torch.eye(4, device=device)[None], Ks=K[None], width=PICTURE, height=PICTURE,
            render_mode="RGB+ED", packed=False, absgrad=True,
        )  # fmt: skip
        torch.autograd.grad(renders.square().sum() + alphas.sum(), leaves)

    return work


def _moving(device: torch.device) -> Callable[[], None]:
    shape = FieldShape(layers=6, cells=64, time_features=32, input_scale=20.0, knots=48)
    field = TrajectoryField(
        shape, root=RootMotion.still(torch.linspace(0, 1, 48)), centre=torch.zeros(3), half_size=1.0, seed=0
    ).to(device)
    generator = torch.Generator().manual_seed(0)
    xyz = (torch.rand(BATCH, POINTS, 3, generator=generator) * 2 - 1).to(device)
    times = torch.rand(2 * BATCH, generator=generator).to(device)
    here, there = torch.arange(2 * BATCH, device=device).split(BATCH)
    weights = list(field.parameters())

    def work() -> None:
        moments = Moments(field, times)
        moved = moments.from_canonical(moments.to_canonical(xyz, here), there)
        torch.autograd.grad(moved.square().sum(), weights, allow_unused=True)

    return work


def _flowing() -> Callable[[], None]:
    noise = np.random.default_rng(0).random((WINDOW, WINDOW)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3.0)
    picture = cv2.normalize(smooth, np.empty_like(smooth), 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    moved = np.roll(picture, (3, 5), (0, 1))
    flow = DisFlow(MatchingConfig())

    def work() -> None:
        outer = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            flow(picture, moved)
        finally:
            cv2.setNumThreads(outer)

    return work


def _plain() -> Callable[[], None]:
    import zlib

    from scipy.spatial import KDTree

    generator = np.random.default_rng(0)
    values, xyz = generator.random(200_000), generator.random((20_000, 3))
    text = (generator.random(400_000) * 24).astype(np.uint8).tobytes()

    def work() -> None:
        np.unique(values)
        KDTree(xyz).query(xyz[:2000], k=4)
        zlib.compress(text, 1)

    return work


def measure_speed(device: torch.device) -> MachineSpeed:
    """Do some of each kind of work, with torch's present number of threads. Takes some seconds; more where the kernels
    are compiled for the first time."""
    began, all_before, own_before = time.perf_counter(), machine_seconds(), busy_seconds()
    draw, field = _quickest(_drawing(device), device), _quickest(_moving(device), device)
    cpu = torch.device("cpu")
    flow, plain = _quickest(_flowing(), cpu), _quickest(_plain(), cpu)
    others, all_after = 0.0, machine_seconds()
    if all_before is not None and all_after is not None:
        others = max(all_after - all_before - (busy_seconds() - own_before), 0.0) / (time.perf_counter() - began)
    return MachineSpeed(draw, field, flow, plain, others)


# ------------------------------------------------------------------------------------------ remembered


def cache_folder() -> Path:
    """Where programs keep what they can do without: XDG_CACHE_HOME, or what the system has instead."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    if named and Path(named).is_absolute():
        return Path(named) / "dyn4d"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "dyn4d" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dyn4d"
    return Path.home() / ".cache" / "dyn4d"


def _speed_file(device: torch.device) -> Path | None:
    """One for each machine, number of threads, device and version; None where there is no home."""
    what = [platform.node(), platform.machine(), platform.processor(), str(os.cpu_count()), str(device),
            str(torch.get_num_threads()), __version__, torch.__version__]  # fmt: skip
    if device.type == "cuda":
        what.append(torch.cuda.get_device_name(device))
    try:
        return cache_folder() / f"speed-{hashlib.sha256('|'.join(what).encode()).hexdigest()[:12]}.json"
    except (RuntimeError, OSError):
        return None


def _remembered(path: Path) -> MachineSpeed | None:
    try:
        found = read_json(path)
        age = time.time() - float(found["measured"])
        speed = MachineSpeed(**{name: float(value) for name, value in found["seconds"].items()})
    except (Dyn4DError, KeyError, TypeError, ValueError, AttributeError):
        return None
    whole = found.get("format") == FORMAT and all(0 < value < 1e4 for value in speed.seconds().values())
    return speed if whole and 0 <= age < LASTS else None


def machine_speed(device: torch.device, *, fresh: bool = False) -> MachineSpeed:
    """The speed of this machine: as it was measured within the last week, else measured now, and remembered unless
    other programs were in the way.

    Args:
        device: of the run. fresh: measure in any case.
    """
    path = _speed_file(device)
    speed = None if fresh or path is None else _remembered(path)
    if speed is None:
        speed = measure_speed(device)
        if path is not None and not speed.disturbed:
            with contextlib.suppress(Dyn4DError, OSError):  # else it is measured again the next time
                write_json(path, {"format": FORMAT, "measured": time.time(), "seconds": speed.seconds()})
    return speed
