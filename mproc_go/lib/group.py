"""``Group``: goroutines that work on one thing, and end together.

Made of a context that the first failure cancels, another whose cause is that failure, a wait group for the members
started elsewhere, and a semaphore for the limit. Where the group was made it holds the handles of the members it
started, so that a lost worker is a failure like any other; a copy that travelled only counts.

Limit: a lost worker's members don't give their places back.

Source: golang.org/x/sync/errgroup.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from mproc_go.errors import Deadlock, GoroutinePanic, NotRunning
from mproc_go.lib.context import Context, background, cancelable
from mproc_go.runtime.goroutine import Goroutine, go
from mproc_go.runtime.panics import traceback_text
from mproc_go.runtime.process import call_out, integer
from mproc_go.runtime.worker import Goexit
from mproc_go.sync.semaphore import Semaphore
from mproc_go.sync.waitgroup import WaitGroup

# Leave the block with one of these, and nobody is left to wait for.
_OVER = (NotRunning, GoroutinePanic, Deadlock)
# Handles of ended goroutines are dropped whenever there are twice as many as were left the last time.
_PRUNE = 64


class Group:
    """A group of goroutines; a context manager. Leaving the block waits for all of them.

    The first exception that leaves one of them, or the block, cancels ``context``, and is raised when the block is
    left. It travels like any value: a member can start others.

    Args:
        limit: how many may run at a time; None: any number.
        parent: the context whose end ends that of the group.

    Raises:
        TypeError: the limit is not an integer.
        ValueError: it is below 1.
        SharedMemoryFull: no room.
    """

    def __init__(self, limit: int | None = None, *, parent: Context | None = None) -> None:
        if limit is not None:
            limit = integer(limit, "limit of a Group is an integer or None")
        if limit is not None and limit < 1:
            raise ValueError(f"limit of a Group is at least 1, not {limit}")
        self._places = None if limit is None else Semaphore(limit)
        self._others = WaitGroup()
        self._context = cancelable(background() if parent is None else parent)
        self._failure = cancelable(background())  # the context may have ended before the first failure
        self._handles: list[Goroutine[None]] | None = []
        self._prune_at = _PRUNE

    @property
    def context(self) -> Context:
        """Ends with the first failure, and when the block has been left."""
        return self._context

    def go(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Start ``fn(*args, **kwargs)`` in the group. Blocks the goroutine while as many run as the limit allows.

        Raises: as :func:`mproc_go.go`; then nothing was started.
        """
        if self._places is not None:
            self._places.acquire()
        self._start(fn, args, kwargs)

    def try_go(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> bool:
        """As :meth:`go` if the limit allows one more now; return whether it did. Blocks: never."""
        if self._places is not None and not self._places.try_acquire():
            return False
        self._start(fn, args, kwargs)
        return True

    def _start(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        handles = self._handles
        try:
            if not callable(fn):
                go(fn)  # says what is wrong with it
            if handles is None:
                self._others.go(_member, self, fn, args, kwargs)
                return
            handles.append(go(_member, self, fn, args, kwargs))
        except BaseException:
            if self._places is not None:
                self._places.release()
            raise
        if len(handles) >= self._prune_at:
            self._handles = [h for h in handles if not h.done() or h.exception() is not None]
            self._prune_at = max(_PRUNE, 2 * len(self._handles))

    def _fail(self, error: BaseException, text: str) -> bool:
        """Keep the failure, with its traceback, if it is the first; end the context."""
        first = self._failure._cancel_for(error, text)
        self._context._cancel_for(error, text)
        return first

    def wait(self) -> None:
        """Wait for all members, then end the context. Leaving the block does this. Blocks the goroutine.

        Raises:
            BaseException: the first failure.
        """
        handles = self._handles
        while handles:
            lost = handles.pop().exception()
            if lost is not None:  # what members raise they keep themselves
                self._fail(lost, "")
        self._others.wait()
        self._context._cancel()
        error, text = self._failure._cause()
        if error is None:
            return
        if text:
            error.add_note(f"\nIn a goroutine of the group:\n{text.rstrip()}")
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame: no cycle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if exc is None:
            self.wait()
        elif not isinstance(exc, _OVER):
            ours = self._fail(exc, "")
            try:
                self.wait()
            except BaseException:
                if not ours:
                    raise

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": None}

    def __repr__(self) -> str:
        return f"<Group {self._context!r}>"


def _member(group: Group, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run a member, in the worker that starts it."""
    try:
        call_out(fn, *args, **kwargs)
    except Goexit:
        raise
    except BaseException as error:
        group._fail(error, traceback_text(error))
    finally:
        if group._places is not None:
            group._places.release()
