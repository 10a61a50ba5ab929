"""Reading a clip: frames, masks, and optional depth and cameras, from a folder or a video.

All frames are found and their sizes compared when the clip is opened; pictures are decoded when asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dyn4d.core.cameras import scale_camera
from dyn4d.core.errors import InputError
from dyn4d.core.types import Camera, Clip, FrameReader, Timeline
from dyn4d.io.cameras_json import CameraFile, read_cameras
from dyn4d.io.images import depth_size, image_size, read_depth_counted, read_mask, read_rgb, read_rgba
from dyn4d.io.layout import Frames, find_depth, find_frames, find_masks
from dyn4d.io.readers import DepthFrames, LazyFrames, resize_depth, resize_mask, resize_rgb
from dyn4d.io.video import VideoReader

_MASK_CACHE_BYTES = 32 * 2**20


def load_clip(
    path: str | Path, *, mask: str | None = "auto", frames: str | None = None, hold_out: int = 0,
    max_size: int | None = None,
) -> Clip:  # fmt: skip
    """Open a clip.

    Args:
        path: a clip folder (`rgb/`, `mask/`, optional `depth/` and `cameras.json`), a video file, or a folder of
            images.
        mask: "auto" (`cameras.json`, `mask/`, a mask video, then the alpha channel), "none" or None (the whole frame
            is the object), "alpha", or the path of a folder or video of masks.
        frames: "start:stop:step" with Python's meaning on the whole clip; times stay those of the whole clip.
        hold_out: every n-th of these frames is left out (`kept_frames`); 0: none.
        max_size: longest side in pixels; larger frames are made smaller, K, masks and depth with them.

    Raises:
        InputError: with what is wrong, the file or frame, and how to mend it.
    """
    path = Path(path)
    try:
        path.stat()
    except (OSError, ValueError, RuntimeError) as error:
        if not isinstance(error, FileNotFoundError):  # a loop of links, a name that is too long, no permission
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{path}: cannot be opened ({reason}); give a clip folder or a video file") from error
    camera_file = _camera_file(path)
    found = find_frames(path, camera_file)
    timeline = _timeline(found, camera_file)
    rows = kept_frames(select_frames(frames, len(found)), hold_out)
    masks, depth = find_masks(found, mask or "none"), find_depth(found)
    size = _check_sizes(found, masks, depth, rows)
    target = _target_size(size, max_size)
    everything = _cameras(found, camera_file, size)
    if everything is not None and target != size:
        everything = scale_camera(everything, *target)
    depth_div = camera_file.depth_div if camera_file else 1000.0
    resize = None if target == size else target
    return Clip(
        name=(path.stem if path.is_file() else path.resolve().name) or "clip",
        source=path,
        images=_image_reader(found, rows, resize),
        masks=_mask_reader(found, masks, rows, size, resize),
        frames=rows,
        timeline=timeline,
        width=target[0],
        height=target[1],
        depth=None if depth is None else _depth_reader(depth, rows, depth_div, size, resize),
        cameras=None if everything is None else everything[rows.tolist()],
        all_cameras=everything,
        poses_given=everything is not None and camera_file is not None and camera_file.poses_given,
    )


def _camera_file(path: Path) -> CameraFile | None:
    # A video's neighbours belong to it only where it lies in a clip folder, which is given by its own path.
    file = path / "cameras.json"
    return read_cameras(file) if path.is_dir() and file.exists() else None


def select_frames(text: str | None, count: int) -> np.ndarray:
    """(T,) int64 rows that "start:stop:step" picks of `count` frames. Raises `InputError` where it is malformed, goes
    backwards or picks nothing."""
    if text is None or text.strip() == "":
        return np.arange(count, dtype=np.int64)
    parts = text.strip().split(":")
    try:
        numbers = [int(part) if part.strip() else None for part in parts]
    except ValueError:
        numbers = []
    if not 2 <= len(numbers) <= 3:
        raise InputError(f"--frames {text}: wanted start:stop or start:stop:step in whole numbers, such as 0:48:2")
    if len(numbers) == 3 and numbers[2] is not None and numbers[2] < 1:
        raise InputError(f"--frames {text}: the step must be 1 or more")
    rows = np.arange(count, dtype=np.int64)[slice(*numbers)]
    if len(rows) == 0:
        raise InputError(f"--frames {text} picks no frame; the clip has {count}, numbered 0 to {count - 1}")
    return rows


def kept_frames(rows: np.ndarray, hold_out: int) -> np.ndarray:
    """The rows (T,) without every n-th of them, from the middle of the first n on; all where `hold_out` is 0."""
    if hold_out == 0:
        return rows
    if hold_out < 2:
        raise InputError(f"hold_out {hold_out}: wanted 0 for none, or 2 or more for every n-th frame")
    return np.delete(rows, np.arange(hold_out // 2, len(rows), hold_out))


def _timeline(frames: Frames, camera_file: CameraFile | None) -> Timeline:
    """Seconds of every frame: its `time`, a video's own time stamps, else index / fps (24 where nothing says)."""
    fps = camera_file.fps if camera_file else None
    seconds = np.arange(len(frames)) / (fps or (frames.video.fps if frames.video is not None else 24.0))
    if frames.video is not None and fps is None:
        seconds = frames.video.times.copy()
    for row, entry in enumerate(frames.entries):
        if entry.time is not None:
            seconds[row] = entry.time
        elif frames.video is None:
            seconds[row] = entry.index / (fps or 24.0)
    late = np.flatnonzero(np.diff(seconds) <= 0)
    if len(late):
        row = int(late[0]) + 1
        source = camera_file.source if camera_file else frames.root
        raise InputError(
            f"{source}: frame {row} is at {seconds[row]:g} s, not after frame {row - 1} at {seconds[row - 1]:g} s; "
            "times must increase"
        )
    span = seconds[-1] - seconds[0]
    times = (seconds - seconds[0]) / span if span > 0 else np.zeros(len(seconds))
    return Timeline(times=times, seconds=seconds, names=frames.names)


def _words(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _check_sizes(
    frames: Frames,
    masks: tuple[Path, ...] | VideoReader | str,
    depth: Sequence[Path | None] | None,
    rows: np.ndarray,
) -> tuple[int, int]:
    """(width, height) of the selected frames, read from headers. Raises `InputError` naming the file that differs."""
    first = int(rows[0])
    if frames.paths is None:
        assert frames.video is not None
        size = (frames.video.width, frames.video.height)
    else:
        size = image_size(frames.paths[first])
        for row in rows:
            found = image_size(frames.paths[row])
            if found != size:
                raise InputError(
                    f"{frames.paths[row]} is {_words(found)}, {frames.paths[first].name} is {_words(size)}; "
                    "all frames of a clip need one size"
                )
    if isinstance(masks, VideoReader) and (masks.width, masks.height) != size:
        raise InputError(
            f"{masks.path} is {_words((masks.width, masks.height))}, the frames are {_words(size)}; make them the same"
        )
    for row in rows:
        if isinstance(masks, tuple) and (found := image_size(masks[row])) != size:
            raise InputError(f"{masks[row]} is {_words(found)}, its frame is {_words(size)}; make them the same")
        file = depth[row] if depth is not None else None
        if file is not None and (found := depth_size(file)) != size:
            raise InputError(f"{file} is {_words(found)}, its frame is {_words(size)}; make them the same")
    return size


def _target_size(size: tuple[int, int], max_size: int | None) -> tuple[int, int]:
    if max_size is None or max(size) <= max_size:
        return size
    if max_size < 1:
        raise InputError(f"--max-size {max_size}: wanted at least 1 pixel")
    scale = max_size / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _cameras(frames: Frames, camera_file: CameraFile | None, size: tuple[int, int]) -> Camera | None:
    if camera_file is None:
        return None
    said = (camera_file.width or size[0], camera_file.height or size[1])
    if said != size:
        raise InputError(
            f"{camera_file.source} says {_words(said)}, the frames are {_words(size)}; K must fit the frames"
        )
    return camera_file.camera(len(frames), width=size[0], height=size[1])


def _image_reader(frames: Frames, rows: np.ndarray, resize: tuple[int, int] | None) -> FrameReader:
    def read(index: int) -> np.ndarray:
        row = int(rows[index])
        if frames.paths is None:
            assert frames.video is not None
            image = frames.video[row]
        else:
            image = read_rgb(frames.paths[row])
        return resize_rgb(image, *resize) if resize else image

    return LazyFrames([frames.label(int(row)) for row in rows], read)


def _read_one_mask(masks: tuple[Path, ...] | VideoReader | str, frames: Frames, row: int) -> np.ndarray:
    if isinstance(masks, VideoReader):
        return masks[row].max(-1) > 127
    if isinstance(masks, str):
        assert frames.paths is not None
        return read_rgba(frames.paths[row])[..., 3] > 127
    return read_mask(masks[row])


def _mask_reader(
    frames: Frames,
    masks: tuple[Path, ...] | VideoReader | str,
    rows: np.ndarray,
    size: tuple[int, int],
    resize: tuple[int, int] | None,
) -> FrameReader:
    if masks == "none":
        width, height = resize or size
        return LazyFrames(["--mask none"] * len(rows), lambda _: np.ones((height, width), dtype=bool), cache_bytes=0)

    def read(index: int) -> np.ndarray:
        mask = _read_one_mask(masks, frames, int(rows[index]))
        return resize_mask(mask, *resize) if resize else mask

    if isinstance(masks, VideoReader):
        labels = [f"{masks.path}, frame {row}" for row in rows]
    elif isinstance(masks, tuple):
        labels = [str(masks[row]) for row in rows]
    else:
        labels = [f"{frames.label(int(row))} (alpha)" for row in rows]
    return LazyFrames(labels, read, cache_bytes=_MASK_CACHE_BYTES)


def _depth_reader(
    files: Sequence[Path | None],
    rows: np.ndarray,
    depth_div: float,
    size: tuple[int, int],
    resize: tuple[int, int] | None,
) -> DepthFrames:
    def read(index: int) -> tuple[np.ndarray, int]:
        file = files[rows[index]]
        if file is None:
            width, height = resize or size
            return np.zeros((height, width), dtype=np.float32), 0
        depth, bad = read_depth_counted(file, depth_div)
        return (resize_depth(depth, *resize) if resize else depth), bad

    return DepthFrames([str(files[row] or "no depth") for row in rows], read)
