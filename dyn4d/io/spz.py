"""SPZ files: Gaussians by attribute, quantised and compressed. Versions 1 to 3 (gzip) and 4 (Zstandard) are read,
version 3 is written.

Positions are 24-bit fixed point, opacities, colours and logarithmic scales one byte, rotations the three smallest
components (before version 3: three bytes), spherical harmonics one byte a coefficient, of which we keep the upper 5
bits (degree 1) or 4, as the format's own writer does by default.

Axes: SPZ is right, up, back by definition; our rows are right, down, forward, as PLYs are taken to be. Both are turned
into each other here, so that a PLY that becomes an SPZ and a PLY again is in the same world. Some programs store what
they have as it is: `turn=False` is for files of theirs.
Format: github.com/nianticlabs/spz.
"""

from __future__ import annotations

import gzip
import importlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io import ply_fields as pf

MAGIC = b"NGSP"
VERSION = 3
MAX_DEGREE = 3
MOST_FRACTION_BITS = 23
_HEAD = struct.Struct("<4sIIBBBB")
_HEAD4 = struct.Struct("<4sIIBBBBI12x")
USUAL_SH_BITS = (5, 4)  # kept of degree 1 and of the others, as by the format's own writer
_COLOUR = 0.15 * 255  # bytes a unit of f_dc
_MOST_ROWS = 1 << 28


@dataclass(frozen=True)
class Head:
    """What an SPZ says of itself. `body`: offset of the attributes in the unpacked bytes; `streams`: of version 4,
    the compressed and plain bytes of each."""

    version: int
    count: int
    degree: int
    fraction_bits: int
    streams: tuple[tuple[int, int], ...] = ()
    start: int = 0

    @property
    def rotation_bytes(self) -> int:
        return 3 if self.version < 3 else 4

    def sections(self) -> list[tuple[str, int]]:
        """Attributes in the order of the file with their bytes a row."""
        position = 6 if self.version == 1 else 9
        rest = pf.REST_COUNTS[self.degree]
        return [("position", position), ("alpha", 1), ("colour", 3), ("scale", 3), ("rotation", self.rotation_bytes),
                ("sh", rest)]  # fmt: skip


def dtype_of(head: Head) -> np.dtype:
    return pf.gaussian_dtype(head.degree)


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is damaged or cut short: {what}; write or copy it again")


def read_head(path: Path) -> Head:
    """Raises `InputError` for what is no SPZ, of a version that is not known, or cut short in its head."""
    with path.open("rb") as stream:
        first = stream.read(_HEAD4.size)
    if first[:4] == MAGIC:
        return _head4(path, first)
    if first[:2] != b"\x1f\x8b":
        raise InputError(f"{path} is no SPZ file: it begins neither as gzip (versions 1 to 3) nor with NGSP (4)")
    try:
        with gzip.open(path, "rb") as stream:
            first = stream.read(_HEAD.size)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if len(first) < _HEAD.size:
        raise _damaged(path, f"{len(first)} unpacked bytes, the head has {_HEAD.size}")
    magic, version, count, degree, bits, _, _ = _HEAD.unpack(first)
    if magic != MAGIC:
        raise InputError(f"{path} is gzip, but no SPZ inside: it begins with {magic!r}, wanted {MAGIC!r}")
    return _checked(path, Head(version, count, degree, bits, start=_HEAD.size), (1, 2, 3))


def _head4(path: Path, first: bytes) -> Head:
    if len(first) < _HEAD4.size:
        raise _damaged(path, f"{len(first)} bytes, the head has {_HEAD4.size}")
    _, version, count, degree, bits, _, streams, toc = _HEAD4.unpack(first)
    with path.open("rb") as stream:
        stream.seek(toc)
        table = stream.read(16 * streams)
    if len(table) < 16 * streams:
        raise _damaged(path, "its table of contents is beyond its end")
    pairs = tuple(struct.iter_unpack("<QQ", table))
    if toc + 16 * streams + sum(packed for packed, _ in pairs) > path.stat().st_size:
        raise _damaged(path, "its attributes reach beyond its end")
    head = _checked(path, Head(version, count, degree, bits, pairs, toc + 16 * streams), (4,))
    wanted = [size * count for _, size in head.sections() if size]
    if [plain for _, plain in pairs][: len(wanted)] != wanted:
        raise _damaged(path, "the sizes of its attributes are not those of its rows")
    return head


def _checked(path: Path, head: Head, versions: tuple[int, ...]) -> Head:
    if head.version not in versions:
        raise InputError(f"{path} is SPZ of version {head.version}; 1 to 4 are known")
    if head.degree >= len(pf.REST_COUNTS) or head.count > _MOST_ROWS or head.fraction_bits > 30:
        raise _damaged(path, f"its head says {head.count:,} rows, harmonics of degree {head.degree}")
    return head


# -------------------------------------------------------------------------------------------- reading


def read_blocks(path: Path, rows: int, *, turn: bool = True) -> Iterator[np.ndarray]:
    """Rows with the fields of a PLY. The packed attributes (20 to 65 bytes a row) are held meanwhile."""
    head = read_head(path)
    parts = _unpack4(path, head) if head.version == 4 else _unzip(path, head)
    for start in range(0, head.count, rows):
        stop = min(start + rows, head.count)
        block = {name: data[start * size : stop * size].reshape(-1, size) for name, size, data in parts if size}
        yield _decode(head, block, stop - start, turn)


def _unzip(path: Path, head: Head) -> list[tuple[str, int, np.ndarray]]:
    out = []
    try:
        with gzip.open(path, "rb") as stream:
            stream.read(head.start)
            for name, size in head.sections():
                data = _take(stream, size * head.count)
                if len(data) < size * head.count:
                    raise _damaged(path, f"{size * head.count - len(data):,} bytes of '{name}' are missing, from row "
                                         f"{len(data) // size:,} of {head.count:,} on")  # fmt: skip
                out.append((name, size, data))
            stream.read(1)  # at its end the sum of all bytes is checked
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    return out


def _take(stream: Any, count: int) -> np.ndarray:
    """Up to `count` bytes. Not allocated at once: a damaged head may ask for more than there is."""
    parts, left = [], count
    while left and (part := stream.read(min(left, 1 << 24))):
        parts.append(np.frombuffer(part, np.uint8))
        left -= len(part)
    return np.concatenate(parts) if parts else np.empty(0, np.uint8)


def _unpack4(path: Path, head: Head) -> list[tuple[str, int, np.ndarray]]:
    unpack, out = _zstandard(path), []
    with path.open("rb") as stream:
        stream.seek(head.start)
        sizes = iter(head.streams)
        for name, size in head.sections():
            if size == 0:
                continue
            packed, plain = next(sizes)
            try:
                data = np.frombuffer(unpack(stream.read(packed), plain), np.uint8)
            except Exception as error:  # each of the two libraries has errors of its own
                raise _damaged(path, f"'{name}' cannot be unpacked ({error})") from error
            if len(data) != plain:
                raise _damaged(path, f"'{name}' has {len(data):,} bytes, wanted {plain:,}")
            out.append((name, size, data))
    return out


def _zstandard(path: Path) -> Any:
    """Unpacks bytes of a known length: Python's own from 3.14 on, else the package zstandard."""
    try:
        own = importlib.import_module("compression.zstd")
        return lambda data, size: own.decompress(data)
    except ImportError:
        pass
    try:
        package = importlib.import_module("zstandard")
    except ImportError as error:
        raise InputError(f"{path} is SPZ of version 4, which needs the package zstandard: pip install 'dyn4d[spz]'; or "
                         "write it as version 3") from error  # fmt: skip
    return lambda data, size: package.ZstdDecompressor().decompress(data, max_output_size=size)


def _decode(head: Head, block: dict[str, np.ndarray], count: int, turn: bool) -> np.ndarray:
    flip = -1 if turn else 1
    out = np.zeros(count, dtype=dtype_of(head))
    if head.version == 1:
        xyz = np.ascontiguousarray(block["position"]).view("<f2").astype(np.float32)
    else:
        three = block["position"].reshape(count, 3, 3).astype(np.int32)
        fixed = three[..., 0] | three[..., 1] << 8 | three[..., 2] << 16
        xyz = ((fixed ^ 0x800000) - 0x800000) / np.float64(1 << head.fraction_bits)  # sign of 24 bits
    quats = _decode_rotation3(block["rotation"]) if head.version < 3 else _decode_rotation(block["rotation"])
    groups = (
        (pf.POSITION, xyz * [1, flip, flip]), (pf.ROTATION, quats * [1, 1, flip, flip]),
        (pf.SCALE, block["scale"] / 16 - 10), (("opacity",), pf.logit(block["alpha"] / 255)),
        (pf.DC, (block["colour"] / 255 - 0.5) / 0.15),
    )  # fmt: skip
    for names, values in groups:
        for at, name in enumerate(names):
            out[name] = values[:, at]
    if head.degree:
        per = pf.REST_COUNTS[head.degree] // 3
        sh = (block["sh"].reshape(count, per, 3).astype(np.float32) - 128) / 128 * _signs(per, turn)
        for at, name in enumerate(pf.rest_names(3 * per)):
            out[name] = sh[:, at % per, at // per]
    return out


def _signs(per: int, turn: bool) -> np.ndarray:
    return pf.TURN_SH[:per, None] if turn else np.ones((per, 1), np.float32)


def _decode_rotation3(found: np.ndarray) -> np.ndarray:
    xyz = found / 127.5 - 1
    return np.concatenate([np.sqrt(np.maximum(0, 1 - (xyz**2).sum(-1, keepdims=True))), xyz], axis=-1)


def _decode_rotation(found: np.ndarray) -> np.ndarray:
    """(N, 4) w x y z from 2 bits for the largest of x y z w and a sign and 9 bits for each other."""
    word = np.ascontiguousarray(found).view("<u4")[:, 0]
    which = (word >> 30).astype(np.int64)
    out = np.empty((len(word), 4))
    for index in range(4):
        at = which == index
        others = [i for i in range(4) if i != index]
        left = word[at]
        total = np.zeros(len(left))
        for i in reversed(others):
            value = (left & 511) / (511 * np.sqrt(2.0))
            value = np.where((left >> 9) & 1, -value, value)
            out[at, i] = value
            total += value**2
            left = left >> 10
        out[at, index] = np.sqrt(np.maximum(0, 1 - total))
    return out[:, [3, 0, 1, 2]]


# -------------------------------------------------------------------------------------------- writing


def fraction_bits(furthest: float) -> int:
    """The most fractional bits with which 24 bits hold coordinates up to `furthest`. Raises `InputError` from 2^23."""
    if furthest >= 1 << 23:
        raise InputError(f"a coordinate of {furthest:.3g} is too large for SPZ, which ends at 8,388,607; crop it first")
    bits = MOST_FRACTION_BITS
    while bits and furthest * (1 << bits) > (1 << 23) - 1:
        bits -= 1
    return bits


def encode(
    rows: np.ndarray, degree: int, bits: int, *, turn: bool = True, sh_bits: tuple[int, int] = USUAL_SH_BITS
) -> dict[str, np.ndarray]:
    """Gaussians with the fields of a PLY -> bytes (N, size) by attribute. `sh_bits`: of 8, those that are kept of
    harmonics of degree 1 and of the others; fewer pack better."""
    flip = -1 if turn else 1
    xyz = pf.columns(rows, pf.POSITION, np.float64) * [1, flip, flip]
    fixed = np.round(xyz * (1 << bits)).astype(np.int32)
    colours = 0.5 * 255 + pf.columns(rows, pf.DC) * _COLOUR
    logs = (pf.columns(rows, pf.SCALE) + 10) * 16
    out = {
        "position": np.stack([fixed & 255, (fixed >> 8) & 255, (fixed >> 16) & 255], axis=-1).reshape(-1, 9),
        "alpha": pf.opacities(rows)[:, None] * 255, "colour": colours, "scale": logs,
        "rotation": _encode_rotation(pf.unit_quats(rows) * np.array([1, 1, flip, flip], np.float32)),
        "sh": _encode_sh(rows, degree, turn, sh_bits),
    }  # fmt: skip
    return {name: np.clip(np.round(values), 0, 255).astype(np.uint8) for name, values in out.items()}


def _encode_sh(rows: np.ndarray, degree: int, turn: bool, sh_bits: tuple[int, int]) -> np.ndarray:
    per = pf.REST_COUNTS[degree] // 3
    sh = pf.columns(rows, pf.rest_names(3 * per)).reshape(len(rows), 3, per).transpose(0, 2, 1) * _signs(per, turn)
    step = np.where(np.arange(per) < 3, 1 << (8 - sh_bits[0]), 1 << (8 - sh_bits[1]))[:, None]
    whole = np.round(sh * 128) + 128
    return (np.floor((whole + step / 2) / step) * step).reshape(len(rows), 3 * per)


def _encode_rotation(quats: np.ndarray) -> np.ndarray:
    xyzw = quats[:, [1, 2, 3, 0]].astype(np.float64)
    which = np.abs(xyzw).argmax(-1)
    turned = np.take_along_axis(xyzw, which[:, None], 1)[:, 0] < 0
    word = which.astype(np.uint32)
    for i in range(4):
        size = np.minimum(np.floor(511 * np.sqrt(2.0) * np.abs(xyzw[:, i]) + 0.5), 511).astype(np.uint32)
        sign = ((xyzw[:, i] < 0) ^ turned).astype(np.uint32)
        word = np.where(which == i, word, word << 10 | sign << 9 | size).astype(np.uint32)
    return word.astype("<u4").view(np.uint8).reshape(-1, 4)


def write(stream: BinaryIO, head: Head, parts: dict[str, np.ndarray]) -> None:
    """Write version 3. `parts`: the attributes of all rows, (N, size) bytes each."""
    # no name and no time in the gzip head: the same rows are the same bytes
    with gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=6, mtime=0) as packed:
        packed.write(_HEAD.pack(MAGIC, VERSION, head.count, head.degree, head.fraction_bits, 0, 0))
        for name, _ in head.sections():
            packed.write(np.ascontiguousarray(parts[name]).data if parts[name].size else b"")
