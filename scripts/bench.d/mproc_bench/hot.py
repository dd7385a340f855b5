"""hot: what one operation of the hot paths costs where nothing contends, beside its budget in design.md.

The two floor rows are the machine's own prices (75 ns and 22-26 ns where the budgets were made): where they are higher
today, so is everything else. A turn's figure is the best of its slices: what the operation costs when nothing
interferes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any

from mproc_bench.registry import Wrong, subject

SLICES = 20  # short ones: on a busy machine some are left alone
ran = 0  # ticks in this process: with procs=1 all goroutines of a runtime share it


def best(fn: Callable[[int], float], n: int) -> float:
    return min(fn(n // SLICES) for _ in range(SLICES)) * SLICES


def in_one_p(fn: Callable[[int], float], n: int) -> float:
    """Measure fn in a goroutine on the only P."""
    import mproc_go

    def main() -> float:
        return float(mproc_go.go(best, fn, n).result())

    return mproc_go.run(main, procs=1)


def send_and_recv(n: int) -> float:
    from mproc_go import Chan

    ch: Any = Chan(16)
    send, recv = ch.send, ch.recv
    total, start = 0, perf_counter()
    for i in range(n):
        send(i)
        total += recv()
    seconds = perf_counter() - start
    if total != n * (n - 1) // 2:
        raise Wrong("the sum of the messages is not that of what was sent")
    return seconds / 2


def tick() -> None:
    global ran
    ran += 1


def spawn_ticks(n: int) -> float:
    from mproc_go import go

    return spawned(go, n)


def spawn_counted(n: int) -> float:
    from mproc_go import WaitGroup

    return spawned(WaitGroup().go, n)


def spawned(go: Callable[..., Any], n: int) -> float:
    """Only the spawner's side: the goroutines run while the clock stands, in batches that fit the P's own queue."""
    from mproc_go import gosched

    batch, seconds, before, end = 200, 0.0, ran, monotonic() + 50
    for done in range(batch, n + 1, batch):
        start = perf_counter()
        for _ in range(batch):
            go(tick)
        seconds += perf_counter() - start
        while ran - before < done:
            gosched()
            if monotonic() > end:
                raise Wrong(f"{ran - before} of {done} goroutines ran")
    return seconds * n / (n // batch * batch)


def yield_to_the_other(n: int) -> None:
    from mproc_go import gosched

    for _ in range(n):
        tick()
        gosched()


def switch(n: int) -> float:
    """Two goroutines yield to each other: n switches in all."""
    from mproc_go import go

    before = ran
    other = go(yield_to_the_other, n // 2)
    start = perf_counter()
    yield_to_the_other(n // 2)
    other.result()
    seconds = perf_counter() - start
    if ran - before != n // 2 * 2:
        raise Wrong(f"{ran - before} of {n} switches")
    return seconds


def add_and_done(n: int) -> float:
    from mproc_go import WaitGroup

    wg = WaitGroup()
    add, done = wg.add, wg.done
    start = perf_counter()
    for _ in range(n):
        add(1)
        done()
    seconds = perf_counter() - start
    wg.wait(timeout=1)
    return seconds / 2


@subject("hot", "mproc_go Chan(16) send or recv", needs="mproc_go", budget="1.0-1.5")
def hot_chan(n: int) -> float:
    return in_one_p(send_and_recv, n)


@subject("hot", "mproc_go go(f), spawner's side", needs="mproc_go", budget="2-3")
def hot_spawn(n: int) -> float:
    return in_one_p(spawn_ticks, n)


@subject("hot", "mproc_go wg.go(f), spawner's side", needs="mproc_go")
def hot_counted(n: int) -> float:
    return in_one_p(spawn_counted, n)


@subject("hot", "mproc_go gosched, switch", needs="mproc_go", budget="1.0")
def hot_switch(n: int) -> float:
    return in_one_p(switch, n)


@subject("hot", "mproc_go WaitGroup add or done", needs="mproc_go")
def hot_wait_group(n: int) -> float:
    return in_one_p(add_and_done, n)


@subject("hot", "floor: semaphore acquire + release", needs="posix_ipc", budget="0.075")
def floor_semaphore(n: int) -> float:
    import posix_ipc

    name = f"/mproc_bench_{os.getpid()}"
    semaphore = posix_ipc.Semaphore(name, posix_ipc.O_CREX, initial_value=1)
    semaphore.unlink()
    acquire, release = semaphore.acquire, semaphore.release

    def pairs(n: int) -> float:
        start = perf_counter()
        for _ in range(n):
            acquire()
            release()
        return perf_counter() - start

    return best(pairs, n)


@subject("hot", "floor: one word read", budget="0.026")
def floor_word(n: int) -> float:
    words = memoryview(mmap.mmap(-1, 4096)).cast("Q")

    def reads(n: int) -> float:
        start = perf_counter()
        for _ in range(n):
            words[3]
        return perf_counter() - start

    return best(reads, n)
