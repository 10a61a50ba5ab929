"""Time reciprocal matching inside masks against that of whole pictures, both in the same process and taking turns.

    python benchmarks/reciprocal.py [--width 256 --height 192] [--foreground 0.29] [--repeats 5] [--exact]

The descriptors are smooth random fields that one picture sees moved against the other. What counts are the ratios,
medians over the turns: a machine that is busy for a while slows both sides. The published size is 512 x 384.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dyn4d.matching.nearest import PixelMatches, exact_reciprocal_matches
from dyn4d.matching.reciprocal import fast_reciprocal_matches

SHIFT = 13  # pixels between the two pictures
CHANNELS = 24


def smooth_descriptors(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(H, W, 24) unit descriptors of two pictures: noise smoothed over some 6 pixels, and a little of its own each."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, CHANNELS, height // 6 + 2, (width + SHIFT) // 6 + 2, generator=random)
    scene = torch.nn.functional.interpolate(coarse, (height, width + SHIFT), mode="bicubic")[0].permute(1, 2, 0)
    views = scene[:, :width], scene[:, SHIFT:]
    noisy = [view + 0.05 * torch.randn(view.shape, generator=random) for view in views]
    a, b = (torch.nn.functional.normalize(view, dim=-1) for view in noisy)
    return a, b


def disc(height: int, width: int, share: float, shift: int = 0) -> Tensor:
    """(H, W) bool: an ellipse of the picture's shape with this share of its pixels."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5 + shift, indexing="ij")
    radius = (share / torch.pi) ** 0.5
    return ((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2) < radius**2


def race(contenders: dict[str, Callable[[], PixelMatches]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of each, turn by turn, after one turn that does not count."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of masked against full reciprocal matching.")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--foreground", type=float, default=0.29, help="share of the picture inside the masks")
    parser.add_argument("--subsample", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--block-size", type=int, default=None)
    parser.add_argument("--exact", action="store_true", help="time the exhaustive search inside the masks too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    desc_a, desc_b = (d.to(options.device) for d in smooth_descriptors(options.height, options.width))
    mask_a = disc(options.height, options.width, options.foreground)
    mask_b = disc(options.height, options.width, options.foreground, SHIFT)
    masks: dict[str, Any] = {"mask_a": mask_a, "mask_b": mask_b}
    how: dict[str, Any] = {"subsample": options.subsample, "block_size": options.block_size}
    contenders: dict[str, Callable[[], PixelMatches]] = {
        "full": lambda: fast_reciprocal_matches(desc_a, desc_b, **how),
        "masked": lambda: fast_reciprocal_matches(desc_a, desc_b, **masks, **how),
    }
    if options.exact:
        contenders["exact, masked"] = lambda: exact_reciprocal_matches(
            desc_a, desc_b, **masks, block_size=options.block_size
        )
    times = race(contenders, options.repeats, options.device)
    share = float(mask_a.float().mean())
    print(f"{options.width} x {options.height}, {share:.0%} foreground, {options.device}, {options.threads} thread(s)")
    for name, run in contenders.items():
        found = run()
        right = ((found.xy_a - found.xy_b - torch.tensor([SHIFT, 0]).to(found.xy_a)).abs() <= 1).all(-1).float().mean()
        ratio = statistics.median(full / own for full, own in zip(times["full"], times[name]))
        seconds = statistics.median(times[name])
        matches = f"{len(found.xy_a)} matches, {float(right):.0%} right"
        print(f"  {name:14s} {seconds:8.3f} s  full / this = {ratio:6.2f}  {matches}")


if __name__ == "__main__":
    main()
