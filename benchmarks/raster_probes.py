"""What only a fresh process can tell of the rasteriser; `raster.py` starts these and reads the JSON that they print.

    python benchmarks/raster_probes.py first     seconds of the imports and of the first call with its backward
    python benchmarks/raster_probes.py memory    peak memory of 300k Gaussians, forward and backward
    python benchmarks/raster_probes.py threads   the same bits for any number of threads, and from Python's threads?
    python benchmarks/raster_probes.py fork      the same bits from forked children?

`threads` can compare no more threads than NUMBA_NUM_THREADS says.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from pathlib import Path

BEGIN = time.perf_counter()

import torch  # noqa: E402  # the clock has to run before these are imported
from raster_rivals import Scene, bumpy_surface  # noqa: E402

import dyn4d.raster.cpu  # noqa: E402, F401  # else the first call would import it, and numba
from dyn4d.raster import rasterization  # noqa: E402

IMPORTED = time.perf_counter()

PATIENCE = 120  # seconds that a forked child gets


def draw(scene: Scene) -> str:
    """Forward and backward of a copy of the scene's leaves; a digest of every bit of the pictures and gradients."""
    learned = {name: value.detach().clone().requires_grad_() for name, value in scene[0].items()}
    renders, alphas, _ = rasterization(**learned, **scene[1], backend="cpu")
    (renders.square().sum() + alphas.sum()).backward()
    digest = hashlib.sha256()
    for value in (renders, alphas, *(leaf.grad for leaf in learned.values())):
        assert value is not None
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def first() -> dict[str, float]:
    learned, fixed = bumpy_surface(10_000, 256, 256, 3)
    before = time.perf_counter()
    renders, alphas, _ = rasterization(**learned, **fixed, backend="cpu")
    (renders.sum() + alphas.sum()).backward()
    return {"imports_s": IMPORTED - BEGIN, "first_call_s": time.perf_counter() - before}


def resident(peak: bool) -> float:
    """GB (10⁹ bytes) that this process has in memory, now or at most so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's peak is that of the process that started this one, where that was larger
        name = "VmHWM:" if peak else "VmRSS:"
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024 / 1e9
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def memory() -> dict[str, float]:
    imported = resident(peak=False)
    learned, fixed = bumpy_surface(300_000, 512, 512, 3)
    prepared = resident(peak=False)
    for _ in range(2):
        for value in learned.values():
            value.grad = None
        renders, alphas, _ = rasterization(**learned, **fixed, backend="cpu")
        torch.autograd.backward([renders, alphas], [torch.ones_like(renders), torch.ones_like(alphas)])
        del renders, alphas
    peak = resident(peak=True)
    return {"peak_gb": peak, "above_imports_gb": peak - imported, "above_scene_gb": peak - prepared}


def threads() -> dict[str, bool]:
    scene = bumpy_surface(20_000, 250, 130, 3)
    digests = []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        digests.append(draw(scene))
    torch.set_num_threads(2)
    at_once: list[str] = []
    workers = [threading.Thread(target=lambda: at_once.extend(draw(scene) for _ in range(3))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {"any_threads": len(set(digests)) == 1, "python_threads": at_once == [digests[0]] * 12}


def drawn_by_child(scene: Scene) -> str:
    """The digest from a forked child, or what became of it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, draw(scene).encode())
        finally:
            os._exit(0)
    os.close(write)
    for _ in range(10 * PATIENCE):
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(read)
        return "the child did not finish"
    with os.fdopen(read, "rb") as pipe:
        return pipe.read().decode() or "the child died"


def fork() -> dict[str, bool]:
    if not hasattr(os, "fork"):
        return {}
    torch.set_num_threads(2)
    scene = bumpy_surface(20_000, 250, 130, 3)
    torch.randn(2000, 2000).exp().sum()  # torch's threads are started, ours are not
    early = drawn_by_child(scene)
    truth = draw(scene)
    return {"fork_before_drawing": early == truth, "fork_after_drawing": drawn_by_child(scene) == truth}


PROBES = {"first": first, "memory": memory, "threads": threads, "fork": fork}

if __name__ == "__main__":
    print(json.dumps(PROBES[sys.argv[1]]()))
