"""``mproc-go stats``: the figures of a runtime, for people or for programs."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mproc_go.tools.which import amount, figures, runtime_named, usage_errors


@click.command(name="stats", short_help="Show the figures of a runtime.")
@click.argument("name", required=False, metavar="[NAME]")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object, with the keys of stats().")
def command(name: str | None, as_json: bool) -> None:
    """Show what stats() says in the runtime NAME: Ps, Ms, goroutines by state, objects, memory.

    Without NAME: of the only one that runs. It takes no place of a program there.
    """
    name = runtime_named(name)
    with usage_errors():
        answer, stats = figures(name)
    if as_json:
        click.echo(json.dumps(stats, indent=2))
        return
    console = Console(highlight=False)
    console.print(f"runtime {name}, process {answer['os_pid']}", markup=False)
    plain = Table.grid(padding=(0, 2))
    for key, value in stats.items():
        if isinstance(value, dict):
            value = ", ".join(f"{count} {what}" for what, count in value.items()) or "none"
        elif isinstance(value, list):
            continue
        elif key.endswith("_bytes"):
            value = amount(value)
        plain.add_row(key, escape(str(value)))
    console.print(plain)
    for value in stats.values():
        if isinstance(value, list) and value:
            console.print(_table(value))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("-" if value is None else escape(str(value)) for value in row.values()))
    return table
