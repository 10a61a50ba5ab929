"""Frames as SPZ files, a tenth of the size of PLYs.

SPZ holds right-up-backwards axes (RUB) by its definition, PLYs right-down-forwards (RDF). So y and z are negated on
writing, and readers that go back to a PLY's axes have the numbers of our PLYs again: the clip's own world. Format:
github.com/nianticlabs/spz, version 3 (gzip).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Field, Progress, SilentProgress
from dyn4d.core.types import GaussianCloud, Timeline
from dyn4d.export.frames import moved_frames
from dyn4d.io import spz
from dyn4d.io.atomic import atomic_path
from dyn4d.io.ply import gaussian_rows

POSITION_BITS = 23  # of 24-bit signed fixed point
FINE_BITS = 16  # positions are stored in steps of at most the object's size over 2 to this, where 24 bits allow it
MOST_BITS = 24  # after the point, that readers take


def fraction_bits(largest: float, size: float) -> int:
    """Bits after the point for coordinates of up to `largest` on an object of this size: as many as `FINE_BITS` asks
    for, at most what 24 bits leave. More would only make files larger."""
    if not (math.isfinite(largest) and math.isfinite(size) and largest > 0 and size > 0):
        return 12
    whole = math.floor(math.log2(largest)) + 1  # largest < 2 ** whole
    return max(1, min(POSITION_BITS - whole, FINE_BITS - math.floor(math.log2(size)), MOST_BITS))


def write_spz(path: str | Path, cloud: GaussianCloud, *, bits: int | None = None) -> None:
    """Write one cloud (world) as SPZ version 3, atomically.

    What is left of the numbers: positions to half a step of 2^-bits; scales to 1/32 of their natural logarithm (3.2 %),
    between e^-10 and e^5.9; rotations to 0.25 degrees; opacities to 1/510; colours of degree 0 to 1/270 of the range;
    higher bands to 1/256, between -1 and 1, up to degree 3; no confidence.

    Args:
        bits: of the positions, after the point; None chooses by this cloud alone (`fraction_bits`).
    """
    rows = gaussian_rows(cloud)
    furthest = float(cloud.means.abs().max()) if len(cloud) else 0.0
    bits = fraction_bits(*_reach([cloud.means])) if bits is None else bits
    if furthest * 2.0**bits >= 2**POSITION_BITS:
        raise InputError(
            f"{path}: coordinates of up to {furthest:.3g} units do not fit SPZ, which ends at "
            f"{2 ** (POSITION_BITS - bits):,} with {bits} bits after the point; write PLYs instead"
        )
    degree = min(cloud.sh_degree, spz.MAX_DEGREE)
    head = spz.Head(spz.VERSION, len(cloud), degree, bits)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        spz.write(stream, head, spz.encode(rows, degree, bits, sh_bits=(8, 8)))


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
