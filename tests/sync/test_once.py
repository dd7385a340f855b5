"""Once: exactly one call, others wait for it, a failure counts."""

from __future__ import annotations

import pytest

from mproc_go import AtomicInt, Chan, Once, go
from mproc_go.shm.layout import OC_WAITQ
from mproc_go.sync import once as module
from tests.sync.support import DEADLINE_S, check, send_result, until_waiting

pytestmark = pytest.mark.usefixtures("rt")


def slow(begun, go_on, n):
    begun.send(None)
    go_on.recv()
    n.add(1)


def test_one_call_and_others_wait_until_it_returned():
    once, n, begun, go_on, out = Once(), AtomicInt(), Chan(), Chan(), Chan(10)

    def do(once, n, begun, go_on, out):
        once.do(slow, begun, go_on, n)
        out.send(n.load())

    for _ in range(5):
        go(do, once, n, begun, go_on, out)
    begun.recv(DEADLINE_S)
    until_waiting(once, 4, OC_WAITQ)
    check(module, once)
    with pytest.raises(TimeoutError):
        once.do(slow, begun, go_on, n, timeout=0)
    with pytest.raises(TimeoutError):
        once.do(slow, begun, go_on, n, timeout=0.02)
    until_waiting(once, 4, OC_WAITQ)
    go_on.send(None)
    assert [out.recv(DEADLINE_S) for _ in range(5)] == [1] * 5
    once.do(slow, begun, go_on, n)
    assert n.load() == 1
    check(module, once)


def test_a_function_that_raises_counts_as_done():
    once, n = Once(), AtomicInt()

    def fail():
        raise KeyError("first")

    with pytest.raises(KeyError):
        once.do(fail)
    once.do(n.add, 1)
    assert n.load() == 0


def test_goexit_counts_as_done():
    once, n, out = Once(), AtomicInt(), Chan(1)

    def leave():
        from mproc_go import goexit

        goexit()

    go(once.do, leave).result(DEADLINE_S)
    go(send_result, out, once.do, n.add, 1)
    assert out.recv(DEADLINE_S) is None
    assert n.load() == 0
