"""``KeyedChan``: values that are waited for by a key, the ``Channel<Key, Value>`` of the founding essay.

A goroutine that waits for a key stands in the queue of that key's wait record, so a send looks at nobody else. Short
values are handed over in the waiter's sudog, as by a channel; of others the entry stays until each waiter has a pin.
"""

from __future__ import annotations

import reprlib
from typing import Any, Generic, TypeVar

from mproc_go.errors import ChanClosed
from mproc_go.runtime import message
from mproc_go.runtime.handle import register
from mproc_go.runtime.park import park
from mproc_go.runtime.process import M, deadline_of, seconds, whole
from mproc_go.sched import states, waitq
from mproc_go.shared import table
from mproc_go.shared.striped import Striped, destroy, free_entry, free_pin
from mproc_go.shared.table import NOT_PLAIN
from mproc_go.shm.layout import (
    BLOCK_DATA,
    EN_AT,
    EN_GIVEN,
    EN_STATE,
    EN_VALUE,
    EN_WAIT,
    G_DECIDE,
    G_SUDOG,
    H_STOP,
    KC_CLOSED,
    KIND_KEYED_CHAN,
    OUT_MASK,
    OUT_OK,
    SG_MSG,
    SG_PINNED,
    SG_SEQ,
    WT_BYTES,
    WT_ENTRY,
    WT_QUEUE,
)
from mproc_go.shm.pool import give_block, take_block

K = TypeVar("K")
V = TypeVar("V")

SEND_ON_CLOSED = "send on closed keyed channel"
RECV_ON_CLOSED = "receive on closed keyed channel: the key is not there"
CLOSE_OF_CLOSED = "close of closed keyed channel"


class KeyedChan(Striped, Generic[K, V]):
    """Values by key, in shared memory: who receives a key waits until it was sent, and leaves it there for others.

    Keys are those of :class:`SharedMap`. Values are copied, as messages are.

    Raises:
        TypeError: every method with a key, for what can't be one.
        SharedMemoryFull: no room; nothing was changed.
    """

    __slots__ = ()

    KIND = KIND_KEYED_CHAN
    _keyed = True

    def __init__(self) -> None:
        super().__init__()

    @whole
    def send(self, key: K, value: V) -> None:
        """Store the value of the key, instead of the one it had, and wake all who wait for that key. Blocks: never.

        Raises:
            ChanClosed: it is closed.
            EncodeError: the value can't be sent; nothing was changed.
        """
        # Cost: 4 us = 1 lock, 20 words, encode; for each who waits a wake-up
        m = self._m()
        h, kb = self._keys.of(key)
        i = self._stripe_of(h)
        st, w = self._stripes[i], m.w
        e = self._new(m, key, h, kb, self._pack(m, value))
        woken: list[int] = []
        ours = over = False
        wt = 0
        lock = m.locks[self._numbers[i]]
        m.enter(lock)
        closed = w[self._base + KC_CLOSED]
        if not closed:
            before, old = table.find(w, m.mem, st, h, kb)
            if old:
                if not w[old + EN_STATE] & EN_VALUE:
                    wt = w[e + EN_WAIT] = w[old + EN_WAIT]
                    if w[w[e + EN_AT]] & NOT_PLAIN and w[wt + WT_QUEUE]:
                        w[e + EN_STATE] |= EN_GIVEN
                ours = table.replace(m, st, before, old, e)
                if wt:
                    w[wt + WT_ENTRY] = e
                    woken, over = table.give_all(m, st, wt)
            else:
                table.insert(m, st, before, e)
        m.leave(lock)
        for g in woken:
            m.ready(g)
        if closed:
            free_entry(m, e)
            raise ChanClosed(SEND_ON_CLOSED)
        if over:
            give_block(m, wt - BLOCK_DATA, WT_BYTES)
        if ours:
            free_entry(m, old)
        if table.wants_to_grow(w, st):
            self._grow(m, i)

    @whole
    def receive(self, key: K, timeout: float | None = None) -> V:
        """The value of the key, which stays there. Blocks the goroutine until somebody sent it.

        Args:
            timeout: in seconds; None waits for ever, zero or less does not wait.

        Raises:
            ChanClosed: it is closed, and the key is not there.
            TimeoutError: nobody sent it in time.
        """
        m = self._m()
        if timeout is not None:
            timeout = seconds(timeout)
        h, kb = self._keys.of(key)
        i = self._stripe_of(h)
        value, there = self._read(m, i, h, kb)
        if there:
            return value  # type: ignore[no-any-return]
        if timeout is not None and timeout <= 0:
            if m.w[self._base + KC_CLOSED]:
                raise ChanClosed(RECV_ON_CLOSED)
            raise TimeoutError(f"keyed receive: {reprlib.repr(key)} is not there")
        return self._wait(m, key, i, h, kb, timeout)  # type: ignore[no-any-return]

    def _wait(self, m: M, key: object, i: int, h: int, kb: bytes, timeout: float | None) -> Any:
        """Wait for a key, unless it came meanwhile."""
        deadline = None if timeout is None else deadline_of(timeout)
        self._hold(m, i)
        w, s = m.w, m.g + G_SUDOG
        q = decision = 0
        closed = False
        try:
            q, closed = self._join(m, key, i, h, kb)
            if q:
                decision = park(m, m.locks[self._numbers[i]], q, deadline)
        except BaseException as error:
            m.left(error)
            if w[H_STOP]:
                raise
            given = w[m.g + G_DECIDE] & OUT_MASK == OUT_OK and w[s + SG_SEQ] == SG_PINNED and w[s + SG_MSG] & NOT_PLAIN
            if given:
                self._take(m, i, 0)  # Ctrl-C in the moment it came
            else:
                self._stay_out(m, i, h, kb)
                self._leave(m, i, h, kb)
            raise
        if decision & OUT_MASK == OUT_OK:
            if w[s + SG_MSG] & NOT_PLAIN:
                at = free_pin(m)
                self._take(m, i, at)
                return self._read_pinned(m, at)
            return message.copy(m, *message.fetch(w, m.mem, s + SG_MSG))
        if decision or closed:
            raise ChanClosed(RECV_ON_CLOSED)
        if not q:
            return self.receive(key, timeout)  # type: ignore[arg-type]
        self._leave(m, i, h, kb)
        raise TimeoutError(f"keyed receive: nobody sent {reprlib.repr(key)} within {timeout} s")

    @whole
    def _take(self, m: M, i: int, at: int) -> None:
        """Leave the queue of those who were given an entry, with a pin of it at word `at`, or if that is 0 without."""
        w, s = m.w, m.g + G_SUDOG
        e = w[s + SG_MSG + 1]
        wt = w[e + EN_WAIT]
        over = ours = False
        number = self._numbers[i]
        m.enter(m.locks[number])
        if at:
            table.pin(w, at, number, e)
        waitq.remove(w, wt + WT_QUEUE, s)  # publishes
        w[s + SG_MSG] = 0
        if not w[wt + WT_QUEUE]:
            over = True
            ours = table.taken(m, self._stripes[i], wt)
        m.leave(m.locks[number])
        if over:
            give_block(m, wt - BLOCK_DATA, WT_BYTES)
        if ours:
            free_entry(m, e)

    def _join(self, m: M, key: object, i: int, h: int, kb: bytes) -> tuple[int, bool]:
        """Enqueue for a key. Returns: the queue, or 0 where it is there or the channel closed; and whether it is."""
        w, st = m.w, self._stripes[i]
        q = 0
        blank = self._new(m, key, h, kb, None)
        new = take_block(m, WT_BYTES) + BLOCK_DATA
        unused, spare = new, blank
        lock = m.locks[self._numbers[i]]
        m.enter(lock)
        closed = bool(w[self._base + KC_CLOSED])
        before, e = table.find(w, m.mem, st, h, kb)
        there = e and w[e + EN_STATE] & EN_VALUE
        if not there and not closed:
            if e:
                wt = w[e + EN_WAIT]
            else:
                wt, unused, spare = new, 0, 0
                table.attach(m, st, wt, blank, 0)
                table.insert(m, st, before, blank)
            q = wt + WT_QUEUE
            w[m.g + G_SUDOG + SG_MSG] = 0
            w[m.g + G_SUDOG + SG_SEQ] = SG_PINNED
            waitq.join(w, q, m.begin_wait(states.KEYED_RECEIVE))
        m.leave(lock)
        if unused:
            give_block(m, unused - BLOCK_DATA, WT_BYTES)
        if spare:
            free_entry(m, spare)
        return q, closed and not there

    def _leave(self, m: M, i: int, h: int, kb: bytes) -> None:
        """After we have stopped waiting for a key: remove what only stands for it, if nobody else waits."""
        w, st = m.w, self._stripes[i]
        wt = 0
        lock = m.locks[self._numbers[i]]
        m.enter(lock)
        e = table.find(w, m.mem, st, h, kb)[1]
        if e and not w[e + EN_STATE] & EN_VALUE and not w[w[e + EN_WAIT] + WT_QUEUE]:
            wt = w[e + EN_WAIT]
            table.detach(m, st, wt)
        m.leave(lock)
        if wt:
            give_block(m, wt - BLOCK_DATA, WT_BYTES)
            free_entry(m, e)

    @whole
    def delete(self, key: K) -> None:
        """Remove the key, if it is there; who receives it from now on waits for the next send. Blocks: never."""
        m = self._m()
        h, kb = self._keys.of(key)
        i = self._stripe_of(h)
        w, st = m.w, self._stripes[i]
        ours = False
        lock = m.locks[self._numbers[i]]
        m.enter(lock)
        before, e = table.find(w, m.mem, st, h, kb)
        if e and w[e + EN_STATE] & EN_VALUE:
            ours = table.remove(m, st, before, e)
        m.leave(lock)
        if ours:
            free_entry(m, e)

    @property
    def closed(self) -> bool:
        """True from ``close()`` on."""
        return bool(self._m().w[self._base + KC_CLOSED])

    @whole
    def close(self) -> None:
        """Close it: who waits for a key, now or later, and every later send, gets ChanClosed. Keys that are there stay.

        Raises:
            ChanClosed: it is closed already.

        Blocks: never.
        """
        m = self._m()
        w = m.w
        m.enter(self._lock)
        was = w[self._base + KC_CLOSED]
        w[self._base + KC_CLOSED] = 1  # publishes; repair and finish of stripes go on with it
        m.leave(self._lock)
        if was:
            raise ChanClosed(CLOSE_OF_CLOSED)
        for st, number in zip(self._stripes, self._numbers, strict=True):
            lock = m.locks[number]
            m.enter(lock)
            woken, over = table.dismiss_all(m, st)
            m.leave(lock)
            for g in woken:
                m.ready(g)
            for wt in over:
                e = w[wt + WT_ENTRY]
                give_block(m, wt - BLOCK_DATA, WT_BYTES)
                free_entry(m, e)


register(KeyedChan, destroy)
