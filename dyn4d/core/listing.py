"""Lists of names in lines for the user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def listed(names: Iterable[object], most: int = 8) -> str:
    """The first `most` names with commas between, and `…` where there are more."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:most] + ["…"] * (len(shown) > most))


def tensor_list(names: Sequence[str]) -> str:
    """Their number and the first four names."""
    return f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'} ({listed(names, 4)})"
