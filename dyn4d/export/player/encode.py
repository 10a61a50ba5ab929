"""A moving cloud as the few bytes that the player page plays, and how far they are off."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dyn4d.core.protocols import Field, Progress, SilentProgress
from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.core.types import GaussianCloud
from dyn4d.export.player.motion import COMPONENTS, Motion, MotionBasis, field_motion, fit_basis, motion_errors
from dyn4d.export.player.planes import ArrayWriter, quantise
from dyn4d.export.player.timing import key_rows, weight_rows

FORMAT = "dyn4d-player/1"
SH0 = 0.28209479177387814
KEYS = 96  # key frames at most; frames between them are interpolated
GROUP_SIZE = 250  # Gaussians a group at least, on average
GROUPS = 64
SAMPLE = 20_000  # Gaussians that the components are fitted on
CHUNK = 8192
TARGET = 3e-4  # of the object's size: components are added until all but 0.1 % of the sample's errors are below ...
TARGET_MOST = 2e-3  # ... and all of them below this
# Steps of the stored integers. Those of the motion are relative to the object's size.
COEFFICIENT_STEP = 2e-4
COMPONENT_STEP = 1e-5  # times the group's largest coefficient
MEAN_STEP = 1e-5
LOG_SCALE_STEP = 0.01
QUATERNION_STEP = 1 / 500
COLOUR_STEP = 1 / 512
HARMONIC_STEP = 1 / 64
OPACITY_STEP = 1 / 255
CONFIDENCE_STEP = 1 / 63
SMALLEST = 1e-9  # world units: a flat Gaussian's logarithm stays finite


@dataclass(frozen=True)
class PlayerData:
    """What the page holds of the object: `header` describes the arrays in `payload`, which is deflated (gzip)."""

    header: Mapping[str, Any]
    payload: bytes


@dataclass(frozen=True)
class Static:
    """What does not move, as a reader will find it: canonical factors R S (N, 3, 3) of Gaussians in stored order."""

    factors: np.ndarray


def object_side(centres: np.ndarray) -> float:
    """The largest side of the box round all centres (N, S, 3), at least a tiny one."""
    if not len(centres):
        return 1.0
    flat = centres.reshape(-1, 3)
    return max(float((flat.max(0) - flat.min(0)).max()), 1e-6)


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
    kept = finite_rows(cloud)
    cloud = replace(cloud.select(kept), quats_wxyz=torch.nn.functional.normalize(cloud.quats_wxyz[kept], dim=-1))
    keys = key_rows(len(times), KEYS)
    basis, components, size = _fit(cloud, field, times[keys])
    group, coefficients = _project(cloud, field, times[keys], basis, components)
    order = np.lexsort((morton(cloud.means.double().cpu().numpy()), group))  # neighbours are alike
    cloud, group = cloud.select(torch.as_tensor(order, device=cloud.means.device)), group[order]
    writer = ArrayWriter()
    writer.add("group", group)
    static = _add_static(writer, cloud, sh_degree)
    used, coefficients = _add_basis(writer, basis, coefficients[order], group, size)
    error = _measure(cloud, field, times, keys, used, coefficients, group, static, size, progress)
    header = {
        "format": FORMAT,
        "gaussians": len(cloud),
        "sh_degree": cloud.sh_degree if sh_degree is None else min(sh_degree, cloud.sh_degree),
        "sh_degree_of_run": cloud.sh_degree,
        "key_times": times[keys].tolist(),
        "groups": len(basis.mean),
        "components": components,
        "reach": basis.reach,
        "size": size,
        "error": error,
        "arrays": writer.entries,
        "rows": kept.cpu().numpy()[order],
    }
    return PlayerData(header, _gzip(writer.payload))


def _gzip(data: bytes) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: a gzip frame, without a time stamp
    return squeeze.compress(data) + squeeze.flush()


def _fit(cloud: GaussianCloud, field: Field, times: np.ndarray) -> tuple[MotionBasis, int, float]:
    """The basis, how many of its components are used, and the object's size, from a sample of the Gaussians."""
    count = len(cloud)
    rows = np.unique(np.linspace(0, max(count - 1, 0), min(count, SAMPLE)).round().astype(int)) if count else []
    sample = cloud.select(torch.as_tensor(np.asarray(rows, dtype=np.int64), device=cloud.means.device))
    motion = field_motion(field, sample.means, times, canonical=True)
    size = object_side(motion.centres[:, : len(times)])
    spread = sample.scales.double().square().sum(1).sqrt().cpu().numpy()
    typical = max(float(np.median(spread)), SMALLEST) if count else 1.0
    reach = 2 * typical
    if not count:
        empty = np.zeros((1, motion.table(reach).shape[1]))
        one = np.zeros((empty.shape[1], 1))
        basis = MotionBasis(reach, one, empty[0], np.zeros((1, 1)), empty, np.zeros((1, COMPONENTS[-1], empty.size)))
        return basis, COMPONENTS[0], size
    table = motion.table(reach)
    # a large Gaussian shows an error of its Jacobian more
    basis = fit_basis(
        table, reach=reach, groups=min(GROUPS, max(1, count // GROUP_SIZE)), weight=np.clip(spread / typical, 0.5, 5)
    )
    group = basis.group_of(table)
    factors = _factors(sample)
    all_of_them = basis.coefficients(table, group)
    for components in COMPONENTS:
        rebuilt = Motion.of_table(basis.rebuild(all_of_them[:, :components], group), reach)
        error = np.hypot(*np.moveaxis(motion_errors(rebuilt, motion, factors, factors), -1, 0))
        if np.quantile(error, 0.999) <= TARGET * size and error.max() <= TARGET_MOST * size:
            break
    return basis, components, size


def _factors(cloud: GaussianCloud) -> np.ndarray:
    return (wxyz_to_matrix(cloud.quats_wxyz) * cloud.scales[:, None, :]).double().cpu().numpy()


def _chunks(count: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _project(
    cloud: GaussianCloud, field: Field, times: np.ndarray, basis: MotionBasis, components: int
) -> tuple[np.ndarray, np.ndarray]:
    """The group (N,) and the coefficients (N, K) of each Gaussian."""
    group = np.zeros(len(cloud), dtype=np.int64)
    coefficients = np.zeros((len(cloud), components))
    for part in _chunks(len(cloud)):
        table = field_motion(field, cloud.means[part], times, canonical=True).table(basis.reach)
        group[part] = basis.group_of(table)
        coefficients[part] = basis.coefficients(table, group[part])[:, :components]
    return group, coefficients


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


def _add_static(writer: ArrayWriter, cloud: GaussianCloud, sh_degree: int | None) -> Static:
    """Shapes, colours, opacities and confidences."""
    quats = cloud.quats_wxyz.double().cpu().numpy()
    largest = np.abs(quats).argmax(1) if len(quats) else np.zeros(0, dtype=np.int64)
    quats = quats * np.where(quats[np.arange(len(quats)), largest] < 0, -1.0, 1.0)[:, None]
    others = np.array([[c for c in range(4) if c != i] for i in range(4)])[largest]
    writer.add("rotation_largest", largest)
    small = np.take_along_axis(quats, others, axis=1)
    found = np.stack(
        [writer.add(f"rotation_{i}", quantise(small[:, i], QUATERNION_STEP), QUATERNION_STEP) for i in range(3)], axis=1
    )
    logs = np.log(np.maximum(cloud.scales.double().cpu().numpy(), SMALLEST))
    scales = np.exp(
        np.stack([writer.add(f"scale_{i}", quantise(logs[:, i], LOG_SCALE_STEP), LOG_SCALE_STEP) for i in range(3)], 1)
    )
    rotation = wxyz_to_matrix(torch.from_numpy(unpack_quaternions(largest, found))).numpy()
    writer.add("opacity", quantise(cloud.opacities.double().cpu().numpy(), OPACITY_STEP), OPACITY_STEP)
    sh = cloud.sh.double().cpu().numpy()
    for c in range(3):
        writer.add(f"colour_{c}", quantise(0.5 + SH0 * sh[:, 0, c], COLOUR_STEP), COLOUR_STEP)
    bands = cloud.sh.shape[1] if sh_degree is None else min((sh_degree + 1) ** 2, cloud.sh.shape[1])
    for k in range(1, bands):
        for c in range(3):
            writer.add(f"harmonic_{k}_{c}", quantise(sh[:, k, c], HARMONIC_STEP, 127), HARMONIC_STEP)
    if cloud.confidence is not None:
        confidence = cloud.confidence.double().nan_to_num().clamp(0, 1).cpu().numpy()
        writer.add("confidence", quantise(confidence, CONFIDENCE_STEP), CONFIDENCE_STEP)
    return Static(rotation * scales[:, None, :])


def unpack_quaternions(largest: np.ndarray, small: np.ndarray) -> np.ndarray:
    """(N, 4) wxyz of length 1 from the index of the largest component (N,), which is positive, and the others."""
    largest = largest.astype(int)
    others = np.array([[c for c in range(4) if c != i] for i in range(4)])[largest]
    quats = np.zeros((len(largest), 4))
    np.put_along_axis(quats, others, small, axis=1)
    quats[np.arange(len(largest)), largest] = np.sqrt(np.maximum(1 - (small**2).sum(1), 0))
    return quats / np.linalg.norm(quats, axis=1, keepdims=True).clip(1e-12)


def _add_basis(
    writer: ArrayWriter, basis: MotionBasis, exact: np.ndarray, group: np.ndarray, size: float
) -> tuple[MotionBasis, np.ndarray]:
    """Store coefficients (N, K), means and components; give them back as a reader will find them."""
    components = exact.shape[1]
    largest = np.zeros((len(basis.mean), components))
    np.maximum.at(largest, group, np.abs(exact))
    coefficients = np.zeros_like(exact)
    for k in range(components):
        # the page holds them as 16 bits
        step = max(COEFFICIENT_STEP * size, float(largest[:, k].max(initial=0.0)) / 32000)
        coefficients[:, k] = writer.add(f"coefficient_{k}", quantise(exact[:, k], step, 32767), step)
    slots = basis.mean.shape[1]
    # slots first: differences are taken over time
    mean = writer.add("mean", quantise(_by_slot(basis.mean), MEAN_STEP * size), MEAN_STEP * size)
    stored = np.zeros((len(basis.mean), components, slots))
    for c in range(len(basis.mean)):
        for k in range(components):
            step = COMPONENT_STEP * size / max(float(largest[c, k]), COEFFICIENT_STEP * size)
            row = _by_slot(basis.components[c, k][None])[:, 0]
            stored[c, k] = writer.add(f"component_{c}_{k}", quantise(row, step), step).reshape(-1)
    return replace(basis, mean=np.moveaxis(mean, 0, 1).reshape(len(basis.mean), slots), components=stored), coefficients


def _by_slot(rows: np.ndarray) -> np.ndarray:
    """(C, S * 12) -> (S, C, 12)."""
    return np.moveaxis(rows.reshape(len(rows), -1, 12), 1, 0)


def _measure(
    cloud: GaussianCloud, field: Field, times: np.ndarray, keys: np.ndarray, basis: MotionBasis,
    coefficients: np.ndarray, group: np.ndarray, static: Static, size: float, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """How far the stored motion is off at every frame, halfway between frames, and in canonical space."""
    halfway = (times[1:] + times[:-1]) / 2
    weights = weight_rows(times[keys], np.concatenate([times, halfway]))
    exact_factors = _factors(cloud)
    frames, between = [], []
    parts = _chunks(len(cloud))
    progress.start("player", len(parts), 0)
    for index, part in enumerate(parts):
        slots = Motion.of_table(basis.rebuild(coefficients[part], group[part]), basis.reach)
        wanted = field_motion(field, cloud.means[part], times, canonical=True)
        found = _at(slots, weights[: len(times)])
        errors = motion_errors(found, wanted, static.factors[part], exact_factors[part])
        frames.append(errors.reshape(-1, 2))
        if index % 4 == 0 and len(halfway):  # a part of the Gaussians says enough
            some = slice(part.start, min(part.start + 1024, part.stop))
            wanted = field_motion(field, cloud.means[some], halfway, canonical=False)
            few = Motion(slots.centres[: some.stop - some.start], slots.jacobians[: some.stop - some.start])
            found = _at(few, weights[len(times) :], canonical=False)
            between.append(motion_errors(found, wanted, static.factors[some], exact_factors[some]).reshape(-1, 2))
        progress.update()
    progress.finish()
    return {**_summary(frames, size, ""), **_summary(between, size, "between_")}


def _at(slots: Motion, weights: np.ndarray, *, canonical: bool = True) -> Motion:
    """Motions at the times of the weights (F, S) from those at the keys, with or without the canonical slot."""
    keys = weights.shape[1]
    centres = np.einsum("fs,nsi->nfi", weights, slots.centres[:, :keys])
    jacobians = np.einsum("fs,nsij->nfij", weights, slots.jacobians[:, :keys])
    if canonical:
        centres = np.concatenate([centres, slots.centres[:, keys:]], axis=1)
        jacobians = np.concatenate([jacobians, slots.jacobians[:, keys:]], axis=1)
    return Motion(centres, jacobians)


def _summary(parts: list[np.ndarray], size: float, prefix: str) -> dict[str, float]:
    if not parts:
        return {}
    errors = np.concatenate(parts)
    both = np.hypot(errors[:, 0], errors[:, 1])
    return {
        f"{prefix}max": float(both.max()), f"{prefix}max_rel": float(both.max() / size),
        f"{prefix}rms_rel": float(np.sqrt((both**2).mean()) / size),
        f"{prefix}p999_rel": float(np.quantile(both, 0.999) / size),
        f"{prefix}centre_max_rel": float(errors[:, 0].max() / size),
        f"{prefix}shape_max_rel": float(errors[:, 1].max() / size),
    }  # fmt: skip
