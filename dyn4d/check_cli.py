"""`dyn4d check`: what was found in a clip, as a table or as JSON. Free of torch until it looks at a clip."""

from __future__ import annotations

import shlex
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyn4d.core.errors import InputError
from dyn4d.core.listing import frame_ranges
from dyn4d.io.atomic import json_text, write_json

if TYPE_CHECKING:
    from dyn4d.core.types import Clip
    from dyn4d.io.check import Finding

FORMAT = "dyn4d-check/1"
WIDTH = (72, 120)  # characters of a table's lines, at least and at most
COLUMNS = ("severity", "about", "frames", "what")


@dataclass(frozen=True)
class CheckRequest:
    """What to look at: as the options of a run. `json`: a file to write, "-" for standard output, or None."""

    clip: str
    frames: str | None = None
    max_size: int | None = None
    mask: str = "auto"
    json: str | None = None


def _frames(finding: Finding) -> tuple[int, ...]:
    return finding.frames or (() if finding.frame is None else (finding.frame,))


def findings_table(findings: Sequence[Finding], width: int | None = None) -> str:
    """Aligned columns, the text wrapped, what follows from it and what mends it on lines of their own."""
    width = width or shutil.get_terminal_size((100, 24)).columns
    width = min(max(width, WIDTH[0]), WIDTH[1])
    heads = [(f.severity, f.kind, frame_ranges(_frames(f))) for f in findings]
    sides = [max(len(row[i]) for row in [COLUMNS[:3], *heads]) for i in range(3)]
    left = sum(sides) + 2 * 3
    lines = ["  ".join(name.ljust(side) for name, side in zip(COLUMNS[:3], sides)) + "  what"]
    for head, finding in zip(heads, findings):
        parts = [("", finding.line()), ("-> ", finding.consequence), ("   mend: ", finding.remedy)]
        text = [line for mark, part in parts if part for line in _wrapped(mark, part, max(width - left, 30))]
        first = "  ".join(value.ljust(side) for value, side in zip(head, sides))
        lines.append(f"{first}  {text[0]}")
        lines += [" " * left + line for line in text[1:]]
    return "\n".join(line.rstrip() for line in lines)


def _wrapped(mark: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=mark, subsequent_indent=" " * len(mark), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def as_json(clip: Clip | None, source: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """What `--json` writes: `usable`, and the findings with their frames."""
    about = {} if clip is None else {
        "name": clip.name, "frames": len(clip), "all_frames": len(clip.timeline), "width": clip.width,
        "height": clip.height, "fps": clip.timeline.fps, "depth": clip.depth is not None,
        "cameras": clip.cameras is not None,
    }  # fmt: skip
    return {
        "format": FORMAT,
        "source": source,
        "clip": about or None,
        "usable": not any(f.severity == "error" for f in findings),
        "findings": [
            {"severity": f.severity, "kind": f.kind, "frames": list(_frames(f)), "file": f.where or None,
             "text": f.text, "consequence": f.consequence or None, "remedy": f.remedy or None}
            for f in findings
        ],
    }  # fmt: skip


def check(request: CheckRequest, progress: Any, say: Callable[[str], None]) -> Sequence[Finding]:
    """Look at a clip, and `say` the table, or the JSON; that is written to a file if one is named.

    Raises:
        InputError: the clip cannot be opened (the JSON then says so too).
    """
    from dyn4d.io.check import Finding, by_severity, inspect_clip
    from dyn4d.io.clips import load_clip
    from dyn4d.io.layout import NoMasksError

    before: list[Finding] = []
    try:
        try:
            clip = load_clip(request.clip, mask=request.mask, frames=request.frames, max_size=request.max_size)
        except NoMasksError as error:
            before.append(_without_masks(request.clip, str(error)))
            clip = load_clip(request.clip, mask="none", frames=request.frames, max_size=request.max_size)
    except InputError as error:
        text = str(error) + ("" if before else _import_hint(request.clip))
        before.append(Finding("error", text, kind="unreadable"))
        _give(as_json(None, request.clip, before), request.json, say)
        if len(before) > 1 and request.json != "-":
            say(findings_table(before))
        raise InputError(" Also: ".join(f.text for f in before)) from error
    findings = by_severity([*before, *inspect_clip(clip, progress), *_about_geometry(clip)])
    if before:  # figures of masks that are none
        findings = [f for f in findings if not f.text.startswith("mask pixels")]
    _give(as_json(clip, str(clip.source), findings), request.json, say)
    if request.json != "-":
        warnings = sum(f.severity == "warning" for f in findings)
        errors = sum(f.severity == "error" for f in findings)
        count = f"{errors} {_plural('error', errors)}, {warnings} {_plural('warning', warnings)}"
        head = f"{clip.name}: {len(clip)} of {len(clip.timeline)} frames, {clip.width} x {clip.height} pixels; {count}"
        say(f"{head}\n{findings_table(findings)}")
    return findings


def _without_masks(clip: str, text: str) -> Finding:
    """That there are no masks; for a folder in another format also how to import it."""
    from dyn4d.io.check import Finding

    remedy = f"dyn4d mask {shlex.quote(clip)} --box X0 Y0 X1 Y1"
    if not (Path(clip) / "rgb").is_dir():  # which mask/ could be put beside
        remedy = f"dyn4d import {shlex.quote(clip)} --out CLIP, then dyn4d mask CLIP --box X0 Y0 X1 Y1"
    return Finding(
        "error", text + _import_hint(clip), kind="no masks",
        consequence="dyn4d run refuses the clip; the rest of it was looked at in whole pictures here",
        remedy=remedy,
    )  # fmt: skip


def _import_hint(clip: str) -> str:
    """How to import what lies there, if it is no clip but of a format that is known; else nothing."""
    from dyn4d.io.importers.detect import find_format

    source = Path(clip)
    try:
        if (source / "rgb").is_dir() and (source / "cameras.json").exists():
            return ""
        found = find_format(source)
    except (InputError, OSError, ValueError):
        return ""
    if found in ("images", "video"):
        return ""
    return f"; it looks like {found}: dyn4d import {shlex.quote(str(source))} --out FOLDER"


def _about_geometry(clip: Clip) -> list[Finding]:
    """That nothing in the clip tells how far away things are, if so."""
    from dyn4d.io.check import Finding
    from dyn4d.io.pointmaps import find_pointmaps

    if clip.depth is not None or find_pointmaps(clip.source) is not None:
        return []
    return [Finding(
        "warning", "no depth maps and no pointmaps", kind="geometry",
        consequence="geometry comes from the small network of dyn4d, for views beside the filmed ones at best",
        remedy="add depth/ and cameras.json with K, or run with --geometry.weights FILE (a MASt3R or DUSt3R network) "
        "or --geometry.pointmaps PATH (what another estimator left)",
    )]  # fmt: skip


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _give(content: dict[str, Any], where: str | None, say: Callable[[str], None]) -> None:
    """The JSON, where it is asked for."""
    if where == "-":
        say(json_text(content))
    elif where:
        write_json(Path(where), content)
