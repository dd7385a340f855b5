"""Programs that attached, and die around one lock: with it, behind one who died with it, on the way through its new door.

As tests/kills/test_one_lock.py, where the second one is a program, or both are.
"""

from __future__ import annotations

import random
import threading

import pytest

from mproc_go import Chan, attach
from mproc_go.shm import layout as L
from tests.attach.support import nursery
from tests.kills import test_one_lock as workers
from tests.kills.supervised import WHO_STOPPED, buried, until
from tests.kills.test_one_lock import Scene, plan, state_of, which

assert plan and which  # fixtures


class Registers(workers.Sends):
    """A thread that is new there, and sends. Lock: the scheduler's; what the thread holds is shown by its host."""

    def prepare(self):
        self.ch = Chan(4)
        return L.L_SCHED, in_a_thread, self.ch


def in_a_thread(ch):
    thread = threading.Thread(target=ch.send, args=("second",))
    thread.start()
    thread.join()


class ProgramScene(Scene):
    """A program is behind the lock that a worker has, or another program."""

    def __init__(self, seconds, firsts, *args):
        self.seconds, self.firsts = seconds, firsts
        self.things = Chan(1, name="things")
        super().__init__(*args)

    def first_comes(self):
        if self.firsts is None:
            super().first_comes()
        else:
            self.firsts.begin(-1, "hold")
            self.things.send(self.number)

    def second_comes(self, n, operation, *args):
        self.seconds.begin(n, "behind", self.act)
        self.things.send((operation, args))

    def first_is_lost(self):
        if self.firsts is None:
            super().first_is_lost()
        else:
            assert self.firsts.died()

    def second_is_over(self):
        return state_of(self.plan.behind) in "ZX"

    def second_came_through(self):
        died = self.seconds.died()
        until(lambda: buried(self.plan.behind), "it is buried, or has left")
        return not died


@pytest.fixture
def scene(plan, standing):
    """``scene(case, n, act)``: the second one is a program."""
    standing()
    with attach("one"), nursery() as seconds:
        yield lambda *args: ProgramScene(seconds, None, plan, *args)


@pytest.fixture
def scene_of_programs(plan, standing):
    """Both are."""
    standing()
    with attach("one"), nursery() as seconds, nursery() as firsts:
        yield lambda *args: ProgramScene(seconds, firsts, plan, *args)


def slow(case):
    return pytest.param(case, marks=pytest.mark.slow)


CASES = [workers.Sends, workers.ChoosesFirst, workers.Stores, workers.Numbers, Registers]
MORE = [workers.Receives, workers.Closes, workers.Chooses, workers.Locks, workers.Adds, workers.CountsDown, workers.Loads]


@pytest.mark.parametrize("case", [*CASES, *map(slow, [*MORE, workers.Drops])], ids=lambda case: case.__name__)
def test_a_program_dies_behind_a_worker(scene, which, case):
    """At each step, with the worker, in the middle of its burial, or soon after it."""
    n, step = which
    stood, done = 0, False
    while not done:
        now = scene(case(), n)
        stood += now.stood
        now.first_dies()
        done = now.check()
        now = None
        n += 0 if done else step
    assert stood and n > 5


def test_a_program_dies_behind_a_program(scene_of_programs, which):
    """The same, where the first one is buried as a program, too."""
    n, step = which
    done = False
    while not done:
        now = scene_of_programs(workers.Sends(), n)
        now.first_dies()
        done = now.check()
        now = None
        n += 0 if done else step
    assert n > 5


@pytest.mark.parametrize("count", [8, pytest.param(0, marks=pytest.mark.slow)], ids=["some", "all"])
def test_a_program_stops_and_dies_at_each_step_of_the_burial(scene, plan, seed, count):
    """Wherever it is, and whatever the supervisor is about to do: it finds one more dead."""
    every = [(n, k) for n in range(workers.FAR) for k in range(90)]
    died = 0
    for n, k in random.Random(seed).sample(every, count) if count else every:
        now = scene(workers.Sends(), n, "stop")
        plan.make("bury", k, WHO_STOPPED)
        died += now.first_dies_and_second()
        now.check()
        now = None
    assert died
