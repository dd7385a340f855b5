"""``after``, ``Timer``, ``Ticker``, ``after_func``: time as a message.

A timer is a few words beside its channel, in the record of that channel: one lock guards both, so stopping a timer and
taking back what it has sent already is one step. A ``Timer`` and its ``.c`` are two kinds of handles of one record.
What fires it is an alarm (alarm.py).

The rules are Go's since 1.23: after ``stop`` or ``reset`` nothing can be received that was sent before; a timer nobody
can reach is freed, also while it runs; who does not receive loses ticks, and never gets two for one.

Invariant TM1: an armed timer is looked at no later than its deadline (TM_LOOK), by the alarm of the process that
TM_LOOKER names. Who sets it stores that first: dead anywhere after, it names a dead one, and a worker looks instead.

Source: Go time/sleep.go, time/tick.go, runtime/time.go.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mproc_go.chan import ops
from mproc_go.chan.channel import Chan
from mproc_go.errors import GO_OF_NIL, TICKER_INTERVAL, TICKER_RESET
from mproc_go.lib import alarm
from mproc_go.runtime import message, refs, spawn
from mproc_go.runtime import process as rt
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.runtime.process import M, whole
from mproc_go.sched import repairs
from mproc_go.shm import counts
from mproc_go.shm.layout import (
    CH_HEAD,
    CH_SENDQ,
    CH_TAIL,
    H_STOP,
    KIND_CHAN,
    KIND_TICKER,
    KIND_TIMER,
    O_KIND,
    R_GEN,
    R_REFS,
    TM_CALL,
    TM_DEADLINE,
    TM_LOOK,
    TM_LOOKER,
    TM_PERIOD,
    TM_TIMED,
    object_lock,
)
from mproc_go.shm.thread import Thread

_LOOK = 1
_WHAT = "a time is a number of seconds"


class _Clock(SharedHandle):
    """A handle of the record of a channel that has a timer."""

    __slots__ = ("_c",)

    _c: Chan[float] | None

    def _make_channel(self) -> M:
        channel: Chan[float] = Chan(1)
        m = rt.current()
        w, base = m.w, channel._base
        w[base + TM_DEADLINE] = w[base + TM_PERIOD] = w[base + TM_LOOK] = w[base + TM_LOOKER] = 0
        w[base + TM_CALL] = w[base + TM_CALL + 1] = 0
        w[base + TM_TIMED] = 1
        m.process.refs.opened(m, KIND_CHAN, base, channel._gen)
        self._bind(m, base, channel._gen)
        self._c = channel
        return m

    def _bind(self, m: M, base: int, gen: int) -> None:
        super()._bind(m, base, gen)
        self._c = None

    @property
    def c(self) -> Chan[float]:
        """The channel it sends on; what it sends is ``time.time()``. None where it calls a function instead."""
        if self._c is None and not self._m().w[self._base + TM_CALL]:
            self._c = Chan._open(self._base, self._gen)
        return self._c  # type: ignore[return-value] # nobody expects None who did not ask for a function

    @whole
    def _set(self, when: int, period: int) -> bool:
        """Stop it, take back what was not received, arm it anew if `when` is not 0; return whether it was active."""
        m = self._m()
        w, base = m.w, self._base
        if w[H_STOP]:
            m.interrupted()
        m.enter(self._lock)
        active, look = arm(m, base, when, period, m.process.host)
        m.leave(self._lock)
        if look:
            alarm.of(m).look_at(m, when, base, self._gen, _LOOK)
        return active

    def __repr__(self) -> str:
        w = self._words()
        if w is None:
            return f"<{type(self).__name__} {self._base:#x} of a runtime that is over>"
        return f"<{type(self).__name__} {self._base:#x} {'active' if w[self._base + TM_DEADLINE] else 'stopped'}>"


class Timer(_Clock):
    """Sends the time on ``.c``, once, in `seconds` from now; zero or less: at once.

    Raises:
        TypeError, ValueError: `seconds` is not a number.
        SharedMemoryFull: no room.
        NotRunning: no room for one more thread, which fires the timers of this process.

    Source: Go time.NewTimer.
    """

    __slots__ = ()

    KIND = KIND_TIMER

    def __init__(self, seconds: float) -> None:
        when = _moment(seconds)
        self._make_channel()
        self._set(when, 0)

    def stop(self) -> bool:
        """Stop it, so that nothing will be received from it; return whether that was needed. Blocks: never.

        False: it was stopped before, or what it sent has been received. ``.c`` is not closed.
        """
        return self._set(0, 0)

    def reset(self, seconds: float) -> bool:
        """Start it anew, to send in `seconds` from now; return whether it was active, as :meth:`stop`. Blocks: never.

        Raises: ValueError as the constructor.
        """
        return self._set(_moment(seconds), 0)


class Ticker(_Clock):
    """Sends the time on ``.c`` every `seconds`. It waits for nobody: who is slow to receive loses ticks.

    Raises:
        ValueError: `seconds` is not above zero.
        TypeError, SharedMemoryFull, NotRunning: as :class:`Timer`.

    Source: Go time.NewTicker.
    """

    __slots__ = ()

    KIND = KIND_TICKER

    def __init__(self, seconds: float) -> None:
        period = _period(seconds, TICKER_INTERVAL)
        self._make_channel()
        self._set(min(time.monotonic_ns() + period, alarm.NEVER_NS), period)

    def stop(self) -> None:
        """Stop it, so that nothing more will be received from it. ``.c`` is not closed. Blocks: never."""
        self._set(0, 0)

    def reset(self, seconds: float) -> None:
        """Start it anew with another period, the first tick after that. Blocks: never.

        Raises:
            ValueError: `seconds` is not above zero.
        """
        period = _period(seconds, TICKER_RESET)
        self._set(min(time.monotonic_ns() + period, alarm.NEVER_NS), period)


def _period(seconds: float, text: str) -> int:
    seconds = rt.seconds(seconds, _WHAT)
    if seconds <= 0:
        raise ValueError(text)
    return alarm.NEVER_NS if seconds >= 1e9 else max(1, int(seconds * 1e9))


def _moment(seconds: float) -> int:
    return alarm.deadline_ns(rt.seconds(seconds, _WHAT))


def after(seconds: float) -> Chan[float]:
    """A channel on which the time arrives, once, in `seconds` from now.

    Raises: as :class:`Timer`.     Blocks: never.     Source: Go time.After.
    """
    return Timer(seconds).c


def after_func(seconds: float, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Timer:
    """Call ``fn(*args, **kwargs)`` in a goroutine of its own, in `seconds` from now.

    The timer can be stopped and reset. The call comes whether or not the timer is kept; ``stop`` does not wait for one
    that has begun.

    Raises:
        TypeError: `fn` can't be called.
        EncodeError: the function or an argument can't travel.
        ValueError, SharedMemoryFull, NotRunning: as :class:`Timer`.

    Source: Go time.AfterFunc.
    """
    if not callable(fn):
        raise TypeError(GO_OF_NIL if fn is None else f"after_func needs a function, not {type(fn).__name__}")
    when = _moment(seconds)
    hdr, body = message.pack(rt.current(), (fn, args, kwargs), 0)
    timer = Timer.__new__(Timer)
    try:
        m = timer._make_channel()
    except BaseException:
        message.discard(rt.current(), hdr, body)
        raise
    w, base = m.w, timer._base
    timer._c = None
    w[base + O_KIND] = KIND_TIMER  # what it is to whoever frees it, now that no channel handle is left
    w[base + TM_CALL + 1] = body
    w[base + TM_CALL] = hdr  # publishes
    message.let_go(m, body)
    timer._set(when, 0)
    return timer


# ---------------------------------------------------------------- under the channel's lock
def arm(t: Thread, base: int, when: int, period: int, host: int) -> tuple[bool, bool]:
    """Set the timer, 0 to stop it; return whether it was active, and whether our alarm must be told.

    What was sent and not received is taken back, and counts as active. Who sets it looks at it: the process whose alarm
    was to look may be dead, and nobody would. `host`: slot of this process. Lock: the channel's.
    """
    w = t.w
    active = w[base + TM_DEADLINE] != 0
    if w[base + CH_HEAD] != w[base + CH_TAIL] and not w[base + CH_SENDQ]:
        w[base + CH_HEAD] = w[base + CH_TAIL]
        active = True
    w[base + TM_PERIOD] = period
    look = bool(when) and not (0 < w[base + TM_LOOK] <= when and w[base + TM_LOOKER] == host)
    if look:  # before the deadline: dead after this, whoever looks instead sees what was set
        w[base + TM_LOOKER] = host
    _set_deadline(t, base, when)
    if look:
        w[base + TM_LOOK] = when
    return active, look


def _set_deadline(t: Thread, base: int, when: int) -> None:
    """Store when it fires. A call to come keeps its timer: nobody else may do so. Lock: the channel's."""
    w = t.w
    kept = bool(when) - (w[base + TM_DEADLINE] != 0) if w[base + TM_CALL] else 0
    if kept:
        counts.count_locked(t, base, kept, base + TM_DEADLINE, when)  # publishes
    else:
        w[base + TM_DEADLINE] = when  # publishes


def next_tick(when: int, period: int, now: int) -> int:
    """When a ticker that was due at `when` ticks next: periods that passed meanwhile are lost."""
    return when + period * (1 + (now - when) // period)


def _look(m: M, base: int, gen: int, when: int) -> int:
    """Fire the timer if it is due; return when to look again. Runs: in an alarm."""
    w = m.w
    refs = m.process.refs

    def alive() -> bool:
        return bool(w[base + R_GEN] == gen and w[base + R_REFS] and w[base + TM_LOOK] == when)

    if not refs.open_if(m, base, alive):  # else it stays while we look
        return 0
    try:
        return _fire(m, base)
    finally:
        refs.drop(m, w[base + O_KIND], base)


def _fire(m: M, base: int) -> int:
    """Fire the timer, which we have a handle of, if it is due; return when to look again."""
    w = m.w
    lock = m.locks[object_lock(base)]
    hdr, body = message.pack(m, time.time())
    now = time.monotonic_ns()
    g = 0
    m.enter(lock)
    w[base + TM_LOOKER] = m.process.host
    due = w[base + TM_DEADLINE]
    fires = due and due <= now
    call = w[base + TM_CALL]
    if fires:
        outcome = ops.DONE
        if not call:
            outcome, g = ops.send(m, base, hdr, body)
        period = w[base + TM_PERIOD]
        _set_deadline(m, base, next_tick(due, period, now) if period and outcome != ops.CLOSED else 0)
    again = w[base + TM_LOOK] = w[base + TM_DEADLINE]
    m.leave(lock)
    if g:
        m.ready(g)
    if fires and call:
        fn, args, kwargs = message.copy(m, call, w[base + TM_CALL + 1])
        spawn.spawn(m, fn, args, kwargs, False)
    return int(again)


def _useless(m: M, base: int, gen: int, when: int) -> bool:
    """Whether the timer was stopped; it is not looked at any more then. Runs: with the lock of an alarm."""
    w = m.w
    if w[base + TM_DEADLINE]:
        return False
    lock = m.locks[object_lock(base)]
    m.enter(lock)
    stopped = w[base + R_GEN] == gen and w[base + TM_LOOK] == when and not w[base + TM_DEADLINE]
    if stopped:
        w[base + TM_LOOK] = 0
    m.leave(lock)
    return bool(stopped)


def check(w: Any, base: int) -> None:
    """Assert TM1. Runs alone."""
    deadline, look = w[base + TM_DEADLINE], w[base + TM_LOOK]
    assert not deadline or 0 < look <= deadline, f"TM1: due at {deadline}, looked at {look}"


alarm.register(
    _LOOK, (KIND_CHAN, KIND_TIMER), alarm.Kind(TM_LOOK, TM_DEADLINE, TM_LOOKER, _look, _useless)
)


def _destroy(m: M, base: int) -> None:
    message.discard_at(m, base + TM_CALL)
    refs.DESTROY[KIND_CHAN](m, base)


def _names(w: Any, base: int) -> list[int]:
    return ops.names(w, base) + ([w[base + TM_CALL + 1]] if w[base + TM_CALL] else [])


register(Timer, _destroy)
repairs.NAMES[KIND_TIMER] = _names
register(Ticker, _destroy)
