"""Wait in a queue, and leave it when that ends otherwise than by a decision."""

from __future__ import annotations

from mproc_go.errors import NotRunning
from mproc_go.runtime.process import M
from mproc_go.sched import waitq
from mproc_go.shm.layout import G_DECIDE, G_SUDOG
from mproc_go.shm.lock import Lock


def park(m: M, lock: Lock, q: int, deadline: float | None) -> int:
    """Wait in the queue at word `q`, which the goroutine is in; the lock, which guards it, was given back.

    Returns: the decision, or 0 once the deadline (``time.monotonic`` seconds) passed and the queue is left.
    """
    try:
        decision = m.park(deadline)
    except BaseException:
        try:
            if not _withdraw(m, lock, q):
                m.take_delivery()
        except NotRunning:  # there is no queue any more; what ended the wait is what the caller is told
            pass
        raise
    if decision or _withdraw(m, lock, q):
        return decision
    return m.park()  # decided in the last moment: its delivery is on the way


def _withdraw(m: M, lock: Lock, q: int) -> bool:
    """Leave the queue; False if the goroutine was decided already."""
    w, g = m.w, m.g
    m.enter(lock)
    undecided = not w[g + G_DECIDE]
    if undecided:
        waitq.remove(w, q, g + G_SUDOG)
    m.leave(lock)
    if undecided:
        m.end_wait()
    return undecided
