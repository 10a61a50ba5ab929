"""Write the PLYs, figures and report of a run: `python stages/export.py RUN [options]`."""

import sys

from dyn4d.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
