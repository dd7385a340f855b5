"""The runtime as this process sees it, and the M that the calling thread is.

Every thread that calls the library is an M: the main thread of a worker runs goroutines, any other thread (the user's
program, an attached client, a helper thread of a worker) simply sleeps while it waits. What is the same for all threads
of a process is a :class:`Process`; what belongs to one thread is an :class:`M`, found through a ``threading.local``
that every handle carries, so that a handle of a runtime that is over can't touch the memory of the next one.
"""

from __future__ import annotations

import functools
import importlib
import math
import operator
import select
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any, Concatenate, ParamSpec, TypeVar

from mproc_go.errors import MprocError, NotRunning, bug
from mproc_go.runtime.outsiders import Outsiders
from mproc_go.runtime.refs import Refs
from mproc_go.sched import states
from mproc_go.sched.deliver import deliver
from mproc_go.shm.layout import (
    G_DECIDE,
    G_STATUS,
    H_SLOTS,
    H_STOP,
    L_SCHED,
    M_CUT,
    M_FINISHED,
    M_PHASE_LEVELS,
    M_SPAWNED,
    OUT_OK,
    S_GOID,
    S_GOID_BATCH,
    slot_base,
)
from mproc_go.shm.lock import Lock
from mproc_go.shm.segment import Segment
from mproc_go.shm.sem import Semaphore
from mproc_go.shm.thread import Thread

A = ParamSpec("A")
R = TypeVar("R")

# What our calls raise on purpose, and only where nothing is half done; anything else may have cut one off.
_ON_PURPOSE = (MprocError, TimeoutError, TypeError, ValueError, OverflowError, RuntimeError, LookupError)
# A nested call (below) that waits for a lock so long waits for the call that it interrupts. In seconds; a lock is held
# for about a microsecond, and while the scheduler of a loaded machine lets its holder wait.
_NESTED_S = 1.0
# Instead of the descriptor of a supervisor that is gone.
ENDED = -2
NESTED_LOCK = (
    "a finalizer or signal handler uses the runtime in the middle of another call of the same thread, and needs a lock "
    "which that call has: let it note down what is to be done (in a queue.SimpleQueue, say), and do it elsewhere"
)
NESTED_WAIT = (
    "a finalizer or signal handler would have to wait in the middle of another wait of the same goroutine: "
    "use send_nowait, or let it note down what is to be done, and do it elsewhere"
)
# Where a thread can be in the middle of something. (Programs run under our command line, say, and it is none.)
LAYERS = ("chan", "lib", "runtime", "sched", "shared", "shm", "sync")
_MACHINERY = tuple(f"mproc_go.{layer}." for layer in LAYERS)
# Functions of ours that call the user's: code of the user's above them on the stack is not in the middle of ours.
CALLS_OUT: set[CodeType] = set()


class Process:
    """What all threads of this process share of one runtime.

    Attributes:
        tls: has an ``m`` in every thread that is an M of this runtime.
        host: slot whose bit in holder masks stands for this process.
        refs: handles of this process.
        outsiders: its threads that the runtime does not know.
        codes: the code table (runtime/spawn.py).
        over: why nothing can be called any more, or None.
        exporters: of a program that may leave before its runtime ends: what its views of shared memory are made of.
        alarm: fires the timers made in this process (lib/alarm.py), None before the first.
        mailbox: takes what is delivered to asyncio tasks of this process (chan/aio.py), None before the first waits.
        keys: hashes the keys of maps (shared/keys.py), None before the first.
        told: what ended the program was raised somewhere already.
        title: what texts call the runtime.
        threads: the Ms of this process's threads.
        report: text of the deadlock with the stacks of this process, once a thread has made it, under `report_lock`.
        registering, mending: a thread takes its slot; the host's slot is being mended. Never both: one word of the
            host's slot is for threads that have none yet. Guard: the interpreter lock.
        supervisor_fd: becomes readable when the supervisor ends (-1 in its own children, which end with it; ENDED after
            the end of the runtime).
    """

    def __init__(
        self,
        segment: Segment,
        locks: Sequence[Lock],
        notes: Sequence[Semaphore],
        host: int,
        new_thread: Callable[[Process], M],
    ) -> None:
        self.segment = segment
        self.locks = locks
        self.notes = notes
        self.host = host
        self.tls = threading.local()
        self.refs = Refs(host)
        self.outsiders = Outsiders(segment.w, host)
        self.codes: Any = None
        self.over: str | None = None
        self.exporters: weakref.WeakValueDictionary[int, Any] | None = None
        self.alarm: Any = None
        self.mailbox: Any = None
        self.keys: Any = None
        self.registering = self.mending = False
        self.supervisor_fd = -1
        self.told = False
        self.title = "this runtime"
        self.threads: weakref.WeakSet[M] = weakref.WeakSet()
        self.report: str | None = None
        self.report_lock = threading.Lock()
        self._new_thread = new_thread
        self._making = threading.Lock()

    def thread(self) -> M:
        """The M of the calling thread, made if it is new here.

        Raises:
            NotRunning: the runtime is over.
        """
        try:
            m: M = self.tls.m
            return m
        except AttributeError:
            pass
        if self.over is not None:
            raise NotRunning(self.over)
        m = self._new_thread(self)
        self.tls.m = m
        self.threads.add(m)
        return m

    def helper(self, attribute: str, make: Callable[[], Any]) -> Any:
        """The one `alarm` or `mailbox` of this process, made by the thread that comes first."""
        found = getattr(self, attribute)
        if found is None:
            with self._making:
                found = getattr(self, attribute)
                if found is None:
                    found = make()
                    setattr(self, attribute, found)
        return found

    def supervisor_is_gone(self) -> bool:
        """Whether the supervisor died (or is so far in ending the runtime that it is gone)."""
        fd = self.supervisor_fd
        return fd == ENDED or (fd >= 0 and bool(select.select([fd], [], [], 0)[0]))

    def check_supervisor(self) -> None:
        """Called now and then by whoever sleeps.

        Raises:
            NotRunning: the supervisor died; nobody will wake us.
        """
        if self.supervisor_is_gone():
            if self.over is None:
                self.over = f"the supervisor of {self.title} died; its goroutines are gone"
            raise NotRunning(self.over)

    def watch_supervisor(self, fd: int) -> None:
        """From now on, who sleeps looks whether the supervisor lives; who waits at a lock does, too.

        Args:
            fd: its pidfd.
        """
        self.supervisor_fd = fd
        self.watch_locks()

    def watch_locks(self) -> None:
        """From now on, a thread that waits at a lock for long looks whether that can ever end."""
        found = weakref.ref(self)  # the locks must not keep us, and the segment, alive

        def watch(waited_s: float) -> None:
            process = found()
            if process is None:
                return
            process.check_supervisor()
            if waited_s > _NESTED_S and nested():
                raise RuntimeError(NESTED_LOCK)

        for lock in self.locks:
            lock.watch = watch


class M(Thread):
    """A thread of this runtime; the worker's runs goroutines, a client's only waits.

    Attributes:
        g: base of the goroutine that runs now.
        next_goid, goid_end: the numbers it has in hand.
        latest: the goroutine whose handle was made last and not used since, or 0.
        decides: what it stores into the decision word of who waits in one queue only, and gets what it waited for.
    """

    def __init__(self, process: Process, slot: int, **kwargs: Any) -> None:
        super().__init__(process.segment, process.locks, process.notes, slot, **kwargs)
        self.process = process
        self.g = 0
        self.latest = 0
        self.decides = OUT_OK | slot << 32
        self.next_goid = self.goid_end = 0

    def new_goid(self) -> int:
        """A number no other goroutine of the runtime has. Taken in batches, as Go does."""
        n = self.next_goid
        if n == self.goid_end:
            lock = self.locks[L_SCHED]
            self.enter(lock)
            n = self.w[S_GOID]
            self.w[S_GOID] = n + S_GOID_BATCH
            self.leave(lock)
            self.goid_end = n + S_GOID_BATCH
        self.next_goid = n + 1
        return n

    def park(self, deadline: float | None = None) -> int:
        """Wait until the goroutine that runs now is decided; return the decision, or 0 if the deadline passed first.

        The caller has begun the wait (:meth:`begin_wait`) and enqueued it under a lock it has given back. After 0 it
        must withdraw under that lock, and end the wait; finding itself decided there, it parks again without a
        deadline: a decided goroutine is resumed exactly once, by its delivery.

        Args:
            deadline: in seconds of ``time.monotonic``.
        Raises:
            GoroutinePanic, WorkerLost, NotRunning: the program is over (client threads only).
        """
        bug("this thread can't wait")

    def pause(self, deadline: float) -> None:
        """Sleep until the deadline (``time.monotonic`` seconds)."""
        bug("this thread can't wait")

    def yield_(self) -> None:
        """Let others run."""
        bug("this thread can't wait")

    def interrupted(self) -> None:
        """Called where ``w[H_STOP]`` is set: raise what ended the program, or never return."""
        bug("this thread can't wait")

    def surface(self) -> None:
        """As :meth:`interrupted`, in calls that only look at something or give it back: later they go on.

        What ended the program is raised at the next call of whatever kind. The ``finally`` blocks it then runs through
        are not cut short by raising it again.
        """
        if not self.process.told:
            self.interrupted()

    def ready(self, g: int) -> None:
        """Deliver the decision of `g`: have its M run it on. Blocks: for the inbox lock of that M."""
        deliver(self, g)

    # ------------------------------------------------------------ exceptions in the wrong place
    def left(self, error: BaseException) -> None:
        """An exception leaves a call of ours. If it may have cut that off in the middle, have it put right, and wait.

        Ctrl-C and what other signal handlers raise can come between any two bytecodes, a RecursionError or MemoryError
        at any call. Then a lock may be held, or a goroutine decided and not delivered, as after a death. Whether the
        operation was done is unknown, but it is done wholly or not at all.
        Blocks: up to a tick of the supervisor (20 ms); where there is no stack left to call anything, it spins.
        """
        if (self.cut_off(error) or self.waits()) and not nested():
            self.mended()
            if self.waits():  # it is in no queue any more
                if self.w[self.g + G_DECIDE]:
                    self.take_delivery()
                else:
                    self.end_wait()

    def cut_off(self, error: BaseException) -> bool:
        """Whether an exception that leaves a call of ours may have cut that off in the middle."""
        if self.w[self.ph] or not isinstance(error, _ON_PURPOSE) or isinstance(error, RecursionError):
            return True
        # Raised by ours, or by the user's where we called it, it is no surprise; a signal handler's TimeoutError is.
        tb = error.__traceback__
        frame = None
        while tb is not None:
            frame = tb.tb_frame
            if frame.f_code is call_out.__code__:
                return False
            tb = tb.tb_next
        return frame is not None and not frame.f_globals.get("__name__", "").startswith(_MACHINERY)

    def mended(self) -> None:
        """Have the supervisor put right what was cut off here, and wait for that. Blocks: as :meth:`left`."""
        w = self.w
        process = self.process
        if self.slot == process.host:
            process.mending = True
            while process.registering:
                pass
        cut = self.base + M_CUT
        later = None
        w[cut] = 1
        while w[cut]:
            try:
                self._until_mended(cut)
            except RecursionError:
                continue
            except BaseException as another:  # Ctrl-C again: the slot is not ours yet
                later = another
        process.mending = False
        if later is not None:
            raise later

    def _until_mended(self, cut: int) -> None:
        """Wait for the supervisor. If the runtime is over nothing is mended any more."""
        w = self.w
        while w[cut]:
            if w[H_STOP] or self.process.supervisor_is_gone():
                for level in range(M_PHASE_LEVELS - 1):
                    w[self.ph + level] = 0
                w[cut] = 0
            time.sleep(0.0005)

    def held_already(self) -> None:
        """A lock is taken where one is shown already: an exception left it behind, unless this call is nested."""
        if not nested():
            self.mended()

    def detach(self) -> None:
        """This process is a fork of the one whose thread this was."""

    def begin_wait(self, reason: int) -> int:
        """Make the goroutine, which is about to enqueue itself, one that waits and is not decided; return it.

        It is WAITING from before anybody can find it until its delivery is taken, or :meth:`end_wait`: so whoever
        repairs, here or for a dead waker, can tell whether a decision was delivered.

        Args:
            reason: one of sched/states.py.
        Raises:
            RuntimeError: it waits already: this call is nested (:func:`nested`). The lock that was taken last is given
                back.
        """
        w, g = self.w, self.g
        if not g or w[g + G_STATUS] & states.STATUS_MASK != states.RUNNING:
            if w[self.ph]:
                self.held.pop().release()
                w[self.ph] = 0
            raise RuntimeError(NESTED_WAIT)
        w[g + G_DECIDE] = 0
        w[g + G_STATUS] = states.WAITING | reason << states.REASON_SHIFT
        return g

    def waits(self) -> bool:
        """Whether the goroutine that runs now has begun a wait, and neither took its delivery nor ended it."""
        return bool(self.g) and self.w[self.g + G_STATUS] & states.STATUS_MASK != states.RUNNING

    def end_wait(self) -> None:
        """The goroutine is in no queue any more and was not decided: it runs on."""
        self.w[self.g + G_STATUS] = states.RUNNING

    def take_delivery(self) -> None:
        """The goroutine was decided, and an exception came: end this wait, and have that not delivered to the next."""
        self.end_wait()  # a thread that sleeps looks at the decision alone


def nested() -> bool:
    """Whether this call of ours interrupts another one of the same thread, which is in the middle of something.

    Only a finalizer that the garbage collector runs, or a signal handler, can do that: it has a function of ours below
    it on the stack, which did not call it.
    """
    frame, ours = sys._getframe(1), True
    while frame is not None:
        if not frame.f_globals.get("__name__", "").startswith(_MACHINERY):
            ours = False
        elif frame.f_code in CALLS_OUT:
            ours = True  # and so are those of ours that called it
        elif not ours:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def call_out(fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
    """Call a function of the user's, from one of ours that is in the middle of nothing."""
    return fn(*args, **kwargs)


CALLS_OUT.add(call_out.__code__)


def whole(method: Callable[Concatenate[Any, A], R]) -> Callable[Concatenate[Any, A], R]:
    """A method of a handle whose locks and duties no exception leaves behind (:meth:`M.left`).

    The hot paths write it out, which costs nothing where nothing is raised; this costs one call more.
    """

    @functools.wraps(method)
    def call(self: Any, /, *args: A.args, **kwargs: A.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except BaseException as error:
            m = getattr(self._tls, "m", None)
            if m is not None:
                m.left(error)
            raise

    return call


# Longer than any program runs, and short enough for every clock.
_FOR_EVER_S = 1e9
# Beyond what any clock or sum of ours is computed with.
_FAR_S = 1e18

# The runtime of this process, if one is entered.
process: Process | None = None


def current() -> M:
    """The M of the calling thread, in the runtime of this process; starts the default runtime if there is none.

    Raises:
        NotRunning: the runtime was closed.
    """
    p = process
    if p is None:
        # Late, since boot needs all of this first; a program that calls go() need not have imported more than go.
        p = importlib.import_module("mproc_go.runtime.boot").start_default()
    return p.thread()


def owner(tls: Any) -> Process:
    """The runtime a handle belongs to, if it is the one of this process.

    Raises:
        NotRunning: it is over, or this process is a fork of its owner.
    """
    p = process
    if p is None or p.tls is not tls:
        raise NotRunning("this belongs to a runtime that is over here; make a new one in the runtime that runs now")
    return p


def seconds(given: Any, what: str = "timeout is a number of seconds, or None to wait for ever") -> float:
    """A number of seconds that a user gave, checked. Runs: before any lock is taken, which an exception must not leave.

    Args:
        what: for the error, what was to be given.

    Raises:
        TypeError: it is no number.
        ValueError: it is not a number (NaN).
    """
    if isinstance(given, bool) or not isinstance(given, int | float):
        try:
            given = float(given.__float__())  # Fraction, Decimal, NumPy's
        except AttributeError:
            raise TypeError(f"{what}, not {type(given).__name__}") from None
    if given != given:
        raise ValueError(f"{what}, not NaN")
    if not -_FAR_S < given < _FAR_S:  # also of an integer too large for a float
        return math.inf if given > 0 else -math.inf
    return given  # type: ignore[no-any-return]


def integer(given: Any, what: str) -> int:
    """An integer that a user gave: an int, or what Python takes for one (NumPy's). A bool is a mistake.

    Args:
        what: for the error, what was to be given.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(given, bool):
        try:
            return operator.index(given)
        except TypeError:
            pass
    raise TypeError(f"{what}, not {type(given).__name__}")


def deadline_of(timeout: float | None) -> float | None:
    """Turn a public timeout (seconds, None for ever) into a monotonic deadline; hundreds of years are for ever."""
    return None if timeout is None or timeout > _FOR_EVER_S else time.monotonic() + timeout


def goroutines(w: memoryview) -> int:
    """How many goroutines there are now; may be stale by those being made or ending."""
    total = 0
    for slot in range(w[H_SLOTS]):
        base = slot_base(slot)
        total += w[base + M_SPAWNED] - w[base + M_FINISHED]
    return total
