"""The workers' own scheduler, greenlets and all, under many interleavings: nothing queued or woken is ever overlooked.

At the end of each schedule everybody sleeps. Then every goroutine must have run, and the counters must say so: whoever
would still have something to do then would sleep for ever.
"""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from mproc_go.chan import ops
from mproc_go.runtime import client, worker
from mproc_go.runtime.worker import WorkerM
from mproc_go.sched import idle, runq, states, waitq
from mproc_go.shm import layout as L
from mproc_go.shm import note
from tests.model.actors import CHANNELS, Client, Group, Receiver, Sender, channel, goroutine, handle
from tests.model.loom import Stuck, explore, pct, sample


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No process to end, no clock, no chance: a schedule is the same when it is run again."""

    def reraise(status):
        raise sys.exc_info()[1]

    monkeypatch.setattr(worker, "os", SimpleNamespace(_exit=reraise))
    monkeypatch.setattr(worker, "traceback", SimpleNamespace(print_exc=lambda: None))
    monkeypatch.setattr(worker, "random", SimpleNamespace(randrange=lambda n: 0))
    # Looking again after a while would cover a lost wake-up.
    monkeypatch.setattr(worker, "MAX_P_WAIT_S", None)
    monkeypatch.setattr(client, "CHECK_S", None)


class LoomWorker(WorkerM):
    """A worker whose goroutines are functions of this process, by their base."""

    def __init__(self, site, slot):
        self.site, self.world = site, site.world
        refs = SimpleNamespace(settle=lambda m: None, holds={})
        process = SimpleNamespace(
            segment=site.world.segment,
            locks=site.world.locks(),
            notes=site.world.notes,
            refs=refs,
            outsiders=SimpleNamespace(known={}, look=bool),
            tls=threading.local(),
        )
        super().__init__(process, slot)

    def _execute(self, fiber, g):
        w = self.w
        self.cur = fiber
        self.g = w[self.running] = g
        w[g + L.G_M] = self.slot
        w[g + L.G_DECIDE] = 0
        w[g + L.G_STATUS] = states.RUNNING
        self.fibers[g] = fiber
        w[self.base + L.M_RESIDENT] = len(self.fibers)
        waitq.settle_sudog(w, g)
        assert g not in self.site.started, "a goroutine is started twice"
        self.site.started.append(g)
        self.site.bodies[g](self)
        del self.fibers[g]
        w[self.base + L.M_RESIDENT] = len(self.fibers)
        w[g + L.G_STATUS] = states.DONE
        self.site.ended.append(g)


class Site:
    """Workers with slots 1, 2, ... on some Ps, and goroutines to run."""

    def __init__(self, world, workers, procs):
        self.world, self.procs = world, procs
        self.peek = world.memory_view
        self.bodies, self.started, self.ended = {}, [], []
        self.slots = range(1, workers + 1)
        self.peek[L.H_MAX_MS] = workers
        idle.start(self.peek, procs)
        for slot in self.slots:
            self.peek[L.slot_base(slot) + L.M_KIND] = L.KIND_WORKER
            world.spawn(f"m{slot}", lambda slot=slot: LoomWorker(self, slot).run(), daemon=True)

    def new(self, body):
        """A goroutine, not yet queued."""
        g = goroutine(100 + len(self.bodies))
        self.bodies[g] = body
        return g

    def go(self, t, body):
        """Queue a goroutine, as spawn() does: submit, then look."""
        g, w = self.new(body), t.w
        w[g + L.G_M] = 0
        w[g + L.G_STATUS] = states.RUNNABLE
        p = w[t.base + L.M_P] - 1
        if p < 0 or not runq.put(t, p, g):
            runq.put_global(t, [g] if p < 0 else [*runq.grab(t, p), g])
        if w[L.S_PIDLE] and not w[L.S_NSPINNING]:
            idle.wake_p(t)

    def program(self, body, slot=9):
        """A thread of the program, which is no worker."""
        t = Client(self.world, slot)
        self.world.spawn("program", lambda: body(t))

    def check(self):
        peek = self.peek
        assert sorted(self.ended) == sorted(self.bodies), f"{len(self.ended)} of {len(self.bodies)} goroutines ended"
        assert not idle.any_work(peek)
        assert not peek[L.S_NSPINNING], "somebody is counted as searching, and sleeps"
        procs = peek[L.S_GOMAXPROCS]
        assert peek[L.S_PIDLE] == (1 << procs) - 1, f"idle Ps: {peek[L.S_PIDLE]:b}"
        for slot in self.slots:
            assert not peek[L.slot_base(slot) + L.M_P], "a sleeper holds a P"
        listed = set(idle._bits(peek, L.S_MIDLE)) | set(idle._bits(peek, L.S_PWAIT))
        assert listed == set(self.slots), f"in a list of sleepers: {listed}"


def nothing(t):
    pass


def submitting(count, workers=2, procs=2):
    """The program queues goroutines while workers come and go to sleep."""

    def build(world):
        site = Site(world, workers, procs)

        def program(t):
            for _ in range(count):
                site.go(t, nothing)

        site.program(program)
        return site.check

    return build


def test_what_the_program_queues_is_run(seed):
    """Submit, then look, against announce, then look."""
    explore(submitting(1, 1, 1), 1)
    sample(submitting(2), seed, 150, stay=0.8)
    pct(submitting(3), seed, 150, steps=300)


@pytest.mark.slow
def test_what_the_program_queues_is_run_in_every_schedule():
    """With more preemptions; thousands of schedules."""
    explore(submitting(1, 1, 1), 2)
    explore(submitting(1, 2, 2), 1)


def spawning(world):
    """A goroutine starts two, which a searcher may steal."""
    site = Site(world, 2, 2)

    def parent(t):
        site.go(t, nothing)
        site.go(t, nothing)

    site.program(lambda t: site.go(t, parent))
    return site.check


def test_what_goroutines_queue_is_run(seed):
    """By themselves, or by whoever steals it."""
    explore(spawning, 0)
    sample(spawning, seed, 150, stay=0.8)
    pct(spawning, seed, 150, steps=400)


def talking(capacity, procs):
    """Two goroutines, maybe on two workers, and the program, on one channel."""

    def build(world):
        site = Site(world, 2, procs)
        ch = channel(world, capacity)
        got = []

        def send(t):
            for i in range(2):
                handle(t, Sender, ch).send(i)

        def receive(t):
            got.append(handle(t, Receiver, ch).recv())

        def program(t):
            site.go(t, send)
            site.go(t, receive)
            receive(t)

        site.program(program)

        def check():
            site.check()
            ops.check(site.peek, ch)
            assert sorted(got) == [0, 1]

        return check

    return build


@pytest.mark.parametrize("procs", [1, 2])
@pytest.mark.parametrize("capacity", [0, 1])
def test_who_is_woken_runs_on(capacity, procs, seed):
    """Through the inbox of its worker, or in the worker itself, also with more workers than Ps."""
    explore(talking(capacity, procs), 0)
    sample(talking(capacity, procs), seed, 100, stay=0.8)
    pct(talking(capacity, procs), seed, 120, steps=600)


def retaking(world):
    """The supervisor takes the P of a worker that is in the middle of something, as if it were blocked there."""
    site = Site(world, 2, 1)
    ch = channel(world, 0)
    supervisor = world.thread(0)
    got = []

    def program(t):
        site.go(t, lambda m: handle(m, Sender, ch).send(1))
        got.append(handle(t, Receiver, ch).recv())
        site.go(t, nothing)

    def supervise():
        t, w = supervisor, world.words
        for slot in site.slots:
            woken = 0
            lock = t.locks[L.L_SCHED]
            t.enter(lock)
            taken = w[L.slot_base(slot) + L.M_P] and idle.any_work(w)
            if taken:
                woken = idle.retake(t, slot)
            t.leave(lock)
            if taken:
                w[L.slot_base(slot) + L.M_ATTENTION] = 1
            if woken:
                note.wake(t, woken)

    site.program(program)
    world.spawn("supervisor", supervise)

    def check():
        site.check()
        assert got == [1]

    return check


def test_a_p_that_was_taken_is_missed_by_nobody(seed):
    """Whoever lost its P gets another one before it runs anything; the one it had runs what is queued."""
    sample(retaking, seed, 200, stay=0.8)
    pct(retaking, seed, 200, steps=500)


def resizing(world):
    """gomaxprocs goes from 2 to 1 and back while goroutines are queued."""
    site = Site(world, 2, 2)

    def program(t):
        site.go(t, nothing)
        for procs in (1, 2):
            _, orphans = idle.resize(t, procs)
            if orphans:
                runq.put_global(t, orphans)
            if idle.any_work(t.w):
                idle.wake_p(t)
            site.go(t, nothing)

    site.program(program)
    return site.check


def test_resizing_strands_nobody(seed):
    """Whoever lost its P for good is on a list, and what was queued there is run elsewhere."""
    sample(resizing, seed, 200, stay=0.8)
    pct(resizing, seed, 200, steps=500)


def stealing(world):
    """gomaxprocs(1) takes the P of a worker that is just stealing for it."""
    site = Site(world, 2, 2)

    def parent(t):
        for _ in range(4):
            site.go(t, nothing)

    def program(t):
        site.go(t, parent)
        _, orphans = idle.resize(t, 1)
        if orphans:
            runq.put_global(t, orphans)
        if idle.any_work(t.w):
            idle.wake_p(t)

    site.program(program)
    return site.check


def test_stealing_for_a_p_that_goes():
    """What was stolen is run, by somebody."""
    sample(stealing, 1, 600, stay=0.85)


def ending(world):
    """A wait group of goroutines on two workers."""
    site = Site(world, 2, 2)
    base = CHANNELS + 64
    site.peek[base + L.WG_COUNT] = 2

    def program(t):
        for _ in range(2):
            site.go(t, lambda m: handle(m, Group, base).done())
        handle(t, Group, base).wait()
        assert len(site.started) == 2

    site.program(program)
    return site.check


def test_a_wait_group_over_workers(seed):
    """The program goes on when both are done."""
    sample(ending, seed, 100, stay=0.8)
    pct(ending, seed, 100, steps=400)


# ---------------------------------------------------------------- what the protocol is for
def mutant_announce(t):
    """Gives the P up without looking at the global list under the lock, and without announcing."""
    w = t.w
    lock = t.locks[L.L_SCHED]
    t.enter(lock)
    idle._give_up(w, t.base)
    idle._stop_spinning(w, t.base)
    t.leave(lock)
    return True


def mutant_hand(w, m):
    """The sleeper has the P before it is counted as a searcher."""
    idle._assign(w, m, idle._lowest(w[L.S_PIDLE]))
    w[L.slot_base(m) + L.M_SPINNING] = 1
    w[L.S_NSPINNING] += 1


def mutant_start(t):
    """Does not look again under the lock."""
    w = t.w
    if w[t.base + L.M_SPINNING]:
        return True
    lock = t.locks[L.L_SCHED]
    t.enter(lock)
    w[t.base + L.M_SPINNING] = 1
    w[L.S_NSPINNING] += 1
    t.leave(lock)
    return True


def test_a_p_handed_over_before_its_searcher_is_counted(monkeypatch):
    """Mutant: the one woken counts itself as well, or runs on while it is counted; then nobody is ever woken again."""
    monkeypatch.setattr(idle, "_hand_to_searcher", mutant_hand)
    monkeypatch.setattr(idle, "start_spinning", mutant_start)
    with pytest.raises(AssertionError):
        sample(submitting(2), 1, 2000, stay=0.8)
        pct(submitting(2), 1, 2000, steps=300)


def test_a_worker_that_does_not_announce_is_never_woken(monkeypatch):
    """Mutant: caught by the same schedules."""
    monkeypatch.setattr(idle, "release_p", mutant_announce)
    monkeypatch.setattr(note, "announce", lambda t: None)
    with pytest.raises((AssertionError, Stuck)):
        explore(submitting(1, 1, 1), 2)


def test_a_spawner_that_does_not_look_wakes_nobody(monkeypatch):
    """Mutant: work is queued and everybody sleeps."""
    monkeypatch.setattr(idle, "wake_p", lambda t: None)
    with pytest.raises(AssertionError):
        explore(submitting(1, 1, 1), 2)
