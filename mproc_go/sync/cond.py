"""``Cond``: wait until somebody says that something has changed.

A waiter joins the queue before it unlocks the mutex, so that no signal given under the mutex can miss it, and leaves it
only by a signal: there are no spurious wake-ups. The record refers to the mutex, so a Cond brings its mutex along.

Source: Go sync/cond.go.
"""

from __future__ import annotations

from typing import Any

from mproc_go.codec.handles import open_handle
from mproc_go.runtime import park
from mproc_go.runtime import process as rt
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.runtime.process import M, deadline_of, seconds, whole
from mproc_go.sched import repairs, states, waitq
from mproc_go.shm.layout import (
    CD_KIND,
    CD_MUTEX,
    CD_MUTEX_GEN,
    CD_WAITQ,
    G_DECIDE,
    H_STOP,
    KIND_COND,
    OUT_OK,
    POOL_OBJECT,
    R_GEN,
    SG_G,
)
from mproc_go.shm.pool import give
from mproc_go.sync.mutex import Mutex
from mproc_go.sync.rwmutex import RWMutex


class Cond(SharedHandle):
    """A condition variable.

    Args:
        mutex: guards what is waited for; a Mutex or an RWMutex.

    Raises:
        TypeError: `mutex` is neither.
        SharedMemoryFull: no room.

    Source: Go sync.Cond.
    """

    __slots__ = ("_mutex",)

    KIND = KIND_COND

    _mutex: Mutex | RWMutex

    def __init__(self, mutex: Mutex | RWMutex) -> None:
        if not isinstance(mutex, (Mutex, RWMutex)):
            raise TypeError(f"Cond needs a Mutex or an RWMutex, not {type(mutex).__name__}")
        m = rt.current()
        mutex._m()  # of this runtime
        base = self._make(m, POOL_OBJECT)
        w = m.w
        w[base + CD_KIND] = mutex.KIND
        w[base + CD_MUTEX] = 0
        w[base + CD_WAITQ] = 0
        self._made(m, base, KIND_COND)
        m.process.refs.refer(m, base + CD_MUTEX, mutex._base)
        self._mutex = mutex

    def _bind(self, m: M, base: int, gen: int) -> None:
        super()._bind(m, base, gen)
        w = m.w
        mutex: Any = open_handle(w[base + CD_KIND], w[base + CD_MUTEX], w[base + CD_MUTEX_GEN])
        self._mutex = mutex

    @property
    def mutex(self) -> Mutex | RWMutex:
        """The mutex it was made with. Source: Go Cond.L."""
        return self._mutex

    @whole
    def wait(self, timeout: float | None = None) -> None:
        """Unlock the mutex, wait for a signal, lock the mutex again. Blocks the goroutine.

        The caller has locked the mutex and, since others may come first, looks again at what it waits for. The mutex is
        locked again also where this raises.

        Args:
            timeout: in seconds; None waits for ever, zero or less does not wait. The mutex is waited for beyond it.

        Raises:
            TimeoutError: no signal came in time.
            RuntimeError: the mutex is not locked.
        """
        if timeout is not None:
            timeout = seconds(timeout)
        m = self._m()
        w, lock, q = m.w, self._lock, self._base + CD_WAITQ
        if w[H_STOP]:
            m.interrupted()
        if timeout is not None and timeout <= 0:  # others get their turn at the mutex all the same
            self._mutex.unlock()
            self._mutex.lock()
            raise TimeoutError("Cond: no signal")
        m.enter(lock)
        waitq.join(w, q, m.begin_wait(states.COND_WAIT))
        m.leave(lock)
        try:
            self._mutex.unlock()
        except BaseException:
            if not park.leave(m, lock, q):  # signalled already: that is the next one's
                m.park()  # its delivery is on the way
                self.signal()
            raise
        try:
            signalled = park.park(m, lock, q, deadline_of(timeout))
        finally:
            if not w[H_STOP]:
                self._mutex.lock()
        if not signalled:
            raise TimeoutError(f"Cond: no signal within {timeout} s")

    @whole
    def signal(self) -> None:
        """Wake the one that has waited longest, if any waits; the mutex need not be locked. Blocks: never."""
        m = self._m()
        w, q = m.w, self._base + CD_WAITQ
        if w[H_STOP]:
            m.interrupted()
        g = 0
        m.enter(self._lock)
        s = w[q]
        if s:
            g = w[s + SG_G]
            w[g + G_DECIDE] = OUT_OK | m.slot << 32  # publishes
            waitq.pop(w, q, s)
        m.leave(self._lock)
        if g:
            m.ready(g)

    @whole
    def broadcast(self) -> None:
        """Wake all that wait; the mutex need not be locked. Blocks: never."""
        m = self._m()
        if m.w[H_STOP]:
            m.interrupted()
        m.enter(self._lock)
        woken = waitq.decide_all(m.w, self._base + CD_WAITQ, OUT_OK | m.slot << 32)
        m.leave(self._lock)
        for g in woken:
            m.ready(g)

    def __repr__(self) -> str:
        return f"<Cond {self._base:#x} of {self._mutex!r}>"


def references(w: Any, base: int) -> list[tuple[int, int, int]]:
    """The handles the record holds: (kind, base, generation) of the mutex."""
    return [(w[base + CD_KIND], w[base + CD_MUTEX], w[base + CD_MUTEX_GEN])]


def repair(w: Any, base: int, slot: int) -> list[int]:
    """Mend the queue after a dead thread. Runs alone, under the lock.

    Of a broadcast that was cut off, those not reached yet wait on, as if they had come after it.
    """
    waitq.repair(w, base + CD_WAITQ)
    return []


def check(w: Any, base: int) -> None:
    """Assert the invariants of the queue. Runs alone."""
    waitq.check(w, base + CD_WAITQ)


def _destroy(m: M, base: int) -> None:
    m.process.refs.unrefer(m, base + CD_MUTEX, m.w[base + CD_KIND])
    m.w[base + R_GEN] += 1
    give(m, POOL_OBJECT, base)


register(Cond, _destroy)
repairs.register(KIND_COND, (CD_WAITQ,), lambda t, base: repair(t.w, base, t.slot))
