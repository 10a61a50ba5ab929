"""Weights that mean the same whoever found a match: raw quality → expected error in pixels → weight.

Each matcher says how sure it is in its own terms. A table learnt on synthetic clips, whose motion is known exactly,
turns these terms into the median error of such matches; `weight_of` (see `dyn4d.matching.merge`) turns that into the
weight. The tables are part of the package, `calibration.json`; `benchmarks/calibrate_matchers.py` makes them.

The medians are made monotone along every axis (isotonic regression of their logarithms, Barlow et al. 1972, over a grid
by Dykstra's cyclic projections, 1983): better quality never means a larger error, and cells with few matches take after
their neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dyn4d.core.errors import InputError
from dyn4d.core.types import Correspondences
from dyn4d.io.tensor_files import file_sha256
from dyn4d.matching.merge import RatedMatches, weight_of

FILE = Path(__file__).with_name("calibration.json")
UNKNOWN_PX = 2.0  # expected of the better half of the matches of a matcher without a table
LEAST_PX = 0.05
FEW = 25  # matches: a cell with this many counts as much as what is around it


@dataclass(frozen=True)
class RawMatches:
    """Matches with a matcher's own words on how good they are.

    Attributes:
        matches: M matches. quality: name → (M,) float64 for each axis of the matcher's table.
    """

    matches: Correspondences
    quality: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.matches)


@dataclass(frozen=True)
class Axis:
    """One kind of quality. `places`: (K,) ascending values of it that the table knows; `rises`: does the expected error
    grow with it?"""

    name: str
    places: np.ndarray
    rises: bool


@dataclass(frozen=True)
class ErrorTable:
    """Median error in pixels over a grid of qualities, monotone along every axis.

    Attributes:
        axes: N of them. median: (K1, …, KN) px.
    """

    axes: tuple[Axis, ...]
    median: np.ndarray

    def expected(self, quality: Mapping[str, np.ndarray]) -> np.ndarray:
        """(M,) px: the table's errors, multilinear between its places, the nearest beyond them."""
        values = [np.asarray(quality[axis.name], dtype=np.float64) for axis in self.axes]
        corners: list[list[tuple[np.ndarray, np.ndarray]]] = []
        for axis, value in zip(self.axes, values):
            if len(axis.places) == 1:
                corners.append([(np.zeros(len(value), np.int64), np.ones(len(value)))])
                continue
            low = np.clip(np.searchsorted(axis.places, value, "right") - 1, 0, len(axis.places) - 2)
            span = axis.places[low + 1] - axis.places[low]
            share = np.clip((value - axis.places[low]) / span, 0, 1)
            corners.append([(low, 1 - share), (low + 1, share)])
        total = np.zeros(len(values[0]))
        for choice in np.ndindex(*(len(options) for options in corners)):
            chosen = [options[k] for options, k in zip(corners, choice)]
            factor = np.prod([share for _, share in chosen], axis=0)
            total += factor * np.log(self.median[tuple(index for index, _ in chosen)])
        return np.exp(total)

    def to_plain(self) -> dict[str, Any]:
        axes = [{"name": a.name, "rises": a.rises, "places": [round(float(v), 5) for v in a.places]} for a in self.axes]
        return {"axes": axes, "median_px": np.round(self.median, 4).tolist()}

    @staticmethod
    def from_plain(values: Mapping[str, Any]) -> ErrorTable:
        axes = tuple(Axis(a["name"], np.array(a["places"], float), bool(a["rises"])) for a in values["axes"])
        median = np.array(values["median_px"], float)
        if median.shape != tuple(len(axis.places) for axis in axes) or not (median > 0).all():
            raise ValueError(f"table of shape {median.shape} does not fit its axes")
        return ErrorTable(axes, median)


@dataclass(frozen=True)
class AxisPlan:
    """How an axis is cut. `bins`: of equal numbers of matches; or `at`: fixed places, each match counts to the
    nearest."""

    name: str
    rises: bool
    bins: int = 8
    at: tuple[float, ...] = ()


def fit_table(quality: Mapping[str, np.ndarray], error: np.ndarray, plans: Sequence[AxisPlan]) -> ErrorTable:
    """A table from matches (M,) with known errors in pixels. Raises `ValueError` where there are none."""
    if len(error) == 0:
        raise ValueError("a table needs matches with known errors; there are none")
    axes, cells = [], []
    for plan in plans:
        value = np.asarray(quality[plan.name], dtype=np.float64)
        if plan.at:
            places = np.array(sorted(plan.at), dtype=np.float64)
            cell = np.abs(value[:, None] - places).argmin(1)
        else:
            edges = np.unique(np.quantile(value, np.linspace(0, 1, plan.bins + 1)))
            cell = np.clip(np.searchsorted(edges, value, "right") - 1, 0, max(len(edges) - 2, 0))
            middles = np.array([np.median(value[cell == k]) for k in np.unique(cell)])
            places, merged = np.unique(middles, return_inverse=True)
            cell = np.asarray(merged)[np.searchsorted(np.unique(cell), cell)]
        axes.append(Axis(plan.name, places, plan.rises))
        cells.append(cell)
    shape = tuple(len(axis.places) for axis in axes)
    flat = np.asarray(np.ravel_multi_index(tuple(cells), shape))
    order = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat[order], np.arange(np.prod(shape) + 1))
    log = np.log(np.maximum(error, LEAST_PX))
    overall = float(np.median(log))
    medians, counts = np.full(shape, overall).ravel(), np.zeros(shape).ravel()
    for k in range(len(medians)):
        mine = log[order[bounds[k] : bounds[k + 1]]]
        if len(mine):
            medians[k], counts[k] = np.median(mine), len(mine)
    weight = counts / (counts + FEW) + 1e-4  # past some number more matches make a median no better
    signs = [1 if axis.rises else -1 for axis in axes]
    smooth = isotonic(medians.reshape(shape), weight.reshape(shape), signs)
    return ErrorTable(tuple(axes), np.exp(smooth))


def isotonic(values: np.ndarray, weight: np.ndarray, signs: Sequence[int], *, rounds: int = 300) -> np.ndarray:
    """The grid nearest to `values` (weighted least squares) that rises (+1) or falls (-1) along each axis."""
    current = values.astype(np.float64)
    steps = [np.zeros_like(current) for _ in signs]
    for _ in range(rounds):
        before = current
        for axis, sign in enumerate(signs):
            wanted = current + steps[axis]
            moved_w = np.moveaxis(weight, axis, -1).reshape(-1, values.shape[axis])
            moved = np.moveaxis(wanted, axis, -1)
            lines = [sign * pool_adjacent(sign * line, w) for line, w in zip(moved.reshape(len(moved_w), -1), moved_w)]
            current = np.moveaxis(np.array(lines).reshape(moved.shape), -1, axis)
            steps[axis] = wanted - current
        if np.abs(current - before).max(initial=0) < 1e-9:
            break
    for axis, sign in enumerate(signs):  # what the projections have left over
        current = sign * np.maximum.accumulate(sign * current, axis=axis)
    return current


def pool_adjacent(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted isotonic regression (K,): the rising sequence nearest to `values`, by pooling adjacent violators."""
    blocks: list[list[float]] = []  # mean, weight, length
    for value, w in zip(values.tolist(), weight.tolist()):
        blocks.append([value, w, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, heavy, length = blocks.pop()
            last = blocks[-1]
            total = last[1] + heavy
            last[0], last[1], last[2] = (last[0] * last[1] + mean * heavy) / total, total, last[2] + length
    return np.repeat([block[0] for block in blocks], [int(block[2]) for block in blocks])


@lru_cache(maxsize=8)
def load_tables(path: Path | None = None) -> dict[str, ErrorTable]:
    """The tables by matcher, of a file or of the package. Raises `InputError` where the file is damaged."""
    file = path or FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {name: ErrorTable.from_plain(values) for name, values in content["matchers"].items()}
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file; make one with benchmarks/calibrate_matchers.py") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: no calibration of matchers ({error}); make it again") from error


def tables_of(file: str = "") -> dict[str, ErrorTable]:
    """The tables of a file, and the package's of the matchers that it does not name; "": the package's alone.

    Raises:
        InputError: the file is missing or damaged.
    """
    return {**load_tables(), **(load_tables(Path(file).expanduser()) if file else {})}


def weights_note(matcher: str, weights: Path, file: str = "") -> str:
    """A line for the user where the matcher's table was made with other weights than the file `weights`; else "".

    Args:
        file: of the tables, see `tables_of`.
    """
    path = Path(file).expanduser() if file and matcher in load_tables(Path(file).expanduser()) else FILE
    made_for = json.loads(path.read_text(encoding="utf-8")).get("made_for", {}).get(matcher)
    if made_for is None or made_for == file_sha256(weights):
        return ""
    return (
        f"matching: what is expected of the matches of {matcher} was learnt with other weights than {weights}; make a "
        f"table for these with benchmarks/calibrate_matchers.py --{matcher} {weights} --out FILE, and give it with "
        "--matching.calibration FILE"
    )


def expected_error(raw: RawMatches, matcher: str, tables: Mapping[str, ErrorTable] | None = None) -> np.ndarray:
    """(M,) px by the matcher's table. A matcher without one is taken at its word on the order only: 2 px are expected
    at the median of its weights, and more below it as the square root of the weight falls, within a factor of 4."""
    table = (load_tables() if tables is None else tables).get(matcher)
    if table is not None and all(axis.name in raw.quality for axis in table.axes):
        return table.expected(raw.quality)
    weight = raw.matches.weight.double().numpy()
    if len(weight) == 0:
        return np.zeros(0)
    return UNKNOWN_PX * np.clip(np.sqrt(np.median(weight) / np.maximum(weight, 1e-12)), 0.5, 4)


def rate(raw: RawMatches, matcher: str, tables: Mapping[str, ErrorTable] | None = None) -> RatedMatches:
    """The same matches with their expected errors, weighted by `weight_of`."""
    error = torch.from_numpy(expected_error(raw, matcher, tables)).float()
    found = raw.matches
    matches = Correspondences(found.frame_a, found.frame_b, found.xy_a, found.xy_b, weight_of(error))
    return RatedMatches(matches, error)


def flow_quality(matches: Correspondences, gap: int | None = None, *, frames: np.ndarray | None = None) -> RawMatches:
    """Matches of the flow in the terms of its table: its weight, which falls with the error there and back and with
    what the grey values differ, and the frames between.

    Args:
        gap: of pictures that are no frames of a clip.
        frames: (T,) the frames of the clip that `matches` counts: what is far apart is so whatever was left out.
    """
    if gap is not None:
        between = np.full(len(matches), float(gap))
    else:
        a, b = (side.numpy() if frames is None else frames[side.numpy()] for side in (matches.frame_a, matches.frame_b))
        between = np.abs(b - a).astype(np.float64)
    return RawMatches(matches, {"weight": matches.weight.double().numpy(), "gap": np.log2(np.maximum(between, 1))})
