"""Kernels that take Gaussians to the screen and their gradients back, four at a time.

The arithmetic is float64 on float32 arrays: exact enough for long thin covariances, and not what costs time.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false
# ^ a macro's definition has one argument more than its calls
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from dyn4d.raster.native import kernel, unpack
from dyn4d.raster.vectors import (
    DOUBLE4,
    Buffer,
    Emit,
    Value,
    ceil,
    largest,
    log2,
    macro,
    smallest,
    sqrt,
    stack_doubles,
    where,
)

BLOCK = 512  # Gaussians whose camera gradients are added up before they meet those of other blocks
FOUR = 4
_POSE = 12 * FOUR

# camera: 12 numbers of the pose, then these
_FX, _FY, _CX, _CY, _XLO, _XHI, _YLO, _YHI = 12, 13, 14, 15, 16, 17, 18, 19
_NEAR, _FAR, _CLIP, _EPS, _W, _H = 20, 21, 22, 23, 24, 25
CAMERA = 26

_SIX = types.UniTuple(DOUBLE4, 6)
Vector = list[Value]


def _rotation(w: Value, x: Value, y: Value, z: Value) -> tuple[Value, ...]:
    return (
        1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y),
        2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x),
        2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y),
    )  # fmt: skip


def _unit(w: Value, x: Value, y: Value, z: Value) -> tuple[Value, Vector]:
    """One over the length, and the quaternion times it."""
    inverse = 1.0 / largest(sqrt(w * w + x * x + y * y + z * z), 1e-12)
    return inverse, [w * inverse, x * inverse, y * inverse, z * inverse]


@macro(_SIX)
def _given_covariance(e: Emit, covars: Buffer, first: Any, end: Any) -> Vector:
    """xx, xy, xz, yy, yz, zz of the symmetric part of covars (N, 9)."""
    m = e.gather(covars, e.rows(first, end, FOUR), 9)
    return [m[0], 0.5 * (m[1] + m[3]), 0.5 * (m[2] + m[6]), m[4], 0.5 * (m[5] + m[7]), m[8]]


@macro(_SIX)
def _covariance(e: Emit, quats: Buffer, scales: Buffer, first: Any, end: Any) -> Vector:
    """The same six of R S Sᵀ Rᵀ."""
    rows = e.rows(first, end, FOUR)
    _, unit = _unit(*e.gather(quats, rows, 4))
    a, b, c, d, f, g, h, i, j = _rotation(*unit)
    s, t, u = (value * value for value in e.gather(scales, rows, 3))
    return [
        a * a * s + b * b * t + c * c * u, a * d * s + b * f * t + c * g * u, a * h * s + b * i * t + c * j * u,
        d * d * s + f * f * t + g * g * u, d * h * s + f * i * t + g * j * u, h * h * s + i * i * t + j * j * u,
    ]  # fmt: skip


class _View:
    """Where four means lie in a camera, and the projection's Jacobian there: J has rows (j00, 0, j02), (0, j11, j12),
    and M = J R."""

    def __init__(self, e: Emit, mean: Vector, camera: Buffer) -> None:
        def number(index: int) -> Value:
            return camera.load(index).splat(FOUR)

        r = self.r = [number(i) for i in range(9)]
        p, q, s = mean
        self.x, self.y, self.z = (r[3 * i] * p + r[3 * i + 1] * q + r[3 * i + 2] * s + number(9 + i) for i in range(3))
        self.fx, self.fy, self.eps = number(_FX), number(_FY), number(_EPS)
        self.rz = 1.0 / self.z
        self.slope_x, self.slope_y = self.x * self.rz, self.y * self.rz
        self.limit_x = smallest(largest(self.slope_x, number(_XLO)), number(_XHI))
        self.limit_y = smallest(largest(self.slope_y, number(_YLO)), number(_YHI))
        self.tx, self.ty = self.z * self.limit_x, self.z * self.limit_y
        rz2 = self.rz * self.rz
        self.j00, self.j02 = self.fx * self.rz, -(self.fx * self.tx * rz2)
        self.j11, self.j12 = self.fy * self.rz, -(self.fy * self.ty * rz2)
        self.m0 = [self.j00 * r[i] + self.j02 * r[6 + i] for i in range(3)]
        self.m1 = [self.j11 * r[3 + i] + self.j12 * r[6 + i] for i in range(3)]
        self.number = number

    def flat_covariance(self, cov: Vector) -> tuple[Vector, Vector, Value, Value, Value]:
        """The rows of M cov, then xx, xy, yy of M cov Mᵀ."""
        c0, c1, c2, c3, c4, c5 = cov
        rows = [
            [m[0] * c0 + m[1] * c1 + m[2] * c2, m[0] * c1 + m[1] * c3 + m[2] * c4, m[0] * c2 + m[1] * c4 + m[2] * c5]
            for m in (self.m0, self.m1)
        ]
        a, b = rows
        xx, xy, yy = _dot(a, self.m0), _dot(a, self.m1), _dot(b, self.m1)
        return a, b, xx, xy, yy


def _dot(a: Vector, b: Vector) -> Value:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@macro(types.int64)
def _project(
    e: Emit, first: Any, end: Any, means: Buffer, opacities: Buffer, camera: Buffer, antialiased: Any, cov: Vector,
    means2d: Buffer, depths: Buffer, residues: Buffer, conics: Buffer, compensations: Buffer, radii: Buffer,
) -> Any:  # fmt: skip
    """Returns 1 if a number that came in is not finite."""
    rows = e.rows(first, end, FOUR)
    mean = e.gather(means, rows, 3)
    view = _View(e, mean, camera)
    number, z = view.number, view.z
    _, _, a, b, c = view.flat_covariance(cov)
    before = a * c - b * b
    a, c = a + view.eps, c + view.eps
    det = a * c - b * b
    drawn = (z >= number(_NEAR)) & (z <= number(_FAR)) & (det > 0.0) & (a > 0.0)
    compensation = where(before > 0.0, sqrt(largest(before, 0.0) / det), 0.0)
    (opacity,) = e.gather(opacities, rows, 1)
    smoothed = Value(e.builder, e.builder.select(antialiased, (opacity * compensation).ir, opacity.ir))
    drawn = drawn & (smoothed >= 1.0 / 255.0)
    reach = 1.3862943611198906 * log2(largest(smoothed * 255.0, 1.0))  # 2 ln
    extent = smallest(sqrt(reach), 3.33)
    half = 0.5 * (a + c)
    widest = extent * sqrt(half + sqrt(largest(half * half - det, 0.01)))
    rx, ry = ceil(smallest(extent * sqrt(a), widest)), ceil(smallest(extent * sqrt(c), widest))
    u, v = view.fx * view.slope_x + number(_CX), view.fy * view.slope_y + number(_CY)
    drawn = drawn & ((rx > number(_CLIP)) | (ry > number(_CLIP)))
    drawn = drawn & (u + rx > 0.0) & (u - rx < number(_W)) & (v + ry > 0.0) & (v - ry < number(_H))
    inverse = 1.0 / det
    e.scatter(means2d, rows, [where(drawn, u, 0.0), where(drawn, v, 0.0)])
    e.scatter(depths, rows, [where(drawn, z, 0.0)])
    e.scatter(residues, rows, [where(drawn, z - z.to(ir.FloatType()).to(ir.DoubleType()), 0.0)])
    e.scatter(conics, rows, [where(drawn, value * inverse, 0.0) for value in (c, -b, a)])
    e.scatter(compensations, rows, [where(drawn, compensation, 0.0)])
    e.scatter(radii, rows, [where(drawn, smallest(r, 1e9), 0.0).whole() for r in (rx, ry)])
    return e.not_finite([*mean, *cov, opacity])


_ARGUMENTS = "i8 f4[:,:] f4[:,:] f4[:,:] f4[:,:] f4[:,:] f8[:] i8 f4[:,:] f4[:,:] f4[:,:] f4[:,:] f4[:,:] i4[:,:] i8[:]"


@kernel(_ARGUMENTS)
def project(lo: int, hi: int, pack: int) -> None:
    """Means and covariances -> pixels. Writes all rows; those not drawn are zero. See `reference.project`.

    What has one number a Gaussian is (N, 1). `residues` gets what a depth loses in float32. `flag` (1,) becomes 1 if
    a number that comes in is not finite.
    """
    (
        by_covars, means, quats, scales, covars, opacities, camera, antialiased,
        means2d, depths, residues, conics, compensations, radii, flag,
    ) = unpack(pack, _ARGUMENTS)  # fmt: skip
    smooth = antialiased != 0
    for i in range(lo, hi, FOUR):
        cov = _given_covariance(covars, i, hi) if by_covars else _covariance(quats, scales, i, hi)
        if _project(
            i, hi, means, opacities, camera, smooth, cov, means2d, depths, residues, conics, compensations, radii
        ):
            flag[0] = 1


@macro(_SIX)
def _project_backward(
    e: Emit, first: Any, end: Any, means: Buffer, camera: Buffer, cov: Vector, radii: Buffer, v_means2d: Buffer,
    v_depths: Buffer, v_conics: Buffer, v_compensations: Buffer, v_means: Buffer, pose: Buffer,
) -> Vector:  # fmt: skip
    """Writes the gradient of the means, adds that of the pose to `pose` (12 x 4) and returns that of the covariance."""
    rows = e.rows(first, end, FOUR)
    mean = e.gather(means, rows, 3)
    view = _View(e, mean, camera)
    r, fx, fy, rz, x, y = view.r, view.fx, view.fy, view.rz, view.x, view.y
    rz2 = rz * rz
    row_a, row_b, a, b, c = view.flat_covariance(cov)
    before = a * c - b * b
    a, c = a + view.eps, c + view.eps
    det = a * c - b * b
    inverse = 1.0 / det
    q0, q1, q2 = c * inverse, -(b * inverse), a * inverse

    # conic = cov⁻¹: v_cov = -conic V conic, V symmetric with half of the off-diagonal's gradient
    v0, v1, v2 = e.gather(v_conics, rows, 3)
    v1 = 0.5 * v1
    w00, w01 = q0 * v0 + q1 * v1, q0 * v1 + q1 * v2
    w10, w11 = q1 * v0 + q2 * v1, q1 * v1 + q2 * v2
    g00, g01, g11 = -(w00 * q0 + w01 * q1), -(w00 * q1 + w01 * q2), -(w10 * q1 + w11 * q2)
    (v_compensation,) = e.gather(v_compensations, rows, 1)
    ratio = largest(before, 0.0) * inverse
    v_ratio = where(before > 0.0, 0.5 * v_compensation / sqrt(largest(ratio, 1e-300)), 0.0)
    v_before, v_det = v_ratio * inverse, -(v_ratio * ratio * inverse)
    g00 = g00 + v_before * (c - view.eps) + v_det * c
    g11 = g11 + v_before * (a - view.eps) + v_det * a
    g01 = g01 - b * (v_before + v_det)

    # cov2d = M cov Mᵀ
    m0, m1 = view.m0, view.m1
    n0 = [g00 * m0[i] + g01 * m1[i] for i in range(3)]
    n1 = [g01 * m0[i] + g11 * m1[i] for i in range(3)]
    v_cov = [m0[i] * n0[j] + m1[i] * n1[j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
    u0 = [2.0 * (g00 * row_a[i] + g01 * row_b[i]) for i in range(3)]  # v_M = 2 G M cov
    u1 = [2.0 * (g01 * row_a[i] + g11 * row_b[i]) for i in range(3)]

    # M = J R
    vj00, vj02, vj11, vj12 = _dot(u0, r[0:3]), _dot(u0, r[6:9]), _dot(u1, r[3:6]), _dot(u1, r[6:9])
    vu, vv = e.gather(v_means2d, rows, 2)
    (v_depth,) = e.gather(v_depths, rows, 1)
    vx, vy = fx * rz * vu, fy * rz * vv
    vz = v_depth - rz2 * (fx * (x * vu + vj00) + fy * (y * vv + vj11))
    inside_x, inside_y = view.limit_x.same(view.slope_x), view.limit_y.same(view.slope_y)
    vx = vx - where(inside_x, fx * rz2 * vj02, 0.0)
    vy = vy - where(inside_y, fy * rz2 * vj12, 0.0)
    vz = vz + where(inside_x, 2.0 * x, view.tx) * (fx * rz2 * rz * vj02)
    vz = vz + where(inside_y, 2.0 * y, view.ty) * (fy * rz2 * rz * vj12)

    drawn = e.drawn(radii, rows)
    e.scatter(v_means, rows, [where(drawn, r[i] * vx + r[3 + i] * vy + r[6 + i] * vz, 0.0) for i in range(3)])
    once = drawn & e.valid(first, end, DOUBLE4)  # the last rows are repeated where four do not fit
    v_pose = [vx * mean[i] + view.j00 * u0[i] for i in range(3)]
    v_pose += [vy * mean[i] + view.j11 * u1[i] for i in range(3)]
    v_pose += [vz * mean[i] + view.j02 * u0[i] + view.j12 * u1[i] for i in range(3)]
    for k, value in enumerate([*v_pose, vx, vy, vz]):
        place = FOUR * k
        pose.store(place, pose.load(place, FOUR) + where(once, value, 0.0))
    return [where(drawn, value, 0.0) for value in v_cov]


@macro()
def _given_covariance_backward(e: Emit, s: Vector, first: Any, end: Any, v_covars: Buffer) -> None:
    e.scatter(v_covars, e.rows(first, end, FOUR), [s[0], s[1], s[2], s[1], s[3], s[4], s[2], s[4], s[5]])


@macro()
def _covariance_backward(
    e: Emit, s: Vector, quats: Buffer, scales: Buffer, first: Any, end: Any, v_quats: Buffer, v_scales: Buffer
) -> None:
    """cov = A Aᵀ with A = R diag(scales): v_A = 2 S A."""
    rows = e.rows(first, end, FOUR)
    inverse, (w, x, y, z) = _unit(*e.gather(quats, rows, 4))
    r = _rotation(w, x, y, z)
    symmetric = [[s[0], s[1], s[2]], [s[1], s[3], s[4]], [s[2], s[4], s[5]]]
    columns = [[r[j], r[3 + j], r[6 + j]] for j in range(3)]
    h = [[_dot(line, column) for line in symmetric] for column in columns]  # S R, column by column
    double = [2.0 * value for value in e.gather(scales, rows, 3)]
    e.scatter(v_scales, rows, [double[j] * _dot(h[j], columns[j]) for j in range(3)])
    g = [[0.5 * double[j] * double[j] * h[j][i] for j in range(3)] for i in range(3)]
    vw = 2.0 * (z * (g[1][0] - g[0][1]) + y * (g[0][2] - g[2][0]) + x * (g[2][1] - g[1][2]))
    vx = 2.0 * (y * (g[0][1] + g[1][0]) + z * (g[0][2] + g[2][0]) + w * (g[2][1] - g[1][2]))
    vy = 2.0 * (x * (g[0][1] + g[1][0]) + z * (g[1][2] + g[2][1]) + w * (g[0][2] - g[2][0]))
    vz = 2.0 * (x * (g[0][2] + g[2][0]) + y * (g[1][2] + g[2][1]) + w * (g[1][0] - g[0][1]))
    vx = vx - 4.0 * x * (g[1][1] + g[2][2])
    vy = vy - 4.0 * y * (g[0][0] + g[2][2])
    vz = vz - 4.0 * z * (g[0][0] + g[1][1])
    along = w * vw + x * vx + y * vy + z * vz
    e.scatter(v_quats, rows, [(v - q * along) * inverse for v, q in zip((vw, vx, vy, vz), (w, x, y, z))])


_BACKWARD_ARGUMENTS = (
    "i8 f4[:,:] f4[:,:] f4[:,:] f4[:,:] f8[:] i4[:,:] f4[:,:] f4[:,:] f4[:,:] f4[:,:] "
    "f4[:,:] f4[:,:] f4[:,:] f4[:,:] f8[:,:]"
)


@kernel(_BACKWARD_ARGUMENTS)
def project_backward(lo: int, hi: int, pack: int) -> None:
    """Gradients of `project`; writes all rows. `v_pose` (blocks, 12) gets each block's sum; lo is a multiple of BLOCK,
    and hi too unless it is the end."""
    (
        by_covars, means, quats, scales, covars, camera, radii, v_means2d, v_depths, v_conics, v_compensations,
        v_means, v_quats, v_scales, v_covars, v_pose,
    ) = unpack(pack, _BACKWARD_ARGUMENTS)  # fmt: skip
    pose = stack_doubles(_POSE)
    for block in range(lo // BLOCK, (hi + BLOCK - 1) // BLOCK):
        for k in range(_POSE):
            pose[k] = 0.0
        end = min(hi, (block + 1) * BLOCK)
        for i in range(block * BLOCK, end, FOUR):
            cov = _given_covariance(covars, i, end) if by_covars else _covariance(quats, scales, i, end)
            v_cov = _project_backward(
                i, end, means, camera, cov, radii, v_means2d, v_depths, v_conics, v_compensations, v_means, pose
            )  # fmt: skip
            if by_covars:
                _given_covariance_backward(v_cov, i, end, v_covars)
            else:
                _covariance_backward(v_cov, quats, scales, i, end, v_quats, v_scales)
        for k in range(12):
            v_pose[block, k] = (pose[4 * k] + pose[4 * k + 1]) + (pose[4 * k + 2] + pose[4 * k + 3])
