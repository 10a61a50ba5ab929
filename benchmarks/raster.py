"""Time the CPU rasteriser and its loss against rivals in the same process, and hold the figures against their bars.

    python benchmarks/raster.py [--repeats 15] [--threads 2] [--json OUT] [--markdown OUT]

Everything that is compared takes turns, and ratios are medians over the turns: a machine that is busy for a while slows
both sides. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from raster_report import BAR_HEADS, TIME_HEADS, Row, Times, about, markdown, plain, short, time_cells, write_section
from raster_rivals import Drawer, Scene, bumpy_surface, draw_pairs, draw_tiles, draw_tiles_at_once, ssim_of_torch
from torch import Tensor

from dyn4d.raster import rasterization, warmup
from dyn4d.raster.request import Drawn
from dyn4d.raster.similarity import l1_and_dssim, ssim_reference

MAIN, SMALL, LARGE = "50k 512x288 SH3", "10k 256x256 SH0", "300k 512x512 SH3"
SLOW, ALONE = f"{MAIN} against tiles", f"{MAIN} alone"
REACHES = {"10k 512x288 SH0, r 8 px": (10_000, 8.0), "10k 512x288 SH0, r 16 px": (10_000, 16.0),
           "50k 512x288 SH0, r 8 px": (50_000, 8.0)}  # fmt: skip

FAST = 100  # milliseconds


@dataclass(frozen=True)
class Contender:
    """Something to time, and torch's number of threads while it runs."""

    run: Callable[[], Any]
    threads: int


def race(contenders: dict[str, Contender], repeats: int) -> Times:
    """Let them take turns.

    What is fast runs two to five times in its turn, after once that does not count: what the one before left in the
    caches and in the allocator is not its cost. The turn's time is the median.
    """
    before = torch.get_num_threads()
    times: Times = {name: [] for name in contenders}
    inner = {}
    for name, contender in contenders.items():
        torch.set_num_threads(contender.threads)
        contender.run()
        took = _milliseconds(contender.run)
        inner[name] = 1 if took > FAST else max(2, min(5, int(FAST / took)))
    for _ in range(repeats):
        for name, contender in contenders.items():
            torch.set_num_threads(contender.threads)
            if inner[name] > 1:
                contender.run()
            times[name].append(statistics.median(_milliseconds(contender.run) for _ in range(inner[name])))
    torch.set_num_threads(before)
    return times


def _milliseconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def ratios(times: Times, above: str, below: str) -> list[float]:
    """Turn by turn."""
    return [a / b for a, b in zip(times[above], times[below])]


def ours(learned: dict[str, Tensor], fixed: dict[str, Any]) -> Drawn:
    return rasterization(**learned, **fixed, backend="cpu")


def forward(scene: Scene, drawer: Drawer) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            drawer(*scene)

    return run


def both(scene: Scene, drawer: Drawer) -> Callable[[], None]:
    """Forward and backward, pulling back random cotangents of the pictures."""
    learned, fixed = scene
    size = (1, fixed["height"], fixed["width"])
    g = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(*size, channels, generator=g).to(learned["means"].device) for channels in (4, 1)]

    def run() -> None:
        for value in learned.values():
            value.grad = None
        torch.autograd.backward(list(drawer(learned, fixed)[:2]), cotangents)

    return run


def image_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
    """A loss of two pictures of 512x288, with its gradient."""
    g = torch.Generator().manual_seed(2)
    pred, target = torch.rand(288, 512, 3, generator=g).requires_grad_(), torch.rand(288, 512, 3, generator=g)

    def run() -> None:
        pred.grad = None
        loss(pred, target).backward()

    return run


def our_loss(pred: Tensor, target: Tensor) -> Tensor:
    l1, dssim = l1_and_dssim(pred, target)
    return (0.8 * l1 + 0.2 * dssim) / pred[..., 0].numel()


def torch_loss(pred: Tensor, target: Tensor) -> Tensor:
    return 0.8 * (pred - target).abs().mean() + 0.2 * (1 - ssim_of_torch(pred, target)).mean()


def separable_loss(pred: Tensor, target: Tensor) -> Tensor:
    return 0.8 * (pred - target).abs().mean() + 0.2 * (1 - ssim_reference(pred, target)).mean()


def measure(repeats: int, threads: int) -> dict[str, Times]:
    """The times of each group of contenders."""
    times: dict[str, Times] = {}

    def add(title: str, runs: dict[str, Callable[[], Any]], turns: int = repeats) -> None:
        single = "forward + backward, 1 thread"
        contenders = {name: Contender(run, 1 if name == single else threads) for name, run in runs.items()}
        times[title] = race(contenders, turns)
        print(f"timed {title}", flush=True)

    scene = bumpy_surface(50_000, 512, 288, 3)
    add(MAIN, {
        "forward + backward": both(scene, ours),
        "L1 + SSIM": image_loss(our_loss),
        "L1 + SSIM of torch": image_loss(torch_loss),
        "L1 + SSIM of torch, separable": image_loss(separable_loss),
        "forward + backward, torch pairs": both(scene, draw_pairs),
    })  # fmt: skip
    add(ALONE, {"forward + backward": both(scene, ours), "forward + backward, 1 thread": both(scene, ours)})
    few = min(repeats, 3)
    add(SLOW, {
        "forward + backward": both(scene, ours),
        "torch tiles": both(scene, draw_tiles_at_once),
        "torch tiles, in parts": both(scene, draw_tiles),
    }, few)  # fmt: skip
    large = bumpy_surface(300_000, 512, 512, 3)
    add(LARGE, {
        "forward of 50k": forward(scene, ours),
        "forward": forward(large, ours),
        "forward + backward": both(large, ours),
    })  # fmt: skip
    small = bumpy_surface(10_000, 256, 256, 0)
    add(SMALL, {
        "forward": forward(small, ours),
        "forward + backward": both(small, ours),
        "forward + backward, torch pairs": both(small, draw_pairs),
    })  # fmt: skip
    for title, (count, reach) in REACHES.items():
        scene = bumpy_surface(count, 512, 288, 0, reach)
        add(title, {"forward": forward(scene, ours), "forward + backward": both(scene, ours)})
    # only the smallest of these: the rival's time and memory grow with the area
    scene = bumpy_surface(10_000, 512, 288, 0, 8.0)
    title = "10k 512x288 SH0, r 8 px against pairs"
    add(title, {"forward + backward": both(scene, ours), "torch pairs": both(scene, draw_pairs)}, few)
    return times


def probe(name: str, threads: int, **environment: str) -> dict[str, float]:
    """What a fresh process finds; nothing, and its last words printed, if it fails."""
    counts = {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    script = Path(__file__).with_name("raster_probes.py")
    try:
        result = subprocess.run(
            [sys.executable, str(script), name], env=os.environ | counts | environment, capture_output=True,
            text=True, timeout=900,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        print(f"probe {name} did not finish")
        return {}
    if result.returncode:
        print(f"probe {name} ended with {result.returncode}: {result.stderr[-500:]}")
        return {}
    print(f"probed {name}", flush=True)
    return json.loads(result.stdout.splitlines()[-1])


def probe_all(threads: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}

    def add(prefix: str, figures: dict[str, float]) -> None:
        for key, value in figures.items():
            found.setdefault(prefix + key, []).append(value)

    with tempfile.TemporaryDirectory() as cache:
        add("cold_", probe("first", threads, NUMBA_CACHE_DIR=cache))
        for _ in range(3):
            add("warm_", probe("first", threads, NUMBA_CACHE_DIR=cache))
    add("", probe("memory", threads))
    add("", probe("threads", threads, NUMBA_NUM_THREADS="4"))
    add("", probe("fork", threads))
    return found


def rows(times: dict[str, Times], probed: dict[str, list[float]]) -> list[Row]:
    """Every bar with its figure."""
    main, pairs, run = times[MAIN], "forward + backward, torch pairs", "forward + backward"
    parts = "torch tiles, in parts"  # 1,024 of the tiles' (Gaussian, tile) rows at a time: quicker than all at once
    out = [
        Row(f"{MAIN} {run} / L1 + SSIM of torch with gradient", 0.42, 0.28, ratios(main, run, "L1 + SSIM of torch")),
        Row(f"{MAIN}: torch by pairs / ours", 14, 22, ratios(main, pairs, run), higher=True),
        Row(f"{MAIN}: torch by tiles / ours", 45, 70, ratios(times[SLOW], "torch tiles", run), higher=True),
        Row(f"{MAIN}: torch by tiles, in parts / ours", 45, 70, ratios(times[SLOW], parts, run), higher=True),
        Row(f"{SMALL}: torch by pairs / ours", 12, 18, ratios(times[SMALL], pairs, run), higher=True),
        Row(f"forward: {LARGE} / {MAIN}", 7.3, 6, ratios(times[LARGE], "forward", "forward of 50k")),
        Row(f"our L1 + SSIM with gradient / {MAIN} {run}", 0.6, 0.3, ratios(main, "L1 + SSIM", run)),
        Row(f"{MAIN} {run}: 1 thread / all", 1.7, 1.85, ratios(times[ALONE], f"{run}, 1 thread", run), higher=True),
        Row("same bits with 1, 2, 3 and 4 threads", 1, 1, probed.get("any_threads", [0]), "", True),
        Row("peak memory of a process that draws 300k", 1, 0.6, probed.get("peak_gb", [math.inf]), "GB"),
        Row("first call with backward, cold", 12, 6, probed.get("cold_first_call_s", [math.inf]), "s"),
        Row("first call with backward, warm cache", 0.5, 0.2, probed.get("warm_first_call_s", [math.inf]), "s"),
        Row("several Python threads draw, same bits", 1, 1, probed.get("python_threads", [0]), "", True),
    ]  # fmt: skip
    if hasattr(os, "fork"):
        for when in ("before", "after"):
            values = probed.get(f"fork_{when}_drawing", [0])
            out.append(Row(f"a child forked {when} drawing draws, same bits", 1, 1, values, "", True))
    return out


def gsplat_figures(repeats: int) -> dict[str, Any]:
    """Times and parity of gsplat; empty without a CUDA device or gsplat, which is not imported without a device."""
    if not torch.cuda.is_available():
        return {}
    try:
        import gsplat
    except ImportError:
        return {}
    from raster_correctness import benchmark_scenes, evaluate, measure, oracle
    from raster_correctness import ours as on_cpu

    def timed(learned: dict[str, Tensor], fixed: dict[str, Any]) -> Drawn:
        return rasterization(**learned, **fixed, backend="gsplat")

    def on_gsplat(given: dict[str, Any]) -> Drawn:
        moved = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in given.items()}
        renders, alphas, info = rasterization(**moved, backend="gsplat")
        return renders.cpu(), alphas.cpu(), info

    def synchronised(run: Callable[[], None]) -> Contender:
        return Contender(lambda: (run(), torch.cuda.synchronize()), torch.get_num_threads())

    out: dict[str, Any] = {"gsplat": gsplat.__version__, "device": torch.cuda.get_device_name()}
    sizes = {MAIN: (50_000, 512, 288, 3), SMALL: (10_000, 256, 256, 0), LARGE: (300_000, 512, 512, 3)}
    for title, size in sizes.items():
        learned, fixed = ({n: _to_cuda(v) for n, v in part.items()} for part in bumpy_surface(*size))
        runs = {"forward": forward((learned, fixed), timed), "forward + backward": both((learned, fixed), timed)}
        out[f"ms {title}"] = race({name: synchronised(run) for name, run in runs.items()}, repeats)
    for title, given in benchmark_scenes().items():
        truth, theirs = evaluate(oracle, given, torch.float64), evaluate(on_gsplat, given, torch.float32)
        ours_now = evaluate(on_cpu, given, torch.float32)
        for name, a, b in (("gsplat, reference", theirs, truth), ("ours, gsplat", ours_now, theirs)):
            gap = measure(a, b, given["render_mode"])
            out[f"parity {title}: {name}"] = {"off": gap.off_by, "gradients": gap.gradients}
    return out


def _to_cuda(value: Any) -> Any:
    return value.detach().cuda().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="turns; the slowest rivals get at most three")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="the bars are for two")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--markdown", type=Path, help="write or renew a section of this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    facts = about(options.threads)
    warmup()
    probed = probe_all(options.threads)
    times = measure(options.repeats, options.threads)
    more: dict[str, Any] = dict(probed) | gsplat_figures(options.repeats)
    table = rows(times, probed)
    print(plain(BAR_HEADS, [row.cells() for row in table]), plain(TIME_HEADS, time_cells(times)), sep="\n\n")
    print("\n" + "\n".join(f"{key}: {short(value)}" for key, value in (facts | more).items()))
    if options.json:
        bars = [asdict(row) | {"measured": row.measured, "holds": row.clears(row.bar)} for row in table]
        report = {"about": facts, "bars": bars, "milliseconds": times, "more": more}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.markdown:
        write_section(options.markdown, markdown(facts, table, times, more))


if __name__ == "__main__":
    main()
