"""A real worker killed at every store of batches, timers and contexts, also in the thread that fires them."""

from __future__ import annotations

import gc
import os
import random
import signal

import pytest

from mproc_go import Chan, Mutex, Ticker, Timer, WorkerLost, after_func, context, go, sleep, stats
from mproc_go.lib import alarm, clock, tree
from mproc_go.runtime import process as rt
from mproc_go.sched import waitq
from mproc_go.shm import layout as L
from tests.contract.support import until
from tests.kills.steps import KilledAt
from tests.kills.test_every_store import DEADLINE_S, _Check, aside, kill_everywhere, quiet, runtime, whole
from tests.kills.test_sync import usable
from tests.lib.support import wait_done

assert runtime and aside  # fixtures

STEP = 7
LONG_S = 1000.0
# What is in the hands of the dead alone for a few stores stays allocated (docs/architecture.md, "Death of a worker").
FEW = 20
EYES = (L.KIND_WORKER, L.KIND_CLIENT)


@pytest.fixture(params=["some", pytest.param("all", marks=pytest.mark.slow)])
def stores(request, seed):
    """Which stores: some, or, where that may take its time, all."""
    return {} if request.param == "all" else {"first": random.Random(seed).randrange(STEP), "step": STEP}


@pytest.fixture(autouse=True)
def nothing_stays(runtime):
    yield
    gc.collect()
    quiet()


# ---------------------------------------------------------------- batches
def test_killed_in_send_many(runtime, aside, stores):
    """What arrived is a beginning of the batch, in order: some to those that waited, the rest in the channel."""
    state = {}

    def prepare():
        state["ch"] = ch = Chan(4)
        state["waiting"] = [aside(ch.recv) for _ in range(2)]
        m = rt.current()
        until(lambda: m.w[ch._base + L.CH_RECVQ] not in (0, m.w[ch._base + L.CH_RECVQ + 1]))
        return ch, [*range(5)]

    def check(died, _):
        ch = state["ch"]
        whole(ch)
        ch.send("end")
        left = []
        while not all(h.done() for h in state["waiting"]) or len(ch):
            try:
                left.append(ch.recv(0.01))
            except TimeoutError:
                ch.send("more")  # for one that still waits
        handed = [h.result(DEADLINE_S) for h in state["waiting"]]
        got = [v for v in (*sorted(v for v in handed if type(v) is int), *left) if type(v) is int]
        assert got == [*range(len(got))]
        assert died or len(got) == 5

    assert kill_everywhere(Chan.send_many, _Check(prepare, check), **stores) > 4


def test_killed_waiting_in_send_many(runtime, aside, stores):
    """A batch larger than the channel, taken out one by one: what comes is a beginning of it."""
    state = {}

    def prepare():
        state["ch"], state["over"] = ch, _ = Chan(2), False

        def drain():
            got = []
            while not state["over"] or len(ch):
                try:
                    got.append(ch.recv(0.01))
                except TimeoutError:
                    continue
            return got

        state["got"] = aside(drain)
        return ch, [*range(7)]

    def check(died, _):
        ch = state["ch"]
        state["over"] = True
        got = state["got"].result(DEADLINE_S)
        whole(ch)
        assert got == [*range(len(got))]
        assert died or len(got) == 7
        ch.send("still works")
        assert ch.recv() == "still works"

    assert kill_everywhere(Chan.send_many, _Check(prepare, check), **stores) > 4


def test_killed_in_recv_many(runtime, aside, stores):
    """What it took is gone with it, from the front; the senders that waited are told so or wait on."""
    state = {}

    def prepare():
        state["ch"] = ch = Chan(3)
        ch.send_many([0, 1, 2])
        state["senders"] = []
        for i in (3, 4):
            state["senders"].append(aside(ch.send, i))
            until(lambda i=i: len(_waiting_to_send(ch)) == i - 2)
        return ch, 5

    def check(died, value):
        ch = state["ch"]
        whole(ch)
        assert died or value == [*range(len(value))]
        got = [] if died else list(value)
        while not all(h.done() for h in state["senders"]) or len(ch):
            try:
                got.append(ch.recv(0.01))
            except TimeoutError:
                continue
        assert got == [*range(5)][5 - len(got) :]
        assert died or len(got) == 5

    assert kill_everywhere(Chan.recv_many, _Check(prepare, check), **stores) > 4


def _waiting_to_send(ch):
    m = rt.current()
    m.enter(ch._lock)
    found = waitq.sudogs(m.w, ch._base + L.CH_SENDQ)
    m.leave(ch._lock)
    return found


# ---------------------------------------------------------------- timers
def timer_whole(timer):
    """Somebody who lives looks at it in time, if it is armed."""
    m = rt.current()
    w, base = m.w, timer._base
    until(lambda: not w[base + L.TM_DEADLINE] or w[L.slot_base(w[base + L.TM_LOOKER]) + L.M_KIND] in EYES)
    m.enter(timer._lock)
    clock.check(m.w, timer._base)
    m.leave(timer._lock)


def works(timer):
    """It can be set anew, from here, and fires once."""
    timer.reset(LONG_S)
    timer_whole(timer)
    assert timer.stop() is True
    assert not len(timer.c)
    timer.reset(0)
    timer.c.recv(DEADLINE_S)
    timer_whole(timer)


OPERATIONS = {
    "stop": lambda timer: timer.stop(),
    "reset to later": lambda timer: timer.reset(2 * LONG_S),
    "reset to now": lambda timer: timer.reset(0),
}


@pytest.mark.parametrize("fired", [False, True], ids=["armed", "fired"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_in_a_timer(runtime, name, fired):
    state = {}

    def prepare():
        state["timer"] = timer = Timer(0 if fired else LONG_S)
        if fired:
            until(lambda: len(timer.c))
        return (timer,)

    def check(died, active):
        assert died or active
        timer_whole(state["timer"])
        works(state["timer"])

    assert kill_everywhere(OPERATIONS[name], _Check(prepare, check)) > 2


def make_and_stop(kind):
    timer = kind(LONG_S)
    timer.stop()
    timer.c.close()


@pytest.mark.parametrize("kind", [Timer, Ticker])
def test_killed_making_a_timer(runtime, stores, kind):
    """It is freed, but for what one died with between a record's bit and its count; others are not touched."""
    timer = Timer(LONG_S)
    before = stats()["objects"].get("channels", 0)

    def prepare():
        return (kind,)

    def check(died, _):
        assert go(int).result(DEADLINE_S) == 0

    assert kill_everywhere(make_and_stop, _Check(prepare, check), **stores) > 4
    works(timer)
    until(lambda: stats()["objects"].get("channels", 0) <= before + FEW, error="channels are left")


def call_soon(out):
    after_func(0, out.send, "called")
    out.recv()


def test_killed_with_a_call_to_come(runtime, stores):
    """Called once or never; a call that was to come does not keep the timer."""
    state = {}

    def prepare():
        state["out"] = out = Chan(2)
        return (out,)

    def check(died, _):
        out = state["out"]
        quiet()
        assert len(out) <= (1 if died else 0)

    assert kill_everywhere(call_soon, _Check(prepare, check), **stores) > 4


def wait_in_vain(ch, mx):
    for call in (lambda: sleep(0.001), lambda: ch.recv(0.001), lambda: mx.lock(0.001), lambda: ch.send(0, 0.001)):
        try:
            call()
        except TimeoutError:
            continue


def test_killed_in_waits_that_end(runtime, stores):
    """Nothing is left in a queue of what waited with a timeout."""
    state = {}

    def prepare():
        state["ch"], state["mx"] = ch, mx = Chan(), Mutex()
        mx.lock()
        return ch, mx

    def check(died, _):
        ch, mx = state["ch"], state["mx"]
        whole(ch)
        m = rt.current()
        assert not m.w[ch._base + L.CH_RECVQ] and not m.w[ch._base + L.CH_SENDQ] and not m.w[mx._base + L.MX_WAITQ]
        mx.unlock()
        usable(mx)

    assert kill_everywhere(wait_in_vain, _Check(prepare, check), **stores) > 4


def set_all_and_die(out, seconds):
    """Send out what fires by itself, and die."""
    out.send(Timer(seconds).c)
    ticker = Ticker(seconds)
    out.send(ticker.c)
    after_func(seconds, out.send, "called")
    out.send(context.with_timeout(context.background(), seconds)[0])
    # Not a handle of this one leaves, but for its child's.
    out.send(context.with_cancel(context.with_timeout(context.background(), seconds)[0])[0])
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("seconds", [0.0, 0.05], ids=["due at once", "due later"])
def test_what_a_dead_worker_set_fires(runtime, seconds):
    """Timers, tickers, calls and deadlines go on without the worker that set them, though nobody touches them."""
    out = Chan(8)
    with pytest.raises(WorkerLost):
        go(set_all_and_die, out, seconds or 0.001).result(DEADLINE_S)
    got = [out.recv(DEADLINE_S) for _ in range(5)]
    assert got.count("called") == 1
    got.remove("called")
    timer, ticks, ctx, child = got
    assert timer.recv(DEADLINE_S) <= ticks.recv(DEADLINE_S) + DEADLINE_S
    ticks.recv(DEADLINE_S)  # it goes on
    for c in (ctx, child):
        wait_done(c)
        assert isinstance(c.err(), context.DeadlineExceeded)


def test_workers_die_one_after_the_other(runtime):
    """What was taken on once is taken on again."""
    out = Chan(1)

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def arm(seconds):
        timer = Timer(seconds)
        out.send(timer.c)
        die()

    with pytest.raises(WorkerLost):
        go(arm, 1).result(DEADLINE_S)
    c = out.recv(DEADLINE_S)
    for _ in range(6):
        with pytest.raises(WorkerLost):
            go(die).result(DEADLINE_S)
    c.recv(DEADLINE_S)


# ---------------------------------------------------------------- the thread that fires
def dying_in_the_alarm(n, timer):
    """Set the timer; the thread of this worker that fires it kills the process at its n-th store."""
    m = rt.current()
    keep = Timer(LONG_S)  # the thread is there
    sleeper = alarm.of(m)._m
    words = sleeper.w
    sleeper.w = KilledAt(words, n)
    timer.reset(0)
    until(lambda: len(timer.c))
    sleeper.w = words
    keep.stop()


def test_killed_while_firing(runtime, stores):
    """The time has arrived once, or the timer is still armed, or it is over."""
    n = stores.get("first", 0)
    while True:
        timer = Timer(LONG_S)
        try:
            go(dying_in_the_alarm, n, timer).result(DEADLINE_S)
            died = False
        except WorkerLost:
            died = True
        whole(timer.c)
        assert len(timer.c) <= 1
        works(timer)
        if not died:
            break
        n += stores.get("step", 1)
    assert n > 2


# ---------------------------------------------------------------- contexts
def tree_whole(*contexts):
    m = rt.current()
    m.enter(m.locks[L.L_CONTEXT])
    for ctx in contexts:
        tree.check(m.w, ctx._base)
    m.leave(m.locks[L.L_CONTEXT])


def ended(ctx):
    assert ctx.err() is not None
    assert ctx.done().closed


def call(fn):
    fn()


def test_killed_cancelling(runtime, aside, stores):
    """All of the tree has ended, or nothing has; who waited for an end goes on."""
    state = {}

    def prepare():
        root, cancel = context.with_cancel(context.background())
        children = [context.with_cancel(root)[0] for _ in range(2)]
        leaves = [context.with_value(context.with_cancel(child)[0], "k", 1) for child in children]
        state["all"] = [root, *children]
        state["leaves"], state["cancel"] = leaves, cancel
        state["waiting"] = [aside(wait_done, ctx) for ctx in (root, children[0], leaves[0], leaves[1])]
        return (cancel,)

    def check(died, _):
        if state["all"][0].err() is None:
            assert died
            assert all(ctx.err() is None for ctx in (*state["all"], *state["leaves"]))
            tree_whole(*state["all"])
            state["cancel"]()
        for waiter in state["waiting"]:
            assert isinstance(waiter.result(DEADLINE_S), context.Canceled)
        for ctx in (*state["all"], *state["leaves"]):
            ended(ctx)
        tree_whole(*state["all"])
        late, _ = context.with_timeout(state["leaves"][0], LONG_S)
        ended(late)

    assert kill_everywhere(call, _Check(prepare, check), **stores) > 4


def make_under(parent, seconds):
    ctx, cancel = context.with_timeout(parent, seconds)
    context.with_value(ctx, "k", "v" * 300)
    wait_done(ctx) if seconds < 1 else cancel()


@pytest.mark.parametrize("seconds", [0.001, LONG_S], ids=["ends by itself", "cancelled"])
def test_killed_making_a_context(runtime, stores, seconds):
    """The list of its parent is whole; it is freed, and the parent can end."""
    state = {}

    def prepare():
        root, cancel = context.with_cancel(context.background())
        sibling, _ = context.with_cancel(root)
        state["root"], state["cancel"], state["sibling"] = root, cancel, sibling
        return root, seconds

    def check(died, _):
        root = state["root"]
        tree_whole(root)
        late, _ = context.with_cancel(root)
        state["cancel"]()
        ended(state["sibling"])
        ended(late)
        tree_whole(root)

    assert kill_everywhere(make_under, _Check(prepare, check), **stores) > 4


def test_a_hook_is_called_once_or_not_at_all(runtime, stores):
    """Not at all only where its canceller died."""
    state = {}

    def prepare():
        root, cancel = context.with_cancel(context.background())
        state["out"] = out = Chan(4)
        state["cancel"] = cancel
        context.after_func(root, out.send, "called")
        return (cancel,)

    def check(died, _):
        state["cancel"]()
        quiet()
        assert len(state["out"]) <= 1
        assert died or len(state["out"]) == 1

    assert kill_everywhere(call, _Check(prepare, check), **stores) > 4
