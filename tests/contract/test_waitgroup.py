"""WaitGroup: Go's sync.WaitGroup between goroutines of any process."""

from __future__ import annotations

import gc
import threading
import time

import pytest

from mproc_go import Chan, EncodeError, WaitGroup, go, goexit, num_goroutine
from tests.contract.support import DEADLINE_S, echo


def test_wait_at_zero(who):
    """Nothing to wait for: wait returns at once, with any timeout."""

    def body():
        wg = WaitGroup()
        for timeout in (None, 0, -1, 5):
            wg.wait(timeout)
        assert bool(wg)

    who(body)


def test_add_done_wait(who):
    """wait returns when as many are done as were added."""

    def body():
        wg, out = WaitGroup(), Chan(20)

        def work(i):
            out.send(i)
            wg.done()

        wg.add(20)
        for i in range(20):
            go(work, i)
        wg.wait(DEADLINE_S)
        assert sorted(out.recv(0) for _ in range(20)) == list(range(20))

    who(body)


def test_go(who):
    """wg.go counts, runs and uncounts, with arguments of every kind, and returns nothing."""

    def body():
        wg, out = WaitGroup(), Chan(50)
        assert wg.go(out.send, "method") is None
        wg.go(lambda v: out.send(v), "lambda")

        def f(*args, **kwargs):
            out.send((args, kwargs))

        wg.go(f, 1, fn=2)
        wg.go(f)
        for i in range(30):
            wg.go(out.send, i)
        wg.wait(DEADLINE_S)
        out.close()
        got = list(out)
        assert len(got) == 34
        for v in ("method", "lambda", ((1,), {"fn": 2}), ((), {}), *range(30)):
            assert v in got

    who(body)


def test_go_of_what_ends_by_goexit(who):
    """goexit is an end like any other."""

    def body():
        wg = WaitGroup()
        wg.go(goexit)
        wg.wait(DEADLINE_S)

    who(body)


def test_go_that_can_not_start_is_not_counted(who):
    """A failed start leaves the counter as it was."""

    def body():
        wg, before = WaitGroup(), num_goroutine()
        with pytest.raises(EncodeError):
            wg.go(echo, threading.Lock())
        with pytest.raises(TypeError, match="go of nil func value"):
            wg.go(None)
        wg.wait(0)
        assert num_goroutine() == before

    who(body)


def test_negative_counter(who):
    """ValueError in Go's words, and the counter stays as it was."""

    def body():
        wg = WaitGroup()
        for call in (wg.done, lambda: wg.add(-1), lambda: wg.add(-(2**70))):
            with pytest.raises(ValueError, match=r"^sync: negative WaitGroup counter$"):
                call()
        wg.add(2)
        with pytest.raises(ValueError, match="negative"):
            wg.add(-3)
        wg.add(-2)
        wg.wait(0)

    who(body)


@pytest.mark.parametrize("n", ["1", 1.0, None, 2**70])
def test_counter_of_another_kind(who, n):
    """What is no count is refused at once, and the wait group can still be used by everybody."""

    def body(n):
        wg = WaitGroup()
        with pytest.raises((TypeError, ValueError, OverflowError)):
            wg.add(n)
        wg.go(echo, 1)
        go(wg.wait, 5).result(DEADLINE_S)

    who(body, n)


def test_timeouts(who):
    """TimeoutError, never early, and no waiter stays behind."""

    def body():
        wg = WaitGroup()
        wg.add(1)
        for timeout in (0, -1, 0.05):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                wg.wait(timeout)
            assert time.monotonic() - began >= timeout
        wg.done()
        wg.wait(DEADLINE_S)

    who(body)


@pytest.mark.parametrize("timeout", ["1", 1j])
def test_timeout_of_another_type(who, timeout):
    """TypeError, and the wait group can still be used by everybody."""

    def body(timeout):
        wg = WaitGroup()
        wg.add(1)
        with pytest.raises(TypeError):
            wg.wait(timeout)
        go(wg.done).result(DEADLINE_S)
        wg.wait(DEADLINE_S)

    who(body, timeout)


def test_many_waiters(who):
    """All who wait go on."""

    def body():
        wg, gate = WaitGroup(), Chan()
        wg.go(gate.recv)
        waiters = [go(wg.wait) for _ in range(30)]
        gate.send(1)
        for h in waiters:
            h.result(DEADLINE_S)
        wg.wait(DEADLINE_S)

    who(body)


def test_reuse(who):
    """A wait group may be used again and again."""

    def body():
        wg, out = WaitGroup(), Chan(10)
        for round_ in range(20):
            for i in range(5):
                wg.go(out.send, round_ * 5 + i)
            wg.wait(DEADLINE_S)
            assert sorted(out.recv(0) for _ in range(5)) == list(range(round_ * 5, round_ * 5 + 5))

    who(body)


def test_nested(who):
    """Counted goroutines may count more."""

    def body():
        wg, out = WaitGroup(), Chan(200)

        def tree(depth):
            out.send(depth)
            if depth:
                wg.go(tree, depth - 1)
                wg.go(tree, depth - 1)

        wg.go(tree, 5)
        wg.wait(DEADLINE_S)
        assert len(out) == 63

    who(body)


def tell(out, *args, **kwargs):
    out.send((args, kwargs))


def test_a_counted_goroutine_gets_what_it_was_given(who):
    """Nothing, one argument or many, handles and keywords, by a function of a module and by one that captures."""

    def body():
        wg, out = WaitGroup(), Chan(1)
        wg.go(gc.isenabled)
        wg.wait(DEADLINE_S)

        def tell_captured(*args, **kwargs):
            out.send((args, kwargs))

        for args in ((), (1,), (None,), ((),), ((1, 2),), ({"a": [out]},), (wg,), (wg, out), tuple(range(12))):
            for kwargs in ({}, {"key": 1}, {"key": wg}):
                wg.go(tell, out, *args, **kwargs)
                assert out.recv(DEADLINE_S) == (args, kwargs)
                wg.go(tell_captured, *args, **kwargs)
                assert out.recv(DEADLINE_S) == (args, kwargs)
        wg.wait(DEADLINE_S)

    who(body)


def test_travels_by_reference(who):
    """In arguments, messages, containers and closures it is the same wait group."""

    def body():
        wg, ch = WaitGroup(), Chan(1)
        wg.add(3)
        go(lambda: wg.done())
        go(lambda many: many[0]["wg"].done(), [{"wg": wg}])
        ch.send(wg)
        again = ch.recv()
        assert again == wg and hash(again) == hash(wg)
        go(again.done)
        wg.wait(DEADLINE_S)

    who(body)
