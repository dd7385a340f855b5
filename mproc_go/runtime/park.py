"""Wait in a queue, and leave it when that ends otherwise than by a decision."""

from __future__ import annotations

from collections.abc import Callable

from mproc_go.errors import NotRunning
from mproc_go.runtime.process import M
from mproc_go.sched import waitq
from mproc_go.shm.layout import G_DECIDE, G_SUDOG, H_STOP
from mproc_go.shm.lock import Lock


def park(
    m: M,
    lock: Lock,
    q: int,
    deadline: float | None,
    undo: Callable[[M, int], None] | None = None,
    left: Callable[[M], list[int]] | None = None,
) -> int:
    """Wait in the queue at word `q`, which the goroutine is in; the lock, which guards it, was given back.

    Args:
        deadline: in seconds of ``time.monotonic``.
        undo: called with the decision where an exception (Ctrl-C) comes together with it: gives back what was got.
        left: called under the lock when the goroutine left the queue undecided; returns goroutines to make ready,
            for whom it was in the way.

    Returns: the decision, or 0 once the deadline passed and the queue is left.
    """
    try:
        decision = m.park(deadline)
    except BaseException:
        try:
            # Where the program is over nobody waits for anything any more, and a lock may never come free.
            if not m.w[H_STOP] and not leave(m, lock, q, left):
                m.take_delivery()
                if undo is not None:
                    undo(m, m.w[m.g + G_DECIDE])
        except NotRunning:  # there is no queue any more; what ended the wait is what the caller is told
            pass
        raise
    if decision or leave(m, lock, q, left):
        return decision
    return m.park()  # decided in the last moment: its delivery is on the way


def leave(m: M, lock: Lock, q: int, left: Callable[[M], list[int]] | None = None) -> bool:
    """Leave the queue; False if the goroutine was decided already."""
    w, g = m.w, m.g
    woken: list[int] = []
    m.enter(lock)
    undecided = not w[g + G_DECIDE]
    if undecided:
        waitq.remove(w, q, g + G_SUDOG)
        if left is not None:
            woken = left(m)
    m.leave(lock)
    if undecided:
        m.end_wait()
    for other in woken:
        m.ready(other)
    return undecided
