"""SharedMap.compute: alone with a key, under no lock."""

from __future__ import annotations

import pytest

from mproc_go import Chan, SharedMap, WaitGroup, go, stacks
from mproc_go.shm import layout as L
from tests.shared.support import DEADLINE_S, add, compute_when_told, stripes_whole, until_waiting, waiting


def test_what_it_returns(whole):
    """The new value; of a key that is not there the default's, or KeyError."""
    m = whole(SharedMap())
    assert m.compute("k", lambda v: v + 1, 10) == 11 == m["k"]
    assert m.compute("k", lambda v: v * 2) == 22 == m["k"]
    assert m.compute("none", lambda v: v, None) is None and m == {"k": 22, "none": None}
    with pytest.raises(KeyError, match="absent"):
        m.compute("absent", lambda v: v)
    assert "absent" not in m and len(m) == 2


def test_many_add_to_a_few_keys(whole):
    """No sum is lost, from any process."""
    m = whole(SharedMap())
    wg = WaitGroup()
    for i in range(6):
        wg.go(add, m, i % 2, i, 100)
    add(m, 0, 1, 50)
    wg.wait(DEADLINE_S)
    assert m == {0: 100 * (0 + 2 + 4) + 50, 1: 100 * (1 + 3 + 5)}


def test_a_raising_function_changes_nothing(whole):
    """Of a key that is there, or not; and the key is free again."""
    m = whole(SharedMap())
    m["k"] = 1
    for key in ("k", "new"):
        with pytest.raises(ZeroDivisionError):
            m.compute(key, lambda v: 1 / 0, 5)
    assert m == {"k": 1} and m.compute("k", lambda v: v + 1) == 2


def test_the_same_key_in_itself_is_refused(whole):
    """Each method that would wait for itself says so; reading is allowed, and so are other keys."""
    m = whole(SharedMap())
    m["k"] = 1

    def fn(v):
        for call in (
            lambda: m.compute("k", lambda v: v),
            lambda: m.store("k", 5),
            lambda: m.delete("k"),
            lambda: m.swap("k", 5),
            lambda: m.load_and_delete("k"),
            lambda: m.compare_and_swap("k", 1, 2),
            m.clear,
        ):
            with pytest.raises(RuntimeError, match="this goroutine"):
                call()
        assert m["k"] == 1 and m.load_or_store("k", 9) == (1, True)
        m["other"] = m.compute("third", lambda v: v + 1, 0)
        return v + 1

    assert m.compute("k", fn) == 2
    assert m["k"] == 2 and m.get("third") in (1, None)


def test_who_waits_goes_in_order(whole):
    """First come, first served, whatever they want to do; loads see the old value meanwhile."""
    m = whole(SharedMap())
    m["k"] = "old"
    entered, go_on = Chan(), Chan()
    computing = go(compute_when_told, m, "k", entered, go_on)
    assert entered.recv(DEADLINE_S) == "old"
    calls = [
        (m.swap, "k", "a"),
        (m.compare_and_swap, "k", "a", "b"),
        (m.load_and_delete, "k"),
        (m.compare_and_swap, "k", "b", "never"),
        (m.swap, "k", "c"),
        (m.compute, "k", str.upper),
        (m.delete, "k"),
        (m.store, "k", "last"),
    ]
    handles = []
    for n, call in enumerate(calls):
        handles.append(go(*call))
        until_waiting(m, n + 1)
    assert go(m.load_or_store, "k", 1).result(DEADLINE_S) == ("old", True)
    assert m["k"] == "old" and m.load("k") == ("old", True) and list(m.items()) == [("k", "old")]
    m["another"] = 1
    assert go(m.load, "another").result(DEADLINE_S) == (1, True)
    assert "sync.Map.compute" in stacks()
    go_on.send("new")
    got = [h.result(DEADLINE_S) for h in handles]
    assert computing.result(DEADLINE_S) == "new"
    assert got == [("new", True), True, ("b", True), False, (None, False), "C", None, None]
    assert m["k"] == "last"


def test_a_new_key_is_not_there_before_it_is_computed(whole):
    """Nobody sees it; who would store it first waits for its turn."""
    m = whole(SharedMap())
    entered, go_on = Chan(), Chan()
    computing = go(compute_when_told, m, "k", entered, go_on)
    assert entered.recv(DEADLINE_S) is None
    assert "k" not in m and m.load("k") == (None, False) and len(m) == 0 and list(m) == [] and not m
    second = go(m.load_or_store, "k", "mine")
    third = go(m.load_and_delete, "k")
    until_waiting(m, 2)
    go_on.send(ValueError("nothing comes of it"))
    assert isinstance(computing.exception(DEADLINE_S), ValueError)
    assert {second.result(DEADLINE_S), third.result(DEADLINE_S)} <= {("mine", False), ("mine", True), (None, False)}


def test_clear_waits_for_what_is_computed(whole):
    """Then that key goes too."""
    m = whole(SharedMap())
    m.update({i: i for i in range(100)})
    entered, go_on = Chan(), Chan()
    computing = go(compute_when_told, m, 5, entered, go_on)
    entered.recv(DEADLINE_S)
    clearing = go(m.clear)
    until_waiting(m, 1)
    go_on.send("new")
    assert computing.result(DEADLINE_S) == "new"
    clearing.result(DEADLINE_S)
    assert not m


def test_different_keys_are_computed_at_once(whole):
    """All are inside together: nobody waits."""
    m = whole(SharedMap())
    entered, go_on = Chan(), Chan()
    handles = [go(compute_when_told, m, key, entered, go_on) for key in range(40)]
    for _ in handles:
        entered.recv(DEADLINE_S)
    assert waiting(m) == 0 and len(m) == 0
    for _ in handles:
        go_on.send("x")
    assert {h.result(DEADLINE_S) for h in handles} == {"x"}
    assert len(m) == 40


def test_check_finds_what_is_wrong(rt):
    """The invariants' check is not blind."""
    m = SharedMap()
    m["k"] = 1
    w = m._m().w
    [st] = [st for st in m._stripes if w[st + L.ST_COUNT]]
    w[st + L.ST_COUNT] = 2
    with pytest.raises(AssertionError, match="HT2"):
        stripes_whole(m)
    w[st + L.ST_COUNT] = 1
    stripes_whole(m)
