"""Runtime(preempt=True): time slices; off by default; never inside the runtime, whose structures stay whole."""

from __future__ import annotations

import os
import time

import pytest

from mproc_go import Chan, Mutex, Runtime, WaitGroup, go, gosched, select, stats
from mproc_go.chan import ops
from mproc_go.runtime import process as rt
from tests.scheduler.support import DEADLINE_S, add_one, in_state, spin_until_file, until


def test_hogs_on_every_p_and_channels_go_on(tmp_path):
    """More goroutines that compute for ever than there are Ps; new ones, woken ones and sleepers run all the same."""
    gate = str(tmp_path / "gate")
    with Runtime(2, preempt=True):
        hogs = [go(spin_until_file, gate) for _ in range(4)]
        until(lambda: in_state("running", 3))
        a, b = Chan(), Chan()
        echo = go(echo_all, a, b)
        for i in range(10):
            a.send(i, DEADLINE_S)
            assert b.recv(DEADLINE_S) == i
        a.close()
        echo.result(DEADLINE_S)
        open(gate, "w").close()
        assert all(hog.result(DEADLINE_S) >= 0 for hog in hogs)


def echo_all(a, b):
    for v in a:
        b.send(v)


def test_off_by_default(tmp_path):
    """A goroutine that computes keeps its P; who is queued behind it runs when it yields or ends."""
    gate = str(tmp_path / "gate")
    with Runtime(1):
        hog = go(spin_until_file, gate)
        until(lambda: in_state("running", 2))
        queued = go(add_one, 1)
        with pytest.raises(TimeoutError):
            queued.result(0.3)
        assert in_state("running", 2) and stats()["handoffs"] == 0
        open(gate, "w").close()
        assert queued.result(DEADLINE_S) == 2
        assert hog.result(DEADLINE_S) > 0


def test_gosched_is_enough_without(tmp_path):
    """Cooperative: a goroutine that yields in its loop lets the others run."""
    gate = str(tmp_path / "gate")
    with Runtime(1):
        polite = go(yield_until_file, gate)
        assert [go(add_one, i).result(DEADLINE_S) for i in range(5)] == [1, 2, 3, 4, 5]
        open(gate, "w").close()
        assert polite.result(DEADLINE_S)


def yield_until_file(path):
    while not os.path.exists(path):
        gosched()
    return True


def busy_sender(ch, first, n):
    """Computes between its messages, so that the signal finds it everywhere, in our code too."""
    for i in range(first, first + n):
        for _ in range(300):
            pass
        ch.send((i, "x" * (i % 100)))


def busy_counter(mutex, counts, n):
    for _ in range(n):
        with mutex:
            v = counts.recv()
            for _ in range(50):
                pass
            counts.send(v + 1)


def chooser(a, b, out, n):
    for _ in range(n):
        out.send(select(a.recv, b.recv).value)


def test_the_runtime_is_never_interrupted_in_a_critical_section():
    """Channels, selects, a mutex and wait groups under slices: nothing lost, doubled or out of order, all whole."""
    with Runtime(2, preempt=True):
        a, b, out = Chan(2), Chan(), Chan(3)
        mutex, counts, wg = Mutex(), Chan(1), WaitGroup()
        counts.send(0)
        n = 150
        handles = [go(busy_sender, ch, k * n, n) for k, ch in enumerate((a, b, a, b))]
        handles += [go(chooser, a, b, out, n) for _ in range(4)]
        for _ in range(4):
            wg.go(busy_counter, mutex, counts, 50)
        got = [out.recv(DEADLINE_S) for _ in range(4 * n)]
        assert sorted(i for i, _ in got) == list(range(4 * n))
        assert all(text == "x" * (i % 100) for i, text in got)
        wg.wait(DEADLINE_S)
        assert counts.recv(DEADLINE_S) == 200
        for handle in handles:
            handle.result(DEADLINE_S)
        m = rt.current()
        for ch in (a, b, out, counts):
            m.enter(ch._lock)
            ops.check(m.w, ch._base)
            m.leave(ch._lock)


def imports_while_computing(n):
    import importlib
    import json

    for _ in range(n):
        importlib.reload(json)
    return n


def test_no_switch_inside_an_import():
    """The import system's locks are never held across a switch."""
    with Runtime(1, preempt=True):
        handles = [go(imports_while_computing, 60) for _ in range(3)]
        assert [handle.result(DEADLINE_S) for handle in handles] == [60] * 3


def test_slices_are_shared():
    """Three that compute the same amount on one P end near each other: each had its turns all the while."""
    with Runtime(1, preempt=True):
        ch = Chan(3)
        for _ in range(3):
            go(turns, ch)
        spans = [ch.recv(DEADLINE_S) for _ in range(3)]
        starts, ends = zip(*spans, strict=True)
        assert max(starts) < min(ends), "one ran to its end before another began"


def turns(ch):
    start = time.monotonic()
    end = time.process_time() + 1.0
    while time.process_time() < end:
        pass
    ch.send((start, time.monotonic()))
