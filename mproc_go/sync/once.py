"""``Once``: do something exactly once in the whole program.

Invariant OC1: nobody waits once it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mproc_go.errors import GO_OF_NIL
from mproc_go.runtime import park
from mproc_go.runtime import process as rt
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.runtime.process import M, deadline_of, seconds, whole
from mproc_go.sched import repairs, states, waitq
from mproc_go.shm.layout import (
    H_STOP,
    KIND_ONCE,
    OC_RUNNER,
    OC_STATE,
    OC_WAITQ,
    ONCE_DONE,
    ONCE_NEW,
    ONCE_RUNNING,
    OUT_OK,
    POOL_OBJECT,
    R_GEN,
)
from mproc_go.shm.pool import give


class Once(SharedHandle):
    """Calls the first function it is given, and no other.

    Raises:
        SharedMemoryFull: no room.

    Source: Go sync.Once.
    """

    __slots__ = ()

    KIND = KIND_ONCE

    def __init__(self) -> None:
        m = rt.current()
        base = self._make(m, POOL_OBJECT)
        w = m.w
        w[base + OC_STATE] = ONCE_NEW
        w[base + OC_RUNNER] = w[base + OC_WAITQ] = 0
        self._made(m, base, KIND_ONCE)

    def do(self, fn: Callable[..., Any], /, *args: Any, timeout: float | None = None) -> None:
        """Call ``fn(*args)`` here if this is the first call of ``do`` in the program; else wait until that returned.

        A function that raises counts as done. Called by its own function it waits for ever, as in Go.

        Args:
            timeout: in seconds, for waiting on another's call; None waits for ever, zero or less does not wait.

        Raises:
            Exception: what `fn` raises, if it was called here.
            TimeoutError: the call elsewhere did not return in time.
            TypeError: `fn` can't be called; nothing was done.

        Blocks the goroutine.
        """
        if not callable(fn):
            raise TypeError(GO_OF_NIL if fn is None else f"Once.do needs a function to call, not {type(fn).__name__}")
        if timeout is not None:
            timeout = seconds(timeout)
        m = self._m()
        w, base, lock = m.w, self._base, self._lock
        if w[H_STOP]:
            m.interrupted()
        if w[base + OC_STATE] == ONCE_DONE:
            return
        m.enter(lock)
        state = w[base + OC_STATE]
        if state == ONCE_NEW:
            w[base + OC_RUNNER] = m.g
            w[base + OC_STATE] = ONCE_RUNNING  # publishes
            m.leave(lock)
            try:
                rt.call_out(fn, *args)
            finally:
                self._finish()
            return
        if state == ONCE_DONE or (timeout is not None and timeout <= 0):
            m.leave(lock)
            if state == ONCE_DONE:
                return
            raise TimeoutError("Once: the function has not returned")
        waitq.join(w, base + OC_WAITQ, m.begin_wait(states.ONCE_DO))
        m.leave(lock)
        if not park.park(m, lock, base + OC_WAITQ, deadline_of(timeout)):
            raise TimeoutError(f"Once: the function has not returned within {timeout} s")

    @whole
    def _finish(self) -> None:
        m = self._m()
        m.enter(self._lock)
        woken = finish(m.w, self._base, m.slot)
        m.leave(self._lock)
        for g in woken:
            m.ready(g)

    def __repr__(self) -> str:
        w = self._words()
        state = "of a runtime that is over" if w is None else ("new", "running", "done")[w[self._base + OC_STATE]]
        return f"<Once {self._base:#x} {state}>"


def finish(w: Any, base: int, slot: int) -> list[int]:
    """The function returned (or its worker died: that counts as done); return goroutines to make ready.

    Lock: the once's.
    """
    w[base + OC_STATE] = ONCE_DONE  # publishes
    w[base + OC_RUNNER] = 0
    return waitq.decide_all(w, base + OC_WAITQ, OUT_OK | slot << 32)


def repair(w: Any, base: int, slot: int) -> list[int]:
    """Complete what a dead thread began; return goroutines to make ready. Runs alone, under the lock."""
    waitq.repair(w, base + OC_WAITQ)
    return finish(w, base, slot) if w[base + OC_STATE] == ONCE_DONE else []


def forget(w: Any, base: int, gone: Callable[[int], bool], slot: int) -> list[int]:
    """The one that runs the function may be dead: that is done. Returns goroutines to make ready. Lock: the once's."""
    running = w[base + OC_STATE] == ONCE_RUNNING and gone(w[base + OC_RUNNER])
    return finish(w, base, slot) if running else []


def check(w: Any, base: int) -> None:
    """Assert OC1 and the invariants of the queue. Runs alone."""
    waitq.check(w, base + OC_WAITQ)
    assert w[base + OC_STATE] == ONCE_RUNNING or not w[base + OC_WAITQ], "OC1: somebody waits, and nobody runs"


def _destroy(m: M, base: int) -> None:
    m.w[base + R_GEN] += 1
    give(m, POOL_OBJECT, base)


register(Once, _destroy)
repairs.register(KIND_ONCE, (OC_WAITQ,), lambda t, base: repair(t.w, base, t.slot))
repairs.FORGET[KIND_ONCE] = forget
