"""`python -m dyn4d`: the command line."""

import sys

from dyn4d.cli import main

if __name__ == "__main__":
    sys.exit(main())
