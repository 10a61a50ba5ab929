"""Kernels that blend the records of each tile, forward and backward, eight pixels of a row at a time.

They exist once for each number of channels that they are compiled for, and the backward one with and without absolute
gradients. Eight pixels side by side are a *strip*; a tile has 32.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false
# ^ a macro's definition has one argument more than its calls
from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import register_jitable

from dyn4d.raster.binning_kernels import AHEAD, RECORD, TILE, X0, X1, Y0, Y1
from dyn4d.raster.native import Kernel, kernel, unpack
from dyn4d.raster.vectors import (
    FLOAT8,
    Buffer,
    Emit,
    Value,
    exp2,
    largest,
    macro,
    magnitude,
    prefetch,
    smallest,
    some,
    splat8,
    stack,
    stack_doubles,
    store8,
    totals,
    where,
)

WIDTHS = (4, 8)  # channel counts the kernels are compiled for; others are padded or split
MOMENTS = 8  # sums of a slot before its channels: g, g dx, g dy, g dx², g dx dy, g dy², |du|, |dv|

_PIXELS, _LANES = TILE * TILE, 8
_STRIPS, _ACROSS = _PIXELS // _LANES, TILE // _LANES
_LEAST, _MOST, _STOP = 1.0 / 255.0, 0.999, 1e-4
_LN2 = 0.6931471805599453
_MOST_SUMS = MOMENTS + WIDTHS[-1]

# planes of 256 floats that are a tile's state while it is drawn: the transmittance (0 once the pixel has ended), the
# transmittance at which it ended (0 before), the place in the tile's list at which it ended, the sum of the weights
# (alpha: 1 - transmittance has lost its last digits where little was drawn), then the channels' sums
_LIVE, _KEPT, _ENDED, _COVERED, _SUMS = 0, 256, 512, 768, 1024
# and in the backward pass: the transmittance, what lies behind times its gradient, the place, then the channels'
# gradients
_THROUGH, _BEHIND, _UNTIL, _SLOPES = 0, 256, 512, 768

Vector = list[Value]


@macro(lambda records, k, count: types.UniTuple(FLOAT8, count.literal_value))
def _fields(e: Emit, records: Buffer, k: Any, count: int) -> Vector:
    """The first `count` floats of a record, each in all lanes."""
    start = e.builder.mul(k, records.row)
    return [records.load(e.add(start, i)).splat(_LANES) for i in range(count)]


def _offsets(e: Emit, record: Vector, strip: Any, left: Any, top: Any) -> tuple[Value, Value]:
    """(dx, dy) from a strip's pixels to the record's mean."""
    b = e.builder
    x = b.add(left, e.times(b.and_(strip, e.integer(1)), _LANES))
    y = b.add(top, b.ashr(strip, e.integer(1)))
    return record[0] - (_coordinate(e, x) + e.steps(FLOAT8)), record[1] - _coordinate(e, y)


def _coordinate(e: Emit, pixel: Any) -> Value:
    """The middle of a pixel, in all lanes."""
    return (Value(e.builder, e.builder.sitofp(pixel, ir.FloatType())) + 0.5).splat(_LANES)


def _opacity(record: Vector, dx: Value, dy: Value) -> Value:
    """Before it is clamped."""
    _, _, qa, qb, qc, peak = record[:6]
    power = (peak + qc * dy * dy) + dx * (qb * dy + qa * dx)
    return exp2(smallest(power, peak))


@register_jitable
def _window(records, k, left, top):
    """A record's strips in a tile, as start, end and step: one loop, whose end is guessed wrong once and not for every
    row."""
    x0, x1, y0, y1 = int(records[k, X0]), int(records[k, X1]), int(records[k, Y0]), int(records[k, Y1])
    row0, row1 = max(y0 - top, 0), min(y1 - top, TILE)
    column0, column1 = max(x0 - left, 0) >> 3, (min(x1 - left, TILE) - 1) >> 3
    return row0 * _ACROSS + column0, row1 * _ACROSS, _ACROSS - (column1 - column0)


@macro(types.int64)
def _draw(e: Emit, scratch: Buffer, strip: Any, place: Any, record: Vector, left: Any, top: Any) -> Any:
    """Blend one record into a strip; 1 if that ended some of its pixels, else 0."""
    b, at = e.builder, e.times(strip, _LANES)
    a = smallest(_opacity(record, *_offsets(e, record, strip, left, top)), _MOST)
    a = where(a >= _LEAST, a, 0.0)
    through = scratch.load(e.add(at, _LIVE), _LANES)
    weight = a * through
    after = through - weight
    ends = (after <= _STOP) & (through > 0.0)
    before, any_ends = b.block, some(ends)
    with b.if_then(any_ends.ir, likely=False):
        kept = scratch.load(e.add(at, _KEPT), _LANES)
        scratch.store(e.add(at, _KEPT), where(ends, through, kept))
        here = Value(b, b.sitofp(place, ir.FloatType())).splat(_LANES)
        scratch.store(e.add(at, _ENDED), where(ends, here, scratch.load(e.add(at, _ENDED), _LANES)))
        weight_then, after_then, slow = where(ends, 0.0, weight), where(ends, 0.0, after), b.block
    weight, after = _join(weight, before, weight_then, slow), _join(after, before, after_then, slow)
    scratch.store(e.add(at, _LIVE), after)
    scratch.store(e.add(at, _COVERED), scratch.load(e.add(at, _COVERED), _LANES) + weight)
    for c, value in enumerate(record[RECORD:]):
        plane = e.add(at, _SUMS + c * _PIXELS)
        scratch.store(plane, scratch.load(plane, _LANES) + weight * value)
    return b.zext(any_ends.ir, e.integer(0).type)


def _join(a: Value, where_a: Any, b: Value, where_b: Any) -> Value:
    """The value that came along the branch taken."""
    phi = a.builder.phi(a.ir.type)
    phi.add_incoming(a.ir, where_a)
    phi.add_incoming(b.ir, where_b)
    return Value(a.builder, phi)


@macro(types.int64)
def _open(e: Emit, scratch: Buffer, at: Any) -> Any:
    """1 if any pixel of the strip still lets light through."""
    return e.builder.zext(some(scratch.load(e.add(at, _LIVE), _LANES) > 0.0).ir, e.integer(0).type)


@macro()
def _finish(
    e: Emit, scratch: Buffer, at: Any, channels: int, background: Buffer, expected: Any, image: Buffer, alpha: Buffer,
    left: Buffer, last: Buffer, pixel: Any,
) -> None:  # fmt: skip
    """Write the strip to eight pixels of the pictures, channels side by side."""
    through = scratch.load(e.add(at, _LIVE), _LANES) + scratch.load(e.add(at, _KEPT), _LANES)
    covered = scratch.load(e.add(at, _COVERED), _LANES)
    alpha.store(pixel, covered)
    left.store(pixel, through)
    last.store(pixel, scratch.load(e.add(at, _ENDED), _LANES))
    inverse = 1.0 / largest(covered, 1e-10)
    values = []
    for c in range(channels):
        value = scratch.load(e.add(at, _SUMS + c * _PIXELS), _LANES)
        value = value + through * background.load(c).splat(_LANES)
        is_expected = e.builder.icmp_signed("==", expected, e.integer(c))
        values.append(Value(e.builder, e.builder.select(is_expected, (value * inverse).ir, value.ir)))
    start = e.times(pixel, channels)
    for i, part in enumerate(_interleaved(values)):
        image.store(e.add(start, _LANES * i), part)


def _interleaved(values: Vector) -> Vector:
    """D vectors of eight pixels -> the 8 D numbers in the order of a picture's memory, in D vectors."""
    wide = values
    while len(wide) > 1:
        wide = [a.shuffle(range(2 * a.lanes), b) for a, b in zip(wide[::2], wide[1::2])]
    count = len(values)
    order = [c * _LANES + pixel for pixel in range(_LANES) for c in range(count)]
    return [wide[0].shuffle(order[i : i + _LANES]) for i in range(0, len(order), _LANES)]


def _separated(parts: Vector) -> Vector:
    """The reverse of `_interleaved`."""
    wide = parts
    while len(wide) > 1:
        wide = [a.shuffle(range(2 * a.lanes), b) for a, b in zip(wide[::2], wide[1::2])]
    count = len(parts)
    return [wide[0].shuffle([pixel * count + c for pixel in range(_LANES)]) for c in range(count)]


_BLEND = "f4[:,:] i8[:] i4[:,:] f4[:] i8 i8 i8 i8 f4[:] f4[:] f4[:] f4[:]"


@cache
def blend_kernel(channels: int) -> Kernel:
    """Blend the tiles [lo, hi) front to back.

    Writes image (H · W · D) over `background` (D,), alpha (H · W), the transmittance through (H · W), and last (H · W):
    the place in the tile's list at which the pixel ended, or the list's length. `expected` >= 0 names a channel to
    divide by alpha.
    """
    fields = RECORD + channels
    planes = _SUMS + channels * _PIXELS
    some_pixels = _LANES * channels

    @kernel(_BLEND)
    def blend(lo: int, hi: int, pack: int) -> None:
        (
            records, starts, entries, background, expected, width, height, tiles_x, image, alpha, through, last
        ) = unpack(pack, _BLEND)  # fmt: skip
        scratch = stack(planes)
        part, part_alpha, part_through, part_last = stack(some_pixels), stack(_LANES), stack(_LANES), stack(_LANES)
        zero, one = splat8(np.float32(0)), splat8(np.float32(1))
        for tile in range(lo, hi):
            left, top = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
            begin, end = starts[tile], starts[tile + 1]
            for at in range(0, planes, _LANES):
                store8(scratch, at, zero)
            listed = splat8(np.float32(end - begin))
            alive = 0  # one bit for each strip that still lets light through
            for strip in range(_STRIPS):
                x, y = left + (strip % _ACROSS) * _LANES, top + strip // _ACROSS
                store8(scratch, _ENDED + strip * _LANES, listed)
                if y < height and x < width:
                    store8(scratch, _LIVE + strip * _LANES, one)
                    for lane in range(width - x, _LANES):
                        scratch[_LIVE + strip * _LANES + lane] = np.float32(0)
                    alive |= 1 << strip
            for entry in range(begin, end):
                if alive == 0:
                    break
                prefetch(records, np.int64(entries[min(entry + AHEAD, end - 1), 0]))
                k = np.int64(entries[entry, 0])
                record = _fields(records, k, fields)
                first, final, step = _window(records, k, left, top)
                for strip in range(first, final, step):
                    if (alive >> strip) & 1 and _draw(scratch, strip, entry - begin, record, left, top):
                        alive &= ~((1 - _open(scratch, strip * _LANES)) << strip)
            for row in range(min(TILE, height - top)):
                for column in range(_ACROSS):
                    x, at = left + column * _LANES, (row * _ACROSS + column) * _LANES
                    pixel = (top + row) * width + x
                    if x + _LANES <= width:
                        _finish(scratch, at, channels, background, expected, image, alpha, through, last, pixel)
                    elif x < width:
                        _finish(
                            scratch, at, channels, background, expected, part, part_alpha, part_through, part_last, 0
                        )  # fmt: skip
                        for lane in range(width - x):
                            alpha[pixel + lane], through[pixel + lane] = part_alpha[lane], part_through[lane]
                            last[pixel + lane] = part_last[lane]
                            for c in range(channels):
                                image[(pixel + lane) * channels + c] = part[lane * channels + c]

    return blend


@macro()
def _start(
    e: Emit, scratch: Buffer, at: Any, channels: int, background: Buffer, expected: Any, image: Buffer, alpha: Buffer,
    left: Buffer, last: Buffer, v_image: Buffer, v_alpha: Buffer, pixel: Any,
) -> None:  # fmt: skip
    """Set a strip's state from eight pixels of the pictures and their gradients."""
    start = e.times(pixel, channels)
    values = _separated([image.load(e.add(start, _LANES * i), _LANES) for i in range(channels)])
    slopes = _separated([v_image.load(e.add(start, _LANES * i), _LANES) for i in range(channels)])
    covered, v_covered, through = (buffer.load(pixel, _LANES) for buffer in (alpha, v_alpha, left))
    inverse = 1.0 / largest(covered, 1e-10)
    behind = through.like(0.0)
    for c in range(channels):
        is_expected = e.builder.icmp_signed("==", expected, e.integer(c))
        v_sum = slopes[c] * inverse
        v_less = v_covered - where(covered > 1e-10, v_sum * values[c], 0.0)
        slope = Value(e.builder, e.builder.select(is_expected, v_sum.ir, slopes[c].ir))
        v_covered = Value(e.builder, e.builder.select(is_expected, v_less.ir, v_covered.ir))
        scratch.store(e.add(at, _SLOPES + c * _PIXELS), slope)
        behind = behind + slope * background.load(c).splat(_LANES)
    scratch.store(e.add(at, _THROUGH), through)
    scratch.store(e.add(at, _BEHIND), through * (behind - v_covered))
    scratch.store(e.add(at, _UNTIL), last.load(pixel, _LANES))


@macro(lambda *given: given[6])  # of the kind of `sums`
def _undraw(
    e: Emit, scratch: Buffer, strip: Any, place: Any, record: Vector, left: Any, top: Any, sums: Vector, absolute: int
) -> Vector:
    """Take one record out of a strip and add its gradients to `sums`: the moments, then the channels'."""
    at = e.times(strip, _LANES)
    dx, dy = _offsets(e, record, strip, left, top)
    _, _, qa, qb, qc, _ = record[:6]
    raw = _opacity(record, dx, dy)
    a = smallest(raw, _MOST)
    here = Value(e.builder, e.builder.sitofp(place, ir.FloatType())).splat(_LANES)
    shown = (a >= _LEAST) & (scratch.load(e.add(at, _UNTIL), _LANES) > here)
    a = where(shown, a, 0.0)
    again = 1.0 / (1.0 - a)
    through = scratch.load(e.add(at, _THROUGH), _LANES) * again
    scratch.store(e.add(at, _THROUGH), through)
    weight = a * through
    dot, channels = weight.like(0.0), sums[MOMENTS:]
    for c, color in enumerate(record[RECORD:]):
        slope = scratch.load(e.add(at, _SLOPES + c * _PIXELS), _LANES)
        dot = dot + slope * color
        channels[c] = channels[c] + weight * slope
    behind = scratch.load(e.add(at, _BEHIND), _LANES)
    g = where(raw <= _MOST, a * (through * dot - behind * again), 0.0)
    scratch.store(e.add(at, _BEHIND), behind + weight * dot)
    g_dx, g_dy = g * dx, g * dy
    terms = [g, g_dx, g_dy, g_dx * dx, g_dx * dy, g_dy * dy]
    if absolute:  # slopes of the exponent, in base 2
        terms += [magnitude(g * (2.0 * qa * dx + qb * dy)), magnitude(g * (2.0 * qc * dy + qb * dx))]
    moments = [a + b for a, b in zip(sums, terms)] + sums[len(terms) : MOMENTS]
    return moments + channels


@macro(lambda count: types.UniTuple(FLOAT8, count.literal_value))
def _zeros(e: Emit, count: int) -> Vector:
    return [e.constant(FLOAT8, 0.0)] * count


@macro()
def _write(e: Emit, table: Buffer, slot: Any, sums: Vector) -> None:
    """The lanes' totals of the moments and the channels into a row of the table."""
    start = e.builder.mul(slot, table.row)
    scale = Value(e.builder, ir.Constant(FLOAT8.vector, [1.0] * 6 + [_LN2] * 2))
    table.store(start, totals(sums[:MOMENTS]) * scale)
    table.store(e.add(start, MOMENTS), totals(sums[MOMENTS:]))


@macro()
def _clear(e: Emit, sums: Buffer, slot: Any, channels: int) -> None:
    start = e.builder.mul(slot, sums.row)
    for at in range(0, MOMENTS + channels, 4):
        sums.store(e.add(start, at), Value(e.builder, ir.Constant(ir.VectorType(ir.FloatType(), 4), [0.0] * 4)))


_BLEND_BACKWARD = "f4[:,:] i8[:] i4[:,:] f4[:] i8 i8 i8 i8 f4[:] f4[:] f4[:] f4[:] f4[:] f4[:] f4[:,:]"


@cache
def blend_backward_kernel(channels: int, absolute: bool) -> Kernel:
    """Gradients of `blend_kernel`, back to front, into sums (slots, MOMENTS + D).

    A row holds the sums over the tile's pixels of the moments (MOMENTS), where g = alpha dL/dalpha and (dx, dy) points
    from the pixel to the mean, the sums of |dL/du| and |dL/dv| if `absolute`, and the D channels' gradients.
    """
    fields, with_absolute = RECORD + channels, int(absolute)
    planes, sum_count = _SLOPES + channels * _PIXELS, MOMENTS + channels
    some_pixels = _LANES * channels

    @kernel(_BLEND_BACKWARD)
    def blend_backward(lo: int, hi: int, pack: int) -> None:
        (
            records, starts, entries, background, expected, width, height, tiles_x,
            image, alpha, through, last, v_image, v_alpha, sums,
        ) = unpack(pack, _BLEND_BACKWARD)  # fmt: skip
        scratch, until = stack(planes), stack(_STRIPS)
        part, part_alpha, part_through, part_last = stack(some_pixels), stack(_LANES), stack(_LANES), stack(_LANES)
        part_slope, part_v_alpha = stack(some_pixels), stack(_LANES)
        for tile in range(lo, hi):
            left, top = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
            begin, end = starts[tile], starts[tile + 1]
            if begin == end:
                continue
            furthest = np.float32(0)
            for strip in range(_STRIPS):
                x, y, at = left + (strip % _ACROSS) * _LANES, top + strip // _ACROSS, strip * _LANES
                until[strip] = np.float32(0)
                if y >= height or x >= width:
                    continue
                pixel = y * width + x
                if x + _LANES <= width:
                    _start(
                        scratch, at, channels, background, expected, image, alpha, through, last, v_image, v_alpha,
                        pixel,
                    )  # fmt: skip
                else:
                    for lane in range(_LANES):
                        inside = x + lane < width
                        source = pixel + lane if inside else pixel
                        part_alpha[lane] = alpha[source] if inside else np.float32(0)
                        part_v_alpha[lane] = v_alpha[source] if inside else np.float32(0)
                        part_through[lane] = through[source] if inside else np.float32(1)
                        part_last[lane] = last[source] if inside else np.float32(0)
                        for c in range(channels):
                            part[lane * channels + c] = image[source * channels + c]
                            part_slope[lane * channels + c] = v_image[source * channels + c]
                    _start(
                        scratch, at, channels, background, expected, part, part_alpha, part_through, part_last,
                        part_slope, part_v_alpha, 0,
                    )  # fmt: skip
                for lane in range(_LANES):
                    until[strip] = max(until[strip], scratch[_UNTIL + at + lane])
                furthest = max(furthest, until[strip])
            for entry in range(end - 1, begin - 1, -1):
                prefetch(records, np.int64(entries[max(entry - AHEAD, begin), 0]))
                k, slot, place = np.int64(entries[entry, 0]), np.int64(entries[entry, 1]), entry - begin
                if place >= furthest:
                    _clear(sums, slot, channels)
                    continue
                record = _fields(records, k, fields)
                first, final, step = _window(records, k, left, top)
                added = _zeros(sum_count)
                for strip in range(first, final, step):
                    if until[np.uintp(strip)] > place:
                        added = _undraw(scratch, strip, place, record, left, top, added, with_absolute)
                _write(sums, slot, added)

    return blend_backward


@macro()
def _add_row(e: Emit, sums: Buffer, slot: Any, added: Buffer) -> None:
    """The moments and the first four channels of a slot, added to `added`."""
    start = e.builder.mul(slot, sums.row)
    for at in (0, 4, 8):
        added.store(at, added.load(at, 4) + sums.load(e.add(start, at), 4).to(ir.DoubleType()))


@macro()
def _spread(
    e: Emit, added: Buffer, row: Any, conics: Buffer, opacities: Buffer, v_means2d: Buffer, v_conics: Buffer,
    v_opacities: Buffer,
) -> None:  # fmt: skip
    """A record's moments into the gradients of its Gaussian."""
    g, g_dx, g_dy, g_dx2, g_dxdy, g_dy2 = (added.load(i) for i in range(6))

    def change(buffer: Buffer, width: int, values: Vector) -> None:
        start = e.times(row, width)
        for i, value in enumerate(values):
            place = e.add(start, i)
            buffer.store(place, (buffer.load(place).to(ir.DoubleType()) + value).to(ir.FloatType()))

    a, b, c = (conics.load(e.add(e.times(row, 3), i)).to(ir.DoubleType()) for i in range(3))
    change(v_means2d, 2, [-(a * g_dx + b * g_dy), -(b * g_dx + c * g_dy)])
    change(v_conics, 3, [-0.5 * g_dx2, -g_dxdy, -0.5 * g_dy2])
    opacity = opacities.load(row).to(ir.DoubleType())
    change(v_opacities, 1, [where(opacity > 0.0, g / opacity, 0.0)])


_GATHER = "i4[:] i8[:] f4[:,:] f4[:,:] f4[:,:] i8 i8 f4[:,:] f4[:,:] f4[:,:] f4[:,:] f4[:,:] f4[:,:]"


@kernel(_GATHER)
def gather_slots(lo: int, hi: int, pack: int) -> None:
    """Add each record's rows of `sums`, in the order of its tiles, to the gradients of its Gaussian."""
    (
        order, slots, sums, conics, opacities, first, with_depth,
        v_means2d, v_conics, v_opacities, v_colors, v_depths, v_abs,
    ) = unpack(pack, _GATHER)  # fmt: skip
    channels = sums.shape[1] - MOMENTS
    colored = min(max(v_colors.shape[1] - first, 0), channels)
    added = stack_doubles(_MOST_SUMS)
    for k in range(lo, hi):
        begin, end = slots[k], slots[k + 1]
        near = order[min(k + AHEAD, hi - 1)]
        prefetch(conics, near)
        prefetch(opacities, near)
        prefetch(v_means2d, near)
        prefetch(v_conics, near)
        prefetch(v_opacities, near)
        prefetch(v_colors, near)
        prefetch(v_depths, near)
        if begin == end:
            continue
        i = np.int64(order[k])
        for c in range(12):
            added[c] = 0.0
        for slot in range(begin, end):
            _add_row(sums, slot, added)
        _spread(added, i, conics, opacities, v_means2d, v_conics, v_opacities)
        for c in range(4, channels):
            added[MOMENTS + c] = 0.0
            for slot in range(begin, end):
                added[MOMENTS + c] += sums[slot, MOMENTS + c]
        for c in range(colored):
            v_colors[i, first + c] += added[MOMENTS + c]
        if with_depth and colored < channels:
            v_depths[i, 0] += added[MOMENTS + colored]
        if v_abs.shape[0] > 0:
            v_abs[i, 0] += added[6]
            v_abs[i, 1] += added[7]
