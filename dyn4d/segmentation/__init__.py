"""Object masks for the frames of a clip: from a box, clicks or masks on key frames, or from a background's colour.

Lazy: `import dyn4d.segmentation.config` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyn4d.segmentation.config import MaskConfig
    from dyn4d.segmentation.first import Prompt
    from dyn4d.segmentation.keyed import make_keyer
    from dyn4d.segmentation.make import follow_object, key_colour
    from dyn4d.segmentation.results import FrameMask

_HOME = {
    "MaskConfig": "config",
    "Prompt": "first",
    "make_keyer": "keyed",
    "follow_object": "make",
    "key_colour": "make",
    "FrameMask": "results",
}
__all__ = ["FrameMask", "MaskConfig", "Prompt", "follow_object", "key_colour", "make_keyer"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"dyn4d.segmentation.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
