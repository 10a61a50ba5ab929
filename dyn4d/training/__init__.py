"""Training the small matcher that comes with dyn4d, on pictures that dyn4d makes itself.

Lazy: `import dyn4d.training.config` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyn4d.training.config import MatcherTraining as MatcherTraining
    from dyn4d.training.r2d2_run import train_matcher as train_matcher

_WHERE = {"MatcherTraining": "config", "train_matcher": "r2d2_run"}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
