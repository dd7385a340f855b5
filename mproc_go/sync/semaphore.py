"""``Semaphore``: a number of permits, of which a goroutine may take several at once.

First come, first served: while somebody waits, nobody who comes later takes anything, however little it wants, so that
one who wants much is not starved.

Invariant SM1: held + what the first waiter wants > size, or nobody waits.

    operation           publishes     after it
    acquire             SM_HELD       -
    release             SM_HELD       give to the first waiters while there is enough (grants.py)

Source: golang.org/x/sync/semaphore.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from mproc_go.errors import RELEASE_OF_MORE
from mproc_go.runtime import park
from mproc_go.runtime import process as rt
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.runtime.process import M, deadline_of, integer, seconds, whole
from mproc_go.sched import repairs, states, waitq
from mproc_go.shm.layout import (
    G_SUDOG,
    H_STOP,
    KIND_SEMAPHORE,
    POOL_OBJECT,
    R_GEN,
    SG_MSG,
    SM_HELD,
    SM_SIZE,
    SM_WAITQ,
)
from mproc_go.shm.pool import give
from mproc_go.sync import grants

_MAX = 1 << 62


class Semaphore(SharedHandle):
    """A semaphore with `n` permits. ``with s:`` has one of them for a block.

    Raises:
        TypeError: `n` is not an integer.
        ValueError: it is negative, or beyond 62 bits.
        SharedMemoryFull: no room.
    """

    __slots__ = ()

    KIND = KIND_SEMAPHORE

    def __init__(self, n: int) -> None:
        n = _amount(n)
        m = rt.current()
        base = self._make(m, POOL_OBJECT)
        w = m.w
        w[base + SM_SIZE] = n
        w[base + SM_HELD] = w[base + SM_WAITQ] = 0
        self._made(m, base, KIND_SEMAPHORE)

    @whole
    def acquire(self, k: int = 1, timeout: float | None = None) -> None:
        """Take `k` permits, all at once. Blocks the goroutine until they are there and it is its turn.

        Args:
            timeout: in seconds; None waits for ever, zero or less does not wait.

        Raises:
            TimeoutError: they were not there in time; none was taken.
            TypeError: `k` is not an integer.
            ValueError: it is negative, or more than there are (Go waits for ever).
        """
        m = self._m()
        w, base, lock = m.w, self._base, self._lock
        if w[H_STOP]:
            m.interrupted()
        k = _amount(k)
        if timeout is not None:
            timeout = seconds(timeout)
        if k > w[base + SM_SIZE]:
            raise ValueError(f"Semaphore: {k} permits will never be there, it has {w[base + SM_SIZE]}")
        m.enter(lock)
        if take(w, base, k):
            m.leave(lock)
            return
        if timeout is not None and timeout <= 0:
            m.leave(lock)
            raise TimeoutError(f"Semaphore: {k} permits are not there")
        g = m.begin_wait(states.SEMACQUIRE)
        w[g + G_SUDOG + SG_MSG] = k
        grants.join(w, base + SM_WAITQ, g)
        m.leave(lock)

        def undo(m: M, decision: int) -> None:
            self.release(k)

        deadline = deadline_of(timeout)
        if not park.park(m, lock, base + SM_WAITQ, deadline, undo, self._left):
            raise TimeoutError(f"Semaphore: {k} permits were not there within {timeout} s")

    def _left(self, m: M) -> list[int]:
        """Somebody left the queue: those behind may want less."""
        return admit(m.w, self._base, m.slot)

    @whole
    def try_acquire(self, k: int = 1) -> bool:
        """Take `k` permits if they are there and nobody waits; return whether they were. Blocks: never.

        Raises: TypeError, ValueError as :meth:`acquire`, but more than there are is only False.
        """
        k = _amount(k)
        m = self._m()
        m.enter(self._lock)
        taken = take(m.w, self._base, k)
        m.leave(self._lock)
        if m.w[H_STOP]:
            m.interrupted()
        return taken

    @whole
    def release(self, k: int = 1) -> None:
        """Give `k` permits back, whoever took them. Blocks: never.

        Raises:
            RuntimeError: that is more than are taken; nothing changed.
            TypeError, ValueError: `k` is not an integer, or negative.
        """
        k = _amount(k)
        m = self._m()
        w, base = m.w, self._base
        woken: list[int] = []
        m.enter(self._lock)
        held = w[base + SM_HELD]
        if k <= held:
            w[base + SM_HELD] = held - k  # publishes
            if w[base + SM_WAITQ]:
                woken = admit(w, base, m.slot)
        m.leave(self._lock)
        for g in woken:
            m.ready(g)
        if w[H_STOP]:
            m.surface()
        if k > held:
            raise RuntimeError(RELEASE_OF_MORE)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def __repr__(self) -> str:
        w = self._words()
        if w is None:
            return f"<Semaphore {self._base:#x} of a runtime that is over>"
        return f"<Semaphore {self._base:#x} {w[self._base + SM_HELD]} of {w[self._base + SM_SIZE]} taken>"


def _amount(k: int) -> int:
    if not isinstance(k, int):
        k = integer(k, "Semaphore: an integer")
    if not 0 <= k <= _MAX:
        raise ValueError(f"Semaphore: not {k} permits")
    return k


def take(w: Any, base: int, k: int) -> bool:
    """Take `k` permits if nobody is in the way; return whether they were taken. Lock: the semaphore's."""
    held = w[base + SM_HELD]
    if w[base + SM_WAITQ] or held + k > w[base + SM_SIZE]:
        return False
    w[base + SM_HELD] = held + k  # publishes
    return True


def admit(w: Any, base: int, slot: int) -> list[int]:
    """Give the first waiters what they want while it is there; return them. Lock: the semaphore's."""
    woken = []
    size = w[base + SM_SIZE]
    while s := w[base + SM_WAITQ]:
        held = w[base + SM_HELD] + w[s + SG_MSG]
        if held > size:
            break
        woken.append(grants.give_first(w, base + SM_WAITQ, base + SM_HELD, held, slot))
    return woken


def repair(w: Any, base: int, slot: int) -> list[int]:
    """Complete what a dead thread began; return goroutines to make ready. Runs alone, under the lock.

    Permits that the dead one had taken stay taken, as after a goroutine that ended without giving them back.
    """
    return grants.repair(w, base + SM_WAITQ, base + SM_HELD, slot) + admit(w, base, slot)


def check(w: Any, base: int) -> None:
    """Assert SM1 and the invariants of the queue. Runs alone."""
    q = base + SM_WAITQ
    waitq.check(w, q)
    assert 0 <= w[base + SM_HELD] <= w[base + SM_SIZE], f"{w[base + SM_HELD]} of {w[base + SM_SIZE]} are taken"
    wanted = w[w[q] + SG_MSG] if w[q] else _MAX
    assert w[base + SM_HELD] + wanted > w[base + SM_SIZE], "SM1: the first waits for what is there"


def _destroy(m: M, base: int) -> None:
    m.w[base + R_GEN] += 1
    give(m, POOL_OBJECT, base)


register(Semaphore, _destroy)
repairs.register(KIND_SEMAPHORE, (SM_WAITQ,), lambda t, base: repair(t.w, base, t.slot))
repairs.FORGET[KIND_SEMAPHORE] = lambda w, base, gone, slot: repair(w, base, slot)  # it may have kept others out
