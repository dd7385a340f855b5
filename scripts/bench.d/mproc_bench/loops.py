"""loops: channels in asyncio code, beside what one builds there without them.

An asyncio program that wants messages of another process has ``multiprocessing.Queue``, whose calls block, so each of
them goes to a thread of an executor. From a thread of its own process it gets them by ``run_coroutine_threadsafe``,
or by janus. The floor is ``asyncio.Queue``, which reaches no further than its loop. One buffer for all: CAPACITY.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from mproc_bench.registry import Wrong, subject

CAPACITY = 100


async def receive(n: int, get: Callable[[], Awaitable[int]]) -> float:
    """Receive 0 to n - 1; the clock starts with the first, so that nobody's start is in it."""
    total = await get()
    start = perf_counter()
    for _ in range(n - 1):
        total += await get()
    seconds = perf_counter() - start
    if total != n * (n - 1) // 2:
        raise Wrong("the sum of what was received is not that of what was sent")
    return seconds


async def there_and_back(n: int, put: Callable[[int], Awaitable[Any]], get: Callable[[], Awaitable[int]]) -> float:
    """n round trips, after one that is not counted."""
    await put(0)
    wrong = await get() != 0
    start = perf_counter()
    for i in range(n):
        await put(i)
        wrong += await get() != i
    seconds = perf_counter() - start
    if wrong:
        raise Wrong(f"{wrong} answers are not what was asked")
    return seconds


def in_executor(loop: asyncio.AbstractEventLoop, call: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    return lambda *args: loop.run_in_executor(None, call, *args)


def count(put: Callable[[int], Any], n: int) -> None:
    for i in range(n):
        put(i)


def echo(get: Callable[[], Any], put: Callable[[Any], Any]) -> None:
    while (v := get()) is not None:
        put(v)


def beside(target: Callable[..., Any], *args: Any) -> Any:
    process = multiprocessing.Process(target=target, args=args, daemon=True)
    process.start()
    return process


# ---------------------------------------------------------------- another process sends, a task receives
@subject("loops_receive", "mproc_go arecv")
def ours_receives(n: int) -> float:
    import mproc_go

    def main() -> float:
        ch: Any = mproc_go.Chan(CAPACITY)
        mproc_go.go(count, ch.send, n)
        return asyncio.run(receive(n, ch.arecv))

    return mproc_go.run(main, procs=1)


@subject("loops_receive", "mp.Queue + run_in_executor")
def queue_receives(n: int) -> float:
    queue: Any = multiprocessing.Queue(CAPACITY)
    sender = beside(count_in_queue, queue, n)

    async def main() -> float:
        return await receive(n, in_executor(asyncio.get_running_loop(), queue.get))

    seconds = asyncio.run(main())
    sender.join()
    return seconds


def count_in_queue(queue: Any, n: int) -> None:
    count(queue.put, n)


# ---------------------------------------------------------------- a task asks another process, which answers
@subject("loops_pingpong", "mproc_go asend, arecv")
def ours_asks(n: int) -> float:
    import mproc_go

    def main() -> float:
        there: Any = mproc_go.Chan()
        back: Any = mproc_go.Chan()
        mproc_go.go(echo, there.recv, back.send)
        return asyncio.run(there_and_back(n, there.asend, back.arecv))

    return mproc_go.run(main, procs=1)


@subject("loops_pingpong", "mp.Queue + run_in_executor")
def queue_asks(n: int) -> float:
    there: Any = multiprocessing.Queue(1)
    back: Any = multiprocessing.Queue(1)
    other = beside(echo_of_queues, there, back)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        return await there_and_back(n, in_executor(loop, there.put), in_executor(loop, back.get))

    seconds = asyncio.run(main())
    there.put(None)
    other.join()
    return seconds


def echo_of_queues(there: Any, back: Any) -> None:
    echo(there.get, back.put)


# ---------------------------------------------------------------- a thread of this process sends, a task receives
def from_thread(n: int, get: Callable[[], Awaitable[int]], put: Callable[[int], Any]) -> Awaitable[float]:
    async def main() -> float:
        thread = threading.Thread(target=count, args=(put, n))
        thread.start()
        try:
            return await receive(n, get)
        finally:
            await asyncio.to_thread(thread.join)

    return main()


@subject("loops_thread", "mproc_go send, arecv")
def ours_from_a_thread(n: int) -> float:
    import mproc_go

    async def main() -> float:
        ch: Any = mproc_go.Chan(CAPACITY)
        return await from_thread(n, ch.arecv, ch.send)

    return mproc_go.run(lambda: asyncio.run(main()), procs=1)


@subject("loops_thread", "janus", needs="janus")
def janus_from_a_thread(n: int) -> float:
    import janus

    async def main() -> float:
        queue: Any = janus.Queue(CAPACITY)
        seconds = await from_thread(n, queue.async_q.get, queue.sync_q.put)
        await queue.aclose()
        return seconds

    return asyncio.run(main())


@subject("loops_thread", "asyncio.Queue + threadsafe put")
def bridge_from_a_thread(n: int) -> float:
    async def main() -> float:
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[int](CAPACITY)
        return await from_thread(
            n, queue.get, lambda v: asyncio.run_coroutine_threadsafe(queue.put(v), loop).result()
        )

    return asyncio.run(main())


# ---------------------------------------------------------------- both are tasks of one loop
async def within(n: int, put: Callable[[int], Awaitable[Any]], get: Callable[[], Awaitable[int]]) -> float:
    async def send() -> None:
        for i in range(n):
            await put(i)

    sender = asyncio.create_task(send())
    seconds = await receive(n, get)
    await sender
    return seconds


@subject("loops_local", "mproc_go asend, arecv")
def ours_within(n: int) -> float:
    import mproc_go

    async def main() -> float:
        ch: Any = mproc_go.Chan(CAPACITY)
        return await within(n, ch.asend, ch.arecv)

    return mproc_go.run(lambda: asyncio.run(main()), procs=1)


@subject("loops_local", "asyncio.Queue")
def queue_within(n: int) -> float:
    async def main() -> float:
        queue = asyncio.Queue[int](CAPACITY)
        return await within(n, queue.put, queue.get)

    return asyncio.run(main())
