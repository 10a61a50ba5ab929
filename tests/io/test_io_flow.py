"""Flow files of others: what is written is read, what is damaged is refused, folders by names or numbers."""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from dyn4d.core.errors import InputError
from dyn4d.io.flow_files import FLOW_SUFFIXES, open_flow_folder, read_flow, write_flo

NAMES = ("a_0", "a_1", "a_1_2")


def some_flow(height: int = 5, width: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """In steps of 1/64, which every format can hold."""
    rng = np.random.default_rng(0)
    flow = (rng.integers(-2000, 2000, (height, width, 2)) / 64).astype(np.float32)
    valid = rng.random((height, width)) > 0.3
    return np.where(valid[..., None], flow, 0).astype(np.float32), valid


def write(path: Path, flow: np.ndarray, valid: np.ndarray) -> Path:
    """By the formats' descriptions, without the module under test."""
    height, width = valid.shape
    unknown = np.where(valid[..., None], flow, np.float32(np.nan))
    if path.suffix == ".flo":
        values = np.where(valid[..., None], flow, 1e10).astype("<f4")
        path.write_bytes(
            np.float32(202021.25).tobytes() + np.array([width, height], "<i4").tobytes() + values.tobytes()
        )
    elif path.suffix == ".png":
        whole = np.concatenate([flow * 64 + 2**15, valid[..., None]], -1).astype(np.uint16)
        assert cv2.imwrite(str(path), whole[..., ::-1])
    elif path.suffix == ".npy":
        np.save(path, unknown)
    elif path.suffix == ".npz":
        np.savez(path, flow=flow, valid=valid)
    else:
        third = np.zeros((height, width, 1), np.float32)
        values = np.concatenate([unknown, third], -1)[::-1].astype("<f4")
        path.write_bytes(f"PF\n{width} {height}\n-1.0\n".encode() + values.tobytes())
    return path


@pytest.mark.parametrize("suffix", FLOW_SUFFIXES)
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    flow, valid = some_flow()
    found = read_flow(write(tmp_path / f"x{suffix}", flow, valid))
    assert found.flow.dtype == np.float32 and found.flow.shape == (5, 7, 2)
    np.testing.assert_array_equal(found.valid, valid)
    np.testing.assert_array_equal(found.flow, flow)


def test_flo_comes_back_bit_by_bit(tmp_path: Path) -> None:
    flow = np.random.default_rng(1).normal(size=(4, 3, 2)).astype(np.float32)
    flow[1, 2, 0], flow[2, 1] = np.nan, np.inf
    write_flo(tmp_path / "x.flo", flow)
    found = read_flow(tmp_path / "x.flo")
    known = np.isfinite(flow).all(-1)
    np.testing.assert_array_equal(found.valid, known)
    np.testing.assert_array_equal(found.flow[known], flow[known])
    assert (tmp_path / "x.flo").stat().st_size == 12 + 4 * 3 * 8
    assert (cv2.readOpticalFlow(str(tmp_path / "x.flo"))[known] == flow[known]).all()  # another reader agrees
    write_flo(tmp_path / "x.flo", flow, np.zeros((4, 3), bool))
    assert not read_flow(tmp_path / "x.flo").valid.any()
    with pytest.raises(ValueError, match="wanted \\(H, W, 2\\)"):
        write_flo(tmp_path / "y.flo", flow[..., :1])
    assert [p.name for p in tmp_path.iterdir()] == ["x.flo"]


def test_layouts_of_arrays(tmp_path: Path) -> None:
    flow, _ = some_flow()
    np.save(tmp_path / "first.npy", flow.transpose(2, 0, 1))
    np.savez_compressed(tmp_path / "one.npz", anything=flow.astype(np.float64))
    for name in ("first.npy", "one.npz"):
        np.testing.assert_array_equal(read_flow(tmp_path / name).flow, flow)
    big = tmp_path / "big.pfm"
    values = np.concatenate([flow, flow[..., :1]], -1)[::-1]
    big.write_bytes(b"PF\n7 5\n1.0\n" + values.astype(">f4").tobytes())
    np.testing.assert_array_equal(read_flow(big).flow, flow)


@pytest.mark.parametrize("suffix", FLOW_SUFFIXES)
@pytest.mark.parametrize("left", [0, 3, 0.5, -1])
def test_cut_short_or_empty_is_one_clear_line(tmp_path: Path, suffix: str, left: float) -> None:
    path = write(tmp_path / f"x{suffix}", *some_flow())
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content)) if isinstance(left, float) else left])
    with pytest.raises(InputError, match=str(path)) as caught:
        read_flow(path)
    assert "\n" not in str(caught.value)
    assert ("0 bytes" in str(caught.value)) == (left == 0)


def test_what_is_no_flow_is_refused(tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            read_flow(tmp_path / name)

    refused("none.flo", "is not there")
    (tmp_path / "x.txt").write_text("1")
    refused("x.txt", "wanted one of .flo")
    (tmp_path / "x.flo").write_bytes(b"PIEH" + np.array([-1, 5], "<i4").tobytes())
    refused("x.flo", "-1x5 pixels")
    (tmp_path / "x.flo").write_bytes(b"PIEH" + np.array([2**20, 2**20], "<i4").tobytes())
    refused("x.flo", "damaged")
    write_flo(tmp_path / "x.flo", some_flow()[0])
    (tmp_path / "x.flo").write_bytes((tmp_path / "x.flo").read_bytes() + b"\0")
    refused("x.flo", "promises")
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((5, 7, 3), np.uint8))
    refused("x.png", "16 bits in three channels")
    np.save(tmp_path / "x.npy", np.zeros((5, 7, 3)))
    refused("x.npy", r"shape \(5, 7, 3\)")
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused("x.npy", "Python objects")
    np.savez(tmp_path / "x.npz", u=np.zeros((5, 7)), v=np.zeros((5, 7)))
    refused("x.npz", "wanted an array named flow")
    np.savez(tmp_path / "x.npz", flow=np.zeros((5, 7, 2)), valid=np.zeros((7, 5)))
    refused("x.npz", "valid has shape")
    (tmp_path / "x.pfm").write_bytes(b"Pf\n7 5\n-1.0\n" + bytes(4 * 35))
    refused("x.pfm", "one channel")


def test_files_are_found_by_name(tmp_path: Path) -> None:
    flow, valid = some_flow()
    for stem in ("a_0_a_1", "a_1_a_0", "a_0_a_1_2"):
        write_flo(tmp_path / f"{stem}.flo", flow)
    write(tmp_path / "a_0_a_1.png", flow, valid)  # the same pair again, as a picture: the .flo counts
    (tmp_path / "notes.txt").write_text("ignored")
    found = open_flow_folder(tmp_path, NAMES, 7, 5)
    assert set(found.files) == {(0, 1), (1, 0), (0, 2)}
    assert found.files[0, 1].suffix == ".flo"
    np.testing.assert_array_equal(found.read(0, 2).flow, flow)


def test_files_are_found_by_number(tmp_path: Path) -> None:
    for stem in ("0_1", "00002_00001"):
        write_flo(tmp_path / f"{stem}.flo", some_flow()[0])
    assert set(open_flow_folder(tmp_path, NAMES, 7, 5).files) == {(0, 1), (2, 1)}
    write_flo(tmp_path / "000_001.flo", some_flow()[0])
    with pytest.raises(InputError, match="same two frames"):
        open_flow_folder(tmp_path, NAMES, 7, 5)


@pytest.mark.parametrize("stem", ["0_3", "0", "a_0_a_9", "0_0", "flow_0_1"])
def test_a_file_that_fits_no_pair_is_named(tmp_path: Path, stem: str) -> None:
    write_flo(tmp_path / f"{stem}.flo", some_flow()[0])
    with pytest.raises(InputError, match=f"{stem}.flo is not named after two frames.*a_0_a_1_2.flo"):
        open_flow_folder(tmp_path, NAMES, 7, 5)


def test_folders_without_flow(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no flow files"):
        open_flow_folder(tmp_path, NAMES, 7, 5)
    with pytest.raises(InputError, match="is not there"):
        open_flow_folder(tmp_path / "x", NAMES, 7, 5)


@pytest.mark.parametrize(("size", "fits"), [((7, 5), True), ((14, 10), True), ((21, 15), True), ((6, 5), False),
                                            ((14, 12), False), ((5, 7), False)])  # fmt: skip
def test_sizes(tmp_path: Path, size: tuple[int, int], fits: bool) -> None:
    """The frames' own size, or the larger one that they were made smaller from."""
    write_flo(tmp_path / "0_1.flo", np.zeros((size[1], size[0], 2)))
    folder = open_flow_folder(tmp_path, NAMES, 7, 5)
    if fits:
        assert folder.read(0, 1).valid.shape == (size[1], size[0])
    else:
        with pytest.raises(InputError, match="the frames are 7x5"):
            folder.read(0, 1)


@pytest.mark.parametrize(
    ("names", "stems", "wanted", "words"),
    [
        (("001", "002", "003"), ("000001_000002", "000002_000003"), {(0, 1), (1, 2)}, "numbers in the frames' names"),
        (("f_1", "f_2", "f_3"), ("1_2", "2_3"), {(0, 1), (1, 2)}, "numbers in the frames' names"),
        (("00001", "00002", "00003"), ("0_1", "1_2"), {(0, 1), (1, 2)}, "counted from 0"),
        (("a", "b", "c"), ("0_1", "1_2"), {(0, 1), (1, 2)}, "counted from 0"),
        (("1", "01", "3"), ("0_1",), {(0, 1)}, "counted from 0"),  # two frames of one number
        (("00001", "00002", "00003"), ("00001_00002",), {(0, 1)}, "named after the frames"),
    ],
)  # fmt: skip
def test_numbers_are_those_of_the_names_first(
    tmp_path: Path, names: tuple[str, ...], stems: tuple[str, ...], wanted: set, words: str
) -> None:
    for stem in stems:
        write_flo(tmp_path / f"{stem}.flo", some_flow()[0])
    found = open_flow_folder(tmp_path, names, 7, 5)
    assert set(found.files) == wanted and words in found.reading


def test_numbers_that_may_mean_either_are_refused(tmp_path: Path) -> None:
    write_flo(tmp_path / "1_2.flo", some_flow()[0])
    with pytest.raises(InputError, match=r"1_2.flo: its numbers may be .*name all files after .*00001_00003.flo"):
        open_flow_folder(tmp_path, ("00001", "00002", "00003"), 7, 5)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png"])
def test_any_flipped_byte_is_one_clear_line_or_a_flow(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"x{suffix}", *some_flow())
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(content)
        for at in rng.integers(0, min(len(content), 300), rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            assert read_flow(path).flow.ndim == 3
        except InputError as error:
            assert "\n" not in str(error) and str(path) in str(error)


def test_headers_that_promise_too_much(tmp_path: Path) -> None:
    flow, valid = some_flow()
    png = bytearray(write(tmp_path / "x.png", flow, valid).read_bytes())
    png[16:24] = (100_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(bytes(png[12:29])).to_bytes(4, "big")
    (tmp_path / "x.png").write_bytes(bytes(png))
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999, 99999999, 2), }"
    header = header.ljust(117) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(100))
    for name in ("x.png", "x.npy"):
        with pytest.raises(InputError, match=f"{name} is damaged"):
            read_flow(tmp_path / name)
