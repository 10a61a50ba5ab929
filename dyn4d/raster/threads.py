"""How many threads the kernels may use, and getting them compiled before they are needed."""

from __future__ import annotations

import os
import threading
from typing import Any

import numba
import numpy as np
import torch

from dyn4d.raster.native import Kernel, run_parallel

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


def even_bounds(total: int, step: int = 1, each: int = PARTS) -> np.ndarray:
    """Ends of nearly equal ranges over [0, total), `each` of them for each thread, each a multiple of `step` but the
    last."""
    blocks = -(-total // step)
    parts = max(1, min(thread_count() * each, blocks))
    return np.minimum(np.arange(parts + 1) * blocks // parts * step, total)


def cost_bounds(running_cost: np.ndarray) -> np.ndarray:
    """Ends of ranges of nearly equal cost; `running_cost` (n + 1,) is non-decreasing, item i costs c[i + 1] - c[i]."""
    count = len(running_cost) - 1
    parts = max(1, min(thread_count() * PARTS, count))
    weights = running_cost + np.arange(count + 1) * 4  # an empty tile is not free
    inner = np.searchsorted(weights, weights[-1] * np.arange(1, parts) / parts)
    return np.concatenate([[0], np.minimum(inner, count), [count]]).astype(np.int64)


def launch(kernel: Kernel, bounds: np.ndarray, *arguments: Any) -> None:
    """Run a kernel over all ranges: in threads, or in this one if there is only one, after a fork, or while another
    Python thread uses them (some of numba's threading layers cannot be shared)."""
    pack = kernel.pack(arguments)
    address = pack.__array_interface__["data"][0]
    threads = thread_count()
    if threads > 1 and len(bounds) > 2 and _busy.acquire(blocking=False):
        try:
            before, counter = numba.get_num_threads(), np.zeros(1, np.int64)
            if before != threads:
                numba.set_num_threads(threads)
            try:
                run_parallel(kernel.address, bounds, address, threads, counter.__array_interface__["data"][0])
            finally:
                if before != threads:
                    numba.set_num_threads(before)
        finally:
            _busy.release()
        return
    kernel.serial(int(bounds[0]), int(bounds[-1]), address)


def launch_whole(kernel: Kernel, total: int, *arguments: Any) -> None:
    """Run a kernel that cannot be divided over [0, total)."""
    pack = kernel.pack(arguments)
    kernel.serial(0, total, pack.__array_interface__["data"][0])


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
