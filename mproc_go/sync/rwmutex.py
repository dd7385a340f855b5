"""``RWMutex``: any number of readers, or one writer, in any process.

A writer that waits keeps new readers out, so it is not starved; the readers that came while a writer had it or waited
go all together before the next writer, so they are not starved either. It is always handed over, never left for
whoever comes first.

Invariants:
    RW1  Readers wait only while a writer has it or waits.
    RW2  Writers wait only while somebody has it.

    operation           publishes     after it
    lock, rlock         RW_STATE      -
    unlock, runlock     RW_STATE      give to waiting readers, or to the first writer (grants.py)

Source: Go sync/rwmutex.go.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from mproc_go.errors import RUNLOCK_OF_UNLOCKED, RW_UNLOCK_OF_UNLOCKED
from mproc_go.runtime import park
from mproc_go.runtime import process as rt
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.runtime.process import M, deadline_of, seconds, whole
from mproc_go.sched import repairs, states, waitq
from mproc_go.shm.layout import (
    H_STOP,
    KIND_RWMUTEX,
    POOL_OBJECT,
    R_GEN,
    RW_READQ,
    RW_STATE,
    RW_WRITEQ,
    RW_WRITER,
)
from mproc_go.shm.pool import give
from mproc_go.sync import grants


class RWMutex(SharedHandle):
    """A lock for many readers or one writer. Not reentrant, not even for reading; no upgrade from reader to writer.

    ``with m:`` locks it for writing, ``with m.reader():`` for reading.

    Raises:
        SharedMemoryFull: no room.

    Source: Go sync.RWMutex.
    """

    __slots__ = ()

    KIND = KIND_RWMUTEX

    def __init__(self) -> None:
        m = rt.current()
        base = self._make(m, POOL_OBJECT)
        w = m.w
        w[base + RW_STATE] = w[base + RW_WRITEQ] = w[base + RW_READQ] = 0
        self._made(m, base, KIND_RWMUTEX)

    # ------------------------------------------------------------ writing
    @whole
    def lock(self, timeout: float | None = None) -> None:
        """Lock it for writing. Blocks the goroutine while anybody has it.

        Args:
            timeout: in seconds; None waits for ever, zero or less does not wait.

        Raises:
            TimeoutError: it did not come free in time.
        """
        if timeout is not None:
            timeout = seconds(timeout)
        m = self._m()
        w, base, lock = m.w, self._base, self._lock
        if w[H_STOP]:
            m.interrupted()
        m.enter(lock)
        if not w[base + RW_STATE]:
            w[base + RW_STATE] = RW_WRITER  # publishes
            m.leave(lock)
            return
        self._wait(m, base + RW_WRITEQ, states.RWMUTEX_LOCK, timeout)

    @whole
    def try_lock(self) -> bool:
        """Lock it for writing if nobody has it; return whether that was so. Blocks: never."""
        m = self._m()
        w, state = m.w, self._base + RW_STATE
        m.enter(self._lock)
        free = not w[state]
        if free:
            w[state] = RW_WRITER  # publishes
        m.leave(self._lock)
        if w[H_STOP]:
            m.interrupted()
        return free

    @whole
    def unlock(self) -> None:
        """Unlock it for writing, whoever locked it. Blocks: never.

        Raises:
            RuntimeError: it is not locked for writing.
        """
        m = self._m()
        w, base = m.w, self._base
        woken: list[int] = []
        m.enter(self._lock)
        was_locked = w[base + RW_STATE] == RW_WRITER
        if was_locked:
            w[base + RW_STATE] = 0  # publishes
            woken = admit_readers(w, base, m.slot) or admit_writer(w, base, m.slot)
        m.leave(self._lock)
        for g in woken:
            m.ready(g)
        if w[H_STOP]:
            m.surface()
        if not was_locked:
            raise RuntimeError(RW_UNLOCK_OF_UNLOCKED)

    def __enter__(self) -> Self:
        self.lock()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.unlock()

    # ------------------------------------------------------------ reading
    @whole
    def rlock(self, timeout: float | None = None) -> None:
        """Lock it for reading. Blocks the goroutine while a writer has it or waits for it.

        Args, Raises: as :meth:`lock`.
        """
        if timeout is not None:
            timeout = seconds(timeout)
        m = self._m()
        w, base, lock = m.w, self._base, self._lock
        if w[H_STOP]:
            m.interrupted()
        m.enter(lock)
        state = w[base + RW_STATE]
        if state < RW_WRITER and not w[base + RW_WRITEQ]:
            w[base + RW_STATE] = state + 1  # publishes
            m.leave(lock)
            return
        self._wait(m, base + RW_READQ, states.RWMUTEX_RLOCK, timeout)

    @whole
    def try_rlock(self) -> bool:
        """Lock it for reading if no writer has it or waits; return whether that was so. Blocks: never."""
        m = self._m()
        w, base = m.w, self._base
        m.enter(self._lock)
        state = w[base + RW_STATE]
        free = state < RW_WRITER and not w[base + RW_WRITEQ]
        if free:
            w[base + RW_STATE] = state + 1  # publishes
        m.leave(self._lock)
        if w[H_STOP]:
            m.interrupted()
        return free

    @whole
    def runlock(self) -> None:
        """Unlock it for reading. Blocks: never.

        Raises:
            RuntimeError: nobody has it for reading.
        """
        m = self._m()
        w, base = m.w, self._base
        woken: list[int] = []
        m.enter(self._lock)
        readers = w[base + RW_STATE]
        was_locked = 0 < readers < RW_WRITER
        if was_locked:
            w[base + RW_STATE] = readers - 1  # publishes
            if readers == 1:
                woken = admit_writer(w, base, m.slot)
        m.leave(self._lock)
        for g in woken:
            m.ready(g)
        if w[H_STOP]:
            m.surface()
        if not was_locked:
            raise RuntimeError(RUNLOCK_OF_UNLOCKED)

    def reader(self) -> Reader:
        """What ``with`` locks for reading. Source: Go RWMutex.RLocker."""
        return Reader(self)

    # ------------------------------------------------------------ waiting
    def _wait(self, m: M, q: int, reason: int, timeout: float | None) -> None:
        """The lock of the record is held."""
        lock = self._lock
        if timeout is not None and timeout <= 0:
            m.leave(lock)
            raise TimeoutError("RWMutex: it is locked")
        grants.join(m.w, q, m.begin_wait(reason))
        m.leave(lock)

        def undo(m: M, decision: int) -> None:
            (self.unlock if reason == states.RWMUTEX_LOCK else self.runlock)()

        if not park.park(m, lock, q, deadline_of(timeout), undo, self._left):
            raise TimeoutError(f"RWMutex: it did not come free within {timeout} s")

    def _left(self, m: M) -> list[int]:
        """Somebody left a queue: if it was the last writer, it kept readers out."""
        w, base = m.w, self._base
        return [] if w[base + RW_WRITEQ] or w[base + RW_STATE] == RW_WRITER else admit_readers(w, base, m.slot)

    def __repr__(self) -> str:
        w = self._words()
        if w is None:
            return f"<RWMutex {self._base:#x} of a runtime that is over>"
        state = w[self._base + RW_STATE]
        text = "locked" if state == RW_WRITER else f"locked by {state} readers" if state else "unlocked"
        return f"<RWMutex {self._base:#x} {text}>"


class Reader:
    """The reading side of an RWMutex as a lock of its own. Travels like any value."""

    __slots__ = ("_rw",)

    def __init__(self, rw: RWMutex) -> None:
        self._rw = rw

    def __repr__(self) -> str:
        return f"{self._rw!r}.reader()"

    def lock(self, timeout: float | None = None) -> None:
        """As :meth:`RWMutex.rlock`."""
        self._rw.rlock(timeout)

    def try_lock(self) -> bool:
        """As :meth:`RWMutex.try_rlock`."""
        return self._rw.try_rlock()

    def unlock(self) -> None:
        """As :meth:`RWMutex.runlock`."""
        self._rw.runlock()

    def __enter__(self) -> Self:
        self._rw.rlock()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._rw.runlock()


def admit_readers(w: Any, base: int, slot: int) -> list[int]:
    """Give it to all readers that wait; return them. No writer has it. Lock: the mutex's."""
    woken = []
    while w[base + RW_READQ]:
        woken.append(grants.give_first(w, base + RW_READQ, base + RW_STATE, w[base + RW_STATE] + 1, slot))
    return woken


def admit_writer(w: Any, base: int, slot: int) -> list[int]:
    """Give it to the first writer that waits; return it. Nobody has it. Lock: the mutex's."""
    if not w[base + RW_WRITEQ]:
        return []
    return [grants.give_first(w, base + RW_WRITEQ, base + RW_STATE, RW_WRITER, slot)]


def repair(w: Any, base: int, slot: int) -> list[int]:
    """Complete what a dead thread began; return goroutines to make ready. Runs alone, under the lock.

    What the dead one had locked stays locked. Of readers that were being admitted before a writer, the rest may have to
    wait until that writer is through.
    """
    woken = grants.repair(w, base + RW_READQ, base + RW_STATE, slot)
    woken += grants.repair(w, base + RW_WRITEQ, base + RW_STATE, slot)
    if not w[base + RW_STATE]:
        woken += admit_writer(w, base, slot)
    if w[base + RW_STATE] < RW_WRITER and not w[base + RW_WRITEQ]:
        woken += admit_readers(w, base, slot)
    return woken


def check(w: Any, base: int) -> None:
    """Assert RW1, RW2 and the invariants of the queues. Runs alone."""
    waitq.check(w, base + RW_READQ)
    waitq.check(w, base + RW_WRITEQ)
    state, readers, writers = w[base + RW_STATE], w[base + RW_READQ], w[base + RW_WRITEQ]
    assert state <= RW_WRITER, f"RW_STATE is {state:#x}"
    assert not readers or writers or state == RW_WRITER, "RW1: readers wait for no writer"
    assert not writers or state, "RW2: a writer waits for nobody"


def _destroy(m: M, base: int) -> None:
    m.w[base + R_GEN] += 1
    give(m, POOL_OBJECT, base)


register(RWMutex, _destroy)
repairs.register(KIND_RWMUTEX, (RW_WRITEQ, RW_READQ), lambda t, base: repair(t.w, base, t.slot))
repairs.FORGET[KIND_RWMUTEX] = lambda w, base, gone, slot: repair(w, base, slot)  # it may have kept others out
