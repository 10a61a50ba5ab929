"""Time the CPU rasteriser and SSIM, and their ratios to rivals measured in the same process.

    python benchmarks/raster.py [--json OUT] [--repeats 9] [--large]

Ratios say more than milliseconds: a loaded machine slows all of them alike. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyn4d.raster import rasterization, warmup
from dyn4d.raster.reference import composite_pairs
from dyn4d.raster.reference_backend import draw
from dyn4d.raster.request import Request
from dyn4d.raster.ssim import ssim, ssim_reference

Scene = tuple[dict[str, Tensor], dict[str, Any]]


def bumpy_surface(count: int, width: int, height: int, degree: int, radius: float = 3.3) -> Scene:
    """A closed bumpy surface of flat Gaussians that lie in it, half of them faint: a reconstruction's statistics.

    `radius` is the mean reach in pixels (3.33 standard deviations).
    """
    g = torch.Generator().manual_seed(0)
    normal = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    means = normal * (1 + 0.1 * torch.sin(5 * normal[:, :1]) * torch.cos(4 * normal[:, 1:2]))
    focal = 1.1 * min(width, height)
    sigma = radius / 3.33 * 3 / focal
    along = 0.7 + 0.6 * torch.rand(count, 2, generator=g)
    scales = sigma * torch.cat([along, torch.full((count, 1), 0.1)], dim=-1)
    quats = torch.stack([1 + normal[:, 2], -normal[:, 1], normal[:, 0], torch.zeros(count)], dim=-1)  # z onto normal
    faint = torch.rand(count, generator=g) < 0.5
    opacities = torch.where(faint, 0.02, 0.7) + 0.28 * torch.rand(count, generator=g)
    colors = 0.3 * torch.randn(count, (degree + 1) ** 2, 3, generator=g)
    views = torch.eye(4).unsqueeze(0)
    views[:, 2, 3] = 3
    K = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]])
    learned = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors}
    fixed = {"viewmats": views, "Ks": K, "width": width, "height": height, "sh_degree": degree}
    return {n: v.requires_grad_() for n, v in learned.items()}, fixed | {"render_mode": "RGB+ED"}


def milliseconds(run: Callable[[], Any], repeats: int) -> float:
    """Median after two warm-up runs."""
    run()
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[len(times) // 2]


def draw_pairs(learned: dict[str, Tensor], fixed: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The vectorised torch rival: every (Gaussian, pixel of its box) is a row."""
    defaults = {f.name: None for f in fields(Request)} | {
        "near_plane": 0.01, "far_plane": 1e10, "radius_clip": 0.0, "eps2d": 0.3, "absgrad": False, "antialiased": False,
    }  # fmt: skip
    renders, alphas, _ = draw(Request(**(defaults | learned | fixed)), composite_pairs)  # type: ignore[arg-type]
    return renders, alphas


def passes(scene: Scene, drawer: Callable[..., Any]) -> tuple[Callable[[], None], Callable[[], None]]:
    """(forward, forward and backward) of one drawer."""
    learned, fixed = scene
    size = (1, fixed["height"], fixed["width"])
    g = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(*size, 4, generator=g), torch.randn(*size, 1, generator=g)]

    def forward() -> None:
        with torch.no_grad():
            drawer(learned, fixed)

    def both() -> None:
        for value in learned.values():
            value.grad = None
        torch.autograd.backward(list(drawer(learned, fixed)[:2]), cotangents)

    return forward, both


def image_loss(width: int, height: int, similarity: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
    """L1 + D-SSIM with its gradient."""
    g = torch.Generator().manual_seed(2)
    pred, target = torch.rand(height, width, 3, generator=g).requires_grad_(), torch.rand(height, width, 3, generator=g)

    def run() -> None:
        pred.grad = None
        (0.8 * (pred - target).abs().mean() + 0.2 * (1 - similarity(pred, target)).mean()).backward()

    return run


def ssim_of_torch(pred: Tensor, target: Tensor) -> Tensor:
    """What everyone has: an 11x11 grouped convolution in torch."""
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = (line[:, None] * line[None, :] / line.sum() ** 2).expand(3, 1, 11, 11).contiguous()
    a, b = (image.permute(2, 0, 1).unsqueeze(0) for image in (pred, target))
    maps = torch.cat([a, b, a * a, b * b, a * b])
    mu_a, mu_b, aa, bb, ab = torch.nn.functional.conv2d(maps, window, padding=5, groups=3)
    above = (2 * mu_a * mu_b + 1e-4) * (2 * (ab - mu_a * mu_b) + 9e-4)
    return above / ((mu_a**2 + mu_b**2 + 1e-4) * (aa - mu_a**2 + bb - mu_b**2 + 9e-4))


def ours(learned: dict[str, Tensor], fixed: dict[str, Any]) -> Any:
    return rasterization(**learned, **fixed, backend="cpu")


def measure(repeats: int, large: bool) -> dict[str, float]:
    out: dict[str, float] = {}
    start = time.perf_counter()
    warmup()
    out["first_use_s"] = time.perf_counter() - start
    cases = {"10k 256x256 SH0": (10_000, 256, 256, 0, 3.3), "50k 512x288 SH3": (50_000, 512, 288, 3, 3.3),
             "10k 512x288 SH0 r16": (10_000, 512, 288, 0, 16.0)}  # fmt: skip
    if large:
        cases["300k 512x512 SH3"] = (300_000, 512, 512, 3, 3.3)
    threads = torch.get_num_threads()
    for name, case in cases.items():
        forward, both = passes(bumpy_surface(*case), ours)
        out[f"{name} forward"], out[f"{name} both"] = milliseconds(forward, repeats), milliseconds(both, repeats)
        torch.set_num_threads(1)
        out[f"{name} both, 1 thread"] = milliseconds(both, repeats)
        torch.set_num_threads(threads)
        if case[4] < 10:  # the rival collapses with large Gaussians
            both = passes(bumpy_surface(*case), draw_pairs)[1]
            out[f"{name} torch pairs"] = milliseconds(both, 3)
            out[f"{name} torch pairs / ours"] = out[f"{name} torch pairs"] / out[f"{name} both"]
    out["loss 512x288"] = milliseconds(image_loss(512, 288, ssim), repeats)
    out["loss 512x288 torch"] = milliseconds(image_loss(512, 288, ssim_of_torch), repeats)
    out["loss 512x288 torch, separable"] = milliseconds(image_loss(512, 288, ssim_reference), repeats)
    both_name = "50k 512x288 SH3 both"
    out["ours / torch loss"] = out[both_name] / out["loss 512x288 torch"]
    out["ours / torch separable loss"] = out[both_name] / out["loss 512x288 torch, separable"]
    out["loss / ours"] = out["loss 512x288"] / out[both_name]
    out["1 thread / all"] = out[f"{both_name}, 1 thread"] / out[both_name]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--large", action="store_true", help="300k Gaussians too")
    options = parser.parse_args()
    figures = measure(options.repeats, options.large)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    about = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": load,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "commit": commit(),
    }
    for name, value in figures.items():
        print(f"{name:36s} {value:10.2f}")
    print(about)
    if options.json:
        options.json.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")


def commit() -> str:
    here = Path(__file__).parent
    result = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
    return result.stdout.strip()


if __name__ == "__main__":
    main()
