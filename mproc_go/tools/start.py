"""``mproc-go start``: a runtime that belongs to no program, for many to attach to."""

from __future__ import annotations

import os
import sys

import click

from mproc_go.tools.which import MEMORY, PROCS, usage_errors


@click.command(name="start", short_help="Start a runtime in the background.")
@click.argument("name", metavar="NAME")
@click.option("--procs", type=PROCS, metavar="N", help="Number of Ps. Default: the cores it may use.")
@click.option(
    "--on-panic",
    type=click.Choice(["log", "end"]),
    default="log",
    show_default=True,
    help="What an exception that nobody waits for does: a line in the log, or the end of the runtime.",
)
@click.option("--preempt", is_flag=True, help="Make goroutines that compute for long yield.")
@click.option("--max-ms", type=click.IntRange(min=1), metavar="N", help="Worker processes at the most.")
@click.option("--memory", type=MEMORY, metavar="BYTES", help="What its memory may grow to.")
def command(
    name: str, procs: int | None, on_panic: str, preempt: bool, max_ms: int | None, memory: int | None
) -> None:
    """Start a runtime in the background; programs join it with attach(NAME). It goes on until 'mproc-go stop NAME'.

    It has the folder and the environment of this command. Its workers look for modules where this Python does, and in
    this folder; what they don't find, programs send them by value. What goroutines print goes to its log.
    """
    with usage_errors():
        from mproc_go.runtime.boot import start_standing
        from mproc_go.shm import names

        names.check_name(name, "runtime")
        if not sys.flags.safe_path:  # it is the folder of the mproc-go script
            sys.path[0] = os.getcwd()
        os_pid = start_standing(
            name, {"procs": procs, "on_panic": on_panic, "preempt": preempt, "max_ms": max_ms, "memory": memory}
        )
        with names.Folder() as folder:
            log = folder.log_path(name)
    click.echo(f"runtime {name} is ready: process {os_pid}, log {log}")
