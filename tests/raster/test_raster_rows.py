"""How the kernels' vectors meet memory: rows that do not fill a vector, and pieces of the stack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from llvmlite import ir

from dyn4d.raster.native import kernel, unpack
from dyn4d.raster.threads import launch_whole
from dyn4d.raster.vectors import (
    DOUBLE4,
    Buffer,
    Emit,
    Value,
    macro,
    splat8,
    stack,
    stack_doubles,
    store8,
    total,
    where,
)

# pyright: reportCallIssue=false
# ^ a macro's definition has one argument more than its calls

_TABLES, _ROWS = "f4[:,:] f4[:,:]", "f4[:,:] f4[:,:] i4[:,:]"


@macro()
def _move(e: Emit, source: Buffer, out: Buffer, whole: Buffer, first: Any, end: Any) -> None:
    """Columns 1 and 2 of each row, doubled, to columns 0 and 1; the first of them also as integers."""
    rows = e.rows(first, end, 8)
    values = [2.0 * value for value in e.gather_floats(source, rows, 2, first=1)]
    e.scatter(out, rows, values)
    e.scatter(whole, rows, [values[0].whole()])


@macro()
def _move_doubles(e: Emit, source: Buffer, out: Buffer, whole: Buffer, first: Any, end: Any) -> None:
    """The same with columns 0 and 1, four at a time as doubles; counts each row once in column 1 of `whole`."""
    rows = e.rows(first, end, 4)
    e.scatter(out, rows, [value / 3.0 for value in e.gather(source, rows, 2)])
    once = where(e.valid(first, end, DOUBLE4), e.constant(DOUBLE4, 1.0), 0.0)
    before = Value(e.builder, e.builder.sitofp(whole.load(1).ir, ir.DoubleType()))
    whole.store(1, (before + total(once)).whole())


@kernel(_ROWS)
def rows_kernel(lo: int, hi: int, pack: int) -> None:
    source, out, whole = unpack(pack, _ROWS)
    for first in range(lo, hi, 8):
        _move(source, out, whole, first, hi)


@kernel(_ROWS)
def double_rows_kernel(lo: int, hi: int, pack: int) -> None:
    source, out, whole = unpack(pack, _ROWS)
    for first in range(lo, hi, 4):
        _move_doubles(source, out, whole, first, hi)


@pytest.mark.parametrize("count", [1, 3, 4, 7, 8, 9, 21])
def test_rows_that_do_not_fill_a_vector(count: int) -> None:
    """What lies beyond the last row is not written, and each row is counted once."""
    source = (np.random.default_rng(0).uniform(-50, 50, (count, 3))).astype(np.float32)
    guarded, whole = np.full((count + 8, 2), -7, np.float32), np.full((count + 8, 2), -7, np.int32)
    launch_whole(rows_kernel, count, *map(torch.from_numpy, (source, guarded[:count], whole[:count])))
    assert (guarded[:count] == 2 * source[:, 1:]).all() and (guarded[count:] == -7).all()
    assert (whole[:count, 0] == np.trunc(2 * source[:, 1])).all()
    assert (whole[count:] == -7).all() and (whole[:, 1] == -7).all()
    whole[:] = 0
    launch_whole(double_rows_kernel, count, *map(torch.from_numpy, (source, guarded[:count], whole[:count])))
    assert (guarded[:count] == (source[:, :2].astype(np.float64) / 3).astype(np.float32)).all()
    assert (guarded[count:] == -7).all() and whole[0, 1] == count


@kernel(_TABLES)
def stack_kernel(lo: int, hi: int, pack: int) -> None:
    """Fill two pieces of stack memory with a row and its squares, then read both back in reverse."""
    table, out = unpack(pack, _TABLES)
    plain, squares = stack(16), stack_doubles(16)
    store8(plain, 0, splat8(np.float32(-1)))
    store8(plain, 8, splat8(np.float32(-1)))
    for row in range(lo, hi):
        for x in range(table.shape[1]):
            plain[x], squares[x] = table[row, x], np.float64(table[row, x]) * table[row, x]
        for x in range(16):
            out[row, x], out[row, 16 + x] = plain[15 - x], squares[15 - x]


def test_stack_memory_is_ones_own() -> None:
    table = np.random.default_rng(0).integers(-2000, 2000, (500, 16)).astype(np.float32)
    out = np.zeros((500, 32), np.float32)
    launch_whole(stack_kernel, 500, torch.from_numpy(table), torch.from_numpy(out))
    assert (out[:, :16] == table[:, ::-1]).all() and (out[:, 16:] == table[:, ::-1] ** 2).all()
    launch_whole(stack_kernel, 1, torch.from_numpy(table[:1, :8].copy()), torch.from_numpy(out))
    assert (out[0, :8] == -1).all(), "what the row did not cover keeps what was stored in whole vectors"
