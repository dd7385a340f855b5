"""``mproc-go ps``: the standing runtimes of this user, a line each."""

from __future__ import annotations

import time

import click

from mproc_go.errors import NotRunning
from mproc_go.shm import names
from mproc_go.tools.which import amount, columns, duration, figures, usage_errors

_HEAD = ("NAME", "PROCESS", "PROCS", "WORKERS", "CLIENTS", "GOROUTINES", "MEMORY", "SINCE")


@click.command(name="ps", short_help="List the runtimes that programs can attach to.")
def command() -> None:
    """List the runtimes with a name, of this user: started with 'mproc-go start NAME' or Runtime(name=NAME)."""
    rows = [_HEAD]
    with usage_errors():
        running = names.running()
    for name in running:
        try:
            answer, stats = figures(name)
        except NotRunning as error:
            if name in names.running():  # else it ended while we looked
                click.echo(f"mproc-go: {error}", err=True)
            continue
        rows.append(
            (
                name,
                str(answer["os_pid"]),
                str(stats["gomaxprocs"]),
                str(len(stats["ms"])),
                str(stats["clients"]),
                str(stats["goroutines"]),
                amount(stats["memory_bytes"]),
                duration(time.time() - answer["started"]),
            )
        )
    click.echo(columns(rows))
