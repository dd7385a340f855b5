"""Cond: who is woken, in which order, and that the mutex is there again."""

from __future__ import annotations

import time

import pytest

from mproc_go import AtomicInt, Chan, Cond, Mutex, RWMutex, go
from mproc_go.shm.layout import CD_WAITQ
from mproc_go.sync import cond as module
from tests.sync.support import DEADLINE_S, check, until_waiting

pytestmark = pytest.mark.usefixtures("rt")


def wait_then_send(cond, out, name):
    with cond.mutex:
        cond.wait()
        out.send(name)


def test_signal_wakes_the_longest_waiter_and_broadcast_all():
    mutex = Mutex()
    cond, out = Cond(mutex), Chan(10)
    for name in range(5):
        go(wait_then_send, cond, out, name)
        until_waiting(cond, name + 1, CD_WAITQ)
    check(module, cond)
    with mutex:
        cond.signal()
    assert out.recv(DEADLINE_S) == 0
    cond.signal()  # the mutex need not be locked
    assert out.recv(DEADLINE_S) == 1
    assert len(out) == 0
    cond.broadcast()
    assert sorted(out.recv(DEADLINE_S) for _ in range(3)) == [2, 3, 4]
    cond.signal()  # nobody waits: forgotten
    until_waiting(cond, 0, CD_WAITQ)


def test_no_wake_up_without_a_signal():
    mutex, woken = Mutex(), AtomicInt()
    cond = Cond(mutex)

    def wait(cond, woken):
        with cond.mutex:
            cond.wait()
            woken.add(1)

    for _ in range(4):
        go(wait, cond, woken)
    until_waiting(cond, 4, CD_WAITQ)
    for i in range(1, 5):
        with mutex:
            assert woken.load() == i - 1
            cond.signal()
            until_waiting(cond, 4 - i, CD_WAITQ)
        while woken.load() != i:
            mutex.lock()
            mutex.unlock()


def test_timeout_is_never_early_and_has_the_mutex():
    mutex = Mutex()
    cond = Cond(mutex)
    mutex.lock()
    for timeout in (0, -1, 0.02):
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            cond.wait(timeout)
        assert time.monotonic() - began >= timeout
        assert not mutex.try_lock()
    until_waiting(cond, 0, CD_WAITQ)
    mutex.unlock()


def test_misuse():
    mutex = Mutex()
    cond = Cond(mutex)
    with pytest.raises(RuntimeError, match="unlock of unlocked mutex"):
        cond.wait()
    until_waiting(cond, 0, CD_WAITQ)
    with pytest.raises(TypeError):
        Cond(None)


def test_on_a_read_write_mutex_and_the_mutex_lives_with_it():
    cond, out = Cond(RWMutex()), Chan(1)
    go(wait_then_send, cond, out, "done")
    until_waiting(cond, 1, CD_WAITQ)
    with cond.mutex:
        cond.signal()
    assert out.recv(DEADLINE_S) == "done"
    assert cond.mutex == cond.mutex


def test_bounded_buffer():
    """The textbook use: every item arrives once, and never more than the bound are under way."""
    mutex = Mutex()
    not_full, not_empty = Cond(mutex), Cond(mutex)
    size, taken, total, bound = AtomicInt(), AtomicInt(), 120, 3

    def produce(n):
        for _ in range(n):
            with mutex:
                while size.load() == bound:
                    not_full.wait()
                size.add(1)
                not_empty.signal()

    def consume(n):
        most = 0
        for _ in range(n):
            with mutex:
                while not size.load():
                    not_empty.wait()
                most = max(most, size.load())
                size.add(-1)
                taken.add(1)
                not_full.signal()
        return most

    producers = [go(produce, total // 3) for _ in range(3)]
    consumers = [go(consume, total // 2) for _ in range(2)]
    assert max(h.result(DEADLINE_S) for h in consumers) <= bound
    for h in producers:
        h.result(DEADLINE_S)
    assert (size.load(), taken.load()) == (0, total)
