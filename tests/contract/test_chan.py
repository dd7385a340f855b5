"""Chan: the rules of Go's channels, between any places of any processes."""

from __future__ import annotations

import itertools
import random
import threading
import time

import numpy
import pytest

from mproc_go import Chan, ChanClosed, EncodeError, SharedMemoryFull, WaitGroup, WouldBlock, go, gosched
from tests.contract.support import DEADLINE_S, echo, forward, send_all, until_waiting, waiters


# ------------------------------------------------------------ making one
@pytest.mark.parametrize("capacity", [-1, -(2**70)])
def test_negative_capacity(rt, capacity):
    """A negative capacity is a ValueError, in Go's words."""
    with pytest.raises(ValueError, match="makechan: size out of range"):
        Chan(capacity)


@pytest.mark.parametrize("capacity", ["1", 1.0, True, None, [1], b"1"])
def test_capacity_of_another_type(rt, capacity):
    """A capacity that is no integer is a TypeError that names its type."""
    with pytest.raises(TypeError, match=type(capacity).__name__):
        Chan(capacity)


@pytest.mark.parametrize("capacity", [10**6, 10**9, 10**12, 10**15, 2**62, 2**63, 2**64, 10**30])
def test_absurd_capacity(rt, capacity):
    """A very large capacity works or is a clear error at once, and the runtime goes on."""
    try:
        ch = Chan(capacity)
    except (ValueError, SharedMemoryFull):
        pass
    else:
        assert ch.capacity == capacity
        ch.send("v")
        assert ch.recv() == "v"
    assert go(echo, 1).result(DEADLINE_S) == 1


def test_what_can_be_asked(who):
    """len, capacity, closed, bool and repr."""

    def body():
        ch = Chan(3)
        assert (len(ch), ch.capacity, ch.closed, bool(ch)) == (0, 3, False, True)
        ch.send(1)
        ch.send(2)
        assert (len(ch), ch.capacity, ch.closed, bool(ch)) == (2, 3, False, True)
        assert "len=2" in repr(ch) and "capacity=3" in repr(ch) and "open" in repr(ch)
        ch.close()
        assert (len(ch), ch.closed) == (2, True)
        assert list(ch) == [1, 2]
        assert (len(ch), ch.closed, bool(ch)) == (0, True, True)
        assert "closed" in repr(ch)
        un = Chan()
        assert (len(un), un.capacity, bool(un)) == (0, 0, True)
        with pytest.raises(AttributeError):
            ch.capacity = 5

    who(body)


def test_chan_of_a_type(rt):
    """Chan[int] is Chan, for type checkers only."""
    ch = Chan[int](1)
    assert type(ch) is Chan
    ch.send("not an int")
    assert ch.recv() == "not an int"


# ------------------------------------------------------------ order
def test_buffered_is_fifo(who):
    """What goes in first comes out first, around the end of the ring many times."""

    def body():
        ch = Chan(3)
        sent = itertools.count()
        received = []
        for n in [1, 2, 3, 3, 1, 2] * 10:
            for _ in range(n):
                ch.send(next(sent))
            received += [ch.recv() for _ in range(n)]
        assert received == list(range(len(received)))

    who(body)


@pytest.mark.parametrize("capacity", [0, 1, 7])
def test_order_through_a_goroutine(who, capacity):
    """One sender's messages keep their order."""

    def body():
        a, b = Chan(capacity), Chan(capacity)
        go(forward, a, b)
        go(send_all, a, range(200))
        assert [b.recv(DEADLINE_S) for _ in range(200)] == list(range(200))
        a.close()

    who(body)


def test_waiting_receivers_are_served_in_order(who):
    """The longest waiting receiver gets the value."""

    def body():
        ch, out = Chan(), Chan(20)

        def receiver(i):
            out.send((i, ch.recv()))

        for i in range(6):
            go(receiver, i)
            until_waiting(ch, receivers=i + 1)
        for i in range(6):
            ch.send_nowait(i)
        assert sorted(out.recv(DEADLINE_S) for _ in range(6)) == [(i, i) for i in range(6)]

    who(body)


@pytest.mark.parametrize("capacity", [0, 2])
def test_waiting_senders_are_served_in_order(who, capacity):
    """The longest waiting sender is next, behind what is buffered."""

    def body():
        ch = Chan(capacity)
        for i in range(capacity):
            ch.send(i)
        for i in range(5):
            go(ch.send, capacity + i)
            until_waiting(ch, senders=i + 1)
        assert [ch.recv() for _ in range(capacity + 5)] == list(range(capacity + 5))

    who(body)


def test_nowait_overtakes_nobody(who):
    """A place or a value belongs to who waits for it, also if somebody comes in between."""

    def body():
        ch = Chan(1)
        ch.send("first")
        go(ch.send, "second")
        until_waiting(ch, senders=1)
        assert ch.recv() == "first"
        with pytest.raises(WouldBlock):
            ch.send_nowait("third")
        assert ch.recv() == "second"

    who(body)


# ------------------------------------------------------------ rendezvous
def test_unbuffered_send_waits_for_its_receiver(who):
    """A send on an unbuffered channel is over only when a receiver has the value."""

    def body():
        ch, done = Chan(), Chan(1)

        def sender():
            ch.send("v")
            done.send("sent")

        go(sender)
        until_waiting(ch, senders=1)
        assert len(done) == 0 and len(ch) == 0
        assert ch.recv() == "v"
        assert done.recv(DEADLINE_S) == "sent"

    who(body)


def test_unbuffered_receiver_waits(who):
    """And a receiver waits for a sender."""

    def body():
        ch, done = Chan(), Chan(1)
        go(lambda: done.send(ch.recv()))
        until_waiting(ch, receivers=1)
        assert len(done) == 0
        ch.send(5)
        assert done.recv(DEADLINE_S) == 5

    who(body)


def test_full_buffer_makes_the_sender_wait(who):
    """The sender behind a full buffer goes on when a place becomes free."""

    def body():
        ch, done = Chan(2), Chan(1)

        def sender():
            send_all(ch, range(3))
            done.send("sent")

        go(sender)
        until_waiting(ch, senders=1)
        assert (len(ch), len(done)) == (2, 0)
        assert ch.recv() == 0
        assert done.recv(DEADLINE_S) == "sent"
        assert [ch.recv(), ch.recv()] == [1, 2]

    who(body)


def test_ping_pong(who):
    """Two goroutines hand a value to and fro."""

    def body():
        a, b = Chan(), Chan()

        def pong():
            for v in a:
                b.send(v + 1)

        go(pong)
        v = 0
        for _ in range(200):
            a.send(v)
            v = b.recv()
        a.close()
        assert v == 200

    who(body)


# ------------------------------------------------------------ close
@pytest.mark.parametrize("capacity", [0, 3])
def test_closed_channel(who, capacity):
    """What is buffered can still be received; then ChanClosed, (None, False), and the end of an iteration, for ever."""

    def body():
        ch = Chan(capacity)
        for i in range(capacity):
            ch.send(i)
        ch.close()
        assert ch.closed
        for call in (lambda: ch.send(9), lambda: ch.send(9, 0), lambda: ch.send(9, 1), lambda: ch.send_nowait(9)):
            with pytest.raises(ChanClosed, match=r"^send on closed channel$"):
                call()
        with pytest.raises(ChanClosed, match=r"^close of closed channel$"):
            ch.close()
        if capacity:
            assert ch.recv() == 0
            assert ch.recv_ok() == (1, True)
            assert ch.recv_nowait() == 2
        for _ in range(3):
            for call in (ch.recv, lambda: ch.recv(0), lambda: ch.recv(1), ch.recv_nowait):
                with pytest.raises(ChanClosed):
                    call()
            assert ch.recv_ok() == (None, False)
            assert ch.recv_ok(0) == (None, False)
            assert list(ch) == []

    who(body)


def test_none_is_a_message(who):
    """None, False and (None, False) are values like any other."""

    def body():
        ch = Chan(5)
        values = [None, False, 0, "", (None, False)]
        for v in values:
            ch.send(v)
        ch.close()
        assert [ch.recv_ok() for _ in values] == [(v, True) for v in values]
        assert ch.recv_ok() == (None, False)

    who(body)


def test_close_wakes_every_waiting_receiver(who):
    """All of them: recv raises, recv_ok says False, iterations end."""

    def body():
        ch, out = Chan(), Chan(30)

        def by_recv():
            try:
                ch.recv()
            except ChanClosed as error:
                out.send(str(error))

        def by_recv_ok():
            out.send(ch.recv_ok())

        def by_iteration():
            out.send(list(ch))

        def with_timeout():
            try:
                ch.recv(DEADLINE_S)
            except ChanClosed:
                out.send("with timeout")

        for fn in (by_recv, by_recv_ok, by_iteration, with_timeout):
            for _ in range(3):
                go(fn)
        until_waiting(ch, receivers=12)
        ch.close()
        got = [out.recv(DEADLINE_S) for _ in range(12)]
        for what in ("receive on closed channel", (None, False), [], "with timeout"):
            assert got.count(what) == 3

    who(body)


@pytest.mark.parametrize("capacity", [0, 2])
def test_close_wakes_every_waiting_sender(who, capacity):
    """They get ChanClosed, and what they brought is gone; what was buffered stays."""

    def body():
        ch, out = Chan(capacity), Chan(30)

        def sender(i, timeout):
            try:
                ch.send(f"lost {i}", timeout)
            except ChanClosed as error:
                out.send(str(error))

        for i in range(capacity):
            ch.send(i)
        for i in range(6):
            go(sender, i, None if i % 2 else DEADLINE_S)
        until_waiting(ch, senders=6)
        ch.close()
        assert [out.recv(DEADLINE_S) for _ in range(6)] == ["send on closed channel"] * 6
        assert list(ch) == list(range(capacity))

    who(body)


def test_iteration_ends_with_the_channel(who):
    """for v in ch."""

    def body():
        ch = Chan(2)

        def producer():
            send_all(ch, range(50))
            ch.close()

        go(producer)
        assert list(ch) == list(range(50))

    who(body)


def test_iteration_that_is_left_early(who):
    """A loop that is broken off takes no more than it showed."""

    def body():
        ch = Chan(5)
        send_all(ch, range(5))
        for v in ch:
            if v == 2:
                break
        assert len(ch) == 2
        assert ch.recv() == 3

    who(body)


# ------------------------------------------------------------ not waiting, and not waiting for long
def test_nowait(who):
    """WouldBlock where they would have to wait; the channel is as it was."""

    def body():
        for capacity in (0, 2):
            ch = Chan(capacity)
            with pytest.raises(WouldBlock):
                ch.recv_nowait()
            for i in range(capacity):
                ch.send_nowait(i)
            with pytest.raises(WouldBlock):
                ch.send_nowait("too many")
            assert len(ch) == capacity
            assert [ch.recv_nowait() for _ in range(capacity)] == list(range(capacity))
        assert not issubclass(WouldBlock, ChanClosed) and not issubclass(ChanClosed, WouldBlock)
        assert not issubclass(WouldBlock, TimeoutError)

    who(body)


def test_nowait_meets_who_waits(who):
    """Without waiting oneself one can still serve somebody who waits."""

    def body():
        ch, out = Chan(), Chan(1)
        go(lambda: out.send(ch.recv()))
        until_waiting(ch, receivers=1)
        ch.send_nowait("v")
        assert out.recv(DEADLINE_S) == "v"
        h = go(ch.send, "w")
        until_waiting(ch, senders=1)
        assert ch.recv_nowait() == "w"
        h.result(DEADLINE_S)

    who(body)


@pytest.mark.parametrize("timeout", [0, -1, 0.0, 0.05])
def test_timeouts(who, timeout):
    """TimeoutError, never early, and no trace is left: no value, no waiter."""

    def body():
        ch = Chan()
        full = Chan(1)
        full.send("stays")
        for call in (
            lambda: ch.recv(timeout),
            lambda: ch.recv_ok(timeout),
            lambda: ch.send("lost", timeout),
            lambda: full.send("lost", timeout),
        ):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                call()
            assert time.monotonic() - began >= timeout
        assert waiters(ch) == waiters(full) == (0, 0)
        with pytest.raises(WouldBlock):
            ch.recv_nowait()
        with pytest.raises(WouldBlock):
            ch.send_nowait(1)
        full.close()
        assert list(full) == ["stays"]

    who(body)


def test_timeout_that_is_not_needed(who):
    """With a timeout that does not pass everything is as without, many times over."""

    def body():
        ch, back = Chan(), Chan(1)

        def server():
            while True:
                v, ok = ch.recv_ok(DEADLINE_S)
                if not ok:
                    return
                back.send(v, DEADLINE_S)

        go(server)
        for i in range(100):
            ch.send(i, DEADLINE_S)
            assert back.recv(DEADLINE_S) == i
        ch.close()

    who(body)


def test_who_timed_out_takes_nothing(who):
    """After a receive timed out, the next value goes to the next receiver."""

    def body():
        ch, out = Chan(), Chan(20)

        def impatient():
            try:
                ch.recv(0.01)
            except TimeoutError:
                out.send("timed out")

        for _ in range(10):
            go(impatient)
        for _ in range(10):
            assert out.recv(DEADLINE_S) == "timed out"
        go(lambda: out.send(ch.recv()))
        until_waiting(ch, receivers=1)
        ch.send("v")
        assert out.recv(DEADLINE_S) == "v"

    who(body)


def test_race_of_timeouts_and_deliveries(rt, seed):
    """Where a timeout and a delivery come together, the value is either received or stays with its sender."""
    ch, missed = Chan(), Chan(1000)

    def receiver(seed):
        rng = random.Random(seed)
        got = []
        misses = 0
        while True:
            try:
                v, ok = ch.recv_ok(rng.random() * 0.002)
            except TimeoutError:
                misses += 1
                gosched()
                continue
            if not ok:
                return got, misses
            got.append(v)

    def sender(seed, values):
        rng = random.Random(seed)
        for v in values:
            while True:
                try:
                    ch.send(v, rng.random() * 0.002)
                    break
                except TimeoutError:
                    gosched()

    receivers = [go(receiver, seed + i) for i in range(3)]
    senders = [go(sender, seed + 10 + i, range(i * 100, i * 100 + 100)) for i in range(3)]
    for h in senders:
        h.result(DEADLINE_S)
    ch.close()
    got = sorted(v for h in receivers for v in h.result(DEADLINE_S)[0])
    assert got == list(range(300))
    missed.close()


@pytest.mark.parametrize("timeout", ["1", b"", [], object()])
def test_timeout_of_another_type(who, timeout):
    """A timeout that is no number is a TypeError, and leaves no trace."""

    def body(timeout):
        ch = Chan()
        with pytest.raises(TypeError):
            ch.recv(timeout)
        with pytest.raises(TypeError):
            ch.send(1, timeout)
        assert waiters(ch) == (0, 0)
        # The lock is free again: others can use the channel.
        h = go(ch.send, 2)
        assert ch.recv(DEADLINE_S) == 2
        h.result(DEADLINE_S)

    who(body, timeout if type(timeout) is not object else 1j)


def test_timeout_that_is_not_a_number(who):
    """nan and infinity: nan is refused or taken as some number, infinity waits."""

    def body():
        ch = Chan()
        go(ch.send, 1)
        assert ch.recv(float("inf")) == 1
        h = go(ch.recv, 1e300)
        ch.send(2, float("inf"))
        assert h.result(DEADLINE_S) == 2

    who(body)


# ------------------------------------------------------------ messages
@pytest.mark.parametrize("size", [55, 56, 57, 120, 121, 4000, 100_000, 262_144, 1 << 20, 20 << 20])
@pytest.mark.parametrize("capacity", [0, 2])
def test_long_messages(rt, size, capacity):
    """A message of any length arrives whole."""
    ch = Chan(capacity)
    data = random.Random(size).randbytes(min(size, 1000)) * (size // 1000 + 1)
    data = data[:size]
    h = go(ch.send, data)
    assert ch.recv(DEADLINE_S) == data
    h.result(DEADLINE_S)
    h = go(ch.recv)
    ch.send(data)
    assert h.result(DEADLINE_S) == data


def test_long_arguments_and_results(rt):
    """20 MB as argument and result."""
    array = numpy.arange(2_500_000)
    back = go(echo, array).result(DEADLINE_S)
    assert (back == array).all()


def test_messages_are_copies(who):
    """Changing what was sent, or received, is not seen by the other side, also within one process."""

    def body():
        ch = Chan(2)
        one = [1]
        ch.send(one)
        one.append(2)
        got = ch.recv()
        assert got == [1]
        h = go(lambda: ch.recv())
        ch.send(one)
        one.append(3)
        assert h.result() == [1, 2]

    who(body)


def test_handles_in_messages(who):
    """Channels, wait groups and goroutines travel inside messages and containers, by reference."""

    def body():
        carrier = Chan(1)
        inner, wg = Chan(5), WaitGroup()
        wg.add(1)
        carrier.send({"ch": inner, ("k", inner): [wg, (inner,)]})
        got = carrier.recv()
        assert got["ch"] == inner and hash(got["ch"]) == hash(inner)
        assert got["ch"] in {inner} and inner in got[("k", inner)][1]
        got["ch"].send("through the copy")
        assert inner.recv() == "through the copy"
        got[("k", inner)][0].done()
        wg.wait(DEADLINE_S)
        assert inner != Chan(5)

    who(body)


def test_channel_of_channels(who):
    """Request and reply: each request brings the channel its answer goes to."""

    def body():
        requests = Chan()

        def server():
            for n, reply in requests:
                reply.send(n * n)

        go(server)
        for i in range(50):
            reply = Chan()
            requests.send((i, reply))
            assert reply.recv(DEADLINE_S) == i * i
        requests.close()

    who(body)


def test_channel_in_its_own_buffer(who):
    """A channel may travel through itself."""

    def body():
        ch = Chan(2)
        ch.send(ch)
        again = ch.recv()
        assert again == ch
        ch.send([ch, 1])
        del again
        assert ch.recv() == [ch, 1]

    who(body)


def test_equal_wherever_it_came_from(who):
    """Handles of one channel are equal and hash alike, whatever way they came into a process."""

    def body():
        ch = Chan(3)
        ch.send(ch)
        by_message = ch.recv()
        by_result = go(echo, ch).result()
        by_container = go(echo, {"a": (ch,)}).result()["a"][0]
        by_closure = go(lambda: ch).result()
        assert len({ch, by_message, by_result, by_container, by_closure}) == 1

        def there(a, b):
            return a == b and hash(a) == hash(b) and len({a, b, ch}) == 1

        assert go(there, ch, by_message).result()
        assert ch != 5 and ch != WaitGroup()

    who(body)


def test_unencodable_message(who):
    """EncodeError in the sender, naming the type; the channel is as it was."""

    def body():
        for ch in (Chan(), Chan(2)):
            for value, name in (
                (threading.Lock(), "lock"),
                ([1, {"k": (threading.Lock(), ch)}], "lock"),
                ((i for i in range(2)), "generator"),
            ):
                for call in (ch.send, ch.send_nowait, lambda v, ch=ch: ch.send(v, 0.01)):
                    with pytest.raises(EncodeError, match=name):
                        call(value)
            assert len(ch) == 0
            assert waiters(ch) == (0, 0)
        ch.send("fine")
        assert ch.recv() == "fine"

    who(body)


def test_message_that_can_not_be_decoded(who):
    """An error of the receiver's decoding is raised there; the next message arrives."""

    def body():
        class Bad:
            def __reduce__(self):
                return (int, ("no number",))

        ch = Chan(2)
        ch.send(Bad())
        ch.send("next")
        with pytest.raises(Exception, match="no number"):
            ch.recv()
        assert ch.recv() == "next"

    who(body)


# ------------------------------------------------------------ patterns
def test_pipeline(who):
    """Stages that each close what they send to."""

    def body():
        def numbers(out):
            send_all(out, range(100))
            out.close()

        def squares(source, out):
            for v in source:
                out.send(v * v)
            out.close()

        a, b = Chan(), Chan(4)
        go(numbers, a)
        go(squares, a, b)
        assert list(b) == [v * v for v in range(100)]

    who(body)


def test_prime_sieve(who):
    """Go's sieve: a chain of filters that grows while it runs. Source: Go test/chan/sieve1.go."""

    def body():
        def generate(out):
            for i in itertools.count(2):
                try:
                    out.send(i)
                except ChanClosed:
                    return

        def sift(source, out, prime):
            for v in source:
                if v % prime:
                    try:
                        out.send(v)
                    except ChanClosed:
                        return

        ch = Chan()
        go(generate, ch)
        primes, chans = [], [ch]
        for _ in range(15):
            prime = ch.recv(DEADLINE_S)
            primes.append(prime)
            following = Chan()
            go(sift, ch, following, prime)
            ch = following
            chans.append(ch)
        for ch in chans:
            ch.close()
        assert primes == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47]

    who(body)


@pytest.mark.parametrize(
    ("producers", "consumers", "capacity"), [(1, 1, 0), (4, 3, 0), (3, 5, 1), (8, 8, 3), (5, 1, 16)]
)
def test_every_value_arrives_exactly_once(rt, seed, producers, consumers, capacity):
    """Conservation: many producers and consumers over all Ps, in a random mix of ways to send and receive."""
    each = 150
    ch, wg = Chan(capacity), WaitGroup()

    def producer(seed, values):
        rng = random.Random(seed)
        for v in values:
            message = v if rng.random() < 0.7 else (v, "x" * rng.randrange(300))
            way = rng.randrange(4)
            try:
                if way == 0:
                    ch.send(message, 0.0005)
                elif way == 1:
                    ch.send_nowait(message)
                else:
                    ch.send(message)
            except (TimeoutError, WouldBlock):
                ch.send(message)
            if rng.random() < 0.1:
                gosched()

    def consumer(seed):
        rng = random.Random(seed)
        got = []
        while True:
            way = rng.randrange(4)
            try:
                if way == 0:
                    v = ch.recv(0.0005)
                elif way == 1:
                    v = ch.recv_nowait()
                else:
                    v = ch.recv()
            except ChanClosed:
                return got
            except (TimeoutError, WouldBlock):
                gosched()
                continue
            got.append(v if isinstance(v, int) else v[0])

    handles = [go(consumer, seed + i) for i in range(consumers)]
    for i in range(producers):
        wg.go(producer, seed + 100 + i, range(i * each, (i + 1) * each))
    wg.wait(DEADLINE_S)
    ch.close()
    streams = [h.result(DEADLINE_S) for h in handles]
    assert sorted(itertools.chain(*streams)) == list(range(producers * each))
    if consumers == 1:  # then each producer's order is kept, too
        for i in range(producers):
            mine = [v for v in streams[0] if v // each == i]
            assert mine == sorted(mine)


def test_main_and_threads_and_goroutines_at_once(rt, seed):
    """Threads of the main program and goroutines share channels."""
    ch, out = Chan(2), Chan(4)
    for _ in range(3):
        go(forward, ch, out)
    got, threads = [], []

    def sender(i):
        send_all(ch, range(i * 100, i * 100 + 100))

    for i in range(4):
        threads.append(threading.Thread(target=sender, args=(i,)))
        threads[-1].start()
    for _ in range(400):
        got.append(out.recv(DEADLINE_S))
    for thread in threads:
        thread.join()
    ch.close()
    assert sorted(got) == list(range(400))


def test_many_goroutines_wait_on_one_channel(rt):
    """1,000 goroutines wait on one channel, and each gets its value."""
    ch, out = Chan(), Chan(10)

    def waiter():
        out.send(ch.recv())

    for _ in range(1000):
        go(waiter)
    until_waiting(ch, receivers=1000)
    go(send_all, ch, range(1000))
    assert sorted(out.recv(DEADLINE_S) for _ in range(1000)) == list(range(1000))


def test_waiting_blocks_no_p(rt):
    """Goroutines that wait leave their Ps to others: more wait than there are Ps, and work goes on."""
    ch = Chan()
    handles = [go(ch.recv) for _ in range(50)]
    assert go(echo, 1).result(DEADLINE_S) == 1
    for i in range(50):
        ch.send(i)
    assert sorted(h.result(DEADLINE_S) for h in handles) == list(range(50))
