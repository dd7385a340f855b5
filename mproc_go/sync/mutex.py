"""``Mutex``: mutual exclusion between goroutines of any process.

The rule is Go's. Normally whoever comes first gets a mutex that comes free, also a newcomer: it runs already, while the
first waiter must be woken; the waiter then competes, and goes back to the head of the queue if it lost. Once the first
waiter has waited for 1 ms the mutex is handed to it directly, without ever coming free, so newcomers can't have it.

The same holds while one that was woken, and has waited that long, is still to come: its worker may be running the very
goroutine that locks and unlocks in a loop.

Rejected: Go's "starving" flag, set by a waiter that lost; who unlocks can see how long the first one has waited.

Invariant MX1: while somebody waits, the mutex is locked, or one was woken to compete for it (MX_WOKEN).

    operation                         publishes                     after it
    lock                              MX_LOCKED                     -
    unlock, nobody waits              MX_LOCKED                     -
    unlock, wake the first            MX_LOCKED                     MX_WOKEN, decide, unlink
    unlock, hand over                 the waiter's decision word    unlink

Source: Go sync/mutex.go, "Mutex fairness".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from mproc_go.errors import UNLOCK_OF_UNLOCKED
from mproc_go.runtime import park
from mproc_go.runtime import process as rt
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.runtime.process import M, deadline_of, seconds, whole
from mproc_go.sched import repairs, states, waitq
from mproc_go.shm.layout import (
    G_DECIDE,
    G_GOID,
    G_SUDOG,
    H_STOP,
    KIND_MUTEX,
    MX_LOCKED,
    MX_WAITQ,
    MX_WOKEN,
    OUT_AGAIN,
    OUT_MASK,
    OUT_OK,
    POOL_OBJECT,
    R_GEN,
    SG_G,
    SG_MSG,
)
from mproc_go.shm.pool import give

# How long the first waiter may lose against newcomers. Source: Go sync/mutex.go starvationThresholdNs.
STARVING_NS = 1_000_000


class Mutex(SharedHandle):
    """A lock that one goroutine at a time can have. Not reentrant; any goroutine may unlock it.

    ``with m:`` locks it for a block.

    Raises:
        SharedMemoryFull: no room.

    Source: Go sync.Mutex.
    """

    __slots__ = ()

    KIND = KIND_MUTEX

    def __init__(self) -> None:
        m = rt.current()
        base = self._make(m, POOL_OBJECT)
        w = m.w
        w[base + MX_LOCKED] = w[base + MX_WOKEN] = w[base + MX_WAITQ] = 0
        self._made(m, base, KIND_MUTEX)

    def lock(self, timeout: float | None = None) -> None:
        """Lock it. Blocks the goroutine while another has it.

        Args:
            timeout: in seconds; None waits for ever, zero or less does not wait.

        Raises:
            TimeoutError: it did not come free in time.
        """
        # Cost: 0.6 us = 1 lock, 3 words
        try:
            m = self._tls.m
        except AttributeError:
            m = self._m()
        if timeout is not None:
            timeout = seconds(timeout)
        w = m.w
        ph = m.ph
        lock = self._lock
        base = self._base
        try:
            w[ph] = lock.phase
            if not lock.acquire(False):
                lock.contended()
            if w[lock.gen_word] != lock.gen:
                lock = self._lock = lock.renewed(w, ph)
            if not w[base + MX_LOCKED] and not w[base + MX_WOKEN] and not w[H_STOP]:
                w[base + MX_LOCKED] = w[m.g + G_GOID]  # publishes
                lock.release()
                w[ph] = 0
                return
            m.held.append(lock)
            self._lock_slow(m, timeout)
        except BaseException as error:
            m.left(error)
            raise

    def _lock_slow(self, m: M, timeout: float | None) -> None:
        """The lock of the record is held."""
        w, base, lock = m.w, self._base, self._lock
        if may_take(w, base) and not w[H_STOP]:
            w[base + MX_LOCKED] = w[m.g + G_GOID]  # publishes
            m.leave(lock)
            return
        if w[H_STOP] or (timeout is not None and timeout <= 0):
            m.leave(lock)
            if w[H_STOP]:
                m.interrupted()
            raise TimeoutError("Mutex: it is locked")
        s = m.begin_wait(states.MUTEX_LOCK) + G_SUDOG
        deadline = deadline_of(timeout)
        w[s + SG_MSG] = time.monotonic_ns()
        waitq.enqueue(w, base + MX_WAITQ, s)
        m.leave(lock)
        while True:
            decision = park.park(m, lock, base + MX_WAITQ, deadline, self._undo)
            if decision & OUT_MASK == OUT_OK:
                return
            if not decision:
                raise TimeoutError(f"Mutex: it did not come free within {timeout} s")
            m.enter(lock)
            won = not w[base + MX_LOCKED]
            if won:
                w[base + MX_LOCKED] = w[m.g + G_GOID]  # publishes
            w[base + MX_WOKEN] = 0
            late = not won and deadline is not None and time.monotonic() >= deadline
            if not won and not late:
                m.begin_wait(states.MUTEX_LOCK)
                waitq.enqueue_first(w, base + MX_WAITQ, s)
            m.leave(lock)
            if won:
                return
            if late:  # whoever has it wakes the next when it unlocks
                raise TimeoutError(f"Mutex: it did not come free within {timeout} s")

    def _undo(self, m: M, decision: int) -> None:
        """Give back what came together with an exception."""
        if decision & OUT_MASK == OUT_OK:
            self.unlock()
            return
        w, base = m.w, self._base
        m.enter(self._lock)
        w[base + MX_WOKEN] = 0
        g = 0 if w[base + MX_LOCKED] or not w[base + MX_WAITQ] else wake_first(w, base, m.slot)
        m.leave(self._lock)
        if g:
            m.ready(g)

    @whole
    def try_lock(self) -> bool:
        """Lock it if it is free and nobody is starving for it; return whether it was so. Blocks: never."""
        m = self._m()
        w, base = m.w, self._base
        m.enter(self._lock)
        free = may_take(w, base)
        if free:
            w[base + MX_LOCKED] = w[m.g + G_GOID]  # publishes
        m.leave(self._lock)
        if w[H_STOP]:
            m.interrupted()
        return free

    def unlock(self) -> None:
        """Unlock it, whoever locked it. Blocks: never.

        Raises:
            RuntimeError: it is not locked.
        """
        # Cost: 0.6 us = 1 lock, 3 words
        try:
            m = self._tls.m
        except AttributeError:
            m = self._m()
        w = m.w
        ph = m.ph
        lock = self._lock
        base = self._base
        try:
            w[ph] = lock.phase
            if not lock.acquire(False):
                lock.contended()
            if w[lock.gen_word] != lock.gen:
                lock = self._lock = lock.renewed(w, ph)
            if not w[base + MX_WAITQ] and w[base + MX_LOCKED]:
                w[base + MX_LOCKED] = 0  # publishes
                lock.release()
                w[ph] = 0
                if w[H_STOP]:
                    m.surface()
                return
            was_locked = w[base + MX_LOCKED]
            g = pass_on(w, base, m.slot, time.monotonic_ns()) if was_locked else 0
            lock.release()
            w[ph] = 0
            if g:
                m.ready(g)
            if w[H_STOP]:
                m.surface()
            if not was_locked:
                raise RuntimeError(UNLOCK_OF_UNLOCKED)
        except BaseException as error:
            m.left(error)
            raise

    def __enter__(self) -> Self:
        self.lock()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.unlock()

    def __repr__(self) -> str:
        w = self._words()
        state = "of a runtime that is over" if w is None else "locked" if w[self._base + MX_LOCKED] else "unlocked"
        return f"<Mutex {self._base:#x} {state}>"


def may_take(w: Any, base: int) -> bool:
    """Whether a newcomer may lock it: it is free, and who was woken for it has not lost for too long. Lock: its."""
    if w[base + MX_LOCKED]:
        return False
    woken = w[base + MX_WOKEN]
    return not woken or time.monotonic_ns() - w[woken + G_SUDOG + SG_MSG] < STARVING_NS


def pass_on(w: Any, base: int, slot: int, now_ns: int) -> int:
    """Unlock a mutex somebody waits for; return the goroutine to make ready or 0. Lock: the mutex's."""
    s = w[base + MX_WAITQ]
    if w[base + MX_WOKEN]:  # that one competes already
        w[base + MX_LOCKED] = 0  # publishes
        return 0
    if now_ns - w[s + SG_MSG] >= STARVING_NS:
        g: int = w[s + SG_G]
        w[g + G_DECIDE] = OUT_OK | slot << 32  # publishes: it never comes free
        waitq.pop(w, base + MX_WAITQ, s)
        w[base + MX_LOCKED] = w[g + G_GOID]  # for reports only: it is locked all the time
        return g
    w[base + MX_LOCKED] = 0  # publishes
    return wake_first(w, base, slot)


def wake_first(w: Any, base: int, slot: int) -> int:
    """Have the first waiter compete; return the goroutine. Lock: the mutex's."""
    s = w[base + MX_WAITQ]
    g: int = w[s + SG_G]
    w[base + MX_WOKEN] = g
    w[g + G_DECIDE] = OUT_AGAIN | slot << 32
    waitq.pop(w, base + MX_WAITQ, s)
    return g


def repair(w: Any, base: int, slot: int) -> list[int]:
    """Complete what a dead thread began; return goroutines to make ready. Runs alone, under the lock.

    A mutex that the dead one had locked stays locked, as after a goroutine that ended without unlocking it.
    """
    q = base + MX_WAITQ
    waitq.repair(w, q)
    for s in waitq.sudogs(w, q):
        if w[s + SG_G] == w[base + MX_WOKEN]:
            w[w[s + SG_G] + G_DECIDE] = OUT_AGAIN | slot << 32
            waitq.remove(w, q, s)
            return [w[s + SG_G]]
    if w[base + MX_LOCKED] or w[base + MX_WOKEN] or not w[q]:
        return []
    return [wake_first(w, base, slot)]


def forget(w: Any, base: int, gone: Callable[[int], bool], slot: int) -> list[int]:
    """The one that was woken to compete may be dead: then the next is. Returns goroutines to make ready. Lock: its."""
    woken = w[base + MX_WOKEN]
    if not woken or not gone(woken):
        return []
    w[base + MX_WOKEN] = 0
    return [] if w[base + MX_LOCKED] or not w[base + MX_WAITQ] else [wake_first(w, base, slot)]


def check(w: Any, base: int) -> None:
    """Assert MX1 and the invariants of the queue. Runs alone."""
    waitq.check(w, base + MX_WAITQ)
    free = not w[base + MX_LOCKED] and not w[base + MX_WOKEN]
    assert not (free and w[base + MX_WAITQ]), "MX1: somebody waits for a free mutex"


def _destroy(m: M, base: int) -> None:
    m.w[base + R_GEN] += 1
    give(m, POOL_OBJECT, base)


register(Mutex, _destroy)
repairs.register(KIND_MUTEX, (MX_WAITQ,), lambda t, base: repair(t.w, base, t.slot))
repairs.FORGET[KIND_MUTEX] = forget
