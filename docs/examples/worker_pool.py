"""A pool of workers: several goroutines read jobs from one channel, each job goes to exactly one of them.

Closing the channel of jobs ends the workers. A wait group says when all have ended; then nobody sends any more, and the
results can be closed too. A job that fails is a result like another: the pool goes on.

Source: gobyexample.com, "Worker Pools" and "Closing Channels".
"""

from typing import NamedTuple

from mproc_go import Chan, WaitGroup, go, gomaxprocs, run


class Result(NamedTuple):
    job: int
    value: int | None
    error: str = ""


def collatz(n: int) -> int:
    """How many steps it takes from n to 1."""
    if n < 1:
        raise ValueError(f"no way down from {n}")
    steps = 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


def worker(jobs: Chan[int], results: Chan[Result]) -> None:
    for job in jobs:
        try:
            results.send(Result(job, collatz(job)))
        except ValueError as error:
            results.send(Result(job, None, str(error)))


def feed(jobs: Chan[int]) -> None:
    jobs.send_many(range(2000))
    jobs.close()


def close_after(workers: WaitGroup, results: Chan[Result]) -> None:
    workers.wait()
    results.close()


def main() -> None:
    jobs: Chan[int] = Chan(64)
    results: Chan[Result] = Chan(64)
    workers = WaitGroup()
    for _ in range(gomaxprocs()):
        workers.go(worker, jobs, results)
    go(feed, jobs)
    go(close_after, workers, results)

    longest = Result(0, 0)
    done = 0
    for result in results:  # until it is closed and drained
        done += 1
        if result.value is None:
            print(f"job {result.job}: {result.error}")
        elif result.value > (longest.value or 0):
            longest = result
    print(f"{done} jobs; the longest way down is from {longest.job}, in {longest.value} steps")


if __name__ == "__main__":
    run(main)
