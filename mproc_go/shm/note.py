"""Sleep until woken: Go's note, one a thread. Nobody pays a system call to wake one who is awake.

    sleeper: w[M_STATE] = M_SLEEPING; fence; look again; wait on the semaphore; w[M_STATE] = M_AWAKE
    waker:   make the change; fence (giving a lock back is one); if w[M_STATE] == M_SLEEPING: post

Twin: the two fences make sure that the sleeper sees the change or the waker sees the sleeper (a store must not pass a
later load, and x86 lets it, without one). A semaphore operation is the only fence Python has, so the sleeper's is a
post and a wait on its own note. Wake-ups without cause are allowed: whoever wakes looks at the words again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mproc_go.shm.layout import M_AWAKE, M_SLEEPING, M_STATE, slot_base

if TYPE_CHECKING:
    from mproc_go.shm.thread import Thread


def announce(t: Thread) -> None:
    """Say that this thread is about to sleep; the caller then looks for work once more."""
    t.w[t.base + M_STATE] = M_SLEEPING
    note = t.note
    note.release()
    note.acquire(False)


def sleep(t: Thread, timeout: float | None) -> bool:
    """Sleep until woken or `timeout` seconds passed; return whether woken. Blocks."""
    return t.note.acquire(True, timeout)


def awake(t: Thread) -> None:
    """Say that this thread is awake, and forget wake-ups that came late."""
    t.w[t.base + M_STATE] = M_AWAKE
    acquire = t.note.acquire
    while acquire(False):
        pass


def wake(t: Thread, slot: int) -> None:
    """Wake the thread of `slot` if it sleeps. The change it is to see must be made, and a lock given back since."""
    w = t.w
    state = slot_base(slot) + M_STATE
    if w[state] == M_SLEEPING:
        w[state] = M_AWAKE  # the next waker need not post again
        t.notes[slot].release()
