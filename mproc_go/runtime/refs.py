"""Which records are still reachable: one count a record, one bit a process, and a table a process.

A record that handles name (a goroutine, a channel, ...) lives as long as some process has a handle of it or a handle
of it travels in a message. In the record, ``R_HOLDERS`` has a bit for each process and ``R_REFS`` counts those bits and
the travelling handles; 0 frees it. How many handle objects of it there are in this process is known here only, so that
copying a handle within a process costs no shared memory at all.

Finalizers run anywhere, also in the middle of a critical section, where taking a lock would deadlock. A handle that
dies there is put on a list, and :meth:`Refs.settle` works it off at the next safe point.

Crash: a count changes together with the word that says whose share it is, a bit or how far a message is counted: both
or neither (shm/counts.py). The reaper clears the bits of a dead process and takes its share off ``R_REFS``; what only
it could reach, and what it was destroying, goes to ``S_ORPHANS``, for a worker to free. So a function in DESTROY may
find that another was in the middle of it: it takes one thing after the other out of the record, and then frees it.
"""

from __future__ import annotations

import importlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mproc_go.codec.handles import HOMES, Triple
from mproc_go.runtime.genuine import Records, missing
from mproc_go.sched import orphans
from mproc_go.shm.counts import count, count_locked
from mproc_go.shm.layout import (
    HEAD_WORDS,
    KIND_GOROUTINE,
    L_OBJECTS,
    MSG_BUT,
    MSG_COUNT,
    MSG_FROM,
    MSG_HANDLES,
    MSG_TABLE,
    N_OBJECT_LOCKS,
    O_KIND,
    R_GEN,
    R_HOLDERS,
    R_REFS,
    object_lock,
)

if TYPE_CHECKING:
    from mproc_go.runtime.process import M

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
        # Cost: 0.3 us; a spawn does it. Nobody goes by it before the record says that it is live.
        first = base + R_HOLDERS
        w[first] = w[first + 1] = w[first + 2] = w[first + 3] = 0
        w[base + R_REFS] = refs
        w[base + self.word] = self.bit
        self.holds[base] = 1

    def open_if(self, m: M, base: int, alive: Callable[[], bool], level: int = 0) -> bool:
        """Count a handle of a record that may be gone: only if `alive` says, under its lock, that it is not.

        Its counterpart is :meth:`drop`.     Blocks: for that lock; `level` is how many locks this thread has.
        """
        with self._lock:
            lock = m.locks[object_lock(base)]
            m.enter(lock, level)
            there = alive()
            if there and not self.holds.get(base):
                count_locked(m, base, 1, base + self.word, m.w[base + self.word] | self.bit)
            m.leave(lock, level)
            if there:
                self.holds[base] = self.holds.get(base, 0) + 1
            return there

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
                there = w[base + R_GEN] == gen and w[base + R_REFS]
                if there:
                    count_locked(m, base, 1, base + self.word, w[base + self.word] | self.bit)
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
                refs = self._share(m, base, -1)
            finally:
                self._lock.release()
            if not refs:
                self.destroy(m, kind, base)
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
        # Cost: 0.6 us = 1 lock, 8 words; each spawn whose handle is not kept does it
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
            # What count does, written out.
            refs = w[base + R_REFS] - 1
            w[m.redo_of] = base
            w[m.redo_at] = at = base + self.word
            w[m.redo] = 0  # of its words none but ours was ever set
            if not refs:
                w[base] = m.dying
            w[base + R_REFS] = refs | m.by  # publishes
            w[at] = 0
            w[base + R_REFS] = refs
            lock.release()
            w[ph] = 0
            if not refs:
                self.destroy(m, kind, base)
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
        return self._share(m, base, -1)

    def _share(self, m: M, base: int, by: int) -> int:
        """What this process counts of the record becomes 1 or 0: its bit; return the references there are.

        Twin: shm/counts.py, but for the word, which others change as well.
        """
        # Cost: 0.5 us = 1 lock, 9 words
        w = m.w
        ph = m.ph
        lock = m.locks[L_OBJECTS + (base >> 5) % N_OBJECT_LOCKS]
        w[ph] = lock.phase
        if not lock.acquire(False):
            lock.contended()
        if w[lock.gen_word] != lock.gen:
            lock = lock.renewed(w, ph)
        refs: int = w[base + R_REFS] + by
        w[m.redo_of] = base
        w[m.redo_at] = at = base + self.word
        w[m.redo] = holders = w[at] ^ self.bit
        if not refs:
            w[base] = m.dying
        w[base + R_REFS] = refs | m.by  # publishes
        w[at] = holders
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
                self.destroy(m, kind, base)

    def carry(self, m: M, block: int, table: Sequence[Triple]) -> None:
        """Count the handles of a message in our hands, which begins with their table. The caller holds them all."""
        w = m.w
        n = len(table)
        w[block + MSG_TABLE] = n | n << MSG_BUT
        w[block] = w[block] >> HEAD_WORDS << HEAD_WORDS | m.carries  # publishes: from here on the reaper goes by it
        for i, (_, base, _) in enumerate(table, 1):
            count(m, base, 1, block + MSG_TABLE, n | n - i << MSG_BUT)

    def refer(self, m: M, at: int, base: int) -> None:
        """Have the word `at` of a live record, which is 0, name another record, and count that as one reference.

        The caller holds both. The generation lies in the next word.
        """
        w = m.w
        w[at + 1] = w[base + R_GEN]
        count(m, base, 1, at, base)

    def unrefer(self, m: M, at: int, kind: int) -> None:
        """Have the word `at` of a record name nothing any more; who was named by nobody else is destroyed."""
        base = m.w[at]
        if base and not count(m, base, -1, at, 0):
            self.destroy(m, kind, base)

    def unload(self, m: M, block: int, table: Sequence[Triple]) -> None:
        """Uncount the handles of a message in our hands, which is opened or unwanted, as far as they name something."""
        w, holds = m.w, self.holds
        at = block + MSG_TABLE
        word: int = w[at]
        n = word & MSG_COUNT
        but = word >> MSG_BUT
        if n != len(table):  # damaged
            return
        for i in range(word >> MSG_FROM & MSG_HANDLES, n - but):
            kind, base, gen = table[i]
            if (base not in holds or w[base + R_GEN] != gen or w[base + O_KIND] != kind) and not self.records.has(
                w, kind, base, gen
            ):
                continue
            if not count(m, base, -1, at, n | i + 1 << MSG_FROM | but << MSG_BUT):
                self.destroy(m, kind, base)

    def adopt_orphans(self, m: M) -> None:
        """Free the records that only a dead process referred to."""
        while tagged := orphans.take(m):
            base = tagged & ~orphans.GOROUTINE
            self.destroy(m, KIND_GOROUTINE if tagged & orphans.GOROUTINE else m.w[base + O_KIND], base)

    def destroy(self, m: M, kind: int, base: int) -> None:
        """Free a record whose last reference we took off, and what it holds. Runs under no lock."""
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


