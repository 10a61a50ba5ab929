"""Frames as SPZ files, a tenth of the size of PLYs: the only module that calls gsply.

SPZ holds right-up-backwards axes (RUB) by its definition, PLYs right-down-forwards (RDF). So y and z are negated on
writing, and readers that go back to a PLY's axes (splat-transform, Spark, SuperSplat, Niantic's own) have the numbers
of our PLYs again: the clip's own world. Format: github.com/nianticlabs/spz, version 3 (gzip).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Field, Progress, SilentProgress
from dyn4d.core.types import GaussianCloud, Timeline
from dyn4d.export.frames import moved_frames
from dyn4d.io.atomic import atomic_path
from dyn4d.raster.sh import rotate_sh

POSITION_BITS = 23  # of 24-bit signed fixed point
FINE_BITS = 16  # positions are stored in steps of at most the object's size over 2 to this, where 24 bits allow it
MOST_BITS = 24  # after the point, that readers take
OPACITY_EDGE = 1e-6
SMALLEST_SCALE = 1e-20
MOST_DEGREE = 3


def fraction_bits(largest: float, size: float) -> int:
    """Bits after the point for coordinates of up to `largest` on an object of this size: as many as `FINE_BITS` asks
    for, at most what 24 bits leave. More would only make files larger."""
    if not (math.isfinite(largest) and math.isfinite(size) and largest > 0 and size > 0):
        return 12
    whole = math.floor(math.log2(largest)) + 1  # largest < 2 ** whole
    return max(1, min(POSITION_BITS - whole, FINE_BITS - math.floor(math.log2(size)), MOST_BITS))


def as_rub(cloud: GaussianCloud) -> GaussianCloud:
    """The cloud turned by half a turn about x: RDF to RUB, or back."""
    flip = torch.tensor([1.0, -1.0, -1.0], dtype=cloud.means.dtype)
    turn = torch.diag(flip).to(cloud.sh)
    sh = rotate_sh(cloud.sh, turn.expand(len(cloud), 3, 3)) if cloud.sh_degree else cloud.sh
    quats = cloud.quats_wxyz * torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=cloud.quats_wxyz.dtype)
    return replace(cloud, means=cloud.means * flip, quats_wxyz=quats, sh=sh)


def write_spz(path: str | Path, cloud: GaussianCloud, *, bits: int | None = None) -> None:
    """Write one cloud (world) as SPZ version 3, atomically.

    What is left of the numbers: positions to half a step of 2^-bits; scales to 1/32 of their natural logarithm (3.2 %),
    between e^-10 and e^5.9; rotations to 0.25 degrees; opacities to 1/510; colours of degree 0 to 1/270 of the range;
    higher bands to 1/256, between -1 and 1, up to degree 3; no confidence.

    Args:
        bits: of the positions, after the point; None chooses by this cloud alone (`fraction_bits`).
    """
    import gsply
    from gsply.spz import write_spz as write

    cloud = as_rub(cloud.to("cpu"))
    bits = fraction_bits(*_reach([cloud.means])) if bits is None else bits
    if len(cloud) and float(cloud.means.abs().max()) * 2.0**bits >= 2**POSITION_BITS:
        raise InputError(
            f"{path}: coordinates of up to {float(cloud.means.abs().max()):.3g} units do not fit SPZ, which ends at "
            f"{2 ** (POSITION_BITS - bits):,} with {bits} bits after the point; write PLYs instead"
        )
    coefficients = min((MOST_DEGREE + 1) ** 2, cloud.sh.shape[1])
    data = gsply.GSData.from_arrays(
        means=cloud.means.float().numpy(),
        scales=cloud.scales.double().clamp_min(SMALLEST_SCALE).log().float().numpy(),
        quats=torch.nn.functional.normalize(cloud.quats_wxyz, dim=-1).float().numpy(),
        opacities=torch.logit(cloud.opacities.double().clamp(OPACITY_EDGE, 1 - OPACITY_EDGE)).float().numpy(),
        sh0=cloud.sh[:, 0].float().numpy(),
        shN=cloud.sh[:, 1:coefficients].float().numpy() if coefficients > 1 else None,
        format="ply",
    )
    with atomic_path(path) as temporary:
        write(temporary, data, version=3, fractional_bits=bits)


def write_spz_sequence(
    cloud: GaussianCloud, field: Field, timeline: Timeline, *, out: Path, progress: Progress | None = None
) -> list[Path]:
    """Write `out/frame_0000.spz ...`, one for every frame of the clip, row i the same Gaussian in all; see `write_spz`.
    Positions are good to 1/131072 of the object's size, unless the world's origin is more than 64 sizes away."""
    progress = progress or SilentProgress()
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"frame_{index:04d}.spz" for index in range(len(timeline))]
    # One grid for all frames, so that what stands still does not tremble.
    bits = fraction_bits(*_reach(field.from_canonical(cloud.means, float(t)) for t in timeline.times))
    progress.start("SPZ", len(paths))
    for path, moved in zip(paths, moved_frames(cloud, field, timeline)):
        write_spz(path, moved, bits=bits)
        progress.update()
    progress.finish()
    return paths


@torch.no_grad()
def _reach(frames: Iterable[Tensor]) -> tuple[float, float]:
    """The largest coordinate of points (N, 3) at some frames, and the largest side of their box."""
    ends = [torch.stack([xyz.min(dim=0).values, xyz.max(dim=0).values]).cpu() for xyz in frames if len(xyz)]
    if not ends:
        return 0.0, 0.0
    both = torch.stack(ends)
    low, high = both[:, 0].min(dim=0).values, both[:, 1].max(dim=0).values
    return float(both.abs().max()), float((high - low).max())
