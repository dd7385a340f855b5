"""``mproc-go demo``: analyse Python source on all cores, show the result, and race one plain process.

What makes the comparison fair, and what the output therefore says:

* both sides find the files and run the same functions (analysis.py) on them, and must come to the same report;
* all files are read once before the clock starts, so that neither pays for the disk;
* the goroutines' time includes starting and ending the runtime; the plain loop runs in this process, second, with
  everything imported, which if anything helps the plain loop.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from mproc_go.tools.analysis import Report, analyse_file, find_files, read_source
from mproc_go.tools.exits import EXIT_FAILURE, complain, printable
from mproc_go.tools.which import PROCS

Advance = Callable[[], None]


@click.command(name="demo", short_help="Analyse Python source on all cores, beside one plain process.")
@click.option("--procs", type=PROCS, metavar="N", help="Number of Ps. Default: the cores it may use.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--no-compare", is_flag=True, help="Leave out the same work by one plain process.")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, metavar="K", help="Rows per table.")
@click.argument("folders", nargs=-1, metavar="[FOLDERS]...")
@click.pass_context
def command(
    ctx: click.Context, procs: int | None, as_json: bool, no_compare: bool, top: int, folders: tuple[str, ...]
) -> int:
    """Analyse the Python source in FOLDERS on all cores, and race one plain process.

    Without FOLDERS: the standard library of this Python. A walker goroutine sends paths on a channel, goroutines on
    all Ps parse and measure the files, and a collector merges: lines, functions, cyclomatic complexity, imports. Then
    one plain loop does the same, and both times are shown. Files that can't be read or parsed are listed. Hidden
    folders, site-packages, dist-packages, node_modules and __pycache__ inside FOLDERS are passed over.
    """
    # Absolute: where a worker's current folder is, is not the demo's business.
    roots = [os.path.abspath(f) for f in folders] or [sysconfig.get_path("stdlib")]
    paths = _find(ctx, roots)
    if not no_compare:
        _warm(paths)
    goroutines = _by_goroutines(roots, len(paths), top, procs)
    if not as_json:
        _show(goroutines.report, roots, top)
    plain = None if no_compare else _by_plain_loop(roots, len(paths), top)
    if as_json:
        print(json.dumps(_as_dict(roots, goroutines, plain)))
    else:
        _show_times(goroutines, plain)
    if plain is not None and plain.report.as_dict() != goroutines.report.as_dict():
        complain("the two runs differ: the files changed meanwhile, or this is a bug of mproc_go (please report it)")
        return EXIT_FAILURE
    return 0


def _find(ctx: click.Context, roots: list[str]) -> list[str]:
    """Return the paths of all files; the runs that are timed look for them again."""
    for root in roots:
        if not os.path.isdir(root):
            raise click.UsageError(f"not a folder: {root}" if os.path.exists(root) else f"no such folder: {root}", ctx)
    problems: list[str] = []
    paths = list(find_files(roots, lambda folder, reason: problems.append(f"{folder}: {reason}")))
    if not paths:
        raise click.UsageError("; ".join([f"no .py file in {', '.join(roots)}", *problems]), ctx)
    return paths


@dataclass(frozen=True, slots=True)
class _Run:
    """One way through all the files."""

    report: Report
    seconds: float
    procs: int


def _by_goroutines(roots: list[str], files: int, top: int, procs: int | None) -> _Run:
    from mproc_go import gomaxprocs, run
    from mproc_go.tools.pipeline import collect

    report = Report(roots, top)
    used = 0

    def main() -> None:
        nonlocal used
        used = gomaxprocs()
        collect(roots, report, top, advance)

    with _progress("goroutines", files) as advance:
        start = time.perf_counter()
        run(main, procs=procs)
        seconds = time.perf_counter() - start
    return _Run(report, seconds, used)


def _by_plain_loop(roots: list[str], files: int, top: int) -> _Run:
    report = Report(roots, top)
    with _progress("plain loop", files) as advance:
        start = time.perf_counter()
        for path in find_files(roots, lambda folder, reason: report.add({"path": folder, "error": reason})):
            report.add(analyse_file(path, top))
            advance()
        seconds = time.perf_counter() - start
    return _Run(report, seconds, 1)


def _warm(paths: list[str]) -> None:
    with _progress("reading all files once", len(paths)) as advance:
        for path in paths:
            with contextlib.suppress(OSError):
                read_source(path)
            advance()


@contextlib.contextmanager
def _progress(title: str, files: int) -> Iterator[Advance]:
    """Show a live bar on stderr where somebody can see it; yields what moves it on by one file."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=files)
        yield lambda: progress.advance(task)


# ---- output ----


def _as_dict(roots: list[str], goroutines: _Run, plain: _Run | None) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "folders": roots,
        "procs": goroutines.procs,
        "seconds": round(goroutines.seconds, 4),
        "plain_seconds": None if plain is None else round(plain.seconds, 4),
        "speedup": None if plain is None else round(plain.seconds / goroutines.seconds, 2),
        **goroutines.report.as_dict(),
    }


def _show(report: Report, roots: list[str], top: int) -> None:
    found = report.as_dict()
    console = _console()
    console.print(_text(f"Python source in {', '.join(roots)}"))

    totals = _table("Totals", "", ">")
    mean = found["complexity"] / found["functions"] if found["functions"] else 0
    for name, value in (
        ("files", found["files"]),
        ("lines of code", found["lines"]["code"]),
        ("comment lines", found["lines"]["comment"]),
        ("documentation lines", found["lines"]["documentation"]),
        ("blank lines", found["lines"]["blank"]),
        ("functions", found["functions"]),
        ("classes", found["classes"]),
    ):
        totals.add_row(name, f"{value:,}")
    totals.add_row("complexity of a function, mean", f"{mean:.2f}")
    console.print(totals)

    packages = _table("Largest packages", "package", ">files", ">code lines", ">functions", ">mean complexity")
    for p in found["packages"][:top]:
        mean = p["complexity"] / p["functions"] if p["functions"] else 0
        packages.add_row(
            _text(p["name"]), f"{p['files']:,}", f"{p['code']:,}", f"{p['functions']:,}", f"{mean:.2f}"
        )
    rest = len(found["packages"]) - top
    if rest > 0:
        packages.caption = f"and {rest} more"
    console.print(packages)

    functions = _table("Most complex functions", ">complexity", "function", "where")
    for f in found["complex_functions"]:
        functions.add_row(str(f["complexity"]), _text(f["function"]), _text(f"{f['file']}:{f['line']}"))
    console.print(functions)

    imports = _table("Most used imports", "module", ">files that import it")
    for i in found["imports"]:
        imports.add_row(_text(i["module"]), f"{i['files']:,}")
    console.print(imports)

    if found["unparsable"]:
        table = _table(f"Not measured: {len(found['unparsable'])}", "file", "reason")
        for u in found["unparsable"]:
            table.add_row(_text(report.name(u["path"])), _text(u["reason"]))
        console.print(table)


def _show_times(goroutines: _Run, plain: _Run | None) -> None:
    console = _console()
    where = f"goroutines on {goroutines.procs} Ps"
    console.print(f"{goroutines.seconds:8.2f} s  {where}, start and end of the runtime included")
    if plain is not None:
        ratio = plain.seconds / goroutines.seconds
        console.print(f"{plain.seconds:8.2f} s  one plain loop: same functions, same files, all read once before both")
        console.print(f"{ratio:8.2f}    speed-up{'' if ratio >= 1 else ' (the plain loop was faster)'}")


def _console() -> Console:
    # Into a pipe or file: as wide as the content, so that a path is one word for whatever reads it.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def _table(title: str, *columns: str) -> Table:
    """Return an empty table; a column whose heading begins with ``>`` holds numbers."""
    table = Table(title=title, title_justify="left", show_header=any(c not in ("", ">") for c in columns))
    for column in columns:
        if column.startswith(">"):
            table.add_column(column[1:], justify="right", no_wrap=True)
        else:
            table.add_column(column, overflow="fold")
    return table


def _text(text: str) -> Text:
    """Names of files are not markup, and must not steer the terminal."""
    return Text(printable(text))
