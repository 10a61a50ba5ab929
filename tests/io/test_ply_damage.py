"""Damaged files: one clear error with its place, never a traceback, never a half-written output."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ply_clouds import gaussians, points, save

from dyn4d.core.errors import Dyn4DError, InputError
from dyn4d.io.ply_compare import compare_files
from dyn4d.io.ply_convert import convert_file
from dyn4d.io.ply_info import ply_info
from dyn4d.io.ply_select import Selection, select
from dyn4d.io.row_writers import write_rows
from dyn4d.io.rows import open_rows

HEAD = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nend_header\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty (0 bytes)"),
        (b"hello, this is a letter\n", "does not begin with 'ply', but with 'hello, this is a letter'"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer"),
        (b"\x00\x01\x02\x03" * 9, "does not begin with 'ply'"),
        (b"ply\n", "no line 'end_header'"),
        (b"ply\nformat ascii 1.0\nelement vertex 3\n", "no line 'end_header'"),
        (b"ply\nelement vertex 0\nend_header\n", "no line 'format"),
        (HEAD.replace("ascii", "binary").encode(), "line 2 of the header: 'format binary 1.0'"),
        (HEAD.replace("vertex 3", "vertex -3").encode(), "line 3 of the header: 'element vertex -3'"),
        (HEAD.replace("vertex 3", "vertex").encode(), "line 3 of the header: 'element vertex'"),
        (HEAD.replace("float y", "half y").encode(), "line 5 of the header: 'property half y'"),
        (HEAD.replace("float y", "float x").encode(), "line 5 of the header: a second property 'x'"),
        (HEAD.replace("element vertex 3\n", "").encode(), "line 3 of the header: a property before any element"),
        (HEAD.replace("property float z", "wobble").encode(), "line 6 of the header: 'wobble' begins with no word"),
        (HEAD.replace("float y", "float \xe9").encode("latin1"), "line 5 of the header: bytes that are no text"),
        (HEAD.replace("vertex", "camera").encode(), "has no element 'vertex', so no points; its elements: camera"),
        (HEAD.encode() + b"0 0 0\n1 1 1\n", "ends after 2 of 3 rows of the element 'vertex' (line 9)"),
        (HEAD.encode() + b"0 0 0\n1 one 1\n2 2 2\n", "line 9: 'one' for 'y' is no number"),
        (HEAD.encode() + b"0 0 0\n\n1 1\n2 2 2\n", "line 10: 2 numbers; wanted 3"),
        (HEAD.replace("float z", "uchar z").encode() + b"0 0 0\n0 0 256\n0 0 1\n", "line 9: 256 for 'z'"),
        (HEAD.replace("float z", "int z").encode() + b"0 0 0\n0 0 1.5\n0 0 1\n", "line 9: 1.5 for 'z'"),
        (HEAD.replace("property float z", "property list uchar int z").encode() + b"0 0 0\n" * 3, "'z' of the element"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "p.ply"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        ply_info(path)
    assert says in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [1, 12, 100, 2000])
def test_a_cut_body_says_how_much_is_missing_and_from_which_row(tmp_path: Path, cut: int) -> None:
    rows = gaussians(40, 0)
    path = save(tmp_path / "g.ply", rows)
    data = path.read_bytes()
    body = len(data) - rows.nbytes
    path.write_bytes(data[:-cut])
    row = (rows.nbytes - cut) // rows.dtype.itemsize
    with pytest.raises(InputError, match=f"{cut:,} of its bytes are missing, from row {row} of 40 .* .byte "):
        open_rows(path)
    path.write_bytes(data[:body])
    with pytest.raises(InputError, match=f"{rows.nbytes:,} of its bytes are missing, from row 0"):
        open_rows(path)


def test_a_count_that_cannot_be_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    for form, body in (("ascii", "1 2 3\n"), ("binary_little_endian", "1234")):
        path = tmp_path / f"{form}.ply"
        path.write_text(HEAD.replace("ascii", form).replace("vertex 3", "vertex 99999999999") + body)
        with pytest.raises(InputError, match="cut short"):
            open_rows(path)


def test_faces_that_are_cut_and_bytes_that_are_too_many(tmp_path: Path) -> None:
    path = save(tmp_path / "m.ply", points(5), faces=4)
    data = path.read_bytes()
    assert ply_info(path).trailing == 0
    path.write_bytes(data + b"12345")
    assert ply_info(path).trailing == 5 and "5 bytes after the data" in ply_info(path).format()
    path.write_bytes(data[:-3])
    with pytest.raises(InputError, match="ends in row 3 of 4 of the element 'face'"):
        ply_info(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("text", [True, False])
def test_lists_before_the_vertices(tmp_path: Path, order: str, text: bool) -> None:
    """An element with lists of different lengths in front is stepped over."""
    from plyfile import PlyData, PlyElement

    lists = np.empty(3, dtype=[("a", "f4"), ("l", "O"), ("b", "i2")])
    lists["a"], lists["b"] = [1, 2, 3], [4, 5, 6]
    lists["l"] = [np.arange(n, dtype="i4") for n in (2, 1, 5)]
    rows = points(7)
    elements = [PlyElement.describe(lists, "odd"), PlyElement.describe(rows, "vertex")]
    PlyData(elements, text=text, byte_order=order).write(str(tmp_path / "p.ply"))
    np.testing.assert_array_equal(open_rows(tmp_path / "p.ply").whole()["red"], rows["red"])


@pytest.mark.parametrize("suffix", ["spz", "splat", "compressed.ply"])
@pytest.mark.parametrize("cut", [1, 50, 2000])
def test_other_containers_that_are_cut(tmp_path: Path, suffix: str, cut: int) -> None:
    path = tmp_path / f"g.{suffix}"
    convert_file(save(tmp_path / "g.ply", gaussians(300, 1)), path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match="cut short"):
        ply_info(path)


def zipped(content: bytes) -> bytes:
    """Gzip without the time, which would get into the tests' names: workers must collect the same ones."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"nothing", "is no SPZ file"),
        (zipped(b"nothing of the kind, but long enough"), "no SPZ inside"),
        (zipped(b"NGSP"), "4 unpacked bytes"),
        (zipped(struct.pack("<4sIIBBBB", b"NGSP", 9, 1, 0, 12, 0, 0)), "version 9"),
        (zipped(struct.pack("<4sIIBBBB", b"NGSP", 3, 1, 7, 12, 0, 0)), "harmonics of degree 7"),
        (zipped(struct.pack("<4sIIBBBB", b"NGSP", 3, 4_000_000_000, 0, 12, 0, 0)), "4,000,000,000 rows"),
        (zipped(struct.pack("<4sIIBBBB", b"NGSP", 3, 1000, 0, 12, 0, 0) + b"1" * 99), "from row 11 of 1,000"),
        (b"NGSP" + struct.pack("<IIBBBBI12x", 4, 10, 0, 12, 0, 5, 32), "table of contents"),
    ],
)
def test_broken_spz(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "g.spz"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        ply_info(path)
    assert says in str(caught.value)


def test_a_compressed_ply_that_lacks_something(tmp_path: Path) -> None:
    path = tmp_path / "c.compressed.ply"
    convert_file(save(tmp_path / "g.ply", gaussians(300, 1)), path)
    data = path.read_bytes()
    for old, new, says in (
        (b"uint packed_scale", b"uint packed_sca__", "packed_scale in its element 'vertex'"),
        (b"float min_x", b"float mix_x", "min_x in its element 'chunk'"),
        (b"element chunk 2", b"element chunk 1", "1 chunks for 300 rows; wanted 2"),
        (b"uchar f_rest_8", b"uchar f_rest_9", "of 9 fields"),
    ):
        assert old in data
        path.write_bytes(data.replace(old, new) + b" " * 4096)
        with pytest.raises(InputError) as caught:
            ply_info(path)
        assert says in str(caught.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(), kind=st.sampled_from(["g.ply", "t.ply", "b.ply", "m.ply", "c.compressed.ply", "s.spz", "s.splat"])
)
def test_broken_bytes_never_end_in_anything_but_one_error(tmp_path: Path, data: st.DataObject, kind: str) -> None:
    """Bytes overwritten, cut out or put in: the file is read, or refused in one line; what is written is whole."""
    source = tmp_path / f"whole_{kind}"
    if not source.exists():
        rows = gaussians(20, 1)
        if kind in ("g.ply", "t.ply", "b.ply"):
            save(source, rows, text=kind == "t.ply", order=">" if kind == "b.ply" else "<")
        elif kind == "m.ply":
            save(source, points(20), faces=3)
        else:
            convert_file(save(tmp_path / "plain.ply", rows), source)
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1 if kind != "g.ply" else min(len(content) - 1, 900)))
        change = data.draw(st.sampled_from(["set", "cut", "put", "end"]))
        if change == "set":
            content[at] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del content[at : at + data.draw(st.integers(1, 9))]
        elif change == "put":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=4))
        elif at:
            del content[at:]
        if not content:
            break
    broken, out = tmp_path / f"broken_{kind}", tmp_path / "out.ply"
    broken.write_bytes(bytes(content))
    out.unlink(missing_ok=True)
    for work in (ply_info, lambda path: convert_file(path, out), lambda path: compare_files(path, path)):
        try:
            work(broken)
        except Dyn4DError as error:
            assert "\n" not in str(error)
    if out.exists():
        open_rows(out).whole()
    assert not list(tmp_path.glob(".tmp-*"))


def test_an_output_is_whole_or_not_there(tmp_path: Path) -> None:
    """A file that breaks off while it is read leaves what was there before, and no rest of the attempt."""
    head = HEAD.replace("vertex 3", "vertex 200000")
    path = tmp_path / "p.ply"
    path.write_text(head + "0 0 0\n" * 150_000 + "0 zero 0\n" * 50_000)
    out = tmp_path / "o.ply"
    out.write_bytes(b"what was there before")
    rows = open_rows(path)
    with pytest.raises(InputError, match="line 150,008: 'zero'"):
        write_rows(out, rows)
    with pytest.raises(InputError, match="line 150,008: 'zero'"):
        select(rows, Selection(finite=True))
    assert out.read_bytes() == b"what was there before" and len(list(tmp_path.iterdir())) == 2


def test_a_file_that_grows_meanwhile_is_noticed(tmp_path: Path) -> None:
    from dataclasses import replace

    rows = open_rows(save(tmp_path / "p.ply", points(20)))
    with pytest.raises(InputError, match="gave 20 rows, 21 a moment before"):
        write_rows(tmp_path / "o.ply", replace(rows, count=21))
    assert not (tmp_path / "o.ply").exists()
