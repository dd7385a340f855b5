"""What the tests of locks share with their goroutines: no pytest in here, workers import it."""

from __future__ import annotations

import time

from mproc_go import gosched
from mproc_go.sched import waitq

DEADLINE_S = 20.0


def in_queue(handle, *queues):
    """How many goroutines wait in these queues of the record; white box, to know that somebody blocks."""
    m = handle._m()
    m.enter(handle._lock)
    n = sum(len(waitq.sudogs(m.w, handle._base + q)) for q in queues)
    m.leave(handle._lock)
    return n


def until_waiting(handle, n, *queues):
    """Return once `n` goroutines wait there."""
    deadline = time.monotonic() + DEADLINE_S
    while (now := in_queue(handle, *queues)) != n:
        assert time.monotonic() < deadline, f"{now} wait, not {n}"
        gosched()


def check(module, handle):
    """Assert the invariants of a record while nobody changes it."""
    m = handle._m()
    m.enter(handle._lock)
    try:
        module.check(m.w, handle._base)
    finally:
        m.leave(handle._lock)


def lock_then_send(mutex, out, name):
    """Take part in a queue, and report one's turn while having the mutex."""
    with mutex:
        out.send(name)


def count(mutex, n, at, times):
    """Read, let others run, write: sums are right only if nobody comes between."""
    for i in range(times):
        with mutex:
            v = n.load()
            if not i % at:
                gosched()
            n.store(v + 1)


def unlock(mutex):
    mutex.unlock()


def send_result(out, fn, *args):
    """Report what a call returns, or the type of what it raises."""
    try:
        out.send(fn(*args))
    except Exception as error:
        out.send((type(error).__name__, str(error)))
