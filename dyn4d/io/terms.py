"""What a clip's own files say of its licence."""

from __future__ import annotations

import json
from pathlib import Path

NAMES = ("license", "licence", "copying", "copyright")
LONGEST = 300  # characters that are quoted


def clip_terms(clip: Path) -> str:
    """The key "licence" (or "license") of the clip's `cameras.json`, else the first line of a LICENSE file in its
    folder, else of a README's line that begins with "Licence"; "" where none of them says anything."""
    folder = clip if clip.is_dir() else clip.parent
    try:
        named = json.loads((folder / "cameras.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        named = {}
    for key in ("licence", "license"):
        if isinstance(named, dict) and isinstance(named.get(key), str) and named[key].strip():
            return " ".join(named[key].split())[:LONGEST]
    if not clip.is_dir():
        return ""  # what lies beside a single video may belong to anything
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        if path.stem.lower() in NAMES:
            return _first(path, "")
    readme = next((p for p in sorted(folder.iterdir()) if p.is_file() and p.stem.lower() == "readme"), None)
    return _first(readme, "licen") if readme else ""


def _first(path: Path, begin: str) -> str:
    """The first line with something in it that begins so, without its bullet."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found = (line.strip().lstrip("-*# ").strip() for line in lines)
    return next((line for line in found if line and line.lower().startswith(begin)), "")[:LONGEST]
