"""Channel operations under the channel's lock: ints and bytes only, over words that are parameters.

A buffered channel is a ring of message slots between two counters that only grow. An unbuffered one has no ring: a
message goes from the sender's sudog to the receiver, or from the sender into the receiver's sudog.

A goroutine that waits in a select stands in several queues, under several locks. Whoever wants to end its wait first
claims it: one store of its decision word, under its claim lock. Who comes second takes its sudog out and looks further.

A receiver that has its message and may not keep it (an asyncio task cancelled in that moment) gives it back. Where
nobody waits for it, it lies at the head of the senders' queue, as a sudog in a block of its own that belongs to nobody:
so it is the next message, whatever is buffered, and costs those a look who find somebody in that queue anyway.

Invariants (Source: Go chan.go, first lines):
    CH1  head <= tail <= head + cap.
    (Messages given back count neither as buffered nor as waiting senders; nobody waits to receive where there is one.)
    CH2  At least one of the two wait queues is empty of undecided goroutines (a select may stand in both).
    CH3  Receivers wait only while the buffer is empty, senders only while it is full.
    CH4  On a closed channel nobody waits, once the close is complete.

Each operation has one store that publishes it; what it does after that store, :func:`repair` can complete:

    operation                         publishes                     after it
    put into the buffer, also many    CH_TAIL                       -
    take from the buffer              CH_HEAD                       move the first waiting sender in
    take many, where nobody waits     CH_HEAD                       -
    move a waiting sender in          its decision word             CH_TAIL (SG_SEQ says up to where), unlink it
    hand to a waiting receiver        its decision word             unlink it
    take from a waiting sender        its decision word             unlink it
    close                             CH_CLOSED                     CH_LIMIT, decide and unlink everybody
    wait                              the link to the sudog         the tail hint
    give back                         the head of the senders       the backward link
    take what was given back          the head of the senders       -

A message with a block is live from the store that publishes it to the one that takes it out, and else somebody's own
(shm/pool.py): so it is said beside these stores. Before a decision, since whoever is decided may be on its way at once;
behind a put, ahead of a take. :func:`names` tells the repair what of it holds.

Rejected: a redo record for the operations of several stores; the states between their stores can be told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mproc_go.runtime.message import Body, fetch, let_go, own, put
from mproc_go.sched import waitq
from mproc_go.shm.layout import (
    BLOCK_DATA,
    CH_CAP,
    CH_CLOSED,
    CH_HEAD,
    CH_LIMIT,
    CH_RECVQ,
    CH_RING,
    CH_SENDQ,
    CH_TAIL,
    G_DECIDE,
    G_M,
    G_SUDOG,
    HDR_HAS_HANDLES,
    HDR_SPILLED,
    MIN_BLOCK_ORDER,
    OUT_CLOSED,
    OUT_OK,
    REC_CACHED,
    REC_CARRIES,
    REC_LIVE,
    REC_STATE,
    SG_CASE,
    SG_G,
    SG_LINK,
    SG_MSG,
    SG_RECEIVES,
    SG_SELECT,
    SG_SEQ,
    SG_WORDS,
    SLOT_MSG_WORDS,
    WORD,
    claim_lock,
)
from mproc_go.shm.pool import give_locked
from mproc_go.shm.thread import Thread

# What an operation came to.
DONE = 1
CLOSED = 2
MUST_WAIT = 3

_CASE_SHIFT = 8
_CASE_MASK = 0xFFFFFF
_SLOT_SHIFT = 32

# SG_SELECT of a message that was given back, and the bytes of the block its sudog lies in.
GIVEN_BACK = 3
GIVEN_BACK_BYTES = SG_WORDS * WORD
# Its "goroutine" is that many words before the sudog: undecided, and of no M (two words of the sudog, which are 0).
_NOBODY = SG_CASE - G_M
assert SG_SEQ - G_DECIDE == _NOBODY


def decide(t: Thread, s: int, outcome: int, level: int) -> bool:
    """End the wait of the goroutine of sudog `s`; False if another channel was faster (select).

    Lock: the channel's; `level` is how many locks the thread holds.     Blocks: for the claim lock, in a select.
    """
    w = t.w
    g = w[s + SG_G]
    word = outcome | w[s + SG_CASE] << _CASE_SHIFT | t.slot << _SLOT_SHIFT
    if not w[s + SG_SELECT]:
        w[g + G_DECIDE] = word  # publishes
        return True
    lock = t.locks[claim_lock(g)]
    t.enter(lock, level)
    free = not w[g + G_DECIDE]
    if free:
        w[g + G_DECIDE] = word  # publishes
    t.leave(lock, level)
    return free


def pop(w: Any, q: int, s: int) -> None:
    """Unlink the first sudog, but for what was given back. Lock: the channel's."""
    if w[s + SG_SELECT]:
        w[s + SG_SELECT] = waitq.OUT  # so that its goroutine does not unlink it again
    if w[q] == s:
        waitq.pop(w, q, s)
    else:
        waitq.remove(w, q, s)


def first(w: Any, q: int) -> int:
    """The sudog that has waited longest in the queue, 0 if there is none. Lock: the channel's."""
    s: int = w[q]
    while s and w[s + SG_SELECT] == GIVEN_BACK:
        s = w[s + SG_LINK]
    return s


def send(t: Thread, ch: int, hdr: int, body: Body, level: int = 1) -> tuple[int, int]:
    """Give the message to a waiting receiver, or put it into the buffer.

    Returns: (DONE, goroutine to make ready or 0), (CLOSED, 0) or (MUST_WAIT, 0).
    Lock: the channel's, `level` in all.     Blocks: as decide.     Source: Go chan.go chansend.
    """
    w = t.w
    s = w[ch + CH_RECVQ]
    given = s and hdr & HDR_SPILLED
    while s:  # which a closed channel has none of
        put(w, t.mem, s + SG_MSG, hdr, body)
        if given:
            let_go(t, body)
        won = decide(t, s, OUT_OK, level)  # publishes: the receiver has it
        g = w[s + SG_G]
        pop(w, ch + CH_RECVQ, s)
        if won:
            return DONE, g
        s = w[ch + CH_RECVQ]
    if given:
        own(t, hdr, body)
    if w[ch + CH_CLOSED]:
        return CLOSED, 0
    tail = w[ch + CH_TAIL]
    cap = w[ch + CH_CAP]
    if tail - w[ch + CH_HEAD] < cap:
        put(w, t.mem, w[ch + CH_RING] + tail % cap * SLOT_MSG_WORDS, hdr, body)
        w[ch + CH_TAIL] = tail + 1  # publishes
        if hdr & HDR_SPILLED:
            let_go(t, body)
        return DONE, 0
    return MUST_WAIT, 0


def recv(t: Thread, ch: int, level: int = 1) -> tuple[int, int, Body, int]:
    """Take the oldest message, from the buffer or from a waiting sender.

    Returns: (DONE, header, body, goroutine to make ready or 0), or (CLOSED or MUST_WAIT, 0, b"", 0).
    Lock: the channel's, `level` in all.     Blocks: as decide.     Source: Go chan.go chanrecv.
    """
    w = t.w
    s = w[ch + CH_SENDQ]
    if s and w[s + SG_SELECT] == GIVEN_BACK:
        hdr, body = fetch(w, t.mem, s + SG_MSG)
        own(t, hdr, body)
        w[s - BLOCK_DATA] = t.cached
        waitq.pop(w, ch + CH_SENDQ, s)  # publishes
        give_locked(t, MIN_BLOCK_ORDER, s - BLOCK_DATA)
        return DONE, hdr, body, 0
    head = w[ch + CH_HEAD]
    if w[ch + CH_TAIL] != head:
        hdr, body = fetch(w, t.mem, w[ch + CH_RING] + head % w[ch + CH_CAP] * SLOT_MSG_WORDS)
        own(t, hdr, body)
        w[ch + CH_HEAD] = head + 1  # publishes
        return DONE, hdr, body, admit(t, ch, level) if s else 0
    while s:  # unbuffered
        hdr, body = fetch(w, t.mem, s + SG_MSG)
        own(t, hdr, body)
        won = decide(t, s, OUT_OK, level)  # publishes: sent and received
        g = w[s + SG_G]
        if not won and hdr & HDR_SPILLED:  # it is its goroutine's still, which waits for our lock with it
            let_go(t, body)
        pop(w, ch + CH_SENDQ, s)
        if won:
            return DONE, hdr, body, g
        s = w[ch + CH_SENDQ]
    return (CLOSED if w[ch + CH_CLOSED] else MUST_WAIT), 0, b"", 0


def put_many(t: Thread, ch: int, batch: Sequence[tuple[int, Body]]) -> int:
    """Put as many of the messages into the buffer as there is room for, if nobody waits; return how many.

    Lock: the channel's.
    """
    w, mem = t.w, t.mem
    if w[ch + CH_RECVQ]:
        return 0
    tail, cap, ring = w[ch + CH_TAIL], w[ch + CH_CAP], w[ch + CH_RING]
    n: int = min(len(batch), w[ch + CH_LIMIT] - (tail - w[ch + CH_HEAD]))
    if n <= 0:
        return 0
    for i in range(n):
        put(w, mem, ring + (tail + i) % cap * SLOT_MSG_WORDS, *batch[i])
    w[ch + CH_TAIL] = tail + n  # publishes
    for i in range(n):
        if batch[i][0] & HDR_SPILLED:
            let_go(t, batch[i][1])
    return n


def take_many(t: Thread, ch: int, most: int) -> list[tuple[int, Body]]:
    """Take what is buffered, `most` messages at the most, if no sender waits. Lock: the channel's."""
    w, mem = t.w, t.mem
    head = w[ch + CH_HEAD]
    n = min(most, w[ch + CH_TAIL] - head)
    if not n or w[ch + CH_SENDQ]:
        return []
    cap, ring = w[ch + CH_CAP], w[ch + CH_RING]
    got = [fetch(w, mem, ring + i % cap * SLOT_MSG_WORDS) for i in range(head, head + n)]
    for hdr, body in got:
        if hdr & HDR_SPILLED:
            own(t, hdr, body)
    w[ch + CH_HEAD] = head + n  # publishes
    return got


def admit(t: Thread, ch: int, level: int = 1) -> int:
    """Move the message of the first waiting sender into the place that became free; return the sender, or 0.

    Lock: the channel's, `level` in all. There is a free place.
    """
    w = t.w
    s = first(w, ch + CH_SENDQ)
    while s:
        tail = w[ch + CH_TAIL]
        hdr, body = fetch(w, t.mem, s + SG_MSG)
        put(w, t.mem, w[ch + CH_RING] + tail % w[ch + CH_CAP] * SLOT_MSG_WORDS, hdr, body)
        w[s + SG_SEQ] = tail + 1  # so that repair knows where the message of a decided sender lies
        won = decide(t, s, OUT_OK, level)  # publishes: sent
        g: int = w[s + SG_G]
        if won:
            w[ch + CH_TAIL] = tail + 1
        pop(w, ch + CH_SENDQ, s)
        if won:
            return g
        s = first(w, ch + CH_SENDQ)
    return 0


def give_back(t: Thread, ch: int, block: int, hdr: int, body: Body) -> tuple[bool, int]:
    """Make a message that was received, and is not wanted, the next one again, as if it had not been received.

    Args:
        block: of GIVEN_BACK_BYTES, for where nobody waits for it.
    Returns: whether the block is still the caller's, and the goroutine to make ready or 0.
    Lock: the channel's.     Blocks: as decide.
    """
    w = t.w
    s = w[ch + CH_RECVQ]
    spilled = hdr & HDR_SPILLED
    while s:
        put(w, t.mem, s + SG_MSG, hdr, body)
        if spilled:
            let_go(t, body)
        won = decide(t, s, OUT_OK, 1)  # publishes: the receiver has it
        g = w[s + SG_G]
        pop(w, ch + CH_RECVQ, s)
        if won:
            return True, g
        s = w[ch + CH_RECVQ]
    s = block + BLOCK_DATA
    w[s + SG_G] = s + _NOBODY
    w[s + SG_CASE] = w[s + SG_SEQ] = 0
    w[s + SG_SELECT] = GIVEN_BACK
    put(w, t.mem, s + SG_MSG, hdr, body)
    waitq.enqueue_first(w, ch + CH_SENDQ, s)
    w[block] = t.live
    if spilled:
        let_go(t, body)
    return False, 0


def wait_to_send(t: Thread, ch: int, g: int, hdr: int, body: Body) -> None:
    """Enqueue the goroutine with the message it brings. Lock: the channel's."""
    w = t.w
    put(w, t.mem, g + G_SUDOG + SG_MSG, hdr, body)
    w[g + G_SUDOG + SG_SEQ] = 0
    waitq.join(w, ch + CH_SENDQ, g)
    if hdr & HDR_SPILLED:
        let_go(t, body)


def wait_to_receive(t: Thread, ch: int, g: int) -> None:
    """Enqueue the goroutine for a message. Lock: the channel's."""
    w = t.w
    w[g + G_SUDOG + SG_MSG] = 0
    w[g + G_SUDOG + SG_SEQ] = SG_RECEIVES
    waitq.join(w, ch + CH_RECVQ, g)


def take_given(t: Thread, s: int) -> tuple[int, Body]:
    """Take the message out of a sudog of ours that is in no queue: what it was given, or what it brought in vain."""
    hdr, body = fetch(t.w, t.mem, s + SG_MSG)
    if hdr & HDR_SPILLED:
        own(t, hdr, body)
        t.w[s + SG_MSG] = 0
    return hdr, body


def close(t: Thread, ch: int) -> tuple[bool, list[int]]:
    """Close the channel; return whether it was open, and the goroutines to make ready. Lock: the channel's.

    Source: Go chan.go closechan.
    """
    w = t.w
    if w[ch + CH_CLOSED]:
        return False, []
    w[ch + CH_CLOSED] = 1  # publishes
    w[ch + CH_LIMIT] = 0
    return True, dismiss(t, ch + CH_RECVQ) + dismiss(t, ch + CH_SENDQ)


def dismiss(t: Thread, q: int) -> list[int]:
    """Tell everybody in the queue that the channel is closed; return whose wait that ended. Lock: the channel's."""
    w = t.w
    woken = []
    s = first(w, q)
    while s:
        g = w[s + SG_G]
        if decide(t, s, OUT_CLOSED, 1):
            woken.append(g)
        pop(w, q, s)
        s = first(w, q)
    return woken


# ---------------------------------------------------------------- repair and invariants
def repair(t: Thread, ch: int) -> list[int]:
    """Complete what a dead thread began on this channel; return goroutines to make ready. Runs alone, locked."""
    w = t.w
    woken: list[int] = []
    for s in waitq.sudogs(w, ch + CH_RECVQ):
        if not w[w[s + SG_G] + G_DECIDE] and w[s + SG_MSG] & HDR_SPILLED:  # it was about to be given that
            block = w[s + SG_MSG + 1]
            state = REC_CARRIES if w[s + SG_MSG] & HDR_HAS_HANDLES else REC_CACHED
            if w[block] & REC_STATE == REC_LIVE:
                w[block] = w[block] & ~REC_STATE | state
            w[s + SG_MSG] = 0
    s = first(w, ch + CH_SENDQ)
    if s and w[s + SG_SEQ] == w[ch + CH_TAIL] + 1 and won(w, s):
        w[ch + CH_TAIL] = w[s + SG_SEQ]  # its message is in the buffer already
    waitq.repair(w, ch + CH_RECVQ)
    waitq.repair(w, ch + CH_SENDQ)
    if w[ch + CH_CLOSED]:
        w[ch + CH_LIMIT] = 0
        woken += dismiss(t, ch + CH_RECVQ) + dismiss(t, ch + CH_SENDQ)
    while first(w, ch + CH_SENDQ) and w[ch + CH_TAIL] - w[ch + CH_HEAD] < w[ch + CH_CAP]:
        woken.append(admit(t, ch))
    return [g for g in woken if g]


def names(w: Any, ch: int) -> list[int]:
    """The blocks that the channel names. Lock: its."""
    cap, ring = w[ch + CH_CAP], w[ch + CH_RING]
    found = []
    places = []
    if ring:
        found.append(ring - BLOCK_DATA)
        places += [ring + i % cap * SLOT_MSG_WORDS for i in range(w[ch + CH_HEAD], w[ch + CH_TAIL])]
    for s in waitq.sudogs(w, ch + CH_SENDQ):
        if w[s + SG_SELECT] == GIVEN_BACK:
            found.append(s - BLOCK_DATA)
        if not w[w[s + SG_G] + G_DECIDE]:
            places.append(s + SG_MSG)
    return found + [w[at + 1] for at in places if w[at] & HDR_SPILLED]


def won(w: Any, s: int) -> bool:
    """Whether the goroutine of sudog `s` was decided by this sudog's channel."""
    decision = w[w[s + SG_G] + G_DECIDE]
    return bool(decision & 0xFF == OUT_OK and decision >> _CASE_SHIFT & _CASE_MASK == w[s + SG_CASE])


def check(w: Any, ch: int) -> None:
    """Assert CH1 to CH4 and the invariants of both queues. Runs alone."""
    n = w[ch + CH_TAIL] - w[ch + CH_HEAD]
    assert 0 <= n <= w[ch + CH_CAP], f"CH1: {n} messages in a buffer of {w[ch + CH_CAP]}"
    for q in (CH_RECVQ, CH_SENDQ):
        waitq.check(w, ch + q)
    receivers, senders = w[ch + CH_RECVQ], first(w, ch + CH_SENDQ)
    assert not receivers or senders == w[ch + CH_SENDQ], "a receiver waits beside a message that was given back"
    if receivers and senders:
        selects = all(w[s + SG_SELECT] for q in (CH_RECVQ, CH_SENDQ) for s in waitq.sudogs(w, ch + q))
        assert selects, "CH2: receivers and senders wait at once"
    assert not receivers or n == 0, f"CH3: a receiver waits beside {n} messages"
    assert not senders or n == w[ch + CH_CAP], f"CH3: a sender waits beside {w[ch + CH_CAP] - n} free places"
    if w[ch + CH_CLOSED]:
        assert w[ch + CH_LIMIT] == 0, "CH4: a closed channel has room"
        assert not receivers and not senders, "CH4: somebody waits on a closed channel"
