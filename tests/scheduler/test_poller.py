"""wait_readable and wait_writable: pipes, sockets, several waiters, closed and reused descriptors, very many."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import tempfile

import pytest

from mproc_go import Chan, Runtime, WaitGroup, go, gosched, num_goroutine, sleep, stats, wait_readable, wait_writable
from tests.scheduler.support import DEADLINE_S, in_state, until


@pytest.fixture
def one_p():
    with Runtime(1) as runtime:
        yield runtime


@contextlib.contextmanager
def pipe():
    r, w = os.pipe()
    try:
        yield r, w
    finally:
        os.close(r)
        os.close(w)


def in_a_goroutine(body):
    assert go(body).result(DEADLINE_S) is None


def test_sockets_both_ways(one_p):
    """A full socket is not writable, an empty one not readable, until the other side acts."""

    def body():
        a, b = socket.socketpair()
        with a, b:
            a.setblocking(False)
            with pytest.raises(TimeoutError):
                wait_readable(a, 0.01)
            with contextlib.suppress(BlockingIOError):
                while True:
                    a.send(b"x" * 65536)
            with pytest.raises(TimeoutError):
                wait_writable(a, 0.01)
            go(drain, b.fileno())
            wait_writable(a, DEADLINE_S)
            b.send(b"answer")
            wait_readable(a, DEADLINE_S)
            assert a.recv(10) == b"answer"

    in_a_goroutine(body)


def drain(fd):
    sock = socket.socket(fileno=os.dup(fd))
    with sock:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while sock.recv(65536):
                pass


def test_reader_and_writer_of_one_descriptor(one_p):
    """Both wait for the same socket; each is woken by what it waits for."""

    def body():
        a, b = socket.socketpair()
        with a, b:
            a.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    a.send(b"x" * 65536)
            done, fd = Chan(2), a.fileno()
            go(tell_readable, done, fd)
            go(tell_writable, done, fd)
            while stats()["goroutines_by_state"].get("IO wait", 0) != 2:
                gosched()
            b.send(b"!")
            assert done.recv(DEADLINE_S) == "readable"
            assert not len(done)
            drain(b.fileno())
            assert done.recv(DEADLINE_S) == "writable"

    in_a_goroutine(body)


def tell_readable(done, fd):
    wait_readable(fd, DEADLINE_S)
    done.send("readable")


def tell_writable(done, fd):
    wait_writable(fd, DEADLINE_S)
    done.send("writable")


def test_two_readers_of_one_descriptor(one_p):
    """Both are woken; and one that gives up takes nothing from the other."""

    def body():
        with pipe() as (r, w):
            done = Chan(2)
            go(tell_readable, done, r)
            go(tell_readable, done, r)
            while stats()["goroutines_by_state"].get("IO wait", 0) != 2:
                gosched()
            with pytest.raises(TimeoutError):
                wait_readable(r, 0.01)
            os.write(w, b"x")
            assert [done.recv(DEADLINE_S) for _ in range(2)] == ["readable"] * 2

    in_a_goroutine(body)


def test_end_of_file_and_broken_pipe(one_p):
    """The end counts as readable, a reader that is gone as writable: the next call says what is."""

    def body():
        r, w = os.pipe()
        os.close(w)
        wait_readable(r, DEADLINE_S)
        assert os.read(r, 1) == b""
        os.close(r)
        r, w = os.pipe()
        os.close(r)
        wait_writable(w, DEADLINE_S)
        with pytest.raises(BrokenPipeError):
            os.write(w, b"x")
        os.close(w)

    in_a_goroutine(body)


def test_closed_descriptors(one_p):
    """An error at once, in a goroutine and in the main thread; one that is closed while waited for times out."""

    def body():
        with pipe() as (_, w):
            wait_writable(w, 1)  # from here on the poller has its own descriptor
        r, w = os.pipe()
        os.close(w)
        os.close(r)
        for wait in (wait_readable, wait_writable):
            for timeout in (None, 1, 0):
                with pytest.raises(OSError, match=r"descriptor"):
                    wait(r, timeout)
        r, w = os.pipe()
        done = Chan(1)
        go(gives_up, done, r)
        # On a busy machine it may have given up before we look again.
        while stats()["goroutines_by_state"].get("IO wait", 0) != 1 and not len(done):
            gosched()
        os.close(r)
        os.close(w)
        assert done.recv(DEADLINE_S) == "gave up"
        with pipe() as (again, w):  # the numbers are used again: nothing of before is left
            os.write(w, b"x")
            wait_readable(again, DEADLINE_S)

    in_a_goroutine(body)
    r, w = os.pipe()
    os.close(r)
    os.close(w)
    with pytest.raises(OSError, match=r"descriptor"):
        wait_readable(r)


def gives_up(done, fd):
    try:
        wait_readable(fd, 0.2)
    except TimeoutError:
        done.send("gave up")


def test_regular_files_are_always_ready(one_p):
    """As in Go, which does not poll them."""

    def body():
        with tempfile.TemporaryFile() as file:
            wait_readable(file, 1)
            wait_writable(file, 1)
            wait_readable(file)

    in_a_goroutine(body)


@pytest.mark.parametrize("bad", ["x", None, 1.5, object()])
def test_no_descriptor_at_all(one_p, bad):
    """Neither an int nor something with fileno(): an error that is no OSError."""
    with pytest.raises((TypeError, AttributeError, ValueError)):
        wait_readable(bad, 1)
    if type(bad) is not object:
        assert isinstance(go(wait_readable, bad, 1).exception(DEADLINE_S), (TypeError, AttributeError, ValueError))


def wait_for_pipes(n, rounds):
    """As many goroutines as pipes, each woken when its own pipe is written; in another order than they came."""
    pipes = [os.pipe() for _ in range(n)]
    wg, woken = WaitGroup(), Chan(n)
    for _ in range(rounds):
        for i, (r, _w) in enumerate(pipes):
            wg.go(read_one, woken, r, i)
        while stats()["goroutines_by_state"].get("IO wait", 0) != n:
            sleep(0.005)
        assert not len(woken)
        for _r, w in reversed(pipes):
            os.write(w, b"x")
        wg.wait(DEADLINE_S)
        assert sorted(woken.recv_many(n)) == list(range(n))
    for r, w in pipes:
        os.close(r)
        os.close(w)
    return n


def read_one(woken, r, i):
    wait_readable(r)
    os.read(r, 1)
    woken.send(i)


def descriptors(n):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * n + 300:
        pytest.skip(f"no more than {hard} descriptors allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * n + 300), hard))
    return soft, hard


@pytest.mark.parametrize("n", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_very_many_descriptors(n):
    """One poller thread for all of them; no worker is added."""
    limits = descriptors(n)
    try:
        with Runtime(1):
            assert go(wait_for_pipes, n, 2).result(4 * DEADLINE_S) == n
            assert len(stats()["ms"]) == 1
            assert num_goroutine() == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_waiting_goroutines_are_in_io_wait(one_p):
    """Go's word for it; and the runtime is not dead while somebody may write."""
    path = f"/proc/{os.getpid()}/fd"
    with pipe() as (r, w):
        waiting = go(open_and_wait, f"{path}/{r}")
        until(lambda: in_state("IO wait"))
        os.write(w, b"x")
        assert waiting.result(DEADLINE_S) == "readable"


def open_and_wait(path):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        wait_readable(fd)
        return "readable"
    finally:
        os.close(fd)
