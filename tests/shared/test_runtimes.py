"""Maps and keyed channels in runtimes of their own: full memory, deadlock, the end."""

from __future__ import annotations

import pytest

from mproc_go import Chan, Deadlock, KeyedChan, Runtime, SharedMap, SharedMemoryFull, go, run, stats
from tests.shared.support import DEADLINE_S, compute_when_told, stripes_whole, until


def test_full_memory_leaves_it_as_it_was():
    """SharedMemoryFull in the caller; what was there is there, and there is room again when keys go."""
    with Runtime(1, memory=24 << 20):
        m = SharedMap()
        n = 0
        with pytest.raises(SharedMemoryFull):
            while True:
                m[n] = b"x" * 40_000
                n += 1
        stripes_whole(m)
        assert len(m) == n and sorted(m) == list(range(n)) and m[n - 1] == b"x" * 40_000
        with pytest.raises(SharedMemoryFull):
            m.compute(0, lambda v: v * 1000)
        assert m[0] == b"x" * 40_000
        m.clear()
        for i in range(n // 2):
            m[i] = b"y" * 40_000
        stripes_whole(m)
        del m


def test_waiting_for_ever_is_a_deadlock():
    """Two who compute each other's key: reported, with the reason they wait for."""

    def main():
        m, ready, met = SharedMap(), Chan(), Chan()
        handles = [go(cross, m, a, b, ready, met) for a, b in ((1, 2), (2, 1))]
        for _ in handles:
            ready.recv()
        met.close()
        for handle in handles:
            handle.result()

    with pytest.raises(Deadlock, match=r"sync\.Map\.compute"):
        run(main, procs=2)


def cross(m, a, b, ready, met):
    def fn(v):
        ready.send(None)
        met.recv_ok()
        return m.compute(b, lambda v: v, 0)

    m.compute(a, fn, 0)


def test_dropped_while_it_is_computed():
    """The map lives as long as somebody is inside."""
    with Runtime(2):
        entered, go_on = Chan(), Chan()
        m = SharedMap()
        computing = go(compute_when_told, m, "k", entered, go_on)
        entered.recv(DEADLINE_S)
        del m
        go_on.send("done")
        assert computing.result(DEADLINE_S) == "done"


def test_a_full_keyed_channel():
    """As a map."""
    with Runtime(1, memory=24 << 20):
        kc = KeyedChan()
        n = 0
        with pytest.raises(SharedMemoryFull):
            while True:
                kc.send(n, b"x" * 40_000)
                n += 1
        stripes_whole(kc)
        assert len(kc) == n and kc.receive(n - 1) == b"x" * 40_000
        for i in range(n):
            kc.delete(i)
        kc.send("again", b"x" * 40_000)
        del kc


def test_nobody_sends_the_key():
    """Deadlock, with the reason."""

    def main():
        KeyedChan().receive("never")

    with pytest.raises(Deadlock, match="keyed receive"):
        run(main, procs=1)


def test_full_ones_are_freed():
    """With the last handle, wherever that is: records, stripes, values, and the handles in values."""

    def fill(m, kc):
        for i in range(500):
            m[i] = [i, Chan(1)]
            kc.send(i, [i, Chan(1)])

    with Runtime(2):
        m, kc = SharedMap(), KeyedChan()
        go(fill, m, kc).result(DEADLINE_S)
        assert stats()["objects"]["channels"] >= 1000
        assert {"maps", "keyed channels", "map stripes"} <= set(stats()["objects"])
        del m, kc
        until(lambda: not stats()["objects"], "freed")
