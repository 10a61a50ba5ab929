"""The figures at the top of `report.html`, and how the page writes numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from dyn4d.export.report_story import anchor

LATE = ("render", "export")  # stages that a finished run can be given more of


def number(value: Any, form: str = ".2f", factor: float = 1.0) -> str:
    """A figure as text; a dash where it is None or not finite."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "–"
    return format(value * factor, form)


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.8 s, 42 s, 3 min 05 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(frozen=True)
class _Tile:
    """A figure at the top of the page. `term`: of the definitions that tell what it is, where there is one."""

    value: str
    unit: str
    label: str
    term: str = ""

    def html(self) -> str:
        unit = f"<small>{self.unit}</small>" if self.unit and self.value != "–" else ""
        label = escape(self.label)
        text = f'<a href="#{anchor(self.term)}">{label}</a>' if self.term else label
        return f"<div class=tile><b>{escape(self.value)}{unit}</b><span>{text}</span></div>"


def tiles(metrics: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """The figures at the top of the page. metrics: of `metrics.json`. evaluation: of `eval.json`, or empty."""
    shown = metrics.get("input", {})
    found = [
        _Tile(number(shown.get("mpsnr")), "dB", "PSNR inside the mask, input views", "PSNR in mask"),
        _Tile(number(shown.get("mssim"), ".3f"), "", "SSIM inside the mask, input views", "SSIM in mask"),
        _Tile(number(shown.get("iou"), ".3f"), "", "silhouette overlap (IoU)", "IoU"),
    ]
    if evaluation.get("aligned_by") is not None:
        near = number(evaluation.get("near", {}).get("mpsnr"))
        found.append(_Tile(near, "dB", "PSNR inside the mask, held-out near views", "PSNR in mask"))
    if metrics.get("track", {}).get("epe_rel") is not None:
        error = number(metrics["track"]["epe_rel"], ".2f", 100)
        found.append(_Tile(error, "%", "track error, of the object's size", "track error"))
    cycle = number(metrics.get("cycle", {}).get("max_rel"), ".1e")
    found.append(_Tile(cycle, "", "largest cycle error, of the size: there and back by the field", "cycle error"))
    return f"<div class=tiles>{''.join(tile.html() for tile in (*found, *_time_tile(metrics)))}</div>"


def _time_tile(metrics: Mapping[str, Any]) -> list[_Tile]:
    seconds = {k: v for k, v in metrics.get("seconds", {}).items() if isinstance(v, (int, float))}
    if not seconds:
        return []
    total, late = sum(seconds.values()), sum(seconds.get(stage, 0.0) for stage in LATE)
    label = "computing time"
    if late:
        label += f"; {duration(late)} of it renders and exports, those added later too"
    return [_Tile(f"{total / 60:.1f}", "min", label) if total >= 60 else _Tile(f"{total:.0f}", "s", label)]
