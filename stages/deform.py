"""Fit the deformation field of a run: `python stages/deform.py RUN [options]`."""

import sys

from dyn4d.cli import main

if __name__ == "__main__":
    sys.exit(main(["deform", *sys.argv[1:]]))
