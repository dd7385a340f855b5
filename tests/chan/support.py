"""What goroutines and test bodies of these tests share: no pytest in here, workers import it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

from mproc_go import gosched
from mproc_go.runtime import process
from mproc_go.shm.layout import POOL_G, POOL_SUDOG, R_HEAD, REC_LIVE
from mproc_go.shm.pool import records
from tests.contract.support import waiters

DEADLINE_S = 60.0


def until(condition, what="the condition"):
    """Poll until it holds. Not for ordering: only where nothing can be waited for."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not become true within {DEADLINE_S} s"
        gc.collect()
        gosched()
        time.sleep(0.002)


def run_loop(coroutine):
    """Run it with a time limit, so that a hang is a failure."""

    async def main():
        async with asyncio.timeout(DEADLINE_S):
            return await coroutine

    return asyncio.run(main())


def until_waiting(ch, receivers=0, senders=0):
    """Return once that many wait on the channel."""
    until(lambda: waiters(ch) == (receivers, senders), f"{receivers} receivers and {senders} senders wait")


async def until_tasks_wait(ch, receivers=0, senders=0):
    """The same in a loop, which goes on."""
    deadline = time.monotonic() + DEADLINE_S
    while waiters(ch) != (receivers, senders):
        assert time.monotonic() < deadline, f"{waiters(ch)} wait, not {(receivers, senders)}"
        await asyncio.sleep(0)


def live_records():
    """Goroutine records and sudogs in use: what must be as before when all is over."""
    w = process.process.segment.w
    return tuple(sum(w[r + R_HEAD] & 0xFF == REC_LIVE for r in records(w, pool)) for pool in (POOL_G, POOL_SUDOG))


def until_given_back(before):
    """Return once there are no more of them than before. (There may be fewer: threads of ours that idle end.)"""
    until(lambda: all(now <= was for now, was in zip(live_records(), before, strict=True)), "records are given back")


def mailbox_threads():
    return [thread for thread in threading.enumerate() if thread.name == "mproc-go asyncio"]


def send_all(ch, values, close=False):
    for v in values:
        ch.send(v)
    if close:
        ch.close()


def forward(source, target, close=True):
    for v in source:
        target.send(v)
    if close:
        target.close()


def take_all(ch):
    return list(ch)


def take(ch, n):
    return [ch.recv() for _ in range(n)]
