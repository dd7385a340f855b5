"""The sending half of a channel.

The hot path is :meth:`Sending.send` where nobody waits: one lock, one copy, one store, written out here; everything
else is in ops.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import Generic, TypeVar

from mproc_go.chan import ops
from mproc_go.chan.end import End
from mproc_go.codec import wire
from mproc_go.errors import CLOSE_OF_CLOSED, SEND_ON_CLOSED, ChanClosed, WouldBlock
from mproc_go.runtime.message import Body, discard, let_go, put, stow
from mproc_go.runtime.park import park
from mproc_go.runtime.process import M, deadline_of, seconds, whole
from mproc_go.sched import states, waitq
from mproc_go.shm.layout import (
    CH_CLOSED,
    CH_HEAD,
    CH_LIMIT,
    CH_RECVQ,
    CH_SENDQ,
    CH_TAIL,
    G_DECIDE,
    G_STATUS,
    G_SUDOG,
    H_STOP,
    HDR_HAS_HANDLES,
    HDR_SPILLED,
    INLINE_BYTES,
    OUT_MASK,
    OUT_OK,
    SG_G,
    SG_LINK,
    SG_MSG,
    SG_PREV,
    SG_SELECT,
    SG_SEQ,
    SLOT_MSG_WORDS,
)

_WAITING = states.WAITING | states.CHAN_SEND << states.REASON_SHIFT

T = TypeVar("T")

# Messages that one hold of the lock puts or takes at the most, so that others get their turn (some 50 us).
BATCH = 64


class Sending(End, Generic[T]):
    """What one can do at the sending end."""

    __slots__ = ()

    def send(self, v: T, timeout: float | None = None) -> None:
        """Send a copy of `v`. Blocks the goroutine, never its P, until a receiver or a place in the buffer takes it.

        Args:
            timeout: in seconds; None waits for ever, zero or less does not wait.

        Raises:
            ChanClosed: the channel is closed, or was closed while we waited.
            EncodeError: `v` can't travel; the channel is as it was.
            TimeoutError: nobody took it in time; it was not sent.
            SharedMemoryFull: no room for a long message.

        Source: Go chan.go chansend.
        """
        # Cost: 1.0 us = encode, 1 lock, 8 words, 1 copy; scripts/bench hot
        try:
            m = self._tls.m
        except AttributeError:
            m = self._m()
        if timeout is not None:
            timeout = seconds(timeout)
        hdr, data = wire.encode(v)
        body: Body = data  # type: ignore[assignment]  # pieces are long, and stowed
        if hdr & HDR_HAS_HANDLES or len(data) > INLINE_BYTES:
            hdr, body = stow(m, hdr, data)
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
            tail = w[ch + CH_TAIL]
            if tail - w[ch + CH_HEAD] < w[ch + CH_LIMIT] and not w[ch + CH_RECVQ] and not w[H_STOP]:
                at = self._ring + tail % self._cap * SLOT_MSG_WORDS
                w[at] = hdr
                if hdr & HDR_SPILLED:
                    w[at + 1] = body
                else:
                    at = at * 8 + 8
                    m.mem[at : at + len(data)] = data
                w[ch + CH_TAIL] = tail + 1  # publishes
                if hdr & HDR_SPILLED:
                    let_go(m, body)
                lock.release()
                w[ph] = 0
                return
            m.held.append(lock)
            self._send_slow(m, hdr, body, timeout)
        except BaseException as error:
            m.left(error)
            raise

    def _send_slow(self, m: M, hdr: int, body: Body, timeout: float | None) -> None:
        """The lock is held."""
        # Cost: 1 us with a receiver there, else 1.3 us and the wait. Both are what ops.py does, written out.
        w, ch, lock = m.w, self._base, self._lock
        s = w[ch + CH_RECVQ]
        if s and not w[s + SG_SELECT]:  # straight to a receiver that waits for nothing else
            put(w, m.mem, s + SG_MSG, hdr, body)
            if hdr & HDR_SPILLED:
                let_go(m, body)
            g = w[s + SG_G]
            w[g + G_DECIDE] = m.decides  # publishes: the receiver has it
            following = w[s + SG_LINK]
            w[ch + CH_RECVQ] = following
            if following:
                w[following + SG_PREV] = 0
            m.held.pop().release()
            w[m.ph] = 0
            m.ready(g)
            if w[H_STOP]:
                m.interrupted()
            return
        if not s and not w[ch + CH_CLOSED] and w[ch + CH_TAIL] - w[ch + CH_HEAD] >= self._cap:
            outcome = ops.MUST_WAIT
        else:
            outcome, g = ops.send(m, ch, hdr, body)
        if outcome == ops.DONE:
            m.leave(lock)
            if g:
                m.ready(g)
            if w[H_STOP]:
                m.interrupted()
            return
        if outcome == ops.MUST_WAIT and (timeout is None or timeout > 0):
            me = m.g
            if w[me + G_STATUS] == states.RUNNING:
                w[me + G_DECIDE] = 0
                w[me + G_STATUS] = _WAITING
            else:
                try:
                    m.begin_wait(states.CHAN_SEND)
                except RuntimeError:
                    discard(m, hdr, body)
                    raise
            s = me + G_SUDOG
            put(w, m.mem, s + SG_MSG, hdr, body)
            w[s + SG_SEQ] = 0
            if w[ch + CH_SENDQ]:
                waitq.enqueue(w, ch + CH_SENDQ, s)
            else:
                w[s + SG_LINK] = w[s + SG_PREV] = 0
                w[ch + CH_SENDQ + 1] = s
                w[ch + CH_SENDQ] = s  # publishes
            if hdr & HDR_SPILLED:
                let_go(m, body)
            m.held.pop().release()
            w[m.ph] = 0
            deadline = None if timeout is None else deadline_of(timeout)
            try:
                decision = park(m, lock, ch + CH_SENDQ, deadline)
            except BaseException:
                if not w[m.g + G_DECIDE] and not w[H_STOP]:  # else it is in the queue still
                    discard(m, *ops.take_given(m, s))
                raise
            if decision & OUT_MASK == OUT_OK:
                if hdr & HDR_SPILLED:
                    w[s + SG_MSG] = 0  # it is there no more
                return
            discard(m, *ops.take_given(m, s))
            if decision:
                raise ChanClosed(SEND_ON_CLOSED)
            raise TimeoutError(f"channel send: nobody took it within {timeout} s")
        m.leave(lock)
        discard(m, hdr, body)
        if w[H_STOP]:
            m.interrupted()
        if outcome == ops.CLOSED:
            raise ChanClosed(SEND_ON_CLOSED)
        raise TimeoutError("channel send: would have to wait")

    def send_nowait(self, v: T) -> None:
        """Send a copy of `v` if that needs no waiting. Blocks: never.

        Raises:
            WouldBlock: no receiver waits and the buffer is full.
            ChanClosed, EncodeError, SharedMemoryFull: as :meth:`send`.
        """
        try:
            self.send(v, 0)
        except TimeoutError:
            raise WouldBlock("channel send: no receiver waits and the buffer is full") from None

    async def asend(self, v: T) -> None:
        """Send a copy of `v` from asyncio code. Blocks: the task, never its loop.

        Where that needs no waiting it is done at once, without giving way to other tasks. For a timeout there is
        ``asyncio.timeout``. A cancellation that comes when `v` is with its receiver already is put off until the task
        next waits: ``CancelledError`` here means that it was not sent.

        Raises:
            ChanClosed, EncodeError, SharedMemoryFull: as :meth:`send`.
            NotRunning, GoroutinePanic, ...: what ended the program meanwhile.
        """
        m = self._m()
        hdr, body = stow(m, *wire.encode(v))
        m.enter(self._lock)
        outcome, g = ops.send(m, self._base, hdr, body)
        m.leave(self._lock)
        self._ready(m, g)
        if m.w[H_STOP]:
            m.interrupted()
        if outcome == ops.MUST_WAIT:
            from mproc_go.chan import aio  # imports asyncio, which most processes do without

            outcome, _, _ = await aio.wait(self, hdr, body)
        elif outcome == ops.CLOSED:
            discard(m, hdr, body)
        if outcome == ops.CLOSED:
            raise ChanClosed(SEND_ON_CLOSED)

    def send_many(self, iterable: Iterable[T]) -> None:
        """Send everything the iterable gives, in order; others may send in between. Blocks the goroutine while full.

        Many messages are put under one lock, if they are all there already (a list, a range ...): it fills the buffer
        before it blocks. What comes out of a generator may be long in coming, so each is sent as it comes.

        Raises:
            ChanClosed: the channel was closed; what was put before that stays.
            EncodeError: a value can't travel; what came before it was sent.
            SharedMemoryFull: no room for a long message.
        """
        if not isinstance(iterable, Collection):
            for v in iterable:
                self.send(v)
            return
        m = self._m()
        if m.w[H_STOP]:
            m.interrupted()
        values = iter(iterable)
        batch: list[tuple[int, Body]] = []
        failed: Exception | None = None
        try:
            while failed is None:
                try:
                    for v in islice(values, BATCH):
                        batch.append(stow(m, *wire.encode(v)))
                except Exception as error:
                    failed = error  # what came before it is sent first
                if not batch:
                    break
                self._put_batch(m, batch)
        finally:
            for hdr, body in batch:
                discard(m, hdr, body)
        if failed is not None:
            try:
                raise failed
            finally:
                failed = None  # its traceback refers to this frame: no cycle

    @whole
    def _put_batch(self, m: M, batch: list[tuple[int, Body]]) -> None:
        """Send the batch, taking out of it what was sent."""
        w, ch, lock = m.w, self._base, self._lock
        while batch:
            woken: list[int] = []
            m.enter(lock)
            outcome = ops.DONE
            sent = ops.put_many(m, ch, batch)
            while sent < len(batch):
                outcome, g = ops.send(m, ch, *batch[sent])
                if outcome != ops.DONE:
                    break
                sent += 1
                if g:
                    woken.append(g)
            m.leave(lock)
            del batch[:sent]
            for g in woken:
                m.ready(g)
            if w[H_STOP]:
                m.interrupted()
            if outcome == ops.CLOSED:
                raise ChanClosed(SEND_ON_CLOSED)
            if batch:
                hdr, body = batch.pop(0)
                m.enter(lock)
                self._send_slow(m, hdr, body, None)

    @whole
    def close(self) -> None:
        """Close the channel: what is buffered can still be received, whoever waits is woken. Blocks: never.

        Raises:
            ChanClosed: it is closed already.
        """
        m = self._m()
        m.enter(self._lock)
        was_open, woken = ops.close(m, self._base)
        m.leave(self._lock)
        for g in woken:
            m.ready(g)
        if m.w[H_STOP]:
            m.surface()
        if not was_open:
            raise ChanClosed(CLOSE_OF_CLOSED)
