"""At most so many at a time: four ways to say it, from a bare semaphore to an error group.

1. A *semaphore*: a goroutine for each piece, of which three may be in the critical part.
2. A *buffered channel of tokens*: the same, made of a channel.
3. A ``Group(limit=3)``: no more than three are even started; the first failure cancels the others and is raised.
4. A *weighted* semaphore: pieces take as much as they are large.

`Gauge` counts how many were inside at once, over all processes.

Source: golang.org/x/sync (semaphore, errgroup); Bryan Mills, "Rethinking Classical Concurrency Patterns" (GopherCon
2018).
"""

from mproc_go import AtomicInt, Chan, Group, Mutex, Semaphore, WaitGroup, gosched, run
from mproc_go.context import Context

LIMIT = 3
PIECES = 30


class Gauge:
    """How much is inside, and was at the most. Its parts are handles, so every copy is the same gauge."""

    def __init__(self) -> None:
        self.now, self.most, self.both = AtomicInt(), AtomicInt(), Mutex()

    def work(self, weight: int = 1) -> None:
        with self.both:
            self.most.store(max(self.most.load(), self.now.add(weight)))
        for _ in range(5):
            gosched()
        self.now.add(-weight)


def with_semaphore(places: Semaphore, gauge: Gauge) -> None:
    with places:
        gauge.work()


def with_tokens(tokens: Chan[None], gauge: Gauge) -> None:
    tokens.send(None)  # a place in the buffer is the right to go on
    gauge.work()
    tokens.recv()


def with_group(ctx: Context, n: int, gauge: Gauge) -> None:
    gauge.work()
    if n == 4:
        raise ValueError(f"piece {n} is broken")
    if n == 5:
        ctx.done().recv_ok()  # would wait for ever, if the failure of another did not cancel it


def weighted(memory: Semaphore, weight: int, gauge: Gauge) -> None:
    memory.acquire(weight)
    gauge.work(weight)
    memory.release(weight)


def main() -> None:
    gauge, all_, places = Gauge(), WaitGroup(), Semaphore(LIMIT)
    for _ in range(PIECES):
        all_.go(with_semaphore, places, gauge)
    all_.wait()
    print(f"semaphore: {PIECES} pieces, never more than {LIMIT} at a time: {gauge.most.load() <= LIMIT}")

    gauge = Gauge()
    tokens: Chan[None] = Chan(LIMIT)
    for _ in range(PIECES):
        all_.go(with_tokens, tokens, gauge)
    all_.wait()
    print(f"tokens: {PIECES} pieces, never more than {LIMIT} at a time: {gauge.most.load() <= LIMIT}")

    gauge = Gauge()
    try:
        with Group(limit=LIMIT) as group:
            for n in range(PIECES):
                if group.context.err() is not None:
                    break  # no use in starting more
                group.go(with_group, group.context, n, gauge)
    except ValueError as error:
        print(f"group: {error}; never more than {LIMIT} at a time: {gauge.most.load() <= LIMIT}")

    gauge, memory = Gauge(), Semaphore(10)
    for n in range(PIECES):
        all_.go(weighted, memory, 1 + n % 10, gauge)
    all_.wait()
    print(f"weighted: {PIECES} pieces of 1 to 10, never more than 10 in all: {gauge.most.load() <= 10}")


if __name__ == "__main__":
    run(main)
