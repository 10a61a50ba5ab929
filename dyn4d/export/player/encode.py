"""A moving cloud as the few bytes that the player page plays, and how far they are off."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from dyn4d.core.protocols import Field, Progress, SilentProgress
from dyn4d.core.types import GaussianCloud
from dyn4d.export.player.errors import at_times, gaussian_errors, summarise, with_canonical
from dyn4d.export.player.motion import COMPONENTS, Motion, MotionBasis, empty_basis, field_motion, fit_basis
from dyn4d.export.player.planes import ArrayWriter
from dyn4d.export.player.shapes import SMALLEST, StoredShapes, shape_factors, store_shapes
from dyn4d.export.player.stored import StoredMotion, quantise_motion
from dyn4d.export.player.timing import key_rows, weight_rows

FORMAT = "dyn4d-player/1"
KEYS = 96  # key frames at most; frames between them are interpolated
GROUP_SIZE = 250  # Gaussians a group at least, on average
GROUPS = 64
SAMPLE = 20_000  # Gaussians that the components are fitted on, at most ...
SAMPLED = 1_000_000  # ... and so many of their places, so that long clips fit into memory
CHUNK = 200_000  # places that are worked on at a time
TARGET = 3e-4  # of the object's size: components are added until all but 0.1 % of the sample's errors are below
LIMIT = 1e-3  # of the object's size: Gaussians that are off by more become singles, the worst first ...
SINGLES = 1500  # ... as many as this
SINGLES_SHARE = 0.03  # ... or this share of all
BETWEEN = 2000  # Gaussians that are measured halfway between frames
CACHE = 400_000_000  # bytes of motions that are kept instead of being worked out twice


@dataclass(frozen=True)
class PlayerData:
    """What the page holds of the object: `header` describes the arrays in `payload`, which is deflated (gzip)."""

    header: Mapping[str, Any]
    payload: bytes


class _Source:
    """Exact motions of a cloud at all times and in canonical space, chunk by chunk."""

    def __init__(self, cloud: GaussianCloud, field: Field, times: np.ndarray) -> None:
        self.cloud, self.field, self.times = cloud, field, times
        chunk = max(64, CHUNK // (len(times) + 1))
        self.parts = [slice(a, min(a + chunk, len(cloud))) for a in range(0, len(cloud), chunk)]
        self._keep = len(cloud) * (len(times) + 1) * 48 <= CACHE
        self._kept: dict[int, Motion] = {}

    def of_part(self, part: slice) -> Motion:
        if part.start not in self._kept:
            motion = field_motion(self.field, self.cloud.means[part], self.times, canonical=True)
            if not self._keep:
                return motion
            self._kept[part.start] = Motion(motion.centres.astype(np.float32), motion.jacobians.astype(np.float32))
        kept = self._kept[part.start]
        return Motion(kept.centres.astype(np.float64), kept.jacobians.astype(np.float64))


def finite_rows(cloud: GaussianCloud) -> torch.Tensor:
    """Rows that can be drawn: everything finite and not wholly transparent."""
    numbers = torch.cat(
        [cloud.means, cloud.quats_wxyz, cloud.scales, cloud.opacities[:, None], cloud.sh.reshape(len(cloud), -1)], dim=1
    )
    return torch.nonzero(torch.isfinite(numbers).all(1) & (cloud.opacities > 1 / 510)).flatten()


def encode(
    cloud: GaussianCloud, field: Field, times: np.ndarray, *, sh_degree: int | None = None,
    progress: Progress | None = None,
) -> PlayerData:  # fmt: skip
    """Quantise and compress a cloud that `field` moves, and measure what that changes.

    Args:
        cloud: canonical. times: (F,) in [0, 1], increasing; errors are measured at each.
        sh_degree: keep colours up to this degree; None keeps all.

    Returns:
        the header has `rows`, which are not for the page: the Gaussian of the cloud behind each stored one.
    """
    progress = progress or SilentProgress()
    times = np.asarray(times, dtype=np.float64)
    kept = finite_rows(cloud)
    cloud = replace(cloud.select(kept), quats_wxyz=torch.nn.functional.normalize(cloud.quats_wxyz[kept], dim=-1))
    degree = cloud.sh_degree if sh_degree is None else min(sh_degree, cloud.sh_degree)
    keys = key_rows(len(times), KEYS)
    slots = np.append(keys, len(times))  # the last one is canonical space
    source = _Source(cloud, field, times)
    progress.start("player", 2 * len(source.parts), 0)
    basis, components, size = _fit(cloud, field, times[keys])
    group, exact = _project(source, slots, basis, components, progress)
    motion = quantise_motion(basis, exact, group, size)
    shapes = store_shapes(cloud, degree)
    weights = weight_rows(times[keys], times)
    errors = _measure(source, motion.stored(), weights, shapes, progress)
    singles = _worst(errors, size)
    order = np.lexsort((morton(cloud.means.double().cpu().numpy()), group))  # neighbours are alike
    writer = ArrayWriter()
    shapes.write(writer, order)
    exact_singles = field_motion(field, cloud.means[torch.from_numpy(singles)], times, canonical=True)
    found = motion.write(writer, order, singles, _slots(exact_singles, slots).table(basis.reach))
    rebuilt = Motion.of_table(found, basis.reach)
    errors[singles] = gaussian_errors(
        with_canonical(at_times(rebuilt, weights), rebuilt), exact_singles, shapes.factors[singles],
        _factors(cloud)[singles],
    )  # fmt: skip
    between = _between(cloud, field, times, keys, motion.stored(), singles, shapes)
    progress.finish()
    frames, halfway = summarise(errors, size), summarise(between, size)
    header = {
        "format": FORMAT,
        "gaussians": len(cloud),
        "sh_degree": degree,
        "sh_degree_of_run": cloud.sh_degree,
        "key_times": times[keys].tolist(),
        "groups": len(basis.mean),
        "components": components,
        "singles": len(singles),
        "reach": basis.reach,
        "size": size,
        "error": asdict(frames) if frames else None,
        "error_between": asdict(halfway) if halfway else None,
        "arrays": writer.entries,
        "rows": kept.cpu().numpy()[order],
    }
    return PlayerData(header, _gzip(writer.payload))


def _gzip(data: bytes) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: a gzip frame, without a time stamp
    return squeeze.compress(data) + squeeze.flush()


def _slots(motion: Motion, slots: np.ndarray) -> Motion:
    return Motion(motion.centres[:, slots], motion.jacobians[:, slots])


def _factors(cloud: GaussianCloud) -> np.ndarray:
    return shape_factors(cloud.quats_wxyz.double().cpu().numpy(), cloud.scales.double().cpu().numpy())


def object_side(centres: np.ndarray) -> float:
    """The largest side of the box round all centres (N, S, 3), at least a tiny one."""
    if not centres.size:
        return 1.0
    flat = centres.reshape(-1, 3)
    return max(float((flat.max(0) - flat.min(0)).max()), 1e-6)


def _fit(cloud: GaussianCloud, field: Field, times: np.ndarray) -> tuple[MotionBasis, int, float]:
    """The basis, how many of its components are used, and the object's size, from a sample of the Gaussians."""
    count = len(cloud)
    if not count:
        return empty_basis(len(times) + 1), COMPONENTS[0], 1.0
    most = min(count, SAMPLE, max(1, SAMPLED // (len(times) + 1)))
    rows = np.unique(np.linspace(0, count - 1, most).round().astype(np.int64))
    sample = cloud.select(torch.as_tensor(rows, device=cloud.means.device))
    motion = field_motion(field, sample.means, times, canonical=True)
    size = object_side(motion.centres[:, : len(times)])
    spread = sample.scales.double().square().sum(1).sqrt().cpu().numpy()
    typical = max(float(np.median(spread)), SMALLEST)
    reach = 2 * typical
    table = motion.table(reach)
    # a large Gaussian shows an error of its Jacobian more
    basis = fit_basis(
        table, reach=reach, groups=min(GROUPS, max(1, count // GROUP_SIZE)), weight=np.clip(spread / typical, 0.5, 5)
    )
    group = basis.group_of(table)
    factors = _factors(sample)
    exact = basis.coefficients(table, group)
    for components in COMPONENTS:
        part = replace(basis, components=basis.components[:, :components])
        rebuilt = StoredMotion(
            reach, part.mean, part.components, exact[:, :components], group, part.mean[:0]
        ).table(slice(None))  # fmt: skip
        error = gaussian_errors(Motion.of_table(rebuilt, reach), motion, factors, factors)
        if np.quantile(np.hypot(error[..., 0], error[..., 1]), 0.999) <= TARGET * size:
            break
    return basis, components, size


def _project(
    source: _Source, slots: np.ndarray, basis: MotionBasis, components: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """The group (N,) and the coefficients (N, K) of each Gaussian."""
    group = np.zeros(len(source.cloud), dtype=np.int64)
    coefficients = np.zeros((len(source.cloud), components))
    for part in source.parts:
        table = _slots(source.of_part(part), slots).table(basis.reach)
        group[part] = basis.group_of(table)
        coefficients[part] = basis.coefficients(table, group[part])[:, :components]
        progress.update()
    return group, coefficients


def _measure(
    source: _Source, stored: StoredMotion, weights: np.ndarray, shapes: StoredShapes, progress: Progress
) -> np.ndarray:
    """(N, F + 1, 2) errors at every frame and in canonical space, world units."""
    exact_factors = _factors(source.cloud)
    errors = np.zeros((len(source.cloud), len(weights) + 1, 2), dtype=np.float32)
    for part in source.parts:
        slots = Motion.of_table(stored.table(part), stored.reach)
        found = with_canonical(at_times(slots, weights), slots)
        errors[part] = gaussian_errors(found, source.of_part(part), shapes.factors[part], exact_factors[part])
        progress.update()
    return errors


def _worst(errors: np.ndarray, size: float) -> np.ndarray:
    """Rows that are off by more than `LIMIT` anywhere, the worst first if there are too many."""
    largest = np.hypot(errors[..., 0], errors[..., 1]).max(axis=1, initial=0.0)
    rows = np.flatnonzero(largest > LIMIT * size)
    most = min(SINGLES, int(np.ceil(SINGLES_SHARE * len(errors))))
    return np.sort(rows[largest[rows].argsort()[::-1][:most]]).astype(np.int64)


def _between(
    cloud: GaussianCloud, field: Field, times: np.ndarray, keys: np.ndarray, stored: StoredMotion, singles: np.ndarray,
    shapes: StoredShapes,
) -> np.ndarray:  # fmt: skip
    """Errors of some of the grouped Gaussians halfway between frames."""
    halfway = (times[1:] + times[:-1]) / 2
    grouped = np.setdiff1d(np.arange(len(cloud)), singles)
    if not len(halfway) or not len(grouped):
        return np.zeros((0, 2))
    rows = grouped[np.unique(np.linspace(0, len(grouped) - 1, min(len(grouped), BETWEEN)).round().astype(int))]
    wanted = field_motion(field, cloud.means[torch.from_numpy(rows)], halfway, canonical=False)
    some = replace(stored, group=stored.group[rows], coefficients=stored.coefficients[rows])
    slots = Motion.of_table(some.table(slice(None)), stored.reach)
    found = at_times(slots, weight_rows(times[keys], halfway))
    return gaussian_errors(found, wanted, shapes.factors[rows], _factors(cloud)[rows])


def morton(xyz: np.ndarray) -> np.ndarray:
    """(N,) places on a curve that fills the points' box, so that near numbers are near points (10 bits an axis)."""
    if not len(xyz):
        return np.zeros(0, dtype=np.int64)
    low, span = xyz.min(0), np.maximum(np.ptp(xyz, axis=0), 1e-12)
    cells = np.clip((xyz - low) / span * 1023, 0, 1023).astype(np.int64)
    code = np.zeros(len(xyz), dtype=np.int64)
    for bit in range(10):
        for axis in range(3):
            code |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return code
