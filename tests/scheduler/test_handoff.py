"""Ms that block: how many there are, who has a P, what happens at max_ms, and that spares end again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from mproc_go import Runtime, go, gosched, stats
from mproc_go.runtime import process as rt
from mproc_go.shm import layout as L
from tests.scheduler.support import DEADLINE_S, add_one, compute, in_state, pid, spin_until_file, until


def receive_from_socket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        return sock.recv(10)


def test_a_blocked_socket(tmp_path):
    """recv of a socket, which is undeclared, gives the P away, and returns what comes."""
    with socket.socket(socket.AF_UNIX) as server, Runtime(1):
        server.bind(str(tmp_path / "s"))
        server.listen()
        blocked = go(receive_from_socket, str(tmp_path / "s"))
        peer, _ = server.accept()
        assert [go(add_one, i).result(DEADLINE_S) for i in range(5)] == [1, 2, 3, 4, 5]
        assert stats()["handoffs"] >= 1
        assert not blocked.done()
        peer.send(b"there")
        assert blocked.result(DEADLINE_S) == b"there"
        peer.close()


def open_fifo(path):
    with open(path, "rb") as file:
        return file.read()


def test_goroutines_queued_behind_a_blocked_one_run(tmp_path):
    """Those that wait at the P of a blocked M, or are bound to it, run on: the former at once, the latter when it is back."""
    os.mkfifo(tmp_path / "fifo")
    with Runtime(1):
        bound = go(block_and_spawn, str(tmp_path / "fifo"))
        until(lambda: in_state("running", 2))
        children = [go(add_one, i) for i in range(300)]
        assert [child.result(DEADLINE_S) for child in children] == list(range(1, 301))
        with open(tmp_path / "fifo", "wb") as file:
            file.write(b"free")
        data, bound_children = bound.result(DEADLINE_S)
        assert data == b"free"
        assert bound_children == list(range(1, 51))


def block_and_spawn(path):
    handles = [go(add_one, i) for i in range(50)]
    data = open_fifo(path)
    return data, [handle.result(DEADLINE_S) for handle in handles]


def sleep_then_work(seconds, work):
    time.sleep(seconds)
    gosched()  # its P was taken: it needs one before it runs on
    spans = []
    for _ in range(5):
        start = time.monotonic()
        compute(work)
        spans.append((start, time.monotonic()))
        gosched()
    return spans


def max_overlap(spans):
    """How many of the spans share a moment at the most."""
    events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    level = most = 0
    for _, step in events:
        level += step
        most = max(most, level)
    return most


@pytest.mark.parametrize("procs", [1, 2])
def test_no_more_compute_at_once_than_there_are_ps(procs):
    """Six Ms return from blocked calls; what they then do, step by step, never overlaps more than gomaxprocs."""
    with Runtime(procs):
        handles = [go(sleep_then_work, 0.25, 0.01) for _ in range(6)]
        spans = [span for handle in handles for span in handle.result(DEADLINE_S)]
        assert stats()["handoffs"] >= 1
        assert max_overlap(spans) <= procs


def ps_of_ms():
    """The Ps that Ms have, all at one moment."""
    m = rt.current()
    w, lock = m.w, m.locks[L.L_SCHED]
    m.enter(lock)
    ps = [w[L.slot_base(slot) + L.M_P] - 1 for slot in range(1, w[L.H_MAX_MS] + 1)]
    m.leave(lock)
    return [p for p in ps if p >= 0]


def test_ps_have_one_m_each():
    """While Ms block and return, no P is shown at two Ms, and no more Ms than gomaxprocs have one."""
    with Runtime(2):
        handles = [go(time.sleep, 0.02 * (i % 5)) for i in range(60)]
        while not all(handle.done() for handle in handles):
            ps = ps_of_ms()
            assert len(ps) == len(set(ps)) and set(ps) <= {0, 1}
        until(lambda: stats()["idle_ps"] == 2, "both Ps idle")


@pytest.mark.slow
def test_spare_workers_end_after_a_burst():
    """A burst of blocked calls makes Ms; some seconds later only a spare or two are left, and everything still works."""
    with Runtime(2):
        handles = [go(time.sleep, 1.0) for _ in range(10)]
        for handle in handles:
            handle.result(DEADLINE_S)
        assert len(stats()["ms"]) >= 10
        until(lambda: len(stats()["ms"]) <= 3, "at most 3 workers left")
        handles = [go(time.sleep, 0.5) for _ in range(6)]
        assert [go(add_one, i).result(DEADLINE_S) for i in range(5)] == [1, 2, 3, 4, 5]
        for handle in handles:
            handle.result(DEADLINE_S)


@pytest.mark.slow
def test_a_spare_to_which_something_is_bound_stays():
    """A goroutine that started on a spare M, and waits there, is not lost when spares end."""
    from mproc_go import Chan

    with Runtime(1):
        ch = Chan()
        handles = [go(block_then_receive, ch) for _ in range(6)]
        until(lambda: in_state("chan receive", 6))
        time.sleep(7)
        for i in range(6):
            ch.send(i, DEADLINE_S)
        assert sorted(handle.result(DEADLINE_S) for handle in handles) == list(range(6))


def block_then_receive(ch):
    time.sleep(0.3)
    return ch.recv()


def test_at_the_bound_of_ms(tmp_path):
    """All max_ms workers blocked: one clear line, no crash; what is queued runs as soon as one returns."""
    code = """
import os, sys, time
from mproc_go import Runtime, go, stats
def read(path):
    with open(path) as file:
        return file.read()
with Runtime(1, max_ms=2):
    blocked = [go(read, sys.argv[1] + str(i)) for i in range(2)]
    waiting = go(int, "7")
    while not os.fstat(2).st_size:  # until the line is there
        time.sleep(0.002)
    try:
        waiting.result(0.3)
    except TimeoutError:
        print("waits")
    assert stats()["handoffs"] >= 2 and len(stats()["ms"]) == 2
    with open(sys.argv[1] + "0", "w") as file:
        file.write("free")
    print(blocked[0].result(30), waiting.result(30))
"""
    for i in range(2):
        os.mkfifo(tmp_path / f"fifo{i}")
    with open(tmp_path / "stderr", "w+") as stderr:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "fifo")],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=60,
            check=False,
        )
        stderr.seek(0)
        said = stderr.read()
    assert done.returncode == 0, said
    assert done.stdout == "waits\nfree 7\n"
    assert said.count("\n") == 1, said
    assert "max_ms" in said and "blocking(fn)" in said


def test_hogs_on_all_ps_are_no_blocked_calls(tmp_path):
    """Work is queued while every P computes: nothing is handed off, no worker added, and it runs at the end."""
    with Runtime(2):
        gate = str(tmp_path / "gate")
        hogs = [go(spin_until_file, gate) for _ in range(2)]
        until(lambda: in_state("running", 3))
        queued = [go(pid) for _ in range(20)]
        time.sleep(0.3)
        figures = stats()
        assert figures["handoffs"] == 0
        assert len(figures["ms"]) == 2
        assert not any(handle.done() for handle in queued)
        open(gate, "w").close()
        assert all(handle.result(DEADLINE_S) for handle in queued)
        assert all(handle.result(DEADLINE_S) for handle in hogs)
