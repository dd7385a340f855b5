"""A worker dies at every step of an operation and is buried: nothing is in use then that nothing refers to.

The burial checks it (mproc_torture.audit): every count and every block is computed anew from what there is. Here are the
operations that have something in their hands: messages with handles, many at once, results, contexts, calls of timers,
and the freeing of things that hold others.
"""

from __future__ import annotations

import pytest
from greenlet import getcurrent

from mproc_go.chan import end
from mproc_go.chan.channel import Chan
from mproc_go.chan.select import select
from mproc_go.errors import ChanClosed, SharedMemoryFull
from mproc_go.lib import clock, context
from mproc_go.runtime import dump, message, spawn
from mproc_go.runtime.goroutine import Goroutine, go
from mproc_go.runtime.worker import WorkerM
from mproc_go.sched import orphans, runq, states
from mproc_go.shared.array import SharedArray
from mproc_go.shm import layout as L
from mproc_go.shm import pool
from mproc_go.sync.cond import Cond
from mproc_go.sync.mutex import Mutex
from mproc_go.sync.waitgroup import WaitGroup
from tests.crash.burial import LIVING, burials
from tests.crash.machine import Cut

# A death in a finalizer is told as an exception that is ignored; the dead does nothing after it all the same.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LONG = "x" * 300
VAST = bytearray(b"v" * 200_000)


def job(*args):
    """What goroutines of these tests would do."""
    return args


class World:
    """A channel with room, and another one to be sent, of the client's, with handles of all three."""

    def __init__(self, grave, cap=8):
        self.grave = grave
        with grave.as_(grave.client):
            self.ours, self.inner_ours = Chan(cap), Chan(2)
        self.dead, self.inner = (grave.foreign(ch, grave.dead) for ch in (self.ours, self.inner_ours))
        self.living, self.inner_living = (grave.foreign(ch, grave.living) for ch in (self.ours, self.inner_ours))

    def values(self, inner):
        """Messages of every kind."""
        return [1, LONG, inner, [inner, inner], [inner, LONG], {"a": inner, "v": VAST}]

    def send(self, *values):
        """The client sends them."""
        with self.grave.as_(self.grave.client):
            for v in values:
                self.ours.send(v)


VALUES = ["short", "long", "handle", "handles", "handle and long", "buffer"]


@pytest.mark.parametrize("i", range(len(VALUES)), ids=VALUES)
@pytest.mark.parametrize("waits", [False, True], ids=["room", "a receiver"])
def test_send(i, waits):
    def build(grave):
        world = World(grave, 0 if waits else 3)
        if waits:
            grave.waiting(grave.living, world.living.recv)
        return world

    for _grave in burials(build, lambda grave, world: world.dead.send(world.values(world.inner)[i])):
        pass


@pytest.mark.parametrize("i", range(len(VALUES)), ids=VALUES)
@pytest.mark.parametrize("cap", [0, 1, 3])
def test_receive(i, cap):
    def build(grave):
        world = World(grave, cap)
        value = world.values(world.inner_living)[i]
        if cap == 3:
            world.send(world.values(world.inner_ours)[i], 2)
        for _ in range(0 if cap == 3 else 2):  # one of them waits, or both
            grave.run(lambda: None)
            if cap and not len_of(grave, world):
                world.send(world.values(world.inner_ours)[i])
            else:
                grave.waiting(grave.living, lambda: world.living.send(value))
        return world

    def operate(grave, world):
        grave.got = world.dead.recv()

    for grave, _world, _n, _died in burials(build, operate):
        grave.got = None


def len_of(grave, world):
    with grave.as_(grave.client):
        return len(world.ours)


def test_send_many():
    """More than there is room for: the last ones wait."""

    def build(grave):
        return World(grave, 4)

    def operate(grave, world):
        world.dead.send_many(world.values(world.inner))

    for _grave in burials(build, operate):
        pass


def test_receive_many():
    def build(grave):
        world = World(grave, 8)
        world.send(*world.values(world.inner_ours))
        return world

    def operate(grave, world):
        grave.got = world.dead.recv_many(8)

    for grave, _world, _n, died in burials(build, operate):
        assert died or len(grave.got) == len(VALUES)
        grave.got = None


@pytest.mark.parametrize("ready", ["room", "nothing", "a receiver", "a message", "a sender"])
def test_select(ready):
    def build(grave):
        world = World(grave, 1 if ready in ("room", "a message") else 0)
        with grave.as_(grave.client):
            world.third_ours = Chan(0)
        world.third = grave.foreign(world.third_ours, grave.dead)
        if ready == "a receiver":
            grave.waiting(grave.living, world.living.recv)
        elif ready == "a message":
            world.send([world.inner_ours, LONG])
        elif ready == "a sender":
            grave.waiting(grave.living, lambda: world.living.send([world.inner_living, LONG]))
        return world

    def operate(grave, world):
        receives = ready in ("a message", "a sender")
        case = world.dead.recv if receives else (world.dead.send, [world.inner, LONG])
        grave.got = select((world.third.send, world.inner), case, (world.third.send, [LONG]))

    for grave, _world, _n, _died in burials(build, operate):
        grave.got = None


@pytest.mark.parametrize("how", ["sent", "received", "closed"])
def test_waiting_and_going_on(how):
    """A wait ends, one way or another, and the goroutine goes on with what it has."""

    def build(grave):
        world = World(grave, 0)
        grave.got = None

        def send():
            world.dead.send([world.inner, LONG])

        def receive():
            grave.got = world.dead.recv()

        world.g = grave.waiting(grave.dead, receive if how == "received" else send)
        if how == "sent":
            with grave.as_(grave.client):
                grave.theirs = world.ours.recv()
        elif how == "received":
            world.send([world.inner_ours, LONG])
        elif how == "closed":
            with grave.as_(grave.client):
                world.ours.close()
        grave.fiber = grave.fibers[-1]
        return world

    def operate(grave, world):
        before, grave.dead.g = grave.dead.g, world.g
        grave.words[world.g + L.G_STATUS] = states.RUNNING
        try:
            grave.fiber.parent = getcurrent()
            grave.fiber.switch()
        except ChanClosed:
            assert how == "closed"
        finally:
            grave.dead.g = before

    for grave, _world, _n, _died in burials(build, operate):
        grave.got = grave.theirs = None


# ---------------------------------------------------------------- goroutines
ARGS = {
    "handle": lambda world: (world.inner,),
    "many": lambda world: (world.inner, LONG, world.dead),
    "buffer": lambda world: (world.inner, VAST),
}


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("args", ARGS)
def test_go(args, retries):
    def operate(grave, world):
        grave.handle = go.options(retries=retries)(job, *ARGS[args](world))

    for grave, _world, _n, _died in burials(World, operate):
        grave.handle = None


def test_go_with_a_wait_group():
    def build(grave):
        with grave.as_(grave.client):
            grave.wg = WaitGroup()
        return grave.foreign(grave.wg, grave.dead)

    for _grave in burials(build, lambda grave, wg: wg.go(job, 1)):
        pass


def test_go_of_a_function_that_travels():
    """The code table names the block of a function that can't be imported."""

    def operate(grave, _):
        number = 7
        grave.handle = go(lambda: number)

    for grave, _state, _n, _died in burials(lambda grave: None, operate):
        grave.handle = None


RESULTS = {
    "handle": lambda world: world.inner,
    "long": lambda world: LONG,
    "handles": lambda world: [world.inner, world.dead, LONG],
    "buffer": lambda world: VAST,
}


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("held", [True, False], ids=["held", "dropped"])
@pytest.mark.parametrize("result", RESULTS)
def test_a_whole_goroutine(result, held, retries):
    """It is started with handles, runs, and ends with others."""

    def build(grave):
        world = World(grave)
        world.value = RESULTS[result](world)
        grave.words[L.H_ON_PANIC] = L.ON_PANIC_LOG
        with grave.as_(grave.client):
            handle = go.options(retries=retries)(job, world.inner_ours, LONG)
            world.g = handle._base
            if held:
                grave.handle = handle
            else:
                del handle
                grave.client.process.refs.settle(grave.client)
        m = grave.dead
        assert runq.get_global(m, 1) == [world.g]
        m.running, m.stack = m.base + L.M_RUNNING, []

        def finish(g, status, value):
            if isinstance(value, Cut):  # the worker is dead
                raise value
            WorkerM.finish(m, g, status, world.value if status == states.DONE else value)

        m.finish = finish
        return world

    def operate(grave, world):
        before = grave.dead.g
        try:
            WorkerM._execute(grave.dead, _Fiber(), world.g)
        finally:
            grave.dead.g = before

    for grave, world, _n, died in burials(build, operate):
        if not died:
            assert not held or grave.status(world.g) == states.DONE
        grave.handle = None


class _Fiber:
    gr_context = None


@pytest.mark.parametrize("left", [False, True], ids=["ended", "left to the last handle"])
def test_dropping_the_last_handle_of_a_goroutine(left):
    """Its result goes with it, and what that holds."""

    def build(grave):
        world = World(grave)
        g = grave.victim
        with grave.as_(grave.dead):
            grave.handle = Goroutine._open(g, grave.words[g + L.R_GEN])
        grave.client.process.refs.holds.pop(g)
        grave.words[g + grave.client.process.refs.word] &= ~grave.client.process.refs.bit
        grave.words[g + L.R_REFS] -= 1
        m = grave.living
        with grave.as_(m):
            grave.words[g + L.G_M] = LIVING
            m.fibers[g] = None
            if left:
                w = grave.words
                hdr, body = message.pack(m, (world.inner_living, LONG), -1)
                record = pool.take_block(m, spawn._RETRY_BYTES)
                w[record + L.BLOCK_DATA], w[record + L.BLOCK_DATA + 1], w[record + L.BLOCK_DATA + 2] = 1, hdr, body
                w[g + L.G_RETRY_RECORD] = record
                message.let_go(m, record)
                message.let_go(m, body)
            WorkerM.finish(m, g, states.DONE, [world.inner_living, world.living, LONG])
            if left:
                grave.words[g + L.G_CODE] |= L.G_LEFT
        m = grave.dead
        grave.dead.g = grave.goroutine(m)
        return world

    def operate(grave, _):
        grave.dead.process.refs.drop(grave.dead, L.KIND_GOROUTINE, grave.victim)

    for _grave in burials(build, operate):
        pass


# ---------------------------------------------------------------- the end of what holds others
@pytest.mark.parametrize("back", [False, True], ids=["", "with one given back"])
def test_dropping_a_full_channel(back):
    """In it are the last handles of others, which are full as well."""

    def build(grave):
        m = grave.dead
        with grave.as_(m):
            outer, inner = Chan(4), Chan(2)
            inner.send(LONG)
            inner.send(VAST)
            for value in (inner, LONG, [inner, LONG], inner):
                outer.send(value)
            if back:
                hdr, body = outer_take(m, outer)
                end.give_back(m, outer._lock, outer._base, hdr, body)
            m.process.refs.drop(m, L.KIND_CHAN, inner._base)
        inner.__class__ = outer.__class__ = _Gone
        return outer

    def operate(grave, outer):
        grave.dead.process.refs.drop(grave.dead, L.KIND_CHAN, outer._base)

    for grave, _outer, _n, _died in burials(build, operate):
        channels = [b for b in grave.live(L.POOL_OBJECT) if grave.words[b + L.O_KIND] == L.KIND_CHAN]
        assert not channels


def outer_take(m, outer):
    [(hdr, body)] = outer._take(m, 1)
    return hdr, body


class _Gone(Chan):
    """A handle whose finalizer has run."""

    __slots__ = ()

    def __del__(self):
        pass


def test_dropping_what_the_dead_had():
    """Whoever frees what a first dead one left dies as well."""

    def build(grave):
        m = grave.dead
        with grave.as_(m):
            for _ in range(2):
                outer, inner = Chan(2), Chan(2)
                inner.send(LONG)
                outer.send(inner)
                outer.send([inner, LONG])
                m.process.refs.drop(m, L.KIND_CHAN, inner._base)
                base = outer._base
                inner.__class__ = outer.__class__ = _Gone
                w = grave.words
                w[base + m.process.refs.word] = w[base + L.R_REFS] = 0
                del m.process.refs.holds[base]
                orphans.put(grave.supervisor, base)

    for grave, _state, _n, _died in burials(build, lambda grave, _: grave.dead.process.refs.adopt_orphans(grave.dead)):
        assert not [b for b in grave.live(L.POOL_OBJECT) if grave.words[b + L.O_KIND] == L.KIND_CHAN]


def test_giving_a_message_back():
    def build(grave):
        world = World(grave, 2)
        world.send([world.inner_ours, LONG], 1)
        return world

    def operate(grave, world):
        m = grave.dead
        hdr, body = outer_take(m, world.dead)
        end.give_back(m, world.dead._lock, world.dead._base, hdr, body)
        grave.got = world.dead.recv()

    for grave, _world, _n, _died in burials(build, operate):
        grave.got = None


# ---------------------------------------------------------------- contexts, timers, the rest
def tree(grave, m):
    """A tree of contexts with hooks and values, held by `m`."""
    with grave.as_(m):
        top, cancel = context.with_cancel_cause(context.background())
        valued = context.with_value(top, "key", [Chan(1), LONG])
        child, _ = context.with_cancel(valued)
        stop = context.after_func(child, job, Chan(1), LONG)
        context.after_func(top, job, 1)
    return top, cancel, child, stop


def test_making_contexts():
    def operate(grave, _):
        grave.kept = tree(grave, grave.dead)

    for grave, _state, _n, _died in burials(lambda grave: None, operate):
        grave.kept = None


@pytest.mark.parametrize("whose", ["ours", "another's"])
def test_cancelling_a_tree(whose):
    def build(grave):
        grave.kept = tree(grave, grave.dead if whose == "ours" else grave.client)
        top = grave.kept[0]
        return top if whose == "ours" else grave.foreign(top, grave.dead)

    def operate(grave, top):
        top._cancel_cause(ValueError("because"))

    for grave, _top, _n, _died in burials(build, operate):
        grave.kept = None


def test_the_deadline_of_a_tree():
    """The alarm ends a context that somebody else holds."""

    def build(grave):
        with grave.as_(grave.client):
            grave.ctx, _ = context.with_timeout(context.background(), 1000.0)
            grave.below, _ = context.with_cancel(grave.ctx)
            context.after_func(grave.below, job, LONG)
        return grave.ctx

    def operate(grave, ctx):
        w = grave.words
        context.tree.look(grave.dead, ctx._base, ctx._gen, w[ctx._base + L.CX_LOOK])

    for _grave in burials(build, operate):
        pass


def test_dropping_a_tree():
    """The last handle goes of a context with everything below it."""

    def build(grave):
        m = grave.dead
        top, _cancel, child, stop = kept = tree(grave, m)
        hook = stop.__self__
        for node in (hook, child, top):
            grave.bases = [*getattr(grave, "bases", []), node._base]
        grave.kept = kept
        return [(base, m.process.refs.holds[base]) for base in m.process.refs.holds if is_context(grave, base)]

    def operate(grave, bases):
        m = grave.dead
        for base, n in bases:
            for _ in range(n):
                m.process.refs.drop(m, L.KIND_CONTEXT, base)

    for grave, _bases, _n, _died in burials(build, operate):
        grave.kept = None


def is_context(grave, base):
    return grave.words[base] & 0xFF == L.REC_LIVE and grave.words[base + L.O_KIND] == L.KIND_CONTEXT


@pytest.mark.parametrize("what", ["make", "stop", "reset", "fire"])
def test_the_call_of_a_timer(what):
    def build(grave):
        world = World(grave)
        if what != "make":
            with grave.as_(grave.client):
                grave.timer = clock.after_func(1000.0, job, world.inner_ours, LONG)
            world.timer = grave.foreign(grave.timer, grave.dead)
        return world

    def operate(grave, world):
        if what == "make":
            grave.made = clock.after_func(1000.0, job, world.inner, LONG)
        elif what == "stop":
            world.timer.stop()
        elif what == "reset":
            world.timer.reset(500.0)
        else:
            w, base = grave.words, world.timer._base
            w[base + L.TM_DEADLINE] = w[base + L.TM_LOOK] = 1
            clock._look(grave.dead, base, world.timer._gen, 1)

    for grave, _world, _n, _died in burials(build, operate):
        grave.made = None


def test_a_tick():
    """The channel of a timer that fires is another's."""

    def build(grave):
        with grave.as_(grave.client):
            grave.timer = clock.Timer(1000.0)
        return grave.timer

    def operate(grave, timer):
        w, base = grave.words, timer._base
        w[base + L.TM_DEADLINE] = w[base + L.TM_LOOK] = 1
        clock._look(grave.dead, base, timer._gen, 1)

    for _grave in burials(build, operate):
        pass


def test_a_condition_and_its_mutex():
    def operate(grave, _):
        m = grave.dead
        mutex = Mutex()
        cond = Cond(mutex)
        mutex.__class__, cond.__class__ = _GoneMutex, _GoneCond
        m.process.refs.drop(m, L.KIND_MUTEX, mutex._base)
        m.process.refs.drop(m, L.KIND_COND, cond._base)
        m.process.refs.drop(m, L.KIND_MUTEX, mutex._base) if mutex._base in m.process.refs.holds else None

    for grave, _state, _n, _died in burials(lambda grave: None, operate):
        kinds = [grave.words[b + L.O_KIND] for b in grave.live(L.POOL_OBJECT)]
        assert L.KIND_COND not in kinds and L.KIND_MUTEX not in kinds


class _GoneMutex(Mutex):
    __slots__ = ()

    def __del__(self):
        pass


class _GoneCond(Cond):
    __slots__ = ()

    def __del__(self):
        pass


def test_a_named_channel():
    """The name keeps the channel, or there is neither."""

    def operate(grave, _):
        grave.got = Chan(2, name="orders")

    for grave, _state, _n, _died in burials(lambda grave: None, operate):
        grave.got = None


def test_an_array():
    def operate(grave, _):
        array = SharedArray(1000)
        grave.dead.process.refs.drop(grave.dead, L.KIND_ARRAY, array._base)
        array.__class__ = _GoneArray

    for _grave in burials(lambda grave: None, operate):
        pass


class _GoneArray(SharedArray):
    __slots__ = ()

    def __del__(self):
        pass


def test_an_answer_about_stacks():
    """The report of a worker that dies giving it, twice, is not kept."""

    def operate(grave, _):
        m = grave.dead
        m.cur = None
        m.fibers = {}
        for number in (1, 2):
            grave.words[m.base + L.M_DUMP] = number
            dump.answer(m)

    for _grave in burials(lambda grave: None, operate):
        pass


def test_no_room():
    """An operation that finds none frees what it had, whenever it dies."""

    def build(grave):
        world = World(grave)
        grave.words[L.H_LIMIT_WORDS] = grave.words[L.H_COMMITTED_WORDS]
        return world

    def operate(grave, world):
        with pytest.raises(SharedMemoryFull):
            world.dead.send([world.inner, VAST * 20])

    for _grave in burials(build, operate):
        pass
