"""Maps and keyed channels cut at every store: whole again after repair, with the old content or the new, nobody stuck."""

from __future__ import annotations

from unittest import mock

import pytest

from mproc_go.codec.handles import entries
from mproc_go.errors import ChanClosed
from mproc_go.runtime import message
from mproc_go.runtime import process as rt
from mproc_go.runtime.handle import SharedHandle
from mproc_go.sched import repairs, waitq
from mproc_go.shared import striped, table
from mproc_go.shared.keyed import KeyedChan
from mproc_go.shared.map import SharedMap
from mproc_go.shm import counts, pool
from mproc_go.shm import layout as L
from mproc_go.sync import grants
from tests.crash.machine import Cut, cuts

LONG = "x" * 100


class State:
    """A map, or a keyed channel, with all keys in one stripe; what thread 0 sees of it, which dies, and thread 1."""

    def __init__(self, machine, content, cls=SharedMap):
        self.machine = machine
        self.parked = False
        self.w = machine.words
        self.supervisor = machine.supervisor
        self.dying, self.living = machine.threads[:2]
        for t in (self.dying, self.living):
            t.g = machine.new_goroutine(t)
            t.process.keys = None
            t.park = lambda deadline=None: self.killed_in_park()
        with mock.patch.object(rt, "current", return_value=self.living):
            self.there = cls()
        self.there._mask = 0
        self.living.process.refs.holds[self.there._base] = 1 << 30  # its end is not what these tests are about
        self.here = self.opened(self.dying)
        self.st = self.there._stripes[0]
        for key, value in content.items():
            self.put(key, value)
        self.before = self.content()
        assert self.before == content

    def opened(self, t):
        """Another process's handle."""
        handle = type(self.there).__new__(type(self.there))
        handle._bind(t, self.there._base, self.there._gen)
        handle._mask = 0
        handle._held = dict.fromkeys(range(8))  # the holds are the reaper's affair: tests/kills
        t.process.refs.holds[handle._base] = 1 << 30
        self.there._held = dict.fromkeys(range(8))
        return handle

    def put(self, key, value):
        if isinstance(self.there, SharedMap):
            self.there.store(key, value)
        else:
            self.there.send(key, value)

    def killed_in_park(self):
        """A kill while it waits: nothing of what unwinds is stored."""
        self.w.cut_at = 0
        self.parked = True
        raise Cut

    def content(self):
        return dict(self.there._pairs())

    def wait(self, t, wt):
        """Another goroutine of that thread waits for what that record is for."""
        g = self.machine.new_goroutine(t)
        grants.join(self.w, wt + L.WT_QUEUE, g)
        return g

    def expect(self, key, t):
        """A goroutine of that thread waits for a key of a keyed channel."""
        m, h, kb = t, *self.there._keys.of(key)
        g = self.machine.new_goroutine(m)
        e = table.find(self.w, m.mem, self.st, h, kb)[1]
        if not e:
            e = self.there._new(m, key, h, kb, None)
            before = table.find(self.w, m.mem, self.st, h, kb)[0]
            wt = pool.take_block(m, L.WT_BYTES) + L.BLOCK_DATA
            table.attach(m, self.st, wt, e, 0)
            table.insert(m, self.st, before, e)
        w_s = g + L.G_SUDOG
        self.w[w_s + L.SG_SEQ], self.w[w_s + L.SG_MSG] = L.SG_PINNED, 0
        waitq.join(self.w, self.w[e + L.EN_WAIT] + L.WT_QUEUE, g)
        return g

    def own(self, t, key):
        """Have the goroutine of that thread be the one that may change the key."""
        handle = self.here if t is self.dying else self.there
        h, kb = handle._keys.of(key)
        return handle._own(t, key, 0, h, kb, True)

    def recover(self):
        """What the reaper does, with the locks in its hands: repair, twice, since it may be done again; then forget."""
        w, sup = self.w, self.supervisor
        dead = self.dying.slot
        for _ in range(2):
            for st in self.there._stripes:
                table.repair(sup, st)
        woken = []
        for st in self.there._stripes:
            woken += table.forget(w, st, lambda g: w[g + L.G_M] == dead, sup.slot)
        striped._finish(sup, self.there._stripes)
        striped._leave(sup, self.there._stripes, [dead])
        return woken

    def check(self):
        for st in self.there._stripes:
            table.check(self.w, self.living.mem, st)

    def usable(self):
        """Each key can be changed by the living, and nothing is lost by that."""
        for key in ("a", "b", "new", 0, 7, 29):
            was, there = self.there.load(key)
            assert self.there.compute(key, lambda v: [v], None) == [was]
            assert self.there.load_and_delete(key) == ([was], True)
            if there:
                self.there.store(key, was)
        self.check()


SMALL = {"a": 1, "b": LONG, "c": "short"}
MANY = SMALL | {i: i for i in range(30)}


def without(*keys):
    return lambda d: {k: v for k, v in d.items() if k not in keys}


def also(**items):
    return lambda d: d | items


def too_late(m, key):
    """Store where it is not there; it comes right after that look."""
    with mock.patch.object(SharedMap, "load", return_value=(None, False)):
        m.load_or_store(key, 6)


OPERATIONS = {
    "store a new key": (lambda m: m.store("new", 2), also(new=2)),
    "store a short one": (lambda m: m.store("new", "short"), also(new="short")),
    "store a short one with a number as key": (lambda m: m.store(7, "short"), lambda d: d | {7: "short"}),
    "store a long one": (lambda m: m.store("new", LONG), also(new=LONG)),
    "store a known key": (lambda m: m.store("a", LONG), also(a=LONG)),
    "store over a long one": (lambda m: m.store("b", 3), also(b=3)),
    "store a number for a number": (lambda m: m.store("a", 7), also(a=7)),
    "store a number with a number as key": (lambda m: m.store(5, 7), lambda d: d | {5: 7}),
    "load": (lambda m: m.load("a"), also()),
    "load a short one": (lambda m: m.load("c"), also()),
    "load a long one": (lambda m: m.load("b"), also()),
    "list": (lambda m: dict(m.items()), also()),
    "contains": (lambda m: "a" in m, also()),
    "delete": (lambda m: m.delete("a"), without("a")),
    "delete a long one": (lambda m: m.delete("b"), without("b")),
    "pop": (lambda m: m.pop("b"), without("b")),
    "pop a short one": (lambda m: m.pop("a"), without("a")),
    "swap": (lambda m: m.swap("b", 5), also(b=5)),
    "swap in": (lambda m: m.swap("new", 5), also(new=5)),
    "load or store": (lambda m: m.load_or_store("new", 6), also(new=6)),
    "load or store what is there": (lambda m: m.load_or_store("b", 6), also()),
    "load or store, and another was faster": (lambda m: too_late(m, "b"), also()),
    "compare and swap": (lambda m: m.compare_and_swap("b", LONG, 7), also(b=7)),
    "compare and not swap": (lambda m: m.compare_and_swap("a", 2, 7), also()),
    "compute": (lambda m: m.compute("a", lambda v: v + 1), also(a=2)),
    "compute a new one": (lambda m: m.compute("new", lambda v: v + 1, 1), also(new=2)),
    "compute nothing": (lambda m: m.compute("new", lambda v: None), also()),
    "a handle as key": (lambda m: m.store(m, 1), None),
}


@pytest.mark.parametrize("content", [SMALL, MANY], ids=["small", "many"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_map_cut_anywhere(name, content):
    """As before or as after, whole; and nobody waits for the dead."""
    call, becomes = OPERATIONS[name]

    def operate(machine, state):
        with mock.patch.object(rt, "process", state.dying.process):
            try:
                call(state.here)
            except KeyError:
                pass

    for _machine, state, n, died in cuts(lambda machine: State(machine, content), operate):
        assert state.recover() == []
        state.check()
        if becomes is None:
            assert len(state.there) in (len(content), len(content) + 1)
            continue
        now = state.content()
        after = becomes(content)
        assert now in ((content, after) if died else (after,)), f"cut at store {n}"
        state.usable()
        assert state.content() == now


@pytest.mark.parametrize("name", ["clear", "popitem", "begin", "grow", "shortcuts"])
def test_several_changes_cut_anywhere(name):
    """Each of them is done or not; growth loses and doubles nothing."""
    content = {
        i: i for i in range(40 if name == "shortcuts" else 15 if name == "grow" else 4 if name == "begin" else 12)
    }

    def operate(machine, state):
        if name == "clear":
            state.here.clear()
        elif name == "popitem":
            for _ in range(3):
                state.here.popitem()
        elif name in ("begin", "grow"):
            for i in range(20, 24):
                state.here[i] = i
        else:
            for i in range(40):
                state.here.load(i)

    def build(machine):
        state = State(machine, content)
        if name == "shortcuts":  # all of them unset again
            state.there.clear()
            state.w[state.st + L.ST_LEVEL] = 0
            state.w[state.st + L.ST_HEAD] = state.st + L.ST_TAIL
            state.w[state.st + L.ST_PREV] = state.st + L.ST_HEAD
            for key, value in content.items():
                state.put(key, value)
            w, st = state.w, state.st
            segment = striped._zeroed(state.living, 1 << 12)
            directory = striped._zeroed(state.living, 31 * L.WORD)
            if not w[st + L.ST_LEVEL]:
                table.first_directory(state.living, st, directory, segment)
        return state

    for _machine, state, n, died in cuts(build, operate):
        state.recover()
        state.check()
        now = state.content()
        if name in ("clear", "popitem"):
            assert now.items() <= content.items(), f"cut at store {n}"
            assert died or len(now) == (0 if name == "clear" else 9)
        else:
            assert content.items() <= now.items() and all(k == v for k, v in now.items())
            assert died or name == "shortcuts" or len(now) == len(content) + 4
        state.usable()


def test_replacing_what_is_read_cut_anywhere():
    """Its reader has it whole, and frees it."""

    def build(machine):
        state = State(machine, {"a": LONG})
        h, kb = state.there._keys.of("a")
        state.e = table.find(state.w, state.living.mem, state.st, h, kb)[1]
        state.pin = table.free_pin(state.living)
        table.pin(state.w, state.pin, L.object_lock(state.st), state.e)
        return state

    for _machine, state, n, died in cuts(build, lambda machine, state: state.here.store("a", 5)):
        state.recover()
        state.check()
        now = state.content()
        assert now in (({"a": LONG}, {"a": 5}) if died else ({"a": 5},)), f"cut at store {n}"
        assert state.there._read_pinned(state.living, state.pin) == LONG
        assert state.content() == now
        state.usable()


def finish_computing(state, wt):
    h, kb = state.here._keys.of("a")
    e = state.here._new(state.dying, "a", h, kb, state.here._pack(state.dying, "new"))
    state.here._put_owned(state.dying, 0, wt, e, False)


def delete_it(state, wt):
    h, kb = state.here._keys.of("a")
    state.here._put_owned(state.dying, 0, wt, state.here._blank(state.dying, h, kb), False)


def give_up(state, wt):
    state.here._release(state.dying, 0, wt)


@pytest.mark.parametrize("there", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("waiting", [0, 1, 3])
@pytest.mark.parametrize("end", [finish_computing, delete_it, give_up])
def test_handing_a_key_on_cut_anywhere(end, waiting, there):
    """Who waits for it has it then: the first of the living, once, whatever the dead had done."""
    content = {"a": 1, "b": 2} if there else {"b": 2}
    after = {finish_computing: {"a": "new", "b": 2}, delete_it: {"b": 2}, give_up: content}[end]

    def build(machine):
        state = State(machine, content)
        state.wt = state.own(state.dying, "a")
        if waiting > 1:  # another of the dead is the first who waits
            state.wait(state.dying, state.wt)
        state.waiters = [state.wait(state.living, state.wt) for _ in range(waiting)]
        return state

    for _machine, state, n, died in cuts(build, lambda machine, state: end(state, state.wt)):
        w = state.w
        state.recover()
        state.check()
        assert state.content() in ((content, after) if died else (after,)), f"cut at store {n}"
        decided = [g for g in state.waiters if w[g + L.G_DECIDE]]
        assert decided == state.waiters[:1], f"cut at store {n}: {decided} of {state.waiters}"
        for g in state.waiters:
            [wt] = table.wait_records(w, state.st)
            assert w[wt + L.WT_OWNER] == g and w[g + L.G_DECIDE]
            state.there._release(state.living, 0, wt)
        state.usable()


BUSY = {
    "store": lambda m: m.store("a", 5),
    "delete": lambda m: m.delete("a"),
    "swap": lambda m: m.swap("a", 5),
    "compute": lambda m: m.compute("a", lambda v: 5, 5),
    "load or store": lambda m: m.load_or_store("a", 5),
    "compare and swap": lambda m: m.compare_and_swap("a", 1, 5),
    "clear": lambda m: m.clear(),
}


@pytest.mark.parametrize("there", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("name", BUSY)
def test_waiting_for_a_key_cut_anywhere(name, there):
    """The one who computes is not disturbed, and nobody dead is handed the key."""
    content = {"a": 1} if there else {}

    def build(machine):
        state = State(machine, content)
        state.wt = state.own(state.living, "a")
        return state

    for _machine, state, _n, died in cuts(build, lambda machine, state: BUSY[name](state.here)):
        assert died or (name == "load or store" and there) or (name == "clear" and not there), (
            "it waits, and dies there"
        )
        assert state.recover() == []
        state.check()
        assert state.content() == content
        assert table.wait_records(state.w, state.st) == [state.wt]
        assert state.w[state.wt + L.WT_OWNER] == state.living.g and not state.w[state.wt + L.WT_QUEUE]
        state.there._release(state.living, 0, state.wt)
        state.usable()
        if state.parked:
            return


@pytest.mark.parametrize("name", BUSY)
def test_the_turn_comes_cut_anywhere(name):
    """Who waited is handed the key, and dies doing what it came for."""

    def build(machine):
        state = State(machine, {"a": 1})
        state.wt = state.own(state.living, "a")

        def park(deadline=None):
            state.there._release(state.living, 0, state.wt)
            return state.w[state.dying.g + L.G_DECIDE]

        state.dying.park = park
        return state

    for _machine, state, n, died in cuts(build, lambda machine, state: BUSY[name](state.here)):
        state.recover()
        assert state.content() in ({"a": 1}, {"a": 5}, {}), f"cut at store {n}"
        for wt in table.wait_records(state.w, state.st):
            if state.w[wt + L.WT_OWNER] == state.living.g:
                state.there._release(state.living, 0, wt)
        state.check()
        assert died or not table.wait_records(state.w, state.st)
        state.usable()


@pytest.mark.parametrize("name", BUSY)
def test_after_another_death_cut_anywhere(name):
    """A key that a dead one was computing is as any other."""

    def build(machine):
        state = State(machine, {"a": 1})
        state.own(state.dying, "a")
        state.recover()
        assert not table.wait_records(state.w, state.st), "it goes with who needed it"
        return state

    for _machine, state, n, died in cuts(build, lambda machine, state: BUSY[name](state.here)):
        state.recover()
        state.check()
        assert state.content() in ({"a": 1}, {"a": 5}, {}), f"cut at store {n}"
        assert died or name == "load or store" or not table.wait_records(state.w, state.st)
        state.usable()


# ---------------------------------------------------------------- keyed channels
def told(state, g):
    """What a goroutine that waited for a key came to: its value, closed, or nothing yet."""
    w = state.w
    outcome = w[g + L.G_DECIDE] & L.OUT_MASK
    if outcome != L.OUT_OK:
        return outcome
    at = g + L.G_SUDOG + L.SG_MSG
    hdr, body = message.fetch(w, state.living.mem, at)
    if hdr & table.NOT_PLAIN:
        before, state.living.g = state.living.g, g
        pin = table.free_pin(state.living)
        state.there._take(state.living, 0, pin)
        state.living.g = before
        return state.there._read_pinned(state.living, pin)
    return message.copy(state.living, hdr, body)


@pytest.mark.parametrize("value", [5, LONG], ids=["short", "long"])
@pytest.mark.parametrize("waiting", [0, 1, 3])
@pytest.mark.parametrize("there", [True, False], ids=["known", "new"])
def test_keyed_send_cut_anywhere(value, waiting, there):
    """The value is there and everybody who waits has it, or it is not and all wait on; who waits for others waits."""

    def build(machine):
        state = State(machine, {"k": 1, "l": LONG} if there else {"l": LONG}, KeyedChan)
        state.waiters = [] if there else [state.expect("k", state.living) for _ in range(waiting)]
        state.other = state.expect("other", state.living)
        state.gone = state.expect("other", state.dying)
        return state

    for _machine, state, n, died in cuts(build, lambda machine, state: state.here.send("k", value)):
        state.recover()
        state.check()
        now = state.content()
        sent = now.get("k") == value
        assert now in (state.before, state.before | {"k": value}) and (sent or died), f"cut at store {n}"
        assert [told(state, g) for g in state.waiters] == [value if sent else 0] * len(state.waiters)
        assert not state.w[state.other + L.G_DECIDE] and not state.w[state.gone + L.G_DECIDE]
        state.there.send("other", 7)
        assert told(state, state.other) == 7
        state.check()


@pytest.mark.parametrize("how", ["waits", "times out", "finds it", "delete"])
@pytest.mark.parametrize("others", [0, 1])
def test_keyed_receive_cut_anywhere(how, others):
    """Nobody who waits for that key is disturbed, and nothing but what others wait for stands for it."""

    def build(machine):
        state = State(machine, {"l": LONG, "k": LONG} if how in ("finds it", "delete") else {"l": LONG}, KeyedChan)
        state.waiters = [
            state.expect("w" if how in ("finds it", "delete") else "k", state.living) for _ in range(others)
        ]
        if how == "times out":
            state.dying.park = lambda deadline=None: 0
        return state

    def operate(machine, state):
        if how == "delete":
            state.here.delete("k")
            return
        try:
            state.here.receive("k", 5)
        except TimeoutError:
            pass

    for _machine, state, _n, died in cuts(build, operate):
        assert died or how != "waits"
        state.recover()
        state.check()
        now = state.content()
        assert now == state.before or (how == "delete" and now == {"l": LONG})
        for key in ("k", "w"):
            state.there.send(key, LONG)
        assert [told(state, g) for g in state.waiters] == [LONG] * others
        state.check()
        assert not table.wait_records(state.w, state.st)
        if state.parked:
            return


def test_keyed_close_cut_anywhere():
    """Open, and all wait; or closed, and everybody is told so; what is there stays."""

    def build(machine):
        state = State(machine, {"k": 1}, KeyedChan)
        state.waiters = [state.expect(key, state.living) for key in ("a", "a", "b")]
        return state

    for _machine, state, n, died in cuts(build, lambda machine, state: state.here.close()):
        state.recover()
        state.check()
        closed = state.there.closed
        assert {told(state, g) for g in state.waiters} == ({L.OUT_CLOSED} if closed else {0}), f"cut at store {n}"
        assert (closed or died) and state.content() == {"k": 1}
        if closed:
            with pytest.raises(ChanClosed):
                state.there.send("k", 2)
            assert state.there.receive("k") == 1


@pytest.mark.parametrize("cls", [SharedMap, KeyedChan])
def test_making_cut_anywhere(cls):
    """What a maker that died had made so far can be freed."""

    class Unmade:
        pass

    def build(machine):
        state = Unmade()
        state.t = machine.threads[0]
        return state

    def operate(machine, state):
        with mock.patch.object(rt, "current", return_value=state.t):
            state.made = cls()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, "__del__", lambda self: None, raising=False)  # the handle of the dead does nothing
        for machine, state, _n, died in cuts(build, operate):
            w = machine.words
            for base in pool.records(w, L.POOL_OBJECT):
                w[base + L.R_REFS] &= L.REFS_MASK
            if not died:
                state.t.process.refs.holds[state.made._base] = 1 << 30
                assert list(made(w)) == [state.made._base]
            for base in made(w):
                striped.destroy(machine.threads[1], base)
            assert not list(made(w))
            stripes = [st for st in pool.records(w, L.POOL_OBJECT) if w[st + L.O_KIND] == L.KIND_STRIPE]
            assert not [st for st in stripes if w[st] & 0xFF == L.REC_LIVE]


def buried(machine, slot, m):
    """What the reaper does about what a dead one had in its hands; returns what it was destroying. `m` frees it."""
    w = machine.words
    counts.repair(w, slot)
    for base in pool.records(w, L.POOL_OBJECT):
        if w[base] & L.REC_STATE in (L.REC_LIVE, L.REC_DYING):
            for named in repairs.NAMES.get(w[base + L.O_KIND], lambda w, base: ())(w, base):
                if pool.is_own(w, named, {slot}):
                    w[named] = w[named] & ~L.REC_STATE | L.REC_LIVE
    word, bit = L.R_HOLDERS + slot // 64, 1 << slot % 64
    for base in pool.records(w, L.POOL_OBJECT):
        if w[base] & L.REC_STATE == L.REC_LIVE and w[base + word] & bit:
            w[base + word] &= ~bit
            w[base + L.R_REFS] -= 1
            if not w[base + L.R_REFS]:
                w[base] = pool.head_of(slot, L.REC_DYING)
    for which in range(L.MIN_BLOCK_ORDER, L.N_POOLS):
        for block in pool.records(w, which):
            if w[block] == pool.head_of(slot, L.REC_CARRIES):
                n = w[block + L.MSG_TABLE] & L.MSG_COUNT
                start = (block + L.MSG_TABLE + 1) * L.WORD
                m.process.refs.unload(m, block, entries(m.mem[start : start + 24 * n]))
                pool.give(m, which, block)
    for which in range(L.N_POOLS):
        pool.sweep(w, which, slot, {*pool.records(w, which)})
    dying = pool.head_of(slot, L.REC_DYING)
    return [base for base in pool.records(w, L.POOL_OBJECT) if w[base] == dying]


@pytest.mark.parametrize("second", [0, 1, 7, 30, 61, 10_000])
def test_destroying_cut_anywhere(second):
    """One dies destroying a map with everything in it, the next who goes on with that too: nothing of it is left."""
    with mock.patch.object(SharedHandle, "__del__", return_value=None):  # handles are dropped by hand
        _destroying_cut_anywhere(second)


def _destroying_cut_anywhere(second):

    def build(machine):
        t = machine.threads[0]
        with mock.patch.object(rt, "current", return_value=t), mock.patch.object(rt, "process", t.process):
            m, inner = SharedMap(), SharedMap()
            m._mask = 0
            for i in range(9):
                m.store(i, i)
            m.store(("t", inner), [inner, LONG])
            m.store("l", LONG)
            m._hold(t, 0)
        h, kb = m._keys.of("w")
        m._own(t, "w", 0, h, kb, True)  # as an exception leaves it
        for handle in (m._held[0], inner):
            t.process.refs.drop(t, handle.KIND, handle._base)
        return m._base

    def destroy(t, kind, base):
        t.process.refs.drop(t, kind, base) if kind else t.process.refs.destroy(t, t.w[base + L.O_KIND], base)

    for machine, base, n, _died in cuts(build, lambda machine, base: destroy(machine.threads[0], L.KIND_MAP, base)):
        w = machine.words
        first, then, last = machine.threads
        for t, following in ((first, then), (then, last), (last, machine.supervisor)):
            left = buried(machine, t.slot, following)
            if t is last:
                break
            for which in left:  # as from the list of orphans
                w[which] = following.dying
            if t is first:
                w.stores, w.cut_at = 0, second
            try:
                for which in left:
                    destroy(following, 0, which)
            except Cut:
                machine.free_all_locks()
            w.cut_at = None
        assert not left
        for which in (L.POOL_OBJECT, *range(L.MIN_BLOCK_ORDER, L.N_POOLS)):
            free = pool.free_records(w, which)
            assert sorted(free) == sorted(pool.records(w, which)), f"cut at store {n}: something of pool {which} is left"


def made(w):
    """Maps and keyed channels that are there."""
    for base in pool.records(w, L.POOL_OBJECT):
        if w[base] & 0xFF == L.REC_LIVE and w[base + L.O_KIND] in (L.KIND_MAP, L.KIND_KEYED_CHAN):
            yield base
