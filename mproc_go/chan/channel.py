"""``Chan``: Go's channel between goroutines of any process, and its send-only and receive-only views."""

from __future__ import annotations

from typing import Generic, TypeVar

from mproc_go.chan import names, ops
from mproc_go.chan.receiving import Receiving
from mproc_go.chan.sending import Sending
from mproc_go.runtime import process as rt
from mproc_go.runtime.handle import register
from mproc_go.runtime.message import discard, fetch, own
from mproc_go.runtime.process import M, integer
from mproc_go.sched import repairs
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
    KIND_CHAN,
    KIND_RECV_CHAN,
    KIND_SEND_CHAN,
    POOL_OBJECT,
    R_GEN,
    SG_SELECT,
    SLOT_MSG_WORDS,
    TM_DEADLINE,
    TM_TIMED,
    WORD,
)
from mproc_go.shm.names import check_name
from mproc_go.shm.pool import give, give_block, own_block, put_block, take_block

T = TypeVar("T")

_SLOT_BYTES = SLOT_MSG_WORDS * WORD
# A capacity whose buffer could not be addressed at all is a mistake of the caller's, not a lack of memory.
_MAX_CAPACITY = 1 << 40


class SendChan(Sending[T], Generic[T]):
    """The send-only view of a channel (``ch.sender``): works wherever the channel does, but can't receive."""

    __slots__ = ()

    KIND = KIND_SEND_CHAN

    def __init__(self) -> None:
        raise TypeError("a SendChan is made by Chan(...).sender")


class RecvChan(Receiving[T], Generic[T]):
    """The receive-only view of a channel (``ch.receiver``): can neither send nor close."""

    __slots__ = ()

    KIND = KIND_RECV_CHAN

    def __init__(self) -> None:
        raise TypeError("a RecvChan is made by Chan(...).receiver")


class Chan(Sending[T], Receiving[T], Generic[T]):
    """A channel: a typed queue between goroutines, wherever they run. Messages are copies.

    Args:
        capacity: messages it buffers; 0 makes every send wait for its receiver.
        name: the channel of this name in the whole runtime, made where there is none. It stays, with what is in it,
            until the runtime ends.

    Raises:
        TypeError: the capacity is not an integer, or the name no string.
        ValueError: the capacity is negative, or larger than any machine could hold, or not the one that the channel of
            this name has; or the name is none.
        SharedMemoryFull: no room for the buffer.

    Blocks: never.     Source: Go chan.go makechan.
    """

    __slots__ = ()

    KIND = KIND_CHAN

    def __init__(self, capacity: int = 0, *, name: str | None = None) -> None:
        capacity = integer(capacity, "capacity of a channel is an integer")
        if capacity < 0 or capacity > _MAX_CAPACITY:
            raise ValueError(f"makechan: size out of range: {capacity}")
        if name is not None:
            self._open_named(check_name(name, "channel"), capacity)
            return
        m = rt.current()
        ring = take_block(m, capacity * _SLOT_BYTES) + BLOCK_DATA if capacity else 0
        try:
            ch = self._make(m, POOL_OBJECT)
        except BaseException:
            if ring:
                give_block(m, ring - BLOCK_DATA, capacity * _SLOT_BYTES)
            raise
        w = m.w
        w[ch + CH_CAP] = w[ch + CH_LIMIT] = self._cap = capacity
        w[ch + CH_RING] = self._ring = ring
        w[ch + CH_HEAD] = w[ch + CH_TAIL] = w[ch + CH_CLOSED] = w[ch + CH_RECVQ] = w[ch + CH_SENDQ] = 0
        w[ch + TM_DEADLINE] = w[ch + TM_TIMED] = 0  # it has no timer
        self._made(m, ch, KIND_CHAN)
        if ring:
            put_block(m, ring - BLOCK_DATA)

    def _open_named(self, name: str, capacity: int) -> None:
        m = rt.current()
        made: list[Chan[T]] = []  # its handle keeps it until ours is counted

        def make() -> Chan[T]:
            made.append(Chan(capacity))
            return made[0]

        base, gen = names.open_or_make(m, name, make)
        has = m.w[base + CH_CAP]
        if has != capacity:
            raise ValueError(f"channel {name!r} has a capacity of {has}, not {capacity}")
        m.process.refs.opened(m, KIND_CHAN, base, gen)
        self._bind(m, base, gen)

    @property
    def sender(self) -> SendChan[T]:
        """The send-only view."""
        return self._as(SendChan)  # type: ignore[no-any-return]

    @property
    def receiver(self) -> RecvChan[T]:
        """The receive-only view."""
        return self._as(RecvChan)  # type: ignore[no-any-return]


def _destroy(m: M, ch: int) -> None:
    """Free a channel nobody can reach any more, and what is in it."""
    w = m.w
    while w[ch + CH_SENDQ] and w[w[ch + CH_SENDQ] + SG_SELECT] == ops.GIVEN_BACK:
        _, hdr, body, _ = ops.recv(m, ch)
        discard(m, hdr, body)
    cap, ring = w[ch + CH_CAP], w[ch + CH_RING]
    if ring:
        while (head := w[ch + CH_HEAD]) != w[ch + CH_TAIL]:
            hdr, body = fetch(w, m.mem, ring + head % cap * SLOT_MSG_WORDS)
            own(m, hdr, body)
            w[ch + CH_HEAD] = head + 1  # publishes: it is out of the channel
            discard(m, hdr, body)
        own_block(m, ring - BLOCK_DATA)
        w[ch + CH_RING] = 0  # publishes
        give_block(m, ring - BLOCK_DATA, cap * _SLOT_BYTES)
    w[ch + R_GEN] += 1
    give(m, POOL_OBJECT, ch)


for _kind in (Chan, SendChan, RecvChan):
    register(_kind, _destroy)
repairs.register(KIND_CHAN, (CH_RECVQ, CH_SENDQ), ops.repair)
repairs.NAMES[KIND_CHAN] = ops.names
