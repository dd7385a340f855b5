"""What goroutines and test bodies share: no pytest in here, workers import it."""

from __future__ import annotations

import gc
import threading
import time

from mproc_go import Chan, go, gosched

DEADLINE_S = 20.0


def until(condition, seconds=DEADLINE_S, error=None):
    """Poll until the condition holds; return what it gave. Not for ordering: only where nothing can be waited for."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            if error == "no error":
                return value
            raise AssertionError(error or f"did not become true within {seconds} s")
        gc.collect()
        time.sleep(0.005)


def waiters(ch):
    """How many goroutines wait in (recv, send) on this channel; white box, to know that somebody blocks."""
    from mproc_go.shm.layout import CH_RECVQ, CH_SENDQ, SG_LINK

    m = ch._m()
    counts = []
    m.enter(ch._lock)
    for q in (CH_RECVQ, CH_SENDQ):
        n, s = 0, m.w[ch._base + q]
        while s:
            n, s = n + 1, m.w[s + SG_LINK]
        counts.append(n)
    m.leave(ch._lock)
    return tuple(counts)


def until_waiting(ch, *, receivers=0, senders=0):
    """Return once that many wait on the channel. Yields to other goroutines in between."""
    deadline = time.monotonic() + DEADLINE_S
    while waiters(ch) != (receivers, senders):
        assert time.monotonic() < deadline, f"{waiters(ch)} wait, not {(receivers, senders)}"
        gosched()


def in_main(body, *args):
    return body(*args)


def in_goroutine(body, *args):
    return go(body, *args).result(DEADLINE_S)


def in_thread(body, *args):
    outcome = []

    def target():
        try:
            outcome.append((body(*args), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=target)
    thread.start()
    thread.join(2 * DEADLINE_S)
    assert not thread.is_alive(), "the thread hangs"
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


WHO = {"main": in_main, "goroutine": in_goroutine, "thread": in_thread}


def drained(ch):
    """All that is left in a closed channel."""
    return list(ch)


def echo(v):
    return v


def fail(exc):
    raise exc


def send_all(ch, values):
    for v in values:
        ch.send(v)


def forward(source: Chan, target: Chan):
    for v in source:
        target.send(v)
