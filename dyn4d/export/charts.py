"""Line charts and bars as inline SVG: no script, no network, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

WIDTH, HEIGHT = 520, 220
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 34
COLOURS = ("#3b6fd4", "#d9662b", "#2a9d76", "#a24fc0", "#c9a21a", "#d1426b", "#4a5568", "#1f9fb8")
MOST_POINTS = 300
DECADES = 4.0  # that a logarithmic chart shows below its largest value


def as_curve(values: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and values of a curve in any of the forms that stages write: a list of numbers, a list of
    (step, value), or {"step": [...], "value": [...]}. None where there is nothing finite to draw."""
    if isinstance(values, Mapping):
        keys = [k for k in ("value", "values", "y", "loss") if k in values]
        if not keys:
            return None
        y = np.asarray([math.nan if v is None else v for v in values[keys[0]]], dtype=np.float64)
        steps = next((values[k] for k in ("step", "steps", "x") if k in values), None)
        x = np.arange(len(y), dtype=np.float64) if steps is None else np.asarray(steps, dtype=np.float64)
    else:
        rows = [[math.nan if v is None else v for v in row] if isinstance(row, (list, tuple)) else
                (math.nan if row is None else row) for row in values]  # fmt: skip
        table = np.asarray(rows, dtype=np.float64)
        if table.ndim == 2 and table.shape[1] == 2:
            x, y = table[:, 0], table[:, 1]
        elif table.ndim == 1:
            x, y = np.arange(len(table), dtype=np.float64), table
        else:
            return None
    if len(x) != len(y):
        return None
    good = np.isfinite(x) & np.isfinite(y)
    return (x[good], y[good]) if good.sum() >= 1 else None


def thin(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points: means over equal stretches, which also calms noisy losses."""
    if len(x) <= most:
        return x, y
    parts = np.array_split(np.arange(len(x)), most)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def _nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    span = max(high - low, 1e-12)
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw), 10 * power)
    start = math.ceil(low / step - 1e-9) * step
    return [start + i * step for i in range(int((high - start) / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    exponents = range(math.floor(low), math.ceil(high) + 1)
    multiples = (1, 2, 5) if high - low < 1.6 else (1,)
    ticks = [math.log10(m) + e for e in exponents for m in multiples]
    inside = [t for t in ticks if low - 1e-9 <= t <= high + 1e-9]
    return inside[:: max(1, len(inside) // 6)]


def _label(value: float) -> str:
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.6g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _spread(low: float, high: float) -> tuple[float, float]:
    if high - low < 1e-12:
        pad = 0.5 * abs(high) if high else 1.0
        return low - pad, high + pad
    pad = 0.05 * (high - low)
    return low - pad, high + pad


def line_chart(curves: Mapping[str, Any], *, x_name: str = "step", log: bool = True, title: str = "chart") -> str:
    """Curves (see `as_curve`) as one SVG with a legend; '' where nothing can be drawn.

    Args:
        log: logarithmic values, where all are above 0.
    """
    read = {name: as_curve(values) for name, values in curves.items()}
    drawn = {name: thin(*curve) for name, curve in read.items() if curve is not None and len(curve[0])}
    if log:
        drawn = {name: (x[y > 0], y[y > 0]) for name, (x, y) in drawn.items() if (y > 0).any()} or drawn
        log = all((y > 0).all() for _, y in drawn.values())
    if not drawn:
        return ""
    values = {name: (x, np.log10(y) if log else y) for name, (x, y) in drawn.items()}
    x_low, x_high = (f(float(f(x)) for x, _ in values.values()) for f in (min, max))
    x_high = x_high if x_high > x_low else x_low + 1
    if log:  # values that start near nothing must not flatten all the others
        top = max(float(y.max()) for _, y in values.values())
        values = {name: (x, np.maximum(y, top - DECADES)) for name, (x, y) in values.items()}
    y_low, y_high = _spread(*(f(float(f(y)) for _, y in values.values()) for f in (min, max)))

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * (x - x_low) / (x_high - x_low),
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y_low) / (y_high - y_low),
        )

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in _log_ticks(y_low, y_high) if log else _nice_ticks(y_low, y_high):
        y = at(x_low, tick)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_label(10**tick if log else tick)}</text>'
        )
    for tick in _nice_ticks(x_low, x_high):
        x = at(tick, y_low)[0]
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_label(tick)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end" class="axis">{escape(x_name)}</text>')
    for number, (x, y) in enumerate(values.values()):
        points = [at(a, b) for a, b in zip(x.tolist(), y.tolist())]
        colour = COLOURS[number % len(COLOURS)]
        if len(points) == 1:
            parts.append(f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3" fill="{colour}"/>')
            continue
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" stroke="{colour}"/>')
    parts.append("</svg>")
    legend = "".join(
        f'<span><i style="background:{COLOURS[i % len(COLOURS)]}"></i>{escape(name)}</span>'
        for i, name in enumerate(values)
    )
    return "".join(parts) + (f'<div class="legend">{legend}</div>' if len(values) > 1 else "")


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars: (name, length >= 0, text beside the bar). '' where there are none."""
    top = max((length for _, length, _ in rows), default=0.0)
    if not rows:
        return ""
    cells = "".join(
        f'<div class="bar"><span>{escape(name)}</span><b><i style="width:{100 * length / top if top else 0:.1f}%"></i>'
        f"</b><em>{escape(text)}</em></div>"
        for name, length, text in rows
    )
    return f'<div class="bars">{cells}</div>'
