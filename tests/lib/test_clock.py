"""Timers and tickers: never early, nothing stale, fired by whoever is not busy."""

from __future__ import annotations

import gc
import time

import pytest

from mproc_go import Chan, ChanClosed, Ticker, Timer, WouldBlock, after, after_func, go, num_goroutine
from mproc_go.lib import alarm, clock
from mproc_go.shm.layout import TM_LOOK

pytestmark = pytest.mark.usefixtures("rt")

DEADLINE_S = 20.0
LONG_S = 1000.0


def check(timer):
    m = timer._m()
    m.enter(timer._lock)
    try:
        clock.check(m.w, timer._base)
    finally:
        m.leave(timer._lock)


@pytest.mark.parametrize("seconds", [-1, 0, 0.001, 0.05])
def test_after_is_never_early(seconds):
    began, wall = time.monotonic(), time.time()
    sent = after(seconds).recv(DEADLINE_S)
    assert time.monotonic() - began >= seconds
    assert sent - wall >= min(seconds, 0) - 0.001


def test_fires_though_the_worker_that_made_it_computes():
    def busy(out, stop):
        timer = Timer(0.02)
        out.send(timer.c)
        while not len(stop):  # never lets another goroutine of this worker run
            pass

    out, stop = Chan(1), Chan(1)
    hog = go(busy, out, stop)
    assert out.recv(DEADLINE_S).recv(DEADLINE_S)
    stop.send(None)
    hog.result(DEADLINE_S)


def test_survives_the_goroutine_that_made_it():
    def make(out):
        out.send(after(0.05))

    out = Chan(1)
    go(make, out).result(DEADLINE_S)
    assert out.recv().recv(DEADLINE_S)


def test_stop_and_reset_say_whether_it_was_active():
    timer = Timer(LONG_S)
    check(timer)
    assert timer.stop() is True
    assert timer.stop() is False
    assert timer.reset(LONG_S) is False
    assert timer.reset(0.01) is True
    check(timer)
    timer.c.recv(DEADLINE_S)
    assert timer.stop() is False
    assert timer.reset(LONG_S) is False
    assert timer.stop() is True


def test_nothing_stale_after_stop_or_reset():
    """Go 1.23: not in the channel either."""
    timer = Timer(0)
    while not len(timer.c):
        pass
    assert timer.stop() is True  # it had not been received
    with pytest.raises(WouldBlock):
        timer.c.recv_nowait()
    timer.reset(0)
    while not len(timer.c):
        pass
    began = time.monotonic()
    assert timer.reset(0.02) is True
    timer.c.recv(DEADLINE_S)
    assert time.monotonic() - began >= 0.02
    assert not timer.c.closed


def test_stopped_and_reset_from_elsewhere():
    timer = Timer(LONG_S)
    assert go(timer.stop).result(DEADLINE_S) is True
    assert go(timer.reset, 0.01).result(DEADLINE_S) is False
    assert timer.c.recv(DEADLINE_S)
    timer.reset(0.05)
    began = time.monotonic()
    assert go(timer.reset, 0.1).result(DEADLINE_S) is True  # later, from another process
    timer.c.recv(DEADLINE_S)
    assert time.monotonic() - began >= 0.1
    check(timer)


def test_ticks_come_one_period_apart_and_a_slow_receiver_loses_them():
    began, ticker = time.monotonic(), Ticker(0.01)
    for i in range(1, 6):
        ticker.c.recv(DEADLINE_S)
        assert time.monotonic() - began >= i * 0.01
    wait_until = time.monotonic() + DEADLINE_S
    while not len(ticker.c):
        assert time.monotonic() < wait_until, "no tick"
    due = time.monotonic() + 0.05
    while time.monotonic() < due:
        assert len(ticker.c) == 1
    ticker.stop()
    assert len(ticker.c) == 0
    with pytest.raises(TimeoutError):
        ticker.c.recv(0.03)
    ticker.reset(0.01)
    ticker.c.recv(DEADLINE_S)
    ticker.stop()
    assert not ticker.c.closed


@pytest.mark.parametrize("bad", [0, -1, float("-inf")])
def test_a_ticker_needs_a_period(bad):
    with pytest.raises(ValueError, match="^non-positive interval for NewTicker$"):
        Ticker(bad)
    ticker = Ticker(LONG_S)
    with pytest.raises(ValueError, match="^non-positive interval for Ticker.Reset$"):
        ticker.reset(bad)
    ticker.stop()


def test_times_beyond_all_bounds():
    for seconds in (1e12, float("inf")):
        assert Timer(seconds).stop()


def test_after_func():
    out = Chan(10)
    began = time.monotonic()
    after_func(0.02, out.send, "called")  # nobody keeps it
    assert out.recv(DEADLINE_S) == "called"
    assert time.monotonic() - began >= 0.02
    timer = after_func(LONG_S, out.send, "again")
    assert timer.c is None
    assert timer.stop() is True
    assert timer.stop() is False
    assert timer.reset(0) is False
    assert out.recv(DEADLINE_S) == "again"
    assert timer.stop() is False
    with pytest.raises(TypeError):
        after_func(0, None)


def test_a_closed_channel_ends_the_ticker():
    ticker = Ticker(0.01)
    ticker.c.close()
    with pytest.raises(ChanClosed):
        ticker.c.recv(DEADLINE_S)
    while ticker._m().w[ticker._base + TM_LOOK]:
        pass
    with pytest.raises(ChanClosed):
        ticker.c.recv(0)


def test_timers_nobody_can_reach_are_freed():
    kept = Timer(LONG_S)
    heap = alarm.of(kept._m())
    for _ in range(5000):
        after(LONG_S)
    gc.collect()
    assert len(heap._heap) < 4000
    kept.stop()


def test_many_at_once_each_in_its_time():
    times = [(i * 7919 % 500) / 5000 for i in range(500)]
    made = [(t, time.monotonic(), after(t)) for t in times]
    for t, began, channel in sorted(made, key=lambda m: m[0]):
        channel.recv(DEADLINE_S)
        assert time.monotonic() - began >= t


def test_the_thread_that_fires_counts_as_no_goroutine_and_goes():
    before = num_goroutine()
    after(0).recv(DEADLINE_S)
    assert num_goroutine() <= before
    equal = Timer(LONG_S)
    box = Chan(2)
    box.send(equal)
    assert box.recv() == equal
    assert box.capacity == 2
    equal.stop()
