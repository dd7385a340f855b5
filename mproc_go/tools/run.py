"""``mproc-go run``: a script or module as ``__main__``, under the rules by which Go ends a program.

The script is run in this process, through runpy, with sys.argv and sys.path[0] as Python sets them; the options
become the defaults of whatever runtime it starts. Everything that leaves the script is handled here and not by
click, which would swallow a BrokenPipeError and rewrite a KeyboardInterrupt.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import runpy
import sys
import zipfile
from types import TracebackType

import click

from mproc_go.errors import EXIT_INTERRUPT, MprocError
from mproc_go.tools.exits import EXIT_FAILURE, end_of_program
from mproc_go.tools.which import PROCS


class _ScriptCommand(click.Command):
    """A command whose options end at SCRIPT or ``-m MODULE``: whatever follows is the script's, even ``--help``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = self._end_of_options(args)
        if end <= len(args):  # beyond: an option's value is missing, which click is to find
            args = [*args[:end], "--", *args[end:]]
        return super().parse_args(ctx, args)

    def _end_of_options(self, args: list[str]) -> int:
        takes_value = {
            name for p in self.params if isinstance(p, click.Option) and not p.is_flag for name in p.opts
        }
        i = 0
        while i < len(args):
            arg = args[i]
            if arg == "--":
                del args[i]  # ours stands there
                return i
            if not arg.startswith("-") or arg == "-":
                return i
            if arg.startswith("-m"):
                return i + (2 if arg == "-m" else 1)
            i += 2 if arg in takes_value else 1
        return i


@click.command(
    cls=_ScriptCommand,
    name="run",
    short_help="Run a Python script or module.",
    options_metavar="[OPTIONS]",
)
@click.option("--procs", type=PROCS, metavar="N", help="Number of Ps. Default: the cores it may use.")
@click.option(
    "--schedtrace",
    type=click.IntRange(min=1),
    metavar="MS",
    help="Write a line about the scheduler to stderr every MS milliseconds, in Go's format.",
)
@click.option("-m", "module", metavar="MODULE", help="Run a module, as 'python -m' does, instead of a script.")
@click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="SCRIPT|-m MODULE [ARGS]...")
@click.pass_context
def command(
    ctx: click.Context, procs: int | None, schedtrace: int | None, module: str | None, args: tuple[str, ...]
) -> int:
    """Run a Python script or module that uses mproc_go.

    What stands after SCRIPT or '-m MODULE' is passed on to it. The options hold for every runtime that the script
    starts, unless it says otherwise itself. A goroutine that panics ends the program as in Go: 'panic: ...' and the
    goroutine's traceback on stderr, exit status 2; so does a deadlock.
    """
    if module is None and not args:
        raise click.UsageError("missing SCRIPT or -m MODULE", ctx)
    from mproc_go.runtime import boot

    if procs is not None:
        boot.defaults["procs"] = procs
    if schedtrace is not None:
        boot.defaults["schedtrace"] = schedtrace
    try:
        if module is not None:
            _run_module(module, list(args))
        else:
            _run_script(args[0], list(args[1:]))
    except _WrongArgument as error:
        raise click.UsageError(str(error), ctx) from None
    except SystemExit:
        raise
    except KeyboardInterrupt:
        return EXIT_INTERRUPT
    except BaseException as error:
        return _end_by(error)
    return 0


class _WrongArgument(Exception):
    """There is nothing to run. (A type of our own: the script may use click, and raise what click raises.)"""


def _run_script(script: str, args: list[str]) -> None:
    if not os.path.exists(script):
        raise _WrongArgument(f"no such file: {script}")
    if not os.access(script, os.R_OK):
        raise _WrongArgument(f"can't read the file: {script}")
    container = os.path.isdir(script) or (not script.endswith(".py") and zipfile.is_zipfile(script))
    if os.path.isdir(script) and not os.path.exists(os.path.join(script, "__main__.py")):
        raise _WrongArgument(f"a folder without __main__.py: {script}")
    sys.argv[:] = [script, *args]
    _replace_path0(script if container else os.path.dirname(os.path.realpath(script)))
    runpy.run_path(script, run_name="__main__")


def _run_module(module: str, args: list[str]) -> None:
    if "" in module.split("."):
        raise _WrongArgument(f"no name of a module: {module!r}")
    _replace_path0(os.getcwd())
    sys.argv[:] = ["-m", *args]  # what Python shows while it looks for the module; alter_sys puts the file there
    try:
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{module}.__main__")
    except ModuleNotFoundError as error:
        # A parent package is missing, or the parent's own import fails: only the first is a wrong argument.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        spec = None
    except ValueError:  # a module that is there already and has no spec, such as __main__
        spec = None
    if spec is None:
        raise _WrongArgument(f"no module to run named {module!r}")
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _replace_path0(folder: str) -> None:
    # sys.path[0] is the folder of the mproc-go script, or the current one under ``python -m``; with -P it is neither.
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _end_by(error: BaseException) -> int:
    if isinstance(error, MprocError):
        status = end_of_program(error)
        if status is not None:
            return status
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    tb = _without_our_frames(error.__traceback__)
    sys.excepthook(type(error), error.with_traceback(tb), tb)
    return EXIT_FAILURE


def _without_our_frames(tb: TracebackType | None) -> TracebackType | None:
    """Drop the leading frames of this file and of what it calls to get to the script."""
    ours = (__file__, runpy.__file__, "<frozen runpy>", "<frozen importlib._bootstrap>", importlib.util.__file__)
    while tb is not None and tb.tb_frame.f_code.co_filename in (*ours, "<frozen importlib.util>"):
        tb = tb.tb_next
    return tb
