"""How many threads the kernels may use, and getting them compiled before they are needed."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numba
import torch
from torch import Tensor

from dyn4d.raster.native import TASK, Kernel, run_parallel

Job = tuple[Kernel, array, tuple[Any, ...]]  # a kernel, the ends of its ranges, its arguments

PARTS = 8  # ranges for each thread, so that it matters little who gets the last one

_forked = False
_busy = threading.Lock()


def _after_fork() -> None:
    global _forked, _busy
    _forked = True  # the threads of OpenMP did not survive the fork, and it would abort or wait for them
    _busy = threading.Lock()
    torch.set_num_threads(1)  # torch's own OpenMP would wait for them too


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def thread_count() -> int:
    """Threads to use now: torch's number, no more than numba may start; 1 in a forked child."""
    if _forked:
        return 1
    return max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


def even_bounds(total: int, step: int = 1, each: int = PARTS) -> array[int]:
    """Ends of nearly equal ranges over [0, total), `each` of them for each thread, each a multiple of `step` but the
    last."""
    blocks = -(-total // step)
    parts = max(1, min(thread_count() * each, blocks))
    return array("q", [min(j * blocks // parts * step, total) for j in range(parts + 1)])


def shared(bounds: array[int]) -> Tensor:
    """The same memory, for a kernel."""
    return torch.frombuffer(bounds, dtype=torch.int64)


def numbered(bounds: array[int]) -> tuple[array[int], Tensor]:
    """For a kernel that has to know which of the ranges it handles: the bounds of the ranges' numbers, to launch it
    over, and the ends of the ranges, to give it."""
    return array("q", range(len(bounds))), shared(bounds)


def launch(kernel: Kernel, bounds: array[int], *arguments: Any) -> None:
    """Run a kernel over all ranges: in threads, or in this one if there is only one, after a fork, or while another
    Python thread uses them (some of numba's threading layers cannot be shared)."""
    launch_all([(kernel, bounds, arguments)])


def launch_whole(kernel: Kernel, total: int, *arguments: Any) -> None:
    """Run a kernel that cannot be divided over [0, total)."""
    launch_all([whole(kernel, total, *arguments)])


def whole(kernel: Kernel, total: int, *arguments: Any) -> Job:
    """What cannot be divided, for `launch_all`."""
    return kernel, array("q", [0, total]), arguments


def launch_all(jobs: Sequence[Job]) -> None:
    """`launch` several kernels at once, none of which needs what another finds; the ranges are begun in this order."""
    packs = [kernel.pack(arguments) for kernel, _, arguments in jobs]
    threads, count = thread_count(), sum(len(bounds) - 1 for _, bounds, _ in jobs)
    if threads > 1 and count > 1 and _busy.acquire(blocking=False):
        try:
            tasks = array("q")
            for (kernel, bounds, _), pack in zip(jobs, packs):
                address, place = kernel.address, pack.buffer_info()[0]
                tasks.extend([n for lo, hi in pairwise(bounds) for n in (address, lo, hi, place)])
            tasks.append(0)
            before, begin = numba.get_num_threads(), tasks.buffer_info()[0]
            if before != threads:
                numba.set_num_threads(threads)
            try:
                run_parallel(begin, count, threads, begin + 8 * TASK * count)
            finally:
                if before != threads:
                    numba.set_num_threads(before)
        finally:
            _busy.release()
        return
    for (kernel, bounds, _), pack in zip(jobs, packs):
        kernel.serial(bounds[0], bounds[-1], pack.buffer_info()[0])


def warmup() -> None:
    """Compile (or load from numba's cache) what training on the CPU needs: covariances, RGB + depth, SSIM."""
    from dyn4d.raster.api import rasterization
    from dyn4d.raster.similarity import l1_and_dssim

    count = 2048
    means = torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([-0.5, -0.5, 2.0])
    covars = (torch.eye(3) * 1e-4).repeat(count, 1, 1).requires_grad_()
    K = torch.tensor([[[64.0, 0.0, 32.0], [0.0, 64.0, 32.0], [0.0, 0.0, 1.0]]])
    renders, alphas, _ = rasterization(
        means.requires_grad_(), None, None, torch.full((count,), 0.5), torch.rand(count, 3),
        torch.eye(4)[None], K, 64, 64, render_mode="RGB+ED", covars=covars,
    )  # fmt: skip
    l1, dssim = l1_and_dssim(renders[0, ..., :3], torch.zeros(64, 64, 3))
    (l1 + dssim + alphas.mean()).backward()
