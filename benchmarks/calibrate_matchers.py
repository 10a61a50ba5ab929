"""Make the table that turns what a matcher says of its matches into an expected error in pixels.

    python benchmarks/calibrate_matchers.py [--r2d2 WEIGHTS] [--size N] [--mast3r WEIGHTS] [--out FILE] [--check]

Draws clips of `dyn4d.synthetic`, whose motion is known exactly, matches their frames, and takes the median error over a
grid of qualities (see `dyn4d.matching.calibration`). Then the table is asked about clips that had no part in it: for
each bin of expected error the median error found, and its ratio. `--check` does only that, with the table of `--out`,
or that of the package. A table is written into the current folder, for `--matching.calibration`; that of the package is
made with `--out dyn4d/matching/calibration.json`.
No other pictures are ever looked at.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dyn4d import __version__
from dyn4d.core.types import Correspondences
from dyn4d.io.tensor_files import file_sha256
from dyn4d.matching.calibration import (
    FILE,
    AxisPlan,
    ErrorTable,
    RawMatches,
    expected_error,
    fit_table,
    flow_quality,
    load_tables,
)
from dyn4d.matching.chain import weight_quality
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.describe import R2D2Describer, describe_matches, match_keypoints
from dyn4d.matching.flow import match_clip
from dyn4d.matching.r2d2_weights import load_r2d2, weights_file
from dyn4d.synthetic import SyntheticConfig, build_scene
from dyn4d.synthetic.pixel_motion import DrawnScene, draw_scene

# scene, seed, size, background
LEARNT = [("creature", 11, 224, "grey"), ("worm", 12, 192, "grey"), ("turntable", 13, 160, "grey")]
HELD_OUT = [("creature", 31, 192, "grey"), ("worm", 32, 224, "grey")]
PLANS: dict[str, list[AxisPlan]] = {
    "flow": [
        AxisPlan("weight", rises=False, bins=8),
        AxisPlan("gap", rises=True, at=tuple(np.log2([1, 2, 4, 8, 16, 32]))),
    ],
    "r2d2": [
        AxisPlan("votes", rises=False, at=(0.125, 0.375, 0.625, 0.75, 0.875, 1.0)),
        AxisPlan("margin", rises=False, bins=6),
        AxisPlan("cycle", rises=False, at=(0.0, 1.0)),
        AxisPlan("grain", rises=True, at=(-1.0, 0.0, 1.0)),
    ],
    "mast3r": [AxisPlan("weight", rises=False, bins=8)],
}
FRAMES, DRAWN = 48, 34  # of a clip that is as fast as usual, the first of them
EVERY = 4  # frames that are described: any gap is a multiple
FAR = (8, 16, 24, 32)
PER_PAIR = 400
OWN = "calibration.json"

Samples = tuple[RawMatches, np.ndarray]  # matches and their errors in pixels


def with_errors(drawn: DrawnScene, raw: RawMatches) -> Samples:
    """Matches with the distance of their ends from the truth; those that start off the surface are left out."""
    found = raw.matches
    key = (found.frame_a * len(drawn.clip) + found.frame_b).numpy()
    error = np.full(len(found), np.nan)
    for pair in np.unique(key):
        rows = np.flatnonzero(key == pair)
        a, b = divmod(int(pair), len(drawn.clip))
        _, xy_b, _ = drawn.moved(a, b, found.xy_a.double().numpy()[rows])
        error[rows] = np.linalg.norm(xy_b - found.xy_b.double().numpy()[rows], axis=-1)
    keep = np.flatnonzero(np.isfinite(error))
    return RawMatches(found.select(torch.from_numpy(keep)), {k: v[keep] for k, v in raw.quality.items()}), error[keep]


def joined(parts: list[Samples]) -> Samples:
    matches = Correspondences.concatenate([raw.matches for raw, _ in parts])
    names = parts[0][0].quality
    quality = {name: np.concatenate([raw.quality[name] for raw, _ in parts]) for name in names}
    return RawMatches(matches, quality), np.concatenate([error for _, error in parts])


def by_flow(drawn: DrawnScene) -> Samples:
    config = replace(MatchingConfig(), window=2, strides=(4, 8, 16, 32), max_per_pair=PER_PAIR, threads=1)
    return with_errors(drawn, flow_quality(match_clip(drawn.clip, config)))


def by_descriptors(drawn: DrawnScene, describer: R2D2Describer) -> Samples:
    """Between every fourth frame, half of the pairs without the way over the frame between them."""
    frames = range(0, len(drawn.clip), EVERY)
    described = {f: describer.features(drawn.clip.images[f], drawn.clip.masks[f]) for f in frames}
    found = {(i, j): match_keypoints(described[i], described[j]) for i in frames for j in frames if i < j}
    parts = []
    for i in frames:
        for gap in FAR:
            j, k = i + gap, i + gap // (2 * EVERY) * EVERY
            if j in described:
                over = (described[k], found[i, k], found[k, j]) if (i // EVERY) % 2 else None
                raw = describe_matches(described[i], described[j], found[i, j], over=over, frames=(i, j))
                parts.append(with_errors(drawn, raw))
    return joined(parts)


def by_network(drawn: DrawnScene, weights: Path) -> Samples:
    """A pair network between far frames."""
    from dyn4d.geometry.pair_matcher import PairNetworkMatcher
    from dyn4d.geometry.weights import load_pair_network

    matcher, clip, parts = PairNetworkMatcher(load_pair_network(str(weights), "auto")), drawn.clip, []
    for i, j in [(i, i + gap) for gap in FAR[:3] for i in range(0, len(clip) - gap, 3 * EVERY)]:
        found = matcher(clip.images[i], clip.images[j], clip.masks[i], clip.masks[j])
        found = replace(found, frame_a=found.frame_a + i, frame_b=found.frame_b * 0 + j)
        parts.append(with_errors(drawn, weight_quality(found)))
    return joined(parts)


def samples(clips: Iterable[tuple], matchers: dict[str, Callable[[DrawnScene], Samples]]) -> dict[str, Samples]:
    parts: dict[str, list[Samples]] = {name: [] for name in matchers}
    for scene, seed, size, background in clips:
        config = SyntheticConfig(scene, frames=FRAMES, size=size, background=background, seed=seed, supersample=2)
        drawn = draw_scene(build_scene(config=config), DRAWN)
        for name, call in matchers.items():
            parts[name].append(call(drawn))
            error = parts[name][-1][1]
            print(f"{scene} {seed} {size} {background}: {name}: {len(error)} matches, median {np.median(error):.3f} px",
                  flush=True)  # fmt: skip
    return {name: joined(found) for name, found in parts.items()}


def check(name: str, found: Samples, tables: dict[str, ErrorTable]) -> None:
    """Expected against true errors, in eight bins of equal numbers of matches, and how well the order is kept."""
    raw, error = found
    expected = expected_error(raw, name, tables)
    rank = np.argsort(np.argsort(expected)), np.argsort(np.argsort(error))
    print(f"\n{name}, held-out clips: {len(error)} matches, rank correlation {np.corrcoef(*rank)[0, 1]:.2f}")
    print("| expected px | median px | ratio | share > 5 px | matches |\n| --- | --- | --- | --- | --- |")
    for rows in np.array_split(np.argsort(expected, kind="stable"), 8):
        mine, true = float(np.median(expected[rows])), float(np.median(error[rows]))
        print(f"| {mine:.2f} | {true:.2f} | {true / mine:.2f} | {(error[rows] > 5).mean():.3f} | {len(rows)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--r2d2", default="", help="weights; default: those that come with dyn4d")
    parser.add_argument("--size", type=int, default=R2D2Describer.size, help="see R2D2Describer")
    parser.add_argument("--mast3r", type=Path, help="weights of a pair network, to make its table too")
    parser.add_argument("--out", type=Path, help=f"the table; default: {OWN} here, with --check that of the package")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    describer = R2D2Describer(load_r2d2(given.r2d2 or None), size=given.size)
    matchers: dict[str, Callable[[DrawnScene], Samples]] = {
        "flow": by_flow,
        "r2d2": lambda drawn: by_descriptors(drawn, describer),
    }
    if given.mast3r is not None:
        matchers["mast3r"] = lambda drawn: by_network(drawn, given.mast3r)
    out = given.out or (FILE if given.check else Path(OWN))
    tables = dict(load_tables(out)) if given.check or out.exists() else {}
    if not given.check:
        learnt = samples(LEARNT, matchers)
        tables |= {name: fit_table(raw.quality, error, PLANS[name]) for name, (raw, error) in learnt.items()}
        content = {
            "made_by": f"benchmarks/calibrate_matchers.py of dyn4d {__version__}",
            "clips": ["dyn4d.synthetic {}, seed {}, {} px, {}".format(*clip) for clip in LEARNT],
            "made_for": {"r2d2": file_sha256(weights_file(given.r2d2))},
            "unit": "px of the clip; median error",
            "matchers": {name: table.to_plain() for name, table in tables.items()},
        }
        temporary = out.with_name(f".{out.name}.tmp")
        temporary.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
        temporary.replace(out)
        print(f"{out}: the tables of {', '.join(tables)}")
    for name, found in samples(HELD_OUT, matchers).items():
        check(name, found, tables)


if __name__ == "__main__":
    main()
