"""python -m mproc_torture: what scripts/torture runs."""

import sys

from mproc_torture.cli import main

if __name__ == "__main__":
    sys.exit(main())
