"""balance: how well the Ps are kept busy by uneven work: the share of P-time that was idle while work waited.

Tasks of three orders of magnitude (10 us to 10 ms), all spawned by one place. The main thread samples the scheduler's
words; a sample counts an idle P only while some queue holds a goroutine.
"""

from __future__ import annotations

import time
from typing import Any

from mproc_bench.cpu import crunch
from mproc_bench.registry import Wrong, subject

SAMPLE_S = 0.0005
# crunch steps for some 10 us, 100 us, 1 ms, 10 ms; few of the long ones.
STEPS = (180, 1_800, 18_000, 180_000)
WEIGHTS = (60, 25, 12, 3)


def sizes(n: int) -> list[int]:
    pattern = [steps for steps, weight in zip(STEPS, WEIGHTS, strict=True) for _ in range(weight)]
    return [pattern[i * 37 % len(pattern)] for i in range(n)]


def spawn_all(work: list[int], done: Any) -> None:
    from mproc_go import WaitGroup

    wg = WaitGroup()
    for size in work:
        wg.go(crunch, size)
    wg.wait()
    done.send(len(work))


def watched(n: int, from_main: bool) -> float:
    """Percent of P-time idle while work waited, times n (the report divides by n)."""
    from mproc_go import Chan, go, stats

    work = sizes(n)
    done: Any = Chan(1)
    if from_main:
        handles = [go(crunch, size) for size in work]
        done_at = handles[-1]
    else:
        handles = [go(spawn_all, work, done)]
        done_at = handles[0]
    samples = idle = 0
    while not done_at.done() or not all(handle.done() for handle in handles):
        figures = stats()
        waiting = figures["runqueue"] + sum(p["runqueue"] for p in figures["ps"])
        samples += figures["gomaxprocs"]
        if waiting:
            idle += min(figures["idle_ps"], waiting)
        time.sleep(SAMPLE_S)
    if not from_main and done.recv() != n:
        raise Wrong("not all tasks ran")
    for handle in handles:
        handle.result()
    return idle / max(1, samples) * n


@subject("balance", "mproc_go one goroutine spawns all", needs="mproc_go")
def from_a_goroutine(n: int) -> float:
    import mproc_go

    return mproc_go.run(watched, n, False, procs=2)


@subject("balance", "mproc_go the main thread spawns all", needs="mproc_go")
def from_main(n: int) -> float:
    import mproc_go

    return mproc_go.run(watched, n, True, procs=2)
