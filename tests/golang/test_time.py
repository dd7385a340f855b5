"""Behaviours of Go's time/tick_test.go and sleep_test.go, with the rules of Go 1.23, written anew; each names its origin."""

from __future__ import annotations

import random
import time

import pytest

from mproc_go import AtomicInt, Chan, Ticker, Timer, WouldBlock, after, after_func, go, gosched, select, sleep
from tests.lib.support import DEADLINE_S

pytestmark = pytest.mark.usefixtures("rt")

LONG_S = 1000.0


def nothing(ch):
    try:
        ch.recv_nowait()
    except WouldBlock:
        return True
    return False


# ---------------------------------------------------------------- tick_test.go
def test_ticker():
    """TestTicker: n ticks take n periods at the least, also after a reset to another."""
    count, period = 5, 0.005
    began = time.monotonic()
    ticker = Ticker(period)
    for _ in range(count):
        ticker.c.recv(DEADLINE_S)
    assert time.monotonic() - began >= count * period
    began = time.monotonic()
    ticker.reset(period * 2)
    for _ in range(count):
        ticker.c.recv(DEADLINE_S)
    assert time.monotonic() - began >= count * period * 2
    ticker.stop()
    sleep(period * 3)
    assert nothing(ticker.c)


def test_ticker_stop_with_direct_initialization_and_teardown():
    """TestTeardown: stopped again and again, in their own goroutines."""

    def one():
        ticker = Ticker(0.002)
        ticker.c.recv(DEADLINE_S)
        ticker.stop()
        return nothing(ticker.c)

    assert all(h.result(DEADLINE_S) for h in [go(one) for _ in range(6)])


def test_new_ticker_less_than_zero_duration():
    """TestNewTickerLtZeroDuration, TestTickerResetLtZeroDuration."""
    with pytest.raises(ValueError, match="^non-positive interval for NewTicker$"):
        Ticker(-1)
    ticker = Ticker(LONG_S)
    with pytest.raises(ValueError, match="^non-positive interval for Ticker.Reset$"):
        ticker.reset(0)
    ticker.stop()


def test_long_adjust_timers():
    """TestLongAdjustTimers: many timers elsewhere don't keep a short one."""
    timers = [Timer(LONG_S + i) for i in range(200)]
    for t in timers[::2]:
        t.reset(LONG_S)
    for t in timers[1::2]:
        assert t.stop()
    after(0.01).recv(DEADLINE_S)
    assert all(t.stop() for t in timers[::2])


# ---------------------------------------------------------------- TestChan (1.23)
def test_chan_timer_reset_and_stop_leave_nothing_stale():
    """TestChan: Reset and Stop after it fired, with and without the value received."""
    timer = Timer(LONG_S)
    assert nothing(timer.c)
    for _ in range(3):
        assert timer.reset(0) is True
        while not len(timer.c):
            gosched()
        assert timer.reset(LONG_S) is True  # what had been sent is taken back
        assert nothing(timer.c)
        assert timer.reset(0) is True
        while not len(timer.c):
            gosched()
        assert timer.stop() is True
        assert nothing(timer.c)
        assert timer.reset(0) is False
        timer.c.recv(DEADLINE_S)
        assert timer.reset(LONG_S) is False
        assert nothing(timer.c)


def test_chan_ticker_reset_and_stop_leave_nothing_stale():
    """TestChan, for tickers."""
    ticker = Ticker(0.002)
    while not len(ticker.c):
        gosched()
    ticker.reset(LONG_S)
    assert nothing(ticker.c)
    ticker.reset(0.002)
    ticker.c.recv(DEADLINE_S)
    while not len(ticker.c):
        gosched()
    ticker.stop()
    assert nothing(ticker.c)


def test_reset_wakes_who_waits():
    """TestChan, the select and blocked-receiver cases: a reset reaches a receiver that waits already."""
    timer, out = Timer(LONG_S), Chan(1)

    def wait():
        out.send(select(timer.c.recv, Chan().recv).index)

    go(wait)
    go(timer.reset, 0.005)
    assert out.recv(DEADLINE_S) == 0


# ---------------------------------------------------------------- sleep_test.go
def test_sleep_and_after():
    """TestSleep, TestAfter: never early."""
    for wait in (sleep, lambda s: after(s).recv(DEADLINE_S)):
        began = time.monotonic()
        wait(0.02)
        assert time.monotonic() - began >= 0.02


def test_after_func():
    """TestAfterFunc: a chain of them, each starting the next."""
    n, done = AtomicInt(10), Chan()

    def link():
        if n.add(-1) >= 0:
            after_func(0, link)
            return
        done.send(True)

    after_func(0, link)
    done.recv(DEADLINE_S)


def test_after_tick():
    """TestAfterTick: as many waits as there are take their time."""
    began = time.monotonic()
    for _ in range(5):
        after(0.004).recv(DEADLINE_S)
    assert time.monotonic() - began >= 5 * 0.004


def test_after_stop():
    """TestAfterStop: what is stopped in time is not called; a later one shows that its time has passed."""
    out = Chan(3)
    t0 = after_func(LONG_S, out.send, "never")
    c1 = Timer(LONG_S)
    assert t0.stop() is True
    assert c1.stop() is True
    after_func(0.02, out.send, "later")
    assert out.recv(DEADLINE_S) == "later"
    assert t0.stop() is False
    assert c1.stop() is False
    assert nothing(c1.c) and len(out) == 0


@pytest.mark.parametrize("after_", [lambda s: after(s), lambda s: Timer(s).c], ids=["After", "NewTimer"])
def test_after_queuing(after_):
    """TestAfterQueuing: whatever order they are made in, they fire in the order of their times.

    Making them takes its time as well, on a busy machine more than lies between two of them: when each is due is only
    known to be within the time its making took. Go's test gives a busy machine four more tries instead.
    """
    slots = [5, 3, 6, 6, 6, 1, 1, 2, 7, 9, 4, 8, 0]
    result = Chan(len(slots))

    def wait(i, ch):
        result.send((i, ch.recv()))

    due = []
    for i, slot in enumerate(slots):
        before = time.monotonic()
        ch = after_(slot * 0.03)
        due.append((before + slot * 0.03, time.monotonic() + slot * 0.03))
        go(wait, i, ch)
    fired = dict(result.recv(DEADLINE_S) for _ in slots)
    for i, (_, latest) in enumerate(due):
        for j, (earliest, _) in enumerate(due):
            assert latest >= earliest or fired[i] <= fired[j], (slots[i], slots[j], due, fired)


def test_timer_stop_stress():
    """TestTimerStopStress: stopped from other goroutines, none is called."""
    called = AtomicInt()

    def one(i):
        timer = after_func(LONG_S, called.add, 1)
        if i % 3:
            gosched()
        return timer.stop()

    assert all(h.result(DEADLINE_S) for h in [go(one, i) for i in range(100)])
    assert called.load() == 0


def test_reset():
    """TestReset: active while running, not after it fired."""
    timer = Timer(LONG_S)
    assert timer.reset(2 * LONG_S) is True
    assert nothing(timer.c)
    assert timer.reset(0.01) is True
    timer.c.recv(DEADLINE_S)
    assert timer.reset(0.01) is False
    timer.c.recv(DEADLINE_S)


def test_overflow_sleep():
    """TestOverflowSleep: the longest and the most negative times."""
    for big in (1e300, float("inf")):
        assert select(after(big).recv, after(0.01).recv).index == 1
    for small in (-1e300, float("-inf")):
        after(small).recv(DEADLINE_S)


def test_issue_5745():
    """TestIssue5745, TestSleepZeroDeadlock: timers of no length, stopped from within others, don't stop the rest."""
    out = Chan(1)

    def inner():
        for _ in range(20):
            Timer(0).stop()
        out.send(True)

    after_func(0, inner)
    assert out.recv(DEADLINE_S)
    sleep(0)


def test_timer_reset_race(seed):
    """TestStopResetRace: many stop and reset one timer; it fires once for the last reset, never early."""
    timer, rng = Timer(LONG_S), random.Random(seed)

    def fiddle(seed):
        rng = random.Random(seed)
        for _ in range(30):
            if rng.randrange(2):
                timer.stop()
            else:
                timer.reset(rng.random() * 0.002)

    for h in [go(fiddle, rng.randrange(1 << 30)) for _ in range(4)]:
        h.result(DEADLINE_S)
    began = time.monotonic()
    timer.reset(0.01)
    timer.c.recv(DEADLINE_S)
    assert time.monotonic() - began >= 0.01
    sleep(0.01)
    assert nothing(timer.c)
