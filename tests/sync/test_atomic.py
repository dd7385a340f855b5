"""AtomicInt: arithmetic at the edges, and that no change is lost."""

from __future__ import annotations

import pytest

from mproc_go import AtomicInt, go
from tests.sync.support import DEADLINE_S

pytestmark = pytest.mark.usefixtures("rt")

MAX, MIN = 2**63 - 1, -(2**63)


def test_operations():
    n = AtomicInt()
    assert n.load() == 0
    assert n.add(5) == 5
    assert n.add(-7) == -2
    assert n.load() == -2
    n.store(10)
    assert n.swap(-1) == 10
    assert n.compare_and_swap(-1, 4) is True
    assert n.compare_and_swap(-1, 5) is False
    assert n.load() == 4
    assert repr(n).endswith(" 4>")


def test_at_the_edges():
    n = AtomicInt(MAX)
    for call in (lambda: n.add(1), lambda: n.store(MAX + 1), lambda: n.swap(MIN - 1), lambda: AtomicInt(MAX + 1)):
        with pytest.raises(OverflowError):
            call()
        assert n.load() == MAX
    for pair in ((MAX, MAX + 1), (MIN - 1, 0)):
        with pytest.raises(OverflowError):
            n.compare_and_swap(*pair)
    assert n.add(MIN) == -1
    n.store(MIN)
    with pytest.raises(OverflowError):
        n.add(-1)
    assert n.load() == MIN
    assert n.add(MAX) == -1


def test_only_integers():
    n = AtomicInt(3)
    for call in (
        lambda: n.add(1.0),
        lambda: n.store("1"),
        lambda: AtomicInt(None),
        lambda: n.compare_and_swap(3, None),
    ):
        with pytest.raises(TypeError):
            call()
    assert n.load() == 3


def test_no_change_is_lost():
    n, m = AtomicInt(), AtomicInt()

    def work():
        for _ in range(500):
            n.add(3)
            while not m.compare_and_swap(v := m.load(), v + 1):
                pass

    handles = [go(work) for _ in range(4)]
    for h in handles:
        h.result(DEADLINE_S)
    assert (n.load(), m.load()) == (6000, 2000)
