"""What nobody can reach is freed; a program that makes and drops stays flat; and how many there may be at once."""

from __future__ import annotations

import gc
import time

import psutil
import pytest

from mproc_go import Chan, WaitGroup, go, gosched, num_goroutine
from mproc_go.runtime import process
from mproc_go.shm.layout import H_COMMITTED_WORDS, WORD
from tests.contract.support import DEADLINE_S, echo, until, until_waiting

MIB = 1 << 20


def committed():
    """Bytes of the segment that have memory behind them."""
    return process.process.segment.w[H_COMMITTED_WORDS] * WORD


def memory_of_all():
    """Private memory of this process and of all of its workers, in bytes."""
    me = psutil.Process()
    return sum(p.memory_full_info().uss for p in [me, *me.children(recursive=True)])


def flat(step, rounds=3, spare=MIB):
    """Run `step` once to fill caches and pools, then several times more: the segment must not grow any further."""
    step()
    before = committed()
    for _ in range(rounds):
        step()
    gc.collect()
    assert committed() - before <= spare, f"grew by {committed() - before} bytes in {rounds} rounds"


# ------------------------------------------------------------ flat
@pytest.mark.parametrize("payload", [1, "x" * 200, b"y" * 20_000])
def test_channels_made_and_dropped(who, payload):
    """20,000 channels, some with messages in them, take no more memory than a few."""
    n = 20_000 // 4 if len(str(payload)) < 10_000 else 500

    def make(n, payload):
        for i in range(n):
            ch = Chan(2)
            if i % 2:
                ch.send(payload)

    flat(lambda: who(make, n, payload))


def test_channels_that_travelled_are_freed(rt):
    """Channels that were sent to other processes and forgotten there are freed, full or empty."""

    def use(ch):
        ch.send("x" * 500)
        return None

    def step():
        for _ in range(1000):
            ch = Chan(1)
            go(use, ch).result(DEADLINE_S)

    flat(step)


def test_channels_in_dropped_channels_are_freed(who):
    """A dropped channel frees the channels in its messages, thousands deep."""

    def nested(n):
        ch = Chan(1)
        for _ in range(n):
            outer = Chan(1)
            outer.send(ch)
            ch = outer
        del outer

    flat(lambda: who(nested, 3000))


def test_results_nobody_asks_for_are_freed(rt):
    """Goroutines whose results and arguments are long and forgotten."""

    def step():
        handles = [go(echo, "r" * 10_000) for _ in range(100)]
        handles[0].result(DEADLINE_S)
        handles.clear()
        until(lambda: num_goroutine() == 1)

    flat(step)


def test_goroutines_one_after_the_other(rt):
    """20,000 goroutines, some at a time."""

    def step():
        wg = WaitGroup()
        for _ in range(50):
            for i in range(100):
                wg.go(echo, i)
            wg.wait(DEADLINE_S)

    flat(step)


def test_wait_groups_and_handles_made_and_dropped(who):
    """The other things."""

    def make():
        for _ in range(2000):
            wg = WaitGroup()
            wg.add(1)
            wg.done()
        for _ in range(500):
            go(echo, wg).result()

    flat(lambda: who(make))


def test_long_messages_give_their_memory_back(rt):
    """100 messages of 5 MB one after the other take the memory of one or two."""

    def step():
        ch, data = Chan(1), b"x" * (5 * MIB)
        for _ in range(25):
            ch.send(data)
            assert len(ch.recv()) == len(data)

    flat(step)
    assert committed() < 200 * MIB


def test_timeouts_leave_no_memory(who):
    """Calls that time out leave nothing."""

    def many():
        ch = Chan()
        for _ in range(2000):
            for call in (lambda: ch.recv(0), lambda: ch.send("x" * 300, 0)):
                try:
                    call()
                except TimeoutError:
                    pass

    flat(lambda: who(many))


# ------------------------------------------------------------ many at once
def wait_for(ch, out):
    out.send(ch.recv())


def spawn_waiters(n, gate):
    for _ in range(n):
        go(gate.recv_ok)


def many_waiting(n):
    gate = Chan()
    began, before = time.monotonic(), (committed(), memory_of_all())
    spawn_waiters(n, gate)
    deadline = time.monotonic() + 600
    while waiting(gate) != n:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        gosched()
    took, now = time.monotonic() - began, (committed(), memory_of_all())
    print(
        f"{n} waiting after {took:.1f} s: {(now[0] - before[0]) / n:.0f} bytes each in the segment, "
        f"{(now[1] - before[1]) / n:.0f} in the processes"
    )
    assert num_goroutine() == n + 1
    began = time.monotonic()
    gate.close()
    until(lambda: num_goroutine() == 1, 600)
    print(f"all over after {time.monotonic() - began:.1f} s more")


def waiting(ch):
    """How many wait, from the statuses of goroutines: walking a queue of 100,000 under its lock would disturb it."""
    from mproc_go.sched import states
    from mproc_go.shm.layout import G_STATUS, POOL_G
    from mproc_go.shm.pool import records

    w = process.process.segment.w
    wanted = states.WAITING | states.CHAN_RECEIVE << states.REASON_SHIFT
    return sum(1 for g in records(w, POOL_G) if w[g + G_STATUS] == wanted)


def test_thousands_wait_at_once(rt):
    """3,000 goroutines wait on a channel at the same time, and all go on."""
    many_waiting(3_000)


@pytest.mark.slow
def test_100_000_wait_at_once(rt):
    """100,000 goroutines wait on a channel at the same time, and all go on."""
    many_waiting(100_000)


@pytest.mark.slow
def test_1_000_000_goroutines_one_after_the_other(rt):
    """A million goroutines in flat memory."""

    def some(n):
        wg = WaitGroup()
        for _ in range(n // 500):
            for i in range(500):
                wg.go(echo, i)
            wg.wait(DEADLINE_S)

    some(50_000)
    began, before = time.monotonic(), (committed(), memory_of_all())
    some(1_000_000)
    took, now = time.monotonic() - began, (committed(), memory_of_all())
    print(f"{took:.1f} s, {took:.2f} us each; grew by {now[0] - before[0]} and {now[1] - before[1]} bytes")
    assert now[0] - before[0] < MIB
    assert now[1] - before[1] < 20 * MIB


@pytest.mark.slow
def test_1_000_000_channels_made_and_dropped(rt):
    """A million channels in flat memory, some of them full."""

    def some(n):
        for i in range(n):
            ch = Chan(1)
            if i & 1:
                ch.send("x" * 100)

    some(50_000)
    began, before = time.monotonic(), (committed(), memory_of_all())
    some(1_000_000)
    took, now = time.monotonic() - began, (committed(), memory_of_all())
    print(f"{took:.1f} s, {took:.2f} us each; grew by {now[0] - before[0]} and {now[1] - before[1]} bytes")
    assert now[0] - before[0] < MIB
    assert now[1] - before[1] < 20 * MIB


@pytest.mark.slow
def test_a_goroutine_waits_on_each_of_20_000_channels(rt):
    """Each on a channel of its own."""
    n = 20_000
    chans = [Chan() for _ in range(n)]
    out = Chan(100)
    for ch in chans:
        go(wait_for, ch, out)
    until(lambda: waiting(out) == n, 300)
    go(lambda: [ch.send(i) for i, ch in enumerate(chans)])
    assert sorted(out.recv(DEADLINE_S) for _ in range(n)) == list(range(n))


def test_waiters_on_channels_of_their_own(rt):
    """500 of them in the fast set."""
    chans, out = [Chan() for _ in range(500)], Chan(10)
    for ch in chans:
        go(wait_for, ch, out)
    until_waiting(chans[-1], receivers=1)
    for i, ch in enumerate(chans):
        ch.send(i)
        assert out.recv(DEADLINE_S) == i
