"""The alignments on scenes with known truth: rows of a table for `alignment.py`.

The scenes are those of the tests (`tests/geometry/pair_scenes.py`); what the noisy network said is reference data.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from dyn4d.core.errors import Dyn4DError
from dyn4d.geometry.alignment import AlignmentConfig, align
from dyn4d.geometry.focal_check import StretchedResults
from dyn4d.geometry.pair_results import PairResultList

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "geometry"))

from pair_scenes import (
    PairScene,
    camera_errors,
    exact_predictions,
    golden_predictions,
    static_truth,
    turning_truth,
)

METHODS = ("sparse", "mast3r", "dust3r")
HEADS = "| scene | method | rot ° | centre | depth | focal | s |\n|---|---|---|---|---|---|---|"


def _share(reference: Path, share: float) -> PairScene:
    return golden_predictions(reference, kept=np.random.default_rng(0).random((4, 96, 128)) < share)


def _turning(reference: Path) -> PairScene:
    truth = turning_truth(reference)
    return exact_predictions(truth, kept=truth.object_mask, scale_seed=1, noise=0.01)


def _stretched(scene: PairScene, factor: float) -> PairScene:
    factors = torch.full((len(scene.frames),), factor, dtype=torch.float64)
    return PairScene(scene.frames, PairResultList(tuple(StretchedResults(scene.results, factors))), scene.truth)


SCENES: dict[str, Callable[[Path], PairScene]] = {
    "static, exact": lambda reference: exact_predictions(static_truth(reference)),
    "static, noisy": golden_predictions,
    "static, noisy, 50 % of the pixels": lambda reference: _share(reference, 0.5),
    "static, noisy, 10 % of the pixels": lambda reference: _share(reference, 0.1),
    "static, noisy, focal 20 % too long": lambda reference: _stretched(golden_predictions(reference), 1.2),
    "turning object, 1 % noise, in its own frame": _turning,
}


def scene_rows(reference: Path, names: list[str] | None = None) -> Iterator[dict[str, object]]:
    """One row for each scene and method."""
    for name in names or SCENES:
        scene = SCENES[name](reference)
        for method in METHODS:
            row: dict[str, object] = {"scene": name, "method": method}
            start = time.process_time()
            try:
                found = align(scene.frames, scene.results, AlignmentConfig(method=method))
            except Dyn4DError as error:
                yield {**row, "error": str(error)}
                continue
            errors = camera_errors(scene, found.world_from_cam, found.depth)
            focal = float((found.K[:, 0, 0] / scene.truth.K[:, 0, 0] - 1).abs().max())
            yield {
                **row, "rotation_deg": errors.rotation_deg, "centre": errors.centre, "depth": errors.depth,
                "focal": focal, "seconds": time.process_time() - start,
            }  # fmt: skip


def line(row: dict[str, object]) -> str:
    """A row in Markdown."""
    if "error" in row:
        return f"| {row['scene']} | {row['method']} | {row['error']} | | | | |"
    return (
        f"| {row['scene']} | {row['method']} | {row['rotation_deg']:.3f} | {row['centre']:.4f} | {row['depth']:.4f} "
        f"| {row['focal']:.4f} | {row['seconds']:.1f} |"
    )
