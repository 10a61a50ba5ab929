"""Cameras, points and matches of a run: `python stages/geometry.py RUN [options]`."""

import sys

from dyn4d.cli import main

if __name__ == "__main__":
    sys.exit(main(["geometry", *sys.argv[1:]]))
