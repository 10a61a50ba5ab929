"""Procedural textures, soft light and the room, all for one sample at a time, compiled.

Texture is a function of the rest-pose place, so it sticks to the surface however that moves. Colours are display
(sRGB) values in [0, 1] and pixels average them as they are, the way Gaussian splats are blended. One file on purpose:
numba's cache of a function does not notice a change in another file.
"""

from __future__ import annotations

import numba
import numpy as np

GREY = 128.0 / 255.0
_LIGHT = (-0.35, -0.55, 0.76)  # towards the key light, about unit length


@numba.njit(cache=True, error_model="numpy")
def _hash(i: int, j: int, k: int, seed: int) -> float:
    """A random-looking number in [0, 1) for a grid cell."""
    h = (i * 374761393 + j * 668265263 + k * 1440662683 + seed * 1013904223) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 1103515245) & 0xFFFFFFFF
    return (h ^ (h >> 15)) / 4294967296.0


@numba.njit(cache=True, error_model="numpy")
def _noise(x: float, y: float, z: float, seed: int) -> float:
    """Smooth value noise in [0, 1], one lump a unit."""
    i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    fx, fy, fz = x - i, y - j, z - k
    fx, fy, fz = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), fz * fz * (3 - 2 * fz)
    total = 0.0
    for a in range(2):
        wx = fx if a else 1 - fx
        for b in range(2):
            wy = fy if b else 1 - fy
            total += wx * wy * ((1 - fz) * _hash(i + a, j + b, k, seed) + fz * _hash(i + a, j + b, k + 1, seed))
    return total


@numba.njit(cache=True, error_model="numpy")
def _cells(x: float, y: float, z: float, seed: int) -> tuple[float, float, float]:
    """Worley noise: distances to the nearest and the second nearest random point, and the nearest one's number."""
    i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    first, second, number = 9.0, 9.0, 0.0
    for a in range(i - 1, i + 2):
        for b in range(j - 1, j + 2):
            for c in range(k - 1, k + 2):
                h = _hash(a, b, c, seed)
                dx = a + h - x
                dy = b + (h * 61.7) % 1.0 - y
                dz = c + (h * 3571.3) % 1.0 - z
                d = dx * dx + dy * dy + dz * dz
                if d < first:
                    second, first, number = first, d, (h * 911.1) % 1.0
                elif d < second:
                    second = d
    return np.sqrt(first), np.sqrt(second), number


@numba.njit(cache=True, error_model="numpy")
def _step(low: float, high: float, x: float) -> float:
    """Smooth step from 0 at `low` to 1 at `high` (which may be the smaller of the two)."""
    s = min(max((x - low) / (high - low), 0.0), 1.0)
    return s * s * (3 - 2 * s)


@numba.njit(cache=True, error_model="numpy")
def _mix(a: tuple, b: tuple, w: float) -> tuple:
    return a[0] + (b[0] - a[0]) * w, a[1] + (b[1] - a[1]) * w, a[2] + (b[2] - a[2]) * w


@numba.njit(cache=True, error_model="numpy")
def _palette(number: float) -> tuple:
    """Six bright colours for mosaics."""
    if number < 0.18:
        return 0.95, 0.33, 0.29
    if number < 0.36:
        return 0.99, 0.75, 0.22
    if number < 0.54:
        return 0.16, 0.63, 0.62
    if number < 0.70:
        return 0.27, 0.35, 0.72
    if number < 0.86:
        return 0.97, 0.92, 0.80
    return 0.55, 0.76, 0.30


@numba.njit(cache=True, error_model="numpy")
def _creature(x: float, y: float, z: float, seed: int) -> tuple:
    """Deep teal skin with golden scales, a cream belly, ringed legs and tail."""
    lump = _noise(x * 9, y * 9, z * 9, seed)
    skin = _mix((0.05, 0.40, 0.45), (0.24, 0.22, 0.52), _step(-0.05, -0.55, x + 0.25 * (lump - 0.5)))
    skin = _mix(skin, (0.10, 0.58, 0.52), _step(0.20, 0.45, x + 0.2 * (lump - 0.5)))
    first, second, number = _cells(x / 0.062, y / 0.062, z / 0.062, seed + 1)
    scale = _mix((1.00, 0.77, 0.25), (0.96, 0.47, 0.21), number)
    scale = _mix(scale, (0.62, 0.88, 0.62), _step(0.75, 0.95, number))
    colour = _mix(skin, scale, _step(0.10, 0.24, second - first) * (0.55 + 0.45 * _step(0.05, 0.55, z)))
    colour = _mix(colour, (0.99, 0.62, 0.24), 0.5 * _step(0.10, 0.05, first))
    belly = _step(0.345, 0.285, z) * _step(0.115, 0.085, abs(y)) * _step(0.34, 0.28, abs(x)) * _step(0.20, 0.25, z)
    belly = max(belly, _step(0.545, 0.505, z) * _step(0.40, 0.44, x))
    plates = 0.86 + 0.14 * _step(-0.3, 0.3, np.sin(x * 105))
    colour = _mix(colour, (0.98 * plates, 0.89 * plates, 0.69 * plates), belly)
    if z < 0.20:
        ring = _step(-0.2, 0.2, np.sin(z * 115 + 2.2 * lump))
        band = _mix((0.06, 0.30, 0.38), (0.55, 0.86, 0.70), ring)
        band = _mix((0.99, 0.70, 0.30), band, _step(0.025, 0.05, z))
        colour = _mix(colour, band, 0.85 * _step(0.20, 0.15, z))
    if x < -0.32:
        ring = _step(-0.2, 0.3, np.sin(x * 48 - z * 46 + 1.5 * lump))
        colour = _mix(colour, (0.30, 0.16, 0.45), 0.65 * ring * _step(-0.32, -0.40, x))
    return colour


@numba.njit(cache=True, error_model="numpy")
def _worm(x: float, y: float, z: float, seed: int) -> tuple:
    """Bands of lime, yellow and mint with plum dots, darker feet."""
    lump = _noise(x * 11, y * 11, z * 11, seed)
    band = x / 0.128 + 0.25 * (lump - 0.5)
    number = int(np.floor(band)) % 3
    colour = (0.66, 0.84, 0.22) if number == 0 else ((0.99, 0.83, 0.28) if number == 1 else (0.32, 0.76, 0.60))
    edge = band - np.floor(band)
    colour = _mix(colour, (0.20, 0.42, 0.30), 0.8 * (_step(0.10, 0.02, edge) + _step(0.90, 0.98, edge)))
    first, _, pick = _cells(x / 0.075, y / 0.075, z / 0.075, seed + 1)
    dot = (0.62, 0.18, 0.52) if pick < 0.5 else ((0.96, 0.40, 0.25) if pick < 0.8 else (0.20, 0.30, 0.60))
    colour = _mix(colour, dot, _step(0.40, 0.30, first))
    colour = _mix(colour, (1.0, 0.95, 0.75), 0.9 * _step(0.16, 0.09, first))
    if x > 0.45:
        face = (0.99, 0.70, 0.32)
        colour = _mix(colour, face, 0.75 * _step(0.46, 0.50, x))
    return _mix(colour, (0.42, 0.27, 0.16), 0.6 * _step(0.07, 0.02, z))


@numba.njit(cache=True, error_model="numpy")
def _turntable(x: float, y: float, z: float, seed: int) -> tuple:
    """A mosaic of bright tiles with dark joints; the plinth is banded."""
    size = 0.085
    first, second, number = _cells(x / size, y / size, z / size, seed + 1)
    tile = _palette(number)
    shade = 0.80 + 0.35 * ((number * 57.3) % 1.0)
    tile = (min(tile[0] * shade, 1.0), min(tile[1] * shade, 1.0), min(tile[2] * shade, 1.0))
    colour = _mix((0.17, 0.14, 0.22), tile, _step(0.05, 0.13, second - first))
    colour = _mix(colour, (1.0, 0.98, 0.9), 0.6 * _step(0.13, 0.07, first))
    if z < 0.27:
        around = np.arctan2(y, x) * 18 / np.pi
        ring = np.sqrt(x * x + y * y) / 0.085
        check = (int(np.floor(around)) + int(np.floor(ring)) + int(np.floor(z / 0.06))) % 2
        tint = _palette(_hash(int(np.floor(around)), int(np.floor(ring)), int(np.floor(z / 0.06)), seed))
        wood = _mix((0.32, 0.24, 0.36), (tint[0], tint[1], tint[2]), 0.35 + 0.55 * check)
        colour = _mix(wood, colour, _step(0.225, 0.235, z))
    return colour


@numba.njit(cache=True, error_model="numpy")
def _dancer(x: float, y: float, z: float, seed: int) -> tuple:
    """A striped shirt, checked trousers and a plain head; left and right limbs have tints of their own."""
    lump = _noise(x * 10, y * 10, z * 10, seed)
    if z > 1.19:
        return _mix((0.97, 0.76, 0.60), (0.93, 0.64, 0.52), lump)
    first, _, number = _cells(x / 0.07, y / 0.07, z / 0.07, seed + 1)
    if z > 0.76 or abs(y) > 0.215:
        warm, cold = (0.92, 0.34, 0.26), (0.98, 0.93, 0.82)
        stripe = _step(-0.25, 0.25, np.sin(z * 88 + 1.6 * lump))
        shirt = _mix(warm, cold, stripe)
        shirt = _mix(shirt, (0.99, 0.75, 0.22) if y > 0 else (0.16, 0.55, 0.62), 0.55 * _step(0.20, 0.24, abs(y)))
        return _mix(shirt, _palette(number), 0.5 * _step(0.36, 0.28, first))
    check = (int(np.floor(x / 0.045)) + int(np.floor(y / 0.045)) + int(np.floor(z / 0.045))) % 2
    cloth = (0.20, 0.28, 0.55) if y > 0 else (0.24, 0.42, 0.30)
    cloth = _mix(cloth, (0.75, 0.80, 0.92), 0.45 * check)
    return _mix(cloth, _palette(number), 0.45 * _step(0.34, 0.26, first))


@numba.njit(cache=True, error_model="numpy")
def _albedo(paint: int, x: float, y: float, z: float, seed: int, marks: np.ndarray) -> tuple:
    """Colour of the surface at a rest-pose place, before light."""
    if paint == 0:
        colour = _creature(x, y, z, seed)
    elif paint == 1:
        colour = _worm(x, y, z, seed)
    elif paint == 2:
        colour = _turntable(x, y, z, seed)
    else:
        colour = _dancer(x, y, z, seed)
    grain = 0.83 + 0.34 * _noise(x * 75, y * 75, z * 75, seed + 2)
    grain *= 0.90 + 0.20 * _noise(x * 28, y * 28, z * 28, seed + 3)
    colour = (colour[0] * grain, colour[1] * grain, colour[2] * grain)
    for m in range(marks.shape[0]):
        ax, ay, az = x - marks[m, 0], y - marks[m, 1], z - marks[m, 2]
        bx, by, bz = marks[m, 3] - marks[m, 0], marks[m, 4] - marks[m, 1], marks[m, 5] - marks[m, 2]
        length2 = bx * bx + by * by + bz * bz
        s = min(max((ax * bx + ay * by + az * bz) / length2, 0.0), 1.0) if length2 > 0 else 0.0
        d2 = (ax - s * bx) ** 2 + (ay - s * by) ** 2 + (az - s * bz) ** 2
        reach = marks[m, 6] + marks[m, 7]
        if d2 < reach * reach:
            w = _step(reach, marks[m, 6] - marks[m, 7], np.sqrt(d2))
            colour = _mix(colour, (marks[m, 8], marks[m, 9], marks[m, 10]), w)
    return colour


@numba.njit(cache=True, error_model="numpy")
def _light(nx: float, ny: float, nz: float, open_: float) -> float:
    """Soft key light that wraps around the form, sky from above, darker where neighbours are close."""
    key = max((nx * _LIGHT[0] + ny * _LIGHT[1] + nz * _LIGHT[2] + 0.35) / 1.35, 0.0)
    return (0.50 + 0.42 * key + 0.16 * (0.5 + 0.5 * nz)) * (0.58 + 0.42 * open_)


@numba.njit(cache=True, error_model="numpy")
def _floor(x: float, y: float, seed: int) -> tuple:
    """Wooden planks."""
    row = int(np.floor(y / 0.22))
    along = x + 0.9 * _hash(row, 3, 5, seed)
    plank = int(np.floor(along / 1.3))
    tone = 0.72 + 0.30 * _hash(row, plank, 9, seed)
    grain = 0.80 + 0.25 * _noise(along * 5, y * 55, tone * 40, seed) + 0.15 * _noise(x * 40, y * 40, 0.0, seed + 1)
    v, u = y / 0.22 - row, along / 1.3 - plank
    joint = 1.0 - 0.55 * max(_step(0.05, 0.0, v), _step(0.012, 0.0, u))
    k = tone * grain * joint
    return 0.80 * k, 0.60 * k, 0.42 * k


@numba.njit(cache=True, error_model="numpy")
def _wall(u: float, z: float, number: int, seed: int) -> tuple:
    """Wallpaper with diamonds, a skirting board and framed mosaics."""
    a, b = (u + z) / 0.32, (u - z) / 0.32
    check = (int(np.floor(a)) + int(np.floor(b))) % 2
    base = (0.62, 0.70, 0.74) if number % 2 == 0 else (0.76, 0.68, 0.62)
    k = 0.88 + 0.12 * check + 0.22 * (_noise(u * 9, z * 9, number, seed) - 0.5)
    k += 0.20 * (_noise(u * 38, z * 38, number, seed + 1) - 0.5)
    colour = (base[0] * k, base[1] * k, base[2] * k)
    dot = (a - np.floor(a) - 0.5) ** 2 + (b - np.floor(b) - 0.5) ** 2
    colour = _mix(colour, (0.35, 0.45, 0.55) if number % 2 == 0 else (0.60, 0.38, 0.36), 0.7 * _step(0.05, 0.03, dot))
    slot = np.floor(u / 1.5)
    pu, pz = u - slot * 1.5 - 0.75, z - 1.45 + 0.3 * (_hash(int(slot), number, 1, seed) - 0.5)
    if abs(pu) < 0.5 and abs(pz) < 0.4:
        colour = (0.20, 0.15, 0.13)
        if abs(pu) < 0.45 and abs(pz) < 0.35:
            first, second, pick = _cells(u / 0.16, z / 0.16, 0.5 + 7 * number, seed + 4)
            colour = _mix((0.95, 0.93, 0.88), _palette(pick), _step(0.03, 0.10, second - first))
    if z < 0.14:
        colour = (0.90, 0.88, 0.84) if z < 0.125 else (0.55, 0.52, 0.50)
    return colour


@numba.njit(cache=True, error_model="numpy")
def _crate(x: float, y: float, z: float, box: int, seed: int) -> tuple:
    size = 0.11
    first, second, pick = _cells(x / size, y / size, z / size, seed + 10 + box)
    tint = _palette((0.37 * box + 0.5 * pick) % 1.0)
    k = 0.75 + 0.25 * _noise(x * 45, y * 45, z * 45, seed)
    tint = _mix((0.25, 0.2, 0.2), tint, _step(0.02, 0.10, second - first))
    return tint[0] * k, tint[1] * k, tint[2] * k


@numba.njit(cache=True, error_model="numpy")
def room_hit(
    eye: np.ndarray, dx: float, dy: float, dz: float, half: float, boxes: np.ndarray
) -> tuple[float, int, int]:
    """Where a ray from inside the room ends.

    Args:
        eye: (3,) start. dx, dy, dz: direction; its length sets the unit of the result. half: the walls stand at
            x, y = ± half, the floor is z = 0, there is no ceiling. boxes: (B, 6) low and high corners.

    Returns:
        distance along the ray (inf = none), what (0 floor, 1-4 walls, 5 + b box b) and the axis of its normal.
    """
    best, what, axis = np.inf, 0, 2
    if dz < 0:
        best = -eye[2] / dz
    for a in range(2):
        d = dx if a == 0 else dy
        if d != 0:
            t = ((half if d > 0 else -half) - eye[a]) / d
            if t < best:
                best, what, axis = t, 1 + 2 * a + (1 if d > 0 else 0), a
    for b in range(boxes.shape[0]):
        enter, leave, side = 0.0, np.inf, -1
        for a in range(3):
            d = dx if a == 0 else (dy if a == 1 else dz)
            if d == 0:
                if eye[a] < boxes[b, a] or eye[a] > boxes[b, a + 3]:
                    leave = -1.0
                continue
            t0, t1 = (boxes[b, a] - eye[a]) / d, (boxes[b, a + 3] - eye[a]) / d
            if t0 > t1:
                t0, t1 = t1, t0
            if t0 > enter:
                enter, side = t0, a
            leave = min(leave, t1)
        if side >= 0 and enter < leave and enter < best:
            best, what, axis = enter, 5 + b, side
    return best, what, axis


@numba.njit(cache=True, error_model="numpy")
def _room_colour(
    eye: np.ndarray, d: np.ndarray, half: float, boxes: np.ndarray, shadow: np.ndarray, seed: int
) -> tuple:
    t, what, axis = room_hit(eye, d[0], d[1], d[2], half, boxes)
    if t == np.inf:
        return 0.85, 0.90, 0.95
    x, y, z = eye[0] + t * d[0], eye[1] + t * d[1], eye[2] + t * d[2]
    if what == 0:
        colour = _floor(x, y, seed)
        n = shadow.shape[0]
        i, j = int((x + half) / (2 * half) * n), int((y + half) / (2 * half) * n)
        dark = shadow[min(max(i, 0), n - 1), min(max(j, 0), n - 1)]
        k = 0.95 * (1.0 - 0.5 * dark)
    elif what < 5:
        colour = _wall(y if axis == 0 else x, z, what, seed)
        k = 0.80 + 0.05 * what
    else:
        colour = _crate(x, y, z, what - 5, seed)
        k = 1.0 if axis == 2 else (0.85 if axis == 0 else 0.70)
    return colour[0] * k, colour[1] * k, colour[2] * k


@numba.njit(cache=True, error_model="numpy")
def shade_object(
    face: np.ndarray, xy: np.ndarray, z: np.ndarray, faces: np.ndarray, rest: np.ndarray, normals: np.ndarray,
    occlusion: np.ndarray, marks: np.ndarray, paint: int, seed: int, samples: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The object's share of every pixel.

    Args:
        face: (H*s, W*s) from `z_buffer`, -1 = not the object. xy, z, faces: the projected mesh.
        rest, normals, occlusion: per vertex. marks, paint, seed: the texture. samples: s.

    Returns:
        colour (H, W, 3) summed over the object's samples and divided by s², and its coverage (H, W) in [0, 1].
    """
    height, width = face.shape[0] // samples, face.shape[1] // samples
    out, cover = np.zeros((height, width, 3)), np.zeros((height, width))
    share = 1.0 / (samples * samples)
    for row in range(face.shape[0]):
        for col in range(face.shape[1]):
            f = face[row, col]
            if f < 0:
                continue
            px, py = (col + 0.5) / samples, (row + 0.5) / samples
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            area = (xy[b, 0] - xy[a, 0]) * (xy[c, 1] - xy[a, 1]) - (xy[b, 1] - xy[a, 1]) * (xy[c, 0] - xy[a, 0])
            wa = ((xy[b, 0] - px) * (xy[c, 1] - py) - (xy[b, 1] - py) * (xy[c, 0] - px)) / area
            wb = ((xy[c, 0] - px) * (xy[a, 1] - py) - (xy[c, 1] - py) * (xy[a, 0] - px)) / area
            wc = (1.0 - wa - wb) / z[c]
            wa, wb = wa / z[a], wb / z[b]
            total = wa + wb + wc
            wa, wb, wc = wa / total, wb / total, wc / total
            x = wa * rest[a, 0] + wb * rest[b, 0] + wc * rest[c, 0]
            y = wa * rest[a, 1] + wb * rest[b, 1] + wc * rest[c, 1]
            h = wa * rest[a, 2] + wb * rest[b, 2] + wc * rest[c, 2]
            nx = wa * normals[a, 0] + wb * normals[b, 0] + wc * normals[c, 0]
            ny = wa * normals[a, 1] + wb * normals[b, 1] + wc * normals[c, 1]
            nz = wa * normals[a, 2] + wb * normals[b, 2] + wc * normals[c, 2]
            length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
            open_ = wa * occlusion[a] + wb * occlusion[b] + wc * occlusion[c]
            k = _light(nx / length, ny / length, nz / length, open_)
            colour = _albedo(paint, x, y, h, seed, marks)
            i, j = row // samples, col // samples
            out[i, j, 0] += share * min(colour[0] * k, 1.0)
            out[i, j, 1] += share * min(colour[1] * k, 1.0)
            out[i, j, 2] += share * min(colour[2] * k, 1.0)
            cover[i, j] += share
    return out, cover


@numba.njit(cache=True, error_model="numpy")
def shade_room(
    face: np.ndarray, samples: int, half: float, boxes: np.ndarray, shadow: np.ndarray, seed: int, eye: np.ndarray,
    ray: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """The room's share (H, W, 3) of every pixel: its samples where `face` is negative, divided by s².

    Args:
        half, boxes: see `room_hit`. shadow: (n, n) darkness of the floor. eye: (3,) the camera's centre.
        ray: (3, 3) turns (u, v, 1) into a world direction of planar depth 1.
    """
    out = np.zeros((face.shape[0] // samples, face.shape[1] // samples, 3))
    share = 1.0 / (samples * samples)
    d = np.zeros(3)
    for row in range(face.shape[0]):
        for col in range(face.shape[1]):
            if face[row, col] >= 0:
                continue
            px, py = (col + 0.5) / samples, (row + 0.5) / samples
            for i in range(3):
                d[i] = ray[i, 0] * px + ray[i, 1] * py + ray[i, 2]
            colour = _room_colour(eye, d, half, boxes, shadow, seed)
            for i in range(3):
                out[row // samples, col // samples, i] += share * min(colour[i], 1.0)
    return out


@numba.njit(cache=True, error_model="numpy")
def room_depth(width: int, height: int, half: float, boxes: np.ndarray, eye: np.ndarray, ray: np.ndarray) -> np.ndarray:
    """Planar depth (H, W) of the empty room at the pixel centres, 0 where nothing is."""
    out = np.zeros((height, width))
    for row in range(height):
        for col in range(width):
            px, py = col + 0.5, row + 0.5
            t, _, _ = room_hit(
                eye, ray[0, 0] * px + ray[0, 1] * py + ray[0, 2], ray[1, 0] * px + ray[1, 1] * py + ray[1, 2],
                ray[2, 0] * px + ray[2, 1] * py + ray[2, 2], half, boxes,
            )  # fmt: skip
            if t != np.inf:
                out[row, col] = t
    return out
