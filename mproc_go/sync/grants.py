"""Wait for something that is handed over, and hand it over: what mutexes, semaphores and read-write locks share.

Whoever gives something free decides, under the object's lock, who gets it, so that a waiter that is resumed owns it
already and nobody can have overtaken it. Two stores do that, the new state and the decision of the waiter; between
them the waiter's sudog says which state means "given" (SG_SEQ), so that :func:`repair` can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mproc_go.runtime.process import M
from mproc_go.sched import waitq
from mproc_go.shm.layout import G_DECIDE, G_SUDOG, H_STOP, OUT_OK, SG_G, SG_SEQ
from mproc_go.shm.lock import Lock


def join(w: Any, q: int, g: int) -> None:
    """Put the goroutine at the end of the queue. Lock: the object's."""
    w[g + G_SUDOG + SG_SEQ] = 0
    waitq.join(w, q, g)


def give_first(w: Any, q: int, state: int, value: int, slot: int) -> int:
    """Store `value` in the word `state`, which gives the first in the queue what it waits for; return the goroutine.

    Lock: the object's.
    """
    s = w[q]
    w[s + SG_SEQ] = value + 1
    w[state] = value  # publishes
    g: int = w[s + SG_G]
    w[g + G_DECIDE] = OUT_OK | slot << 32
    waitq.pop(w, q, s)
    return g


def repair(w: Any, q: int, state: int, slot: int) -> list[int]:
    """Complete a :func:`give_first` and mend the queue; return goroutines to make ready. Runs alone, locked."""
    woken = []
    s = w[q]
    if s and w[s + SG_SEQ] and not w[w[s + SG_G] + G_DECIDE]:
        if w[state] == w[s + SG_SEQ] - 1:
            w[w[s + SG_G] + G_DECIDE] = OUT_OK | slot << 32
            woken.append(w[s + SG_G])
        else:
            w[s + SG_SEQ] = 0
    waitq.repair(w, q)
    return woken


def wait(
    m: M,
    lock: Lock,
    q: int,
    deadline: float | None,
    undo: Callable[[M, int], None],
    left: Callable[[M], list[int]] | None = None,
) -> int:
    """Wait in the queue at word `q`, which the goroutine is in; the lock, which guards it, was given back.

    Args:
        deadline: in seconds of ``time.monotonic``.
        undo: called with the decision where an exception (Ctrl-C) comes together with it: gives it back.
        left: called under the lock when the goroutine left the queue undecided; returns goroutines to make ready,
            for whom it was in the way.

    Returns: the decision, or 0 once the deadline passed and the queue is left.
    """
    try:
        decision = m.park(deadline)
    except BaseException:
        # Where the program is over nobody waits for anything any more, and a lock may never come free.
        if not m.w[H_STOP] and not _leave(m, lock, q, left):
            m.take_delivery()
            undo(m, m.w[m.g + G_DECIDE])
        raise
    if decision or _leave(m, lock, q, left):
        return decision
    return m.park()  # decided in the last moment: its delivery is on the way


def _leave(m: M, lock: Lock, q: int, left: Callable[[M], list[int]] | None) -> bool:
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
