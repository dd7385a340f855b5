"""maps: what goroutines share instead of sending it, beside what the standard library has for that.

``dict + mp.Lock`` is one process's own dict behind a lock that processes could share: nobody else sees what is stored
in it, so it is the floor, not a rival. The growth turns fill the map before the clock starts; plain dicts show how much
of the growth is the machine's, whose caches a million entries don't fit.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, MutableMapping
from time import perf_counter
from typing import Any

from mproc_bench.registry import Wrong, subject

KEYS = 1_000


def by_turns(shared: MutableMapping[int, int], keys: list[int]) -> float:
    """Store and load, as many of both as half of the keys; return the seconds."""
    half = len(keys) // 2
    wrong = 0
    start = perf_counter()
    for key in keys[:half]:
        shared[key] = key
        wrong += shared[key] != key
    seconds = perf_counter() - start
    if wrong:
        raise Wrong(f"{wrong} values are not what was stored")
    return seconds


def at_random(n: int, size: int) -> list[int]:
    rng = random.Random(n)
    return [rng.randrange(size) for _ in range(n)]


def in_a_goroutine(fn: Callable[..., float], *args: Any) -> float:
    import mproc_go

    return mproc_go.run(lambda: float(mproc_go.go(fn, *args).result()), procs=1)


def in_a_map(n: int, size: int) -> float:
    import mproc_go

    shared: MutableMapping[int, int] = mproc_go.SharedMap()
    for key in range(size):
        shared[key] = key
    return by_turns(shared, at_random(n, size))


@subject("maps_shared", "mproc_go SharedMap")
def ours(n: int) -> float:
    return in_a_goroutine(in_a_map, n, KEYS)


@subject("maps_shared", "Manager().dict()")
def manager(n: int) -> float:
    with multiprocessing.Manager() as running:
        shared = running.dict({key: key for key in range(KEYS)})
        return by_turns(shared, at_random(n, KEYS))


@subject("maps_shared", "dict + mp.Lock, one process")
def behind_a_lock(n: int) -> float:
    lock, own = multiprocessing.Lock(), dict.fromkeys(range(KEYS), 0)
    keys = at_random(n, KEYS)
    start = perf_counter()
    for key in keys[: n // 2]:
        with lock:
            own[key] = key
        with lock:
            own[key]
    return perf_counter() - start


def in_turn(shared: Any, keys: list[int], ready: Any, start: Any) -> None:
    """One of two that use the same map."""
    ready()
    start()
    by_turns(shared, keys)


@subject("maps_two", "mproc_go SharedMap")
def ours_twice(n: int) -> float:
    import mproc_go

    def main() -> float:
        shared, ready, start = mproc_go.SharedMap(), mproc_go.WaitGroup(), mproc_go.Chan()
        shared.update(dict.fromkeys(range(KEYS), 0))
        ready.add(2)
        both = [mproc_go.go(in_turn, shared, at_random(n // 2, KEYS), ready.done, start.recv_ok) for _ in range(2)]
        ready.wait()
        began = perf_counter()
        start.close()
        for one in both:
            one.result()
        return perf_counter() - began

    return mproc_go.run(main, procs=2)


@subject("maps_two", "Manager().dict()")
def manager_twice(n: int) -> float:
    with multiprocessing.Manager() as running:
        shared = running.dict({key: key for key in range(KEYS)})
        ready, start = multiprocessing.Semaphore(0), multiprocessing.Event()
        args = (shared, at_random(n // 2, KEYS), ready.release, start.wait)
        both = [multiprocessing.Process(target=in_turn, args=args) for _ in range(2)]
        for one in both:
            one.start()
        for _ in both:
            ready.acquire()
        began = perf_counter()
        start.set()
        for one in both:
            one.join()
        seconds = perf_counter() - began
        if any(one.exitcode for one in both):
            raise Wrong("one of the two failed")
        return seconds


def growth(name: str, size: int) -> None:
    @subject("maps_growth", f"mproc_go SharedMap, {name} keys")
    def of_a_map(n: int) -> float:
        return in_a_goroutine(in_a_map, n, size)

    @subject("maps_growth", f"plain dict, {name} keys")
    def of_a_dict(n: int) -> float:
        return by_turns({key: key for key in range(size)}, at_random(n, size))


growth("1,000", KEYS)
growth("1,000,000", 1_000_000)


def send_all(n: int) -> float:
    import mproc_go

    keyed: Any = mproc_go.KeyedChan()
    keys = [i % KEYS for i in range(n)]
    start = perf_counter()
    for key in keys:
        keyed.send(key, key)
    return perf_counter() - start


def receive_all(n: int) -> float:
    import mproc_go

    keyed: Any = mproc_go.KeyedChan()
    for key in range(KEYS):
        keyed.send(key, key)
    keys = [i % KEYS for i in range(n)]
    start = perf_counter()
    total = sum(map(keyed.receive, keys))
    seconds = perf_counter() - start
    if total != sum(keys):
        raise Wrong("the sum of the values is not that of what was sent")
    return seconds


@subject("maps_keyed", "mproc_go KeyedChan send")
def keyed_send(n: int) -> float:
    return in_a_goroutine(send_all, n)


@subject("maps_keyed", "mproc_go KeyedChan receive")
def keyed_receive(n: int) -> float:
    return in_a_goroutine(receive_all, n)
