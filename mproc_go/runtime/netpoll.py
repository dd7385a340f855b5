"""The network poller: park a goroutine until a descriptor is ready.

One thread a worker sleeps in epoll; registering is a system call of the goroutine's own, and each registration fires
once. Source: Go netpoll.go, netpoll_epoll.go.
"""

from __future__ import annotations

import select
import threading
import time
from typing import Any

from mproc_go.runtime import process as rt
from mproc_go.runtime.process import deadline_of, seconds
from mproc_go.runtime.worker import WorkerM
from mproc_go.sched import states
from mproc_go.shm.layout import H_STOP

# A client thread that waits for a descriptor looks this often, in seconds, whether the program is over.
_CHECK_S = 0.1
_READY_IN = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_READY_OUT = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR


class Poller:
    """Who waits for which descriptor, in one worker.

    Attributes:
        waiters: descriptor -> [goroutines that wait to read, goroutines that wait to write].
    """

    def __init__(self, m: WorkerM) -> None:
        self.m = m
        self.epoll = select.epoll()
        self.waiters: dict[int, tuple[list[int], list[int]]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="mproc-go netpoll", daemon=True).start()

    def add(self, fd: int, write: bool, g: int) -> None:
        """Deliver `g` once the descriptor is ready.

        Raises:
            OSError: it can't be waited for (a closed one; a regular file is always ready: see :func:`_wait`).
        """
        with self._lock:
            known = fd in self.waiters
            both = self.waiters.setdefault(fd, ([], []))
            both[write].append(g)
            try:
                self._arm(fd, both, known)
            except OSError:
                both[write].remove(g)
                if not both[0] and not both[1]:
                    del self.waiters[fd]
                raise

    def _arm(self, fd: int, both: tuple[list[int], list[int]], known: bool) -> None:
        mask = (select.EPOLLIN | select.EPOLLRDHUP if both[0] else 0) | (select.EPOLLOUT if both[1] else 0)
        mask |= select.EPOLLONESHOT
        if known:
            try:
                return self.epoll.modify(fd, mask)
            except FileNotFoundError:  # closed and opened again since
                pass
        try:
            self.epoll.register(fd, mask)
        except FileExistsError:  # one that fired, and is still known to the kernel
            self.epoll.modify(fd, mask)

    def remove(self, fd: int, write: bool, g: int) -> bool:
        """Forget that `g` waits; False if it was delivered already."""
        with self._lock:
            both = self.waiters.get(fd)
            if both is None or g not in both[write]:
                return False
            both[write].remove(g)
            if not both[0] and not both[1]:
                del self.waiters[fd]
                try:
                    self.epoll.unregister(fd)
                except OSError:
                    pass  # closed meanwhile
            return True

    def _run(self) -> None:
        self.m.process.outsiders.known[threading.get_ident()] = 0
        while True:
            for fd, events in self.epoll.poll():
                with self._lock:
                    both = self.waiters.get(fd)
                    if both is None:
                        continue
                    ready: list[int] = []
                    if events & _READY_IN:
                        ready += both[0]
                        both[0].clear()
                    if events & _READY_OUT:
                        ready += both[1]
                        both[1].clear()
                    if both[0] or both[1]:
                        self._arm(fd, both, True)
                    else:
                        del self.waiters[fd]
                for g in ready:
                    self.m.deliver_local(g)


_poller: Poller | None = None


def wait_readable(fd: int | Any, timeout: float | None = None) -> None:
    """Park the goroutine until the descriptor can be read, is at its end, or failed.

    Args:
        fd: a descriptor, or an object with ``fileno()``.
        timeout: in seconds; None waits for ever, zero or less does not wait.

    Raises:
        TimeoutError: it did not become ready in time.
        OSError: no open descriptor.
        TypeError, ValueError: not a descriptor at all, or no timeout.

    Blocks: the goroutine.     Source: Go internal/poll runtime_pollWait.
    """
    _wait(fd, False, timeout)


def wait_writable(fd: int | Any, timeout: float | None = None) -> None:
    """Park the goroutine until the descriptor can be written. As :func:`wait_readable`."""
    _wait(fd, True, timeout)


def _wait(fd: int | Any, write: bool, timeout: float | None) -> None:
    if not isinstance(fd, int):
        try:
            fd = fd.fileno()
        except AttributeError:
            kind = type(fd).__name__
            raise TypeError(f"a descriptor is an integer, or an object with fileno(), not {kind}") from None
    if timeout is not None:
        timeout = seconds(timeout)
    if fd < 0:
        raise ValueError(f"not an open descriptor: {fd}")
    m = rt.current()
    if m.w[H_STOP]:
        m.interrupted()
    deadline = deadline_of(timeout)
    if not isinstance(m, WorkerM) or (timeout is not None and timeout <= 0):
        return _wait_here(m, fd, write, timeout, deadline)
    global _poller
    if _poller is None:
        _poller = Poller(m)
    g = m.begin_wait(states.IO_WAIT)
    try:
        try:
            _poller.add(fd, write, g)
        except PermissionError:  # a regular file: always ready, and epoll does not take it
            return
        try:
            if m.wait_outside(deadline):
                return
            late = _poller.remove(fd, write, g)
            if not late:
                m.wait_outside()  # delivered in the last moment
        except BaseException:  # a signal handler's
            if m.waits() and not _poller.remove(fd, write, g):
                m.wait_outside()
            raise
    finally:
        m.end_wait()
    if late:
        raise TimeoutError(f"descriptor {fd} was not ready within {timeout} s")


def _wait_here(m: rt.M, fd: int, write: bool, timeout: float | None, deadline: float | None) -> None:
    """A thread that runs no other goroutines simply waits."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT if write else select.POLLIN | select.POLLPRI)
    while True:
        left = _CHECK_S if deadline is None else min(_CHECK_S, deadline - time.monotonic())
        events = poll.poll(max(0.0, left) * 1000)
        if events and events[0][1] & select.POLLNVAL:
            raise OSError(9, f"not an open descriptor: {fd}")
        if events:
            return
        if m.w[H_STOP]:
            m.interrupted()
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(f"descriptor {fd} was not ready within {timeout} s")
