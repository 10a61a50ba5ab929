"""A contact sheet of the samples that the small pair network is trained on: both frames, depth, and what goes where.

    python benchmarks/pairnet_sheet.py OUT.png [--count 60] [--first 0] [--seed 0] [--size 192]

Each sample is four tiles: frame a and frame b as the network sees them, the depth of a within its own range, and frame
a drawn by the colours of b at the matching places (grey where b does not show the point).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from dyn4d.training.geometry_config import ObjectPairs
from dyn4d.training.geometry_data import GeometrySample, SampleSource


def tiles(sample: GeometrySample) -> np.ndarray:
    """(S, 4 S, 3) uint8 RGB."""
    seen = np.where(sample.mask[..., None], sample.image, 128).astype(np.uint8)
    depth, inside = sample.depth[0], sample.mask[0]
    low, high = np.percentile(depth[inside], [1, 99])
    grey = np.clip(255 * (high - depth) / max(high - low, 1e-6), 0, 255).astype(np.uint8)
    colours = cv2.applyColorMap(grey, cv2.COLORMAP_TURBO)[..., ::-1]
    places = np.nan_to_num(sample.flow - 0.5, nan=-1e4).astype(np.float32)
    moved = cv2.remap(seen[1], places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderValue=(128, 128, 128))
    return np.hstack([seen[0], seen[1], np.where(inside[..., None], colours, 255).astype(np.uint8), moved])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, usual in (("count", 60), ("first", 0), ("seed", 0), ("size", 192), ("columns", 3)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    given = parser.parse_args()
    source = SampleSource(ObjectPairs(size=given.size), given.seed)
    # Samples that are far enough apart to show different bodies.
    rows = [tiles(source(given.first + 8 * 12 * (n // 8) + n % 8)) for n in range(given.count)]
    rows += [np.full_like(rows[0], 255)] * (-len(rows) % given.columns)
    sheet = np.vstack([np.hstack(rows[at : at + given.columns]) for at in range(0, len(rows), given.columns)])
    if not cv2.imwrite(str(given.out), sheet[..., ::-1]):
        raise SystemExit(f"{given.out} cannot be written")
    print(given.out)


if __name__ == "__main__":
    main()
