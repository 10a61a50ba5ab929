"""Video: frames by number, times, rotation, damage; writing."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from io_clips import frame

from dyn4d.core.errors import InputError, RunError
from dyn4d.io.video import VideoReader, write_mp4

COUNT = 60


def _number(index: int, width: int = 32, height: int = 24) -> np.ndarray:
    """Flat grey that says which frame it is: survives any codec."""
    return np.full((height, width, 3), 4 * index + 8, np.uint8)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_mp4(path, (_number(i) for i in range(COUNT)), 25)
    return path


def _index(picture: np.ndarray) -> int:
    return round((float(picture.mean()) - 8) / 4)


def test_sequential_and_random_access_agree(film: Path) -> None:
    video = VideoReader(film)
    assert (len(video), video.width, video.height, video.fps) == (COUNT, 32, 24, 25.0)
    np.testing.assert_allclose(video.times, np.arange(COUNT) / 25)
    assert [_index(video[i]) for i in range(COUNT)] == list(range(COUNT))
    jumps = np.random.default_rng(0).integers(0, COUNT, 25).tolist()
    assert [_index(video[i]) for i in jumps] == jumps
    assert _index(video[-1]) == COUNT - 1
    with pytest.raises(IndexError):
        video[COUNT]


def test_seeking_over_several_key_frames(tmp_path: Path) -> None:
    path = tmp_path / "gop.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "7", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for i in range(COUNT):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_number(i), format="rgb24")))
        container.mux(stream.encode())
    video = VideoReader(path)
    order = [59, 0, 58, 30, 31, 7, 6, 13, 14, 50, 49]
    assert [_index(video[i]) for i in order] == order


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx-vp9"),
                                               ("mov", "mjpeg")])  # fmt: skip
def test_other_containers(tmp_path: Path, suffix: str, codec: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = tmp_path / f"x.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = 32, 24
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_number(5 * i), format="rgb24")))
        container.mux(stream.encode())
    video = VideoReader(path)
    assert len(video) == 12 and [_index(video[i]) for i in (11, 0, 5, 6)] == [55, 0, 25, 30]


def test_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    path = tmp_path / "vfr.mkv"
    stamps = [0, 40, 200, 240, 900]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 32, 24, "yuv420p", Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, stamp in enumerate(stamps):
            picture = av.VideoFrame.from_ndarray(_number(i), format="rgb24")
            picture.pts, picture.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    video = VideoReader(path)
    np.testing.assert_allclose(video.times, np.array(stamps) / 1000)
    assert [_index(video[i]) for i in (4, 0, 2)] == [4, 0, 2]


# (a, b, c, d) of the display matrix, and what it does to the stored picture
ROTATIONS = [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]


@pytest.mark.parametrize(("matrix", "quarters"), ROTATIONS)
def test_rotation_of_the_file_is_applied(tmp_path: Path, matrix: tuple[int, ...], quarters: int) -> None:
    """A phone writes lying frames and a display matrix; 90 degrees clockwise is (0, 1, -1, 0)."""
    path = tmp_path / "phone.mp4"
    stored = np.zeros((24, 32, 3), np.uint8)
    stored[:12, :16] = 255  # bright in the upper left
    write_mp4(path, [stored] * 3, 24)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 0x10000 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    video = VideoReader(path)
    upright = np.rot90(stored, quarters)
    assert (video.height, video.width) == upright.shape[:2]
    assert np.abs(video[1].astype(int) - upright).mean() < 12


@pytest.mark.parametrize(("width", "height"), [(33, 25), (1, 1), (32, 25)])
def test_odd_sizes_are_padded(tmp_path: Path, width: int, height: int) -> None:
    write_mp4(tmp_path / "o.mp4", [_number(9, width, height)] * 2, 29.97)
    video = VideoReader(tmp_path / "o.mp4")
    assert (video.width, video.height) == (width + width % 2, height + height % 2)
    assert _index(video[0]) == 9 and abs(video.fps - 29.97) < 1e-3


def test_colours_survive(tmp_path: Path) -> None:
    picture = frame(4, 64, 48)
    write_mp4(tmp_path / "c.mp4", [picture] * 3, 24)
    assert np.abs(VideoReader(tmp_path / "c.mp4")[2].astype(int) - picture).mean() < 4
    assert not list(tmp_path.glob(".tmp*"))


def test_writing_nothing_or_mixed_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frames"):
        write_mp4(tmp_path / "x.mp4", [], 24)
    with pytest.raises(ValueError, match="differ in size"):
        write_mp4(tmp_path / "x.mp4", [_number(0), _number(0, 16, 16)], 24)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_mp4(tmp_path / "file/x.mp4", [_number(0)], 24)


@pytest.mark.parametrize("data", [b"", b"no video at all", b"\0" * 5000])
def test_what_is_no_video(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.mp4"
    with pytest.raises(InputError, match=r"x\.mp4 is not there"):
        VideoReader(path)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.mp4"):
        VideoReader(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated_video(film: Path, tmp_path: Path, keep: float) -> None:
    path = tmp_path / "cut.mp4"
    whole = film.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(InputError, match=r"cut\.mp4"):
        video = VideoReader(path)
        for i in range(COUNT):
            video[i]


def test_sound_alone_is_no_clip(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="has no video frames"):
        VideoReader(path)
