"""Arrays of an .npz that may be larger than memory: known by their headers, read a part at a time, never unpickled."""

from __future__ import annotations

import shutil
import struct
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from dyn4d.core.errors import InputError

DAMAGE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, struct.error)
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # of a member of a zip archive; name and extra field follow


@dataclass(frozen=True)
class _Header:
    """What the start of a .npy says."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    length: int  # of the header itself, bytes


def damaged(path: Path) -> InputError:
    return InputError(f"{path} is empty, damaged or cut short; write it again with numpy")


class NpzFile:
    """The arrays of one .npz. An array that is stored plainly is mapped from the file; one that is compressed is
    unpacked once into a temporary file without a name, which goes when the array does."""

    def __init__(self, path: str | Path) -> None:
        """Raises `InputError` where the file is missing, damaged or holds what is no array."""
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{self.path} is not there")
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
                self._members = {info.filename.removesuffix(".npy"): info for info in members}
                self._headers = {name: _read_header(archive.open(info)) for name, info in self._members.items()}
        except DAMAGE as error:
            raise damaged(self.path) from error
        self._mapped: dict[str, np.ndarray] = {}

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self._members)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._headers[name].shape

    def array(self, name: str) -> np.ndarray:
        """The array, not yet in memory where it is large: index it. Raises `InputError` naming file and array."""
        if name not in self._mapped:
            header = self._headers[name]
            if header.dtype.hasobject:
                raise InputError(f"{self.path}: {name} holds Python objects, not numbers; save it as a plain array")
            try:
                self._mapped[name] = self._map(self._members[name], header)
            except DAMAGE as error:
                raise damaged(self.path) from error
        return self._mapped[name]

    def _map(self, member: zipfile.ZipInfo, header: _Header) -> np.ndarray:
        order = "F" if header.fortran else "C"
        if 0 in header.shape or header.shape == ():
            with zipfile.ZipFile(self.path) as archive, archive.open(member) as stream:
                return npy.read_array(stream, allow_pickle=False)
        if member.compress_type == zipfile.ZIP_STORED:
            with self.path.open("rb") as file:
                file.seek(member.header_offset)
                fields = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            start = member.header_offset + _LOCAL_HEADER.size + fields[-2] + fields[-1] + header.length
            return np.memmap(self.path, header.dtype, "r", start, header.shape, order)
        unpacked = tempfile.TemporaryFile()  # noqa: SIM115  the map keeps it alive
        with zipfile.ZipFile(self.path) as archive, archive.open(member) as stream:
            shutil.copyfileobj(stream, unpacked, 1 << 20)  # also checks the sum
        unpacked.flush()
        return np.memmap(unpacked, header.dtype, "r", header.length, header.shape, order)


def _read_header(stream: IO[bytes]) -> _Header:
    with stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        return _Header(shape, dtype, fortran, stream.tell())


def read_npy(path: Path) -> np.ndarray:
    """One array of numbers, mapped, not read. Raises `InputError` naming the file."""
    if not path.is_file():
        raise InputError(f"{path} is not there")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGE as error:
        raise damaged(path) from error
    if not isinstance(values, np.ndarray):
        values.close()
        raise InputError(f"{path} is an archive; wanted one array, saved with numpy.save")
    return values
