"""Peak memory and seconds of `dyn4d ply` on large files, each command in a process of its own.

    python benchmarks/ply.py [--rows 5000000] [--folder DIR] [--only info,crop] [--write]

Makes a file of Gaussians with spherical harmonics of degree 3 (248 bytes a row) on a lumpy surface with some floaters,
a second one whose rows have moved a little, and a file of points. Peak memory is that of the process with its imports,
as the system reports it. `--write` puts the table into its section of RESULTS.md. The bar is 2 GiB.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).with_name("RESULTS.md")
BEGIN, END = "<!-- ply: begin -->", "<!-- ply: end -->"
BAR_GIB = 2.0
BLOCK = 1 << 17


def block_of(rows: int, start: int, moved: float) -> np.ndarray:
    """Some rows of the scene, the same whenever they are asked for."""
    from dyn4d.io import ply_fields as pf

    rng = np.random.default_rng(start)
    out = np.zeros(rows, pf.gaussian_dtype(3))
    direction = rng.normal(size=(rows, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    radius = 1 + 0.2 * np.sin(5 * direction[:, 0]) * np.cos(4 * direction[:, 1])
    radius = np.where(rng.random(rows) < 0.002, radius * rng.uniform(2, 30, rows), radius)
    xyz = direction * radius[:, None] * [1.0, 0.7, 1.4] + moved * np.sin(7 * direction)
    values = {"opacity": rng.normal(2, 2, (rows, 1))}
    for names, table in (
        (pf.POSITION, xyz), (pf.DC, 1.5 * np.sin(3 * direction + 1)), (pf.SCALE, rng.normal(-6.5, 0.5, (rows, 3))),
        (pf.ROTATION, rng.normal(size=(rows, 4))), (("opacity",), values["opacity"]),
        (pf.rest_names(45), rng.normal(0, 0.1, (rows, 45)).astype(np.float32)),
    ):  # fmt: skip
        for at, name in enumerate(names):
            out[name] = table[:, at]
    return out


def make(path: Path, rows: int, moved: float = 0.0) -> None:
    from dyn4d.io.atomic import atomic_path
    from dyn4d.io.ply_fields import gaussian_dtype
    from dyn4d.io.ply_header import header_text

    if path.exists():
        return
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(header_text(gaussian_dtype(3), rows).encode())
        for start in range(0, rows, BLOCK):
            stream.write(block_of(min(BLOCK, rows - start), start, moved).data)


def commands(folder: Path) -> dict[str, list[str]]:
    big, other = str(folder / "big.ply"), str(folder / "moved.ply")

    def out(name: str) -> list[str]:
        return [str(folder / name), "--overwrite"]

    return {
        "info": ["info", big],
        "compare by row": ["compare", big, other],
        "compare by nearest": ["compare", big, other, "--by", "nearest"],
        "crop: box, opacity": [
            "crop",
            big,
            *out("out.ply"),
            "--box",
            "-1",
            "-1",
            "-1",
            "1",
            "1",
            "1",
            "--min-opacity",
            "0.1",
        ],
        "crop: largest cluster": ["crop", big, *out("out.ply"), "--largest-cluster"],
        "crop: outliers": ["crop", big, *out("out.ply"), "--outliers", "2"],
        "merge of two": ["merge", big, other, *out("out.ply")],
        "convert to .ply": ["convert", big, *out("out.ply")],
        "convert to points": ["convert", big, *out("points.ply"), "--as", "points"],
        "convert to .csv": ["convert", big, *out("out.csv")],
        "convert to .splat": ["convert", big, *out("out.splat")],
        "convert to .spz": ["convert", big, *out("out.spz")],
        "convert to .compressed.ply": ["convert", big, *out("out.compressed.ply")],
        "convert to .glb": ["convert", big, *out("out.glb")],
        "convert from .spz": ["convert", str(folder / "out.spz"), *out("out.ply")],
        "convert from .compressed.ply": ["convert", str(folder / "out.compressed.ply"), *out("out.ply")],
        "preview, six sides": ["preview", big, *out("out.png")],
        "preview of points": ["preview", str(folder / "points.ply"), *out("points.png")],
    }


def run_one(words: list[str]) -> None:
    """In the process that is measured."""
    from dyn4d.cli import main as dyn4d

    begin = time.perf_counter()
    code = dyn4d(["ply", *words, "--quiet"])
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps({"code": code, "seconds": round(time.perf_counter() - begin, 1),
                      "gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)}))  # fmt: skip


def measure(name: str, words: list[str]) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--run", json.dumps(words)], stdout=subprocess.PIPE, text=True)
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        raise SystemExit(f"{name}: the process ended with {done.returncode} and no figures") from None
    if found["code"] not in ((0, 1) if name.startswith("compare") else (0,)):
        raise SystemExit(f"{name}: exit code {found['code']}")
    print(f"{name:32s}{found['gib']:8.2f} GiB{found['seconds']:9.1f} s", flush=True)
    return found


def section(rows: int, size: int, found: dict[str, dict[str, float]]) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    lines = [BEGIN, "", "## Large files: dyn4d ply", ""]
    lines.append(
        f"`python benchmarks/ply.py --write`: {rows:,} Gaussians with harmonics of degree 3, {size / 1e9:.2f} GB. "
        f"One thread, {platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}, "
        f"numpy {np.__version__}, commit {commit.stdout.strip()}, date {datetime.date.today()}. Bar: {BAR_GIB:g} GiB."
    )
    lines += ["", "| command | peak memory, GiB | seconds | bar holds |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {f['gib']:.2f} | {f['seconds']:.1f} | {'yes' if f['gib'] <= BAR_GIB else 'no'} |"
              for name, f in found.items()]  # fmt: skip
    return "\n".join([*lines, "", END])


def put(text: str) -> None:
    """Into its section of RESULTS.md, or at the end where there is none."""
    old = RESULTS.read_text(encoding="utf-8")
    if BEGIN in old:
        before, rest = old.split(BEGIN, 1)
        new = before + text + rest.split(END, 1)[1]
    else:
        new = old.rstrip() + "\n\n" + text + "\n"
    RESULTS.write_text(new, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/ply_benchmark"))
    parser.add_argument("--only", default="", help="parts of the commands' names, by commas")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        run_one(json.loads(given.run))
        return
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    folder = given.folder / str(given.rows)
    folder.mkdir(parents=True, exist_ok=True)
    make(folder / "big.ply", given.rows)
    make(folder / "moved.ply", given.rows, moved=1e-3)
    wanted = [part.strip() for part in given.only.split(",") if part.strip()]
    found = {}
    for name, words in commands(folder).items():
        if not wanted or any(part in name for part in wanted):
            found[name] = measure(name, words)
    if given.write:
        put(section(given.rows, (folder / "big.ply").stat().st_size, found))


if __name__ == "__main__":
    main()
