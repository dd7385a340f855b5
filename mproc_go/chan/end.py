"""What both ends of a channel have: the record, and what can be asked about it."""

from __future__ import annotations

from typing import Any

from mproc_go.chan import ops
from mproc_go.runtime.handle import SharedHandle
from mproc_go.runtime.message import Body
from mproc_go.runtime.process import M
from mproc_go.shm.layout import CH_CAP, CH_CLOSED, CH_HEAD, CH_RING, CH_TAIL, H_STOP, HDR_HAS_HANDLES, HDR_SPILLED
from mproc_go.shm.lock import Lock
from mproc_go.shm.pool import give_block, take_block

# A message whose payload is not simply there to be decoded.
NOT_PLAIN = HDR_SPILLED | HDR_HAS_HANDLES


class End(SharedHandle):
    """A handle of a channel."""

    __slots__ = ("_cap", "_ring")

    _cap: int
    _ring: int

    def _bind(self, m: M, base: int, gen: int) -> None:
        super()._bind(m, base, gen)
        self._cap = m.w[base + CH_CAP]
        self._ring = m.w[base + CH_RING]

    def _ready(self, m: M, g: int) -> None:
        """Deliver the decision of `g`, or 0. Runs: in asyncio tasks, which may be neighbours of it."""
        mailbox = m.process.mailbox
        if g and mailbox is None:
            m.ready(g)
        elif g:
            mailbox.ready(m, g)

    def _as(self, kind: type[Any]) -> Any:
        """A view of this channel: another handle of the same record."""
        return kind._open(self._base, self._gen)

    @property
    def closed(self) -> bool:
        """True from ``close()`` on, also while messages remain."""
        m = self._m()
        if m.w[H_STOP]:
            m.interrupted()
        return bool(m.w[self._base + CH_CLOSED])

    @property
    def capacity(self) -> int:
        """Messages it buffers."""
        return self._cap

    def __len__(self) -> int:
        """Messages buffered now."""
        m = self._m()
        if m.w[H_STOP]:
            m.interrupted()
        m.enter(self._lock)
        n: int = m.w[self._base + CH_TAIL] - m.w[self._base + CH_HEAD]
        m.leave(self._lock)
        return n

    def __repr__(self) -> str:
        w = self._words()
        name = type(self).__name__
        if w is None:
            return f"<{name} {self._base:#x} of a runtime that is over>"
        n = w[self._base + CH_TAIL] - w[self._base + CH_HEAD]
        state = "closed" if w[self._base + CH_CLOSED] else "open"
        return f"<{name} {self._base:#x} {state} len={n} capacity={self._cap}>"


def give_back(m: M, lock: Lock, ch: int, hdr: int, body: Body) -> None:
    """Give back a message that was received by somebody who can't have it: it is the next one again.

    Blocks: for the channel's lock, which is `lock`.
    """
    block = take_block(m, ops.GIVEN_BACK_BYTES)
    m.enter(lock)
    unused, g = ops.give_back(m, ch, block, hdr, body)
    m.leave(lock)
    if unused:
        give_block(m, block, ops.GIVEN_BACK_BYTES)
    if g:
        m.ready(g)
