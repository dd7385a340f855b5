"""A second death, at every store of what the supervisor does after a first one: another worker's, or its own.

When another worker dies, everything holds as after one death. When the supervisor dies, the runtime is over: everybody is
told so, and nothing is left. The same for the rest of its work.
"""

from __future__ import annotations

import contextlib
import os
import random
import time

import pytest

from mproc_go import (
    AtomicInt,
    Chan,
    Deadlock,
    Mutex,
    NotRunning,
    Runtime,
    SharedMap,
    WaitGroup,
    WorkerLost,
    go,
    gomaxprocs,
    select,
    stats,
)
from mproc_go.runtime import process as rt
from mproc_go.sched import idle
from mproc_go.shm import layout as L
from mproc_go.shm import names
from tests.kills.supervised import ANOTHER, ITSELF, Beside, alive, buried, planned, processes_of, until
from tests.kills.test_every_store import DEADLINE_S, dying, quiet, whole
from tests.kills.test_interrupts import interrupted
from tests.kills.test_scheduler import EACH, traffic


@pytest.fixture
def plan(tmp_path):
    with planned(tmp_path / "plan") as made:
        made.wrecks = []
        yield made
        for left in made.wrecks:  # where the test failed
            left.close()
        made.wrecks.clear()  # with the memory that their errors hold


# ---------------------------------------------------------------- another worker
def send(ch):
    ch.send("mine")


def receive(ch):
    return ch.recv()


def choose(ch):
    return select((ch.send, "mine"), Chan().recv)


def start(ch):
    go(ch.send, "mine").result()


def resize(ch):
    gomaxprocs(3)
    gomaxprocs(2)


def change_a_map(ch):
    m = SharedMap()
    m["a"] = 1
    m.compute("b", lambda v: 2, 0)
    m.delete("a")


# What the first one dies in, at one of its first stores: about so many it has at least.
FIRST = {send: 8, receive: 8, choose: 12, start: 40, resize: 10, change_a_map: 40}
STEP = 29


def life(ch):
    """Runs until it is told to end, in its next life if need be."""
    ch.recv()
    return "ran"


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("first", FIRST, ids=lambda f: f.__name__)
def test_another_worker_dies_during_a_burial(plan, seed, first, every):
    """All invariants hold, what was acknowledged is there once, and who has lives left runs again."""
    draw = random.Random(seed)
    n, step = (0, 1) if every else (draw.randrange(STEP), STEP)
    deaths, stores = 0, STEP
    with Runtime(2):
        while n < stores:
            ch, gate = Chan(3), Chan()
            lives = [go.options(retries=1000)(life, gate) for _ in range(3)]
            waiting = Beside(ch.recv, DEADLINE_S)
            until(lambda ch=ch: rt.current().w[ch._base + L.CH_RECVQ], "it waits")
            plan.make("bury", n, ANOTHER)
            handle = go(dying, draw.randrange(FIRST[first]), first, ch)
            sent = [Beside(ch.send, i, DEADLINE_S) for i in range(2)]
            try:
                handle.result(DEADLINE_S)
            except WorkerLost:
                until(lambda: plan.done, "the first is buried")
                until(lambda: not plan.fired or buried(plan.fired), "so is the second")
                deaths += bool(plan.fired)
                n += step
            stores = max(stores, plan.drop())
            for each in sent:
                each.result()
            whole(ch)
            if waiting.value is None:
                ch.send("for the one aside", DEADLINE_S)
            got = [waiting.result()]
            got += ch.recv_many(3) if len(ch) else []
            assert len(got) == len(set(got)), got
            for _ in lives:
                gate.send(None, DEADLINE_S)
            assert [each.result(DEADLINE_S) for each in lives] == ["ran"] * 3
            gomaxprocs(2)
            assert traffic() == 3 * EACH
            quiet()
    assert deaths


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("step", ["retake", "spawn an M"])
def test_a_worker_dies_while_calls_block(plan, seed, step, every):
    """While the supervisor takes Ps of blocked workers, and forks others: what blocked is told lost, all else runs."""
    n, way = (0, 1) if every else (random.Random(seed).randrange(4), 4)
    deaths, stores = 0, 4
    with Runtime(2):
        while n < stores:
            plan.make(step, n, ANOTHER)
            handles = [go(time.sleep, 0.03) for _ in range(4)]
            ran = [go(pow, 2, i) for i in range(8)]
            for handle in handles:
                with contextlib.suppress(WorkerLost):
                    handle.result(DEADLINE_S)
            for i, handle in enumerate(ran):
                with contextlib.suppress(WorkerLost):
                    assert handle.result(DEADLINE_S) == 2**i
            if plan.fired:
                until(lambda: buried(plan.fired), "it is buried")
            deaths += bool(plan.fired)
            stores = max(stores, plan.drop())
            n += way if plan.fired or stores > 4 else 0
            quiet()
            assert traffic() == 3 * EACH
    assert deaths


# ---------------------------------------------------------------- who renews a lock
def send_once_it_is_repaired(ch, ready, n):
    """Wait, with the old door of the channel's lock in hand, until another died with that; then send, and die of it."""
    m = rt.current()
    w, gen_word = m.w, ch._lock.gen_word
    assert ch._lock.gen == w[gen_word]
    ready.store(1)
    gen = ch._lock.gen
    until(lambda: w[gen_word] != gen, "it is repaired")
    return dying(n, ch.send, "second")


def test_a_worker_dies_renewing_a_lock():
    """At each store from the old door to the new one, and in what it does then."""
    with Runtime(2):
        died, n = True, 0
        while died:
            ch, ready = Chan(4), AtomicInt()
            second = go(send_once_it_is_repaired, ch, ready, n)
            until(ready.load, "it has the old door")
            with pytest.raises(WorkerLost):
                go(dying, 1, ch.send, "first").result(DEADLINE_S)
            try:
                second.result(DEADLINE_S)
                died = False
            except WorkerLost:
                n += 1
            whole(ch)
            got = ch.recv_many(4) if len(ch) else []
            assert got in ([], ["second"]) and (died or got)
            assert traffic() == 3 * EACH
            quiet()
        assert n >= 4


# ---------------------------------------------------------------- the supervisor
def wait_and_unlock(mx):
    mx.lock()
    mx.unlock()


NEVER = 1 << 32


class Program:
    """A runtime in which everybody waits for something that does not come, and what a trigger needs."""

    def __init__(self, plan):
        self.plan = plan
        self.waiting, self.cut, self.handles, self.served = [], [], [], None
        self.runtime = Runtime(2).start()
        plan.wrecks.append(self)
        self.os_pid = rt.current().w[L.H_SUPERVISOR]
        self.ch, self.waited_for, mx, wg = Chan(1), Chan(), Mutex(), WaitGroup()
        mx.lock()
        wg.add(1)
        self.handles.append(go(Chan().recv))
        self.served = Beside(self.waited_for.recv)
        calls = Chan().recv, lambda: Chan().send(1), lambda: wait_and_unlock(mx), wg.wait, self.handles[0].result
        self.waiting += [Beside(call) for call in calls]
        until(lambda: self.in_wait() == 7, "all wait")

    def in_wait(self):
        states = stats()["goroutines_by_state"]
        return sum(n for state, n in states.items() if state not in ("running", "runnable"))

    def is_over(self):
        """Everybody is told, calls that need somebody say so, and nothing is left but names: the next start takes them."""
        for each in self.waiting:
            with pytest.raises((NotRunning, WorkerLost, Deadlock), match="supervisor|closed|lost|deadlock"):
                each.result()
        for each in self.cut:
            each.result()
        with contextlib.suppress(NotRunning, Deadlock):
            assert self.served.result() == "mine"
        if rt.process is not None:
            for call in (lambda: Chan().recv(), lambda: go(len, "").result()):
                with pytest.raises((NotRunning, Deadlock), match="supervisor|deadlock"):
                    call()
        self.close()
        names.remove_left()
        assert not [name for name in os.listdir("/dev/shm") if f".{self.os_pid}." in name]

    def goes_on(self):
        """Everybody waits on, to its regular end."""
        self.close()
        for each in self.waiting:
            with pytest.raises((NotRunning, WorkerLost, Deadlock)):
                each.result()
        for each in self.cut:
            each.result()
        with contextlib.suppress(NotRunning, Deadlock):
            assert self.served.result() == "mine"

    def close(self):
        with contextlib.suppress(Deadlock):  # that it died of, if that was published
            self.runtime.close()
        until(lambda: not processes_of(self.plan), "its processes end")


def a_worker_dies(p):
    """While it sends, to who waits for that."""
    p.handles.append(go(dying, 3, send, p.waited_for))


def a_call_is_cut_off(p):
    """In the program, with a lock."""
    p.cut.append(Beside(interrupted, 1, p.ch.send, "mine"))


def calls_block(p):
    """And work waits for a P."""
    p.handles += [go(time.sleep, 1000) for _ in range(4)]


def a_wake_up_is_lost(p):
    """Work is queued, and nobody is told. One who is about to sleep may see it all the same: then again."""
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(NotRunning):
        patch.setattr(idle, "wake_p", lambda t: None)
        while not p.plan.done:
            p.handles.append(go(len, ""))
            p.handles[-1].result()


def all_wait(p):
    """The last one that could do something waits as well."""
    with pytest.raises((NotRunning, Deadlock)):
        p.ch.recv()


def it_is_closed(p):
    p.runtime.close()


# What the supervisor does -> what makes it do it, and how often it stores something then, at least.
WORK = {
    "bury": (a_worker_dies, 80),
    "mend": (a_call_is_cut_off, 25),
    "retake": (calls_block, 9),
    "rebalance": (a_wake_up_is_lost, 5),
    "spawn an M": (calls_block, 14),
    "report": (all_wait, 45),
    "stop": (it_is_closed, 140),
}


# Each death takes a runtime: so all stores of a step are a few tests.
PARTS = 4


@pytest.mark.parametrize("part", [None, *(pytest.param(i, marks=pytest.mark.slow) for i in range(PARTS))])
@pytest.mark.parametrize("step", WORK)
def test_the_supervisor_dies(plan, seed, step, part):
    """Nobody hangs, nobody is orphaned, and the next start finds the machine clean."""
    cause, stores = WORK[step]
    draw = random.Random(seed)
    deaths, survived, n = 0, 0, part or 0
    while not survived if part is not None else deaths < 2:
        p = Program(plan)
        plan.make(step, draw.randrange(stores) if part is None else n, ITSELF)
        cause(p)
        until(lambda p=p: plan.done or not alive(p.os_pid), step)
        plan.drop()
        if plan.fired:
            until(lambda p=p: not alive(p.os_pid), "it is dead")
            p.is_over()
            deaths += 1
            n += PARTS
        else:
            p.goes_on()
            survived += 1
            assert deaths or survived < 20
    assert deaths
