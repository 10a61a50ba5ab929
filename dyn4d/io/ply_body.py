"""The rows of one element of a PLY file, a block at a time, whatever its encoding.

What is missing or wrong is said by byte and vertex (binary) or by line (text).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io.ply_header import Element, Header, Property

BLOCK = 65_536


def element_blocks(header: Header, name: str, rows: int = BLOCK) -> Iterator[np.ndarray]:
    """The rows of an element without lists as structured arrays in this machine's byte order, `rows` at a time.

    Raises:
        InputError: the file is cut short or damaged there; names the byte and row, or the line.
    """
    element = header.find(name)
    assert element is not None, "the caller looked"
    if element.lists:
        raise InputError(
            f"{header.path}: the property '{element.lists[0]}' of the element '{name}' is a list; wanted one number "
            "a row"
        )
    if element.count and not element.properties:
        raise InputError(f"{header.path}: the element '{name}' has no properties, so {element.count:,} rows of nothing")
    try:
        yield from (_text if header.encoding == "text" else _binary)(header, element, rows)
    except OSError as error:
        raise InputError(f"{header.path} cannot be read: {error.strerror or error}") from error


def check_size(header: Header) -> None:
    """Are all elements there that can be counted without reading them? Raises `InputError` as `element_blocks`."""
    if header.encoding == "text":
        for element in header.elements:
            # a number and what parts it from the next are two bytes: with fewer some rows are missing, so look where
            if header.size - header.body + 1 < 2 * element.count * len(element.properties) and not element.lists:
                for _ in element_blocks(header, element.name):
                    pass
        return
    at = header.body
    for element in header.elements:
        if element.lists:
            return
        _require(header, element, at)
        at += element.dtype().itemsize * element.count


def trailing_bytes(header: Header) -> int:
    """Bytes after the last element of a binary file, once all of it was walked; lists included.

    Raises:
        InputError: the file ends before its last element does.
    """
    if header.encoding == "text":
        return 0
    with header.path.open("rb") as stream:
        end = _skip(stream, header, header.elements)
    return header.size - end


def _require(header: Header, element: Element, at: int) -> None:
    size = element.dtype().itemsize
    there, want = max(header.size - at, 0), size * element.count
    if there < want:
        row = there // size
        raise InputError(
            f"{header.path} is cut short: {want - there:,} of its bytes are missing, from row {row:,} of "
            f"{element.count:,} of the element '{element.name}' on (byte {header.size:,}); write or copy it again"
        )


def _before(header: Header, element: Element) -> tuple[Element, ...]:
    return header.elements[: header.elements.index(element)]


def _binary(header: Header, element: Element, rows: int) -> Iterator[np.ndarray]:
    stored, native = element.dtype(header.order), element.dtype()
    with header.path.open("rb") as stream:
        at = _skip(stream, header, _before(header, element))
        _require(header, element, at)
        stream.seek(at)
        left = element.count
        while left:
            block = np.fromfile(stream, dtype=stored, count=min(rows, left))
            if len(block) == 0:
                raise InputError(f"{header.path} became shorter while it was read; try again")
            left -= len(block)
            yield block.astype(native, copy=False)


# ------------------------------------------------------------------------------------------ with lists


def _skip(stream: BinaryIO, header: Header, elements: tuple[Element, ...]) -> int:
    """The offset after some elements, the first of which begins right after the header."""
    at = header.body
    for element in elements:
        if not element.lists:
            _require(header, element, at)
            at += element.dtype().itemsize * element.count
        else:
            at = _skip_lists(stream, header, element, at)
    return at


def _skip_lists(stream: BinaryIO, header: Header, element: Element, at: int) -> int:
    if len(element.properties) == 1 and element.count:
        end = _skip_uniform(stream, header, element, at)
        if end is not None:
            return end
    for row in range(element.count):
        for part in element.properties:
            at = _skip_property(stream, header, element, part, at, row)
    return at


def _skip_uniform(stream: BinaryIO, header: Header, element: Element, at: int) -> int | None:
    """The offset after lists that all have the same length, as those of triangles; None where they differ."""
    part = element.properties[0]
    length = np.dtype(header.order + (part.length or "u1"))
    stream.seek(at)
    first = np.fromfile(stream, dtype=length, count=1)
    if len(first) == 0 or first[0] < 0:
        return None
    size = length.itemsize + int(first[0]) * np.dtype(part.kind).itemsize
    if at + size * element.count > header.size:
        return None
    row = np.dtype({"names": ["n"], "formats": [length], "offsets": [0], "itemsize": size})
    stream.seek(at)
    left = element.count
    while left:
        block = np.fromfile(stream, dtype=row, count=min(left, max(1, (1 << 24) // size)))
        if len(block) == 0 or (block["n"] != first[0]).any():
            return None
        left -= len(block)
    return at + size * element.count


def _skip_property(
    stream: BinaryIO, header: Header, element: Element, part: Property, at: int, row: int
) -> int:  # fmt: skip
    if part.length is not None:
        stream.seek(at)
        count = np.fromfile(stream, dtype=header.order + part.length, count=1)
        at += np.dtype(part.length).itemsize
        if len(count) and count[0] < 0:
            raise InputError(f"{header.path} is damaged: a list of {count[0]} entries at byte {at:,} (row {row:,} of "
                             f"the element '{element.name}'); write or copy it again")  # fmt: skip
        at += int(count[0]) * np.dtype(part.kind).itemsize if len(count) else 1
    else:
        at += np.dtype(part.kind).itemsize
    if at > header.size:
        raise InputError(f"{header.path} is cut short: it ends in row {row:,} of {element.count:,} of the element "
                         f"'{element.name}' (byte {header.size:,}); write or copy it again")  # fmt: skip
    return at


# ------------------------------------------------------------------------------------------------ text


def _text(header: Header, element: Element, rows: int) -> Iterator[np.ndarray]:
    skip = sum(e.count for e in _before(header, element))
    with header.path.open("rb") as stream:
        stream.seek(header.body)
        numbered = ((n, line) for n, line in enumerate(stream, start=header.lines + 1) if line.strip())
        if sum(1 for _ in islice(numbered, skip)) < skip:
            raise InputError(f"{header.path} is cut short: it ends before the element '{element.name}'; copy it again")
        done = 0
        while done < element.count:
            want = min(rows, element.count - done)
            lines = list(islice(numbered, want))
            if lines:
                yield _parse(header.path, element, lines)
            done += len(lines)
            if len(lines) < want:
                last = f" (line {lines[-1][0]:,})" if lines else ""
                raise InputError(
                    f"{header.path} is cut short: it ends after {done:,} of {element.count:,} rows of the element "
                    f"'{element.name}'{last}; write or copy it again"
                )


def _parse(path: Path, element: Element, lines: list[tuple[int, bytes]]) -> np.ndarray:
    wide = len(element.properties)
    tokens = [line.split() for _, line in lines]
    for (number, _), words in zip(lines, tokens):
        if len(words) != wide:
            raise InputError(f"{path}, line {number:,}: {len(words)} numbers; wanted {wide}, as the header says; mend "
                             "that line")  # fmt: skip
    out = np.empty(len(lines), dtype=element.dtype())
    for column, part in enumerate(element.properties):
        try:
            values = np.array([float(words[column]) for words in tokens])
        except ValueError:
            raise _bad_number(path, part, lines, [words[column] for words in tokens]) from None
        if part.kind[0] in "iu":
            ends = np.iinfo(part.kind)
            bad = ~((values >= ends.min) & (values <= ends.max) & (values == np.round(values)))
            if bad.any():
                row = int(np.argmax(bad))
                shown = tokens[row][column][:24].decode("ascii", "replace")
                raise InputError(f"{path}, line {lines[row][0]:,}: {shown} for "
                                 f"'{part.name}'; wanted a whole number from {ends.min} to {ends.max}")  # fmt: skip
        with np.errstate(over="ignore"):
            out[part.name] = values.astype(part.kind)
    return out


def _bad_number(path: Path, part: Property, lines: list[tuple[int, bytes]], words: list[bytes]) -> InputError:
    for (number, _), word in zip(lines, words):
        try:
            float(word)
        except ValueError:
            shown = word[:24].decode("ascii", "replace")
            return InputError(f"{path}, line {number:,}: '{shown}' for '{part.name}' is no number; mend that line")
    raise AssertionError("one of them was no number")
