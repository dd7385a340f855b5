"""Mutex: exclusion, order, hand-over, timeouts, misuse."""

from __future__ import annotations

import time

import pytest

from mproc_go import AtomicInt, Chan, Mutex, go
from mproc_go.shm.layout import MX_WAITQ
from mproc_go.sync import mutex as module
from tests.sync.support import DEADLINE_S, check, count, lock_then_send, send_result, unlock, until_waiting

pytestmark = pytest.mark.usefixtures("rt")


def test_nobody_comes_between():
    mutex, n = Mutex(), AtomicInt()
    handles = [go(count, mutex, n, 3, 200) for _ in range(6)]
    for handle in handles:
        handle.result(DEADLINE_S)
    assert n.load() == 1200
    check(module, mutex)


def test_waiters_go_first_come_first_served():
    mutex, out = Mutex(), Chan(10)
    mutex.lock()
    for name in range(5):
        go(lock_then_send, mutex, out, name)
        until_waiting(mutex, name + 1, MX_WAITQ)
    check(module, mutex)
    mutex.unlock()
    assert [out.recv(DEADLINE_S) for _ in range(5)] == list(range(5))


def test_handed_over_without_coming_free_once_the_first_has_waited_long():
    """Go's starvation rule: then a newcomer can't have it, however fast it is."""
    mutex, out = Mutex(), Chan(1)
    mutex.lock()
    go(lock_then_send, mutex, out, "waiter")
    until_waiting(mutex, 1, MX_WAITQ)
    waited = time.monotonic_ns()
    while time.monotonic_ns() - waited < 2 * module.STARVING_NS:
        pass
    mutex.unlock()
    mutex.lock()  # behind the waiter
    assert out.recv_nowait() == "waiter"
    mutex.unlock()


def test_any_goroutine_may_unlock():
    mutex = Mutex()
    mutex.lock()
    go(unlock, mutex).result(DEADLINE_S)
    assert mutex.try_lock()
    mutex.unlock()


def test_try_lock():
    mutex, out = Mutex(), Chan(1)
    assert mutex.try_lock()
    go(send_result, out, mutex.try_lock)
    assert out.recv(DEADLINE_S) is False
    mutex.unlock()
    go(send_result, out, mutex.try_lock)
    assert out.recv(DEADLINE_S) is True


@pytest.mark.parametrize("timeout", [0, -1, 0.02])
def test_timeout_is_never_early_and_leaves_no_waiter(timeout):
    mutex = Mutex()
    mutex.lock()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        mutex.lock(timeout)
    assert time.monotonic() - began >= timeout
    with pytest.raises(TimeoutError):
        go(mutex.lock, timeout).result(DEADLINE_S)
    until_waiting(mutex, 0, MX_WAITQ)
    mutex.unlock()
    assert mutex.try_lock()


def test_a_timeout_that_is_not_needed():
    mutex, out = Mutex(), Chan(1)
    mutex.lock()
    go(send_result, out, mutex.lock, 10)
    until_waiting(mutex, 1, MX_WAITQ)
    mutex.unlock()
    assert out.recv(DEADLINE_S) is None
    mutex.unlock()


def test_many_timeouts_against_hand_over():
    """Whoever gives up just as it is given the mutex must not take it along."""
    mutex, got = Mutex(), AtomicInt()

    def contend(mutex, got):
        for i in range(40):
            try:
                mutex.lock(0.0005 * (i % 4))
            except TimeoutError:
                continue
            got.add(1)
            mutex.unlock()

    handles = [go(contend, mutex, got) for _ in range(8)]
    for handle in handles:
        handle.result(DEADLINE_S)
    assert mutex.try_lock()
    mutex.unlock()
    check(module, mutex)
    until_waiting(mutex, 0, MX_WAITQ)
    assert got.load() > 0


def test_unlock_of_unlocked():
    mutex, out = Mutex(), Chan(1)
    with pytest.raises(RuntimeError, match="^sync: unlock of unlocked mutex$"):
        mutex.unlock()
    go(send_result, out, mutex.unlock)
    assert out.recv(DEADLINE_S) == ("RuntimeError", "sync: unlock of unlocked mutex")
    with mutex:
        pass


def test_with_unlocks_after_an_exception():
    mutex = Mutex()
    with pytest.raises(KeyError), mutex:
        raise KeyError
    assert mutex.try_lock()
    mutex.unlock()


def test_travels_in_messages_and_equals_itself():
    mutex, box = Mutex(), Chan(1)
    box.send([mutex])
    assert box.recv() == [mutex]
    assert bool(mutex)
    assert repr(mutex).endswith("unlocked>")
