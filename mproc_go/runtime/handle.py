"""What the handles of goroutines, channels, wait groups ... have in common: their runtime, their record, their end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Self

from mproc_go.codec import handles
from mproc_go.errors import NotRunning
from mproc_go.runtime import process as rt
from mproc_go.runtime import refs
from mproc_go.runtime.process import M
from mproc_go.shm.layout import (
    H_STOP,
    KIND_ARRAY,
    KIND_ATOMIC,
    KIND_BUFFER,
    KIND_CHAN,
    KIND_COND,
    KIND_CONTEXT,
    KIND_GOROUTINE,
    KIND_KEYED_CHAN,
    KIND_MAP,
    KIND_MUTEX,
    KIND_ONCE,
    KIND_RWMUTEX,
    KIND_SEMAPHORE,
    KIND_STRIPE,
    KIND_TICKER,
    KIND_TIMER,
    KIND_WAITGROUP,
    O_KIND,
    POOL_OBJECT,
    R_GEN,
    object_lock,
)
from mproc_go.shm.lock import Lock
from mproc_go.shm.pool import give, take

handles.HOMES.update(
    {
        KIND_ARRAY: "mproc_go.shared.array",
        KIND_ATOMIC: "mproc_go.sync.atomic",
        KIND_BUFFER: "mproc_go.runtime.buffers",
        KIND_CHAN: "mproc_go.chan.channel",
        KIND_COND: "mproc_go.sync.cond",
        KIND_CONTEXT: "mproc_go.lib.context",
        KIND_GOROUTINE: "mproc_go.runtime.goroutine",
        KIND_KEYED_CHAN: "mproc_go.shared.keyed",
        KIND_MAP: "mproc_go.shared.map",
        KIND_MUTEX: "mproc_go.sync.mutex",
        KIND_ONCE: "mproc_go.sync.once",
        KIND_RWMUTEX: "mproc_go.sync.rwmutex",
        KIND_SEMAPHORE: "mproc_go.sync.semaphore",
        KIND_STRIPE: "mproc_go.shared.striped",
        KIND_TICKER: "mproc_go.lib.clock",
        KIND_TIMER: "mproc_go.lib.clock",
        KIND_WAITGROUP: "mproc_go.sync.waitgroup",
    }
)


class SharedHandle(handles.Handle):
    """A handle of a record in the shared memory of the runtime it was made in."""

    __slots__ = ("_lock", "_tls")

    _tls: threading.local  # has the M of each thread of that runtime as ``m``
    _lock: Lock  # guards the record

    def _bind(self, m: M, base: int, gen: int) -> None:
        self._base = base
        self._gen = gen
        self._tls = m.process.tls
        self._lock = m.locks[object_lock(base)]

    def _make(self, m: M, pool: int) -> int:
        """Take a record and be its first handle; return its base. The caller fills it, and calls :meth:`_made`."""
        if m.w[H_STOP]:
            m.interrupted()
        # Handles that died in critical sections are worked off first, so that a program that only makes and drops
        # channels stays flat.
        m.process.refs.settle(m)
        base = take(m, pool)
        m.w[base + O_KIND] = 0  # until the caller has filled it, it is not what it was before
        m.process.refs.adopt(m.w, base)
        SharedHandle._bind(self, m, base, m.w[base + R_GEN])
        return base

    def _made(self, m: M, base: int, kind: int) -> None:
        """Say what the record is: whoever walks all objects now finds a whole one."""
        m.w[base + O_KIND] = kind
        m.w[base] = m.live  # publishes

    @classmethod
    def _open(cls, base: int, gen: int) -> Self:
        """The handle of a record that a message named.

        Raises:
            DecodeError: there is no such record: the message is none of ours (genuine.py).
        """
        m = rt.current()
        m.process.refs.opened(m, cls.KIND, base, gen)
        handle = cls.__new__(cls)
        handle._bind(m, base, gen)
        return handle

    def __eq__(self, other: object) -> bool:
        # An address names something only together with its runtime.
        if isinstance(other, SharedHandle) and other._tls is not self._tls:
            return False
        return super().__eq__(other)

    __hash__ = handles.Handle.__hash__

    def _name(self) -> tuple[int, int, int]:
        process = rt.process
        if process is None or process.tls is not self._tls:
            rt.owner(self._tls)  # raises: in the runtime of now, that address is somebody else's
        return self.KIND, self._base, self._gen

    def _m(self) -> M:
        """The M of the calling thread in the runtime this belongs to.

        Raises:
            NotRunning: that runtime is over.
        """
        try:
            m: M = self._tls.m
            return m
        except AttributeError:
            return rt.owner(self._tls).thread()

    def _words(self) -> Any:
        """The shared words for a look from __repr__, None where the runtime is over."""
        m = getattr(self._tls, "m", None)
        return None if m is None else m.w

    def __del__(self) -> None:
        try:
            tls = self._tls
        except AttributeError:  # its making failed
            return
        m = getattr(tls, "m", None)
        if m is not None:
            try:
                m.process.refs.drop(m, self.KIND, self._base)
            except NotRunning:  # another thread detached this program meanwhile, and with it all its handles went
                pass
        else:
            process = rt.process
            if process is not None and process.tls is tls:
                process.refs.drop(None, self.KIND, self._base)


def register(cls: type[SharedHandle], destroy: Callable[[M, int], None]) -> None:
    """Have messages carry handles of that class; `destroy` frees the record once the last one is gone."""
    handles.register(cls.KIND, cls._open)
    refs.DESTROY[cls.KIND] = destroy


def _destroy_unfilled(m: M, base: int) -> None:
    """Free an object whose maker died before it was anything."""
    m.w[base + R_GEN] += 1
    give(m, POOL_OBJECT, base)


refs.DESTROY[0] = _destroy_unfilled
