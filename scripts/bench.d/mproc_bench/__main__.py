"""python -m mproc_bench: what scripts/bench runs."""

import sys

from mproc_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
