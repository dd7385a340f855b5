"""Real workers killed in what has memory of its own: arrays, and messages with large buffers.

tests/crash/test_burials.py cuts each store of these; here real workers die at every sixth, from a random one on.
"""

from __future__ import annotations

import gc
import random

import pytest

from mproc_go import Chan, SharedArray, go, stats
from mproc_go.codec import wire
from tests.contract.support import until
from tests.kills import test_every_store as every
from tests.kills.test_every_store import _Check, kill_everywhere, runtime, whole

LARGE = 2 * wire.LARGE_BYTES
# What is in the hands of the dead alone for a few stores stays allocated (docs/architecture.md, "Death of a worker").
FEW = 20

assert runtime  # the fixture


@pytest.fixture(autouse=True)
def few_are_lost(runtime):
    before = stats()["memory_bytes"]
    yield
    gc.collect()
    # What only the dead had is freed by a worker that looks; one may have died between its bit and its count.
    until(lambda: stats()["objects"].get("arrays", 0) <= 1, error="arrays are left")
    assert stats()["objects"].get("large buffers", 0) <= FEW
    assert stats()["memory_bytes"] <= before + FEW * 2 * LARGE


@pytest.fixture
def some(seed):
    """Which stores."""
    return {"first": random.Random(seed).randrange(6), "step": 6}


def make_and_fill():
    array = SharedArray(LARGE, "B")
    array.memoryview()[LARGE - 1] = 1
    zeros = bytes(array.memoryview()[: LARGE - 1]).count(0)
    return zeros


def test_killed_while_making_an_array(runtime, some):
    """The next array of that size is zeroed and whole, and memory does not grow."""

    def check(died, value):
        assert died or value == LARGE - 1
        array = SharedArray(LARGE, "B")
        assert not any(array.memoryview())
        array.memoryview()[:] = b"x" * LARGE

    assert kill_everywhere(make_and_fill, _Check(tuple, check), **some) > 10


def test_killed_while_sending_a_large_buffer(runtime, some):
    """The message is there once and whole, or not at all."""
    state = {}
    value = memoryview(b"0123456789abcdef" * (LARGE // 16))

    def prepare():
        state["ch"] = ch = Chan(4)
        ch.send("first")
        return ch, value

    def check(died, _):
        ch = state["ch"]
        whole(ch)
        got = ch.recv_many(4)
        assert got in (["first"], ["first", value])
        assert died or len(got) == 2
        got.clear()
        ch.send([value, value])
        assert ch.recv()[1] == value

    assert kill_everywhere(every.send_to, _Check(prepare, check), **some) > 10


def receive_and_look(ch):
    got = ch.recv()
    return bytes(got[1][:10])


def test_killed_while_receiving_a_large_buffer(runtime, some):
    """It went with the dead, or is still there, whole."""
    state = {}
    value = memoryview(b"0123456789abcdef" * (LARGE // 16))

    def prepare():
        state["ch"] = ch = Chan(2)
        ch.send((1, value))
        return (ch,)

    def check(died, got):
        assert died or got == b"0123456789"
        ch = state["ch"]
        whole(ch)
        if len(ch):
            assert died and ch.recv() == (1, value)

    assert kill_everywhere(receive_and_look, _Check(prepare, check), **some) > 5


def answer(value):
    return value


def test_killed_while_a_goroutine_ends_with_a_large_result(runtime, some):
    """Its handle has the result, whole, or WorkerLost."""
    value = memoryview(b"0123456789abcdef" * (LARGE // 16))

    def check(died, got):
        assert died or got == value

    kill_everywhere(answer, _Check(lambda: (value,), check), through_the_end=True, **some)
    assert go(answer, value).result() == value
