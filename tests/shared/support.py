"""What the tests of this folder share with their goroutines: no pytest in here, workers import it."""

from __future__ import annotations

import time

from mproc_go import gosched
from mproc_go.sched import waitq
from mproc_go.shared import table
from mproc_go.shm import layout as L

DEADLINE_S = 30.0


def stripes_whole(handle):
    """Assert the invariants of every stripe."""
    m = handle._m()
    for st, number in zip(handle._stripes, handle._numbers, strict=True):
        m.enter(m.locks[number])
        try:
            table.check(m.w, m.mem, st)
        finally:
            m.leave(m.locks[number])


def waiting(handle):
    """How many goroutines wait in it; white box, to know that somebody blocks."""
    m = handle._m()
    n = 0
    for st, number in zip(handle._stripes, handle._numbers, strict=True):
        m.enter(m.locks[number])
        n += sum(len(waitq.sudogs(m.w, wt + L.WT_QUEUE)) for wt in table.wait_records(m.w, st))
        m.leave(m.locks[number])
    return n


def until(condition, what="it"):
    """Let others run until that holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about"
        gosched()
        time.sleep(0.001)
    return value


def until_waiting(handle, n):
    until(lambda: waiting(handle) == n, f"{n} waiting")


def add(mapping, key, n, times):
    """Add to a key, many times."""
    for _ in range(times):
        mapping.compute(key, lambda v: v + n, 0)


def store_range(mapping, first, last):
    for i in range(first, last):
        mapping[i] = i


def compute_when_told(mapping, key, entered, go_on):
    """Begin to compute, say so, and finish when told: sees one more than the old value."""

    def fn(value):
        entered.send(value)
        told = go_on.recv()
        if isinstance(told, Exception):
            raise told
        return told

    return mapping.compute(key, fn, None)


def hash_of(text):
    return hash(text)


def collect(mapping):
    """What another process sees."""
    return dict(mapping.items())
