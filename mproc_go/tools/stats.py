"""``mproc-go stats``: the figures of a runtime, for people or for programs."""

from __future__ import annotations

import json
from typing import Any

import click

from mproc_go.tools.which import amount, columns, figures, runtime_named, usage_errors


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
    click.echo(f"runtime {name}, process {answer['os_pid']}")
    click.echo(columns([(key, _told(key, value)) for key, value in stats.items() if not isinstance(value, list)]))
    for key, value in stats.items():
        if isinstance(value, list) and value:
            rows = [["-" if word is None else str(word) for word in row.values()] for row in value]
            click.echo(f"\n{key}\n{columns([list(value[0]), *rows])}")


def _told(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {what}" for what, count in value.items()) or "none"
    return amount(value) if key.endswith("_bytes") else str(value)
