"""Exceptions in the middle of a call: Ctrl-C, what a signal handler raises, no stack left. No lock stays held.

The operation was done or not, wholly; the thread goes on, and so does everybody who uses the same channel.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time

import pytest

from mproc_go import (
    AtomicInt,
    Chan,
    Mutex,
    NotRunning,
    Runtime,
    RWMutex,
    Semaphore,
    WaitGroup,
    WorkerLost,
    go,
    gosched,
    num_goroutine,
    select,
)
from mproc_go.chan import ops
from mproc_go.runtime import process as rt
from mproc_go.shm import layout as L
from tests.scheduler.support import DEADLINE_S, until

# In a finalizer it is swallowed, as Python does with any exception there.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Stop(BaseException):
    """What a signal handler raises."""


class LikeOurs(LookupError):
    """The same, of a kind that our calls raise on purpose, too."""


class InterruptedAt:
    """The words of an M; at the n-th store an exception of that kind comes instead, once, after a call of `first`."""

    def __init__(self, w, n, first, kind):
        self.w, self.left, self.over, self.first, self.kind = w, n, False, first, kind

    def __getitem__(self, index):
        return self.w[index]

    def __len__(self):
        return len(self.w)

    def __setitem__(self, index, value):
        if not self.left and not self.over:
            self.over = True
            self.first()
            raise self.kind
        self.left -= 1
        self.w[index] = value


def nothing():
    pass


def interrupted(n, operation, *args, first=nothing, kind=Stop):
    """Run it with an exception at the n-th store. Returns: whether that came, and what the operation returned."""
    m = rt.current()
    w = m.w
    words = m.w = InterruptedAt(w, n, first, kind)
    try:
        return False, operation(*args)
    except kind:
        return True, None
    finally:
        words.over = True  # the hub may use them until it comes by again
        m.w = w


@pytest.fixture
def runtime():
    with Runtime(2) as started:
        yield started
        # What was being started or ended in that moment is finished by the time somebody looks.
        until(lambda: num_goroutine() == 1, "all goroutines over")


def everywhere(where, operation, prepare, check):
    """An exception at store 0, 1, 2, ... until the operation is done; ``check(came, value, *args)`` after each."""
    for n in range(300):
        for kind in (Stop, LikeOurs) if where == "client" else (Stop,):
            args = prepare()
            if where == "client":
                came, value = interrupted(n, operation, *args, kind=kind)
            else:
                came, value = in_worker(n, operation, args)
            check(came, value, *args)
        if not came:
            return n
    raise AssertionError("it never ends")


def in_worker(n, operation, args):
    try:
        return go(interrupted, n, operation, *args).result(DEADLINE_S)
    except WorkerLost as error:  # it came in the scheduler, which waited for it
        assert "exited with status 70" in str(error)
        return True, None


def free(handle):
    """Nobody has the lock of that record: it can be taken, here and in a worker."""
    m = rt.current()
    m.enter(handle._lock)
    if isinstance(handle, Chan):
        ops.check(m.w, handle._base)
    m.leave(handle._lock)
    assert not any(m.w[m.base + L.M_PHASE + level] for level in range(4))


WHERE = pytest.mark.parametrize("where", ["client", "worker"])


@WHERE
@pytest.mark.parametrize("buffered", [0, 1])
def test_send(runtime, where, buffered):
    """It is in the channel once or not at all."""

    def prepare():
        ch = Chan(4)
        ch.send_many(range(buffered))
        return ch, "mine"

    def check(came, value, ch, _):
        free(ch)
        got = ch.recv_many(9) if len(ch) else []
        assert got in ([*range(buffered)], [*range(buffered), "mine"])
        assert came or got[-1] == "mine"
        assert not ch.send("again", DEADLINE_S) and ch.recv(DEADLINE_S) == "again"

    assert everywhere(where, Chan.send, prepare, check) > 3


@WHERE
def test_send_to_who_waits(runtime, where):
    """The receiver got it, or gets the next one; it is woken in any case."""
    state = {}

    def prepare():
        ch = Chan()
        state["waits"] = waits = threading.Thread(target=lambda: state.update(got=ch.recv()))
        waits.start()
        until(lambda: rt.current().w[ch._base + L.CH_RECVQ], "it waits")
        return ch, "mine"

    def check(came, value, ch, _):
        free(ch)
        if came:
            try:
                ch.send("second", 0.05)
            except TimeoutError:  # it had the first
                pass
        state["waits"].join(DEADLINE_S)
        assert not state["waits"].is_alive()
        assert state["got"] in (("mine", "second") if came else ("mine",))

    assert everywhere(where, Chan.send, prepare, check) > 3


@WHERE
def test_recv(runtime, where):
    """At most the one message is gone."""

    def prepare():
        ch = Chan(4)
        ch.send_many("abc")
        return (ch,)

    def check(came, value, ch):
        free(ch)
        left = ch.recv_many(9)
        assert left == ["b", "c"] or (came and left == ["a", "b", "c"])

    assert everywhere(where, Chan.recv, prepare, check) > 2


@WHERE
def test_recv_that_would_wait(runtime, where):
    """It leaves the queue: the next message is the next receiver's. (Decided in that moment, the message is gone.)"""

    def prepare():
        ch = Chan()
        return ch, 0.01

    def check(came, value, ch, _):
        free(ch)
        assert not rt.current().w[ch._base + L.CH_RECVQ]
        waits = go(ch.recv)
        ch.send("next", DEADLINE_S)
        assert waits.result(DEADLINE_S) == "next"

    def recv(ch, timeout):
        try:
            ch.recv(timeout)
        except TimeoutError:
            pass

    assert everywhere(where, recv, prepare, check) > 5


def send_once_it_waits(ch):
    while not rt.current().w[ch._base + L.CH_RECVQ]:
        gosched()
    ch.send("first")


def until_decided():
    """The goroutine that waits, and holds no lock, is decided by somebody else; who shares our worker can't do it."""
    m = rt.current()
    deadline = time.monotonic() + 0.3
    while m.w[m.ph] == 0 and not m.w[m.g + L.G_DECIDE] and time.monotonic() < deadline:
        time.sleep(0)


def wait_again(n, delivered):
    """A wait with a deadline that is cut off at the n-th store, and two later ones of the same goroutine."""
    first, later, out = Chan(), Chan(), Chan()
    if delivered:
        go(send_once_it_waits, first)
    try:
        came, value = interrupted(n, first.recv, 0.02, first=until_decided if delivered else nothing)
    except TimeoutError:
        came, value = False, None
    assert came or value in ("first", None)
    with pytest.raises(TimeoutError):
        later.recv(0.05)  # the old deadline passes meanwhile
    go(echo, later, out)  # on this worker, or on another one
    later.send("later")
    later.close()
    assert out.recv() == "later"
    return came


@WHERE
@pytest.mark.parametrize("delivered", [False, True])
def test_the_next_wait_of_who_was_interrupted(delivered, where):
    """Neither the deadline nor the delivery of the wait that was cut off ends another wait."""
    with Runtime(2, on_panic="log"):  # a worker that ends takes what `wait_again` started with it
        for n in range(300):
            try:
                args = n, delivered
                if not (wait_again(*args) if where == "client" else go(wait_again, *args).result(DEADLINE_S)):
                    break
            except WorkerLost as error:
                assert "exited with status 70" in str(error)
        assert 5 < n < 299


@WHERE
def test_select(runtime, where):
    """One case or none."""

    def prepare():
        a, b = Chan(1), Chan(1)
        b.send("b")
        return a, b

    def check(came, value, a, b):
        free(a)
        free(b)
        assert (len(a), len(b)) in ((1, 1), (0, 0)) or (came and (len(a), len(b)) == (0, 1))
        assert not any(rt.current().w[ch._base + q] for ch in (a, b) for q in (L.CH_RECVQ, L.CH_SENDQ))

    everywhere(where, lambda a, b: select((a.send, "a"), b.recv).index, prepare, check)


@WHERE
def test_select_that_would_wait(runtime, where):
    """It is in no queue any more."""

    def choose(a, b):
        try:
            select(a.recv, b.recv, timeout=0.01)
        except TimeoutError:
            pass

    def check(came, value, a, b):
        free(a)
        free(b)
        assert not any(rt.current().w[ch._base + L.CH_RECVQ] for ch in (a, b))

    everywhere(where, choose, lambda: (Chan(), Chan()), check)


@WHERE
def test_close(runtime, where):
    """Open, or closed and told."""
    state = {}

    def prepare():
        ch = Chan()
        state["waits"] = waits = threading.Thread(target=lambda: state.update(got=ch.recv_ok()))
        waits.start()
        until(lambda: rt.current().w[ch._base + L.CH_RECVQ], "it waits")
        return (ch,)

    def check(came, value, ch):
        free(ch)
        if not ch.closed:
            assert came
            ch.close()
        state["waits"].join(DEADLINE_S)
        assert not state["waits"].is_alive() and state["got"] == (None, False)

    assert everywhere(where, Chan.close, prepare, check) > 3


@WHERE
def test_mutex(runtime, where):
    """Locked or not; it can be unlocked and locked by others."""

    def lock_and_unlock(mutex):
        mutex.lock()
        mutex.unlock()

    def check(came, value, mutex):
        free(mutex)
        if not mutex.try_lock():
            assert came
        mutex.unlock()
        mutex.lock(DEADLINE_S)
        mutex.unlock()

    assert everywhere(where, lock_and_unlock, lambda: (Mutex(),), check) > 5


@WHERE
def test_go(runtime, where):
    """The goroutine runs once or not at all."""

    def start(out):
        go(out.send, 1)

    def check(came, value, out):
        until(lambda: num_goroutine() <= 1 or came, "it ended")
        if came:
            go(len, "").result(DEADLINE_S)
            assert len(out) <= 1
        else:
            assert out.recv(DEADLINE_S) == 1

    n = everywhere(where, start, lambda: (Chan(4),), check)
    assert n > 5


def use_everything(rnd):
    ch, out = Chan(rnd.choice([0, 1, 8])), Chan(64)
    mutex, rw, sem, count = Mutex(), RWMutex(), Semaphore(2), AtomicInt()
    handle = go(echo, ch, out)
    for i in range(rnd.randrange(1, 20)):
        ch.send(i)
        if rnd.random() < 0.3:
            select(out.recv, (ch.send, 100 + i))
        wg = WaitGroup()
        wg.add(2)
        wg.done()
        wg.done()
        wg.wait()
        count.add(1)
        with mutex, rw, sem:
            pass
        with rw.reader():
            pass
    ch.close()
    handle.result(DEADLINE_S)


def echo(ch, out):
    for v in ch:
        out.send(v)


def test_a_signal_handler_that_raises_at_any_moment(seed):
    """The exception arrives, or is swallowed by a finalizer as Python does; the runtime stays sound."""
    rnd = random.Random(seed)
    before = signal.signal(signal.SIGALRM, raise_stop)
    came = 0
    try:
        with Runtime(2):
            for _ in range(100):
                try:
                    try:
                        signal.setitimer(signal.ITIMER_REAL, rnd.random() * 0.004 + 1e-6)
                        use_everything(rnd)
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)  # it may come in this very line
                except Stop:
                    came += 1
                ch, out = Chan(), Chan()
                handle = go(echo, ch, out)
                for i in range(5):
                    ch.send(i, DEADLINE_S)
                    assert out.recv(DEADLINE_S) == i
                ch.close()
                handle.result(DEADLINE_S)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert came > 10


def raise_stop(*_):
    raise Stop


def deeper(ch, n):
    """Send on the way down, until there is no stack left."""
    ch.send(n)
    deeper(ch, n + 1)


def to_the_bottom(ch):
    try:
        deeper(ch, 0)
    except RecursionError:
        return "bottom"


@WHERE
def test_no_stack_left(runtime, where):
    """A RecursionError in any call of the library is one in the caller; others go on."""
    ch, got = Chan(), []
    reader = threading.Thread(target=lambda: got.extend(ch))
    reader.start()
    for _ in range(20):
        if where == "client":
            assert to_the_bottom(ch) == "bottom"
        else:
            try:
                assert go(to_the_bottom, ch).result(DEADLINE_S) == "bottom"
            except WorkerLost as error:  # there was none left for the scheduler
                assert "exited with status 70" in str(error)
    ch.send("end", DEADLINE_S)
    ch.close()
    reader.join(DEADLINE_S)
    assert not reader.is_alive() and got[-1] == "end"
    assert sys.getrecursionlimit() < got[-2] * 4


def hold_the_lock_of(ch, told):
    m = rt.current()
    m.enter(ch._lock)
    with open(told, "w", encoding="utf-8"):
        pass
    time.sleep(1000)


def test_supervisor_killed_while_a_lock_is_held(tmp_path):
    """Nobody will ever free it: who waits at that door is told so."""
    told = tmp_path / "told"
    with pytest.raises(NotRunning, match="supervisor"), Runtime(2):
        ch = Chan(1)
        go(hold_the_lock_of, ch, str(told))
        until(told.exists, "it holds the lock")
        os.kill(rt.current().w[L.H_SUPERVISOR], signal.SIGKILL)
        ch.send(1)
