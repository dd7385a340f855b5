"""The structures under every interleaving that a few preemptions make, and under random ones."""

from __future__ import annotations

import threading

import pytest

from mproc_go.chan import ops
from mproc_go.chan.receiving import Receiving
from mproc_go.chan.sending import Sending
from mproc_go.sched import idle, runq, waitq
from mproc_go.shm import layout as L
from mproc_go.shm import lock as lock_module
from mproc_go.shm import note
from tests.model.loom import explore, sample


@pytest.fixture(autouse=True)
def no_spinning(monkeypatch):
    """A spin is a retry of the same step: it only makes the same schedules longer."""
    monkeypatch.setattr(lock_module, "SPIN", 0)


# ---------------------------------------------------------------- locks
def counting(world, workers, loops):
    """Workers that add to two words under a lock."""
    w = world.words
    inside = []

    def body(t):
        lock = t.locks[L.L_SCHED]
        for _ in range(loops):
            t.enter(lock)
            assert not inside, "two are inside"
            inside.append(t)
            w[1_000_000] = w[1_000_000] + 1
            inside.pop()
            t.leave(lock)

    for slot in range(1, workers + 1):
        world.spawn(f"w{slot}", lambda t=world.thread(slot): body(t))

    def check():
        assert world.memory[1_000_000] == workers * loops

    return check


def test_one_at_a_time_holds_a_lock(seed):
    """Exhaustive for two workers and two preemptions, random for three."""
    assert explore(lambda world: counting(world, 2, 2), 2) > 100
    sample(lambda world: counting(world, 3, 3), seed, 500)


# ---------------------------------------------------------------- run queues
def stealing(world, wrap):
    """The owner of a P puts four and gets; a thief grabs half; a third takes from the global list."""
    peek = world.memory_view
    p0 = L.p_base(0)
    peek[p0 + L.P_HEAD] = peek[p0 + L.P_TAIL] = wrap
    gs = [2_000_000 + 32 * i for i in range(6)]
    taken = []

    def owner(t):
        runq.put_global(t, gs[4:])
        for g in gs[:4]:
            assert runq.put(t, 0, g)
        taken.append(runq.get(t, 0))
        taken.append(runq.get(t, 0))

    def thief(t):
        taken.extend(runq.grab(t, 0))

    def other(t):
        taken.extend(runq.get_global(t, 2))

    for slot, body in enumerate((owner, thief, other), 1):
        world.spawn(body.__name__, lambda t=world.thread(slot), body=body: body(t))

    def check():
        left = runq.queued(peek, 0) + runq.queued_global(peek)
        runq.check(peek, 0)
        runq.check_global(peek)
        found = sorted([g for g in taken if g] + left)
        assert found == gs, f"{len(found)} of {len(gs)}"

    return check


def test_every_goroutine_is_taken_exactly_once(seed):
    """Put, get, steal and the global list, together: nothing twice, nothing lost."""
    explore(lambda world: stealing(world, 0), 1)
    sample(lambda world: stealing(world, L.RUNQ - 2), seed, 500)


# ---------------------------------------------------------------- channels
class _Sender(Sending):
    __slots__ = ()

    def __del__(self):
        pass


class _Receiver(Receiving):
    __slots__ = ()

    def __del__(self):
        pass


CHANNEL = 3_000_032
RING = 3_100_000


def end(world, t, cls, cap):
    """A real handle of the channel in the hands of a thread."""
    handle = cls.__new__(cls)
    handle._base, handle._gen = CHANNEL, 0
    handle._tls = threading.local()
    handle._tls.m = t
    handle._lock = t.locks[L.object_lock(CHANNEL)]
    handle._cap, handle._ring = cap, RING
    return handle


def channel(world, cap, senders, receivers, each):
    """Senders send `each` messages of their own, receivers take all of them."""
    peek = world.memory_view
    peek[CHANNEL + L.CH_CAP] = peek[CHANNEL + L.CH_LIMIT] = cap
    peek[CHANNEL + L.CH_RING] = RING
    got = [[] for _ in range(receivers)]
    share = senders * each // receivers

    def thread(slot):
        t = world.thread(slot)
        t.g = 4_000_000 + 32 * slot
        waitq.settle_sudog(peek, t.g)
        return t

    def send(t, who):
        ch = end(world, t, _Sender, cap)
        for i in range(each):
            ch.send(who * 100 + i)

    def receive(t, mine):
        ch = end(world, t, _Receiver, cap)
        for _ in range(share):
            mine.append(ch.recv())

    for i in range(senders):
        world.spawn(f"send{i}", lambda t=thread(1 + i), i=i: send(t, i))
    for i in range(receivers):
        world.spawn(f"recv{i}", lambda t=thread(1 + senders + i), i=i: receive(t, got[i]))

    def check():
        ops.check(peek, CHANNEL)
        everything = sorted(sum(got, []))
        assert everything == sorted(who * 100 + i for who in range(senders) for i in range(each))
        for mine in got:
            for who in range(senders):
                own = [v for v in mine if v // 100 == who]
                assert own == sorted(own), "a sender's messages overtook each other"

    return check


@pytest.mark.parametrize("cap", [0, 1, 2])
def test_a_channel_loses_and_doubles_nothing(cap, seed):
    """One sender and one receiver, all schedules of two preemptions; two of each at random. FIFO for each sender."""
    explore(lambda world: channel(world, cap, 1, 1, 2), 2)
    sample(lambda world: channel(world, cap, 2, 2, 3), seed, 300)


# ---------------------------------------------------------------- sleeping and waking
def sleeping(world, announce_first):
    """A worker that finds nothing goes to sleep while a goroutine is queued from outside."""
    peek = world.memory_view
    idle.start(peek, 1)
    worker, spawner = world.thread(1), world.thread(2)
    peek[worker.base + L.M_KIND] = L.KIND_WORKER
    idle._assign(peek, 1, 0)
    done = []

    def work():
        t, w = worker, world.words
        while not done:
            if w[t.base + L.M_P]:
                if runq.get(t, 0) or runq.get_global(t, 1):
                    done.append(1)
                    return
                if announce_first:
                    if not idle.release_p(t):
                        continue
                else:  # mutant: gives its P up without announcing that it sleeps before it looks again
                    t.enter(t.locks[L.L_SCHED])
                    idle._give_up(w, t.base)
                    t.leave(t.locks[L.L_SCHED])
            while not w[t.base + L.M_P]:
                if idle.any_work(w) and idle.acquire_p(t):
                    break
                note.sleep(t, None)
                note.announce(t)
            note.awake(t)

    def spawn():
        runq.put_global(spawner, [5_000_000])
        w = world.words
        if w[L.S_PIDLE] and not w[L.S_NSPINNING]:
            idle.wake_p(spawner)

    world.spawn("worker", work)
    world.spawn("spawner", spawn)
    return lambda: None


def test_no_wake_up_is_lost():
    """Submit, then look, against announce, then look: whatever the order, the goroutine is run."""
    explore(lambda world: sleeping(world, True), 2)


def test_sleeping_without_announcing_loses_a_wake_up():
    """Mutant: the loom finds the schedule in which nobody wakes the worker."""
    with pytest.raises(AssertionError, match="wait for ever"):
        explore(lambda world: sleeping(world, False), 2)
