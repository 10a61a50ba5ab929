"""Kernels that turn spherical harmonics into colours and their gradients back, eight Gaussians at a time.

They exist once for each degree, compiled when it is first used: the degree decides how much there is to unroll.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false
# ^ a macro's definition has one argument more than its calls
from __future__ import annotations

from functools import cache
from typing import Any

from numba import types

from dyn4d.raster.native import Kernel, kernel, unpack
from dyn4d.raster.vectors import FLOAT8, Buffer, Emit, Value, largest, macro, sqrt, stack, transposed, where

BLOCK = 512  # Gaussians whose camera gradients are added up before they meet those of other blocks
EIGHT = 8
_CENTRE = 3 * EIGHT

Vector = list[Value]


def _basis(degree: int, x: Value, y: Value, z: Value) -> Vector:
    """Basis values in the unit direction (x, y, z). See `sh.sh_basis`."""
    out = [x.like(0.28209479177387814)]
    if degree > 0:
        out += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree > 1:
        c1, s1, b = x * x - y * y, 2.0 * x * y, -1.0925484305920792 * z
        six = 0.9461746957575601 * z * z - 0.31539156525252005
        out += [0.5462742152960396 * s1, b * y, six, b * x, 0.5462742152960396 * c1]
    if degree > 2:
        c2, s2 = x * c1 - y * s1, x * s1 + y * c1
        c, b, a = -2.285228997322329 * z * z + 0.4570457994644658, 1.445305721320277 * z, -0.5900435899266435
        twelve = z * (1.865881662950577 * z * z - 1.119528997770346)
        out += [a * s2, b * s1, c * y, twelve, c * x, b * c1, a * c2]
    if degree > 3:
        c3, s3 = x * c2 - y * s2, x * s2 + y * c2
        d = z * (-4.683325804901025 * z * z + 2.007139630671868)
        c, b, a = 3.3116114351514603 * z * z - 0.47308734787878004, -1.7701307697799304 * z, 0.6258357354491761
        out += [a * s3, b * s2, c * s1, d * y, 1.9843134832984433 * z * twelve - 1.0062305898749053 * six]
        out += [d * x, c * c1, b * c2, a * c3]
    return out


def _slope(degree: int, x: Value, y: Value, z: Value, g: Vector) -> Vector:
    """Gradient (x, y, z) of sum(g * basis), the basis as polynomials in x, y, z."""
    # (x + iy)ⁿ = cₙ₋₁ + i sₙ₋₁; its slope along x is n (x + iy)ⁿ⁻¹ and along y is i times that
    vx, vy, vz = -0.4886025119029199 * g[3], -0.4886025119029199 * g[1], 0.4886025119029199 * g[2]
    if degree > 1:
        c1, s1, k = x * x - y * y, 2.0 * x * y, 1.0925484305920792
        vx = vx + k * (g[4] * y + g[8] * x - g[7] * z)
        vy = vy + k * (g[4] * x - g[8] * y - g[5] * z)
        slope6 = 1.8923493915151202 * z
        vz = vz + g[6] * slope6 - k * (g[5] * y + g[7] * x)
    if degree > 2:
        c2, s2 = x * c1 - y * s1, x * s1 + y * c1
        a, b = -1.7701307697799304, 1.445305721320277  # three times -0.59
        c = -2.285228997322329 * z * z + 0.4570457994644658
        vx = vx + a * (g[9] * s1 + g[15] * c1) + 2.0 * b * z * (g[10] * y + g[14] * x) + c * g[13]
        vy = vy + a * (g[9] * c1 - g[15] * s1) + 2.0 * b * z * (g[10] * x - g[14] * y) + c * g[11]
        p12 = z * (1.865881662950577 * z * z - 1.119528997770346)
        slope12 = 5.597644988851731 * z * z - 1.119528997770346
        vz = vz + b * (g[10] * s1 + g[14] * c1) - 4.570457994644658 * z * (g[11] * y + g[13] * x) + g[12] * slope12
    if degree > 3:
        a, b = 2.5033429417967046, -1.7701307697799304  # four times 0.626
        c = 3.3116114351514603 * z * z - 0.47308734787878004
        d = z * (-4.683325804901025 * z * z + 2.007139630671868)
        vx = vx + a * (g[16] * s2 + g[24] * c2) + 3.0 * b * z * (g[17] * s1 + g[23] * c1)
        vx = vx + 2.0 * c * (g[18] * y + g[22] * x) + d * g[21]
        vy = vy + a * (g[16] * c2 - g[24] * s2) + 3.0 * b * z * (g[17] * c1 - g[23] * s1)
        vy = vy + 2.0 * c * (g[18] * x - g[22] * y) + d * g[19]
        vz = vz + b * (g[17] * s2 + g[23] * c2) + 6.6232228703029206 * z * (g[18] * s1 + g[22] * c1)
        vz = vz + (-14.049977414703075 * z * z + 2.007139630671868) * (g[19] * y + g[21] * x)
        vz = vz + g[20] * (1.9843134832984433 * (p12 + z * slope12) - 1.0062305898749053 * slope6)
    return [vx, vy, vz]


def _direction(e: Emit, means: Buffer, centre: Buffer, rows: list[Any]) -> tuple[Value, Vector]:
    """One over the distance from the camera, and the unit direction."""
    x, y, z = (m - centre.load(i).splat(EIGHT) for i, m in enumerate(e.gather_floats(means, rows, 3)))
    inverse = 1.0 / largest(sqrt(x * x + y * y + z * z), 1e-12)
    return inverse, [x * inverse, y * inverse, z * inverse]


def _load(e: Emit, table: Buffer, rows: list[Any], columns: int) -> Vector:
    """The first `columns` numbers of eight rows of a 2D array: one vector for each column."""
    starts = [e.builder.mul(row, table.row) for row in rows]
    out: Vector = []
    for column in range(0, columns - columns % EIGHT, EIGHT):
        out += transposed([table.load(e.add(start, column), EIGHT) for start in starts])
    return out + e.gather_floats(table, rows, columns % EIGHT, first=columns - columns % EIGHT)


def _store(e: Emit, table: Buffer, rows: list[Any], values: Vector) -> None:
    """The reverse of `_load`."""
    starts = [e.builder.mul(row, table.row) for row in rows]
    whole = len(values) - len(values) % EIGHT
    for column in range(0, whole, EIGHT):
        for start, line in zip(starts, transposed(values[column : column + EIGHT])):
            table.store(e.add(start, column), line)
    for column in range(whole, len(values)):
        for lane, start in enumerate(starts):
            table.store(e.add(start, column), values[column].lane(lane))


@macro(types.int64)
def _colors(
    e: Emit, degree: int, first: Any, end: Any, means: Buffer, centre: Buffer, coefficients: Buffer, radii: Buffer,
    colors: Buffer,
) -> Any:  # fmt: skip
    """Returns 1 if a coefficient is not finite."""
    rows = e.rows(first, end, EIGHT)
    basis = _basis(degree, *_direction(e, means, centre, rows)[1])
    table = _load(e, coefficients, rows, 3 * len(basis))
    drawn = e.drawn(radii, rows)
    out = []
    for channel in range(3):
        value = basis[0].like(0.5)
        for k, weight in enumerate(basis):
            value = value + weight * table[3 * k + channel]
        out.append(where(drawn, largest(value, 0.0), 0.0))
    _store(e, colors, rows, out)
    return e.not_finite(table)


@macro()
def _colors_backward(
    e: Emit, degree: int, first: Any, end: Any, means: Buffer, centre: Buffer, coefficients: Buffer, radii: Buffer,
    colors: Buffer, v_colors: Buffer, v_coefficients: Buffer, v_means: Buffer, v_centre: Buffer,
) -> None:  # fmt: skip
    rows = e.rows(first, end, EIGHT)
    inverse, (x, y, z) = _direction(e, means, centre, rows)
    basis = _basis(degree, x, y, z)
    drawn = e.drawn(radii, rows)
    given = zip(e.gather_floats(colors, rows, 3), e.gather_floats(v_colors, rows, 3))
    v_color = [where(drawn & (color > 0.0), v, 0.0) for color, v in given]
    _store(e, v_coefficients, rows, [weight * v for weight in basis for v in v_color])
    if degree == 0:
        return
    table = _load(e, coefficients, rows, 3 * len(basis))
    g = [v_color[0] * table[k] + v_color[1] * table[k + 1] + v_color[2] * table[k + 2] for k in range(0, len(table), 3)]
    vx, vy, vz = _slope(degree, x, y, z, g)
    along = vx * x + vy * y + vz * z
    v_mean = [where(drawn, (v - along * d) * inverse, 0.0) for v, d in zip((vx, vy, vz), (x, y, z))]
    _store(e, v_means, rows, v_mean)
    once = e.valid(first, end, FLOAT8)
    for k, value in enumerate(v_mean):
        place = EIGHT * k
        v_centre.store(place, v_centre.load(place, EIGHT) - where(once, value, 0.0))


_ARGUMENTS = "f4[:,:] f4[:] f4[:,:] i4[:,:] f4[:,:] i8[:]"
_BACKWARD_ARGUMENTS = "f4[:,:] f4[:] f4[:,:] i4[:,:] f4[:,:] f4[:,:] f4[:,:] f4[:,:] f8[:,:]"


@cache
def colors_kernel(degree: int) -> Kernel:
    """Colours max(0, 0.5 + SH) of drawn Gaussians seen from `centre` (3,); others get 0. Coefficients are (N, 3 K);
    `flag` (1,) becomes 1 if one that the degree uses is not finite."""

    @kernel(_ARGUMENTS)
    def harmonic_colors(lo: int, hi: int, pack: int) -> None:
        means, centre, coefficients, radii, colors, flag = unpack(pack, _ARGUMENTS)
        for i in range(lo, hi, EIGHT):
            if _colors(degree, i, hi, means, centre, coefficients, radii, colors):
                flag[0] = 1

    return harmonic_colors


@cache
def colors_backward_kernel(degree: int) -> Kernel:
    """Gradients of `colors_kernel`; writes all rows (but means and v_centre of degree 0, which have none).
    `v_centre` (blocks, 3) gets each block's sum."""

    @kernel(_BACKWARD_ARGUMENTS)
    def harmonic_colors_backward(lo: int, hi: int, pack: int) -> None:
        (
            means, centre, coefficients, radii, colors, v_colors, v_coefficients, v_means, v_centre
        ) = unpack(pack, _BACKWARD_ARGUMENTS)  # fmt: skip
        sums = stack(_CENTRE)
        for block in range(lo // BLOCK, (hi + BLOCK - 1) // BLOCK):
            for k in range(_CENTRE):
                sums[k] = 0.0
            end = min(hi, (block + 1) * BLOCK)
            for i in range(block * BLOCK, end, EIGHT):
                _colors_backward(
                    degree, i, end, means, centre, coefficients, radii, colors, v_colors, v_coefficients, v_means, sums
                )  # fmt: skip
            for k in range(3):
                total = 0.0
                for lane in range(EIGHT):
                    total += sums[k * EIGHT + lane]
                v_centre[block, k] = total

    return harmonic_colors_backward
