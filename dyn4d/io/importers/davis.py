"""DAVIS (and YouTube-VOS): JPEGImages/480p/NAME/00000.jpg, Annotations/480p/NAME/00000.png.

Annotations are label pictures: palette PNGs whose values count the objects from 1, or black and white.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.core.listing import listed
from dyn4d.io.images import IMAGE_SUFFIXES, read_labels, read_mask
from dyn4d.io.importers.options import ImportOptions
from dyn4d.io.importers.pixels import picture_pixels
from dyn4d.io.importers.sequence import Pixels, Sequence4D, SourceFrame, steady
from dyn4d.io.layout import list_files, natural_key

PICTURES, LABELS = "JPEGImages", "Annotations"
SIZES = ("480p", "Full-Resolution", "1080p")


def sequence_folders(source: Path) -> dict[str, Path]:
    """Sequences below a root of the data set, or the one that `source` is: name -> folder of pictures."""
    if PICTURES in source.absolute().parts and not (source / PICTURES).is_dir():
        if list_files(source, IMAGE_SUFFIXES):
            return {source.absolute().name: source}
        home = source
    else:
        home = source / PICTURES
    if not home.is_dir():
        return {}
    sizes = [home / size for size in SIZES if (home / size).is_dir()]
    return {p.name: p for p in sorted((sizes or [home])[0].iterdir(), key=natural_key) if p.is_dir()}


def read_davis(source: Path, options: ImportOptions) -> Sequence4D:
    """One sequence: of a root with `--sequence NAME`, or its folder of pictures.

    Raises:
        InputError: no such sequence, no such object, a damaged file; lists what there is.
    """
    folders = sequence_folders(source)
    if options.sequence is None and len(folders) == 1:
        name = next(iter(folders))
    elif options.sequence in folders:
        name = str(options.sequence)
    else:
        asked = f"--sequence {options.sequence} is not there" if options.sequence else "say which with --sequence NAME"
        raise InputError(f"{source} holds {len(folders)} sequences; {asked}: {listed(list(folders))}")
    pictures = folders[name]
    files = list_files(pictures, IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{pictures} holds no pictures")
    labels = _label_folder(pictures)
    frames = [SourceFrame(name=file.stem, seconds=0.0, rgb=picture_pixels(file)) for file in files]
    notes: list[str] = []
    if labels is None:
        notes.append(f"there is no {LABELS}/ beside {PICTURES}/: no masks")
    else:
        frames, notes = _with_masks(frames, labels, options)
    return Sequence4D("davis", pictures, tuple(steady(frames, options)), notes=tuple(notes))


def _label_folder(pictures: Path) -> Path | None:
    """The folder beside, at the same place below Annotations."""
    parts = list(pictures.absolute().parts)
    at = len(parts) - 1 - parts[::-1].index(PICTURES)
    folder = Path(*parts[:at], LABELS, *parts[at + 1 :])
    return folder if folder.is_dir() else None


def _with_masks(frames: list[SourceFrame], folder: Path, options: ImportOptions) -> tuple[list[SourceFrame], list[str]]:
    files = {p.stem: p for p in list_files(folder, IMAGE_SUFFIXES)}
    missing = [frame.name for frame in frames if frame.name not in files]
    if missing:  # benchmarks that ask for the masks give that of the first frame alone
        return frames, [f"{folder} has no annotation of {len(missing)} frames, the first is {missing[0]}: no masks"]
    there = np.unique(read_labels(files[frames[0].name]))
    if options.object_id and not set(options.object_id) & set(there.tolist()):
        seen = sorted({int(v) for frame in frames for v in np.unique(read_labels(files[frame.name]))} - {0})
        absent = sorted(set(options.object_id) - set(seen))
        if absent:
            raise InputError(f"--object-id {absent[0]}: {folder} has {listed([str(v) for v in seen])}")
    several = [int(v) for v in there if v]
    notes = []
    if not options.object_id and 1 < len(several) < 50:
        notes.append(f"objects {listed([str(v) for v in several])} are one mask together; --object-id takes some alone")
    return [replace(frame, mask=label_mask(files[frame.name], options.object_id)) for frame in frames], notes


def label_mask(path: Path, objects: tuple[int, ...]) -> Pixels:
    """The pixels of some labels; without any, everything that is labelled."""

    def read() -> np.ndarray:
        if objects:
            return np.isin(read_labels(path), objects)
        labels = read_labels(path)
        return labels > 0 if int(labels.max()) < 50 else read_mask(path)

    return Pixels(read, str(path))
