"""PlayCanvas' compressed PLY: 16 bytes a Gaussian, in chunks of 256 that share their bounds.

Elements: `chunk` (bounds of position, logarithmic scale and, in newer files, colour), `vertex` (four packed 32-bit
words), and `sh` (one byte a coefficient) where there are view-dependent colours. Positions and scales have 11, 10 and
11 bits between their chunk's bounds, rotations the three smallest components in 10 bits each, colour and opacity 8.
Rows that are near in space should be near in the file, since a chunk's bounds are its resolution: see `morton_order`.
Layout: developer.playcanvas.com/user-manual/gaussian-splatting/formats/compressed-ply.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io import ply_fields as pf
from dyn4d.io.ply_body import element_blocks
from dyn4d.io.ply_header import Header

CHUNK = 256
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
BOUNDS = tuple(f"{end}_{axis}" for end in ("min", "max") for axis in "xyz")
SCALE_BOUNDS = tuple(f"{end}_scale_{axis}" for end in ("min", "max") for axis in "xyz")
COLOUR_BOUNDS = tuple(f"{end}_{axis}" for end in ("min", "max") for axis in "rgb")
CHUNK_DTYPE = np.dtype([(name, "<f4") for name in (*BOUNDS, *SCALE_BOUNDS, *COLOUR_BOUNDS)])
VERTEX_DTYPE = np.dtype([(name, "<u4") for name in PACKED])
LOG_SCALE_RANGE = (-20.0, 20.0)
MAX_DEGREE = 3
SH_SPAN = 8.0  # coefficients from -4 to 4
_ROOT = np.sqrt(2.0)


def is_compressed(header: Header) -> bool:
    vertex = header.find("vertex")
    return vertex is not None and any(p.name.startswith("packed_") for p in vertex.properties)


def check_layout(header: Header) -> np.dtype:
    """The fields that its rows unpack to. Raises `InputError` where something of the layout is missing."""
    vertex, chunk, sh = (header.find(name) for name in ("vertex", "chunk", "sh"))
    assert vertex is not None

    def lacks(element: str, names: tuple[str, ...], there: set[str]) -> None:
        missing = [name for name in names if name not in there]
        if missing:
            raise InputError(f"{header.path}: a compressed PLY needs {', '.join(missing)} in its element '{element}'; "
                             "write it again")  # fmt: skip

    lacks("vertex", PACKED, {p.name for p in vertex.properties if p.kind == "u4"})
    lacks("chunk", (*BOUNDS, *SCALE_BOUNDS), {p.name for p in chunk.properties} if chunk else set())
    chunks = -(-vertex.count // CHUNK)
    if chunk is not None and chunk.count != chunks:
        raise InputError(f"{header.path}: {chunk.count:,} chunks for {vertex.count:,} rows; wanted {chunks:,}, one for "
                         f"every {CHUNK}")  # fmt: skip
    degree = 0
    if sh is not None:
        names = [p.name for p in sh.properties]
        found = pf.sh_degree(names)
        if found is None or sh.count != vertex.count:
            raise InputError(f"{header.path}: the element 'sh' has {sh.count:,} rows of {len(names)} fields; wanted "
                             f"{vertex.count:,} of 9, 24 or 45")  # fmt: skip
        degree = found
    return pf.gaussian_dtype(degree)


# -------------------------------------------------------------------------------------------- reading


def read_blocks(header: Header, rows: int) -> Iterator[np.ndarray]:
    """Rows with the fields of a PLY."""
    dtype = check_layout(header)
    chunks = np.concatenate([np.empty(0, _native(header, "chunk")), *element_blocks(header, "chunk")])
    step = max(CHUNK, rows // CHUNK * CHUNK)
    sh = element_blocks(header, "sh", step) if header.find("sh") else None
    at = 0
    for packed in element_blocks(header, "vertex", step):
        out = np.zeros(len(packed), dtype=dtype)
        decode(packed, chunks[(at + np.arange(len(packed))) // CHUNK], out)
        if sh is not None:
            found = next(sh)
            for name in found.dtype.names or ():
                out[name] = decode_sh(found[name])
        at += len(packed)
        yield from (out[i : i + rows] for i in range(0, len(out), rows))


def decode_sh(found: np.ndarray) -> np.ndarray:
    """Bytes as coefficients: the middle of each step, and both ends themselves."""
    share = (found.astype(np.float32) + 0.5) / 256
    return (np.where(found == 0, 0, np.where(found == 255, 1, share)) - 0.5) * SH_SPAN


def _native(header: Header, name: str) -> np.dtype:
    element = header.find(name)
    assert element is not None
    return element.dtype()


def decode(packed: np.ndarray, bounds: np.ndarray, out: np.ndarray) -> None:
    """Unpack the four words of rows, each with the bounds of its chunk, into rows of a PLY."""
    places = _unpack(packed["packed_position"], (11, 10, 11))
    logs = _unpack(packed["packed_scale"], (11, 10, 11))
    colour = _unpack(packed["packed_color"], (8, 8, 8, 8))
    for at, (axis, name) in enumerate(zip("xyz", pf.SCALE)):
        out[axis] = _between(places[at], bounds[f"min_{axis}"], bounds[f"max_{axis}"])
        out[name] = _between(logs[at], bounds[f"min_scale_{axis}"], bounds[f"max_scale_{axis}"])
    for at, (axis, name) in enumerate(zip("rgb", pf.DC)):
        value = colour[at]
        if f"min_{axis}" in (bounds.dtype.names or ()):
            value = _between(value, bounds[f"min_{axis}"], bounds[f"max_{axis}"])
        out[name] = (value - 0.5) / pf.SH_DC
    out["opacity"] = pf.logit(colour[3])
    quats = _unpack_rotation(packed["packed_rotation"])
    for at, name in enumerate(pf.ROTATION):
        out[name] = quats[:, at]


def _unpack(words: np.ndarray, bits: tuple[int, ...]) -> list[np.ndarray]:
    """The parts of 32-bit words, from the highest bits down, as shares of their largest value."""
    out, left = [], 32
    for wide in bits:
        left -= wide
        out.append(((words >> np.uint32(left)) & np.uint32((1 << wide) - 1)) / np.float64((1 << wide) - 1))
    return out


def _between(share: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return low * (1 - share) + high * share


def _unpack_rotation(words: np.ndarray) -> np.ndarray:
    """(N, 4) w x y z: the index of the largest component, then the others."""
    rest = np.stack(_unpack(words << np.uint32(2), (10, 10, 10)), axis=-1)
    rest = (rest - 0.5) * _ROOT
    largest = np.sqrt(np.maximum(0, 1 - (rest**2).sum(-1)))
    which = (words >> np.uint32(30)).astype(np.int64)
    return _insert(rest, largest, which)


def _insert(rest: np.ndarray, largest: np.ndarray, which: np.ndarray) -> np.ndarray:
    out = np.empty((len(rest), 4))
    for index in range(4):
        at = which == index
        others = [i for i in range(4) if i != index]
        out[np.ix_(at, others)] = rest[at]
        out[at, index] = largest[at]
    return out


# -------------------------------------------------------------------------------------------- writing


def morton_order(xyz: np.ndarray) -> np.ndarray:
    """(N,) order along a Z curve through the bounding box, 21 bits an axis. Rows at one place keep their order."""
    if len(xyz) == 0:
        return np.empty(0, np.int64)
    low, high = xyz.min(0).astype(np.float64), xyz.max(0).astype(np.float64)
    code = np.zeros(len(xyz), np.uint64)
    for axis in range(3):
        span = max(float(high[axis] - low[axis]), 1e-300)
        along = (xyz[:, axis].astype(np.float64) - low[axis]) / span
        cell = np.minimum(along * (1 << 21), (1 << 21) - 1).astype(np.uint64)
        code |= _spread(cell) << np.uint64(axis)
    return np.argsort(code, kind="stable")


def _spread(cell: np.ndarray) -> np.ndarray:
    """Two zero bits after each of the lower 21 bits."""
    masks = (0x1F00000000FFFF, 0x1F0000FF0000FF, 0x100F00F00F00F00F, 0x10C30C30C30C30C3, 0x1249249249249249)
    for shift, mask in zip((32, 16, 8, 4, 2), masks):
        cell = (cell | (cell << np.uint64(shift))) & np.uint64(mask)
    return cell


def encode(core: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pack rows in their order.

    Args:
        core: (N, 14) xyz, rgb, opacity in [0, 1], logarithmic scales, quaternions w x y z of length 1.

    Returns:
        chunks (ceil(N / 256),) and packed rows (N,).
    """
    starts = np.arange(0, len(core), CHUNK)
    chunks = np.zeros(len(starts), dtype=CHUNK_DTYPE)
    packed = np.empty(len(core), dtype=VERTEX_DTYPE)
    which = np.arange(len(core)) // CHUNK
    shares: list[np.ndarray] = []
    columns = (*((at, f"_{axis}") for at, axis in enumerate("xyz")),
               *((7 + at, f"_scale_{axis}") for at, axis in enumerate("xyz")),
               *((3 + at, f"_{axis}") for at, axis in enumerate("rgb")))  # fmt: skip
    for column, label in columns:
        values = core[:, column]
        if "scale" in label:
            values = np.clip(values, *LOG_SCALE_RANGE)
        if len(starts):
            chunks["min" + label] = np.minimum.reduceat(values, starts)
            chunks["max" + label] = np.maximum.reduceat(values, starts)
        low, high = chunks["min" + label][which].astype(np.float64), chunks["max" + label][which].astype(np.float64)
        span = high - low
        shares.append(np.where(span > 0, (values - low) / np.where(span > 0, span, 1), 0))
    packed["packed_position"] = _pack(shares[:3], (11, 10, 11))
    packed["packed_scale"] = _pack(shares[3:6], (11, 10, 11))
    packed["packed_color"] = _pack([*shares[6:], core[:, 6]], (8, 8, 8, 8))
    packed["packed_rotation"] = _pack_rotation(core[:, 10:14])
    return chunks, packed


def _pack(parts: list[np.ndarray], bits: tuple[int, ...]) -> np.ndarray:
    word = np.zeros(len(parts[0]), np.uint32)
    left = 32
    for part, wide in zip(parts, bits):
        left -= wide
        top = (1 << wide) - 1
        word |= np.clip(np.floor(part * top + 0.5), 0, top).astype(np.uint32) << np.uint32(left)
    return word


def _pack_rotation(quats: np.ndarray) -> np.ndarray:
    which = np.abs(quats).argmax(-1)
    signed = quats * np.where(np.take_along_axis(quats, which[:, None], 1) < 0, -1.0, 1.0)
    keep = np.arange(4)[None, :] != which[:, None]
    rest = signed[keep].reshape(-1, 3) / _ROOT + 0.5
    return (which.astype(np.uint32) << np.uint32(30)) | (_pack(list(rest.T), (10, 10, 10)) >> np.uint32(2))


def encode_sh(values: np.ndarray) -> np.ndarray:
    """Coefficients as bytes; beyond -4 and 4 they are clipped."""
    return np.clip(np.floor((values / SH_SPAN + 0.5) * 256), 0, 255).astype(np.uint8)
