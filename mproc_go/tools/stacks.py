"""``mproc-go stacks``: what every goroutine of a runtime is doing."""

from __future__ import annotations

import click

from mproc_go.tools.exits import printable
from mproc_go.tools.which import runtime_named, usage_errors


@click.command(name="stacks", short_help="Show what every goroutine of a runtime does.")
@click.argument("name", required=False, metavar="[NAME]")
def command(name: str | None) -> None:
    """Show each goroutine's state, wait reason and Python stack in the runtime NAME. Without NAME: the only one.

    It joins the runtime for a moment. The stacks of programs that are attached stay theirs: only their state is shown.
    """
    from mproc_go import attach, goid, stacks

    name = runtime_named(name)
    with usage_errors(), attach(name):
        ours = f"goroutine {goid()} ["
        text = stacks()
    entries = [entry for entry in text.rstrip("\n").split("\n\n") if not entry.startswith(ours)]
    click.echo(printable("\n\n".join(entries)) if entries else "no goroutine runs")
