"""`metrics.json`: the figures of a run in one place, None where one cannot be known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def _known(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def assemble(
    gaussians: Mapping[str, Any],
    deformation: Mapping[str, Any],
    seconds: Mapping[str, float],
    *,
    evaluation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of `RUN/metrics.json`.

    Args:
        gaussians, deformation: the stages' own `metrics.json`. The cycle error is that of the field the Gaussians
            stage ended with, where it says so; otherwise that of the deformation stage.
        seconds: stage -> computing time.
        evaluation: the content of `eval.json`, once there is one; only it knows the track error.
    """
    shown = gaussians.get("input") or {}
    cycle = gaussians.get("cycle") or deformation.get("cycle") or {}
    track = (evaluation or {}).get("track") or {}
    return {
        "input": {key: _known(shown.get(key)) for key in ("mpsnr", "psnr", "mssim", "iou")},
        "track": {"epe_rel": _known(track.get("epe_rel"))},
        "cycle": {"max_rel": _known(cycle.get("max_rel"))},
        "gaussians": {"count": gaussians.get("count")},
        "seconds": {stage: _known(value) for stage, value in seconds.items()},
    }


def per_frame_mpsnr(gaussians: Mapping[str, Any]) -> dict[int, float]:
    """Frame index -> mPSNR of the input view from the Gaussians stage's metrics.

    Its `input.per_frame` is a list of numbers in the order of the frames, or of `{"frame", "mpsnr"}`.
    """
    out: dict[int, float] = {}
    for row, entry in enumerate((gaussians.get("input") or {}).get("per_frame") or []):
        frame, value = (entry.get("frame", row), entry.get("mpsnr")) if isinstance(entry, Mapping) else (row, entry)
        known = _known(value)
        if known is not None:
            out[int(frame)] = known
    return out
