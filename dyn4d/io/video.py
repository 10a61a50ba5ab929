"""Video through PyAV: lazy upright frames with their times, and H.264 writing."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from dyn4d.core.errors import InputError, RunError
from dyn4d.io.atomic import atomic_path

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".gif"})

_AV_ERRORS = (FFmpegError, OSError, ValueError, EOFError, IndexError)


NO_FRAMES = "has no video frames, or it is cut short; wanted a file with a picture track, copied whole"


class VideoReader:
    """Frames (H, W, 3) uint8 of a video file, read when asked for; the file's rotation is applied.

    Going forward is fast (one decode a frame); a jump seeks to the key frame before. Safe to use from several threads.

    Attributes:
        path: the file. times: (F,) float64 seconds from the first frame, strictly increasing. fps: frames a second.
        width, height: of the upright picture.

    Raises:
        InputError: on opening or decoding what is no video, is damaged or has no frames; names file and frame.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._container: Any = None
        self._frames: Iterator[Any] | None = None
        self._next = 0
        self._seekable = True
        if not self.path.is_file():
            raise InputError(f"{self.path} is not there")
        if self.path.stat().st_size == 0:
            raise InputError(f"{self.path} is empty (0 bytes); copy it again")
        try:
            self._pts, base, rate = self._scan()
            first = self._decode_next()
        except _AV_ERRORS as error:
            raise InputError(f"{self.path} is no video that can be read, or it is cut short: {error}") from error
        if not self._pts or first is None:
            raise InputError(f"{self.path} {NO_FRAMES}")
        self.height, self.width = _upright(first).shape[:2]
        self.fps = float(rate) if rate else 24.0
        seconds = np.array([float((pts - self._pts[0]) * base) for pts in self._pts])
        steady = bool((np.diff(seconds) > 0).all())
        self.times = seconds if steady else np.arange(len(self._pts)) / self.fps
        self._close()

    def __len__(self) -> int:
        return len(self._pts)

    def __getitem__(self, index: int, /) -> np.ndarray:
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        index = int(index) % len(self)
        with self._lock:
            try:
                frame = self._frame(index)
            except _AV_ERRORS as error:
                raise self._broken(index, error) from error
            if frame is None:
                raise self._broken(index, None)
            image = _upright(frame)
        if image.shape[:2] != (self.height, self.width):
            found = f"{image.shape[1]}x{image.shape[0]}"
            raise InputError(f"{self.path}: frame {index} is {found}, frame 0 {self.width}x{self.height}; convert it")
        return image

    def _broken(self, index: int, error: Exception | None) -> InputError:
        self._close()
        reason = f": {error}" if error else ""
        return InputError(f"{self.path}: frame {index} cannot be decoded{reason}; copy or convert the file again")

    def _open(self) -> Any:
        self._close()
        self._container = av.open(str(self.path))
        if not self._container.streams.video:
            raise InputError(f"{self.path} {NO_FRAMES}")
        stream = self._container.streams.video[0]
        if stream.codec_context is None:  # some versions of PyAV crash on what has no decoder
            raise InputError(f"{self.path} is cut short, or of a codec that cannot be decoded here; copy or convert it")
        stream.thread_type = "AUTO"
        return stream

    def _close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container, self._frames, self._next = None, None, 0

    def _scan(self) -> tuple[list[int], Fraction, Fraction | None]:
        """Presentation times of all frames from the packets alone; by decoding where packets do not say."""
        stream = self._open()
        packets = [packet for packet in self._container.demux(stream) if packet.size]
        base, rate = stream.time_base or Fraction(1, 1000), stream.average_rate or stream.guessed_rate
        pts = [packet.pts for packet in packets if not getattr(packet, "is_discard", False)]
        if any(p is None for p in pts) or len(set(pts)) != len(pts) or any(p < 0 for p in pts if p is not None):
            stream = self._open()
            pts = [frame.pts for frame in self._container.decode(stream)]
            self._seekable = False
            if any(p is None for p in pts):
                pts = [round(i / ((rate or 24) * base)) for i in range(len(pts))]
        self._open()
        return sorted(p for p in pts if p is not None), base, rate

    def _decode_next(self) -> Any:
        if self._frames is None:
            container = self._container
            assert container is not None, "_open comes first"
            self._frames = iter(container.decode(container.streams.video[0]))
        frame = next(self._frames, None)
        self._next += 1
        return frame

    def _frame(self, index: int) -> Any:
        """The decoded frame. Reads on where that is near, otherwise seeks to the key frame before."""
        if self._container is None or index < self._next:
            self._open()
            if index and self._seekable:
                return self._after_seek(index)
        elif index > self._next + 48 and self._seekable:
            return self._after_seek(index)
        return self._read_on(index)

    def _read_on(self, index: int) -> Any:
        frame = None
        while self._next <= index:
            frame = self._decode_next()
        return frame

    def _after_seek(self, index: int) -> Any:
        """Frame `index` by its time stamp; from the start of the file where seeking missed it."""
        want = self._pts[index]
        self._open()
        try:
            self._container.seek(want, stream=self._container.streams.video[0], backward=True, any_frame=False)
            while (frame := self._decode_next()) is not None and (frame.pts is None or frame.pts < want):
                pass
        except FFmpegError:  # some containers cannot seek
            frame = None
        if frame is None or frame.pts != want:
            self._open()
            return self._read_on(index)
        self._next = index + 1
        return frame

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_container", "_frames")}
        return {**state, "_next": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock(), _container=None, _frames=None)


def _upright(frame: Any) -> np.ndarray:
    """The frame as (H, W, 3) uint8, turned as the file's display matrix says (degrees counter-clockwise)."""
    image = frame.to_ndarray(format="rgb24")
    quarter = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter)) if quarter else image


def _even(frame: np.ndarray) -> np.ndarray:
    """Repeat the last row or column where a side is odd: 4:2:0 colour needs even sides."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _encoder() -> tuple[str, dict[str, str]]:
    if "libx264" in av.codecs_available:
        return "libx264", {"crf": "18", "preset": "medium"}
    return "mpeg4", {"qscale": "3"}


def write_mp4(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write (H, W, 3) uint8 frames as MP4: H.264 (MPEG-4 where libx264 is missing), yuv420p, even sides by padding.

    Raises:
        ValueError: no frames, or frames of different sizes. RunError: the file cannot be written.
    """
    codec, options = _encoder()
    stream: Any = None
    with atomic_path(path) as temporary:
        try:
            with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container:
                for frame in frames:
                    picture = _even(np.ascontiguousarray(frame))
                    if stream is None:
                        stream = container.add_stream(
                            codec, rate=Fraction(fps).limit_denominator(1001), options=options
                        )
                        stream.height, stream.width = picture.shape[:2]
                        stream.pix_fmt = "yuv420p"
                    elif (stream.height, stream.width) != picture.shape[:2]:
                        raise ValueError(f"write_mp4: {path}: frames differ in size")
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                if stream is None:
                    raise ValueError(f"write_mp4: {path}: no frames")
                container.mux(stream.encode())
        except FFmpegError as error:
            if isinstance(error, OSError):  # atomic_path words a full disk
                raise OSError(error.errno, str(error)) from error
            raise RunError(f"cannot write {path}: {error}") from error
