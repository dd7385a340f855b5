"""Exceptions in the middle of a call of a map or keyed channel: it is whole, and no key is anybody's afterwards."""

from __future__ import annotations

import pytest

from mproc_go import KeyedChan, SharedMap
from tests.kills.test_interrupts import DEADLINE_S, WHERE, everywhere, runtime  # noqa: F401
from tests.shared.support import stripes_whole

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LONG = "x" * 100


def store(m):
    m["new"] = LONG


def replace(m):
    m["a"] = 2


def delete(m):
    m.delete("l")


def compute(m):
    m.compute("a", lambda v: 2)


def load(m):
    return m.load("l")


def compare_and_swap(m):
    m.compare_and_swap("l", LONG, 5)


@pytest.mark.slow
@WHERE
@pytest.mark.parametrize(
    ("operation", "change"),
    [
        (store, {"new": LONG}),
        (replace, {"a": 2}),
        (delete, {"l": None}),
        (compute, {"a": 2}),
        (load, {}),
        (compare_and_swap, {"l": 5}),
    ],
)
def test_map(runtime, where, operation, change):  # noqa: F811
    """Done or not; every key can be changed at once, by this goroutine and by others."""
    before = {"a": 1, "l": LONG}

    def prepare():
        m = SharedMap()
        m.update(before)
        return (m,)

    def check(came, value, m):
        stripes_whole(m)
        after = {k: v for k, v in (before | change).items() if v is not None}
        assert dict(m) in ((before, after) if came else (after,))
        for key in ("a", "l", "new"):
            assert m.compute(key, lambda v: 7, None) == 7
        stripes_whole(m)

    everywhere(where, operation, prepare, check)


def wait_for(kc):
    try:
        kc.receive("k", 0.01)
    except TimeoutError:
        pass


def send(kc):
    kc.send("k", LONG)


@pytest.mark.slow
@WHERE
@pytest.mark.parametrize("operation", [send, wait_for])
def test_keyed_channel(runtime, where, operation):  # noqa: F811
    """Sent or not; nobody waits any more."""

    def prepare():
        return (KeyedChan(),)

    def check(came, value, kc):
        stripes_whole(kc)
        assert ("k" in kc) in ((True, False) if came else (operation is send,))
        kc.send("k", 1)
        assert kc.receive("k", DEADLINE_S) == 1
        kc.delete("k")
        stripes_whole(kc)

    everywhere(where, operation, prepare, check)
