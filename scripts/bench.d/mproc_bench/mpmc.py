"""mpmc: two producers and two consumers on one channel. A pipe is not in it: two writers or two readers corrupt it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

from mproc_bench.channels import CAPACITY, FORK
from mproc_bench.registry import Wrong, subject

END = -1


def produce(put: Callable[[int], object], first: int, n: int) -> None:
    for i in range(first, n, 2):
        put(i)


def consume(get: Callable[[], int]) -> tuple[int, int]:
    count = total = 0
    while (v := get()) != END:
        count += 1
        total += v
    return count, total


def check(parts: list[tuple[int, int]], n: int) -> None:
    if (sum(c for c, _ in parts), sum(t for _, t in parts)) != (n, n * (n - 1) // 2):
        raise Wrong("messages were lost or doubled")


def produce_chan(gate: Any, ch: Any, first: int, n: int) -> None:
    gate.recv_ok()
    produce(ch.send, first, n)


def consume_chan(ch: Any, out: Any) -> None:
    out.send(consume(ch.recv))


@subject("mpmc", "mproc_go", needs="mproc_go")
def chan(n: int) -> float:
    import mproc_go

    def main() -> float:
        ch, gate, out = mproc_go.Chan(CAPACITY), mproc_go.Chan(), mproc_go.Chan(2)
        for _ in range(2):
            mproc_go.go(consume_chan, ch, out)
        producers = [mproc_go.go(produce_chan, gate, ch, first, n) for first in range(2)]
        mproc_go.sleep(0.1)  # all four stand before the clock runs
        start = perf_counter()
        gate.close()
        for producer in producers:
            producer.result()
        ch.send(END), ch.send(END)
        parts = [out.recv(), out.recv()]
        seconds = perf_counter() - start
        check(parts, n)
        return seconds

    return mproc_go.run(main, procs=2)


def produce_forked(gate: Any, put: Callable[[int], object], first: int, n: int) -> None:
    gate.wait()
    produce(put, first, n)


def consume_forked(get: Callable[[], int], out: Any) -> None:
    out.send(consume(get))


def among_four(put: Callable[[int], object], get: Callable[[], int], n: int) -> float:
    pipes = [FORK.Pipe(duplex=False) for _ in range(2)]
    gate = FORK.Barrier(3)
    consumers = [FORK.Process(target=consume_forked, args=(get, out)) for _, out in pipes]
    producers = [FORK.Process(target=produce_forked, args=(gate, put, first, n)) for first in range(2)]
    for process in consumers + producers:
        process.start()
    threading.Event().wait(0.1)  # the consumers stand too
    gate.wait()
    start = perf_counter()
    for process in producers:
        process.join()
    put(END), put(END)
    parts = [receiver.recv() for receiver, _ in pipes]
    seconds = perf_counter() - start
    for process in consumers:
        process.join()
    check(parts, n)
    return seconds


@subject("mpmc", "mp.Queue(1024)")
def mp_queue(n: int) -> float:
    queue = FORK.Queue(CAPACITY)
    return among_four(queue.put, queue.get, n)


@subject("mpmc", "mp.SimpleQueue")
def mp_simple_queue(n: int) -> float:
    queue = FORK.SimpleQueue()
    return among_four(queue.put, queue.get, n)


@subject("mpmc", "faster-fifo", needs="faster_fifo")
def faster_fifo(n: int) -> float:
    import faster_fifo
    import faster_fifo_reduction  # noqa: F401  (its way of registering itself)

    queue = faster_fifo.Queue(1_000_000)
    return among_four(queue.put, queue.get, n)
