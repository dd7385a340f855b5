"""What one thread of one process needs in order to touch shared memory: words, bytes, locks, its slot and caches.

The words, the bytes and the locks are parameters, never module globals: a test puts a list that switches greenlets in
the place of the words, and explores every interleaving of the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mproc_go.shm.layout import (
    H_MAX_MS,
    H_SLOTS,
    KIND_CLIENT,
    KIND_FREE,
    L_SCHED,
    M_ATTENTION,
    M_CUT,
    M_DEADLINE,
    M_DUMP,
    M_EXTERNAL,
    M_HOST,
    M_INBOX,
    M_KIND,
    M_OS_PID,
    M_P,
    M_PHASE,
    M_PINS,
    M_REDO,
    M_REDO_AT,
    M_REDO_OF,
    M_REPLIED,
    M_RESIDENT,
    M_RETIRE,
    M_RUNNING,
    M_SPINNING,
    M_STATE,
    M_YIELD,
    MIN_BLOCK_ORDER,
    N_PINS,
    N_POOLS,
    REC_CACHED,
    REC_CARRIES,
    REC_DYING,
    REC_LIVE,
    REFS_BY,
    slot_base,
)
from mproc_go.shm.lock import Lock
from mproc_go.shm.pool import cache_size, head_of
from mproc_go.shm.sem import Semaphore

CACHE_SIZES = [cache_size(pool) for pool in range(N_POOLS)]


def clear_slot(w: Any, slot: int) -> None:
    """The slot may have been another's: nothing of that may be taken for its next owner's. Runs: before M_KIND."""
    base = slot_base(slot)
    for word in (M_STATE, M_P, M_INBOX, M_ATTENTION, M_YIELD, M_RETIRE, M_RUNNING, M_RESIDENT, M_DEADLINE):
        w[base + word] = 0
    for word in (M_EXTERNAL, M_SPINNING, M_DUMP, M_REPLIED, M_CUT, *range(M_PINS, M_PINS + N_PINS)):
        w[base + word] = 0


class Thread:
    """A thread with a slot.

    Attributes:
        w, mem, segment: the shared memory.
        locks: the process's locks, by number.
        notes: the process's semaphores to wake slots with, by slot.
        slot, base: number and record of the slot; `ph` its first phase word.
        note: the semaphore this thread sleeps on.
        live, cached, carries, dying: heads of what it put somewhere, and of what is its own (REC_... in layout.py).
        redo_of, redo_at, redo, by: the words of its redo record, and its mark in R_REFS (shm/counts.py).
        caches, cache_sizes: private free records, by pool.
        held: locks it has, as they were when it took them, the last at the end (the hot paths keep theirs in a local
            variable). A stack: a finalizer or a signal handler may take and give back others in between.
    """

    # No __slots__: WorkerM and ClientM add the state of their loops, and reads cost the same on a small instance.

    w: Any
    mem: Any
    segment: Any

    def __init__(
        self, segment: Any, locks: Sequence[Lock], notes: Sequence[Semaphore], slot: int, phase_offset: int = M_PHASE
    ) -> None:
        self.segment = segment
        self.w = segment.w
        self.mem = segment.mem
        self.locks = locks
        self.notes = notes
        self.slot = slot
        self.base = slot_base(slot)
        self.ph = self.base + phase_offset
        self.note = notes[slot]
        self.live = head_of(slot, REC_LIVE)
        self.cached = head_of(slot, REC_CACHED)
        self.carries = head_of(slot, REC_CARRIES)
        self.dying = head_of(slot, REC_DYING)
        self.redo_of = self.base + M_REDO_OF
        self.redo_at = self.base + M_REDO_AT
        self.redo = self.base + M_REDO
        self.by = slot + 1 << REFS_BY
        self.caches: list[list[int]] = [[] for _ in range(N_POOLS)]
        self.cache_sizes = CACHE_SIZES
        self.held: list[Lock] = []

    def enter(self, lock: Lock, level: int = 0) -> None:
        """Take the lock; `level` is how many this thread holds already."""
        w = self.w
        ph = self.ph + level
        if w[ph]:
            self.held_already()
        w[ph] = lock.phase
        if not lock.acquire(False):
            lock.contended()
        if w[lock.gen_word] != lock.gen:
            lock = lock.renewed(w, ph)
        self.held.append(lock)

    def leave(self, lock: Lock, level: int = 0) -> None:
        """Give the lock back."""
        self.held.pop().release()
        self.w[self.ph + level] = 0

    def left(self, error: BaseException) -> None:
        """Called where an exception leaves a call that may hold a lock."""

    def held_already(self) -> None:
        """Called where a lock is about to be taken at a level at which this thread shows one already."""


def take_client_slot(t: Thread, os_pid: int, host: int = 0) -> int:
    """Take a free slot for a client's thread; `host`: slot of its process, 0 if this is the first.

    Returns: the slot, or 0 if all are taken.     Blocks: for the scheduler's lock.
    """
    w = t.w
    lock = t.locks[L_SCHED]
    t.enter(lock)
    found = 0
    for slot in range(w[H_MAX_MS] + 1, w[H_SLOTS]):
        base = slot_base(slot)
        if w[base + M_KIND] == KIND_FREE:
            found = slot
            clear_slot(w, slot)
            w[base + M_HOST] = host or slot
            w[base + M_OS_PID] = os_pid
            w[base + M_KIND] = KIND_CLIENT  # publishes
            break
    t.leave(lock)
    return found


assert MIN_BLOCK_ORDER > 2  # block pools are indexed by their order, behind the record pools
