"""Contexts: what ends with what, in every process; causes, values, deadlines, hooks."""

from __future__ import annotations

import datetime
import gc
import time

import pytest

from mproc_go import AtomicInt, Chan, ChanClosed, Mutex, after, context, go, select
from mproc_go.lib import tree
from mproc_go.shm.layout import CX_CHILD, L_CONTEXT
from tests.lib.support import DEADLINE_S, end_of, wait_done

pytestmark = pytest.mark.usefixtures("rt")

LONG_S = 1000.0


def check(ctx):
    m = ctx._m()
    m.enter(m.locks[L_CONTEXT])
    try:
        tree.check(m.w, ctx._base)
        return len(tree.members(m.w, ctx._base))
    finally:
        m.leave(m.locks[L_CONTEXT])


def test_roots():
    for root in (context.background(), context.todo()):
        assert (root.done(), root.err(), root.deadline(), root.value("k")) == (None, None, None, None)
        box = Chan(1)
        box.send(root)
        assert box.recv() is root
    assert repr(context.background()) == "context.Background"
    assert repr(context.todo()) == "context.TODO"


def test_cancel_reaches_other_processes_and_travels_itself():
    ctx, cancel = context.with_cancel(context.background())
    child, _ = context.with_cancel(context.with_value(ctx, "k", 1))
    waiting = [go(wait_done, c) for c in (ctx, child) for _ in range(2)]
    assert ctx.err() is None
    go(cancel).result(DEADLINE_S)
    assert [h.result(DEADLINE_S) for h in waiting] == [context.Canceled()] * 4
    assert (str(ctx.err()), str(child.err())) == ("context canceled",) * 2
    assert ctx.err() == context.Canceled and isinstance(ctx.err(), context.Canceled)
    cancel()
    assert check(ctx) == 0
    with pytest.raises(ChanClosed):
        child.done().recv(0)


def test_a_cancel_goes_down_only():
    parent, cancel_parent = context.with_cancel(context.background())
    child, cancel_child = context.with_cancel(parent)
    sibling, _ = context.with_cancel(parent)
    cut = context.without_cancel(child)
    cancel_child()
    assert (parent.err(), sibling.err(), cut.err()) == (None, None, None)
    assert child.err() == context.Canceled
    assert check(parent) == 1
    cancel_parent()
    assert sibling.err() == context.Canceled
    assert (cut.err(), cut.done(), cut.deadline()) == (None, None, None)


def test_born_cancelled():
    parent, cancel = context.with_cancel_cause(context.background())
    cancel(ValueError("why"))
    for child in (
        context.with_cancel(parent)[0],
        context.with_timeout(parent, LONG_S)[0],
        context.with_value(parent, "k", "v"),
    ):
        assert child.err() == context.Canceled
        assert child.done().closed
        assert repr(context.cause(child)) == repr(ValueError("why"))
    past = [context.with_timeout(context.background(), 0)[0], context.with_deadline(context.background(), 0)[0]]
    for child in past:
        assert child.err() == context.DeadlineExceeded
        assert child.done().closed


def test_causes():
    root, cancel_root = context.with_cancel_cause(context.background())
    middle, cancel_middle = context.with_cancel_cause(root)
    leaf, _ = context.with_cancel(middle)
    assert context.cause(leaf) is None
    cancel_middle(KeyError("middle"))
    cancel_root(KeyError("root"))
    cancel_middle(KeyError("too late"))
    assert [context.cause(c).args[0] for c in (root, middle, leaf)] == ["root", "middle", "middle"]
    assert go(context.cause, leaf).result(DEADLINE_S).args == ("middle",)
    plain, cancel = context.with_cancel_cause(context.background())
    cancel()
    assert context.cause(plain) == context.Canceled
    with pytest.raises(TypeError):
        cancel("no exception")
    assert context.cause(context.background()) is None


@pytest.mark.parametrize("how", ["timeout", "deadline", "datetime"])
def test_deadlines_are_never_early(how):
    seconds, began = 0.03, time.monotonic()
    if how == "timeout":
        ctx, _ = context.with_timeout(context.background(), seconds)
    elif how == "deadline":
        ctx, _ = context.with_deadline(context.background(), time.time() + seconds)
        seconds -= 0.001  # two clocks
    else:
        now = datetime.datetime.now(datetime.UTC)
        ctx, _ = context.with_deadline(context.background(), now + datetime.timedelta(seconds=seconds))
        seconds -= 0.001
    child, _ = context.with_cancel(ctx)
    assert go(wait_done, child).result(DEADLINE_S) == context.DeadlineExceeded
    assert time.monotonic() - began >= seconds
    assert isinstance(ctx.err(), TimeoutError)
    assert str(ctx.err()) == "context deadline exceeded"
    assert context.cause(child) == context.DeadlineExceeded


def test_the_earlier_deadline_counts():
    parent, _ = context.with_timeout(context.background(), LONG_S)
    later, _ = context.with_timeout(parent, 2 * LONG_S)
    sooner, _ = context.with_deadline(parent, parent.deadline() - 10)
    assert later.deadline() == parent.deadline()
    assert sooner.deadline() == parent.deadline() - 10
    assert context.with_value(sooner, 1, 2).deadline() == sooner.deadline()
    assert go(lambda ctx: ctx.deadline(), later).result(DEADLINE_S) == parent.deadline()


def test_a_deadline_fires_though_its_maker_computes():
    def busy(out, stop):
        ctx, _ = context.with_timeout(context.background(), 0.02)
        out.send(ctx)
        while not len(stop):
            pass

    out, stop = Chan(1), Chan(1)
    hog = go(busy, out, stop)
    assert wait_done(out.recv(DEADLINE_S)) == context.DeadlineExceeded
    stop.send(None)
    hog.result(DEADLINE_S)


def test_cancelled_before_its_deadline_it_stays_so():
    ctx, cancel = context.with_timeout(context.background(), 0.02)
    cancel()
    after(0.04).recv(DEADLINE_S)
    assert ctx.err() == context.Canceled


def test_values():
    mutex = Mutex()
    ctx = context.with_value(context.background(), "a", [1])
    ctx, _ = context.with_cancel(ctx)
    ctx = context.with_value(ctx, ("b", 2), mutex)
    ctx = context.with_value(ctx, "none", None)
    inner = context.with_value(ctx, "a", "inner")
    for c in (ctx, go(lambda c: c, ctx).result(DEADLINE_S)):
        assert c.value("a") == [1]
        c.value("a").append(2)
        assert c.value("a") == [1]
        assert c.value(("b", 2)) == mutex
        assert c.value("none") is None
        assert c.value("x") is None
    assert inner.value("a") == "inner"
    assert go(lambda c: c.value("a"), inner).result(DEADLINE_S) == "inner"
    assert context.without_cancel(inner).value("a") == "inner"
    assert "WithCancel" in repr(inner) and repr(inner).startswith("context.Background.WithValue('a').")


def test_misuse():
    for make in (context.with_cancel, context.with_cancel_cause, context.without_cancel):
        with pytest.raises(TypeError, match="^cannot create context from nil parent$"):
            make(None)
    with pytest.raises(TypeError, match="nil parent"):
        context.with_timeout(None, 1)
    with pytest.raises(TypeError, match="not a context"):
        context.with_value("ctx", 1, 2)
    with pytest.raises(ValueError, match="^nil key$"):
        context.with_value(context.background(), None, 1)
    with pytest.raises(TypeError, match="^key is not comparable"):
        context.with_value(context.background(), [], 1)


def test_hooks():
    out = Chan(10)
    ctx, cancel = context.with_cancel(context.background())
    stop = context.after_func(ctx, out.send, "stopped")
    context.after_func(context.with_value(ctx, 1, 2), out.send, "called")
    assert go(stop).result(DEADLINE_S) is True
    assert stop() is False
    cancel()
    assert out.recv(DEADLINE_S) == "called"
    late = context.after_func(ctx, out.send, "at once")
    assert out.recv(DEADLINE_S) == "at once"
    assert late() is False
    never = context.after_func(context.background(), out.send, "never")
    assert (never(), never()) == (True, False)
    assert len(out) == 0


def test_done_in_select():
    ctx, cancel = context.with_cancel(context.background())
    ch = Chan(1)
    ch.send("work")
    assert select(ctx.done().recv, ch.recv).value == "work"
    cancel()
    chosen = select(ctx.done().recv, ch.recv)
    assert (chosen.index, chosen.ok) == (0, False)
    assert select(context.background().done(), (ch.send, 1)).index == 1
    assert select(ctx.done().recv, after(LONG_S).recv).index == 0
    assert select(Chan().recv, after(0.01).recv, timeout=DEADLINE_S).index == 1


@pytest.mark.parametrize("shape", ["wide", "deep", "tree"])
def test_a_tree_of_ten_thousand_ends_with_its_root(shape):
    root, cancel = context.with_cancel_cause(context.background())
    nodes = [root]
    for i in range(10_000):
        parent = {"wide": 0, "deep": i, "tree": i // 3}[shape]
        nodes.append(context.with_cancel(nodes[parent])[0])
    waiting = go(wait_done, nodes[-1])
    cancel(KeyError("root"))
    assert waiting.result(DEADLINE_S) == context.Canceled
    assert all(node.err() == context.Canceled and node.done().closed for node in nodes)
    assert context.cause(nodes[-1]).args == ("root",)
    assert check(root) == 0
    del nodes, root, cancel, waiting
    gc.collect()


def test_contexts_nobody_can_reach_leave_their_parents_list():
    parent, cancel = context.with_cancel(context.background())
    for _ in range(100):
        context.with_timeout(parent, LONG_S)
        context.with_cancel(context.with_value(parent, "k", parent))
        context.after_func(context.with_cancel(context.background())[0], print)
    gc.collect()
    assert check(parent) == 0
    assert parent._m().w[parent._base + CX_CHILD] == 0
    cancel()


def test_many_cancel_at_once():
    for _ in range(20):
        ctx, cancel = context.with_cancel(context.background())
        children = [context.with_cancel(ctx)[0] for _ in range(5)]
        hooks = AtomicInt()
        context.after_func(ctx, hooks.add, 1)
        handles = [go(cancel) for _ in range(4)] + [go(end_of, c) for c in children]
        for h in handles:
            h.result(DEADLINE_S)
        assert [c.err() for c in children] == [context.Canceled] * 5
        assert check(ctx) == 0
        while not hooks.load():
            pass
        assert hooks.load() == 1
