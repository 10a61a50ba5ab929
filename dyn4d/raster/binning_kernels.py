"""Kernels that order the drawn Gaussians by depth and list them tile by tile.

Terms: a *record* is a drawn Gaussian, in depth order, with what blending needs of it; a *slot* is a (record, tile)
pair, numbered record by record.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false
# ^ a macro's definition has one argument more than its calls
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.extending import register_jitable

from dyn4d.raster.native import kernel, unpack
from dyn4d.raster.vectors import Buffer, Emit, ceil, floor, largest, log2, macro, prefetch, smallest, sqrt, where

TILE = 16  # pixels on a side
# floats of a record before its channels: u, v, the exponent's xx, xy, yy in base 2, log2 opacity, the pixels
# [x0, x1) x [y0, y1) in which alpha can reach 1/255, the conic's value where it does, and a spare that makes a record
# of four channels one line of the machine's cache
RECORD = 12
X0, X1, Y0, Y1, REACH = 6, 7, 8, 9, 10
AHEAD = 8  # how many steps ahead rows are fetched that lie in no order
FOUR = 4
DIGITS, RADIX = 3, 4096  # of the depth sort
EMPTY = 4  # what a tile costs besides its entries, in entries

_LOG2E = 1.4426950408889634


@register_jitable
def _comes_after(residues, a, b):
    """Is Gaussian a behind b, where their depths are the same float32?"""
    return residues[a, 0] > residues[b, 0]


@register_jitable
def _settle(rows, spare, start, end, residues):
    """Order rows[start:end], of one float32 depth, by what that lost of it; equal ones keep their order. Merge sort."""
    width = 1
    while width < end - start:
        for left in range(start, end, 2 * width):
            middle, right = min(left + width, end), min(left + 2 * width, end)
            a, b = left, middle
            for k in range(left, right):
                if a < middle and (b >= right or not _comes_after(residues, rows[a], rows[b])):
                    spare[k] = rows[a]
                    a += 1
                else:
                    spare[k] = rows[b]
                    b += 1
        for k in range(start, end):
            rows[k] = spare[k]
        width *= 2


_ORDER = "i4[:,:] f4[:,:] f4[:,:] i4[:] i4[:] u4[:] u4[:] i8[:,:] i8[:]"


@kernel(_ORDER)
def depth_order(lo: int, hi: int, pack: int) -> None:
    """Rows of the drawn Gaussians, nearest first; equal depths keep their order. Radix sort of the float's bits, then
    those of equal bits by `residues` (N, 1).

    rows, spare, keys and spare_keys (N,) are room to work in, histogram (DIGITS, RADIX) is zero; `found` (1,) gets how
    many there are, and `rows` begins with them.
    """
    radii, depths, residues, rows, spare, keys, spare_keys, histogram, found = unpack(pack, _ORDER)
    count = 0
    least = np.uint32(0xFFFFFFFF)
    for i in range(lo, hi):
        if radii[i, 0] > 0 or radii[i, 1] > 0:
            key = np.float32(depths[i, 0]).view(np.uint32)
            key ^= np.uint32(0xFFFFFFFF) if key >> np.uint32(31) else np.uint32(0x80000000)
            rows[count], keys[count] = i, key
            least = min(least, key)
            count += 1
    found[0] = count
    for k in range(count):  # depths of one object differ in few of their bits: fewer digits are left to sort by
        key = keys[k] - least
        keys[k] = key
        histogram[0, key & np.uint32(4095)] += 1
        histogram[1, (key >> np.uint32(12)) & np.uint32(4095)] += 1
        histogram[2, key >> np.uint32(24)] += 1
    passes = 0
    for digit in range(DIGITS):
        shift = np.uint32(12 * digit)
        start, most = 0, 0
        for value in range(RADIX):
            here = histogram[digit, value]
            histogram[digit, value] = start
            start += here
            most = max(most, here)
        if most == count:
            continue  # all the same in this digit
        source, to = (rows, spare) if passes % 2 == 0 else (spare, rows)
        source_keys, to_keys = (keys, spare_keys) if passes % 2 == 0 else (spare_keys, keys)
        for k in range(count):
            key = source_keys[k]
            place = (key >> shift) & np.uint32(4095)
            at = histogram[digit, place]
            histogram[digit, place] = at + 1
            to[at], to_keys[at] = source[k], key
        passes += 1
    if passes % 2 == 1:
        for k in range(count):
            rows[k], keys[k] = spare[k], spare_keys[k]
    start = 0
    for k in range(1, count + 1):
        if k == count or keys[k] != keys[start]:
            if k - start > 1:
                _settle(rows, spare, start, k, residues)
            start = k


@macro()
def _records(
    e: Emit, first: Any, end: Any, order: Buffer, means2d: Buffer, conics: Buffer, opacities: Buffer, width: Any,
    height: Any, records: Buffer,
) -> None:  # fmt: skip
    places = e.rows(first, end, FOUR)
    rows = [e.builder.sext(order.load(place).ir, e.integer(0).type) for place in places]
    u, v = e.gather(means2d, rows, 2)
    a, b, c = e.gather(conics, rows, 3)
    (opacity,) = e.gather(opacities, rows, 1)
    # of a needle longer than float32 can tell the determinant is rounding: then the box is long, but ends
    det = largest(a * c - b * b, 1e-9 * a * c)
    peak = where(opacity > 1e-30, log2(largest(opacity, 1e-30)), -100.0)
    reach = (peak + 7.994353436858858) * 1.3862943611198906  # 2 ln (255 opacity)
    visible = (opacity * 255.0 >= 1.0) & (det > 0.0)
    reach = where(visible, largest(reach, 0.0), -1.0)
    spread = largest(reach, 0.0) / det
    across, down = (sqrt(largest(spread * value, 0.0)) * 1.0001 + 0.01 for value in (c, a))
    box = []
    for middle, half, size in ((u, across, e.number(width)), (v, down, e.number(height))):
        low = smallest(largest(ceil(middle - half - 0.5), 0.0), size)
        high = smallest(largest(floor(middle + half + 0.5), 0.0), size)
        box += [where(visible, low, 0.0), where(visible, high, 0.0)]
    exponent = [-0.5 * _LOG2E * a, -_LOG2E * b, -0.5 * _LOG2E * c, peak]
    e.scatter(records, places, [u, v, *exponent, *box, reach, reach.like(0.0)])


@register_jitable
def _rows(records, k):
    """The rows of tiles [top, bottom) that record k reaches."""
    if not (records[k, X1] > records[k, X0] and records[k, Y1] > records[k, Y0]):
        return 0, 0
    return int(records[k, Y0]) >> 4, ((int(records[k, Y1]) - 1) >> 4) + 1


@register_jitable
def _columns(records, k, row):
    """The tiles [left, right) of a row of tiles that the ellipse of record k reaches.

    The box decides where it spans few tiles; corners of a large box are cut exactly.
    """
    left, right = int(records[k, X0]) >> 4, ((int(records[k, X1]) - 1) >> 4) + 1
    if right - left <= 2:
        return left, right
    # widest chord of q = a x² + 2 b x y + c y² <= reach over the rows of pixels y0 <= y <= y1, relative to the mean
    a, b = -2.0 * records[k, 2] / _LOG2E, -records[k, 3] / _LOG2E
    c, reach = -2.0 * records[k, 4] / _LOG2E, records[k, REACH] * 1.001 + 1e-3
    y0 = max(row * TILE, records[k, Y0]) + 0.5 - records[k, 1]
    y1 = min(row * TILE + TILE, records[k, Y1]) - 0.5 - records[k, 1]
    det = a * c - b * b
    if not det > 1e-3 * a * c:  # too long and thin to trust the rounded conic with an edge
        return left, right
    furthest = b * math.sqrt(reach / (c * det))  # how far above the mean the leftmost point lies
    low = min(max(furthest, y0), y1)
    high = min(max(-furthest, y0), y1)
    x0 = (-b * low - math.sqrt(max(a * reach - det * low * low, 0.0))) / a
    x1 = (-b * high + math.sqrt(max(a * reach - det * high * high, 0.0))) / a
    first = math.floor((records[k, 0] + x0 - 0.5) / TILE)
    last = math.floor((records[k, 0] + x1 + 0.5) / TILE)
    return min(max(left, first), right), max(min(right, last + 1), left)


_RECORDS = "i8[:] i4[:] f4[:,:] f4[:,:] f4[:,:] f4[:,:] f4[:,:] i8 i8 i8 i8 f4[:,:] i4[:,:] i8[:]"


@kernel(_RECORDS)
def make_records(lo: int, hi: int, pack: int) -> None:
    """For each part [parts[j], parts[j + 1]) of the drawn Gaussians, lo <= j < hi: pack what blending needs, in depth
    order, into records (M, RECORD + D): D channels from channel `first` on (colours, then depth if `with_depth`, then
    zeros). If counts (parts, tiles) has rows, it gets how many of a part's records reach each tile, and slots[k + 1]
    how many tiles record k reaches."""
    (
        parts, order, means2d, conics, opacities, colors, depths, first, with_depth, width, height,
        records, counts, slots,
    ) = unpack(pack, _RECORDS)  # fmt: skip
    channels = records.shape[1] - RECORD
    colored = min(max(colors.shape[1] - first, 0), channels)
    tiles_x = (width + TILE - 1) // TILE
    for part in range(lo, hi):
        end = parts[part + 1]
        for i in range(parts[part], end, FOUR):
            for k in range(min(i + AHEAD, end), min(i + AHEAD + FOUR, end)):
                prefetch(means2d, order[k])
                prefetch(conics, order[k])
                prefetch(opacities, order[k])
                prefetch(colors, order[k])
                prefetch(depths, order[k])
            _records(i, end, order, means2d, conics, opacities, width, height, records)
            for k in range(i, min(i + FOUR, end)):
                source = order[k]
                for channel in range(colored):
                    records[k, RECORD + channel] = colors[source, first + channel]
                for channel in range(colored, channels):
                    records[k, RECORD + channel] = np.float32(0)
                if with_depth and colored < channels:
                    records[k, RECORD + colored] = depths[source, 0]
        if counts.shape[0] == 0:
            continue
        for tile in range(counts.shape[1]):
            counts[part, tile] = 0
        for k in range(parts[part], end):
            reached = 0
            top, bottom = _rows(records, k)
            for row in range(top, bottom):
                left, right = _columns(records, k, row)
                reached += right - left
                for tile in range(row * tiles_x + left, row * tiles_x + right):
                    counts[part, tile] += 1
            slots[k + 1] = reached


_OFFSETS = "i4[:,:] i8[:] i8[:] i8[:]"


@kernel(_OFFSETS)
def tile_offsets(lo: int, hi: int, pack: int) -> None:
    """Turn counts into places: starts (tiles + 1,) of the tiles' lists, counts[part, tile] where a part's records
    begin in them, and slots (M + 1,) into running sums. `bounds` gets the ends of ranges of tiles that cost about the
    same to blend."""
    counts, starts, slots, bounds = unpack(pack, _OFFSETS)
    tiles, ranges = counts.shape[1], bounds.shape[0] - 1
    at = 0
    for tile in range(tiles):
        starts[tile] = at
        for part in range(counts.shape[0]):
            here = counts[part, tile]
            counts[part, tile] = at
            at += here
    starts[tiles] = at
    slots[0] = 0
    for k in range(1, slots.shape[0]):
        slots[k] += slots[k - 1]
    tile, total = 0, at + EMPTY * tiles
    for j in range(ranges):
        while (starts[tile] + EMPTY * tile) * ranges < total * j:
            tile += 1
        bounds[j] = tile
    bounds[ranges] = tiles


_CLEAR = "f4[:]"


@kernel(_CLEAR)
def clear(lo: int, hi: int, pack: int) -> None:
    """Zeros."""
    (numbers,) = unpack(pack, _CLEAR)
    for i in range(lo, hi):
        numbers[i] = np.float32(0)


_FILL = "i8[:] f4[:,:] i8 i4[:,:] i8[:] i4[:,:]"


@kernel(_FILL)
def fill_tiles(lo: int, hi: int, pack: int) -> None:
    """entries (slots, 2): tile by tile, nearest first, the record and its slot."""
    parts, records, tiles_x, cursors, slots, entries = unpack(pack, _FILL)
    for part in range(lo, hi):
        for k in range(parts[part], parts[part + 1]):
            slot = slots[k]
            top, bottom = _rows(records, k)
            for row in range(top, bottom):
                left, right = _columns(records, k, row)
                for tile in range(row * tiles_x + left, row * tiles_x + right):
                    at = cursors[part, tile]
                    cursors[part, tile] = at + 1
                    entries[at, 0], entries[at, 1] = k, slot
                    slot += 1
