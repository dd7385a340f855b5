"""arrays_send and arrays_query: 64 MB of numbers from one process to another, and questions to them on all cores.

Who receives an array looks at one number of each page: memory that was not looked at was perhaps not even there.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from time import perf_counter
from typing import Any

from mproc_bench.channels import FORK
from mproc_bench.registry import Wrong, subject

ITEMS = 8 << 20  # of 8 bytes
PAGE_ITEMS = 512
BLOCK_ITEMS = 16 * 1024


def numbered() -> Any:
    import numpy

    return numpy.zeros(ITEMS)


def produce(put: Callable[[Any], object], n: int, later: bool = False) -> None:
    """`later`: what is put is pickled when a thread of the queue comes to it, so each one must be another array."""
    array = numbered()
    for i in range(n + 1):
        array[0] = array[-1] = i
        put(array.copy() if later else array)


def looked_at(array: Any, i: int) -> bool:
    return bool(array[::PAGE_ITEMS].sum() == array[-1] == i)


def consume(get: Callable[[], Any], n: int) -> float:
    right = looked_at(get(), 0)
    start = perf_counter()
    for i in range(1, n + 1):
        right &= looked_at(get(), i)
    seconds = perf_counter() - start
    if not right:
        raise Wrong("an array is not the one that was sent at that place")
    return seconds


def produce_chan(ch: Any, n: int) -> None:
    produce(ch.send, n)


@subject("arrays_send", "mproc_go goroutine to main", needs="mproc_go")
def chan(n: int) -> float:
    import mproc_go

    def main() -> float:
        ch: Any = mproc_go.Chan(1)
        mproc_go.go(produce_chan, ch, n)
        return consume(ch.recv, n)

    return mproc_go.run(main, procs=1)


@subject("arrays_send", "one plain copy in memory", needs="numpy")
def plain_copy(n: int) -> float:
    import numpy

    source, target = numbered(), numbered()
    right = True
    start = perf_counter()
    for i in range(n):
        source[0] = source[-1] = i
        numpy.copyto(target, source)
        right &= looked_at(target, i)
    seconds = perf_counter() - start
    if not right:
        raise Wrong("the copy is not what was copied")
    return seconds


def between(put: Callable[[Any], object], get: Callable[[], Any], n: int, later: bool = False) -> float:
    producer = FORK.Process(target=produce, args=(put, n, later))
    producer.start()
    seconds = consume(get, n)
    producer.join()
    return seconds


@subject("arrays_send", "mp.Queue(1)", needs="numpy")
def mp_queue(n: int) -> float:
    queue = FORK.Queue(1)
    return between(queue.put, queue.get, n, later=True)


@subject("arrays_send", "mp.Pipe", needs="numpy")
def mp_pipe(n: int) -> float:
    receiver, sender = FORK.Pipe(duplex=False)
    return between(sender.send, receiver.recv, n)


# ------------------------------------------------------------ questions
def fill(array: Any) -> None:
    import numpy

    numpy.multiply(numpy.arange(ITEMS), 1e-6, out=array)


def between_bounds(chunk: Any, low: float) -> int:
    """How many lie in an interval. In blocks that the cache holds, which is faster everywhere."""
    import numpy

    found = 0
    for at in range(0, len(chunk), BLOCK_ITEMS):
        block = chunk[at : at + BLOCK_ITEMS]
        found += int(numpy.count_nonzero((block >= low) & (block < low + 1)))
    return found


def timed(ask: Callable[[float], int], n: int) -> float:
    ask(0.0)
    start = perf_counter()
    counts = [ask(float(i % 7)) for i in range(n)]
    seconds = perf_counter() - start
    if any(abs(count - 1_000_000) > 1 for count in counts):
        raise Wrong(f"not a million in each interval: {counts}")
    return seconds


class Question:
    """A function of a chunk that travels."""

    def __init__(self, low: float) -> None:
        self.low = low

    def __call__(self, chunk: Any) -> int:
        return between_bounds(chunk, self.low)


@subject("arrays_query", "mproc_go SharedArray.parallel", needs="mproc_go")
def shared(n: int) -> float:
    import mproc_go

    def main() -> float:
        array = mproc_go.SharedArray(ITEMS, "d")
        fill(array.numpy())
        return timed(lambda low: sum(array.parallel(Question(low))), n)

    return mproc_go.run(main, procs=2)


@subject("arrays_query", "one process, plain NumPy", needs="numpy")
def plain(n: int) -> float:
    array = numbered()
    fill(array)
    return timed(lambda low: between_bounds(array, low), n)


@subject("arrays_query", "ProcessPoolExecutor, pickled slices", needs="numpy")
def pool(n: int) -> float:
    import numpy

    array = numbered()
    fill(array)
    slices = numpy.array_split(array, 8)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=FORK) as executor:
        return timed(lambda low: sum(executor.map(between_bounds, slices, [low] * len(slices))), n)
