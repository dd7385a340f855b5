"""go.options(retries=n): the second life has the same arguments, and the last one's result is whole."""

from __future__ import annotations

import os
import signal

import pytest

from mproc_go import Chan, Mutex, Runtime, WorkerLost, go, num_goroutine
from mproc_go.runtime import process as rt
from mproc_go.shm.layout import BLOCK_DATA, G_RETRY_RECORD
from tests.kills.steps import KilledAt
from tests.scheduler.support import DEADLINE_S, until


@pytest.fixture
def runtime():
    with Runtime(2) as started:
        yield started
        until(lambda: num_goroutine() == 1, "all goroutines over")


def lives(path):
    """Count this life; which one it is."""
    with open(path, "ab") as file:
        file.write(b"x")
    return os.path.getsize(path)


def use_and_die(path, deaths, text, data, out, nested, *, mutex):
    out.send((lives(path), text, data))
    nested["handle"][0].send_nowait("nested")
    nested["changed"] = True  # a copy of this life's own
    with mutex:
        pass
    if os.path.getsize(path) <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return text, sorted(nested)


@pytest.mark.parametrize("deaths", [0, 1, 4])
def test_arguments_are_intact_in_every_life(runtime, tmp_path, deaths):
    """Text, long data, channels, handles inside containers, keywords: as they were given, each time."""
    out, inner = Chan(10), Chan(10)
    data = bytes(range(256)) * 200
    handle = go.options(retries=deaths)(
        use_and_die, str(tmp_path / "lives"), deaths, "text", data, out, {"handle": [inner]}, mutex=Mutex()
    )
    assert handle.result(DEADLINE_S) == ("text", ["changed", "handle"])
    assert [out.recv(DEADLINE_S) for _ in range(deaths + 1)] == [(i + 1, "text", data) for i in range(deaths + 1)]
    assert inner.recv_many(10) == ["nested"] * (deaths + 1)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_no_more_lives_than_were_given(runtime, tmp_path, retries):
    """n retries are n + 1 lives; then WorkerLost."""
    handle = go.options(retries=retries)(die_always, str(tmp_path / "lives"))
    with pytest.raises(WorkerLost, match="SIGKILL"):
        handle.result(DEADLINE_S)
    assert os.path.getsize(tmp_path / "lives") == retries + 1


def die_always(path):
    lives(path)
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_exception_is_no_reason_to_run_again(runtime, tmp_path):
    """Only a lost worker is."""
    handle = go.options(retries=5)(fail, str(tmp_path / "lives"))
    with pytest.raises(ZeroDivisionError):
        handle.result(DEADLINE_S)
    assert os.path.getsize(tmp_path / "lives") == 1


def fail(path):
    lives(path)
    return 1 // 0


def dying_at_its_end(n, path, result):
    """Return so that the worker dies at the n-th store from here on, in the first life."""
    if lives(path) == 1:
        m = rt.current()
        m.w = KilledAt(m.w, n)
    return result


@pytest.mark.parametrize("result", ["s", "x" * 60, "x" * 111, "x" * 116, "x" * 118, "x" * 5000])
def test_killed_at_every_store_of_its_end(runtime, tmp_path, result):
    """It ends once, with its result, however long that is: what it may run again from is not overwritten."""
    for n in range(40):
        path = str(tmp_path / f"lives{n}")
        handle = go.options(retries=1)(dying_at_its_end, n, path, result)
        assert handle.result(DEADLINE_S) == result
        if not died(path):
            break
    else:
        raise AssertionError("the end of a goroutine has more stores than that?")


def died(path):
    # A second life, or its first ended after the status was stored: the worker's next goroutine shows it is alive.
    return os.path.getsize(path) > 1


def test_the_address_of_the_record_is_never_in_a_result(runtime):
    """White box: after the end of such a goroutine the word still is what it was, for the longest inline results."""
    for length in range(100, 125):
        handle = go.options(retries=2)(str.ljust, "", length)
        w = rt.current().w
        record = w[handle._base + G_RETRY_RECORD]
        assert handle.result(DEADLINE_S) == " " * length
        assert w[handle._base + G_RETRY_RECORD] == record
        assert w[record + BLOCK_DATA] <= 1 << 60
