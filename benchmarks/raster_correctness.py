"""The CPU rasteriser against the float64 reference: pictures and gradients of random scenes and of the benchmark's.

    python benchmarks/raster_correctness.py [--scenes 200] [--seed 0] [--threads 1]

The scenes have the seeds SEED, SEED + 1, ...; `--scenes 1 --seed S` draws one again. Bars: in RGB, alpha, and relative
depth where alpha is over a half, at most two pixels or 1e-4 of them are off by more than 1e-4; gradients are within
1e-3 by relative L2, or 5e-3 where a pixel is off. Ends with an error where a scene misses one.

Rounding may decide differently where a Gaussian is at the brink of a threshold: of the alphas 1/255 and 0.999, of the
transmittance that ends a pixel, or of the depth of another. Such pixels are looked for where something is off. A pixel
that is off and not at a brink is always an error. In a scene of few Gaussians one such pixel may be a large part of the
gradient; that misses no bar if the gradient without the pixels at a brink is within 1e-3, but is listed.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from raster_rivals import alpha_at, bumpy_surface, hits, pixel_centres, request_of, runs, transmittance
from torch import Tensor

from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.raster import rasterization
from dyn4d.raster.reference import ALPHA_MAX, ALPHA_MIN, T_STOP, composite, composite_pairs, covariances, project
from dyn4d.raster.reference_backend import Compositor, draw
from dyn4d.raster.request import RENDER_MODES, Drawn

Arguments = dict[str, Any]  # of `rasterization`

DIFFERENTIABLE = ("means", "quats", "scales", "covars", "opacities", "colors", "viewmats", "backgrounds")
PIXEL = 1e-4
FLIPS = 1e-4  # share of the pixels; two are always allowed
GRADIENT, GRADIENT_FLIPPED = 1e-3, 5e-3
ROWS = 3_000_000  # (Gaussian, pixel of its box) rows in a scene, so that the reference fits in memory
BRINK = 1e-4  # an alpha this close to a threshold, relatively, may be rounded to its other side
BRINK_STOP = 1e-3  # the same for the transmittance: 1 - alpha has few digits where alpha is large
BRINK_DEPTH = 2.5e-7  # two units in the last place of a float32
AGREEING = 5  # scenes on which the reference's two compositors are compared


class Dice:
    """Everything random about a scene, from one seed."""

    def __init__(self, seed: int) -> None:
        self.python = random.Random(seed)
        self.torch = torch.Generator().manual_seed(seed)

    def chance(self, probability: float) -> bool:
        return self.python.random() < probability

    def log_uniform(self, low: float, high: float) -> float:
        return math.exp(self.python.uniform(math.log(low), math.log(max(high, low))))

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.torch)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.torch)


def random_scene(seed: int) -> Arguments:
    """A cloud around the origin before one to three cameras, with every option that `rasterization` has."""
    dice = Dice(seed)
    pick = dice.python
    count, opaque = round(dice.log_uniform(1, 5000)), dice.chance(0.2)
    if opaque:
        count = min(count, 500)
    width, height = random_size(dice)
    arguments: Arguments = {"width": width, "height": height, "render_mode": pick.choice(RENDER_MODES)}
    arguments["rasterize_mode"] = pick.choice(("classic", "antialiased"))
    distance = random_cameras(dice, arguments)
    focal = float(arguments["Ks"][0, 0, 0])
    most = min(0.3 * min(width, height), math.sqrt(ROWS / count / len(arguments["viewmats"])) / 8)
    sigma = most if opaque else dice.log_uniform(0.3, most)  # pixels
    arguments["means"] = (0.1 + 0.5 * pick.random()) * dice.normal(count, 3)
    scales = sigma * distance / focal * torch.exp(2 * dice.uniform(count, 3) - 1.5)
    quats = dice.normal(count, 4)
    arguments |= {"quats": quats, "scales": scales}
    if dice.chance(0.4):
        arguments |= {"quats": None, "scales": None, "covars": covariances(quats, scales)}
    arguments["opacities"] = 1 - 0.05 * dice.uniform(count) * pick.choice((0, 1)) if opaque else faint(dice, count)
    random_colors(dice, arguments, count)
    while rows(arguments) > ROWS:
        count //= 2
        keep_first(arguments, count)
    return arguments


def random_size(dice: Dice) -> tuple[int, int]:
    """Width and height; some of one pixel, some of whole tiles, some large, most of neither."""
    kind = dice.python.random()
    if kind < 0.06:
        return 1, 1
    if kind < 0.2:
        return 16 * dice.python.randint(1, 8), 16 * dice.python.randint(1, 8)
    most = 400 if kind < 0.4 else 150
    return dice.python.randint(1, most), dice.python.randint(1, most)


def random_cameras(dice: Dice, arguments: Arguments) -> float:
    """Adds the cameras and the planes that clip; returns how far from the cloud's middle they are."""
    pick, width, height = dice.python, arguments["width"], arguments["height"]
    cameras, near = pick.randint(1, 3), dice.chance(0.3)
    distance = 1.0 if near else 3.0
    views = torch.eye(4).repeat(cameras, 1, 1)
    views[:, :3, :3] = wxyz_to_matrix(dice.normal(cameras, 4))
    views[:, :3, 3] = 0.1 * dice.normal(cameras, 3) + torch.tensor([0, 0, distance])
    focal = max(width, height) * pick.uniform(0.7, 2.0) * distance / 3
    K = torch.eye(3).repeat(cameras, 1, 1)
    K[:, 0, 0], K[:, 1, 1] = focal, focal * (0.9 + 0.2 * dice.uniform(cameras))
    K[:, 0, 2], K[:, 1, 2] = width * (0.4 + 0.2 * dice.uniform(cameras)), height * (0.4 + 0.2 * dice.uniform(cameras))
    arguments |= {"viewmats": views, "Ks": K, "eps2d": pick.choice((0.3, 0.3, 0.1, 1.0))}
    if near:
        arguments["near_plane"] = pick.choice((0.01, 0.2, 0.7))
    if dice.chance(0.15):
        arguments["far_plane"] = distance + 0.2
    if dice.chance(0.1):
        arguments["radius_clip"] = pick.choice((1.0, 2.0, 4.0))
    return distance


def faint(dice: Dice, count: int) -> Tensor:
    """Opacities (N,): anything, or mostly faint, or nothing in the middle."""
    kind, value = dice.python.randrange(3), dice.uniform(count)
    if kind == 0:
        return value
    if kind == 1:
        return 0.1 * value
    return torch.where(dice.uniform(count) < 0.5, 0.02, 0.7) + 0.28 * value


def random_colors(dice: Dice, arguments: Arguments, count: int) -> None:
    """Adds colours or harmonics, of all cameras or of each, and perhaps backgrounds."""
    cameras = len(arguments["viewmats"])
    leading = (cameras,) if dice.chance(0.25) else ()
    channels = 3
    if dice.chance(0.5):
        degree = dice.python.randint(0, 4)
        used = (degree + 1) ** 2
        total = 25 if dice.chance(0.3) else used
        arguments |= {"sh_degree": degree, "colors": 0.6 / math.sqrt(used) * dice.normal(*leading, count, total, 3)}
    else:
        channels = dice.python.randint(1, 9)
        arguments["colors"] = dice.uniform(*leading, count, channels)
    if dice.chance(0.5):
        arguments["backgrounds"] = dice.uniform(cameras, channels)


def keep_first(arguments: Arguments, count: int) -> None:
    """Drop all Gaussians but the first `count`."""
    for name in ("means", "quats", "scales", "covars", "opacities"):
        if arguments.get(name) is not None:
            arguments[name] = arguments[name][:count]
    axis = arguments["colors"].dim() - (3 if "sh_degree" in arguments else 2)
    arguments["colors"] = arguments["colors"].narrow(axis, 0, count)


def rows(arguments: Arguments) -> int:
    """Pixels in the boxes of all Gaussians in all cameras."""
    covars = arguments.get("covars")
    if covars is None:
        covars = covariances(arguments["quats"], arguments["scales"])
    size = torch.tensor([arguments["width"], arguments["height"]])
    total = 0
    for viewmat, K in zip(arguments["viewmats"], arguments["Ks"]):
        seen = project(
            arguments["means"], covars, arguments["opacities"], viewmat=viewmat, K=K, width=arguments["width"],
            height=arguments["height"], near_plane=arguments.get("near_plane", 0.01),
        )  # fmt: skip
        low, high = (torch.minimum((seen.means2d + s * seen.radii).clamp_min(0), size) for s in (-1, 1))
        total += int((high - low).prod(-1).sum())
    return total


def ours(arguments: Arguments) -> Drawn:
    return rasterization(**arguments, backend="cpu")


def oracle(arguments: Arguments, compositor: Compositor = composite_pairs) -> Drawn:
    return draw(request_of(arguments), compositor)


def evaluate(
    drawer: Callable[[Arguments], Drawn], arguments: Arguments, dtype: torch.dtype, without: Tensor | None = None
) -> dict[str, Tensor]:
    """Pictures, alphas, and the gradients of a random sum over their pixels, but those `without` (C, H, W); float64
    whatever they were drawn in."""
    given = {n: v.detach().to(dtype) if isinstance(v, Tensor) else v for n, v in arguments.items()}
    leaves = {n: given[n].requires_grad_() for n in DIFFERENTIABLE if given.get(n) is not None}
    renders, alphas, _ = drawer(given)
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(t.shape, generator=g).to(dtype) for t in (renders, alphas)]
    if without is not None:
        weights = [weight * (~without).unsqueeze(-1) for weight in weights]
    torch.autograd.backward([renders, alphas], weights)
    out = {"renders": renders.detach(), "alphas": alphas.detach()}
    for name, leaf in leaves.items():
        out[name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return {name: value.double() for name, value in out.items()}


def brink(arguments: Arguments) -> Tensor:
    """(C, H, W) pixels in which a Gaussian is so close to a threshold that rounding may decide."""
    masks: list[Tensor] = []

    def look(
        means2d: Tensor, conics: Tensor, depths: Tensor, radii: Tensor, *, opacities: Tensor, colors: Tensor,
        width: int, height: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        least = ALPHA_MIN * (1 - BRINK)
        size = (width, height)
        which, pixel = hits(means2d, conics, depths, radii, opacities=opacities, size=size, least=least)
        raw = alpha_at(means2d, conics, opacities, which, pixel_centres(pixel, width, means2d), most=math.inf)
        alpha = torch.where(raw >= ALPHA_MIN, raw.clamp_max(ALPHA_MAX), 0.0)
        before = transmittance(alpha, *runs(pixel))
        close = ((raw / ALPHA_MIN - 1).abs() < BRINK) | ((raw / ALPHA_MAX - 1).abs() < BRINK)
        close |= (before * (1 - alpha) / T_STOP - 1).abs() < BRINK_STOP
        deep = depths[which]
        close[1:] |= (pixel[1:] == pixel[:-1]) & (deep[1:] - deep[:-1] <= BRINK_DEPTH * deep[1:].abs())
        close &= before > T_STOP * (1 - BRINK_STOP)  # what lies behind the pixel's end does not matter
        mask = torch.zeros(height * width, dtype=torch.bool)
        mask[pixel[close]] = True
        masks.append(mask.reshape(height, width))
        return colors.new_zeros(height, width, colors.shape[-1]), colors.new_zeros(height, width, 1)

    with torch.no_grad():
        oracle({n: v.double() if isinstance(v, Tensor) else v for n, v in arguments.items()}, look)
    return torch.stack(masks)


@dataclass(frozen=True)
class Verdict:
    """How far one scene is from the oracle.

    Attributes:
        off: (C, H, W) the pixels that are off in anything. off_by: how many are off in each kind.
        within: the largest error of the other pixels, by kind. furthest: the largest error of all, by kind.
        gradients: relative L2 errors. brink: how many pixels are at a brink, where that was looked for.
        calm: the gradients' errors without those pixels. failures: what misses its bar. excused: what would miss it but
            for pixels at a brink.
    """

    off: Tensor
    off_by: dict[str, int]
    within: dict[str, float]
    furthest: dict[str, float]
    gradients: dict[str, float]
    brink: int = 0
    calm: dict[str, float] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    excused: tuple[str, ...] = ()

    @property
    def flips(self) -> int:
        return int(self.off.sum())


def measure(found: dict[str, Tensor], truth: dict[str, Tensor], render_mode: str) -> Verdict:
    """Compare two results of `evaluate`."""
    colored, deep = render_mode.startswith("RGB"), render_mode.endswith("D")
    gap = (found["renders"] - truth["renders"]).abs()
    errors = {"alpha": (found["alphas"] - truth["alphas"]).abs()[..., 0]}
    if colored:
        errors["rgb"] = (gap[..., :-1] if deep else gap).amax(-1)
    if deep:
        opaque = truth["alphas"][..., 0] > 0.5
        depth = truth["renders"][..., -1]
        errors["depth"] = torch.where(opaque, gap[..., -1] / depth.abs().clamp_min(1e-12), 0.0)
    wrong = {kind: ~(error <= PIXEL) for kind, error in errors.items()}  # NaN is wrong too
    off = torch.stack(list(wrong.values())).any(0)
    return Verdict(
        off=off,
        off_by={kind: int(value.sum()) for kind, value in wrong.items()},
        within={kind: float(torch.where(off, 0.0, error).max()) for kind, error in errors.items()},
        furthest={kind: float(error.max()) for kind, error in errors.items()},
        gradients=gradient_errors(found, truth),
    )


def gradient_errors(found: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    return {name: distance(found[name], truth[name]) for name in DIFFERENTIABLE if name in truth}


def judge(arguments: Arguments) -> Verdict:
    """Draw with the CPU backend and with the oracle, and hold the bars against the difference."""
    truth, found = evaluate(oracle, arguments, torch.float64), evaluate(ours, arguments, torch.float32)
    verdict = measure(found, truth, arguments["render_mode"])
    bar = GRADIENT_FLIPPED if verdict.flips else GRADIENT
    missed = {name: error for name, error in verdict.gradients.items() if not error <= bar}
    if not verdict.flips and not missed:
        return verdict
    near = brink(arguments)
    pair = [evaluate(d, arguments, t, near) for d, t in ((ours, torch.float32), (oracle, torch.float64))]
    calm = gradient_errors(*pair)
    failures, excused = [], []
    if verdict.flips > max(2, FLIPS * near.numel()):
        failures.append(f"{verdict.flips} of {near.numel()} pixels are off")
    unexplained = int((verdict.off & ~near).sum())
    if unexplained:
        failures.append(f"{unexplained} of {near.numel()} pixels are off without being at a brink")
    for name, error in missed.items():
        text = f"gradient of {name} off by {error:.1e}, {calm[name]:.1e} without {int(near.sum())} pixels at a brink"
        (excused if calm[name] <= GRADIENT else failures).append(text)
    return replace(verdict, brink=int(near.sum()), calm=calm, failures=tuple(failures), excused=tuple(excused))


def distance(found: Tensor, truth: Tensor) -> float:
    """Relative L2; absolute where the truth is next to nothing."""
    return float((found - truth).norm() / truth.norm().clamp_min(1e-6))


def compositors_agree(scenes: list[Arguments]) -> float:
    """The largest relative difference between the fast and the obvious reference; they may differ by rounding only."""
    worst = 0.0
    for arguments in scenes:
        fast = evaluate(oracle, arguments, torch.float64)
        plain = evaluate(lambda given: oracle(given, composite), arguments, torch.float64)
        worst = max(worst, *(distance(fast[name], plain[name]) for name in plain))
    return worst


def benchmark_scenes() -> dict[str, Arguments]:
    scenes = {"10k 256x256 SH0": (10_000, 256, 256, 0), "50k 512x288 SH3": (50_000, 512, 288, 3)}
    return {name: _joined(*bumpy_surface(*size)) for name, size in scenes.items()}


def _joined(learned: dict[str, Tensor], fixed: dict[str, Any]) -> Arguments:
    return learned | fixed | {"backgrounds": torch.tensor([[0.2, 0.5, 0.8]])}


def summary(verdicts: dict[str, Verdict]) -> str:
    """A table: each kind of error in scenes without and with flipped pixels."""
    flipped = {name: v for name, v in verdicts.items() if v.flips}
    steady = {name: v for name, v in verdicts.items() if not v.flips}
    pixels, flips = (sum(n) for n in zip(*((v.off.numel(), v.flips) for v in verdicts.values())))
    lines = [
        f"{len(verdicts)} scenes, {pixels} pixels; {len(flipped)} scenes have pixels that are off, {flips} in all",
        f"{'largest error':24s} {'scenes without flips':>22s} {'with, other pixels':>22s} {'with, all pixels':>22s}",
    ]
    for kind in ("rgb", "alpha", "depth"):
        columns = [_worst(steady, "within", kind), _worst(flipped, "within", kind), _worst(flipped, "furthest", kind)]
        lines.append(f"{kind:24s} " + " ".join(f"{text:>22s}" for text in columns))
    for name in DIFFERENTIABLE:
        columns = [_worst(steady, "gradients", name), _worst(flipped, "calm", name), _worst(flipped, "gradients", name)]
        lines.append(f"{'gradient of ' + name:24s} " + " ".join(f"{text:>22s}" for text in columns))
    return "\n".join(lines)


def _worst(verdicts: dict[str, Verdict], attribute: str, key: str) -> str:
    """The largest value and its scene."""
    values = [(getattr(v, attribute)[key], name) for name, v in verdicts.items() if key in getattr(v, attribute)]
    if not values:
        return "-"
    error, name = max(values)
    return f"{error:.1e} ({name.split()[0]})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="small scenes gain nothing from more")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scenes = {f"{seed}": random_scene(seed) for seed in range(options.seed, options.seed + options.scenes)}
    few = [s for s in scenes.values() if len(s["means"]) <= 500][:AGREEING]
    gap = compositors_agree(few)
    print(f"the reference's two compositors differ by {gap:.1e} at most on {len(few)} scenes", flush=True)
    if not gap <= 1e-9:
        print("FAIL: they should agree")
        return 1
    special = benchmark_scenes() if options.scenes > 1 else {}
    verdicts = {}
    for done, (name, arguments) in enumerate((scenes | special).items(), start=1):
        verdict = verdicts[name] = judge(arguments)
        for failure in verdict.failures:
            print(f"FAIL {name}: {failure}", flush=True)
        for text in verdict.excused:
            print(f"note {name}: {text}", flush=True)
        if done % 50 == 0:
            print(f"{done} scenes", flush=True)
    print(summary(verdicts))
    for name in special:
        verdict = verdicts[name]
        print(f"{name}: {verdict.flips} of {verdict.off.numel()} pixels off {verdict.off_by}; gradients", end=" ")
        print(", ".join(f"{key} {error:.1e}" for key, error in verdict.gradients.items()))
    failed = sum(bool(verdict.failures) for verdict in verdicts.values())
    print(f"{failed} scenes miss a bar" if failed else "all bars hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
