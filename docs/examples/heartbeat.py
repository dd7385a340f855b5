"""Heartbeats: a worker that says "I am alive" at intervals, and a watchdog that restarts one that does not.

The pulse goes out with ``default``: a heartbeat that nobody listens to at the moment is dropped, and never holds up the
work. The watchdog waits for a pulse with a timeout, and starts the worker again where none comes. The work is not lost:
what is still to do is in a channel, not in the worker.

Source: Katherine Cox-Buday, "Concurrency in Go", chapter 5, "Heartbeats" and "Healing Unhealthy Goroutines".
"""

from mproc_go import Chan, Ticker, WouldBlock, default, go, run, select

PULSE_S = 0.02
PATIENCE_S = 1.5
JOBS = 12


def worker(jobs: Chan[int], results: Chan[int], pulse: Chan[None], stop: Chan[None]) -> None:
    ticker = Ticker(PULSE_S)
    try:
        while True:
            index, job, ok = select(stop.recv, ticker.c.recv, jobs.recv)
            if index == 0 or (index == 2 and not ok):
                return
            if index == 1:
                select((pulse.send, None), default)
            elif job == 5:
                jobs.send(50)  # in its place: the restarted one would get stuck as well
                stop.recv_ok()  # stuck: no heartbeat from here on
                return
            else:
                results.send(job)
    finally:
        ticker.stop()


def watchdog(jobs: Chan[int], results: Chan[int], done: Chan[None]) -> int:
    """Keep a worker running until `done` is closed; return how often it was restarted."""
    restarts = 0
    while True:
        pulse: Chan[None] = Chan()
        stop: Chan[None] = Chan()
        go(worker, jobs, results, pulse, stop)
        while True:
            try:
                if select(done.recv, pulse.recv, timeout=PATIENCE_S).index == 0:
                    stop.close()
                    return restarts
            except TimeoutError:
                break  # it is not well
        stop.close()
        restarts += 1


def main() -> None:
    jobs: Chan[int] = Chan(JOBS)
    jobs.send_many(range(JOBS))
    results: Chan[int] = Chan(JOBS)
    done: Chan[None] = Chan()
    dog = go(watchdog, jobs, results, done)
    print(sorted(results.recv() for _ in range(JOBS)))
    done.close()
    print("restarted" if dog.result() else "never restarted")
    try:
        jobs.recv_nowait()
    except WouldBlock:
        print("nothing is left to do")


if __name__ == "__main__":
    run(main)
