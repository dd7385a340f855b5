"""A real worker killed at every store of what locks: nobody waits for what is free, nothing is given twice."""

from __future__ import annotations

import random

import pytest

from mproc_go import AtomicInt, Cond, Mutex, Once, RWMutex, Semaphore
from mproc_go.runtime import process as rt
from mproc_go.shm import layout as L
from mproc_go.sync import cond, mutex, once, rwmutex, semaphore
from tests.contract.support import until
from tests.kills.test_every_store import DEADLINE_S, _Check, aside, kill_everywhere, quiet, runtime
from tests.sync.support import check, in_queue, until_waiting

assert runtime and aside  # fixtures

STEP = 11


@pytest.fixture(params=["some", pytest.param("all", marks=pytest.mark.slow)])
def stores(request, seed):
    """Which stores of an operation that waits, and is scheduled: some, or, where that may take its time, all."""
    return {} if request.param == "all" else {"first": random.Random(seed).randrange(STEP), "step": STEP}


def word(handle, offset):
    return rt.current().w[handle._base + offset]


def my_goid():
    m = rt.current()
    return m.w[m.g + L.G_GOID]


def when_it_waits(state, handle, queue, waiting, act):
    """In a thread beside: once the worker's goroutine waits as well, or is dead, act."""
    until(lambda: state["over"] or in_queue(handle, queue) == waiting)
    return act()


# ---------------------------------------------------------------- Mutex
def lock_mutex(mx):
    mx.lock()
    mx.unlock()


def usable(mx):
    """Free now; the next can have it."""
    check(mutex, mx)
    mx.lock(DEADLINE_S)
    mx.unlock()


def unlock_for_the_dead(mx):
    """What the dead one had locked stays locked, as after any goroutine that ends without unlocking it."""
    if not mx.try_lock():
        assert word(mx, L.MX_LOCKED)
    mx.unlock()


def test_killed_with_a_free_mutex(runtime):
    state = {}

    def prepare():
        state["mx"] = Mutex()
        return (state["mx"],)

    def after(died, _):
        check(mutex, state["mx"])
        if died:
            unlock_for_the_dead(state["mx"])
        usable(state["mx"])

    assert kill_everywhere(lock_mutex, _Check(prepare, after)) > 4


def test_killed_waiting_for_a_mutex(runtime, aside, stores):
    """It waits behind one, competes, has it, passes it on, dies anywhere: the other has its turn."""
    state = {}

    def prepare():
        state["mx"], state["over"] = mx, _ = Mutex(), False
        mx.lock()
        state["first"] = aside(lock_mutex, mx)
        until_waiting(mx, 1, L.MX_WAITQ)
        state["unlock"] = aside(when_it_waits, state, mx, L.MX_WAITQ, 2, mx.unlock)
        return (mx,)

    def after(died, _):
        state["over"] = True
        state["unlock"].result(DEADLINE_S)
        state["first"].result(DEADLINE_S)
        if died:
            unlock_for_the_dead(state["mx"])
        usable(state["mx"])

    assert kill_everywhere(lock_mutex, _Check(prepare, after), **stores) > 4


def test_killed_unlocking_a_mutex(runtime, aside):
    """Those who wait have it one after the other."""
    state = {}

    def prepare():
        state["mx"] = mx = Mutex()
        mx.lock()
        state["waiting"] = [aside(lock_mutex, mx) for _ in range(2)]
        until_waiting(mx, 2, L.MX_WAITQ)
        return (mx,)

    def after(died, _):
        mx = state["mx"]
        if word(mx, L.MX_LOCKED) == my_goid() and in_queue(mx, L.MX_WAITQ) == 2:
            assert died
            mx.unlock()
        for waiter in state["waiting"]:
            waiter.result(DEADLINE_S)
        usable(mx)

    assert kill_everywhere(Mutex.unlock, _Check(prepare, after)) > 4


# ---------------------------------------------------------------- RWMutex
def lock_rw(rw):
    rw.lock()
    rw.unlock()


def rlock_rw(rw):
    rw.rlock()
    rw.runlock()


def rw_usable(rw, died):
    if died:  # what the dead one had stays locked
        held = word(rw, L.RW_STATE)
        if held == L.RW_WRITER:
            rw.unlock()
        elif held:
            assert held == 1
            rw.runlock()
    check(rwmutex, rw)
    rw.lock(DEADLINE_S)
    rw.unlock()
    rw.rlock(DEADLINE_S)
    rw.runlock()
    check(rwmutex, rw)


@pytest.mark.parametrize("operation", [lock_rw, rlock_rw])
def test_killed_with_a_free_rwmutex(runtime, operation):
    state = {}

    def prepare():
        state["rw"] = RWMutex()
        return (state["rw"],)

    def after(died, _):
        check(rwmutex, state["rw"])
        rw_usable(state["rw"], died)

    assert kill_everywhere(operation, _Check(prepare, after)) > 4


@pytest.mark.parametrize("other", [lock_rw, rlock_rw], ids=["before a writer", "before a reader"])
@pytest.mark.parametrize("operation", [lock_rw, rlock_rw])
def test_killed_waiting_for_an_rwmutex(runtime, aside, stores, operation, other):
    """It waits, has it, passes it on, dies anywhere: the other that waits has its turn."""
    state = {}

    def waiting(rw):
        return in_queue(rw, L.RW_WRITEQ, L.RW_READQ)

    def prepare():
        state["rw"], state["over"] = rw, _ = RWMutex(), False
        rw.lock()
        state["other"] = aside(other, rw)
        until(lambda: waiting(rw) == 1)

        def unlock():
            until(lambda: state["over"] or waiting(rw) == 2)
            rw.unlock()

        state["unlock"] = aside(unlock)
        return (rw,)

    def after(died, _):
        rw = state["rw"]
        state["over"] = True
        state["unlock"].result(DEADLINE_S)
        until(lambda: state["other"].done() or (waiting(rw) and word(rw, L.RW_STATE)))
        if not state["other"].done() and waiting(rw):  # behind the dead one, who has it: that stays so
            assert died
            rw.unlock() if word(rw, L.RW_STATE) == L.RW_WRITER else rw.runlock()
            state["other"].result(DEADLINE_S)
            died = False
        state["other"].result(DEADLINE_S)
        rw_usable(rw, died)

    assert kill_everywhere(operation, _Check(prepare, after), **stores) > 4


@pytest.mark.parametrize("reading", [False, True], ids=["unlock", "runlock"])
def test_killed_unlocking_an_rwmutex(runtime, aside, reading):
    """Readers and writers that wait have it, each once."""
    state = {}

    def prepare():
        state["rw"] = rw = RWMutex()
        rw.rlock() if reading else rw.lock()
        state["others"] = [aside(lock_rw, rw)]
        until_waiting(rw, 1, L.RW_WRITEQ)
        state["others"] += [aside(rlock_rw, rw) for _ in range(2)]
        until_waiting(rw, 2, L.RW_READQ)
        return (rw,)

    def after(died, _):
        rw = state["rw"]
        if in_queue(rw, L.RW_READQ) == 2 and in_queue(rw, L.RW_WRITEQ) == 1:
            assert died
            rw.runlock() if reading else rw.unlock()
        for other in state["others"]:
            other.result(DEADLINE_S)
        rw_usable(rw, False)

    operation = RWMutex.runlock if reading else RWMutex.unlock
    assert kill_everywhere(operation, _Check(prepare, after)) > 4


# ---------------------------------------------------------------- Semaphore
def acquire_release(sem, k):
    sem.acquire(k)
    sem.release(k)


def sem_usable(sem, died, k):
    if died and word(sem, L.SM_HELD):  # what the dead one took stays taken
        assert word(sem, L.SM_HELD) == k
        sem.release(k)
    check(semaphore, sem)
    assert not word(sem, L.SM_HELD)
    sem.acquire(3, DEADLINE_S)
    sem.release(3)


def test_killed_with_a_free_semaphore(runtime):
    state = {}

    def prepare():
        state["sem"] = Semaphore(3)
        return state["sem"], 2

    def after(died, _):
        sem_usable(state["sem"], died, 2)

    assert kill_everywhere(acquire_release, _Check(prepare, after)) > 4


def test_killed_waiting_for_a_semaphore(runtime, aside, stores):
    """It waits with 1 between a 1 and a 2: all that the dead one does not have goes to the others."""
    state = {}

    def prepare():
        state["sem"], state["over"] = sem, _ = Semaphore(3), False
        sem.acquire(3)
        state["others"] = [aside(acquire_release, sem, 1)]
        until_waiting(sem, 1, L.SM_WAITQ)
        state["release"] = aside(when_it_waits, state, sem, L.SM_WAITQ, 2, lambda: sem.release(3))
        return sem, 1

    def after(died, _):
        state["over"] = True
        state["release"].result(DEADLINE_S)
        acquire_release(state["sem"], 2)
        for other in state["others"]:
            other.result(DEADLINE_S)
        sem_usable(state["sem"], died, 1)

    assert kill_everywhere(acquire_release, _Check(prepare, after), **stores) > 4


def test_killed_releasing_a_semaphore(runtime, aside):
    state = {}

    def prepare():
        state["sem"] = sem = Semaphore(3)
        sem.acquire(3)
        state["others"] = [aside(acquire_release, sem, k) for k in (1, 2)]
        until_waiting(sem, 2, L.SM_WAITQ)
        return sem, 3

    def after(died, _):
        sem = state["sem"]
        if in_queue(sem, L.SM_WAITQ) == 2:
            assert died and word(sem, L.SM_HELD) == 3
            sem.release(3)
        for other in state["others"]:
            other.result(DEADLINE_S)
        sem_usable(sem, False, 0)

    assert kill_everywhere(Semaphore.release, _Check(prepare, after)) > 4


# ---------------------------------------------------------------- Cond
def wait_cond(cv, timeout=None):
    cv.mutex.lock()
    try:
        cv.wait(timeout)
    finally:
        cv.mutex.unlock()


@pytest.mark.parametrize("operation", [Cond.signal, Cond.broadcast])
def test_killed_waking_a_cond(runtime, aside, operation):
    """Those that were reached go on; the others wait for the next signal, as if they had come after it."""
    state = {}

    def prepare():
        state["cv"] = cv = Cond(Mutex())
        state["waiting"] = [aside(wait_cond, cv) for _ in range(3)]
        until_waiting(cv, 3, L.CD_WAITQ)
        return (cv,)

    def after(died, _):
        cv = state["cv"]
        check(cond, cv)
        left = in_queue(cv, L.CD_WAITQ)
        assert left in (2, 3) if operation is Cond.signal else died or not left
        assert died or left != 3
        until(lambda: sum(h.done() for h in state["waiting"]) == 3 - left, DEADLINE_S)
        for _ in range(left):
            cv.signal()
        for waiter in state["waiting"]:
            waiter.result(DEADLINE_S)
        usable(cv.mutex)

    assert kill_everywhere(operation, _Check(prepare, after)) > 4


def test_killed_waiting_at_a_cond(runtime, aside, stores):
    """No signal goes to the dead: of two that come after its death, two of the living have one each."""
    state = {}

    def prepare():
        state["cv"], state["over"] = cv, _ = Cond(Mutex()), False
        state["signal"] = aside(when_it_waits, state, cv, L.CD_WAITQ, 1, cv.signal)
        return (cv,)

    def after(died, _):
        cv = state["cv"]
        state["over"] = True
        state["signal"].result(DEADLINE_S)
        assert in_queue(cv, L.CD_WAITQ) == 0
        if died:
            unlock_for_the_dead(cv.mutex)
        waiting = [aside(wait_cond, cv) for _ in range(2)]
        until_waiting(cv, 2, L.CD_WAITQ)
        cv.signal()
        cv.signal()
        for waiter in waiting:
            waiter.result(DEADLINE_S)
        usable(cv.mutex)

    assert kill_everywhere(wait_cond, _Check(prepare, after), **stores) > 4


# ---------------------------------------------------------------- Once, AtomicInt
def do_once(oc, n):
    def fn():
        until(lambda: oc._m().w[oc._base + L.OC_WAITQ])
        n.add(1)

    oc.do(fn)


def test_killed_in_a_once(runtime, aside):
    """Called once at most to its end; whoever waited for it goes on."""
    state = {}

    def prepare():
        state["oc"], state["n"], state["over"] = oc, n, _ = Once(), AtomicInt(), False

        def join():
            until(lambda: state["over"] or word(oc, L.OC_STATE) != L.ONCE_NEW)
            oc.do(n.add, 1)

        state["waiting"] = aside(join)
        return oc, n

    def after(died, _):
        oc, n = state["oc"], state["n"]
        state["over"] = True
        state["waiting"].result(DEADLINE_S)
        check(once, oc)
        assert n.load() in ((0, 1) if died else (1,))
        before = n.load()
        oc.do(n.add, 1, timeout=DEADLINE_S)
        assert n.load() == before

    assert kill_everywhere(do_once, _Check(prepare, after)) > 4


def change(n, how):
    if how == "add":
        n.add(5)
    elif how == "swap":
        assert n.swap(6) == 1
    else:
        assert n.compare_and_swap(1, 6)


@pytest.mark.parametrize("how", ["add", "swap", "compare_and_swap"])
def test_killed_changing_an_atomic(runtime, how):
    """It has the old value or the new one."""
    state = {}

    def prepare():
        state["n"] = AtomicInt(1)
        return state["n"], how

    def after(died, _):
        value = state["n"].load()
        assert value in ((1, 6) if died else (6,))
        assert state["n"].add(1) == value + 1
        quiet()

    assert kill_everywhere(change, _Check(prepare, after)) >= 3
