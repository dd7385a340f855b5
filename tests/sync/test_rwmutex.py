"""RWMutex: who excludes whom, who goes first, timeouts, misuse."""

from __future__ import annotations

import time

import pytest

from mproc_go import AtomicInt, Chan, RWMutex, go
from mproc_go.shm.layout import RW_READQ, RW_WRITEQ
from mproc_go.sync import rwmutex as module
from tests.sync.support import DEADLINE_S, check, send_result, until_waiting

pytestmark = pytest.mark.usefixtures("rt")


def write_then_send(rw, out, name, release):
    with rw:
        out.send(name)
        release.recv()


def read_then_send(rw, out, name, release):
    with rw.reader():
        out.send(name)
        release.recv()


def test_readers_share_and_writers_do_not():
    rw = RWMutex()
    rw.rlock()
    assert rw.try_rlock()
    assert not rw.try_lock()
    rw.runlock()
    assert not rw.try_lock()
    rw.runlock()
    assert rw.try_lock()
    assert not rw.try_rlock()
    assert not rw.try_lock()
    rw.unlock()


def test_a_waiting_writer_blocks_new_readers_and_waiting_readers_go_before_the_next_writer():
    rw, out, release = RWMutex(), Chan(10), Chan()
    rw.rlock()
    go(write_then_send, rw, out, "writer 1", release)
    until_waiting(rw, 1, RW_WRITEQ)
    assert not rw.try_rlock()
    go(read_then_send, rw, out, "reader", release)
    go(read_then_send, rw, out, "reader", release)
    until_waiting(rw, 2, RW_READQ)
    go(write_then_send, rw, out, "writer 2", release)
    until_waiting(rw, 2, RW_WRITEQ)
    check(module, rw)
    rw.runlock()
    assert out.recv(DEADLINE_S) == "writer 1"
    check(module, rw)
    release.send(None)
    assert [out.recv(DEADLINE_S), out.recv(DEADLINE_S)] == ["reader", "reader"]
    check(module, rw)
    release.send(None)
    release.send(None)
    assert out.recv(DEADLINE_S) == "writer 2"
    release.send(None)
    rw.lock(DEADLINE_S)
    rw.unlock()
    check(module, rw)


def test_conservation(seed):
    """Writers move between two numbers; no reader ever sees their sum changed."""
    rw, a, b = RWMutex(), AtomicInt(100), AtomicInt(0)

    def writer(rw, a, b, n):
        for i in range(n):
            with rw:
                a.add(-(i % 7))
                b.add(i % 7)

    def reader(rw, a, b, n):
        bad = 0
        for _ in range(n):
            with rw.reader():
                bad += a.load() + b.load() != 100
        return bad

    writers = [go(writer, rw, a, b, 150) for _ in range(3)]
    readers = [go(reader, rw, a, b, 150) for _ in range(5)]
    assert [h.result(DEADLINE_S) for h in readers] == [0] * 5
    for h in writers:
        h.result(DEADLINE_S)
    check(module, rw)


def test_a_writer_that_gives_up_lets_readers_in():
    rw, out, release = RWMutex(), Chan(10), Chan()
    rw.rlock()
    writer = go(rw.lock, 0.1)
    until_waiting(rw, 1, RW_WRITEQ)
    go(read_then_send, rw, out, "reader", release)
    assert out.recv(DEADLINE_S) == "reader"
    with pytest.raises(TimeoutError):
        writer.result(DEADLINE_S)
    check(module, rw)
    release.send(None)
    rw.runlock()
    rw.lock(DEADLINE_S)


@pytest.mark.parametrize("timeout", [0, -1, 0.02])
def test_timeouts(timeout):
    rw = RWMutex()
    rw.lock()
    for fn in (rw.lock, rw.rlock):
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            fn(timeout)
        assert time.monotonic() - began >= timeout
        with pytest.raises(TimeoutError):
            go(fn, timeout).result(DEADLINE_S)
    until_waiting(rw, 0, RW_READQ, RW_WRITEQ)
    rw.unlock()
    rw.rlock(0)
    rw.runlock()


def test_misuse():
    rw, out = RWMutex(), Chan(1)
    with pytest.raises(RuntimeError, match="^sync: RUnlock of unlocked RWMutex$"):
        rw.runlock()
    with pytest.raises(RuntimeError, match="^sync: Unlock of unlocked RWMutex$"):
        rw.unlock()
    with rw.reader(), pytest.raises(RuntimeError, match="^sync: Unlock of unlocked RWMutex$"):
        rw.unlock()
    with rw:
        go(send_result, out, rw.runlock)
        assert out.recv(DEADLINE_S) == ("RuntimeError", "sync: RUnlock of unlocked RWMutex")
