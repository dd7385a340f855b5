"""cpu: pure Python work in uneven tasks, results gathered. What all the rest is for: the speed-up over a plain loop."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

from mproc_bench.channels import FORK
from mproc_bench.registry import Wrong, subject


def crunch(size: int) -> int:
    """A checkable loop of about 55 ns a step here."""
    value = size
    for i in range(size):
        value = (value * 31 + i) & 0xFFFFFFFF
    return value


def sizes(n: int) -> list[int]:
    """From nothing to four times the average, most of them small, in no order."""
    return [int((i * 7919 % 1000) ** 2 * 0.021) for i in range(n)]


def timed(gather: Callable[[list[int]], Iterable[int]], n: int) -> float:
    work = sizes(n)
    gather(work[:8])
    start = perf_counter()
    total = sum(gather(work))
    seconds = perf_counter() - start
    if total != sum(map(crunch, work)):
        raise Wrong("the sum of the results is not that of the plain loop")
    return seconds


def worker(jobs: Any, results: Any) -> None:
    for size in jobs:
        results.send(crunch(size))


def feed(jobs: Any, work: list[int]) -> None:
    for size in work:
        jobs.send(size)
    jobs.close()


@subject("cpu", "mproc_go go(f).result()", needs="mproc_go")
def goroutines(n: int) -> float:
    import mproc_go

    def gather(work: list[int]) -> list[int]:
        return [g.result() for g in [mproc_go.go(crunch, size) for size in work]]

    return mproc_go.run(timed, gather, n, procs=2)


@subject("cpu", "mproc_go four workers on a Chan", needs="mproc_go")
def worker_pool(n: int) -> float:
    import mproc_go

    def gather(work: list[int]) -> list[int]:
        jobs, results = mproc_go.Chan(64), mproc_go.Chan(64)
        for _ in range(4):
            mproc_go.go(worker, jobs, results)
        mproc_go.go(feed, jobs, work)
        return [results.recv() for _ in work]

    return mproc_go.run(timed, gather, n, procs=2)


@subject("cpu", "plain loop")
def plain_loop(n: int) -> float:
    return timed(lambda work: list(map(crunch, work)), n)


def process_pool(chunk: int) -> Callable[[int], float]:
    def measure(n: int) -> float:
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=FORK) as pool:
            return timed(lambda work: list(pool.map(crunch, work, chunksize=chunk)), n)

    return measure


for chunk in (1, 16):
    subject("cpu", f"ProcessPoolExecutor.map(chunk {chunk})")(process_pool(chunk))


@subject("cpu", "mp.Pool.imap_unordered(chunk 1)")
def pool_imap(n: int) -> float:
    with FORK.Pool(2) as pool:
        return timed(lambda work: list(pool.imap_unordered(crunch, work, chunksize=1)), n)


@subject("cpu", "joblib loky (batches by itself)", needs="joblib")
def joblib_loky(n: int) -> float:
    from joblib import Parallel, delayed

    with Parallel(n_jobs=2, backend="loky") as parallel:
        return timed(lambda work: parallel(delayed(crunch)(size) for size in work), n)


@subject("cpu", "mpire map (chunks by itself)", needs="mpire")
def mpire_map(n: int) -> float:
    from mpire import WorkerPool

    with WorkerPool(2, keep_alive=True) as pool:
        return timed(lambda work: list(pool.map_unordered(crunch, work)), n)
