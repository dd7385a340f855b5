"""KeyedChan: receive waits for a key."""

from __future__ import annotations

import threading

import pytest

from mproc_go import Chan, ChanClosed, EncodeError, KeyedChan, WaitGroup, go, num_goroutine, stacks, stats
from mproc_go.shm import layout as L
from tests.shared.support import DEADLINE_S, stripes_whole, until, until_waiting, waiting

VALUES = [None, 1, "short", b"x" * 56, b"x" * 57, list(range(200))]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_sent_before_and_after(whole, value):
    """Who comes later finds it, who was there is given it; it stays."""
    kc = whole(KeyedChan())
    before = [go(kc.receive, "k") for _ in range(3)]
    until_waiting(kc, 3)
    assert len(kc) == 0 and "k" not in kc
    kc.send("k", value)
    assert [h.result(DEADLINE_S) for h in before] == [value] * 3
    assert kc.receive("k") == value == go(kc.receive, "k").result(DEADLINE_S)
    assert len(kc) == 1 and "k" in kc


def test_a_later_send_replaces(whole):
    """And after a delete it is waited for again."""
    kc = whole(KeyedChan())
    kc.send(1, "a")
    kc.send(True, "b")
    assert kc.receive(1.0) == "b" and len(kc) == 1
    assert kc.delete(1) is None
    assert kc.delete(1) is None and kc.delete("never there") is None
    assert len(kc) == 0 and 1 not in kc
    waits = go(kc.receive, 1)
    until_waiting(kc, 1)
    kc.delete(1)
    kc.send(1, "c")
    assert waits.result(DEADLINE_S) == "c"


def test_who_was_waiting_has_it_whatever_comes_after(whole):
    """Given with the send: a delete right behind it takes nothing back, and handles in it live."""
    kc = whole(KeyedChan())
    waits = [go(kc.receive, "k") for _ in range(3)]
    until_waiting(kc, 3)
    ch = Chan(3)
    kc.send("k", [ch, "x" * 100])
    kc.delete("k")
    kc.send("k", "another")
    got = [h.result(DEADLINE_S) for h in waits]
    assert got == [[ch, "x" * 100]] * 3
    for each, _ in got:
        each.send(1)
    assert len(ch) == 3


def test_only_those_who_wait_for_the_key_are_woken(whole):
    """The others go on waiting."""
    kc = whole(KeyedChan())
    handles = {key: [go(kc.receive, key) for _ in range(2)] for key in range(30)}
    until_waiting(kc, 60)
    assert "keyed receive" in stacks()
    left = 60
    for key in (7, 3, 29):
        kc.send(key, -key)
        left -= 2
        assert [h.result(DEADLINE_S) for h in handles.pop(key)] == [-key] * 2
        assert waiting(kc) == left
        stripes_whole(kc)
    for key in handles:
        kc.send(key, -key)
    assert all(h.result(DEADLINE_S) == -key for key, hs in handles.items() for h in hs)


def test_timeouts_leave_no_trace(whole):
    """Nobody waits any more, nothing stands for the key, and the memory is back."""
    kc = whole(KeyedChan())
    for timeout in (0, -1, 0.001, 0.01):
        with pytest.raises(TimeoutError, match="keyed receive"):
            kc.receive("k", timeout)
    with pytest.raises(TimeoutError):
        go(kc.receive, "k", 0.001).result(DEADLINE_S)
    m = kc._m()
    assert waiting(kc) == 0 and len(kc) == 0
    assert all(m.w[st + L.ST_ACTIVE] == 0 for st in kc._stripes)
    stays = go(kc.receive, "k")
    until_waiting(kc, 1)
    with pytest.raises(TimeoutError):
        kc.receive("k", 0.001)
    kc.send("k", 1)
    assert stays.result(DEADLINE_S) == 1 == kc.receive("k", 0)
    with pytest.raises(ValueError, match="NaN"):
        kc.receive("other", float("nan"))
    with pytest.raises(TypeError, match="seconds"):
        kc.receive("other", "soon")


def test_close(whole):
    """Who waits, who comes later and who sends: ChanClosed. What is there can still be received."""
    kc = whole(KeyedChan())
    kc.send("there", [1])
    waits = [go(kc.receive, key) for key in ("a", "a", "b", 5)]
    until_waiting(kc, 4)
    assert not kc.closed
    kc.close()
    assert kc.closed and waiting(kc) == 0
    for handle in waits:
        with pytest.raises(ChanClosed):
            handle.result(DEADLINE_S)
    for call in (lambda: kc.receive("a"), lambda: kc.receive("a", 0), lambda: kc.send("a", 1), kc.close):
        with pytest.raises(ChanClosed):
            call()
    with pytest.raises(ChanClosed):
        kc.send("there", 2)
    assert kc.receive("there") == [1] == go(kc.receive, "there").result(DEADLINE_S)
    kc.delete("there")
    with pytest.raises(ChanClosed):
        kc.receive("there")
    assert "closed" in repr(kc)


def test_bad_keys_and_values(whole):
    """Refused in the caller, nothing changed."""
    kc = whole(KeyedChan())
    for call in (lambda: kc.send([], 1), lambda: kc.receive({}), lambda: kc.delete({1}), lambda: [] in kc):
        with pytest.raises(TypeError, match="not (list|dict|set)"):
            call()
    with pytest.raises(EncodeError, match="lock"):
        kc.send("k", threading.Lock())
    assert len(kc) == 0 and "k" not in kc
    assert bool(kc), "a handle is true"


def send_range(kc, first, last):
    for key in range(first, last):
        kc.send(key, key * 2)


def receive_range(kc, first, last):
    return [kc.receive(key) for key in range(first, last)]


def test_senders_and_receivers_anywhere(whole):
    """Goroutines, and threads of the program; each gets what it waited for."""
    kc = whole(KeyedChan())
    receivers = [go(receive_range, kc, 0, 400) for _ in range(3)]
    got = []
    thread = threading.Thread(target=lambda: got.extend(receive_range(kc, 0, 400)))
    thread.start()
    wg = WaitGroup()
    for first in range(0, 400, 100):
        wg.go(send_range, kc, first, first + 100)
    wg.wait(DEADLINE_S)
    thread.join()
    expected = [key * 2 for key in range(400)]
    assert got == expected and all(h.result(DEADLINE_S) == expected for h in receivers)


def receive_and_count(kc, key, wg):
    assert kc.receive(key) == -key
    wg.done()


@pytest.mark.slow
def test_ten_thousand_each_for_its_own_key(whole):
    """Each is woken by its own send; the memory comes back."""
    kc = whole(KeyedChan())
    n = 10_000
    wg = WaitGroup()
    wg.add(n)
    for key in range(n):
        go(receive_and_count, kc, key, wg)
    until(lambda: waiting(kc) == n, "all waiting")
    for key in reversed(range(n)):
        kc.send(key, -key)
    wg.wait(DEADLINE_S)
    until(lambda: num_goroutine() == 1, "all ended")
    assert len(kc) == n


@pytest.mark.slow
def test_a_hundred_thousand_keys(whole):
    """Sent, received and deleted; memory is used again."""
    kc = whole(KeyedChan())
    n = 100_000
    for round_ in range(2):
        for key in range(n):
            kc.send(key, round_)
        assert len(kc) == n and all(kc.receive(key) == round_ for key in range(0, n, 97))
        for key in range(n):
            kc.delete(key)
        if not round_:
            before = stats()["memory_bytes"]
    assert len(kc) == 0 and stats()["memory_bytes"] <= before + (1 << 20)


def test_it_travels(whole):
    """In messages, as a key and a value, and back."""
    kc = whole(KeyedChan())
    kc.send(kc, 1)
    out = Chan(1)
    out.send([kc])
    [again] = out.recv()
    assert again == kc and hash(again) == hash(kc) and again.receive(kc) == 1
    kc.delete(kc)
