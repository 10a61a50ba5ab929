"""Put pictures of a finished demo run side by side.

    python docs/images/make_demo_picture.py runs/demo docs/images/demo.png

Rows: the clip, the same cameras redrawn, the still camera. Columns: five times.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image


def row(folder: Path, frames: list[int]) -> np.ndarray:
    """Pictures of some frames beside each other, cut to where the object is."""
    files = sorted(folder.glob("*.png"))
    pictures = [np.asarray(Image.open(files[i]).convert("RGB")) for i in frames]
    busy = np.zeros(pictures[0].shape[:2], dtype=bool)
    for picture in pictures:
        busy |= np.abs(picture.astype(int) - picture[0, 0].astype(int)).max(-1) > 12
    rows = np.flatnonzero(busy.any(1))
    top, bottom = max(rows[0] - 8, 0), rows[-1] + 9
    return np.concatenate([p[top:bottom] for p in pictures], axis=1)


def main() -> None:
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    count = len(list((run / "renders" / "input").glob("*.png")))
    frames = [round(i * (count - 1) / 4) for i in range(5)]
    folders = (run / "clip" / "rgb", run / "renders" / "input", run / "renders" / "fixed")
    Image.fromarray(np.concatenate([row(folder, frames) for folder in folders])).save(out, optimize=True)


if __name__ == "__main__":
    main()
