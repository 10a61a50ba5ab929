"""Procedural moving objects with exact pictures, masks, depth, cameras and tracks: the demo and the tests' truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyn4d.synthetic.config import SyntheticConfig
    from dyn4d.synthetic.scene import Scene, build_scene
    from dyn4d.synthetic.write import SceneFolders, write_scene

_HOME = {
    "SyntheticConfig": "config",
    "Scene": "scene",
    "build_scene": "scene",
    "SceneFolders": "write",
    "write_scene": "write",
}
__all__ = ["Scene", "SceneFolders", "SyntheticConfig", "build_scene", "write_scene"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"dyn4d.synthetic.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
