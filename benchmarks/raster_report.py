"""Figures with their bars as tables, and what machine they are from."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import torch

Times = dict[str, list[float]]  # milliseconds of each contender, one for each turn

BAR_HEADS = ["what", "bar", "goal", "measured (middle half)", "bar holds"]
TIME_HEADS = ["case", "ms", "middle half"]
BEGIN, END = "<!-- raster: begin -->", "<!-- raster: end -->"


@dataclass(frozen=True)
class Row:
    """A figure and the bar that it has to clear; booleans clear it by being true.

    Attributes:
        values: one for each turn. unit: "x", "s", "GB", or "" for booleans. higher: is more better?
    """

    what: str
    bar: float
    goal: float
    values: list[float]
    unit: str = "x"
    higher: bool = False

    @property
    def measured(self) -> float:
        return statistics.median(self.values)

    def clears(self, limit: float) -> bool:
        return self.measured >= limit if self.higher else self.measured <= limit

    @property
    def verdict(self) -> str:
        if not self.clears(self.bar):
            return "no"
        return "yes, and the goal" if self.clears(self.goal) and self.unit else "yes"

    def cells(self) -> list[str]:
        """What, bar, goal, measured, does the bar hold."""
        if not self.unit:
            return [self.what, "yes", "", "yes" if self.measured else "no", self.verdict]
        sign = ">=" if self.higher else "<="
        shown = f"{self.measured:.3g}{_unit(self.unit)}"
        if len(self.values) > 1:
            low, high = middle_half(self.values)
            shown += f" ({low:.3g} to {high:.3g})"
        limits = [f"{sign} {limit:g}{_unit(self.unit)}" for limit in (self.bar, self.goal)]
        return [self.what, *limits, shown, self.verdict]


def _unit(unit: str) -> str:
    return unit if unit == "x" else f" {unit}"


def middle_half(values: list[float]) -> tuple[float, float]:
    """The quartiles."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def about(threads: int) -> dict[str, Any]:
    """The machine, the versions and the commit."""
    features = llvmlite.binding.get_host_cpu_features()
    sets = {"sse4.2": "SSE4.2", "avx2": "AVX2", "fma": "FMA", "avx512f": "AVX-512", "neon": "NEON"}
    here = Path(__file__).parent
    git = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    commit = subprocess.run(git, cwd=here, capture_output=True, text=True).stdout.strip()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "instruction sets": " ".join(name for key, name in sets.items() if features.get(key)),
        "system": platform.system(),
        "load before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "numba": numba.__version__,
        "python": platform.python_version(),
        "commit": commit,
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def time_cells(times: dict[str, Times]) -> list[list[str]]:
    """Case, median milliseconds, middle half."""
    out = []
    for title, group in times.items():
        for name, values in group.items():
            low, high = middle_half(values)
            out.append([f"{title}: {name}", f"{statistics.median(values):.2f}", f"{low:.2f} to {high:.2f}"])
    return out


def plain(heads: list[str], cells: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)) for line in [heads, *cells])


def markdown_table(heads: list[str], cells: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *cells])


def markdown(facts: dict[str, Any], table: list[Row], times: dict[str, Times], more: dict[str, Any]) -> str:
    parts = [
        BEGIN, "## Rasteriser", ", ".join(f"{key} {value}" for key, value in facts.items()) + ".",
        markdown_table(BAR_HEADS, [row.cells() for row in table]), markdown_table(TIME_HEADS, time_cells(times)),
    ]  # fmt: skip
    parts += [f"- {key}: {short(value)}" for key, value in more.items()]
    return "\n\n".join([*parts, END]) + "\n"


def short(value: Any) -> str:
    """Three digits, and medians for lists."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {short(each)}" for key, each in value.items())
    if isinstance(value, list):
        return short(statistics.median(value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_section(path: Path, section: str) -> None:
    """Put the section where an older one stands, or at the end of the file."""
    text = path.read_text() if path.exists() else ""
    if BEGIN in text and END in text:
        head, rest = text.split(BEGIN, 1)
        path.write_text(head + section.rstrip("\n") + rest.split(END, 1)[1])
    else:
        path.write_text(text + ("\n" if text else "") + section)
