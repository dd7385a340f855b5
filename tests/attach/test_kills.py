"""Programs that are killed while they wait, in threads, at random; and the runtime killed under programs."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time

import pytest

from mproc_go import (
    Chan,
    Mutex,
    NotRunning,
    RWMutex,
    Semaphore,
    WaitGroup,
    attach,
    go,
    num_goroutine,
    stats,
)
from mproc_go.runtime import process as rt
from mproc_go.shm import layout as L
from mproc_go.shm import names
from tests.attach.support import DEADLINE_S, until
from tests.lifecycle.support import Program

WAITS = """
import asyncio, sys, threading
from mproc_go import Chan, SharedMap, attach, go, select, sleep
def in_threads(wait):
    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
async def in_tasks(wait):
    await asyncio.gather(*(wait() for _ in range(100)))
with attach("one"):
    thing = Chan(8, name="things").recv()
    gate = Chan(name="gate")
    ways = {
        "recv": lambda: thing.recv(),
        "send": lambda: thing.send("from the dead"),
        "select": lambda: select(thing.recv, gate.recv),
        "lock": lambda: thing.lock(),
        "rlock": lambda: thing.rlock(),
        "acquire": lambda: thing.acquire(3),
        "wait": lambda: thing.wait(),
        "result": lambda: thing.result(),
        "sleep": lambda: sleep(1000),
        "threads": lambda: in_threads(thing.recv),
        "tasks": lambda: asyncio.run(in_tasks(thing.arecv)),
        "sending tasks": lambda: asyncio.run(in_tasks(lambda: thing.asend("from the dead"))),
    }
    ways[sys.argv[1]]()
"""


def waiting(one, count):
    """So many goroutines wait, the program's threads among them."""
    return lambda: sum(
        n for state, n in one.stats()["goroutines_by_state"].items() if state not in ("running", "runnable")
    ) >= count


def make(how):
    """A thing at which the program waits, and what to do with it afterwards: it works, and the dead gets nothing."""
    if how in ("recv", "select", "threads", "tasks"):
        ch = Chan()

        def after():
            got = go(ch.recv)
            ch.send("for the living", DEADLINE_S)
            assert got.result(DEADLINE_S) == "for the living"

        return ch, after
    if how in ("send", "sending tasks"):
        ch = Chan()

        def after():
            with pytest.raises(TimeoutError):
                ch.recv(0)

        return ch, after
    if how == "lock":
        mutex = Mutex()
        mutex.lock()

        def after():
            mutex.unlock()
            assert mutex.try_lock()

        return mutex, after
    if how == "rlock":
        rw = RWMutex()
        rw.lock()

        def after():
            rw.unlock()
            rw.lock()

        return rw, after
    if how == "acquire":
        semaphore = Semaphore(3)
        semaphore.acquire(1)

        def after():
            semaphore.release(1)
            assert semaphore.try_acquire(3)

        return semaphore, after
    if how == "wait":
        wg = WaitGroup()
        wg.add(1)
        return wg, wg.done
    if how == "result":
        gate = Chan(name="result-gate")
        handle = go(gate.recv)

        def after():
            gate.send(5)
            assert handle.result(DEADLINE_S) == 5

        return handle, after
    return None, lambda: None


@pytest.mark.parametrize(
    "how",
    ["recv", "send", "select", "lock", "rlock", "acquire", "wait", "result", "sleep", "threads", "tasks", "sending tasks"],
)
def test_killed_while_it_waits(standing, tmp_path, how):
    """It leaves the queue: what it waited for goes to the living; its slots are free, and nobody is counted."""
    one = standing()
    script = tmp_path / "waits.py"
    script.write_text(WAITS)
    with attach("one"):
        thing, after = make(how)
        Chan(8, name="things").send(thing)
        before = num_goroutine()
        with Program([sys.executable, script, how]) as program:
            until(waiting(one, {"threads": 5, "result": 2, "tasks": 100, "sending tasks": 100}.get(how, 1)))
            program.popen.kill()
            program.popen.wait()
            until(lambda: one.stats()["clients"] == 1)
        until(lambda: num_goroutine() == before)
        after()
        assert one.stats()["clients"] == 1


HOLDS = """
import os, sys, time
from mproc_go import Chan, attach
from mproc_go.runtime import process as rt
with attach("one"):
    ch = Chan(4, name="ch")
    m = rt.current()
    m.enter(ch._lock)
    print("holds", flush=True)
    time.sleep(1000)
"""


def test_killed_with_a_lock_others_wait_for(standing, tmp_path):
    """Everybody who stands at the door goes on: goroutines, and this program."""
    standing()
    script = tmp_path / "holds.py"
    script.write_text(HOLDS)
    with attach("one"):
        ch = Chan(4, name="ch")
        with Program([sys.executable, script]) as program:
            program.until_line("holds")
            # Later, from a thread that needs no lock: this one comes to that door itself.
            threading.Timer(0.2, program.popen.kill).start()
            senders = [go(ch.send, i) for i in range(3)]
            for sender in senders:
                sender.result(DEADLINE_S)
            ch.send(3)
            assert sorted(ch.recv_many(4)) == [0, 1, 2, 3]


def test_one_that_left_a_runtime_it_still_holds_in_a_thread(standing, tmp_path):
    """A connection that is closed without a word: the program has its slots until it ends."""
    one = standing()
    code = """
from mproc_go import Chan, attach
here = attach("one")
here._sock.close()
Chan(name="ch").recv()
print("still works", flush=True)
Chan(name="ch").recv()
"""
    script = tmp_path / "left.py"
    script.write_text(code)
    with attach("one"), Program([sys.executable, script]) as program:
        ch = Chan(name="ch")
        ch.send(1, DEADLINE_S)
        program.until_line("still works")
        until(lambda: one.stats()["goroutines_by_state"].get("chan receive"))
        assert one.stats()["clients"] == 2
        program.popen.kill()
        until(lambda: one.stats()["clients"] == 1)
        with pytest.raises(TimeoutError):
            ch.send(2, 0)


TRAFFIC = """
import random, sys
from mproc_go import Chan, SharedMap, attach, go, select
rng = random.Random(int(sys.argv[1]))
def echo(x): return x
with attach("one"):
    jobs, done = Chan(16, name="jobs"), Chan(16, name="done")
    print("in", flush=True)
    while True:
        way = rng.randrange(4)
        if way == 0:
            jobs.send(("job", rng.random(), "x" * rng.choice((1, 100, 5000))), 10)
        elif way == 1:
            select((jobs.send, 1), done.recv, timeout=10)
        elif way == 2:
            assert go(echo, [1, 2]).result(60) == [1, 2]
        else:
            done.send_many(range(3)) if len(done) < 8 else done.recv_many(5)
"""


def test_programs_killed_at_random_under_traffic(standing, tmp_path, seed):
    """Ten of them, one after the other, three at a time: the runtime works on, and has nobody left in the end."""
    rng = random.Random(seed)
    one = standing()
    script = tmp_path / "traffic.py"
    script.write_text(TRAFFIC)
    with attach("one"), contextlib.ExitStack() as stack:
        jobs, done = Chan(16, name="jobs"), Chan(16, name="done")
        stop = Chan()

        def serve(jobs, done, stop):
            from mproc_go import select

            while True:
                if select(stop.recv, jobs.recv).index == 0:
                    return
                if len(done) < 8:
                    done.send("done")

        server = go(serve, jobs, done, stop)
        programs = []

        def begin():
            program = stack.enter_context(Program([sys.executable, script, rng.randrange(1 << 30)]))
            program.until_line("in")
            programs.append(program)

        for _ in range(3):
            begin()
        for _ in range(7):
            time.sleep(rng.random() / 20)  # some moment of their work
            program = programs.pop(rng.randrange(3))
            program.popen.kill()
            program.popen.wait()
            begin()
        for program in programs:
            program.popen.kill()
            program.popen.wait()
        until(lambda: one.stats()["clients"] == 1)
        stop.close()
        server.result(DEADLINE_S)
        for ch in (jobs, done):
            while len(ch):
                ch.recv(DEADLINE_S)
            ch.send("still")
            assert ch.recv(DEADLINE_S) == "still"
        until(lambda: num_goroutine() <= 2)
        w = rt.process.segment.w
        free = [s for s in range(w[L.H_MAX_MS] + 1, w[L.H_SLOTS]) if not w[L.slot_base(s) + L.M_KIND]]
        assert len(free) == 63
        assert not any(w[L.slot_base(s) + L.M_PHASE + i] for s in free for i in range(L.M_PHASE_LEVELS))


def test_the_supervisor_is_killed_under_many_programs(standing, tmp_path):
    """Each is told in the call it is in, ends by itself, and nothing stays that the next start does not remove."""
    one = standing()
    script = tmp_path / "waits.py"
    script.write_text(WAITS)
    with contextlib.ExitStack() as stack:
        programs = [stack.enter_context(Program([sys.executable, script, "sleep"])) for _ in range(3)]
        with attach("one"):
            for _ in programs:
                Chan(8, name="things").send(None)
            until(lambda: one.stats()["goroutines_by_state"].get("sleep") == 3)
            one.kill()
            with pytest.raises(NotRunning, match="runtime 'one'"):
                Chan().recv()
        for program in programs:
            _, err = program.popen.communicate(timeout=DEADLINE_S)
            assert "NotRunning: the supervisor of runtime 'one' died" in err
            assert program.popen.returncode == 1
    names.remove_left()
    assert not one.semaphores()
    with names.Folder() as folder:
        assert len(folder.remove_left()) == 3
        assert os.listdir(folder.fd) == []


def test_a_stopped_program_stops_nobody_else(standing, tmp_path):
    """It holds no lock while it waits, so the others go on; it goes on itself when it may."""
    one = standing()
    script = tmp_path / "waits.py"
    script.write_text(WAITS)
    with attach("one"), Program([sys.executable, script, "recv"]) as program:
        ch = Chan()
        Chan(8, name="things").send(ch)
        until(lambda: one.stats()["goroutines_by_state"].get("chan receive"))
        os.kill(program.pid, signal.SIGSTOP)
        assert [go(pow, 2, i).result(DEADLINE_S) for i in range(50)] == [2**i for i in range(50)]
        assert stats()["clients"] == 2
        ch.send("handed to a stopped one")
        os.kill(program.pid, signal.SIGCONT)
        out, err = program.popen.communicate(timeout=DEADLINE_S)
        assert (out, err, program.popen.returncode) == ("", "", 0)
    assert one.stats()["clients"] == 0
