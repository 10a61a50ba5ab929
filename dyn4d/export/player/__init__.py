"""One HTML file that plays the moving object in any browser: how it is stored, and the page around it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyn4d.export.player.page import write_player as write_player

_HOME = {"write_player": "page"}
__all__ = ["write_player"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
