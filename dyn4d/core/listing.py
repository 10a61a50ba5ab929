"""Lists of names in lines for the user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def listed(names: Iterable[object], most: int = 8) -> str:
    """The first `most` names with commas between, and `…` where there are more."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:most] + ["…"] * (len(shown) > most))


def counted(number: int, thing: str) -> str:
    """`1 frame`, `2 frames`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def tensor_list(names: Sequence[str]) -> str:
    """Their number and the first four names."""
    return f"{counted(len(names), 'tensor')} ({listed(names, 4)})"
