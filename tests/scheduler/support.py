"""Goroutine bodies and looks that these tests share: no pytest in here, workers import it."""

from __future__ import annotations

import os
import time

from mproc_go import Chan, gosched, stats

DEADLINE_S = 30


def compute(seconds):
    """Use the processor that long; return the worker's os_pid."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return os.getpid()


def pid():
    return os.getpid()


def add_one(x):
    return x + 1


def spin_until_file(path):
    """Compute until the file is there: whoever makes it decides for how long."""
    n = 0
    while not os.path.exists(path):
        n += 1
    return n


def yield_until(stop):
    """Yield all the time until the channel holds something."""
    n = 0
    while not len(stop):
        gosched()
        n += 1
    return n


def until(condition, what="it"):
    """Wait until the condition holds; where nothing else can be waited for."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not become true: {stats()}"
        time.sleep(0.002)


def in_state(state, count=1):
    """Whether so many goroutines are in that state."""
    return stats()["goroutines_by_state"].get(state, 0) == count


def receive_all(ch: Chan, n):
    return [ch.recv(DEADLINE_S) for _ in range(n)]


def end_worker():
    os._exit(3)
