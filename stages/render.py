"""Draw the pictures and videos of a run: `python stages/render.py RUN [options]`."""

import sys

from dyn4d.cli import main

if __name__ == "__main__":
    sys.exit(main(["render", *sys.argv[1:]]))
