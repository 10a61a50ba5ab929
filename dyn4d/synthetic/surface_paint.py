"""Pictures of random bodies: two textures that run into each other over the surface, and parts in colours of their own
over them, under a sun and a sky.

One file on purpose: numba's cache of a function does not notice a change in another file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np


@dataclass(frozen=True)
class Paint:
    """What a body is painted with; it sticks to the rest pose.

    Attributes:
        textures: (2, S, S, 3) uint8. scale: repeats for each unit of length. shift: (3,). frame: (3, 3) rotation of the
            planes that they are projected along.
        wave: (3,) and phase, sharp: where the second takes over from the first. tint: (2, 3) factors.
        parts: (V, 4) a colour in [0, 1] of each vertex, as of clothes, and how much of the textures it covers.
    """

    textures: np.ndarray
    scale: float
    shift: np.ndarray
    frame: np.ndarray
    wave: np.ndarray
    phase: float
    sharp: float
    tint: np.ndarray
    parts: np.ndarray


@dataclass(frozen=True)
class Light:
    """In the camera's frame.

    Attributes:
        sun: (3,) unit, towards it. up: (3,) unit, towards the sky. strength: of the sun. ambient: of the sky.
        gloss, hardness: strength and exponent of highlights (Blinn 1977).
    """

    sun: np.ndarray
    up: np.ndarray
    strength: float
    ambient: float
    gloss: float
    hardness: float


@numba.njit(cache=True, error_model="numpy")
def _texel(texture: np.ndarray, u: float, v: float, out: np.ndarray, weight: float) -> None:
    """Adds weight times the bilinear value at (u, v), tiled, mirrored every other time."""
    size = texture.shape[0]
    x, y = u % 2.0, v % 2.0
    x = (2.0 - x if x > 1.0 else x) * (size - 1)
    y = (2.0 - y if y > 1.0 else y) * (size - 1)
    i, j = min(int(y), size - 2), min(int(x), size - 2)
    fy, fx = y - i, x - j
    for c in range(3):
        top = texture[i, j, c] * (1 - fx) + texture[i, j + 1, c] * fx
        low = texture[i + 1, j, c] * (1 - fx) + texture[i + 1, j + 1, c] * fx
        out[c] += weight * (top * (1 - fy) + low * fy)


@numba.njit(cache=True, error_model="numpy")
def _draw(
    face: np.ndarray, xy: np.ndarray, z: np.ndarray, points: np.ndarray, faces: np.ndarray, rest: np.ndarray,
    rest_normals: np.ndarray, normals: np.ndarray, occlusion: np.ndarray, textures: np.ndarray, scale: float,
    shift: np.ndarray, frame: np.ndarray, wave: np.ndarray, phase: float, sharp: float, tint: np.ndarray,
    parts: np.ndarray, sun: np.ndarray, up: np.ndarray, strength: float, ambient: float, gloss: float, hardness: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    height, width = face.shape
    out = np.zeros((height, width, 3), np.float32)
    share = np.zeros((height, width, 2))
    colour = np.zeros(3)
    for row in range(height):
        for col in range(width):
            f = face[row, col]
            if f < 0:
                continue
            px, py = col + 0.5, row + 0.5
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            area = (xy[b, 0] - xy[a, 0]) * (xy[c, 1] - xy[a, 1]) - (xy[b, 1] - xy[a, 1]) * (xy[c, 0] - xy[a, 0])
            wa = ((xy[b, 0] - px) * (xy[c, 1] - py) - (xy[b, 1] - py) * (xy[c, 0] - px)) / area
            wb = ((xy[c, 0] - px) * (xy[a, 1] - py) - (xy[c, 1] - py) * (xy[a, 0] - px)) / area
            wc = (1.0 - wa - wb) / z[c]
            wa, wb = wa / z[a], wb / z[b]
            total = wa + wb + wc
            wa, wb, wc = wa / total, wb / total, wc / total
            share[row, col, 0], share[row, col, 1] = wa, wb
            x = wa * rest[a, 0] + wb * rest[b, 0] + wc * rest[c, 0]
            y = wa * rest[a, 1] + wb * rest[b, 1] + wc * rest[c, 1]
            h = wa * rest[a, 2] + wb * rest[b, 2] + wc * rest[c, 2]
            second = 0.5 + sharp * (
                np.sin(wave[0] * x + wave[1] * y + wave[2] * h + phase)
                + 0.5 * np.sin(wave[1] * x - wave[2] * y + wave[0] * h + 2.3 * phase)
            )
            second = min(max(second, 0.0), 1.0)
            u = frame[0, 0] * x + frame[0, 1] * y + frame[0, 2] * h
            v = frame[1, 0] * x + frame[1, 1] * y + frame[1, 2] * h
            w = frame[2, 0] * x + frame[2, 1] * y + frame[2, 2] * h
            mu = mv = mw = 0.0
            for k in range(3):
                n = wa * rest_normals[a, k] + wb * rest_normals[b, k] + wc * rest_normals[c, k]
                mu += frame[0, k] * n
                mv += frame[1, k] * n
                mw += frame[2, k] * n
            mu, mv, mw = mu**4 + 1e-9, mv**4 + 1e-9, mw**4 + 1e-9
            m = mu + mv + mw
            u, v, w = scale * u + shift[0], scale * v + shift[1], scale * w + shift[2]
            colour[:] = 0.0
            for t in range(2):
                part = second if t else 1.0 - second
                if part <= 0.0:
                    continue
                before = colour.copy()
                if mu > 0.03 * m:
                    _texel(textures[t], v, w, colour, mu / m)
                if mv > 0.03 * m:
                    _texel(textures[t], u, w, colour, mv / m)
                if mw > 0.03 * m:
                    _texel(textures[t], u, v, colour, mw / m)
                for k in range(3):
                    colour[k] = before[k] + part * tint[t, k] * (colour[k] - before[k])
            nx = wa * normals[a, 0] + wb * normals[b, 0] + wc * normals[c, 0]
            ny = wa * normals[a, 1] + wb * normals[b, 1] + wc * normals[c, 1]
            nz = wa * normals[a, 2] + wb * normals[b, 2] + wc * normals[c, 2]
            length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
            nx, ny, nz = nx / length, ny / length, nz / length
            open_ = wa * occlusion[a] + wb * occlusion[b] + wc * occlusion[c]
            facing = max(nx * sun[0] + ny * sun[1] + nz * sun[2], 0.0)
            sky = 0.65 + 0.35 * (nx * up[0] + ny * up[1] + nz * up[2])
            lit = strength * facing + ambient * sky * open_
            hx, hy, hz = 0.0, 0.0, 0.0
            for k in range(3):
                p = wa * points[a, k] + wb * points[b, k] + wc * points[c, k]
                if k == 0:
                    hx = p
                elif k == 1:
                    hy = p
                else:
                    hz = p
            away = np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-12
            hx, hy, hz = sun[0] - hx / away, sun[1] - hy / away, sun[2] - hz / away
            away = np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-12
            shine = max((nx * hx + ny * hy + nz * hz) / away, 0.0)
            extra = gloss * shine**hardness if facing > 0 else 0.0
            cover = wa * parts[a, 3] + wb * parts[b, 3] + wc * parts[c, 3]
            for k in range(3):
                part = wa * parts[a, k] + wb * parts[b, k] + wc * parts[c, k]
                out[row, col, k] = min((colour[k] / 255.0 * (1.0 - cover) + part * cover) * lit + extra, 1.0)
    return out, share


def draw_surface(
    face: np.ndarray, xy: np.ndarray, z: np.ndarray, points: np.ndarray, faces: np.ndarray,
    surface: tuple[np.ndarray, np.ndarray, np.ndarray], normals: np.ndarray, paint: Paint, light: Light,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Colours of the pixels that a mesh covers.

    Args:
        face: (H, W) triangle at each pixel's centre, -1 = none. xy, z: its vertices in the picture. points: (V, 3) in
            the camera. surface: rest places, rest normals and openness of the vertices. normals: (V, 3) in the camera.

    Returns:
        (H, W, 3) float32 in [0, 1], 0 where there is nothing; (H, W, 2) weights of the triangle's first two corners in
        the surface point that is seen.
    """
    rest, rest_normals, occlusion = surface
    return _draw(
        face, xy, z, points, faces, rest, rest_normals, normals, occlusion, paint.textures, paint.scale, paint.shift,
        paint.frame, paint.wave, paint.phase, paint.sharp, paint.tint, paint.parts, light.sun, light.up,
        light.strength, light.ambient, light.gloss, light.hardness,
    )  # fmt: skip
