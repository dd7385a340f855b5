"""Records that nobody refers to any more, found by the supervisor, on their way to a worker that frees them.

A list from S_ORPHANS on, linked by R_LINK. Lock: L_SCHED.
"""

from __future__ import annotations

from typing import Any

from mproc_go.shm.layout import L_SCHED, R_LINK, S_ORPHANS
from mproc_go.shm.thread import Thread

# Lowest bit of an entry: it is a goroutine.
GOROUTINE = 1


def put(t: Thread, tagged: int) -> None:
    """Give a record to whichever worker looks first. Runs: the supervisor, whose own it is from here on."""
    w = t.w
    base = tagged & ~GOROUTINE
    w[base] = t.dying
    lock = t.locks[L_SCHED]
    t.enter(lock)
    w[base + R_LINK] = w[S_ORPHANS]
    w[S_ORPHANS] = tagged  # publishes
    t.leave(lock)


def take(t: Thread) -> int:
    """The first of them, ours to destroy; 0 if there is none."""
    w = t.w
    lock = t.locks[L_SCHED]
    t.enter(lock)
    tagged: int = w[S_ORPHANS]
    if tagged:
        base = tagged & ~GOROUTINE
        w[base] = t.dying  # goes for nothing as long as it is in the list
        w[S_ORPHANS] = w[base + R_LINK]  # publishes
    t.leave(lock)
    return tagged


def listed(w: Any) -> set[int]:
    """The records in the list. Lock: L_SCHED, or nobody else runs."""
    found = set()
    tagged = w[S_ORPHANS]
    while tagged:
        found.add(tagged & ~GOROUTINE)
        tagged = w[(tagged & ~GOROUTINE) + R_LINK]
    return found
