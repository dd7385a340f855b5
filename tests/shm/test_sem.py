"""Semaphores, for real: who may open them, how they wait, and that their names go."""

from __future__ import annotations

import errno
import os
import signal
import threading

import posix_ipc
import pytest

from mproc_go.errors import SharedMemoryFull
from mproc_go.shm import doors, names, sem


@pytest.fixture
def name():
    made = names.new_prefix() + ".test"
    yield made
    sem.unlink(made)


@pytest.fixture(params=["SemLock", "posix_ipc"])
def kind(request, monkeypatch):
    """Both ways to wait: the standard library's, and the one for a Python that lacks it."""
    if request.param == "posix_ipc":
        monkeypatch.setattr(sem, "_rebuild", None)
    elif sem._rebuild is None:
        pytest.skip("this Python has no SemLock._rebuild")


def test_tokens_are_taken_and_given(kind, name):
    """Each token is had once, by whoever has the semaphore open; a try fails without one, at once or in time."""
    sem.create(name, 2)
    one, two = sem.Semaphore(name), sem.Semaphore(name)
    assert one.acquire() and two.acquire(True, 30)
    assert not one.acquire(False)
    assert not two.acquire(True, 0.001)
    assert not two.acquire(True, 0)
    two.release()
    assert one.acquire(True, None)


def test_a_waiter_sleeps_until_a_token_is_posted(kind, name):
    """Also across threads that have it open each for itself."""
    sem.create(name, 0)
    here, got = sem.Semaphore(name), []
    waiter = threading.Thread(target=lambda: got.append(sem.Semaphore(name).acquire(True, 30)))
    waiter.start()
    here.release()
    waiter.join(30)
    assert got == [True]


def test_nobody_else_may_open_it(name):
    """Whoever could post our doors could hold our locks."""
    sem.create(name, 1)
    assert os.stat("/dev/shm/sem." + name[1:]).st_mode & 0o777 == 0o600


def test_a_name_that_exists_is_not_taken_over(name):
    """What lies there may be somebody else's."""
    sem.create(name, 1)
    with pytest.raises(posix_ipc.ExistentialError):
        sem.create(name, 1)


def test_a_handler_that_raises_ends_the_wait(name):
    """``sys.exit()`` in a signal handler leaves a wait, and takes no token along (posix_ipc alone would swallow it)."""
    if sem._rebuild is None:
        pytest.skip("this Python has no SemLock._rebuild")
    sem.create(name, 0)
    waits = sem.Semaphore(name)
    old = signal.signal(signal.SIGUSR1, lambda signum, frame: (_ for _ in ()).throw(SystemExit(7)))
    me = threading.main_thread().ident
    sender = threading.Thread(target=lambda: signal.pthread_kill(me, signal.SIGUSR1))
    try:
        with pytest.raises(SystemExit) as left:
            sender.start()
            waits.acquire(True, 30)
        assert left.value.code == 7
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, old)
    waits.release()
    assert waits.acquire(False)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM, errno.EDQUOT])
def test_no_room_says_where_and_what_to_do(number, monkeypatch, name):
    """The system keeps semaphores in /dev/shm, which is 64 MB in a container."""

    def full(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sem.posix_ipc, "Semaphore", full)
    with pytest.raises(SharedMemoryFull, match="--shm-size"):
        sem.create(name, 1)


def test_if_one_can_not_be_made_none_stays(monkeypatch):
    """A start that fails halfway leaves no name."""
    prefix = names.new_prefix()
    create, made = sem.create, []

    def failing(name, value):
        if len(made) == 20:
            raise SharedMemoryFull("no room for a semaphore")
        made.append(name)
        create(name, value)

    monkeypatch.setattr(sem, "create", failing)
    with pytest.raises(SharedMemoryFull):
        doors.create_all(prefix, 4)
    assert made
    assert not [name for name in os.listdir("/dev/shm") if name.startswith("sem." + prefix[1:])]


def test_what_the_dead_left_is_removed_and_the_living_keep_theirs(name):
    """Names bear the process that made them: its number, when it started, in which pid namespace."""
    reading, writing = os.pipe()
    gone = os.fork()
    if not gone:
        os.write(writing, names.new_prefix().encode())
        os._exit(0)
    os.waitpid(gone, 0)
    left = os.read(reading, 200).decode() + ".d0.0"
    os.close(reading)
    os.close(writing)
    sem.create(left, 1)
    sem.create(name, 1)
    names.remove_left()
    entries = os.listdir("/dev/shm")
    assert "sem." + left[1:] not in entries
    assert "sem." + name[1:] in entries
