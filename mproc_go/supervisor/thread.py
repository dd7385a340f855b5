"""The supervisor as a thread of shared memory: slot 0, which takes locks only by trying.

A worker may have died with any lock; only the supervisor can free it, so it must never sleep at a door. Also where the
code that it shares with the workers writes the locking out (runq.put_global, deliver): its locks wait otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mproc_go.shm.lock import Lock
from mproc_go.shm.sem import Semaphore
from mproc_go.shm.thread import Thread

# Tries before it goes back to its loop, where it would learn of a death: some 0.2 ms.
_TRIES = 5000


class SupervisorThread(Thread):
    """What the supervisor touches shared memory with.

    Attributes:
        while_busy: called between tries for a lock that stays taken: frees it if its holder is dead.
    """

    while_busy: Callable[[], None]

    def __init__(self, segment: Any, locks: Sequence[Lock], notes: Sequence[Semaphore], slot: int) -> None:
        super().__init__(segment, locks, notes, slot)
        self.locks: Any = _PatientLocks(locks, self)

    def enter(self, lock: Lock, level: int = 0) -> None:
        """Take the lock, freeing it first if its holder died. Blocks: while the living hold it."""
        while not self.try_enter(lock, level):
            self.while_busy()

    def try_enter(self, lock: Lock, level: int = 0) -> bool:
        """Take the lock if it becomes free within a moment. It is at its present generation: we make those."""
        w = self.w
        if w[lock.gen_word] != lock.gen:
            lock.refresh(w)
        w[self.ph + level] = lock.phase
        for _ in range(_TRIES):
            if lock.acquire(False):
                self.held.append(lock)
                return True
        w[self.ph + level] = 0
        return False


class _PatientLock(Lock):
    """A lock as the supervisor sees it. Tests: tests/kills/test_supervisor.py."""

    __slots__ = ("_t",)

    def __init__(self, lock: Lock, t: SupervisorThread) -> None:
        super().__init__(lock.number, lock._open)
        self._t = t
        self.refresh(t.w)

    def renewed(self, w: Any, ph: int) -> Lock:
        """There are no other threads here."""
        self.retreat(w, ph)
        return self

    def contended(self) -> None:
        """Take the token of the present door, freeing the lock if its holder died. Phase word 0 shows it."""
        t = self._t
        w = t.w
        while True:
            for _ in range(_TRIES):
                if self.acquire(False):
                    return
            w[t.ph] = 0  # we do not stand at that door, or whoever retires it would wait for us: it is we who do that
            t.while_busy()
            if w[self.gen_word] != self.gen:
                self.refresh(w)
            w[t.ph] = self.phase


class _PatientLocks(dict[int, _PatientLock]):
    """By number, each made when it is first used."""

    def __init__(self, locks: Sequence[Lock], t: SupervisorThread) -> None:
        super().__init__()
        self._locks, self._t = locks, t

    def __missing__(self, number: int) -> _PatientLock:
        lock = self[number] = _PatientLock(self._locks[number], self._t)
        return lock
