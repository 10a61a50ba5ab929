"""A bare video, or a folder of pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io.images import IMAGE_SUFFIXES, has_alpha, image_size
from dyn4d.io.importers.options import ImportOptions
from dyn4d.io.importers.pixels import mask_pixels, picture_pixels
from dyn4d.io.importers.sequence import Pixels, Sequence4D, SourceFrame, steady
from dyn4d.io.importers.tum import given_lens
from dyn4d.io.layout import list_files
from dyn4d.io.video import VIDEO_SUFFIXES, VideoReader


def find_video(source: Path) -> Path | None:
    """The file itself, or the only video of a folder without pictures."""
    if source.is_file():
        return source if source.suffix.lower() in VIDEO_SUFFIXES else None
    videos = list_files(source, VIDEO_SUFFIXES)
    return videos[0] if len(videos) == 1 and not list_files(source, IMAGE_SUFFIXES) else None


def read_video(source: Path, options: ImportOptions) -> Sequence4D:
    """All frames, upright, with the video's own time stamps. Raises `InputError` where it cannot be decoded."""
    path = find_video(source)
    if path is None:
        raise InputError(f"{source} is no video")
    video = VideoReader(path)
    lens = given_lens(options, (video.width, video.height))
    frames = [
        SourceFrame(f"{row:06d}", float(video.times[row]), _video_frame(video, row), lens=lens)
        for row in range(len(video))
    ]
    return Sequence4D("video", path, tuple(frames))


def _video_frame(video: VideoReader, row: int) -> Pixels:
    return Pixels(lambda: video[row], f"{video.path}, frame {row}")


def read_images(source: Path, options: ImportOptions) -> Sequence4D:
    """The pictures of a folder (or of its `images/` or `rgb/`) in natural order."""
    places = [source, source / "images", source / "rgb", source / "frames"]
    folder = next((place for place in places if place.is_dir() and list_files(place, IMAGE_SUFFIXES)), source)
    files = list_files(folder, IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{source} holds no pictures")
    lens = given_lens(options, image_size(files[0]))
    alpha = all(has_alpha(file) for file in files)
    frames = [SourceFrame(file.stem, 0.0, picture_pixels(file, alpha=alpha), lens=lens) for file in files]
    masks = next((folder.parent / name for name in ("masks", "mask") if (folder.parent / name).is_dir()), None)
    sequence = Sequence4D("images", folder, tuple(steady(frames, options)), alpha=alpha)
    if folder == source or options.masks is not None or masks is None:
        return sequence
    note = f"the masks are those of {masks}, beside the pictures; --masks names others"
    return replace(with_masks(sequence, masks), notes=(note,))


def with_masks(sequence: Sequence4D, place: Path) -> Sequence4D:
    """The clip's frames with masks of a folder (by name, else by order) or of a video (by order).

    Raises:
        InputError: the place is missing, or the masks do not fit the frames.
    """
    count = len(sequence.frames)
    if place.is_file() and place.suffix.lower() in VIDEO_SUFFIXES:
        video = VideoReader(place)
        if len(video) != count:
            raise InputError(f"--masks {place} has {len(video)} frames, the source {count}; one is needed for each")
        masks = [_video_mask(video, row) for row in range(count)]
    elif place.is_dir():
        masks = [mask_pixels(path) for path in _mask_files(sequence, place)]
    else:
        raise InputError(f"--masks {place} is no folder and no video")
    frames = tuple(replace(frame, mask=mask) for frame, mask in zip(sequence.frames, masks))
    return replace(sequence, frames=frames, alpha=False)


def _video_mask(video: VideoReader, row: int) -> Pixels:
    def read() -> np.ndarray:
        return video[row].max(-1) > 127

    return Pixels(read, f"{video.path}, frame {row}")


def _mask_files(sequence: Sequence4D, place: Path) -> list[Path]:
    files = list_files(place, IMAGE_SUFFIXES)
    by_name = {file.stem: file for file in files}
    # COLMAP's masks are named after the whole file: 0001.jpg.png
    by_name |= {Path(file.stem).stem: file for file in files if Path(file.stem).suffix.lower() in IMAGE_SUFFIXES}
    found = [by_name.get(frame.name) for frame in sequence.frames]
    if not any(found) and len(files) == len(found):
        return files
    missing = next((frame.name for frame, file in zip(sequence.frames, found) if file is None), None)
    if missing is not None:
        raise InputError(
            f"--masks {place} has {len(files)} masks for {len(found)} frames, none for {missing}; masks need the names "
            "of the frames"
        )
    return [file for file in found if file is not None]
