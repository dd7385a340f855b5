"""Behaviours of Go's sync, x/sync/semaphore and x/sync/errgroup tests, written anew; each names its origin."""

from __future__ import annotations

import pytest

from mproc_go import (
    AtomicInt,
    Chan,
    ChanClosed,
    Cond,
    Group,
    Mutex,
    Once,
    RWMutex,
    Semaphore,
    WaitGroup,
    WouldBlock,
    context,
    go,
    gosched,
    select,
    sleep,
)
from mproc_go.shm.layout import CD_WAITQ, SM_WAITQ
from tests.sync.support import DEADLINE_S, until_waiting

pytestmark = pytest.mark.usefixtures("rt")


def results(handles):
    return [h.result(DEADLINE_S) for h in handles]


# ---------------------------------------------------------------- mutex_test.go
def test_mutex_hammer():
    """sync TestMutex: many goroutines lock, unlock and try."""
    mutex, n = Mutex(), AtomicInt()

    def hammer(times):
        for i in range(times):
            if not i % 3:
                if mutex.try_lock():
                    mutex.unlock()
                continue
            mutex.lock()
            n.store(n.load() + 1)
            mutex.unlock()

    results([go(hammer, 300) for _ in range(10)])
    assert n.load() == 10 * 200


def test_mutex_fairness():
    """sync TestMutexFairness: one that holds it nearly always does not keep another from it."""
    mutex, stop = Mutex(), Chan()

    def hog():
        while not stop.closed:
            mutex.lock()
            sleep(0.0001)
            mutex.unlock()

    def other():
        for _ in range(10):
            sleep(0.0001)
            mutex.lock()
            mutex.unlock()

    hogging = go(hog)
    go(other).result(DEADLINE_S)
    stop.close()
    hogging.result(DEADLINE_S)


@pytest.mark.parametrize(
    ("unlock", "text"),
    [
        (lambda: Mutex().unlock(), "sync: unlock of unlocked mutex"),
        (lambda: RWMutex().unlock(), "sync: Unlock of unlocked RWMutex"),
        (lambda: RWMutex().runlock(), "sync: RUnlock of unlocked RWMutex"),
        (lambda: _twice(Mutex()), "sync: unlock of unlocked mutex"),
        (lambda: _twice(RWMutex()), "sync: Unlock of unlocked RWMutex"),
        (lambda: _twice(RWMutex().reader()), "sync: RUnlock of unlocked RWMutex"),
    ],
)
def test_mutex_misuse(unlock, text):
    """sync TestMutexMisuse; an exception here, where Go's is fatal."""
    with pytest.raises(RuntimeError, match=f"^{text}$"):
        unlock()


def _twice(mutex):
    mutex.lock()
    mutex.unlock()
    mutex.unlock()


# ---------------------------------------------------------------- rwmutex_test.go
@pytest.mark.parametrize("readers", [1, 3, 4])
def test_parallel_readers(readers):
    """sync TestParallelReaders: all have it at the same time."""
    rw, locked, unlock, done = RWMutex(), Chan(), Chan(), Chan()

    def reader():
        rw.rlock()
        locked.send(True)
        unlock.recv()
        rw.runlock()
        done.send(True)

    for _ in range(readers):
        go(reader)
    for _ in range(readers):
        locked.recv(DEADLINE_S)
    for _ in range(readers):
        unlock.send(True)
    for _ in range(readers):
        done.recv(DEADLINE_S)


@pytest.mark.parametrize("readers", [1, 3, 10])
def test_rwmutex_hammer(readers):
    """sync TestRWMutex, HammerRWMutex: never a reader beside a writer, never two writers."""
    rw, activity = RWMutex(), AtomicInt()

    def reader(times):
        for _ in range(times):
            rw.rlock()
            assert 1 <= activity.add(1) < 10_000
            gosched()
            activity.add(-1)
            rw.runlock()

    def writer(times):
        for _ in range(times):
            rw.lock()
            assert activity.add(10_000) == 10_000
            gosched()
            activity.add(-10_000)
            rw.unlock()

    results([go(writer, 30), *(go(reader, 30) for _ in range(readers)), go(writer, 30)])
    assert rw.try_lock()


def test_rlocker():
    """sync TestRLocker: the reading side as a lock of its own."""
    rw, done = RWMutex(), Chan(1)
    reading = rw.reader()

    def writer(n):
        for _ in range(n):
            reading.lock()
            reading.lock()
            done.send(True)
            rw.lock()
            done.send(True)

    n = 5
    go(writer, n)
    for _ in range(n):
        done.recv(DEADLINE_S)
        reading.unlock()
        with pytest.raises(WouldBlock):
            done.recv_nowait()
        reading.unlock()
        done.recv(DEADLINE_S)
        assert rw.try_lock() is False
        rw.unlock()


# ---------------------------------------------------------------- cond_test.go
def test_cond_signal():
    """sync TestCondSignal: a signal wakes exactly one."""
    mutex = Mutex()
    cond, n = Cond(mutex), 3
    running, awake = Chan(n), Chan(n)

    def waiter():
        mutex.lock()
        running.send(True)
        cond.wait()
        awake.send(True)
        mutex.unlock()

    for _ in range(n):
        go(waiter)
    for _ in range(n):
        running.recv(DEADLINE_S)
    while n:
        with pytest.raises(WouldBlock):
            awake.recv_nowait()
        mutex.lock()
        cond.signal()
        mutex.unlock()
        awake.recv(DEADLINE_S)
        with pytest.raises(WouldBlock):
            awake.recv_nowait()
        n -= 1
    cond.signal()


def test_cond_signal_generations():
    """sync TestCondSignalGenerations: woken in the order they came to wait."""
    mutex = Mutex()
    cond, n = Cond(mutex), 50
    running, awake = Chan(n), Chan(n)

    def waiter(i):
        mutex.lock()
        running.send(True)
        cond.wait()
        awake.send(i)
        mutex.unlock()

    for i in range(n):
        go(waiter, i)
        if i:
            assert awake.recv(DEADLINE_S) == i - 1
        running.recv(DEADLINE_S)
        mutex.lock()
        cond.signal()
        mutex.unlock()
    assert awake.recv(DEADLINE_S) == n - 1


def test_cond_broadcast():
    """sync TestCondBroadcast: all wake, round after round."""
    mutex = Mutex()
    cond, n, exit_ = Cond(mutex), 20, AtomicInt()
    running, awake = Chan(n), Chan(n)

    def waiter(i):
        mutex.lock()
        while not exit_.load():
            running.send(i)
            cond.wait()
            awake.send(i)
        mutex.unlock()

    handles = [go(waiter, i) for i in range(n)]
    for round_ in range(5):
        for _ in range(n):
            running.recv(DEADLINE_S)
        mutex.lock()
        if round_ == 4:
            exit_.store(1)
        with pytest.raises(WouldBlock):
            awake.recv_nowait()
        cond.broadcast()
        mutex.unlock()
        assert sorted(awake.recv(DEADLINE_S) for _ in range(n)) == list(range(n))
    results(handles)
    cond.broadcast()


def test_cond_race():
    """sync TestRace: wait, signal and broadcast hand a value on from one to the next."""
    mutex, x = Mutex(), AtomicInt()
    cond = Cond(mutex)

    def first():
        with mutex:
            x.store(1)
            cond.wait()
            assert x.load() == 2
            x.store(3)
            cond.signal()

    def second():
        while True:
            with mutex:
                if x.load() == 1:
                    x.store(2)
                    cond.signal()
                    return
            gosched()

    def third():
        while True:
            with mutex:
                if x.load() == 2:
                    cond.wait()
                    assert x.load() == 3
                    return
                if x.load() == 3:
                    return
            gosched()

    results([go(first), go(second), go(third)])


def test_cond_signal_stealing():
    """sync TestCondSignalStealing: a signal is for who waited, not for who comes to wait after it."""
    for _ in range(50):
        mutex = Mutex()
        cond, ch, got = Cond(mutex), Chan(), AtomicInt()

        def first(mutex=mutex, cond=cond, ch=ch):
            mutex.lock()
            ch.send(None)
            cond.wait()
            mutex.unlock()
            ch.send(None)

        def second(mutex=mutex, cond=cond, got=got):
            mutex.lock()
            while not got.load():
                cond.wait()
            mutex.unlock()

        go(first)
        ch.recv(DEADLINE_S)
        mutex.lock()
        mutex.unlock()  # the first waits now
        other = go(second)
        cond.signal()
        assert ch.recv(DEADLINE_S) is None
        with mutex:
            got.store(1)
            cond.broadcast()
        other.result(DEADLINE_S)
        until_waiting(cond, 0, CD_WAITQ)


# ---------------------------------------------------------------- once_test.go, waitgroup_test.go
def test_once():
    """sync TestOnce."""
    once, n, seen = Once(), AtomicInt(), Chan(10)

    def run():
        once.do(n.add, 1)
        seen.send(n.load())

    for _ in range(10):
        go(run)
    assert [seen.recv(DEADLINE_S) for _ in range(10)] == [1] * 10


def test_once_panic():
    """sync TestOncePanic: what fails is not done again."""
    once = Once()

    def failed():
        raise RuntimeError("failed")

    with pytest.raises(RuntimeError, match="failed"):
        once.do(failed)
    once.do(pytest.fail, "Once.do called twice")


def test_waitgroup():
    """sync TestWaitGroup: reusable, wakes when all are done."""
    one, other, n = WaitGroup(), WaitGroup(), 8
    for _ in range(4):
        exited = Chan(n)
        one.add(n)
        other.add(n)

        def work(exited=exited):
            one.done()
            other.wait()
            exited.send(True)

        for _ in range(n):
            go(work)
        one.wait(DEADLINE_S)
        for _ in range(n):
            with pytest.raises(WouldBlock):
                exited.recv_nowait()
            other.done()
        for _ in range(n):
            exited.recv(DEADLINE_S)


def test_waitgroup_misuse():
    """sync TestWaitGroupMisuse."""
    wg = WaitGroup()
    wg.add(1)
    wg.done()
    with pytest.raises(ValueError, match="^sync: negative WaitGroup counter$"):
        wg.done()


# ---------------------------------------------------------------- x/sync semaphore_test.go
def test_weighted():
    """x/sync TestWeighted, HammerWeighted."""
    n = 6
    sem = Semaphore(n)

    def hammer(k, times):
        for _ in range(times):
            sem.acquire(k)
            gosched()
            sem.release(k)

    results([go(hammer, i % (n // 2) + 1, 60) for i in range(n)])
    assert sem.try_acquire(n)


def test_weighted_panic():
    """x/sync TestWeightedPanic."""
    with pytest.raises(RuntimeError, match="^semaphore: released more than held$"):
        Semaphore(1).release(1)


def test_weighted_try_acquire():
    """x/sync TestWeightedTryAcquire."""
    sem = Semaphore(2)
    tries = [sem.try_acquire(1), sem.try_acquire(1), sem.try_acquire(1)]
    sem.release(2)
    tries.append(sem.try_acquire(1))
    assert tries == [True, True, False, True]


def test_large_acquire_does_not_starve():
    """x/sync TestLargeAcquireDoesntStarve."""
    n = 4
    sem, running = Semaphore(n), AtomicInt(1)

    def small():
        while running.load():
            sleep(0.0005)
            sem.release(1)
            sem.acquire(1)
        sem.release(1)

    sem.acquire(n)
    handles = [go(small) for _ in range(n)]
    sem.acquire(n, DEADLINE_S)
    running.store(0)
    sem.release(n)
    results(handles)


def test_alloc_cancel_does_not_starve():
    """x/sync TestAllocCancelDoesntStarve: who gives up does not keep those behind it waiting."""
    sem = Semaphore(10)
    sem.acquire(1)
    large = go(sem.acquire, 10, 0.05)
    until_waiting(sem, 1, SM_WAITQ)
    sem.acquire(1, DEADLINE_S)
    with pytest.raises(TimeoutError):
        large.result(DEADLINE_S)


# ---------------------------------------------------------------- x/sync errgroup_test.go
def test_errgroup_zero():
    """x/sync TestZeroGroup, TestWithContext: the first error is the one that is raised, and the context ends."""
    for first in (None, KeyError("1")):
        g = Group()

        def member(first=first):
            if first is not None:
                raise first

        g.go(member)
        if first is None:
            g.wait()
        else:
            with pytest.raises(KeyError):
                g.wait()
        assert g.context.err() == context.Canceled
        assert select(g.context.done().recv).ok is False


def test_errgroup_limit():
    """x/sync TestGoLimit, TestTryGo."""
    limit, active, hold = 4, AtomicInt(), Chan()

    def member():
        assert active.add(1) <= limit
        hold.recv()
        active.add(-1)

    with pytest.raises(ChanClosed), Group(limit) as g:
        for _ in range(limit):
            assert g.try_go(member)
        assert not g.try_go(member)
        hold.close()  # ends all of them, by an exception
