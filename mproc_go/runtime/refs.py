"""Which records are still reachable: one count a record, one bit a process, and a table a process.

A record that handles name (a goroutine, a channel, ...) lives as long as some process has a handle of it or a handle
of it travels in a message. In the record, ``R_HOLDERS`` has a bit for each process and ``R_REFS`` counts those bits and
the travelling handles; 0 frees it. How many handle objects of it there are in this process is known here only, so that
copying a handle within a process costs no shared memory at all.

Finalizers run anywhere, also in the middle of a critical section, where taking a lock would deadlock. A handle that
dies there is put on a list, and :meth:`Refs.settle` works it off at the next safe point.

Crash: the reaper clears the bits of a dead process and takes its share off ``R_REFS``; what only it could reach goes to
``S_ORPHANS``, for a worker to free.
"""

from __future__ import annotations

import importlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mproc_go.codec.handles import HOMES
from mproc_go.runtime.genuine import Records, missing
from mproc_go.shm.layout import (
    KIND_GOROUTINE,
    L_OBJECTS,
    L_SCHED,
    N_OBJECT_LOCKS,
    O_KIND,
    R_GEN,
    R_HOLDERS,
    R_LINK,
    R_REFS,
    S_ORPHANS,
    object_lock,
)

if TYPE_CHECKING:
    from mproc_go.runtime.process import M

_COUNT = (1 << 32) - 1


class _Destroyers(dict[int, "Callable[[M, int], None]"]):
    """By kind; a message discarded here may hold handles of a kind whose module was never imported here."""

    def __missing__(self, kind: int) -> Callable[[M, int], None]:
        importlib.import_module(HOMES[kind])
        return self[kind]


# What the last handle of a kind frees: kind -> function(m, base). Runs under no lock.
DESTROY = _Destroyers()


class Refs:
    """The handles of this process.

    Attributes:
        holds: for each record we have handles of: how many.
        records: tells those that are there from what forged and damaged messages name.
    """

    def __init__(self, host: int) -> None:
        self.holds: dict[int, int] = {}
        self.records = Records()
        # Taken without waiting only: a finalizer that finds it taken, maybe by its own thread, leaves its work behind.
        self._lock = threading.Lock()
        self._dropped: deque[tuple[int, int]] = deque()
        self._dying: deque[tuple[int, int]] = deque()
        self._destroying = False
        self.word = R_HOLDERS + host // 64
        self.bit = 1 << host % 64

    def adopt(self, w: memoryview, base: int, refs: int = 1) -> None:
        """Count the first handle of a record that we just made and nobody else knows; `refs` references in all."""
        # Cost: 0.3 us; a spawn does it. The count comes before our bit: dead in between, nobody takes one off again.
        first = base + R_HOLDERS
        w[first] = w[first + 1] = w[first + 2] = w[first + 3] = 0
        w[base + R_REFS] = refs
        w[base + self.word] = self.bit
        self.holds[base] = 1

    def opened(self, m: M, kind: int, base: int, gen: int) -> None:
        """Count a handle that came in a message (the message still counts, so the record is alive).

        Raises:
            DecodeError: there is no such record, whatever the message says; nothing was changed.
        """
        w = m.w
        with self._lock:
            n = self.holds.get(base, 0)
            if not n or w[base + R_GEN] != gen or w[base + O_KIND] != kind:
                self.records.check(w, kind, base, gen)
            if not n:
                lock = m.locks[object_lock(base)]
                m.enter(lock)
                # Named by a message that does not count it, it may have been freed since we looked.
                there = w[base + R_GEN] == gen and w[base + R_REFS] & _COUNT
                if there:
                    w[base + R_REFS] += 1  # before our bit, which says that one of them is ours
                    w[base + self.word] |= self.bit
                m.leave(lock)
                if not there:
                    raise missing(kind, base, gen)
            self.holds[base] = n + 1

    def drop(self, m: M | None, kind: int, base: int) -> None:
        """A handle object died. `m`: this thread, or None where it has none. Safe in a finalizer."""
        # Cost: 1 us = 1 lock, 1 shared lock, 6 words; a spawn whose handle is not kept does it
        if m is None or m.w[m.ph] or not self._lock.acquire(False):
            self._dropped.append((kind, base))
            return
        try:
            try:
                n = self.holds.pop(base)
                if n > 1:
                    self.holds[base] = n - 1
                    return
                # What _drop does, written out.
                w = m.w
                ph = m.ph
                lock = m.locks[L_OBJECTS + (base >> 5) % N_OBJECT_LOCKS]
                w[ph] = lock.phase
                if not lock.acquire(False):
                    lock.contended()
                if w[lock.gen_word] != lock.gen:
                    lock = lock.renewed(w, ph)
                w[base + self.word] &= ~self.bit
                refs = w[base + R_REFS] - 1
                w[base + R_REFS] = refs
                lock.release()
                w[ph] = 0
            finally:
                self._lock.release()
            if not refs:
                self._destroy(m, kind, base)
            if self._dropped:
                self.settle(m)
        except BaseException as error:
            if m.cut_off(error):
                m.mended()
            raise

    def drop_only(self, m: M, kind: int, base: int) -> None:
        """As :meth:`drop`, of the only handle there ever was: it was made here, and never named in a message.

        Nobody can come by another one, so what this process knows of it needs no lock.
        """
        # Cost: 0.5 us = 1 lock, 5 words; each spawn whose handle is not kept does it
        w = m.w
        ph = m.ph
        if w[ph]:
            self._dropped.append((kind, base))
            return
        try:
            lock = m.locks[L_OBJECTS + (base >> 5) % N_OBJECT_LOCKS]
            del self.holds[base]
            w[ph] = lock.phase
            if not lock.acquire(False):
                lock.contended()
            if w[lock.gen_word] != lock.gen:
                lock = lock.renewed(w, ph)
            w[base + self.word] = 0  # of its words none but ours was ever set
            refs = w[base + R_REFS] - 1
            w[base + R_REFS] = refs
            lock.release()
            w[ph] = 0
            if not refs:
                self._destroy(m, kind, base)
            if self._dropped:
                self.settle(m)
        except BaseException as error:
            if m.cut_off(error):  # not m.left: a finalizer may run in the middle of a wait
                m.mended()
            raise

    def _drop(self, m: M, base: int) -> int:
        """One handle less; return the references that are left, here or elsewhere. `_lock` is held."""
        n = self.holds.pop(base)
        if n > 1:
            self.holds[base] = n - 1
            return n - 1
        w = m.w
        ph = m.ph
        lock = m.locks[object_lock(base)]
        w[ph] = lock.phase
        if not lock.acquire(False):
            lock.contended()
        if w[lock.gen_word] != lock.gen:
            lock = lock.renewed(w, ph)
        w[base + self.word] &= ~self.bit
        refs: int = w[base + R_REFS] - 1
        w[base + R_REFS] = refs
        lock.release()
        w[ph] = 0
        return refs

    def settle(self, m: M) -> None:
        """Work off the handles that died. Runs: at safe points, under no shared lock. Blocks: for object locks."""
        dropped = self._dropped
        while dropped:
            if not self._lock.acquire(False):
                return  # the thread that has it, maybe this one further up, does it when it comes back here
            try:
                kind, base = dropped.popleft()
                refs = self._drop(m, base)
            except IndexError:  # another thread took the last one
                return
            finally:
                self._lock.release()
            if not refs:
                self._destroy(m, kind, base)

    def retain(self, m: M, table: Iterable[tuple[int, int, int]]) -> None:
        """Count the handles of a message that begins to travel. The caller holds them all."""
        w = m.w
        for _, base, _ in table:
            lock = m.locks[object_lock(base)]
            m.enter(lock)
            w[base + R_REFS] += 1
            m.leave(lock)

    def hand_over(self, m: M, base: int) -> None:
        """Our only handle of a record begins to travel: what it counted, the message counts from now on."""
        w = m.w
        with self._lock:
            del self.holds[base]
            lock = m.locks[object_lock(base)]
            m.enter(lock)
            w[base + self.word] &= ~self.bit  # publishes; before it, whoever buries us frees the record
            m.leave(lock)

    def release(self, m: M, table: Iterable[tuple[int, int, int]]) -> None:
        """Uncount the handles of a message that was opened or discarded, as far as they name something."""
        w = m.w
        holds = self.holds
        for kind, base, gen in table:
            if (base not in holds or w[base + R_GEN] != gen or w[base + O_KIND] != kind) and not self.records.has(
                w, kind, base, gen
            ):
                continue
            lock = m.locks[object_lock(base)]
            m.enter(lock)
            refs = w[base + R_REFS] - 1
            w[base + R_REFS] = refs
            m.leave(lock)
            if not refs:
                self._destroy(m, kind, base)

    def adopt_orphans(self, m: M) -> None:
        """Free the records that only a dead process referred to. Twin: supervisor/reaper.py."""
        w = m.w
        lock = m.locks[L_SCHED]
        while True:  # one by one: dead among them, we take one along
            m.enter(lock)
            tagged = w[S_ORPHANS]
            base = tagged & ~1
            if tagged:
                w[S_ORPHANS] = w[base + R_LINK]  # publishes: it is ours
            m.leave(lock)
            if not tagged:
                return
            self._destroy(m, KIND_GOROUTINE if tagged & 1 else w[base + O_KIND], base)

    def _destroy(self, m: M, kind: int, base: int) -> None:
        # A channel may hold the last handle of another, and so on, thousands deep: a loop, not a recursion.
        self._dying.append((kind, base))
        if self._destroying:
            return
        self._destroying = True
        try:
            while self._dying:
                kind, base = self._dying.popleft()
                DESTROY[kind](m, base)
        finally:
            self._destroying = False


