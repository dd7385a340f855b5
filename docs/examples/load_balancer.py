"""A load balancer: requests carry the channel for their answer, and a heap says who has the least to do.

The balancer is one goroutine with one ``select``: a request goes to the worker with the fewest requests pending; a
worker that has finished one says so. No lock anywhere: only the balancer touches the heap.

Source: Rob Pike, "Concurrency is not Parallelism" (Waza 2012).
"""

import heapq
from typing import NamedTuple

from mproc_go import Chan, WaitGroup, go, run, select

WORKERS = 4
REQUESTERS = 10
REQUESTS = 20


class Request(NamedTuple):
    n: int
    reply: Chan[int]


def worker(me: int, requests: Chan[Request], done: Chan[int]) -> None:
    for request in requests:
        request.reply.send(request.n**2)
        done.send(me)


def balance(work: Chan[Request]) -> list[int]:
    """Serve until `work` is closed and everything answered; return how many each worker did."""
    done: Chan[int] = Chan(WORKERS)
    inboxes: list[Chan[Request]] = [Chan(REQUESTERS) for _ in range(WORKERS)]
    for n, inbox in enumerate(inboxes):
        go(worker, n, inbox, done)
    loads = [[0, n] for n in range(WORKERS)]  # pending, who: a heap
    served = [0] * WORKERS
    pending = 0
    source: Chan[Request] | None = work
    while source is not None or pending:
        index, value, ok = select(source and source.recv, done.recv)
        if index == 1:
            pending -= 1
            served[value] += 1
            next(load for load in loads if load[1] == value)[0] -= 1
            heapq.heapify(loads)
        elif ok:
            pending += 1
            load = loads[0]
            load[0] += 1
            heapq.heapreplace(loads, load)
            inboxes[load[1]].send(value)
        else:
            source = None  # a nil channel: only answers are awaited from here on
    for inbox in inboxes:
        inbox.close()
    return served


def requester(work: Chan[Request], first: int, sums: Chan[int]) -> None:
    reply: Chan[int] = Chan()
    total = 0
    for n in range(first, first + REQUESTS):
        work.send(Request(n, reply))
        total += reply.recv()
    sums.send(total)


def main() -> None:
    work: Chan[Request] = Chan()
    sums: Chan[int] = Chan(REQUESTERS)
    balancer = go(balance, work)
    requesters = WaitGroup()
    for n in range(REQUESTERS):
        requesters.go(requester, work, n * REQUESTS, sums)
    requesters.wait()
    work.close()
    served = balancer.result()
    print(sum(served), "requests served")
    print("sum of squares:", sum(sums.recv_many(REQUESTERS)))


if __name__ == "__main__":
    run(main)
