"""What leaves a run: renders, per-frame PLYs, tracks, figures and the report."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyn4d.export.config import ExportConfig as ExportConfig
    from dyn4d.export.config import RenderConfig as RenderConfig
    from dyn4d.export.evaluate import format_table as format_table
    from dyn4d.export.run import evaluate_run as evaluate_run
    from dyn4d.export.run import export_run as export_run
    from dyn4d.export.run import render_run as render_run
    from dyn4d.export.run import summarise_run as summarise_run

_HOME = {
    "ExportConfig": "config",
    "RenderConfig": "config",
    "evaluate_run": "run",
    "export_run": "run",
    "format_table": "evaluate",
    "render_run": "run",
    "summarise_run": "run",
}
__all__ = [
    "ExportConfig",
    "RenderConfig",
    "evaluate_run",
    "export_run",
    "format_table",
    "render_run",
    "summarise_run",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
