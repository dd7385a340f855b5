"""Behaviours of Go's test/chan programs and of runtime/chan_test.go, written anew; each names its origin."""

from __future__ import annotations

import heapq
import itertools
import pathlib
import random
from collections import Counter
from fractions import Fraction

import pytest

from mproc_go import (
    AtomicInt,
    Chan,
    ChanClosed,
    MprocError,
    WaitGroup,
    WouldBlock,
    default,
    go,
    gosched,
    select,
)
from tests.chan.support import DEADLINE_S, live_records, until_given_back, until_waiting, waiters

pytestmark = pytest.mark.usefixtures("rt")


def results(handles):
    return [h.result(DEADLINE_S) for h in handles]


# ---------------------------------------------------------------- test/chan/doubleselect.go
def test_doubleselect():
    """doubleselect.go: a value offered to four channels at once arrives once; senders and receivers both select."""
    n = 500
    chans = [Chan() for _ in range(4)]
    merged = Chan()

    def offer():
        sent = Counter(select(*((c.send, i) for c in chans)).index for i in range(n))
        for c in chans:
            c.close()
        return sent

    def pass_on(c):
        for v in c:
            merged.send(v)

    def take_both(a, b):
        cases = [a.recv, b.recv]
        while any(cases):
            index, v, ok = select(*cases)
            if ok:
                merged.send(v)
            else:
                cases[index] = None

    handles = [go(offer), go(pass_on, chans[0]), go(pass_on, chans[1]), go(take_both, chans[2], chans[3])]
    assert sorted(merged.recv(DEADLINE_S) for _ in range(n)) == list(range(n))
    sent = results(handles)[0]
    assert sum(sent.values()) == n
    with pytest.raises(WouldBlock):
        merged.recv_nowait()


# ---------------------------------------------------------------- test/chan/fifo.go
N_FIFO = 10


def test_asynch_fifo():
    """fifo.go AsynchFifo: what is buffered comes in its order."""
    ch = Chan(N_FIFO)
    for i in range(N_FIFO):
        ch.send(i)
    assert [ch.recv() for _ in range(N_FIFO)] == list(range(N_FIFO))


def test_synch_fifo():
    """fifo.go SynchFifo: a chain of goroutines, each of which waits for the one before, lets values through in order."""
    ch = Chan()

    def link(i, before, after):
        before.recv()
        assert ch.recv() == i
        after.send(1)

    first = before = Chan()
    handles = []
    for i in range(N_FIFO):
        after = Chan()
        handles.append(go(link, i, before, after))
        before = after
    first.send(0)
    for i in range(N_FIFO):
        ch.send(i)
    before.recv(DEADLINE_S)
    results(handles)


# ---------------------------------------------------------------- test/chan/goroutines.go
def test_goroutines():
    """goroutines.go: a long chain of goroutines, all made before the first value goes through it."""

    def link(left, right):
        left.send(right.recv())

    leftmost = left = Chan()
    handles = []
    for _ in range(2000):
        right = Chan()
        handles.append(go(link, left, right))
        left = right
    sending = go(left.send, 42)
    assert leftmost.recv(DEADLINE_S) == 42
    results([*handles, sending])


# ---------------------------------------------------------------- test/chan/nonblock.go
@pytest.mark.parametrize("value", [17, 2.5, "s", True, None, [1, {"k": (2,)}], b"x" * 1000], ids=type)
@pytest.mark.parametrize("capacity", [0, 1])
def test_nonblock(value, capacity):
    """nonblock.go: operations that don't block, on empty and full channels, with somebody waiting and nobody."""
    ch, strobe = Chan(capacity), Chan()

    def receive():
        assert ch.recv() == value
        strobe.send(True)

    def send():
        ch.send(value)
        strobe.send(True)

    with pytest.raises(WouldBlock):
        ch.recv_nowait()
    assert select(ch.recv, default) == (1, None, False)
    receiving = go(receive)
    until_waiting(ch, receivers=1)
    ch.send_nowait(value)
    strobe.recv(DEADLINE_S)
    receiving = [receiving, go(receive)]
    until_waiting(ch, receivers=1)
    assert select((ch.send, value), default).index == 0
    strobe.recv(DEADLINE_S)
    if capacity:
        ch.send_nowait(value)
    with pytest.raises(WouldBlock):
        ch.send_nowait(value)
    assert select((ch.send, value), default).index == 1
    sending = go(send)
    until_waiting(ch, senders=1)
    for _ in range(capacity + 1):
        assert ch.recv_nowait() == value
    strobe.recv(DEADLINE_S)
    with pytest.raises(WouldBlock):
        ch.recv_nowait()
    results([*receiving, sending])


# ---------------------------------------------------------------- test/chan/perm.go
def test_perm():
    """perm.go: what a channel of one direction can't do, it refuses; here as it is called, in Go as it is compiled."""
    ch = Chan(1)
    send_only, recv_only = ch.sender, ch.receiver
    for forbidden in (
        lambda: send_only.recv(),
        lambda: next(iter(send_only)),
        lambda: send_only.recv_nowait(),
        lambda: select(send_only.recv, default),
        lambda: recv_only.send(1),
        lambda: recv_only.send_nowait(1),
        lambda: recv_only.close(),
        lambda: select((recv_only.send, 1), default),
    ):
        with pytest.raises((AttributeError, TypeError)) as caught:
            forbidden()
        assert not isinstance(caught.value, MprocError)
    assert len(ch) == 0 and not ch.closed
    select((send_only.send, 1))
    assert select(recv_only.recv, default) == (0, 1, True)
    send_only.close()
    assert recv_only.closed


# ---------------------------------------------------------------- test/chan/powser1.go
# A power series is a channel of its coefficients, computed when they are asked for; a goroutine for every operation.
def coefficients(out, values):
    try:
        for v in values:
            out.send(v)
    except ChanClosed:
        pass


def series(values):
    out = Chan()
    go(coefficients, out, values)
    return out


def ones():
    return series([Fraction(1)] * 64)


def split(source, a, b):
    """Each coefficient to both: whoever asks first gets it first."""
    try:
        for v in source:
            if select((a.send, v), (b.send, v)).index == 0:
                b.send(v)
            else:
                a.send(v)
    except ChanClosed:
        pass


def add(a, b, out):
    try:
        while True:
            out.send(a.recv() + b.recv())
    except ChanClosed:
        pass


def multiply(a, b, out):
    """Terms of a product: f*g = f0*g0 + x*(f0*G + g0*F) + x*x*F*G, where f = f0 + x*F. Source: powser1.go Mul."""
    fs, gs = [], []
    try:
        while True:
            fs.append(a.recv())
            gs.append(b.recv())
            n = len(fs)
            out.send(sum(fs[i] * gs[n - 1 - i] for i in range(n)))
    except ChanClosed:
        pass


def derive(a, out):
    try:
        a.recv()
        for n in itertools.count(1):
            out.send(n * a.recv())
    except ChanClosed:
        pass


def integrate(c, a, out):
    try:
        out.send(c)
        for n in itertools.count(1):
            out.send(a.recv() / n)
    except ChanClosed:
        pass


def exponential(a, out):
    """E = exp(a) satisfies E' = a' * E: it feeds its own definition. Source: powser1.go Exp."""
    derived, product, back, forth, whole = Chan(), Chan(), Chan(), Chan(), Chan()
    go(derive, a, derived)
    go(multiply, derived, back, product)
    go(integrate, Fraction(1), product, whole)
    go(split, whole, back, forth)
    try:
        for v in forth:
            out.send(v)
    except ChanClosed:
        pass
    for ch in (derived, product, back, forth, whole, a):
        ch.close()


def first(ch, n):
    got = [ch.recv(DEADLINE_S) for _ in range(n)]
    ch.close()
    return got


def test_powser1():
    """powser1.go: power series as channels of rational numbers; exp is defined through itself."""
    n = 8
    doubled = Chan()
    go(add, ones(), ones(), doubled)
    assert first(doubled, n) == [2] * n
    squared = Chan()
    go(multiply, ones(), ones(), squared)
    assert first(squared, n) == list(range(1, n + 1))
    integral = Chan()
    go(integrate, Fraction(0), ones(), integral)
    assert first(integral, n) == [0, *(Fraction(1, i) for i in range(1, n))]
    exp = Chan()
    go(exponential, series([Fraction(0), Fraction(1), *[Fraction(0)] * 62]), exp)
    factorials = list(itertools.accumulate(range(1, n), lambda a, b: a * b, initial=1))
    assert first(exp, n) == [Fraction(1, f) for f in factorials]


# ---------------------------------------------------------------- test/chan/select.go
def test_select():
    """select.go: two channels are offered, now one, now the other, now both, now none (nil); what comes is in order."""
    a, b = Chan(1), Chan(1)

    def offer():
        counter, shift = 0, 0
        a1, b1 = a, b
        count = 0
        while count < 200:
            cases = [(a1.send, counter) if a1 else None, (b1.send, counter) if b1 else None]
            if any(cases):
                select(*cases)
                counter += 1
                count += 1
            shift += 1
            a1 = a if shift & 1 else None
            b1 = b if shift & 2 else None
        return counter

    sending = go(offer)
    got = [select(a.recv, b.recv, timeout=DEADLINE_S).value for _ in range(200)]
    assert sorted(got) == list(range(200))
    assert sending.result(DEADLINE_S) == 200


# ---------------------------------------------------------------- test/chan/select2.go
def test_select2():
    """select2.go: selects that lose again and again leave nothing behind, in no queue and in no pool."""
    data, quit_ = Chan(), Chan()

    def send(n):
        for i in range(n):
            data.send(i)

    def receive(n):
        for _ in range(n):
            assert select(data.recv, quit_.recv).index == 0
            assert waiters(quit_)[0] == 0

    results([go(send, 100), go(receive, 100)])
    before = live_records()
    results([go(send, 2000), go(receive, 2000)])
    assert waiters(data) == waiters(quit_) == (0, 0)
    until_given_back(before)


# ---------------------------------------------------------------- test/chan/select3.go
def closed():
    ch = Chan()
    ch.close()
    return ch


def full():
    ch = Chan(1)
    ch.send("there")
    return ch


NEVER_READY = {
    "send to nil": lambda: select(None, timeout=0),
    "recv from nil": lambda: select(None, None, timeout=0),
    "unbuffered send": lambda: Chan().send(1, timeout=0),
    "unbuffered recv": lambda: Chan().recv(timeout=0),
    "full send": lambda: full().send(1, timeout=0),
    "empty recv": lambda: Chan(10).recv(timeout=0),
    "select without cases": lambda: select(timeout=0),
    "select of blocked sends": lambda: select((Chan().send, 1), (full().send, 1), timeout=0),
    "select of blocked receives": lambda: select(Chan().recv, Chan(1).recv, None, timeout=0),
}
AT_ONCE = {
    "closed recv": (lambda: closed().recv_ok(), (None, False)),
    "full recv": (lambda: full().recv(), "there"),
    "room send": (lambda: Chan(10).send(1), None),
    "select with default": (lambda: select(Chan().recv, default).index, 1),
    "select with default alone": (lambda: select(default).index, 0),
    "select of closed": (lambda: select(Chan().recv, closed().recv), (1, None, False)),
    "select of full": (lambda: select(None, full().recv), (1, "there", True)),
    "select of room": (lambda: select((full().send, 1), (Chan(1).send, 1)).index, 1),
}


@pytest.mark.parametrize("name", NEVER_READY)
def test_select3_blocks(name):
    """select3.go testBlock(always): what blocks for ever in Go has not happened when its time is over."""
    with pytest.raises(TimeoutError):
        NEVER_READY[name]()


@pytest.mark.parametrize("name", AT_ONCE)
def test_select3_does_not_block(name):
    """select3.go testBlock(never)."""
    operation, expected = AT_ONCE[name]
    assert operation() == expected


@pytest.mark.parametrize("other", [None, default])
def test_select3_panics(other):
    """select3.go testPanic: a send to a closed channel is ready, also beside default, and raises when it is chosen."""
    with pytest.raises(ChanClosed, match="send on closed channel"):
        select((closed().send, 7), other)
    with pytest.raises(ChanClosed):
        closed().send(7)


# ---------------------------------------------------------------- test/chan/select4.go
def test_select4():
    """select4.go: what a case stores is what it received, not what another of the cases would have."""
    c, c1 = Chan(1), Chan(1)
    c1.send(42)
    index, value, ok = select(c.recv, c1.recv)
    assert (index, value, ok) == (1, 42, True)
    c.send(7)
    assert select(c.recv, c1.recv) == (0, 7, True)


# ---------------------------------------------------------------- test/chan/select5.go
def test_select5(seed):
    """select5.go: random selects; a case is evaluated once, in order, and what is done is one of what is ready."""
    rng = random.Random(seed)
    for _ in range(300):
        evaluated, cases, ready, chans = [], [], {}, []

        def case(number, what, rng=rng, evaluated=evaluated, ready=ready, chans=chans):
            evaluated.append(number)
            if what == "nil":
                return None
            if what == "default":
                return default
            ch = Chan(rng.randrange(3)) if what.endswith("blocked") else Chan(1 + rng.randrange(3))
            chans.append((number, ch, what))
            if what == "recv ready":
                ch.send(number)
                ready[number] = (number, True)
            elif what == "recv closed":
                ch.close()
                ready[number] = (None, False)
            elif what == "send ready":
                ready[number] = (None, True)
            elif what == "send blocked":
                for i in range(ch.capacity):
                    ch.send(i)
            return ch.recv if what.startswith("recv") else (ch.send, number)

        kinds = ["nil", "recv ready", "recv blocked", "recv closed", "send ready", "send blocked"]
        program = [rng.choice(kinds) for _ in range(rng.randrange(8))]
        program.insert(rng.randrange(len(program) + 1), "default")
        cases = [case(i, what) for i, what in enumerate(program)]
        chosen = select(*cases)
        assert evaluated == list(range(len(program)))
        if ready:
            assert ready[chosen.index] == chosen[1:], (program, chosen)
        else:
            assert chosen == (program.index("default"), None, False)
        for number, ch, what in chans:
            before = {"recv ready": 1, "send blocked": ch.capacity}.get(what, 0)
            done = number == chosen.index
            change = {"recv ready": -1, "send ready": 1}.get(what, 0) if done else 0
            assert len(ch) == before + change, (program, number, chosen)
            assert waiters(ch) == (0, 0)


# ---------------------------------------------------------------- test/chan/select6.go
def test_select6():
    """select6.go: a select that loses on a channel leaves its queue without breaking the links of the others there."""
    c1, c2, c3 = Chan(), Chan(), Chan()

    def lose_and(lost, then):
        index = select(lost, c2.recv).index
        assert index == 1
        c3.send(True)
        then()

    for receiving in (True, False):
        operation = c1.recv if receiving else (c1.send, True)
        plain = c1.recv if receiving else (lambda: c1.send(True))
        waiting = {"receivers": 1} if receiving else {"senders": 1}
        handles = [go(plain)]
        until_waiting(c1, **waiting)
        handles.append(go(lose_and, operation, plain))
        until_waiting(c1, **dict.fromkeys(waiting, 2))
        handles.append(go(plain))
        until_waiting(c1, **dict.fromkeys(waiting, 3))
        c2.send(True)
        c3.recv(DEADLINE_S)
        until_waiting(c1, **dict.fromkeys(waiting, 3))
        for _ in range(3):
            if receiving:
                c1.send(True)
            else:
                assert c1.recv(DEADLINE_S)
        results(handles)
        assert waiters(c1) == (0, 0)


# ---------------------------------------------------------------- test/chan/select7.go
RECEIVES = {
    "plain": lambda ch, stop: ch.recv(),
    "select": lambda ch, stop: select(ch.recv).value,
    "select with another": lambda ch, stop: select(stop.recv, ch.recv).value,
}
SENDS = {
    "plain": lambda ch, stop, v: ch.send(v),
    "select": lambda ch, stop, v: select((ch.send, v)),
    "select with another": lambda ch, stop, v: select(stop.recv, (ch.send, v)),
}


@pytest.mark.parametrize("receive", RECEIVES)
@pytest.mark.parametrize("send", SENDS)
def test_select7(receive, send):
    """select7.go: a send or receive that waits, alone or in a select, is met by one that polls with default."""
    ch, stop = Chan(), Chan()
    sending = go(SENDS[send], ch, stop, 1)
    while (got := select(ch.recv, default)).index:
        gosched()
    assert got.value == 1
    receiving = go(RECEIVES[receive], ch, stop)
    while select((ch.send, 2), default).index:
        gosched()
    assert receiving.result(DEADLINE_S) == 2
    both = [go(SENDS[send], ch, stop, 3), go(RECEIVES[receive], ch, stop)]
    assert results(both)[1] == 3
    sending.result(DEADLINE_S)


# ---------------------------------------------------------------- test/chan/sieve1.go, sieve2.go
PRIMES = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97]


def generate(out):
    try:
        for i in itertools.count(2):
            out.send(i)
    except ChanClosed:
        pass


def sift(source, out, prime):
    try:
        for v in source:
            if v % prime:
                out.send(v)
    except ChanClosed:
        pass


def test_sieve1():
    """sieve1.go: a filter for each prime, a goroutine for each filter."""
    ch = Chan()
    handles, chans, primes = [go(generate, ch)], [ch], []
    for _ in PRIMES:
        primes.append(ch.recv(DEADLINE_S))
        following = Chan()
        handles.append(go(sift, ch, following, primes[-1]))
        ch = following
        chans.append(ch)
    for ch in chans:
        ch.close()
    assert primes == PRIMES
    results(handles)


def multiples(out, prime):
    try:
        for n in itertools.count(prime * prime, prime):
            out.send(n)
    except ChanClosed:
        pass


def test_sieve2():
    """sieve2.go: the composites, merged in a heap out of a buffered channel for each prime, are what primes are not."""
    heap, chans, handles, primes = [], [], [], []
    for n in itertools.count(2):
        if len(primes) == len(PRIMES):
            break
        if not heap or n < heap[0][0]:
            primes.append(n)
            chans.append(Chan(4))
            handles.append(go(multiples, chans[-1], n))
            heapq.heappush(heap, (chans[-1].recv(DEADLINE_S), len(chans) - 1))
        while heap and heap[0][0] == n:
            which = heap[0][1]
            heapq.heapreplace(heap, (chans[which].recv(DEADLINE_S), which))
    for ch in chans:
        ch.close()
    assert primes == PRIMES
    results(handles)


# ---------------------------------------------------------------- runtime/chan_test.go
@pytest.mark.parametrize("capacity", [0, 1, 2, 7, 50])
def test_chan(capacity):
    """TestChan: empty ones block receivers, full ones senders; closed ones give zero; order; conservation."""
    ch = Chan(capacity)
    for receive in (lambda: ch.recv(), lambda: ch.recv_ok()[0]):  # an empty one blocks, also in a select
        handle = go(receive)
        until_waiting(ch, receivers=1)
        assert not handle.done()
        assert select(ch.recv, default).index == 1
        ch.send(0)
        assert handle.result(DEADLINE_S) == 0
    for i in range(capacity):
        ch.send(i)
    handle = go(ch.send, 100)  # a full one blocks
    until_waiting(ch, senders=1)
    assert not handle.done()
    assert select((ch.send, 0), default).index == 1
    assert [ch.recv() for _ in range(capacity + 1)] == [*range(capacity), 100]
    handle.result(DEADLINE_S)
    for i in range(capacity):
        ch.send(i)
    ch.close()  # a closed one drains, then gives nothing for ever
    assert [ch.recv_ok() for _ in range(capacity + 2)] == [*((i, True) for i in range(capacity)), *[(None, False)] * 2]
    with pytest.raises(ChanClosed):
        ch.recv()
    waiting = Chan(capacity)
    handle = go(waiting.recv_ok)
    until_waiting(waiting, receivers=1)
    waiting.close()
    assert handle.result(DEADLINE_S) == (None, False)
    order = Chan(capacity)
    handle = go(lambda n: [order.send(i) for i in range(n)] and None, 100)
    assert [order.recv(DEADLINE_S) for _ in range(100)] == list(range(100))
    handle.result(DEADLINE_S)
    shared = Chan(capacity)  # same numbers from several, to several

    def send():
        for i in range(100):
            shared.send(i)

    def receive():
        got = [shared.recv() for _ in range(100)]
        return Counter(got)

    handles = [go(send) for _ in range(4)] + [go(receive) for _ in range(4)]
    assert sum(filter(None, results(handles)), Counter()) == dict.fromkeys(range(100), 4)


def test_nonblock_recv_race():
    """TestNonblockRecvRace: one that polls once, racing a close, gets what was sent before it."""
    for _ in range(300):
        ch = Chan(1)
        ch.send(1)
        handle = go(lambda ch=ch: select(ch.recv, default))
        ch.close()
        assert select(ch.recv, default)[1:] in ((1, True), (None, False))
        assert handle.result(DEADLINE_S)[1:] in ((1, True), (None, False))
        assert not len(ch)


@pytest.mark.parametrize("close_second", [False, True])
def test_nonblock_select_race(close_second):
    """TestNonblockSelectRace and TestNonblockSelectRace2: a select with default never misses that one of two is ready."""
    done = Chan(1)

    def look(c1, c2):
        done.send(select(c1.recv, c2.recv, default).index)

    for _ in range(300):
        c1, c2 = Chan(1), Chan(1)
        c1.send(1)
        handle = go(look, c1, c2)
        if close_second:
            c2.close()
        else:
            c2.send(1)
        select(c1.recv, default)
        assert done.recv(DEADLINE_S) != 2, "select missed what was ready"
        handle.result(DEADLINE_S)


@pytest.mark.parametrize("capacity", [0, 10])
def test_self_select(capacity):
    """TestSelfSelect: two goroutines that each select both sides of one channel never meet themselves, nor deadlock."""
    ch = Chan(capacity)

    def play(me):
        for i in range(200):
            cases = [(ch.send, me), ch.recv]
            if not i & 1:
                cases.reverse()
            chosen = select(*cases)
            if (chosen.index == 1) == bool(i & 1):
                assert capacity or chosen.value != me, "a select met itself"
        finished.add(1)
        while finished.load() < 2:  # the other may need somebody to meet
            select((ch.send, me), ch.recv, default)
            gosched()

    finished = AtomicInt()
    results([go(play, p) for p in range(2)])


def test_select_stress():
    """TestSelectStress: selects over four channels, on both sides, and plain operations among them."""
    chans = [Chan(), Chan(), Chan(2), Chan(3)]
    n = 200
    group = WaitGroup()

    def send(k):
        for _ in range(n):
            chans[k].send(k)
            gosched()

    def receive(k):
        for _ in range(n):
            assert chans[k].recv() == k
            gosched()

    def send_any():
        left = [n] * 4
        while any(left):
            index = select(*((chans[k].send, k) if left[k] else None for k in range(4))).index
            left[index] -= 1

    def receive_any():
        left = [n] * 4
        while any(left):
            index, value, _ = select(*(chans[k].recv if left[k] else None for k in range(4)))
            assert value == index
            left[index] -= 1

    for k in range(4):
        group.go(send, k)
        group.go(receive, k)
    group.go(send_any)
    group.go(receive_any)
    group.wait(DEADLINE_S)
    assert [len(ch) for ch in chans] == [0] * 4 and all(waiters(ch) == (0, 0) for ch in chans)


def test_select_fairness():
    """TestSelectFairness: neither of two channels that are always ready is preferred."""
    trials = 10_000
    c1, c2 = Chan(trials + 1), Chan(trials + 1)
    for ch in (c1, c2):
        ch.send_many([0] * (trials + 1))
    c3, c4 = Chan(), Chan()
    counts = Counter(select(c3.recv, c4.recv, c1.recv, c2.recv).index for _ in range(trials))
    assert set(counts) == {2, 3}
    # |X - n/2| > 6.2 standard deviations (of 50) happens once in 1.7e9.
    assert abs(counts[2] - trials / 2) < 6.2 * (trials / 4) ** 0.5, counts


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Point and other.x == self.x

    __hash__ = None


def test_chan_send_interface():
    """TestChanSendInterface: an object of any type, through a plain send and a select."""
    ch = Chan(1)
    ch.send(Point(1))
    select((ch.send, Point(2)), default)
    select((ch.send, Point(3)), (ch.send, Point(4)), default)
    assert ch.recv() == Point(1)
    with pytest.raises(WouldBlock):
        ch.recv_nowait()


@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_pseudo_random_send(capacity):
    """TestPseudoRandomSend: a select that can send 0 or 1 sends both, about equally often."""
    n = 400
    ch = Chan(capacity)

    def receive():
        got = []
        for _ in range(n):
            gosched()
            got.append(ch.recv())
        return got

    handle = go(receive)
    for _ in range(n):
        select((ch.send, 0), (ch.send, 1))
    got = handle.result(DEADLINE_S)
    # 200 +- 6.5 standard deviations of 10: less than once in 10**10.
    assert 135 < sum(got) < 265


@pytest.mark.parametrize("capacity", [0, 4])
def test_multi_consumer(capacity):
    """TestMultiConsumer: many that receive, work a little and pass on; the sum is right."""
    primes = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    source, results_ = Chan(capacity * 3), Chan(capacity)
    group = WaitGroup()

    def work(k):
        for v in source:
            if primes[k % len(primes)] == v:
                gosched()
            results_.send(v)

    def feed(n):
        total = 0
        for i in range(n):
            total += primes[i % len(primes)]
            source.send(primes[i % len(primes)])
        source.close()
        group.wait()
        results_.close()
        return total

    for k in range(23):
        group.go(work, k)
    handle = go(feed, 1000)
    assert sum(results_) == handle.result(DEADLINE_S)


def test_select_duplicate_channel():
    """TestSelectDuplicateChannel: a select that has a channel twice leaves both places when another case is done."""
    c, d, e = Chan(), Chan(), Chan()

    def duplicate():
        index = select(c.recv, c.recv, d.recv).index
        e.send(index)
        return index

    handle = go(duplicate)
    until_waiting(c, receivers=2)
    other = go(c.recv)
    until_waiting(c, receivers=3)
    d.send(7)
    assert e.recv(DEADLINE_S) == 2
    assert waiters(c) == (1, 0)
    c.send(8)
    assert other.result(DEADLINE_S) == 8
    assert handle.result(DEADLINE_S) == 2


def test_chan_send_select_barrier():
    """TestChanSendSelectBarrier: what was handed to a waiting select is whole, though its sender has gone on."""
    n = 200

    def run(receive):
        there, back = Chan(), Chan()

        def echo():
            for v in there:
                back.send([*v, len(v)])
                del v

        handle = go(echo)
        for i in range(n):
            message = list(range(i % 50))
            there.send(message)
            message.clear()
            assert receive(back) == [*range(i % 50), i % 50]
        there.close()
        handle.result(DEADLINE_S)

    run(lambda ch: ch.recv(DEADLINE_S))
    run(lambda ch: select(ch.recv, timeout=DEADLINE_S).value)


# ---------------------------------------------------------------- all of them
PROGRAMS = "doubleselect fifo goroutines nonblock perm powser1 select select2 select3 select4 select5 select6 select7"
CHAN_TEST = (
    "TestChan TestNonblockRecvRace TestNonblockSelectRace TestNonblockSelectRace2 TestSelfSelect TestSelectStress "
    "TestSelectFairness TestChanSendInterface TestPseudoRandomSend TestMultiConsumer TestSelectDuplicateChannel "
    "TestChanSendSelectBarrier"
)
# Not here, and why: they are about stacks that are copied while a goroutine waits, and barriers of the collector.
NOT_APPLICABLE = {
    "TestShrinkStackDuringBlockedSend",
    "TestNoShrinkStackWhileParking",
    "TestSelectStackAdjust",
    "TestChanSendBarrier",
    "TestSelectProblem",  # a benchmark of the compiler's
}


def test_every_name_is_here():
    """Each of Go's channel tests has one here that names it."""
    text = pathlib.Path(__file__).read_text().split("# ---------------------------------------------------------------- all")[0]
    for name in [f"{program}.go" for program in (PROGRAMS + " sieve1 sieve2").split()] + CHAN_TEST.split():
        assert name in text, name
