"""What a run costs: seconds, memory and disk of each stage, from how much there is to do and how fast the machine is.

Each cost is a sum of parts, a number that says how much of something there is (in seconds of `MachineSpeed`, or in
bytes) times a factor of `costs.json`. The factors were fitted by `benchmarks/estimate.py --fit` on real runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dyn4d.config import Config
from dyn4d.io.atomic import read_json
from dyn4d.speed import MachineSpeed
from dyn4d.workload import Workload

STAGES = ("prepare", "geometry", "deform", "gaussians", "render", "export")
FACTORS = Path(__file__).with_name("costs.json")
Parts = dict[str, float]
KINDS = ("seconds", "memory", "disk")

DRAWN_GAUSSIANS, DRAWN_PIXELS, MOVED, FLOWN = 6000, 192 * 192, 24 * 384, 400 * 400  # what `MachineSpeed` measures
POINT, MATCH = 56, 36  # bytes of a point and of a match
FOLLOWED = 300  # points of a frame that the fit follows through the clip, about
HELD = 96 * 2**20  # bytes of pictures and masks that readers keep


@dataclass(frozen=True)
class StageCost:
    """Seconds, bytes of memory while it runs, bytes on disk when it is done."""

    seconds: float
    memory: float
    disk: float


@cache
def factors() -> dict[str, dict[str, Parts]]:
    """kind -> stage -> part -> factor."""
    return {kind: read_json(FACTORS)[kind] for kind in KINDS}


def seconds_parts(work: Workload, config: Config, speed: MachineSpeed, *, parallel: int = 1) -> dict[str, Parts]:
    """Stage -> part -> seconds before factors.

    Args:
        parallel: frames that are matched at the same time.
    """
    size, train, fit = work.clip, config.gaussians, config.deformation
    frames, every = size.frames, size.all_frames
    read = size.read * frames
    flown = work.flow_pixels / FLOWN * speed.flow / parallel
    moves = fit.kind != "none" and frames > 1
    batch = fit.pairs_per_step * fit.points_per_pair / MOVED * fit.layers / 6 * speed.field
    drawing = work.gaussians / DRAWN_GAUSSIANS * speed.draw
    drawn_end = work.gaussians_end / DRAWN_GAUSSIANS * speed.draw
    pixels, picture = work.window / DRAWN_PIXELS, size.width * size.height / DRAWN_PIXELS
    solved = work.flows_solved * size.width * size.height / FLOWN * speed.flow
    return {
        "prepare": {"read": read},
        "geometry": {
            "flow": work.flows * flown,
            "pairs": 2 * work.pairs * size.inside * 1e-5 * speed.plain / parallel,
            "points": work.points * 1e-5 * speed.plain,
            "read": read,
            "poses": solved,
            "network": work.network_seconds,
            "start": 100 * speed.plain,
        },
        "deform": {
            "steps": fit.steps * batch if moves else 0.0,
            "followed": (2 * frames * frames * FOLLOWED / MOVED * speed.field) if moves and fit.reunions else 0.0,
            "tracks": every * fit.tracks / MOVED * speed.field if moves else 0.0,
            "points": work.points / MOVED * speed.field if moves else 0.0,
            "matches": work.matches * 1e-5 * speed.plain,
            "start": 100 * speed.plain,
        },
        "gaussians": {
            "drawing": train.steps * drawing,
            "moving": train.steps * work.gaussians / MOVED * speed.field if moves else 0.0,
            "pixels": train.steps * pixels * speed.draw,
            "hold": train.steps / train.field_every * 0.25 * batch if moves and train.field > 0 else 0.0,
            "steps": train.steps * 0.1 * speed.field,
            "ends": frames * (drawn_end + pixels * speed.draw),
            "start": 100 * speed.plain,
            "read": read,
        },
        "render": {
            "drawing": work.pictures * drawn_end,
            "pixels": work.pictures * picture * speed.plain,
            "paint": work.paint * work.canvas / DRAWN_PIXELS * speed.plain,
            "start": 10 * speed.plain,
        },
        "export": {
            "gaussians": every * work.gaussians_end * 1e-5 * speed.plain,
            "moving": every * work.gaussians_end / MOVED * speed.field,
            "pictures": 10 * picture * speed.plain,
            "start": 100 * speed.plain,
        },
    }  # fmt: skip


def memory_parts(work: Workload, config: Config) -> dict[str, Parts]:
    """Stage -> part -> bytes before factors; "base" is what the program needs for nothing."""
    size = work.clip
    area, base = size.width * size.height, float(2**20)
    held = min(size.frames * area * 3.0, HELD)
    points, matches = work.points * POINT, work.matches * MATCH
    step = -(-max(size.width, size.height) // 320)
    maps = size.frames * area / step**2 * 12.0
    return {
        "prepare": {"base": base, "held": held, "picture": area * 8.0},
        "geometry": {"base": base, "held": held, "points": points, "matches": matches, "maps": size.frames * area,
                     "window": work.flow_pixels * 40.0, "picture": area * 8.0},
        "deform": {"base": base, "points": points, "matches": matches, "maps": maps},
        "gaussians": {"base": base, "points": points, "matches": matches, "maps": maps,
                      "targets": work.frames * work.window * 13.0, "gaussians": work.gaussians_end * 600.0,
                      "window": work.window * 100.0},
        "render": {"base": base, "picture": area * 60.0, "gaussians": work.gaussians_end * 600.0},
        "export": {"base": base, "picture": area * 60.0, "frames": size.all_frames * float(2**20),
                   "gaussians": work.gaussians_end * 600.0, "points": points},
    }  # fmt: skip


def disk_parts(work: Workload, config: Config) -> dict[str, Parts]:
    """Stage -> part -> bytes before factors. Written by the stage, with what it keeps until it is done."""
    size = work.clip
    picture = float(size.width * size.height)
    harmonics = (config.gaussians.sh_degree + 1) ** 2 * 3
    gaussian = 4.0 * (14 + harmonics)
    sequence = size.all_frames * work.gaussians_end * gaussian if config.export.ply else 0.0
    field = float(sum(4 * 4**k for k in range(2, max(config.deformation.cells.bit_length(), 3)))) * 4
    return {
        "prepare": {"frames": 100.0 * size.all_frames},
        "geometry": {"points": work.points * POINT, "matches": work.matches * MATCH, "base": float(2**20)},
        "deform": {"field": field * config.deformation.time_features, "base": float(2**20)},
        "gaussians": {"gaussians": work.gaussians_end * gaussian * 4, "field": field * config.deformation.time_features,
                      "base": float(2**20)},
        "render": {"pictures": work.pictures * picture, "paint": work.paint * work.canvas, "base": float(2**20)},
        "export": {"sequence": sequence, "player": work.gaussians_end * size.all_frames * 4.0, "base": float(2**20)},
    }  # fmt: skip


def weigh(kind: str, stage: str, parts: Parts) -> float:
    """The cost: parts times their factors."""
    mine = factors()[kind].get(stage, {})
    return sum(value * mine.get(name, 1.0 if name == "network" else 0.0) for name, value in parts.items())


def stage_costs(work: Workload, config: Config, speed: MachineSpeed, *, parallel: int = 1) -> dict[str, StageCost]:
    """The cost of each stage. Memory is that of the whole process."""
    seconds, memory = seconds_parts(work, config, speed, parallel=parallel), memory_parts(work, config)
    disk = disk_parts(work, config)
    return {
        stage: StageCost(weigh("seconds", stage, seconds[stage]),
                         weigh("memory", stage, memory[stage]) + work.network_bytes * (stage == "geometry"),
                         weigh("disk", stage, disk[stage]))
        for stage in STAGES
    }  # fmt: skip
