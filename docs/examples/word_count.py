"""Count words in two ways: in one map that all goroutines share, or in a dict each, merged over a channel.

Both are right. With a number of words as argument it says how long each took, beside one plain loop: sharing costs a
lock and two copies for each word, a message costs them once for each goroutine.

Source: Go Proverbs, "Don't communicate by sharing memory, share memory by communicating"; MapReduce (OSDI 2004).
"""

import random
import sys
import time
from collections import Counter

from mproc_go import Chan, SharedMap, WaitGroup, go, gomaxprocs, run

VOCABULARY = [f"{a}{b}{c}" for a in "bdfklmt" for b in "aeiou" for c in ("", "n", "r", "st")]


def words(part: int, n: int) -> list[str]:
    """One part of the text: some words are far more frequent than others."""
    rng = random.Random(part)
    return [VOCABULARY[int(rng.paretovariate(0.7)) % len(VOCABULARY)] for _ in range(n)]


# ---- one map for all ----


def count_in(totals: SharedMap[str, int], part: int, n: int) -> None:
    for word in words(part, n):
        totals.compute(word, lambda count: count + 1, default=0)  # nobody else changes this word meanwhile


def shared(parts: int, n: int) -> dict[str, int]:
    totals: SharedMap[str, int] = SharedMap()
    group = WaitGroup()
    for part in range(parts):
        group.go(count_in, totals, part, n)
    group.wait()
    return dict(totals)


# ---- a dict each ----


def count(part: int, n: int, counts: Chan[Counter[str]]) -> None:
    counts.send(Counter(words(part, n)))


def merged(parts: int, n: int) -> dict[str, int]:
    counts: Chan[Counter[str]] = Chan(parts)
    totals: Counter[str] = Counter()
    for part in range(parts):
        go(count, part, n, counts)
    for _ in range(parts):
        totals += counts.recv()
    return dict(totals)


def plain(parts: int, n: int) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for part in range(parts):
        totals.update(words(part, n))
    return dict(totals)


def main(n: int) -> None:
    parts = 2 * gomaxprocs()
    results = {}
    for way in (plain, shared, merged):
        start = time.perf_counter()
        results[way.__name__] = way(parts, n // parts)
        if n > 1000:
            print(f"{way.__name__}: {time.perf_counter() - start:.2f} s")
    print("all the same:", results["plain"] == results["shared"] == results["merged"])
    print("the most frequent:", *sorted(results["shared"], key=lambda word: results["shared"][word])[-1:])


run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
