"""The group ``mproc-go``: finds the verb, and turns every mistake of the caller into one line and status 2.

Verbs are imported when they are called, so that ``mproc-go --version`` and a typing error cost neither rich nor a
runtime. click's own error pages have several lines; here they become one, since they mostly end up in a log.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from mproc_go.errors import EXIT_INTERRUPT, EXIT_USAGE, MprocError
from mproc_go.tools.exits import EXIT_FAILURE, complain, end_of_program

# Verb -> module that holds it, under the name `command`. The order is that of the help page.
VERBS = {
    "run": "mproc_go.tools.run",
    "demo": "mproc_go.tools.demo",
    "start": "mproc_go.tools.start",
    "stop": "mproc_go.tools.stop",
    "ps": "mproc_go.tools.ps",
    "stats": "mproc_go.tools.stats",
    "stacks": "mproc_go.tools.stacks",
    "stress": "mproc_go.tools.stress",
    "doctor": "mproc_go.tools.doctor",
    "gc": "mproc_go.tools.gc",
}


class Verbs(click.Group):
    """A click group with lazy commands and one-line errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = VERBS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = importlib.import_module(module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f"unknown command {args[0]!r}; there are: {', '.join(VERBS)}", ctx)
        return super().resolve_command(ctx, args)

    def main(  # type: ignore[override]  # always ends the process: click's standalone_mode=False has no caller here
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        extra["standalone_mode"] = False
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed by whoever started us: nobody wants to see it
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for good
        try:
            status = super().main(args, prog_name or "mproc-go", **extra)
            sys.stdout.flush()  # a reader that has gone (``| head``) shows here, and not as noise at exit
        except click.exceptions.Abort:  # what click makes of KeyboardInterrupt
            status = EXIT_INTERRUPT
        except click.ClickException as error:
            status = _complain(error)
        except MprocError as error:
            known = end_of_program(error)
            if known is None:
                complain(f"{type(error).__name__}: {error}")
            status = EXIT_FAILURE if known is None else known
        except BrokenPipeError:
            # The interpreter flushes stdout once more at exit, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = EXIT_FAILURE
        except OSError as error:  # a limit of the machine, which names itself
            complain(str(error))
            status = EXIT_FAILURE
        sys.exit(status if isinstance(status, int) else 0)


def _complain(error: click.ClickException) -> int:
    text = error.format_message().rstrip(".")
    ctx = getattr(error, "ctx", None)
    if ctx is not None:
        text = f"{text} (see {ctx.command_path} --help)"
    complain(text[:1].lower() + text[1:] if text[1:2].islower() else text)
    return EXIT_USAGE


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        click.echo(f"mproc-go {version('mproc-go')}")
    except PackageNotFoundError:
        click.echo("mproc-go (not installed: run from a source tree)")
    ctx.exit()


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Print the version."
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Go's concurrency for Python, on all cores.

    'mproc-go COMMAND --help' says more about a command.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
