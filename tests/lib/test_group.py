"""Group: waits for all, first failure, limit."""

from __future__ import annotations

import os
import signal

import pytest

from mproc_go import AtomicInt, Chan, Group, WorkerLost, context, go
from tests.lib.support import DEADLINE_S, end_of, fail, fail_when_done, wait_done

pytestmark = pytest.mark.usefixtures("rt")


def test_leaving_waits_for_all():
    n = AtomicInt()
    with Group() as g:
        for i in range(20):
            g.go(n.add, i)
        assert g.context.err() is None
    assert n.load() == 190
    assert g.context.err() == context.Canceled


def test_the_first_failure_cancels_and_is_raised():
    with pytest.raises(KeyError, match="boom") as caught, Group() as g:
        g.go(end_of, g.context)
        g.go(fail, KeyError("boom"))
        g.go(fail_when_done, g.context, ValueError("second"))
        assert wait_done(g.context) == context.Canceled
        assert context.cause(g.context).args == ("boom",)
    assert "in fail" in caught.value.__notes__[0]
    assert caught.value.__cause__ is None


def test_a_failure_of_the_body_cancels_and_goes_on_as_it_is():
    error = RuntimeError("body")
    with pytest.raises(RuntimeError) as caught, Group() as g:
        g.go(end_of, g.context)
        g.go(fail_when_done, g.context, ValueError("second"))
        raise error
    assert caught.value is error


def test_the_failure_of_a_member_goes_before_what_it_does_to_the_body():
    with pytest.raises(KeyError, match="first"), Group() as g:
        g.go(fail, KeyError("first"))
        wait_done(g.context)
        raise g.context.err()


def test_limit():
    inside, most = AtomicInt(), Chan(100)

    def work():
        most.send(inside.add(1))
        inside.add(-1)

    with Group(limit=2) as g:
        for _ in range(30):
            g.go(work)
    assert max(most.recv() for _ in range(30)) <= 2


def test_try_go():
    hold = Chan()
    with Group(limit=1) as g:
        assert g.try_go(hold.recv) is True
        assert g.try_go(hold.recv) is False
        hold.send(None)
        g.go(hold.recv)
        hold.send(None)
    with Group() as g:
        assert g.try_go(int) is True


def test_members_start_members():
    n = AtomicInt()

    def grow(g, depth):
        n.add(1)
        if depth:
            g.go(grow, g, depth - 1)
            g.go(grow, g, depth - 1)

    with Group() as g:
        g.go(grow, g, 5)
    assert n.load() == 63

    def deep_fail(g, depth):
        if not depth:
            raise KeyError("deep")
        g.go(deep_fail, g, depth - 1)

    with pytest.raises(KeyError, match="deep"), Group() as g:
        g.go(deep_fail, g, 3)


def test_ends_with_its_parent():
    parent, cancel = context.with_cancel(context.background())
    with Group(parent=parent) as g:
        g.go(end_of, g.context)
        cancel()
    with pytest.raises(KeyError, match="late"), Group(parent=parent) as g:
        g.go(fail, KeyError("late"))  # a failure, though the context had ended


def test_in_a_goroutine():
    def inner():
        n = AtomicInt()
        with Group() as g:
            for _ in range(5):
                g.go(n.add, 1)
        return n.load()

    assert go(inner).result(DEADLINE_S) == 5


def test_misuse():
    for bad in (0, -1):
        with pytest.raises(ValueError, match="limit"):
            Group(limit=bad)
    with pytest.raises(TypeError):
        Group(limit="2")
    with Group(limit=1) as g:
        with pytest.raises(TypeError):
            g.go(None)
        g.go(int)  # the place was given back


def test_a_lost_worker_is_a_failure():
    with pytest.raises(WorkerLost), Group() as g:
        g.go(end_of, g.context)
        g.go(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_many_members_in_flat_memory():
    with Group(limit=20) as g:
        for _ in range(1000):
            g.go(int)
        assert len(g._handles) < 300
