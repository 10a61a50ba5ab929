"""Check a clip and make a run: `python stages/prepare.py CLIP --out RUN [options]`."""

import sys

from dyn4d.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
