"""kills: what a SIGKILL of a worker costs the others. The victim uses the channel that the others use."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from time import perf_counter, sleep
from typing import Any

from mproc_bench.registry import Wrong, subject
from mproc_bench.spawn import noop


def hammer(ch: Any, told: Any) -> None:
    told.send(os.getpid())
    while True:
        ch.send(1)
        ch.recv()


def _victim(ch: Any) -> tuple[Any, int]:
    """A goroutine that never ends, and the process it is in."""
    import mproc_go

    told: Any = mproc_go.Chan()
    handle = mproc_go.go(hammer, ch, told)
    return handle, told.recv(60)


@subject("kills", "mproc_go, longest pause of a thread that sends and receives", needs="mproc_go", budget="100")
def longest_pause(n: int) -> float:
    """The sum over n kills of the longest time between two messages of this thread, which no worker takes part in."""
    import mproc_go

    total = 0.0
    with mproc_go.Runtime(2):
        for _ in range(n):
            ch: Any = mproc_go.Chan(64)
            victim, os_pid = _victim(ch)
            killer = threading.Timer(0.02, os.kill, (os_pid, signal.SIGKILL))
            killer.start()
            longest, last = 0.0, perf_counter()
            while not victim.done():
                ch.send(1)
                ch.recv()
                now = perf_counter()
                longest, last = max(longest, now - last), now
            killer.join()
            if not isinstance(victim.exception(), mproc_go.WorkerLost):
                raise Wrong("the victim was not lost")
            total += longest
    return total


@subject("kills", "mproc_go, from the kill to WorkerLost", needs="mproc_go", budget="100")
def told(n: int) -> float:
    import mproc_go

    total = 0.0
    with mproc_go.Runtime(2):
        for _ in range(n):
            victim, os_pid = _victim(mproc_go.Chan(64))
            start = perf_counter()
            os.kill(os_pid, signal.SIGKILL)
            if not isinstance(victim.exception(60), mproc_go.WorkerLost):
                raise Wrong("the victim was not lost")
            total += perf_counter() - start
    return total


@subject("kills", "mproc_go, from the kill to the result of the next go(noop)", needs="mproc_go")
def next_result(n: int) -> float:
    import mproc_go

    total = 0.0
    with mproc_go.Runtime(2):
        for _ in range(n):
            victim, os_pid = _victim(mproc_go.Chan(64))
            start = perf_counter()
            os.kill(os_pid, signal.SIGKILL)
            mproc_go.go.options(retries=9)(noop).result(60)
            total += perf_counter() - start
            victim.exception(60)
    return total


@subject("kills", "ProcessPoolExecutor, from the kill to a result of the next pool (this one is broken)")
def process_pool(n: int) -> float:
    context = multiprocessing.get_context("fork")
    total = 0.0
    pool = concurrent.futures.ProcessPoolExecutor(2, mp_context=context)
    try:
        for _ in range(n):
            victim = pool.submit(os.getpid)
            os_pid = victim.result()
            busy = pool.submit(sleep, 60)
            start = perf_counter()
            os.kill(os_pid, signal.SIGKILL)
            with contextlib.suppress(concurrent.futures.BrokenExecutor):
                busy.result()
            pool.shutdown()
            pool = concurrent.futures.ProcessPoolExecutor(2, mp_context=context)
            pool.submit(noop).result()
            total += perf_counter() - start
    finally:
        pool.shutdown()
    return total
