"""What every call that takes a time, a timeout or a number says to a wrong one: one clear error, before anything is done."""

from __future__ import annotations

import os
from decimal import Decimal
from fractions import Fraction

import numpy
import pytest

from mproc_go import (
    AtomicInt,
    Chan,
    Cond,
    Group,
    KeyedChan,
    Mutex,
    Once,
    RWMutex,
    Semaphore,
    Ticker,
    Timer,
    WaitGroup,
    after,
    after_func,
    context,
    go,
    gomaxprocs,
    select,
    sleep,
    wait_readable,
)

BAD = ["1", [], 1j, object(), float("nan"), Decimal("nan"), numpy.float64("nan")]


def _waits():
    """(what, call with a timeout that would have to wait, what it leaves behind) of all that take a timeout."""
    ch, full, mutex, free, rw, wg, sem, once = Chan(), Chan(1), Mutex(), Mutex(), RWMutex(), WaitGroup(), Semaphore(1), Once()
    full.send(0)
    mutex.lock()
    rw.lock()
    wg.add(1)
    sem.acquire()
    cond = Cond(mutex)
    keyed, reader, pipe = KeyedChan(), rw.reader(), os.pipe()
    yield "recv", ch.recv
    yield "recv_ok", ch.recv_ok
    yield "send", lambda t: full.send(1, t)
    yield "select", lambda t: select(ch.recv, timeout=t)
    yield "Mutex.lock", mutex.lock
    yield "RWMutex.lock", rw.lock
    yield "RWMutex.rlock", rw.rlock
    yield "reader().lock", reader.lock
    yield "WaitGroup.wait", wg.wait
    yield "Cond.wait", cond.wait
    yield "acquire", lambda t: sem.acquire(1, t)
    yield "KeyedChan.receive", lambda t: keyed.receive("k", t)
    yield "wait_readable", lambda t: wait_readable(pipe[0], t)
    # These need not wait, and look at the timeout all the same.
    yield "free Mutex.lock", free.lock
    yield "Once.do", lambda t: once.do(abs, 1, timeout=t)
    for fd in pipe:
        os.close(fd)


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_a_timeout_that_is_none(rt, bad):
    """TypeError or ValueError that says what a timeout is, whether or not it would have come to waiting."""
    for what, call in _waits():
        with pytest.raises((TypeError, ValueError), match="timeout is a number of seconds, or None to wait for ever, not"):
            call(bad)
        assert what  # in the traceback's locals


@pytest.mark.parametrize("zero", [0, -1, -0.0, float("-inf"), -(10**400), Decimal("-1"), False, numpy.float32(0)])
def test_zero_or_less_does_not_wait(rt, zero):
    """TimeoutError at once, from whatever would have to wait."""
    for what, call in _waits():
        if what not in ("free Mutex.lock", "Once.do"):
            with pytest.raises(TimeoutError):
                call(zero)


@pytest.mark.parametrize("little", [0.001, Fraction(1, 1000), Decimal("0.001"), numpy.float32(0.001)], ids=repr)
def test_what_is_a_number_of_seconds(rt, little):
    """Whatever Python takes for a number; it is waited that long."""
    for what, call in _waits():
        if what not in ("free Mutex.lock", "Once.do"):
            with pytest.raises(TimeoutError, match="within 0.00"):
                call(little)
    sleep(little)
    after(little).recv(20)


@pytest.mark.parametrize("huge", [float("inf"), 1e300, 10**400, Decimal("1e400")], ids=["inf", "1e300", "int", "Decimal"])
def test_for_ever(rt, huge):
    """Longer than any program runs is for ever, in whatever type."""
    ch = Chan()
    h = go(ch.recv, huge)
    ch.send(1, huge)
    assert h.result(huge) == 1
    timer, ticker = Timer(huge), Ticker(huge)
    assert timer.stop()
    ticker.stop()
    ctx, cancel = context.with_timeout(context.background(), huge)
    assert ctx.err() is None
    assert ctx.deadline() == float("inf") or ctx.deadline() > 1e200
    cancel()
    assert context.with_deadline(context.background(), huge)[0].err() is None


@pytest.mark.parametrize("bad", [*BAD, None], ids=repr)
def test_a_time_that_is_none(rt, bad):
    """Timers, tickers, contexts and sleep say that a time is a number of seconds; nothing was changed."""
    timer, ticker = Timer(3600), Ticker(3600)
    background = context.background()
    calls = [sleep, after, Timer, Ticker, timer.reset, ticker.reset]
    calls += [lambda t: after_func(t, abs, 1), lambda t: context.with_timeout(background, t)]
    calls += [lambda t: context.with_deadline(background, t)]
    for call in calls:
        with pytest.raises((TypeError, ValueError), match="number of seconds, not"):
            call(bad)
    assert timer.stop()
    ticker.stop()


def test_integers_of_numpy(rt):
    """Where an integer is asked for, one of NumPy's will do; a bool as a size will not."""
    two = numpy.int64(2)
    ch = Chan(two)
    assert ch.capacity == 2
    ch.send_many([1, 2])
    assert ch.recv_many(two) == [1, 2]
    wg, number, sem = WaitGroup(), AtomicInt(two), Semaphore(two)
    wg.add(two)
    wg.add(-two)
    wg.wait(0)
    assert (number.add(two), number.swap(numpy.uint8(7)), number.load()) == (4, 4, 7)
    assert number.compare_and_swap(numpy.int32(7), two)
    sem.acquire(two)
    assert not sem.try_acquire(numpy.int8(1))
    sem.release(two)
    with Group(two) as group:
        group.go(abs, 1)
    assert go.options(retries=two)(abs, -1).result(20) == 1
    for call in (Chan, ch.recv_many, Group, gomaxprocs):
        with pytest.raises(TypeError, match="not bool"):
            call(True)


def test_gomaxprocs_0_asks(rt):
    """As in Go; less is a mistake."""
    n = gomaxprocs()
    assert gomaxprocs(0) == gomaxprocs(numpy.int64(0)) == gomaxprocs(None) == n
    with pytest.raises(ValueError, match="at least 1"):
        gomaxprocs(-1)
    assert gomaxprocs() == n


@pytest.mark.parametrize("bad", [None, "x", 1.5, object()], ids=repr)
def test_no_descriptor(rt, bad):
    """A TypeError that says what a descriptor is, in main and in a goroutine."""
    with pytest.raises(TypeError, match="a descriptor is an integer, or an object with fileno"):
        wait_readable(bad, 0.01)
    if bad is None:
        assert isinstance(go(wait_readable, bad).exception(20), TypeError)


def test_once_of_what_is_no_function(rt):
    """Go's text; and it is not done by that."""
    once = Once()
    with pytest.raises(TypeError, match="go of nil func value"):
        once.do(None)
    with pytest.raises(TypeError, match=r"Once\.do needs a function to call, not int"):
        once.do(5)
    done = Chan(1)
    once.do(done.send, 1)
    assert len(done) == 1


@pytest.mark.parametrize("timeout", [None, 0.01, 0, -1])
def test_cond_without_its_lock(rt, timeout):
    """Waiting without the mutex is the same mistake however long; nobody is left waiting, nothing is locked."""
    mutex = Mutex()
    with pytest.raises(RuntimeError, match="unlock of unlocked mutex"):
        Cond(mutex).wait(timeout)
    assert mutex.try_lock()


def test_cond_wait_of_zero_lets_others_at_the_mutex(rt):
    """Whoever polls a condition gives those their turn who make it come true."""
    mutex, became = Mutex(), Chan(1)
    cond = Cond(mutex)

    def make(mutex, became):
        with mutex:
            became.send(True)

    with mutex:
        h = go(make, mutex, became)
        while not len(became):
            with pytest.raises(TimeoutError):
                cond.wait(0)
            sleep(0.0005)
        assert not mutex.try_lock()
    h.result(20)


def test_text_of_a_context_whose_deadline_had_passed(rt):
    """It says what it is: a deadline of its own, be it past; a later one than the parent's is none."""
    past, _ = context.with_timeout(context.background(), -5)
    assert repr(past).startswith("context.Background.WithDeadline(")
    assert "[-0." in repr(past)
    early, cancel = context.with_timeout(context.background(), 3600)
    later, _ = context.with_timeout(early, 7200)
    assert repr(later).endswith("].WithCancel") or repr(later).endswith(").WithCancel")
    cancel()
