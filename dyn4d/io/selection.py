"""Which rows of a file of Gaussians or points to keep: what `dyn4d ply crop` and `select` ask for. Free of NumPy."""

from __future__ import annotations

from dataclasses import dataclass, fields

from dyn4d.core.errors import InputError


@dataclass(frozen=True)
class Selection:
    """Which rows to keep. A row is kept if it meets all that is asked for; None and False ask for nothing.

    Raises:
        InputError: a limit that is NaN, below its range or above it.
    """

    box: tuple[float, float, float, float, float, float] | None = None
    """X0 Y0 Z0 X1 Y1 Z1: within these corners, world units."""
    sphere: tuple[float, float, float, float] | None = None
    """X Y Z RADIUS: within it."""
    min_opacity: float | None = None
    """0 to 1."""
    max_opacity: float | None = None
    """0 to 1."""
    min_scale: float | None = None
    """Of a Gaussian's largest axis (standard deviation, world units)."""
    max_scale: float | None = None
    """Of a Gaussian's largest axis (standard deviation, world units)."""
    min_confidence: float | None = None
    """Of the field confidence, 0 to 1."""
    finite: bool = False
    """No NaN, no Inf, no rotation of length 0."""
    outliers: float | None = None
    """Drop rows whose mean distance to 16 neighbours is so many standard deviations above the mean; 2 is usual."""
    largest_cluster: bool = False
    """Keep the largest group of rows that are near each other."""
    gap: float | None = None
    """What parts two groups, world units. Default: 4 times the distance of neighbours."""
    invert: bool = False
    """Keep what would be dropped, and drop what would be kept."""

    def __post_init__(self) -> None:
        for entry in fields(Selection):
            value = getattr(self, entry.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(n, float) and n != n for n in numbers):
                raise InputError(f"--{entry.name.replace('_', '-')}: NaN is no limit")
        if self.box is not None and any(a > b for a, b in zip(self.box[:3], self.box[3:])):
            raise InputError(f"--box {' '.join(f'{v:g}' for v in self.box)}: wanted the lower corner first")
        if self.sphere is not None and self.sphere[3] < 0:
            raise InputError(f"--sphere: a radius of {self.sphere[3]:g}; wanted 0 or more")
        for name in ("min_opacity", "max_opacity", "min_confidence"):
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise InputError(f"--{name.replace('_', '-')} {value:g}: wanted 0 to 1")
        for name in ("outliers", "gap"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise InputError(f"--{name} {value:g}: wanted more than 0")

    def require_something(self) -> None:
        """Raises `InputError` if every row meets this, because nothing is asked for."""
        quiet = ("gap", "invert")
        values = (getattr(self, e.name) for e in fields(Selection) if e.name not in quiet)
        if all(value is None or value is False for value in values):
            raise InputError("say what to keep: --box, --sphere, --min-opacity, --max-opacity, --min-scale, "
                             "--max-scale, --min-confidence, --finite, --outliers or --largest-cluster")  # fmt: skip
