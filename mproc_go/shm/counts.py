"""The references of a record, and whose they are: one count, and another word that says so, changed as one.

A process's share is its bit, a message's is how far its handles are counted, a record's the word that names the other.
Death between the two stores would leave a count that nobody takes off. So a redo record in the slot of who does it says
what the other word becomes, and one store of the count publishes both: the new number, with the mark of that slot.

Invariant:
    RC1  Under the lock of a record its count bears no mark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mproc_go.shm.layout import (
    L_OBJECTS,
    M_REDO,
    M_REDO_AT,
    M_REDO_OF,
    N_OBJECT_LOCKS,
    R_HEAD,
    R_REFS,
    REC_DYING,
    REC_LIVE,
    REFS_BY,
    REFS_MASK,
    slot_base,
)
from mproc_go.shm.pool import head_of

if TYPE_CHECKING:
    from mproc_go.shm.thread import Thread


def count(t: Thread, base: int, by: int, at: int, value: int, level: int = 0) -> int:
    """Add `by` to the references of a record and store `value` in the word `at`: both, or neither if we die.

    Whoever takes off the last reference destroys the record.

    Returns: the references there are, 0 at the least.
    Blocks: for the record's lock; `level` is how many locks this thread has.
    """
    # Cost: 0.6 us = 1 lock, 8 words. What enter and count_locked do, written out: a handle that travels needs it twice
    w = t.w
    ph = t.ph + level
    lock = t.locks[L_OBJECTS + (base >> 5) % N_OBJECT_LOCKS]
    if w[ph]:
        t.held_already()
    w[ph] = lock.phase
    if not lock.acquire(False):
        lock.contended()
    if w[lock.gen_word] != lock.gen:
        lock = lock.renewed(w, ph)
    refs: int = w[base + R_REFS] + by
    if refs < 0:  # a damaged message named it, and never counted it
        lock.release()
        w[ph] = 0
        return 1
    w[t.redo_of] = base
    w[t.redo_at] = at
    w[t.redo] = value
    if not refs:
        w[base] = t.dying
    w[base + R_REFS] = refs | t.by  # publishes
    w[at] = value
    w[base + R_REFS] = refs
    lock.release()
    w[ph] = 0
    return refs


def count_locked(t: Thread, base: int, by: int, at: int, value: int) -> int:
    """As :func:`count`, where this thread has the record's lock."""
    w = t.w
    refs: int = w[base + R_REFS] + by
    w[t.redo_of] = base
    w[t.redo_at] = at
    w[t.redo] = value
    if not refs:
        w[base] = t.dying
    w[base + R_REFS] = refs | t.by  # publishes
    w[at] = value
    w[base + R_REFS] = refs
    return refs


def repair(w: memoryview, slot: int) -> None:
    """Complete what the dead thread of that slot was counting.

    Runs: the supervisor, before anything else is repaired: that goes by links which are counted. Nobody living touches
    the count, since the lock of that record has not been given back.
    """
    by = slot_base(slot)
    base = w[by + M_REDO_OF]
    if not base:
        return
    refs = w[base + R_REFS]
    if refs >> REFS_BY == slot + 1:
        w[w[by + M_REDO_AT]] = w[by + M_REDO]
        refs &= REFS_MASK
        w[base + R_REFS] = refs
    if refs and w[base + R_HEAD] == head_of(slot, REC_DYING):  # its last reference was about to go, and did not
        w[base + R_HEAD] = head_of(slot, REC_LIVE)
