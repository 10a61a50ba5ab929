"""Kernels of SSIM and L1: a separable window of 11 taps over pictures whose rows are flat (W · D numbers).

Blurred rows live in a ring of 11, so a picture is read once and nothing of its size but three slopes is kept between
the passes. Parts of the picture are independent (each blurs five rows more on both sides), and sums are kept row by
row: the same bits for any number of threads.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false
# ^ a macro's definition has one argument more than its calls
from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import register_jitable

from dyn4d.raster.native import kernel, unpack
from dyn4d.raster.vectors import FLOAT8, Buffer, Emit, Value, macro, magnitude, store8, total, where

TAPS, HALF = 11, 5
PLANES = 5  # what the forward pass blurs: a, b, a², b², a b
SLOPES = 3  # and the backward pass: SSIM's slopes with respect to the blurred a, a² and a b
ROWS = 7  # padded rows that a part works with
_STEP = 8
_LINE = 16  # floats in a line of the machine's cache
_C1, _C2 = 0.01**2, 0.03**2

Vector = list[Value]


def row_length(size: int) -> int:
    """Numbers in a row of the kernels' own arrays, for rows of `size`: an odd count of cache lines, so that eleven rows
    above each other do not compete for the same places of the cache."""
    return (-(-size // _LINE) | 1) * _LINE


def workspace(size: int, channels: int) -> int:
    """Floats that a part needs to work in: padded rows and the ring."""
    padded = row_length(size) + 2 * HALF * channels + _STEP
    return ROWS * padded + PLANES * TAPS * row_length(size)


def _window(taps: Buffer, at: Any) -> Value:
    return taps.load(at).splat(_STEP)


def _weighted(taps: Buffer, values: Vector) -> Value:
    """Sum over 11 values with the window; taps (6,) from its middle outwards."""
    out = _window(taps, 0) * values[HALF]
    for i in range(1, HALF + 1):
        out = out + _window(taps, i) * (values[HALF - i] + values[HALF + i])
    return out


def _around(e: Emit, row: Buffer, at: Any, channels: Any) -> Vector:
    """Eight numbers and their ten neighbours along x, from a row that is padded by five pixels."""
    return [row.load(e.builder.add(at, e.times(channels, i)), _STEP) for i in range(TAPS)]


@macro()
def _blur_across(
    e: Emit, work: Buffer, at_a: Any, at_b: Any, channels: Any, taps: Buffer, ring: Any, plane: Any
) -> None:
    """The five blurred along x into the ring, planes apart."""
    a, b = _around(e, work, at_a, channels), _around(e, work, at_b, channels)
    sources = [a, b, [x * x for x in a], [x * x for x in b], [x * y for x, y in zip(a, b)]]
    for i, source in enumerate(sources):
        work.store(e.builder.add(ring, e.times(plane, i)), _weighted(taps, source))


def _blur_down(e: Emit, work: Buffer, ring: Any, line: Any, oldest: Any, taps: Buffer) -> Value:
    """The eleven lines of a ring blurred along y; `oldest` is the slot of the first."""
    b = e.builder
    values = []
    for i in range(TAPS):
        slot = b.add(oldest, e.integer(i))
        wrapped = b.select(b.icmp_signed("<", slot, e.integer(TAPS)), slot, b.sub(slot, e.integer(TAPS)))
        values.append(work.load(b.add(ring, b.mul(wrapped, line)), _STEP))
    return _weighted(taps, values)


@macro(types.UniTuple(FLOAT8, 4))
def _similarity(e: Emit, work: Buffer, ring: Any, plane: Any, line: Any, oldest: Any, taps: Buffer) -> Vector:
    """SSIM, and its slopes with respect to the blurred a, a² and a b."""
    m, n, aa, bb, ab = (
        _blur_down(e, work, e.builder.add(ring, e.times(plane, i)), line, oldest, taps) for i in range(PLANES)
    )
    a1, a2 = 2.0 * m * n + _C1, 2.0 * (ab - m * n) + _C2
    i1, i2 = 1.0 / (m * m + n * n + _C1), 1.0 / (aa - m * m + bb - n * n + _C2)
    value = a1 * a2 * i1 * i2
    by_mean = 2.0 * (n * (a2 - a1) * i1 * i2 + m * value * (i2 - i1))
    return [value, by_mean, -(value * i2), 2.0 * a1 * i1 * i2]


@macro(types.UniTuple(FLOAT8, 2))
def _no_losses(e: Emit) -> Vector:
    return [e.constant(FLOAT8, 0.0)] * 2


@macro(types.UniTuple(FLOAT8, 2))
def _add_losses(e: Emit, sums: Vector, work: Buffer, value: Value, a: Any, b: Any, by_l1: Any, by_ssim: Any) -> Vector:
    """Eight numbers' share of a row's losses; the places of their a, b and weights."""
    gap = magnitude(work.load(a, _STEP) - work.load(b, _STEP))
    return [
        sums[0] + work.load(by_l1, _STEP) * gap,
        sums[1] + work.load(by_ssim, _STEP) * (1.0 - value),
    ]


@macro(types.UniTuple(types.float32, 2))
def _lane_sums(e: Emit, sums: Vector) -> Vector:
    return [total(value) for value in sums]


@macro()
def _scale_slopes(
    e: Emit, work: Buffer, at: Any, padded: Any, v: Any, place: Any, by_mean: Buffer, by_square: Buffer,
    by_product: Buffer,
) -> None:  # fmt: skip
    """Slopes times the gradient that comes in, into three padded rows."""
    factor = work.load(v, _STEP)
    for i, slopes in enumerate((by_mean, by_square, by_product)):
        work.store(e.builder.add(at, e.times(padded, i)), factor * slopes.load(place, _STEP))


@macro()
def _gradient(
    e: Emit, work: Buffer, ring: Any, line: Any, oldest: Any, taps: Buffer, at_a: Any, at_b: Any, at_l1: Any, at_v: Any
) -> None:
    """The gradient with respect to eight numbers of a; `at_l1` holds the weights of |a - b|."""
    plane = e.times(line, TAPS)
    mean, square, product = (
        _blur_down(e, work, e.builder.add(ring, e.times(plane, i)), line, oldest, taps) for i in range(SLOPES)
    )
    a, b, v = (work.load(at, _STEP) for at in (at_a, at_b, at_l1))
    work.store(
        at_v, mean + 2.0 * a * square + b * product + where(a > b, v, 0.0) - where(a < b, v, 0.0)
    )  # fmt: skip


@macro()
def _blur_slopes(
    e: Emit, work: Buffer, at: Any, padded: Any, channels: Any, taps: Buffer, ring: Any, plane: Any
) -> None:
    for i in range(SLOPES):
        around = _around(e, work, e.builder.add(at, e.times(padded, i)), channels)
        work.store(e.builder.add(ring, e.times(plane, i)), _weighted(taps, around))


@register_jitable
def _repeat(work, at, table, row, times, scale):
    """scale times a row of the table, each entry for `times` neighbours, into work from `at` on."""
    for x in range(table.shape[1]):
        value = scale * table[row, x]
        for c in range(times):
            work[at + c] = value
        at += times


_FORWARD = "i8[:] f4[:,:] f4[:,:] i8 f4[:] f4[:,:] f4[:,:] f4[:] f4[:,:] f4[:,:] f4[:,:] f4[:,:] f8[:,:]"


@kernel(_FORWARD)
def compare(lo: int, hi: int, pack: int) -> None:
    """SSIM of the pictures a and b (H, S), by parts: rows [parts[j], parts[j + 1]) for lo <= j < hi.

    Into `out` (H, S), unless it is empty; the slopes (H, row_length) unless they are; and losses (H, 2), unless those
    are: the row's sums of by_l1 |a - b| and of by_ssim (1 - SSIM), with weights (H, W). work (parts · workspace).
    """
    (
        parts, a, b, channels, taps, by_l1, by_ssim, work, out, by_mean, by_square, by_product, losses
    ) = unpack(pack, _FORWARD)  # fmt: skip
    height, size = a.shape
    line, side = by_mean.shape[1], HALF * channels
    padded, plane = line + 2 * side + _STEP, TAPS * line
    whole = ROWS * padded + PLANES * plane
    for part in range(lo, hi):
        at_a = part * whole
        at_b, at_value, at_l1, at_ssim = at_a + padded, at_a + 2 * padded, at_a + 3 * padded, at_a + 4 * padded
        here_a, here_b, ring = at_a + 5 * padded, at_a + 6 * padded, at_a + ROWS * padded
        for x in range(at_a, at_a + ROWS * padded):
            work[x] = np.float32(0)
        for y in range(parts[part] - HALF, parts[part + 1] + HALF):
            slot = (y - parts[part] + HALF) % TAPS
            here = ring + slot * line
            if y < 0 or y >= height:
                for i in range(PLANES):
                    for x in range(here + i * plane, here + i * plane + line):
                        work[x] = np.float32(0)
            else:
                for x in range(size):
                    work[at_a + side + x] = a[y, x]
                    work[at_b + side + x] = b[y, x]
                for x in range(0, size, _STEP):
                    _blur_across(work, at_a + x, at_b + x, channels, taps, here + x, plane)
            row = y - HALF
            if row < parts[part]:
                continue
            oldest = (slot + 1) % TAPS
            sums = _no_losses()
            if losses.shape[0] > 0:
                _repeat(work, at_l1, by_l1, row, channels, np.float32(1))
                _repeat(work, at_ssim, by_ssim, row, channels, np.float32(1))
                for x in range(size):
                    work[here_a + x], work[here_b + x] = a[row, x], b[row, x]
            for x in range(0, size, _STEP):
                value, mean, square, product = _similarity(work, ring + x, plane, line, oldest, taps)
                store8(work, at_value + x, value)
                if losses.shape[0] > 0:
                    sums = _add_losses(
                        sums, work, value, here_a + x, here_b + x, at_l1 + x, at_ssim + x
                    )  # fmt: skip
                if by_mean.shape[0] > 0:
                    store8(by_mean, row * line + x, mean)
                    store8(by_square, row * line + x, square)
                    store8(by_product, row * line + x, product)
            if out.shape[0] > 0:
                for x in range(size):
                    out[row, x] = work[at_value + x]
            if losses.shape[0] > 0:
                losses[row, 0], losses[row, 1] = _lane_sums(sums)


_BACKWARD = "i8[:] f4[:,:] f4[:,:] i8 f4[:] f4[:,:] f4[:,:] i8 f8[:] f4[:] f4[:,:] f4[:,:] f4[:,:] f4[:,:]"


@kernel(_BACKWARD)
def compare_backward(lo: int, hi: int, pack: int) -> None:
    """Gradient v_a (H, S) of `compare` with respect to a, by parts.

    That of SSIM's map is scale[1] · v_ssim (H, S / repeat), each entry of it for `repeat` neighbours; that of |a - b|
    is scale[0] · by_l1 (H, W), unless by_l1 is empty.
    """
    (
        parts, a, b, channels, taps, by_l1, v_ssim, repeat, scale, work, by_mean, by_square, by_product, v_a
    ) = unpack(pack, _BACKWARD)  # fmt: skip
    height, size = a.shape
    line, side = by_mean.shape[1], HALF * channels
    padded, plane = line + 2 * side + _STEP, TAPS * line
    whole = ROWS * padded + PLANES * plane
    of_l1, of_ssim = np.float32(scale[0]), np.float32(scale[1])
    for part in range(lo, hi):
        start = part * whole
        at_a, at_b, at_l1, at_v = start + 3 * padded, start + 4 * padded, start + 5 * padded, start + 6 * padded
        ring = start + ROWS * padded
        for x in range(start, ring):
            work[x] = np.float32(0)
        for y in range(parts[part] - HALF, parts[part + 1] + HALF):
            slot = (y - parts[part] + HALF) % TAPS
            here = ring + slot * line
            if y < 0 or y >= height:
                for i in range(SLOPES):
                    for x in range(here + i * plane, here + i * plane + line):
                        work[x] = np.float32(0)
            else:
                _repeat(work, at_v, v_ssim, y, repeat, of_ssim)
                for x in range(size, line):  # nothing comes in beyond the picture, and no slope is known there
                    work[at_v + x] = np.float32(0)
                for x in range(0, size, _STEP):
                    _scale_slopes(
                        work, start + side + x, padded, at_v + x, y * line + x, by_mean, by_square, by_product
                    )  # fmt: skip
                for x in range(0, size, _STEP):
                    _blur_slopes(work, start + x, padded, channels, taps, here + x, plane)
            row = y - HALF
            if row < parts[part]:
                continue
            for x in range(size):
                work[at_a + x], work[at_b + x] = a[row, x], b[row, x]
            if by_l1.shape[0] > 0:
                _repeat(work, at_l1, by_l1, row, channels, of_l1)
            oldest = (slot + 1) % TAPS
            for x in range(0, size, _STEP):
                _gradient(work, ring + x, line, oldest, taps, at_a + x, at_b + x, at_l1 + x, at_v + x)
            for x in range(size):
                v_a[row, x] = work[at_v + x]
