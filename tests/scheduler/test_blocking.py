"""blocking(fn): results, exceptions, many at once, everywhere it may be called from; the hub runs on meanwhile."""

from __future__ import annotations

import os
import threading
import time

import pytest

from mproc_go import Chan, Runtime, blocking, go, goid, stats
from tests.scheduler.support import DEADLINE_S, add_one


@pytest.fixture
def one_p():
    with Runtime(1) as runtime:
        yield runtime


def sum_of(a, b, *, c):
    return a + b + c


def in_goroutine():
    return blocking(sum_of, 1, b=2, c=3)


def test_arguments_and_result(one_p):
    """Positional and keyword arguments, the result as it is: nothing is copied."""
    assert go(in_goroutine).result(DEADLINE_S) == 6
    assert go(same_object).result(DEADLINE_S)
    assert blocking(sum_of, 1, 2, c=3) == 6


def same_object():
    thing = object()
    return blocking(lambda x: x, thing) is thing


class Odd(BaseException):
    pass


def raises(kind):
    def fail():
        raise kind("from the thread")

    try:
        blocking(fail)
    except kind as error:
        return type(error).__name__, str(error)


@pytest.mark.parametrize("kind", [ValueError, KeyError, SystemExit, KeyboardInterrupt, Odd, StopIteration])
def test_exceptions_come_back(one_p, kind):
    """Whatever the call raises is raised where it was called; worker and thread live on."""
    name, text = go(raises, kind).result(DEADLINE_S)
    assert name == kind.__name__
    assert "from the thread" in text
    assert go(in_goroutine).result(DEADLINE_S) == 6
    assert len(stats()["ms"]) == 1


def test_the_others_of_the_worker_run_meanwhile(one_p):
    """A goroutine of the same worker opens the gate for which the thread waits."""
    assert go(gate_opened_by_another).result(DEADLINE_S) == b"x"
    assert stats()["handoffs"] == 0


def gate_opened_by_another():
    r, w = os.pipe()
    go(os.write, w, b"x")
    try:
        return blocking(os.read, r, 1)
    finally:
        os.close(r)
        os.close(w)


def nested():
    return blocking(lambda: blocking(threading.get_ident)), threading.get_ident()


def test_blocking_inside_blocking(one_p):
    """The inner call runs on the thread of the outer one; also with goroutine calls inside."""
    inner, hub = go(nested).result(DEADLINE_S)
    assert inner != hub
    assert go(library_calls_inside).result(DEADLINE_S) == [1, 2, 3]


def library_calls_inside():
    def call():
        ch = Chan(3)
        for i in range(3):
            ch.send(go(add_one, i).result(DEADLINE_S))
        return ch.recv_many(3)

    return blocking(call)


def hold(i, gate):
    fd = os.open(gate, os.O_RDONLY)
    try:
        os.read(fd, 1)
    finally:
        os.close(fd)
    return i


def many(n):
    """More calls than threads: all of them end, each with its own result."""
    r, w = os.pipe()
    results = Chan(n)
    # Not the number: on a busy machine, a worker whose threads wait for the interpreter may be taken for blocked, and
    # some of them start in another.
    gate = f"/proc/{os.getpid()}/fd/{r}"
    for i in range(n):
        go(call_and_tell, results, i, gate)
    os.write(w, b"x" * n)
    got = sorted(results.recv(DEADLINE_S) for _ in range(n))
    os.close(r)
    os.close(w)
    return got


def call_and_tell(results, i, gate):
    results.send(blocking(hold, i, gate))


def test_more_calls_than_threads(one_p):
    """300 at once, where a worker keeps 128 threads."""
    assert go(many, 300).result(DEADLINE_S) == list(range(300))
    assert len(stats()["ms"]) <= 3  # threads, not workers


def test_wait_reason(one_p):
    """Such a goroutine is in a system call."""
    r, w = os.pipe()
    fd_path = f"/proc/{os.getpid()}/fd/{r}"
    waiting = go(blocking_open_read, fd_path)
    deadline = time.monotonic() + DEADLINE_S
    while stats()["goroutines_by_state"].get("syscall", 0) != 1:
        assert time.monotonic() < deadline, stats()
    os.write(w, b"!")
    assert waiting.result(DEADLINE_S) == b"!"
    os.close(r)
    os.close(w)


def blocking_open_read(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return blocking(os.read, fd, 1)
    finally:
        os.close(fd)


def test_goid_inside(one_p):
    """The call runs on another thread, which is a goroutine of its own if it asks."""
    outer, inner = go(ids).result(DEADLINE_S)
    assert outer != inner


def ids():
    return goid(), blocking(goid)
