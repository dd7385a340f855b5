"""The supervisor as a thread of shared memory: slot 0, which takes locks only by trying.

A worker may have died with any lock; only the supervisor can free it, so it must never wait for one.
"""

from __future__ import annotations

from collections.abc import Callable

from mproc_go.shm.lock import Lock
from mproc_go.shm.thread import Thread

# Tries before it goes back to its loop, where it would learn of a death: some 0.2 ms.
_TRIES = 5000


class SupervisorThread(Thread):
    """What the supervisor touches shared memory with.

    Attributes:
        while_busy: called between tries for a lock that stays taken: frees it if its holder is dead.
    """

    while_busy: Callable[[], None]

    def enter(self, lock: Lock, level: int = 0) -> None:
        """Take the lock, freeing it first if its holder died. Blocks: while the living hold it."""
        while not self.try_enter(lock):
            self.while_busy()

    def try_enter(self, lock: Lock) -> bool:
        """Take the lock if it becomes free within a moment. It is at its present generation: we make those."""
        w = self.w
        if w[lock.gen_word] != lock.gen:
            lock.refresh(w)
        w[self.ph] = lock.phase
        for _ in range(_TRIES):
            if lock.acquire(False):
                return True
        w[self.ph] = 0
        return False
