"""The demo's clip: drawn once, kept beside the run, drawn again only if asked for another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyn4d.core.errors import InputError
from dyn4d.io.atomic import read_json, write_json
from dyn4d.runs import RunFolder, locked

RECORD = "demo.json"
OPTIONS = {"scene": "--scene", "background": "--backdrop", "frames": "--length", "size": "--size"}  # by its names


@dataclass(frozen=True)
class DemoFolders:
    """Where the clip and its truth are. `names`: what they add to the run folder."""

    clip: Path
    truth: Path
    names: tuple[str, ...] = ("clip", "truth", RECORD)


def demo_truth(run: RunFolder) -> Path | str:
    """The truth that a demo's run brings along; "" where it is another run."""
    truth = run.root / "truth"
    return truth if (run.root / RECORD).is_file() and truth.is_dir() else ""


def _told(record: Any) -> str:
    """What a demo was asked for, as the command's options say it."""
    values = record if isinstance(record, dict) else {}
    return " ".join(f"{option} {values[name]}" for name, option in OPTIONS.items() if name in values) or "unknown"


def make_demo_clip(
    run: RunFolder, *, scene: str, background: str, frames: int, size: int, overwrite: bool, progress: Any
) -> DemoFolders:
    """Draw the clip into `run/clip` and its truth into `run/truth`, unless the same is there already.

    Raises:
        InputError: an option is out of range, or another demo is there and `overwrite` is off.
    """
    folders = DemoFolders(run.root / "clip", run.root / "truth")
    wanted = {"scene": scene, "background": background, "frames": frames, "size": size}
    run.create(allow=folders.names)
    record = run.root / RECORD
    with locked(run):
        found = read_json(record) if record.is_file() else None
        if found == wanted and folders.clip.is_dir() and folders.truth.is_dir():
            progress.note("demo clip: skipped, nothing changed")
            return folders
        if found not in (None, wanted) and not overwrite:
            raise InputError(
                f"{run.root}: holds another demo ({_told(found)}); give --overwrite to replace it, or another --out"
            )
        from dyn4d.synthetic import build_scene, write_scene

        try:
            built = build_scene(scene, frames=frames, size=size, background=background)
        except ValueError as error:
            raise InputError(f"demo: {error}") from error
        record.unlink(missing_ok=True)  # it vouches for both folders
        progress.note(f"demo clip: drawing {frames} frames of {size} x {size} pixels")
        write_scene(built, run.root, truth=True, progress=progress)
        write_json(record, wanted)
    return folders
