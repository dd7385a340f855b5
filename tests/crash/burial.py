"""A machine whose dead are buried by the real reaper: real locks with doors, real Ms, every step of supervisor/reaper.py.

A worker dies at each store and each semaphore operation of what it does, in turn; the reaper buries it, a living worker
takes what was left to it, and then everything that can be said of a segment at rest must hold.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections import deque
from pathlib import Path

from greenlet import GreenletExit, getcurrent, greenlet

from mproc_go.chan import ops
from mproc_go.lib import alarm
from mproc_go.runtime import process as rt
from mproc_go.runtime import spawn
from mproc_go.runtime.process import M, Process
from mproc_go.sched import idle, repairs, runq, states, waitq
from mproc_go.shm import layout as L
from mproc_go.shm import lock as lock_module
from mproc_go.shm import pool
from mproc_go.supervisor.reaper import Reaper
from mproc_go.supervisor.thread import SupervisorThread
from mproc_go.sync import cond, mutex, once, rwmutex, semaphore, waitgroup
from tests.crash.machine import SIZE_WORDS, Cut, FakeSegment, Words

sys.path.append(str(Path(__file__).parents[2] / "scripts/torture.d"))
from mproc_torture import audit

DEAD = 1  # slot of the worker that dies
LIVING = 2
CLIENT = 3  # a client thread; it lives too
PROCS = 2

# kind -> check(w, base): what holds of an object at rest.
CHECKS = {
    L.KIND_CHAN: ops.check,
    L.KIND_WAITGROUP: waitgroup.check,
    L.KIND_MUTEX: mutex.check,
    L.KIND_RWMUTEX: rwmutex.check,
    L.KIND_ONCE: once.check,
    L.KIND_COND: cond.check,
    L.KIND_SEMAPHORE: semaphore.check,
}


# What a goroutine gives that waits.
WAITS = object()


class Door:
    """A semaphore among threads that run one after the other: whoever would sleep, sleeps for ever."""

    def __init__(self, words: Words, tokens: int) -> None:
        self.words, self.tokens = words, tokens

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        self.words.store()
        if self.tokens or self.words.over:
            self.tokens -= 1
            return True
        assert not block or timeout is not None, "a lock is never given back"
        return False

    def release(self) -> None:
        self.words.store()
        self.tokens += 1


class _Made(dict):
    """What is made when it is first asked for."""

    def __init__(self, make) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, key):
        value = self[key] = self.make(key)
        return value


class Doors:
    """Twin: shm/doors.py."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.doors = {}
        self.notes = _Made(lambda slot: Door(words, 0))

    def door(self, number: int, gen: int) -> Door:
        if (number, gen) not in self.doors:
            assert gen == 0, "a door that nobody made"
            self.doors[number, gen] = Door(self.words, 1)
        return self.doors[number, gen]

    def make_shut(self, number: int, gen: int) -> Door:
        assert (number, gen) not in self.doors
        self.doors[number, gen] = Door(self.words, 0)
        return self.doors[number, gen]

    def locks(self) -> dict:
        """Those of one process."""

        def make(number):
            lock = lock_module.Lock(number, self.door)
            lock.refresh(self.words)
            return lock

        return _Made(make)


class FakeM(M):
    """An M whose goroutines wait in fibers of their own."""

    def park(self, deadline=None):
        g = self.g
        if self.w[g + L.G_DECIDE]:
            return self.w[g + L.G_DECIDE]
        getcurrent().parent.switch(WAITS)
        self.w[g + L.G_STATUS] = states.RUNNING
        return self.w[g + L.G_DECIDE]

    def left(self, error):
        """A Cut is the death of the whole process."""

    def mended(self):
        raise Cut  # what runs on after its death, in a finally clause, finds its lock taken

    def cut_off(self, error):
        """Nor is it an exception."""
        return False

    def held_already(self):
        if "m" not in vars(self.process.tls):
            raise Cut  # by what cleans up after exceptions, which this is not
        raise AssertionError("a lock is taken where one is held")

    def interrupted(self):
        raise AssertionError("nobody stops this program")


class StillAlarm(alarm.Alarm):
    """An alarm whose thread sleeps."""

    def __init__(self, m: FakeM) -> None:
        super().__init__()
        self.thread = m

    def _start(self, process):
        self._m = self.thread

    def entries(self):
        """(when, base, generation) of what it will look at."""
        return {entry[:3] for entry in self._heap}


class Grave:
    """A segment with a supervisor, two workers that have the two Ps, and a client.

    Attributes:
        dead, living, client: the Ms.
        victim: the goroutine that runs on the one that dies; the client has a handle of it.
    """

    def __init__(self) -> None:
        self.words = w = Words()
        w.over = False
        self.fibers: list[greenlet] = []
        self.in_hands: set[int] = set()  # what somebody living who waits has in its hands
        self.segment = FakeSegment(w)
        self.doors = Doors(w)
        w[L.H_LIMIT_WORDS] = SIZE_WORDS
        w[L.H_COMMITTED_WORDS] = L.DYNAMIC
        w[L.H_MAX_MS] = 2
        w[L.H_SLOTS] = 4
        w[L.S_GOID] = 2
        idle.start(w, PROCS)
        self.supervisor = SupervisorThread(self.segment, self.doors.locks(), self.doors.notes, 0)
        self.reaper = Reaper(self.supervisor, self.doors, lambda: None)
        self.dead, self.living, self.client = (self._m(slot) for slot in (DEAD, LIVING, CLIENT))
        for m in (self.dead, self.living):
            w[m.base + L.M_KIND] = L.KIND_WORKER
            idle._assign(w, m.slot, m.slot - 1)
        w[self.client.base + L.M_KIND] = L.KIND_CLIENT
        self.client.g = self.goroutine(self.client)
        self.living.g = self.goroutine(self.living)
        self.dead.g = self.victim = self.goroutine(self.dead)

    def _m(self, slot: int) -> FakeM:
        process = Process(self.segment, self.doors.locks(), self.doors.notes, slot, _nothing)
        m = process.tls.m = FakeM(process, slot)
        process.alarm = StillAlarm(m)
        process.codes = spawn.CodeTable(rt.current)
        m.fibers, m.runnable = {}, deque()
        self.words[m.base + L.M_HOST] = slot
        return m

    def goroutine(self, m: FakeM) -> int:
        """A goroutine that runs on `m`; the client has a handle of it."""
        w = self.words
        g = pool.take(m, L.POOL_G)
        w[g + L.G_GOID] = g  # any number but 0
        w[g + L.G_M] = m.slot
        w[g + L.G_JOINQ] = w[g + L.G_DECIDE] = w[g + L.G_CODE] = 0
        self.client.process.refs.adopt(w, g)
        w[g + L.R_REFS] = 2
        w[g + L.G_STATUS] = states.RUNNING
        w[g] = m.live
        w[m.base + L.M_SPAWNED] += 1
        waitq.settle_sudog(w, g)
        return g

    @contextlib.contextmanager
    def as_(self, m: FakeM):
        """Calls of the library are calls of `m`."""
        before, rt.process = rt.process, m.process
        try:
            yield m
        finally:
            rt.process = before

    def waiting(self, m: FakeM, operation) -> int:
        """A new goroutine of `m` that does the operation and waits in it; returns it."""
        before, m.g = m.g, self.goroutine(m)
        with self.as_(m):
            assert self.run(operation) is WAITS, "it did not wait"
        waits, m.g = m.g, before
        return waits

    def run(self, operation):
        """Run it in a fiber of its own; what it returned, or WAITS."""
        fiber = greenlet(operation)
        self.fibers.append(fiber)
        return fiber.switch()

    def close(self) -> None:
        """End what still waits; what it then does to a segment that is over counts for nothing."""
        self.words.over = True
        for m in (self.dead, self.living, self.client):  # nor do finalizers of handles
            vars(m.process.tls).pop("m", None)
        for fiber in self.fibers:
            if not fiber.dead:
                with contextlib.suppress(Exception, Cut):
                    fiber.throw(GreenletExit)

    def foreign(self, handle, m: FakeM):
        """Another handle of the same object, in the process of `m`."""
        with self.as_(m):
            return type(handle)._open(handle._base, handle._gen)

    # ------------------------------------------------------------ death
    def die_at(self, n: int, operation) -> bool:
        """The dead one does the operation and dies at its n-th step; returns whether there were that many."""
        w = self.words
        w.stores, w.cut_at, w.died_in, w.on_cut = 0, n, "", self._is_dead
        gc.disable()  # a finalizer of something else that ran now would swallow the Cut
        try:
            with self.as_(self.dead):
                self.result = self.run(operation)  # kept: a handle in it would swallow the Cut of its finalizer
        except Cut:
            pass
        finally:
            gc.enable()
        w.cut_at = None
        return "m" not in vars(self.dead.process.tls)

    def _is_dead(self) -> None:
        """The process is gone: nothing of it runs any more, not even a finalizer or an except clause."""
        self.dead.process.thread = _nothing_runs
        vars(self.dead.process.tls).pop("m", None)

    def bury(self) -> None:
        """What the supervisor does, and a living worker after it."""
        self._is_dead()
        self.reaper.bury(DEAD, 4711, "was killed")
        for m in (self.living, self.client):
            m.process.refs.settle(m)
        with self.as_(self.living):
            self.living.process.refs.adopt_orphans(self.living)
            if self.words[L.S_ADRIFT]:
                self.adopt(self.living)

    def adopt(self, m: FakeM) -> None:
        """What a worker does, and then its alarm, once the supervisor says that timers are adrift."""
        self.words[L.S_ADRIFT] = 0
        m.process.alarm.adopt(m)
        m.process.alarm._take_adrift(m)

    # ------------------------------------------------------------ rest
    def live(self, which: int) -> list[int]:
        return [base for base in pool.records(self.words, which) if self.words[base] & 0xFF == L.REC_LIVE]

    def status(self, g: int) -> int:
        return self.words[g + L.G_STATUS] & states.STATUS_MASK

    def queued(self) -> list[int]:
        w = self.words
        found = runq.queued_global(w)
        for p in range(L.MAX_PS):
            if p < w[L.S_GOMAXPROCS] or w[self.living.base + L.M_P] == p + 1:
                found += runq.queued(w, p)
        return sorted(found)

    def inbox(self, m: FakeM) -> list[int]:
        w, found = self.words, []
        g = w[m.base + L.M_INBOX]
        while g:
            assert g not in found, "an inbox is cyclic"
            found.append(g)
            g = w[g + L.R_LINK]
        return found

    def check(self) -> None:
        """Everything that holds of a segment at rest."""
        w = self.words
        assert not w[L.H_STOP], "the program was ended"
        for (number, gen), door in self.doors.doors.items():
            now = w[L.LOCKS + number * L.LOCK_WORDS]
            assert gen <= now
            if gen == now:
                assert door.tokens == 1, f"lock {number} has {door.tokens} tokens"
            else:
                assert door.tokens, f"whoever sleeps at the old door of lock {number} sleeps for ever"
        for slot in range(4):
            assert not any(w[L.slot_base(slot) + L.M_PHASE + level] for level in range(8)), f"slot {slot} shows a lock"
        self._check_scheduler()
        self._check_goroutines()
        faults = audit.faults(w, self.segment.mem)
        assert not faults, "; ".join(faults)
        for base in self.live(L.POOL_OBJECT):
            assert w[base] >> 8 != DEAD or w[base + L.R_REFS] < 64, "references below zero"
            kind = w[base + L.O_KIND]
            if kind in CHECKS and w[base + L.R_REFS]:
                CHECKS[kind](w, base)
                for q in repairs.QUEUES.get(kind, ()):
                    for s in waitq.sudogs(w, base + q):
                        assert w[w[s + L.SG_G] + L.G_M] != DEAD, "a dead goroutine waits"
        for which in range(L.N_POOLS):
            caches = {m.slot: [*m.caches[which]] for m in (self.supervisor, self.living, self.client)}
            large = which >= L.LARGE_ORDER
            free = pool.free_records(w, which) if large else []
            live = [b for b in pool.records(w, which) if b not in free] if large else self._in_use(which, caches)
            pool.check_pool(w, which, caches, set(live))

    def _in_use(self, which: int, caches) -> list[int]:
        """Records that are neither free nor in a cache; none of them says it is in the cache of the dead."""
        w = self.words
        free = {*pool.free_records(w, which), *(base for cache in caches.values() for base in cache)}
        used = [base for base in pool.records(w, which) if base not in free]
        for base in used:
            assert w[base] & 0xFF == L.REC_LIVE or base in self.in_hands, f"record {base} of pool {which} is lost: head {w[base]:#x}"
        return used

    def _check_scheduler(self) -> None:
        w = self.words
        runq.check_global(w)
        held = {}
        for m in (self.living,):
            p = w[m.base + L.M_P] - 1
            if p >= 0:
                assert w[L.p_base(p) + L.P_M] == m.slot and w[L.p_base(p) + L.P_STATUS] == L.P_RUNNING
                held[p] = m.slot
        procs = w[L.S_GOMAXPROCS]
        assert w[L.S_PIDLE] == sum(1 << p for p in range(procs) if p not in held), "an idle P is lost"
        assert w[L.S_NSPINNING] == w[self.living.base + L.M_SPINNING]
        for p in range(L.MAX_PS):
            runq.check(w, p)
            assert p < procs or p in held or not runq.length(w, p), f"goroutines are stuck at P{p}, which is gone"
        if self.queued() and w[L.S_PIDLE]:
            awake = w[self.living.base + L.M_P] or w[self.living.base + L.M_ATTENTION]
            assert awake, "work, an idle P, and nobody looks"

    def _check_goroutines(self) -> None:
        w = self.words
        queued = self.queued()
        assert len(set(queued)) == len(queued), "a goroutine is in two queues"
        for g in self.live(L.POOL_G):
            status, home = self.status(g), w[g + L.G_M]
            assert w[g + L.R_REFS] < 64, "references below zero"
            if status in (states.DONE, states.FAILED) or not status:
                assert not w[g + L.G_JOINQ] or not status, "somebody waits for a goroutine that has ended"
                continue
            assert home != DEAD, f"a goroutine of the dead was forgotten, in state {status}"
            if not home:
                assert status == states.RUNNABLE, f"goroutine {w[g + L.G_GOID]} is of no M, in state {w[g + L.G_STATUS]}"
                assert g in queued, "a goroutine that has not started is in no queue"
            elif status == states.WAITING and w[g + L.G_DECIDE] and home == LIVING:
                assert g in self.inbox(self.living), "a wake-up died with its sender"

    def check_count(self) -> None:
        """num_goroutine tells how many there are."""
        there = sum(
            1 for g in self.live(L.POOL_G) if self.status(g) in (states.RUNNABLE, states.RUNNING, states.WAITING)
        )
        counted = rt.goroutines(self.words)
        assert counted == there, f"{counted} goroutines counted, there are {there}"


def _nothing(*args):
    pass


def _nothing_runs():
    raise Cut


def burials(build, operate):
    """Let a worker die at each step of an operation, and be buried; yields (grave, state, n, whether it died in it).

    Args:
        build: ``build(grave)`` prepares, and returns the state.
        operate: ``operate(grave, state)`` is what the dying one does.
    """
    for n in range(3000):
        grave = Grave()
        state = build(grave)
        died = grave.die_at(n, lambda grave=grave, state=state: operate(grave, state))
        try:
            grave.bury()
            grave.check()
            yield grave, state, n, died
        except BaseException as error:
            error.add_note(f"dead at step {n}, in {grave.words.died_in}")
            raise
        finally:
            grave.close()
        if not died:
            return
    raise AssertionError("the operation does not end")
