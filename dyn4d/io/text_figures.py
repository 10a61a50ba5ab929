"""Figures as text for the terminal: sizes, counts, aligned tables and small histograms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BARS = "▁▂▃▄▅▆▇█"


def size(count: float) -> str:
    """Bytes: 1.15 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def share(part: int, whole: int) -> str:
    """A part in per cent; what is not all never reads 100 %, what is not nothing never 0 %."""
    value = 100 * part / max(whole, 1)
    if 0 < value < 0.1:
        return "< 0.1 %"
    if 99.9 < value < 100:
        return "> 99.9 %"
    return f"{value:.3g} %"


def number(value: float) -> str:
    """Four figures, never wider than ten characters."""
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        text = f"{value:.4g}"
        return text if "e" not in text else f"{value:,.0f}".replace(",", "")
    return f"{value:.2e}"


def spark(counts: Sequence[int] | np.ndarray) -> str:
    """A histogram in one line; a bin with anything in it shows, an empty one is a blank."""
    top = max(max(counts, default=0), 1)
    return "".join(" " if n == 0 else _BARS[min(int(n / top * 8), 7)] for n in counts)


def bar(part: int, top: int, wide: int = 24) -> str:
    return "█" * max(round(wide * part / max(top, 1)), 1 if part else 0)


def table(lines: Sequence[Sequence[str]], *, left: Sequence[int] = (0,), gap: int = 2) -> list[str]:
    """Columns of equal width; those in `left` flush left, the others flush right. Short rows are filled up."""
    wide = max((len(line) for line in lines), default=0)
    filled = [[*line, *[""] * (wide - len(line))] for line in lines]
    widths = [max(len(line[at]) for line in filled) for at in range(wide)]
    joined = [(" " * gap).join(cell.ljust(w) if at in left else cell.rjust(w)
                               for at, (cell, w) in enumerate(zip(line, widths))) for line in filled]  # fmt: skip
    return [line.rstrip() for line in joined]


def labelled(pairs: Sequence[tuple[str, str]], wide: int = 12) -> list[str]:
    return [f"{label:<{wide}}{text}".rstrip() for label, text in pairs]
