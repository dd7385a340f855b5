"""``blocking``: run a call that blocks on a thread of its own, while the worker runs other goroutines.

The thread is the extra M of Go's entersyscall; it gives the P away simply by not being the hub. In a client thread,
which runs no other goroutines, the call is just made.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from mproc_go.runtime import process as rt
from mproc_go.runtime.worker import WorkerM
from mproc_go.sched import states
from mproc_go.shm.layout import H_STOP

R = TypeVar("R")
A = ParamSpec("A")

# Threads a worker keeps for such calls, and at the most runs at a time; more calls wait for one of them.
MAX_THREADS = 128
# A thread without work ends after this, in seconds.
IDLE_S = 5.0


class _Call:
    __slots__ = ("args", "context", "error", "fn", "g", "kwargs", "result")

    def __init__(self, fn: Callable[..., Any], args: Any, kwargs: Any, g: int) -> None:
        self.fn, self.args, self.kwargs, self.g = fn, args, kwargs, g
        self.context = contextvars.copy_context()  # as asyncio.to_thread
        self.result: Any = None
        self.error: BaseException | None = None


class Threads:
    """The threads of one worker for blocking calls."""

    def __init__(self, m: WorkerM) -> None:
        self.m = m
        self.calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self.threads = 0
        self.busy = 0  # calls queued or running; only the hub's thread counts up, only under the interpreter lock
        self._lock = threading.Lock()

    def submit(self, call: _Call) -> None:
        with self._lock:
            self.busy += 1
            grow = self.busy > self.threads and self.threads < MAX_THREADS
            if grow:
                self.threads += 1
        self.calls.put(call)
        if grow:
            threading.Thread(target=self._run, name="mproc-go blocking", daemon=True).start()

    def _run(self) -> None:
        # What it calls counts as a call that is waited for; in between it starts nothing by itself.
        known = self.m.process.outsiders.known
        known[threading.get_ident()] = 0
        try:
            self._serve()
        finally:
            del known[threading.get_ident()]

    def _serve(self) -> None:
        while True:
            try:
                call = self.calls.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self.busy < self.threads:
                        self.threads -= 1
                        return
                continue
            try:
                call.result = call.context.run(call.fn, *call.args, **call.kwargs)
            except BaseException as error:
                call.error = error
            with self._lock:
                self.busy -= 1
            self.m.deliver_local(call.g)
            del call


_threads: Threads | None = None


def blocking(fn: Callable[A, R], /, *args: A.args, **kwargs: A.kwargs) -> R:
    """Call ``fn(*args, **kwargs)``, which may block for long, without blocking the P.

    Nothing is copied: it runs in this process, on another thread, with a copy of the goroutine's context variables.

    Returns: what it returns.     Raises: what it raises; TypeError if it can't be called.
    Blocks: the goroutine.     Source: Go proc.go entersyscall, handoffp.
    """
    if not callable(fn):
        raise TypeError(f"blocking needs a function to call, not {type(fn).__name__}")
    m = rt.current()
    if m.w[H_STOP]:
        m.interrupted()
    if not isinstance(m, WorkerM) or m.cur is m.hub:
        return rt.call_out(fn, *args, **kwargs)
    global _threads
    if _threads is None:
        _threads = Threads(m)
    call = _Call(fn, args, kwargs, m.begin_wait(states.SYSCALL))
    try:
        _threads.submit(call)
        m.wait_outside()
    except BaseException:  # of a signal handler: who calls is not gone before its call is
        if m.waits():
            m.wait_outside()
        raise
    if call.error is not None:
        try:
            raise call.error
        finally:
            del call  # its traceback refers to this frame: no cycle
    return call.result  # type: ignore[no-any-return]
