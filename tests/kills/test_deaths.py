"""Workers that die of everything a worker can die of, under traffic; what the others notice, and what is left."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from mproc_go import Chan, Runtime, WorkerLost, go, num_goroutine, select, stacks, stats
from mproc_go.runtime import process as rt
from mproc_go.shm import layout as L
from mproc_go.shm import pool
from tests.scheduler.support import DEADLINE_S, add_one, compute, in_state, pid, spin_until_file, until

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def runtime():
    with Runtime(2) as started:
        yield started
        until(lambda: num_goroutine() == 1, "all goroutines over")


def segfault():
    ctypes.string_at(0)


def exit_with(status):
    os._exit(status)


def abort():
    os.abort()


def run_out_of_memory():
    resource.setrlimit(resource.RLIMIT_AS, (1, 1))
    os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does


def stack_overflow():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.raise_signal(signal.SIGSEGV)


WAYS = {
    "segfault": (segfault, (), "was killed by SIGSEGV"),
    "_exit(3)": (exit_with, (3,), "exited with status 3"),
    "_exit(0)": (exit_with, (0,), "exited with status 0"),
    "abort": (abort, (), "was killed by SIGABRT"),
    "out of memory": (run_out_of_memory, (), "was killed by SIGKILL"),
    "SIGTERM": (signal.raise_signal, (signal.SIGTERM,), "was killed by SIGTERM"),
    "SIGBUS": (signal.raise_signal, (signal.SIGBUS,), "was killed by SIGBUS"),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_die(runtime, way):
    """WorkerLost names process, M and cause; a goroutine that waits, one that is queued and the next ones are served."""
    fn, args, text = WAYS[way]
    ch = Chan()
    waits = go.options(retries=3)(ch.recv)
    dying = go(no_core, fn, *args)
    queued = [go(add_one, i) for i in range(10)]
    with pytest.raises(WorkerLost, match=rf"goroutine {dying.id} was lost: worker \d+ \(M\d+\) {re.escape(text)}") as e:
        dying.result(DEADLINE_S)
    assert "running" in str(e.value) and str(e.value).endswith("created by goroutine 1")
    assert "tests.kills.test_deaths.no_core" in str(e.value)  # what it ran, ...
    if "SIGSEGV" in text or "SIGABRT" in text or "SIGBUS" in text:  # ... and where, if there is somebody left to tell
        assert re.search(rf'File ".*test_deaths.py", line \d+ in {fn.__name__}', str(e.value)) or fn is signal.raise_signal
        assert re.search(r'File ".*test_deaths.py", line \d+ in no_core', str(e.value))
        assert "mproc_go/runtime" not in str(e.value)
    for i, handle in enumerate(queued):
        # Those that had started beside it are lost with it, the others run.
        with contextlib.suppress(WorkerLost):
            assert handle.result(DEADLINE_S) == i + 1
    ch.send("there", DEADLINE_S)
    assert waits.result(DEADLINE_S) == "there"


def no_core(fn, *args):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stderr.flush()
    fn(*args)


def test_all_workers_at_once(runtime):
    """Every worker dies in the same moment, again and again: what has retries is done all the same."""
    handles = [go.options(retries=1000)(compute, 0.02) for _ in range(30)]
    for _ in range(6):
        for m in stats()["ms"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(m["os_pid"], signal.SIGKILL)
        time.sleep(0.05)
    assert all(handle.result(DEADLINE_S) for handle in handles)


def test_peers_of_the_dead_are_woken(runtime):
    """A channel whose receivers died goes on: senders wait for the next receiver, a select is not chosen for the dead."""
    ch, other = Chan(), Chan()
    receivers = [go(select, ch.recv, other.recv) for _ in range(2)] + [go(ch.recv) for _ in range(2)]
    until(lambda: in_state("select", 2) and in_state("chan receive", 2))
    for m in stats()["ms"]:
        os.kill(m["os_pid"], signal.SIGKILL)
    for handle in receivers:
        with pytest.raises(WorkerLost, match=r"waiting \((select|chan receive)\)"):
            handle.result(DEADLINE_S)
    with pytest.raises(TimeoutError):
        ch.send("for nobody", 0.05)
    waits = go(ch.recv)
    ch.send("for the living", DEADLINE_S)
    assert waits.result(DEADLINE_S) == "for the living"


def test_what_waits_for_the_dead_goes_on(runtime):
    """Whoever waits for the result of a lost goroutine, in other workers and here, is told."""
    first = go(die_when_told, ch := Chan())
    others = [go(outcome, first) for _ in range(4)]
    until(lambda: in_state("goroutine result", 4))
    ch.send("die")
    with pytest.raises(WorkerLost):
        first.result(DEADLINE_S)
    for handle in others:
        try:
            assert handle.result(DEADLINE_S) == "WorkerLost"
        except WorkerLost:
            pass  # it was on the same worker


def die_when_told(ch):
    ch.recv()
    os.kill(os.getpid(), signal.SIGKILL)


def outcome(handle):
    try:
        return handle.result(DEADLINE_S)
    except WorkerLost:
        return "WorkerLost"


def test_killed_in_a_blocked_call_and_in_a_thread_of_blocking(runtime, tmp_path):
    """A worker whose P was taken, and one whose goroutine is outside, die: the Ps stay two, and nothing hangs."""
    os.mkfifo(tmp_path / "fifo")
    blocked = [go(open, str(tmp_path / "fifo")), go(in_thread, str(tmp_path / "fifo"))]
    until(lambda: in_state("syscall", 1))
    waiting = [go(add_one, i) for i in range(4)]
    assert [handle.result(DEADLINE_S) for handle in waiting] == [1, 2, 3, 4]
    for m in stats()["ms"]:
        if m["goroutines"]:
            os.kill(m["os_pid"], signal.SIGKILL)
    for handle in blocked:
        with pytest.raises(WorkerLost):
            handle.result(DEADLINE_S)
    until(lambda: stats()["idle_ps"] == 2, "two idle Ps")
    assert [go(add_one, i).result(DEADLINE_S) for i in range(20)] == list(range(1, 21))


def in_thread(path):
    from mproc_go import blocking

    blocking(open, path)


@pytest.mark.parametrize("how_long", [0.3, pytest.param(3.0, marks=pytest.mark.slow)])
def test_a_stopped_worker(runtime, how_long):
    """SIGSTOP (a debugger, Ctrl-Z): the others run on, and what it has goes on when it does."""
    ch, out = Chan(8), Chan(64)
    relays = [go(relay, ch, out) for _ in range(4)]
    until(lambda: in_state("chan receive", 4))
    got = []
    stopped = next(m["os_pid"] for m in stats()["ms"] if m["goroutines"])
    sender = threading.Thread(target=lambda: [ch.send(i) for i in range(500)] and ch.close())
    sender.start()
    os.kill(stopped, signal.SIGSTOP)
    timer = threading.Timer(how_long, os.kill, (stopped, signal.SIGCONT))
    timer.start()
    for _ in range(500):
        got.append(out.recv(DEADLINE_S))
    sender.join()
    timer.join()
    assert sorted(got) == list(range(500))
    for handle in relays:
        handle.result(DEADLINE_S)


def relay(ch, out):
    for v in ch:
        out.send(v)


def test_a_worker_killed_while_stopped(runtime, tmp_path):
    """It is buried like any other."""
    gate = str(tmp_path / "gate")
    handle = go(spin_until_file, gate)
    until(lambda: in_state("running", 2))
    os_pid = next(m["os_pid"] for m in stats()["ms"] if m["goroutines"])
    os.kill(os_pid, signal.SIGSTOP)
    os.kill(os_pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match=str(os_pid)):
        handle.result(DEADLINE_S)
    assert go(pid).result(DEADLINE_S) != os_pid


def test_killed_while_it_collects_stacks(runtime):
    """stacks() goes on working for the others."""
    for _ in range(5):
        handle = go(stacks_for_ever)
        until(lambda: in_state("running", 2))
        time.sleep(random.random() * 0.02)
        for m in stats()["ms"]:
            if m["goroutines"]:
                os.kill(m["os_pid"], signal.SIGKILL)
        with pytest.raises(WorkerLost):
            handle.result(DEADLINE_S)
        assert "goroutine 1 [running]" in stacks()
    rt.current().w[L.S_DUMPER] = 0


def stacks_for_ever():
    while True:
        stacks()


def test_handles_and_memory_of_the_dead_come_back(runtime):
    """Channels that only a dead worker held are freed; the segment does not grow with each death."""

    def deaths(n):
        """Each is reclaimed before the next: a worker that lives takes what the dead leave."""
        for _ in range(n):
            handle = go(make_and_die)
            with pytest.raises(WorkerLost):
                handle.result(DEADLINE_S)
            until(lambda: go(add_one, 1).result(DEADLINE_S) and not stats()["objects"], "no object left")

    deaths(10)
    before = stats()["memory_bytes"]
    deaths(20)
    assert stats()["memory_bytes"] <= before + 1024 * 1024


def test_what_the_only_worker_held_comes_back():
    """Nobody is there to free it but the worker that comes in its place."""
    with Runtime(1):
        handle = go(make_and_die)
        with pytest.raises(WorkerLost):
            handle.result(DEADLINE_S)
        until(lambda: not stats()["objects"], "no object left")


def make_and_die():
    channels, leaf = [Chan(10) for _ in range(50)], Chan(1)
    leaf.send(b"y" * 1000)
    for ch in channels:
        ch.send(b"x" * 10_000)
        ch.send(leaf)
    os.kill(os.getpid(), signal.SIGKILL)


def test_ended_by_a_worker_that_nobody_held_with_log():
    """on_panic="log": it is written down, and everything goes on."""
    code = """
import os, signal, time
from mproc_go import Runtime, go, num_goroutine
with Runtime(2, on_panic="log"):
    go(os.kill, 0, 0)
    go(lambda: os.kill(os.getpid(), signal.SIGKILL))
    while num_goroutine() > 1:
        time.sleep(0.01)
    print(go(int, "7").result(30))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr
    assert re.search(r"panic: WorkerLost: goroutine \d+ was lost: worker \d+ \(M\d+\) was killed by SIGKILL", done.stderr)


# ---------------------------------------------------------------- what those who waited had in hand
LONG = 100_000


def choose(one, other, value):
    select((one.send, value), (other.send, value))


def in_use(n_bytes):
    """Blocks of messages of that length that are not free."""
    w = rt.current().w
    return sum(w[block] & 0xFF == L.REC_LIVE for block in pool.records(w, pool.block_pool(n_bytes)))


def test_messages_of_those_who_waited_leave_nothing(runtime):
    """Long messages with handles, brought by goroutines that wait to send: they are freed with who brought them."""
    one, other = Chan(), Chan()

    def wait_and_die():
        inner = Chan(1)
        value = (inner, "x" * LONG)
        waiting = [go(one.send, value) for _ in range(10)] + [go(choose, one, other, value) for _ in range(10)]
        until(lambda: stats()["goroutines_by_state"].get("chan send") == 10)
        until(lambda: stats()["goroutines_by_state"].get("select") == 10)
        # It is a moment from that state to the place in the queue: a message in hand then may stay.
        until(lambda: stats()["idle_ps"] == 2 and all(worker["sleeping"] for worker in stats()["ms"]))
        assert in_use(LONG) >= 30
        for worker in stats()["ms"]:
            os.kill(worker["os_pid"], signal.SIGKILL)
        for handle in waiting:
            with pytest.raises(WorkerLost):
                handle.result(DEADLINE_S)

    for _ in range(3):
        wait_and_die()
        until(lambda: not in_use(LONG), "no message is left")
    until(lambda: stats()["objects"].get("channels") == 2, "no channel is left that one named")
