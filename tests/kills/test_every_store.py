"""A real worker killed at every store of an operation: the runtime goes on, and nothing is lost or doubled."""

from __future__ import annotations

import concurrent.futures
import random
import time

import pytest

from mproc_go import Chan, Runtime, WaitGroup, WorkerLost, go, num_goroutine, select, stats
from mproc_go.chan import ops
from mproc_go.runtime import process as rt
from mproc_go.shm import layout as L
from tests.kills.steps import KilledAt

DEADLINE_S = 30


def dying(n, operation, *args, through_the_end=False):
    """Run the operation in a worker that dies at its n-th store; returns if it took fewer."""
    m = rt.current()
    w = m.w
    m.w = KilledAt(w, n)
    try:
        return operation(*args)
    finally:
        if not through_the_end:
            m.w = w


def kill_everywhere(operation, check, *, through_the_end=False, first=0, step=1):
    """Kill at store 0, 1, 2, ... until the operation survives; `check(died, value)` after each; return the count.

    `first`, `step`: at some stores only, where tests/crash has cut each.
    """
    n = first
    while True:
        args = check.prepare()
        handle = go(dying, n, operation, *args, through_the_end=through_the_end)
        try:
            value, died = handle.result(DEADLINE_S), False
        except WorkerLost:
            value, died = None, True
        check(died, value)
        if not died:
            return n
        n += step
        assert n < 600


STEP = 4


@pytest.fixture(params=["some", pytest.param("all", marks=pytest.mark.slow)])
def stores(request, seed):
    """Which stores of an operation that has many, each of which tests/crash cuts: some, or, where it may take time, all."""
    return {} if request.param == "all" else {"first": random.Random(seed).randrange(STEP), "step": STEP}


@pytest.fixture
def aside():
    """Runs calls in threads of this process, which no kill of a worker takes along."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool.submit


@pytest.fixture
def runtime():
    with Runtime(2) as started:
        yield started
        w = rt.process.segment.w
        deadline = time.monotonic() + DEADLINE_S
        for slot in range(1, w[L.H_SLOTS]):
            base = L.slot_base(slot)
            # One that was just woken to look, or is about to sleep, has a lock for a moment.
            while w[base + L.M_KIND] == L.KIND_WORKER and not w[base + L.M_P] and w[base + L.M_PHASE]:
                assert time.monotonic() < deadline, "a sleeping worker shows a lock"
                time.sleep(0.001)


def whole(ch):
    """The channel obeys its invariants."""
    m = rt.current()
    m.enter(ch._lock)
    ops.check(m.w, ch._base)
    m.leave(ch._lock)


def quiet():
    """All goroutines but this one are over, and are counted so: no death leaves the count wrong."""
    deadline = time.monotonic() + DEADLINE_S
    while num_goroutine() != 1:
        assert time.monotonic() < deadline, f"{num_goroutine()} goroutines: {stats()['goroutines_by_state']}"
        time.sleep(0.001)


class _Check:
    def __init__(self, prepare, check):
        self.prepare, self.check = prepare, check

    def __call__(self, died, value):
        self.check(died, value)


def send_to(ch, v):
    ch.send(v)


def receive_from(ch):
    return ch.recv()


@pytest.mark.parametrize("buffered", [0, 1, 2])
def test_killed_in_send(runtime, buffered):
    """The message is in the channel once or not at all; those before it are there, in order."""
    state = {}

    def prepare():
        state["ch"] = ch = Chan(4)
        for i in range(buffered):
            ch.send(i)
        return ch, "mine"

    def check(died, value):
        ch = state["ch"]
        whole(ch)
        got = ch.recv_many(4) if len(ch) else []
        assert got in ([*range(buffered)], [*range(buffered), "mine"])
        assert died or got[-1] == "mine"
        ch.send("still works")
        assert ch.recv() == "still works"

    assert kill_everywhere(send_to, _Check(prepare, check)) > 3


@pytest.mark.parametrize("cap", [0, 1, 3])
def test_killed_in_recv(runtime, aside, cap):
    """At most the message it took is gone; senders that wait are served or still wait."""
    state = {}

    def prepare():
        state["ch"] = ch = Chan(cap)
        state["senders"] = [aside(ch.send, i) for i in range(cap + 2)]
        m = rt.current()
        while len(ch) < cap or not m.w[ch._base + L.CH_SENDQ]:
            pass
        return (ch,)

    def check(died, value):
        ch = state["ch"]
        whole(ch)
        got = [] if died else [value]
        for _ in range(cap + 1):
            got.append(ch.recv(DEADLINE_S))
        # One may have gone with the dead; whoever sent it is told so (sent), nobody hangs.
        try:
            got.append(ch.recv(0.05))
        except TimeoutError:
            pass
        for sender in state["senders"]:
            sender.result(DEADLINE_S)
        assert len(got) == len(set(got))
        assert len(got) >= cap + 1
        assert died or len(got) == cap + 2

    kill_everywhere(receive_from, _Check(prepare, check))


def test_killed_in_close(runtime, aside):
    """Open or closed, and whoever waits is told so if it is closed."""
    state = {}

    def prepare():
        state["ch"] = ch = Chan()
        state["waiting"] = [aside(ch.recv_ok) for _ in range(2)]
        m = rt.current()
        while m.w[ch._base + L.CH_RECVQ] in (0, m.w[ch._base + L.CH_RECVQ + 1]):
            pass  # until both wait
        return (ch,)

    def close(ch):
        ch.close()

    def check(died, value):
        ch = state["ch"]
        whole(ch)
        if not ch.closed:
            assert died
            ch.close()
        assert [h.result(DEADLINE_S) for h in state["waiting"]] == [(None, False)] * 2

    kill_everywhere(close, _Check(prepare, check))


def nothing():
    return "ran"


def test_killed_in_go(runtime, stores):
    """The goroutine it was starting runs once or not at all, and the count of goroutines comes back."""
    state = {}

    def prepare():
        state["out"] = out = Chan(4)
        return (out,)

    def start(out):
        go(out.send, "ran")

    def check(died, value):
        out = state["out"]
        quiet()
        assert len(out) == 1 or (died and not len(out))

    assert kill_everywhere(start, _Check(prepare, check), **stores) > STEP


def test_killed_while_it_ends(runtime):
    """Its handle has the result, or WorkerLost; never nothing."""

    def check(died, value):
        assert died or value == "ran"
        quiet()

    kill_everywhere(nothing, _Check(tuple, check), through_the_end=True)
    assert go(nothing).result(DEADLINE_S) == "ran"


def test_killed_in_done(runtime, aside):
    """The counter is as before or one less; whoever waits is woken when it is 0."""
    state = {}

    def prepare():
        state["wg"] = wg = WaitGroup()
        wg.add(1)
        state["waiting"] = aside(wg.wait)
        m = rt.current()
        while not m.w[wg._base + L.WG_WAITQ]:
            pass
        return (wg,)

    def check(died, value):
        wg = state["wg"]
        m = rt.current()
        if m.w[wg._base + L.WG_COUNT]:
            assert died
            wg.done()
        state["waiting"].result(DEADLINE_S)

    kill_everywhere(WaitGroup.done, _Check(prepare, check))


def test_killed_in_select(runtime, stores):
    """A select over two channels: at most one case is done, and the other channel is as it was."""
    state = {}

    def prepare():
        state["a"], state["b"] = a, b = Chan(1), Chan(1)
        b.send("b")
        return a, b

    def choose(a, b):
        return select((a.send, "a"), b.recv).index

    def check(died, value):
        a, b = state["a"], state["b"]
        whole(a)
        whole(b)
        sent, left = len(a), len(b)
        if not died:
            assert (sent, left) == ((1, 1) if value == 0 else (0, 0))
        assert (sent, left) in ((0, 1), (1, 1), (0, 0))
        a.send_nowait("x") if not sent else None

    assert kill_everywhere(choose, _Check(prepare, check), **stores) > STEP


def test_memory_stays_flat(runtime):
    """Killing does not eat the segment: what the dead had cached comes back."""
    for first in range(3):
        kill_everywhere(nothing, _Check(tuple, lambda died, value: None), through_the_end=True, first=first, step=3)
    before = stats()["memory_bytes"]
    for first in range(3):
        kill_everywhere(nothing, _Check(tuple, lambda died, value: None), through_the_end=True, first=first, step=3)
    assert stats()["memory_bytes"] <= before + 512 * 1024
    assert num_goroutine() >= 1
