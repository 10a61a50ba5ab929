"""Files of optical flow as others write them, and a folder of them: which file goes from which frame to which.

A flow is (H, W, 2) float32, right and down, in pixels of the picture it starts from: what is at pixel centre (x, y) of
frame a is at (x, y) + flow in frame b. `.flo` as in the Middlebury benchmark, `.png` with 16 bits as in KITTI, `.pfm`
with three channels as in FlyingThings3D, `.npy` and `.npz`.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io.atomic import atomic_path
from dyn4d.io.layout import list_files

FLOW_SUFFIXES = (".flo", ".npy", ".npz", ".pfm", ".png")  # where several hold the same pair the first one counts
UNKNOWN = 1e9  # of .flo: values above are none
_MARK = 1e10  # what is written for unknown flow
_FLO = struct.Struct("<4sii")
_MAGIC = b"PIEH"  # 202021.25 as float32
_PFM = re.compile(rb"(P[Ff])\s+(\d+)\s+(\d+)\s+([-+.\deE]+)\s")
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST = 1 << 28  # pixels; a header that promises more is damaged


class FlowMap(NamedTuple):
    """`flow` (H, W, 2) float32 px, 0 where unknown; `valid` (H, W) bool."""

    flow: np.ndarray
    valid: np.ndarray


def read_flow(path: str | Path) -> FlowMap:
    """The flow in a file, by its suffix. What is NaN, infinite or marked as unknown is not valid.

    Raises:
        InputError: it is missing, empty, damaged, cut short, or holds no flow; names the file.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: no flow file; wanted one of {' '.join(FLOW_SUFFIXES)}")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not content:
        raise InputError(f"{path} is empty (0 bytes); write or copy it again")
    flow, valid = reader(path, content)
    sane = np.isfinite(flow) & (np.abs(np.nan_to_num(flow)) < UNKNOWN)
    known = valid & sane[..., 0] & sane[..., 1]
    return FlowMap(np.where(known[..., None], flow, 0).astype(np.float32), known)


def write_flo(path: str | Path, flow: np.ndarray, valid: np.ndarray | None = None) -> None:
    """Write (H, W, 2) as `.flo`, atomically; what is not finite or not `valid` (H, W) is marked as unknown."""
    if flow.ndim != 3 or flow.shape[-1] != 2 or 0 in flow.shape:
        raise ValueError(f"write_flo: wanted (H, W, 2), found {flow.shape}")
    finite = np.isfinite(flow)
    known = finite[..., 0] & finite[..., 1] & (True if valid is None else valid)
    values = np.where(known[..., None], flow, _MARK).astype("<f4")
    with atomic_path(path) as temporary:
        temporary.write_bytes(_FLO.pack(_MAGIC, flow.shape[1], flow.shape[0]) + values.tobytes())


def _cut_short(path: Path, wanted: int, found: int) -> InputError:
    return InputError(f"{path} is damaged: its header promises {wanted} bytes, it has {found}; write or copy it again")


def _everywhere(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return flow, np.ones(flow.shape[:2], dtype=bool)


def _read_flo(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    if len(content) < _FLO.size or not content.startswith(_MAGIC):
        raise InputError(f"{path} is no .flo file (it does not begin with PIEH), or is damaged; write or copy it again")
    _, width, height = _FLO.unpack_from(content)
    _check_size(path, width, height)
    wanted = _FLO.size + 8 * width * height
    if len(content) != wanted:
        raise _cut_short(path, wanted, len(content))
    return _everywhere(np.frombuffer(content, "<f4", offset=_FLO.size).reshape(height, width, 2))


def _read_pfm(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    head = _PFM.match(content[:200])
    if head is None:
        raise InputError(f"{path} is no .pfm file, or is damaged; write or copy it again")
    width, height = int(head[2]), int(head[3])
    if head[1] != b"PF":
        raise InputError(f"{path} has one channel; wanted three, of which the first two are the flow")
    _check_size(path, width, height)
    wanted = head.end() + 12 * width * height
    if len(content) != wanted:
        raise _cut_short(path, wanted, len(content))
    order = "<f4" if head[4].startswith(b"-") else ">f4"
    values = np.frombuffer(content, order, offset=head.end()).reshape(height, width, 3)
    return _everywhere(values[::-1, :, :2])  # the lowest row comes first


def _read_png(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Value = 64 x flow + 2^15 in red and green, above 0 in blue where valid."""
    if not content.startswith(_PNG):
        raise InputError(f"{path} is no PNG, or is damaged; write or copy it again")
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError):  # its header promises more pixels than OpenCV takes
        picture = None
    # Of a file that was cut short the decoder gives the rows it has: the last chunk tells.
    if picture is None or b"IEND" not in content[-16:]:
        raise InputError(f"{path} is damaged or cut short; write or copy it again")
    if picture.dtype != np.uint16 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(
            f"{path} is a picture of shape {picture.shape} and type {picture.dtype}, no flow; wanted 16 bits in three "
            "channels, as in KITTI"
        )
    return (picture[..., :0:-1].astype(np.float32) - 2**15) / 64, picture[..., 0] > 0  # blue first


def _read_numpy(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 2), or (2, H, W) where the last side is not 2; an .npz has `flow`, or one array, and may have `valid`."""
    arrays: dict[str, np.ndarray] = {}
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(found, np.ndarray):
            arrays = {"flow": found}
        else:
            with found:
                arrays = {
                    name: found[name] for name in found.files if name in ("flow", "valid") or len(found.files) == 1
                }
                names = ", ".join(found.files)
    except Exception as error:  # a damaged archive or header can fail in any way at all, with MemoryError too
        raise InputError(f"{path} is damaged, or holds Python objects; save it again with numpy") from error
    if len(arrays) == 1:
        arrays = {"flow": next(iter(arrays.values()))}
    if "flow" not in arrays:
        raise InputError(f"{path} holds {names}; wanted an array named flow")
    flow, valid = arrays["flow"], arrays.get("valid")
    if flow.ndim == 3 and flow.shape[-1] != 2 and flow.shape[0] == 2:
        flow = np.moveaxis(flow, 0, -1)
    if flow.ndim != 3 or flow.shape[-1] != 2 or flow.dtype.kind not in "fiu" or 0 in flow.shape:
        raise InputError(f"{path}: array of shape {flow.shape} and type {flow.dtype}; wanted numbers (H, W, 2)")
    if valid is None:
        return _everywhere(flow.astype(np.float32))
    if valid.shape != flow.shape[:2]:
        raise InputError(f"{path}: valid has shape {valid.shape}; wanted {flow.shape[:2]} as its flow")
    return flow.astype(np.float32), valid > 0


def _check_size(path: Path, width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > _MOST:
        raise InputError(f"{path} is damaged: its header says {width}x{height} pixels; write or copy it again")


_READERS = {".flo": _read_flo, ".npy": _read_numpy, ".npz": _read_numpy, ".pfm": _read_pfm, ".png": _read_png}


# ------------------------------------------------------------------------------------------------- a folder


@dataclass(frozen=True)
class FlowFolder:
    """Flow files `<a>_<b>.<suffix>` of a clip.

    Attributes:
        folder: where they are. width, height: of the clip's pictures. files: by (a, b), frames of the whole clip.
        reading: what their names were taken for, for the user.
    """

    folder: Path
    width: int
    height: int
    files: dict[tuple[int, int], Path] = field(default_factory=dict)
    reading: str = ""

    def read(self, a: int, b: int) -> FlowMap:
        """The flow from frame a to frame b.

        Raises:
            InputError: the file is damaged, or neither of the pictures' size nor of a larger one of the same shape
                (of which the clip's pictures were made smaller).
        """
        path = self.files[a, b]
        found = read_flow(path)
        height, width = found.valid.shape
        scale = max(self.width, self.height) / max(width, height)
        fits = abs(width * scale - self.width) < 1 and abs(height * scale - self.height) < 1
        if (width, height) != (self.width, self.height) and (scale >= 1 or not fits):
            raise InputError(
                f"{path} is {width}x{height}, the frames are {self.width}x{self.height}; flow needs their size"
            )
        return found


def open_flow_folder(folder: str | Path, names: Sequence[str], width: int, height: int) -> FlowFolder:
    """The flow files of a folder.

    Args:
        folder: with files named `<a>_<b>` and a suffix of `FLOW_SUFFIXES`; others are ignored. a and b are names of
            frames without suffix; or, where that does not hold for all files, the numbers at the end of the frames'
            names; or else numbers of frames counted from 0.
        names: of all frames of the clip. width, height: of its pictures.

    Raises:
        InputError: it is not there, holds no flow, a file is not named after two frames, or its numbers may be those
            of the names as well as counted from 0, which are not the same.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not there, or is no folder; give a folder of flow files")
    found = list_files(folder, FLOW_SUFFIXES)
    if not found:
        raise InputError(f"{folder} holds no flow files ({' '.join(FLOW_SUFFIXES)}); name them <frame>_<frame>.flo")
    pairs, reading = _read_names(found, names)
    files: dict[tuple[int, int], Path] = {}
    for path, pair in sorted(zip(found, pairs), key=lambda item: FLOW_SUFFIXES.index(item[0].suffix.lower())):
        assert pair is not None
        other = files.setdefault(pair, path)
        if other is not path and other.suffix.lower() == path.suffix.lower():
            raise InputError(f"{path} and {other.name} are for the same two frames; remove one of them")
    return FlowFolder(folder, width, height, files, reading)


def _read_names(found: Sequence[Path], names: Sequence[str]) -> tuple[list[tuple[int, int] | None], str]:
    """The frames (a, b) of each file, and in words how its name was read. Raises `InputError`, see
    `open_flow_folder`."""
    by_name = {name: row for row, name in enumerate(names)}
    pairs = [_pair_by_name(path.stem, by_name) for path in found]
    if None not in pairs:
        return pairs, "files are named after the frames"
    of_names = _numbers_of(names)
    counted = [_pair_by_number(path.stem, {row: row for row in range(len(names))}) for path in found]
    numbered = [_pair_by_number(path.stem, of_names) for path in found]
    if None not in numbered:
        if None not in counted and counted != numbered:
            first = next(path for path, a, b in zip(found, counted, numbered) if a != b)
            raise InputError(
                f"{first}: its numbers may be those in the frames' names ({names[0]} …) or counted from 0, which means "
                f"other frames; name all files after the frames, such as {names[0]}_{names[-1]}{first.suffix}"
            )
        return numbered, "files have the numbers in the frames' names"
    best = max((pairs, numbered, counted), key=lambda some: sum(pair is not None for pair in some))
    strange = next((path for path, pair in zip(found, best) if pair is None), None)
    if strange is not None:
        raise InputError(
            f"{strange} is not named after two frames of the clip; wanted such as {names[0]}_{names[-1]}"
            f"{strange.suffix}, or 0_{len(names) - 1}{strange.suffix} counted from 0"
        )
    return counted, "files have the frames' numbers, counted from 0"


def _numbers_of(names: Sequence[str]) -> dict[int, int]:
    """Rows by the number that each name ends with; none where some have no number, or two the same."""
    ends = [re.search(r"[0-9]+$", name) for name in names]
    rows = {int(end[0]): row for row, end in enumerate(ends) if end is not None}
    return rows if len(rows) == len(names) else {}


def _pair_by_name(stem: str, rows: dict[str, int]) -> tuple[int, int] | None:
    for place in (match.start() for match in re.finditer("_", stem)):  # names may hold underscores themselves
        a, b = rows.get(stem[:place]), rows.get(stem[place + 1 :])
        if a is not None and b is not None and a != b:
            return a, b
    return None


def _pair_by_number(stem: str, rows: Mapping[int, int]) -> tuple[int, int] | None:
    numbers = re.fullmatch(r"([0-9]{1,18})_([0-9]{1,18})", stem)
    if numbers is None:
        return None
    a, b = rows.get(int(numbers[1])), rows.get(int(numbers[2]))
    return (a, b) if a is not None and b is not None and a != b else None
