"""Numba kernels for the picture: depth sort, binning into tiles, blending, forward and backward.

Organised as `gaussian_kernels`. Blending works on eight pixels of a row at a time, as explicit LLVM vectors: left to
itself, LLVM vectorises such loops on some machines and channel counts and not on others, at five times the cost.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalCall=false
# ^ the type checker sees the definitions of numba intrinsics, which have one argument more than their calls
from __future__ import annotations

import math
import operator

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

TILE = 16  # pixels on a side
LANES = 8  # pixels of a row that are handled together
MOMENTS = 6  # sums kept for each (Gaussian, tile) in the backward pass, before the D colour sums
RECORD = 8  # floats of a Gaussian before its D channels

_compile_exact = njit(nogil=True, cache=True, error_model="numpy")
_compile_parallel = njit(parallel=True, cache=True, error_model="numpy")

_f = np.float32
_u = np.uintp
_i = np.int32

_LOG2E = 1.4426950408889634

# ------------------------------------------------------------------------------------------------- eight at a time


class _Vector(types.Type):
    """Eight float32 in one vector register (or two half as wide: LLVM decides)."""

    def __init__(self) -> None:
        super().__init__(name="dyn4d_float32x8")


_vector = _Vector()
_ir_vector = ir.VectorType(ir.FloatType(), LANES)
_ir_integers = ir.VectorType(ir.IntType(32), LANES)
_FLAGS = ("contract", "nsz")  # fused multiply-add where there is one; never a different order of sums


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _ir_vector)


def _constant(value):
    return ir.Constant(_ir_vector, [float(np.float32(value))] * LANES)


def _define(operation, emit):
    """Make a Python operator work on two vectors."""

    class Template(ConcreteTemplate):
        cases = [signature(_vector, _vector, _vector)]  # noqa: RUF012

    infer_global(operation)(Template)

    @lower_builtin(operation, _Vector, _Vector)
    def lower(context, builder, sig, args):
        return emit(builder, *args)


_define(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=_FLAGS))
_define(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=_FLAGS))
_define(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=_FLAGS))
_define(operator.truediv, lambda builder, a, b: builder.fdiv(a, b, flags=_FLAGS))


def _address(context, builder, array_type, array, index):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _ir_vector.as_pointer())


@intrinsic
def _load(typingctx, array, index):
    """array[index : index + 8] of a flat float32 array."""

    def emit(context, builder, sig, args):
        return builder.load(_address(context, builder, sig.args[0], *args), align=4)

    return _vector(array, types.uintp), emit


@intrinsic
def _store(typingctx, array, index, value):
    """array[index : index + 8] = value."""

    def emit(context, builder, sig, args):
        builder.store(args[2], _address(context, builder, sig.args[0], args[0], args[1]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.uintp, _vector), emit


@intrinsic
def _splat(typingctx, value):
    """One float32 in all lanes."""

    def emit(context, builder, sig, args):
        first = builder.insert_element(ir.Constant(_ir_vector, ir.Undefined), args[0], cgutils.int32_t(0))
        zeros = ir.Constant(_ir_integers, [0] * LANES)
        return builder.shuffle_vector(first, ir.Constant(_ir_vector, ir.Undefined), zeros)

    return _vector(types.float32), emit


@intrinsic
def _steps(typingctx):
    """0, 1, … 7."""

    def emit(context, builder, sig, args):
        return ir.Constant(_ir_vector, [float(i) for i in range(LANES)])

    return _vector(), emit


@intrinsic
def _least(typingctx, a, b):
    def emit(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered("<", *args), *args)

    return _vector(_vector, _vector), emit


@intrinsic
def _where_at_least(typingctx, a, b, yes, no):
    """yes where a >= b, else no."""

    def emit(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered(">=", args[0], args[1]), args[2], args[3])

    return _vector(_vector, _vector, _vector, _vector), emit


@intrinsic
def _where_above(typingctx, a, b, yes, no):
    """yes where a > b, else no."""

    def emit(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return _vector(_vector, _vector, _vector, _vector), emit


_EXP2 = (
    1.000000071029702, 0.6931469491610636, 0.24022121753559728, 0.05550742616000658, 0.009675459745590045,
    0.001326697038745643,
)  # fmt: skip


@intrinsic
def _exp2(typingctx, p):
    """2**p for p <= 0, at least 2**-30: a minimax polynomial on [-0.5, 0.5] (relative error 1e-7) times a power of
    two made of its bits."""

    def emit(context, builder, sig, args):
        deep = _constant(-30.0)
        p = builder.select(builder.fcmp_ordered(">", args[0], deep), args[0], deep)
        whole = builder.fptosi(builder.fsub(p, _constant(0.5)), _ir_integers)  # towards zero: rounds to the nearest
        rest = builder.fsub(p, builder.sitofp(whole, _ir_vector))
        value = _constant(_EXP2[-1])
        for coefficient in _EXP2[-2::-1]:
            value = builder.fadd(builder.fmul(value, rest, flags=_FLAGS), _constant(coefficient), flags=_FLAGS)
        bits = builder.add(whole, ir.Constant(_ir_integers, [127] * LANES))
        bits = builder.shl(bits, ir.Constant(_ir_integers, [23] * LANES))
        return builder.fmul(value, builder.bitcast(bits, _ir_vector))

    return _vector(_vector), emit


def _fold(builder, value, combine):
    """Halve the vector until one lane is left; the same tree everywhere."""
    width = LANES
    while width > 1:
        width //= 2
        undefined = ir.Constant(value.type, ir.Undefined)
        mask = ir.VectorType(ir.IntType(32), width)
        low = builder.shuffle_vector(value, undefined, ir.Constant(mask, list(range(width))))
        high = builder.shuffle_vector(value, undefined, ir.Constant(mask, list(range(width, 2 * width))))
        value = combine(low, high)
    return builder.extract_element(value, cgutils.int32_t(0))


@intrinsic
def _total(typingctx, value):
    """Sum of the lanes."""

    def emit(context, builder, sig, args):
        return _fold(builder, args[0], lambda a, b: builder.fadd(a, b))

    return types.float32(_vector), emit


@intrinsic
def _largest(typingctx, value):
    def emit(context, builder, sig, args):
        return _fold(builder, args[0], lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))

    return types.float32(_vector), emit


# ------------------------------------------------------------------------------------------------ sort and binning


@_compile_exact
def depth_order(radii, depths):
    """Rows of the drawn Gaussians, nearest first; equal depths keep their order. Radix sort of the float's bits."""
    total = radii.shape[0]
    count = 0
    for i in range(total):
        if radii[i, 0] > 0 or radii[i, 1] > 0:
            count += 1
    rows, keys = np.empty((2, count), np.int32), np.empty((2, count), np.uint32)
    bits = depths.view(np.uint32)
    histogram = np.zeros((3, 2048), np.int64)
    k = 0
    for i in range(total):
        if radii[i, 0] > 0 or radii[i, 1] > 0:
            key = bits[i]
            key ^= np.uint32(0xFFFFFFFF) if key >> np.uint32(31) else np.uint32(0x80000000)
            rows[0, k], keys[0, k] = i, key
            k += 1
            for digit in range(3):
                histogram[digit, (key >> np.uint32(11 * digit)) & np.uint32(2047)] += 1
    source = 0
    for digit in range(3):
        start = 0
        for value in range(2048):
            here = histogram[digit, value]
            histogram[digit, value] = start
            start += here
        for k in range(count):
            key = keys[source, k]
            place = (key >> np.uint32(11 * digit)) & np.uint32(2047)
            at = histogram[digit, place]
            histogram[digit, place] = at + 1
            rows[1 - source, at], keys[1 - source, at] = rows[source, k], key
        source = 1 - source
    return rows[source].copy()


@_compile_exact
def record_chunk(
    lo, hi, order, means2d, conics, opacities, colors, depths, first, with_depth, width, height, records, boxes
):
    """Pack what blending needs, in depth order.

    records (M, RECORD + D): u, v, exponent's xx, xy, yy in base 2, log2 opacity, two spare, then D channels beginning
    with channel `first` (colours, then depth if `with_depth`, then zeros). boxes (M, 4) int32: the pixels
    [x0, x1) x [y0, y1) in which alpha can reach 1/255.
    """
    channels = records.shape[1] - RECORD
    for k in range(lo, hi):
        i = order[k]
        u, v, opacity = float(means2d[i, 0]), float(means2d[i, 1]), float(opacities[i])
        a, b, c = float(conics[i, 0]), float(conics[i, 1]), float(conics[i, 2])
        records[k, 0], records[k, 1] = u, v
        records[k, 2], records[k, 3], records[k, 4] = -0.5 * _LOG2E * a, -_LOG2E * b, -0.5 * _LOG2E * c
        records[k, 5] = math.log2(opacity) if opacity > 0 else -100.0
        records[k, 6] = records[k, 7] = 0.0
        for channel in range(channels):
            at = first + channel
            value = 0.0
            if at < colors.shape[1]:
                value = float(colors[i, at])
            elif at == colors.shape[1] and with_depth:
                value = float(depths[i])
            records[k, RECORD + channel] = value
        boxes[k, 0] = boxes[k, 1] = boxes[k, 2] = boxes[k, 3] = 0
        det = a * c - b * b
        if opacity * 255.0 >= 1.0 and det > 0.0:
            reach = 2.0 * math.log(opacity * 255.0) / det
            across, down = math.sqrt(reach * c) * 1.0001 + 0.01, math.sqrt(reach * a) * 1.0001 + 0.01
            boxes[k, 0] = int(min(max(math.ceil(u - across - 0.5), 0.0), width))
            boxes[k, 1] = int(min(max(math.floor(u + across + 0.5), 0.0), width))
            boxes[k, 2] = int(min(max(math.ceil(v - down - 0.5), 0.0), height))
            boxes[k, 3] = int(min(max(math.floor(v + down + 0.5), 0.0), height))


@_compile_exact
def slot_offsets(boxes):
    """Where each record's (tile) slots start, row by row of its tiles: (M + 1,)."""
    offsets = np.empty(boxes.shape[0] + 1, np.int64)
    total = 0
    for k in range(boxes.shape[0]):
        offsets[k] = total
        if boxes[k, 1] > boxes[k, 0] and boxes[k, 3] > boxes[k, 2]:
            across = (boxes[k, 1] - 1) // TILE - boxes[k, 0] // TILE + 1
            total += across * ((boxes[k, 3] - 1) // TILE - boxes[k, 2] // TILE + 1)
    offsets[boxes.shape[0]] = total
    return offsets


@_compile_exact
def count_chunk(lo, hi, boxes, tiles_x, counts):
    """Records in each tile of the tile rows [lo, hi), into counts (tiles + 1,) shifted by one."""
    for tile in range(lo * tiles_x, hi * tiles_x):
        counts[tile + 1] = 0
    for k in range(boxes.shape[0]):
        if boxes[k, 1] > boxes[k, 0] and boxes[k, 3] > boxes[k, 2]:
            left, right = boxes[k, 0] // TILE, (boxes[k, 1] - 1) // TILE + 1
            for row in range(max(boxes[k, 2] // TILE, lo), min((boxes[k, 3] - 1) // TILE + 1, hi)):
                for column in range(left, right):
                    counts[row * tiles_x + column + 1] += 1


@_compile_exact
def fill_chunk(lo, hi, boxes, tiles_x, starts, ids):
    """The records of each tile of the tile rows [lo, hi), nearest first."""
    cursor = starts[lo * tiles_x : hi * tiles_x].copy()
    for k in range(boxes.shape[0]):
        if boxes[k, 1] > boxes[k, 0] and boxes[k, 3] > boxes[k, 2]:
            left, right = boxes[k, 0] // TILE, (boxes[k, 1] - 1) // TILE + 1
            for row in range(max(boxes[k, 2] // TILE, lo), min((boxes[k, 3] - 1) // TILE + 1, hi)):
                for column in range(left, right):
                    tile = (row - lo) * tiles_x + column
                    ids[cursor[tile]] = k
                    cursor[tile] += 1


# -------------------------------------------------------------------------------------------------------- blending


# scratch of one tile: planes of 256 pixels with the transmittance (minus it once the pixel has ended), the last record
# drawn, then D planes of colour
_PIXELS = _u(TILE * TILE)
_P_LAST, _P_CHANNELS = _u(256), _u(512)


@_compile_exact
def blend_chunk(lo, hi, dims, records, boxes, starts, ids, background, expected, width, tiles_x, image, alpha, last):
    """Blend the tiles [lo, hi) front to back.

    `dims` is a tuple whose length is D, so that D is known when this is compiled. Writes image (H, W, D) over
    `background` (D,), alpha (H, W) and last (H, W): one past the place in the tile's list of the last record drawn.
    `expected` >= 0 names a channel to divide by alpha.
    """
    count = len(dims)
    height = alpha.shape[0]
    one, zero = _splat(_f(1.0)), _splat(_f(0.0))
    least, most, stop = _splat(_f(1.0 / 255.0)), _splat(_f(0.999)), _splat(_f(1e-4))
    scratch = np.empty(512 + 256 * count, np.float32)
    alive = np.empty(TILE * TILE // LANES, np.int32)
    for tile in range(lo, hi):
        left, top = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
        for row in range(TILE):
            for lane in range(TILE):
                at = _u(row * TILE + lane)
                scratch[at] = _f(1.0) if left + lane < width and top + row < height else _f(-1.0)
                scratch[_P_LAST + at] = _f(0.0)
                for c in range(count):
                    scratch[_P_CHANNELS + _u(c) * _PIXELS + at] = _f(0.0)
        alive[:] = 1
        begin, end = starts[tile], starts[tile + 1]
        for place in range(begin, end):
            if (place - begin) % 16 == 15:  # which strips still let light through?
                any_left = 0
                for strip in range(TILE * TILE // LANES):
                    alive[strip] = 1 if _largest(_load(scratch, _u(strip * LANES))) > _f(0.0) else 0
                    any_left += alive[strip]
                if any_left == 0:
                    break
            k = _u(ids[place])
            mark = _splat(_f(place - begin + 1))
            u, v, qb, qc, peak = records[k, 0], records[k, 1], records[k, 3], records[k, 4], records[k, 5]
            qa, ceiling = _splat(records[k, 2]), _splat(peak)
            row0, row1 = max(boxes[k, 2] - top, 0), min(boxes[k, 3] - top, TILE)
            strip0, strip1 = max(boxes[k, 0] - left, 0) // LANES, (min(boxes[k, 1] - left, TILE) - 1) // LANES + 1
            for strip in range(strip0, strip1):
                dx = _splat(u - (_f(left + strip * LANES) + _f(0.5))) - _steps()
                for row in range(row0, row1):
                    if alive[row * (TILE // LANES) + strip] == 0:
                        continue
                    at = _u(row * TILE + strip * LANES)
                    dy = v - (_f(top + row) + _f(0.5))
                    base, slope = _splat(peak + qc * dy * dy), _splat(qb * dy)
                    a = _least(_exp2(_least(base + dx * (slope + qa * dx), ceiling)), most)
                    a = _where_at_least(a, least, a, zero)
                    signed = _load(scratch, at)
                    t = _where_above(signed, zero, signed, zero)
                    after = t * (one - a)
                    weight = _where_above(after, stop, a * t, zero)
                    ended = _where_above(signed, zero, zero - signed, signed)
                    _store(scratch, at, _where_above(after, stop, after, ended))
                    # marks grow, so the larger one is the later; a select here would become a slow masked store
                    seen, previous = _where_above(weight, zero, mark, zero), _load(scratch, _P_LAST + at)
                    _store(scratch, _P_LAST + at, _where_above(seen, previous, seen, previous))
                    for c in range(count):
                        plane = _P_CHANNELS + _u(c) * _PIXELS + at
                        _store(scratch, plane, _load(scratch, plane) + weight * _splat(records[k, _u(RECORD + c)]))
        for row in range(min(TILE, height - top)):
            for lane in range(min(TILE, width - left)):
                at = _u(row * TILE + lane)
                through = abs(scratch[at])
                alpha[top + row, left + lane] = _f(1.0) - through
                last[top + row, left + lane] = _i(scratch[_P_LAST + at])
                for c in range(count):
                    value = scratch[_P_CHANNELS + _u(c) * _PIXELS + at] + through * background[c]
                    if c == expected:
                        value /= max(_f(1.0) - through, _f(1e-10))
                    image[top + row, left + lane, c] = value


# scratch of one tile in the backward pass: T, dot product of what lies behind, last, gradients of D channels, and for
# one record the D channel sums by lane
_B_BEHIND, _B_LAST, _B_CHANNELS = _u(256), _u(512), _u(768)


@_compile_exact
def blend_backward_chunk(
    lo, hi, dims, records, boxes, slots, starts, ids, background, expected, absgrad, width, tiles_x,
    image, alpha, last, v_image, v_alpha, sums,
):  # fmt: skip
    """Gradients of `blend_chunk`, back to front, into sums (slots, MOMENTS + D + 2): one row for each (record, tile).

    A row holds the sums over the tile's pixels of g, g dx, g dy, g dx², g dx dy, g dy², where g = alpha dL/dalpha and
    (dx, dy) points from the pixel to the mean; D channel gradients; and |dL/du|, |dL/dv|.
    """
    count = len(dims)
    height = alpha.shape[0]
    o_color = _u(768 + 256 * count)
    one, zero = _splat(_f(1.0)), _splat(_f(0.0))
    least, most = _splat(_f(1.0 / 255.0)), _splat(_f(0.999))
    scratch = np.empty(768 + 256 * count + LANES * count, np.float32)
    alive = np.empty(TILE * TILE // LANES, np.int32)
    for tile in range(lo, hi):
        left, top = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
        begin, end = starts[tile], starts[tile + 1]
        final = 0
        alive[:] = 0  # one past the last record that any pixel of a strip drew
        for row in range(TILE):
            for lane in range(TILE):
                at = _u(row * TILE + lane)
                inside = left + lane < width and top + row < height
                scratch[at] = _f(1.0)
                scratch[_B_BEHIND + at] = scratch[_B_LAST + at] = _f(0.0)
                for c in range(count):
                    scratch[_B_CHANNELS + _u(c) * _PIXELS + at] = _f(0.0)
                if not inside:
                    continue
                y, x = top + row, left + lane
                covered = alpha[y, x]
                through = _f(1.0) - covered
                v_covered = v_alpha[y, x]
                behind = _f(0.0)
                for c in range(count):
                    value = v_image[y, x, c]
                    if c == expected:
                        v_sum = value / max(covered, _f(1e-10))
                        if covered > _f(1e-10):
                            v_covered -= v_sum * image[y, x, c]
                        value = v_sum
                    scratch[_B_CHANNELS + _u(c) * _PIXELS + at] = value
                    behind += value * background[c]
                scratch[at] = through
                scratch[_B_BEHIND + at] = through * (behind - v_covered)
                scratch[_B_LAST + at] = _f(last[y, x])
                strip = (row * TILE + lane) // LANES
                alive[strip] = max(alive[strip], last[y, x])
                final = max(final, last[y, x])
        for place in range(end - 1, begin - 1, -1):
            k = ids[place]
            tile_x0 = boxes[k, 0] // TILE
            across = (boxes[k, 1] - 1) // TILE - tile_x0 + 1
            slot = slots[k] + (top // TILE - boxes[k, 2] // TILE) * across + left // TILE - tile_x0
            for c in range(MOMENTS + count + 2):
                sums[slot, c] = _f(0.0)
            if place - begin >= final:
                continue
            mark = _splat(_f(place - begin + 1))
            u, v, qb, qc, peak = records[k, 0], records[k, 1], records[k, 3], records[k, 4], records[k, 5]
            qa, ceiling = _splat(records[k, 2]), _splat(peak)
            row0, row1 = max(boxes[k, 2] - top, 0), min(boxes[k, 3] - top, TILE)
            strip0, strip1 = max(boxes[k, 0] - left, 0) // LANES, (min(boxes[k, 1] - left, TILE) - 1) // LANES + 1
            for strip in range(strip0, strip1):
                dx = _splat(u - (_f(left + strip * LANES) + _f(0.5))) - _steps()
                sum0, sum1, sum2, abs_x, abs_y = zero, zero, zero, zero, zero  # of g, g dy, g dy² over rows, by lane
                for c in range(count):
                    _store(scratch, o_color + _u(c * LANES), zero)
                for row in range(row0, row1):
                    if alive[row * (TILE // LANES) + strip] <= place - begin:
                        continue
                    at = _u(row * TILE + strip * LANES)
                    dy = v - (_f(top + row) + _f(0.5))
                    base, slope = _splat(peak + qc * dy * dy), _splat(qb * dy)
                    raw = _exp2(_least(base + dx * (slope + qa * dx), ceiling))
                    a = _least(raw, most)
                    a = _where_at_least(a, least, a, zero)
                    a = _where_at_least(_load(scratch, _B_LAST + at), mark, a, zero)
                    again = one / (one - a)
                    t = _load(scratch, at) * again
                    _store(scratch, at, t)
                    weight = a * t
                    dot = zero
                    for c in range(count):
                        value = _load(scratch, _B_CHANNELS + _u(c) * _PIXELS + at)
                        dot = dot + value * _splat(records[k, _u(RECORD + c)])
                        place_c = o_color + _u(c * LANES)
                        _store(scratch, place_c, _load(scratch, place_c) + weight * value)
                    behind = _load(scratch, _B_BEHIND + at)
                    g = _where_at_least(most, raw, a * (t * dot - behind * again), zero)
                    _store(scratch, _B_BEHIND + at, behind + weight * dot)
                    g_dy = g * _splat(dy)
                    sum0 = sum0 + g
                    sum1 = sum1 + g_dy
                    sum2 = sum2 + g_dy * _splat(dy)
                    if absgrad:  # the slope of the exponent, in base 2
                        along = g * (qa * dx + qa * dx + slope)
                        down = g * (_splat(_f(2.0) * qc * dy) + _splat(qb) * dx)
                        abs_x = abs_x + _where_at_least(along, zero, along, zero - along)
                        abs_y = abs_y + _where_at_least(down, zero, down, zero - down)
                sums[slot, 0] += _total(sum0)
                sums[slot, 1] += _total(sum0 * dx)
                sums[slot, 2] += _total(sum1)
                sums[slot, 3] += _total(sum0 * dx * dx)
                sums[slot, 4] += _total(sum1 * dx)
                sums[slot, 5] += _total(sum2)
                for c in range(count):
                    sums[slot, MOMENTS + c] += _total(_load(scratch, o_color + _u(c * LANES)))
                if absgrad:
                    sums[slot, MOMENTS + count] += _total(abs_x) * _f(1.0 / _LOG2E)
                    sums[slot, MOMENTS + count + 1] += _total(abs_y) * _f(1.0 / _LOG2E)


@_compile_exact
def gather_chunk(
    lo, hi, order, slots, sums, conics, opacities, first, with_depth,
    v_means2d, v_conics, v_opacities, v_colors, v_depths, v_abs,
):  # fmt: skip
    """Add each record's rows of `sums`, in the order of its tiles, to the gradients of its Gaussian."""
    width = sums.shape[1]
    channels = width - MOMENTS - 2
    total = np.empty(width, np.float64)
    for k in range(lo, hi):
        total[:] = 0.0
        for slot in range(slots[k], slots[k + 1]):
            for c in range(width):
                total[c] += sums[slot, c]
        i = order[k]
        a, b, c2 = conics[i, 0], conics[i, 1], conics[i, 2]
        v_means2d[i, 0] -= a * total[1] + b * total[2]
        v_means2d[i, 1] -= b * total[1] + c2 * total[2]
        v_conics[i, 0] -= 0.5 * total[3]
        v_conics[i, 1] -= total[4]
        v_conics[i, 2] -= 0.5 * total[5]
        if opacities[i] > 0:
            v_opacities[i] += total[0] / opacities[i]
        for channel in range(channels):
            at = first + channel
            if at < v_colors.shape[1]:
                v_colors[i, at] += total[MOMENTS + channel]
            elif at == v_colors.shape[1] and with_depth:
                v_depths[i] += total[MOMENTS + channel]
        if v_abs.shape[0] > 0:
            v_abs[i, 0] += total[MOMENTS + channels]
            v_abs[i, 1] += total[MOMENTS + channels + 1]


# ------------------------------------------------------------------------------------------------ prange drivers


@_compile_parallel
def record_parallel(
    bounds, order, means2d, conics, opacities, colors, depths, first, with_depth, width, height, records, boxes
):
    for j in prange(len(bounds) - 1):
        record_chunk(
            bounds[j],
            bounds[j + 1],
            order,
            means2d,
            conics,
            opacities,
            colors,
            depths,
            first,
            with_depth,
            width,
            height,
            records,
            boxes,
        )


@_compile_parallel
def count_parallel(bounds, boxes, tiles_x, counts):
    for j in prange(len(bounds) - 1):
        count_chunk(bounds[j], bounds[j + 1], boxes, tiles_x, counts)


@_compile_parallel
def fill_parallel(bounds, boxes, tiles_x, starts, ids):
    for j in prange(len(bounds) - 1):
        fill_chunk(bounds[j], bounds[j + 1], boxes, tiles_x, starts, ids)


@_compile_parallel
def blend_parallel(bounds, dims, records, boxes, starts, ids, background, expected, width, tiles_x, image, alpha, last):
    for j in prange(len(bounds) - 1):
        blend_chunk(
            bounds[j],
            bounds[j + 1],
            dims,
            records,
            boxes,
            starts,
            ids,
            background,
            expected,
            width,
            tiles_x,
            image,
            alpha,
            last,
        )


@_compile_parallel
def blend_backward_parallel(
    bounds,
    dims,
    records,
    boxes,
    slots,
    starts,
    ids,
    background,
    expected,
    absgrad,
    width,
    tiles_x,
    image,
    alpha,
    last,
    v_image,
    v_alpha,
    sums,
):
    for j in prange(len(bounds) - 1):
        blend_backward_chunk(
            bounds[j],
            bounds[j + 1],
            dims,
            records,
            boxes,
            slots,
            starts,
            ids,
            background,
            expected,
            absgrad,
            width,
            tiles_x,
            image,
            alpha,
            last,
            v_image,
            v_alpha,
            sums,
        )


@_compile_parallel
def gather_parallel(
    bounds,
    order,
    slots,
    sums,
    conics,
    opacities,
    first,
    with_depth,
    v_means2d,
    v_conics,
    v_opacities,
    v_colors,
    v_depths,
    v_abs,
):
    for j in prange(len(bounds) - 1):
        gather_chunk(
            bounds[j],
            bounds[j + 1],
            order,
            slots,
            sums,
            conics,
            opacities,
            first,
            with_depth,
            v_means2d,
            v_conics,
            v_opacities,
            v_colors,
            v_depths,
            v_abs,
        )
