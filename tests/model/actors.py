"""Threads, handles and goroutines of a loom's world: the package's own classes, over the world's words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from mproc_go.chan.receiving import Receiving
from mproc_go.chan.sending import Sending
from mproc_go.runtime.client import ClientM
from mproc_go.sched import waitq
from mproc_go.sched.deliver import deliver
from mproc_go.shm import layout as L
from mproc_go.sync.waitgroup import WaitGroup
from tests.model.loom import LoomThread, World

GOROUTINES = 4_000_000
CHANNELS = 3_000_032
RINGS = 3_100_000
SUDOGS = 3_500_000
BLOCKS = 3_800_000


def goroutine(n: int) -> int:
    """Where the record of goroutine `n` lies."""
    return GOROUTINES + L.G_WORDS * n


class Client(LoomThread):
    """A thread that sleeps on its note while it waits, by the code of a real one."""

    def __init__(self, world: World, slot: int) -> None:
        super().__init__(world, slot)
        peek = world.memory_view
        peek[self.base + L.M_KIND] = L.KIND_CLIENT
        self.g = goroutine(slot)
        peek[self.g + L.G_M] = slot
        peek[self.g + L.G_GOID] = slot
        waitq.settle_sudog(peek, self.g)  # type: ignore[arg-type]
        self.caches[L.POOL_SUDOG] = [SUDOGS + L.SUDOG_WORDS * (16 * slot + i) for i in range(8)]
        self.caches[L.MIN_BLOCK_ORDER] = [BLOCKS + (1 << L.MIN_BLOCK_ORDER) * (8 * slot + i) for i in range(8)]
        self.decides = L.OUT_OK | slot << 32
        self.process = SimpleNamespace(
            refs=SimpleNamespace(settle=lambda m: None), over=None, outsiders=SimpleNamespace(known={}, look=bool)
        )

    park = ClientM.park

    def check_supervisor(self) -> None:
        """It lives."""

    def ready(self, g: int) -> None:
        deliver(self, g)


class _NoEnd:
    """A handle whose end is no event: nothing here is ever freed."""

    __slots__ = ()

    def __del__(self) -> None:
        pass


class Sender(_NoEnd, Sending):  # type: ignore[type-arg]
    __slots__ = ()


class Receiver(_NoEnd, Receiving):  # type: ignore[type-arg]
    __slots__ = ()


class Group(_NoEnd, WaitGroup):
    __slots__ = ()


def handle(t: LoomThread, cls: type[Any], base: int) -> Any:
    """A handle of the object at `base` in the hands of a thread."""
    made = cls.__new__(cls)
    made._base, made._gen = base, 0
    made._tls = threading.local()
    made._tls.m = t
    made._lock = t.locks[L.object_lock(base)]
    if issubclass(cls, Sending | Receiving):
        made._cap, made._ring = t.world.memory.get(base + L.CH_CAP, 0), t.world.memory.get(base + L.CH_RING, 0)
    return made


def channel(world: World, capacity: int, number: int = 0, start: int = 0) -> int:
    """A channel that `start` messages went through already; returns its base."""
    peek = world.memory_view
    base = CHANNELS + L.OBJECT_WORDS * number
    peek[base + L.O_KIND] = L.KIND_CHAN
    peek[base + L.CH_CAP] = peek[base + L.CH_LIMIT] = capacity
    peek[base + L.CH_RING] = RINGS + 64 * number if capacity else 0
    peek[base + L.CH_HEAD] = peek[base + L.CH_TAIL] = start
    return base


def whenever_free(world: World, base: int, check: Callable[[], None]) -> None:
    """Have `check` hold at every moment at which nobody is in the critical section of the object at `base`."""
    door = world.doors[L.object_lock(base), 0]

    def look() -> None:
        if door.tokens:
            check()

    world.invariant = look
