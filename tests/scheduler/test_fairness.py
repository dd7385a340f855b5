"""Who runs when: balance over the Ps, fairness, time slices, and the end of everything: deadlocks and lost workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from mproc_go import (
    Chan,
    Deadlock,
    GoroutinePanic,
    Runtime,
    WaitGroup,
    WorkerLost,
    blocking,
    go,
    goid,
    gosched,
    num_goroutine,
    run,
    select,
    sleep,
    stacks,
    stats,
)
from tests.scheduler.support import until

DEADLINE_S = 30


def compute(seconds):
    end = time.process_time() + seconds
    n = 0
    while time.process_time() < end:
        n += 1
    return os.getpid()


def pid():
    return os.getpid()


def test_uneven_work_of_one_spawner_runs_on_all_ps():
    """Tasks of three orders of magnitude, spawned by one goroutine: thieves take their share."""
    with Runtime(2):
        pids = go(spawn_uneven).result(DEADLINE_S)
        assert len(set(pids)) == 2
        assert len(pids) == 150
        figures = stats()
        assert figures["steals"] > 0  # the spawner queues at its own P: the other M has what it took from there
        assert figures["spawned"] - figures["finished"] == 1


def spawn_uneven():
    handles = [go(compute, 0.0001 * 10 ** (i % 3)) for i in range(150)]
    return [handle.result(DEADLINE_S) for handle in handles]


def spawn_many(n):
    """More than the local queue holds: half of it overflows to the global one."""
    handles = [go(goid) for _ in range(n)]
    return len({handle.result(DEADLINE_S) for handle in handles})


@pytest.mark.parametrize("procs", [1, 2])
def test_more_goroutines_than_a_queue_holds(procs):
    """Overflow loses none and runs none twice."""
    with Runtime(procs):
        assert go(spawn_many, 1000).result(DEADLINE_S) == 1000


def test_a_pool_started_before_its_work_is_spread():
    """Goroutines stay where they start, so those that park at once are started on different Ms."""
    with Runtime(2):
        ch, out = Chan(), Chan(8)
        for _ in range(4):
            go(worker, ch, out)
        while num_goroutine() < 5 or stats()["goroutines_by_state"].get("chan receive", 0) < 4:
            gosched()
        for _ in range(40):
            go(ch.send, 1)
        assert len({out.recv(DEADLINE_S) for _ in range(40)}) == 2
        ch.close()


def worker(ch, out):
    for _ in ch:
        compute(0.002)
        out.send(os.getpid())


def ping(a, b, n):
    for i in range(n):
        a.send(i)
        b.recv()
    return n


def pong(a, b, n):
    for i in range(n):
        a.recv()
        b.send(i)


def test_a_ping_pong_does_not_starve_new_goroutines():
    """Two that always have each other ready, on one P: a third that was not started yet gets its turn."""
    with Runtime(1):
        a, b = Chan(), Chan()
        go(endless_ping, a, b)
        go(endless_pong, a, b)
        assert [go(pid).result(DEADLINE_S) for _ in range(5)]


def endless_ping(a, b):
    while True:
        a.send(1)
        b.recv()


def endless_pong(a, b):
    while True:
        b.send(a.recv())


def flood(ch):
    """Always has something new to start."""
    while True:
        go(pid)
        gosched()
        if len(ch):
            return ch.recv()


def test_a_flood_of_new_goroutines_does_not_starve_started_ones():
    """A goroutine that was made ready from outside runs although new ones never end."""
    with Runtime(1):
        stop, ping_ = Chan(1), Chan()
        flooding = go(flood, stop)
        waiting = go(ping_.recv)
        ping_.send("out of the flood", timeout=DEADLINE_S)
        assert waiting.result(DEADLINE_S) == "out of the flood"
        stop.send("enough")
        assert flooding.result(DEADLINE_S) == "enough"


def yielding(ch):
    while not len(ch):
        gosched()
    return True


def test_timers_fire_while_others_yield_all_the_time():
    """A sleeper on a P where somebody yields in a loop wakes up."""
    with Runtime(1):
        ch = Chan(1)
        busy = go(yielding, ch)
        assert go(sleeper, 0.05).result(DEADLINE_S)
        ch.send(1)
        assert busy.result(DEADLINE_S)


def sleeper(seconds):
    start = time.monotonic()
    sleep(seconds)
    return time.monotonic() - start >= seconds


def hog():
    n = 0
    while True:
        n += 1


def test_a_time_slice_for_those_that_compute():
    """preempt=True: goroutines that compute for ever on every P don't keep others from running."""
    with Runtime(2, preempt=True):
        for _ in range(3):
            go(hog)
        assert [go(pid).result(DEADLINE_S) for _ in range(3)]
        a, b = Chan(), Chan()
        go(pong, a, b, 50)
        assert go(ping, a, b, 50).result(DEADLINE_S) == 50


# ---------------------------------------------------------------- deadlock
def deadlocked(main):
    with pytest.raises(Deadlock) as caught:
        run(main)
    return str(caught.value)


def test_deadlock_of_main_alone():
    """Go's text, and the wait reason of each."""
    text = deadlocked(lambda: Chan().recv())
    assert text.startswith("all goroutines are asleep - deadlock!\n\ngoroutine 1 [chan receive]:")


def test_deadlock_shows_every_stack_over_all_processes():
    """Reasons, stacks and who made whom."""

    def main():
        ch, wg = Chan(), WaitGroup()
        wg.add(1)
        go(lambda: ch.send("nobody takes this"))
        go(lambda: select(ch.recv, None) if False else wg.wait())
        wg.wait()

    text = deadlocked(main)
    assert "[sync.WaitGroup.Wait]" in text
    assert "[chan send]" in text
    assert "nobody takes this" in text
    assert "created by goroutine 1" in text


def wait_for_other(ch):
    ch.recv().result()


def test_deadlock_names_the_circle():
    """Two that wait for each other's results."""

    def main():
        first, second = Chan(), Chan()
        one, two = go(wait_for_other, first), go(wait_for_other, second)
        first.send(two)
        second.send(one)
        one.result()

    text = deadlocked(main)
    assert re.search(r"who waits for whom: goroutine (\d+) (-> \d+ )*-> \1", text)


def test_no_deadlock_while_something_can_still_happen():
    """A sleeper, a blocking call, a timeout: all of them veto."""

    def main():
        for wake in (later_by_sleep, later_by_blocking):
            ch = Chan()
            go(wake, ch)
            assert ch.recv() == "late"
        with pytest.raises(TimeoutError):
            Chan().recv(0.4)
        return "alive"

    assert run(main) == "alive"


def later_by_sleep(ch):
    sleep(0.4)
    ch.send("late")


def later_by_blocking(ch):
    blocking(time.sleep, 0.4)
    ch.send("late")


def test_deadlock_under_the_command_line(tmp_path):
    """`fatal error:` and exit status 2, as Go."""
    script = tmp_path / "dead.py"
    script.write_text("from mproc_go import Chan, run\nrun(lambda: Chan().recv())\n")
    done = subprocess.run(
        [sys.executable, "-m", "mproc_go", "run", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [chan receive]:")


# ---------------------------------------------------------------- lost workers
def die_until(path, times):
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.path.getsize(path)


def test_retries(tmp_path):
    """Run again from the beginning, with the same arguments, as often as was said."""
    with Runtime(2):
        assert go.options(retries=3)(die_until, str(tmp_path / "a"), 2).result(DEADLINE_S) == 3
        with pytest.raises(WorkerLost, match="SIGKILL"):
            go.options(retries=1)(die_until, str(tmp_path / "b"), 5).result(DEADLINE_S)
        assert os.path.getsize(tmp_path / "b") == 2
        for bad, error in ((-1, ValueError), ("2", TypeError), (True, TypeError)):
            with pytest.raises(error, match="retries"):
                go.options(retries=bad)


def test_a_lost_worker_that_nobody_held():
    """WorkerLost out of run, with pid and signal."""

    def main():
        go(os.kill, os.getpid(), 0)
        go(lambda: os.kill(os.getpid(), signal.SIGKILL))
        Chan().recv()

    with pytest.raises(WorkerLost, match=r"worker \d+ \(M\d+\) was killed by SIGKILL"):
        run(main)


def test_goroutines_not_started_survive_a_worker(tmp_path):
    """What was only queued at the dead worker's P runs elsewhere."""
    with Runtime(1):
        first = go(die_slowly, str(tmp_path / "gate"))
        queued = [go(goid) for _ in range(50)]
        (tmp_path / "gate").touch()
        with pytest.raises(WorkerLost):
            first.result(DEADLINE_S)
        assert len({handle.result(DEADLINE_S) for handle in queued}) == 50


def die_slowly(gate):
    while not os.path.exists(gate):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


# ---------------------------------------------------------------- seeing it
def test_stats_tell_what_there_is():
    """Counts of a quiet runtime are exact."""
    with Runtime(2):
        ch = Chan()
        waiting = go(ch.recv)
        while stats()["goroutines_by_state"].get("chan receive", 0) != 1:
            gosched()
        figures = stats()
        assert figures["gomaxprocs"] == 2
        assert figures["goroutines"] == 2
        assert figures["objects"] == {"channels": 1}
        assert figures["memory_bytes"] <= figures["memory_limit_bytes"]
        assert {m["os_pid"] for m in figures["ms"]}
        ch.send(1)
        waiting.result(DEADLINE_S)
        assert stats()["goroutines"] == 1


def inner(ch):
    ch.recv()


def test_stacks_of_all_processes():
    """Waiting, computing and not started: each with its state."""
    with Runtime(1):
        ch = Chan()
        go(inner, ch)
        while stats()["goroutines_by_state"].get("chan receive", 0) != 1:
            gosched()
        busy = go(compute, 1.0)
        while stats()["goroutines_by_state"].get("running", 0) != 2:
            gosched()
        queued = go(pid)
        text = stacks()
        assert re.search(r"goroutine \d+ \[chan receive\]:\n(.*\n)*.*in inner", text) or "[chan receive]" in text
        assert f"goroutine {queued.id} [runnable]:\n  not started yet" in text
        assert f"goroutine {busy.id} [running]" in text
        assert "goroutine 1 [running]:" in text and "test_stacks_of_all_processes" in text
        ch.send(1)
        assert busy.result(DEADLINE_S)


def test_schedtrace_has_gos_form(tmp_path):
    """A line every few milliseconds on stderr."""
    script = tmp_path / "sleeps.py"
    script.write_text("from mproc_go import run, sleep\nrun(lambda: sleep(0.3))\n")
    done = subprocess.run(
        [sys.executable, "-m", "mproc_go", "run", "--schedtrace", "50", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = done.stderr.splitlines()
    assert len(lines) >= 3
    form = r"SCHED \d+ms: gomaxprocs=\d+ idleprocs=\d+ threads=\d+ spinningthreads=\d+ idlethreads=\d+ runqueue=\d+ \[\d+( \d+)*\]"
    assert all(re.fullmatch(form, line) for line in lines), lines


def test_a_panic_leaves_before_a_deadlock_is_seen():
    """The exception is what is told, not that nobody could run after it."""

    def main():
        go(lambda: 1 // 0)
        Chan().recv()

    with pytest.raises(GoroutinePanic, match="ZeroDivisionError"):
        run(main)


def nap(out, i):
    begun = time.monotonic()
    sleep(1 + i % 7 * 0.1)
    out.send(time.monotonic() - begun >= 1 + i % 7 * 0.1)


@pytest.mark.slow
def test_very_many_sleepers():
    """100,000 goroutines sleep at once, and each wakes, none early; nothing of them is left."""
    n = 100_000
    with Runtime(2):
        out = Chan(n)
        for i in range(n):
            go(nap, out, i)
        got = []
        while len(got) < n:
            got += out.recv_many(n)
        assert all(got)
        until(lambda: num_goroutine() == 1, "all of them over")
        assert len(stats()["ms"]) == 2
