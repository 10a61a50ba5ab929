"""What the benchmarks that run dyn4d as a whole have in common."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path


def dyn4d(*words: str) -> None:
    """Run a command of dyn4d in a process of its own."""
    subprocess.run([sys.executable, "-m", "dyn4d", *words], check=True)


def make_scene(name: str, folder: Path) -> tuple[Path, Path]:
    """The clip and the truth of a synthetic scene, written once."""
    from dyn4d.synthetic import build_scene, write_scene

    if not (folder / "truth" / "views.json").exists():
        write_scene(build_scene(name), folder)
    return folder / "clip", folder / "truth"


def parse(parser: argparse.ArgumentParser, words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The arguments (of `--reference` a path or None), and what follows `--`: options for `dyn4d run`."""
    cut = words.index("--") if "--" in words else len(words)
    given = parser.parse_args(words[:cut])
    if hasattr(given, "reference"):
        given.reference = Path(given.reference) if given.reference else None
    return given, words[cut + 1 :]


def add_reference(parser: argparse.ArgumentParser) -> None:
    """`--reference DIR`, by default where DYN4D_REFERENCE points."""
    parser.add_argument("--reference", type=Path, default=os.environ.get("DYN4D_REFERENCE"))


def need_reference(parser: argparse.ArgumentParser, given: Path | None) -> Path:
    """The folder of the reference data; ends with a usage error where none is said."""
    if given is None:
        parser.error("the reference data are needed: give --reference DIR, or set DYN4D_REFERENCE")
    return given


def label(*parts: object, extra: list[str]) -> str:
    """A folder's name for a run."""
    return "-".join([*map(str, parts), *(word.strip("-").replace("/", "_") for word in extra)])
