"""``python -m mproc_go`` is ``mproc-go``, for an environment whose scripts are not on the path."""

from mproc_go.tools.cli import main

if __name__ == "__main__":
    main(prog_name="mproc-go")
