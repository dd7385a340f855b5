"""startup: from nothing to the result of a no-op and back to nothing, again and again in one process."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable
from time import perf_counter

from mproc_bench.registry import subject
from mproc_bench.spawn import noop


def timed(start_and_end: Callable[[], object], n: int) -> float:
    start_and_end()  # imports, and the fork server, which stays
    start = perf_counter()
    for _ in range(n):
        start_and_end()
    return perf_counter() - start


@subject("startup", "mproc_go run, one go(noop).result()", needs="mproc_go", budget="200")
def run_goroutine(n: int) -> float:
    import mproc_go

    return timed(lambda: mproc_go.run(lambda: mproc_go.go(noop).result(), procs=2), n)


@subject("startup", "mproc_go run(noop)", needs="mproc_go", budget="200")
def run_main(n: int) -> float:
    import mproc_go

    return timed(lambda: mproc_go.run(noop, procs=2), n)


def process_pool(method: str) -> Callable[[int], float]:
    def once() -> None:
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            pool.submit(noop).result()

    return lambda n: timed(once, n)


for method in ("fork", "forkserver", "spawn"):
    subject("startup", f"ProcessPoolExecutor ({method})")(process_pool(method))


@subject("startup", "mp.Pool (fork)")
def mp_pool(n: int) -> float:
    def once() -> None:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.apply(noop)

    return timed(once, n)


@subject("startup", "joblib loky", needs="joblib")
def joblib_loky(n: int) -> float:
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    def once() -> None:
        Parallel(n_jobs=2, backend="loky")([delayed(noop)(), delayed(noop)()])
        get_reusable_executor().shutdown(wait=True)

    return timed(once, n)


@subject("startup", "mpire (fork)", needs="mpire")
def mpire_pool(n: int) -> float:
    from mpire import WorkerPool

    def once() -> None:
        with WorkerPool(2, start_method="fork") as pool:
            pool.map(noop, [0, 1])

    return timed(once, n)
