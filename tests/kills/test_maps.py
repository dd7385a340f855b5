"""A real worker killed at every store of map and keyed channel operations: whole again, and nobody waits for the dead."""

from __future__ import annotations

import os
import signal

import pytest

from mproc_go import Chan, ChanClosed, KeyedChan, SharedMap, WorkerLost, go, stats
from mproc_go.runtime import process as rt
from mproc_go.shm import layout as L
from tests.kills.test_every_store import DEADLINE_S, _Check, aside, kill_everywhere, quiet, runtime  # noqa: F401
from tests.shared.support import add, compute_when_told, stripes_whole, until, until_waiting, waiting

LONG = "x" * 100


def store(m, key, value):
    m[key] = value


def delete(m, key):
    return m.load_and_delete(key)


def compute(m, key):
    return m.compute(key, lambda v: [v, 1], 0)


def load(m, key):
    return m.load(key)


OPERATIONS = {
    "store": (store, ("new", LONG), {"new": LONG}),
    "delete": (delete, ("l",), {"l": None}),
    "compute a new key": (compute, ("new",), {"new": [0, 1]}),
    "load": (load, ("l",), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_in_a_map(runtime, name):  # noqa: F811
    """Done or not; every key can be changed at once, and the count is right."""
    operation, args, change = OPERATIONS[name]
    state = {}

    def prepare():
        state["m"] = m = SharedMap()
        m.update({"a": 1, "l": LONG} | {i: i for i in range(8)})
        state["before"] = before = dict(m)
        state["after"] = {k: v for k, v in (before | change).items() if v is not None}
        return (m, *args)

    def check(died, value):
        m = state["m"]
        stripes_whole(m)
        now = dict(m)
        assert now in ((state["before"], state["after"]) if died else (state["after"],))
        assert len(m) == len(now)
        for key in ("a", "l", "new"):
            assert m.compute(key, lambda v: 7, None) == 7
            m.delete(key)
        stripes_whole(m)

    assert kill_everywhere(operation, _Check(prepare, check)) > 3


@pytest.mark.slow
def test_killed_while_others_wait_for_the_key(runtime, aside):  # noqa: F811
    """It waits for its turn, has it, dies anywhere: each of the living has its turn, once."""
    state = {}

    def prepare():
        state["m"] = m = SharedMap()
        entered, go_on = Chan(), Chan()
        state["over"] = False
        state["calls"] = [aside(compute_when_told, m, "k", entered, go_on)]
        entered.recv(DEADLINE_S)
        state["calls"].append(aside(add, m, "k", 1, 1))
        until_waiting(m, 1)
        state["calls"].append(aside(finish, m, go_on, state))
        return m, "k"

    def finish(m, go_on, state):
        until(lambda: state["over"] or waiting(m) == 2)
        go_on.send(10)

    def check(died, value):
        state["over"] = True
        for call in state["calls"]:
            call.result(DEADLINE_S)
        stripes_whole(state["m"])
        assert state["m"]["k"] in ((11, 111) if died else (111,))
        assert state["m"].compute("k", lambda v: 0) == 0

    kill_everywhere(add_100, _Check(prepare, check))


def add_100(m, key):
    return m.compute(key, lambda v: v + 100, 0)


@pytest.mark.slow
@pytest.mark.parametrize("value", [5, LONG], ids=["short", "long"])
def test_killed_in_a_keyed_send(runtime, aside, value):  # noqa: F811
    """All who wait have the value, or all wait on."""
    state = {}

    def prepare():
        state["kc"] = kc = KeyedChan()
        state["waiting"] = [aside(kc.receive, "k") for _ in range(2)]
        until_waiting(kc, 2)
        return kc, "k", value

    def check(died, _):
        kc = state["kc"]
        stripes_whole(kc)
        if "k" not in kc:
            assert died
            kc.send("k", value)
        assert [h.result(DEADLINE_S) for h in state["waiting"]] == [value] * 2
        assert kc.receive("k", 0) == value
        stripes_whole(kc)

    kill_everywhere(KeyedChan.send, _Check(prepare, check))


@pytest.mark.slow
def test_killed_in_a_keyed_close(runtime, aside):  # noqa: F811
    """Closed for all, or open."""
    state = {}

    def prepare():
        state["kc"] = kc = KeyedChan()
        state["waiting"] = [aside(wait_for, kc, key) for key in range(4)]
        until_waiting(kc, 4)
        return (kc,)

    def check(died, _):
        kc = state["kc"]
        if not kc.closed:
            assert died
            kc.close()
        assert [h.result(DEADLINE_S) for h in state["waiting"]] == ["closed"] * 4
        stripes_whole(kc)

    kill_everywhere(KeyedChan.close, _Check(prepare, check))


def wait_for(kc, key):
    try:
        return kc.receive(key)
    except ChanClosed:
        return "closed"


def die_computing(m, key, entered):
    def fn(v):
        entered.send(None)
        Chan().recv()

    m.compute(key, fn, None)


def kill_the_worker_of(handle):
    """Kill the worker that runs it."""
    w = rt.process.segment.w
    os.kill(w[L.slot_base(w[handle._base + L.G_M]) + L.M_OS_PID], signal.SIGKILL)


def test_a_worker_dies_computing(runtime, aside):  # noqa: F811
    """Its key is free for the next who waits; what waited on the dead worker is forgotten."""
    m, entered = SharedMap(), Chan()
    m["k"] = 1
    dying = go(die_computing, m, "k", entered)
    new = go(die_computing, m, "new", entered)
    entered.recv(DEADLINE_S)
    entered.recv(DEADLINE_S)
    waits = [aside(m.compute, key, lambda v: [v], None) for key in ("k", "new")]
    until_waiting(m, 2)
    for handle in (dying, new):
        if not handle.done():
            kill_the_worker_of(handle)
        with pytest.raises(WorkerLost):
            handle.result(DEADLINE_S)
    assert [h.result(DEADLINE_S) for h in waits] == [[1], [None]]
    stripes_whole(m)
    assert dict(m) == {"k": [1], "new": [None]}


def test_a_worker_dies_waiting(runtime):  # noqa: F811
    """It is in no queue any more: a later send hands nothing to the dead, and the key goes."""
    kc, m, entered, go_on = KeyedChan(), SharedMap(), Chan(), Chan()
    receiver = go(kc.receive, "k")
    until_waiting(kc, 1)
    kill_the_worker_of(receiver)
    with pytest.raises(WorkerLost):
        receiver.result(DEADLINE_S)
    until_waiting(kc, 0)
    stripes_whole(kc)
    kc.send("k", LONG)
    assert kc.receive("k") == LONG and len(kc) == 1
    stripes_whole(kc)
    del entered, go_on, m
    quiet()
    assert stats()["objects"].get("keyed channels") == 1
