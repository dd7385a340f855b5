"""A real worker killed at every store of the scheduler's own steps: all that was spawned runs once, or is told lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal

import pytest

from mproc_go import AtomicInt, Chan, Runtime, WorkerLost, go, gomaxprocs, gosched
from mproc_go.runtime import process as rt
from mproc_go.sched import idle, runq
from mproc_go.shm import layout as L
from tests.contract.support import until
from tests.kills.steps import KilledAt
from tests.kills.test_every_store import DEADLINE_S, _Check, dying, kill_everywhere, quiet, runtime

assert runtime  # a fixture

STEP = 3
ROUNDS = 12  # of traffic, for the step to be taken by that worker
TRIES = 4
EACH = 12

MODULES = {"runq": runq, "idle": idle}

STEPS = {
    "steal": ("runq", "grab"),
    "take from the global queue": ("runq", "get_global"),
    "queue what was taken": ("runq", "put_many"),
    "take a P": ("idle", "acquire_p"),
    "give the P up": ("idle", "release_p"),
    "begin to search": ("idle", "start_spinning"),
    "find something": ("idle", "found_work"),
    "wake another": ("idle", "wake_p"),
}


_armed = {}  # in a worker: what tells that it has been through


def arm(module, name, n, survived):
    """Have this worker die at the n-th store of such a step; return which process it is.

    Some ways through a step have fewer stores: it has survived after TRIES steps that stored something.
    """
    module = MODULES[module]
    step = getattr(module, name)
    m = rt.current()
    tries = TRIES

    def dying(t, *args, **kwargs):
        nonlocal tries
        if t is not m or not tries:
            return step(t, *args, **kwargs)
        words = t.w
        t.w = counting = KilledAt(words, n)
        try:
            return step(t, *args, **kwargs)
        finally:
            t.w = words
            tries -= counting.steps.taken > 0
            if not tries:
                _armed["survived"] = survived

    setattr(module, name, dying)
    return os.getpid()


def tell():
    """Say what this worker has been through, if it has. Not from within the step: it is no place for operations."""
    survived = _armed.pop("survived", None)
    if survived is not None:
        survived.store(1)


def leaf(out, i):
    tell()
    out.send(i)
    return i


def burst(out, first):
    """Start some here, where others steal them."""
    handles = [go(leaf, out, i) for i in range(first, first + EACH)]
    return [_outcome(handle) for handle in handles]


def _outcome(handle):
    try:
        return handle.result(DEADLINE_S)
    except WorkerLost:
        return None


def traffic():
    """Goroutines from here and from each other: each runs once at most, and once if it was not told lost."""
    out = Chan(10 * EACH)
    bursts = [go(burst, out, k * EACH) for k in range(2)]
    singles = [go(leaf, out, 2 * EACH + i) for i in range(EACH)]
    ran = [_outcome(handle) for handle in singles]
    for handle in bursts:
        ran += _outcome(handle) or []
    quiet()
    came = out.recv_many(10 * EACH) if len(out) else []
    assert len(came) == len(set(came)), "one ran twice"
    assert {i for i in ran if i is not None} <= set(came)
    return len(came)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("name", STEPS)
def test_killed_in_a_step_of_the_scheduler(runtime, seed, name, every):
    module, function = STEPS[name]
    n = 0 if every else random.Random(seed).randrange(2)
    deaths = 0
    while n < 100:
        survived = AtomicInt()
        try:
            pid = go(arm, module, function, n, survived).result(DEADLINE_S)
        except WorkerLost:  # it died in its next step, before its result was seen
            pid = 0
        for _ in range(ROUNDS if pid else 0):
            if gone(pid) or survived.load():
                break
            traffic()
        if survived.load():
            break
        deaths += not pid or gone(pid)
        if pid and not gone(pid):  # it had no such step
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: gone(pid))
        assert traffic() == 3 * EACH
        n += 1 if every else STEP
    assert deaths
    assert traffic() == 3 * EACH


def resize(procs):
    gomaxprocs(procs)


def wait_for(ch):
    ch.recv()
    return "ran"


@pytest.mark.parametrize("procs", [1, 4])
def test_killed_in_gomaxprocs(procs):
    """As many as before or as asked for; what waits, and what comes, runs."""
    with Runtime(2):
        state = {}

        def prepare():
            gomaxprocs(2)
            state["ch"] = ch = Chan()
            state["waiting"] = [go.options(retries=3)(wait_for, ch) for _ in range(4)]
            return (procs,)

        def check(died, _):
            now = gomaxprocs(2)
            assert now in ((2, procs) if died else (procs,))
            for _ in range(4):
                state["ch"].send(None)
            assert [h.result(DEADLINE_S) for h in state["waiting"]] == ["ran"] * 4
            assert traffic() == 3 * EACH

        assert kill_everywhere(resize, _Check(prepare, check)) > 3


def leave_work_to_another(n):
    """As a searcher that finds an M that sleeps better placed; dies at the n-th store, or returns how many it took."""
    m = rt.current()
    w = m.w
    until(lambda: w[L.S_PIDLE] and not w[L.S_NSPINNING])
    m.w = counting = KilledAt(w, n)
    try:
        idle.start_spinning(m)
        idle.pass_on(m)
    finally:
        m.w = w
    return counting.steps.taken


def test_killed_in_passing_work_on(runtime):
    """Nobody counts as a searcher that is none, and no P stays with nobody: all that comes is run."""
    stores = n = 0
    while stores < 9:  # somebody else may have come first
        try:
            stores = go(leave_work_to_another, n).result(DEADLINE_S)
        except WorkerLost:
            n += 1
        quiet()
        assert traffic() == 3 * EACH
    assert n > 8


def come_back(path):
    """Block, undeclared, until somebody writes there; then there is more to do, which needs a P."""
    with open(path, "rb") as file:
        file.read()
    gosched()
    return "ran"


def yield_to_who_comes_back(path, n):
    """Have the other worker come back and wait for our P, and die giving it that. False if it got the P without us."""
    m = rt.current()
    w = m.w
    with open(path, "wb"):
        pass
    while not any(w[L.S_PWAIT + i] for i in range(L.N_HOLDER_WORDS)):  # computing: who sleeps loses its P
        if not w[m.base + L.M_P]:
            return False
    dying(n, idle.yield_p, m)
    return True


def test_killed_in_yielding_the_p(tmp_path, seed):
    """Who waited for the P has it, or has it of the reaper."""
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    with Runtime(1):
        died, n = True, seed % 2
        while died:
            back = go(come_back, path)
            handle = go(yield_to_who_comes_back, path, n)
            try:
                died = not handle.result(DEADLINE_S)
            except WorkerLost:
                n += 2
            assert back.result(DEADLINE_S) == "ran"
            quiet()
            assert traffic() == 3 * EACH
        assert n > 4
