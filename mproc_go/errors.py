"""Every public exception, Go's texts for them, and the exit statuses (layer 0: imports nothing of ours).

Three exits, never mixed:

* the user's fault raises one of the public errors below, in the caller, with nothing half-done;
* a limit of the machine raises :class:`SharedMemoryFull` (or an ``OSError`` that names the limit);
* our own fault is :func:`bug`: an ``AssertionError`` that nobody is expected to catch.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

__all__ = [
    "Canceled",
    "ChanClosed",
    "DeadlineExceeded",
    "Deadlock",
    "EncodeError",
    "GoroutinePanic",
    "MprocError",
    "NotRunning",
    "RemoteError",
    "SharedMemoryFull",
    "WorkerLost",
    "WouldBlock",
    "bug",
]

# Go's own wording, so that a Go programmer recognises it and can search for it.
SEND_ON_CLOSED = "send on closed channel"
CLOSE_OF_CLOSED = "close of closed channel"
RECV_ON_CLOSED = "receive on closed channel"
NEGATIVE_WAITGROUP = "sync: negative WaitGroup counter"
UNLOCK_OF_UNLOCKED = "sync: unlock of unlocked mutex"
RUNLOCK_OF_UNLOCKED = "sync: RUnlock of unlocked RWMutex"
RW_UNLOCK_OF_UNLOCKED = "sync: Unlock of unlocked RWMutex"
RELEASE_OF_MORE = "semaphore: released more than held"
TICKER_INTERVAL = "non-positive interval for NewTicker"
TICKER_RESET = "non-positive interval for Ticker.Reset"
CONTEXT_CANCELED = "context canceled"
CONTEXT_EXCEEDED = "context deadline exceeded"
GO_OF_NIL = "go of nil func value"

# Exit statuses of the command line: Go ends with 2 on a panic, and a shell expects 130 after Ctrl-C.
EXIT_PANIC = 2
EXIT_USAGE = 2
EXIT_INTERRUPT = 130


class MprocError(Exception):
    """Base of every error that mproc_go defines."""


class ChanClosed(MprocError):
    """The channel is closed: nothing can be sent any more, and nothing is left to receive."""


class WouldBlock(MprocError):
    """A ``_nowait`` call would have had to wait."""


class GoroutinePanic(MprocError):
    """An exception left a goroutine whose handle nobody held; it ended the program.

    ``__cause__`` is the original exception; the text holds the worker's traceback, as Go prints it.

    Attributes:
        goid: number of the goroutine that panicked.
        traceback_text: the traceback as the worker saw it.
    """

    def __init__(self, message: str, goid: int = 0, traceback_text: str = "") -> None:
        super().__init__(message)
        self.goid = goid
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        head = f"panic: {self.args[0]}"
        if not self.traceback_text:
            return head
        return f"{head}\n\ngoroutine {self.goid} [running]:\n{self.traceback_text.rstrip()}"


class WorkerLost(MprocError):
    """The worker process that ran a goroutine is gone (killed, crashed, out of memory).

    Attributes:
        goroutine_text: the goroutine as Go prints it, where nobody held its handle and so its loss ended the program.
    """

    def __init__(self, message: str = "", goroutine_text: str = "") -> None:
        super().__init__(message)
        self.goroutine_text = goroutine_text


class Deadlock(MprocError):
    """No goroutine can ever run again."""


class SharedMemoryFull(MprocError):
    """The shared segment can't grow: its bound, or the machine's memory, is reached."""


class NotRunning(MprocError):
    """There is no runtime here: it was closed, its supervisor died, or this process is a fork of its owner."""


class EncodeError(MprocError):
    """A value can't travel to another process; the message names the offending type."""


class Canceled(MprocError):
    """``err()`` of a context that was cancelled. Equal to any other of its kind, and to the class itself."""

    def __init__(self, message: str = CONTEXT_CANCELED) -> None:
        super().__init__(message)

    def __eq__(self, other: object) -> bool:
        return other is Canceled or isinstance(other, Canceled)

    def __hash__(self) -> int:
        return hash(Canceled)


class DeadlineExceeded(MprocError, TimeoutError):
    """``err()`` of a context whose deadline passed. Equal to any other of its kind, and to the class itself."""

    def __init__(self, message: str = CONTEXT_EXCEEDED) -> None:
        super().__init__(message)

    def __eq__(self, other: object) -> bool:
        return other is DeadlineExceeded or isinstance(other, DeadlineExceeded)

    def __hash__(self) -> int:
        return hash(DeadlineExceeded)


class RemoteError(MprocError):
    """Stands in for an exception of a worker that could not travel itself.

    Attributes:
        type_name: qualified name of the original exception's type.
        traceback_text: the traceback as the worker saw it.
    """

    def __init__(self, message: str, type_name: str = "", traceback_text: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback_text = traceback_text


def ending_text(error: BaseException) -> str | None:
    """What Go writes to stderr when `error` ends a program, None if it has no text for it."""
    if isinstance(error, GoroutinePanic):
        return str(error)
    if isinstance(error, Deadlock):
        return f"fatal error: {error}"
    if isinstance(error, WorkerLost) and error.goroutine_text:
        return f"panic: WorkerLost: {error}\n\n{error.goroutine_text}"
    return None


def tell(text: str) -> None:
    """Write a line to stderr, where there is one: a program may have none, or a terminal that is gone."""
    try:
        sys.stderr.flush()
        if sys.stderr is sys.__stderr__:  # past its buffer, where what failed would stay for each fork to fail on again
            os.write(2, f"{text}\n".encode(errors="backslashreplace"))
        else:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
    except Exception:  # None, closed, a pipe nobody reads, a full disk: nobody is left to be told
        return


def bug(what: str) -> NoReturn:
    """Stop loudly: an invariant of ours is broken and no caller can do anything about it."""
    raise AssertionError(f"mproc_go bug: {what} (please report it)")
