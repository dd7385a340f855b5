"""A rate limiter: a bucket of tokens, filled by a Ticker, emptied by whoever wants to do something.

The bucket is a buffered channel. It starts full, so a burst goes through at once; after that there is one token a
period. Workers in any process share it, since a channel travels.

Source: gobyexample.com, "Rate Limiting".
"""

import time

from mproc_go import Chan, Group, Ticker, WouldBlock, run, select

BURST = 3
PERIOD_S = 0.02
REQUESTS = 10


def fill(bucket: Chan[None], stop: Chan[None]) -> None:
    ticker = Ticker(PERIOD_S)
    while select(ticker.c.recv, stop.recv).index == 0:
        try:
            bucket.send_nowait(None)
        except WouldBlock:
            pass  # it is full: the token is lost
    ticker.stop()


def work(requests: Chan[int], bucket: Chan[None], served: Chan[tuple[int, float]]) -> None:
    for request in requests:
        bucket.recv()
        served.send((request, time.monotonic()))


def main() -> None:
    requests: Chan[int] = Chan(REQUESTS)
    requests.send_many(range(REQUESTS))
    requests.close()
    bucket: Chan[None] = Chan(BURST)
    bucket.send_many([None] * BURST)
    served: Chan[tuple[int, float]] = Chan(REQUESTS)
    stop: Chan[None] = Chan()
    began = time.monotonic()
    with Group() as group:
        group.go(fill, bucket, stop)
        for _ in range(4):
            group.go(work, requests, bucket, served)
        done = [served.recv() for _ in range(REQUESTS)]
        stop.close()
    print(f"served {sorted(request for request, _ in done)}")
    moments = sorted(moment - began for _, moment in done)
    too_early = [n for n, moment in enumerate(moments[BURST:], 1) if moment < n * PERIOD_S]
    print(f"{len(too_early)} of {REQUESTS - BURST} came before their token")


if __name__ == "__main__":
    run(main)
