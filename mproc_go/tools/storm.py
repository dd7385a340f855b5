"""What `mproc-go stress` does to a runtime: goroutine bodies, shipped by name, and rounds that check conservation.

Every round knows what it put in; everything spawned must run exactly once, everything sent must arrive exactly once.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Any

from mproc_go import Chan, WaitGroup, blocking, go, gomaxprocs, gosched, num_goroutine, select, sleep


class Lost(AssertionError):
    """Something ran or arrived not exactly once."""


def expect(what: str, got: list[Any], wanted: list[Any]) -> int:
    """Check that exactly that came, in whatever order; return how much it was.

    Raises:
        Lost: something is missing, or there more than once.
    """
    got, wanted = sorted(got), sorted(wanted)
    if got != wanted:
        missing = [x for x in wanted if x not in set(got)][:5]
        raise Lost(f"{what}: {len(got)} of {len(wanted)}, missing {missing}, doubled {len(got) - len(set(got))}")
    return len(got)


def report(out: Chan[int], i: int) -> None:
    out.send(i)


def spawner(out: Chan[int], first: int, n: int) -> None:
    for i in range(first, first + n):
        go(report, out, i)


def spawn_storm(rnd: random.Random) -> int:
    """Goroutines spawned by goroutines, more than the local queues hold."""
    n, parts = rnd.randrange(100, 800), rnd.randrange(1, 5)
    out: Chan[int] = Chan(rnd.choice([0, 1, 64]))
    for part in range(parts):
        go(spawner, out, part * n, n)
    return expect("spawned", [out.recv(60) for _ in range(n * parts)], list(range(n * parts)))


def relay(a: Chan[int], b: Chan[int]) -> None:
    for value in a:
        b.send(value)
    b.close()


def feed(a: Chan[int], n: int) -> None:
    for i in range(n):
        a.send(i)
    a.close()


def ping_pong(rnd: random.Random) -> int:
    """A chain of goroutines hands numbers on; order is kept."""
    n, length = rnd.randrange(50, 400), rnd.randrange(1, 8)
    chain: list[Chan[int]] = [Chan(rnd.choice([0, 0, 1, 7])) for _ in range(length + 1)]
    for a, b in itertools.pairwise(chain):
        go(relay, a, b)
    go(feed, chain[0], n)
    got = list(chain[-1])
    if got != list(range(n)):
        raise Lost(f"a chain of {length} changed the order, or lost something: {len(got)} of {n}")
    return n


def sleeper(out: Chan[int], i: int, seconds: float) -> None:
    sleep(seconds)
    out.send(i)


def timers(rnd: random.Random) -> int:
    """Many sleepers with all kinds of times."""
    n = rnd.randrange(50, 300)
    out: Chan[int] = Chan(16)
    for i in range(n):
        go(sleeper, out, i, rnd.random() * 0.05)
    return expect("woken", [out.recv(60) for _ in range(n)], list(range(n)))


def blocker(out: Chan[int], i: int, seconds: float, declared: bool) -> None:
    if declared:
        blocking(time.sleep, seconds)
    else:
        time.sleep(seconds)
    out.send(i)


def blocked(rnd: random.Random) -> int:
    """Calls that block, declared or not, among others that only want to run."""
    n = rnd.randrange(4, 20)
    out: Chan[int] = Chan(4)
    for i in range(n):
        go(blocker, out, i, rnd.random() * 0.05, rnd.random() < 0.5)
    for i in range(n, 4 * n):
        go(report, out, i)
    return expect("returned", [out.recv(60) for _ in range(4 * n)], list(range(4 * n)))


def resize(rnd: random.Random) -> int:
    """GOMAXPROCS up and down while goroutines are queued."""
    old = gomaxprocs()
    out: Chan[int] = Chan(8)
    n = 0
    try:
        for _ in range(rnd.randrange(2, 6)):
            go(spawner, out, n, 50)
            n += 50
            gomaxprocs(rnd.randrange(1, 2 * old + 1))
        return expect("ran", [out.recv(60) for _ in range(n)], list(range(n)))
    finally:
        gomaxprocs(old)


def chooser(inputs: list[Chan[int]], out: Chan[int], n: int) -> None:
    for _ in range(n):
        out.send(select(*[ch.recv for ch in inputs]).value)


def selects(rnd: random.Random) -> int:
    """Selects over the same channels in different orders."""
    inputs: list[Chan[int]] = [Chan(rnd.choice([0, 1, 3])) for _ in range(rnd.randrange(2, 5))]
    out: Chan[int] = Chan(4)
    n = rnd.randrange(20, 100)
    total = n * len(inputs)
    for k, ch in enumerate(inputs):
        go(_send_range, ch, k * n, n)
    choosers = len(inputs)
    for _ in range(choosers):
        go(chooser, rnd.sample(inputs, len(inputs)), out, total // choosers)
    return expect("chosen", [out.recv(60) for _ in range(total)], list(range(total)))


def _send_range(ch: Chan[int], first: int, n: int) -> None:
    for i in range(first, first + n):
        ch.send(i)


def groups(rnd: random.Random) -> int:
    """Wait groups that count goroutines of all processes."""
    n = rnd.randrange(20, 200)
    out: Chan[int] = Chan(n)
    wg = WaitGroup()
    for i in range(n):
        wg.go(report, out, i)
    wg.wait(60)
    return expect("counted", out.recv_many(n) if n else [], list(range(n)))


SCENARIOS: dict[str, Callable[[random.Random], int]] = {
    "spawn": spawn_storm,
    "pingpong": ping_pong,
    "timers": timers,
    "blocked": blocked,
    "resize": resize,
    "select": selects,
    "waitgroup": groups,
}


def storm(names: list[str], seconds: float, seed: int) -> dict[str, int]:
    """Run rounds of the scenarios for that long, several at a time where they don't resize; return what was counted.

    Raises:
        Lost: something was lost or doubled.
        TimeoutError: something hangs.
    """
    rnd = random.Random(seed)
    counts = dict.fromkeys(names, 0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        name = rnd.choice(names)
        counts[name] += SCENARIOS[name](random.Random(rnd.random()))
    settled = time.monotonic() + 10
    while num_goroutine() > 1:
        if time.monotonic() > settled:
            raise Lost(f"{num_goroutine() - 1} goroutines are left that should have ended")
        gosched()
    return counts
