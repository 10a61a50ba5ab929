"""Kernels of coupling layers on splines, forward and backward: one point after another through all layers.

The formulas are those of `couple_reference`. Control points come in as (rows, layers, S, S, 2), log scale and shift
side by side, so that the four of a row that a point needs lie in 32 bytes.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from dyn4d.raster.native import kernel, unpack

_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_TWO, _THREE, _FOUR, _SIXTH = np.float32(2), np.float32(3), np.float32(4), np.float32(1 / 6)


@register_jitable
def _layer(n, layers, backwards):
    """The n-th layer from the first, or from the last: its number, the coordinate it moves, and the two others."""
    layer = np.uint64(layers - 1 - n if backwards else n)
    k = layer % np.uint64(3)
    return layer, k, (k + np.uint64(1)) % np.uint64(3), (k + np.uint64(2)) % np.uint64(3)


@register_jitable
def _find(place, cells, domain):
    """First control point, the way into its cell in [0, 1), and cells a unit of length (0 beyond the border)."""
    steps = np.float32(cells) / (_TWO * domain)
    cell = place * steps + np.float32(cells) * _HALF
    top = np.float32(cells) - np.float32(1e-3)
    clamped = min(max(cell, _ZERO), top)
    index = np.uint64(clamped)
    return index, clamped - np.float32(index), steps if clamped == cell else _ZERO


@register_jitable
def _weights(f):
    g = _ONE - f
    return (
        g * g * g * _SIXTH,
        (_THREE * f * f * (f - _TWO) + _FOUR) * _SIXTH,
        (_THREE * g * g * (g - _TWO) + _FOUR) * _SIXTH,
        f * f * f * _SIXTH,
    )


@register_jitable
def _slopes(f, steps):
    g = _ONE - f
    return (
        -_HALF * g * g * steps,
        _HALF * f * (_THREE * f - _FOUR) * steps,
        -_HALF * g * (_THREE * g - _FOUR) * steps,
        _HALF * f * f * steps,
    )


@register_jitable
def _along(planes, row, layer, i, j, w):
    """Log scale and shift, summed along four neighbours of one row of control points."""
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    return (
        w[0] * planes[row, layer, i, j, 0]
        + w[1] * planes[row, layer, i, j + one, 0]
        + w[2] * planes[row, layer, i, j + two, 0]
        + w[3] * planes[row, layer, i, j + three, 0],
        w[0] * planes[row, layer, i, j, 1]
        + w[1] * planes[row, layer, i, j + one, 1]
        + w[2] * planes[row, layer, i, j + two, 1]
        + w[3] * planes[row, layer, i, j + three, 1],
    )


@register_jitable
def _patch(planes, row, layer, i, j, w):
    """`_along` four rows of control points."""
    return (
        _along(planes, row, layer, i, j, w),
        _along(planes, row, layer, i + np.uint64(1), j, w),
        _along(planes, row, layer, i + np.uint64(2), j, w),
        _along(planes, row, layer, i + np.uint64(3), j, w),
    )


@register_jitable
def _across(w, patch, channel):
    return w[0] * patch[0][channel] + w[1] * patch[1][channel] + w[2] * patch[2][channel] + w[3] * patch[3][channel]


@register_jitable
def _stretch(raw, steepest, inverse):
    """The factor, and its derivative by `raw` divided by it."""
    ratio = raw / steepest
    narrow = _ONE / np.sqrt(_ONE + ratio * ratio)
    bounded = raw * narrow
    root = np.sqrt(_ONE + bounded * bounded)
    rate = narrow * narrow * narrow / root
    if inverse:
        return root - bounded, -rate
    return root + bounded, rate


@register_jitable
def _apply(before, scale, shift, inverse):
    if inverse:
        return (before - shift) * scale
    return before * scale + shift


@register_jitable
def _add(v_planes, slot, layer, i, j, w, raw, shift):
    for n in range(4):
        at = j + np.uint64(n)
        v_planes[slot, layer, i, at, 0] += w[n] * raw
        v_planes[slot, layer, i, at, 1] += w[n] * shift


_POINTS = "i8[:,:] f4[:,:] f4[:,:,:,:,:] i8 f4[:] f4[:,:] f4[:,:,:]"


@kernel(_POINTS)
def couple_points(lo: int, hi: int, pack: int) -> None:
    """Move the points of the pieces [lo, hi) into `moved`, with their Jacobians unless `jacobians` is empty."""
    pieces, points, planes, inverse, settings, moved, jacobians = unpack(pack, _POINTS)
    layers, cells = planes.shape[1], planes.shape[2] - 3
    domain, steepest = settings[0], settings[1]
    x, slope = np.empty(3, np.float32), np.empty((3, 3), np.float32)
    for piece in range(lo, hi):
        row = np.uint64(pieces[piece, 0])
        for p in range(np.uint64(pieces[piece, 1]), np.uint64(pieces[piece, 2])):
            for c in range(3):
                x[c] = points[p, c]
            if jacobians.shape[0] > 0:
                for c in range(9):
                    slope[c // 3, c % 3] = _ONE if c % 4 == 0 else _ZERO
            for n in range(layers):
                layer, k, a, b = _layer(n, layers, inverse)
                i, f_u, steps_u = _find(x[a], cells, domain)
                j, f_v, steps_v = _find(x[b], cells, domain)
                by_u, by_v = _weights(f_u), _weights(f_v)
                patch = _patch(planes, row, layer, i, j, by_v)
                shift = _across(by_u, patch, 1)
                scale, rate = _stretch(_across(by_u, patch, 0), steepest, inverse)
                before = x[k]
                after = _apply(before, scale, shift, inverse)
                if jacobians.shape[0] > 0:
                    slope_u, slope_v = _slopes(f_u, steps_u), _slopes(f_v, steps_v)
                    tilted = _patch(planes, row, layer, i, j, slope_v)
                    by_raw = (after if inverse else before * scale) * rate
                    by_shift = -scale if inverse else _ONE
                    d_u = by_raw * _across(slope_u, patch, 0) + by_shift * _across(slope_u, patch, 1)
                    d_v = by_raw * _across(by_u, tilted, 0) + by_shift * _across(by_u, tilted, 1)
                    for c in range(3):
                        slope[k, c] = scale * slope[k, c] + d_u * slope[a, c] + d_v * slope[b, c]
                x[k] = after
            for c in range(3):
                moved[p, c] = x[c]
            if jacobians.shape[0] > 0:
                for c in range(9):
                    jacobians[p, c // 3, c % 3] = slope[c // 3, c % 3]


_BACKWARD = "i8[:,:] f4[:,:] f4[:,:,:,:,:] i8 f4[:] f4[:,:] f4[:,:] f4[:,:,:,:,:]"


@kernel(_BACKWARD)
def couple_points_backward(lo: int, hi: int, pack: int) -> None:
    """Gradients of the pieces [lo, hi): of the points into `v_points`, of the planes added up in `v_planes`, in the
    slot that is each piece's last column. What each layer was given is kept on the way up."""
    pieces, points, planes, inverse, settings, v_moved, v_points, v_planes = unpack(pack, _BACKWARD)
    layers, cells = planes.shape[1], planes.shape[2] - 3
    domain, steepest = settings[0], settings[1]
    x, v, given = np.empty(3, np.float32), np.empty(3, np.float32), np.empty(layers, np.float32)
    for piece in range(lo, hi):
        row, slot = np.uint64(pieces[piece, 0]), np.uint64(pieces[piece, 3])
        for p in range(np.uint64(pieces[piece, 1]), np.uint64(pieces[piece, 2])):
            for c in range(3):
                x[c] = points[p, c]
                v[c] = v_moved[p, c]
            for n in range(layers):
                layer, k, a, b = _layer(n, layers, inverse)
                i, f_u, _ = _find(x[a], cells, domain)
                j, f_v, _ = _find(x[b], cells, domain)
                by_u = _weights(f_u)
                patch = _patch(planes, row, layer, i, j, _weights(f_v))
                scale, _ = _stretch(_across(by_u, patch, 0), steepest, inverse)
                given[n] = x[k]
                x[k] = _apply(x[k], scale, _across(by_u, patch, 1), inverse)
            for m in range(layers):
                layer, k, a, b = _layer(m, layers, not inverse)
                x[k] = given[layers - 1 - m]
                i, f_u, steps_u = _find(x[a], cells, domain)
                j, f_v, steps_v = _find(x[b], cells, domain)
                by_u, by_v = _weights(f_u), _weights(f_v)
                slope_u, slope_v = _slopes(f_u, steps_u), _slopes(f_v, steps_v)
                patch = _patch(planes, row, layer, i, j, by_v)
                tilted = _patch(planes, row, layer, i, j, slope_v)
                scale, rate = _stretch(_across(by_u, patch, 0), steepest, inverse)
                after = _apply(x[k], scale, _across(by_u, patch, 1), inverse)
                v_raw = v[k] * (after if inverse else x[k] * scale) * rate
                v_shift = v[k] * (-scale if inverse else _ONE)
                for r in range(4):
                    at = i + np.uint64(r)
                    _add(v_planes, slot, layer, at, j, by_v, v_raw * by_u[r], v_shift * by_u[r])
                v[a] += v_raw * _across(slope_u, patch, 0) + v_shift * _across(slope_u, patch, 1)
                v[b] += v_raw * _across(by_u, tilted, 0) + v_shift * _across(by_u, tilted, 1)
                v[k] *= scale
            for c in range(3):
                v_points[p, c] = v[c]
