"""``Chan``: Go's channel between goroutines of any process.

The hot paths are :meth:`Chan.send` and :meth:`Chan.recv` where nobody waits: one lock, one copy, one store, written out
here; everything else is in ops.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from mproc_go.chan import ops
from mproc_go.codec import wire
from mproc_go.errors import CLOSE_OF_CLOSED, RECV_ON_CLOSED, SEND_ON_CLOSED, ChanClosed, WouldBlock
from mproc_go.runtime import process as rt
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.runtime.message import Body, discard, fetch, open_message, stow
from mproc_go.runtime.park import park
from mproc_go.runtime.process import M, deadline_of, seconds
from mproc_go.sched import repairs, states, waitq
from mproc_go.shm.layout import (
    BLOCK_DATA,
    CH_CAP,
    CH_CLOSED,
    CH_HEAD,
    CH_LIMIT,
    CH_RECVQ,
    CH_RING,
    CH_SENDQ,
    CH_TAIL,
    G_DECIDE,
    G_SUDOG,
    H_STOP,
    HDR_HAS_HANDLES,
    HDR_LEN_MASK,
    HDR_SPILLED,
    INLINE_BYTES,
    KIND_CHAN,
    O_KIND,
    OUT_MASK,
    OUT_OK,
    POOL_OBJECT,
    R_GEN,
    SG_MSG,
    SLOT_MSG_WORDS,
    WORD,
)
from mproc_go.shm.pool import give, give_block, take_block

T = TypeVar("T")

_SLOT_BYTES = SLOT_MSG_WORDS * WORD
# A capacity whose buffer could not be addressed at all is a mistake of the caller's, not a lack of memory.
_MAX_CAPACITY = 1 << 40
# A message whose payload is not simply there to be decoded.
_NOT_PLAIN = HDR_SPILLED | HDR_HAS_HANDLES


class Chan(SharedHandle, Generic[T]):
    """A channel: a typed queue between goroutines, wherever they run. Messages are copies.

    Args:
        capacity: messages it buffers; 0 makes every send wait for its receiver.

    Raises:
        TypeError: the capacity is not an integer.
        ValueError: it is negative, or larger than any machine could hold.
        SharedMemoryFull: no room for the buffer.

    Blocks: never.     Source: Go chan.go makechan.
    """

    __slots__ = ("_cap", "_ring")

    KIND = KIND_CHAN

    def __init__(self, capacity: int = 0) -> None:
        if not isinstance(capacity, int) or isinstance(capacity, bool):
            raise TypeError(f"capacity of a channel is an integer, not {type(capacity).__name__}")
        if capacity < 0 or capacity > _MAX_CAPACITY:
            raise ValueError(f"makechan: size out of range: {capacity}")
        m = rt.current()
        ring = take_block(m, capacity * _SLOT_BYTES) + BLOCK_DATA if capacity else 0
        try:
            ch = self._make(m, POOL_OBJECT)
        except BaseException:
            if ring:
                give_block(m, ring - BLOCK_DATA, capacity * _SLOT_BYTES)
            raise
        w = m.w
        w[ch + O_KIND] = KIND_CHAN
        w[ch + CH_CAP] = w[ch + CH_LIMIT] = self._cap = capacity
        w[ch + CH_RING] = self._ring = ring
        w[ch + CH_HEAD] = w[ch + CH_TAIL] = w[ch + CH_CLOSED] = w[ch + CH_RECVQ] = w[ch + CH_SENDQ] = 0

    def _bind(self, m: M, base: int, gen: int) -> None:
        super()._bind(m, base, gen)
        self._cap = m.w[base + CH_CAP]
        self._ring = m.w[base + CH_RING]

    def __repr__(self) -> str:
        w = self._words()
        if w is None:
            return f"<Chan {self._base:#x} of a runtime that is over>"
        n = w[self._base + CH_TAIL] - w[self._base + CH_HEAD]
        state = "closed" if w[self._base + CH_CLOSED] else "open"
        return f"<Chan {self._base:#x} {state} len={n} capacity={self._cap}>"

    # ------------------------------------------------------------ send
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
        body: Body = data
        if hdr & HDR_HAS_HANDLES or len(data) > INLINE_BYTES:
            hdr, body = stow(m, hdr, data)
        w = m.w
        ph = m.ph
        ch = self._base
        lock = self._lock
        w[ph] = lock.phase
        if not lock.acquire(False):
            lock.contended()
        if w[lock.gen_word] != lock.gen:
            lock.retreat(w, ph)
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
            lock.release()
            w[ph] = 0
            return
        self._send_slow(m, hdr, body, timeout)

    def _send_slow(self, m: M, hdr: int, body: Body, timeout: float | None) -> None:
        """The lock is held."""
        w, ch, lock = m.w, self._base, self._lock
        outcome, g = ops.send(w, m.mem, ch, hdr, body, m.slot)
        if outcome == ops.DONE:
            lock.release()
            w[m.ph] = 0
            if g:
                m.ready(g)
            if w[H_STOP]:
                m.interrupted()
            return
        if outcome == ops.MUST_WAIT and (timeout is None or timeout > 0):
            ops.wait_to_send(w, m.mem, ch, m.begin_wait(), hdr, body)
            lock.release()
            w[m.ph] = 0
            deadline = None if timeout is None else deadline_of(timeout)
            decision = park(m, lock, ch + CH_SENDQ, states.CHAN_SEND, deadline)
            if decision & OUT_MASK == OUT_OK:
                return
            discard(m, hdr, body)
            if decision:
                raise ChanClosed(SEND_ON_CLOSED)
            raise TimeoutError(f"channel send: nobody took it within {timeout} s")
        m.leave(lock)
        discard(m, hdr, body)
        if outcome == ops.CLOSED:
            raise ChanClosed(SEND_ON_CLOSED)
        if w[H_STOP]:
            m.interrupted()
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

    # ------------------------------------------------------------ receive
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
        w[ph] = lock.phase
        if not lock.acquire(False):
            lock.contended()
        if w[lock.gen_word] != lock.gen:
            lock.retreat(w, ph)
        head = w[ch + CH_HEAD]
        if w[ch + CH_TAIL] != head and not w[ch + CH_SENDQ] and not w[H_STOP]:
            at = self._ring + head % self._cap * SLOT_MSG_WORDS
            hdr = w[at]
            if hdr & _NOT_PLAIN:
                body = fetch(w, m.mem, at)[1]
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
        value, ok = self._recv_slow(m, timeout)
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
        m.enter(self._lock)
        return self._recv_slow(m, timeout)

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
        w, ch, lock = m.w, self._base, self._lock
        outcome, hdr, body, g = ops.recv(w, m.mem, ch, m.slot)
        if outcome == ops.MUST_WAIT and (timeout is None or timeout > 0):
            me = m.g
            w[me + G_DECIDE] = 0
            waitq.enqueue(w, ch + CH_RECVQ, me + G_SUDOG)
            lock.release()
            w[m.ph] = 0
            deadline = None if timeout is None else deadline_of(timeout)
            decision = park(m, lock, ch + CH_RECVQ, states.CHAN_RECEIVE, deadline)
            if decision & OUT_MASK != OUT_OK:
                if decision:
                    return None, False
                raise TimeoutError(f"channel receive: nothing came within {timeout} s")
            hdr, body = fetch(w, m.mem, me + G_SUDOG + SG_MSG)
            if hdr & _NOT_PLAIN:
                return open_message(m, hdr, body), True
            return wire.decode(hdr, body), True  # type: ignore[arg-type]
        lock.release()
        w[m.ph] = 0
        if g:
            m.ready(g)
        if outcome == ops.DONE:
            if hdr & _NOT_PLAIN:
                return open_message(m, hdr, body), True
            return wire.decode(hdr, body), True  # type: ignore[arg-type]
        if w[H_STOP]:
            m.interrupted()
        if outcome == ops.CLOSED:
            return None, False
        raise TimeoutError("channel receive: nothing is there")

    def __iter__(self) -> Iterator[T]:
        """Receive until the channel is closed and drained."""
        recv_ok = self.recv_ok
        while True:
            value, ok = recv_ok()
            if not ok:
                return
            yield value  # type: ignore[misc]

    # ------------------------------------------------------------ close, and what can be asked
    def close(self) -> None:
        """Close the channel: what is buffered can still be received, whoever waits is woken. Blocks: never.

        Raises:
            ChanClosed: it is closed already.
        """
        m = self._m()
        m.enter(self._lock)
        was_open, woken = ops.close(m.w, self._base, m.slot)
        m.leave(self._lock)
        for g in woken:
            m.ready(g)
        if not was_open:
            raise ChanClosed(CLOSE_OF_CLOSED)

    @property
    def closed(self) -> bool:
        """True from :meth:`close` on, also while messages remain."""
        return bool(self._m().w[self._base + CH_CLOSED])

    @property
    def capacity(self) -> int:
        """Messages it buffers."""
        return int(self._cap)

    def __len__(self) -> int:
        """Messages buffered now."""
        m = self._m()
        m.enter(self._lock)
        n: int = m.w[self._base + CH_TAIL] - m.w[self._base + CH_HEAD]
        m.leave(self._lock)
        return n


def _destroy(m: M, ch: int) -> None:
    """Free a channel nobody can reach any more, and what is buffered in it."""
    w = m.w
    cap = w[ch + CH_CAP]
    for i in range(w[ch + CH_HEAD], w[ch + CH_TAIL]):
        at = w[ch + CH_RING] + i % cap * SLOT_MSG_WORDS
        if w[at] & _NOT_PLAIN:
            discard(m, *fetch(w, m.mem, at))
    if cap:
        give_block(m, w[ch + CH_RING] - BLOCK_DATA, cap * _SLOT_BYTES)
    w[ch + R_GEN] += 1
    give(m, POOL_OBJECT, ch)


register(Chan, _destroy)
repairs.register(KIND_CHAN, (CH_RECVQ, CH_SENDQ), ops.repair)
