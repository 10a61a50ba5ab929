"""What differs between two files of Gaussians or points: `dyn4d ply compare`. NumPy, and scipy for neighbours.

By row, row i of one file is held against row i of the other, as in the per-frame PLYs of a run; the files are read side
by side in blocks. By nearest neighbour, rows are paired by place; what has no partner was added or removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io import ply_fields as pf
from dyn4d.io import text_figures as tf
from dyn4d.io.rows import Rows, open_rows, require_positions

By = Literal["auto", "row", "nearest"]
TOLERANCE, REACH = 1e-5, 0.02  # shares of the size
QUANTILES = (0.5, 0.95, 1.0)
_BLOCK = 65_536
_KINDS = {"3DGS": "Gaussians", "mesh": "a mesh", "other": "something else"}


@dataclass(frozen=True)
class Measure:
    """A property that is compared: its unit, and the largest difference that still counts as none."""

    unit: str
    limit: float


MEASURES = {
    "colour": Measure("of 255", 1.0),
    "harmonics": Measure("f_rest", 1 / 128),
    "opacity": Measure("of 1", 1 / 255),
    "scale": Measure("%", 1.0),
    "rotation": Measure("degrees", 0.5),
    "confidence": Measure("of 1", 1e-3),
}


@dataclass(frozen=True)
class Difference:
    """Absolute differences of paired rows in one property. `mean`, `quantiles` (median, 95 %, largest) in its unit;
    `beyond`: pairs that differ by more than `Measure.limit`."""

    mean: float
    quantiles: tuple[float, ...]
    beyond: int


@dataclass(frozen=True)
class Comparison:
    """Two files side by side.

    Attributes:
        a, b: the files. count_a, count_b: their rows. by: "row" or "nearest".
        size: largest side of the bounds of A (of B, where A has none), world units. tolerance: distance up to which a
            place is the same. reach: distance up to which a neighbour is the same row, moved (by nearest only).
        paired: rows held against each other. added, removed: rows of B, of A, without a partner. moved: pairs further
            apart than the tolerance. unplaced: rows with no finite position, of either; they have no distance.
        distance: of the pairs; None without any. decades: (from, to, pairs) of a histogram of the distances by powers
            of ten; the first is exactly 0.
        differences: by the names of `MEASURES`, of what both files have.
        only_a, only_b: fields that the other file does not have.
        reordered: row i of one file is not row i of the other, so by "auto" they were paired by place.
        kind_a, kind_b: what their rows are, as `Rows.kind` has it.
    """

    a: Path
    b: Path
    count_a: int
    count_b: int
    by: str
    size: float
    tolerance: float
    reach: float | None
    paired: int
    added: int
    removed: int
    moved: int
    unplaced: int
    distance: Difference | None
    decades: tuple[tuple[float, float, int], ...] = ()
    differences: dict[str, Difference] = field(default_factory=dict)
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    reordered: bool = False
    kind_a: str = ""
    kind_b: str = ""

    @property
    def same(self) -> bool:
        """No row added, removed or moved, and no other property beyond its limit."""
        beyond = any(d.beyond for d in self.differences.values())
        return not (self.added or self.removed or self.moved or beyond or self.unplaced or self.count_a != self.count_b)

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""

        def values(d: Difference | None) -> Any:
            return None if d is None else {"mean": d.mean, "median": d.quantiles[0], "p95": d.quantiles[1],
                                           "max": d.quantiles[2], "beyond": d.beyond}  # fmt: skip

        found = {name: {**values(d), "unit": MEASURES[name].unit, "limit": MEASURES[name].limit}
                 for name, d in self.differences.items()}  # fmt: skip
        return {**self.__dict__, "a": str(self.a), "b": str(self.b), "same": self.same,
                "distance": values(self.distance), "differences": found}  # fmt: skip

    def format(self) -> str:
        """Lines for the terminal, no newline at the end."""
        return "\n".join(_lines(self))


# --------------------------------------------------------------------------------------------- as text


def _lines(c: Comparison) -> list[str]:
    how = "row by row" if c.by == "row" else f"by nearest neighbour, up to {tf.number(c.reach or 0)} world units"
    if c.reordered:
        how += "; the rows are in another order (--by row compares them as they are)"
    out = tf.labelled([
        ("A", f"{c.a} ({tf.rows(c.count_a)})"), ("B", f"{c.b} ({tf.rows(c.count_b)})"), ("compared", how),
        ("rows", f"{c.paired - c.moved:,} at the same place, {c.moved:,} moved, {c.added:,} added, "
                 f"{c.removed:,} removed"),
    ])  # fmt: skip
    if c.kind_a != c.kind_b:
        out += tf.labelled([("note", f"A is {_KINDS.get(c.kind_a, c.kind_a)}, B {_KINDS.get(c.kind_b, c.kind_b)}: "
                                     "only what both have is compared")])  # fmt: skip
    if c.unplaced:
        out += tf.labelled([("no place", f"{tf.rows(c.unplaced)} with NaN or Inf in x, y or z")])
    for tag, names in (("only in A", c.only_a), ("only in B", c.only_b)):
        if names:
            from dyn4d.io.ply_info import short_fields

            out += tf.labelled([(tag, short_fields(names))])
    table = [["differences", "mean", "median", "95 %", "max", "beyond", "limit", "unit"]]
    if c.distance is not None:
        table.append(_row("distance", c.distance, c.tolerance, f"world units; size {tf.number(c.size)}"))
    table += [_row(name, d, MEASURES[name].limit, MEASURES[name].unit) for name, d in c.differences.items()]
    out += tf.table(table, left=(0, 7))
    if c.decades:
        top = max(count for *_, count in c.decades)
        out.append("distances, world units")
        out += tf.table([[f"  {_ends(low, high)}", f"{count:,}", tf.share(count, c.paired), tf.bar(count, top)]
                         for low, high, count in c.decades], left=(0, 3))  # fmt: skip
    out.append("same" if c.same else "different")
    if c.by == "row" and _shuffled(c):
        out.append("most rows differ in place and looks: if only their order differs, --by nearest pairs them by place")
    return out


def _shuffled(c: Comparison) -> bool:
    """Most rows stand elsewhere and look otherwise: not the same rows moved, but other ones."""
    far = c.distance is not None and c.distance.quantiles[0] > REACH * c.size
    looks = (c.differences.get(name) for name in ("colour", "opacity", "scale"))
    limits = (MEASURES[name].limit for name in ("colour", "opacity", "scale"))
    return far and any(d is not None and d.quantiles[0] > limit for d, limit in zip(looks, limits))


def _row(name: str, d: Difference, limit: float, unit: str) -> list[str]:
    return [f"  {name}", tf.number(d.mean), *map(tf.number, d.quantiles), f"{d.beyond:,}", tf.number(limit), unit]


def _ends(low: float, high: float) -> str:
    return "exactly 0" if high == 0 else f"{low:.0e} … {high:.0e}"


# ------------------------------------------------------------------------------------------- comparing


def compare_files(
    a: str | Path, b: str | Path, *, by: By = "auto", tolerance: float | None = None, reach: float | None = None,
    turn_spz: bool = True,
) -> Comparison:  # fmt: skip
    """Compare two files of Gaussians or points of any container that `open_rows` knows.

    Args:
        by: "row", "nearest", or "auto": by row where the counts are equal, unless that shows that the rows are in
            another order, as those of a compressed PLY usually are.
        tolerance: distance in world units up to which a place is the same; None: 1e-5 of the size of A.
        reach: by nearest, how far a row may have moved; None: 0.02 of the size of A. Pairs are each other's nearest.
        turn_spz: as of `open_rows`, for both.

    Raises:
        InputError: a file cannot be read, has no positions, or by row with different counts.
    """
    rows_a, rows_b = open_rows(a, turn_spz=turn_spz), open_rows(b, turn_spz=turn_spz)
    return compare_rows(rows_a, rows_b, by=by, tolerance=tolerance, reach=reach)


def compare_rows(
    a: Rows, b: Rows, *, by: By = "auto", tolerance: float | None = None, reach: float | None = None
) -> Comparison:
    """The same of rows that are open already."""
    for rows in (a, b):
        require_positions(rows)
    if by == "row" and a.count != b.count:
        raise InputError(f"{a.path} has {a.count:,} rows, {b.path} {b.count:,}: they cannot be compared row by row; "
                         "use --by nearest")  # fmt: skip
    for label, value in (("--tolerance", tolerance), ("--reach", reach)):
        if value is not None and not 0 <= value < np.inf:
            raise InputError(f"{label} {value}: wanted a length from 0")
    size = _size(a) or _size(b)
    tolerance = TOLERANCE * size if tolerance is None else tolerance
    reach = max(REACH * size, tolerance) if reach is None else max(reach, tolerance)
    if by == "nearest" or a.count != b.count:
        return _compared(a, b, _by_nearest(a, b, tolerance, reach), size, tolerance, reach)
    found = _compared(a, b, _by_row(a, b), size, tolerance, None)
    far = found.distance is not None and found.distance.quantiles[0] > REACH * size
    compressed = any(rows.container == "compressed PLY" for rows in (a, b))
    if by == "row" or not (_shuffled(found) or (far and compressed)):
        return found
    return replace(_compared(a, b, _by_nearest(a, b, tolerance, reach), size, tolerance, reach), reordered=True)


def _compared(a: Rows, b: Rows, found: _Found, size: float, tolerance: float, reach: float | None) -> Comparison:
    """Figures of pairs that were found by row (`reach` is None) or by nearest neighbour."""
    distance = found.columns.pop("distance")
    moved = int((distance > tolerance).sum())
    return Comparison(
        a=a.path, b=b.path, count_a=a.count, count_b=b.count, by="row" if reach is None else "nearest", size=size,
        tolerance=tolerance, reach=reach, paired=len(distance), added=found.added,
        removed=found.removed, moved=moved, unplaced=found.unplaced, distance=_difference(distance, tolerance),
        decades=_decades(distance), only_a=_only(a, b), only_b=_only(b, a), kind_a=a.kind, kind_b=b.kind,
        differences={name: d for name, values in found.columns.items()
                     if (d := _difference(values, MEASURES[name].limit)) is not None},
    )  # fmt: skip


@dataclass
class _Found:
    """Columns of differences by name, "distance" among them; and rows without a partner or a place."""

    columns: dict[str, np.ndarray]
    added: int = 0
    removed: int = 0
    unplaced: int = 0


def _only(a: Rows, b: Rows) -> tuple[str, ...]:
    return tuple(name for name in a.names if name not in b.names and name not in pf.NORMAL)


def _size(rows: Rows) -> float:
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for block in rows.blocks():
        xyz = pf.columns(block, pf.POSITION, np.float64)
        xyz = xyz[np.isfinite(xyz).all(-1)]
        if len(xyz):
            low, high = np.minimum(low, xyz.min(0)), np.maximum(high, xyz.max(0))
    return float((high - low).max()) if np.isfinite(low).all() else 0.0


def _difference(values: np.ndarray, limit: float) -> Difference | None:
    beyond = int((values > limit).sum()) + int(np.isnan(values).sum())
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None if not beyond else Difference(float("nan"), (float("nan"),) * 3, beyond)
    return Difference(float(values.mean(dtype=np.float64)), tuple(np.quantile(values, QUANTILES).tolist()), beyond)


def _decades(distance: np.ndarray) -> tuple[tuple[float, float, int], ...]:
    out = [(0.0, 0.0, int((distance == 0).sum()))] if (distance == 0).any() else []
    some = distance[distance > 0].astype(np.float64)
    if len(some):
        power = np.floor(np.log10(some)).astype(int)
        counts = np.bincount(power - power.min())
        out += [(10.0**p, 10.0 ** (p + 1), int(n)) for p, n in enumerate(counts, start=int(power.min()))]
    return tuple(out)


# ------------------------------------------------------------------------------------------ properties


def properties(rows: np.ndarray, *, harmonics: bool = True) -> dict[str, np.ndarray]:
    """What is compared of a block of rows, by the names of `MEASURES` that they have, (N, ·) each."""
    names = rows.dtype.names or ()
    out: dict[str, np.ndarray] = {}
    rgb = pf.colours(rows)
    if rgb is not None:
        out["colour"] = rgb
    degree = pf.sh_degree(names)
    if harmonics and degree is not None and all(name in names for name in pf.DC):
        rest = pf.rest_names(pf.REST_COUNTS[degree])
        out["harmonics"] = pf.columns(rows, rest).reshape(len(rows), 3, len(rest) // 3)  # none at all is zeros
    if "opacity" in names:
        out["opacity"] = pf.opacities(rows)[:, None]
    if all(name in names for name in pf.SCALE):
        out["scale"] = pf.columns(rows, pf.SCALE)
    if all(name in names for name in pf.ROTATION):
        out["rotation"] = pf.unit_quats(rows)
    confidence = pf.confidence_name(names)
    if confidence:
        out["confidence"] = pf.columns(rows, (confidence,))
    return out


def property_differences(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Absolute differences (N,) in the units of `MEASURES`, the largest of a property's numbers."""
    out = {}
    if all(name in values for name in ("scale", "rotation") for values in (a, b)):
        b = {**b, **_same_axes(a, b)}
    for name in (name for name in a if name in b):
        left, right = a[name], b[name]
        if name == "harmonics":
            wide = max(left.shape[-1], right.shape[-1])
            if not wide:
                continue
            left, right = (_filled(values, wide).reshape(len(values), -1) for values in (left, right))
        if name == "rotation":
            out[name] = _angles(left, right)
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.where(left == right, 0, np.abs(left - right)).max(-1)  # Inf - Inf is no difference
            if name == "scale":
                apart = 100 * np.expm1(apart)
        out[name] = apart * 255 if name == "colour" else apart
    return {name: values.astype(np.float32) for name, values in out.items()}


def _filled(harmonics: np.ndarray, wide: int) -> np.ndarray:
    """Coefficients (N, 3, K) with zeros for the degrees that are not there, (N, 3, wide)."""
    if harmonics.shape[-1] == wide:
        return harmonics
    return np.pad(harmonics, ((0, 0), (0, 0), (0, wide - harmonics.shape[-1])))


_ORDERS = {  # of three axes -> a rotation (wxyz, times any number) whose axes are those, up to sign
    (0, 1, 2): (1, 0, 0, 0), (1, 2, 0): (1, 1, 1, 1), (2, 0, 1): (1, -1, -1, -1),
    (1, 0, 2): (1, 0, 0, 1), (2, 1, 0): (1, 0, 1, 0), (0, 2, 1): (1, 1, 0, 0),
}  # fmt: skip


def _same_axes(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scale and rotation of `b` with each Gaussian's axes in the order that comes nearest to `a`: files may name the
    axes of one ellipsoid in any order."""
    scale, turn = b["scale"].copy(), b["rotation"].copy()
    with np.errstate(invalid="ignore", over="ignore"):
        best = _apart(a, scale, turn)
        odd = np.flatnonzero(best > 1e-6)  # most rows of most files are the same as they stand
        mine = {name: a[name][odd] for name in ("scale", "rotation")}
        for order, quat in list(_ORDERS.items())[1:]:
            found = b["scale"][odd][:, order], _times(b["rotation"][odd], np.array(quat) / np.linalg.norm(quat))
            apart = _apart(mine, *found)
            better = apart < best[odd]
            rows = odd[better]
            best[rows], scale[rows], turn[rows] = apart[better], found[0][better], found[1][better]
    return {"scale": scale, "rotation": turn}


def _times(q: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Product of quaternions wxyz (N, 4) with one (4,)."""
    w, x, y, z = q.T
    v, i, j, k = by
    return np.stack([w * v - x * i - y * j - z * k, w * i + x * v + y * k - z * j,
                     w * j - x * k + y * v + z * i, w * k + x * j - y * i + z * v], -1)  # fmt: skip


def _apart(a: dict[str, np.ndarray], scale: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """How unlike two ellipsoids are as they stand (N,): differences of log scales, and radians."""
    lengths = np.where(a["scale"] == scale, 0, np.abs(a["scale"] - scale)).sum(-1)
    return lengths + np.radians(_angles(a["rotation"], turn))


def _angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Degrees (N,) between the axes of two Gaussians, unit quaternions (N, 4). Half a turn about one of its own axes
    leaves a Gaussian what it was, so that is no difference."""
    w, x, y, z = b.T
    alike = (b, np.stack([-x, w, z, -y], -1), np.stack([-y, -z, w, x], -1), np.stack([-z, y, -x, w], -1))
    chord = np.min([np.linalg.norm(a - sign * q, axis=-1) for q in alike for sign in (1, -1)], axis=0)
    return np.degrees(4 * np.arcsin(np.minimum(chord / 2, 1)))  # the chord is twice the sine of a quarter of the angle


def _by_row(a: Rows, b: Rows) -> _Found:
    columns: dict[str, list[np.ndarray]] = {"distance": []}
    unplaced = 0
    for left, right in side_by_side(a, b):
        xyz = pf.columns(left, pf.POSITION, np.float64), pf.columns(right, pf.POSITION, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.linalg.norm(xyz[0] - xyz[1], axis=-1)
        good = np.isfinite(apart)
        unplaced += int((~good).sum())
        columns["distance"].append(apart[good])
        for name, values in property_differences(properties(left), properties(right)).items():
            columns.setdefault(name, []).append(values)
    empty = np.empty(0)
    return _Found({name: np.concatenate([empty, *parts]) for name, parts in columns.items()}, unplaced=unplaced)


def side_by_side(a: Rows, b: Rows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of two tables with as many rows, cut at the same places."""
    left_blocks, right_blocks = a.blocks(_BLOCK), b.blocks(_BLOCK)
    left, right = np.empty(0, a.dtype), np.empty(0, b.dtype)
    while True:
        left = left if len(left) else next(left_blocks, None)
        right = right if len(right) else next(right_blocks, None)
        if left is None or right is None:
            return
        use = min(len(left), len(right))
        yield left[:use], right[:use]
        left, right = left[use:], right[use:]


# ------------------------------------------------------------------------------------------ neighbours


@dataclass
class _Table:
    """Positions (N, 3) and properties of the rows that have a place."""

    xyz: np.ndarray
    values: dict[str, np.ndarray]
    unplaced: int


def _table(rows: Rows) -> _Table:
    places: list[np.ndarray] = [np.empty((0, 3))]
    values: dict[str, list[np.ndarray]] = {}
    unplaced = 0
    for block in rows.blocks():
        xyz = pf.columns(block, pf.POSITION, np.float64)
        good = np.isfinite(xyz).all(-1)
        unplaced += int((~good).sum())
        places.append(xyz[good])
        # harmonics are most of a file: holding them all is what reading in blocks is there to avoid
        for name, found in properties(block[good], harmonics=False).items():
            values.setdefault(name, []).append(found)
    return _Table(np.concatenate(places), {name: np.concatenate(parts) for name, parts in values.items()}, unplaced)


def _by_nearest(a: Rows, b: Rows, tolerance: float, reach: float) -> _Found:
    """Pairs are each other's nearest; rows at the place of a row that has another partner (a duplicate) are paired."""
    left, right = _table(a), _table(b)
    unplaced = left.unplaced + right.unplaced
    if len(left.xyz) == 0 or len(right.xyz) == 0:
        return _Found({"distance": np.empty(0)}, len(right.xyz), len(left.xyz), unplaced)
    distance, partner = _nearest(right.xyz, left.xyz)  # of each row of B in A
    back_distance, back = _nearest(left.xyz, right.xyz)
    mutual = back[partner] == np.arange(len(partner))
    kept = ((distance <= reach) & mutual) | (distance <= tolerance)
    has_partner = back_distance <= tolerance
    has_partner[partner[kept]] = True
    pairs_b, pairs_a = np.flatnonzero(kept), partner[kept]
    apart = property_differences({name: values[pairs_a] for name, values in left.values.items()},
                                 {name: values[pairs_b] for name, values in right.values.items()})  # fmt: skip
    return _Found({"distance": distance[kept], **apart}, int((~kept).sum()), int((~has_partner).sum()), unplaced)


def _nearest(query: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.spatial import KDTree

    tree = KDTree(points)
    distance, index = np.empty(len(query)), np.empty(len(query), np.int64)
    for at in range(0, len(query), _BLOCK):
        found: Any = tree.query(query[at : at + _BLOCK])
        distance[at : at + _BLOCK], index[at : at + _BLOCK] = found
    return distance, index
