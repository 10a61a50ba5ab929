"""Numba kernels of SSIM: a separable window of 11 taps over pictures whose rows are flat (W · D numbers).

Blurred rows live in a ring of 11, so a picture is read once and nothing of its size is kept between the passes.
Ranges of rows are independent (each blurs five rows more on both sides): the same bits for any number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

TAPS = 11
_FLAGS = {"contract", "nsz"}
_compile = njit(nogil=True, cache=True, error_model="numpy", fastmath=_FLAGS)
_compile_parallel = njit(parallel=True, cache=True, error_model="numpy")
_f = np.float32
_u = np.uintp


@_compile
def _across(padded, channels, weights, ring, at, size):
    """Blur one padded row along x into ring[at : at + size]. `padded` has five pixels of zeros at both ends."""
    w0, w1, w2, w3, w4, w5 = weights[0], weights[1], weights[2], weights[3], weights[4], weights[5]
    d = _u(channels)
    for i in range(size):
        x = _u(i)
        ring[_u(at) + x] = (
            w0 * padded[x + _u(5) * d]
            + w1 * (padded[x + _u(4) * d] + padded[x + _u(6) * d])
            + w2 * (padded[x + _u(3) * d] + padded[x + _u(7) * d])
            + w3 * (padded[x + _u(2) * d] + padded[x + _u(8) * d])
            + w4 * (padded[x + d] + padded[x + _u(9) * d])
            + w5 * (padded[x] + padded[x + _u(10) * d])
        )


@_compile
def _down(ring, plane, row, weights, out, size):
    """Blur along y: 11 rows of one plane of the ring, the oldest in slot `row`, into out (size,)."""
    w0, w1, w2, w3, w4, w5 = weights[0], weights[1], weights[2], weights[3], weights[4], weights[5]
    p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10 = (
        _u((plane * TAPS + (row + 0) % TAPS) * size), _u((plane * TAPS + (row + 1) % TAPS) * size),
        _u((plane * TAPS + (row + 2) % TAPS) * size), _u((plane * TAPS + (row + 3) % TAPS) * size),
        _u((plane * TAPS + (row + 4) % TAPS) * size), _u((plane * TAPS + (row + 5) % TAPS) * size),
        _u((plane * TAPS + (row + 6) % TAPS) * size), _u((plane * TAPS + (row + 7) % TAPS) * size),
        _u((plane * TAPS + (row + 8) % TAPS) * size), _u((plane * TAPS + (row + 9) % TAPS) * size),
        _u((plane * TAPS + (row + 10) % TAPS) * size),
    )  # fmt: skip
    for i in range(size):
        x = _u(i)
        out[x] = (
            w0 * ring[p5 + x]
            + w1 * (ring[p4 + x] + ring[p6 + x])
            + w2 * (ring[p3 + x] + ring[p7 + x])
            + w3 * (ring[p2 + x] + ring[p8 + x])
            + w4 * (ring[p1 + x] + ring[p9 + x])
            + w5 * (ring[p0 + x] + ring[p10 + x])
        )


@_compile
def _product(a, b, padded, offset, size):
    for i in range(size):
        padded[_u(offset) + _u(i)] = a[_u(i)] * b[_u(i)]


@_compile
def _source(plane, a, b, padded, offset, size):
    """What plane 0 … 4 blurs: a, b, a·a, b·b, a·b."""
    if plane == 0:
        padded[offset : offset + size] = a
    elif plane == 1:
        padded[offset : offset + size] = b
    else:
        _product(b if plane == 3 else a, a if plane == 2 else b, padded, offset, size)


@_compile
def _similarity(mu_a, mu_b, aa, bb, ab, c1, c2, out):
    """One row of SSIM from the five blurred rows."""
    for i in range(len(out)):
        x = _u(i)
        m, n = mu_a[x], mu_b[x]
        above = (_f(2) * m * n + c1) * (_f(2) * (ab[x] - m * n) + c2)
        out[x] = above / ((m * m + n * n + c1) * (aa[x] - m * m + bb[x] - n * n + c2))


@_compile
def _slopes(mu_a, mu_b, aa, bb, ab, c1, c2, by_mean, by_square, by_product):
    """One row of SSIM's derivatives with respect to the blurred a, a·a and a·b."""
    for i in range(len(by_mean)):
        x = _u(i)
        m, n = mu_a[x], mu_b[x]
        a1, a2 = _f(2) * m * n + c1, _f(2) * (ab[x] - m * n) + c2
        i1 = _f(1) / (m * m + n * n + c1)
        i2 = _f(1) / (aa[x] - m * m + bb[x] - n * n + c2)
        value = a1 * a2 * i1 * i2
        by_mean[x] = _f(2) * (n * (a2 - a1) * i1 * i2 + m * value * (i2 - i1))
        by_square[x] = -value * i2
        by_product[x] = _f(2) * a1 * i1 * i2


@_compile
def ssim_chunk(lo, hi, a, b, channels, weights, c1, c2, out, by_mean, by_square, by_product):
    """SSIM of rows [lo, hi) of a, b (H, S) into out; derivatives into the other three, unless they are empty."""
    height, size = a.shape
    side = 5 * channels
    padded = np.zeros(size + 2 * side, np.float32)
    ring = np.zeros(5 * TAPS * size, np.float32)
    blurred = np.empty((5, size), np.float32)
    for y in range(lo - 5, hi + 5):
        slot = (y - lo + 5) % TAPS
        if y < 0 or y >= height:
            for plane in range(5):
                ring[(plane * TAPS + slot) * size : (plane * TAPS + slot + 1) * size] = _f(0)
        else:
            for plane in range(5):
                _source(plane, a[y], b[y], padded, side, size)
                _across(padded, channels, weights, ring, (plane * TAPS + slot) * size, size)
        if y < lo + 5:
            continue
        oldest = (slot + 1) % TAPS
        for plane in range(5):
            _down(ring, plane, oldest, weights, blurred[plane], size)
        mu_a, mu_b, aa, bb, ab = blurred[0], blurred[1], blurred[2], blurred[3], blurred[4]
        _similarity(mu_a, mu_b, aa, bb, ab, c1, c2, out[y - 5])
        if by_mean.shape[0] > 0:
            _slopes(mu_a, mu_b, aa, bb, ab, c1, c2, by_mean[y - 5], by_square[y - 5], by_product[y - 5])


@_compile
def ssim_backward_chunk(lo, hi, a, b, channels, weights, v_out, by_mean, by_square, by_product, v_a):
    """Gradient of `ssim_chunk` with respect to rows [lo, hi) of a."""
    height, size = a.shape
    side = 5 * channels
    padded = np.zeros(size + 2 * side, np.float32)
    ring = np.zeros(3 * TAPS * size, np.float32)
    blurred = np.empty((3, size), np.float32)
    for y in range(lo - 5, hi + 5):
        slot = (y - lo + 5) % TAPS
        if y < 0 or y >= height:
            for plane in range(3):
                ring[(plane * TAPS + slot) * size : (plane * TAPS + slot + 1) * size] = _f(0)
        else:
            for plane in range(3):
                slope = by_mean[y] if plane == 0 else (by_square[y] if plane == 1 else by_product[y])
                _product(v_out[y], slope, padded, side, size)
                _across(padded, channels, weights, ring, (plane * TAPS + slot) * size, size)
        if y < lo + 5:
            continue
        oldest = (slot + 1) % TAPS
        for plane in range(3):
            _down(ring, plane, oldest, weights, blurred[plane], size)
        row = y - 5
        for i in range(size):
            v_a[row, i] = blurred[0, i] + _f(2) * a[row, i] * blurred[1, i] + b[row, i] * blurred[2, i]


@_compile_parallel
def ssim_parallel(bounds, a, b, channels, weights, c1, c2, out, by_mean, by_square, by_product):
    for j in prange(len(bounds) - 1):
        ssim_chunk(
            bounds[j], bounds[j + 1], a, b, channels, weights, c1, c2, out, by_mean, by_square, by_product
        )  # fmt: skip


@_compile_parallel
def ssim_backward_parallel(bounds, a, b, channels, weights, v_out, by_mean, by_square, by_product, v_a):
    for j in prange(len(bounds) - 1):
        ssim_backward_chunk(
            bounds[j], bounds[j + 1], a, b, channels, weights, v_out, by_mean, by_square, by_product, v_a
        )  # fmt: skip
