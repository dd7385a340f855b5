"""Endless generators and how to end them: take, or-done, or, tee.

A stage must end when its input ends *and* when nobody wants its output any more. `or_done` wraps a channel so that a
plain ``for`` obeys both; `either` makes one channel of several that closes with the first of them.

Each function starts a goroutine and returns its channel at once, so stages compose like functions.

Source: Katherine Cox-Buday, "Concurrency in Go", chapter 4; Rob Pike, "Go Concurrency Patterns", generators.
"""

from collections.abc import Iterator
from typing import Any

from mproc_go import Chan, RecvChan, go, run, select


def or_done(done: RecvChan[None], values: RecvChan[int]) -> Iterator[int]:
    """The values, until they end or `done` is closed."""
    while True:
        index, value, ok = select(done.recv, values.recv)
        if index == 0 or not ok:
            return
        yield value


def naturals(done: RecvChan[None]) -> RecvChan[int]:
    out: Chan[int] = Chan()

    def count() -> None:
        n = 0
        while select(done.recv, (out.send, n)).index == 1:
            n += 1
        out.close()

    go(count)
    return out.receiver


def tee(done: RecvChan[None], values: RecvChan[int]) -> tuple[RecvChan[int], RecvChan[int]]:
    """Two channels that both get every value; the slower one sets the pace."""
    left: Chan[int] = Chan()
    right: Chan[int] = Chan()

    def copy() -> None:
        for value in or_done(done, values):
            cases: list[Any] = [(left.send, value), (right.send, value), done.recv]
            for _ in range(2):  # both, in either order
                chosen = select(*cases).index
                if chosen == 2:
                    break
                cases[chosen] = None  # a nil channel: this one has it
        left.close()
        right.close()

    go(copy)
    return left.receiver, right.receiver


def either(*channels: RecvChan[None]) -> RecvChan[None]:
    """A channel that closes as soon as one of them does."""
    out: Chan[None] = Chan()

    def wait() -> None:
        select(*(channel.recv for channel in channels))
        out.close()

    go(wait)
    return out.receiver


def main() -> None:
    bored: Chan[None] = Chan()
    hurried: Chan[None] = Chan()
    done = either(bored.receiver, hurried.receiver)
    evens, odds = tee(done, naturals(done))
    pairs = zip(or_done(done, evens), or_done(done, odds), strict=False)
    print([f"{a}+{b}" for (a, b), _ in zip(pairs, range(8), strict=False)])
    hurried.close()  # one of the two is enough
    for _ in evens:
        pass  # what was on its way; then it is closed
    print("all have ended")


if __name__ == "__main__":
    run(main)
