"""Goroutines on two different Ps. A started goroutine never moves, so it is enough to see where it starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

from mproc_bench.registry import Wrong

__all__ = ["on_two_ps"]

CANDIDATES = 6
BUSY_S = 0.02  # a starting goroutine keeps its P that long, so that the other P takes the next one


def stand_by(index: int, post: Any, job: Any) -> None:
    end = perf_counter() + BUSY_S
    while perf_counter() < end:
        pass
    post.send((index, os.getpid()))
    order = job.recv()
    if order is not None:
        fn, args = order
        fn(*args)


def on_two_ps() -> tuple[Callable[..., None], Callable[..., None]]:
    """Start goroutines until two stand in different workers; return a starter `(fn, *args)` for each of the two."""
    from mproc_go import Chan, go

    post, jobs = Chan(CANDIDATES), [Chan(1) for _ in range(CANDIDATES)]
    for index, job in enumerate(jobs):
        go(stand_by, index, post, job)
    first: dict[int, int] = {}  # worker's os_pid -> the first goroutine seen in it
    for _ in jobs:
        index, os_pid = post.recv()
        first.setdefault(os_pid, index)
    if len(first) < 2:
        raise Wrong("all goroutines started on one P: nothing spread them")
    one, two = list(first.values())[:2]
    for index in set(range(CANDIDATES)) - {one, two}:
        jobs[index].send(None)
    return (lambda fn, *args: jobs[one].send((fn, args))), (lambda fn, *args: jobs[two].send((fn, args)))
