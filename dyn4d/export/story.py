"""What a run's report tells beside pictures and figures: what went in, what each stage did and chose, whose terms hold.

Everything is read from what the stages left behind; what is not known is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyn4d.io import artifacts
from dyn4d.io.atomic import read_json
from dyn4d.io.terms import clip_terms

SOURCES = {  # why `auto` takes a source of geometry
    "rgbd": "the clip has depth maps and K",
    "pointmaps": "maps of another estimator are there",
    "mast3r": "there are no depth maps",
}
FIELDS = {
    "realnvp": "an invertible field", "none": "no field: nothing moves", "mlp": "offsets by a network",
    "modgs": "the published invertible recipe",
}  # fmt: skip
MASKS = {
    "auto": "found beside the frames",
    "alpha": "their alpha channel",
    "none": "none: all is the object",
}
NOTICED, MOST_NOTICED = "noticed", 8
FACTS = (  # how the findings begin that tell what a clip is, not what is odd about it -> their label, what is cut off
    (r"\d+ of \d+ frames, ", "frames", ""), (r"mask pixels: ", "mask pixels", "mask pixels: "),
    (r"depth inside the masks: ", "depth inside the masks", "depth inside the masks: "),
)  # fmt: skip
PLAYER_TERMS = "three.js and Spark, bundled: MIT; their texts are in the page"


@dataclass(frozen=True)
class Story:
    """Lines of the report, each (label, text).

    Attributes:
        inputs: what went in. stages: what each stage did, chose and why. terms: of everything used.
        versions: of programs. command: that makes the run again; empty where it is not known.
    """

    inputs: Sequence[tuple[str, str]] = ()
    stages: Sequence[tuple[str, str]] = ()
    terms: Sequence[tuple[str, str]] = ()
    versions: Sequence[tuple[str, str]] = ()
    command: str = ""


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _seconds(values: Mapping[str, Any], key: str) -> str:
    return f" ({values[key]:.0f} s)" if isinstance(values.get(key), (int, float)) else ""


def tell(run: Path, options: Mapping[str, Any], command: str = "") -> Story:
    """The story of a run.

    Args:
        run: its folder. options: its `config.yaml` as plain values. command: that makes it again.
    """
    state = _json(run / "run.json")
    return Story(
        inputs=_inputs(run, options), stages=_stages(run, options, state), terms=_terms(run, options, state),
        versions=[(name, str(number)) for name, number in state.get("versions", {}).items()], command=command,
    )  # fmt: skip


def _inputs(run: Path, options: Mapping[str, Any]) -> list[tuple[str, str]]:
    clip = _json(run / "prepare/clip.json")
    if not clip:
        return []
    time, poses = clip.get("time", {}), "given" if clip.get("poses_given") else "not given"
    size, mask = f"{clip['width']} x {clip['height']} pixels", str(options.get("mask", "auto"))
    lines = [
        ("clip", str(clip.get("name", ""))),
        ("pictures", f"{clip['frames']} of {size}, {time.get('fps', 0):.3g} a second"),
        ("masks", MASKS.get(mask, mask)),
        ("depth maps", "yes" if clip.get("depth") else "none"), ("camera poses", poses),
    ]  # fmt: skip
    found = [_labelled(line) for line in clip.get("findings", [])]
    noticed = [entry for entry in found if entry[0] == NOTICED]
    return [*lines, *(entry for entry in found if entry[0] != NOTICED), *noticed[:MOST_NOTICED]]


def _labelled(finding: str) -> tuple[str, str]:
    for begins, label, cut in FACTS:
        if re.match(begins, finding):
            return label, finding.removeprefix(cut)
    return NOTICED, finding


def _rows(path: Path, array: str) -> int | None:
    """How many rows a table has, from its header alone."""
    return int(artifacts.array_shapes(path)[array][0]) if path.is_file() else None


def _stages(run: Path, options: Mapping[str, Any], state: Mapping[str, Any]) -> list[tuple[str, str]]:
    seconds = {name: entry.get("seconds") for name, entry in state.get("stages", {}).items()}
    told = {
        "prepare": _prepare(run, options), "geometry": _geometry(run, options), "deform": _deform(run, options),
        "gaussians": _gaussians(run, options), "render": _made(run / "renders", "*.mp4"),
        "export": _made(run / "export"),
    }  # fmt: skip
    seconds.pop("export", None)  # the report is a part of it
    return [(name, text + _seconds(seconds, name)) for name, text in told.items() if text]


def _prepare(run: Path, options: Mapping[str, Any]) -> str:
    clip = _json(run / "prepare/clip.json")
    if not clip:
        return ""
    used, whole = len(clip.get("selected", ())), clip["frames"]
    text = f"looked at every frame; {used} of {whole} are used to fit"
    if used < whole:
        why = [f"--frames {options['frames']}"] if options.get("frames") else []
        why += [f"--hold-out {options['hold_out']}"] if options.get("hold_out") else []
        text += f", because of {' and '.join(why)}" if why else ""
    return text


def _geometry(run: Path, options: Mapping[str, Any]) -> str:
    cameras = _json(run / "geometry/cameras.json")
    if not cameras:
        return ""
    source, asked = str(cameras.get("source", "")), options.get("geometry", {}).get("source", "auto")
    kind = next((name for name in SOURCES if source.startswith(name)), "")
    why = f", because {SOURCES[kind]}" if asked == "auto" and kind else ", as asked for" if asked != "auto" else ""
    if kind == "mast3r":  # the source is named after the task; the network is mostly another
        weights = options.get("geometry", {}).get("weights", "")
        source = f"a pair network ({weights})" if weights not in ("", "small") else "dyn4d's small pair network"
    parts = [f"points from {source}{why}" if source else "points", f"camera poses {cameras.get('poses', 'given')}"]
    points = _rows(run / "geometry/frame_points.npz", "xyz")
    matches = _rows(run / "geometry/correspondences.npz", "weight")
    parts += [f"{points:,} points of the object"] if points is not None else []
    matcher = options.get("matching", {}).get("matcher", "flow")
    parts += [f"{matches:,} matches between frames by {matcher}"] if matches is not None else []
    parts += ["frames agree on one rigid object, so there is a mesh"] if (run / "geometry/mesh.ply").is_file() else []
    return "; ".join(parts)


def _deform(run: Path, options: Mapping[str, Any]) -> str:
    found, chosen = _json(run / "deformation/metrics.json"), options.get("deformation", {})
    if not found:
        return ""
    kind = str(chosen.get("kind", "realnvp"))
    text = f"{FIELDS.get(kind, f'a field of kind {kind}')}, {chosen.get('steps', 0):,} steps"
    missed = (found.get("transport") or {}).get("median_rel")
    if isinstance(missed, float):
        text += f"; matches are missed by {100 * missed:.2f} % of the object's size (median)"
    followed = [one for one in found.get("reunions", ()) if one.get("followed")]
    return text + (f"; {len(followed)} part(s) that were hidden were found again" if followed else "")


def _gaussians(run: Path, options: Mapping[str, Any]) -> str:
    found, chosen = _json(run / "gaussians/metrics.json"), options.get("gaussians", {})
    if not found:
        return ""
    text = f"{found.get('count', 0):,} Gaussians after {chosen.get('steps', 0):,} steps together with the field"
    grown = (found.get("curves") or {}).get("count")
    if grown:
        text += f", begun with {int(grown[0][-1] if isinstance(grown[0], list) else grown[0]):,}"
    return (
        text
        + f"; colours of degree {chosen.get('sh_degree', 0)}"
        + ("; a brightness for each frame" if found.get("exposure") else "")
    )


def _made(folder: Path, pattern: str = "*") -> str:
    names = sorted(path.name for path in folder.glob(pattern) if not path.name.startswith("."))
    return f"wrote {', '.join(names)}" if names else ""


def _terms(run: Path, options: Mapping[str, Any], state: Mapping[str, Any]) -> list[tuple[str, str]]:
    clip = "drawn by dyn4d; nothing of third parties is in it"
    if not (run / "demo.json").is_file():
        clip = clip_terms(Path(str(options.get("clip", ""))))
    lines = [("the clip", clip or 'nothing in its folder says; no LICENSE file, no "licence" in cameras.json')]
    weights = [str(line).removeprefix("weights: ") for line in state.get("licences", ())]
    lines += [("weights", line) for line in weights] or [("weights", "no trained network was used")]
    if (run / "export/player.html").is_file():
        lines.append(("the player", PLAYER_TERMS))
    return [*lines, ("dyn4d", "Apache-2.0")]
