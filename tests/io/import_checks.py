"""What the tests of importers ask of the clips they made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from import_sources import centre_of_dot

from dyn4d.cli_args import ImportArgs
from dyn4d.core.cameras import project
from dyn4d.core.protocols import SilentProgress
from dyn4d.core.types import Camera, Clip
from dyn4d.import_cli import import_source
from dyn4d.io import check_clip, load_clip, refuse_errors

PIXEL = 0.01  # how far an imported camera may see a point from where the source's own formula does


def run_import(source: Path, out: Path, **options) -> str:
    """`dyn4d import`, without the parsing."""
    return import_source(ImportArgs(source=str(source), out=str(out), **options), SilentProgress())


def imported(source: Path, out: Path, *, mask: str = "auto", **options) -> Clip:
    run_import(source, out, **options)
    return load_clip(out, mask=mask)


def seen(camera: Camera, row: int | None, points: np.ndarray) -> np.ndarray:
    """(N, 2) pixels of world points, by the package's own cameras."""
    one = camera if row is None else camera[row]
    return project(one.K, one.cam_from_world, torch.from_numpy(points))[0].numpy()


def assert_sees(clip: Clip, row: int, points: np.ndarray, pixels: np.ndarray) -> None:
    assert clip.cameras is not None
    found = seen(clip.cameras, row, points)
    assert np.abs(found - np.asarray(pixels)).max() < PIXEL, (found, pixels)


def assert_shows_dots(clip: Clip, row: int, points: np.ndarray, before: np.ndarray) -> None:
    """The picture has its bright spots where the clip's camera sees the points, which is not where they were `before`
    the picture was straightened. Spots at the border are cut, and are left out."""
    places = seen(clip.cameras, row, points)
    inside = [p for p in places if 5 < p[0] < clip.width - 5 and 5 < p[1] < clip.height - 5]
    assert len(inside) >= 2, places
    assert np.abs(places - before).max() > 0.12
    for place in inside:
        assert np.abs(centre_of_dot(clip.images[row], place) - place).max() < 0.1


def assert_passes_check(clip: Clip) -> None:
    """`dyn4d check` has nothing against it."""
    refuse_errors(check_clip(clip))
