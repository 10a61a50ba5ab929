"""The header of a PLY file, read with the line of whatever is wrong in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dyn4d.core.errors import InputError

TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
NAMES = {"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint", "f4": "float",
         "f8": "double"}  # fmt: skip
ENCODINGS = {"ascii": "text", "binary_little_endian": "binary little endian", "binary_big_endian": "binary big endian"}
LONGEST = 1 << 20  # bytes of a header; a real one has a few thousand
_OTHER = {
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself (git lfs pull)",
    b"<!doctype": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\x1f\x8b": "compressed by gzip; unpack it, or name it .spz if it is one",
    b"glTF": "a glTF file",
    b"NGSP": "an SPZ file; name it .spz",
}


@dataclass(frozen=True)
class Property:
    """One property. `kind`: NumPy code without byte order, such as f4; `length`: the same of a list's length."""

    name: str
    kind: str
    length: str | None = None


@dataclass(frozen=True)
class Element:
    """A table of the file: its name, rows, properties, and the header's line that declares it."""

    name: str
    count: int
    properties: tuple[Property, ...]
    line: int

    @property
    def lists(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.properties if p.length is not None)

    def dtype(self, order: str = "=") -> np.dtype:
        """One row of an element without lists."""
        return np.dtype([(p.name, order + p.kind) for p in self.properties])


@dataclass(frozen=True)
class Header:
    """A parsed header.

    Attributes:
        path, size: the file and its bytes. encoding: "text", "binary little endian" or "binary big endian".
        body: offset of the first byte after the header. lines: of the header.
    """

    path: Path
    size: int
    encoding: str
    elements: tuple[Element, ...]
    comments: tuple[str, ...]
    body: int
    lines: int

    @property
    def order(self) -> str:
        return ">" if self.encoding.endswith("big endian") else "<"

    def find(self, name: str) -> Element | None:
        return next((e for e in self.elements if e.name == name), None)


def open_checked(path: str | Path) -> Path:
    """The path, if a file with at least one byte is there. Raises `InputError`."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise InputError(f"{path} is a folder; give one file")
    if not path.is_file():
        raise InputError(f"{path} is not there")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); write or copy it again")
    return path


def read_header(path: str | Path) -> Header:
    """Read and check the header.

    Raises:
        InputError: no file, empty, no PLY, or a header that cannot be understood; with the line.
    """
    path = open_checked(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
            if head[:3] != b"ply" or head[3:4] not in (b"\n", b"\r"):
                raise InputError(f"{path} is no PLY file: it does not begin with 'ply'{_what_else(head)}")
            stream.seek(0)
            lines, body = _lines(stream, path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return _parse(path, lines, body)


def _what_else(head: bytes) -> str:
    for start, what in _OTHER.items():
        if head[: len(start)].lower() == start.lower():
            return f"; it is {what}"
    line = head.splitlines()[0][:24]
    shown = line.decode("ascii", "replace")
    return f", but with '{shown}'" if shown.isprintable() else ""


def _lines(stream, path: Path) -> tuple[list[str], int]:
    lines: list[str] = []
    while stream.tell() < LONGEST:
        raw = stream.readline(LONGEST)
        if not raw.endswith(b"\n"):
            break
        try:
            lines.append(raw.decode("ascii").strip())
        except UnicodeDecodeError as error:
            if raw.split(b" ", 1)[0] not in (b"comment", b"obj_info"):
                raise InputError(f"{path}, line {len(lines) + 1} of the header: bytes that are no text; the file is "
                                 "damaged, write or copy it again") from error  # fmt: skip
            lines.append(raw.decode("utf-8", "replace").strip())
        if lines[-1] == "end_header":
            return lines, stream.tell()
    raise InputError(f"{path} is damaged or cut short: its header has no line 'end_header'; write or copy it again")


def _parse(path: Path, lines: list[str], body: int) -> Header:
    encoding = ""
    comments: list[str] = []
    elements: list[tuple[str, int, list[Property], int]] = []

    def wrong(number: int, text: str) -> InputError:
        return InputError(f"{path}, line {number} of the header: {text}; mend the file or write it again")

    for number, line in enumerate(lines[1:-1], start=2):
        words = line.split()
        if not words or words[0] == "obj_info":
            continue
        if words[0] == "comment":
            comments.append(line[7:].strip())
        elif words[0] == "format":
            if len(words) != 3 or words[1] not in ENCODINGS or words[2] != "1.0":
                raise wrong(number, f"'{line}'; wanted 'format {' | '.join(ENCODINGS)} 1.0'")
            encoding = ENCODINGS[words[1]]
        elif words[0] == "element":
            if len(words) != 3 or not words[2].isdecimal():
                raise wrong(number, f"'{line}'; wanted 'element NAME COUNT'")
            if any(words[1] == name for name, *_ in elements):
                raise wrong(number, f"a second element '{words[1]}'")
            elements.append((words[1], int(words[2]), [], number))
        elif words[0] == "property":
            if not elements:
                raise wrong(number, "a property before any element")
            found = _property(words)
            if found is None:
                raise wrong(number, f"'{line}'; wanted 'property TYPE NAME' or 'property list TYPE TYPE NAME', with "
                                    "types such as float, double, int, uchar")  # fmt: skip
            if any(found.name == other.name for other in elements[-1][2]):
                raise wrong(number, f"a second property '{found.name}'")
            elements[-1][2].append(found)
        else:
            raise wrong(number, f"'{line[:60]}' begins with no word that a header has")
    if not encoding:
        raise InputError(f"{path}: its header has no line 'format ... 1.0'; mend the file or write it again")
    made = tuple(Element(name, count, tuple(props), number) for name, count, props, number in elements)
    return Header(path, path.stat().st_size, encoding, made, tuple(comments), body, len(lines))


def _property(words: list[str]) -> Property | None:
    if len(words) == 3 and words[1] in TYPES:
        return Property(words[2], TYPES[words[1]])
    if len(words) == 5 and words[1] == "list" and words[2] in TYPES and words[3] in TYPES:
        length = TYPES[words[2]]
        return Property(words[4], TYPES[words[3]], length) if length[0] != "f" else None
    return None


def header_text(dtype: np.dtype, count: int, *, element: str = "vertex", comments: tuple[str, ...] = ()) -> str:
    """The header of a little-endian binary file with one element, which is what we write."""
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {text}" for text in comments)]
    lines += element_lines(element, dtype, count)
    return "\n".join([*lines, "end_header", ""])


def element_lines(name: str, dtype: np.dtype, count: int) -> list[str]:
    fields = dtype.names or ()
    return [f"element {name} {count}", *(f"property {NAMES[dtype[field].str[1:]]} {field}" for field in fields)]
