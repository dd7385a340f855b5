"""A worker is killed while its goroutines wait, run a once, have a timer: nobody else waits for the dead."""

from __future__ import annotations

import os
import signal

import pytest

from mproc_go import AtomicInt, Chan, Once, RWMutex, Semaphore, Timer, WorkerLost, after, context, go
from mproc_go.shm.layout import RW_WRITEQ, SM_WAITQ, TM_LOOKER
from tests.sync.support import DEADLINE_S, until_waiting

pytestmark = pytest.mark.usefixtures("rt")


def announce(pids, fn, *args):
    pids.send(os.getpid())
    fn(*args)


def lost(handle):
    assert isinstance(handle.exception(DEADLINE_S), WorkerLost)


def test_a_big_waiter_of_a_semaphore():
    sem, pids = Semaphore(3), Chan(1)
    sem.acquire(2)
    big = go(announce, pids, sem.acquire, 3)
    until_waiting(sem, 1, SM_WAITQ)
    os.kill(pids.recv(DEADLINE_S), signal.SIGKILL)
    sem.acquire(1, DEADLINE_S)
    lost(big)


def test_a_waiting_writer():
    rw, pids = RWMutex(), Chan(1)
    rw.rlock()
    writer = go(announce, pids, rw.lock)
    until_waiting(rw, 1, RW_WRITEQ)
    os.kill(pids.recv(DEADLINE_S), signal.SIGKILL)
    rw.rlock(DEADLINE_S)
    lost(writer)


def test_the_one_that_runs_a_once():
    once, pids, begun = Once(), Chan(1), Chan()

    def forever():
        begun.send(None)
        Chan().recv()

    runner = go(announce, pids, once.do, forever)
    begun.recv(DEADLINE_S)
    os.kill(pids.recv(DEADLINE_S), signal.SIGKILL)
    once.do(int, timeout=DEADLINE_S)  # counts as done
    lost(runner)


def test_its_timers_are_gone_but_are_nobodys_panic():
    pids, out, n = Chan(1), Chan(1), AtomicInt()

    def make():
        timer = Timer(1000)
        out.send(timer)
        Chan().recv()

    maker = go(announce, pids, make)
    timer = out.recv(DEADLINE_S)
    os.kill(pids.recv(DEADLINE_S), signal.SIGKILL)
    lost(maker)
    assert timer.reset(0.01) is True  # looked at by this process's alarm from now on
    timer.c.recv(DEADLINE_S)
    after(0.01).recv(DEADLINE_S)
    assert go(n.add, 1).result(DEADLINE_S) == 1


def test_a_timer_that_the_dead_one_set_can_be_set_anew():
    pids, hold = Chan(1), Chan()
    timer = Timer(1000)

    def reset():
        timer.reset(500)
        hold.send(None)
        Chan().recv()

    handle = go(announce, pids, reset)
    hold.recv(DEADLINE_S)
    os.kill(pids.recv(DEADLINE_S), signal.SIGKILL)
    lost(handle)
    assert timer.reset(600) is True  # later than the look that died with the worker
    m = timer._m()
    assert m.w[timer._base + TM_LOOKER] == m.process.host
    assert timer.reset(0.01) is True
    timer.c.recv(DEADLINE_S)


def test_a_canceller_dies_right_after():
    pids, hold = Chan(1), Chan()
    root, cancel = context.with_cancel(context.background())
    leaves = [context.with_cancel(root)[0] for _ in range(50)]

    def cancel_and_stay():
        cancel()
        hold.send(None)
        Chan().recv()

    handle = go(announce, pids, cancel_and_stay)
    hold.recv(DEADLINE_S)
    os.kill(pids.recv(DEADLINE_S), signal.SIGKILL)
    lost(handle)
    assert all(leaf.done().closed for leaf in leaves)
