"""spawn: n no-ops handed over one by one and waited for. The workers already stand; starting them is `startup`."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sized
from time import perf_counter
from typing import Any

from mproc_bench.channels import FORK
from mproc_bench.registry import Wrong, subject


def noop(_: int = 0) -> None:
    pass


def finish(wg: Any) -> None:
    wg.done()


def timed(spawn_and_wait: Callable[[int], Sized], n: int) -> float:
    spawn_and_wait(100)  # the workers stand, the function is known to them
    start = perf_counter()
    answers = spawn_and_wait(n)
    seconds = perf_counter() - start
    if len(answers) != n:
        raise Wrong(f"{len(answers)} of {n} tasks answered")
    return seconds


@subject("spawn", "mproc_go wg.go(f)", needs="mproc_go")
def wait_group_go(n: int) -> float:
    import mproc_go

    def spawn_and_wait(n: int) -> Sized:
        wg = mproc_go.WaitGroup()
        for _ in range(n):
            wg.go(noop)
        wg.wait()
        return range(n)  # that each ran is what the wait group counted

    return mproc_go.run(timed, spawn_and_wait, n, procs=2)


@subject("spawn", "mproc_go go(f, wg)", needs="mproc_go")
def go_with_wait_group(n: int) -> float:
    import mproc_go

    def spawn_and_wait(n: int) -> Sized:
        wg = mproc_go.WaitGroup()
        wg.add(n)
        for _ in range(n):
            mproc_go.go(finish, wg)
        wg.wait()
        return range(n)

    return mproc_go.run(timed, spawn_and_wait, n, procs=2)


@subject("spawn", "mproc_go go(f).result()", needs="mproc_go")
def go_and_result(n: int) -> float:
    import mproc_go

    def spawn_and_wait(n: int) -> Sized:
        return [g.result() for g in [mproc_go.go(noop) for _ in range(n)]]

    return mproc_go.run(timed, spawn_and_wait, n, procs=2)


@subject("spawn", "ProcessPoolExecutor.submit")
def process_pool(n: int) -> float:
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=FORK) as pool:
        return timed(lambda n: [f.result() for f in [pool.submit(noop) for _ in range(n)]], n)


@subject("spawn", "mp.Pool.apply_async")
def pool_apply(n: int) -> float:
    with FORK.Pool(2) as pool:
        return timed(lambda n: [r.get() for r in [pool.apply_async(noop) for _ in range(n)]], n)


@subject("spawn", "mp.Pool.imap_unordered(chunk 1)")
def pool_imap(n: int) -> float:
    with FORK.Pool(2) as pool:
        return timed(lambda n: list(pool.imap_unordered(noop, range(n), chunksize=1)), n)


@subject("spawn", "joblib loky (batches by itself)", needs="joblib")
def joblib_loky(n: int) -> float:
    from joblib import Parallel, delayed

    with Parallel(n_jobs=2, backend="loky") as parallel:
        return timed(lambda n: parallel(delayed(noop)() for _ in range(n)), n)


@subject("spawn", "mpire imap_unordered(chunk 1)", needs="mpire")
def mpire_imap(n: int) -> float:
    from mpire import WorkerPool

    with WorkerPool(2, keep_alive=True) as pool:
        return timed(lambda n: list(pool.imap_unordered(noop, range(n), chunk_size=1)), n)


@subject("spawn", "asyncio.create_task (one process)")
def asyncio_tasks(n: int) -> float:
    import asyncio

    async def task() -> None:
        pass

    async def main(n: int) -> Sized:
        return await asyncio.gather(*[asyncio.create_task(task()) for _ in range(n)])

    return timed(lambda n: asyncio.run(main(n)), n)


@subject("spawn", "gevent.spawn (one process)", needs="gevent")
def gevent_spawn(n: int) -> float:
    import gevent

    return timed(lambda n: gevent.joinall([gevent.spawn(noop) for _ in range(n)]), n)
