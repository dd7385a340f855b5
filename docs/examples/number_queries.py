"""Questions to millions of numbers: goroutines on all cores read one SharedArray, beside the same in plain NumPy.

    python docs/examples/number_queries.py [HOW_MANY]      # 50 million by default, 400 MB

Three questions: how many lie in an interval, how do they spread, which are the largest. Each goroutine answers for a
piece of the array, which it sees without a copy, and sends back a few numbers; putting those together is cheap.

Who asks many small questions at a time starts a goroutine a question instead (the last part): a handle of the array
travels as three numbers, however large it is.

Source: the founding essay of this project, "an array that everybody queries".
"""

import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mproc_go import SharedArray, go, run

Numbers = NDArray[np.float64]

BLOCK = 1 << 16  # numbers that the cache of a core holds
BINS = 20
TOP = 5


def fill(chunk: Numbers, mean: float) -> None:
    """A bell curve, made where it lies."""
    chunk[:] = np.random.default_rng().normal(mean, 15.0, len(chunk))


def blocks(chunk: Numbers) -> Iterator[Numbers]:
    for at in range(0, len(chunk), BLOCK):
        yield chunk[at : at + BLOCK]


def count(low: float, high: float, chunk: Numbers) -> int:
    return sum(int(np.count_nonzero((block >= low) & (block < high))) for block in blocks(chunk))


def histogram(edges: Numbers, chunk: Numbers) -> NDArray[np.int64]:
    found = np.zeros(len(edges) - 1, np.int64)
    for block in blocks(chunk):
        found += np.histogram(block, edges)[0]
    return found


def largest(k: int, chunk: Numbers) -> Numbers:
    return np.sort(np.partition(chunk, -k)[-k:] if len(chunk) > k else chunk)


def how_many_near(array: SharedArray, center: float) -> int:
    """One question for itself, over the whole array."""
    return count(center - 1, center + 1, array.numpy())


def ask(title: str, parallel: Callable[[], Any], plain: Callable[[], Any]) -> str:
    began = time.perf_counter()
    ours = parallel()
    between = time.perf_counter()
    theirs = plain()
    end = time.perf_counter()
    print(f"{title}: {'the same' if np.array_equal(ours, theirs) else 'NOT THE SAME'} as in plain NumPy")
    return f"{title}: {between - began:.3f} s, plain NumPy {end - between:.3f} s"


def main(n: int) -> list[str]:
    array = SharedArray(n, "float64")
    list(array.parallel(partial(fill, mean=100.0)))
    plain = array.numpy()  # the very memory, for one process to ask
    edges = np.linspace(plain.min(), plain.max() + 1, BINS + 1)
    times = [
        ask(
            "count",
            lambda: sum(array.parallel(partial(count, 85.0, 115.0))),
            lambda: count(85.0, 115.0, plain),
        ),
        ask(
            "histogram",
            lambda: np.sum(list(array.parallel(partial(histogram, edges))), axis=0),
            lambda: histogram(edges, plain),
        ),
        ask(
            f"top {TOP}",
            lambda: largest(TOP, np.concatenate(list(array.parallel(partial(largest, TOP))))),
            lambda: largest(TOP, plain),
        ),
    ]
    centers = [random.uniform(60, 140) for _ in range(16)]
    asked = [go(how_many_near, array, center) for center in centers]
    right = [handle.result() for handle in asked] == [how_many_near(array, center) for center in centers]
    print(f"{len(asked)} goroutines with a question each: {'right' if right else 'WRONG'}")
    return times


if __name__ == "__main__":
    how_many = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000_000
    took = run(main, how_many)
    if how_many >= 10_000_000:  # below that, times say little
        print(*took, sep="\n")
