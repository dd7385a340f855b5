"""SharedMap: Go's sync.Map, and a MutableMapping, from every process."""

from __future__ import annotations

import gc
import math
import random
import threading
from collections.abc import ItemsView, KeysView, MutableMapping, ValuesView

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mproc_go import Chan, EncodeError, SharedMap, WaitGroup, go, stats
from mproc_go.shared import table
from mproc_go.shm import layout as L
from tests.shared.support import DEADLINE_S, collect, store_range, stripes_whole, until

LONG = ["a value that does not fit inline", *range(100)]


def objects():
    return {name: n for name, n in stats()["objects"].items() if "map" in name or "keyed" in name or name == "channels"}


def test_the_methods_of_go(whole):
    """What each returns, of a key that is there and of one that is not."""
    m = whole(SharedMap())
    assert m.load("k") == (None, False)
    assert m.load_or_store("k", 1) == (1, False)
    assert m.load_or_store("k", 2) == (1, True)
    assert m.load("k") == (1, True)
    assert m.swap("k", 3) == (1, True)
    assert m.swap("new", 4) == (None, False)
    assert m.load_and_delete("new") == (4, True)
    assert m.load_and_delete("new") == (None, False)
    assert m.compare_and_swap("k", 1, 5) is False
    assert m.compare_and_swap("k", 3.0, 5) is True
    assert m.compare_and_swap("none", None, 5) is False
    assert m.load("k") == (5, True)
    assert m.delete("k") is None
    assert m.delete("k") is None
    assert m.load("k") == (None, False) and len(m) == 0


@pytest.mark.parametrize("value", [None, 0, "short", b"x" * 56, b"x" * 57, LONG, b"y" * 300_000], ids=repr)
def test_values_come_back(whole, value):
    """Short or long, through each method that reads one, here and in a worker."""
    m = whole(SharedMap())
    m["k"] = value
    assert m["k"] == value and m.load("k") == (value, True) and m.get("k") == value
    assert go(m.load, "k").result() == (value, True)
    assert m.load_or_store("k", 1) == (value, True)
    assert list(m.items()) == [("k", value)] and list(m.values()) == [value]
    assert m.swap("k", value) == (value, True)
    assert m.compare_and_swap("k", value, value)
    assert m.compute("k", lambda v: v) == value
    assert m.popitem() == ("k", value)
    m["k"] = value
    assert m.pop("k") == value and not m


EDGES = [0, 1, -1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, True, False, 1.0, 2.0**62, "", "s" * 60, None]


def test_numbers_of_all_sizes_as_keys_and_values(whole):
    """What is a word, what is not, and each in the place of the other: as in a dict."""
    m = whole(SharedMap())
    d = {}
    for value in [*EDGES, *reversed(EDGES)]:
        for key in EDGES:
            m[key] = d[key] = value
            assert m.load(key) == (value, True) and type(m[key]) is type(value), (key, value)
        assert m == d
        for key in EDGES:
            assert m.compute(key, lambda was: was) == value and m.load_or_store(key, "x") == (value, True)
        assert m == d and len(m) == len(d)
    assert go(dict, m).result() == d


def test_a_number_changed_while_it_is_compared(whole):
    """Whoever compares finds what is there then, not what it had read."""
    m = whole(SharedMap())

    class Slow:
        def __init__(self, change):
            self.change = change

        def __eq__(self, other):
            change, self.change = self.change, lambda: None
            change()
            return other == 5

    for change in (lambda: m.store("k", 6), lambda: m.compute("k", lambda v: v + 1)):
        m["k"] = 5
        assert not m.compare_and_swap("k", Slow(change), 9)
        assert m["k"] == 6


def test_what_is_read_is_a_copy(whole):
    """Changing it changes nothing in the map."""
    m = whole(SharedMap())
    mine = [1, 2]
    m["k"] = mine
    mine.append(3)
    m["k"].append(4)
    assert m["k"] == [1, 2]


def test_the_protocol_of_mappings(whole):
    """All that a MutableMapping has, as a dict does it."""
    m = whole(SharedMap())
    assert isinstance(m, MutableMapping) and not m and m == {} and list(m) == []
    m.update({"a": 1}, b=2)
    m.update([("c", 3)])
    m |= {"d": 4}
    assert m == {"a": 1, "b": 2, "c": 3, "d": 4} == m and m != {"a": 1} and len(m) == 4 and bool(m)
    assert "a" in m and "z" not in m and m.get("z") is None and m.get("z", 7) == 7
    assert m.setdefault("a", 9) == 1 and m.setdefault("e", 5) == 5 and m.setdefault("f") is None
    assert isinstance(m.keys(), KeysView) and isinstance(m.items(), ItemsView) and isinstance(m.values(), ValuesView)
    assert set(m.keys()) == set("abcdef") and set(m.items()) == set(
        dict(zip("abcdef", (1, 2, 3, 4, 5, None), strict=True)).items()
    )
    assert m.keys() & {"a", "z"} == {"a"} and ("a", 1) in m.items() and 3 in m.values() and 99 not in m.values()
    assert len(m.keys()) == len(m.values()) == len(m.items()) == 6
    assert m | {"g": 1} == dict(m) | {"g": 1} and {"g": 1} | m == {"g": 1} | dict(m)
    assert m.pop("f") is None and m.pop("f", 8) == 8
    for call in (lambda: m["f"], lambda: m.pop("f"), lambda: m.__delitem__("f")):
        with pytest.raises(KeyError, match="f"):
            call()
    del m["e"]
    assert dict([m.popitem(), m.popitem(), m.popitem(), m.popitem()]) == {"a": 1, "b": 2, "c": 3, "d": 4}
    with pytest.raises(KeyError, match="empty"):
        m.popitem()
    m["x"] = 1
    m.clear()
    assert not m and m.items() == set()
    match m:
        case {"x": _}:
            raise AssertionError
        case {}:
            pass


def test_items_at_first(rt):
    """As dict takes them; what can't be one leaves nothing behind."""
    gc.collect()
    before = objects()
    assert SharedMap({"a": 1}, b=2) == {"a": 1, "b": 2} == dict(SharedMap([("a", 1), ("b", 2)]))
    assert SharedMap(iter([(1, 2)])) == {1: 2} == SharedMap(SharedMap({1: 2})) and SharedMap() == {} == SharedMap({})
    for items in (None, 5, [1], [(1, 2, 3)], {(): 1, frozenset(): 1}):
        with pytest.raises((TypeError, ValueError)):
            SharedMap(items)
    gc.collect()
    until(lambda: objects() == before)


def test_views_as_of_a_dict(whole):
    """What is no item is not in the items; each view says what it is."""
    m = whole(SharedMap({"a": 1}))
    for item in (5, "ab", ("a",), ("a", 2), ("z", 1), ["a", 1], None):
        assert item not in m.items()
    assert ("a", 1) in m.items()
    assert [repr(view).partition("(")[0] for view in (m.keys(), m.items(), m.values())] == [
        "KeysView",
        "ItemsView",
        "ValuesView",
    ]


def test_what_can_not_be_called(whole):
    """It is refused before anything is looked at."""
    m = whole(SharedMap())
    with pytest.raises(TypeError, match=r"SharedMap.compute needs a function to call, not int"):
        m.compute("k", 5, 1)
    with pytest.raises(TypeError, match=r"SharedMap.range needs a function to call, not NoneType"):
        m.range(None)
    assert m == {}


def test_two_maps_and_two_handles(rt):
    """Handles of one map are equal and hash alike; maps with the same items are equal."""
    a, b, out = SharedMap(), SharedMap(), Chan(1)
    out.send(a)
    again = out.recv()
    assert again == a and hash(again) == hash(a) and again is not a
    a["k"] = b["k"] = 1
    assert a == b and a is not b
    b["k"] = 2
    assert a != b and a != 5 and a != "k" and a != out
    assert f"{a!r}".startswith("<SharedMap 0x") and "len=1" in repr(a)


def test_values_with_handles_are_kept_alive(rt):
    """The map counts what is in its values: until they are replaced, deleted, cleared, or the map is gone."""
    before = objects()
    for end in ("replace", "delete", "pop", "clear", "drop", "swap", "popitem", "cas"):
        m = SharedMap()
        m["k"] = [Chan(1)]
        m["k"][0].send(end)
        [held] = go(m.get, "k").result()
        assert held.recv() == end
        del held
        if end == "replace":
            m["k"] = 1
        elif end == "delete":
            m.delete("k")
        elif end == "pop":
            del m.pop("k")[0]
        elif end == "clear":
            m.clear()
        elif end == "swap":
            m.swap("k", 1)
        elif end == "popitem":
            m.popitem()
        elif end == "cas":
            assert m.compare_and_swap("k", m["k"], 1)
        if end != "drop":
            until(lambda: objects().get("channels", 0) == before.get("channels", 0), f"freed by {end}")
        del m
        until(lambda: objects() == before, f"freed by {end}")


def test_a_value_deleted_while_it_is_read(whole):
    """Its handles and its bytes stay until the reader has them: a reader that parks in the middle of decoding."""
    m = whole(SharedMap())
    entered, go_on = Chan(), Chan()
    m["k"] = Slow([Chan(1), LONG], entered, go_on)
    reader = go(m.load, "k")
    entered.recv(DEADLINE_S)
    m["k"] = "another"
    m.delete("k")
    for i in range(200):
        m[i] = LONG
    go_on.send("go on")
    (value, there) = reader.result(DEADLINE_S)
    assert there and value[1] == LONG
    value[0].send(1)
    assert value[0].recv() == 1 and "k" not in m


class Slow:
    """Unpickles to a list; stops in the middle of that."""

    def __init__(self, value, entered, go_on):
        self.parts = value, entered, go_on

    def __reduce__(self):
        return slowly, self.parts


def slowly(value, entered, go_on):
    entered.send("in the middle")
    go_on.recv()
    return value


def test_values_that_cannot_be_sent(whole):
    """EncodeError in the caller, from each method that stores; nothing is changed and nothing is left."""
    m = whole(SharedMap())
    m["k"] = 1
    bad = threading.Lock()
    for call in (m.store, m.swap, m.load_or_store, m.setdefault, m.__setitem__):
        for key in ("k", "new"):
            if key == "k" and call in (m.load_or_store, m.setdefault):
                continue
            with pytest.raises(EncodeError, match="lock"):
                call(key, bad)
    with pytest.raises(EncodeError, match="lock"):
        m.compute("k", lambda v: bad)
    with pytest.raises(EncodeError, match="lock"):
        m.compute("new", lambda v: bad, 0)
    with pytest.raises(EncodeError, match="lock"):
        m.compare_and_swap("k", 1, bad)
    assert m == {"k": 1}


def test_growth_and_shrinking(whole):
    """From nothing to 20,000 keys and back, found all the time."""
    m = whole(SharedMap())
    n = 20_000
    for i in range(n):
        m[i] = i
        if not i & (i - 1):
            stripes_whole(m)
            assert all(m[j] == j for j in range(i))
    assert len(m) == n and sorted(m) == list(range(n))
    w = m._m().w
    assert all(w[st + L.ST_COUNT] <= table.LOAD << w[st + L.ST_LEVEL] for st in m._stripes), (
        "buckets grow with the keys"
    )
    for i in range(0, n, 2):
        del m[i]
    stripes_whole(m)
    assert sorted(m.values()) == list(range(1, n, 2))
    while m:
        m.popitem()


def test_memory_comes_back(rt):
    """Filled and emptied, or made and dropped, again and again: the segment does not grow."""

    def fill_and_empty(way):
        m = SharedMap()
        for i in range(3000):
            m[f"key {i}"] = [i] * (i % 40)
            if way == "replace":
                m[f"key {i}"] = i
        if way == "clear":
            m.clear()
        elif way == "pop":
            while m:
                m.popitem()
        elif way == "delete":
            for i in range(3000):
                del m[f"key {i}"]

    ways = ("drop", "clear", "pop", "delete", "replace")
    for way in ways:
        fill_and_empty(way)
    before = stats()["memory_bytes"]
    for way in ways * 2:
        fill_and_empty(way)
    assert stats()["memory_bytes"] <= before + 256 * 1024
    for _ in range(2000):
        SharedMap()
    assert stats()["memory_bytes"] <= before + 512 * 1024


# Not NaN: a dict knows its own one again by identity.
ODD_KEYS = ["a", "b", (1, "x"), None, 2.5, b"z", 1.0, True, -0.0, math.inf, -1, 1 << 63, -(1 << 70), 1e300, "", b"", ()]
ODD_KEYS += [((),), (1.0, (2.5, b"")), "\ud800", "x" * 200]


class AgainstADict(RuleBasedStateMachine):
    """Random calls of all methods, beside a dict."""

    map_of = None
    keys = st.integers(0, 40) | st.sampled_from(ODD_KEYS)
    values = st.integers() | st.text(max_size=30) | st.lists(st.integers(), max_size=20)
    some = st.lists(st.tuples(keys, values), max_size=5)

    def __init__(self):
        super().__init__()
        self.m, self.d = SharedMap(), {}

    @rule(k=keys, v=values)
    def store(self, k, v):
        self.m[k] = self.d[k] = v

    @rule(k=keys)
    def delete(self, k):
        assert self.m.load_and_delete(k) == ((self.d.pop(k), True) if k in self.d else (None, False))

    @rule(k=keys, v=values)
    def swap(self, k, v):
        assert self.m.swap(k, v) == ((self.d[k], True) if k in self.d else (None, False))
        self.d[k] = v

    @rule(k=keys, v=values)
    def load_or_store(self, k, v):
        assert self.m.load_or_store(k, v) == ((self.d[k], True) if k in self.d else (v, False))
        self.d.setdefault(k, v)

    @rule(k=keys, v=values, w=values)
    def compare_and_swap(self, k, v, w):
        expected = self.d.get(k, v) if w else v
        swaps = k in self.d and self.d[k] == expected
        assert self.m.compare_and_swap(k, expected, v) is swaps
        if swaps:
            self.d[k] = v

    @rule(k=keys, v=values)
    def compute(self, k, v):
        assert self.m.compute(k, lambda old: [old, v][:2], None) == [self.d.get(k), v]
        self.d[k] = [self.d.get(k), v]

    @rule()
    def popitem(self):
        if self.d:
            k, v = self.m.popitem()
            assert self.d.pop(k) == v

    @rule(k=keys, v=values)
    def pop(self, k, v):
        assert self.m.pop(k, v) == self.d.pop(k, v)

    @rule(k=keys)
    def remove(self, k):
        for take in (lambda x: x.pop(k), lambda x: x.__delitem__(k)):
            outcomes = []
            for x in (self.m, self.d):
                try:
                    outcomes.append(take(x))
                except KeyError as error:
                    outcomes.append((KeyError, repr(error.args)))
            assert outcomes[0] == outcomes[1]

    @rule(k=keys, v=values)
    def setdefault(self, k, v):
        assert self.m.setdefault(k, v) == self.d.setdefault(k, v)

    @rule(pairs=some, how=st.integers(0, 4))
    def update(self, pairs, how):
        for x in (self.m, self.d):
            if how == 0:
                x.update(pairs)
            elif how == 1:
                x.update(dict(pairs))
            elif how == 2:
                x.update(iter(pairs), one=1)
            elif how == 3:
                x |= dict(pairs)
            else:
                x |= pairs

    @rule(k=keys, pairs=some)
    def looks(self, k, pairs):
        m, d, other = self.m, self.d, dict(pairs)
        assert (k in m, m.get(k), m.get(k, 7)) == (k in d, d.get(k), d.get(k, 7))
        assert m | other == d | other and other | m == other | d
        assert m.keys() == d.keys() and m.keys() & other.keys() == d.keys() & other.keys()
        assert sorted(map(repr, m.values())) == sorted(map(repr, d.values()))
        assert m.keys().isdisjoint(other) == d.keys().isdisjoint(other) and (m == other) == (d == other)

    @rule()
    def clear(self):
        if len(self.d) > 12:
            self.m.clear()
            self.d.clear()

    @invariant()
    def same(self):
        assert len(self.m) == len(self.d) and self.m == self.d
        stripes_whole(self.m)


def test_as_a_dict(rt):
    """Whatever is called, in whatever order."""
    run_state_machine_as_test(AgainstADict, settings=settings(max_examples=25, stateful_step_count=40, deadline=None))


# ---------------------------------------------------------------- together
def test_goroutines_and_threads_fill_it_together(whole):
    """Nothing is lost, whoever stores it."""
    m = whole(SharedMap())
    wg = WaitGroup()
    for first in range(0, 4000, 500):
        wg.go(store_range, m, first, first + 500)
    threads = [threading.Thread(target=store_range, args=(m, n, n + 300)) for n in (5000, 6000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wg.wait(DEADLINE_S)
    assert collect(m) == {i: i for r in (range(4000), range(5000, 5300), range(6000, 6300)) for i in r}
    assert go(collect, m).result(DEADLINE_S) == collect(m)


def churn(m, seed, rounds):
    """Change keys of its own at random; return what is left of them."""
    rng = random.Random(seed)
    mine = {}
    for i in range(rounds):
        k = (seed, rng.randrange(60))
        how = rng.randrange(6)
        if how == 0:
            m.delete(k)
            mine.pop(k, None)
        elif how == 1:
            assert m.swap(k, i) == ((mine[k], True) if k in mine else (None, False))
            mine[k] = i
        elif how == 2:
            mine[k] = m.compute(k, lambda v: v + 1, 0)
        elif how == 3:
            assert m.compare_and_swap(k, mine.get(k, 0), -i) is (k in mine)
            if k in mine:
                mine[k] = -i
        elif how == 4:
            m[k] = mine[k] = [i] * rng.randrange(40)
        else:
            assert m.load(k) == ((mine[k], True) if k in mine else (None, False))
        if mine.get(k) is not None and not isinstance(mine[k], int):
            m[k] = mine[k] = i
    return mine


def test_churn(whole, seed):
    """Each goroutine finds its own keys as it left them, whatever others do beside."""
    m = whole(SharedMap())
    handles = [go(churn, m, seed + i, 600) for i in range(6)]
    expected = {}
    for handle in handles:
        expected |= handle.result(DEADLINE_S)
    assert m == expected


def test_one_counter_by_compare_and_swap(whole):
    """The classic loop: nobody's increment is lost."""
    m = whole(SharedMap())
    m["n"] = 0
    wg = WaitGroup()
    for _ in range(4):
        wg.go(increment, m, 150)
    wg.wait(DEADLINE_S)
    assert m["n"] == 600


def increment(m, times):
    for _ in range(times):
        while True:
            n = m["n"]
            if m.compare_and_swap("n", n, n + 1):
                break


def test_exactly_one_stores_first(whole):
    """Of many who load or store one key, all get the same."""
    m = whole(SharedMap())
    for key in range(20):
        got = [h.result(DEADLINE_S) for h in [go(m.load_or_store, key, i) for i in range(5)]]
        assert [loaded for _, loaded in got].count(False) == 1
        assert {value for value, _ in got} == {m[key]}


def test_each_item_is_popped_once(whole):
    """By whomever."""
    m = whole(SharedMap())
    m.update({i: i for i in range(600)})
    got = [k for h in [go(pop_all, m) for _ in range(4)] for k in h.result(DEADLINE_S)]
    assert sorted(got) == list(range(600)) and not m


def pop_all(m):
    got = []
    while True:
        try:
            got.append(m.popitem()[0])
        except KeyError:
            return got


# ---------------------------------------------------------------- listing
def test_listing_while_it_grows(whole):
    """No key twice, none missed that was there all the time, though it grows manifold meanwhile."""
    m = whole(SharedMap())
    stay = [f"stay {i}" for i in range(300)]
    for key in stay:
        m[key] = 0
    levels = {m._m().w[st + L.ST_LEVEL] for st in m._stripes}
    seen = []
    for n, key in enumerate(m):
        seen.append(key)
        for i in range(20):
            m[n, i] = LONG if i == 7 else i
        m.delete((n, 3))
        if len(m) > 5000:
            for i in range(n):
                for j in range(20):
                    m.delete((i, j))
    assert {m._m().w[st + L.ST_LEVEL] for st in m._stripes} != levels, "it grew"
    assert len(seen) == len(set(seen)), "no key twice"
    assert set(stay) <= set(seen), "none missed"


def test_listing_while_others_change_it(whole):
    """The same with goroutines in other processes."""
    m = whole(SharedMap())
    for i in range(500):
        m["stay", i] = i
    wg = WaitGroup()
    for i in range(3):
        wg.go(churn, m, 1000 + i, 500)
    for _ in range(5):
        seen = [k for k in m if k[0] == "stay"]
        assert len(seen) == len(set(seen)) == 500
        assert {k: v for k, v in m.items() if k[0] == "stay"} == {("stay", i): i for i in range(500)}
    wg.wait(DEADLINE_S)


def test_range(whole):
    """Until the function returns False; it may call the map, and itself be called in itself."""
    m = whole(SharedMap())
    m.update({i: i * i for i in range(50)})
    seen = {}
    m.range(lambda k, v: seen.update({k: v}))
    assert seen == m
    few = []
    m.range(lambda k, v: few.append(k) or len(few) < 7)
    assert len(few) == 7
    pairs = []
    m.range(lambda k, v: m.range(lambda k2, v2: pairs.append((k, k2))))
    assert len(pairs) == len(set(pairs)) == 2500
    m.range(lambda k, v: m.delete(k))
    assert not m
    with pytest.raises(ZeroDivisionError):
        m.update(a=1)
        m.range(lambda k, v: 1 / 0)
