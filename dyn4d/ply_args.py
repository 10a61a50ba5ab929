"""Arguments of `dyn4d ply info|compare|convert|preview|crop|merge`, which `dyn4d.cli_parse` fills.

What `PLACES` and `NAMES` mean, and that field docstrings are the help text, is told in `dyn4d.cli_parse`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dyn4d.io.selection import Selection


@dataclass(frozen=True)
class PlyArgs:
    """Arguments of every action."""

    PLACES: ClassVar[dict[str, str]] = {}
    NAMES: ClassVar[dict[str, str]] = {}
    quiet: bool = False
    """Say nothing but warnings and errors."""
    debug: bool = False
    """Show where an error comes from."""


@dataclass(frozen=True)
class FileArgs(PlyArgs):
    """Arguments of every action that reads files of Gaussians, or writes them."""

    spz_axes: Literal["rub", "as-is"] = "rub"
    """SPZ has right, up, back by definition. as-is: neither turn when writing nor when reading, as some programs do."""

    @property
    def turn_spz(self) -> bool:
        return self.spz_axes == "rub"


@dataclass(frozen=True)
class InfoArgs(FileArgs):
    """What is in a file of Gaussians or points: PLY, compressed PLY, SPZ or .splat."""

    PLACES: ClassVar[dict[str, str]] = {"file": "FILE"}
    file: str = ""
    """The file."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class CompareArgs(FileArgs):
    """What differs between two files. Exit code 0: the same within the limits, 1: different, 2: cannot be compared."""

    PLACES: ClassVar[dict[str, str]] = {"a": "A", "b": "B"}
    a: str = ""
    """The first file."""
    b: str = ""
    """The second file."""
    by: Literal["auto", "row", "nearest"] = "auto"
    """Row i against row i, or pairs by place. auto: by row where both files have as many rows, in the same
    order."""
    tolerance: float | None = None
    """World units up to which a place is the same. Default: 0.00001 of the size of A."""
    reach: float | None = None
    """By nearest: world units that a row may have moved. Default: 0.02 of the size of A."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class ConvertArgs(FileArgs):
    """The same Gaussians or points as PLY, compressed PLY, SPZ, .splat, GLB or CSV, by the suffix of OUT. The error
    that this costs is measured and printed."""

    PLACES: ClassVar[dict[str, str]] = {"file": "IN", "out": "OUT"}
    NAMES: ClassVar[dict[str, str]] = {"as_": "as"}
    file: str = ""
    """PLY, compressed PLY, SPZ or .splat file."""
    out: str = ""
    """Ends in .ply, .compressed.ply, .spz, .splat, .glb or .csv."""
    as_: Literal["auto", "gaussians", "points"] = "auto"
    """Write Gaussians, or points with colours. auto: what the file holds."""
    sh_degree: int | None = None
    """Keep spherical harmonics up to this degree, 0 to 4. Default: all that the format holds."""
    keep_order: bool = False
    """.compressed.ply: keep the order of the rows. They are else put along a curve in space, which is more exact."""
    overwrite: bool = False
    """Replace a file that is there."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class PreviewArgs(FileArgs):
    """A picture of a file of Gaussians or points: from six sides (.png), or turning (.gif, .mp4, a folder of PNGs)."""

    PLACES: ClassVar[dict[str, str]] = {"file": "FILE", "out": "[OUT]"}
    file: str = ""
    """The file."""
    out: str = ""
    """Ends in .png, .gif, .mp4, or names a folder. Default: FILE_preview.png in this folder, FILE without .ply."""
    terminal: bool = False
    """Show it here, in coloured blocks. Writes a file only if OUT is given."""
    columns: int | None = None
    """With --terminal: characters a line. Default: what the terminal has."""
    turntable: bool = False
    """Let it turn also where OUT is not given: FILE_turntable.gif."""
    up: Literal["auto", "x", "-x", "y", "-y", "z", "-z"] = "auto"
    """Which axis points up. auto: by the cameras, in the folder of a run; else -y, as OpenCV's cameras have it."""
    size: int | None = None
    """Side of one view in pixels. Default: 384, turning 480."""
    frames: int = 72
    """Of a full turn."""
    elevation: float = 15.0
    """Of the turning camera, in degrees."""
    background: str = "paper"
    """paper, white, black, or a colour such as #20242c."""
    overwrite: bool = False
    """Replace what is there."""


@dataclass(frozen=True)
class CropArgs(Selection, FileArgs):
    """Some of the rows of a file. What is kept meets all that is asked for; lengths are in world units."""

    PLACES: ClassVar[dict[str, str]] = {"file": "FILE", "out": "OUT"}
    file: str = ""
    """PLY, compressed PLY, SPZ or .splat file."""
    out: str = ""
    """The file to write; the format is that of its suffix, as with convert."""
    overwrite: bool = False
    """Replace a file that is there."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class MergeArgs(FileArgs):
    """The rows of two or more files, one after the other. Spherical harmonics of lower degrees are filled up with
    zeros, other fields that are not in every file are dropped."""

    PLACES: ClassVar[dict[str, str]] = {"files": "A B ... OUT"}
    files: tuple[str, ...] = ()
    """The files, and then the one to write; the format is that of its suffix."""
    overwrite: bool = False
    """Replace a file that is there."""
    json: bool = False
    """Print JSON."""
