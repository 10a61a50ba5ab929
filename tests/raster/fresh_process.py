"""Run by `test_raster_processes.py`: draws in a process that has not drawn yet, in forks and in threads.

Prints JSON: for each way of drawing, the hashes of all results. NUMBA_NUM_THREADS must be 4 at least.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable

import torch
from raster_scenes import make_scene, run

from dyn4d.raster.similarity import l1_and_dssim
from dyn4d.raster.threads import thread_count

Hashes = dict[str, str]
PATIENCE = 100  # seconds until a child is taken to hang; it may have to compile


def hashed(label: str, results: dict[str, torch.Tensor]) -> Hashes:
    return {
        f"{label}: {name}": hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
        for name, value in results.items()
    }


def channels(threads: int | None = None) -> dict[str, torch.Tensor]:
    """Nine channels, drawn with a number of threads that is set when the scene has been made."""
    scene = make_scene(1500, channels=9)
    if threads is not None:
        torch.set_num_threads(threads)
    return run(scene, "cpu", rasterize_mode="antialiased")


def hashes() -> Hashes:
    """Of pictures, losses and all gradients, of scenes that use all kernels."""
    harmonics = {"sh_degree": 1, "render_mode": "RGB+ED", "absgrad": True}
    scenes = {
        "harmonics": run(make_scene(1500, 2, channels=None, sh=1, covars=True), "cpu", **harmonics),
        "channels": channels(),
    }
    g = torch.Generator().manual_seed(2)
    pred, target = torch.rand(61, 47, 3, generator=g).requires_grad_(), torch.rand(61, 47, 3, generator=g)
    mask = torch.rand(61, 47, generator=g)
    l1, dssim = l1_and_dssim(pred, target, l1_weight=mask, dssim_weight=1 - mask)
    (l1 + 0.3 * dssim).backward()
    scenes["losses"] = {"l1": l1.detach(), "dssim": dssim.detach(), "grad pred": pred.grad}
    return {name: value for label, results in scenes.items() for name, value in hashed(label, results).items()}


def in_child(work: Callable[[], Hashes]) -> Hashes | str:
    """What a forked child finds, or what became of it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(write, json.dumps(work()).encode())  # much less than a pipe holds
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return json.loads(os.read(read, 1 << 16)) if code == 0 else f"the child ended with {code}"
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "the child hung"


def at_once(count: int) -> list[Hashes]:
    """What `count` Python threads find that start together."""
    found: list[Hashes] = []
    barrier = threading.Barrier(count)

    def work() -> None:
        barrier.wait()
        found.append(hashes())

    workers = [threading.Thread(target=work) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return found


def main() -> None:
    out: dict[str, object] = {}
    can_fork = hasattr(os, "fork")
    torch.set_num_threads(4)
    (torch.rand(1000, 1000) @ torch.rand(1000, 1000)).exp().sum()  # starts torch's threads
    if can_fork:
        out["child of a parent that has not drawn"] = in_child(hashes)
    for i, found in enumerate(at_once(4)):
        out[f"Python thread {i}, first use"] = found
    counts = []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        counts.append(thread_count())
        out[f"{count} threads"] = hashes()
    if can_fork:
        out["child of a parent that has drawn"] = in_child(hashes)
        out["child that asks for threads"] = in_child(
            # torch's own operations wait for ever then, but for small ones such as these
            lambda: hashed("channels", channels(4))
        )
    print(json.dumps({"thread counts": counts, "found": out}))


if __name__ == "__main__":
    main()
