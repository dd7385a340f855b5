"""Which runtime a command is about, and what can be wrong with that: one line and status 2."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import click

from mproc_go.errors import NotRunning
from mproc_go.shm import names
from mproc_go.shm.layout import DYNAMIC, MAX_PS, WORD

# What --procs takes.
PROCS = click.IntRange(1, MAX_PS)
# What --memory takes: with less there is no room for the tables.
MEMORY = click.IntRange(min=DYNAMIC * WORD)
# A supervisor that does not answer within this, in seconds, is stopped, or its machine swaps.
ANSWER_S = 5.0


class Seconds(click.FloatRange):
    """A number of seconds in a range, in which click sees NaN as well."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if seconds != seconds:
            self.fail(f"{value!r} is no number", param, ctx)
        return seconds


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """A wrong name, one that is taken, one that is unknown, a folder that is not ours: the caller can correct it."""
    try:
        yield
    except (NotRunning, RuntimeError, ValueError, PermissionError) as error:
        raise click.ClickException(str(error)) from None


def runtime_named(name: str | None) -> str:
    """The name, checked; without one the name of the only runtime that runs.

    Raises:
        click.ClickException: it is no name; or none runs, or several do.
    """
    with usage_errors():
        if name is not None:
            return names.check_name(name, "runtime")
        running = names.running()
        if not running:
            raise NotRunning(f"no runtime runs (in {names.folder_path()}); start one with: mproc-go start NAME")
        if len(running) > 1:
            raise NotRunning(f"which one? There are {', '.join(running)}")
        return running[0]


def figures(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a runtime says of itself (os_pid, started), and its stats().

    Raises:
        NotRunning, PermissionError: as runtime/attach.py connect; or what it says is nonsense.
    """
    from mproc_go.runtime.attach import ask

    answer, text = ask(name, "stats", ANSWER_S)
    os_pid_in(name, answer)
    try:
        return answer, dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise NotRunning(f"runtime {name!r} speaks another language: {error}") from error


def os_pid_in(name: str, answer: dict[str, Any]) -> int:
    """The number of the supervisor, which answers name.

    Raises:
        NotRunning: this one does not.
    """
    from mproc_go.supervisor import control

    try:
        return control.field(answer, "os_pid", int)
    except ValueError as error:
        raise NotRunning(f"runtime {name!r} speaks another language: {error}") from error


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as a table, as wide as it has to be: a narrow terminal wraps it, and a pipe gets all."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def amount(n_bytes: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


def duration(seconds: float) -> str:
    """A time for people."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
