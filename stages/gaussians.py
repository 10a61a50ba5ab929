"""Train the Gaussians of a run with its field: `python stages/gaussians.py RUN [options]`."""

import sys

from dyn4d.cli import main

if __name__ == "__main__":
    sys.exit(main(["gaussians", *sys.argv[1:]]))
