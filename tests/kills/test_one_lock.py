"""Deaths around one lock: of who has it, of who waits for it, of who is on the way through its new door; of all at once.

The first worker dies with the lock. The second one waits behind it, and dies, or is stopped and killed, at each step of
its way: at the old door, with a token of that, between the doors, at the new one, and inside. Threads of this program
wait there meanwhile, and go on; a third worker uses the thing then. No lock stays held, what was acknowledged is there
once.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import time

import pytest

from mproc_go import (
    AtomicInt,
    Chan,
    ChanClosed,
    Mutex,
    NotRunning,
    Runtime,
    SharedMap,
    WaitGroup,
    WorkerLost,
    go,
    select,
)
from mproc_go.runtime import process as rt
from mproc_go.sched import states
from mproc_go.shm import layout as L
from mproc_go.shm.lock import phase_lock
from tests.kills.steps import Steps, die
from tests.kills.supervised import PLAN, WHO_STOPPED, Beside, Plan, buried, end, planned, until
from tests.kills.test_every_store import DEADLINE_S, quiet, whole
from tests.kills.test_scheduler import EACH, traffic
from tests.lifecycle.support import run_code


@pytest.fixture
def plan(tmp_path):
    gc.collect()
    gc.freeze()  # what there is by now need not be looked at in each round
    with planned(tmp_path / "plan") as made:
        yield made
        gc.enable()
        gc.unfreeze()
        with contextlib.suppress(ProcessLookupError):  # where the test failed
            if made.held:
                end(made.held)


# ---------------------------------------------------------------- in the workers
def hold(number):
    """Take that lock, and keep it."""
    m = rt.current()
    m.enter(m.locks[number])
    Plan(os.environ[PLAN]).held = os.getpid()
    time.sleep(1000)


def behind(n, act, operation, *args):
    """Do that once somebody holds the lock that it needs; die, or stop, before the n-th step of it."""
    plan = Plan(os.environ[PLAN])
    m = rt.current()
    plan.behind = os.getpid()
    while not plan.held:  # computing: who sleeps may lose its P
        pass
    steps = Steps(n, plan.stop if act == "stop" else die)
    w = m.w
    m.w = steps.words(w)
    watched = steps.semaphores(m.process)
    watched.__enter__()
    if act == "go on":
        plan.stopped = os.getpid()
    if operation is None:  # its end is meant
        m.watched = watched
        return "ended"
    try:
        return operation(*args)
    finally:
        m.w = w
        watched.__exit__(None, None, None)


# ---------------------------------------------------------------- what the second one does, and the threads aside
class Sends:
    """To a channel. Lock: the channel's."""

    def prepare(self):
        self.ch = ch = Chan(4)
        return ch._lock.number, ch.send, "second"

    def aside(self, i):
        self.ch.send(i, DEADLINE_S)

    def check(self, done, aside):
        whole(self.ch)
        got = self.ch.recv_many(4) if len(self.ch) else []
        assert sorted(x for x in got if x != "second") == aside
        assert got.count("second") == 1 or (not done and "second" not in got)
        go(self.ch.send, "third").result(DEADLINE_S)
        assert self.ch.recv(DEADLINE_S) == "third"


class Receives(Sends):
    """From a channel. Lock: the channel's."""

    def prepare(self):
        self.ch = ch = Chan(4)
        ch.send_many("ab")
        return ch._lock.number, ch.recv

    def check(self, done, aside):
        whole(self.ch)
        got = self.ch.recv_many(4)
        assert [x for x in got if x in ("a", "b")] in (["b"], ["a", "b"])
        assert not done or "a" not in got
        assert sorted(x for x in got if x not in ("a", "b")) == aside


class Closes(Sends):
    """A channel. Lock: the channel's."""

    def prepare(self):
        self.ch = ch = Chan(4)
        return ch._lock.number, ch.close

    def aside(self, i):
        with contextlib.suppress(ChanClosed):
            self.ch.send(i, DEADLINE_S)

    def check(self, done, aside):
        whole(self.ch)
        assert self.ch.closed or not done
        if not self.ch.closed:
            self.ch.close()
        got = [*self.ch]
        assert set(got) <= set(aside) and len(got) == len(set(got))


class Chooses(Sends):
    """Between two channels. Locks: both; the second one is held."""

    held = 1

    def prepare(self):
        while True:
            both = sorted((Chan(4), Chan(4)), key=lambda ch: ch._lock.number)
            self.ch = both.pop(self.held)
            (self.other,) = both
            if self.ch._lock.number != self.other._lock.number:
                return self.ch._lock.number, choose, self.other, self.ch

    def check(self, done, aside):
        whole(self.other)
        super().check(done, aside)


class ChoosesFirst(Chooses):
    """Between two channels. Locks: both; the first one is held."""

    held = 0


def choose(other, ch):
    select(other.recv, (ch.send, "second"))


class Locks:
    """A mutex, and unlocks it. Lock: the mutex's."""

    def prepare(self):
        self.mutex = Mutex()
        return self.mutex._lock.number, lock_and_unlock, self.mutex

    def aside(self, i):
        self.mutex.try_lock() and self.mutex.unlock()

    def check(self, done, aside):
        if not self.mutex.try_lock():
            assert not done  # it stays locked: docs/reliability.md
            self.mutex.unlock()
            assert self.mutex.try_lock()
        self.mutex.unlock()


def lock_and_unlock(mutex):
    with mutex:
        pass


class Adds:
    """To a number. Lock: the number's."""

    def prepare(self):
        self.number = AtomicInt(5)
        return self.number._lock.number, self.number.add, 10

    def aside(self, i):
        self.number.add(100)

    def check(self, done, aside):
        value = self.number.load() - 100 * len(aside)
        assert value == 15 or (value == 5 and not done)
        assert self.number.add(1) == value + 100 * len(aside) + 1


class CountsDown:
    """In a wait group for which somebody waits. Lock: the group's."""

    def prepare(self):
        self.wg = wg = WaitGroup()
        wg.add(3)
        self.waits = Beside(wg.wait)
        until(lambda: rt.current().w[wg._base + L.WG_WAITQ], "it waits")
        return wg._lock.number, wg.done

    def aside(self, i):
        self.wg.done()

    def check(self, done, aside):
        if rt.current().w[self.wg._base + L.WG_COUNT]:
            assert not done
            self.wg.done()
        self.waits.result()


class Stores:
    """In a map. Lock: the stripe's."""

    def prepare(self):
        self.map = SharedMap()
        for i in range(20):
            self.map[i] = i
        return self.map._numbers[self.map._number(7) >> 1 & self.map._mask], self.map.store, 7, "second"

    def aside(self, i):
        assert self.map.load(7) in ((7, True), ("second", True))

    def check(self, done, aside):
        assert self.map[7] == "second" or (self.map[7] == 7 and not done)
        self.map[7] = 7
        assert dict(self.map) == {i: i for i in range(20)}


class Loads(Stores):
    """From a map. Lock: the stripe's."""

    def prepare(self):
        number, *_ = super().prepare()
        return number, self.map.load, 7

    def aside(self, i):
        self.map.store(7, 7)

    def check(self, done, aside):
        assert dict(self.map) == {i: i for i in range(20)}


class Starts:
    """A goroutine. Lock: of the run queue of its own P."""

    def prepare(self):
        self.ch = Chan(4)
        return None, start, self.ch

    def number(self, second):
        w = rt.current().w
        return L.L_PS + w[L.slot_base(w[second._base + L.G_M]) + L.M_P] - 1

    def check(self, done, aside):
        quiet()
        got = self.ch.recv_many(4) if len(self.ch) else []
        assert got == ["second"] or (not done and not got)


def start(ch):
    go(ch.send, "second")


class Numbers:
    """Goroutines: those that it starts need more numbers than it has. Lock: the scheduler's."""

    def prepare(self):
        self.ch = Chan(4)
        return L.L_SCHED, number_many

    def aside(self, i):
        assert go(pow, 2, i).result(DEADLINE_S) == 2**i

    def check(self, done, aside):
        ids = [go(pow, 2, i).id for i in range(2 * L.S_GOID_BATCH)]
        assert len(set(ids)) == len(ids)


def number_many():
    m = rt.current()
    m.next_goid = m.goid_end  # it has used up those it had
    m.new_goid()


class Drops:
    """The last handle but ours of a channel. Lock: the channel's."""

    def prepare(self):
        self.ch = Chan(4)
        self.box = Chan(1)
        self.box.send(self.ch)
        return self.ch._lock.number, drop, self.box

    def aside(self, i):
        self.ch.send(i, DEADLINE_S)

    def check(self, done, aside):
        whole(self.ch)
        assert sorted(self.ch.recv_many(4)) == aside
        base, w = self.ch._base, rt.current().w
        until(lambda: not done or w[base + L.R_REFS] == 1, "ours is the only handle")


def drop(box):
    box.recv()


class Ends:
    """Its goroutine. Lock: that one's."""

    def prepare(self):
        return None, None

    def number(self, second):
        self.second = second
        return L.object_lock(second._base)

    def aside(self, i):
        with contextlib.suppress(WorkerLost):
            assert self.second.result(DEADLINE_S) == "ended"

    def check(self, done, aside):
        quiet()


CASES = [Sends, Receives, Closes, Chooses, ChoosesFirst, Locks, Adds, CountsDown, Stores, Loads, Starts, Numbers]
CASES += [Drops, Ends]


# ---------------------------------------------------------------- the deaths
STEP = 4
ASIDE = 2


def state_of(os_pid):
    try:
        with open(f"/proc/{os_pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


class Scene:
    """Somebody has the lock, the second one and threads of ours are behind it.

    Attributes:
        stood: the second one was at the door; else it was dead already, or had stopped.
    """

    def __init__(self, plan, case, n, act="die"):
        self.plan, self.case, self.act = plan, case, act
        self.w = rt.current().w
        plan.held = plan.behind = plan.stopped = 0
        number, *doing = case.prepare()
        self.second_comes(n, *doing)
        until(lambda: plan.behind, "the second one is there")  # what it was given is opened
        self.number = number = case.number(self.second) if number is None else number
        gc.collect()
        gc.disable()  # a handle that dies now may need the lock
        self.first_comes()
        until(lambda: plan.held, "the first one has the lock")
        self.aside = [Beside(case.aside, i) for i in range(ASIDE)] if hasattr(case, "aside") else []
        until(lambda: not self.aside or os.getpid() in self.at_the_door(), "our threads are at the door")
        until(self.second_is_there, "the second one sleeps at the door, has stopped, or is dead")

    def first_comes(self):
        self.first = go(hold, self.number)

    def second_comes(self, n, *doing):
        self.second = go(behind, n, self.act, *doing)

    def second_is_there(self):
        state = state_of(self.plan.behind)
        self.stood = state == "S" and self.plan.behind in self.at_the_door()
        return self.stood or state in "ZX" or (self.act == "stop" and self.plan.stopped)

    def first_dies(self):
        end(self.plan.held)
        gc.enable()

    def first_dies_and_second(self):
        """As planned, or, if the supervisor was done before, when it has stopped; returns whether it was as planned."""
        plan = self.plan
        end(plan.held)
        until(lambda: plan.fired or plan.done, "the first one is buried")
        if not plan.fired and self.act == "stop":
            until(lambda: plan.fired or plan.stopped or self.second_is_over(), "the second one has come that far")
        plan.drop()
        until(lambda: plan.fired or not plan.within, "the supervisor does as it likes")
        if not plan.fired and self.act == "stop" and plan.stopped:
            end(plan.stopped)
        gc.enable()
        until(lambda: not plan.fired or buried(plan.fired), "the second one is buried")
        return plan.fired != 0

    def at_the_door(self):
        """Processes of the threads that may hold the lock; those of the dead, too."""
        w, found = self.w, []
        for slot in range(1, w[L.H_SLOTS]):
            base = L.slot_base(slot)
            shown = [w[base + L.M_PHASE + level] for level in range(L.M_PHASE_LEVELS)]
            found += [w[base + L.M_OS_PID] for phase in shown if phase and phase_lock(phase)[0] == self.number]
        return found

    def check(self):
        """Everybody is told, or goes on; returns whether the second one came through."""
        self.first_is_lost()
        done = self.second_came_through()
        for each in self.aside:
            each.result()
        self.case.check(done, [*range(len(self.aside))])
        quiet()
        until(lambda: not self.shown(), "no lock is shown")
        return done

    def first_is_lost(self):
        with pytest.raises(WorkerLost):
            self.first.result(DEADLINE_S)

    def second_is_over(self):
        return self.w[self.second._base + L.G_STATUS] & states.STATUS_MASK >= states.DONE

    def second_came_through(self):
        try:
            self.second.result(DEADLINE_S)
        except WorkerLost:
            return False
        return True

    def shown(self):
        """Slots that show a lock; those who sleep or are dead must not for ever."""
        w = self.w
        bases = [L.slot_base(slot) for slot in range(w[L.H_SLOTS])]
        return [base for base in bases if any(w[base + L.M_PHASE + level] for level in range(L.M_PHASE_LEVELS))]


@pytest.fixture(params=["some", pytest.param("all", marks=pytest.mark.slow)])
def which(request, seed):
    """The first step, and from each one to the next."""
    return (0, 1) if request.param == "all" else (random.Random(seed).randrange(STEP), STEP)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_second_dies(plan, which, case):
    """At each step, with the first one, in the middle of its burial, or soon after it."""
    n, step = which
    stood, done = 0, False
    with Runtime(2):
        while not done:
            scene = Scene(plan, case(), n)
            stood += scene.stood
            scene.first_dies()
            done = scene.check()
            scene = None  # what it has may have the next one's lock
            n += 0 if done else step
        assert traffic() == 3 * EACH
    assert stood and n > 5


# How far the second one is, at each step of which it stops: at the old door, between the doors, inside, out again.
FAR = 13


@pytest.mark.parametrize("which", [12, pytest.param(0, marks=pytest.mark.slow)], ids=["some", "all"])
def test_the_second_stops_and_dies_at_each_step_of_the_burial(plan, seed, which):
    """Wherever it is, and whatever the supervisor is about to do: it finds one more dead."""
    draw = random.Random(seed)
    every = [(n, k) for n in range(FAR) for k in range(90)]
    died = 0
    with Runtime(2):
        for n, k in draw.sample(every, which) if which else every:
            scene = Scene(plan, Sends(), n, "stop")
            plan.make("bury", k, WHO_STOPPED)
            died += scene.first_dies_and_second()
            scene.check()
            scene = None
        assert traffic() == 3 * EACH
    assert died


@pytest.mark.parametrize("which", [6, pytest.param(0, marks=pytest.mark.slow)], ids=["some", "all"])
def test_the_second_dies_on_its_way_at_each_step_of_the_burial(plan, seed, which):
    """As before, and it is where it has come by itself."""
    draw = random.Random(seed)
    died = 0
    with Runtime(2):
        for k in draw.sample(range(90), which) if which else range(200):
            scene = Scene(plan, Sends(), -1, "go on")
            plan.make("bury", k, WHO_STOPPED)
            died += scene.first_dies_and_second()
            scene.check()
            scene = None
        assert traffic() == 3 * EACH
    assert died


@pytest.mark.parametrize("case", [Sends, Stores, Numbers, Ends], ids=lambda case: case.__name__)
def test_both_die_at_once(plan, case):
    """The supervisor finds both: one had the lock, one was asleep at its door, and one of our threads is."""
    with Runtime(2):
        scene = Scene(plan, case(), -1)
        assert scene.stood
        supervisor = rt.current().w[L.H_SUPERVISOR]
        os.kill(supervisor, signal.SIGSTOP)
        end(plan.behind)
        scene.first_dies()
        os.kill(supervisor, signal.SIGCONT)
        assert not scene.check()
        assert traffic() == 3 * EACH


# ---------------------------------------------------------------- the end of the program, and of the runtime
@pytest.mark.parametrize("how", ["closed", "killed"])
def test_the_runtime_ends_while_the_dead_have_a_lock(plan, how):
    """Who is killed at the end is not buried: our threads that wait for a lock of theirs are told that it is over."""
    runtime = Runtime(2).start()
    try:
        scene = Scene(plan, Sends(), -1)
        if how == "killed":
            end(rt.current().w[L.H_SUPERVISOR])
    finally:
        runtime.close()
        gc.enable()
    for each in scene.aside:
        with pytest.raises(NotRunning):
            each.result()


OWNER = """
import os, signal, time
from mproc_go import Chan, Runtime, go
from mproc_go.runtime import process as rt
def knows(ch, ids):
    ids.send(os.getpid())
    time.sleep(1000)
with Runtime(2):
    ch, ids = Chan(), Chan(1)
    handle = go(knows, ch, ids)
    os_pid = ids.recv()
    m = rt.current()
    m.enter(ch._lock)
    os.kill(os_pid, signal.SIGKILL)
    try:
        while True:
            os.kill(os_pid, 0)
    except ProcessLookupError:  # the supervisor knows, and buries it
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_program_dies_with_a_lock_that_a_burial_needs(tmp_path):
    """The supervisor, which waits for that lock, sees that nobody will give it back: it ends, and its workers."""
    outcome = run_code(tmp_path, OWNER)
    assert outcome.status == -signal.SIGKILL
