"""Every goroutine's state, wait reason and Python stack, in Go's form.

A worker knows the stacks of its own goroutines only, so whoever asks (a goroutine, a client, the supervisor at a
deadlock) rings every worker's bell and collects the answers. A worker that does not come to its bell (a long C call) is
shown by what shared memory says of its goroutines.

Source: Go traceback.go goroutineheader.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from mproc_go.sched import states, waitq
from mproc_go.shm import note
from mproc_go.shm.layout import (
    BLOCK_DATA,
    G_GOID,
    G_M,
    G_PARENT,
    G_STATUS,
    G_WAITS_FOR,
    KIND_MUTEX,
    KIND_WORKER,
    M_ATTENTION,
    M_DUMP,
    M_KIND,
    M_OS_PID,
    M_REPLIED,
    M_REPLY,
    MX_LOCKED,
    MX_WAITQ,
    O_KIND,
    POOL_G,
    POOL_OBJECT,
    R_HEAD,
    REC_LIVE,
    SG_G,
    WORD,
    slot_base,
)
from mproc_go.shm.pool import give_block, own_block, records
from mproc_go.shm.thread import Thread

# The folder of this library: frames whose file is in it are ours, all others the user's.
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

# How long a worker may take to come to its bell, in seconds.
REPLY_S = 0.5


def header(goid: int, status: int) -> str:
    """First line of a goroutine's entry."""
    return f"goroutine {goid} [{state_text(status)}]:"


def state_text(status: int) -> str:
    """State of a goroutine in Go's words."""
    state = status & states.STATUS_MASK
    if state == states.WAITING:
        return states.REASON_TEXT[status >> states.REASON_SHIFT]
    return {states.RUNNABLE: "runnable", states.RUNNING: "running"}.get(state, "dead")


def collect(t: Thread, number: int, slots: Iterable[int]) -> dict[int, str]:
    """Ask the workers of `slots` for the stacks of their goroutines; return the texts by goroutine number.

    Args:
        number: of this request, larger than any before.
    Blocks: up to REPLY_S.
    """
    w = t.w
    open_ = set(slots)
    for slot in open_:
        w[slot_base(slot) + M_DUMP] = number
        w[slot_base(slot) + M_ATTENTION] = 1
        note.wake(t, slot)
    texts: dict[int, str] = {}
    end = time.monotonic() + REPLY_S
    while open_ and time.monotonic() < end:
        for slot in list(open_):
            base = slot_base(slot)
            if w[base + M_KIND] != KIND_WORKER:
                open_.discard(slot)
            elif w[base + M_REPLIED] == number:
                open_.discard(slot)
                texts.update(take_reply(t, slot))
        time.sleep(0.0005)
    return texts


def take_reply(t: Thread, slot: int) -> dict[int, str]:
    """Entries of the last reply of a slot: blocks of text that begin with a header line; frees it."""
    at = slot_base(slot) + M_REPLY
    block = t.w[at]
    if not block:
        return {}
    own_block(t, block)
    t.w[at] = 0  # publishes: it is ours
    length = t.w[block + BLOCK_DATA]
    start = (block + BLOCK_DATA + 1) * WORD
    text = bytes(t.mem[start : start + length]).decode(errors="replace")
    give_block(t, block, length + WORD)
    entries = {}
    for entry in text.split("\0"):
        goid, _, rest = entry.partition("\n")
        if goid:
            entries[int(goid)] = rest
    return entries


def report(t: Thread, stacks: dict[int, str], skip: Iterable[int] = ()) -> str:
    """All goroutines, by number: header, stack, who made it. `skip`: bases of goroutines that are nobody's."""
    w = t.w
    hidden = set(skip)
    entries = []
    for g in records(w, POOL_G):
        status = w[g + G_STATUS]
        if w[g + R_HEAD] & 0xFF != REC_LIVE or status & states.STATUS_MASK >= states.DONE or g in hidden:
            continue
        if states.is_system(status):
            continue
        goid = w[g + G_GOID]
        lines = [header(goid, status)]
        home = w[g + G_M]
        if goid in stacks:
            lines.append(stacks[goid].rstrip("\n"))
        elif not home:
            lines.append("  not started yet")
        else:
            lines.append(f"  in process {w[slot_base(home) + M_OS_PID]} (M{home})")
        if goid != 1 and w[g + G_PARENT]:
            lines.append(f"created by goroutine {w[g + G_PARENT]}")
        entries.append((goid, "\n".join(line for line in lines if line)))
    entries.sort()
    return "\n\n".join(text for _, text in entries)


def cycle(t: Thread) -> list[int]:
    """Numbers of goroutines that wait for each other in a circle, the first one again at the end; or none.

    One waits for another if it waits for its result, or for a mutex that the other locked.
    """
    w = t.w
    waits = {
        w[g + G_GOID]: w[w[g + G_WAITS_FOR] + G_GOID]
        for g in records(w, POOL_G)
        if w[g + R_HEAD] & 0xFF == REC_LIVE
        and w[g + G_STATUS] == states.WAITING | states.GOROUTINE_RESULT << states.REASON_SHIFT
    }
    for mutex in records(w, POOL_OBJECT):
        if w[mutex + R_HEAD] & 0xFF == REC_LIVE and w[mutex + O_KIND] == KIND_MUTEX and w[mutex + MX_LOCKED]:
            for s in waitq.sudogs(w, mutex + MX_WAITQ):
                waits[w[w[s + SG_G] + G_GOID]] = w[mutex + MX_LOCKED]
    for start in waits:
        path = [start]
        while path[-1] in waits and len(path) <= len(waits) + 1:
            following = waits[path[-1]]
            if following in path:
                return [*path[path.index(following) :], following]
            path.append(following)
    return []
