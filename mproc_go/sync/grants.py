"""Hand something over to who waits for it: what semaphores, read-write locks and maps share.

Whoever gives something free decides, under the object's lock, who gets it, so that a waiter that is resumed owns it
already and nobody can have overtaken it. Two stores do that, the new state and the decision of the waiter; between
them the waiter's sudog says which state means "given" (SG_SEQ), so that :func:`repair` can tell.
"""

from __future__ import annotations

from typing import Any

from mproc_go.sched import waitq
from mproc_go.shm.layout import G_DECIDE, G_SUDOG, OUT_OK, SG_G, SG_SEQ


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
