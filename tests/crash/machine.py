"""Shared memory that can be cut: the real code runs over it, and dies at the n-th store.

A kill cuts a program at some store: all stores before it are seen, none after it. So the points at which a worker can
die are its stores, and they can be enumerated. :class:`Words` counts them and raises at the chosen one; what it holds
then is exactly what a killed worker leaves.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import ClassVar

from mproc_go.runtime.refs import Refs
from mproc_go.sched import idle, states
from mproc_go.shm import layout as L
from mproc_go.shm import pool
from mproc_go.shm.thread import Thread

SIZE_WORDS = L.DYNAMIC + 256 * 1024


class Cut(BaseException):
    """The process is killed here."""


class Words:
    """Words of a segment, in the process's own memory; counts stores and dies at one of them.

    Attributes:
        cut_at: store to die at, before it is made; None to live.
        stores: how many were made.
        died_in: function that died.
        cut: (file, line) of each place where some run died, of all machines.
    """

    cut: ClassVar[set[tuple[str, int]]] = set()

    def __init__(self, size: int = SIZE_WORDS) -> None:
        self.bytes = bytearray(size * 8)
        self.words = memoryview(self.bytes).cast("Q")
        self.cut_at: int | None = None
        self.stores = 0
        self.died_in = ""

    def on_cut(self) -> None:
        """What is to be so before the dying code unwinds, which a killed one does not."""

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> int:
        return self.words[index]

    def store(self) -> None:
        """Called by whatever stores."""
        if self.cut_at is not None and self.stores >= self.cut_at:
            frame = sys._getframe(2)
            self.cut.add((frame.f_code.co_filename, frame.f_lineno))
            self.died_in = self.died_in or frame.f_code.co_name
            self.on_cut()
            raise Cut
        self.stores += 1

    def __setitem__(self, index: int, value: int) -> None:
        self.store()
        self.words[index] = value


class Bytes:
    """The same memory as bytes."""

    def __init__(self, words: Words) -> None:
        self.words = words

    def __getitem__(self, where: slice) -> bytes:
        return bytes(self.words.bytes[where])

    def __setitem__(self, where: slice, data: bytes) -> None:
        self.words.store()
        assert where.stop - where.start == len(data)
        self.words.bytes[where] = data


class FreeLock:
    """A lock nobody else wants: these tests have one thread at a time. Its phase word is stored like the real one's."""

    gen = 0

    def __init__(self, number: int) -> None:
        self.number = number
        self.gen_word = L.LOCKS + number * L.LOCK_WORDS
        self.phase = number + 1 | 1 << 16
        self.held = 0

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        assert not self.held, f"lock {self.number} is taken twice"
        self.held = 1
        return True

    def release(self) -> None:
        assert self.held, f"lock {self.number} is given back twice"
        self.held = 0

    def enter(self, w: Words, ph: int) -> None:
        w[ph] = self.phase
        self.acquire()

    def leave(self, w: Words, ph: int) -> None:
        self.release()
        w[ph] = 0


class FakeSegment:
    def __init__(self, words: Words) -> None:
        self.w = words
        self.mem = Bytes(words)

    def commit(self, base: int, words: int) -> None:
        pass

    def give_back(self, base: int, words: int) -> None:
        self.w.bytes[base * 8 : (base + words) * 8] = bytes(words * 8)

    def window(self, start: int, length: int) -> memoryview:
        return memoryview(self.w.bytes)[start : start + length]

    def fill(self, start: int, data: bytes) -> None:
        self.mem[start : start + len(data)] = data

    def shared_array(self, start: int, length: int, used: int):
        return (ctypes.c_char * used).from_buffer(self.w.bytes, start)


class _Process:
    """What M and the handles need of a process."""

    def __init__(self, machine: Machine, host: int) -> None:
        self.refs = Refs(host)
        self.keys = None
        self.tls = threading.local()
        self.over = None


class FakeM(Thread):
    """A thread of the machine, with the few things of a runtime's M that channels use."""

    def __init__(self, machine: Machine, slot: int) -> None:
        super().__init__(machine.segment, machine.locks, machine.notes, slot)
        self.process = _Process(machine, slot)
        self.process.tls.m = self
        self.g = 0
        self.decides = L.OUT_OK | slot << 32
        self.delivered: list[int] = []

    def cut_off(self, error: BaseException) -> bool:
        """A Cut is the death of the whole process."""
        return False

    def ready(self, g: int) -> None:
        self.delivered.append(g)

    def begin_wait(self, reason: int) -> int:
        self.w[self.g + L.G_DECIDE] = 0
        self.w[self.g + L.G_STATUS] = states.WAITING | reason << states.REASON_SHIFT
        return self.g

    def end_wait(self) -> None:
        self.w[self.g + L.G_STATUS] = states.RUNNING


class Machine:
    """A segment with two Ps and threads with slots 1, 2, ...; slot 0 is the supervisor, which repairs."""

    def __init__(self, threads: int = 3) -> None:
        self.words = Words()
        self.segment = FakeSegment(self.words)
        self.locks = [FreeLock(number) for number in range(L.N_LOCKS)]
        self.notes: list = [None] * (threads + 1)
        w = self.words
        w[L.H_LIMIT_WORDS] = SIZE_WORDS
        w[L.H_COMMITTED_WORDS] = L.DYNAMIC
        w[L.H_MAX_MS] = threads
        w[L.H_SLOTS] = threads + 1
        self.supervisor = FakeM(self, 0)
        self.threads = [FakeM(self, slot) for slot in range(1, threads + 1)]
        for t in self.threads:
            w[t.base + L.M_KIND] = L.KIND_WORKER
        idle.start(w, 2)

    def free_all_locks(self) -> None:
        """What the new doors of a recovery come to: nobody holds anything."""
        for lock in self.locks:
            lock.held = 0
        for slot in range(len(self.notes)):
            for level in range(8):
                self.words.words[L.slot_base(slot) + L.M_PHASE + level] = 0

    def new_goroutine(self, t: FakeM, *, started: bool = True) -> int:
        """A goroutine record, bound to the thread if it has started."""
        from mproc_go.sched import states, waitq

        w = self.words
        g = pool.take(t, L.POOL_G)
        w[g + L.G_M] = t.slot if started else 0
        w[g + L.G_DECIDE] = 0
        w[g + L.G_JOINQ] = 0
        w[g + L.G_STATUS] = states.RUNNING if started else states.RUNNABLE
        w[g] = t.live
        waitq.settle_sudog(w, g)
        return g


def cuts(build, operate):
    """Die at each store of an operation in turn.

    Yields: (machine, what `build` returned, n, whether it was cut). The last one was not: the operation took n stores.

    Args:
        build: ``build(machine)`` prepares the state and returns it.
        operate: ``operate(machine, state)`` is the operation to cut.
    """
    n = 0
    while True:
        machine = Machine()
        state = build(machine)
        machine.words.stores = 0
        machine.words.cut_at = n
        try:
            operate(machine, state)
            died = False
        except Cut:
            died = True
        machine.words.cut_at = None
        machine.free_all_locks() if died else None
        yield machine, state, n, died
        if not died:
            return
        n += 1
        assert n < 3000, "the operation does not end"
