"""spsc and spsc_msg: one producer process, one consumer, a buffer of 1024 where the rival has such a thing.

Timing starts when the first message is there: starting a process or a goroutine is another scenario's cost.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from mproc_bench.place import on_two_ps
from mproc_bench.registry import Wrong, subject

FORK = multiprocessing.get_context("fork")
CAPACITY = 1024
PERIOD = 1024  # messages repeat; a power of two
MESSAGES: dict[str, list[Any]] = {
    "spsc": list(range(PERIOD)),
    "spsc_msg_bytes": [bytes([i & 255]) * 1024 for i in range(PERIOD)],
    "spsc_msg_dict": [{"id": i, "name": f"item {i}", "price": i / 8, "tags": ["a", "b"]} for i in range(PERIOD)],
}


def produce(put: Callable[[Any], object], kind: str, n: int) -> None:
    messages = MESSAGES[kind]
    for i in range(n + 1):
        put(messages[i % PERIOD])


def consume(get: Callable[[], Any], kind: str, n: int) -> float:
    messages = MESSAGES[kind]
    wrong = get() != messages[0]
    start = perf_counter()
    for i in range(1, n + 1):
        if get() != messages[i % PERIOD]:
            wrong = True
    seconds = perf_counter() - start
    if wrong:
        raise Wrong("a message is not the one that was sent at that place")
    return seconds


def produce_chan(ch: Any, kind: str, n: int) -> None:
    produce(ch.send, kind, n)


def consume_chan(ch: Any, out: Any, kind: str, n: int) -> None:
    out.send(consume(ch.recv, kind, n))


def every_kind(name: str, needs: str | None = None, budget: str = "") -> Callable[..., Callable[..., float]]:
    def register(measure: Callable[[str, int], float]) -> Callable[[str, int], float]:
        for kind in MESSAGES:
            subject(kind, name, needs=needs, budget=budget)(partial(measure, kind))
        return measure

    return register


@every_kind("mproc_go goroutine to goroutine", needs="mproc_go")
def chan_between_ps(kind: str, n: int) -> float:
    import mproc_go

    def main() -> float:
        ch, out = mproc_go.Chan(CAPACITY), mproc_go.Chan(1)
        on_one, on_other = on_two_ps()
        on_other(consume_chan, ch, out, kind, n)
        on_one(produce_chan, ch, kind, n)
        return float(out.recv())

    return mproc_go.run(main, procs=2)


@every_kind("mproc_go goroutine to main", needs="mproc_go")
def chan_to_main(kind: str, n: int) -> float:
    import mproc_go

    def main() -> float:
        ch: Any = mproc_go.Chan(CAPACITY)
        mproc_go.go(produce_chan, ch, kind, n)
        return consume(ch.recv, kind, n)

    return mproc_go.run(main, procs=2)


def between(put: Callable[[Any], object], get: Callable[[], Any], kind: str, n: int) -> float:
    producer = FORK.Process(target=produce, args=(put, kind, n))
    producer.start()
    seconds = consume(get, kind, n)
    producer.join()
    return seconds


@every_kind("mp.Queue(1024)")
def mp_queue(kind: str, n: int) -> float:
    queue = FORK.Queue(CAPACITY)
    return between(queue.put, queue.get, kind, n)


@every_kind("mp.SimpleQueue")
def mp_simple_queue(kind: str, n: int) -> float:
    queue = FORK.SimpleQueue()
    return between(queue.put, queue.get, kind, n)


@every_kind("mp.Pipe")
def mp_pipe(kind: str, n: int) -> float:
    receiver, sender = FORK.Pipe(duplex=False)
    return between(sender.send, receiver.recv, kind, n)


@every_kind("faster-fifo", needs="faster_fifo")
def faster_fifo(kind: str, n: int) -> float:
    import faster_fifo
    import faster_fifo_reduction  # noqa: F401  (its way of registering itself)

    queue = faster_fifo.Queue(1_000_000)
    return between(queue.put, queue.get, kind, n)
