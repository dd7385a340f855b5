"""The handle of a goroutine, and what a goroutine can ask about itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from opcode import opmap
from types import FrameType
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

from mproc_go.errors import NotRunning, WorkerLost
from mproc_go.observe.stacks import state_text
from mproc_go.runtime import message, panics, park, spawn
from mproc_go.runtime import process as rt
from mproc_go.runtime.client import ClientM
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.runtime.process import M, deadline_of, integer, seconds, whole
from mproc_go.runtime.worker import Goexit, WorkerM
from mproc_go.sched import idle, runq, states, waitq
from mproc_go.sched.states import FAILED, STATUS_MASK
from mproc_go.shm.layout import (
    G_GOID,
    G_JOINQ,
    G_MSG,
    G_STATUS,
    G_WAITS_FOR,
    H_MAX_MS,
    H_STOP,
    HDR_EXCEPTION,
    HDR_LOST,
    KIND_GOROUTINE,
    MAX_PS,
    R_GEN,
    S_GOMAXPROCS,
    object_lock,
)

R = TypeVar("R")
A = ParamSpec("A")


class Goroutine(SharedHandle, Generic[R]):
    """What :func:`go` returns: ask for the result, from any process. Any number may wait for it."""

    __slots__ = ("_goid", "_named")

    _goid: int
    _named: bool  # False: this is the only handle there ever was

    KIND = KIND_GOROUTINE

    def __init__(self) -> None:
        raise TypeError("a Goroutine is made by go(fn, *args)")

    @property
    def id(self) -> int:
        """Number of the goroutine; no other of the runtime has it."""
        return self._goid

    def done(self) -> bool:
        """Whether it has ended. Blocks: never."""
        m = self._m()
        m.latest = 0
        if m.w[H_STOP]:
            m.surface()
        return bool(m.w[self._base + G_STATUS] & states.STATUS_MASK >= states.DONE)

    def result(self, timeout: float | None = None) -> R:
        """What its function returned. Blocks the goroutine that asks until it has ended.

        Args:
            timeout: in seconds; None waits for ever, zero or less does not wait.

        Raises:
            Exception: what left its function; the worker's traceback is attached as a note.
            WorkerLost: the worker it ran on died.
            TimeoutError: it has not ended in time.
        """
        value, exc = self._outcome(timeout)
        if exc is not None:
            try:
                raise exc
            finally:
                del exc  # its traceback refers to this frame: no cycle
        return value  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception that left its function, None if it returned. Blocks and raises TimeoutError as result()."""
        return self._outcome(timeout)[1]

    @whole
    def _outcome(self, timeout: float | None) -> tuple[Any, BaseException | None]:
        m = self._m()
        m.latest = 0
        w, g = m.w, self._base
        if timeout is not None:
            timeout = seconds(timeout)
        if w[H_STOP]:
            m.interrupted()
        if w[g + G_STATUS] & states.STATUS_MASK < states.DONE:
            self._wait(m, timeout)
        # The record is ours to read as long as we hold the handle; each reader makes its own copy.
        hdr, body = message.fetch(w, m.mem, g + G_MSG)
        if hdr & HDR_LOST:
            return None, WorkerLost(message.peek(m, hdr, body).decode())
        if hdr & HDR_EXCEPTION:
            exc, text = message.copy_exception(m, hdr, body)
            exc.add_note(f"\nIn goroutine {self._goid}:\n{text.rstrip()}")
            return None, exc
        return message.copy(m, hdr, body), None

    def _wait(self, m: M, timeout: float | None) -> None:
        w, g = m.w, self._base
        if m.g == g:
            raise RuntimeError("a goroutine waits for its own result: it would wait for ever")
        lock = m.locks[object_lock(g)]
        m.enter(lock)
        if w[g + G_STATUS] & states.STATUS_MASK >= states.DONE:
            m.leave(lock)
            return
        if timeout is not None and timeout <= 0:
            m.leave(lock)
            if w[H_STOP]:
                m.interrupted()
            raise TimeoutError(f"goroutine {self._goid} has not ended")
        me = m.begin_wait(states.GOROUTINE_RESULT)
        w[me + G_WAITS_FOR] = g
        waitq.join(w, g + G_JOINQ, me)
        m.leave(lock)
        if not park.park(m, lock, g + G_JOINQ, deadline_of(timeout)):
            raise TimeoutError(f"goroutine {self._goid} has not ended within {timeout} s")

    def __del__(self) -> None:
        # ``go(f)`` as a statement: the handle is dropped at once, but `f` may have failed even before that. Nobody held
        # the handle, so it is a panic as if it had failed a moment later.
        try:
            m = self._tls.m
        except AttributeError:  # a thread that never called the library
            return super().__del__()
        g = self._base
        try:
            if m.latest == g:
                m.latest = 0
                w = m.w
                if (
                    w[g + G_STATUS] & STATUS_MASK == FAILED
                    and not w[m.ph]
                    and _drops_what_a_call_returned(sys._getframe(1))
                ):
                    hdr, body = message.fetch(w, m.mem, g + G_MSG)
                    if hdr & HDR_EXCEPTION:
                        panics.panic(m, g, *message.copy_exception(m, hdr, body))
            if self._named:
                m.process.refs.drop(m, KIND_GOROUTINE, g)
            else:
                m.process.refs.drop_only(m, KIND_GOROUTINE, g)
        except NotRunning:  # as in SharedHandle.__del__
            pass

    def _name(self) -> tuple[int, int, int]:
        self._m().latest = 0  # whoever receives it holds it
        self._named = True
        return super()._name()

    def _bind(self, m: M, base: int, gen: int) -> None:
        self._base = base
        self._gen = gen
        self._tls = m.process.tls
        self._goid = m.w[base + G_GOID]
        self._named = True

    def __repr__(self) -> str:
        w = self._words()
        state = "of a runtime that is over" if w is None else state_text(w[self._base + G_STATUS])
        return f"<Goroutine {self._goid} {state}>"


def _drops_what_a_call_returned(frame: FrameType) -> bool:
    """Whether the frame is at the end of a statement that is nothing but a call: no name ever had the call's value."""
    code, at = frame.f_code.co_code, frame.f_lasti
    if code[at] != _POP_TOP:
        return False
    at -= 2
    while at > 0 and not code[at]:  # the interpreter's cache of the instruction before
        at -= 2
    return code[at] in _CALLS


# In every version of CPython there is, a handle that had a name is dropped by another instruction.
_POP_TOP = opmap["POP_TOP"]
_CALLS = {number for name, number in opmap.items() if name in ("CALL", "CALL_KW", "CALL_FUNCTION_EX")}


_new = Goroutine.__new__


def start_quiet(fn: Callable[..., R], *args: Any) -> Goroutine[R]:
    """As ``go(fn, *args)``, for a part of something larger: dropping its handle is no panic, even if it fails."""
    m = rt.current()
    w = m.w
    if w[H_STOP]:
        m.interrupted()
    try:
        g = spawn.spawn(m, fn, args, {}, True, quiet=True)
    except BaseException as error:
        m.left(error)
        raise
    handle: Goroutine[R] = Goroutine.__new__(Goroutine)
    handle._bind(m, g, w[g + R_GEN])
    return handle


class Go:
    """``go(fn, *args, **kwargs)`` starts a goroutine and returns its handle; :meth:`__call__` says more.

    ``go.options(...)`` is a ``go`` that does it otherwise.
    """

    __slots__ = ("_retries",)

    def __init__(self, retries: int = 0) -> None:
        self._retries = retries

    def __call__(self, fn: Callable[A, R], /, *args: A.args, **kwargs: A.kwargs) -> Goroutine[R]:
        """Queue ``fn(*args, **kwargs)`` as a new goroutine; any P may run it. Starts the default runtime if need be.

        The function and the arguments are evaluated and copied now; handles in them travel by reference.

        Returns: its handle; hold it to get the result or the exception. An exception that leaves a goroutine whose
        handle nobody holds is a panic and ends the program.

        Raises:
            TypeError: `fn` can't be called.
            EncodeError: the function or an argument can't travel; nothing was started.
            SharedMemoryFull: no room for one more goroutine.
            NotRunning: the runtime is over.

        Blocks: never.     Source: Go's go statement; proc.go newproc.
        """
        # Cost: 2.4 us, and 0.75 us for the end of a handle nobody keeps; scripts/bench hot
        process: Any = rt.process
        try:
            m: M = process.tls.m
        except AttributeError:
            m = rt.current()
            process = m.process
        w = m.w
        if w[H_STOP]:
            m.interrupted()
        try:
            g = spawn.spawn(m, fn, args, kwargs, True, None, self._retries)
        except BaseException as error:
            m.left(error)
            raise
        handle: Goroutine[R] = _new(Goroutine)
        handle._base = g  # what _bind does
        handle._gen = w[g + R_GEN]
        handle._tls = process.tls
        handle._goid = w[g + G_GOID]
        handle._named = False
        m.latest = g
        return handle

    def options(self, *, retries: int = 0) -> Go:
        """``go`` with other options: ``go.options(retries=2)(fn, x)``.

        Args:
            retries: how often the goroutine is run again, from its beginning, if its worker dies.

        Raises:
            TypeError, ValueError: it is not an integer, or negative.
        """
        retries = integer(retries, "retries is an integer")
        if retries < 0:
            raise ValueError(f"retries is not negative: {retries}")
        return Go(retries)

    def __repr__(self) -> str:
        return f"go.options(retries={self._retries})" if self._retries else "go"


go = Go()


def gosched() -> None:
    """Let other goroutines run. Source: Go runtime.Gosched."""
    rt.current().yield_()


def goid() -> int:
    """Number of the goroutine that calls; the thread that entered the runtime is 1."""
    m = rt.current()
    if m.w[H_STOP]:
        m.interrupted()
    return int(m.w[m.g + G_GOID])


def goexit() -> NoReturn:
    """End the calling goroutine, after its finally blocks; its result is None. Source: Go runtime.Goexit.

    In the function that ``run`` was given it ends that one, and the program goes on: ``run`` then raises what ends it.
    Once no other goroutine is left that is a ``Deadlock``, as in Go.

    Raises:
        RuntimeError: this thread runs no goroutine that could end: it is not in ``run``.
    """
    m = rt.current()
    if m.w[H_STOP]:
        m.interrupted()
    if isinstance(m, WorkerM) or (isinstance(m, ClientM) and m.in_main):
        raise Goexit
    raise RuntimeError("goexit: this thread runs no goroutine that could end by itself; return from it instead")


def num_goroutine() -> int:
    """How many goroutines there are, the calling one included."""
    m = rt.current()
    if m.w[H_STOP]:
        m.interrupted()
    return rt.goroutines(m.w)


def gomaxprocs(n: int | None = None) -> int:
    """Set how many goroutines run at the same time, and return how many it was; None and 0 only ask.

    Raises:
        TypeError: `n` is not an integer.
        ValueError: it is negative, or more than the runtime can have.

    Source: Go runtime.GOMAXPROCS.
    """
    m = rt.current()
    if m.w[H_STOP]:
        m.interrupted()
    n = 0 if n is None else integer(n, "gomaxprocs: an integer")
    if not n:
        return int(m.w[S_GOMAXPROCS])
    most = min(MAX_PS, m.w[H_MAX_MS])
    if not 1 <= n <= most:
        raise ValueError(f"gomaxprocs: at least 1 and at most {most} (max_ms), not {n}")
    old, orphans = idle.resize(m, n)
    if orphans:
        runq.put_global(m, orphans)
    idle.wake_p(m)
    return old


def sleep(seconds: float) -> None:
    """Pause the calling goroutine, not its P, for at least that long. Zero or less returns at once.

    Source: Go time.Sleep.
    """
    seconds_ = rt.seconds(seconds, "sleep takes a number of seconds")
    m = rt.current()
    if m.w[H_STOP]:
        m.interrupted()
    if seconds_ > 0:
        m.pause(time.monotonic() + min(seconds_, 1e9))


register(Goroutine, spawn.forget)
