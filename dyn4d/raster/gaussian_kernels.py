"""Numba kernels for Gaussians one by one: projection and spherical harmonics, forward and backward.

Each kernel is a serial function over a range [lo, hi) that releases the GIL, plus (at the end of the file) a thin
`prange` driver over many such ranges. What a range writes does not depend on where the range ends, so results are the
same bits for any number of threads. A kernel calls only functions of its own file: numba's cache notices changes of
no other.

The arithmetic is float64 in registers on float32 arrays: as fast (this is scalar code) and exact enough for
ill-conditioned covariances.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

BLOCK = 512  # Gaussians whose camera gradients are added up before they meet those of other blocks

_compile_exact = njit(nogil=True, cache=True, error_model="numpy")
_compile_parallel = njit(parallel=True, cache=True, error_model="numpy")

# camera: 12 numbers of the pose, then these
_FX, _FY, _CX, _CY, _XLO, _XHI, _YLO, _YHI = 12, 13, 14, 15, 16, 17, 18, 19
_NEAR, _FAR, _CLIP, _EPS, _W, _H = 20, 21, 22, 23, 24, 25
CAMERA = 26


# ---------------------------------------------------------------------------------------------------- projection


@_compile_exact
def _rotation(w, x, y, z):
    return (
        1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y),
        2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x),
        2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y),
    )  # fmt: skip


@_compile_exact
def _covariance(i, quats, scales, covars):
    """Six numbers (xx, xy, xz, yy, yz, zz) of Gaussian i, from covars where there are any."""
    if covars.shape[0] > 0:
        return (
            float(covars[i, 0, 0]), 0.5 * (float(covars[i, 0, 1]) + float(covars[i, 1, 0])),
            0.5 * (float(covars[i, 0, 2]) + float(covars[i, 2, 0])), float(covars[i, 1, 1]),
            0.5 * (float(covars[i, 1, 2]) + float(covars[i, 2, 1])), float(covars[i, 2, 2]),
        )  # fmt: skip
    w, x, y, z = float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3])
    inv = 1.0 / max(math.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = _rotation(w * inv, x * inv, y * inv, z * inv)
    s0, s1, s2 = float(scales[i, 0]), float(scales[i, 1]), float(scales[i, 2])
    s0, s1, s2 = s0 * s0, s1 * s1, s2 * s2
    return (
        r00 * r00 * s0 + r01 * r01 * s1 + r02 * r02 * s2, r00 * r10 * s0 + r01 * r11 * s1 + r02 * r12 * s2,
        r00 * r20 * s0 + r01 * r21 * s1 + r02 * r22 * s2, r10 * r10 * s0 + r11 * r11 * s1 + r12 * r12 * s2,
        r10 * r20 * s0 + r11 * r21 * s1 + r12 * r22 * s2, r20 * r20 * s0 + r21 * r21 * s1 + r22 * r22 * s2,
    )  # fmt: skip


@_compile_exact
def project_chunk(
    lo, hi, means, quats, scales, covars, opacities, camera, antialiased, means2d, depths, conics, compensations, radii
):
    """Means and covariances -> pixels. Writes all rows; those not drawn are zero. See `reference.project`."""
    r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, t2 = (
        camera[0], camera[1], camera[2], camera[3], camera[4], camera[5], camera[6], camera[7], camera[8],
        camera[9], camera[10], camera[11],
    )  # fmt: skip
    fx, fy, eps = camera[_FX], camera[_FY], camera[_EPS]
    for i in range(lo, hi):
        means2d[i, 0] = means2d[i, 1] = depths[i] = compensations[i] = 0.0
        conics[i, 0] = conics[i, 1] = conics[i, 2] = 0.0
        radii[i, 0] = radii[i, 1] = 0
        p0, p1, p2 = float(means[i, 0]), float(means[i, 1]), float(means[i, 2])
        z = r20 * p0 + r21 * p1 + r22 * p2 + t2
        if not (z >= camera[_NEAR] and z <= camera[_FAR]):
            continue
        x = r00 * p0 + r01 * p1 + r02 * p2 + t0
        y = r10 * p0 + r11 * p1 + r12 * p2 + t1
        rz = 1.0 / z
        tx = z * min(max(x * rz, camera[_XLO]), camera[_XHI])
        ty = z * min(max(y * rz, camera[_YLO]), camera[_YHI])
        j00, j02, j11, j12 = fx * rz, -fx * tx * rz * rz, fy * rz, -fy * ty * rz * rz
        m00, m01, m02 = j00 * r00 + j02 * r20, j00 * r01 + j02 * r21, j00 * r02 + j02 * r22
        m10, m11, m12 = j11 * r10 + j12 * r20, j11 * r11 + j12 * r21, j11 * r12 + j12 * r22
        c0, c1, c2, c3, c4, c5 = _covariance(i, quats, scales, covars)
        a0, a1, a2 = m00 * c0 + m01 * c1 + m02 * c2, m00 * c1 + m01 * c3 + m02 * c4, m00 * c2 + m01 * c4 + m02 * c5
        b0, b1, b2 = m10 * c0 + m11 * c1 + m12 * c2, m10 * c1 + m11 * c3 + m12 * c4, m10 * c2 + m11 * c4 + m12 * c5
        a = a0 * m00 + a1 * m01 + a2 * m02
        b = a0 * m10 + a1 * m11 + a2 * m12
        c = b0 * m10 + b1 * m11 + b2 * m12
        before = a * c - b * b
        a += eps
        c += eps
        det = a * c - b * b
        if not (det > 0.0 and a > 0.0):
            continue
        compensation = math.sqrt(before / det) if before > 0.0 else 0.0
        opacity = float(opacities[i])
        if antialiased:
            opacity *= compensation
        if not opacity >= 1.0 / 255.0:
            continue
        extent = min(3.33, math.sqrt(2.0 * math.log(max(opacity * 255.0, 1.0))))
        half = 0.5 * (a + c)
        widest = extent * math.sqrt(half + math.sqrt(max(0.01, half * half - det)))
        rx = math.ceil(min(extent * math.sqrt(a), widest))
        ry = math.ceil(min(extent * math.sqrt(c), widest))
        if rx <= camera[_CLIP] and ry <= camera[_CLIP]:
            continue
        u, v = fx * x * rz + camera[_CX], fy * y * rz + camera[_CY]
        if not (u + rx > 0 and u - rx < camera[_W] and v + ry > 0 and v - ry < camera[_H]):
            continue
        means2d[i, 0], means2d[i, 1], depths[i], compensations[i] = u, v, z, compensation
        conics[i, 0], conics[i, 1], conics[i, 2] = c / det, -b / det, a / det
        radii[i, 0], radii[i, 1] = min(rx, 1e9), min(ry, 1e9)


@_compile_exact
def project_backward_chunk(
    lo, hi, means, quats, scales, covars, camera, radii, v_means2d, v_depths, v_conics, v_compensations,
    v_means, v_quats, v_scales, v_covars, v_pose,
):  # fmt: skip
    """Gradients of `project_chunk`. `v_pose` (blocks, 12) gets each block's sum; lo and hi are multiples of BLOCK."""
    r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, t2 = (
        camera[0], camera[1], camera[2], camera[3], camera[4], camera[5], camera[6], camera[7], camera[8],
        camera[9], camera[10], camera[11],
    )  # fmt: skip
    fx, fy, eps = camera[_FX], camera[_FY], camera[_EPS]
    for i in range(lo, hi):
        if radii[i, 0] <= 0 and radii[i, 1] <= 0:
            continue
        p0, p1, p2 = float(means[i, 0]), float(means[i, 1]), float(means[i, 2])
        x = r00 * p0 + r01 * p1 + r02 * p2 + t0
        y = r10 * p0 + r11 * p1 + r12 * p2 + t1
        z = r20 * p0 + r21 * p1 + r22 * p2 + t2
        rz = 1.0 / z
        rz2 = rz * rz
        limit_x = min(max(x * rz, camera[_XLO]), camera[_XHI])
        limit_y = min(max(y * rz, camera[_YLO]), camera[_YHI])
        tx, ty = z * limit_x, z * limit_y
        j00, j02, j11, j12 = fx * rz, -fx * tx * rz2, fy * rz, -fy * ty * rz2
        m00, m01, m02 = j00 * r00 + j02 * r20, j00 * r01 + j02 * r21, j00 * r02 + j02 * r22
        m10, m11, m12 = j11 * r10 + j12 * r20, j11 * r11 + j12 * r21, j11 * r12 + j12 * r22
        c0, c1, c2, c3, c4, c5 = _covariance(i, quats, scales, covars)
        a0, a1, a2 = m00 * c0 + m01 * c1 + m02 * c2, m00 * c1 + m01 * c3 + m02 * c4, m00 * c2 + m01 * c4 + m02 * c5
        b0, b1, b2 = m10 * c0 + m11 * c1 + m12 * c2, m10 * c1 + m11 * c3 + m12 * c4, m10 * c2 + m11 * c4 + m12 * c5
        a = a0 * m00 + a1 * m01 + a2 * m02 + eps
        b = a0 * m10 + a1 * m11 + a2 * m12
        c = b0 * m10 + b1 * m11 + b2 * m12 + eps
        det = a * c - b * b
        q0, q1, q2 = c / det, -b / det, a / det

        # conic = cov⁻¹: v_cov = -conic V conic, V symmetric with half of the off-diagonal's gradient
        v0, v1, v2 = float(v_conics[i, 0]), 0.5 * float(v_conics[i, 1]), float(v_conics[i, 2])
        w00, w01 = q0 * v0 + q1 * v1, q0 * v1 + q1 * v2
        w10, w11 = q1 * v0 + q2 * v1, q1 * v1 + q2 * v2
        g00 = -(w00 * q0 + w01 * q1)
        g01 = -(w00 * q1 + w01 * q2)
        g11 = -(w10 * q1 + w11 * q2)
        v_comp = float(v_compensations[i])
        before = (a - eps) * (c - eps) - b * b
        if v_comp != 0.0 and before > 0.0:
            v_ratio = 0.5 * v_comp / math.sqrt(before / det)
            v_before, v_det = v_ratio / det, -v_ratio * before / (det * det)
            g00 += v_before * (c - eps) + v_det * c
            g11 += v_before * (a - eps) + v_det * a
            g01 -= b * (v_before + v_det)

        # cov2d = M cov Mᵀ
        n00, n01, n02 = g00 * m00 + g01 * m10, g00 * m01 + g01 * m11, g00 * m02 + g01 * m12
        n10, n11, n12 = g01 * m00 + g11 * m10, g01 * m01 + g11 * m11, g01 * m02 + g11 * m12
        s0, s1, s2 = m00 * n00 + m10 * n10, m00 * n01 + m10 * n11, m00 * n02 + m10 * n12
        s3, s4, s5 = m01 * n01 + m11 * n11, m01 * n02 + m11 * n12, m02 * n02 + m12 * n12
        _covariance_backward(i, quats, scales, covars, s0, s1, s2, s3, s4, s5, v_quats, v_scales, v_covars)
        # v_M = 2 G M cov, where M cov is the rows a, b
        u00, u01, u02 = 2.0 * (g00 * a0 + g01 * b0), 2.0 * (g00 * a1 + g01 * b1), 2.0 * (g00 * a2 + g01 * b2)
        u10, u11, u12 = 2.0 * (g01 * a0 + g11 * b0), 2.0 * (g01 * a1 + g11 * b1), 2.0 * (g01 * a2 + g11 * b2)

        # M = J R
        vj00, vj02 = u00 * r00 + u01 * r01 + u02 * r02, u00 * r20 + u01 * r21 + u02 * r22
        vj11, vj12 = u10 * r10 + u11 * r11 + u12 * r12, u10 * r20 + u11 * r21 + u12 * r22
        vu, vv = float(v_means2d[i, 0]), float(v_means2d[i, 1])
        vx, vy = fx * rz * vu, fy * rz * vv
        vz = float(v_depths[i]) - rz2 * (fx * (x * vu + vj00) + fy * (y * vv + vj11))
        if limit_x == x * rz:
            vx -= fx * rz2 * vj02
            vz += 2.0 * fx * x * rz2 * rz * vj02
        else:
            vz += fx * tx * rz2 * rz * vj02
        if limit_y == y * rz:
            vy -= fy * rz2 * vj12
            vz += 2.0 * fy * y * rz2 * rz * vj12
        else:
            vz += fy * ty * rz2 * rz * vj12

        v_means[i, 0] = r00 * vx + r10 * vy + r20 * vz
        v_means[i, 1] = r01 * vx + r11 * vy + r21 * vz
        v_means[i, 2] = r02 * vx + r12 * vy + r22 * vz
        k = i // BLOCK
        v_pose[k, 0] += vx * p0 + j00 * u00
        v_pose[k, 1] += vx * p1 + j00 * u01
        v_pose[k, 2] += vx * p2 + j00 * u02
        v_pose[k, 3] += vy * p0 + j11 * u10
        v_pose[k, 4] += vy * p1 + j11 * u11
        v_pose[k, 5] += vy * p2 + j11 * u12
        v_pose[k, 6] += vz * p0 + j02 * u00 + j12 * u10
        v_pose[k, 7] += vz * p1 + j02 * u01 + j12 * u11
        v_pose[k, 8] += vz * p2 + j02 * u02 + j12 * u12
        v_pose[k, 9] += vx
        v_pose[k, 10] += vy
        v_pose[k, 11] += vz


@_compile_exact
def _covariance_backward(i, quats, scales, covars, s0, s1, s2, s3, s4, s5, v_quats, v_scales, v_covars):
    """From the symmetric gradient (six numbers) to covars, or to quats and scales."""
    if covars.shape[0] > 0:
        v_covars[i, 0, 0], v_covars[i, 1, 1], v_covars[i, 2, 2] = s0, s3, s5
        v_covars[i, 0, 1] = v_covars[i, 1, 0] = s1
        v_covars[i, 0, 2] = v_covars[i, 2, 0] = s2
        v_covars[i, 1, 2] = v_covars[i, 2, 1] = s4
        return
    w, x, y, z = float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3])
    inv = 1.0 / max(math.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    w, x, y, z = w * inv, x * inv, y * inv, z * inv
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = _rotation(w, x, y, z)
    # cov = A Aᵀ with A = R diag(scales): v_A = 2 S A; below, (S R) column by column
    h00, h10, h20 = s0 * r00 + s1 * r10 + s2 * r20, s1 * r00 + s3 * r10 + s4 * r20, s2 * r00 + s4 * r10 + s5 * r20
    h01, h11, h21 = s0 * r01 + s1 * r11 + s2 * r21, s1 * r01 + s3 * r11 + s4 * r21, s2 * r01 + s4 * r11 + s5 * r21
    h02, h12, h22 = s0 * r02 + s1 * r12 + s2 * r22, s1 * r02 + s3 * r12 + s4 * r22, s2 * r02 + s4 * r12 + s5 * r22
    k0, k1, k2 = 2.0 * float(scales[i, 0]), 2.0 * float(scales[i, 1]), 2.0 * float(scales[i, 2])
    v_scales[i, 0] = k0 * (h00 * r00 + h10 * r10 + h20 * r20)
    v_scales[i, 1] = k1 * (h01 * r01 + h11 * r11 + h21 * r21)
    v_scales[i, 2] = k2 * (h02 * r02 + h12 * r12 + h22 * r22)
    k0, k1, k2 = 0.5 * k0 * k0, 0.5 * k1 * k1, 0.5 * k2 * k2
    g00, g10, g20 = k0 * h00, k0 * h10, k0 * h20
    g01, g11, g21 = k1 * h01, k1 * h11, k1 * h21
    g02, g12, g22 = k2 * h02, k2 * h12, k2 * h22
    vw = 2.0 * (z * (g10 - g01) + y * (g02 - g20) + x * (g21 - g12))
    vx = 2.0 * (y * (g01 + g10) + z * (g02 + g20) + w * (g21 - g12) - 2.0 * x * (g11 + g22))
    vy = 2.0 * (x * (g01 + g10) + z * (g12 + g21) + w * (g02 - g20) - 2.0 * y * (g00 + g22))
    vz = 2.0 * (x * (g02 + g20) + y * (g12 + g21) + w * (g10 - g01) - 2.0 * z * (g00 + g11))
    along = w * vw + x * vx + y * vy + z * vz
    v_quats[i, 0], v_quats[i, 1] = (vw - w * along) * inv, (vx - x * along) * inv
    v_quats[i, 2], v_quats[i, 3] = (vy - y * along) * inv, (vz - z * along) * inv


# ------------------------------------------------------------------------------------------- spherical harmonics


@_compile_exact
def _sh_basis(degree, x, y, z, out):
    """Basis values in the unit direction (x, y, z) into out (25,). See `sh.sh_basis`."""
    out[0] = 0.28209479177387814
    if degree < 1:
        return
    out[1], out[2], out[3] = -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x
    if degree < 2:
        return
    c1, s1 = x * x - y * y, 2.0 * x * y
    b = -1.0925484305920792 * z
    out[4], out[5], out[7], out[8] = 0.5462742152960396 * s1, b * y, b * x, 0.5462742152960396 * c1
    out[6] = 0.9461746957575601 * z * z - 0.31539156525252005
    if degree < 3:
        return
    c2, s2 = x * c1 - y * s1, x * s1 + y * c1
    c, b, a = -2.285228997322329 * z * z + 0.4570457994644658, 1.445305721320277 * z, -0.5900435899266435
    out[9], out[10], out[11], out[13], out[14], out[15] = a * s2, b * s1, c * y, c * x, b * c1, a * c2
    out[12] = z * (1.865881662950577 * z * z - 1.119528997770346)
    if degree < 4:
        return
    c3, s3 = x * c2 - y * s2, x * s2 + y * c2
    d = z * (-4.683325804901025 * z * z + 2.007139630671868)
    c, b, a = 3.3116114351514603 * z * z - 0.47308734787878004, -1.7701307697799304 * z, 0.6258357354491761
    out[16], out[17], out[18], out[19] = a * s3, b * s2, c * s1, d * y
    out[20] = 1.9843134832984433 * z * out[12] - 1.0062305898749053 * out[6]
    out[21], out[22], out[23], out[24] = d * x, c * c1, b * c2, a * c3


@_compile_exact
def _sh_slope(degree, x, y, z, g):
    """Gradient (vx, vy, vz) of sum(g * basis), basis as polynomials in x, y, z; g is (25,)."""
    vx = vy = vz = 0.0
    if degree < 1:
        return vx, vy, vz
    vx -= 0.4886025119029199 * g[3]
    vy -= 0.4886025119029199 * g[1]
    vz += 0.4886025119029199 * g[2]
    if degree < 2:
        return vx, vy, vz
    # (x + iy)ⁿ = cₙ₋₁ + i sₙ₋₁; its slope along x is n (x + iy)ⁿ⁻¹ and along y is i times that
    c1, s1 = x * x - y * y, 2.0 * x * y
    k = 1.0925484305920792
    vx += k * (g[4] * y + g[8] * x - g[7] * z)
    vy += k * (g[4] * x - g[8] * y - g[5] * z)
    slope6 = 1.8923493915151202 * z
    vz += g[6] * slope6 - k * (g[5] * y + g[7] * x)
    if degree < 3:
        return vx, vy, vz
    c2, s2 = x * c1 - y * s1, x * s1 + y * c1
    a, b = -1.7701307697799304, 1.445305721320277  # three times -0.59
    c = -2.285228997322329 * z * z + 0.4570457994644658
    vx += a * (g[9] * s1 + g[15] * c1) + 2.0 * b * z * (g[10] * y + g[14] * x) + c * g[13]
    vy += a * (g[9] * c1 - g[15] * s1) + 2.0 * b * z * (g[10] * x - g[14] * y) + c * g[11]
    p12, slope12 = z * (1.865881662950577 * z * z - 1.119528997770346), 5.597644988851731 * z * z - 1.119528997770346
    vz += b * (g[10] * s1 + g[14] * c1) - 4.570457994644658 * z * (g[11] * y + g[13] * x) + g[12] * slope12
    if degree < 4:
        return vx, vy, vz
    a, b = 2.5033429417967046, -1.7701307697799304  # four times 0.626
    c = 3.3116114351514603 * z * z - 0.47308734787878004
    d = z * (-4.683325804901025 * z * z + 2.007139630671868)
    vx += a * (g[16] * s2 + g[24] * c2) + 3.0 * b * z * (g[17] * s1 + g[23] * c1)
    vx += 2.0 * c * (g[18] * y + g[22] * x) + d * g[21]
    vy += a * (g[16] * c2 - g[24] * s2) + 3.0 * b * z * (g[17] * c1 - g[23] * s1)
    vy += 2.0 * c * (g[18] * x - g[22] * y) + d * g[19]
    vz += b * (g[17] * s2 + g[23] * c2) + 6.6232228703029206 * z * (g[18] * s1 + g[22] * c1)
    vz += (-14.049977414703075 * z * z + 2.007139630671868) * (g[19] * y + g[21] * x)
    vz += g[20] * (1.9843134832984433 * (p12 + z * slope12) - 1.0062305898749053 * slope6)
    return vx, vy, vz


@_compile_exact
def sh_chunk(lo, hi, degree, means, centre, coefficients, radii, colors):
    """Colours max(0, 0.5 + SH) of drawn Gaussians seen from `centre` (3,); others get 0."""
    basis = np.empty(25, np.float64)
    count = (degree + 1) * (degree + 1)
    for i in range(lo, hi):
        colors[i, 0] = colors[i, 1] = colors[i, 2] = 0.0
        if radii[i, 0] <= 0 and radii[i, 1] <= 0:
            continue
        x, y, z = means[i, 0] - centre[0], means[i, 1] - centre[1], means[i, 2] - centre[2]
        inv = 1.0 / max(math.sqrt(x * x + y * y + z * z), 1e-12)
        _sh_basis(degree, x * inv, y * inv, z * inv, basis)
        red = green = blue = 0.5
        for k in range(count):
            red += basis[k] * coefficients[i, k, 0]
            green += basis[k] * coefficients[i, k, 1]
            blue += basis[k] * coefficients[i, k, 2]
        colors[i, 0], colors[i, 1], colors[i, 2] = max(red, 0.0), max(green, 0.0), max(blue, 0.0)


@_compile_exact
def sh_backward_chunk(
    lo, hi, degree, means, centre, coefficients, radii, colors, v_colors, v_coefficients, v_means, v_centre
):
    """Gradients of `sh_chunk`; writes all rows. `v_centre` (blocks, 3) gets each block's sum."""
    basis, slope = np.empty(25, np.float64), np.zeros(25, np.float64)
    count = (degree + 1) * (degree + 1)
    for i in range(lo, hi):
        v_means[i, 0] = v_means[i, 1] = v_means[i, 2] = 0.0
        for k in range(v_coefficients.shape[1]):
            v_coefficients[i, k, 0] = v_coefficients[i, k, 1] = v_coefficients[i, k, 2] = 0.0
        if radii[i, 0] <= 0 and radii[i, 1] <= 0:
            continue
        x, y, z = means[i, 0] - centre[0], means[i, 1] - centre[1], means[i, 2] - centre[2]
        inv = 1.0 / max(math.sqrt(x * x + y * y + z * z), 1e-12)
        x, y, z = x * inv, y * inv, z * inv
        _sh_basis(degree, x, y, z, basis)
        red = float(v_colors[i, 0]) if colors[i, 0] > 0 else 0.0
        green = float(v_colors[i, 1]) if colors[i, 1] > 0 else 0.0
        blue = float(v_colors[i, 2]) if colors[i, 2] > 0 else 0.0
        for k in range(count):
            v_coefficients[i, k, 0] = basis[k] * red
            v_coefficients[i, k, 1] = basis[k] * green
            v_coefficients[i, k, 2] = basis[k] * blue
            slope[k] = red * coefficients[i, k, 0] + green * coefficients[i, k, 1] + blue * coefficients[i, k, 2]
        vx, vy, vz = _sh_slope(degree, x, y, z, slope)
        along = vx * x + vy * y + vz * z
        vx, vy, vz = (vx - along * x) * inv, (vy - along * y) * inv, (vz - along * z) * inv
        v_means[i, 0], v_means[i, 1], v_means[i, 2] = vx, vy, vz
        b = i // BLOCK
        v_centre[b, 0] -= vx
        v_centre[b, 1] -= vy
        v_centre[b, 2] -= vz


# ------------------------------------------------------------------------------------------------ prange drivers


@_compile_parallel
def project_parallel(
    bounds, means, quats, scales, covars, opacities, camera, antialiased, means2d, depths, conics, compensations, radii
):
    for j in prange(len(bounds) - 1):
        project_chunk(
            bounds[j],
            bounds[j + 1],
            means,
            quats,
            scales,
            covars,
            opacities,
            camera,
            antialiased,
            means2d,
            depths,
            conics,
            compensations,
            radii,
        )


@_compile_parallel
def project_backward_parallel(
    bounds,
    means,
    quats,
    scales,
    covars,
    camera,
    radii,
    v_means2d,
    v_depths,
    v_conics,
    v_compensations,
    v_means,
    v_quats,
    v_scales,
    v_covars,
    v_pose,
):
    for j in prange(len(bounds) - 1):
        project_backward_chunk(
            bounds[j],
            bounds[j + 1],
            means,
            quats,
            scales,
            covars,
            camera,
            radii,
            v_means2d,
            v_depths,
            v_conics,
            v_compensations,
            v_means,
            v_quats,
            v_scales,
            v_covars,
            v_pose,
        )


@_compile_parallel
def sh_parallel(bounds, degree, means, centre, coefficients, radii, colors):
    for j in prange(len(bounds) - 1):
        sh_chunk(bounds[j], bounds[j + 1], degree, means, centre, coefficients, radii, colors)


@_compile_parallel
def sh_backward_parallel(
    bounds, degree, means, centre, coefficients, radii, colors, v_colors, v_coefficients, v_means, v_centre
):
    for j in prange(len(bounds) - 1):
        sh_backward_chunk(
            bounds[j],
            bounds[j + 1],
            degree,
            means,
            centre,
            coefficients,
            radii,
            colors,
            v_colors,
            v_coefficients,
            v_means,
            v_centre,
        )
