"""Semaphore: permits, order, timeouts, misuse."""

from __future__ import annotations

import time

import pytest

from mproc_go import AtomicInt, Chan, Semaphore, go
from mproc_go.shm.layout import SM_WAITQ
from mproc_go.sync import semaphore as module
from tests.sync.support import DEADLINE_S, check, until_waiting

pytestmark = pytest.mark.usefixtures("rt")


def acquire_then_send(sem, k, out):
    sem.acquire(k)
    out.send(k)


def test_never_more_than_there_are():
    sem, inside, most = Semaphore(3), AtomicInt(), Chan(100)

    def work():
        for _ in range(20):
            with sem:
                most.send(inside.add(1))
                inside.add(-1)

    handles = [go(work) for _ in range(5)]
    for h in handles:
        h.result(DEADLINE_S)
    assert max(most.recv() for _ in range(100)) <= 3
    assert sem.try_acquire(3)
    check(module, sem)


def test_first_come_first_served_and_the_big_one_is_not_starved():
    sem, out = Semaphore(10), Chan(10)
    sem.acquire(8)
    go(acquire_then_send, sem, 5, out)
    until_waiting(sem, 1, SM_WAITQ)
    go(acquire_then_send, sem, 1, out)
    until_waiting(sem, 2, SM_WAITQ)
    assert not sem.try_acquire(1)  # it would fit, but somebody waits
    check(module, sem)
    sem.release(2)
    until_waiting(sem, 2, SM_WAITQ)
    sem.release(1)
    assert out.recv(DEADLINE_S) == 5
    until_waiting(sem, 1, SM_WAITQ)
    sem.release(5)
    assert out.recv(DEADLINE_S) == 1
    check(module, sem)


def test_a_big_one_that_gives_up_lets_the_others_through():
    sem, out = Semaphore(3), Chan(10)
    sem.acquire(2)
    big = go(sem.acquire, 3, 0.1)
    until_waiting(sem, 1, SM_WAITQ)
    go(acquire_then_send, sem, 1, out)
    assert out.recv(DEADLINE_S) == 1
    with pytest.raises(TimeoutError):
        big.result(DEADLINE_S)
    check(module, sem)


@pytest.mark.parametrize("timeout", [0, -1, 0.02])
def test_timeouts(timeout):
    sem = Semaphore(1)
    sem.acquire()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        sem.acquire(1, timeout)
    assert time.monotonic() - began >= timeout
    with pytest.raises(TimeoutError):
        go(sem.acquire, timeout=timeout).result(DEADLINE_S)
    until_waiting(sem, 0, SM_WAITQ)
    sem.release()
    sem.acquire(timeout=0)


def test_misuse():
    sem = Semaphore(2)
    with pytest.raises(ValueError, match="never"):
        sem.acquire(3)
    assert not sem.try_acquire(3)
    with pytest.raises(RuntimeError, match="^semaphore: released more than held$"):
        sem.release()
    sem.acquire(2)
    with pytest.raises(RuntimeError):
        sem.release(3)
    for bad in (-1, 1 << 70):
        with pytest.raises(ValueError, match="permits"):
            sem.acquire(bad)
        with pytest.raises(ValueError, match="permits"):
            Semaphore(bad)
    with pytest.raises(TypeError):
        Semaphore("2")
    assert Semaphore(0).try_acquire(0)
