"""stats(): its keys, and that each figure is the truth of a runtime that rests; the scheduler's line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import psutil
import pytest

from mproc_go import Chan, Mutex, Runtime, Timer, WaitGroup, go, gomaxprocs, gosched, num_goroutine, sleep, stats
from mproc_go.observe.stats import schedtrace_line
from mproc_go.runtime import process as rt
from tests.scheduler.support import DEADLINE_S, add_one, in_state, receive_all, spin_until_file, until

KEYS = {
    "gomaxprocs",
    "idle_ps",
    "ps",
    "ms",
    "idle_ms",
    "ms_waiting_for_p",
    "spinning_ms",
    "clients",
    "goroutines",
    "goroutines_by_state",
    "spawned",
    "finished",
    "runqueue",
    "steals",
    "handoffs",
    "objects",
    "functions",
    "memory_bytes",
    "memory_kept_bytes",
    "memory_limit_bytes",
}
M_KEYS = {"m", "os_pid", "p", "sleeping", "spinning", "ticks", "goroutines", "outside", "steals", "handoffs"}


@pytest.fixture
def runtime():
    with Runtime(2) as started:
        yield started


def test_a_plain_dict(runtime):
    """Documented keys, plain values: it can be written as JSON, from any thread and process."""
    for figures in (stats(), go(stats).result(DEADLINE_S)):
        assert figures.keys() >= KEYS
        assert all(m.keys() >= M_KEYS for m in figures["ms"])
        assert json.loads(json.dumps(figures))["gomaxprocs"] == 2


def test_ms_are_living_processes(runtime):
    """Children of the supervisor, each once."""
    go(add_one, 1).result(DEADLINE_S)
    pids = [m["os_pid"] for m in stats()["ms"]]
    assert len(pids) == len(set(pids)) == 2
    supervisor = {psutil.Process(os_pid).ppid() for os_pid in pids}
    assert len(supervisor) == 1
    assert psutil.Process(supervisor.pop()).ppid() == os.getpid()


def test_a_quiet_runtime(runtime):
    """Nothing queued, all Ps idle, nobody searches, one goroutine, one client."""
    go(add_one, 1).result(DEADLINE_S)
    until(lambda: stats()["idle_ps"] == 2 and stats()["idle_ms"] == 2 and all(m["sleeping"] for m in stats()["ms"]))
    figures = stats()
    assert figures["ps"] == [{"p": p, "m": None, "runqueue": 0} for p in range(2)]
    assert figures["runqueue"] == figures["spinning_ms"] == figures["ms_waiting_for_p"] == 0
    assert figures["clients"] == 1
    assert figures["goroutines"] == num_goroutine() == 1
    assert figures["goroutines_by_state"] == {"running": 1}
    assert figures["objects"] == {}
    assert sum(m["goroutines"] for m in figures["ms"]) == 0


def test_goroutines_by_state(runtime):
    """Each wait reason in Go's words, as many as there are; and they are gone afterwards."""
    ch, full, wg, mutex, gate, over = Chan(), Chan(), WaitGroup(), Mutex(), Chan(), Chan()
    wg.add(1)
    mutex.lock()
    handles = [go(ch.recv) for _ in range(3)]
    handles += [go(full.send, i) for i in range(2)]
    handles += [go(wg.wait), go(mutex.lock), go(nap_until_closed, over)]
    handles += [go(handles[0].result)]
    handles += [go(wait_in_select, gate)]
    wanted = {
        "running": 1,
        "chan receive": 3,
        "chan send": 2,
        "sync.WaitGroup.Wait": 1,
        "sync.Mutex.Lock": 1,
        "sleep": 1,
        "goroutine result": 1,
        "select": 1,
    }
    until(lambda: stats()["goroutines_by_state"] == wanted, f"{wanted}")
    assert stats()["goroutines"] == 11
    assert stats()["objects"]["channels"] >= 3
    assert stats()["objects"]["mutexes"] == stats()["objects"]["wait groups"] == 1
    for i in range(3):
        ch.send(i)
    receive_all(full, 2)
    wg.done()
    mutex.unlock()
    gate.send(1)
    over.close()
    for handle in handles:
        handle.result(DEADLINE_S)
    until(lambda: stats()["goroutines_by_state"] == {"running": 1})


def wait_in_select(gate):
    from mproc_go import select

    select(gate.recv, Chan().recv)


def nap_until_closed(over):
    while not over.closed:
        sleep(0.2)


def test_queues_and_totals(tmp_path, runtime):
    """What waits in the queues, and how many were ever made and have ended."""
    gate = str(tmp_path / "gate")
    before = stats()
    hogs = [go(spin_until_file, gate) for _ in range(2)]
    until(lambda: in_state("running", 3))
    queued = [go(add_one, i) for i in range(7)]
    figures = stats()
    assert figures["runqueue"] + sum(p["runqueue"] for p in figures["ps"]) == 7
    assert figures["goroutines_by_state"] == {"running": 3, "runnable": 7}
    assert figures["spawned"] - before["spawned"] == 9
    assert figures["finished"] == before["finished"]
    assert figures["idle_ps"] == 0
    assert sorted(m["p"] for m in figures["ms"] if m["p"] is not None) == [0, 1]
    open(gate, "w").close()
    for handle in (*hogs, *queued):
        handle.result(DEADLINE_S)
    until(lambda: stats()["finished"] - before["finished"] == 9)


def test_objects_of_all_kinds_come_and_go(runtime):
    """Counted while somebody has a handle."""
    things = [Chan(), Chan(3), WaitGroup(), Mutex(), Timer(1000)]
    assert stats()["objects"] == {"channels": 3, "wait groups": 1, "mutexes": 1}  # a timer is its channel
    things[-1].stop()
    things.clear()
    until(lambda: not stats()["objects"], "no object left")


def test_memory(runtime):
    """It grows with what is sent, and a large message gives its memory back."""
    ch = Chan(8)
    before = stats()["memory_bytes"]
    for _ in range(4):
        ch.send(bytes(1 << 20))
    assert stats()["memory_bytes"] >= before + (4 << 20)
    receive_all(ch, 4)
    assert stats()["memory_bytes"] <= before + (1 << 19)
    assert stats()["memory_bytes"] <= stats()["memory_limit_bytes"]


def test_gomaxprocs_is_what_it_is_set_to(runtime):
    """So many Ps are listed."""
    for n in (1, 3, 2):
        gomaxprocs(n)
        assert stats()["gomaxprocs"] == len(stats()["ps"]) == n
    go(add_one, 1).result(DEADLINE_S)
    gosched()


LINE = re.compile(
    r"SCHED (\d+)ms: gomaxprocs=(\d+) idleprocs=(\d+) threads=(\d+) spinningthreads=(\d+) idlethreads=(\d+) "
    r"runqueue=(\d+) \[(\d+(?: \d+)*)\]"
)


def test_the_schedulers_line(runtime, tmp_path):
    """Go's form, with the same figures as stats()."""
    gate = str(tmp_path / "gate")
    hogs = [go(spin_until_file, gate) for _ in range(2)]
    until(lambda: in_state("running", 3))
    queued = [go(add_one, i) for i in range(5)]
    found = LINE.fullmatch(schedtrace_line(rt.current().w, 1234))
    assert found
    ms, procs, idle, threads, spinning, _idle_ms, runqueue, queues = found.groups()
    assert (ms, procs, idle, threads, spinning) == ("1234", "2", "0", "2", "0")
    assert int(runqueue) + sum(map(int, queues.split())) == 5
    assert len(queues.split()) == 2
    open(gate, "w").close()
    for handle in (*hogs, *queued):
        handle.result(DEADLINE_S)


def test_schedtrace_of_the_command_line(tmp_path):
    """A line each so many milliseconds, the time growing, with --procs as gomaxprocs; the program's output is untouched."""
    script = tmp_path / "sleeps.py"
    script.write_text("from mproc_go import go, run, sleep\nrun(lambda: (go(sleep, 0.2).result(), print('done')))\n")
    done = subprocess.run(
        [sys.executable, "-m", "mproc_go", "run", "--procs", "3", "--schedtrace", "20", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n")
    found = [LINE.fullmatch(line) for line in done.stderr.splitlines()]
    assert len(found) >= 3 and all(found), done.stderr
    assert {line[2] for line in found} == {"3"}
    times = [int(line[1]) for line in found]
    assert times == sorted(times)
