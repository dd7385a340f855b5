"""A cache for all processes: who asks first for a key fetches it, whoever asks meanwhile waits for that one answer.

A failure is an answer too: everybody who waited for it is told, and the next who asks tries again.

Source: golang.org/x/sync/singleflight; groupcache.
"""

from collections.abc import Callable

from mproc_go import KeyedChan, SharedMap, go, run, sleep


class SingleFlight:
    """Answers by key, each fetched once. It travels to any goroutine, as all that it is made of does."""

    def __init__(self, fetch: Callable[[int], int]) -> None:
        self.fetch = fetch
        self.flights: SharedMap[int, int] = SharedMap()  # key: number of its flight, which is in the air or has landed
        self.landed: KeyedChan[tuple[int, int], tuple[int, ValueError | None]] = (
            KeyedChan()
        )  # (key, number of the flight): what it brought

    def get(self, key: int) -> int:
        number, somebody_flies = self.flights.load_or_store(key, 0)
        if not somebody_flies:
            self.fly(key, number)
        brought, error = self.landed.receive((key, number))
        if error is not None:
            raise error
        return brought

    def fly(self, key: int, number: int) -> None:
        try:
            self.landed.send((key, number), (self.fetch(key), None))
        except ValueError as error:
            self.landed.send((key, number), (0, error))

    def again(self, key: int) -> None:
        """Fetch anew at the next asking; who has joined a flight already gets what that brings."""
        number = self.flights.compute(key, lambda number: number + 1, default=-1)
        go(self.fly, key, number)


def slow_square(key: int, calls: SharedMap[int, int]) -> int:
    calls.compute(key, lambda n: n + 1, default=0)
    sleep(0.05)  # a database, a website, a long computation
    if key < 0 and calls[key] == 1:
        raise ValueError(f"no luck with {key}")
    return key * key


def main() -> None:
    calls: SharedMap[int, int] = SharedMap()
    cache = SingleFlight(lambda key: slow_square(key, calls))

    asking = [go(cache.get, n % 4) for n in range(40)]
    print(sorted({handle.result() for handle in asking}), "for 40 who asked;", sum(calls.values()), "fetched")

    asking = [go(cache.get, -3) for _ in range(10)]
    errors = {str(handle.exception()) for handle in asking}
    print(len(asking), "were told:", *errors)

    cache.again(-3)
    print("the next one got", cache.get(-3), "after", calls[-3], "fetches")


run(main)
