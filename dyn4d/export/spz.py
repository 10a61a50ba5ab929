"""Frames as SPZ files, a tenth of the size of PLYs: the only module that calls gsply.

SPZ holds right-up-backwards axes (RUB) by its definition, PLYs right-down-forwards (RDF). So y and z are negated on
writing, and readers that go back to a PLY's axes (splat-transform, Spark, SuperSplat, Niantic's own) have the numbers
of our PLYs again: the clip's own world. Format: github.com/nianticlabs/spz, version 3 (gzip).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dyn4d.core.protocols import Field, Progress, SilentProgress
from dyn4d.core.types import GaussianCloud, Timeline
from dyn4d.export.frames import moved_frames
from dyn4d.io.atomic import atomic_path
from dyn4d.raster.sh import rotate_sh

POSITION_BITS = 23  # of 24-bit signed fixed point
STEPS = 2**16  # positions are stored in steps of at most the largest coordinate over this, where 24 bits allow it
OPACITY_EDGE = 1e-6
SMALLEST_SCALE = 1e-20
MOST_DEGREE = 3


def fraction_bits(largest: float) -> int:
    """Bits after the point for coordinates up to `largest`: as many as are needed for `STEPS`, at most what 24 bits
    leave. One number for all frames of a clip, so that what stands still does not tremble."""
    if not math.isfinite(largest) or largest <= 0:
        return 12
    whole = math.floor(math.log2(largest)) + 1  # largest < 2 ** whole
    return max(1, min(POSITION_BITS - whole, 16 - whole + 1, 24))


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
    largest = float(cloud.means.abs().max()) if len(cloud) else 0.0
    bits = fraction_bits(largest) if bits is None else bits
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
    """Write `out/frame_0000.spz ...`, one for every frame of the clip, row i the same Gaussian in all."""
    progress = progress or SilentProgress()
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"frame_{index:04d}.spz" for index in range(len(timeline))]
    bits = fraction_bits(_largest(cloud, field, timeline.times.tolist()))
    progress.start("SPZ", len(paths))
    for path, moved in zip(paths, moved_frames(cloud, field, timeline)):
        write_spz(path, moved, bits=bits)
        progress.update()
    progress.finish()
    return paths


@torch.no_grad()
def _largest(cloud: GaussianCloud, field: Field, times: Sequence[float]) -> float:
    return max((float(field.from_canonical(cloud.means, t).abs().max()) for t in times if len(cloud)), default=0.0)
