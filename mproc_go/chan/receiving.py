"""The receiving half of a channel.

The hot path is :meth:`Receiving.recv` where nobody waits: one lock, one copy, one store, written out here; everything
else is in ops.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Self, TypeVar

from mproc_go.chan import ops
from mproc_go.chan.end import NOT_PLAIN, End, give_back
from mproc_go.chan.sending import BATCH
from mproc_go.codec import wire
from mproc_go.errors import RECV_ON_CLOSED, ChanClosed, WouldBlock
from mproc_go.runtime.message import Body, copy, discard, open_message, own
from mproc_go.runtime.park import park
from mproc_go.runtime.process import M, deadline_of, integer, seconds, whole
from mproc_go.sched import states, waitq
from mproc_go.shm.layout import (
    CH_CLOSED,
    CH_HEAD,
    CH_RECVQ,
    CH_SENDQ,
    CH_TAIL,
    G_DECIDE,
    G_STATUS,
    G_SUDOG,
    H_STOP,
    HDR_LEN_MASK,
    OUT_MASK,
    OUT_OK,
    SG_G,
    SG_LINK,
    SG_MSG,
    SG_PREV,
    SG_RECEIVES,
    SG_SELECT,
    SG_SEQ,
    SLOT_MSG_WORDS,
)

_WAITING = states.WAITING | states.CHAN_RECEIVE << states.REASON_SHIFT

T = TypeVar("T")


class Receiving(End, Generic[T]):
    """What one can do at the receiving end."""

    __slots__ = ()

    def recv(self, timeout: float | None = None) -> T:
        """Receive the oldest message. Blocks the goroutine, never its P, until there is one.

        Args:
            timeout: in seconds; None waits for ever, zero or less does not wait.

        Raises:
            ChanClosed: the channel is closed and drained.
            TimeoutError: nothing came in time; nothing was taken.

        Source: Go chan.go chanrecv.
        """
        # Cost: 0.9 us = 1 lock, 8 words, 1 copy, decode; scripts/bench hot
        try:
            m = self._tls.m
        except AttributeError:
            m = self._m()
        if timeout is not None:
            timeout = seconds(timeout)
        w = m.w
        ph = m.ph
        ch = self._base
        lock = self._lock
        try:
            w[ph] = lock.phase
            if not lock.acquire(False):
                lock.contended()
            if w[lock.gen_word] != lock.gen:
                lock = self._lock = lock.renewed(w, ph)
            head = w[ch + CH_HEAD]
            if w[ch + CH_TAIL] != head and not w[ch + CH_SENDQ] and not w[H_STOP]:
                at = self._ring + head % self._cap * SLOT_MSG_WORDS
                hdr = w[at]
                if hdr & NOT_PLAIN:
                    body = w[at + 1]
                    own(m, hdr, body)
                    w[ch + CH_HEAD] = head + 1  # publishes
                    lock.release()
                    w[ph] = 0
                    value: T = open_message(m, hdr, body)
                    return value
                at = at * 8 + 8
                data = m.mem[at : at + (hdr & HDR_LEN_MASK)]
                w[ch + CH_HEAD] = head + 1  # publishes
                lock.release()
                w[ph] = 0
                value = wire.decode(hdr, data)
                return value
            m.held.append(lock)
            value, ok = self._recv_slow(m, timeout)
        except BaseException as error:
            m.left(error)
            raise
        if not ok:
            raise ChanClosed(RECV_ON_CLOSED)
        return value

    def recv_ok(self, timeout: float | None = None) -> tuple[T | None, bool]:
        """Receive as Go's ``v, ok := <-ch``: ``(message, True)``, or ``(None, False)`` once closed and drained.

        Blocks the goroutine.     Raises: TimeoutError as :meth:`recv`.
        """
        m = self._m()
        if timeout is not None:
            timeout = seconds(timeout)
        try:
            m.enter(self._lock)
            return self._recv_slow(m, timeout)
        except BaseException as error:
            m.left(error)
            raise

    def recv_nowait(self) -> T:
        """Receive the oldest message if there is one. Blocks: never.

        Raises:
            WouldBlock: there is none.
            ChanClosed: the channel is closed and drained.
        """
        try:
            return self.recv(0)
        except TimeoutError:
            raise WouldBlock("channel receive: nothing is there") from None

    def _recv_slow(self, m: M, timeout: float | None) -> tuple[Any, bool]:
        """The lock is held."""
        # Cost: 1 us with a sender there, else 1.2 us and the wait. Both are what ops.py does, written out.
        if m.w[H_STOP]:
            m.leave(self._lock)
            m.interrupted()
        w, ch, lock = m.w, self._base, self._lock
        s = w[ch + CH_SENDQ]
        if s and not self._cap and not w[s + SG_SELECT]:  # straight from a sender that waits for nothing else
            at = s + SG_MSG
            hdr = w[at]
            at = at * 8 + 8
            if hdr & NOT_PLAIN:
                body = w[s + SG_MSG + 1]
                own(m, hdr, body)
            else:
                body = m.mem[at : at + (hdr & HDR_LEN_MASK)]
            g = w[s + SG_G]
            w[g + G_DECIDE] = m.decides  # publishes: sent and received
            following = w[s + SG_LINK]
            w[ch + CH_SENDQ] = following
            if following:
                w[following + SG_PREV] = 0
            m.held.pop().release()
            w[m.ph] = 0
            m.ready(g)
            if hdr & NOT_PLAIN:
                return open_message(m, hdr, body), True
            return wire.decode(hdr, body), True
        if s or w[ch + CH_TAIL] != w[ch + CH_HEAD] or w[ch + CH_CLOSED]:
            outcome, hdr, body, g = ops.recv(m, ch)
        else:
            outcome = ops.MUST_WAIT
        if outcome == ops.MUST_WAIT and (timeout is None or timeout > 0):
            me = m.g
            s = me + G_SUDOG
            w[s + SG_MSG] = 0
            w[s + SG_SEQ] = SG_RECEIVES
            if w[me + G_STATUS] == states.RUNNING:
                w[me + G_DECIDE] = 0
                w[me + G_STATUS] = _WAITING
            else:
                m.begin_wait(states.CHAN_RECEIVE)
            if w[ch + CH_RECVQ]:
                waitq.enqueue(w, ch + CH_RECVQ, s)
            else:  # the same, written out
                w[s + SG_LINK] = w[s + SG_PREV] = 0
                w[ch + CH_RECVQ + 1] = s
                w[ch + CH_RECVQ] = s  # publishes
            m.held.pop().release()
            w[m.ph] = 0
            deadline = None if timeout is None else deadline_of(timeout)
            try:
                decision = park(m, lock, ch + CH_RECVQ, deadline)
            except BaseException:
                if w[me + G_DECIDE] & OUT_MASK == OUT_OK and not w[H_STOP]:  # Ctrl-C in the moment it came
                    give_back(m, lock, ch, *ops.take_given(m, s))
                raise
            if decision & OUT_MASK != OUT_OK:
                if decision:
                    return None, False
                raise TimeoutError(f"channel receive: nothing came within {timeout} s")
            at = s + SG_MSG
            hdr = w[at]
            if hdr & NOT_PLAIN:
                return open_message(m, *ops.take_given(m, s)), True
            at = at * 8 + 8
            return wire.decode(hdr, m.mem[at : at + (hdr & HDR_LEN_MASK)]), True
        m.leave(lock)
        if outcome == ops.DONE:
            if g:
                m.ready(g)
            if hdr & NOT_PLAIN:
                return open_message(m, hdr, body), True
            return wire.decode(hdr, body), True
        if outcome == ops.CLOSED:
            return None, False
        raise TimeoutError("channel receive: nothing is there")

    async def arecv(self) -> T:
        """Receive the oldest message in asyncio code. Blocks: the task, never its loop.

        Where that needs no waiting it is done at once, without giving way to other tasks. For a timeout there is
        ``asyncio.timeout``. Who is cancelled has received nothing: a message that comes in that moment is given back,
        and is the next one again.

        Raises:
            ChanClosed: the channel is closed and drained.
            NotRunning, GoroutinePanic, ...: what ended the program meanwhile.
        """
        value, ok = await self._arecv_ok()
        if not ok:
            raise ChanClosed(RECV_ON_CLOSED)
        return value  # type: ignore[no-any-return]

    async def _arecv_ok(self) -> tuple[Any, bool]:
        m = self._m()
        m.enter(self._lock)
        outcome, hdr, body, g = ops.recv(m, self._base)
        m.leave(self._lock)
        self._ready(m, g)
        if m.w[H_STOP]:
            m.interrupted()
        if outcome == ops.MUST_WAIT:
            from mproc_go.chan import aio  # imports asyncio, which most processes do without

            outcome, hdr, body = await aio.wait(self, 0, b"")
        if outcome == ops.CLOSED:
            return None, False
        return open_message(self._m(), hdr, body), True

    def recv_many(self, n: int) -> list[T]:
        """Wait for one message, then take exactly what is there, `n` at the most. Blocks the goroutine while empty.

        Many messages are taken under one lock.

        Returns: the messages, oldest first; ``[]`` once the channel is closed and drained.

        Raises:
            TypeError: `n` is not an integer.
            ValueError: it is less than 1.
        """
        n = integer(n, "recv_many takes a number of messages")
        if n < 1:
            raise ValueError(f"recv_many takes one message at least, not {n}")
        m = self._m()
        values: list[Any] = []
        got = self._take(m, n)
        if not got:
            value, ok = self.recv_ok()
            if not ok:
                return []
            values.append(value)
            got = self._take(m, n - 1)
        self._open_all(m, got, values)
        return values

    @whole
    def _take(self, m: M, n: int) -> list[tuple[int, Body]]:
        """Take what is there, `n` at the most, unopened."""
        got: list[tuple[int, Body]] = []
        while len(got) < n:
            woken = []
            want = min(BATCH, n - len(got))
            m.enter(self._lock)
            batch = ops.take_many(m, self._base, want)
            while len(batch) < want:
                outcome, hdr, body, g = ops.recv(m, self._base)
                if outcome != ops.DONE:
                    break
                batch.append((hdr, body))
                if g:
                    woken.append(g)
            m.leave(self._lock)
            for g in woken:
                m.ready(g)
            got += batch
            if len(batch) < want:
                break
        if m.w[H_STOP]:
            m.interrupted()
        return got

    def _open_all(self, m: M, messages: list[tuple[int, Body]], values: list[Any]) -> None:
        """Decode what was taken. At a message that fails, give back the rest: it is the first one next time."""
        opened = 0
        try:
            for hdr, body in messages:
                if hdr & NOT_PLAIN:
                    values.append(copy(m, hdr, body, True))
                    discard(m, hdr, body)
                else:
                    values.append(wire.decode(hdr, body))  # type: ignore[arg-type]
                opened += 1
        except BaseException as error:
            if not values:
                discard(m, *messages[opened])
                opened += 1
            for hdr, body in reversed(messages[opened:]):
                give_back(m, self._lock, self._base, hdr, body)
            if not values or not isinstance(error, Exception):
                raise

    def __iter__(self) -> Iterator[T]:
        """Receive until the channel is closed and drained."""
        recv_ok = self.recv_ok
        while True:
            value, ok = recv_ok()
            if not ok:
                return
            yield value  # type: ignore[misc]

    def __aiter__(self) -> Self:
        """Receive until the channel is closed and drained, in asyncio code."""
        return self

    async def __anext__(self) -> T:
        value, ok = await self._arecv_ok()
        if not ok:
            raise StopAsyncIteration
        return value  # type: ignore[no-any-return]
