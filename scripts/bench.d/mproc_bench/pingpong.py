"""pingpong_remote and pingpong_local: a round trip, alone on the wire. The latency of waking whoever waits."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

from mproc_bench.channels import FORK
from mproc_bench.place import on_two_ps
from mproc_bench.registry import Wrong, subject


def echo(get: Callable[[], int], put: Callable[[int], object], n: int) -> None:
    for _ in range(n + 1):
        put(get() + 1)


def drive(put: Callable[[int], object], get: Callable[[], int], n: int) -> float:
    put(0)
    wrong = get() != 1
    start = perf_counter()
    for i in range(n):
        put(i)
        if get() != i + 1:
            wrong = True
    seconds = perf_counter() - start
    if wrong:
        raise Wrong("an answer is not that of its question")
    return seconds


def echo_chan(there: Any, back: Any, n: int) -> None:
    echo(there.recv, back.send, n)


def drive_chan(there: Any, back: Any, out: Any, n: int) -> None:
    out.send(drive(there.send, back.recv, n))


@subject("pingpong_remote", "mproc_go goroutine and goroutine", needs="mproc_go", budget="6")
def chan_between_ps(n: int) -> float:
    import mproc_go

    def main() -> float:
        there, back, out = mproc_go.Chan(), mproc_go.Chan(), mproc_go.Chan(1)
        on_one, on_other = on_two_ps()
        on_one(echo_chan, there, back, n)
        on_other(drive_chan, there, back, out, n)
        return float(out.recv())

    return mproc_go.run(main, procs=2)


@subject("pingpong_remote", "mproc_go main and goroutine", needs="mproc_go", budget="6")
def chan_with_main(n: int) -> float:
    import mproc_go

    def main() -> float:
        there, back = mproc_go.Chan(), mproc_go.Chan()
        mproc_go.go(echo_chan, there, back, n)
        return drive(there.send, back.recv, n)

    return mproc_go.run(main, procs=2)


@subject("pingpong_local", "mproc_go (two goroutines)", needs="mproc_go")
def chan_on_one_p(n: int) -> float:
    import mproc_go

    def main() -> float:
        there, back, out = mproc_go.Chan(), mproc_go.Chan(), mproc_go.Chan(1)
        mproc_go.go(echo_chan, there, back, n)
        mproc_go.go(drive_chan, there, back, out, n)
        return float(out.recv())

    return mproc_go.run(main, procs=1)


def forked(pipes: Any, n: int) -> float:
    (put, other_get), (other_put, get) = pipes
    process = FORK.Process(target=echo, args=(other_get, other_put, n))
    process.start()
    seconds = drive(put, get, n)
    process.join()
    return seconds


@subject("pingpong_remote", "mp.Pipe")
def mp_pipe(n: int) -> float:
    here, there = FORK.Pipe()
    return forked(((here.send, there.recv), (there.send, here.recv)), n)


@subject("pingpong_remote", "mp.SimpleQueue")
def mp_simple_queue(n: int) -> float:
    one, two = FORK.SimpleQueue(), FORK.SimpleQueue()
    return forked(((one.put, one.get), (two.put, two.get)), n)


@subject("pingpong_remote", "os.pipe (8 bytes, no objects)")
def os_pipe(n: int) -> float:
    def ends() -> tuple[Callable[[int], object], Callable[[], int]]:
        r, w = os.pipe()
        return (lambda v: os.write(w, v.to_bytes(8, "little"))), (lambda: int.from_bytes(os.read(r, 8), "little"))

    return forked((ends(), ends()), n)


@subject("pingpong_local", "asyncio (two tasks, Queue)")
def asyncio_queues(n: int) -> float:
    import asyncio

    async def main() -> float:
        there: asyncio.Queue[int] = asyncio.Queue(1)
        back: asyncio.Queue[int] = asyncio.Queue(1)

        async def answer() -> None:
            for _ in range(n):
                await back.put(await there.get() + 1)

        task = asyncio.create_task(answer())
        start = perf_counter()
        for i in range(n):
            await there.put(i)
            if await back.get() != i + 1:
                raise Wrong("an answer is not that of its question")
        seconds = perf_counter() - start
        await task
        return seconds

    return asyncio.run(main())


@subject("pingpong_local", "gevent (two greenlets, Channel)", needs="gevent")
def gevent_channels(n: int) -> float:
    import gevent
    from gevent.queue import Channel

    there, back = Channel(), Channel()
    gevent.spawn(echo, there.get, back.put, n)
    return float(gevent.spawn(drive, there.put, back.get, n).get())


@subject("pingpong_local", "threading (two threads, queue)")
def thread_queues(n: int) -> float:
    there: queue.SimpleQueue[int] = queue.SimpleQueue()
    back: queue.SimpleQueue[int] = queue.SimpleQueue()
    thread = threading.Thread(target=echo, args=(there.get, back.put, n))
    thread.start()
    seconds = drive(there.put, back.get, n)
    thread.join()
    return seconds
