"""Wait queues: FIFO lists of sudogs, and the decision word that ends a wait.

A queue is two words, head and tail; a sudog is a goroutine's place in one queue. The links from the head on are the
truth; the tail and the backward links are hints that :func:`repair` recomputes.

A wait ends by one store, ``w[g + G_DECIDE]``, made under the lock of the object waited for. Whatever the goroutine is
given (a message, the news that a channel closed) is written before that store and read after it. The sudog is unlinked
after it; a sudog whose goroutine is decided counts as unlinked.

Invariants:
    WQ1  From the head on, the links end with 0, and no sudog is in two queues.
    WQ2  The tail is the last sudog (while the head is not 0), and each backward link the one before.
    WQ3  Undecided goroutines are in exactly the queues they wait in, in the order they came.

Crash: enqueue publishes by the link that reaches the sudog; pop and remove by the link that passes it by.
"""

from __future__ import annotations

from collections.abc import MutableSequence

from mproc_go.shm.layout import G_DECIDE, G_SUDOG, SG_CASE, SG_G, SG_LINK, SG_MSG, SG_PREV, SG_SELECT, SG_SEQ

Words = MutableSequence[int]

# SG_SELECT of a sudog that was taken out of its queue.
OUT = 2


def settle_sudog(w: Words, g: int) -> None:
    """Prepare the sudog in the record of `g`, for all the waits on single queues it will do. Runs: as `g` starts."""
    s = g + G_SUDOG
    w[s + SG_G] = g
    w[s + SG_CASE] = 0
    w[s + SG_SEQ] = 0
    w[s + SG_SELECT] = 0
    w[s + SG_MSG] = 0


def join(w: Words, q: int, g: int) -> None:
    """Put the goroutine `g` at the end of the queue, by the sudog in its record. Lock: the object's."""
    enqueue(w, q, g + G_SUDOG)


def enqueue(w: Words, q: int, s: int) -> None:
    """Put the sudog `s` at the end of the queue whose head is word `q`. Lock: the object's."""
    w[s + SG_LINK] = 0
    if w[q]:
        last = w[q + 1]
        w[s + SG_PREV] = last
        w[last + SG_LINK] = s  # publishes
        w[q + 1] = s
    else:
        w[s + SG_PREV] = 0
        w[q + 1] = s
        w[q] = s  # publishes


def enqueue_first(w: Words, q: int, s: int) -> None:
    """Put the sudog `s` back to the head of the queue, where it was before. Lock: the object's."""
    first = w[q]
    w[s + SG_PREV] = 0
    w[s + SG_LINK] = first
    if not first:
        w[q + 1] = s
    w[q] = s  # publishes
    if first:
        w[first + SG_PREV] = s


def pop(w: Words, q: int, s: int) -> None:
    """Unlink the first sudog `s`. Lock: the object's."""
    following = w[s + SG_LINK]
    w[q] = following  # publishes
    if following:
        w[following + SG_PREV] = 0


def remove(w: Words, q: int, s: int) -> None:
    """Unlink `s`, wherever it stands in the queue. Lock: the object's."""
    before = w[s + SG_PREV]
    following = w[s + SG_LINK]
    if before:
        w[before + SG_LINK] = following  # publishes
    else:
        w[q] = following  # publishes
    if following:
        w[following + SG_PREV] = before
    else:
        w[q + 1] = before


def decide_all(w: Words, q: int, decision: int) -> list[int]:
    """End the wait of everybody in the queue; return the goroutines, first come first. Lock: the object's."""
    woken = []
    s = w[q]
    while s:
        g = w[s + SG_G]
        w[g + G_DECIDE] = decision  # publishes
        pop(w, q, s)
        woken.append(g)
        s = w[q]
    return woken


def sudogs(w: Words, q: int) -> list[int]:
    """The sudogs in the queue, first one first."""
    found = []
    s = w[q]
    while s:
        found.append(s)
        s = w[s + SG_LINK]
    return found


def repair(w: Words, q: int) -> None:
    """Unlink sudogs whose goroutine is decided, and recompute the hints. Runs alone, under the object's lock."""
    previous = 0
    s = w[q]
    while s:
        following = w[s + SG_LINK]
        if w[w[s + SG_G] + G_DECIDE] or w[s + SG_SELECT] == OUT:
            if w[s + SG_SELECT]:
                w[s + SG_SELECT] = OUT
            if previous:
                w[previous + SG_LINK] = following
            else:
                w[q] = following
        else:
            w[s + SG_PREV] = previous
            previous = s
        s = following
    w[q + 1] = previous


def check(w: Words, q: int) -> None:
    """Assert WQ1 and WQ2. Runs alone."""
    previous = 0
    seen = set()
    s = w[q]
    while s:
        assert s not in seen, f"WQ1: the queue at {q} is cyclic"
        seen.add(s)
        assert w[s + SG_PREV] == previous, f"WQ2: backward link of {s} is {w[s + SG_PREV]}, not {previous}"
        previous, s = s, w[s + SG_LINK]
    assert not w[q] or w[q + 1] == previous, f"WQ2: tail of the queue at {q} is {w[q + 1]}, not {previous}"
