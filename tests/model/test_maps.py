"""Maps and keyed channels under every interleaving, or as many as a few preemptions make.

What calls return must be what they would have returned one after the other, in an order that agrees with when each was
begun and ended (linearizability). Source: Wing and Gong, Testing and Verifying Concurrent Objects (1993).
"""

from __future__ import annotations

import itertools
import os
from collections import Counter

import pytest

from mproc_go.errors import ChanClosed
from mproc_go.runtime import client
from mproc_go.shared import table
from mproc_go.shared.keyed import KeyedChan
from mproc_go.shared.keys import Keys
from mproc_go.shared.map import SharedMap
from mproc_go.shm import layout as L
from tests.model.actors import Client, _NoEnd, handle
from tests.model.loom import every, explore, pct, sample

MAP = 3_000_032
STRIPE = MAP + L.OBJECT_WORDS
BLOCKS = 6_000_000
# All players with a switch wherever it may come takes minutes: MPROC_GO_THOROUGH=1.
THOROUGH = bool(os.environ.get("MPROC_GO_THOROUGH"))
THOROUGHLY = pytest.mark.skipif(not THOROUGH, reason="takes long: MPROC_GO_THOROUGH=1")
SECRET = 5  # of the hashes: fixed, so that a schedule is the same when it is run again


@pytest.fixture(autouse=True)
def no_polling(monkeypatch):
    """A client that looks ten times a second would cover a lost wake-up."""
    monkeypatch.setattr(client, "CHECK_S", None)


class Table:
    """A map or keyed channel of one stripe, and what was called on it.

    Attributes:
        calls: (begun, ended, name, arguments, result) of each that ended.
    """

    def __init__(self, world, cls):
        self.world, self.cls = world, cls
        peek = self.peek = world.memory_view
        peek[L.H_HASH_KEY] = peek[L.H_HASH_KEY + 1] = SECRET
        peek[MAP + L.O_KIND] = cls.KIND
        peek[MAP + L.MP_N] = 1
        peek[STRIPE + L.O_KIND] = L.KIND_STRIPE
        table.settle(peek, STRIPE, MAP, cls._keyed)
        self.keys = Keys(peek)
        self.calls = []
        self.clock = itertools.count()
        door = world.doors[L.object_lock(STRIPE), 0]

        def whenever_free():
            if door.tokens and not peek[MAP + L.KC_CLOSED]:  # a close goes through the stripes afterwards
                self.whole()

        world.invariant = whenever_free

    def whole(self):
        """Its invariants hold."""
        table.check(self.peek, self.world.bytes, STRIPE)

    def handle(self, slot, impatient=False):
        """A handle in the hands of a process of its own; if impatient, its time may run out whenever it waits."""
        t = Client(self.world, slot)
        if impatient:
            t.park = super(Client, t).park
        for order in range(L.MIN_BLOCK_ORDER, L.MIN_BLOCK_ORDER + 4):
            t.caches[order] = [BLOCKS + 20_000 * slot + 4_000 * order + (1 << order) * i for i in range(24)]
        cls = type(self.cls.__name__, (_NoEnd, self.cls), {"__slots__": (), "_owned": set()})
        h = handle(t, cls, MAP)
        h._stripes, h._numbers, h._mask = [STRIPE], [L.object_lock(STRIPE)], 0
        h._keys, h._number, h._held = self.keys, self.keys.number, {0: None}
        if cls.KIND == L.KIND_MAP:
            h._popped = (0, 0)
        return h

    def at_first(self, **items):
        """What is in it before anybody comes."""
        h = self.handle(9)
        for key, value in items.items():
            (h.store if self.cls is SharedMap else h.send)(key, value)

    def call(self, h, name, *args):
        begun = next(self.clock)
        try:
            result = getattr(h, name)(*args)
        except (KeyError, ChanClosed, TimeoutError) as error:
            result = type(error)
        self.calls.append((begun, next(self.clock), name, args, result))
        return result

    def spawn(self, name, slot, *calls, impatient=False):
        """A process that makes these calls, one after the other."""

        def body(h):
            for call in calls:
                self.call(h, *call)

        self.world.spawn(name, lambda h=self.handle(slot, impatient): body(h))

    def items(self):
        """What is in it now."""
        h = self.handle(8)
        return dict(h._pairs())


# ---------------------------------------------------------------- one after the other
def after(state, name, args):
    """What a map does, as a dict: the result and the next state; None for a call that is not to be judged."""
    d = dict(state)
    key = args[0]
    old, there = d.get(key), key in d
    if name == "load":
        return (old, there), state
    if name == "store":
        d[key] = args[1]
        result = None
    elif name == "swap":
        d[key] = args[1]
        result = (old, there)
    elif name == "load_or_store":
        result = (old, True) if there else (args[1], False)
        d.setdefault(key, args[1])
    elif name == "load_and_delete":
        d.pop(key, None)
        result = (old, there)
    elif name == "compare_and_swap":
        result = there and old == args[1]
        if result:
            d[key] = args[2]
    elif name == "compute":
        if not there and len(args) < 3:
            return KeyError, state
        result = d[key] = args[1](old if there else args[2])
    else:
        raise AssertionError(name)
    return result, frozenset(d.items())


def assert_in_some_order(calls, first, last):
    """There is an order of the calls in which a dict does what they say they did."""
    seen = set()

    def search(left, state):
        if not left:
            return dict(state) == last
        if (tuple(left), state) in seen:
            return False
        seen.add((tuple(left), state))
        soonest = min(calls[i][1] for i in left)
        for i in left:
            begun, _, name, args, result = calls[i]
            if begun < soonest:
                expected, following = after(state, name, args)
                if expected == result and search([j for j in left if j != i], following):
                    return True
        return False

    told = [(begun, ended, name, args[:1], result) for begun, ended, name, args, result in sorted(calls)]
    assert search(list(range(len(calls))), frozenset(first.items())), f"in no order from {first} to {last}: {told}"


def add(n):
    return lambda value: value + n


class Story:
    """Players that each make some calls: the first two of them, or all."""

    def __init__(self, build, *players, **options):
        self.two = lambda world: build(world, players[:2], **options)
        self.all = lambda world: build(world, players, **options)

    def explore(self, seed):
        """Two of them with a switch wherever it may come, all with random ones."""
        explore(self.all if THOROUGH else self.two, 1)
        sample(self.all, seed, 25)
        pct(self.all, seed, 40)


def together(first, *players):
    """Each of `players` makes its calls; from `first` on."""

    def build(world, players):
        t = Table(world, SharedMap)
        t.at_first(**first)
        for slot, calls in enumerate(players, 1):
            t.spawn(f"p{slot}", slot, *calls)

        def check():
            assert_in_some_order(t.calls, first, t.items())
            assert not table.wait_records(t.peek, STRIPE), "a wait record is left"
            t.whole()

        return check

    return Story(build, *players)


STORIES = {
    "numbers in place": together(
        {"a": 1}, [("store", "a", 2), ("load", "a")], [("compare_and_swap", "a", 1, 5)], [("store", "a", 1)]
    ),
    "short and long": together(
        {"a": 1}, [("store", "a", "text"), ("store", "a", 3)], [("load", "a"), ("swap", "a", "u")], [("load", "a")]
    ),
    "come and go": together(
        {},
        [("store", "a", 1), ("load_and_delete", "a")],
        [("load_or_store", "a", 2), ("load", "a")],
        [("load_and_delete", "a")],
    ),
    "computed beside computed": together(
        {"a": 0}, [("compute", "a", add(1)), ("load", "a")], [("compute", "a", add(10))], [("compute", "a", add(100))]
    ),
    "computed where nothing is": together(
        {}, [("compute", "a", add(1), 0)], [("compute", "a", add(10), 0)], [("load", "a"), ("load_or_store", "a", 7)]
    ),
    "computed and deleted": together(
        {"a": 5}, [("compute", "a", add(1))], [("load_and_delete", "a"), ("store", "a", 2)], [("compute", "a", add(10), 0)]
    ),
    "computed and swapped": together(
        {"a": 5}, [("compute", "a", add(1))], [("swap", "a", 8)], [("compare_and_swap", "a", 6, 9), ("load", "a")]
    ),
    "neighbours": together(
        {"b": 0}, [("store", "a", 1), ("load_and_delete", "b")], [("store", "c", 3), ("load", "a")], [("compute", "b", add(1), 4)]
    ),
    "growing": together(
        {"a": 0, "b": 1, "c": 2, "d": 3},
        [("store", "e", 4), ("store", "f", 5)],
        [("load", "a"), ("store", "g", 6), ("load_and_delete", "c")],
        [("store", "h", 7), ("load", "e")],
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_calls_of_a_map(story, seed):
    """In some order each did what it says."""
    STORIES[story].explore(seed)


@pytest.mark.parametrize(
    ("calls", "most"),
    [
        ((("store", "a", 1), ("store", "a", 2)), 2),
        ((("store", "a", "t"), ("load", "a")), 1),
        pytest.param((("compute", "a", add(1)), ("compute", "a", add(2))), 2, marks=THOROUGHLY),
    ],
    ids=["store, store", "store, load", "compute, compute"],
)
def test_two_in_every_schedule(calls, most):
    """Without a bound on preemptions: both are done, and nothing is left to wait for."""

    def build(world):
        t = Table(world, SharedMap)
        t.at_first(a=0)
        for slot, call in enumerate(calls, 1):
            t.spawn(f"p{slot}", slot, call)

        def check():
            assert t.items()["a"] in {"store": {1, 2, "t"}, "compute": {3}}[calls[0][0]]
            assert not table.wait_records(t.peek, STRIPE)

        return check

    assert every(build) > 100


def test_a_change_that_is_not_alone_is_found(monkeypatch, seed):
    """Mutant: computed from what was there a moment ago."""

    def compute(self, key, fn):
        result = fn(self.load(key)[0])
        self.store(key, result)
        return result

    monkeypatch.setattr(SharedMap, "compute", compute)
    with pytest.raises(AssertionError, match="in no order"):
        pct(STORIES["computed beside computed"].all, seed, 200)


def test_a_key_that_is_not_handed_on_is_missed(monkeypatch, seed):
    """Mutant: who waits to compute is forgotten."""
    monkeypatch.setattr(table, "pass_on", lambda *args: 0)
    with pytest.raises(AssertionError):
        pct(STORIES["computed beside computed"].all, seed, 200)


# ---------------------------------------------------------------- listing
def listing(grows):
    """One lists while others insert, replace and delete."""
    stays = {"a": 0, "b": 1, "c": 2, "d": 3}

    def build(world):
        t = Table(world, SharedMap)
        t.at_first(**stays, gone=9)
        listed = []
        world.spawn("list", lambda h=t.handle(1): listed.extend(h._pairs()))
        t.spawn("insert", 2, ("store", "new", 10), *([("store", "more", 11), ("store", "most", 12)] if grows else []))
        t.spawn("delete", 3, ("load_and_delete", "gone"), ("store", "a", 0))

        def check():
            count = Counter(key for key, _ in listed)
            assert max(count.values()) == 1, f"twice: {count}"
            assert stays.items() <= dict(listed).items(), f"missed: {listed}"
            assert set(listed) - stays.items() <= {("gone", 9), ("new", 10), ("more", 11), ("most", 12)}

        return check

    return build


@pytest.mark.parametrize("grows", [False, True])
def test_listing(grows, seed, monkeypatch):
    """No key twice, none missed that was there all the time."""
    monkeypatch.setattr("mproc_go.shared.striped._BATCH_ENTRIES", 1)
    monkeypatch.setattr("mproc_go.shared.striped._BATCH_NODES", 2)
    if THOROUGH:
        explore(listing(grows), 1)
    sample(listing(grows), seed, 100)
    pct(listing(grows), seed, 60)


# ---------------------------------------------------------------- keyed channels
def keyed(*players, first=None, impatient=False):
    """Each makes its calls; who receives has what was sent, or the channel was closed."""

    def build(world, players):
        t = Table(world, KeyedChan)
        t.at_first(**(first or {}))
        for slot, calls in enumerate(players, 1):
            t.spawn(f"p{slot}", slot, *calls, impatient=impatient)

        def check():
            peek = t.peek
            sent, ended = {}, {}
            for begun, _, name, args, result in t.calls:
                if name == "send" and result is None:
                    sent.setdefault(args[0], {})[args[1]] = begun
                if name == "close":
                    ended["close"] = begun
            for key, value in (first or {}).items():
                sent.setdefault(key, {})[value] = -1
            for begun, end, name, args, result in t.calls:
                if name == "receive" and result is ChanClosed:
                    assert "close" in ended and ended["close"] < end
                elif name == "receive" and result is TimeoutError:
                    assert impatient
                elif name == "receive":
                    assert result in sent.get(args[0], ()), f"{result} was never sent: {t.calls}"
                    assert sent[args[0]][result] < end, "received before it was sent"
                elif name == "send" and result is ChanClosed:
                    assert "close" in ended
            assert not table.wait_records(peek, STRIPE), f"somebody is left waiting: {t.calls}"
            t.whole()

        return check

    return Story(build, *players)


KEYED = {
    "two wait": keyed([("receive", "a")], [("send", "a", 1)], [("receive", "a")]),
    "a text for two": keyed([("receive", "a")], [("send", "a", "t"), ("send", "a", 2)], [("receive", "a")]),
    "two keys": keyed([("receive", "a"), ("send", "b", 2)], [("send", "a", 1)], [("receive", "b")]),
    "replaced and deleted": keyed(
        [("send", "a", 1), ("send", "a", 2)], [("receive", "a")], [("delete", "a"), ("send", "a", 3)], first={"a": 0}
    ),
    "closed": keyed([("receive", "a")], [("send", "a", 1)], [("close",)]),
    "closed, two wait": keyed([("receive", "a")], [("close",)], [("receive", "b")]),
}


@pytest.mark.parametrize("story", KEYED)
def test_calls_of_a_keyed_channel(story, seed):
    """Everybody who waits is woken, with what was sent or by the close; nobody is left."""
    KEYED[story].explore(seed)


def test_keyed_in_the_last_moment(seed):
    """Time may run out whenever one waits: it got what was sent, or left the queue."""
    keyed([("receive", "a", 100.0)], [("send", "a", 1)], [("receive", "a", 100.0)], impatient=True).explore(seed)


def test_one_receives_one_sends_in_every_schedule():
    """Without a bound on preemptions."""
    assert every(keyed([("receive", "a")], [("send", "a", 1)]).all) > 100


def test_a_wait_record_that_is_not_seen_is_missed(monkeypatch):
    """Mutant: a send that wakes nobody."""
    monkeypatch.setattr(table, "give_all", lambda *args: ([], False))
    with pytest.raises(AssertionError):
        explore(KEYED["two wait"].all, 1)
