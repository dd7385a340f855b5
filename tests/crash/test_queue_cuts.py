"""Run queues, wait queues and wait groups cut at every store: nothing queued is lost, nothing is there twice."""

from __future__ import annotations

import itertools

import pytest

from mproc_go.sched import idle, runq, states, waitq
from mproc_go.shm import layout as L
from mproc_go.shm import pool
from mproc_go.sync import waitgroup
from tests.crash.machine import cuts

DEAD = 1


def requeue(machine):
    """What the reaper does for goroutines a dead thread was moving: those that bear its slot and are in no queue."""
    w, t = machine.words, machine.supervisor
    runq.repair_global(w)
    queued = set(runq.queued_global(w)) | {g for p in range(2) for g in runq.queued(w, p)}
    lost = [
        g
        for g in pool.records(w, L.POOL_G)
        if w[g] & 0xFF == L.REC_LIVE and w[g] >> 8 == DEAD and g not in queued and w[g + L.G_STATUS] == states.RUNNABLE
    ]
    if lost:
        runq.put_global(t, lost)


def everything_queued(machine):
    w = machine.words
    runq.check_global(w)
    for p in range(2):
        runq.check(w, p)
    return sorted(itertools.chain(runq.queued_global(w), *(runq.queued(w, p) for p in range(2))))


class Queues:
    """`local` goroutines at P0 (its ring about to wrap) and `shared` ones in the global list, made by thread 2."""

    def __init__(self, machine, local, shared, extra=0):
        t, w = machine.threads[1], machine.words
        w[L.p_base(0) + L.P_HEAD] = w[L.p_base(0) + L.P_TAIL] = L.RUNQ - 2
        self.local = [machine.new_goroutine(t, started=False) for _ in range(local)]
        self.shared = [machine.new_goroutine(t, started=False) for _ in range(shared)]
        for g in self.local:
            assert runq.put(t, 0, g)
        if self.shared:
            runq.put_global(t, self.shared)
        # What the dead thread holds itself, just made.
        self.extra = [machine.new_goroutine(machine.threads[0], started=False) for _ in range(extra)]
        for g in self.extra:
            w[g + L.R_LINK] = 77  # what the free list or an inbox left there

    @property
    def all(self):
        return sorted(self.local + self.shared + self.extra)


OPERATIONS = {
    "put": lambda m, s: runq.put(m.threads[0], 0, s.extra[0]),
    "put_many": lambda m, s: runq.put_many(m.threads[0], 0, s.extra),
    "put_global": lambda m, s: runq.put_global(m.threads[0], s.extra),
    "get": lambda m, s: runq.get(m.threads[0], 0),
    "grab": lambda m, s: runq.grab(m.threads[0], 0),
    "get_global": lambda m, s: runq.get_global(m.threads[0], 3),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("local", "shared"), [(0, 0), (1, 1), (4, 0), (0, 4), (5, 3)])
def test_run_queues_cut_anywhere(operation, local, shared):
    """After repair every goroutine that has not started is in exactly one queue."""

    def build(machine):
        return Queues(machine, local, shared, extra=2)

    for machine, state, n, _died in cuts(build, OPERATIONS[operation]):
        requeue(machine)
        assert everything_queued(machine) == state.all, f"{operation} cut at store {n}"


def test_a_removal_published_before_the_claim_is_noticed():
    """Mutant: runq.get that moves the head before it writes its slot into the goroutine."""

    def mutant(machine, state):
        w = machine.words
        base = L.p_base(0)
        head = w[base + L.P_HEAD]
        g = w[base + L.P_RUNQ + head % L.RUNQ]
        w[base + L.P_HEAD] = head + 1
        w[g] = machine.threads[0].live

    lost = []
    for machine, state, n, _died in cuts(lambda m: Queues(m, 3, 0), mutant):
        requeue(machine)
        if everything_queued(machine) != state.all:
            lost.append(n)
    assert lost


class Waiters:
    """Goroutines in the wait queue of a wait group with counter `count`."""

    def __init__(self, machine, n, count):
        t, w = machine.threads[1], machine.words
        self.base = pool.take(t, L.POOL_OBJECT)
        w[self.base + L.WG_COUNT] = count
        w[self.base + L.WG_WAITQ] = 0
        self.gs = [machine.new_goroutine(t) for _ in range(n)]
        for g in self.gs:
            waitq.join(w, self.base + L.WG_WAITQ, g)
        self.new = machine.new_goroutine(machine.threads[0])
        w[self.new + L.G_SUDOG + L.SG_LINK] = 77  # what an earlier wait left there


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_joining_a_wait_queue_cut_anywhere(n):
    """Who waits is in the queue, in order; the one that died joining is its last, or is not there."""

    def operate(machine, state):
        waitq.join(machine.words, state.base + L.WG_WAITQ, state.new)

    for machine, state, _n, died in cuts(lambda m: Waiters(m, n, 1), operate):
        waitq.repair(machine.words, state.base + L.WG_WAITQ)
        waitgroup.check(machine.words, state.base)
        found = [machine.words[s + L.SG_G] for s in waitq.sudogs(machine.words, state.base + L.WG_WAITQ)]
        assert found in (state.gs, [*state.gs, state.new])
        assert died or found[-1] == state.new


@pytest.mark.parametrize("n", [0, 1, 3])
def test_joining_at_the_front_cut_anywhere(n):
    """A waiter that was woken and has to wait again stands first, or is not there."""

    def operate(machine, state):
        waitq.enqueue_first(machine.words, state.base + L.WG_WAITQ, state.new + L.G_SUDOG)

    for machine, state, _n, died in cuts(lambda m: Waiters(m, n, 1), operate):
        waitq.repair(machine.words, state.base + L.WG_WAITQ)
        waitgroup.check(machine.words, state.base)
        found = [machine.words[s + L.SG_G] for s in waitq.sudogs(machine.words, state.base + L.WG_WAITQ)]
        assert found in (state.gs, [state.new, *state.gs])
        assert died or found[0] == state.new


@pytest.mark.parametrize(("n", "which"), [(n, i) for n in (1, 2, 3, 4) for i in range(n)])
def test_leaving_a_wait_queue_cut_anywhere(n, which):
    """A waiter that leaves is out or still in; the others stay, in order."""

    def operate(machine, state):
        waitq.remove(machine.words, state.base + L.WG_WAITQ, state.gs[which] + L.G_SUDOG)

    for machine, state, _n, died in cuts(lambda m: Waiters(m, n, 1), operate):
        waitq.repair(machine.words, state.base + L.WG_WAITQ)
        waitgroup.check(machine.words, state.base)
        found = [machine.words[s + L.SG_G] for s in waitq.sudogs(machine.words, state.base + L.WG_WAITQ)]
        without = [g for i, g in enumerate(state.gs) if i != which]
        assert found in (state.gs, without)
        assert died or found == without


@pytest.mark.parametrize("n", [0, 1, 3])
def test_the_last_done_cut_anywhere(n):
    """Either the counter is as before and all wait, or it is 0 and nobody does."""

    def operate(machine, state):
        waitgroup.set_count(machine.words, state.base, 0, DEAD)

    for machine, state, _n, died in cuts(lambda m: Waiters(m, n, 1), operate):
        w = machine.words
        waitgroup.repair(w, state.base, 0)
        waitgroup.check(w, state.base)
        over = not w[state.base + L.WG_COUNT]
        assert over or died
        assert {bool(w[g + L.G_DECIDE]) for g in state.gs} <= {over}


def test_the_scheduler_recomputes_who_is_idle():
    """Handing a P to a sleeping M cut anywhere: after repair each P is idle or held by one living M."""

    def build(machine):
        w = machine.words
        for t in machine.threads[1:]:
            idle._set_bit(w, L.S_MIDLE, t.slot, True)

    def operate(machine, _):
        idle.wake_p(machine.threads[0])

    from mproc_go.shm import note

    woken = note.wake
    note.wake = lambda t, slot: None  # there is nobody to wake in this machine
    try:
        for machine, _state, _n, _died in cuts(build, operate):
            w = machine.words
            living = [t.slot for t in machine.threads[1:]]
            idle.repair(w, living)
            held = [w[L.slot_base(m) + L.M_P] - 1 for m in living if w[L.slot_base(m) + L.M_P]]
            assert len(set(held)) == len(held)
            assert w[L.S_PIDLE] == 0b11 & ~sum(1 << p for p in held)
            assert w[L.S_NSPINNING] == sum(w[L.slot_base(m) + L.M_SPINNING] for m in living)
    finally:
        note.wake = woken
