"""A worker dies at every step of what it does with a map or a keyed channel, and is buried: nothing is left of it.

The burial checks it: each block and each reference is counted anew (mproc_torture.audit), of the living as of the dead.
Then the last handles go, and with them everything else.
"""

from __future__ import annotations

import pytest
from greenlet import getcurrent

from mproc_go.chan.channel import Chan
from mproc_go.errors import ChanClosed
from mproc_go.sched import states
from mproc_go.shared import table
from mproc_go.shared.keyed import KeyedChan
from mproc_go.shared.map import SharedMap
from mproc_go.shared.striped import Striped
from mproc_go.shm import layout as L
from mproc_go.shm import pool
from tests.crash.burial import burials

LONG = "x" * 300


class World:
    """A map of the client's, all in one stripe, with every kind of entry in it, and handles of it in each process.

    Attributes:
        ours, living, m: the client's handles, of a living worker, and of the one that dies.
        others: by name, channels to be keys and values, of each process.
    """

    def __init__(self, grave, cls=SharedMap, content=("n", "l", "h", "key", "pair", "long key")):
        self.grave = grave
        with grave.as_(grave.client):
            self.ours = cls()
            self.ours._mask = 0
            self.others_ours = {name: Chan() for name in ("key", "new", "value")}
            for name in content:
                self.put(self.ours, self.keys(self.others_ours)[name], self.stored(self.others_ours)[name])
        self.living, self.others_living = self.of(grave.living)
        self.m, self.others = self.of(grave.dead)

    def of(self, m):
        opened = self.grave.foreign(self.ours, m)
        opened._mask = 0
        return opened, {name: self.grave.foreign(h, m) for name, h in self.others_ours.items()}

    @staticmethod
    def put(handle, key, value):
        handle.store(key, value) if isinstance(handle, SharedMap) else handle.send(key, value)

    @staticmethod
    def stored(others):
        value = others["value"]
        return {"n": 1, "l": LONG, "h": [value, LONG], "key": 1, "pair": [value], "long key": LONG}

    @staticmethod
    def keys(others):
        new = {"no": "no", "no handle": others["new"], "no pair": (others["new"], LONG)}
        return new | {"n": "n", "l": "l", "h": "h", "key": others["key"], "pair": ("t", others["key"]), "long key": LONG}

    @staticmethod
    def values(others):
        value = others["value"]
        return {"number": 7, "short": "s", "long": LONG, "handle": [value], "both": [value, value, LONG]}

    def key(self, name):
        return self.keys(self.others)[name]

    def value(self, name):
        return self.values(self.others)[name]

    def entry(self, name):
        """Where the entry lies that a key has now."""
        m = self.grave.client
        with self.grave.as_(m):
            h, kb = self.ours._keys.of(self.keys(self.others_ours)[name])
        return table.find(self.grave.words, m.mem, self.ours._stripes[0], h, kb)[1]

    def now(self, m, operation):
        """Done by somebody living, in the middle of what the dead does."""
        w = self.grave.words
        cut_at, w.cut_at = w.cut_at, None
        with self.grave.as_(m):
            operation()
        w.cut_at = cut_at

    def end(self):
        """Drop all handles of the living."""
        for m, names in ((self.grave.living, ("living", "others_living")), (self.grave.client, ("ours", "others_ours"))):
            with self.grave.as_(m):
                for name in names:
                    delattr(self, name)
                m.process.refs.settle(m)


def each(build, operate, before_end=lambda grave, world: None):
    """Die at each step; nothing is left then, nor when the map goes."""
    for grave, world, _n, died in burials(build, operate):
        grave.result = None
        yield world, died
        before_end(grave, world)
        world.end()
        grave.check()
        kinds = [grave.words[base + L.O_KIND] for base in grave.live(L.POOL_OBJECT)]
        assert not {L.KIND_MAP, L.KIND_KEYED_CHAN, L.KIND_STRIPE} & set(kinds)


def all_of(build, operate, before_end=lambda grave, world: None):
    for _ in each(build, operate, before_end):
        pass


OLD = ["n", "h", "key", "pair", "long key"]
NEW = ["no", "no handle", "no pair"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("n", value) for value in ("number", "short", "both")),
        *(("no", value) for value in ("number", "short", "handle")),
        *(("h", "number"), ("pair", "both"), ("long key", "short"), ("no pair", "number")),
    ],
)
def test_store(key, value):
    all_of(World, lambda grave, world: world.m.store(world.key(key), world.value(value)))


CHANGES = {
    "load": lambda world, key, value: world.m.load(key) and None,
    "delete": lambda world, key, value: world.m.delete(key),
    "pop": lambda world, key, value: world.m.load_and_delete(key) and None,
    "swap": lambda world, key, value: world.m.swap(key, value) and None,
    "load or store": lambda world, key, value: world.m.load_or_store(key, value) and None,
    "compare and swap": lambda world, key, value: world.m.compare_and_swap(key, world.m.load(key)[0], value),
    "compute": lambda world, key, value: world.m.compute(key, lambda old: value, None) and None,
}


@pytest.mark.parametrize("key", ["n", "h", "pair", "no pair"])
@pytest.mark.parametrize("name", CHANGES)
def test_change(name, key):
    if key in NEW and name in ("load", "delete", "compare and swap"):
        pytest.skip("it does nothing")
    all_of(World, lambda grave, world: CHANGES[name](world, world.key(key), world.value("both")))


def test_compute_that_fails():
    def operate(grave, world):
        for key in ("h", "no pair"):
            with pytest.raises(ZeroDivisionError):
                world.m.compute(world.key(key), lambda old: 1 / 0, None)

    all_of(World, operate)


@pytest.mark.parametrize("name", ["clear", "popitem", "list"])
def test_all_of_them(name):
    def operate(grave, world):
        if name == "clear":
            world.m.clear()
        elif name == "popitem":
            while world.m:
                world.m.popitem()
        else:
            dict(world.m)

    all_of(World, operate)


@pytest.mark.parametrize("n", [4, 8], ids=["the first time", "again"])
def test_growing(n):
    def build(grave):
        world = World(grave, content=())
        world.now(grave.client, lambda: [world.ours.store(i, i) for i in range(n)])
        world.level = grave.words[world.ours._stripes[0] + L.ST_LEVEL]
        return world

    for world, died in each(build, lambda grave, world: world.m.store(n, n)):
        assert died or world.grave.words[world.ours._stripes[0] + L.ST_LEVEL] > world.level


# ---------------------------------------------------------------- readers
@pytest.mark.parametrize("key", ["pair"])
@pytest.mark.parametrize("name", ["store", *CHANGES])
def test_changing_what_is_read(name, key):
    """The living one who reads it meanwhile frees it, if it is still there to be freed."""

    def build(grave):
        world = World(grave)
        world.e, world.pin = world.entry(key), table.free_pin(grave.living)
        table.pin(grave.words, world.pin, world.living._numbers[0], world.e)
        return world

    def operate(grave, world):
        if name == "store":
            world.m.store(world.key(key), 7)
        else:
            CHANGES[name](world, world.key(key), world.value("both"))

    def read(grave, world):
        with grave.as_(grave.living):
            value = world.living._read_pinned(grave.living, world.pin)
            assert value == World.stored(world.others_living)[key]
            del value

    all_of(build, operate, read)


@pytest.mark.parametrize("others", [False, True], ids=["", "with another"])
@pytest.mark.parametrize("change", ["store", "delete", "nothing"])
@pytest.mark.parametrize("name", ["load", "swap", "pop", "compare and swap", "load or store"])
def test_reading_what_is_changed(name, change, others, monkeypatch):
    """It dies reading an entry that others take out of the map meanwhile; one of them reads it, too, or nobody does."""
    value_of = Striped._value

    def value(self, m, e):
        world = self_world[0]
        if m is world.grave.dead and not world.changed:
            world.changed = True
            if others:
                world.pin = table.free_pin(world.grave.living)
                world.now(world.grave.living, lambda: table.pin(m.w, world.pin, world.living._numbers[0], e))
            if change == "store":
                world.now(world.grave.client, lambda: world.ours.store("h", 5))
            elif change == "delete":
                world.now(world.grave.client, lambda: world.ours.delete("h"))
        return value_of(self, m, e)

    def build(grave):
        world = World(grave)
        self_world[:] = [world]
        world.changed, world.pin = False, 0
        # Somebody reads it already: so the dead one does not have it alone once it took it out.
        world.first = table.free_pin(grave.client)
        table.pin(grave.words, world.first, world.ours._numbers[0], world.entry("h"))
        return world

    def read(grave, world):
        for m, handle, pin in ((grave.client, world.ours, world.first), (grave.living, world.living, world.pin)):
            if pin:
                with grave.as_(m):
                    handle._read_pinned(m, pin)

    self_world = []
    monkeypatch.setattr(Striped, "_value", value)
    all_of(build, lambda grave, world: CHANGES[name](world, "h", world.value("both")), read)


def test_all_pins_of_a_thread_are_taken():
    """Whoever wants one more lets the others run until there is one."""

    def build(grave):
        world = World(grave)
        m = grave.dead
        world.pins = []
        while at := table.free_pin(m):
            table.pin(grave.words, at, world.m._numbers[0], world.entry("h"))
            world.pins.append(at)
        m.yield_ = lambda: world.m._read_pinned(m, world.pins.pop()) and None
        return world

    all_of(build, lambda grave, world: world.m.store("h", world.m.load("h") and 1))


# ---------------------------------------------------------------- a key that is another's
def test_a_key_whose_turn_comes():
    """It waits for a key that another computes, is handed it, and dies with it."""
    for name in ("store", *CHANGES):
        if name == "load":
            continue

        def build(grave):
            world = World(grave)
            h, kb = world.ours._keys.of("h")
            world.now(grave.client, lambda: setattr(world, "wt", world.ours._own(grave.client, "h", 0, h, kb, True)))
            grave.dead.park = lambda deadline=None: came(grave, world)
            return world

        def came(grave, world):
            world.now(grave.client, lambda: world.ours._release(grave.client, 0, world.wt))
            world.wt = 0
            grave.words[grave.dead.g + L.G_STATUS] = states.RUNNING
            return grave.words[grave.dead.g + L.G_DECIDE]

        def release(grave, world):
            if world.wt:
                world.now(grave.client, lambda: world.ours._release(grave.client, 0, world.wt))

        def operate(grave, world, name=name):
            if name == "store":
                world.m.store("h", world.value("both"))
            else:
                CHANGES[name](world, "h", world.value("both"))

        all_of(build, operate, release)


def test_dying_where_others_wait():
    """It has the key, of one that is there and of one that is not; another waits for it, or nobody."""
    for name in ("h", "no"):
        for waits in (False, True):

            def build(grave, name=name, waits=waits):
                world = World(grave)
                world.waits = waits
                return world

            def operate(grave, world, name=name):
                def fn(old):
                    if world.waits and not hasattr(world, "g"):
                        key = World.keys(world.others_living)[name]
                        world.now(grave.living, lambda: setattr(world, "g", wait(grave, world, key)))
                    return world.value("both")

                world.m.compute(world.key(name), fn, None)

            def wait(grave, world, key):
                before = in_use(grave)
                g = grave.waiting(grave.living, lambda: world.living.store(key, 3))
                grave.in_hands = in_use(grave) - before
                world.fiber = grave.fibers[-1]
                return g

            def go_on(grave, world):
                if hasattr(world, "g"):
                    assert grave.words[world.g + L.G_DECIDE], "it waits for the dead"
                    resume(grave, grave.living, world.g, world.fiber)
                    grave.in_hands.clear()

            all_of(build, operate, go_on)


def in_use(grave):
    """Blocks that are neither free nor in a cache of the living."""
    return set(pool.records(grave.words, L.MIN_BLOCK_ORDER)) - set(grave.living.caches[L.MIN_BLOCK_ORDER])


def resume(grave, m, g, fiber):
    """The goroutine goes on, once it is decided."""
    before, m.g = m.g, g
    fiber.parent = getcurrent()
    try:
        with grave.as_(m):
            return fiber.switch()
    finally:
        m.g = before


# ---------------------------------------------------------------- keyed channels
@pytest.mark.parametrize("waiting", [0, 1, 2])
@pytest.mark.parametrize("value", ["number", "both"])
@pytest.mark.parametrize("key", ["h", "no", "no pair"])
def test_send(key, value, waiting):
    if key == "h" and waiting:
        pytest.skip("nobody waits for what is there")

    def build(grave):
        world = World(grave, KeyedChan)
        world.waiters = []
        for _ in range(waiting):
            k = World.keys(world.others_living)[key]
            g = grave.waiting(grave.living, lambda k=k: world.living.receive(k))
            world.waiters.append((g, grave.fibers[-1]))
        return world

    def operate(grave, world):
        world.m.send(world.key(key), world.value(value))

    def receive(grave, world):
        grave.check()
        k, v = World.keys(world.others_ours)[key], World.values(world.others_ours)[value]
        with grave.as_(grave.client):
            if waiting and k not in world.ours:
                world.ours.send(k, v)
            if waiting == 2:  # they have it, whatever comes then
                world.ours.delete(k)
        for g, fiber in world.waiters:
            assert resume(grave, grave.living, g, fiber) == World.values(world.others_living)[value]

    all_of(build, operate, receive)


@pytest.mark.parametrize("change", ["nothing", "delete", "send"])
@pytest.mark.parametrize("also", [False, True], ids=["alone", "with another"])
@pytest.mark.parametrize("value", ["number", "both"])
def test_taking_what_was_sent(value, also, change):
    """It is given a value, and dies before it takes it, or then; it may be gone from the channel already."""

    def build(grave):
        world = World(grave, KeyedChan)
        world.taken = []
        world.waiters = []
        for m, handle, others in (
            (grave.dead, world.m, world.others),
            *([(grave.living, world.living, world.others_living)] if also else ()),
        ):
            k = World.keys(others)["no pair"]
            g = grave.waiting(m, lambda handle=handle, k=k: handle.receive(k) and None)
            world.waiters.append((g, grave.fibers[-1]))
        k, v = World.keys(world.others_ours)["no pair"], World.values(world.others_ours)[value]
        world.now(grave.client, lambda: world.ours.send(k, v))
        if change == "delete":
            world.now(grave.client, lambda: world.ours.delete(k))
        elif change == "send":
            world.now(grave.client, lambda: world.ours.send(k, 2))
        return world

    def operate(grave, world):
        g, fiber = world.waiters[0]
        resume(grave, grave.dead, g, fiber)

    def other(grave, world):
        for g, fiber in world.waiters[1:]:
            resume(grave, grave.living, g, fiber)

    all_of(build, operate, other)


@pytest.mark.parametrize("how", ["waits", "times out", "is there", "delete", "close"])
@pytest.mark.parametrize("waits", [False, True], ids=["alone", "with another"])
def test_keyed_channels(how, waits):
    def build(grave):
        world = World(grave, KeyedChan)
        if waits:
            k = World.keys(world.others_living)["no pair"]
            world.g = grave.waiting(grave.living, lambda: closed_of(world.living, k))
            world.fiber = grave.fibers[-1]
        if how == "times out":
            grave.dead.park = lambda deadline=None: 0
        return world

    def operate(grave, world):
        if how == "is there":
            world.m.receive(world.key("h"))
        elif how == "delete":
            world.m.delete(world.key("pair"))
        elif how == "close":
            world.m.close()
        else:
            try:
                world.m.receive(world.key("no pair"), 5)
            except TimeoutError:
                pass

    def close(grave, world):
        if waits:
            if not world.ours.closed:
                world.now(grave.client, world.ours.close)
            assert resume(grave, grave.living, world.g, world.fiber) == "closed"

    all_of(build, operate, close)


def closed_of(kc, key):
    try:
        return kc.receive(key)
    except ChanClosed:
        return "closed"


# ---------------------------------------------------------------- its beginning and its end
@pytest.mark.parametrize("cls", [SharedMap, KeyedChan])
def test_making(cls):
    def operate(grave, _):
        grave.made = cls()

    for grave, _world, _n, died in burials(lambda grave: None, operate):
        grave.made = None
        kinds = [grave.words[base + L.O_KIND] for base in grave.live(L.POOL_OBJECT)]
        assert not {cls.KIND, L.KIND_STRIPE} & set(kinds), "its maker had the only handle"


class Gone(SharedMap):
    """A handle whose finalizer has run."""

    __slots__ = ()

    def __del__(self):
        pass


def test_dropping_the_last_handle():
    """The map goes, and what only it had."""

    def build(grave):
        m = grave.dead
        with grave.as_(m):
            handle, inner = SharedMap(), Chan(1)
            handle._mask = 0
            inner.send(LONG)
            for i in range(9):
                handle.store(i, i)
            handle.store(("t", inner), [inner, LONG])
            base = handle._base
            del inner
        handle.__class__ = Gone
        return base

    def operate(grave, base):
        grave.dead.process.refs.drop(grave.dead, L.KIND_MAP, base)

    for grave, _base, _n, _died in burials(build, operate):
        assert not grave.live(L.POOL_OBJECT)
