"""Arrays that a program received from a runtime it joined, and kept when it left."""

from __future__ import annotations

import gc

import pytest

from mproc_go import Chan, SharedArray, attach, go
from tests.attach.support import until

np = pytest.importorskip("numpy")

N = 100_000


def numbers(n):
    return np.arange(n)


def overwrite():
    """Use all the memory that may have become free."""
    ch = Chan(1)
    for n in (N, N, 2 * N, 10):
        ch.send([np.full(n, -1) for _ in range(4)])
        ch.recv()[0][:] = -2
        SharedArray(n, "q").numpy()[:] = -3


def test_views_that_outlive_an_attachment(standing):
    """They show what they showed, and are nobody else's: the runtime goes on and uses that memory for others."""
    one = standing()
    with attach("one"):
        ch = Chan(1)
        ch.send(numbers(N))
        mine = ch.recv()
        handle = go(numbers, N)
        read, written = handle.result(), handle.result()
        written[0] = 5
        shared = SharedArray(N, "q")
        shared.numpy()[:] = 7
        view, small = shared.memoryview(), SharedArray(3, "i").numpy()
        dropped = ch, handle, shared
    del dropped, ch, handle, shared
    gc.collect()
    until(lambda: not {"arrays", "large buffers"} & one.stats()["objects"].keys())
    with attach("one"):
        go(overwrite).result()
    assert np.array_equal(mine, numbers(N)) and np.array_equal(read, numbers(N))
    assert written[0] == 5 and np.array_equal(written[1:], numbers(N)[1:])
    assert view[0] == view[N - 1] == 7 and not small.any()
    mine[:] = read[:] = -9
    view[0] = small[0] = -9
    with attach("one"):
        assert np.array_equal(go(numbers, N).result(), numbers(N))
        overwrite()
    assert (mine == -9).all() and view[0] == -9 and view[1] == 7
