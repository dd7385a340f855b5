"""A goroutine that blocks its worker, declared or not, does not block the others."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time

import pytest

from mproc_go import Chan, Runtime, blocking, go, gomaxprocs, gosched, sleep, stats, wait_readable, wait_writable

DEADLINE_S = 30


def add_one(x):
    return x + 1


def open_and_read(path):
    with open(path) as file:
        return file.read()


def wait_for(command):
    return subprocess.run(command, check=False).returncode


def c_call(seconds):
    import ctypes

    return ctypes.CDLL(None).usleep(int(seconds * 1e6))


def compute(seconds):
    end = time.process_time() + seconds
    n = 0
    while time.process_time() < end:
        n += 1
    return n


@pytest.fixture
def one_p():
    """A runtime with a single P: whatever blocks it blocks everybody, unless it is taken away."""
    with Runtime(1) as runtime:
        yield runtime


@pytest.mark.parametrize("how", ["sleep", "fifo", "subprocess", "c call"])
def test_an_undeclared_blocking_call_gives_its_p_away(one_p, how, tmp_path):
    """Others run while it blocks, and it ends as if nothing had been."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    blocked = {
        "sleep": lambda: go(time.sleep, 1.0),
        "fifo": lambda: go(open_and_read, str(fifo)),
        "subprocess": lambda: go(wait_for, [sys.executable, "-c", "import time; time.sleep(1)"]),
        "c call": lambda: go(c_call, 0.9),
    }[how]()
    results = [go(add_one, i).result(DEADLINE_S) for i in range(20)]
    assert results == list(range(1, 21))
    assert stats()["handoffs"] >= 1
    if how == "fifo":
        assert not blocked.done()
        with open(fifo, "w") as file:
            file.write("at last")
        assert blocked.result(DEADLINE_S) == "at last"
    else:
        assert blocked.result(DEADLINE_S) in (None, 0)


def test_a_computation_is_not_mistaken_for_a_blocked_call(one_p):
    """It keeps its P, however long it takes, and who is queued waits for it."""
    handle = go(compute, 0.6)
    behind = go(add_one, 1)
    assert handle.result(DEADLINE_S) > 0
    assert behind.result(DEADLINE_S) == 2
    assert stats()["handoffs"] == 0


def test_a_parked_scheduler_is_not_mistaken_for_a_blocked_call(one_p):
    """A worker that waits for work, or whose goroutines all wait, is left alone."""
    ch = Chan()
    handle = go(ch.recv)
    sleep(0.2)
    assert stats()["handoffs"] == 0
    assert len(stats()["ms"]) == 1
    ch.send(5)
    assert handle.result(DEADLINE_S) == 5


def test_blocked_workers_need_a_p_when_they_return(one_p):
    """Eight that slept at once then compute one at a time: together they take as long as one after the other."""
    handles = [go(sleep_then_compute, 0.3, 0.05) for _ in range(8)]
    spans = sorted(handle.result(DEADLINE_S) for handle in handles)
    # Each measures its own computation by the wall clock, from its first step after it had a P again.
    overlaps = sum(1 for (_, end), (start, _) in itertools.pairwise(spans) if start < end - 0.001)
    assert overlaps <= 1, spans


def sleep_then_compute(seconds, work):
    time.sleep(seconds)
    gosched()  # the first scheduling step: no P, so it waits for one
    start = time.monotonic()
    compute(work)
    return start, time.monotonic()


def test_no_more_workers_than_max_ms(tmp_path):
    """At the bound one line says so, and everything is done once calls return."""
    code = """
import time
from mproc_go import Runtime, go
def main():
    with Runtime(2, max_ms=3):
        handles = [go(time.sleep, 0.3) for _ in range(9)]
        for handle in handles:
            handle.result(30)
        print(go(int, "7").result(30))
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "7\n"
    assert done.stderr.count("max_ms") >= 1
    assert "Traceback" not in done.stderr


def test_blocking_takes_a_thread_not_a_worker(one_p):
    """Fifty calls at once on one P; results and exceptions come back; no worker is added."""
    handles = [go(in_a_thread, i) for i in range(50)]
    pids = {handle.result(DEADLINE_S)[0] for handle in handles}
    assert [handle.result()[1] for handle in handles] == list(range(50))
    assert len(pids) == 1
    with pytest.raises(ZeroDivisionError):
        go(failing).result(DEADLINE_S)
    assert blocking(add_one, 1) == 2  # in the main thread: just called
    assert stats()["handoffs"] == 0


def in_a_thread(i):
    hub = threading.get_ident()

    def call():
        time.sleep(0.2)
        return threading.get_ident() != hub

    assert blocking(call)
    return os.getpid(), i


def failing():
    blocking(lambda: 1 // 0)


def test_not_callable():
    """blocking of something that is no function says so."""
    with Runtime(1), pytest.raises(TypeError, match="function"):
        blocking(5)


def both_ends():
    """Wait for a pipe that another goroutine of this worker writes: ends only if both run."""
    r, w = os.pipe()
    go(write_to, os.getpid(), w)
    try:
        wait_readable(r, 10)
        return os.read(r, 10)
    finally:
        os.close(r)
        os.close(w)


def write_to(os_pid, fd):
    assert os_pid == os.getpid(), "one P, one worker"
    wait_writable(fd, 5)
    os.write(fd, b"x")


def test_the_poller_parks_only_the_goroutine(one_p):
    """A goroutine waits for a pipe that another one of the same worker writes."""
    assert go(both_ends).result(DEADLINE_S) == b"x"
    assert stats()["handoffs"] == 0


def timeout_of_a_pipe():
    r, w = os.pipe()
    try:
        wait_readable(r, 0.05)
    except TimeoutError:
        os.write(w, b"late")
        wait_readable(r, 5)
        return os.read(r, 10)
    finally:
        os.close(r)
        os.close(w)


def test_waiting_for_a_descriptor_can_time_out(one_p):
    """A timeout leaves nothing behind: the next wait for the same descriptor works."""
    assert go(timeout_of_a_pipe).result(DEADLINE_S) == b"late"
    r, w = os.pipe()
    with pytest.raises(TimeoutError):
        wait_readable(r, 0)  # in the main thread
    os.write(w, b"x")
    wait_readable(r)
    os.close(r)
    os.close(w)
    with pytest.raises(ValueError, match="descriptor"):
        wait_readable(-1)


def test_gomaxprocs_up_and_down(seed):
    """Resizing under load: everything queued runs exactly once, and the old value comes back."""
    with Runtime(2):
        assert gomaxprocs() == 2
        ch = Chan(64)
        sizes = [1, 3, 2, 4, 1, 2]
        handles = []
        old = 2
        for n in sizes:
            handles += [go(echo, ch, len(handles) + i) for i in range(100)]
            assert gomaxprocs(n) == old
            old = n
            got = sorted(ch.recv(DEADLINE_S) for _ in range(100))
            assert got == list(range(len(handles) - 100, len(handles)))
        assert sorted(handle.result(DEADLINE_S) for handle in handles) == list(range(600))
        for bad in (-1, 10**6):
            with pytest.raises(ValueError, match="gomaxprocs"):
                gomaxprocs(bad)
        with pytest.raises(TypeError, match="gomaxprocs"):
            gomaxprocs("2")
        assert gomaxprocs() == 2


def echo(ch, i):
    ch.send(i)
    return i
