"""A worker dies at every step of an operation and is buried by the real reaper: the others find everything in order."""

from __future__ import annotations

import random

import pytest

from mproc_go.chan.channel import Chan
from mproc_go.chan.select import select
from mproc_go.codec import wire
from mproc_go.errors import ChanClosed, WorkerLost
from mproc_go.lib import clock, context, tree
from mproc_go.lib.clock import Ticker, Timer
from mproc_go.runtime import message, spawn
from mproc_go.runtime.goroutine import Goroutine, go, gomaxprocs
from mproc_go.runtime.worker import WorkerM
from mproc_go.sched import idle, runq, states
from mproc_go.shared.array import SharedArray
from mproc_go.shm import layout as L
from mproc_go.shm import pool
from mproc_go.sync.atomic import AtomicInt
from mproc_go.sync.cond import Cond
from mproc_go.sync.mutex import Mutex
from mproc_go.sync.once import Once
from mproc_go.sync.rwmutex import RWMutex
from mproc_go.sync.semaphore import Semaphore
from mproc_go.sync.waitgroup import WaitGroup
from tests.crash.burial import DEAD, LIVING, burials


def drain(grave, ch):
    """What comes out of the channel, until it would block."""
    got = []
    with grave.as_(grave.client):
        while True:
            try:
                got.append(ch.recv(0))
            except (TimeoutError, ChanClosed):
                return got


class Channel:
    """A channel of the client's with handles in all processes; `waiting` senders or receivers on the living worker."""

    def __init__(self, grave, cap, buffered=0, senders=0, receivers=0):
        with grave.as_(grave.client):
            self.ours = Chan(cap)
            for i in range(buffered):
                self.ours.send(i)
        self.living = grave.foreign(self.ours, grave.living)
        self.dead = grave.foreign(self.ours, grave.dead)
        self.senders = [grave.waiting(grave.living, lambda i=i: self.living.send(buffered + i)) for i in range(senders)]
        self.receivers = [grave.waiting(grave.living, self.living.recv) for _ in range(receivers)]
        self.sent = list(range(buffered + senders))


STATES = [
    (cap, buffered, senders, receivers)
    for cap in (0, 1, 3)
    for buffered in range(cap + 1)
    for senders, receivers in ((0, 0), (2, 0), (0, 2))
    if (not senders or buffered == cap) and (not receivers or not buffered)
]


@pytest.mark.parametrize("value", [99, "x" * 200], ids=["short", "long"])
@pytest.mark.parametrize(("cap", "buffered", "senders", "receivers"), STATES)
def test_send(cap, buffered, senders, receivers, value):
    """The message is there once or not; a goroutine that was lost while it waited to send did not send."""
    for grave, ch, _n, _died in burials(
        lambda grave: Channel(grave, cap, buffered, senders, receivers), lambda grave, ch: ch.dead.send(value)
    ):
        assert grave.status(grave.victim) == states.FAILED
        given = [g for g in ch.receivers if grave.words[g + L.G_DECIDE]]
        got = drain(grave, ch.ours)
        assert len(given) <= 1 and got in (ch.sent, [*ch.sent, value])
        assert not given or got == ch.sent


@pytest.mark.parametrize(("cap", "buffered", "senders", "receivers"), STATES)
def test_recv(cap, buffered, senders, receivers):
    """At most the first message went with the dead."""
    for grave, ch, _n, _died in burials(
        lambda grave: Channel(grave, cap, buffered, senders, receivers), lambda grave, ch: ch.dead.recv()
    ):
        assert drain(grave, ch.ours) in (ch.sent, ch.sent[1:])


@pytest.mark.parametrize(("cap", "buffered", "senders", "receivers"), STATES)
def test_close(cap, buffered, senders, receivers):
    """Closed, and everybody told; or open, and everybody waits."""
    for grave, ch, _n, _died in burials(
        lambda grave: Channel(grave, cap, buffered, senders, receivers), lambda grave, ch: ch.dead.close()
    ):
        w = grave.words
        told = {w[g + L.G_DECIDE] & L.OUT_MASK for g in ch.senders + ch.receivers}
        assert told <= ({L.OUT_CLOSED} if w[ch.ours._base + L.CH_CLOSED] else {0})


LONG_MESSAGE = "x" * 300


def send_waiting(grave, ch):
    grave.waiting(grave.dead, lambda: ch.dead.send(LONG_MESSAGE))


def send_and_be_told(grave, ch):
    send_waiting(grave, ch)
    with grave.as_(grave.client):
        ch.ours.close()


def send_and_be_received(grave, ch):
    send_waiting(grave, ch)
    with grave.as_(grave.client):
        assert ch.ours.recv() == LONG_MESSAGE


def select_waiting(grave, ch):
    grave.waiting(grave.dead, lambda: select((ch.dead.send, LONG_MESSAGE), (ch.other.send, LONG_MESSAGE)))


def select_sent_one(grave, ch):
    select_waiting(grave, ch)
    with grave.as_(grave.client):
        assert ch.ours.recv() == LONG_MESSAGE


def select_and_be_told(grave, ch):
    select_waiting(grave, ch)
    with grave.as_(grave.client):
        ch.ours.close()


def receive(grave, ch):
    grave.waiting(grave.dead, ch.dead.recv)
    with grave.as_(grave.client):
        ch.ours.send(LONG_MESSAGE)


def receive_by_select(grave, ch):
    grave.waiting(grave.dead, lambda: select(ch.dead.recv, (ch.other.send, LONG_MESSAGE)))
    with grave.as_(grave.client):
        ch.ours.send(LONG_MESSAGE)


WAITS = [
    send_waiting,
    send_and_be_told,
    send_and_be_received,
    select_waiting,
    select_sent_one,
    select_and_be_told,
    receive,
    receive_by_select,
]


@pytest.mark.parametrize("delivered", [False, True], ids=["in the inbox", "ready to run"])
@pytest.mark.parametrize("what", WAITS)
def test_messages_of_goroutines_that_wait_are_discarded(what, delivered):
    """What they brought and nobody took, and what they were given and never saw, leaves no memory in use."""
    order = pool.block_pool(len(LONG_MESSAGE))

    def build(grave):
        ch = Channel(grave, 0)
        with grave.as_(grave.client):
            other = Chan()
        ch.other = grave.foreign(other, grave.dead)
        grave.other = other
        what(grave, ch)
        if delivered:
            grave.dead.fibers = dict.fromkeys(grave.live(L.POOL_G))
            WorkerM._attend(_Doorbell(grave.dead))
        return ch

    for grave, ch, _n, _died in burials(build, lambda grave, _: None):
        assert not grave.live(order), "a message stays"
        letters = [b for b in grave.live(L.POOL_OBJECT) if grave.words[b + L.O_KIND] == L.KIND_LETTER]
        assert not letters
        assert drain(grave, ch.ours) == drain(grave, grave.other) == []


def test_discarding_the_messages_of_the_dead():
    """Whoever dies discarding them takes one along at the most."""
    order = pool.block_pool(len(LONG_MESSAGE))

    def build(grave):
        for _ in range(3):
            g = grave.goroutine(grave.living)
            hdr, body = message.pack(grave.living, LONG_MESSAGE, 0)
            message.put(grave.words, grave.living.mem, g + L.G_MSG, hdr, body)
            message.let_go(grave.living, body)
            grave.reaper._post(g + L.G_MSG)

    def operate(grave, _):
        grave.dead.process.refs.adopt_orphans(grave.dead)

    for grave, _state, _n, died in burials(build, operate):
        assert len(grave.live(order)) <= died
        letters = [b for b in grave.live(L.POOL_OBJECT) if grave.words[b + L.O_KIND] == L.KIND_LETTER]
        assert len(letters) <= died


def send_a_handle(grave, ch):
    ch.dead.send(ch.inner)


def send_a_long_one(grave, ch):
    ch.dead.send([ch.inner, LONG_MESSAGE])


def receive_a_handle(grave, ch):
    grave.got = ch.dead.recv()


def start_with_a_handle(grave, ch):
    grave.got = go(job, ch.inner, LONG_MESSAGE)


@pytest.mark.parametrize("there", ["short", "long"])
@pytest.mark.parametrize("operate", [send_a_handle, send_a_long_one, receive_a_handle, start_with_a_handle])
def test_what_is_in_hand(operate, there):
    """A message that is made, or taken and not opened, is freed, but for few stores before it is held, and after."""
    order = pool.block_pool(len(LONG_MESSAGE) + 60)

    def build(grave):
        ch = Channel(grave, 3)
        with grave.as_(grave.client):
            grave.inner = Chan()
            if operate is receive_a_handle:
                ch.ours.send(grave.inner if there == "short" else [grave.inner, LONG_MESSAGE])
        ch.inner = grave.foreign(grave.inner, grave.dead)
        grave.got = None
        return ch

    stays = []
    for grave, ch, n, died in burials(build, operate):
        grave.got = None
        drain(grave, ch.ours)
        refs = grave.words[grave.inner._base + L.R_REFS]
        blocks = len(grave.live(order))
        started = len(grave.queued())
        assert refs >= 1 + started and blocks >= started, "it was freed too early"
        if refs > 1 + started or blocks > started:
            assert died
            stays.append((n, grave.words.died_in))
    assert len(stays) <= 10, stays


class _Doorbell:
    """The words a worker's doorbell is about, for the M of a test."""

    def __init__(self, m):
        self.__dict__.update(vars(m), returned=[], attention=m.base + L.M_ATTENTION, inbox=m.base + L.M_INBOX)
        self.enter, self.leave = m.enter, m.leave


# ---------------------------------------------------------------- goroutines
def job(*args):
    """What the goroutines of these tests would do."""


@pytest.mark.parametrize("fresh", [False, True], ids=["used records", "fresh records"])
@pytest.mark.parametrize("args", [(), ("x" * 300,)], ids=["short", "long"])
def test_go(fresh, args):
    """The new goroutine is queued, or it never was; it is counted if it is."""

    def build(grave):
        if not fresh:  # records that goroutines have had before
            w = grave.words
            used = [pool.take(grave.dead, L.POOL_G) for _ in range(4)]
            for g in used:
                w[g + L.G_STATUS], w[g + L.G_M] = states.DONE, LIVING
                pool.give(grave.dead, L.POOL_G, g)

    def operate(grave, _):
        grave.handle = go(job, *args)

    for grave, _state, _n, died in burials(build, operate):
        started = [g for g in grave.live(L.POOL_G) if grave.status(g) == states.RUNNABLE]
        assert len(started) <= 1
        assert died or len(started) == 1
        assert grave.queued() == started
        unmade = [g for g in grave.live(L.POOL_G) if grave.status(g) == states.UNMADE]
        assert not unmade, "taken, never filled, never freed"


def test_go_with_a_fresh_record():
    """A record that never became a goroutine is freed, whatever it says of itself."""
    for _grave in burials(lambda grave: None, lambda grave, _: go(job)):
        pass


def test_go_overflowing():
    """The 257th goroutine of a P sends half of them to the global list."""

    def build(grave):
        grave.gs = [new_goroutine(grave, grave.dead) for _ in range(L.RUNQ)]
        for g in grave.gs:
            assert runq.put(grave.dead, DEAD - 1, g)

    def operate(grave, _):
        spawn.spawn(grave.dead, job, (), {}, False)

    for grave, _state, _n, died in burials(build, operate):
        assert len(grave.queued()) in ((L.RUNQ, L.RUNQ + 1) if died else (L.RUNQ + 1,))
        assert set(grave.gs) <= set(grave.queued())


def new_goroutine(grave, m):
    """A goroutine without handle that has not started, in nobody's queue."""
    w = grave.words
    g = pool.take(m, L.POOL_G)
    w[g + L.G_M] = w[g + L.G_JOINQ] = w[g + L.G_DECIDE] = w[g + L.G_CODE] = w[g + L.G_MSG] = 0
    for i in range(4):
        w[g + L.R_HOLDERS + i] = 0
    w[g + L.R_REFS] = 1
    w[g + L.G_STATUS] = states.RUNNABLE
    w[g] = m.live
    w[m.base + L.M_SPAWNED] += 1
    return g


@pytest.mark.parametrize("result", ["short", "x" * 300], ids=["short", "long"])
@pytest.mark.parametrize("joined", [0, 2])
def test_finish(joined, result):
    """A goroutine ends: whoever waits has its result or WorkerLost, and is woken."""

    def build(grave):
        g = grave.victim
        grave.dead.fibers[g] = None
        with grave.as_(grave.living):
            handle = Goroutine._open(g, grave.words[g + L.R_GEN])
        grave.handle = handle
        return [grave.waiting(grave.living, handle.result) for _ in range(joined)]

    def operate(grave, _):
        WorkerM.finish(grave.dead, grave.victim, states.DONE, result)

    for grave, waiters, _n, died in burials(build, operate):
        assert all(grave.words[g + L.G_DECIDE] for g in waiters)
        with grave.as_(grave.living):
            if grave.status(grave.victim) == states.DONE:
                assert grave.handle.result() == result
            else:
                assert died
                with pytest.raises(WorkerLost, match="killed"):
                    grave.handle.result()


@pytest.mark.parametrize("what", ["start", "end"])
def test_goroutines_are_counted_exactly(what):
    """A death leaves the number of goroutines right."""

    def operate(grave, g):
        if what == "start":
            spawn.spawn(grave.dead, job, (), {}, False)
        else:
            WorkerM.finish(grave.dead, g, states.DONE, None)

    def build(grave):
        grave.dead.fibers[grave.victim] = None
        return grave.victim

    for grave, _state, _n, _died in burials(build, operate):
        grave.check_count()


def test_finish_of_what_nobody_holds():
    """Its record is free, or the program hears of a goroutine that was lost."""

    def build(grave):
        g = new_goroutine(grave, grave.dead)
        w = grave.words
        w[L.H_ON_PANIC] = L.ON_PANIC_LOG
        w[g + L.G_M] = DEAD
        w[g + L.G_STATUS] = states.RUNNING
        grave.dead.fibers[g] = None
        return g

    for _grave in burials(build, lambda grave, g: WorkerM.finish(grave.dead, g, states.DONE, None)):
        pass


# ---------------------------------------------------------------- handles
def test_making_and_dropping_a_channel():
    """Its record and buffer are free, or at most they are lost memory; nothing else is."""

    def operate(grave, _):
        ch = grave.ch = Chan(3)
        ch.send(1)
        grave.dead.process.refs.drop(grave.dead, L.KIND_CHAN, ch._base)  # what __del__ does, which would swallow a Cut

    for _grave in burials(lambda grave: None, operate):
        pass


def test_making_a_channel_of_a_fresh_record():
    """A record that never became a channel is freed."""
    for _grave in burials(lambda grave: None, lambda grave, _: Chan(3)):
        pass


def test_making_a_channel_of_a_used_record():
    """What the record was before is nobody's business: its buffer has been freed, and may be another's by now."""

    def build(grave):
        with grave.as_(grave.dead):
            used = Chan(3)
            grave.dead.process.refs.drop(grave.dead, L.KIND_CHAN, used._base)
        grave.used = used

    for grave, _state, n, _died in burials(build, lambda grave, _: Chan(0)):
        for which in range(L.N_POOLS):
            cache = grave.living.caches[which]
            assert len(set(cache)) == len(cache), f"record of pool {which} is free twice, cut at {n}"


def test_being_the_first_to_hold_a_record():
    """A record whose first handle was just being counted is lost memory at most."""
    for _grave in burials(lambda grave: None, lambda grave, _: Chan()):
        pass


def test_dropping_the_last_handle_of_a_full_channel():
    """What the channel held is given up with it."""

    def build(grave):
        with grave.as_(grave.dead):
            grave.mine = ch = Chan(4)
            inner = Chan(2)
            ch.send(inner)
            ch.send("y" * 300)
            del inner

    def operate(grave, _):
        grave.dead.process.refs.drop(grave.dead, L.KIND_CHAN, grave.mine._base)

    for _grave in burials(build, operate):
        pass


def test_sending_a_handle():
    """A channel in a message is counted for as long as anybody can still get at it."""

    def build(grave):
        out = Channel(grave, 2)
        inner = Channel(grave, 1, buffered=1)
        return out, inner

    def operate(grave, state):
        out, inner = state
        out.dead.send(inner.dead)

    for grave, (out, inner), _n, died in burials(build, operate):
        got = drain(grave, out.ours)
        assert died or got
        assert drain(grave, got[0] if got else inner.ours) == [0]


def test_receiving_a_handle():
    """The record lives as long as a handle or message names it; a death makes it live too long at most."""

    def build(grave):
        out = Channel(grave, 2)
        with grave.as_(grave.client):
            inner = Chan(1)
            inner.send("inner")
            out.ours.send(inner)
            out.ours.send(inner)
        del inner
        return out

    def operate(grave, out):
        grave.got = out.dead.recv()

    for grave, out, _n, _died in burials(build, operate):
        got = drain(grave, out.ours)
        assert len(got) in (1, 2)
        assert drain(grave, got[-1]) == ["inner"]
        grave.got = None


# ---------------------------------------------------------------- select, sync
@pytest.mark.parametrize(
    ("buffered", "receivers", "senders"),
    [((0, 1), 0, 0), ((0, 0), 0, 0), ((0, 0), 1, 0), ((1, 1), 0, 1), ((1, 0), 0, 0)],
)
def test_select(buffered, receivers, senders):
    """At most one case was done, and it was done wholly: send to a, receive from b."""

    def build(grave):
        a = Channel(grave, 1, buffered[0], 0, receivers)
        b = Channel(grave, 1, buffered[1], senders, 0)
        return a, b

    def operate(grave, state):
        a, b = state
        random.seed(1)
        select((a.dead.send, "mine"), b.dead.recv)

    for grave, (a, b), _n, _died in burials(build, operate):
        given = [g for g in a.receivers if grave.words[g + L.G_DECIDE]]
        sent, received = drain(grave, a.ours), drain(grave, b.ours)
        assert sent in (a.sent, [*a.sent, "mine"])
        assert received in (b.sent, b.sent[1:])
        assert (sent != a.sent) + (received != b.sent) + len(given) <= 1


def test_deciding_a_select():
    """The living waits in a select on both channels; a dying sender ends that wait wholly or not at all."""

    def build(grave):
        a, b = Channel(grave, 0), Channel(grave, 0)
        grave.selects = grave.waiting(grave.living, lambda: select(a.living.recv, b.living.recv))
        return a, b

    def operate(grave, state):
        state[1].dead.send("mine")

    for grave, (a, b), _n, died in burials(build, operate):
        w = grave.words
        decided = w[grave.selects + L.G_DECIDE]
        assert decided or died
        if not decided:
            with grave.as_(grave.client):
                a.ours.send("yours", 0)
            assert w[grave.selects + L.G_DECIDE]
        assert drain(grave, b.ours) == []


@pytest.mark.parametrize("count", [1, 2])
def test_done(count):
    """The counter is as before or one less; at 0 nobody waits."""

    def build(grave):
        with grave.as_(grave.client):
            grave.wg = wg = WaitGroup()
            wg.add(count)
        grave.theirs = grave.foreign(wg, grave.dead)
        living = grave.foreign(wg, grave.living)
        return [grave.waiting(grave.living, living.wait) for _ in range(2)]

    for grave, waiters, _n, _died in burials(build, lambda grave, _: grave.theirs.done()):
        left = grave.words[grave.wg._base + L.WG_COUNT]
        assert left in (count, count - 1)
        assert {bool(grave.words[g + L.G_DECIDE]) for g in waiters} == {not left}


OBJECTS = {
    "mutex": (Mutex, lambda o: o.lock(), lambda o: o.unlock()),
    "rwmutex": (RWMutex, lambda o: o.lock(), lambda o: o.unlock()),
    "semaphore": (lambda: Semaphore(1), lambda o: o.acquire(), lambda o: o.release()),
}


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("waiters", [0, 2])
def test_taking_and_giving_back(name, waiters):
    """A mutex that the dead had given back goes to a waiter; one it had kept stays taken, as in Go."""
    make, take, give = OBJECTS[name]

    def build(grave):
        with grave.as_(grave.client):
            grave.ours = make()
        grave.theirs = grave.foreign(grave.ours, grave.dead)
        living = grave.foreign(grave.ours, grave.living)
        if waiters:
            with grave.as_(grave.dead):
                take(grave.theirs)
        return [grave.waiting(grave.living, lambda: take(living)) for _ in range(waiters)]

    def operate(grave, _):
        if not waiters:
            take(grave.theirs)
        give(grave.theirs)

    for grave, gs, _n, died in burials(build, operate):
        if not died and gs:
            assert sum(bool(grave.words[g + L.G_DECIDE]) for g in gs) == 1


# ---------------------------------------------------------------- the scheduler
def queue(grave, m, local, shared):
    """`local` goroutines at the P of `m`, `shared` in the global list."""
    grave.gs = [new_goroutine(grave, m) for _ in range(local + shared)]
    for g in grave.gs[:local]:
        assert runq.put(m, m.slot - 1, g)
    if shared:
        runq.put_global(m, grave.gs[local:])


def test_stealing():
    """What a thief had in its hands is queued again."""

    def operate(grave, _):
        stolen = runq.grab(grave.dead, LIVING - 1)
        runq.put_many(grave.dead, DEAD - 1, stolen)

    for grave, _state, _n, _died in burials(lambda grave: queue(grave, grave.living, 5, 0), operate):
        assert grave.queued() == sorted(grave.gs)


def test_taking_from_the_global_list():
    """As stealing."""

    def operate(grave, _):
        taken = runq.get_global(grave.dead, 4, 2)
        runq.put_many(grave.dead, DEAD - 1, taken)
        runq.get(grave.dead, DEAD - 1)

    for grave, _state, _n, _died in burials(lambda grave: queue(grave, grave.living, 1, 6), operate):
        assert grave.queued() == sorted(grave.gs)


def test_giving_up_and_taking_a_p():
    """The P of the dead is idle, or another M has it; work is never left without a P that could run it."""

    def operate(grave, _):
        m = grave.dead
        idle.start_spinning(m)
        idle.found_work(m)
        idle.release_p(m)
        idle.acquire_p(m)
        idle.yield_p(m)

    for _grave in burials(lambda grave: queue(grave, grave.living, 0, 0), operate):
        pass


def test_waking_another():
    """A P is handed to a sleeping M by one that dies: the P has it, or is idle."""

    def build(grave):
        idle.release_p(grave.living)
        queue(grave, grave.dead, 2, 1)

    for grave, _state, _n, _died in burials(build, lambda grave, _: idle.wake_p(grave.dead)):
        assert grave.queued() == sorted(grave.gs)


def test_handing_a_p_to_one_that_waits():
    """An M with something bound to it waits for a P, and the only one's holder dies giving it up."""

    def build(grave):
        w = grave.words
        w[L.S_GOMAXPROCS] = 1
        idle.release_p(grave.living)
        w[L.S_PIDLE] = 0
        w[L.p_base(1) + L.P_STATUS] = L.P_DEAD
        assert not idle.acquire_p(grave.living, waiting=True)

    def operate(grave, _):
        idle.yield_p(grave.dead)

    for grave, _state, _n, _died in burials(build, operate):
        w = grave.words
        assert w[grave.living.base + L.M_P] or w[grave.living.base + L.M_ATTENTION], "it waits for ever"


@pytest.mark.parametrize(
    "procs",
    [
        4,
        1,
    ],
)
def test_gomaxprocs(procs):
    """Goroutines at a P that goes are not lost with whoever makes it go."""

    def build(grave):
        grave.words[L.H_MAX_MS] = 4
        queue(grave, grave.living, 3, 1)

    for grave, _state, _n, _died in burials(build, lambda grave, _: gomaxprocs(procs)):
        assert grave.queued() == sorted(grave.gs)


def test_opening_a_handle_that_others_hold():
    """A result that is a channel can be asked for again, whoever died asking."""

    def build(grave):
        g = grave.victim
        handles = [None, None]
        for i, m in enumerate((grave.dead, grave.living)):
            with grave.as_(m):
                handles[i] = Goroutine._open(g, grave.words[g + L.R_GEN])
        m = grave.living
        with grave.as_(m):  # what it runs has ended, with a channel as its result
            inner = Chan(1)
            grave.words[g + L.G_M] = LIVING
            m.fibers[g] = None
            WorkerM.finish(m, g, states.DONE, inner)
            m.process.refs.drop(m, L.KIND_CHAN, inner._base)
        grave.base = inner._base
        inner.__class__ = _Gone
        return handles

    def operate(grave, handles):
        return handles[0].result()

    for grave, handles, _n, _died in burials(build, operate):
        assert grave.words[grave.base + L.R_REFS], "the result names a channel that was freed"
        with grave.as_(grave.living):
            ch = handles[1].result()
            ch.send("fine")
            assert ch.recv() == "fine"


class _Gone(Chan):
    """A handle whose finalizer has run."""

    __slots__ = ()

    def __del__(self):
        pass


def test_ending_a_context():
    """Whoever dies cancelling leaves a whole tree: after somebody cancels again, everything below has ended."""

    def build(grave):
        with grave.as_(grave.client):
            top, grave.cancel = context.with_cancel(context.background())
            child, _ = context.with_cancel(top)
            grand, _ = context.with_cancel(child)
            grave.tree = [top, child, grand]
        theirs = grave.foreign(top, grave.dead)
        waits = grave.foreign(grand.done(), grave.living)
        grave.waiter = grave.waiting(grave.living, waits.recv_ok)
        return theirs

    for grave, _state, _n, died in burials(build, lambda grave, theirs: theirs._cancel()):
        for node in grave.tree:
            tree.check(grave.words, node._base) if not died else None
        with grave.as_(grave.client):
            ended = grave.tree[0].err() is not None
            if not ended:
                assert died and not grave.words[grave.waiter + L.G_DECIDE]
            grave.cancel()
            assert all(node.err() is not None for node in grave.tree)
        assert grave.words[grave.waiter + L.G_DECIDE], "it waits for a context that has ended"
        for node in grave.tree:
            tree.check(grave.words, node._base)


LONG_S = 1000.0


def looked_at(grave, base, due, look, looker):
    """Somebody who lives looks in time at the record, if it is to be looked at."""
    w = grave.words
    when = w[base + look]
    if w[base + due] and w[base + L.R_REFS]:
        eyes = {m.slot: m.process.alarm for m in (grave.living, grave.client)}
        assert w[base + looker] in eyes, f"slot {w[base + looker]} is to look"
        assert (when, base, w[base + L.R_GEN]) in eyes[w[base + looker]].entries()


@pytest.mark.parametrize("what", ["sooner", "later", "stop", "ticker"])
@pytest.mark.parametrize("armed", [False, True], ids=["stopped", "armed"])
def test_setting_a_timer(what, armed):
    """A timer that is armed is looked at in time, by somebody who lives, whoever died setting it."""

    def build(grave):
        with grave.as_(grave.client):
            grave.timer = (Ticker if what == "ticker" else Timer)(LONG_S)
            if not armed:
                grave.timer.stop()
        return grave.foreign(grave.timer, grave.dead)

    def operate(grave, theirs):
        if what == "stop":
            theirs.stop()
        else:
            theirs.reset(LONG_S * (2 if what == "later" else 0.5))

    for grave, _state, _n, died in burials(build, operate):
        base = grave.timer._base
        clock.check(grave.words, base)
        looked_at(grave, base, L.TM_DEADLINE, L.TM_LOOK, L.TM_LOOKER)
        assert bool(grave.words[base + L.TM_DEADLINE]) == (what != "stop") or died


def test_taking_on_the_timers_of_the_dead():
    """Whoever dies taking them on leaves the rest, and what he had, to the next."""

    def build(grave):
        with grave.as_(grave.client):
            grave.timers = [Timer(LONG_S) for _ in range(3)]
            grave.ctx, _ = context.with_timeout(context.background(), LONG_S)
        for timer in grave.timers:
            grave.words[timer._base + L.TM_LOOKER] = 0
        grave.words[grave.ctx._base + L.CX_LOOKER] = 0
        grave.words[L.S_ADRIFT] = 1

    for grave, _state, _n, _died in burials(build, lambda grave, _: grave.adopt(grave.dead)):
        for timer in grave.timers:
            clock.check(grave.words, timer._base)
            looked_at(grave, timer._base, L.TM_DEADLINE, L.TM_LOOK, L.TM_LOOKER)
            assert grave.words[timer._base + L.TM_LOOKER] == LIVING
        looked_at(grave, grave.ctx._base, L.CX_LOOK, L.CX_LOOK, L.CX_LOOKER)
        assert grave.words[grave.ctx._base + L.CX_LOOKER] == LIVING


MAKERS = {
    "channel": lambda mutex, ctx: Chan(3),
    "wait group": lambda mutex, ctx: WaitGroup(),
    "mutex": lambda mutex, ctx: Mutex(),
    "rwmutex": lambda mutex, ctx: RWMutex(),
    "semaphore": lambda mutex, ctx: Semaphore(2),
    "once": lambda mutex, ctx: Once(),
    "cond": lambda mutex, ctx: Cond(mutex),
    "atomic": lambda mutex, ctx: AtomicInt(5),
    "context": lambda mutex, ctx: context.with_cancel(ctx),
    "value": lambda mutex, ctx: context.with_value(ctx, "key", "value"),
}


@pytest.mark.parametrize("what", MAKERS)
def test_making_out_of_what_was_there_before(what):
    """Whoever dies making something leaves a record that says nothing about what was in it before."""

    def build(grave):
        with grave.as_(grave.client):
            grave.mutex = Mutex()
            grave.ctx, grave.cancel = context.with_cancel(context.background())
        mutex, ctx = grave.foreign(grave.mutex, grave.dead), grave.foreign(grave.ctx, grave.dead)
        w, cache = grave.words, grave.dead.caches[L.POOL_OBJECT]
        cache.append(pool.take(grave.dead, L.POOL_OBJECT))
        for base in cache:  # the fields that one kind has are another's before
            for field in range(L.O_KIND + 1, L.OBJECT_WORDS):
                w[base + field] = 77
        return mutex, ctx

    for grave, _state, _n, _died in burials(build, lambda grave, state: MAKERS[what](*state)):
        tree.check(grave.words, grave.ctx._base)
        with grave.as_(grave.client):
            grave.mutex.lock()
            grave.cancel()
        tree.check(grave.words, grave.ctx._base)
        assert grave.words[grave.mutex._base + L.R_REFS] and grave.words[grave.ctx._base + L.R_REFS]


def test_finish_with_retries():
    """A goroutine that may be retried is done, or queued to run again from the same arguments."""

    def build(grave):
        w, m = grave.words, grave.dead
        with grave.as_(grave.client):
            handle = grave.handle = go.options(retries=1)(job, "argument")
        g = handle._base
        runq.get_global(m, 1)
        w[g + L.G_M], w[g + L.G_DECIDE], w[g + L.G_STATUS] = DEAD, 0, states.RUNNING
        m.fibers[g] = None
        return g

    for grave, g, _n, died in burials(build, lambda grave, g: WorkerM.finish(grave.dead, g, states.DONE, "done")):
        if grave.status(g) == states.DONE:
            with grave.as_(grave.client):
                assert grave.handle.result() == "done"
            assert grave.queued() == []
        else:
            assert died and grave.queued() == [g]
            with grave.as_(grave.living):
                assert spawn.args_of(grave.living, g)[1] == ("argument",)


def test_reading_together():
    """Readers of an RWMutex: a waiting writer gets it, unless the dead had kept it."""

    def build(grave):
        with grave.as_(grave.client):
            grave.ours = RWMutex()
        grave.theirs = grave.foreign(grave.ours, grave.dead)
        living = grave.foreign(grave.ours, grave.living)
        with grave.as_(grave.dead):
            grave.theirs.rlock()
        return grave.waiting(grave.living, living.lock)

    for grave, writer, _n, died in burials(build, lambda grave, _: grave.theirs.runlock()):
        assert died or grave.words[writer + L.G_DECIDE]


def test_signalling():
    """A condition's waiter is woken, or it still waits."""

    def build(grave):
        with grave.as_(grave.client):
            grave.mutex = Mutex()
            grave.cond = Cond(grave.mutex)
        theirs = grave.foreign(grave.cond, grave.dead)
        living = grave.foreign(grave.cond, grave.living)
        held = grave.foreign(grave.mutex, grave.living)

        def wait():
            held.lock()
            living.wait()

        grave.waiters = [grave.waiting(grave.living, wait) for _ in range(2)]
        return theirs

    for grave, _state, _n, died in burials(build, lambda grave, theirs: theirs.broadcast()):
        woken = [bool(grave.words[g + L.G_DECIDE]) for g in grave.waiters]
        assert died or all(woken)
        with grave.as_(grave.client):
            grave.cond.broadcast()
        assert all(grave.words[g + L.G_DECIDE] for g in grave.waiters)


def test_once():
    """Whoever waits for it is woken when it is done, or when its runner is lost."""

    def build(grave):
        with grave.as_(grave.client):
            grave.ours = Once()
        theirs = grave.foreign(grave.ours, grave.dead)
        living = grave.foreign(grave.ours, grave.living)

        def run():  # while it runs, somebody comes to wait for it
            w = grave.words
            cut_at, stores, w.cut_at = w.cut_at, w.stores, None
            grave.waiter = grave.waiting(grave.living, lambda: living.do(job))
            w.cut_at, w.stores = cut_at, stores

        grave.waiter = 0
        return theirs, run

    def operate(grave, state):
        theirs, run = state
        theirs.do(run)

    for grave, _state, _n, died in burials(build, operate):
        assert not grave.waiter or grave.words[grave.waiter + L.G_DECIDE], "it waits for a runner that is gone"
        with grave.as_(grave.client):
            done = []
            grave.ours.do(done.append, 1)
        assert done == [] or died


# ---------------------------------------------------------------- memory of its own
LARGE = memoryview(bytearray(b"large" * (wire.LARGE_BYTES // 5 + 1)))


def memories(grave):
    """Records with memory of their own that somebody refers to, and blocks of theirs."""
    w = grave.words
    found = [b for b in grave.live(L.POOL_OBJECT) if w[b + L.O_KIND] in (L.KIND_BUFFER, L.KIND_ARRAY)]
    return [b for b in found if w[b + L.R_REFS]]


def large_blocks(grave):
    """Large blocks in use."""
    w = grave.words
    return [
        base
        for which in range(L.LARGE_ORDER, L.MAX_BLOCK_ORDER + 1)
        for base in pool.records(w, which)
        if base not in pool.free_records(w, which)
    ]


def used_block(grave, cold):
    """A large block that was used before, so that there are bytes of somebody else in it."""
    before = pool.take_block(grave.living, len(LARGE))
    pool.give_block(grave.living, before, len(LARGE))
    if cold:
        assert pool._let_go(grave.living)


@pytest.mark.parametrize("used", ["fresh", "hot", "cold"])
def test_sending_a_large_buffer(used):
    """Copied and not sent, it is freed, but for the few steps in which it is only in the hands of the dead."""

    def build(grave):
        if used != "fresh":
            used_block(grave, used == "cold")
        return Channel(grave, 2, 1, 0, 0)

    lost = 0
    for grave, ch, _n, died in burials(build, lambda grave, ch: ch.dead.send([1, LARGE])):
        blocks, records = large_blocks(grave), memories(grave)
        got = drain(grave, ch.ours)
        assert got in (ch.sent, [*ch.sent, [1, LARGE]])
        assert died or len(got) == 2
        assert len(blocks) == len(records) <= 1
        got.clear()
        lost += len(records) if len(memories(grave)) else 0
        assert not large_blocks(grave) or grave.words.died_in not in ("fill", "new_memory", "acquire", "_take_large")
    assert lost <= 25


def test_receiving_a_large_buffer():
    """It goes with who received it; else it is still there, and whole."""

    def build(grave):
        ch = Channel(grave, 2, 0, 0, 0)
        with grave.as_(grave.client):
            ch.ours.send([1, LARGE])
        return ch

    def operate(grave, ch):
        grave.got = ch.dead.recv()
        assert grave.got == [1, LARGE]

    lost = 0
    for grave, ch, n, died in burials(build, operate):
        grave.got = None
        got = drain(grave, ch.ours)
        assert got in ([], [[1, LARGE]]), n
        assert not got or died
        got.clear()
        lost += len(memories(grave))
        assert len(large_blocks(grave)) == len(memories(grave)) <= 1
    assert lost <= 25


@pytest.mark.parametrize("used", ["fresh", "hot", "cold"])
def test_making_an_array(used):
    """Dead anywhere in it: neither the record nor the memory stays."""

    def build(grave):
        if used != "fresh":
            used_block(grave, used == "cold")

    def operate(grave, _):
        grave.made = SharedArray(len(LARGE), "B")
        assert not any(grave.made.memoryview())

    for grave, _state, _n, _died in burials(build, operate):
        assert not memories(grave)
        assert not large_blocks(grave)
        grave.made = None


def test_dropping_the_last_handle_of_an_array():
    """It is freed by the dead, or by who finds that nobody has it; never twice."""

    def build(grave):
        with grave.as_(grave.dead):
            grave.mine = SharedArray(len(LARGE), "B")

    def operate(grave, _):
        grave.dead.process.refs.drop(grave.dead, L.KIND_ARRAY, grave.mine._base)  # what __del__ does

    lost = counted = 0
    for grave, _state, _n, _died in burials(build, operate):
        counted += len(memories(grave))
        lost += len(large_blocks(grave))
    assert counted <= 1  # between its bit and its count, two stores side by side
    assert lost <= 6  # while the record is on its way out
