"""``mproc-go stop``: end a runtime, and wait until it is gone."""

from __future__ import annotations

import contextlib
import os
import select
import signal

import click

from mproc_go.tools.which import ANSWER_S, os_pid_in, runtime_named, usage_errors

# It ends its workers within a tenth of a second; a machine may be slow.
GONE_S = 10.0


@click.command(name="stop", short_help="End a runtime.")
@click.argument("name", metavar="NAME")
def command(name: str) -> None:
    """End the runtime NAME: goroutines that still run are abandoned, programs that are attached get NotRunning."""
    from mproc_go.runtime.attach import ask

    runtime_named(name)
    with usage_errors():
        answer, _ = ask(name, "stop", ANSWER_S)
        os_pid = os_pid_in(name, answer)
    with contextlib.suppress(ProcessLookupError):  # it is gone already
        fd = os.pidfd_open(os_pid)
        try:
            if not select.select([fd], [], [], GONE_S)[0]:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                select.select([fd], [], [])
                click.echo(f"runtime {name} did not end by itself and was killed; 'mproc-go gc' removes what it left")
                return
        finally:
            os.close(fd)
    click.echo(f"runtime {name} has ended")
