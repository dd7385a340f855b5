"""send_many and recv_many: order, exactness, ends and failures in the middle; len all along."""

from __future__ import annotations

import threading

import pytest

from mproc_go import Chan, ChanClosed, EncodeError, go
from mproc_go.chan.sending import BATCH
from tests.chan.support import DEADLINE_S, send_all, take, until_waiting, waiters


@pytest.mark.parametrize("capacity", [0, 1, 7, BATCH, 1000])
@pytest.mark.parametrize("n", [0, 1, BATCH - 1, BATCH, BATCH + 1, 300])
def test_all_of_it_in_order(rt, capacity, n):
    """Whatever the sizes of buffer and batch; from one process to another."""
    ch = Chan(capacity)

    def send():
        ch.send_many(range(n))
        ch.close()

    handle = go(send)
    got = []
    while batch := ch.recv_many(50):
        assert 1 <= len(batch) <= 50
        got += batch
    assert got == list(range(n))
    handle.result(DEADLINE_S)


def test_the_buffer_is_filled_before_it_blocks(rt):
    """What fits is there at once; the rest comes as places come free, one place for each."""
    ch = Chan(4)
    handle = go(ch.send_many, list(range(7)))
    until_waiting(ch, senders=1)
    assert len(ch) == 4 and not handle.done()
    assert ch.recv() == 0
    until_waiting(ch, senders=1)
    assert len(ch) == 4
    assert [ch.recv(DEADLINE_S) for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    handle.result(DEADLINE_S)


def test_recv_many_takes_what_is_there(rt):
    """Exactly, senders that wait included, and no more than asked for."""
    ch = Chan(3)
    ch.send_many("abc")
    senders = []
    for i in range(3):
        senders.append(go(ch.send, i))
        until_waiting(ch, senders=i + 1)
    assert ch.recv_many(2) == ["a", "b"]
    assert len(ch) == 3 and waiters(ch) == (0, 1)
    assert ch.recv_many(10) == ["c", 0, 1, 2]
    assert len(ch) == 0
    for handle in senders:
        handle.result(DEADLINE_S)


def test_recv_many_waits_for_one(rt):
    """For one and not for n; then [] once closed and drained, for ever."""
    ch = Chan(5)
    handle = go(ch.recv_many, 5)
    until_waiting(ch, receivers=1)
    ch.send("only")
    assert handle.result(DEADLINE_S) == ["only"]
    handle = go(ch.recv_many, 5)
    until_waiting(ch, receivers=1)
    ch.close()
    assert handle.result(DEADLINE_S) == []
    assert ch.recv_many(1) == []


def test_others_send_in_between(rt):
    """A batch that waits does not keep others out, nor do they break its order."""
    ch = Chan(1)
    handles = [go(ch.send_many, [(k, i) for i in range(100)]) for k in range(3)]
    got = take(ch, 300)
    for k in range(3):
        assert [v for v in got if v[0] == k] == [(k, i) for i in range(100)]
        handles[k].result(DEADLINE_S)


@pytest.mark.parametrize("capacity", [0, 3])
def test_cut_by_a_close(rt, capacity):
    """ChanClosed; what was buffered stays."""
    ch = Chan(capacity)
    handle = go(ch.send_many, list(range(10)))
    until_waiting(ch, senders=1)
    ch.close()
    assert type(handle.exception(DEADLINE_S)) is ChanClosed
    assert ch.recv_many(10) == list(range(capacity))
    with pytest.raises(ChanClosed):
        ch.send_many([1])
    ch.send_many([])  # nothing to send: returns


def test_what_can_not_travel_in_the_middle(rt):
    """What came before it was sent, what comes after was not."""
    ch = Chan(10)
    with pytest.raises(EncodeError):
        ch.send_many([1, 2, threading.Lock(), 4])
    assert ch.recv_many(10) == [1, 2]

    def values():
        yield "a"
        yield "b"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ch.send_many(values())
    assert ch.recv_many(10) == ["a", "b"]


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)])
def test_how_many(rt, n, error):
    ch = Chan(1)
    ch.send(1)
    with pytest.raises(error):
        ch.recv_many(n)
    assert len(ch) == 1


def test_long_and_short_mixed(rt):
    """Messages longer than a slot, and handles, in batches."""
    ch, other = Chan(20), Chan(3)
    values = [1, "x" * 100_000, other, [other, b"y" * 70], None] * 4
    handle = go(send_all, other, [])
    ch.send_many(values)
    assert ch.recv_many(20) == values
    handle.result(DEADLINE_S)


@pytest.mark.slow
def test_more_than_100_megabytes(rt):
    """Through a buffer, and from hand to hand; the memory is there for the next."""
    ch, there = Chan(1), Chan()
    big = bytes(range(256)) * (430 << 10)  # 110 MB
    assert len(big) > 100 << 20
    for _ in range(3):
        ch.send(big)
        assert ch.recv() == big
    handle = go(lambda: there.send(len(there.recv())))
    there.send(big)
    assert there.recv(DEADLINE_S) == len(big)
    handle.result(DEADLINE_S)
