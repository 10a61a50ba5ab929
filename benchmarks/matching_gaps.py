"""How right and how many the matches of each matcher are, by the frames between: one table, for real work to compare.

    python benchmarks/matching_gaps.py [CLIP ...] [--matchers flow r2d2 flow+r2d2 ...] [--reference DIR]
                                       [--out runs/matching_gaps] [--markdown FILE]

A clip is `creature`, `worm` or `turntable` (seed 0, at 256 px, whose motion is known exactly) or the name of a folder
of the reference data, such as gt_snake_dance. Those have exact depth and cameras, but nothing says how their surface
moves. There the truth is a *reference motion*: the field of a run of the whole clip on its exact depth, matched by flow
(`--reference-preset`), asked only where what it moves lands on the depth that was measured in the other frame, within
one per cent of the object's size. How far that is off is measured on the synthetic clips by the same code: the row
`reference motion` of their tables. Shares within 1 px of it say little, those within 3 and 5 px more, and an error that
flow and field have in common stays unseen.

For each matcher and gap: matches an ordered pair, the share within 1, 3 and 5 px of the truth (of those that have one),
and the share of the object's pixels that have a match within 4 px that is itself within 3 px of the truth. Matchers:
flow; r2d2, the network that comes with dyn4d; r2d2-official, where the reference folder has it; flow+r2d2 and
flow+r2d2-official. All look at the same pairs. Rows that are done are kept in `--out` and not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import cv2
import numpy as np
import torch
from running import dyn4d

from dyn4d.core.cameras import project
from dyn4d.core.types import Clip, Correspondences, FramePoints
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.lift import Sampled, sample_points
from dyn4d.geometry.rgbd import frames_from_depth
from dyn4d.io.clips import load_clip
from dyn4d.matching.clip_matching import match_frames
from dyn4d.matching.config import Matcher, MatchingConfig
from dyn4d.synthetic import build_scene
from dyn4d.synthetic.config import SCENES
from dyn4d.synthetic.pixel_motion import DrawnScene, draw_scene
from dyn4d.synthetic.write import write_scene

GAPS = (1, 4, 8, 16, 32)
NEAR = (1.0, 3.0, 5.0)
COVER_PX = 4.0
LANDS = 0.01  # of the object's size: how near the reference motion has to come to the depth that was measured
GT = ("gt_fox_run", "gt_cesiumman_walk", "gt_snake_dance", "gt_horse_room")
MATCHERS = ("flow", "r2d2", "r2d2-official", "flow+r2d2", "flow+r2d2-official")


class Truth(Protocol):
    def moved(self, a: int, b: int, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """World (M, 3), pixels of b (M, 2), and whether both can be relied on and are seen in b (M,)."""
        ...


@dataclass(frozen=True)
class ReferenceMotion:
    """Truth where there is none: a fitted field on exact depth (see the top of the file)."""

    clip: Clip
    points: list[FramePoints]  # of each frame
    extent: float
    field: Any

    def _at(self, frame: int, xy: np.ndarray) -> Sampled:
        size = (self.clip.height, self.clip.width)
        inside = np.asarray(xy, np.float64).clip(0, np.array(size[::-1]) - 1e-3)
        return sample_points(np.full(len(xy), frame), inside, self.points[frame], size, len(self.clip), 8.0)

    def moved(self, a: int, b: int, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        clip = self.clip
        assert clip.cameras is not None
        start = self._at(a, xy)
        t = torch.as_tensor(clip.times, dtype=torch.float32)
        with torch.no_grad():
            xyz = self.field.transport(torch.from_numpy(start.xyz).float(), t[a], t[b]).double()
        uv, depth = project(clip.cameras.K[b].double(), clip.cameras.cam_from_world[b].double(), xyz)
        end = self._at(b, uv.numpy())
        off = np.linalg.norm(end.xyz - xyz.numpy(), axis=-1)
        known = start.found & end.found & (off < LANDS * self.extent) & (depth.numpy() > 0)
        return xyz.numpy(), uv.numpy(), known


def reference_motion(folder: Path, clip: Clip, run: Path, preset: str) -> ReferenceMotion:
    """Fit a field to a clip with depth, up to the deformation stage of a run."""
    from dyn4d.deformation.files import load_field

    if not (run / "deformation" / "field.safetensors").exists():
        dyn4d("prepare", str(folder), "--out", str(run), "--preset", preset)
        for stage in ("geometry", "deform"):
            dyn4d(stage, str(run))
    points = frames_from_depth(clip, GeometryConfig()).points
    of_frame = [points.select(points.frame == i) for i in range(len(clip))]
    return ReferenceMotion(clip, of_frame, points.extent(), load_field(run / "deformation" / "field.safetensors"))


def matches_of(name: str, clip: Clip, out: Path, official: Path) -> tuple[Correspondences, float]:
    """What a matcher finds; the flow's part is made once and shared."""
    matcher, _, which = name.partition("-")
    weights = str(official) if which else ""
    config = MatchingConfig(
        matcher=cast(Matcher, matcher), weights=weights, strides=(8, 12, 16, 24, 32), far_strides=(4, 8, 16, 32)
    )
    begin = time.perf_counter()
    if matcher == "r2d2":
        config = replace(config, window=1, strides=())
    if matcher == "flow":
        return match_frames(clip, config, cache=out / "flow"), time.perf_counter() - begin
    cache = out / name
    if matcher == "flow+r2d2":
        cache.mkdir(parents=True, exist_ok=True)
        if (out / "flow").exists() and not (cache / "flow").exists():
            (cache / "flow").symlink_to((out / "flow").resolve())
    return match_frames(clip, config, cache=cache), time.perf_counter() - begin


def measure(clip: Clip, truth: Truth, found: Correspondences) -> list[dict[str, float]]:
    """One row a gap."""
    table = []
    frame_a, frame_b = found.frame_a.numpy(), found.frame_b.numpy()
    for gap in GAPS:
        pairs = [(a, a + s * gap) for a in range(len(clip)) for s in (1, -1) if 0 <= a + s * gap < len(clip)]
        errors, covered, counts = [], [], []
        for a, b in pairs:
            low, high = np.searchsorted(frame_a, [a, a + 1])
            rows = low + np.flatnonzero(frame_b[low:high] == b)
            xy_a, xy_b = found.xy_a[rows].double().numpy(), found.xy_b[rows].double().numpy()
            _, end, known = truth.moved(a, b, xy_a) if len(rows) else (None, np.zeros((0, 2)), np.zeros(0, bool))
            error = np.linalg.norm(end - xy_b, axis=-1)
            errors.append(error[known])
            counts.append(len(rows))
            covered.append(cover(np.asarray(clip.masks[a], bool), xy_a[known & (error <= 3)]))
        flat = np.concatenate(errors) if errors else np.zeros(0)
        row = {"gap": gap, "pairs": len(pairs), "matches": mean_of(counts), "covered": mean_of(covered),
               "known": float(len(flat) / max(sum(counts), 1))}  # fmt: skip
        table.append(row | {f"within_{limit:g}": mean_of(flat <= limit) for limit in NEAR})
    return table


def mean_of(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def cover(mask: np.ndarray, xy: np.ndarray) -> float:
    """The share of the object's pixels within `COVER_PX` of a match."""
    away = np.ones(mask.shape, np.uint8)
    cell = np.floor(xy).astype(np.int64).clip(0, [mask.shape[1] - 1, mask.shape[0] - 1])
    away[cell[:, 1], cell[:, 0]] = 0
    if not mask.any() or away.all():
        return 0.0
    return float((cv2.distanceTransform(away, cv2.DIST_L2, 5)[mask] <= COVER_PX).mean())


def reference_rows(clip: Clip, truth: DrawnScene, reference: ReferenceMotion) -> list[dict[str, float]]:
    """How far the reference motion is from the truth, as if it were a matcher of every seventh object pixel."""
    parts = []
    for gap in GAPS:
        for a, b in [(a, a + s * gap) for a in range(0, len(clip), 4) for s in (1, -1)]:
            if 0 <= b < len(clip):
                xy = np.argwhere(np.asarray(clip.masks[a]))[::7, ::-1] + 0.5
                _, uv, known = reference.moved(a, b, xy)
                frame = torch.zeros(int(known.sum()), dtype=torch.int64)
                start, end = (torch.from_numpy(v[known]).float() for v in (xy, uv))
                parts.append(Correspondences(frame + a, frame + b, start, end, torch.ones(len(frame))))
    found = Correspondences.concatenate(parts)
    order = torch.from_numpy(np.lexsort((found.frame_b.numpy(), found.frame_a.numpy())))
    return measure(clip, truth, found.select(order))


def rows_of(name: str, names: Sequence[str], given: argparse.Namespace, official: Path) -> dict[str, Any]:
    """All rows of a clip, each kept in a file when done."""
    out = given.out / name
    out.mkdir(parents=True, exist_ok=True)
    file = out / "rows.json"
    rows: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    wanted = [n for n in names if "official" not in n or official.exists()]
    synthetic = name in SCENES
    if all(n in rows for n in [*wanted, *(["reference motion"] if synthetic else [])]):
        return rows
    folder = given.reference / "data" / name if given.reference else Path(name)
    drawn = None
    if synthetic:
        scene = build_scene(name, size=given.size)
        folder = write_scene(scene, out / "scene", truth=False).clip
        drawn = draw_scene(scene)
    clip = load_clip(folder)
    reference = reference_motion(folder, clip, out / "run", given.reference_preset)
    truth: Truth = drawn if drawn is not None else reference
    if drawn is not None and "reference motion" not in rows:
        rows["reference motion"] = {"table": reference_rows(clip, drawn, reference), "seconds": 0.0}
    for matcher in wanted:
        if matcher not in rows:
            found, seconds = matches_of(matcher, clip, out / "matches", official)
            rows[matcher] = {"table": measure(clip, truth, found), "seconds": seconds}
            print(f"{name} {matcher}: {len(found)} matches, {seconds:.0f} s", flush=True)
        file.write_text(json.dumps(rows, indent=1))
    file.write_text(json.dumps(rows, indent=1))
    return rows


def markdown(results: dict[str, dict[str, Any]]) -> str:
    head = " | ".join(f"gap {gap}" for gap in GAPS)
    lines = [f"| clip | matcher | {head} |", "|" + " --- |" * (2 + len(GAPS))]
    for clip, rows in results.items():
        for matcher, row in rows.items():
            cells = [
                f"{r['matches']:.0f}: {100 * r['within_1']:.0f} {100 * r['within_3']:.0f} {100 * r['within_5']:.0f} %, "
                f"{100 * r['covered']:.0f} %"
                for r in row["table"]
            ]
            lines.append(f"| {clip} | {matcher} | " + " | ".join(cells) + " |")
    note = "Matches a pair: share within 1, 3, 5 px of the truth, share of the object covered by those within 3 px."
    return "\n".join([note, "", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", default=[*SCENES, *GT])
    parser.add_argument("--matchers", nargs="+", default=list(MATCHERS), choices=MATCHERS)
    parser.add_argument("--reference", type=Path, default=os.environ.get("DYN4D_REFERENCE"))
    parser.add_argument("--reference-preset", default="default")
    parser.add_argument("--size", type=int, default=256, help="of synthetic clips")
    parser.add_argument("--out", type=Path, default=Path("runs/matching_gaps"))
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    given.reference = Path(given.reference) if given.reference else None
    official = (given.reference or Path()) / "r2d2" / "r2d2_WASF_N16.pt"
    results: dict[str, dict[str, Any]] = {}
    for name in given.clips:
        if name not in SCENES and not (given.reference and (given.reference / "data" / name).exists()):
            print(f"{name}: not there; set DYN4D_REFERENCE to the folder of the reference data")
            continue
        results[name] = rows_of(name, given.matchers, given, official)
        text = markdown(results)
        print(text, flush=True)
        if given.markdown:
            write_section(given.markdown, "matching-gaps", "## Matches by the frames between\n\n" + text)


def write_section(file: Path, name: str, text: str) -> None:
    """Write or renew a marked section of a Markdown file."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    section = f"{begin}\n\n{text}\n\n{end}"
    if begin in old and end in old:
        new = old[: old.index(begin)] + section + old[old.index(end) + len(end) :]
    else:
        new = old.rstrip("\n") + ("\n\n" if old else "") + section + "\n"
    file.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
