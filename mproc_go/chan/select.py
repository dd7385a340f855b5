"""``select``: wait for whichever of several channel operations can be done first; exactly one is done.

1. Encode what would be sent, before any lock.
2. Take the locks of all channels, in ascending order; each once, since channels share locks.
3. Try the cases in random order; the first that needs no waiting is the one.
4. Else put a sudog of each case into its queue, in random order (two cases of one channel are then equally likely),
   give the locks back and park. Whoever comes first claims the goroutine (chan/ops.py decide); others find it taken.
5. Awake, take the locks again, take the losers' sudogs out of their queues, free them and the messages not sent.

Crash: a sudog in a queue whose goroutine is decided, or dead, counts as out of it; the reaper unlinks it.
Source: Go select.go selectgo.
"""

from __future__ import annotations

from random import random
from typing import Any, Final, NamedTuple

from mproc_go.chan import ops
from mproc_go.chan.end import End, give_back
from mproc_go.chan.receiving import Receiving
from mproc_go.chan.sending import Sending
from mproc_go.codec import wire
from mproc_go.errors import SEND_ON_CLOSED, ChanClosed
from mproc_go.runtime import process as rt
from mproc_go.runtime.message import Body, discard, let_go, open_message, put, stow
from mproc_go.runtime.process import M, deadline_of, seconds
from mproc_go.sched import states, waitq
from mproc_go.shm.layout import (
    CH_RECVQ,
    CH_SENDQ,
    G_DECIDE,
    H_STOP,
    HDR_SPILLED,
    OUT_CLOSED,
    OUT_MASK,
    OUT_OK,
    POOL_SUDOG,
    SG_CASE,
    SG_G,
    SG_MSG,
    SG_RECEIVES,
    SG_SELECT,
    SG_SEQ,
    SUDOG_BODY,
)
from mproc_go.shm.lock import Lock
from mproc_go.shm.pool import give, take

_RECV: Final = Receiving.recv
_SEND: Final = Sending.send


class _Default:
    """The type of :data:`default`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "default"

    def __reduce__(self) -> str:
        return "default"


#: The case of a select that is chosen when no other is ready.
default: Final = _Default()


class Selected(NamedTuple):
    """What a select came to.

    Attributes:
        index: of the case among all arguments.
        value: what was received, else None.
        ok: False if a channel was closed and drained, and for ``default``.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs of three different things
    value: Any
    ok: bool


class _Case:
    """One channel operation of a select."""

    __slots__ = ("body", "ch", "hdr", "index", "lock", "queue", "sudog", "tls")

    def __init__(self, index: int, end: End, queue: int) -> None:
        self.index = index
        self.ch = end._base
        self.lock = end._lock
        self.tls = end._tls
        self.queue = end._base + queue
        self.hdr = 0
        self.body: Body = b""
        self.sudog = 0


def select(*cases: Any, timeout: float | None = None) -> Selected:
    """Do exactly one of several channel operations: a random one of those that can be done, else the first that can.

    Args:
        cases: ``ch.recv``, ``(ch.send, value)``, ``default``, or None (a nil channel: never ready). A channel may stand
            in several, on both sides.
        timeout: in seconds; None waits for ever, zero or less does not wait.

    Returns: ``(index, value, ok)``. A receive gives its message and True, from a closed and drained channel None and
    False; a send None and True; ``default`` None and False.

    Raises:
        ChanClosed: the chosen send is on a closed channel.
        EncodeError: a value to send can't travel; nothing was done.
        TimeoutError: nothing was ready in time; nothing was done.
        TypeError: something is no case.

    Blocks: the goroutine, unless there is a ``default``.     Source: Go select.go selectgo.
    """
    m = rt.current()
    if timeout is not None:
        timeout = seconds(timeout)
    channels, fallback = _parse(m, cases)
    try:
        return _select(m, channels, fallback, timeout)
    finally:
        for case in channels:
            if case.queue and case.hdr:
                discard(m, case.hdr, case.body)


def _parse(m: M, cases: tuple[Any, ...]) -> tuple[list[_Case], int]:
    """The channel operations, their values encoded, and the index of ``default`` or -1."""
    channels: list[_Case] = []
    fallback = -1
    try:
        for index, case in enumerate(cases):
            if case is None:
                continue
            if case is default:
                if fallback >= 0:
                    raise TypeError(f"select: case {index} is a second default")
                fallback = index
            elif getattr(case, "__func__", None) is _RECV:
                channels.append(_Case(index, case.__self__, CH_RECVQ))
            elif type(case) is tuple and len(case) == 2 and getattr(case[0], "__func__", None) is _SEND:
                parsed = _Case(index, case[0].__self__, CH_SENDQ)
                hdr, data = wire.encode(case[1])
                parsed.hdr, parsed.body = stow(m, hdr, data)
                channels.append(parsed)
            else:
                raise TypeError(
                    f"select: case {index} is {_brief(case)}; a case is ch.recv, (ch.send, value), default or None"
                )
            if channels and channels[-1].tls is not m.process.tls:
                rt.owner(None)  # a channel of a runtime that is over
    except BaseException:
        for parsed in channels:
            if parsed.hdr:
                discard(m, parsed.hdr, parsed.body)
        raise
    return channels, fallback


def _brief(case: Any) -> str:
    text = repr(case)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _select(m: M, channels: list[_Case], fallback: int, timeout: float | None) -> Selected:
    if m.w[H_STOP]:
        m.interrupted()
    wait = fallback < 0 and (timeout is None or timeout > 0)
    locks = [m.locks[number] for number in sorted({case.lock.number for case in channels})]
    _shuffle(channels)
    try:
        if wait:
            for case in channels:
                case.sudog = take(m, POOL_SUDOG) + SUDOG_BODY
                m.w[case.sudog + SG_MSG] = 0
        if wait and m.waits():
            m.begin_wait(states.SELECT)  # raises, while no lock is held
        _enter(m, locks)
        for case in channels:
            woken, found = _try(m, case, len(locks))
            if found is not None:
                _leave(m, locks)
                if woken:
                    m.ready(woken)
                return _finish(m, case, *found)
        if not wait:
            _leave(m, locks)
            if fallback >= 0:
                return Selected(fallback, None, False)
            raise TimeoutError("select: nothing is ready")
        g = m.begin_wait(states.SELECT if channels else states.SELECT_NO_CASES)
        for case in channels:
            _enqueue(m, case, g)
        _leave(m, locks)
        decision = _park(m, channels, locks, deadline_of(timeout))
        if not decision:
            raise TimeoutError(f"select: nothing was ready within {timeout} s")
        chosen = _chosen(channels, decision)
        if chosen.hdr and decision & OUT_MASK == OUT_OK:
            m.w[chosen.sudog + SG_MSG] = 0  # it is there no more
        if decision & OUT_MASK == OUT_CLOSED:
            return _finish(m, chosen, ops.CLOSED, 0, b"")
        if chosen.hdr:
            return _finish(m, chosen, ops.DONE, 0, b"")
        return _finish(m, chosen, ops.DONE, *ops.take_given(m, chosen.sudog))
    except BaseException as error:
        m.left(error)
        raise
    finally:
        for case in channels:
            if case.sudog:
                ops.take_given(m, case.sudog)  # what was not sent is ours again
                give(m, POOL_SUDOG, case.sudog - SUDOG_BODY)


def _shuffle(cases: list[_Case]) -> None:
    # random.shuffle takes four times as long, since it is exact also for more cases than there are atoms.
    for i in range(len(cases) - 1, 0, -1):
        j = int(random() * (i + 1))
        cases[i], cases[j] = cases[j], cases[i]


def _chosen(channels: list[_Case], decision: int) -> _Case:
    index = decision >> 8 & 0xFFFFFF
    return next(case for case in channels if case.index == index)


def _enter(m: M, locks: list[Lock]) -> None:
    for level, lock in enumerate(locks):
        m.enter(lock, level)


def _leave(m: M, locks: list[Lock]) -> None:
    for level in range(len(locks) - 1, -1, -1):
        m.leave(locks[level], level)


def _try(m: M, case: _Case, level: int) -> tuple[int, tuple[int, int, Body] | None]:
    """Do the case if that needs no waiting. Locks: all. Returns: goroutine to make ready, and what it came to."""
    if case.hdr:
        outcome, g = ops.send(m, case.ch, case.hdr, case.body, level)
        return g, None if outcome == ops.MUST_WAIT else (outcome, 0, b"")
    outcome, hdr, body, g = ops.recv(m, case.ch, level)
    return g, None if outcome == ops.MUST_WAIT else (outcome, hdr, body)


def _finish(m: M, case: _Case, outcome: int, hdr: int, body: Body) -> Selected:
    """What the chosen case gives; its message, if it sent one, is no longer ours."""
    if case.hdr:
        if outcome == ops.CLOSED:
            raise ChanClosed(SEND_ON_CLOSED)
        case.queue = 0
        return Selected(case.index, None, True)
    if outcome == ops.CLOSED:
        return Selected(case.index, None, False)
    return Selected(case.index, open_message(m, hdr, body), True)


def _enqueue(m: M, case: _Case, g: int) -> None:
    """Lock: the channel's."""
    w, s = m.w, case.sudog
    w[s + SG_CASE] = case.index
    w[s + SG_SEQ] = 0 if case.hdr else SG_RECEIVES
    w[s + SG_SELECT] = 1
    put(w, m.mem, s + SG_MSG, case.hdr, case.body)
    w[s + SG_G] = g
    w[s - SUDOG_BODY] = m.live  # from here on the reaper goes by what it says
    waitq.enqueue(w, case.queue, s)
    if case.hdr & HDR_SPILLED:
        let_go(m, case.body)


def _park(m: M, channels: list[_Case], locks: list[Lock], deadline: float | None) -> int:
    """Wait until one case is done and leave all queues; return the decision, 0 once the deadline passed."""
    try:
        decision = m.park(deadline)
    except BaseException:
        decision = _withdraw(m, channels, locks)
        if decision:
            m.take_delivery()
        if decision & OUT_MASK == OUT_OK:  # Ctrl-C in the moment a case was done
            case = _chosen(channels, decision)
            if case.hdr:
                case.queue = 0
                m.w[case.sudog + SG_MSG] = 0
            else:
                give_back(m, case.lock, case.ch, *ops.take_given(m, case.sudog))
        raise
    late = _withdraw(m, channels, locks)
    if not decision and late:
        return m.park()  # decided in the last moment: its delivery is on the way
    return decision


def _withdraw(m: M, channels: list[_Case], locks: list[Lock]) -> int:
    """Take what is left of us out of all queues; return the decision."""
    w, g = m.w, m.g
    _enter(m, locks)
    for case in channels:
        if w[case.sudog + SG_SELECT] != waitq.OUT:
            waitq.remove(w, case.queue, case.sudog)
    decision: int = w[g + G_DECIDE]
    _leave(m, locks)
    if not decision:
        m.end_wait()
    return decision

