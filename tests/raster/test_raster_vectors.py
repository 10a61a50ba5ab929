"""Vector arithmetic of the kernels, through small kernels made of one macro each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from llvmlite import ir
from numba import types

from dyn4d.raster.native import kernel, unpack
from dyn4d.raster.threads import launch_whole
from dyn4d.raster.vectors import (
    Buffer,
    Emit,
    Value,
    exp2,
    largest,
    log2,
    macro,
    smallest,
    some,
    total,
    totals,
    transposed,
    where,
)

# pyright: reportCallIssue=false
# ^ a macro's definition has one argument more than its calls

_FLOATS, _DOUBLES, _TABLES = "f4[:] f4[:]", "f8[:] f8[:]", "f4[:,:] f4[:,:]"


@macro()
def _exp2(e: Emit, source: Buffer, out: Buffer, at: Any) -> None:
    out.store(at, exp2(source.load(at, 8)))


@kernel(_FLOATS)
def exp2_kernel(lo: int, hi: int, pack: int) -> None:
    source, out = unpack(pack, _FLOATS)
    for at in range(lo, hi, 8):
        _exp2(source, out, at)


def exp2_of(powers: np.ndarray) -> np.ndarray:
    source = np.resize(powers.astype(np.float32), -(-len(powers) // 8) * 8)
    out = np.empty_like(source)
    launch_whole(exp2_kernel, len(source), torch.from_numpy(source), torch.from_numpy(out))
    return out[: len(powers)]


def test_exp2_is_nearly_exact_where_blending_uses_it() -> None:
    powers = np.concatenate([np.linspace(-30, 0, 200_003), np.linspace(0, 30, 1001)]).astype(np.float32)
    truth = np.exp2(powers.astype(np.float64))
    assert np.abs(exp2_of(powers) / truth - 1).max() < 2e-7


def test_exp2_of_one_more_is_exactly_twice_as_much() -> None:
    powers = np.arange(-29 * 512, 30 * 512) / 512  # exact in float32, and so is one less
    assert (exp2_of(powers) == 2 * exp2_of(powers - 1)).all()


def test_exp2_stays_at_its_least_value_below() -> None:
    powers = np.array([-30, -30.001, -31, -126, -127, -1e4, -1e30, -np.inf, np.nan])
    found = exp2_of(powers)
    assert (found == found[0]).all()
    assert found[0] == pytest.approx(2.0**-30, rel=2e-7)


@macro()
def _log2(e: Emit, source: Buffer, out: Buffer, at: Any) -> None:
    out.store(at, log2(source.load(at, 4)))


@kernel(_DOUBLES)
def log2_kernel(lo: int, hi: int, pack: int) -> None:
    source, out = unpack(pack, _DOUBLES)
    for at in range(lo, hi, 4):
        _log2(source, out, at)


def test_log2_over_all_normal_doubles() -> None:
    """Relative to the value, so also next to 1, where the logarithm vanishes."""
    rng = np.random.default_rng(0)
    anywhere = np.ldexp(rng.uniform(1, 2, 40_000), rng.integers(-1022, 1024, 40_000))
    near_one = 1 + rng.choice([-1, 1], 4000) * 10.0 ** rng.uniform(-12, -0.3, 4000)
    edges = np.array(
        [1.0, np.nextafter(1, 2), np.nextafter(1, 0), math.sqrt(2), math.sqrt(0.5), 1 / 255, 2.0**-1022, 3]
    )
    values = np.concatenate([anywhere, near_one, edges])
    found = np.empty_like(values)
    launch_whole(log2_kernel, len(values), torch.from_numpy(values), torch.from_numpy(found))
    truth = np.array([math.log2(v) for v in values])
    assert (np.abs(found - truth) <= 1e-11 * np.abs(truth)).all()


def test_log2_of_powers_of_two_is_exact() -> None:
    values = np.ldexp(1.0, np.arange(-1020, 1020))
    found = np.empty_like(values)
    launch_whole(log2_kernel, len(values), torch.from_numpy(values), torch.from_numpy(found))
    assert (found == np.arange(-1020, 1020)).all()


def _lines(table: Buffer, count: int) -> list[Value]:
    return [table.load(8 * i, 8) for i in range(count)]


@macro()
def _four_totals(e: Emit, table: Buffer, out: Buffer) -> None:
    out.store(0, totals(_lines(table, 4)))


@macro()
def _eight_totals(e: Emit, table: Buffer, out: Buffer) -> None:
    out.store(8, totals(_lines(table, 8)))
    out.store(16, total(table.load(0, 8)))


@macro()
def _transposed(e: Emit, table: Buffer, out: Buffer) -> None:
    for i, line in enumerate(transposed(_lines(table, 8))):
        out.store(24 + 8 * i, line)


@kernel(_TABLES)
def shuffle_kernel(lo: int, hi: int, pack: int) -> None:
    table, out = unpack(pack, _TABLES)
    _four_totals(table, out)
    _eight_totals(table, out)
    _transposed(table, out)


def test_sums_across_lanes_and_the_transpose() -> None:
    table = np.random.default_rng(0).integers(-1000, 1000, (8, 8)).astype(np.float32)  # their sums are exact
    out = np.full((11, 8), np.nan, np.float32)
    launch_whole(shuffle_kernel, 1, torch.from_numpy(table), torch.from_numpy(out))
    assert (out[0, :4] == table[:4].sum(1)).all() and np.isnan(out[0, 4:]).all()
    assert (out[1] == table.sum(1)).all()
    assert out[2, 0] == table[0].sum()
    assert (out[3:] == table.T).all()


@macro()
def _choose(e: Emit, table: Buffer, out: Buffer) -> None:
    a, b = _lines(table, 2)
    chosen = [where(a < b, 1.0, a.like(2.0)), where(a >= b, a.like(1.0), 2.0), largest(a, b), smallest(a, b)]
    for i, value in enumerate([*chosen, where(a.same(b), b, -1.0)]):
        out.store(8 * i, value)


@macro(types.int64)
def _any_above(e: Emit, table: Buffer, at: Any, limit: Value) -> Any:
    return e.builder.zext(some(table.load(at, 8) > limit).ir, ir.IntType(64))


@kernel(_TABLES)
def choice_kernel(lo: int, hi: int, pack: int) -> None:
    table, out = unpack(pack, _TABLES)
    _choose(table, out)
    for row in range(2, table.shape[0]):
        out[5, row] = _any_above(table, 8 * row, np.float32(0.5))


def test_choices_where_a_number_is_not_one() -> None:
    """Comparisons with NaN do not hold; the larger and the smaller of NaN and b are b."""
    nan, inf = math.nan, math.inf
    a, b = [1, 2, nan, nan, inf, -inf, 3, -0.0], [2, 1, 1, nan, 1, 1, 3, 0.0]
    mixed = [nan, nan, nan, 1, nan, nan, nan, -1]
    rows = [np.zeros(8), np.full(8, nan), np.eye(8)[0], np.eye(8)[7], np.full(8, 0.5), mixed]
    table = np.array([a, b, *rows], np.float32)
    out = np.empty((6, 8), np.float32)
    launch_whole(choice_kernel, 1, torch.from_numpy(table), torch.from_numpy(out))
    assert out[0].tolist() == [1, 2, 2, 2, 2, 1, 2, 2]
    assert out[1].tolist() == [2, 1, 2, 2, 1, 2, 1, 1]
    np.testing.assert_array_equal(out[2], np.array([2, 2, 1, nan, inf, 1, 3, 0], np.float32))
    np.testing.assert_array_equal(out[3], np.array([1, 1, 1, nan, 1, -inf, 3, 0], np.float32))
    assert out[4].tolist() == [-1, -1, -1, -1, -1, -1, 3, 0]
    assert out[5, 2:].tolist() == [0, 0, 1, 1, 0, 1]
