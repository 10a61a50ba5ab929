"""Who matches whom in a clip, and how: pair graphs and optical flow between frames → `Correspondences`.

Lazy: `import dyn4d.matching.config` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyn4d.matching.config import MatchingConfig as MatchingConfig
    from dyn4d.matching.flow import match_clip as match_clip
    from dyn4d.matching.pairs import pair_graph as pair_graph

_WHERE = {
    "MatchingConfig": "config",
    "pair_graph": "pairs",
    "match_clip": "flow",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
