"""Behaviours of Go's context/x_test.go, context_test.go and afterfunc_test.go, written anew; each names its origin."""

from __future__ import annotations

import gc
import random
import time

import pytest

from mproc_go import AtomicInt, Chan, WaitGroup, WouldBlock, after, context, go, select
from mproc_go.lib import tree
from tests.lib.support import DEADLINE_S, wait_done

pytestmark = pytest.mark.usefixtures("rt")

LONG_S = 1000.0


def is_done(ctx):
    return ctx.done().closed and select(ctx.done().recv, timeout=0).ok is False


def is_open(ctx):
    try:
        ctx.done().recv_nowait()
    except WouldBlock:
        return ctx.err() is None
    return False


def members(ctx):
    return len(tree.members(ctx._m().w, ctx._base))


def test_background_and_todo():
    """TestBackground, TestTODO."""
    assert repr(context.background()) == "context.Background"
    assert repr(context.todo()) == "context.TODO"
    assert context.background().done() is None


def test_with_cancel():
    """TestWithCancel: not done before, done after, for others too; the text form."""
    c1, cancel = context.with_cancel(context.background())
    assert repr(c1) == "context.Background.WithCancel"
    o = context.with_value(c1, "k", "v")
    for ctx in (c1, o):
        assert ctx.done() is not None
        assert is_open(ctx)
    cancel()
    for ctx in (c1, o):
        assert is_done(ctx)
        assert ctx.err() == context.Canceled


def test_parent_finishes_child():
    """TestParentFinishesChild: through values, children are forgotten by their parent."""
    parent, cancel = context.with_cancel(context.background())
    cancel_child, _ = context.with_cancel(parent)
    value_child = context.with_value(parent, "key", "value")
    timer_child, _ = context.with_timeout(value_child, LONG_S)
    after_stop = context.after_func(parent, int)
    everyone = (parent, cancel_child, value_child, timer_child)
    assert all(map(is_open, everyone))
    assert members(parent) == 3
    cancel()
    assert members(parent) == 0
    assert all(map(is_done, everyone))
    assert after_stop() is False
    precanceled, _ = context.with_cancel(context.with_value(parent, "key", "value"))
    assert is_done(precanceled)
    assert precanceled.err() == context.Canceled


def test_child_finishes_first():
    """TestChildFinishesFirst: the parent goes on, and forgets the child."""
    stoppable, stop = context.with_cancel(context.background())
    for parent in (context.background(), stoppable):
        child, cancel = context.with_cancel(parent)
        assert is_open(child)
        cancel()
        assert is_done(child)
        if parent is stoppable:
            assert members(stoppable) == 0
            assert is_open(stoppable)
    stop()


def test_deadline_and_timeout():
    """TestDeadline, TestTimeout, TestCanceledTimeout."""
    c, _ = context.with_deadline(context.background(), time.time() + 0.02)
    assert repr(c).startswith("context.Background.WithDeadline(")
    assert wait_done(context.with_value(c, 1, 2)) == context.DeadlineExceeded
    c, _ = context.with_timeout(context.background(), LONG_S)
    o, cancel = context.with_timeout(c, 2 * LONG_S)
    cancel()
    assert is_done(o) and o.err() == context.Canceled
    assert is_open(c)


def test_past_deadlines():
    """TestDeadline (already passed), TestWithDeadline(now)."""
    for seconds in (-LONG_S, -1, 0):
        c, _ = context.with_timeout(context.background(), seconds)
        assert is_done(c)
        assert c.err() == context.DeadlineExceeded


def test_values():
    """TestValues: equal keys of different types are different keys, inner ones hide outer ones."""
    c1 = context.with_value(context.background(), ("k1", 1), "c1k1")
    c2 = context.with_value(c1, ("k2", 1), "c2k2")
    c3 = context.with_value(c2, ("k3", 1), "c3k3")
    c4 = context.with_value(c3, ("k1", 1), None)
    keys = [("k1", 1), ("k2", 1), ("k3", 1), "k1"]
    expected = [
        (c1, ["c1k1", None, None, None]),
        (c2, ["c1k1", "c2k2", None, None]),
        (c3, ["c1k1", "c2k2", "c3k3", None]),
        (c4, [None, "c2k2", "c3k3", None]),
    ]
    for c, values in expected:
        assert [c.value(k) for k in keys] == values
        assert go(lambda c: [c.value(k) for k in keys], c).result(DEADLINE_S) == values


def test_simultaneous_cancels():
    """TestSimultaneousCancels: a hundred, from everywhere at once, in no order."""
    root, cancel = context.with_cancel(context.background())
    made = [(root, cancel)]
    while len(made) < 100:
        made.append(context.with_cancel(made[len(made) // 3][0]))
    for _, cancel in made:
        go(cancel)
    for ctx, _ in made:
        assert wait_done(ctx) == context.Canceled


def test_interlocked_cancels():
    """TestInterlockedCancels: two that cancel each other."""
    parent, cancel_parent = context.with_cancel(context.background())
    child, cancel_child = context.with_cancel(parent)

    def follow(ctx, cancel):
        wait_done(ctx)
        cancel()

    go(follow, parent, cancel_child)
    done = go(follow, child, cancel_parent)
    cancel_parent()
    done.result(DEADLINE_S)
    assert (parent.err(), child.err()) == (context.Canceled, context.Canceled)


@pytest.mark.parametrize("by_timeout", [False, True], ids=["LayersCancel", "LayersTimeout"])
def test_layers(by_timeout, seed):
    """TestLayersCancel, TestLayersTimeout: random layers of values, cancels and timeouts end with the lowest cancel."""
    rng = random.Random(seed)
    ctx, cancels, values = context.background(), [], {}
    depth = 30
    ender = None
    for i in range(depth):
        kind = rng.randrange(3)
        if kind == 0:
            ctx = context.with_value(ctx, ("layer", i), i)
            values[i] = i
        elif kind == 1:
            ctx, cancel = context.with_cancel(ctx)
            cancels.append(cancel)
        else:
            ctx, cancel = context.with_timeout(ctx, LONG_S)
            cancels.append(cancel)
    if by_timeout:
        ctx, _ = context.with_timeout(ctx, 0.02)
    else:
        ctx, ender = context.with_cancel(ctx)
    assert {i: ctx.value(("layer", i)) for i in values} == values
    assert is_open(ctx) or by_timeout
    if ender is not None:
        (rng.choice(cancels) if cancels else ender)()
    assert wait_done(ctx) == (context.DeadlineExceeded if by_timeout else context.Canceled)
    assert {i: ctx.value(("layer", i)) for i in values} == values


def test_cancel_removes():
    """TestCancelRemoves: an ended child is in no list any more."""
    ctx, cancel = context.with_cancel(context.background())
    assert members(ctx) == 0
    made = [context.with_cancel(ctx), context.with_timeout(ctx, LONG_S)]
    assert members(ctx) == 2
    stop = context.after_func(ctx, int)
    assert members(ctx) == 3
    stop()
    for _, cancel_child in made:
        cancel_child()
    assert members(ctx) == 0
    cancel()


def test_with_cancel_called_from_everywhere():
    """TestWithCancelCanceledParent, TestConcurrentCancel: cancels while children are being made."""
    for _ in range(10):
        root, cancel = context.with_cancel(context.background())
        born = WaitGroup()

        def breed(root=root):
            for _ in range(20):
                child, _ = context.with_cancel(root)
                if root.err() is not None:
                    assert wait_done(child) == context.Canceled

        for _ in range(3):
            born.go(breed)
        go(cancel)
        born.wait(DEADLINE_S)
        wait_done(root)
        gc.collect()


@pytest.mark.parametrize(
    ("causes", "expected"),
    [
        ([("parent", KeyError("p"))], ("p", "p")),
        ([("child", KeyError("c"))], (None, "c")),
        ([("parent", KeyError("p")), ("child", KeyError("c"))], ("p", "p")),
        ([("child", KeyError("c")), ("parent", KeyError("p"))], ("p", "c")),
        ([("parent", None)], (context.Canceled, context.Canceled)),
        ([], (None, None)),
    ],
)
def test_cause(causes, expected):
    """TestCause: the first of parent and child that is cancelled decides the child's."""
    parent, cancel_parent = context.with_cancel_cause(context.background())
    child, cancel_child = context.with_cancel_cause(parent)
    for whose, cause in causes:
        {"parent": cancel_parent, "child": cancel_child}[whose](cause)
    for ctx, want in zip((parent, child), expected, strict=True):
        cause = context.cause(ctx)
        assert cause == want if want in (None, context.Canceled) else cause.args == (want,)


def test_cause_race():
    """TestCauseRace: whoever sees the end sees its cause."""
    ctx, cancel = context.with_cancel_cause(context.background())
    go(cancel, KeyError("why"))
    while (cause := context.cause(ctx)) is None:
        pass
    assert cause.args == ("why",)


def test_without_cancel():
    """TestWithoutCancel."""
    ctx = context.without_cancel(context.with_value(context.background(), "key", "value"))
    assert ctx.value("key") == "value"
    assert repr(ctx).endswith(".WithoutCancel")
    child, _ = context.with_cancel(ctx)
    assert is_open(child)


# ---------------------------------------------------------------- x_test.go AfterFunc
def test_after_func_called_after_cancel():
    """TestAfterFuncCalledAfterCancel."""
    ctx, cancel = context.with_cancel(context.background())
    out = Chan(1)
    stop = context.after_func(ctx, out.send, 1)
    with pytest.raises(TimeoutError):
        out.recv(0.01)
    cancel()
    out.recv(DEADLINE_S)
    assert stop() is False


def test_after_func_called_after_timeout():
    """TestAfterFuncCalledAfterTimeout."""
    ctx, _ = context.with_timeout(context.background(), 0.01)
    out = Chan(1)
    context.after_func(ctx, out.send, 1)
    out.recv(DEADLINE_S)
    assert ctx.err() == context.DeadlineExceeded


def test_after_func_called_immediately():
    """TestAfterFuncCalledImmediately."""
    ctx, cancel = context.with_cancel(context.background())
    cancel()
    out = Chan(1)
    context.after_func(ctx, out.send, 1)
    out.recv(DEADLINE_S)


def test_after_func_not_called_after_stop():
    """TestAfterFuncNotCalledAfterStop."""
    ctx, cancel = context.with_cancel(context.background())
    n = AtomicInt()
    assert context.after_func(ctx, n.add, 1)() is True
    cancel()
    last = Chan(1)
    context.after_func(ctx, last.send, 1)
    last.recv(DEADLINE_S)
    assert n.load() == 0


def test_after_func_called_asynchronously():
    """TestAfterFuncCalledAsynchronously: cancel does not wait for it."""
    ctx, cancel = context.with_cancel(context.background())
    hold = Chan()
    context.after_func(ctx, hold.send, 1)
    cancel()
    hold.recv(DEADLINE_S)
    assert select(after(LONG_S).recv, ctx.done().recv).index == 1
