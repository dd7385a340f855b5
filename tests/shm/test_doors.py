"""Locks between real processes that are killed at random: never two inside, never stuck, never a torn change."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from mproc_go import NotRunning
from mproc_go.shm import layout as L
from mproc_go.shm import lock as locks
from mproc_go.shm import names, sem
from mproc_go.shm.doors import Doors, create_all, door_name, unlink_all
from mproc_go.shm.segment import Segment
from mproc_go.shm.thread import Thread

WORKERS = 4
KILLS = 80  # every second one of two workers at once
NUMBERS = (L.L_SCHED, L.L_OBJECTS)  # the second is also taken inside the first

# Words of the test, behind the tables. One set a lock.
INSIDE, ONE, TWO, STRIDE = 0, 1, 2, 8
BROKEN = L.DYNAMIC + 64


def words_of(number):
    return L.DYNAMIC + NUMBERS.index(number) * STRIDE


class Pen:
    """Workers that change words under locks, and the supervisor's part of keeping the locks usable."""

    def __init__(self):
        self.segment = Segment.create(L.DYNAMIC * 8 + (1 << 16), WORKERS)
        self.segment.commit(L.DYNAMIC, 512)
        self.w = self.segment.w
        self.prefix = names.new_prefix()
        create_all(self.prefix, 0)
        self.doors = Doors(self.prefix, 0)
        unlink_all(self.prefix, 0)
        self.pids = {}
        self.dead = set()

    def close(self):
        for pid in self.pids.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for number, gen in self.doors.made:
            sem.unlink(door_name(self.prefix, number, gen))
        del self.w
        self.segment.close()

    # ------------------------------------------------------------ a worker
    def start(self, slot):
        pid = os.fork()
        if pid:
            self.pids[slot] = pid
            return
        try:
            self._work(slot)
        finally:
            os._exit(1)

    def _work(self, slot):
        w = self.w
        t = Thread(self.segment, self.doors.locks(w), [None] * (slot + 1), slot)
        rnd = random.Random(os.getpid())
        while True:
            nested = rnd.random() < 0.5
            for level, number in enumerate(NUMBERS if nested else [rnd.choice(NUMBERS)]):
                t.enter(t.locks[number], level)
                self._change(words_of(number))
                if not nested:
                    t.leave(t.locks[number])
            if nested:
                for level in (1, 0):
                    t.leave(t.locks[NUMBERS[level]], level)

    def _change(self, at):
        w = self.w
        if w[at + INSIDE] or w[at + ONE] != w[at + TWO]:
            w[BROKEN] += 1
        w[at + INSIDE] = 1
        w[at + ONE] += 1
        w[at + TWO] += 1
        w[at + INSIDE] = 0

    # ------------------------------------------------------------ the supervisor
    def reap(self, block=None):
        for slot, pid in list(self.pids.items()):
            if os.waitpid(pid, 0 if slot == block else os.WNOHANG)[0]:
                del self.pids[slot]
                self.dead.add(slot)

    def make_shut(self, number, gen):
        return self.doors.make_shut(number, gen)

    def door(self, number, gen):
        return self.doors.door(number, gen)

    def living_slots(self):
        self.reap()
        return [L.slot_base(slot) for slot in self.pids]

    def dead_slots(self):
        return [L.slot_base(slot) for slot in self.dead]

    def pause(self):
        assert time.monotonic() < self.until, "the living never leave the old door"
        time.sleep(20e-6)

    def repair(self, number):
        w, at = self.w, words_of(number)
        w[at + INSIDE] = 0
        w[at + TWO] = w[at + ONE]

    def kill(self, *slots):
        """Kill workers, free what they may hold, start others in their place; returns the number of repairs."""
        self.until = time.monotonic() + 30
        for slot in slots:
            os.kill(self.pids[slot], signal.SIGKILL)
        for slot in slots:
            self.reap(block=slot)
        repaired = []
        for gone in sorted(self.dead):
            repaired += locks.recover(self.w, self, L.slot_base(gone), self.repair, levels=2)
        for gone in sorted(self.dead):
            self.dead.discard(gone)
            self.start(gone)
        return len(repaired)


@pytest.fixture
def pen():
    made = Pen()
    yield made
    made.close()


def test_killed_at_random(pen, seed):
    """A hundred and more kills of real processes: after each, every lock goes on being taken by the living."""
    rnd = random.Random(seed)
    w = pen.w
    for slot in range(1, WORKERS + 1):
        pen.start(slot)
    repaired = 0
    for n in range(KILLS):
        time.sleep(rnd.random() * 0.002)
        repaired += pen.kill(*rnd.sample(range(1, WORKERS + 1), 1 + n % 2))
        assert not w[BROKEN], f"{w[BROKEN]} times two were inside, or a half-done change was seen; kill {n}"
    # Everybody still gets through every lock, and none of them is slow for ever.
    for number in NUMBERS:
        before = w[words_of(number) + ONE]
        deadline = time.monotonic() + 30
        while w[words_of(number) + ONE] < before + 100:
            assert time.monotonic() < deadline, f"nobody gets through lock {number} any more"
            time.sleep(0.001)
    assert not w[BROKEN]
    assert repaired, "no kill ever hit a lock: this test tests nothing"


class _Door:
    def __init__(self, tokens):
        self.tokens = tokens

    def release(self):
        self.tokens += 1


class _Chain:
    """1 died waiting at the first lock. 2 lives, holds the first and waits at the second. 3 died holding the second."""

    FIRST, SECOND = NUMBERS

    def __init__(self):
        self.w = [0] * L.PS
        self.doors = {(number, 0): _Door(0) for number in NUMBERS}
        for slot, level, number in ((1, 0, self.FIRST), (2, 0, self.FIRST), (2, 1, self.SECOND), (3, 0, self.SECOND)):
            self.w[self.phase(slot, level)] = locks.phase_word(number, 0)
        self.pauses = 0

    @staticmethod
    def phase(slot, level):
        return L.slot_base(slot) + L.M_PHASE + level

    def door(self, number, gen):
        return self.doors[number, gen]

    def make_shut(self, number, gen):
        return self.doors.setdefault((number, gen), _Door(0))

    def living_slots(self):
        return [L.slot_base(2)]

    def dead_slots(self):
        return [L.slot_base(1), L.slot_base(3)]

    def pause(self):
        """The living one gets on if it can: through the new door of the second lock, and out of both."""
        self.pauses += 1
        assert self.pauses < 10, "the living one waits for a lock of the dead, and recovery for the living one"
        new = self.doors.get((self.SECOND, 1))
        if self.doors[self.SECOND, 0].tokens and new:  # retreats, and leaves the old door open
            self.w[self.phase(2, 1)] = locks.phase_word(self.SECOND, 1)
        if new and new.tokens:
            self.w[self.phase(2, 0)] = self.w[self.phase(2, 1)] = 0


@pytest.mark.parametrize("order", [(1, 3), (3, 1)])
def test_two_deaths_around_a_living_one(order):
    """Recovery never waits for a living thread that waits for another of the dead."""
    chain = _Chain()
    repaired = []
    for slot in order:
        locks.recover(chain.w, chain, L.slot_base(slot), repaired.append, levels=2)
    assert sorted(repaired) == sorted(NUMBERS)
    assert all(chain.doors[number, 1].tokens == 1 for number in NUMBERS)
    assert not any(chain.w[base + L.M_PHASE + level] for base in chain.dead_slots() for level in range(2))


def test_a_door_that_went_with_its_runtime():
    """Who waited while a lock got a new door, and comes back when all is over, is told so."""
    pen = Pen()
    try:
        (late,) = (lock for lock in pen.doors.locks(pen.w) if lock.number == L.L_SCHED)
        ours = Doors.__new__(Doors)
        ours.prefix, ours._doors = pen.prefix, dict(pen.doors._doors)
        late._open = ours.door
        pen.doors.make_shut(L.L_SCHED, 1)
        sem.unlink(door_name(pen.prefix, L.L_SCHED, 1))
        pen.w[late.gen_word] = 1
        with pytest.raises(NotRunning, match="closed"):
            Thread(pen.segment, [late], [None, None], 1).enter(late)
    finally:
        pen.close()
