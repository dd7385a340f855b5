"""sleep, gosched, goid, goexit, counting, and that goroutines spread over all Ps."""

from __future__ import annotations

import os
import threading
import time

import pytest

from mproc_go import Chan, WaitGroup, go, goexit, goid, gomaxprocs, gosched, num_cpu, num_goroutine, sleep
from tests.contract.support import DEADLINE_S, echo, until, until_waiting


def test_sleep_is_never_early(who):
    """sleep(s) takes at least s; zero and less return at once."""

    def body():
        for seconds in (0.02, 0.1):
            began = time.monotonic()
            sleep(seconds)
            assert time.monotonic() - began >= seconds
        sleep(0)
        sleep(-1)

    who(body)


@pytest.mark.parametrize("seconds", ["1", None, 1j])
def test_sleep_of_another_type(who, seconds):
    """TypeError, and whoever called it goes on."""

    def body(seconds):
        with pytest.raises(TypeError):
            sleep(seconds)
        sleep(0.001)

    who(body, seconds)


def test_sleepers_sleep_at_the_same_time(rt):
    """200 goroutines that sleep leave their Ps to each other; the shortest is the first to go on."""
    out = Chan(300)

    def sleeper(seconds):
        sleep(seconds)
        out.send(seconds)

    def spawner():
        for i in range(200):
            go(sleeper, 0.5 - i * 0.002)

    began = time.monotonic()
    spawner()
    got = [out.recv(DEADLINE_S) for _ in range(200)]
    assert sorted(got) == sorted(0.5 - i * 0.002 for i in range(200))
    assert time.monotonic() - began < 200 * 0.1  # one after the other they would take 60 s


def test_gosched_lets_others_run(who):
    """A goroutine that yields meets what others do, on one P too."""

    def body():
        ch = Chan(1)
        go(ch.send, "v")
        deadline = time.monotonic() + DEADLINE_S
        while not len(ch):
            gosched()
            assert time.monotonic() < deadline
        assert ch.recv() == "v"

    who(body)


def test_two_that_yield_take_turns(rt):
    """gosched between goroutines of one P neither starves nor loses anybody."""

    def yielder(n):
        for _ in range(n):
            gosched()
        return n

    handles = [go(yielder, 200) for _ in range(10)]
    assert [h.result(DEADLINE_S) for h in handles] == [200] * 10


def test_goid(rt):
    """The thread that entered the runtime is goroutine 1; every other has its own number, which stays the same."""
    assert goid() == 1
    seen = [1]

    def in_thread():
        seen.append(goid())
        seen.append(goid())

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert seen[1] == seen[2] != 1

    def body():
        before = goid()
        sleep(0.001)
        return before, goid()

    handles = [go(body) for _ in range(20)]
    for h in handles:
        assert h.result(DEADLINE_S) == (h.id, h.id)
    assert len({1, seen[1], *(h.id for h in handles)}) == 22


def test_goexit(who):
    """goexit runs the finally blocks, is no error, and gives None; the rest of the function does not run."""

    def body():
        out = Chan(10)

        def inner():
            try:
                goexit()
            except Exception:
                out.send("caught as an error")
            finally:
                out.send("finally")
            out.send("after")

        def f():
            inner()
            out.send("after inner")

        assert go(f).result(DEADLINE_S) is None
        assert out.recv() == "finally"
        assert len(out) == 0
        assert go(f).exception(DEADLINE_S) is None
        assert go(echo, 1).result() == 1

    who(body)


def test_goexit_of_the_main_program(rt):
    """The main program can't end by goexit: a clear error, and it goes on."""
    with pytest.raises(RuntimeError, match="goexit"):
        goexit()
    assert go(echo, 1).result() == 1


def test_num_goroutine(who):
    """Counts those that wait, and falls back when they end."""

    def body():
        before = num_goroutine()
        gate = Chan()
        for _ in range(25):
            go(gate.recv_ok)
        assert num_goroutine() == before + 25
        until_waiting(gate, receivers=25)
        assert num_goroutine() == before + 25
        gate.close()
        deadline = time.monotonic() + DEADLINE_S
        while num_goroutine() != before:
            gosched()
            assert time.monotonic() < deadline

    who(body)


def test_counts_of_processors(keeper, rt):
    """gomaxprocs() is the number of Ps asked for, num_cpu what this process may use; everywhere the same."""
    assert gomaxprocs() == go(gomaxprocs).result(DEADLINE_S) == keeper.procs
    assert num_cpu() == go(num_cpu).result(DEADLINE_S) <= len(os.sched_getaffinity(0))


def busy(out, gate):
    """Computes until all Ps were seen at work."""
    out.send(os.getpid())
    x = 0
    while not len(gate):
        for i in range(2000):
            x += i
    return os.getpid()


@pytest.mark.parametrize("spawner", ["main", "goroutine", "thread"])
def test_spread_over_all_ps(keeper, rt, spawner):
    """Goroutines that compute and never wait run on all Ps at once, wherever one spawner starts them."""
    from tests.contract.support import WHO

    out, gate = Chan(100), Chan(1)

    def spawn_all():
        for _ in range(4 * keeper_procs):
            go(busy, out, gate)
        if spawner == "goroutine":
            busy(out, gate)  # does not yield its own P: what it queued there must be stolen

    keeper_procs = keeper.procs
    h = None
    if spawner == "goroutine":
        h = go(spawn_all)
    else:
        WHO[spawner](spawn_all)
    try:
        workers = set()
        deadline = time.monotonic() + DEADLINE_S
        while len(workers) < keeper.procs and time.monotonic() < deadline:
            workers.add(out.recv(DEADLINE_S))
        assert len(workers) == keeper.procs
        assert os.getpid() not in workers
    finally:
        gate.send("enough")
    if h is not None:
        h.result(DEADLINE_S)
    until(lambda: num_goroutine() == 1)
    assert len(gate) == 1


def test_idle_workers_are_woken_again_and_again(keeper, rt):
    """After everybody slept, a spawner finds them all again."""

    def meet(barrier, release):
        barrier.send(os.getpid())
        x = 0
        while not len(release):
            x += 1
        return os.getpid()

    for _ in range(5):
        barrier, release = Chan(10), Chan(1)
        handles = [go(meet, barrier, release) for _ in range(keeper.procs)]
        seen = {barrier.recv(DEADLINE_S) for _ in handles}
        release.send(1)
        assert {h.result(DEADLINE_S) for h in handles} == seen
        assert len(seen) == keeper.procs  # one each, since none gives its P away


def test_burst_is_larger_than_the_local_queues(rt):
    """2,000 goroutines queued at once, by main and by a goroutine, all run."""
    out = Chan(4000)

    def burst(n):
        for i in range(n):
            go(out.send, i)

    burst(1000)
    go(burst, 1000)
    assert sorted(out.recv(DEADLINE_S) for _ in range(2000)) == sorted([*range(1000), *range(1000)])


def test_old_work_is_not_starved(rt):
    """A chain of goroutines that each start the next does not keep others from running."""
    stop, out = Chan(1), Chan(1)

    def chain(n):
        if not len(stop):
            go(chain, n + 1)

    go(chain, 0)
    go(chain, 0)
    go(out.send, "ran")
    assert out.recv(DEADLINE_S) == "ran"
    stop.send(1)
    until(lambda: num_goroutine() == 1)
    assert len(stop) == 1


def test_wait_group_over_all_ps(rt):
    """A thousand counted goroutines."""
    wg, ch = WaitGroup(), Chan(1000)
    for i in range(1000):
        wg.go(ch.send, i)
    wg.wait(DEADLINE_S)
    assert sorted(ch.recv(0) for _ in range(1000)) == list(range(1000))
