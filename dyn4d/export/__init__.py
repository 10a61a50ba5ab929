"""What leaves a run: renders, per-frame PLYs, tracks, figures and the report."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyn4d.export.config import ExportConfig as ExportConfig
    from dyn4d.export.config import RenderConfig as RenderConfig
    from dyn4d.export.evaluate import format_table as format_table
    from dyn4d.export.ply_preview import PreviewOptions as PreviewOptions
    from dyn4d.export.ply_preview import load_drawable as load_drawable
    from dyn4d.export.ply_preview import six_views as six_views
    from dyn4d.export.ply_preview import turntable as turntable
    from dyn4d.export.preview_sheet import contact_sheet as contact_sheet
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
    "PreviewOptions": "ply_preview",
    "contact_sheet": "preview_sheet",
    "load_drawable": "ply_preview",
    "six_views": "ply_preview",
    "turntable": "ply_preview",
    "render_run": "run",
    "summarise_run": "run",
}
__all__ = [
    "ExportConfig",
    "PreviewOptions",
    "RenderConfig",
    "contact_sheet",
    "evaluate_run",
    "export_run",
    "format_table",
    "load_drawable",
    "render_run",
    "six_views",
    "summarise_run",
    "turntable",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
