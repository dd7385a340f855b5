"""``WaitGroup``: wait until a number of goroutines, in whatever processes, have ended.

Invariant WG1: nobody waits while the counter is 0. Crash: the counter publishes; whoever then still waits at 0 is woken
by :func:`repair`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mproc_go.errors import NEGATIVE_WAITGROUP
from mproc_go.runtime import park, spawn
from mproc_go.runtime import process as rt
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.runtime.process import M, deadline_of, integer, seconds, whole
from mproc_go.sched import repairs, states, waitq
from mproc_go.shm.layout import (
    H_ON_PANIC,
    H_STOP,
    KIND_WAITGROUP,
    ON_PANIC_LOG,
    OUT_OK,
    POOL_OBJECT,
    R_GEN,
    WG_COUNT,
    WG_WAITQ,
)
from mproc_go.shm.pool import give

_TOO_MANY = 1 << 63


class WaitGroup(SharedHandle):
    """A counter of goroutines that are still to end.

    Raises:
        SharedMemoryFull: no room.

    Source: Go sync.WaitGroup.
    """

    __slots__ = ()

    KIND = KIND_WAITGROUP

    def __init__(self) -> None:
        m = rt.current()
        base = self._make(m, POOL_OBJECT)
        w = m.w
        w[base + WG_COUNT] = w[base + WG_WAITQ] = 0
        self._made(m, base, KIND_WAITGROUP)

    def add(self, n: int = 1) -> None:
        """Add `n`, which may be negative, to the counter; at 0 whoever waits is woken. Blocks: never.

        Raises:
            TypeError: `n` is not an integer.
            ValueError: the counter would become negative, or is beyond 63 bits; it stays as it was.
        """
        # Cost: 0.8 us = 1 lock, 4 words; scripts/bench hot
        if not isinstance(n, int):  # before the lock, which an exception must not leave behind
            n = integer(n, "WaitGroup.add takes an integer")
        try:
            m = self._tls.m
        except AttributeError:
            m = self._m()
        w = m.w
        ph = m.ph
        base = self._base
        lock = self._lock
        try:
            w[ph] = lock.phase
            if not lock.acquire(False):
                lock.contended()
            if w[lock.gen_word] != lock.gen:
                lock = self._lock = lock.renewed(w, ph)
            count = w[base + WG_COUNT] + n
            if 0 < count < _TOO_MANY:
                w[base + WG_COUNT] = count  # publishes
                lock.release()
                w[ph] = 0
                if w[H_STOP]:
                    m.surface()
                return
            m.held.append(lock)
            woken = [] if count else set_count(w, base, 0, m.slot)
            m.leave(lock)
            for g in woken:
                m.ready(g)
            if w[H_STOP]:
                m.surface()
        except BaseException as error:
            m.left(error)
            raise
        if count < 0:
            raise ValueError(NEGATIVE_WAITGROUP)
        if count:
            raise ValueError(f"WaitGroup: {count} are more than a counter holds")

    def done(self) -> None:
        """Take 1 from the counter. Blocks: never. Raises: ValueError as :meth:`add`."""
        self.add(-1)

    @whole
    def wait(self, timeout: float | None = None) -> None:
        """Wait until the counter is 0. Blocks the goroutine.

        Args:
            timeout: in seconds; None waits for ever, zero or less does not wait.

        Raises:
            TimeoutError: it was not 0 in time.
        """
        m = self._m()
        w, lock, base = m.w, self._lock, self._base
        if timeout is not None:
            timeout = seconds(timeout)
        if w[H_STOP]:
            m.interrupted()
        m.enter(lock)
        count = w[base + WG_COUNT]
        if not count or (timeout is not None and timeout <= 0):
            m.leave(lock)
            if count:
                raise TimeoutError(f"WaitGroup: {count} have not ended")
            return
        waitq.join(w, base + WG_WAITQ, m.begin_wait(states.WAITGROUP_WAIT))
        m.leave(lock)
        if not park.park(m, lock, base + WG_WAITQ, deadline_of(timeout)):
            raise TimeoutError(f"WaitGroup: {w[base + WG_COUNT]} have not ended within {timeout} s")

    def go(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Start ``fn(*args, **kwargs)`` as a goroutine that is counted until it ends; a panic of it is a panic.

        Raises: as :func:`mproc_go.go`; then it is not counted.     Source: Go sync.WaitGroup.Go.
        """
        m = self._m()
        if m.w[H_STOP]:
            m.interrupted()
        self.add(1)
        try:
            spawn.spawn(m, fn, args, kwargs, False, self)
        except BaseException:
            self.add(-1)
            raise

    def _run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run a counted goroutine, in the worker that starts it.

        A panic that ends the program leaves the counter: else whoever waits would go on, and might be done, before the
        panic is known. Source: Go sync.WaitGroup.Go.
        """
        try:
            rt.call_out(fn, *args, **kwargs)
        except Exception:
            if self._m().w[H_ON_PANIC] == ON_PANIC_LOG:
                self.done()
            raise
        except BaseException:  # goexit: an end like any other
            self.done()
            raise
        self.done()

    def __repr__(self) -> str:
        w = self._words()
        return f"<WaitGroup {self._base:#x} {'of a runtime that is over' if w is None else w[self._base + WG_COUNT]}>"


def set_count(w: Any, base: int, count: int, slot: int) -> list[int]:
    """Store the counter; return the goroutines to make ready. Lock: the wait group's."""
    w[base + WG_COUNT] = count  # publishes
    return [] if count else waitq.decide_all(w, base + WG_WAITQ, OUT_OK | slot << 32)


def repair(w: Any, base: int, slot: int) -> list[int]:
    """Complete what a dead thread began; return goroutines to make ready. Runs alone, under the lock."""
    waitq.repair(w, base + WG_WAITQ)
    return [] if w[base + WG_COUNT] else waitq.decide_all(w, base + WG_WAITQ, OUT_OK | slot << 32)


def check(w: Any, base: int) -> None:
    """Assert WG1 and the invariants of the queue. Runs alone."""
    waitq.check(w, base + WG_WAITQ)
    assert w[base + WG_COUNT] or not w[base + WG_WAITQ], "WG1: somebody waits at 0"


def _destroy(m: M, base: int) -> None:
    m.w[base + R_GEN] += 1
    give(m, POOL_OBJECT, base)


register(WaitGroup, _destroy)
repairs.register(KIND_WAITGROUP, (WG_WAITQ,), lambda t, base: repair(t.w, base, t.slot))
