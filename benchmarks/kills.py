"""Kill a run with SIGKILL at random moments, then let it finish, and look at every file that it left.

    python benchmarks/kills.py [--kills 5] [--seed 0] [--out FOLDER] [-- --length 48 --size 256 ...]

What follows `--` goes to `dyn4d demo`. Ends with an error if the run does not finish or a file is damaged.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from dyn4d.io.checkpoint import load_tensors
from dyn4d.io.ply import read_ply
from dyn4d.io.video import VideoReader

SMALL = ["--length", "16", "--size", "96", "--deformation.steps", "80", "--gaussians.steps", "80",
         "--deformation.checkpoint-seconds", "1", "--gaussians.checkpoint-seconds", "1"]  # fmt: skip


def read_whole(path: Path) -> None:
    """Open a file in full; raises if it is damaged."""
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".npz":
        with np.load(path) as data:
            for name in data.files:
                data[name]
    elif path.suffix in (".png", ".jpg"):
        with Image.open(path) as picture:
            picture.load()
    elif path.suffix == ".ply":
        read_ply(path)
    elif path.suffix == ".safetensors":
        load_tensors(path, None)
    elif path.suffix == ".mp4":
        video = VideoReader(path)
        video[len(video) - 1]
    elif path.stat().st_size == 0:
        raise ValueError("empty")


def main() -> None:
    words = sys.argv[1:]
    extra = words[words.index("--") + 1 :] if "--" in words else SMALL
    words = words[: words.index("--")] if "--" in words else words
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(words)
    out = given.out or Path(tempfile.mkdtemp()) / "run"
    command = [sys.executable, "-m", "dyn4d", "demo", "--out", str(out), "--quiet", *extra]

    whole = 0.0
    for _ in range(2):  # the first also fills the compiler's cache
        start = time.monotonic()
        subprocess.run(command, check=True)
        whole = time.monotonic() - start
        shutil.rmtree(out)
    print(f"undisturbed: {whole:.0f} s")
    draw = random.Random(given.seed)
    for number in range(given.kills):
        wait = draw.uniform(0.1, 0.35) * whole
        process = subprocess.Popen(command)
        try:
            process.wait(wait)
            print(f"kill {number + 1}: the run had already finished")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done = sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) if out.exists() else []
            print(f"kill {number + 1}: after {wait:.0f} s; there: {', '.join(done)}", flush=True)
    subprocess.run(command, check=True)
    files = [p for p in out.rglob("*") if p.is_file()]
    for path in files:
        try:
            read_whole(path)
        except Exception as error:
            raise SystemExit(f"{path}: {error}") from error
    left = [p for p in out.rglob("*") if "partial" in p.name or p.suffix == ".tmp"]
    if left:
        raise SystemExit(f"left over: {left}")
    print(f"finished; {len(files)} files, all whole, nothing left over")


if __name__ == "__main__":
    main()
