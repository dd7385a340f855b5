"""The demo's goroutines: a walker, a pool that parses, and the collector that merges.

::

    walk --paths--> parse, parse, ... --results--> collect (goroutine 1, in the calling process)

The walker closes `paths` when it is through, which ends the parsers; when all of them are done (`senders`, a
WaitGroup), `results` is closed, which ends the collector. Every message is a few hundred bytes: trees stay where
they were parsed.

The walker starts the parsers, one after each of the first paths. Starting them before there are paths would do, but
badly: a goroutine stays in the process in which it started, and while the walker still opens its first folder, one
idle process would start all parsers, only to find that each has to wait. One that finds work begins to work, and
leaves the next to another process.

Twin: docs/examples/analyse.py.
"""

from __future__ import annotations

from collections.abc import Callable

from mproc_go import Chan, WaitGroup, go, gomaxprocs
from mproc_go.tools.analysis import Measures, Report, analyse_file, find_files

# Of each channel. Large enough that the walker, who is much faster than the parsers, is soon out of the way and
# leaves its P to them; bounded, so that a tree of any size needs no more memory.
CAPACITY = 1024

# A goroutine that parses never parks while there are paths, so one per P would do; one more each covers the moments
# in which a parser waits for the collector.
PARSERS_PER_P = 2


def collect(folders: list[str], report: Report, top: int, advance: Callable[[], None]) -> None:
    """Analyse all files below `folders` into `report`; call `advance` after each. Runs as a goroutine."""
    paths: Chan[str] = Chan(CAPACITY)
    results: Chan[Measures] = Chan(CAPACITY)
    senders = WaitGroup()
    senders.go(walk, folders, paths, results, senders, top)
    go(close_when_done, senders, results)
    for measures in results:
        report.add(measures)
        advance()


def walk(folders: list[str], paths: Chan[str], results: Chan[Measures], senders: WaitGroup, top: int) -> None:
    """Send every path, and start the pool; a folder that can't be read is reported as a file that can't be."""
    to_start = PARSERS_PER_P * gomaxprocs()
    for path in find_files(folders, lambda folder, reason: results.send({"path": folder, "error": reason})):
        paths.send(path)
        if to_start > 0:
            senders.go(parse, paths, results, top)
            to_start -= 1
    paths.close()


def parse(paths: Chan[str], results: Chan[Measures], top: int) -> None:
    """Measure files until there are no more."""
    for path in paths:
        results.send(analyse_file(path, top))


def close_when_done(senders: WaitGroup, results: Chan[Measures]) -> None:
    """Nobody but the last sender may close a channel, and none of several knows that it is the last."""
    senders.wait()
    results.close()
