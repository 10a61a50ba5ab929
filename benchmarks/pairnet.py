"""What a small pair network is worth, how long it takes to train, and how it learnt.

    python benchmarks/pairnet.py --speed [--threads 1] [--size 192]
    python benchmarks/pairnet.py --weights small|FILE [--parts views matches clips] [--pairs 4] [--clips gt_fox_run ...]
        [--frames a:b:s] [--reference DIR] [--json OUT]
    python benchmarks/pairnet.py --curve LOG.jsonl [THAT_WENT_ON.jsonl ...] --out curve.svg

`--speed`: samples a second of the generator, and seconds of a training step for networks of some sizes; of the
processor and by the clock, which differ where others use the machine.

`--weights`: on clips that no training uses, from colours and masks alone (their depth and cameras are withheld).
`views`: depth of single views after one scale a view, beside that of a plane. `matches`: share within 3 px by the gap
between frames, beside optical flow and R2D2 on the same frames; truth as in `r2d2.py` (`room`: the background of
gt_horse_room; `own`: dyn4d's synthetic scenes, whose objects are not those of the training). `clips`: the whole
geometry stage: depth inside the mask after one scale a clip, the camera after a similarity, and seconds.

`--curve`: error by samples of a training's log, as SVG; of several logs, each begun with the weights of the one before
and measured on samples of its own, depth over that of a plane.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from running import add_reference, need_reference

CLIPS = ("gt_fox_run", "gt_cesiumman_walk", "gt_snake_dance", "gt_horse_room")
GAPS = (1, 4, 8, 16)
SIZES = {  # width, encoder, decoder, heads, fusion
    "256 wide, 6 + 4 blocks": (256, 6, 4, 4, 48),
    "320 wide, 6 + 4 blocks": (320, 6, 4, 5, 64),
    "192 wide, 6 + 4 blocks": (192, 6, 4, 3, 48),
}


def speed(threads: int, size: int) -> dict[str, Any]:
    """Prints and returns seconds a sample."""
    from dyn4d.training.geometry import GeometryTrainer
    from dyn4d.training.geometry_config import GeometryTraining, NetworkSizes, ObjectPairs
    from dyn4d.training.geometry_data import SampleSource

    torch.set_num_threads(threads)
    data = ObjectPairs(size=size, textures=24)
    source = SampleSource(data, 0)
    samples = [source(n) for n in range(96)]  # bodies, textures and compiled code are there from here on
    worked, began = time.process_time(), time.perf_counter()
    for n in range(96, 192):
        source(n)
    each = (time.process_time() - worked) / 96
    out: dict[str, Any] = {"generator": {"processor": each, "clock": (time.perf_counter() - began) / 96}}
    print(f"generator: {1 / each:.1f} samples a second of one core at {size} px")
    for name, (width, encoder, decoder, heads, fusion) in SIZES.items():
        network = NetworkSizes(width=width, encoder=encoder, decoder=decoder, heads=heads, fusion=fusion)
        config = GeometryTraining(data=data, network=network)
        trainer = GeometryTrainer(config, lambda n: samples[n % 96])
        trainer.train_step()
        times = []
        for _ in range(3):
            worked, began = time.process_time(), time.perf_counter()
            trainer.train_step()
            times.append(((time.process_time() - worked) / config.batch, (time.perf_counter() - began) / config.batch))
        processor, clock = (float(np.min([t[k] for t in times])) for k in (0, 1))
        weights = sum(p.numel() for p in trainer.network.parameters())
        out[name] = {"processor": processor, "clock": clock, "weights": weights}
        print(
            f"{name}: {weights / 1e6:.1f} million weights, {processor:.2f} s of the processor a sample, {clock:.2f} s "
            f"by the clock with {threads} threads", flush=True,
        )  # fmt: skip
    return out


# ------------------------------------------------------------------------------------------- worth


def views(weights: str, reference: Path, clips: list[str], count: int) -> list[dict[str, Any]]:
    """Depth of single views, each looked at together with one some frames on."""
    from dyn4d.geometry.pair_config import PairConfig
    from dyn4d.geometry.pair_frames import make_pair_frame
    from dyn4d.geometry.pair_hints import suited
    from dyn4d.geometry.pair_inference import look_at_pairs
    from dyn4d.geometry.weights import load_pair_network
    from dyn4d.io.clips import load_clip
    from dyn4d.training.geometry_eval import depth_errors, flat_errors

    network = load_pair_network(weights)
    config = suited(network.config, PairConfig())
    rows: list[dict[str, Any]] = []
    print("clip                gap  depth   plane   within 3 %, 10 %   (medians over the views)")
    for name in clips:
        clip = load_clip(reference / "data" / name)
        assert clip.depth is not None
        for gap in GAPS:
            starts = sorted({int(v) for v in np.linspace(0, len(clip) - 1 - gap, count).round()})
            measured = []
            for i in starts:
                frames = [make_pair_frame(clip.images[n], clip.masks[n], config) for n in (i, i + gap)]
                (result,) = look_at_pairs(network, frames, config, pairs=[(0, 1)])
                for n, frame, said in ((i, frames[0], result.a_in_a), (i + gap, frames[1], result.b_in_b)):
                    seen = frame.view.depth(np.asarray(clip.depth[n]))[frame.kept]
                    truth = torch.from_numpy(seen.astype(np.float32))
                    good = truth > 0
                    errors = depth_errors(said[good, 2], truth[good])
                    three, ten = (float((errors < limit).float().mean()) for limit in (0.03, 0.10))
                    measured.append((float(errors.median()), float(flat_errors(truth[good]).median()), three, ten))
            depth, flat, three, ten = (float(v) for v in np.median(np.array(measured), 0))
            rows.append({"clip": name, "gap": gap, "depth": depth, "flat": flat, "within_3": three, "within_10": ten})
            print(f"{name:18s} {gap:4d}  {depth:6.2%}  {flat:6.2%}  {three:6.1%} {ten:6.1%}", flush=True)
    return rows


def matches(weights: str, reference: Path, count: int) -> list[dict[str, Any]]:
    from r2d2 import measure, own_cases, room_cases, rows_of

    from dyn4d.geometry.pair_matcher import PairNetworkMatcher
    from dyn4d.geometry.weights import load_pair_network
    from dyn4d.matching.flow_pair import FlowMatcher
    from dyn4d.matching.r2d2_match import R2D2Matcher
    from dyn4d.matching.r2d2_weights import load_r2d2

    cases = [c for c in (*room_cases(reference, count), *own_cases(count)) if c.gap in GAPS]
    matchers = {"network": PairNetworkMatcher(load_pair_network(weights)), "flow": FlowMatcher(),
                "r2d2": R2D2Matcher(load_r2d2())}  # fmt: skip
    rows: list[dict[str, Any]] = []
    print("matcher  kind  gap  matches a pair  within 3 px")
    for label, matcher in matchers.items():
        for row in rows_of(measure(cases, matcher)):  # pyright: ignore[reportArgumentType]
            rows.append({"matcher": label, **row})
            if row["clip"] == "all":
                print(f"{label:8s} {row['kind']:5s} {row['gap']:3d}  {row['matches']:14.0f}  {row['within_3']:10.1%}",
                      flush=True)  # fmt: skip
    return rows


def whole_clips(weights: str, reference: Path, names: list[str], frames: str | None) -> list[dict[str, Any]]:
    from poses import object_size

    from dyn4d.export.align import align_cameras, camera_errors
    from dyn4d.geometry.config import GeometryConfig
    from dyn4d.geometry.sources import solve_geometry
    from dyn4d.io.clips import load_clip

    rows: list[dict[str, Any]] = []
    print("clip                anchor      depth  within 3 %, 10 %  camera centre, rotation   focal    s")
    for name in names:
        clip = load_clip(reference / "data" / name, frames=frames)
        assert clip.depth is not None and clip.cameras is not None
        bare = replace(clip, depth=None, cameras=None, all_cameras=None, poses_given=False)
        began = time.perf_counter()
        found = solve_geometry(bare, GeometryConfig(source="mast3r", weights=weights))
        seconds = time.perf_counter() - began
        said, true = [], []
        for row in range(len(clip)):
            mine = found.points.frame == row
            if not bool(mine.any()) or not bool(found.cameras.registered[row]):
                continue
            pose = torch.linalg.inv(found.cameras.world_from_cam[row].double())
            z = found.points.xyz[mine].double() @ pose[2, :3] + pose[2, 3]
            x, y = found.points.xy[mine].floor().long().unbind(-1)
            depth = torch.from_numpy(np.asarray(clip.depth[row]).astype(np.float64))[y, x]
            said.append(z[depth > 0])
            true.append(depth[depth > 0])
        z, depth = torch.cat(said), torch.cat(true)
        errors = ((depth / z).median() * z - depth).abs() / depth
        camera = camera_errors(
            found.cameras, clip.cameras, align_cameras(found.cameras, clip.cameras), object_size(clip)
        )
        focal = float(found.cameras.K[:, 0, 0].median() / clip.cameras.K[:, 0, 0].median())
        anchor = next((note.split("anchored on the ")[1].split()[0] for note in found.notes if "anchored" in note), "?")
        row = {"clip": name, "anchor": anchor, "depth": float(errors.median()),
               "within_3": float((errors < 0.03).double().mean()), "within_10": float((errors < 0.1).double().mean()),
               "focal": focal, "seconds": seconds, "frames": len(clip), **camera}  # fmt: skip
        rows.append(row)
        centre, turned = (float("nan") if camera[k] is None else camera[k] for k in ("centre_rel", "rotation_deg"))
        print(f"{name:18s}  {anchor:10s} {row['depth']:6.2%}  {row['within_3']:6.1%} {row['within_10']:6.1%}  "
              f"{centre:12.1%} {turned:8.2f}°  x {focal:5.2f}  {seconds:4.0f}", flush=True)  # fmt: skip
    return rows


def curve(logs: list[Path], out: Path) -> None:
    """Errors by samples of a training, as an SVG that stands by itself."""
    from dyn4d.export.charts import COLOURS, line_chart

    looks: list[dict[str, Any]] = []
    done = 0
    for log in logs:
        before = done
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        looks += [{**line, "samples": before + line["samples"]} for line in lines if line.get("evaluation")]
        done = before + int(max(line["samples"] for line in lines))
    at = [v["samples"] for v in looks]
    if len(logs) == 1:
        names = {"depth": "depth", "flat": "depth: a plane", "other": "points of the other view"}
        curves = {shown: {"step": at, "value": [v[name] for v in looks]} for name, shown in names.items()}
    else:  # each measured on samples of its own, on which a plane is not equally wrong
        curves = {"depth, over a plane's": {"step": at, "value": [v["depth"] / v["flat"] for v in looks]},
                  "matches within 3 px": {"step": at, "value": [v["matches"] for v in looks]}}  # fmt: skip
    drawn = line_chart(curves, x_name="samples", log=False, title="error by samples").split("</svg>")[0]
    style = "text{fill:#555;stroke:none;font:11px sans-serif}.grid{stroke:#ddd}polyline{fill:none;stroke-width:2}"
    legend = "".join(
        f'<text x="{70 + 150 * n}" y="12" style="fill:{COLOURS[n]}">{name}</text>' for n, name in enumerate(curves)
    )
    head, body = drawn.split(">", 1)
    head = f'{head} xmlns="http://www.w3.org/2000/svg" style="background:#fff"><style>{style}</style>'
    out.write_text(f"{head}{body}{legend}</svg>\n", encoding="utf-8")
    for line in looks:
        figures = "  ".join(f"{name} {line[name]:.4g}" for name in ("depth", "flat", "other", "matches", "still"))
        print(f"samples {line['samples']:.0f}  {figures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--weights")
    parser.add_argument(
        "--parts", nargs="+", default=["views", "matches", "clips"], choices=["views", "matches", "clips"]
    )
    parser.add_argument("--pairs", type=int, default=4, help="of a clip and gap")
    parser.add_argument("--clips", nargs="+", default=list(CLIPS))
    parser.add_argument("--frames")
    add_reference(parser)
    parser.add_argument("--curve", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("curve.svg"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results: dict[str, Any] = {}
    if given.curve:
        curve(given.curve, given.out)
    if given.speed:
        results["speed"] = speed(given.threads, given.size)
    if given.weights:
        reference = need_reference(parser, given.reference)
        torch.set_num_threads(given.threads)
        if "views" in given.parts:
            results["views"] = views(given.weights, reference, given.clips, given.pairs)
        if "matches" in given.parts:
            results["matches"] = matches(given.weights, reference, given.pairs)
        if "clips" in given.parts:
            results["clips"] = whole_clips(given.weights, reference, given.clips, given.frames)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
