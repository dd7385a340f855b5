"""Wake the goroutine whose wait was decided: tell its M.

Crash: a waker that dies between the decision and this leaves its slot in the decision word; the reaper delivers for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mproc_go.shm import note
from mproc_go.shm.layout import G_M, M_ATTENTION, M_INBOX, M_KIND, R_LINK, WITH_INBOX, inbox_lock, slot_base

if TYPE_CHECKING:
    from mproc_go.shm.thread import Thread


def deliver(t: Thread, g: int) -> None:
    """Have the M of `g` run it on. Blocks: for the inbox lock of that M.     Source: Go proc.go ready."""
    # Cost: 0.5 us = 1 lock, 8 words
    w = t.w
    home = w[g + G_M]
    base = slot_base(home)
    if w[base + M_KIND] in WITH_INBOX:
        lock = t.locks[inbox_lock(home)]
        ph = t.ph
        w[ph] = lock.phase
        if not lock.acquire(False):
            lock.contended()
        if w[lock.gen_word] != lock.gen:
            lock = lock.renewed(w, ph)
        w[g + R_LINK] = w[base + M_INBOX]
        w[base + M_INBOX] = g  # publishes
        lock.release()
        w[ph] = 0
        w[base + M_ATTENTION] = 1
    note.wake(t, home)


def in_inbox(t: Thread, g: int, home: int) -> bool:
    """Whether `g` is on its way to its M. Lock: the inbox's."""
    w = t.w
    there = w[slot_base(home) + M_INBOX]
    while there:
        if there == g:
            return True
        there = w[there + R_LINK]
    return False
