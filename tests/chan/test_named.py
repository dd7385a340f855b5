"""Named channels: one of each name in the whole runtime, from whoever asks first to the end."""

from __future__ import annotations

import gc

import pytest

from mproc_go import Chan, WaitGroup, go
from tests.chan.support import DEADLINE_S


def test_found_by_its_name(rt):
    """Whoever opens the name, in whatever process, has the same channel."""
    ours = Chan(2, name="found")

    def theirs():
        ch = Chan(2, name="found")
        ch.send("hello")
        return ch

    handle = go(theirs)
    assert ours.recv(DEADLINE_S) == "hello"
    assert handle.result(DEADLINE_S) == ours == Chan(2, name="found")
    assert hash(Chan(2, name="found")) == hash(ours)
    assert Chan(2, name="another") != ours and Chan(2) != ours


def test_it_outlives_its_handles(rt):
    """With what is in it, whether anybody holds it or not; also closed."""

    def leave():
        ch = Chan(3, name="left")
        ch.send([1, {"two": Chan(5)}])

    go(leave).result(DEADLINE_S)
    gc.collect()
    value = Chan(3, name="left").recv_nowait()
    assert value[0] == 1 and value[1]["two"].capacity == 5
    Chan(3, name="left").close()
    gc.collect()
    assert Chan(3, name="left").closed


def test_another_capacity(rt):
    """It has the one it was made with."""
    Chan(4, name="four")
    with pytest.raises(ValueError, match="channel 'four' has a capacity of 4, not 0"):
        Chan(name="four")


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", ".hidden", "-x", "x" * 65, "ä", "a\n"])
def test_what_is_no_name(rt, name):
    with pytest.raises(ValueError, match="is no name of a channel"):
        Chan(name=name)


@pytest.mark.parametrize("name", [1, b"bytes", ("a",)])
def test_a_name_of_another_type(rt, name):
    with pytest.raises(TypeError, match="name of a channel is a string"):
        Chan(name=name)


def test_many_open_it_at_once(rt):
    """Only one is made, however many race for it; the others' are freed."""
    n = 20
    start = Chan()

    def race(i):
        start.recv_ok()
        for k in range(10):
            Chan(n, name=f"raced.{k}").send(i)

    group = WaitGroup()
    for i in range(n):
        group.go(race, i)
    start.close()
    group.wait(DEADLINE_S)
    for k in range(10):
        ch = Chan(n, name=f"raced.{k}")
        assert sorted(ch.recv_many(2 * n)) == list(range(n))
        assert len(ch) == 0


def test_many_names(rt):
    """More names than the table has chains."""
    for i in range(1200):
        Chan(1, name=f"n{i}").send(i)
    assert [Chan(1, name=f"n{i}").recv_nowait() for i in range(1200)] == list(range(1200))
