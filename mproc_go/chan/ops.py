"""Channel operations under the channel's lock: ints and bytes only, over words that are parameters.

A buffered channel is a ring of message slots between two counters that only grow. An unbuffered one has no ring: a
message goes from the sender's sudog to the receiver, or from the sender into the receiver's sudog.

Invariants (Source: Go chan.go, first lines):
    CH1  head <= tail <= head + cap.
    CH2  At least one of the two wait queues is empty of undecided goroutines.
    CH3  Receivers wait only while the buffer is empty, senders only while it is full.
    CH4  On a closed channel nobody waits, once the close is complete.

Each operation has one store that publishes it; what it does after that store, :func:`repair` can complete:

    operation                         publishes                     after it
    put into the buffer               CH_TAIL                       -
    take from the buffer              CH_HEAD                       move the first waiting sender in
    move a waiting sender in          CH_TAIL (SG_SEQ was set)      decide the sender, unlink it
    hand to a waiting receiver        its decision word             unlink it
    take from a waiting sender        its decision word             unlink it
    close                             CH_CLOSED                     CH_LIMIT, decide and unlink everybody
    wait                              the link to the sudog         the tail hint

Rejected: a redo record for the operations of several stores; the states between their stores can be told apart.
"""

from __future__ import annotations

from typing import Any

from mproc_go.runtime.message import Body, fetch, put
from mproc_go.sched import waitq
from mproc_go.shm.layout import (
    CH_CAP,
    CH_CLOSED,
    CH_HEAD,
    CH_LIMIT,
    CH_RECVQ,
    CH_RING,
    CH_SENDQ,
    CH_TAIL,
    G_DECIDE,
    G_SUDOG,
    OUT_CLOSED,
    OUT_OK,
    SG_CASE,
    SG_G,
    SG_MSG,
    SG_SEQ,
    SLOT_MSG_WORDS,
)

# What an operation came to.
DONE = 1
CLOSED = 2
MUST_WAIT = 3


def decision(slot: int, outcome: int, case: int = 0) -> int:
    """The decision word that the thread of `slot` ends a wait with."""
    return outcome | case << 8 | slot << 32


def send(w: Any, mem: Any, ch: int, hdr: int, body: Body, slot: int) -> tuple[int, int]:
    """Give the message to a waiting receiver, or put it into the buffer.

    Returns: (DONE, goroutine to make ready or 0), (CLOSED, 0) or (MUST_WAIT, 0).
    Lock: the channel's.     Blocks: never.     Source: Go chan.go chansend.
    """
    s = w[ch + CH_RECVQ]
    if s:  # which a closed channel has none of
        put(w, mem, s + SG_MSG, hdr, body)
        g = w[s + SG_G]
        w[g + G_DECIDE] = OUT_OK | w[s + SG_CASE] << 8 | slot << 32  # publishes: the receiver has it
        waitq.pop(w, ch + CH_RECVQ, s)
        return DONE, g
    if w[ch + CH_CLOSED]:
        return CLOSED, 0
    tail = w[ch + CH_TAIL]
    cap = w[ch + CH_CAP]
    if tail - w[ch + CH_HEAD] < cap:
        put(w, mem, w[ch + CH_RING] + tail % cap * SLOT_MSG_WORDS, hdr, body)
        w[ch + CH_TAIL] = tail + 1  # publishes
        return DONE, 0
    return MUST_WAIT, 0


def recv(w: Any, mem: Any, ch: int, slot: int) -> tuple[int, int, Body, int]:
    """Take the oldest message, from the buffer or from a waiting sender.

    Returns: (DONE, header, body, goroutine to make ready or 0), or (CLOSED or MUST_WAIT, 0, b"", 0).
    Lock: the channel's.     Blocks: never.     Source: Go chan.go chanrecv.
    """
    head = w[ch + CH_HEAD]
    if w[ch + CH_TAIL] != head:
        hdr, body = fetch(w, mem, w[ch + CH_RING] + head % w[ch + CH_CAP] * SLOT_MSG_WORDS)
        w[ch + CH_HEAD] = head + 1  # publishes
        return DONE, hdr, body, admit(w, mem, ch, slot) if w[ch + CH_SENDQ] else 0
    s = w[ch + CH_SENDQ]
    if s:  # unbuffered
        hdr, body = fetch(w, mem, s + SG_MSG)
        g = w[s + SG_G]
        w[g + G_DECIDE] = decision(slot, OUT_OK, w[s + SG_CASE])  # publishes: sent and received
        waitq.pop(w, ch + CH_SENDQ, s)
        return DONE, hdr, body, g
    return (CLOSED if w[ch + CH_CLOSED] else MUST_WAIT), 0, b"", 0


def admit(w: Any, mem: Any, ch: int, slot: int) -> int:
    """Move the message of the first waiting sender into the place that became free; return the sender.

    Lock: the channel's. There is a waiting sender and a free place.
    """
    s = w[ch + CH_SENDQ]
    tail = w[ch + CH_TAIL]
    hdr, body = fetch(w, mem, s + SG_MSG)
    put(w, mem, w[ch + CH_RING] + tail % w[ch + CH_CAP] * SLOT_MSG_WORDS, hdr, body)
    w[s + SG_SEQ] = tail + 1  # so that repair knows this message from one still waiting
    w[ch + CH_TAIL] = tail + 1  # publishes
    g: int = w[s + SG_G]
    w[g + G_DECIDE] = decision(slot, OUT_OK, w[s + SG_CASE])
    waitq.pop(w, ch + CH_SENDQ, s)
    return g


def wait_to_send(w: Any, mem: Any, ch: int, g: int, hdr: int, body: Body) -> None:
    """Enqueue the goroutine with the message it brings. Lock: the channel's."""
    put(w, mem, g + G_SUDOG + SG_MSG, hdr, body)
    w[g + G_SUDOG + SG_SEQ] = 0
    waitq.join(w, ch + CH_SENDQ, g)


def close(w: Any, ch: int, slot: int) -> tuple[bool, list[int]]:
    """Close the channel; return whether it was open, and the goroutines to make ready. Lock: the channel's.

    Source: Go chan.go closechan.
    """
    if w[ch + CH_CLOSED]:
        return False, []
    w[ch + CH_CLOSED] = 1  # publishes
    w[ch + CH_LIMIT] = 0
    closed = decision(slot, OUT_CLOSED)
    return True, waitq.decide_all(w, ch + CH_RECVQ, closed) + waitq.decide_all(w, ch + CH_SENDQ, closed)


# ---------------------------------------------------------------- repair and invariants
def repair(w: Any, mem: Any, ch: int, slot: int) -> list[int]:
    """Complete what a dead thread began on this channel; return goroutines to make ready. Runs alone, locked."""
    woken = []
    s = w[ch + CH_SENDQ]
    if s and w[s + SG_SEQ] and not w[w[s + SG_G] + G_DECIDE]:
        if w[s + SG_SEQ] <= w[ch + CH_TAIL]:  # its message is in the buffer
            w[w[s + SG_G] + G_DECIDE] = decision(slot, OUT_OK, w[s + SG_CASE])
            woken.append(w[s + SG_G])
        else:
            w[s + SG_SEQ] = 0
    waitq.repair(w, ch + CH_RECVQ)
    waitq.repair(w, ch + CH_SENDQ)
    if w[ch + CH_CLOSED]:
        w[ch + CH_LIMIT] = 0
        closed = decision(slot, OUT_CLOSED)
        woken += waitq.decide_all(w, ch + CH_RECVQ, closed) + waitq.decide_all(w, ch + CH_SENDQ, closed)
    while w[ch + CH_SENDQ] and w[ch + CH_TAIL] - w[ch + CH_HEAD] < w[ch + CH_CAP]:
        woken.append(admit(w, mem, ch, slot))
    return woken


def check(w: Any, ch: int) -> None:
    """Assert CH1 to CH4 and the invariants of both queues. Runs alone."""
    n = w[ch + CH_TAIL] - w[ch + CH_HEAD]
    assert 0 <= n <= w[ch + CH_CAP], f"CH1: {n} messages in a buffer of {w[ch + CH_CAP]}"
    for q in (CH_RECVQ, CH_SENDQ):
        waitq.check(w, ch + q)
    receivers, senders = w[ch + CH_RECVQ], w[ch + CH_SENDQ]
    assert not (receivers and senders), "CH2: receivers and senders wait at once"
    assert not receivers or n == 0, f"CH3: a receiver waits beside {n} messages"
    assert not senders or n == w[ch + CH_CAP], f"CH3: a sender waits beside {w[ch + CH_CAP] - n} free places"
    if w[ch + CH_CLOSED]:
        assert w[ch + CH_LIMIT] == 0, "CH4: a closed channel has room"
        assert not receivers and not senders, "CH4: somebody waits on a closed channel"
