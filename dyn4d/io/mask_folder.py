"""The masks of a clip on disk: `mask/<frame name>.png`, and what is known of them in `masks.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io.atomic import atomic_folder, read_json, write_json
from dyn4d.io.images import IMAGE_SUFFIXES, read_mask, write_mask
from dyn4d.io.layout import list_files

FORMAT = "dyn4d-masks/1"
SHEET = "mask_sheet.png"


@dataclass(frozen=True)
class MaskFolder:
    """A folder that masks of a clip are put into; it may be the clip folder itself.

    Attributes:
        root: the folder. names: of the clip's frames, in order. size: (width, height) of the frames.
    """

    root: Path
    names: tuple[str, ...]
    size: tuple[int, int]

    @property
    def masks(self) -> Path:
        return self.root / "mask"

    @property
    def record(self) -> Path:
        return self.root / "masks.json"

    @property
    def sheet(self) -> Path:
        return self.root / SHEET

    def require_free(self, *, overwrite: bool) -> None:
        """Raises `InputError` where masks are there already, or nothing may be put there."""
        folder = next(parent for parent in (self.root, *self.root.absolute().parents) if parent.exists())
        if not folder.is_dir():
            raise InputError(f"{folder} is a file; choose another folder with --out")
        if self.root.is_dir() and not (self.root / "rgb").is_dir():
            pictures = [p for p in list_files(self.root, IMAGE_SUFFIXES) if p.name != SHEET]
            if pictures:
                raise InputError(
                    f"{self.root} holds pictures ({pictures[0].name}), and the sheet would be taken for one more; "
                    "choose another folder with --out"
                )
        if overwrite:
            return
        if self.masks.is_dir() and any(self.masks.iterdir()):
            raise InputError(f"{self.masks} holds masks already; give --overwrite to replace them, or another --out")
        if (self.root / "masks").is_dir():
            raise InputError(f"{self.root / 'masks'} is there already; choose another --out, or give --overwrite")

    def file(self, frame: int) -> Path:
        return self.masks / f"{self.names[frame]}.png"

    def read(self, frame: int) -> np.ndarray:
        """(H, W) bool. Raises `InputError` where it is missing, damaged or of another size."""
        mask = read_mask(self.file(frame))
        if mask.shape != self.size[::-1]:
            found = f"{mask.shape[1]}x{mask.shape[0]}"
            raise InputError(f"{self.file(frame)} is {found}, its frame {_words(self.size)}; make them the same")
        return mask

    def write(self, frame: int, mask: np.ndarray) -> None:
        """Replace the mask (H, W) bool of one frame."""
        if mask.shape != self.size[::-1]:
            raise InputError(f"a mask of {mask.shape[1]}x{mask.shape[0]} does not fit frames of {self.size}")
        write_mask(self.file(frame), mask)

    @contextmanager
    def replaced(self) -> Iterator[MaskWriter]:
        """Takes the masks of all frames; they come to stand in `mask/` together, when all of them are there."""
        with atomic_folder(self.masks) as folder:
            writer = MaskWriter(folder, self.names)
            yield writer
            if writer.count != len(self.names):
                raise ValueError(f"{writer.count} masks were written, the clip has {len(self.names)} frames")

    def read_record(self) -> dict[str, Any]:
        """What `masks.json` says; nothing where it is not there. Raises `InputError` where it is damaged."""
        return read_json(self.record) if self.record.is_file() else {}

    def write_record(self, values: Mapping[str, Any]) -> None:
        write_json(self.record, {"format": FORMAT, **values})


class MaskWriter:
    """Writes masks into a folder by the names of their frames."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names, self.count = folder, names, 0

    def write(self, frame: int, mask: np.ndarray) -> None:
        write_mask(self.folder / f"{self.names[frame]}.png", mask)
        self.count += 1


def _words(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def named_masks(path: str | Path, names: Sequence[str], frame: int) -> dict[int, np.ndarray]:
    """Masks (H, W) bool of some frames, by frame: the pictures of a folder that have the names of frames, or one file,
    which is that of the frame of its name, else of `frame`. Raises `InputError`."""
    path = Path(path).expanduser()
    known = {name: row for row, name in enumerate(names)}
    if path.is_dir():
        files = list_files(path, IMAGE_SUFFIXES)
        strange = [file for file in files if file.stem not in known]
        if not files or strange:
            what = f"{strange[0].name} has the name of no frame" if strange else "no pictures"
            raise InputError(
                f"{path}: {what}; masks of key frames need the names of their frames, such as {names[0]}.png"
            )
        return {known[file.stem]: read_mask(file) for file in files}
    return {known.get(path.stem, frame): read_mask(path)}
