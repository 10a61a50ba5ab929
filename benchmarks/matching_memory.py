"""How much memory matching and lifting take on a long clip, each in a process of its own.

    python benchmarks/matching_memory.py [--frames 300] [--matcher flow+r2d2] [--preset default] [--invent]
                                         [--folder DIR]

Makes a clip of 512x288 pixels on disk (a few drawn frames of a synthetic creature, played to and fro while the picture
moves sideways; what it shows is of no matter here), matches its frames as a run does, lifts the matches to the world,
and prints the peak of each process with its imports. What is there already is not made again.

With `--invent` nothing is looked at: every pair gets as many matches as it may have (`max_per_pair`; by descriptors
500), at random places of the masks, in files as an interrupted run leaves them. What the lists of matches take is the
same, in a fraction of the time; what the flow itself takes is not in it, and is measured by a short clip.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 512, 288
DRAWN = 12
STEPS = ("imports", "match", "lift")


def make_clip(folder: Path, frames: int) -> Path:
    """A clip with depth and cameras, frame by frame."""
    import numpy as np

    from dyn4d.io.atomic import atomic_folder, write_json
    from dyn4d.io.images import write_png
    from dyn4d.synthetic import SyntheticConfig, build_scene
    from dyn4d.synthetic.write import encode_depth

    clip = folder / f"clip_{frames}"
    if clip.exists():
        return clip
    scene = build_scene(config=SyntheticConfig(frames=48, size=HEIGHT, supersample=1))
    pictures = [scene.draw(2 * i) for i in range(DRAWN)]
    K = scene.K.copy()
    K[0, 2] += (WIDTH - HEIGHT) / 2
    with atomic_folder(clip) as out:
        entries = []
        for i in range(frames):
            at = i % (2 * DRAWN - 2)
            picture = pictures[at if at < DRAWN else 2 * DRAWN - 2 - at]
            left = round((WIDTH - HEIGHT) / 2 * (1 + math.sin(i / 20)))
            room = [(0, 0), (left, WIDTH - HEIGHT - left)]
            rgb = np.pad(picture.rgb, [*room, (0, 0)], constant_values=128)
            names = {kind: f"{kind}/{i:05d}.png" for kind in ("rgb", "mask", "depth")}
            write_png(out / names["rgb"], rgb)
            write_png(out / names["mask"], np.pad(picture.mask, room).astype(np.uint8) * 255)
            write_png(out / names["depth"], encode_depth(np.pad(picture.depth, room), 5000.0))
            entries.append({"index": i, "time": i / 24, **names, "w2c": np.eye(4).tolist()})
        write_json(out / "cameras.json", {"K": K.tolist(), "width": WIDTH, "height": HEIGHT, "depth_div": 5000.0,
                                          "pixel_centre": "half-integer", "frames": entries})  # fmt: skip
    return clip


def invent(clip_folder: Path, preset: str, matcher: str, folder: Path) -> None:
    """Matches of all pairs, as files that `match_frames` goes on from."""
    from dataclasses import replace

    import numpy as np

    from dyn4d.config import load_preset
    from dyn4d.io.clips import load_clip
    from dyn4d.matching.clip_matching import far_pairs
    from dyn4d.matching.pairs import pair_graph

    clip, random = load_clip(clip_folder), np.random.default_rng(0)
    config = replace(load_preset(preset).matching, matcher=matcher)
    places = [np.argwhere(np.asarray(mask))[:, ::-1].astype(np.float32) + 0.5 for mask in clip.masks]

    def rows(a: int, b: int, count: int) -> dict[str, np.ndarray]:
        count = min(count, len(places[a]))
        return {"frame_a": np.full(count, a), "frame_b": np.full(count, b),
                "xy_a": places[a][random.choice(len(places[a]), count, replace=False)],
                "xy_b": places[b][random.integers(0, len(places[b]), count)],
                "weight": np.full(count, 0.5, np.float32)}  # fmt: skip

    def write(file: Path, parts: list[dict[str, np.ndarray]], **more: np.ndarray) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **{name: np.concatenate([p[name] for p in parts]) for name in parts[0]}, **more)  # type: ignore[arg-type]

    near, far = (sorted(pairs) for pairs in (pair_graph(len(clip), config.window, config.strides),
                                             far_pairs(len(clip), config)))  # fmt: skip
    flow = folder if matcher == "flow" else folder / "flow"
    for i in range(len(clip)):
        parts = [rows(a, b, config.max_per_pair) for p, q in near if p == i for a, b in ((p, q), (q, p))]
        if parts and "flow" in matcher:
            write(flow / f"{i:06d}.npz", parts)
        parts = [rows(p, q, 500) for p, q in far if p == i]
        if parts and matcher != "flow":
            count = sum(len(part["weight"]) for part in parts)
            good = {"votes": 1.0, "margin": 0.2, "cycle": 1.0, "grain": 0.0}
            write(folder / "far" / f"matches_{i:06d}.npz", parts,
                  **{f"quality_{name}": np.full(count, value) for name, value in good.items()})  # fmt: skip


def work(step: str, clip_folder: Path, preset: str, matcher: str) -> dict[str, Any]:
    """One step, in this process."""
    from dataclasses import replace

    from dyn4d.config import load_preset
    from dyn4d.core.types import Correspondences
    from dyn4d.geometry.config import GeometryConfig
    from dyn4d.geometry.lift import lift
    from dyn4d.geometry.rgbd import frames_from_depth
    from dyn4d.io import artifacts
    from dyn4d.io.clips import load_clip
    from dyn4d.matching.clip_matching import match_frames

    found: dict[str, Any] = {}
    clip = load_clip(clip_folder)
    name = f"{clip_folder.name}_{preset}_{matcher}"
    file = clip_folder.parent / f"{name}.npz"
    begin = time.perf_counter()
    if step == "match":
        config = replace(load_preset(preset).matching, matcher=matcher)
        matches = match_frames(clip, config, cache=clip_folder.parent / f"cache_{name}")
        found["matches"] = len(matches)
        artifacts.save(file, matches)
    if step == "lift":
        points = frames_from_depth(clip, GeometryConfig()).points
        lifted = lift(artifacts.load(file, Correspondences), points, clip.height, clip.width, len(clip))
        found |= {"points": len(points), "lifted": len(lifted)}
    seconds = round(time.perf_counter() - begin, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return {**found, "seconds": seconds,
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--matcher", default="flow+r2d2")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--folder", type=Path, default=Path("runs/matching_memory"))
    parser.add_argument("--invent", action="store_true")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(work(given.step, given.folder, given.preset, given.matcher)))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    clip = make_clip(given.folder, given.frames)
    if given.invent:
        folder = given.folder / f"cache_{clip.name}_{given.preset}_{given.matcher}"
        invent(clip, given.preset, given.matcher, folder)
    for step in STEPS:
        words = ["--step", step, "--folder", str(clip), "--preset", given.preset, "--matcher", given.matcher]
        done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
        print(f"{step}: {done.stdout.strip().splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
