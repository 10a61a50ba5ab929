"""Pictures, masks and depth maps of every kind people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from io_clips import disc, frame, save
from PIL import Image, ImageOps

from dyn4d.core.errors import InputError
from dyn4d.io.images import (
    depth_size,
    has_alpha,
    image_size,
    read_depth,
    read_depth_counted,
    read_mask,
    read_rgb,
    read_rgba,
    write_depth,
    write_mask,
    write_png,
)
from dyn4d.io.readers import LazyFrames, resize_mask, resize_rgb

SHAPE = disc()


def _palette(indices: np.ndarray, colours: list[int]) -> Image.Image:
    size = (indices.shape[1], indices.shape[0])
    picture = Image.frombytes("P", size, indices.astype(np.uint8).tobytes())
    picture.putpalette(colours)
    return picture


MASKS = {
    "8 bit": Image.fromarray(SHAPE.astype(np.uint8) * 255),
    "8 bit, just above half": Image.fromarray(np.where(SHAPE, 128, 127).astype(np.uint8)),
    "0/1": Image.fromarray(SHAPE.astype(np.uint8)),
    "bilevel": Image.fromarray(SHAPE.astype(np.uint8) * 255).convert("1"),
    "16 bit": Image.fromarray(SHAPE.astype(np.uint16) * 65535),
    "16 bit, just above half": Image.fromarray(np.where(SHAPE, 32768, 32767).astype(np.uint16)),
    "16 bit 0/1": Image.fromarray(SHAPE.astype(np.uint16)),
    "RGB white": Image.fromarray(np.repeat(SHAPE[..., None], 3, -1).astype(np.uint8) * 255),
    "RGB red": Image.fromarray(SHAPE[..., None].astype(np.uint8) * np.array([255, 0, 0], np.uint8)),
    "white with alpha": Image.fromarray(
        np.dstack([np.full((*SHAPE.shape, 3), 255, np.uint8), SHAPE.astype(np.uint8) * 255])
    ),
    "black with alpha": Image.fromarray(
        np.dstack([np.zeros((*SHAPE.shape, 3), np.uint8), SHAPE.astype(np.uint8) * 255])
    ),
    "opaque RGBA": Image.fromarray(
        np.dstack([np.repeat(SHAPE[..., None], 3, -1), np.ones_like(SHAPE)]).astype(np.uint8) * 255
    ),
    "grey with alpha": Image.merge("LA", [Image.fromarray(SHAPE.astype(np.uint8) * 255)] * 2),
    "palette of labels": _palette(SHAPE, [0, 0, 0, 128, 0, 0]),
    "grey palette": _palette(SHAPE, [0, 0, 0, 255, 255, 255]),
}


@pytest.mark.parametrize("kind", MASKS)
def test_mask_of_every_kind(tmp_path: Path, kind: str) -> None:
    MASKS[kind].save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png")
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, SHAPE)


@pytest.mark.parametrize("values", [np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint16)])
def test_empty_mask(tmp_path: Path, values: np.ndarray) -> None:
    assert not read_mask(save(tmp_path / "m.png", values)).any()


def test_mask_round_trip(tmp_path: Path) -> None:
    write_mask(tmp_path / "a/m.png", SHAPE)
    np.testing.assert_array_equal(read_mask(tmp_path / "a/m.png"), SHAPE)


def test_rgb_of_every_mode(tmp_path: Path) -> None:
    colour = frame(2)
    np.testing.assert_array_equal(read_rgb(save(tmp_path / "c.png", colour)), colour)
    grey = colour[..., 1]
    np.testing.assert_array_equal(read_rgb(save(tmp_path / "g.png", grey))[..., 2], grey)
    deep = grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_rgb(save(tmp_path / "d.png", deep))[..., 0], grey)
    both = np.dstack([colour, grey])
    path = save(tmp_path / "a.png", both)
    np.testing.assert_array_equal(read_rgba(path), both)
    np.testing.assert_array_equal(read_rgb(path), colour)
    assert has_alpha(path) and not has_alpha(tmp_path / "c.png")
    assert (read_rgba(tmp_path / "c.png")[..., 3] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"p.{suffix}", frame(1), exif=exif)
    with Image.open(path) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(read_rgb(path), upright)
    assert image_size(path) == (upright.shape[1], upright.shape[0])


def test_depth_units_and_types(tmp_path: Path) -> None:
    raw = np.array([[0, 1, 5000], [65535, 7, 8]], np.uint16)
    path = save(tmp_path / "d.png", raw)
    np.testing.assert_allclose(read_depth(path, 5000.0), raw / 5000.0, rtol=1e-6)
    assert read_depth(path).dtype == np.float32 and depth_size(path) == (3, 2)
    for kind in (np.float16, np.float32, np.float64):
        np.save(tmp_path / "d.npy", np.array([[0.5, 2.25, 0]], kind))
        np.testing.assert_array_equal(read_depth(tmp_path / "d.npy", 5000.0), [[0.5, 2.25, 0]])
    np.save(tmp_path / "d.npy", raw[None])
    np.testing.assert_allclose(read_depth(tmp_path / "d.npy", 10.0), raw / 10.0, rtol=1e-6)
    assert depth_size(tmp_path / "d.npy") == (3, 2)


def test_depth_that_is_no_number_counts_as_none(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.array([[np.nan, np.inf, -np.inf, -1.0, 0.0, 2.0]]))
    depth, bad = read_depth_counted(tmp_path / "d.npy")
    assert bad == 4
    np.testing.assert_array_equal(depth, [[0, 0, 0, 0, 0, 2]])


def test_depth_round_trip_and_range(tmp_path: Path) -> None:
    depth = np.array([[0.0, 1.2344, np.nan, -3.0]])
    write_depth(tmp_path / "d.png", depth, 5000)
    np.testing.assert_allclose(read_depth(tmp_path / "d.png", 5000), [[0, 1.2344, 0, 0]], atol=1e-7)
    with pytest.raises(ValueError, match="does not fit 16 bits"):
        write_depth(tmp_path / "d.png", np.array([[100.0]]), 1000)


def test_depth_of_the_wrong_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"c\.png: depth of mode RGB; wanted a 16-bit"):
        read_depth(save(tmp_path / "c.png", frame(0)))
    with pytest.raises(InputError, match="mode L"):
        read_depth(save(tmp_path / "l.png", frame(0)[..., 0]))
    np.save(tmp_path / "s.npy", np.zeros((2, 3, 4)))
    with pytest.raises(InputError, match=r"depth of shape \(2, 3, 4\)"):
        read_depth(tmp_path / "s.npy")
    np.save(tmp_path / "o.npy", np.array([["a"]]))
    with pytest.raises(InputError, match=r"o\.npy"):
        read_depth(tmp_path / "o.npy")


@pytest.mark.parametrize("read", [read_rgb, read_rgba, read_mask, read_depth, image_size, has_alpha, depth_size])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_every_reader_names_a_bad_file(tmp_path: Path, read, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    with pytest.raises(InputError, match=rf"x\.{suffix} is not there"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=rf"x\.{suffix} is empty \(0 bytes\)"):
        read(path)
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match=rf"x\.{suffix} is no image"):
        read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=rf"x\.{suffix}"):
        read(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_truncated_pictures(tmp_path: Path, suffix: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = save(tmp_path / f"x.{suffix}", noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(InputError, match=rf"x\.{suffix}"):
        read_rgb(path)


def test_bit_flips_never_escape_as_another_error(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", frame(0))
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    for _ in range(150):
        broken = whole.copy()
        for place in rng.integers(0, len(whole), 3):
            broken[place] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        try:
            read_rgb(path)
        except InputError as error:
            assert "x.png" in str(error)


@pytest.mark.parametrize("size", [0, 1, 60])
def test_damaged_npy(tmp_path: Path, size: int) -> None:
    np.save(tmp_path / "d.npy", np.ones((9, 9)))
    (tmp_path / "d.npy").write_bytes((tmp_path / "d.npy").read_bytes()[:size])
    with pytest.raises(InputError, match=r"d\.npy"):
        read_depth(tmp_path / "d.npy")


def test_png_refuses_floats(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wanted uint8 or uint16, found float64"):
        write_png(tmp_path / "x.png", np.zeros((2, 2)))


def test_resizing_keeps_means_and_areas() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 45, 3), dtype=np.uint8)
    small = resize_rgb(image, 15, 10)
    np.testing.assert_allclose(small, image.reshape(10, 3, 15, 3, 3).mean((1, 3)), atol=1.01)  # 8-bit rounding, twice
    mask = np.zeros((4, 4), bool)
    mask[:, 0] = True  # half of the left pixels: not more than half
    mask[0, 1] = True
    np.testing.assert_array_equal(resize_mask(mask, 2, 2), [[True, False], [False, False]])


def test_lazy_frames_keep_within_their_budget() -> None:
    reads: list[int] = []

    def read(index: int) -> np.ndarray:
        reads.append(index)
        return np.full(100, index, np.uint8)

    frames = LazyFrames([str(i) for i in range(5)], read, cache_bytes=250)
    for index in (0, 1, 0, 1, 2, 1, 0, -1):
        assert frames[index][0] == index % 5
    assert reads == [0, 1, 2, 0, 4]
    big = LazyFrames(["0"], read, cache_bytes=50)
    big[0], big[0]
    assert reads[-2:] == [0, 0]
