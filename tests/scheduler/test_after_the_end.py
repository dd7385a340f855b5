"""Once a panic or a deadlock has ended the program: every call says so, and what only gives back says it once."""

from __future__ import annotations

import asyncio
import os

import pytest

from mproc_go import (
    AtomicInt,
    Chan,
    Cond,
    Deadlock,
    GoroutinePanic,
    Group,
    KeyedChan,
    Mutex,
    Once,
    RWMutex,
    Semaphore,
    SharedArray,
    SharedMap,
    Ticker,
    Timer,
    WaitGroup,
    after,
    after_func,
    blocking,
    context,
    default,
    go,
    goexit,
    goid,
    gomaxprocs,
    gosched,
    num_goroutine,
    run,
    select,
    sleep,
    stacks,
    stats,
    wait_readable,
    wait_writable,
)
from mproc_go.runtime import process as rt
from mproc_go.shm.layout import CH_CLOSED, MX_LOCKED, RW_STATE

DEADLINE_S = 30


def boom():
    raise ValueError("boom")


def calls():
    """Every call there is, on things that are such that it would not have to wait: {name: call}.

    Then those that only look at something or give it back, {name: two such calls}; and what to call in the end.
    """
    full, empty, closed, drained = Chan(100), Chan(100), Chan(1), Chan(0)
    full.send_many(range(90))
    closed.send(1)
    closed.close()
    drained.close()
    free, rw = Mutex(), RWMutex()
    none, one, once, done_once = WaitGroup(), WaitGroup(), Once(), Once()
    one.add(100)
    done_once.do(abs, 1)
    cond, sem, number = Cond(Mutex()), Semaphore(200), AtomicInt()
    sem.acquire(100)
    timer, ticker = Timer(3600), Ticker(3600)
    ctx, cancel = context.with_cancel(context.background())
    valued = context.with_value(ctx, "key", 1)
    _, cancel_cause = context.with_cancel_cause(ctx)
    ended = go(abs, -1)
    assert ended.result(DEADLINE_S) == 1
    mapping, keyed, group = SharedMap(), KeyedChan(), Group()
    mapping["a"] = 1
    keyed.send("a", 1)
    reader, writer = os.pipe()
    os.write(writer, b"x")

    def of_asyncio(make):
        return lambda: asyncio.run(_awaited(make))

    tell = {
        "send": lambda: empty.send(1),
        "send, full": lambda: full.send(1, 0),
        "send, closed": lambda: closed.send(1),
        "send_nowait": lambda: empty.send_nowait(1),
        "send_many": lambda: empty.send_many([1]),
        "send_many, nothing": lambda: empty.send_many([]),
        "recv": full.recv,
        "recv, closed": closed.recv,
        "recv, drained": drained.recv,
        "recv_ok": full.recv_ok,
        "recv_ok, drained": drained.recv_ok,
        "recv_nowait": full.recv_nowait,
        "recv_many": lambda: full.recv_many(1),
        "for": lambda: next(iter(full)),
        "len": lambda: len(full),
        "closed": lambda: full.closed,
        "asend": of_asyncio(lambda: empty.asend(1)),
        "arecv": of_asyncio(full.arecv),
        "Chan": Chan,
        "Chan, named": lambda: Chan(name="q"),
        "select": lambda: select(full.recv),
        "select, default": lambda: select(default),
        "Mutex": Mutex,
        "lock": free.lock,
        "try_lock": free.try_lock,
        "RWMutex.lock": rw.lock,
        "RWMutex.try_lock": rw.try_lock,
        "rlock": rw.rlock,
        "try_rlock": rw.try_rlock,
        "WaitGroup": WaitGroup,
        "WaitGroup.wait": lambda: none.wait(0),
        "WaitGroup.go": lambda: none.go(abs, 1),
        "Once": Once,
        "Once.do": lambda: once.do(abs, 1),
        "Once.do, done": lambda: done_once.do(abs, 1),
        "Cond.wait": lambda: cond.wait(0),
        "signal": cond.signal,
        "broadcast": cond.broadcast,
        "Semaphore": lambda: Semaphore(1),
        "acquire": sem.acquire,
        "try_acquire": sem.try_acquire,
        "AtomicInt": AtomicInt,
        "load": number.load,
        "store": lambda: number.store(1),
        "add": lambda: number.add(1),
        "swap": lambda: number.swap(1),
        "compare_and_swap": lambda: number.compare_and_swap(1, 2),
        "Timer": lambda: Timer(1),
        "Timer.stop": timer.stop,
        "Timer.reset": lambda: timer.reset(1),
        "Ticker": lambda: Ticker(1),
        "Ticker.stop": ticker.stop,
        "Ticker.reset": lambda: ticker.reset(1),
        "after": lambda: after(1),
        "after_func": lambda: after_func(1, abs, 1),
        "err": ctx.err,
        "cause": lambda: context.cause(ctx),
        "with_cancel": lambda: context.with_cancel(ctx),
        "with_timeout": lambda: context.with_timeout(ctx, 1),
        "with_value": lambda: context.with_value(ctx, "k", 1),
        "without_cancel": lambda: context.without_cancel(ctx),
        "context.after_func": lambda: context.after_func(ctx, abs, 1),
        "go": lambda: go(abs, 1),
        "result": ended.result,
        "exception": ended.exception,
        "goid": goid,
        "goexit": goexit,
        "gosched": gosched,
        "gomaxprocs": gomaxprocs,
        "gomaxprocs, 1": lambda: gomaxprocs(1),
        "num_goroutine": num_goroutine,
        "sleep": lambda: sleep(0.001),
        "sleep, 0": lambda: sleep(0),
        "blocking": lambda: blocking(abs, 1),
        "wait_readable": lambda: wait_readable(reader),
        "wait_writable": lambda: wait_writable(writer, 0),
        "Group": Group,
        "Group.go": lambda: group.go(abs, 1),
        "Group.wait": group.wait,
        "SharedMap": SharedMap,
        "map, get": lambda: mapping["a"],
        "map, store": lambda: mapping.store("b", 1),
        "KeyedChan": KeyedChan,
        "keyed, send": lambda: keyed.send("b", 1),
        "keyed, receive": lambda: keyed.receive("a"),
        "SharedArray": lambda: SharedArray(3, "d"),
    }
    locks, read, written, open_ = [Mutex(), Mutex()], [RWMutex(), RWMutex()], [RWMutex(), RWMutex()], [Chan(), Chan()]
    for lock in (*locks, *written):
        lock.lock()
    for lock in read:
        lock.rlock()
    give_back = {
        "unlock": [lock.unlock for lock in locks],
        "RWMutex.unlock": [lock.unlock for lock in written],
        "runlock": [lock.runlock for lock in read],
        "close": [ch.close for ch in open_],
        "done": [one.done] * 2,
        "release": [sem.release] * 2,
        "cancel": [cancel] * 2,
        "cancel, cause": [lambda: cancel_cause(KeyError())] * 2,
        "value": [lambda: valued.value("key")] * 2,
        "deadline": [ctx.deadline] * 2,
        "Goroutine.done": [ended.done] * 2,
        "stats": [stats] * 2,
        "stacks": [stacks] * 2,
    }

    def check_given_back():
        assert [lock._words()[lock._base + MX_LOCKED] for lock in locks] == [0, 0]
        assert [lock._words()[lock._base + RW_STATE] for lock in (*read, *written)] == [0] * 4
        assert [ch._words()[ch._base + CH_CLOSED] for ch in open_] == [1, 1]
        os.close(reader)
        os.close(writer)

    return tell, give_back, check_given_back


async def _awaited(make):
    return await make()


def test_every_call_says_so():
    """At the next call, whichever it is, and at every later one, but for those that a finally block is made of."""

    def main():
        tell, give_back, check_given_back = calls()
        process = rt.process
        go(boom)
        with pytest.raises(GoroutinePanic, match="boom"):
            sleep(DEADLINE_S)
        for what, call in tell.items():
            for told in (False, True):
                process.told = told
                with pytest.raises(GoroutinePanic, match="boom"):
                    print(what, call())  # only where it does not raise
        for what, (first, later) in give_back.items():
            process.told = False
            with pytest.raises(GoroutinePanic, match="boom"):
                print(what, first())
            assert process.told, what
            later()
        check_given_back()
        return "on"

    assert run(main) == "on"


def test_finally_blocks_run_through():
    """What the panic interrupts gives back all it had, and the panic is raised once, with nothing before it."""
    given_back = []

    def main():
        ch, mutex, sem, wg = Chan(), Mutex(), Semaphore(1), WaitGroup()
        _, cancel = context.with_cancel(context.background())
        wg.add(1)
        go(boom)
        try:
            with mutex, sem:
                sleep(DEADLINE_S)
        finally:
            cancel()
            wg.done()
            ch.close()
            given_back.append(True)

    with pytest.raises(GoroutinePanic, match="boom") as caught:
        run(main)
    assert caught.value.__context__ is None or not isinstance(caught.value.__context__, GoroutinePanic)
    assert given_back == [True]


def test_goexit_in_main():
    """Main ends, its finally blocks run, the others go on; what they end with is what `run` raises."""
    log = []

    def counted(started, go_on, n):
        n.send(num_goroutine())
        started.send(1)
        go_on.recv()
        boom()

    def main():
        started, go_on, n = Chan(), Chan(), Chan(1)
        go(counted, started, go_on, n)
        started.recv()
        log.append(n.recv())
        go(release_later, go_on)
        try:
            goexit()
        finally:
            log.append("finally")

    with pytest.raises(GoroutinePanic, match="boom"):
        run(main)
    assert log == [2, "finally"]


def release_later(go_on):
    while num_goroutine() != 2:  # main, which is none any more
        gosched()
    go_on.send(1)


def test_goexit_in_main_and_nobody_is_left():
    """Go's text for it, without any stack."""

    def main():
        go(abs, 1)
        goexit()

    with pytest.raises(Deadlock) as caught:
        run(main)
    assert str(caught.value) == "no goroutines (main called runtime.Goexit) - deadlock!"


def test_goexit_in_main_and_somebody_is_asleep():
    """The usual report, and main is not in it."""

    def main():
        go(Chan().recv)
        goexit()

    with pytest.raises(Deadlock) as caught:
        run(main)
    text = str(caught.value)
    assert text.startswith("all goroutines are asleep - deadlock!\n\ngoroutine ")
    assert "goroutine 1 [" not in text
    # Its stack is that of a method of ours: it ran nothing of the user's.
    assert "[chan receive]:\n  File " in text
    assert "in recv" in text
